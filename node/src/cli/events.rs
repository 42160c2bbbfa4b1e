//! `lbnode events`: what happened, from the agent, or from its files while it does not run.

use std::collections::VecDeque;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::remote::{READ, call_failed, refused};
use super::{Exit, Json, complain, complain_text};
use crate::causes::chain;
use crate::config::{self, ControlConfig, NodeConfig};
use crate::control::{CallError, Request, Response, stream};
use crate::events::{self, Event, Mark};

/// Where a node file lies unless somebody says otherwise.
const NODE_FILE: &str = "/etc/lbnode/node.toml";
/// How much of the past is shown before following.
const BEFORE_FOLLOWING: usize = 10;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Go on with each event as it happens
    #[arg(short, long)]
    follow: bool,
    /// Only those of this VIP
    #[arg(long, value_name = "VIP")]
    vip: Option<String>,
    /// Only the last N of those so far; without it all, and with --follow 10
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    /// The node file, which says where the events lie while no agent runs
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    json: Json,
}

/// `socket` as the command line has it; the node file's own counts if one is named and no socket is.
pub(super) fn events(socket: &Path, options: &Options) -> Exit {
    let default_socket = socket == Path::new(ControlConfig::SOCKET);
    let node = match options.config.as_deref().map(config::load_node).transpose() {
        Ok(node) => node,
        Err(error) => {
            complain(&error);
            return Exit::BadConfig;
        }
    };
    let socket = match &node {
        Some(node) if default_socket => node.control.socket.clone(),
        _ => socket.to_owned(),
    };
    let mut page = Page::new(options);
    let request = Request::Events { after: None, follow: options.follow };
    match stream(&socket, &request, READ, |response| page.take(response)) {
        Ok(()) => page.refusal.map_or(Exit::Fine, refused),
        Err(error @ CallError::NotRunning { .. }) => {
            // A socket that was named is some other agent's: the machine's own files say nothing of it.
            let own = || config::load_node(Path::new(NODE_FILE)).ok().filter(|_| default_socket);
            match node.or_else(own) {
                Some(node) => from_files(page, &node, &error),
                None => call_failed(&error),
            }
        }
        Err(error) => call_failed(&error),
    }
}

/// What the agent left behind.
fn from_files(mut page: Page<'_>, node: &NodeConfig, not_running: &CallError) -> Exit {
    let folder = events::folder(&node.state_dir);
    let read = match events::read(&node.state_dir) {
        Ok(read) => read,
        Err(error) => {
            complain(not_running);
            complain(&error);
            return if error.not_permitted() { Exit::NotPermitted } else { Exit::NoAgent };
        }
    };
    complain_text(format_args!("no agent answers: these are the events that it left in {}", folder.display()));
    let lost = read.unreadable + usize::from(read.torn);
    if lost > 0 {
        complain_text(format_args!("{}: lines that are no events: {lost}", folder.display()));
    }
    read.events.into_iter().for_each(|event| page.keep(event));
    page.show_past();
    if page.options.follow {
        complain_text(format_args!("there is nothing to follow: {}", chain(not_running)));
        return Exit::NoAgent;
    }
    Exit::Fine
}

/// What is shown, as it comes in.
struct Page<'a> {
    options: &'a Options,
    /// What is kept until the past is complete.
    past: VecDeque<Event>,
    live: bool,
    refusal: Option<Response>,
}

