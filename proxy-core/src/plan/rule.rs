//! The rules of a frontend: what a client or a request must be like, and what is done about it then.
//!
//! Read top to bottom; a rule whose condition holds acts, and its action may end the walk ([`Action::ends`]).

use std::time::Duration;

use ipnetwork::IpNetwork;
use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use super::{Plan, StickCounter, StickTable};

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// `None`: always.
    pub when: Option<Condition>,
    /// What is done.
    pub action: Action,
}

impl Rule {
    pub(super) fn validate(&self, plan: &Plan, http: bool) -> Result<(), String> {
        if let Some(when) = &self.when {
            when.check().map_err(|problem| problem.to_string())?;
            when.validate(plan, http)?;
        }
        let both = matches!(
            self.action,
            Action::Reject { .. } | Action::UseBackend(_) | Action::Track(_) | Action::IncGpc0(_)
        );
        if !http && !both {
            return Err("TCP knows only reject, use_backend, track and inc_gpc0".into());
        }
        self.action.check().map_err(|problem| problem.to_string())?;
        match self.action {
            Action::UseBackend(index) if index >= plan.backends.len() => {
                Err(format!("there is no backend number {index}"))
            }
            Action::Track(index) => usable_table(plan, index, http).map(|_| ()),
            Action::IncGpc0(index) => counted_by(plan, index, StickCounter::Gpc0, http),
            _ => Ok(()),
        }
    }
}

/// A table that clients of such a frontend can be found in.
fn usable_table(plan: &Plan, index: usize, http: bool) -> Result<&StickTable, String> {
    let table = plan.stick_tables.get(index).ok_or_else(|| format!("there is no stick table number {index}"))?;
    if !http && !table.key.is_of_connections() {
        return Err(format!("TCP has nothing that is a key of the stick table `{}`", table.name));
    }
    Ok(table)
}

fn counted_by(plan: &Plan, index: usize, counter: StickCounter, http: bool) -> Result<(), String> {
    let table = usable_table(plan, index, http)?;
    let counted = table.counters.contains(&counter);
    if counted { Ok(()) } else { Err(format!("the stick table `{}` has no `{counter}`", table.name)) }
}

/// What must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Every one of them.
    All(Vec<Condition>),
    /// At least one of them.
    Any(Vec<Condition>),
    /// Not this one.
    Not(Box<Condition>),
    /// The client came over TLS, or didn't.
    Tls(bool),
    /// The server's name that the client asked for over TLS, in lower case. Where TCP only passes TLS on, the one in
    /// its hello.
    Sni(Text),
    /// The protocol that was agreed on with the client (RFC 7301) is one of these. Where TCP only passes TLS on: one of
    /// these is on offer.
    Alpn(Vec<String>),
    /// The subject of the client's verified certificate (RFC 4514).
    ClientCert(Text),
    /// The host without its port, in lower case.
    Host(Text),
    /// The path without the query; never decoded.
    Path(Text),
    /// What follows the `?`; a request without one has an empty one.
    Query(Text),
    /// The method, exactly.
    Method(Vec<String>),
    /// At least one header of this name has such a value.
    Header(String, Text),
    /// At least one cookie of this name has such a value.
    Cookie(String, Text),
    /// The client's address is in one of these.
    Source(Vec<Sources>),
    /// The port that the client came to.
    Port(Vec<u16>),
    /// A backend has at least so many servers that can be used.
    ServersUp {
        /// Index into [`super::Plan::backends`].
        backend: usize,
        /// At least so many.
        at_least: u32,
    },
    /// A counter of the client's entry in a stick table says more than so much; of a client without one it says 0.
    Rate {
        /// Index into [`super::Plan::stick_tables`].
        table: usize,
        /// One of the table's.
        counter: StickCounter,
        /// More than so much.
        above: u32,
    },
}

