//! Checks of mail servers: SMTP (RFC 5321) and IMAP (RFC 9051), from the greeting to a goodbye.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::probe::{Answer, excerpt};

/// So much is read of all that a server says; a reply line has 512 bytes (RFC 5321 §4.5.3.1.5).
const MOST: usize = 8 * 1024;

/// Greeting, EHLO (or HELO, for who doesn't know that), QUIT.
pub(super) async fn smtp(stream: impl AsyncRead + AsyncWrite + Unpin, name: &str) -> io::Result<Answer> {
    let mut talk = Talk::new(stream);
    let greeting = talk.reply().await?;
    if let Some(wrong) = greeting.other_than("220", "greeting") {
        return Ok(wrong);
    }
    talk.say(&format!("EHLO {name}\r\n")).await?;
    let mut hello = talk.reply().await?;
    // RFC 5321 §3.2: a server that doesn't know EHLO says so with 500, 502 or 504.
    if hello.code.starts_with("50") {
        talk.say(&format!("HELO {name}\r\n")).await?;
        hello = talk.reply().await?;
    }
    if let Some(wrong) = hello.other_than("250", "answer to EHLO") {
        return Ok(wrong);
    }
    talk.say("QUIT\r\n").await?;
    if let Some(wrong) = talk.reply().await?.other_than("221", "answer to QUIT") {
        return Ok(wrong);
    }
    Ok(Answer { code: Some(220), ..Answer::passed(format!("greeted `{}`", excerpt(greeting.line.as_bytes()))) })
}

