//! TCP through `lbnode serve`, with its own commands and beside HAProxy.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use tests::haproxy::Haproxy;
use tests::place::Place;
use tests::serve::{Serve, Site};

const PATIENCE: Duration = Duration::from_secs(10);

fn client(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

/// Whether a byte comes back; an error: how it ended instead, `None` for an end without a reset.
fn echoes(client: &mut TcpStream) -> Result<(), Option<ErrorKind>> {
    // Who is rejected may be so before it has said anything; a reset is told once.
    client.write_all(b"x").map_err(|error| Some(error.kind()))?;
    match client.read(&mut [0]) {
        Ok(1) => Ok(()),
        Ok(_) => Err(None),
        Err(error) => Err(Some(error.kind())),
    }
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        let _ = stream.write_all(&buffer[..count]);
    }
}

#[test]
fn a_list_that_is_changed_decides_at_once_whom_tcp_rejects() {
    let place = Place::new("tcp-lists").unwrap();
    let listener = TcpListener::bind(place.at(7001)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || echo(stream));
        }
    });
    let mut site = Site::new(place.at(8001), place.at(7001));
    site.mode = "tcp";
    site.more = "[list.blocked]\nnetworks = [\"192.0.2.0/24\"]\n[list.unwanted]\nnetworks = []\n\
        [[frontend.front.rule]]\nwhen = { source = \"blocked\" }\nreject = \"reset\"\n\
        [[frontend.front.rule]]\nwhen = { source = \"unwanted\" }\nreject = \"close\"\n"
        .into();
    let mut lbnode = Serve::start(&place, &site.toml()).unwrap();
    let command = |lbnode: &Serve, arguments: &[&str]| {
        let answer = lbnode.command(&[&["list"], arguments].concat()).unwrap();
        assert!(answer.status.success(), "{arguments:?}: {answer:?}");
    };
    let come = || echoes(&mut client(site.bind));

    let mut before = client(site.bind);
    assert_eq!(echoes(&mut before), Ok(()));
    command(&lbnode, &["add", "blocked", "10.0.0.0/8"]);
    assert_eq!(come(), Ok(()), "it is somebody else's");
    command(&lbnode, &["add", "blocked", "127.0.0.0/8"]);
    assert_eq!(come(), Err(Some(ErrorKind::ConnectionReset)));
    assert_eq!(echoes(&mut before), Ok(()), "a session that was let in goes on");
    // The file, once more: what was changed by command stays.
    lbnode.apply(&site.toml()).unwrap();
    assert_eq!(come(), Err(Some(ErrorKind::ConnectionReset)));
    command(&lbnode, &["remove", "blocked", "127.0.0.0/8"]);
    assert_eq!(come(), Ok(()));
    command(&lbnode, &["add", "unwanted", "127.0.0.1"]);
    // A client that has said something already is told with a reset that nobody read it.
    let mut silent = client(site.bind);
    assert_eq!(silent.read(&mut [0]).unwrap(), 0, "closed, not reset");
    command(&lbnode, &["remove", "unwanted", "127.0.0.1"]);
    assert_eq!(come(), Ok(()));
}

/// A session as its server has it, among the checks that come too.
fn session_of(listener: &TcpListener) -> TcpStream {
    loop {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        if stream.read(&mut [0]).is_ok_and(|count| count > 0) {
            return stream;
        }
    }
}

#[test]
fn a_session_cut_with_its_server_is_logged_as_haproxy_does() {
    let place = Place::new("tcp-cut").unwrap();
    let syslog = UdpSocket::bind("127.0.0.1:0").unwrap();
    syslog.set_read_timeout(Some(PATIENCE)).unwrap();
    let logs = syslog.local_addr().unwrap();
    let [server, haproxy, bind] = [7001, 8001, 8002].map(|port| place.at(port));
    let sections = format!(
        "  log {logs} local0\ndefaults\n  mode tcp\n  log global\n  option tcplog\n  timeout connect 10s\n  \
        timeout client 60s\n  timeout server 60s\nfrontend front\n  bind {haproxy}\n  default_backend back\n\
        backend back\n  server one {server} check inter 50ms fall 1 on-marked-down shutdown-sessions\n"
    );
    let mut site = Site::new(bind, server);
    site.mode = "tcp";
    site.frontend = format!("log = {{ target = \"syslog:{logs}\" }}");
    site.backend = "on_marked_down = \"shutdown-sessions\"\ncheck = { tcp = {}, interval = \"50ms\", fall = 1 }".into();
    // `SC` and the like of the attempts to see whether they listen come first.
    for theirs in [true, false] {
        let listener = TcpListener::bind(server).unwrap();
        let (_haproxy, _lbnode);
        if theirs {
            _haproxy = Haproxy::start(&place, "haproxy", haproxy, &sections).unwrap();
        } else {
            _lbnode = Serve::start(&place, &site.toml()).unwrap();
        }
        let mut client = client(if theirs { haproxy } else { bind });
        client.write_all(b"x").unwrap();
        let open = session_of(&listener);
        drop(listener);
        let end = client.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(end, if theirs { Ok(0) } else { Err(ErrorKind::ConnectionReset) });
        drop(open);
        let local = client.local_addr().unwrap().to_string();
        let mut bytes = [0; 8192];
        let line = loop {
            let length = syslog.recv(&mut bytes).expect("its line within ten seconds");
            let line = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if line.contains(&local) {
                break line;
            }
        };
        let (_, line) = line.split_once("]: ").unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!((words[2], words[3], words[6]), ("front", "back/one", "D-"), "{line}");
    }
}
