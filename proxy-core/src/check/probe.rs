//! Asks one server one question, within the check's timeout, reading no more than a status line may need.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::plan::{Check, Probe};
use crate::stream::reset_on_close;
use crate::tls::Outbound;

/// Longest status line that is read; HTTP sets no bound, real ones have under a hundred bytes.
const STATUS_LINE: usize = 1024;

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) ok: bool,
    pub(crate) code: Option<u16>,
    pub(crate) what: String,
}

/// Never fails: whatever goes wrong is the answer.
pub(crate) async fn ask(address: SocketAddr, check: &Check, tls: Option<&Outbound>) -> Answer {
    match timeout(check.timeout, converse(address, &check.probe, tls)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => failed(words(&error)),
        Err(_) => failed(format!("no answer within {:?}", check.timeout)),
    }
}

fn failed(what: String) -> Answer {
    Answer { ok: false, code: None, what }
}

fn words(error: &io::Error) -> String {
    match error.kind() {
        // The commonest ones without the number that the system adds.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => error.kind().to_string(),
        _ => error.to_string(),
    }
}

async fn converse(address: SocketAddr, probe: &Probe, tls: Option<&Outbound>) -> io::Result<Answer> {
    let stream = TcpStream::connect(address).await?;
    // Frequent checks would pile up sockets in TIME_WAIT.
    reset_on_close(&stream);
    let Some(tls) = tls else { return talk(stream, address, probe).await };
    let stream = TlsConnector::from(Arc::clone(&tls.config)).connect(tls.name.clone(), stream).await;
    talk(stream.map_err(|error| io::Error::other(format!("tls: {}", told(&error))))?, address, probe).await
}

/// What rustls said, through the error that tokio made of it.
fn told(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    inner.map_or_else(|| error.to_string(), crate::tls::words)
}

async fn talk(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    address: SocketAddr,
    probe: &Probe,
) -> io::Result<Answer> {
    let Probe::Http { method, path, host, expect } = probe else {
        return Ok(Answer { ok: true, code: None, what: "connected".into() });
    };
    let host = host.clone().unwrap_or_else(|| address.to_string());
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: lbnode\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut line = Vec::with_capacity(STATUS_LINE);
    while !line.contains(&b'\n') && line.len() < STATUS_LINE {
        if (&mut stream).take((STATUS_LINE - line.len()) as u64).read_buf(&mut line).await? == 0 {
            break;
        }
    }
    Ok(judge(&line, expect))
}

/// Reads a status line (RFC 9112 section 4); anything else is no HTTP answer.
fn judge(answer: &[u8], expect: &[(u16, u16)]) -> Answer {
    let Some(code) = status(answer) else {
        let what = if answer.is_empty() { "closed without an answer" } else { "not an HTTP/1 answer" };
        return failed(what.into());
    };
    if expect.iter().any(|(low, high)| (*low..=*high).contains(&code)) {
        return Answer { ok: true, code: Some(code), what: format!("got {code}") };
    }
    let ranges: Vec<String> =
        expect.iter().map(|(low, high)| if low == high { low.to_string() } else { format!("{low}-{high}") }).collect();
    Answer { ok: false, code: Some(code), what: format!("got {code}, expected {}", ranges.join(", ")) }
}

fn status(answer: &[u8]) -> Option<u16> {
    let rest = answer.strip_prefix(b"HTTP/1.")?;
    let [minor, b' ', code @ ..] = rest else { return None };
    let (digits, after) = code.split_at_checked(3)?;
    let ends = matches!(after.first(), Some(b' ' | b'\r' | b'\n'));
    (minor.is_ascii_digit() && ends && digits.iter().all(u8::is_ascii_digit))
        .then(|| digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_outside_the_expected_ranges_fails_with_both() {
        let answer = judge(b"HTTP/1.1 503 Service Unavailable\r\n", &[(200, 399), (404, 404)]);
        assert_eq!(answer, Answer { ok: false, code: Some(503), what: "got 503, expected 200-399, 404".into() });
        assert!(judge(b"HTTP/1.0 200\r\n", &[(200, 399)]).ok);
    }

    #[test]
    fn what_is_no_http_is_said_so() {
        for hostile in
            [&b"SSH-2.0-x\r\n"[..], b"HTTP/1.1 2", b"HTTP/1.1 20x OK\n", b"HTTP/2 200\n", b"HTTP/1.1 9999 \n"]
        {
            assert_eq!(judge(hostile, &[(200, 399)]).what, "not an HTTP/1 answer", "{hostile:?}");
        }
        assert_eq!(judge(b"", &[(200, 399)]).what, "closed without an answer");
    }
}