impl Page<'_> {
    fn new(options: &Options) -> Page<'_> {
        Page { options, past: VecDeque::new(), live: false, refusal: None }
    }

    /// Whether to go on.
    fn take(&mut self, response: Response) -> bool {
        match response {
            Response::Event { event } if self.live => !self.wanted(&event) || self.show(&event),
            Response::Event { event } => {
                self.keep(*event);
                true
            }
            Response::EventsEnd { unwritten } => {
                if unwritten > 0 {
                    complain_text(format_args!("the disk did not take everything: events in memory only: {unwritten}"));
                }
                self.live = true;
                self.show_past() && self.options.follow
            }
            Response::EventsMissed { count } => {
                complain_text(format_args!("events that came too fast and are left out here: {count}"));
                true
            }
            other => {
                self.refusal = Some(other);
                false
            }
        }
    }

    fn wanted(&self, event: &Event) -> bool {
        self.options.vip.is_none() || event.vip == self.options.vip
    }

    fn keep(&mut self, event: Event) {
        if self.wanted(&event) {
            self.past.push_back(event);
        }
        let most = self.options.last.or(self.options.follow.then_some(BEFORE_FOLLOWING));
        while most.is_some_and(|most| self.past.len() > most) {
            self.past.pop_front();
        }
    }

    fn show_past(&mut self) -> bool {
        let past = std::mem::take(&mut self.past);
        past.iter().all(|event| self.show(event))
    }

    /// Whether somebody still reads.
    fn show(&self, event: &Event) -> bool {
        let text = match self.options.json.json {
            true => serde_json::to_string(event).expect("an event is plain data"),
            false => lines(event),
        };
        writeln!(std::io::stdout(), "{text}").is_ok()
    }
}

/// An event for people: one line, and one more for the reason and for the timeline if there is one.
fn lines(event: &Event) -> String {
    let vip = event.vip.as_deref().unwrap_or("-");
    let term = event.term.map_or(String::new(), |term| format!(" (term {term})"));
    let mut text = format!("{}  {}  {vip:<8}  {:<11}  {}{term}", event.at, event.node, event.kind, event.text);
    if !event.why.is_empty() {
        text += &format!("\n    why: {}", event.why);
    }
    if !event.timeline.is_empty() {
        text += &format!("\n    {}", steps(event));
    }
    // What a peer or a server said must not steer the terminal.
    text.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect()
}

/// `detected 0.0 · resigned 0.3 (lb-a) · added 1.2 (lb-b) ms`: a node is named where it is another one than before.
fn steps(event: &Event) -> String {
    let mut node = &event.node;
    let step = |mark: &Mark| format!("{} {:.1}", mark.what, mark.ms);
    let mut steps = Vec::new();
    for mark in &event.timeline {
        let other = std::mem::replace(&mut node, &mark.node) != &mark.node;
        steps.push(if other { format!("{} ({})", step(mark), mark.node) } else { step(mark) });
    }
    steps.join(" · ") + " ms"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Kind, What};

    fn mark(what: What, node: &str, ms: f64) -> Mark {
        Mark { what, node: node.into(), ms }
    }

    fn event() -> Event {
        Event {
            id: 7,
            at: "2026-11-21T10:04:13.125Z".into(),
            node: "lb-b".into(),
            vip: Some("mail".into()),
            kind: Kind::Failover,
            text: "lb-b took over from lb-a".into(),
            why: "the proxy core of lb-a ended: signal 9".into(),
            term: Some(12),
            timeline: vec![
                mark(What::Detected, "lb-b", 0.0),
                mark(What::Resigned, "lb-a", 0.304),
                mark(What::Added, "lb-b", 1.2),
                mark(What::Announced, "lb-b", 1.32),
                mark(What::FirstConnection, "lb-b", 2.9),
            ],
        }
    }

    #[test]
    fn an_event_reads_as_what_why_and_a_timeline() {
        let expected = "\
2026-11-21T10:04:13.125Z  lb-b  mail      failover     lb-b took over from lb-a (term 12)
    why: the proxy core of lb-a ended: signal 9
    detected 0.0 · resigned 0.3 (lb-a) · added 1.2 (lb-b) · announced 1.3 · first connection 2.9 ms";
        assert_eq!(lines(&event()), expected);
    }

    #[test]
    fn an_event_without_more_is_one_line() {
        let event = Event {
            vip: None,
            kind: Kind::Core,
            text: "the proxy core is ready".into(),
            why: String::new(),
            term: None,
            timeline: vec![],
            ..event()
        };
        assert_eq!(lines(&event), "2026-11-21T10:04:13.125Z  lb-b  -         core         the proxy core is ready");
    }

    #[test]
    fn nothing_that_was_said_steers_the_terminal() {
        let shown = lines(&Event { text: "\x1b[2J\r\u{9b}31m".into(), ..event() });
        assert!(shown.lines().next().is_some_and(|line| line.contains("?[2J??31m")), "{shown}");
    }
}
