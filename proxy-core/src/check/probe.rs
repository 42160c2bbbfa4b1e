//! Asks one server one question, within the check's timeout, reading no more than the question needs.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::http::Http;
use super::line::Sockets;
use super::mail;
use crate::plan::{Check, SendProxy};
use crate::proxy_protocol as protocol;
use crate::tls::Outbound;

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) ok: bool,
    pub(crate) code: Option<u16>,
    pub(crate) what: String,
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
    pub(super) fn passed(what: impl Into<String>) -> Answer {
        Answer { ok: true, code: None, what: what.into() }
    }

    pub(super) fn failed(what: impl Into<String>) -> Answer {
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
    let within = check.timeout;
    match timeout(within, converse(sockets, address, question, tls, check.send_proxy)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => Answer::failed(words(&error)),
        Err(_) => Answer::failed(format!("no answer within {within:?}")),
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
    sockets: &Sockets,
    address: SocketAddr,
    question: &Question,
    tls: Option<&Outbound>,
    send_proxy: Option<SendProxy>,
) -> io::Result<Answer> {
    let mut stream = sockets.connect(address).await?;
    if let Some(how) = send_proxy {
        let mut header = Vec::new();
        match how {
            // Servers may refuse what says UNKNOWN (proxy-protocol.txt §2.1): these are the connection's own ends.
            SendProxy::V1 => protocol::write_v1(&mut header, stream.local_addr()?, address),
            SendProxy::V2 => protocol::local(&mut header),
        }
        stream.write_all(&header).await?;
    }
    let Some(tls) = tls else {
        return match question {
            Question::Connect => Ok(Answer::passed("connected")),
            Question::Http(http) => http.ask(stream).await,
            Question::Smtp(name) => mail::smtp(stream, name).await,
            Question::Imap => mail::imap(stream).await,
        };
    };
    let stream = TlsConnector::from(Arc::clone(&tls.config)).connect(tls.name.clone(), stream).await;
    let stream = stream.map_err(|error| io::Error::other(format!("tls: {}", told(&error))))?;
    match question {
        Question::Connect => Ok(Answer::passed("connected")),
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
