//! How long silence may last: by the timeouts of the two sides or of the tunnel, and by nothing else that has a time limit.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod data_support;

use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use data_support::http::{NEVER, Peer, http, scripted, web};
use data_support::{Plane, at, client, echo, echoes, listeners, pace, plan, server, start, wait_for};
use proxy_core::plan::{Check, Plan};

const SHORT: Duration = Duration::from_millis(150);
const LONG: Duration = Duration::from_millis(1600);

/// Everything that isn't about silence has a limit far below it, and its checks come and go all the time.
fn hurried(plan: &mut Plan) {
    let backend = &mut plan.backends[0];
    (backend.connect_timeout, backend.queue_timeout) = (SHORT, SHORT);
    backend.check = Some(Check { interval: Duration::from_millis(20), timeout: SHORT, ..Check::default() });
}

/// Sessions to an echo that may be silent for so long: `(client, server, tunnel)`.
fn sessions(limits: (Duration, Duration, Option<Duration>)) -> (SocketAddr, Plane) {
    let (echoing, _) = server(echo);
    let (address, sockets) = listeners(1);
    let mut wanted = plan(address, vec![at("a", echoing)]);
    hurried(&mut wanted);
    wanted.frontends[0].client_timeout = limits.0;
    (wanted.backends[0].server_timeout, wanted.backends[0].tunnel_timeout) = (limits.1, limits.2);
    (address, start(wanted, 1, sockets))
}

/// How long it lasts until the other side ends it, properly.
fn lasts(stream: &mut TcpStream) -> Duration {
    let began = Instant::now();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    began.elapsed()
}

#[test]
fn a_silent_session_lives_by_the_shorter_side_or_by_the_tunnel_alone() {
    let all = [(LONG, NEVER, None), (NEVER, LONG, None), (SHORT, SHORT, Some(LONG)), (NEVER, NEVER, Some(LONG))];
    let lives = |limits| {
        let (address, plane) = sessions(limits);
        let mut streams = [client(address), client(address)];
        assert!(streams.iter_mut().all(echoes));
        // Silent for much longer than everything else may take, twice: bytes begin the time anew.
        pace(LONG * 3 / 4);
        assert!(echoes(&mut streams[0]), "{limits:?}");
        pace(LONG * 3 / 4);
        assert!(echoes(&mut streams[0]), "{limits:?}");
        assert_eq!(streams[1].read(&mut [0]).unwrap(), 0, "{limits:?}: it was silent all the time");
        let lasted = lasts(&mut streams[0]);
        assert!(lasted + Duration::from_millis(50) >= LONG, "{limits:?}: it lasted {lasted:?}");
        wait_for("the sessions' end", || plane.stats().sessions == 0);
    };
    thread::scope(|scope| all.map(|limits| scope.spawn(move || lives(limits))).map(|one| one.join().unwrap()));
}

#[test]
fn a_session_of_which_one_direction_has_ended_lives_as_long_and_ends_at_last() {
    // The server says nothing, and never ends.
    let held = Mutex::new(Vec::new());
    let (silent, _) = server(move |stream| held.lock().unwrap().push(stream));
    let (address, sockets) = listeners(1);
    let mut wanted = plan(address, vec![at("a", silent)]);
    hurried(&mut wanted);
    wanted.backends[0].check = None;
    wanted.frontends[0].client_timeout = LONG;
    let plane = start(wanted, 1, sockets);
    let mut stream = client(address);
    stream.shutdown(Shutdown::Write).unwrap();
    let lasted = lasts(&mut stream);
    assert!(lasted + Duration::from_millis(50) >= LONG, "it lasted {lasted:?}");
    wait_for("the session's end", || plane.stats().sessions == 0);
}

#[test]
fn an_upgraded_connection_outlives_every_timeout_of_requests_in_silence() {
    let (chat, _) = scripted(|peer| {
        if peer.head().is_ok_and(|head| head.is_some()) {
            peer.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
            let mut byte = [0];
            while let Ok(1..) = peer.some(&mut byte) {
                peer.say(byte);
            }
        }
    });
    let (address, sockets) = listeners(1);
    let mut wanted = web(address, vec![at("a", chat)]);
    hurried(&mut wanted);
    (http(&mut wanted).request_timeout, http(&mut wanted).keep_alive_timeout) = (SHORT, SHORT);
    wanted.frontends[0].client_timeout = SHORT;
    (wanted.backends[0].server_timeout, wanted.backends[0].tunnel_timeout) = (SHORT, Some(LONG));
    let _plane = start(wanted, 1, sockets);
    let mut client = Peer::to(address);
    client.say("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(client.answer().unwrap().status(), 101);
    for _ in 0..2 {
        pace(LONG * 3 / 4);
        assert_eq!(client.say("x").exactly(1).unwrap(), b"x");
    }
    let began = Instant::now();
    assert_eq!(client.end(), Ok(()));
    assert!(began.elapsed() + Duration::from_millis(50) >= LONG);
}
