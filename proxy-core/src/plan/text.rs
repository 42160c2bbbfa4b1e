//! What may be written into a message by configuration: names and values of headers, paths, statuses, expressions.
//!
//! Each type of the plan that ends up in a message checks itself here, once for who reads a configuration and once
//! more in [`super::Plan::validate`]: nothing in a plan can end a line, or contradict how a message is framed.

use regex::bytes::Regex;

use super::rule::{Action, Condition, HeaderEdit, Pattern, Redirect, Reply, Text, regex};

/// Longest body of an answer of ours, in bytes.
pub const MAX_BODY: usize = 64 << 10;
/// Longest header value, path or location, in bytes: far below what any server takes as a head.
const MAX_VALUE: usize = 4096;

/// Headers that the proxy writes itself, because they frame the message or concern one connection alone
/// (RFC 9110 §7.6.1, RFC 9112 §6).
const OWN_HEADERS: [&str; 9] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
];

/// Which messages a change is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What servers get.
    Request,
    /// What clients get.
    Response,
}

/// Why a text cannot be part of a message, or be looked for in one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what each one is")]
pub enum BadText {
    #[error("`{}` is no header name: letters, digits and !#$%&'*+-.^_`|~ only", .0.escape_debug())]
    HeaderName(String),
    #[error("`{0}` is written by the proxy itself: it frames the message or concerns one connection only")]
    OwnHeader(String),
    #[error("a request has exactly one `Host`: it can be set, not added or removed")]
    OneHost,
    #[error("the value of `{0}` has a control character; a header is one line")]
    HeaderValue(String),
    #[error("the value of `{0}` begins or ends with white space, which no reader keeps")]
    HeaderSpace(String),
    #[error("it is {0} bytes long; at most {MAX_VALUE}")]
    Long(usize),
    #[error("`{}` is no path: it begins with `/` and has only visible ASCII; write others as %XX", .0.escape_debug())]
    Path(String),
    #[error("`{0}` has a `?` or `#`: a path has neither, and the query stays as it is")]
    Query(String),
    #[error("`{}` has a character that no URL has; write it as %XX", .0.escape_debug())]
    Location(String),
    #[error("`{0}` ends with `/`, and the path begins with one: leave it out")]
    PrefixSlash(String),
    #[error("`{}` is no scheme such as https", .0.escape_debug())]
    Scheme(String),
    #[error("{0} is no redirect; expected 301, 302, 303, 307 or 308")]
    RedirectCode(u16),
    #[error("{0} is no status of a final answer; expected 200 to 599")]
    Status(u16),
    #[error("an answer with status {0} has no body")]
    NoBody(u16),
    #[error("the body is {0} bytes long; at most {MAX_BODY}")]
    LongBody(usize),
    #[error("`{}` is no content type", .0.escape_debug())]
    ContentType(String),
    #[error("`{0}` is no method: letters, digits and !#$%&'*+-.^_`|~ only")]
    Method(String),
    #[error("`{}` is no protocol's name: it has 1 to 255 bytes", .0.escape_debug())]
    Protocol(String),
    #[error("`{expression}` is no regular expression: {why}")]
    Expression { expression: String, why: String },
    #[error("`${{{group}}}` is no group of `{expression}`; groups are $0 to ${last}, or by name, and $$ is a dollar")]
    Group { group: String, expression: String, last: usize },
    #[error("a tarpit of no time is `deny`")]
    Tarpit,
    #[error("it holds for nobody: a list in it is empty")]
    Empty,
}

/// Whether these bytes are a token (RFC 9110 §5.6.2).
fn token(text: &str) -> bool {
    let tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(tchar)
}

fn length(text: &str) -> Result<(), BadText> {
    if text.len() > MAX_VALUE { Err(BadText::Long(text.len())) } else { Ok(()) }
}

/// Whether `name` can be a header's or a cookie's name; the latter are tokens as well (RFC 6265 §4.1.1).
pub fn check_name(name: &str) -> Result<(), BadText> {
    length(name)?;
    if token(name) { Ok(()) } else { Err(BadText::HeaderName(name.to_owned())) }
}

/// Whether `path` can stand in a request line.
pub fn check_path(path: &str) -> Result<(), BadText> {
    length(path)?;
    if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(BadText::Path(path.to_owned()));
    }
    if path.contains(['?', '#']) { Err(BadText::Query(path.to_owned())) } else { Ok(()) }
}

