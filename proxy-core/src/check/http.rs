//! A check in HTTP/1.1: the status alone, or the whole answer if its body is to have something in it.

use std::io;
use std::net::SocketAddr;

use regex::bytes::Regex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::probe::{Answer, excerpt};
use crate::http::chunked::{Chunked, Keep};
use crate::http::head::{self, Asked, Framing};
use crate::plan::{self, Content, HttpProbe};

/// Longest status line that is read; HTTP sets no bound, real ones have under a hundred bytes.
const STATUS_LINE: usize = 1024;
/// So much of an answer is read when its body matters, head and framing included.
const ANSWER: usize = 64 * 1024;

/// A request and what is expected of its answer, ready for use.
#[derive(Debug)]
pub(super) struct Http {
    request: Vec<u8>,
    expect: Vec<(u16, u16)>,
    asked: Asked,
    body: Option<Body>,
}

#[derive(Debug)]
enum Body {
    Text(String),
    Regex(Regex),
}

impl Http {
    /// Of a probe that was validated; `name`: what the server is called where its address is a name.
    pub(super) fn new(probe: &HttpProbe, name: Option<&str>, address: SocketAddr) -> Http {
        let HttpProbe { method, path, host, headers, expect, body } = probe;
        let host = match (host, name) {
            (Some(host), _) => host.clone(),
            (None, Some(name)) => format!("{name}:{}", address.port()),
            (None, None) => address.to_string(),
        };
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("user-agent")) {
            request += "User-Agent: lbnode\r\n";
        }
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += "\r\n";
        let body = body.as_ref().map(|body| match body {
            Content::Text(text) => Body::Text(text.clone()),
            Content::Regex(pattern) => {
                Body::Regex(plan::regex(pattern, false).expect("the plan was validated: it compiles"))
            }
        });
        Http { request: request.into_bytes(), expect: expect.clone(), asked: Asked::by(method), body }
    }

    pub(super) async fn ask(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<Answer> {
        stream.write_all(&self.request).await?;
        stream.flush().await?;
        let mut line = Vec::with_capacity(STATUS_LINE);
        while !line.contains(&b'\n') && line.len() < STATUS_LINE {
            if read_some(&mut stream, &mut line, STATUS_LINE).await? == 0 {
                break;
            }
        }
        let answer = judge(&line, &self.expect);
        match &self.body {
            Some(wanted) if answer.ok => self.look_into(stream, line, wanted, answer).await,
            _ => Ok(answer),
        }
    }

    /// Reads the rest of an answer whose status is good.
    async fn look_into(
        &self,
        mut stream: impl AsyncRead + Unpin,
        mut said: Vec<u8>,
        wanted: &Body,
        answer: Answer,
    ) -> io::Result<Answer> {
        let (length, framing) = loop {
            match head::response(&mut head::slots(), &said, self.asked) {
                Ok(Some(head)) => break (head.length, head.framing),
                Ok(None) if said.len() >= ANSWER => return Ok(Answer::failed("its head is too long")),
                Ok(None) => {}
                Err(bad) => return Ok(Answer { code: answer.code, ..Answer::failed(bad.to_string()) }),
            }
            if read_some(&mut stream, &mut said, ANSWER).await? == 0 {
                return Ok(Answer::failed("closed within its head"));
            }
        };
        let mut body = said.split_off(length);
        let mut chunked = (framing == Framing::Chunked).then(|| Chunked::new(Keep::Data));
        let mut unread = 0;
        loop {
            let over = match &mut chunked {
                Some(chunked) => {
                    let passed = match chunked.pass(&mut body[unread..]) {
                        Ok(passed) => passed,
                        Err(bad) => {
                            let bad = head::BadResponse::from(bad);
                            return Ok(Answer { code: answer.code, ..Answer::failed(bad.to_string()) });
                        }
                    };
                    body.truncate(unread + passed.forward);
                    unread = body.len();
                    passed.done
                }
                None => match framing {
                    Framing::Length(length) => {
                        let length = usize::try_from(length).unwrap_or(usize::MAX);
                        body.truncate(length);
                        body.len() == length
                    }
                    Framing::Empty => {
                        body.clear();
                        true
                    }
                    Framing::UntilClose | Framing::Chunked => false,
                },
            };
            if over || body.len() >= ANSWER || read_some(&mut stream, &mut body, ANSWER).await? == 0 {
                break;
            }
        }
        Ok(wanted.judge(&body, answer))
    }
}

