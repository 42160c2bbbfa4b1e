//! What a client's bytes see on their way: half-close, slow readers, idle time, resets, drain, apply under load.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod data_support;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use data_support::{PATIENCE, at, client, echo, echoes, listeners, pace, plan, server, start, wait_for};
use nix::sys::resource::{Resource, setrlimit};
use proxy_core::beat::BeatBoard;
use proxy_core::limits::Limits;
use proxy_core::plane::{DataPlane, LogDescriptors};
use socket2::{Domain, SockRef, Socket, Type};

#[test]
fn a_client_that_has_said_all_still_gets_the_whole_answer() {
    let (backend, _) = server(|mut stream| {
        let mut asked = Vec::new();
        stream.read_to_end(&mut asked).unwrap();
        stream.write_all(&vec![7; asked.len() * 1000]).unwrap();
    });
    let (address, sockets) = listeners(1);
    let plane = start(plan(address, vec![at("a", backend)]), 1, sockets);
    let mut stream = client(address);
    stream.write_all(&[1; 500]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer.len(), 500_000);
    wait_for("the session's end", || plane.stats().sessions == 0);
    let stats = plane.stats();
    assert_eq!((stats.frontends[0].bytes_in, stats.frontends[0].bytes_out), (500, 500_000));
    assert_eq!((stats.backends[0].servers[0].total, stats.backends[0].servers[0].sessions), (1, 0));
}

