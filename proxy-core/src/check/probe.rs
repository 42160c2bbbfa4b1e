//! Asks one server one question, within the check's timeout, reading no more than the question needs.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::http::Http;
use super::line::{First, Line, Sockets};
use super::mail;
use crate::plan::{Check, SendProxy};
use crate::proxy_protocol as protocol;
use crate::tls::Outbound;

/// What a connection that opens is answered with.
const CONNECTED: &str = "connected";

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) ok: bool,
    pub(crate) code: Option<u16>,
    pub(crate) what: Cow<'static, str>,
}

/// A question, ready to be asked again and again.
#[derive(Debug)]
pub(super) enum Question {
    Connect,
    Http(Http),
    Smtp(String),
    Imap,
}

impl Answer {
    pub(super) fn passed(what: impl Into<Cow<'static, str>>) -> Answer {
        Answer { ok: true, code: None, what: what.into() }
    }

    pub(super) fn failed(what: impl Into<Cow<'static, str>>) -> Answer {
        Answer { ok: false, code: None, what: what.into() }
    }
}

/// Never fails: whatever goes wrong is the answer.
pub(super) async fn ask(
    sockets: &Sockets,
    address: SocketAddr,
    question: &Question,
    tls: Option<&Outbound>,
    check: &Check,
) -> Answer {
    let deadline = Instant::now() + check.timeout;
    let failed = |error: io::Error| Answer::failed(words(&error));
    let waits = tls.is_none() && check.send_proxy.is_none() && matches!(question, Question::Smtp(_) | Question::Imap);
    let mut line = match sockets.begin(address, if waits { First::They } else { First::We }) {
        Ok(line) => line,
        Err(error) => return failed(error),
    };
    let only_connects = tls.is_none() && check.send_proxy.is_none() && matches!(question, Question::Connect);
    match line.opens_soon().await {
        Ok(true) if only_connects => return Answer::passed(CONNECTED),
        Ok(_) => {}
        Err(error) => return failed(error),
    }
    // Most know by now. The others need a timer, and room for what they say.
    match timeout_at(deadline, Box::pin(converse(line, address, question, tls, check.send_proxy))).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => failed(error),
        Err(_) => Answer::failed(format!("no answer within {:?}", check.timeout)),
    }
}

pub(super) fn words(error: &io::Error) -> String {
    match error.kind() {
        // The commonest ones without the number that the system adds.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => error.kind().to_string(),
        _ => error.to_string(),
    }
}

async fn converse(
    mut line: Line<'_>,
    address: SocketAddr,
    question: &Question,
    tls: Option<&Outbound>,
    send_proxy: Option<SendProxy>,
) -> io::Result<Answer> {
    line.opened().await?;
    if let Some(how) = send_proxy {
        let mut header = Vec::new();
        match how {
            // Servers may refuse what says UNKNOWN (proxy-protocol.txt §2.1): these are the connection's own ends.
            SendProxy::V1 => protocol::write_v1(&mut header, line.local_addr()?, address),
            SendProxy::V2 => protocol::local(&mut header),
        }
        line.write_all(&header).await?;
    }
    match tls {
        Some(tls) => Box::pin(shake_hands(line, question, tls)).await,
        None => talk(&mut line, question).await,
    }
}

/// Apart: few checks have use for so much room.
async fn shake_hands(line: Line<'_>, question: &Question, tls: &Outbound) -> io::Result<Answer> {
    let stream = TlsConnector::from(Arc::clone(&tls.config)).connect(tls.name.clone(), line).await;
    talk(stream.map_err(|error| io::Error::other(format!("tls: {}", told(&error))))?, question).await
}

async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin, question: &Question) -> io::Result<Answer> {
    match question {
        Question::Connect => Ok(Answer::passed(CONNECTED)),
        Question::Http(http) => http.ask(stream).await,
        Question::Smtp(name) => mail::smtp(stream, name).await,
        Question::Imap => mail::imap(stream).await,
    }
}

/// What rustls said, through the error that tokio made of it.
fn told(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    inner.map_or_else(|| error.to_string(), crate::tls::words)
}

/// The beginning of something that a server said, for people.
pub(super) fn excerpt(said: &[u8]) -> String {
    const MOST: usize = 80;
    let cut = said.get(..MOST).unwrap_or(said);
    let more = if cut.len() < said.len() { "…" } else { "" };
    format!("{}{more}", String::from_utf8_lossy(cut).escape_debug())
}
