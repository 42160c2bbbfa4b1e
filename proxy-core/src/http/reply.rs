//! Answers that no server gave: errors, refusals, redirects, and what a `return` rule says. Pure.
//!
//! HAProxy's ways: an error is not to be cached; a redirect has no body; a `HEAD` gets the length of what it doesn't
//! get.

use std::collections::BTreeMap;

use super::edits::{Edits, append, clear, field};
use super::forwarded::{Ends, decimal};
use super::host;
use super::rewrite::{Connection, VERSION, bracketed};
use crate::plan::{Redirect, Reply};

/// How an answer of ours is given, whatever it says.
#[derive(Debug)]
pub(crate) struct Answer<'a, E> {
    /// The request's method was `HEAD`.
    pub(crate) head: bool,
    pub(crate) connection: Connection,
    /// [`super::date::Date`]; empty: none.
    pub(crate) date: &'a [u8],
    /// The frontend's error pages.
    pub(crate) pages: &'a BTreeMap<u16, String>,
    /// Of the frontend and of its rules, in this order.
    pub(crate) edits: E,
}

/// What a redirect is built from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// As the client sent it, with its port.
    pub(crate) host: Option<&'a str>,
    /// By now: with the path that a rule has set.
    pub(crate) target: &'a str,
    /// For who named no host.
    pub(crate) ends: &'a Ends,
}

/// A body and its type.
type Body<'a> = (&'a [u8], &'a str);

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const NO_CACHE: (&str, &[u8]) = ("Cache-Control", b"no-cache");
/// RFC 9110 §15.5.6 wants them named.
const METHODS: (&str, &[u8]) = ("Allow", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

impl<'a, E: Edits<'a>> Answer<'a, E> {
    /// Appends an error: the frontend's page, or `sentence`, or what the status means.
    pub(crate) fn error(&self, out: &mut Vec<u8>, status: u16, sentence: Option<&str>) {
        let mut text = Vec::new();
        let body = self.page(status).unwrap_or_else(|| {
            say(&mut text, status, sentence);
            (&text, TEXT)
        });
        let fields: &[_] = if status == 405 { &[NO_CACHE, METHODS] } else { &[NO_CACHE] };
        self.write(out, status, body, fields);
    }

    /// Appends the answer of a rule that denies.
    pub(crate) fn deny(&self, out: &mut Vec<u8>, reply: &Reply) {
        match &reply.body {
            Some(body) => self.write(out, reply.status, (body.as_bytes(), &reply.content_type), &[NO_CACHE]),
            None => self.error(out, reply.status, None),
        }
    }

    /// Appends the answer of a rule that returns one.
    pub(crate) fn give(&self, out: &mut Vec<u8>, reply: &Reply) {
        match &reply.body {
            Some(body) => self.write(out, reply.status, (body.as_bytes(), &reply.content_type), &[]),
            None if reply.status < 400 => {
                self.write(out, reply.status, self.page(reply.status).unwrap_or_default(), &[])
            }
            None => self.error(out, reply.status, None),
        }
    }

    /// Appends a redirect.
    pub(crate) fn redirect(&self, out: &mut Vec<u8>, to: &Redirect, code: u16, asked: Asked<'_>) {
        let mut location = Vec::new();
        to.write(&mut location, asked);
        let location = ("Location", location.as_slice());
        // RFC 9110 §15.4: 301 and 308 are for ever, and may be kept.
        let fields: &[_] = if matches!(code, 301 | 308) { &[location] } else { &[location, NO_CACHE] };
        self.write(out, code, Body::default(), fields);
    }

    fn page(&self, status: u16) -> Option<Body<'a>> {
        self.pages.get(&status).map(|page| (page.as_bytes(), HTML))
    }

    fn write(&self, out: &mut Vec<u8>, status: u16, (body, kind): Body<'_>, fields: &[(&str, &[u8])]) {
        // RFC 9110 §15.3.5, §15.4.5: they have none, and say no length.
        let bodiless = matches!(status, 204 | 304);
        // RFC 9110 §15.3.6: it has none, and says so.
        let body = if status == 205 { &[] } else { body };
        out.extend_from_slice(VERSION);
        out.push(b' ');
        decimal(out, status.into());
        out.push(b' ');
        out.extend_from_slice(reason(status).as_bytes());
        out.extend_from_slice(b"\r\n");
        if !bodiless {
            out.extend_from_slice(b"Content-Length: ");
            decimal(out, body.len() as u64);
            out.extend_from_slice(b"\r\n");
        }
        let kind = [("Content-Type", kind.as_bytes())];
        let kind = if bodiless || body.is_empty() { [].as_slice() } else { kind.as_slice() };
        let date = [("Date", self.date)];
        let date = if self.date.is_empty() { [].as_slice() } else { date.as_slice() };
        for (name, value) in kind.iter().chain(fields).chain(date) {
            if !clear(self.edits.clone(), name) {
                field(out, name, value);
            }
        }
        append(out, self.edits.clone());
        self.connection.write(out, &[]);
        out.extend_from_slice(b"\r\n");
        if !bodiless && !self.head {
            out.extend_from_slice(body);
        }
    }
}

