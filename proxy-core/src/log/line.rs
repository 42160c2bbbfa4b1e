//! HAProxy's `httplog` and `tcplog` lines, byte for byte (its configuration manual, sections 8.2.2 and 8.2.3).

use std::time::Duration;

use super::clock::Clock;
use super::record::{HttpRecord, Load, TcpRecord, Way};
use super::text::{ip, milliseconds, number, quotable};

/// `%ci:%cp [%tr] %ft %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %CC %CS %tsc %ac/%fc/%bc/%sc/%rc %sq/%bq %{+Q}r`: nothing is
/// captured, so that cookies are `-` and header blocks are not there.
pub(super) fn http(out: &mut Vec<u8>, record: &HttpRecord<'_>, clock: &mut Clock) {
    let HttpRecord { way, timers, status, request } = record;
    begin(out, way, clock);
    for time in [timers.request, timers.queue, timers.connect, timers.response] {
        timer(out, time);
        out.push(b'/');
    }
    milliseconds(out, timers.active);
    out.push(b' ');
    match *status {
        Some(status) => number(out, status.into()),
        None => out.extend_from_slice(b"-1"),
    }
    out.push(b' ');
    number(out, way.bytes);
    out.extend_from_slice(b" - - ");
    out.extend_from_slice(&way.end.letters());
    // No cookie is looked at.
    out.extend_from_slice(b"-- ");
    load(out, &way.load);
    out.extend_from_slice(b" \"");
    match *request {
        Some(line) => quotable(out, super::request_line(line)),
        None => out.extend_from_slice(b"<BADREQ>"),
    }
    out.push(b'"');
}

/// `%ci:%cp [%t] %ft %b/%s %Tw/%Tc/%Tt %B %ts %ac/%fc/%bc/%sc/%rc %sq/%bq`
pub(super) fn tcp(out: &mut Vec<u8>, record: &TcpRecord<'_>, clock: &mut Clock) {
    let TcpRecord { way, timers } = record;
    begin(out, way, clock);
    for time in [timers.queue, timers.connect] {
        timer(out, time);
        out.push(b'/');
    }
    milliseconds(out, timers.total);
    out.push(b' ');
    number(out, way.bytes);
    out.push(b' ');
    out.extend_from_slice(&way.end.letters());
    out.push(b' ');
    load(out, &way.load);
}

/// Who came when, and through what: frontend, backend, server.
fn begin(out: &mut Vec<u8>, way: &Way<'_>, clock: &mut Clock) {
    ip(out, way.client.ip());
    out.push(b':');
    number(out, way.client.port().into());
    out.extend_from_slice(b" [");
    clock.haproxy(out, way.date);
    out.extend_from_slice(b"] ");
    out.extend_from_slice(way.frontend.as_bytes());
    out.extend_from_slice(if way.tls { b"~ " } else { b" " });
    out.extend_from_slice(way.backend.unwrap_or(way.frontend).as_bytes());
    out.push(b'/');
    out.extend_from_slice(way.server.unwrap_or("<NOSRV>").as_bytes());
    out.push(b' ');
}

fn timer(out: &mut Vec<u8>, time: Option<Duration>) {
    match time {
        Some(time) => milliseconds(out, time),
        None => out.extend_from_slice(b"-1"),
    }
}

fn load(out: &mut Vec<u8>, load: &Load) {
    for count in [load.process, load.frontend, load.backend, load.server] {
        number(out, count.into());
        out.push(b'/');
    }
    if load.redispatched {
        out.push(b'+');
    }
    number(out, load.retries.into());
    out.push(b' ');
    number(out, load.server_queue.into());
    out.push(b'/');
    number(out, load.backend_queue.into());
}