/// Whether `name` can be a protocol's name in ALPN (RFC 7301 §3.1).
pub fn check_protocol(name: &str) -> Result<(), BadText> {
    if (1..=255).contains(&name.len()) { Ok(()) } else { Err(BadText::Protocol(name.to_owned())) }
}

/// Whether `method` can be one.
pub fn check_method(method: &str) -> Result<(), BadText> {
    if token(method) { Ok(()) } else { Err(BadText::Method(method.to_owned())) }
}

/// Whether `text` is a regular expression within bounds.
pub fn check_expression(text: &str) -> Result<(), BadText> {
    expression(text, false).map(drop)
}

/// Compiles an expression within bounds.
fn expression(text: &str, ignore_case: bool) -> Result<Regex, BadText> {
    length(text)?;
    regex(text, ignore_case).map_err(|error| {
        let why = match error {
            ::regex::Error::CompiledTooBig(limit) => format!("it takes more than {limit} bytes when compiled"),
            // The crate draws the expression over several lines; the last one says what is wrong.
            error => error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
        };
        BadText::Expression { expression: text.to_owned(), why }
    })
}

impl HeaderEdit {
    /// The header it changes.
    pub fn name(&self) -> &str {
        match self {
            HeaderEdit::Set(name, _) | HeaderEdit::Add(name, _) | HeaderEdit::Remove(name) => name,
        }
    }

    /// Whether it can be done to such messages.
    pub fn check(&self, side: Side) -> Result<(), BadText> {
        let name = self.name();
        check_name(name)?;
        if OWN_HEADERS.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            return Err(BadText::OwnHeader(name.to_owned()));
        }
        let set = matches!(self, HeaderEdit::Set(..));
        if side == Side::Request && !set && name.eq_ignore_ascii_case("host") {
            return Err(BadText::OneHost);
        }
        match self {
            HeaderEdit::Set(_, value) | HeaderEdit::Add(_, value) => header_value(name, value),
            HeaderEdit::Remove(_) => Ok(()),
        }
    }
}

/// Whether all of them can be done; the first that can't, in words.
pub(super) fn check_edits(request: &[HeaderEdit], response: &[HeaderEdit]) -> Result<(), String> {
    let request = request.iter().map(|edit| (edit, Side::Request));
    let mut all = request.chain(response.iter().map(|edit| (edit, Side::Response)));
    all.try_for_each(|(edit, side)| edit.check(side)).map_err(|problem| problem.to_string())
}

fn header_value(name: &str, value: &str) -> Result<(), BadText> {
    length(value)?;
    if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        return Err(BadText::HeaderValue(name.to_owned()));
    }
    if value.trim_matches([' ', '\t']) != value {
        return Err(BadText::HeaderSpace(name.to_owned()));
    }
    Ok(())
}

impl Reply {
    /// Whether it can be sent.
    pub fn check(&self) -> Result<(), BadText> {
        if !(200..=599).contains(&self.status) {
            return Err(BadText::Status(self.status));
        }
        let body = self.body.as_ref().map_or(0, String::len);
        // RFC 9110 §15.3.5, §15.3.6, §15.4.5.
        if body > 0 && [204, 205, 304].contains(&self.status) {
            return Err(BadText::NoBody(self.status));
        }
        if body > MAX_BODY {
            return Err(BadText::LongBody(body));
        }
        let (kind, _) = self.content_type.split_once(';').unwrap_or((&self.content_type, ""));
        let named = kind.split_once('/').is_some_and(|(kind, sub)| token(kind.trim()) && token(sub.trim()));
        if !named || header_value("Content-Type", &self.content_type).is_err() {
            return Err(BadText::ContentType(self.content_type.clone()));
        }
        Ok(())
    }
}

impl Redirect {
    /// Whether it can be written into a `Location`.
    pub fn check(&self) -> Result<(), BadText> {
        let visible = |text: &String| {
            length(text)?;
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
            if plain { Ok(()) } else { Err(BadText::Location(text.clone())) }
        };
        match self {
            Redirect::Scheme(scheme) => {
                // RFC 3986 §3.1.
                let rest = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
                let valid = scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.bytes().all(rest);
                if valid { length(scheme) } else { Err(BadText::Scheme(scheme.clone())) }
            }
            Redirect::Location(location) => visible(location),
            Redirect::Prefix(prefix) if prefix.ends_with('/') => Err(BadText::PrefixSlash(prefix.clone())),
            Redirect::Prefix(prefix) => visible(prefix),
        }
    }
}