impl Condition {
    fn validate(&self, plan: &Plan, http: bool) -> Result<(), String> {
        match self {
            Condition::All(parts) | Condition::Any(parts) => {
                parts.iter().try_for_each(|part| part.validate(plan, http))
            }
            Condition::Not(part) => part.validate(plan, http),
            Condition::Source(sources) => sources.iter().try_for_each(|source| match source {
                Sources::List(index) if *index >= plan.lists.len() => Err(format!("there is no list number {index}")),
                _ => Ok(()),
            }),
            Condition::ServersUp { backend, .. } if *backend >= plan.backends.len() => {
                Err(format!("there is no backend number {backend}"))
            }
            Condition::Rate { table, counter, .. } => counted_by(plan, *table, *counter, http),
            Condition::Port(_)
            | Condition::ServersUp { .. }
            | Condition::Tls(_)
            | Condition::Sni(_)
            | Condition::Alpn(_)
            | Condition::ClientCert(_) => Ok(()),
            _ if !http => Err("TCP knows only source, port, servers_up, rate, tls, sni, alpn and client_cert".into()),
            _ => Ok(()),
        }
    }
}

/// What a text must be like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// Any of them.
    pub any: Vec<Pattern>,
    /// ASCII letters are equal in both cases.
    pub ignore_case: bool,
}

/// One form of a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pattern {
    /// Whatever it is, if it is there.
    Present,
    /// All of it.
    Is(String),
    /// Its beginning.
    Prefix(String),
    /// Its end.
    Suffix(String),
    /// A part of it.
    Contains(String),
    /// A regular expression ([`regex()`]) that matches somewhere in it.
    Regex(String),
}

/// Bytes that a compiled regular expression may take.
const REGEX_SIZE: usize = 1 << 20;

/// A regular expression of the `regex` crate over bytes: classes and case are ASCII's, `.` is any byte but a line feed.
///
/// # Errors
/// What is wrong with it, or that it takes over 1 MiB.
pub fn regex(pattern: &str, ignore_case: bool) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).unicode(false).case_insensitive(ignore_case).size_limit(REGEX_SIZE).build()
}

/// Where clients come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sources {
    /// A network.
    Network(IpNetwork),
    /// Index into [`super::Plan::lists`].
    List(usize),
}

/// A named set of networks, whose content may change while the plan runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// Unique among lists.
    pub name: String,
    /// In the order of the file.
    pub networks: Vec<IpNetwork>,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// An answer that says no.
    Deny(Reply),
    /// The connection is cut without an answer.
    Reject {
        /// By a reset; otherwise it is closed.
        reset: bool,
    },
    /// [`Action::Deny`] with 500, after a while.
    Tarpit(Duration),
    /// The client is sent elsewhere.
    Redirect {
        /// Where to.
        to: Redirect,
        /// 301, 302, 303, 307 or 308.
        code: u16,
    },
    /// Index into [`super::Plan::backends`].
    UseBackend(usize),
    /// A change of what the server gets.
    EditRequest(HeaderEdit),
    /// A change of what the client gets.
    EditResponse(HeaderEdit),
    /// Another path; the query stays.
    SetPath(String),
    /// What the regular expression matches of the path is replaced; `$1` or `${1}` is what its first group matched.
    Rewrite {
        /// As [`Pattern::Regex`].
        path_regex: String,
        /// What comes in its place.
        to: String,
    },
    /// An answer of our own.
    Return(Reply),
    /// The client is counted in a stick table: index into [`super::Plan::stick_tables`].
    Track(usize),
    /// One more on `gpc0` of its entry in that table.
    IncGpc0(usize),
}

impl Action {
    /// Whether no later rule is looked at.
    pub fn ends(&self) -> bool {
        !matches!(
            self,
            Action::EditRequest(_)
                | Action::EditResponse(_)
                | Action::SetPath(_)
                | Action::Rewrite { .. }
                | Action::Track(_)
                | Action::IncGpc0(_)
        )
    }
}

/// An answer that no server gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// 200 to 599.
    pub status: u16,
    /// `None`: the error page, or a short text of ours.
    pub body: Option<String>,
    /// Of the body.
    pub content_type: String,
}

/// Where a client is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Redirect {
    /// The same host, path and query with another scheme.
    Scheme(String),
    /// Exactly this.
    Location(String),
    /// This, and the path and query after it.
    Prefix(String),
}

/// A change of the header section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeaderEdit {
    /// In place of all headers of this name.
    Set(String, String),
    /// Beside those of this name.
    Add(String, String),
    /// All headers of this name go.
    Remove(String),
}
