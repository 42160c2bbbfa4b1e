//! A line as one JSON object. The keys are listed in docs/logging.md; what was not reached is `null`.

use std::time::Duration;

use super::clock::Clock;
use super::record::{HttpRecord, TcpRecord, Way};
use super::text;

/// A request.
pub(super) fn http(out: &mut Vec<u8>, record: &HttpRecord<'_>, clock: &mut Clock) {
    let HttpRecord { way, timers, status, request } = record;
    begin(out, b"http", way, clock);
    let mut words = request.map(super::request_line).into_iter().flat_map(|line| line.splitn(3, |&b| b == b' '));
    for key in ["method", "target", "version"] {
        string(out, key, words.next());
    }
    unsigned(out, "status", status.map(u64::from));
    time(out, "request_ms", timers.request);
    time(out, "queue_ms", timers.queue);
    time(out, "connect_ms", timers.connect);
    time(out, "response_ms", timers.response);
    time(out, "total_ms", Some(timers.active));
    end(out, way);
}

/// A session.
pub(super) fn tcp(out: &mut Vec<u8>, record: &TcpRecord<'_>, clock: &mut Clock) {
    let TcpRecord { way, timers } = record;
    begin(out, b"tcp", way, clock);
    time(out, "queue_ms", timers.queue);
    time(out, "connect_ms", timers.connect);
    time(out, "total_ms", Some(timers.total));
    end(out, way);
}

fn begin(out: &mut Vec<u8>, kind: &[u8], way: &Way<'_>, clock: &mut Clock) {
    out.extend_from_slice(b"{\"time\":\"");
    clock.json(out, way.date);
    out.push(b'"');
    string(out, "kind", Some(kind));
    key(out, "client");
    out.push(b'"');
    text::ip(out, way.client.ip());
    out.push(b'"');
    unsigned(out, "client_port", Some(way.client.port().into()));
    string(out, "frontend", Some(way.frontend.as_bytes()));
    boolean(out, "tls", way.tls);
    string(out, "backend", way.backend.map(str::as_bytes));
    string(out, "server", way.server.map(str::as_bytes));
}

fn end(out: &mut Vec<u8>, way: &Way<'_>) {
    let load = &way.load;
    unsigned(out, "bytes", Some(way.bytes));
    string(out, "termination", Some(&way.end.letters()));
    unsigned(out, "process_sessions", Some(load.process.into()));
    unsigned(out, "frontend_sessions", Some(load.frontend.into()));
    unsigned(out, "backend_sessions", Some(load.backend.into()));
    unsigned(out, "server_sessions", Some(load.server.into()));
    unsigned(out, "retries", Some(load.retries.into()));
    boolean(out, "redispatched", load.redispatched);
    unsigned(out, "server_queue", Some(load.server_queue.into()));
    unsigned(out, "backend_queue", Some(load.backend_queue.into()));
    string(out, "why", way.why.map(str::as_bytes));
    string(out, "unique_id", way.unique_id);
    out.push(b'}');
}

fn key(out: &mut Vec<u8>, key: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

fn string(out: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    key(out, name);
    match value {
        Some(value) => {
            out.push(b'"');
            text::json(out, value);
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
}

fn unsigned(out: &mut Vec<u8>, name: &str, value: Option<u64>) {
    key(out, name);
    match value {
        Some(value) => text::number(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

fn time(out: &mut Vec<u8>, name: &str, value: Option<Duration>) {
    unsigned(out, name, value.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)));
}

fn boolean(out: &mut Vec<u8>, name: &str, value: bool) {
    key(out, name);
    out.extend_from_slice(if value { b"true" } else { b"false" });
}