#[test]
fn a_server_that_has_said_all_still_hears_the_client_out() {
    let (heard, hears) = std::sync::mpsc::sync_channel(1);
    let (backend, _) = server(move |mut stream| {
        stream.write_all(b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        heard.send(rest.len()).unwrap();
    });
    let (address, sockets) = listeners(1);
    let _plane = start(plan(address, vec![at("a", backend)]), 1, sockets);
    let mut stream = client(address);
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "bye");
    stream.write_all(&[1; 300_000]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(hears.recv_timeout(PATIENCE).unwrap(), 300_000);
}

#[test]
fn big_transfers_both_ways_at_once_arrive_whole_past_slow_readers() {
    const BYTES: usize = 8 << 20;
    let (backend, _) = server(|mut stream| {
        let mut writer = stream.try_clone().unwrap();
        thread::spawn(move || {
            writer.write_all(&numbered(BYTES)).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        assert_eq!(read_slowly(&mut stream), BYTES);
    });
    let (address, sockets) = listeners(1);
    let plane = start(plan(address, vec![at("a", backend)]), 1, sockets);
    let mut stream = client(address);
    let mut writer = stream.try_clone().unwrap();
    let writing = thread::spawn(move || {
        writer.write_all(&numbered(BYTES)).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    assert_eq!(read_slowly(&mut stream), BYTES);
    writing.join().unwrap();
    wait_for("the session's end", || plane.stats().sessions == 0);
    assert_eq!(plane.stats().frontends[0].bytes_in, BYTES as u64);
}

/// Bytes of which none can be missing, or come before another one, unnoticed.
fn numbered(bytes: usize) -> Vec<u8> {
    (0..bytes / 4).flat_map(|number| u32::try_from(number).unwrap().to_be_bytes()).collect()
}

/// How many of the [`numbered`] bytes came.
fn read_slowly(stream: &mut impl Read) -> usize {
    let mut buffer = vec![0; 64 << 10];
    let mut all = Vec::new();
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => {
                assert!(all == numbered(all.len()), "something is missing, or out of its place");
                return all.len();
            }
            read => all.extend_from_slice(&buffer[..read]),
        }
        // Slower than the writer: what is in flight must be held back, not heaped up.
        pace(Duration::from_millis(1));
    }
}

#[test]
fn a_silent_session_ends_after_the_idle_time_and_a_talking_one_does_not() {
    let (backend, _) = server(echo);
    let (address, sockets) = listeners(1);
    let mut wanted = plan(address, vec![at("a", backend)]);
    wanted.frontends[0].client_timeout = Duration::from_millis(300);
    let _plane = start(wanted, 1, sockets);
    let mut stream = client(address);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(700) {
        assert!(echoes(&mut stream));
        pace(Duration::from_millis(20));
    }
    let silent = Instant::now();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    let lasted = silent.elapsed();
    assert!((Duration::from_millis(200)..Duration::from_secs(3)).contains(&lasted), "{lasted:?}");
}

#[test]
fn a_reset_of_the_server_reaches_the_client_as_a_reset() {
    let (backend, _) = server(|mut stream| {
        stream.read_exact(&mut [0]).unwrap();
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let (address, sockets) = listeners(1);
    let _plane = start(plan(address, vec![at("a", backend)]), 1, sockets);
    let mut stream = client(address);
    stream.write_all(b"x").unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_drain_lets_sessions_finish_and_resets_those_left_at_the_deadline() {
    let (backend, _) = server(echo);
    let (address, sockets) = listeners(2);
    let plane = start(plan(address, vec![at("a", backend)]), 2, sockets);
    let mut streams: Vec<_> = (0..6).map(|_| client(address)).collect();
    assert!(streams.iter_mut().all(echoes));
    plane.drain(Instant::now() + Duration::from_millis(800));
    wait_for("refusals", || TcpStream::connect(address).is_err());
    assert!(streams.iter_mut().all(echoes), "open sessions go on");
    let left = streams.split_off(4);
    drop(streams);
    wait_for("the finished sessions", || plane.stats().sessions == 2);
    wait_for("the deadline", || plane.drained());
    assert_eq!(plane.stats().reset_by_drain, 2);
    for mut stream in left {
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn fifty_applies_under_load_lose_no_connection() {
    let (first, _) = server(echo);
    let (second, _) = server(echo);
    let (address, sockets) = listeners(2);
    let mut plane = start(plan(address, vec![at("a", first)]), 2, sockets);
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut done = 0;
                while !stop.load(SeqCst) {
                    let mut stream = client(address);
                    assert!(echoes(&mut stream) && echoes(&mut stream), "lost after {done}");
                    done += 1;
                }
                done
            })
        })
        .collect();
    for round in 0..50 {
        let mut wanted = plan(address, vec![if round % 2 == 0 { at("b", second) } else { at("a", first) }]);
        wanted.revision = round;
        plane.apply(wanted, Vec::new(), &[], LogDescriptors::new()).unwrap();
        wait_for("the apply", || plane.ready());
        pace(Duration::from_millis(5));
    }
    stop.store(true, SeqCst);
    let done: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(done > 50, "only {done} connections were made");
    assert_eq!((plane.stats().revision, plane.stats().frontends[0].denied), (49, 0));
}

#[test]
fn listeners_come_and_go_with_an_apply() {
    let (backend, _) = server(echo);
    let (old, sockets) = listeners(1);
    let gone = sockets[0].key;
    let mut plane = start(plan(old, vec![at("a", backend)]), 1, sockets);
    let mut kept = client(old);
    assert!(echoes(&mut kept));
    let (new, sockets) = listeners(1);
    plane.apply(plan(new, vec![at("a", backend)]), sockets, &[gone], LogDescriptors::new()).unwrap();
    assert!(echoes(&mut client(new)));
    wait_for("refusals", || TcpStream::connect(old).is_err());
    assert!(echoes(&mut kept));
    assert_eq!(plane.stats().backends[0].servers[0].total, 2, "an unchanged server keeps its counts");
}

#[test]
fn the_probe_is_answered_and_polls_are_seen_on_the_board() {
    let (backend, _) = server(echo);
    let (address, sockets) = listeners(1);
    let board = BeatBoard::create().unwrap();
    let (mut agent, core) = UnixStream::pair().unwrap();
    agent.set_read_timeout(Some(PATIENCE)).unwrap();
    let limits = Limits { nofile: 65_536, sessions: 1 };
    let wanted = plan(address, vec![at("a", backend)]);
    let plane = DataPlane::start(wanted, 1, sockets, vec![core], &board, limits, LogDescriptors::new()).unwrap();
    let mut stream = client(address);
    assert!(echoes(&mut stream));
    let before = board.read(0);
    for _ in 0..100 {
        assert!(echoes(&mut stream));
    }
    wait_for("polls and beats", || board.read(0).polls >= before.polls + 100 && board.read(0).beat > before.beat);
    assert!(board.read(0).tid > 0);
    // The process is full: a second client waits in the kernel's queue, the probe is answered all the same.
    wait_for("the limit", || plane.stats().at_session_limit);
    let mut waiting = client(address);
    waiting.write_all(b"x").unwrap();
    agent.write_all(b"?").unwrap();
    let mut answer = [0];
    agent.read_exact(&mut answer).unwrap();
    assert_eq!((answer, plane.stats().workers[0].accepted), (*b"?", 1));
    drop(stream);
    waiting.read_exact(&mut answer).unwrap();
}

#[test]
fn the_board_says_when_the_first_client_came_to_a_watched_address_but_the_probe_is_no_client() {
    let (backend, _) = server(echo);
    let (address, sockets) = listeners(2);
    let board = BeatBoard::create().unwrap();
    let (mut agent, core) = UnixStream::pair().unwrap();
    agent.set_read_timeout(Some(PATIENCE)).unwrap();
    let limits = Limits { nofile: 65_536, sessions: 10_000 };
    let wanted = plan(address, vec![at("a", backend)]);
    let _plane = DataPlane::start(wanted, 2, sockets, vec![core], &board, limits, LogDescriptors::new()).unwrap();
    assert!(echoes(&mut client(address)));
    let elsewhere = IpAddr::from([127, 0, 0, 2]);
    board.watch_first_client(address.ip());
    board.watch_first_client(elsewhere);
    agent.write_all(b"?").unwrap();
    agent.read_exact(&mut [0]).unwrap();
    assert_eq!(board.first_client(address.ip()), None);
    let before = Instant::now();
    let mut stream = client(address);
    assert!(echoes(&mut stream));
    let first = board.first_client(address.ip()).expect("it was accepted before it was served");
    assert!(before <= first && first <= Instant::now());
    assert!(echoes(&mut client(address)));
    // Read anew it differs by what lies between two looks at the clock.
    let again = board.first_client(address.ip()).unwrap();
    assert!(again.max(first) - again.min(first) < Duration::from_millis(100));
    assert_eq!(board.first_client(elsewhere), None);
}

/// A non-blocking end of a session that offers bytes faster than it reads them.
struct SlowReader {
    stream: TcpStream,
    offered: usize,
    got: usize,
}

impl SlowReader {
    fn new(stream: TcpStream) -> SlowReader {
        stream.set_nonblocking(true).unwrap();
        // So much at once brings the kernel to the limit of its memory for TCP: less of it lies in these sockets.
        SockRef::from(&stream).set_recv_buffer_size(64 << 10).unwrap();
        SockRef::from(&stream).set_send_buffer_size(64 << 10).unwrap();
        SlowReader { stream, offered: 0, got: 0 }
    }

    /// Writes what fits, of `most` in all; reads a little.
    fn turn(&mut self, chunk: &[u8], most: usize) {
        while self.offered < most {
            match self.stream.write(&chunk[..chunk.len().min(most - self.offered)]) {
                Ok(written) => self.offered += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        match self.stream.read(&mut [0; 16 << 10]) {
            Ok(read) => self.got += read,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn memory_stays_flat_however_much_is_offered_to_slow_readers() {
    const SESSIONS: usize = 200;
    const EACH_WAY: usize = 64 << 20;
    const READ_IN_ALL: usize = 256 << 20;
    // Two buffers a session and the idle ones that a worker keeps come to 7 to 10 MiB; other tests run beside this one.
    const GROWTH: usize = 32 << 20;
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, sockets) = listeners(2);
    let mut wanted = plan(address, vec![at("a", listening.local_addr().unwrap())]);
    // At that limit the kernel may let single sessions wait for seconds.
    wanted.frontends[0].client_timeout = 6 * PATIENCE;
    wanted.backends[0].server_timeout = 6 * PATIENCE;
    let plane = start(wanted, 2, sockets);
    let chunk = vec![7; 256 << 10];
    let before = resident_bytes();
    let mut ends = Vec::new();
    for _ in 0..SESSIONS {
        ends.push(SlowReader::new(client(address)));
        ends.push(SlowReader::new(listening.accept().unwrap().0));
    }
    let deadline = Instant::now() + 3 * PATIENCE;
    let mut most = 0;
    while ends.iter().map(|end| end.got).sum::<usize>() < READ_IN_ALL {
        assert!(Instant::now() < deadline, "the transfers stand still");
        ends.iter_mut().for_each(|end| end.turn(&chunk, EACH_WAY));
        most = most.max(resident_bytes());
    }
    assert_eq!(plane.stats().sessions, SESSIONS as u32);
    assert!(most - before < GROWTH, "{} MiB more in memory", (most - before) >> 20);
}

#[test]
fn a_reset_of_the_client_reaches_the_server_as_a_reset() {
    let (heard, hears) = std::sync::mpsc::sync_channel(1);
    let (backend, _) = server(move |mut stream| {
        stream.read_exact(&mut [0]).unwrap();
        heard.send(stream.read(&mut [0]).map_err(|error| error.kind())).unwrap();
    });
    let (address, sockets) = listeners(1);
    let plane = start(plan(address, vec![at("a", backend)]), 1, sockets);
    let mut stream = client(address);
    stream.write_all(b"x").unwrap();
    wait_for("the byte to pass", || plane.stats().frontends[0].bytes_in == 1);
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    assert_eq!(hears.recv_timeout(PATIENCE).unwrap(), Err(ErrorKind::ConnectionReset));
}

#[test]
fn a_reset_is_passed_on_though_the_other_side_reads_nothing() {
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, sockets) = listeners(1);
    let plane = start(plan(address, vec![at("a", listening.local_addr().unwrap())]), 1, sockets);
    for the_client_resets in [true, false] {
        let near = client(address);
        let far = listening.accept().unwrap().0;
        let (resets, blocked) = if the_client_resets { (near, far) } else { (far, near) };
        resets.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        // Until nothing more fits on the way, twice: the kernel grows its buffers meanwhile.
        for _ in 0..2 {
            while (&resets).write(&[0; 64 << 10]).is_ok() {}
        }
        SockRef::from(&resets).set_linger(Some(Duration::ZERO)).unwrap();
        drop(resets);
        wait_for("the session's end", || plane.stats().sessions == 0);
        let end = (&blocked).read_to_end(&mut Vec::new()).map_err(|error| error.kind());
        assert_eq!(end, Err(ErrorKind::ConnectionReset));
    }
}

/// Set for the process that [`accepting_rests_while_no_descriptor_is_left`] starts.
const ALONE: &str = "LBNODE_TEST_ALONE";

#[test]
fn accepting_rests_while_no_descriptor_is_left() {
    // Running out of descriptors is a matter of the whole process: it gets one of its own.
    if std::env::var_os(ALONE).is_none() {
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        alone.args(["--exact", "accepting_rests_while_no_descriptor_is_left", "--nocapture"]).env(ALONE, "1");
        let output = alone.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let (backend, _) = server(echo);
    let (address, sockets) = listeners(1);
    let board = BeatBoard::create().unwrap();
    let limits = Limits { nofile: 65_536, sessions: 10_000 };
    let wanted = plan(address, vec![at("a", backend)]);
    let plane = DataPlane::start(wanted, 1, sockets, Vec::new(), &board, limits, LogDescriptors::new()).unwrap();
    let mut before = client(address);
    assert!(echoes(&mut before));
    let late = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    late.set_read_timeout(Some(PATIENCE)).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 200, 200).unwrap();
    let filling: Vec<_> = std::iter::from_fn(|| late.try_clone().ok()).collect();
    late.connect(&address.into()).unwrap();
    wait_for("accepting to rest", || plane.stats().workers[0].accept_pauses > 0);
    let (pauses, polls, began) = (plane.stats().workers[0].accept_pauses, board.read(0).polls, Instant::now());
    assert!(echoes(&mut before), "a session goes on meanwhile");
    wait_for("more rests", || plane.stats().workers[0].accept_pauses >= pauses + 5);
    let (polls, took) = (board.read(0).polls - polls, began.elapsed());
    assert!(took >= Duration::from_millis(400), "five rests of 100 ms took {took:?}");
    assert!(u128::from(polls) < 50 + took.as_millis() / 10, "a busy loop: {polls} polls in {took:?}");
    drop(filling);
    assert!(echoes(&mut late.into()), "it is served once there is a descriptor");
}