/// Greeting, LOGOUT.
pub(super) async fn imap(stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<Answer> {
    let mut talk = Talk::new(stream);
    let greeting = talk.line().await?;
    // RFC 9051 §7.1: OK, PREAUTH, or BYE of one that won't serve.
    let word = greeting.strip_prefix("* ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    if !["OK", "PREAUTH"].iter().any(|good| word.eq_ignore_ascii_case(good)) {
        return Ok(Answer::failed(format!("its greeting is `{}`, expected `* OK`", excerpt(greeting.as_bytes()))));
    }
    talk.say("a LOGOUT\r\n").await?;
    loop {
        let line = talk.line().await?;
        match line.split_once(' ') {
            Some(("*", _)) => {}
            Some(("a", rest)) if rest.get(..2).is_some_and(|word| word.eq_ignore_ascii_case("ok")) => break,
            _ => {
                let what = format!("its answer to LOGOUT is `{}`, expected `a OK`", excerpt(line.as_bytes()));
                return Ok(Answer::failed(what));
            }
        }
    }
    Ok(Answer::passed(format!("greeted `{}`", excerpt(greeting.as_bytes()))))
}

/// A conversation in lines.
struct Talk<S> {
    stream: S,
    /// What was heard and not looked at yet.
    heard: Vec<u8>,
    /// So much may still be read.
    left: usize,
}

/// A reply (RFC 5321 §4.2): of several lines, the last.
struct Reply {
    code: String,
    line: String,
}

impl Reply {
    /// What is to be said of it unless it is what was expected.
    fn other_than(&self, code: &str, what: &str) -> Option<Answer> {
        let said = excerpt(self.line.as_bytes());
        (self.code != code).then(|| Answer {
            code: self.code.parse().ok(),
            ..Answer::failed(format!("its {what} is `{said}`, expected {code}"))
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<S> {
    fn new(stream: S) -> Talk<S> {
        Talk { stream, heard: Vec::new(), left: MOST }
    }

    async fn say(&mut self, line: &str) -> io::Result<()> {
        self.stream.write_all(line.as_bytes()).await?;
        self.stream.flush().await
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.heard) {
                let line: Vec<u8> = self.heard.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned());
            }
            if self.left == 0 {
                return Err(io::Error::other(format!("it said over {MOST} bytes")));
            }
            let read = (&mut self.stream).take(self.left as u64).read_buf(&mut self.heard).await?;
            if read == 0 {
                let what = if self.heard.is_empty() { "closed without a word" } else { "closed within a line" };
                return Err(io::Error::other(what));
            }
            self.left -= read;
        }
    }

    async fn reply(&mut self) -> io::Result<Reply> {
        loop {
            let line = self.line().await?;
            let code = line.get(..3).filter(|code| code.bytes().all(|byte| byte.is_ascii_digit()));
            match (code, line.as_bytes().get(3)) {
                (Some(_), Some(b'-')) => {}
                (Some(code), None | Some(b' ')) => return Ok(Reply { code: code.to_owned(), line }),
                _ => return Ok(Reply { code: String::new(), line }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncBufReadExt, BufReader, DuplexStream};

    /// A server that says the first, then answers each line that it gets with the next.
    fn server(script: &'static [&'static str]) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(64);
        tokio::spawn(async move {
            let mut theirs = BufReader::new(theirs);
            for said in script {
                if theirs.write_all(said.as_bytes()).await.is_err() {
                    return;
                }
                let _ = theirs.read_line(&mut String::new()).await;
            }
        });
        ours
    }

    async fn said(answer: impl Future<Output = io::Result<Answer>>) -> (bool, String) {
        answer.await.map_or_else(|error| (false, error.to_string()), |answer| (answer.ok, answer.what.into_owned()))
    }

    #[tokio::test]
    async fn a_mail_server_greets_knows_us_and_says_goodbye() {
        let cases: [(&[&str], bool, &str); 7] = [
            (&["220 mx ESMTP\r\n", "250-mx\r\n250 SIZE\r\n", "221 bye\r\n"], true, "greeted `220 mx ESMTP`"),
            (&["220 mx\r\n", "502 what?\r\n", "250 hello\r\n", "221 bye\r\n"], true, "greeted `220 mx`"),
            (&["220-mx\r\n220 go on\r\n", "250 mx\r\n", "221\r\n"], true, "greeted `220 go on`"),
            (&["554 go away\r\n"], false, "its greeting is `554 go away`, expected 220"),
            (&["* OK imap\r\n"], false, "its greeting is `* OK imap`, expected 220"),
            (&["220 mx\r\n", "550 not you\r\n"], false, "its answer to EHLO is `550 not you`, expected 250"),
            (&["220 mx\r\n", "250 mx\r\n", "421 late\r\n"], false, "its answer to QUIT is `421 late`, expected 221"),
        ];
        for (script, ok, what) in cases {
            assert_eq!(said(smtp(server(script), "lb")).await, (ok, what.to_owned()), "{script:?}");
        }
    }

    #[tokio::test]
    async fn a_mailbox_server_greets_and_says_goodbye() {
        let cases: [(&[&str], bool, &str); 5] = [
            (&["* OK ready\r\n", "* BYE\r\na OK done\r\n"], true, "greeted `* OK ready`"),
            (&["* PREAUTH ready\r\n", "* BYE\r\na ok\r\n"], true, "greeted `* PREAUTH ready`"),
            (&["* BYE full\r\n"], false, "its greeting is `* BYE full`, expected `* OK`"),
            (&["220 mx\r\n"], false, "its greeting is `220 mx`, expected `* OK`"),
            (&["* OK\r\n", "a BAD what\r\n"], false, "its answer to LOGOUT is `a BAD what`, expected `a OK`"),
        ];
        for (script, ok, what) in cases {
            assert_eq!(said(imap(server(script))).await, (ok, what.to_owned()), "{script:?}");
        }
    }

    #[tokio::test]
    async fn one_that_talks_without_end_is_cut_short() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        tokio::spawn(async move { while theirs.write_all(b"220-more\r\n").await.is_ok() {} });
        assert_eq!(said(smtp(ours, "lb")).await, (false, format!("it said over {MOST} bytes")));
        let (ours, theirs) = tokio::io::duplex(64);
        drop(theirs);
        assert_eq!(said(imap(ours)).await, (false, "closed without a word".to_owned()));
        let (ours, mut theirs) = tokio::io::duplex(64);
        theirs.write_all(b"220 m").await.expect("there is room");
        drop(theirs);
        assert_eq!(said(smtp(ours, "lb")).await, (false, "closed within a line".to_owned()));
    }
}
