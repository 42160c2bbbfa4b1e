//! The control socket: who may connect, who may change, and what becomes of bad callers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use node::control::{BindError, CallError, MAX_LINE, QUEUE, Request, Response, Server, call};
use tokio::sync::mpsc;

const LIMIT: Duration = Duration::from_secs(10);

/// A server whose agent says of every request who sent it; gone when dropped.
struct Fixture {
    folder: PathBuf,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Fixture {
    fn new(name: &str, group: &str) -> Fixture {
        let folder = std::env::temp_dir().join(format!("lbnode-control-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server = runtime.block_on(async { Server::bind(&folder.join("control.sock"), group) }).unwrap();
        let (calls, mut received) = mpsc::channel(QUEUE);
        runtime.spawn(server.run(calls));
        runtime.spawn(async move {
            while let Some(call) = received.recv().await {
                let message = format!("{} by {}", call.request.name(), call.uid);
                let _caller_left = call.reply.send(Response::Failed { message });
            }
        });
        Fixture { folder, runtime: Some(runtime) }
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(LIMIT);
        }
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}

fn uid() -> u32 {
    std::fs::metadata("/proc/self").unwrap().uid()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn the_agents_own_user_reads_and_changes() {
    let fixture = Fixture::new("own", "no-such-group-here");
    for (request, name) in [(Request::Status, "status"), (Request::Maintenance { on: true }, "maintenance")] {
        let answer = call(&fixture.socket(), &request, LIMIT).unwrap();
        assert_eq!(answer, Response::Failed { message: format!("{name} by {}", uid()) });
    }
}

#[test]
fn without_the_group_the_socket_is_its_owners_alone() {
    assert_eq!(mode(&Fixture::new("alone", "no-such-group-here").socket()), 0o600);
}

#[test]
fn with_the_group_its_members_may_connect() {
    if uid() != 0 {
        return eprintln!("skipped: only root gives a file to any group");
    }
    let fixture = Fixture::new("group", "daemon");
    assert_eq!(mode(&fixture.socket()), 0o660);
    assert_eq!(std::fs::metadata(fixture.socket()).unwrap().gid(), 1, "group daemon");
}

/// A member of the group, as another user: `setpriv` becomes it and asks by a one-line program of the shell's.
#[test]
fn a_reader_may_not_change_and_is_told_what_is_needed() {
    if uid() != 0 {
        return eprintln!("skipped: only root becomes another user");
    }
    let fixture = Fixture::new("reader", "daemon");
    let socket = fixture.socket();
    let ask = |gid: u32, request: &str| {
        let program = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
                       s.sendall(sys.argv[2].encode()+b'\\n')\nprint(s.makefile().readline())";
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", &format!("--regid={gid}"), "--clear-groups", "python3", "-c", program]);
        let output = command.arg(&socket).arg(request).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (answer, errors) = ask(1, r#"{"request":"status"}"#);
    assert!(answer.contains("status by 65534"), "{answer}{errors}");
    let (answer, errors) = ask(1, r#"{"request":"maintenance","on":true}"#);
    assert!(answer.contains("not_permitted") && answer.contains("uid 65534") && answer.contains("root"), "{answer}{errors}");
    let (answer, errors) = ask(65534, r#"{"request":"status"}"#);
    assert!(answer.is_empty() && errors.contains("PermissionError"), "{answer}{errors}");
}

#[test]
fn a_dead_agents_socket_is_replaced_and_a_living_ones_is_not() {
    let fixture = Fixture::new("stale", "no-such-group-here");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    assert!(matches!(Server::bind(&fixture.socket(), "x"), Err(BindError::InUse(_))));
    let dead = fixture.folder.join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    assert!(std::fs::symlink_metadata(&dead).unwrap().file_type().is_socket());
    drop(Server::bind(&dead, "x").unwrap());
    assert!(!dead.exists(), "a server takes its socket along");
    let file = fixture.folder.join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(Server::bind(&file, "x"), Err(BindError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn nonsense_is_answered_and_ends_the_conversation() {
    let fixture = Fixture::new("nonsense", "no-such-group-here");
    let mut stream = UnixStream::connect(fixture.socket()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(b"{\"request\":\"reboot\"}\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("this is no request"), "{answer}");
}

#[test]
fn a_request_of_more_than_16_mib_is_refused() {
    let fixture = Fixture::new("long", "no-such-group-here");
    let mut stream = UnixStream::connect(fixture.socket()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    let sent = stream.write_all(&vec![b'x'; MAX_LINE + 1]).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    assert!(sent.is_ok() && answer.contains("at most 16 MiB"), "{sent:?} {answer}");
}

#[test]
fn one_connection_carries_many_requests() {
    let fixture = Fixture::new("many", "no-such-group-here");
    let mut stream = UnixStream::connect(fixture.socket()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    for _ in 0..3 {
        stream.write_all(b"{\"request\":\"status\"}\n").unwrap();
        let mut answer = String::new();
        reader.read_line(&mut answer).unwrap();
        assert!(answer.contains("status by"), "{answer}");
    }
}

#[test]
fn nobody_at_the_socket_is_an_error_that_names_it() {
    let error = call(Path::new("/nonexistent/control.sock"), &Request::Status, LIMIT).unwrap_err();
    assert!(matches!(error, CallError::NotRunning { .. }));
    assert!(error.to_string().contains("/nonexistent/control.sock"), "{error}");
}
