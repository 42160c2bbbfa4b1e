//! What of a case is compared: the requests that the server got and the answers that the client got, without what two
//! proxies may do as they please: the case of field names, `Connection`, and the words of their own answers.

use crate::echo::Got;
use crate::exchange::Seen;

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) server: Vec<Request>,
    pub(crate) client: Vec<Answer>,
    /// Bytes after the last answer that are none.
    pub(crate) rest: String,
    pub(crate) closed: bool,
    /// As they came, for what holds of lbnode alone.
    pub(crate) raw: Raw,
}

/// Equal to everything, and shown as nothing: kept beside what is compared.
#[derive(Clone)]
pub(crate) struct Raw(pub(crate) Vec<Got>);

impl std::fmt::Debug for Raw {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("…")
    }
}

impl PartialEq for Raw {
    fn eq(&self, _: &Raw) -> bool {
        true
    }
}

impl Eq for Raw {}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) line: String,
    pub(crate) fields: Vec<String>,
    pub(crate) framing: &'static str,
    pub(crate) body: Short,
    pub(crate) trailers: Vec<String>,
    pub(crate) complete: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: String,
    /// `None`: it is the proxy's own.
    pub(crate) content: Option<Content>,
}

impl Answer {
    /// Comes before another one.
    pub(crate) fn is_interim(&self) -> bool {
        self.content.is_some()
            && self.status.split(' ').nth(1).is_some_and(|code| code.starts_with('1') && code != "101")
    }

    /// The proxy itself says no.
    pub(crate) fn is_refusal(&self) -> bool {
        self.content.is_none() && self.status.starts_with(['4', '5'])
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) fields: Vec<String>,
    pub(crate) framing: &'static str,
    pub(crate) body: Short,
    pub(crate) trailers: Vec<String>,
    pub(crate) complete: bool,
}

/// Bytes that are shown by their beginning.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Short(pub(crate) Vec<u8>);

impl std::fmt::Debug for Short {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start = &self.0[..self.0.len().min(60)];
        write!(out, "{} bytes: {}", self.0.len(), start.escape_ascii())
    }
}

/// Puts both ends together.
pub(crate) fn outcome(seen: Seen, got: Vec<Got>) -> Outcome {
    let methods: Vec<String> =
        got.iter().map(|got| got.line.split(' ').next().unwrap_or_default().to_owned()).collect();
    let (client, rest) = answers(&seen.bytes, &methods);
    let server = got.iter().map(request).collect();
    Outcome { server, client, rest: rest.escape_ascii().to_string(), closed: seen.closed, raw: Raw(got) }
}

fn request(got: &Got) -> Request {
    Request {
        line: got.line.clone(),
        fields: normal(got.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()))),
        framing: got.framing,
        body: Short(got.body.clone()),
        trailers: got.trailers.iter().map(|line| line.to_ascii_lowercase()).collect(),
        complete: got.complete,
    }
}

fn normal<'a>(fields: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    fields
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .filter(|(name, _)| !matches!(name.as_str(), "connection" | "keep-alive"))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect()
}

/// The answers in what a client received. `methods`: of the requests that the server got, for HEAD has no body.
fn answers<'a>(mut bytes: &'a [u8], methods: &[String]) -> (Vec<Answer>, &'a [u8]) {
    let mut found: Vec<Answer> = Vec::new();
    let mut of_server = 0;
    loop {
        let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else { return (found, bytes) };
        let head: String = bytes[..end].iter().map(|byte| char::from(*byte)).collect();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap_or_default().to_owned();
        if !status.starts_with("HTTP/1.") {
            return (found, bytes);
        }
        let fields: Vec<(&str, &str)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name, value.trim_matches([' ', '\t'])))
            .collect();
        let field =
            |wanted: &str| fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| *value);
        let code = status.split(' ').nth(1).unwrap_or_default();
        bytes = &bytes[end + 4..];
        let interim = code.starts_with('1') && code != "101";
        let ours = field("x-echo").is_none() && !interim;
        let head_only = !ours && methods.get(of_server).is_some_and(|method| method == "HEAD");
        let mut content = Content {
            fields: normal(fields.iter().copied()),
            framing: "none",
            body: Short(Vec::new()),
            trailers: Vec::new(),
            complete: true,
        };
        if !(interim || head_only || code == "204" || code == "304") {
            let coding = field("transfer-encoding");
            let length = field("content-length").and_then(|length| length.parse::<usize>().ok());
            bytes = body(bytes, coding, length, &mut content);
        }
        of_server += usize::from(!ours && !interim);
        // The reason phrase of an answer of its own is the proxy's business.
        let status = if ours { code.to_owned() } else { status };
        found.push(Answer { status, content: (!ours).then_some(content) });
    }
}

/// Takes a body off; what is left.
fn body<'a>(bytes: &'a [u8], coding: Option<&str>, length: Option<usize>, content: &mut Content) -> &'a [u8] {
    match (coding, length) {
        (Some(_), _) => {
            content.framing = "chunked";
            chunks(bytes, content).unwrap_or_else(|| {
                content.complete = false;
                b""
            })
        }
        (None, Some(length)) => {
            content.framing = "length";
            content.complete = bytes.len() >= length;
            let (body, rest) = bytes.split_at(length.min(bytes.len()));
            content.body = Short(body.to_vec());
            rest
        }
        (None, None) => {
            content.framing = "close";
            content.body = Short(bytes.to_vec());
            b""
        }
    }
}

fn chunks<'a>(mut bytes: &'a [u8], content: &mut Content) -> Option<&'a [u8]> {
    let line = |bytes: &mut &'a [u8]| -> Option<String> {
        let end = bytes.windows(2).position(|end| end == b"\r\n")?;
        let text = bytes[..end].iter().map(|byte| char::from(*byte)).collect();
        *bytes = &bytes[end + 2..];
        Some(text)
    };
    loop {
        let size = usize::from_str_radix(line(&mut bytes)?.split(';').next()?, 16).ok()?;
        if size == 0 {
            loop {
                let trailer = line(&mut bytes)?;
                if trailer.is_empty() {
                    return Some(bytes);
                }
                content.trailers.push(trailer.to_ascii_lowercase());
            }
        }
        let here = size.min(bytes.len());
        content.body.0.extend_from_slice(&bytes[..here]);
        bytes = bytes.get(size..)?;
        line(&mut bytes)?;
    }
}
