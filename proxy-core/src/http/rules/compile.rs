//! From the plan's rules to those that are walked: regular expressions compiled, networks sorted, edits numbered.

use std::sync::Arc;

use regex::bytes::Regex;

use super::condition::{Form, Test, Texts};
use super::{Act, End, Rules, Shared, Step};
use crate::http::lists::Lists;
use crate::plan::{self, Action, Condition, HeaderEdit, Mode, Pattern, Sources, Text};

/// Why a frontend's rules can't be walked: a plan that wasn't validated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuleError {
    #[error("rule {rule}: `{pattern}` is no regular expression that can be used")]
    Regex {
        /// From 1.
        rule: usize,
        pattern: String,
        #[source]
        source: regex::Error,
    },
    #[error("rule {rule}: there is no list number {list}")]
    NoList {
        /// From 1.
        rule: usize,
        list: usize,
    },
}

/// What the rules before have used.
struct Compiler<'a> {
    rule: usize,
    lists: &'a Lists,
    regexes: Vec<Regex>,
    request_edits: Vec<HeaderEdit>,
    response_edits: Vec<HeaderEdit>,
}

impl Rules {
    /// Compiles the rules of a frontend.
    ///
    /// # Errors
    /// A rule of which a part can't be used.
    pub(crate) fn compile(frontend: &plan::Frontend, lists: &Arc<Lists>) -> Result<Rules, RuleError> {
        let mut compiler =
            Compiler { rule: 0, lists, regexes: Vec::new(), request_edits: Vec::new(), response_edits: Vec::new() };
        let looks_into_hellos = frontend.rules.iter().filter_map(|rule| rule.when.as_ref()).any(looks_into_hellos);
        let mut steps = Vec::with_capacity(frontend.rules.len());
        for rule in &frontend.rules {
            compiler.rule += 1;
            let when = rule.when.as_ref().map(|when| compiler.test(when)).transpose()?;
            steps.push(Step { when, act: compiler.act(&rule.action)? });
        }
        let before = match &frontend.mode {
            Mode::Http(http) => {
                // What a client says itself of its certificate is never believed.
                let names = http.client_cert_headers.iter().map(|(_, name)| HeaderEdit::Remove(name.clone()));
                names.chain(http.request_edits.iter().cloned()).collect()
            }
            Mode::Tcp => Box::default(),
        };
        let shared = Shared {
            steps: steps.into(),
            before,
            request_edits: compiler.request_edits.into(),
            response_edits: compiler.response_edits.into(),
            lists: Arc::clone(lists),
            looks_into_hellos,
        };
        Ok(Rules { shared: Arc::new(shared), regexes: compiler.regexes.into() })
    }
}

