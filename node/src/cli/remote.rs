//! The commands that ask a running agent.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::{Exit, Json, complain, complain_text, paint, print, print_json, warn};
use crate::config::{self, ConfigError};
use crate::control::{CallError, Request, Response, call};
use crate::status::{Verdict, render};

/// An answer that only reads is there at once.
pub(super) const READ: Duration = Duration::from_secs(10);
/// A change waits for the proxy core to run it.
pub(super) const CHANGE: Duration = Duration::from_secs(60);

/// What is said of a change as long as there is no replicated log.
const THIS_NODE_ONLY: &str = "on this node only: apply the same file on the peer";

pub(super) fn status(socket: &Path, json: Json) -> Exit {
    ask(socket, &Request::Status, READ, |response| {
        let Response::Status { status } = response else { return Err(response) };
        if json.json {
            print_json(&serde_json::to_value(&status).expect("a status is plain data"));
        } else {
            print(render(&status).trim_end());
        }
        Ok(match status.verdict() {
            Verdict::Healthy => Exit::Fine,
            Verdict::Degraded => Exit::Degraded,
            Verdict::NotServing => Exit::NotServing,
        })
    })
}

pub(super) fn show(socket: &Path, json: Json) -> Exit {
    ask(socket, &Request::ConfigShow, READ, |response| {
        let Response::Config { revision, digest, text } = response else { return Err(response) };
        if json.json {
            print_json(&json!({ "revision": revision, "digest": digest, "text": text }));
        } else {
            print(text.trim_end());
        }
        Ok(Exit::Fine)
    })
}

pub(super) fn maintenance(socket: &Path, on: bool, json: Json) -> Exit {
    ask(socket, &Request::Maintenance { on }, CHANGE, |response| {
        let Response::Maintenance { on, changed } = response else { return Err(response) };
        let (state, before) =
            (if on { "out of service" } else { "in service" }, if changed { "now" } else { "already" });
        if json.json {
            print_json(&json!({ "maintenance": on, "changed": changed }));
        } else {
            print(format_args!("this node is {before} {state}"));
        }
        Ok(Exit::Fine)
    })
}

pub(super) fn apply(socket: &Path, file: &Path, dry_run: bool, json: Json) -> Exit {
    let text = match config::read_text(file) {
        Ok(text) => text,
        Err(error) => {
            complain(&error);
            return Exit::BadConfig;
        }
    };
    let request = Request::ConfigApply { file: file.display().to_string(), text, dry_run };
    ask(socket, &request, CHANGE, |response| {
        let Response::Applied { revision, digest, changed, dry_run, warnings } = response else { return Err(response) };
        let short = digest.get(..12).unwrap_or(&digest);
        let words = match (changed, dry_run) {
            (false, _) => format!("revision {revision} ({short}) is this file already; nothing to do"),
            (true, true) => format!("would become revision {revision} ({short}), {THIS_NODE_ONLY}"),
            (true, false) => format!("revision {revision} ({short}) runs, {THIS_NODE_ONLY}"),
        };
        if json.json {
            let scope = "this node only";
            print_json(&json!({
                "revision": revision, "digest": digest, "changed": changed, "dry_run": dry_run, "scope": scope,
                "warnings": warnings
            }));
        } else {
            warnings.iter().for_each(warn);
            print(paint::stdout(paint::GREEN, &words));
        }
        Ok(Exit::Fine)
    })
}

/// Calls the agent; `done` takes the response that was hoped for and gives back any other.
pub(super) fn ask(
    socket: &Path,
    request: &Request,
    limit: Duration,
    done: impl FnOnce(Response) -> Result<Exit, Response>,
) -> Exit {
    let response = match call(socket, request, limit) {
        Ok(response) => response,
        Err(error) => return call_failed(&error),
    };
    done(response).unwrap_or_else(refused)
}

/// Says why there is no answer.
pub(super) fn call_failed(error: &CallError) -> Exit {
    complain(error);
    match error {
        CallError::NotRunning { .. } => Exit::NoAgent,
        CallError::NotPermitted { .. } => Exit::NotPermitted,
        CallError::Silent { .. } => Exit::TryAgain,
        CallError::Broken { .. } | CallError::Nonsense { .. } => Exit::Degraded,
    }
}

/// Says why the answer is not the one that was hoped for.
pub(super) fn refused(response: Response) -> Exit {
    match response {
        Response::Invalid { errors } => {
            complain(&ConfigError::Invalid(errors));
            Exit::BadConfig
        }
        Response::NotPermitted { message } => {
            complain_text(message);
            Exit::NotPermitted
        }
        Response::TryAgain { message } => {
            complain_text(format_args!("{message}; try again"));
            Exit::TryAgain
        }
        Response::Failed { message } => {
            complain_text(message);
            Exit::Degraded
        }
        _ => {
            complain_text("the agent answered something else than was asked; is it of another version?");
            Exit::Degraded
        }
    }
}