impl Action {
    /// Whether it can be done; which backends there are is not asked.
    pub fn check(&self) -> Result<(), BadText> {
        match self {
            Action::Deny(reply) | Action::Return(reply) => reply.check(),
            Action::Reject { .. } | Action::UseBackend(_) | Action::Track(_) | Action::IncGpc0(_) => Ok(()),
            Action::Tarpit(time) if time.is_zero() => Err(BadText::Tarpit),
            Action::Tarpit(_) => Ok(()),
            Action::Redirect { code, .. } if ![301, 302, 303, 307, 308].contains(code) => {
                Err(BadText::RedirectCode(*code))
            }
            Action::Redirect { to, .. } => to.check(),
            Action::EditRequest(edit) => edit.check(Side::Request),
            Action::EditResponse(edit) => edit.check(Side::Response),
            Action::SetPath(path) => check_path(path),
            Action::Rewrite { path_regex, to } => rewrite(path_regex, to),
        }
    }
}

/// Every `$group` of `to` is one of the expression, and nothing in it ends the path.
fn rewrite(path_regex: &str, to: &str) -> Result<(), BadText> {
    let compiled = expression(path_regex, false)?;
    length(to)?;
    if !to.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(BadText::Location(to.to_owned()));
    }
    if to.contains(['?', '#']) {
        return Err(BadText::Query(to.to_owned()));
    }
    let mut rest = to;
    while let Some((_, after)) = rest.split_once('$') {
        if let Some(after) = after.strip_prefix('$') {
            rest = after;
            continue;
        }
        // As `regex` reads it: the longest name, unless braces end it.
        let word = |text: &str| text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
        let (group, after) = match after.strip_prefix('{') {
            Some(braced) => braced.split_once('}').unwrap_or((after, "")),
            None => after.split_at(word(after)),
        };
        let known = match group.parse::<usize>() {
            Ok(number) => number < compiled.captures_len(),
            Err(_) => compiled.capture_names().flatten().any(|name| name == group),
        };
        if !known {
            let last = compiled.captures_len() - 1;
            return Err(BadText::Group { group: group.to_owned(), expression: path_regex.to_owned(), last });
        }
        rest = after;
    }
    Ok(())
}

impl Text {
    /// Whether it can be looked for.
    pub fn check(&self) -> Result<(), BadText> {
        if self.any.is_empty() {
            return Err(BadText::Empty);
        }
        self.any.iter().try_for_each(|pattern| match pattern {
            Pattern::Present => Ok(()),
            Pattern::Regex(text) => expression(text, self.ignore_case).map(drop),
            Pattern::Is(text) | Pattern::Prefix(text) | Pattern::Suffix(text) | Pattern::Contains(text) => length(text),
        })
    }
}

impl Condition {
    /// Whether it can be asked; which lists and backends there are is not asked.
    pub fn check(&self) -> Result<(), BadText> {
        let some = |empty: bool| if empty { Err(BadText::Empty) } else { Ok(()) };
        match self {
            Condition::All(parts) | Condition::Any(parts) => {
                some(parts.is_empty())?;
                parts.iter().try_for_each(Condition::check)
            }
            Condition::Not(part) => part.check(),
            Condition::Host(text)
            | Condition::Path(text)
            | Condition::Query(text)
            | Condition::Sni(text)
            | Condition::ClientCert(text) => text.check(),
            Condition::Alpn(names) => {
                some(names.is_empty())?;
                names.iter().try_for_each(|name| check_protocol(name))
            }
            Condition::Header(name, text) | Condition::Cookie(name, text) => {
                check_name(name)?;
                text.check()
            }
            Condition::Method(methods) => {
                some(methods.is_empty())?;
                methods.iter().try_for_each(|method| check_method(method))
            }
            Condition::Source(sources) => some(sources.is_empty()),
            Condition::Port(ports) => some(ports.is_empty()),
            Condition::Tls(_) | Condition::ServersUp { .. } | Condition::Rate { .. } => Ok(()),
        }
    }
}