impl Compiler<'_> {
    fn act(&mut self, action: &Action) -> Result<Act, RuleError> {
        Ok(match action {
            Action::Deny(reply) => Act::End(End::Deny(reply.clone())),
            Action::Return(reply) => Act::End(End::Return(reply.clone())),
            Action::Reject { reset } => Act::End(End::Reject { reset: *reset }),
            Action::Tarpit(time) => Act::End(End::Tarpit(*time)),
            Action::Redirect { to, code } => Act::End(End::Redirect { to: to.clone(), code: *code }),
            Action::UseBackend(index) => Act::End(End::UseBackend(*index)),
            Action::EditRequest(edit) => Act::EditRequest(push(&mut self.request_edits, edit.clone())),
            Action::EditResponse(edit) => Act::EditResponse(push(&mut self.response_edits, edit.clone())),
            Action::SetPath(path) => Act::SetPath(path.clone()),
            Action::Track(table) => Act::Track(*table),
            Action::IncGpc0(table) => Act::IncGpc0(*table),
            Action::Rewrite { path_regex, to } => {
                Act::Rewrite { regex: self.regex(path_regex, false)?, to: to.clone() }
            }
        })
    }

    fn test(&mut self, condition: &Condition) -> Result<Test, RuleError> {
        Ok(match condition {
            Condition::All(all) => Test::All(self.tests(all)?),
            Condition::Any(any) => Test::Any(self.tests(any)?),
            Condition::Not(test) => Test::Not(Box::new(self.test(test)?)),
            Condition::Tls(tls) => Test::Tls(*tls),
            Condition::Sni(text) => Test::Sni(self.texts(text, true)?),
            Condition::Alpn(any) => Test::Alpn(any.clone().into()),
            Condition::ClientCert(text) => Test::ClientCert(self.texts(text, text.ignore_case)?),
            Condition::Host(text) => Test::Host(self.texts(text, true)?),
            Condition::Path(text) => Test::Path(self.texts(text, text.ignore_case)?),
            Condition::Query(text) => Test::Query(self.texts(text, text.ignore_case)?),
            Condition::Method(any) => Test::Method(any.clone().into()),
            Condition::Header(name, text) => Test::Header(name.clone(), self.texts(text, text.ignore_case)?),
            Condition::Cookie(name, text) => Test::Cookie(name.clone(), self.texts(text, text.ignore_case)?),
            Condition::Source(any) => self.source(any)?,
            Condition::Port(any) => Test::Port(any.clone().into()),
            Condition::ServersUp { backend, at_least } => Test::ServersUp { backend: *backend, at_least: *at_least },
            Condition::Rate { table, counter, above } => Test::Rate { table: *table, counter: *counter, above: *above },
        })
    }

    fn tests(&mut self, conditions: &[Condition]) -> Result<Box<[Test]>, RuleError> {
        conditions.iter().map(|condition| self.test(condition)).collect()
    }

    /// A host is the same in both cases whatever the text says (RFC 9110 §4.2.3).
    fn texts(&mut self, text: &Text, ignore_case: bool) -> Result<Texts, RuleError> {
        let form = |pattern: &Pattern| {
            Ok(match pattern {
                Pattern::Present => Form::Present,
                Pattern::Is(text) => Form::Is(text.clone()),
                Pattern::Prefix(text) => Form::Prefix(text.clone()),
                Pattern::Suffix(text) => Form::Suffix(text.clone()),
                Pattern::Contains(text) => Form::Contains(text.clone()),
                Pattern::Regex(pattern) => Form::Regex(self.regex(pattern, ignore_case)?),
            })
        };
        Ok(Texts { any: text.any.iter().map(form).collect::<Result<_, _>>()?, ignore_case })
    }

    fn source(&self, any: &[Sources]) -> Result<Test, RuleError> {
        let networks = any.iter().filter_map(|source| match source {
            Sources::Network(network) => Some(network),
            Sources::List(_) => None,
        });
        let lists: Box<[usize]> = any
            .iter()
            .filter_map(|source| match source {
                Sources::List(list) => Some(*list),
                Sources::Network(_) => None,
            })
            .collect();
        if let Some(list) = lists.iter().find(|list| **list >= self.lists.len()) {
            return Err(RuleError::NoList { rule: self.rule, list: *list });
        }
        Ok(Test::Source { networks: networks.collect(), lists })
    }

    fn regex(&mut self, pattern: &str, ignore_case: bool) -> Result<usize, RuleError> {
        let regex = plan::regex(pattern, ignore_case).map_err(|source| RuleError::Regex {
            rule: self.rule,
            pattern: pattern.to_owned(),
            source,
        })?;
        Ok(push(&mut self.regexes, regex))
    }
}

/// Whether it asks for what a hello says.
fn looks_into_hellos(condition: &Condition) -> bool {
    match condition {
        Condition::All(all) | Condition::Any(all) => all.iter().any(looks_into_hellos),
        Condition::Not(condition) => looks_into_hellos(condition),
        Condition::Sni(_) | Condition::Alpn(_) => true,
        _ => false,
    }
}

/// The number of what was added.
fn push<T>(all: &mut Vec<T>, one: T) -> usize {
    all.push(one);
    all.len() - 1
}