impl Redirect {
    fn write(&self, out: &mut Vec<u8>, asked: Asked<'_>) {
        // `*` asks for no path (RFC 9112 §3.2.4).
        let path = if asked.target == "*" { "" } else { asked.target };
        match self {
            Redirect::Location(location) => out.extend_from_slice(location.as_bytes()),
            Redirect::Scheme(scheme) => {
                out.extend_from_slice(scheme.as_bytes());
                out.extend_from_slice(b"://");
                match asked.host {
                    // The port was the old scheme's.
                    Some(host) => harmless(out, host::without_port(host)),
                    None => bracketed(out, asked.ends),
                }
                rooted(out, path);
            }
            Redirect::Prefix(prefix) => {
                out.extend_from_slice(prefix.as_bytes());
                rooted(out, path);
            }
        }
    }
}

/// Appends path and query, beginning with a slash.
fn rooted(out: &mut Vec<u8>, path: &str) {
    if !path.starts_with('/') {
        out.push(b'/');
    }
    harmless(out, path);
}

/// Appends what a client sent. The parser let nothing through that ends a line; should it ever, it is encoded here.
fn harmless(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_graphic() {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

/// Appends `403 Forbidden`, and what it means.
fn say(out: &mut Vec<u8>, status: u16, sentence: Option<&str>) {
    decimal(out, status.into());
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.push(b'\n');
    let sentence = sentence.unwrap_or_else(|| meaning(status));
    if !sentence.is_empty() {
        out.extend_from_slice(sentence.as_bytes());
        out.push(b'\n');
    }
}

/// The reason phrase of a status; empty for one that isn't registered (RFC 9112 §4 allows it).
pub(crate) fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        511 => "Network Authentication Required",
        _ => "",
    }
}

