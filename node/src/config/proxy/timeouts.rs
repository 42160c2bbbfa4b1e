//! The timeouts: of `[defaults]`, of frontends and of backends. The nearest setting wins.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::reader::{Section, Value};

/// What a timeout may be: more than nothing, and no longer than a connection can sensibly wait.
pub(super) const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(30 * 86_400);

/// What is set in one place; `None`: not said there.
#[derive(Clone, Copy, Default)]
pub(super) struct Timeouts {
    pub(super) connect: Option<Duration>,
    pub(super) client: Option<Duration>,
    pub(super) server: Option<Duration>,
    pub(super) request: Option<Duration>,
    pub(super) keep_alive: Option<Duration>,
    pub(super) queue: Option<Duration>,
    pub(super) tunnel: Option<Duration>,
    pub(super) check: Option<Duration>,
}

impl Timeouts {
    /// All there are.
    pub(super) const ALL: [&str; 8] =
        ["connect", "client", "server", "request", "keep_alive", "queue", "tunnel", "check"];
    /// Those that mean something in HTTP only.
    pub(super) const HTTP: [&str; 2] = ["request", "keep_alive"];

    /// Reads those that mean something here. HTTP's are told from unknown ones where there is no HTTP.
    pub(super) fn read(section: &Section<'_>, here: &[&'static str], http: bool) -> Timeouts {
        let read = section.optional("timeouts", |value| {
            let table = value.section()?;
            let mut read = Timeouts::default();
            for key in here {
                if !http && Timeouts::HTTP.contains(key) {
                    table.refuse(&[key], super::NEEDS_HTTP);
                } else {
                    *read.slot(key) = table.optional(key, |value| value.duration(TIMEOUT));
                }
            }
            table.finish();
            Some(read)
        });
        read.unwrap_or_default()
    }

    fn slot(&mut self, key: &str) -> &mut Option<Duration> {
        match key {
            "connect" => &mut self.connect,
            "client" => &mut self.client,
            "server" => &mut self.server,
            "request" => &mut self.request,
            "keep_alive" => &mut self.keep_alive,
            "queue" => &mut self.queue,
            "tunnel" => &mut self.tunnel,
            _ => &mut self.check,
        }
    }

    /// These, and where they say nothing the general ones.
    pub(super) fn or(self, general: Timeouts) -> Timeouts {
        Timeouts {
            connect: self.connect.or(general.connect),
            client: self.client.or(general.client),
            server: self.server.or(general.server),
            request: self.request.or(general.request),
            keep_alive: self.keep_alive.or(general.keep_alive),
            queue: self.queue.or(general.queue),
            tunnel: self.tunnel.or(general.tunnel),
            check: self.check.or(general.check),
        }
    }
}

/// The value of `[defaults] handoff_timeout`: a length of time, or `"never"`, which is the inner `None`.
pub(super) fn handoff(value: Value<'_>) -> Option<Option<Duration>> {
    const RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 86_400);
    if !value.is_string() {
        value.report("`handoff_timeout` is a length of time such as \"10m\", or \"never\"");
        return None;
    }
    let text = value.clone().string()?;
    match text.as_str() {
        "never" => Some(None),
        word if word.starts_with(char::is_alphabetic) => {
            value.report(format!("`{word}` is no length of time such as \"10m\", and not \"never\""));
            None
        }
        _ => value.duration(RANGE).map(Some),
    }
}
