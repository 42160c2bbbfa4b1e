//! `[[frontend.NAME.rule]]`: a condition and one action.

use std::ops::RangeInclusive;
use std::time::Duration;

use proxy_core::plan::{Action, Condition, HeaderEdit, Redirect, Reply, Rule, Side, StickCounter};

use super::super::reader::{Section, Value};
use super::{Around, NEEDS_HTTP, Speaks, headers, when};

/// Of which a rule has one. The first four are TCP's as well.
const ACTIONS: [&str; 16] = [
    "reject",
    "use_backend",
    "track",
    "inc_gpc0",
    "deny",
    "tarpit",
    "redirect",
    "return",
    "set_request_header",
    "add_request_header",
    "remove_request_header",
    "set_response_header",
    "add_response_header",
    "remove_response_header",
    "set_path",
    "rewrite",
];
/// What a client may be kept waiting: each holds a connection of ours.
const TARPIT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// Reads a frontend's rules, in their order.
pub(super) fn read(value: Value<'_>, mode: Option<Speaks>, around: &Around<'_>) -> Option<Vec<Rule>> {
    let mut rules = Vec::new();
    for value in value.list()? {
        let Some(section) = value.section() else { continue };
        rules.extend(read_one(section, mode, around));
    }
    Some(rules)
}

/// A rule that changes several headers becomes several rules with the same condition.
fn read_one(section: Section<'_>, mode: Option<Speaks>, around: &Around<'_>) -> Vec<Rule> {
    let when = section.optional("when", |value| when::read(value, mode, around));
    let known = if mode == Some(Speaks::Tcp) { &ACTIONS[..4] } else { &ACTIONS[..] };
    section.refuse(&ACTIONS[known.len()..], NEEDS_HTTP);
    let there: Vec<&str> = ACTIONS.into_iter().filter(|key| section.has(key)).collect();
    match there[..] {
        [_] => {}
        [] => section.report(format!("a rule needs an action: one of `{}`", known.join("`, `"))),
        _ => section.report(format!("a rule has one action, not `{}`; write a rule for each", there.join("` and `"))),
    }
    let mut actions = Vec::new();
    for key in known {
        actions.extend(section.optional(key, |value| read_action(key, value, mode, around)).unwrap_or_default());
    }
    if let Some(when) = &when {
        looked_at_last(when, &mut actions, &section);
    }
    section.finish();
    actions.into_iter().map(|action| Rule { when: when.clone(), action }).collect()
}

/// Conditions see the changes of the rules before: of several changes that share one, what it looks at is changed last.
fn looked_at_last(when: &Condition, actions: &mut [Action], section: &Section<'_>) {
    let looked_at = |action: &Action| match action {
        Action::EditRequest(edit) => when::looks_at(when, edit.name()),
        _ => false,
    };
    actions.sort_by_key(looked_at);
    if actions.iter().filter(|action| looked_at(action)).count() > 1 {
        section.report("it changes several headers that its condition looks at: write a rule for each");
    }
}

fn read_action(key: &str, value: Value<'_>, mode: Option<Speaks>, around: &Around<'_>) -> Option<Vec<Action>> {
    let (verb, object) = key.split_once('_').unwrap_or((key, ""));
    if let "request_header" | "response_header" = object {
        let request = object == "request_header";
        let side = if request { Side::Request } else { Side::Response };
        let edits = match verb {
            "set" => headers::written(value, HeaderEdit::Set, side),
            "add" => headers::written(value, HeaderEdit::Add, side),
            _ => headers::removed(value, side),
        };
        let action = if request { Action::EditRequest } else { Action::EditResponse };
        return Some(edits?.into_iter().map(action).collect());
    }
    let action = match key {
        "reject" => read_reject(value.clone())?,
        "use_backend" => Action::UseBackend(around.backend_of(&value, mode)?),
        "track" => Action::Track(around.tables.find(&value, mode)?),
        "inc_gpc0" => {
            let table = around.tables.find(&value, mode)?;
            around.tables.counts(table, StickCounter::Gpc0, &value);
            Action::IncGpc0(table)
        }
        "deny" => Action::Deny(read_reply(value.clone(), 403)?),
        "return" => Action::Return(read_reply(value.clone(), 200)?),
        "tarpit" => Action::Tarpit(value.clone().duration(TARPIT)?),
        "redirect" => read_redirect(value.clone().section()?)?,
        "set_path" => Action::SetPath(value.clone().string()?),
        _ => read_rewrite(value.clone().section()?)?,
    };
    Some(vec![value.checked(action, Action::check)?])
}

/// `true` closes, as HAProxy does.
fn read_reject(value: Value<'_>) -> Option<Action> {
    let reset = if value.is_string() {
        value.choice(&[("close", false), ("reset", true)])?
    } else {
        if !value.clone().boolean()? {
            value.report("`reject` is true, \"close\" or \"reset\"; leave the rule out if it does nothing");
            return None;
        }
        false
    };
    Some(Action::Reject { reset })
}

/// A status, or `{ status, body, content_type }`.
fn read_reply(value: Value<'_>, status: u16) -> Option<Reply> {
    let statuses = 200..=599u16;
    let (mut body, mut content_type) = (None, None);
    let status = if value.is_table() {
        let table = value.section()?;
        let own = table.optional("status", |value| value.integer(statuses));
        body = table.optional("body", Value::string);
        content_type = table.optional("content_type", |value| {
            if !table.has("body") {
                value.report("without `body` there is no content");
            }
            value.string()
        });
        table.finish();
        own.unwrap_or(status)
    } else {
        value.integer(statuses)?
    };
    Some(Reply { status, body, content_type: content_type.unwrap_or_else(|| PLAIN_TEXT.to_owned()) })
}

fn read_redirect(table: Section<'_>) -> Option<Action> {
    let kinds = ["scheme", "location", "prefix"];
    if kinds.iter().filter(|key| table.has(key)).count() != 1 {
        table.report("a redirect has one of `scheme`, `location` and `prefix`");
    }
    let scheme = table.optional("scheme", |value| value.choice(&[("https", "https"), ("http", "http")]));
    let scheme = scheme.map(|scheme| Redirect::Scheme(scheme.to_owned()));
    let location = table.optional("location", |value| value.string().map(Redirect::Location));
    let prefix = table.optional("prefix", |value| value.string().map(Redirect::Prefix));
    let code = table.optional("code", |value| value.integer(0..=999u16));
    table.finish();
    Some(Action::Redirect { to: scheme.or(location).or(prefix)?, code: code.unwrap_or(302) })
}

fn read_rewrite(table: Section<'_>) -> Option<Action> {
    let path_regex = table.required("path_regex", Value::string);
    let to = table.required("to", Value::text);
    table.finish();
    Some(Action::Rewrite { path_regex: path_regex?, to: to? })
}