/// What the client is told when nobody has said more.
fn meaning(status: u16) -> &'static str {
    match status {
        400 => "The request could not be understood.",
        403 => "This is not allowed here.",
        404 => "There is nothing here.",
        405 => "This method is not allowed here.",
        408 => "The request did not arrive in time.",
        413 => "The request is too large.",
        417 => "What the request expects is not done here.",
        429 => "Too many requests came from you. Try again later.",
        431 => "The head of the request is too large.",
        500 => "Something went wrong here.",
        501 => "This is not done here.",
        502 => "The server's answer was no valid one.",
        503 => "No server can take the request now. Try again later.",
        504 => "The server did not answer in time.",
        505 => "Only HTTP/1.0 and HTTP/1.1 are spoken here.",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::HeaderEdit;
    use proptest::prelude::*;

    type Parts = (String, Vec<(String, String)>, String);

    /// Status line, fields and body.
    fn read(out: &[u8]) -> Parts {
        let text = std::str::from_utf8(out).expect("it is text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head ends");
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap().to_owned();
        let field =
            |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap();
        (first, lines.map(field).collect(), body.to_owned())
    }

    fn value<'a>(parts: &'a Parts, name: &str) -> Option<&'a str> {
        parts.1.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    static PAGES: BTreeMap<u16, String> = BTreeMap::new();

    fn answer<'a>(
        pages: &'a BTreeMap<u16, String>,
        edits: &'a [HeaderEdit],
    ) -> Answer<'a, std::slice::Iter<'a, HeaderEdit>> {
        Answer { head: false, connection: Connection::Persistent, date: b"", pages, edits: edits.iter() }
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Parts {
        let mut out = Vec::new();
        write(&mut out);
        read(&out)
    }

    fn reply(status: u16, body: Option<&str>) -> Reply {
        Reply { status, body: body.map(str::to_owned), content_type: "text/x".into() }
    }

    #[test]
    fn an_error_says_what_happened_and_is_not_kept() {
        let mut out = Vec::new();
        let date = b"Sun, 06 Nov 1994 08:49:37 GMT";
        let answer = Answer { connection: Connection::Close, date, ..answer(&PAGES, &[]) };
        answer.error(&mut out, 400, Some("Two lengths."));
        assert_eq!(
            std::str::from_utf8(&out).unwrap(),
            "HTTP/1.1 400 Bad Request\r\nContent-Length: 29\r\nContent-Type: text/plain; charset=utf-8\r\n\
            Cache-Control: no-cache\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nConnection: close\r\n\r\n\
            400 Bad Request\nTwo lengths.\n"
        );
    }

    #[test]
    fn every_status_that_we_may_answer_with_has_its_reason_and_its_meaning() {
        for status in [400, 403, 404, 405, 408, 413, 417, 429, 431, 500, 501, 502, 503, 504, 505] {
            let parts = written(|out| answer(&PAGES, &[]).error(out, status, None));
            assert_eq!(parts.0, format!("HTTP/1.1 {status} {}", reason(status)));
            assert_eq!(parts.2, format!("{status} {}\n{}\n", reason(status), meaning(status)));
            assert!(!reason(status).is_empty() && !meaning(status).is_empty(), "{status}");
            assert_eq!(value(&parts, "Content-Length"), Some(parts.2.len().to_string().as_str()));
        }
        assert!(value(&written(|out| answer(&PAGES, &[]).error(out, 405, None)), "Allow").is_some());
        assert_eq!(written(|out| answer(&PAGES, &[]).error(out, 599, None)).0, "HTTP/1.1 599 ");
    }

    #[test]
    fn a_page_of_the_frontend_takes_the_place_of_our_text() {
        let pages = BTreeMap::from([(503, "<p>Später</p>".to_owned())]);
        let parts = written(|out| answer(&pages, &[]).error(out, 503, Some("unseen")));
        assert_eq!(value(&parts, "Content-Type"), Some("text/html; charset=utf-8"));
        assert_eq!((value(&parts, "Content-Length"), parts.2.as_str()), (Some("14"), "<p>Später</p>"));
    }

    #[test]
    fn head_is_answered_with_the_length_of_what_get_would_bring() {
        let get = written(|out| answer(&PAGES, &[]).error(out, 403, None));
        let head = written(|out| Answer { head: true, ..answer(&PAGES, &[]) }.error(out, 403, None));
        assert_eq!((get.0, get.1), (head.0, head.1));
        assert_eq!(head.2, "");
        assert!(!get.2.is_empty());
    }

    #[test]
    fn the_connection_is_spoken_of_as_told() {
        for (connection, said) in [
            (Connection::Persistent, None),
            (Connection::KeepAlive, Some("keep-alive")),
            (Connection::Close, Some("close")),
            (Connection::Upgrade, None),
        ] {
            let parts = written(|out| Answer { connection, ..answer(&PAGES, &[]) }.error(out, 403, None));
            assert_eq!(value(&parts, "Connection"), said);
        }
    }

    #[test]
    fn a_denial_is_not_kept_and_a_return_may_be() {
        let denied = written(|out| answer(&PAGES, &[]).deny(out, &reply(403, Some("no"))));
        assert_eq!((value(&denied, "Cache-Control"), denied.2.as_str()), (Some("no-cache"), "no"));
        assert_eq!(value(&denied, "Content-Type"), Some("text/x"));
        let given = written(|out| answer(&PAGES, &[]).give(out, &reply(200, Some("pong"))));
        assert_eq!((value(&given, "Cache-Control"), given.2.as_str()), (None, "pong"));
    }

    #[test]
    fn an_answer_without_a_body_of_its_own_has_the_page_or_the_meaning_of_its_status() {
        let pages = BTreeMap::from([(403, "page".to_owned())]);
        let bodies = [
            (written(|out| answer(&pages, &[]).deny(out, &reply(403, None))), "page"),
            (written(|out| answer(&pages, &[]).give(out, &reply(403, None))), "page"),
            (
                written(|out| answer(&pages, &[]).give(out, &reply(404, None))),
                "404 Not Found\nThere is nothing here.\n",
            ),
            (written(|out| answer(&pages, &[]).give(out, &reply(200, None))), ""),
        ];
        for (parts, body) in bodies {
            assert_eq!(parts.2, body);
            assert_eq!(value(&parts, "Content-Type").is_some(), !body.is_empty());
        }
    }

    #[test]
    fn statuses_that_have_no_body_get_none() {
        for (status, length) in [(204, None), (304, None), (205, Some("0"))] {
            let parts = written(|out| answer(&PAGES, &[]).give(out, &reply(status, Some("much"))));
            assert_eq!((value(&parts, "Content-Length"), parts.2.as_str()), (length, ""), "{status}");
            assert_eq!(value(&parts, "Content-Type"), None, "{status}");
        }
    }

    #[test]
    fn edits_of_the_frontend_change_our_answers_too() {
        let edits = [
            HeaderEdit::Set("cache-control".into(), "no-store".into()),
            HeaderEdit::Remove("Date".into()),
            HeaderEdit::Add("Strict-Transport-Security".into(), "max-age=1".into()),
        ];
        let parts = written(|out| Answer { date: b"now", ..answer(&PAGES, &edits) }.error(out, 403, None));
        assert_eq!(value(&parts, "Cache-Control"), None);
        assert_eq!(value(&parts, "cache-control"), Some("no-store"));
        assert_eq!(value(&parts, "Date"), None);
        assert_eq!(value(&parts, "Strict-Transport-Security"), Some("max-age=1"));
    }

    fn ends() -> Ends {
        Ends { client: "192.0.2.1:40000".parse().unwrap(), own: "[2001:db8::9]:80".parse().unwrap(), tls: false }
    }

    fn location(to: &Redirect, host: Option<&str>, target: &str) -> String {
        let ends = ends();
        let asked = Asked { host, target, ends: &ends };
        let parts = written(|out| answer(&PAGES, &[]).redirect(out, to, 302, asked));
        assert_eq!((parts.0.as_str(), value(&parts, "Content-Length")), ("HTTP/1.1 302 Found", Some("0")));
        value(&parts, "Location").expect("it says where to").to_owned()
    }

    #[test]
    fn a_redirect_says_where_to() {
        let scheme = || Redirect::Scheme("https".into());
        let prefix = || Redirect::Prefix("https://b.test/old".into());
        for (to, host, target, expected) in [
            (scheme(), Some("a.test"), "/x?y=1&z", "https://a.test/x?y=1&z"),
            // The port belonged to the old scheme.
            (scheme(), Some("A.test:8080"), "/", "https://A.test/"),
            (scheme(), Some("[2001:db8::1]:80"), "/", "https://[2001:db8::1]/"),
            (scheme(), None, "/x", "https://[2001:db8::9]/x"),
            (scheme(), Some("a.test"), "*", "https://a.test/"),
            (prefix(), Some("a.test"), "/x?y", "https://b.test/old/x?y"),
            (prefix(), Some("a.test"), "*", "https://b.test/old/"),
            (Redirect::Location("/login?from=here".into()), Some("a.test"), "/x?y", "/login?from=here"),
        ] {
            assert_eq!(location(&to, host, target), expected, "{to:?} {host:?} {target}");
        }
    }

    #[test]
    fn only_a_redirect_for_ever_may_be_kept() {
        let ends = ends();
        let asked = Asked { host: None, target: "/", ends: &ends };
        for (code, kept) in [(301, true), (302, false), (303, false), (307, false), (308, true)] {
            let to = Redirect::Location("/x".into());
            let parts = written(|out| answer(&PAGES, &[]).redirect(out, &to, code, asked));
            assert_eq!(value(&parts, "Cache-Control").is_none(), kept, "{code}");
            assert_eq!(parts.0, format!("HTTP/1.1 {code} {}", reason(code)));
        }
    }

    proptest! {
        /// No parser lets such a target through; it would still do no harm.
        #[test]
        fn whatever_a_client_asks_for_its_redirect_is_one_line(host in "\\PC{0,8}[\r\n :]{0,3}x?", target in "/?[\r\n\0 -~é]{0,20}") {
            for to in [Redirect::Scheme("https".into()), Redirect::Prefix("/p".into())] {
                let ends = ends();
                let asked = Asked { host: Some(&host), target: &target, ends: &ends };
                let mut out = Vec::new();
                answer(&PAGES, &[]).redirect(&mut out, &to, 302, asked);
                let mut slots = [httparse::EMPTY_HEADER; 8];
                let mut response = httparse::Response::new(&mut slots);
                prop_assert_eq!(response.parse(&out), Ok(httparse::Status::Complete(out.len())));
                let names: Vec<_> = response.headers.iter().map(|field| field.name).collect();
                prop_assert_eq!(names, ["Content-Length", "Location", "Cache-Control"]);
                prop_assert!(response.headers[1].value.iter().all(u8::is_ascii_graphic));
            }
        }
    }
}