impl Body {
    fn judge(&self, body: &[u8], answer: Answer) -> Answer {
        let (found, wanted) = match self {
            Body::Text(text) => (memchr::memmem::find(body, text.as_bytes()).is_some(), format!("`{text}` in it")),
            Body::Regex(regex) => (regex.is_match(body), format!("a match of `{regex}`")),
        };
        if found {
            return answer;
        }
        let got = if body.is_empty() { "no body".into() } else { format!("a body that begins `{}`", excerpt(body)) };
        Answer { code: answer.code, ..Answer::failed(format!("got {got}, expected {wanted}")) }
    }
}

async fn read_some(stream: &mut (impl AsyncRead + Unpin), into: &mut Vec<u8>, most: usize) -> io::Result<usize> {
    let room = most.saturating_sub(into.len()) as u64;
    stream.take(room).read_buf(into).await
}

/// Reads a status line (RFC 9112 section 4); anything else is no HTTP answer.
fn judge(answer: &[u8], expect: &[(u16, u16)]) -> Answer {
    let Some(code) = status(answer) else {
        let what = if answer.is_empty() { "closed without an answer" } else { "not an HTTP/1 answer" };
        return Answer::failed(what);
    };
    if expect.iter().any(|(low, high)| (*low..=*high).contains(&code)) {
        return Answer { code: Some(code), ..Answer::passed(format!("got {code}")) };
    }
    let ranges: Vec<String> =
        expect.iter().map(|(low, high)| if low == high { low.to_string() } else { format!("{low}-{high}") }).collect();
    Answer { code: Some(code), ..Answer::failed(format!("got {code}, expected {}", ranges.join(", "))) }
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

    /// What a check for this content says of a server that sends this and closes, or holds the connection open.
    async fn asked(body: Content, said: &'static [u8], closes: bool) -> (String, String) {
        let (ours, mut theirs) = tokio::io::duplex(256);
        let server = tokio::spawn(async move {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert_ne!(theirs.read_buf(&mut request).await.expect("the check speaks"), 0);
            }
            // The check may have heard enough before the end.
            let _ = theirs.write_all(said).await;
            if !closes {
                let _ = theirs.read(&mut [0]).await;
            }
            String::from_utf8(request).expect("it is text")
        });
        let headers = vec![("X-Probe".to_owned(), "yes".to_owned())];
        let probe = HttpProbe { headers, body: Some(body), ..HttpProbe::default() };
        let http = Http::new(&probe, Some("mail.test"), SocketAddr::from(([192, 0, 2, 1], 80)));
        let answer = http.ask(ours).await.expect("it answers");
        (answer.what.into_owned(), server.await.expect("it does not panic"))
    }

    #[tokio::test]
    async fn a_body_is_read_in_its_framing_and_to_its_end() {
        let text = |text: &str| Content::Text(text.into());
        let cases: [(Content, &[u8], bool, &str); 7] = [
            (text("all is well"), b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nall is well", false, "got 200"),
            (
                text("all is well"),
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nall \r\n7\r\nis well\r\n0\r\n\r\n",
                false,
                "got 200",
            ),
            (text("well"), b"HTTP/1.1 200 OK\r\n\r\nall is well", true, "got 200"),
            (Content::Regex("^all.*l$".into()), b"HTTP/1.1 200 OK\r\n\r\nall is well", true, "got 200"),
            (
                text("well"),
                b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nall is ill",
                false,
                "got a body that begins `all is ill`, expected `well` in it",
            ),
            (text("well"), b"HTTP/1.1 204 No\r\n\r\n", false, "got no body, expected `well` in it"),
            (text("well"), b"HTTP/1.1 404 No\r\n\r\nwell", true, "got 404, expected 200-399"),
        ];
        for (content, said, closes, expected) in cases {
            let (what, request) = asked(content, said, closes).await;
            assert_eq!(what, expected);
            assert_eq!(
                request,
                "GET / HTTP/1.1\r\nHost: mail.test:80\r\nConnection: close\r\nUser-Agent: lbnode\r\nX-Probe: yes\r\n\r\n"
            );
        }
    }

    #[tokio::test]
    async fn a_body_without_end_is_judged_by_its_beginning() {
        let head = b"HTTP/1.1 200 OK\r\n\r\n";
        let said: &'static [u8] = [&head[..], &[b'a'; 2 * ANSWER]].concat().leak();
        let (what, _) = asked(Content::Text("b".into()), said, false).await;
        assert!(what.starts_with("got a body that begins `aaaa") && what.len() < 200, "{what}");
    }
}
