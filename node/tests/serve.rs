//! `lbnode serve` as a process: what it serves, what signals make of it, and how it ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proxy_core::process::ORPHAN_SERVES;

/// For anything that should be quick; generous, because two cores may be shared by many tests.
const SOON: Duration = Duration::from_secs(20);

/// A folder with a cluster file, removed at the end.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("lbnode-serve-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("cluster.toml")
    }

    fn socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    /// A file that binds these and sends everybody to the server.
    fn write(&self, binds: &[SocketAddr], server: SocketAddr) {
        let binds: Vec<String> = binds.iter().map(|bind| format!("\"{bind}\"")).collect();
        let text = format!(
            "[pair]\nname = \"test\"\n\n[frontend.front]\nmode = \"tcp\"\nbind = [{}]\ndefault_backend = \"back\"\n\n\
             [backend.back]\nmode = \"tcp\"\nservers = [{{ name = \"echo\", address = \"{server}\" }}]\n",
            binds.join(", ")
        );
        std::fs::write(self.file(), text).unwrap();
    }

    /// `lbnode serve` of the file; returns once it is ready.
    fn serve(&self) -> Serve {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lbnode"));
        command.arg("serve").arg(self.file()).args(["--threads", "2", "--control"]).arg(self.socket());
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        // When it is full nobody reads any more, and nothing of it is missed.
        let (said, lines) = sync_channel(1024);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = said.try_send(line);
            }
        });
        let mut serve = Serve { child, lines, socket: self.socket() };
        serve.says("ready: listening on ");
        serve
    }

    /// `lbnode serve` of a file that it does not serve.
    fn refused(&self, arguments: &[&str]) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lbnode"));
        let Output { status, stderr, .. } =
            command.arg("serve").arg(self.file()).args(arguments).stdin(Stdio::null()).output().unwrap();
        (status.code().expect("it ended by itself"), String::from_utf8(stderr).unwrap())
    }
}

/// One that runs; killed at the end.
struct Serve {
    child: Child,
    lines: Receiver<String>,
    socket: PathBuf,
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Serve {
    /// Waits for a line that begins so; gives back what came before it and itself.
    fn says(&mut self, beginning: &str) -> Vec<String> {
        let deadline = Instant::now() + SOON;
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let found = line.starts_with(beginning);
                    seen.push(line);
                    if found {
                        return seen;
                    }
                }
                Err(_) => panic!("it never said `{beginning}`, but: {seen:#?}"),
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    fn ends(&mut self) -> ExitStatus {
        let ended = || self.child.try_wait().unwrap().ok_or_else(|| "it still runs".to_owned());
        netns_lab::wait::wait_until("its end", SOON, ended).unwrap()
    }

    /// Runs `lbnode --control … ARGUMENTS`.
    fn ask(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lbnode"));
        let Output { status, stdout, stderr } =
            command.arg("--control").arg(&self.socket).args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (status.code().expect("it ended by itself"), text(stdout), text(stderr))
    }

    /// The process of its proxy core, once that is ready.
    fn core(&self) -> u32 {
        wait_until("a core is ready", || self.ask(&["status"]).0 == 0);
        let (_, out, _) = self.ask(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&out).unwrap();
        status["nodes"][0]["proxy"]["pid"].as_u64().unwrap().try_into().unwrap()
    }
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Gives back what it gets, for as long as the test process lives.
fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || io::copy(&mut &stream, &mut &stream));
        }
    });
    address
}

/// A connection that carried a word there and back.
fn session(address: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    echo(&mut stream)?;
    Ok(stream)
}

fn echo(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"word")?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"word");
    Ok(())
}

/// The status of the answer to one more request on this connection.
fn get(stream: &mut TcpStream) -> io::Result<u16> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        if line.trim_end().is_empty() {
            break;
        }
    }
    reader.read_exact(&mut vec![0; length])?;
    Ok(status)
}

fn is_refused(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    netns_lab::wait::wait_until(what, SOON, || condition().then_some(()).ok_or_else(String::new)).unwrap();
}

fn one_bind(name: &str) -> (Folder, SocketAddr) {
    let (folder, bind) = (Folder::new(name), free());
    folder.write(&[bind], echo_server());
    (folder, bind)
}

#[test]
fn a_file_is_served_by_a_core_without_rights() {
    let (folder, bind) = one_bind("serves");
    let serve = folder.serve();
    session(bind).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", serve.core())).unwrap();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    assert_eq!(field("CapEff:").trim_start_matches('0'), "", "{status}");
    if nix::unistd::geteuid().is_root() {
        assert_eq!(field("Uid:").split_whitespace().next(), Some("65534"), "{status}");
    }
}

#[test]
fn a_hangup_adds_and_removes_binds_under_load_and_nobody_is_refused() {
    let (folder, first) = one_bind("hangup");
    let (second, server) = (free(), echo_server());
    let mut serve = folder.serve();
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            std::thread::spawn(move || {
                while !stop.load(SeqCst) {
                    session(first)?;
                    done.fetch_add(1, SeqCst);
                }
                Ok::<(), io::Error>(())
            })
        })
        .collect();
    for round in 0..10 {
        let before = done.load(SeqCst);
        let binds: &[SocketAddr] = if round % 2 == 0 { &[first, second] } else { &[first] };
        folder.write(binds, server);
        serve.signal(Signal::SIGHUP);
        serve.says(&format!("applied: revision {}", round + 2));
        if round % 2 == 0 {
            session(second).unwrap();
        } else {
            wait_until("the removed bind refuses", || is_refused(second));
        }
        wait_until("clients go on", || done.load(SeqCst) > before + 20);
    }
    stop.store(true, SeqCst);
    for client in clients {
        client.join().unwrap().expect("a client was refused or cut");
    }
}

#[test]
fn a_file_with_mistakes_is_told_with_its_places_and_changes_nothing() {
    let (folder, bind) = one_bind("mistakes");
    let mut serve = folder.serve();
    let mut open = session(bind).unwrap();
    let good = std::fs::read_to_string(folder.file()).unwrap();
    std::fs::write(folder.file(), format!("{good}colour = \"red\"\n")).unwrap();
    serve.signal(Signal::SIGHUP);
    let said = serve.says("not applied: revision 1 goes on").join("\n");
    assert!(said.contains("cluster.toml:12:1: unknown key `colour`"), "{said}");
    echo(&mut open).unwrap();
    session(bind).unwrap();
    // It is not stuck with it.
    std::fs::write(folder.file(), good).unwrap();
    serve.signal(Signal::SIGHUP);
    serve.says("applied: revision 2");
}

#[test]
fn an_address_in_use_is_told_with_its_user_and_the_plan_before_goes_on() {
    let (folder, bind) = one_bind("taken");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut serve = folder.serve();
    folder.write(&[bind, taken.local_addr().unwrap()], echo_server());
    serve.signal(Signal::SIGHUP);
    let said = serve.says("not applied: revision 1 goes on").join("\n");
    assert!(said.contains(&format!("pid {}", std::process::id())), "{said}");
    session(bind).unwrap();
}

#[test]
fn told_to_end_it_refuses_new_clients_and_waits_for_those_it_has() {
    let (folder, bind) = one_bind("drains");
    let mut serve = folder.serve();
    let mut open = session(bind).unwrap();
    serve.signal(Signal::SIGTERM);
    serve.says("stopping: ");
    wait_until("new clients are refused", || is_refused(bind));
    echo(&mut open).unwrap();
    assert!(serve.child.try_wait().unwrap().is_none(), "it ended before its client");
    drop(open);
    serve.says("stopped: every client had left");
    assert_eq!(serve.ends().code(), Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (folder, bind) = one_bind("at-once");
    let mut serve = folder.serve();
    let mut open = session(bind).unwrap();
    serve.signal(Signal::SIGINT);
    serve.says("stopping: ");
    serve.signal(Signal::SIGINT);
    serve.says("stopped: 1 session was reset");
    assert_eq!(serve.ends().code(), Some(0));
    assert_eq!(open.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn killed_it_takes_its_core_along() {
    let (folder, bind) = one_bind("killed");
    let mut serve = folder.serve();
    let killed = Instant::now();
    serve.child.kill().unwrap();
    wait_until("its core is gone", || is_refused(bind));
    assert!(killed.elapsed() < ORPHAN_SERVES / 2, "it waited for an agent that cannot come");
}

#[test]
fn a_core_that_is_killed_is_replaced_and_the_accept_queue_kept() {
    let (folder, bind) = one_bind("replaced");
    let serve = folder.serve();
    let core = serve.core();
    kill(Pid::from_raw(core.try_into().unwrap()), Signal::SIGKILL).unwrap();
    session(bind).expect("refused or cut while there was no core");
    assert_ne!(serve.core(), core);
}

#[test]
fn a_second_one_does_not_share_the_address_of_the_first() {
    let (folder, bind) = one_bind("second");
    let serve = folder.serve();
    let (code, said) = folder.refused(&[]);
    assert_eq!(code, 1);
    let owner = format!("cannot listen on {bind}: lbnode (pid {})", serve.child.id());
    assert!(said.contains(&owner), "`{owner}` is not in {said}");
}

#[test]
fn what_cannot_be_served_ends_with_64_and_its_reason() {
    let (folder, _) = one_bind("refused");
    let (code, said) = folder.refused(&["--threads", "257"]);
    assert!(code == 2 && said.contains("257"), "{code}: {said}");
    if nix::unistd::geteuid().is_root() {
        let (code, said) = folder.refused(&["--user", "nobody-like-that"]);
        assert!(code == 64 && said.contains("no user `nobody-like-that`"), "{code}: {said}");
    }
    std::fs::write(folder.file(), "[pair]\nname = \"x\"\n[frontend.f]\nmode = \"tpc\"\n").unwrap();
    let (code, said) = folder.refused(&[]);
    assert!(code == 64 && said.contains("cluster.toml:4:8: "), "{code}: {said}");
}

#[test]
fn the_command_line_asks_at_its_socket_and_hears_that_there_is_no_pair() {
    let (folder, bind) = one_bind("asked");
    let serve = folder.serve();
    let (code, out, _) = serve.ask(&["status"]);
    assert!(code == 0 && out.contains("test · revision 1 on serve · no pair") && out.contains("alone"), "{out}");
    assert!(out.contains(&bind.to_string()), "{out}");
    let (code, out, _) = serve.ask(&["config", "show"]);
    assert_eq!((code, out.trim_end()), (0, std::fs::read_to_string(folder.file()).unwrap().trim_end()));
    for arguments in [&["maintenance", "on"] as &[&str], &["failover"], &["events"], &["pair", "rotate"]] {
        let (code, _, err) = serve.ask(arguments);
        assert!(code == 1 && err.contains("belongs to no pair"), "{arguments:?}: {code}: {err}");
    }
    let file = folder.file();
    let (code, _, err) = serve.ask(&["config", "apply", file.to_str().unwrap()]);
    assert!(code == 1 && err.contains("SIGHUP"), "{code}: {err}");
}

/// A file with a list that decides who gets 403 instead of 200.
fn listed(folder: &Folder, bind: SocketAddr, networks: &str) {
    let text = format!(
        "[pair]\nname = \"test\"\n[list.blocked]\nnetworks = [{networks}]\n[frontend.front]\nmode = \"http\"\n\
         bind = \"{bind}\"\n[[frontend.front.rule]]\nwhen = {{ source = \"blocked\" }}\ndeny = 403\n\
         [[frontend.front.rule]]\nreturn = {{ status = 200, body = \"in\" }}\n"
    );
    std::fs::write(folder.file(), text).unwrap();
}

#[test]
fn a_list_changes_for_the_next_request_and_stays_changed_until_the_file_says_so_itself() {
    let (folder, bind) = (Folder::new("list"), free());
    listed(&folder, bind, "\"192.0.2.0/24\"");
    let mut serve = folder.serve();
    let connect = || {
        let stream = TcpStream::connect_timeout(&bind, SOON).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    };
    let ask = |serve: &Serve, arguments: &[&str]| {
        let (code, out, err) = serve.ask(&[&["list"], arguments].concat());
        assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}");
        out
    };
    assert_eq!(get(&mut connect()).unwrap(), 200);
    let added = ask(&serve, &["add", "blocked", "127.0.0.0/8", "192.0.2.0/24"]);
    assert_eq!(added, "blocked: 1 network added, 1 there already\n");
    assert_eq!(get(&mut connect()).unwrap(), 403);
    assert_eq!(ask(&serve, &["show"]), "blocked: 2 networks (1 added, 0 removed at run time)\n");
    ask(&serve, &["remove", "blocked", "192.0.2.0/24"]);
    let shown = ask(&serve, &["show", "blocked"]);
    assert_eq!(shown, "127.0.0.0/8          added at run time\n192.0.2.0/24         removed at run time\n");

    kill(Pid::from_raw(serve.core().try_into().unwrap()), Signal::SIGKILL).unwrap();
    assert_eq!(get(&mut connect()).unwrap(), 403, "the next core has the file's list");
    // The file takes over what it says itself, and drops nothing else.
    listed(&folder, bind, "\"192.0.2.0/24\", \"127.0.0.0/8\"");
    serve.signal(Signal::SIGHUP);
    serve.says("applied: revision 2");
    let shown = ask(&serve, &["show", "blocked"]);
    assert_eq!(shown, "127.0.0.0/8          from the file\n192.0.2.0/24         removed at run time\n");
    ask(&serve, &["remove", "blocked", "127.0.0.0/8"]);
    let mut kept = connect();
    assert_eq!(get(&mut kept).unwrap(), 200);
    ask(&serve, &["add", "blocked", "127.0.0.1"]);
    assert_eq!(get(&mut kept).unwrap(), 403, "a connection that is kept has the list that it began with");
}

#[test]
fn a_list_is_not_changed_by_mistakes() {
    let (folder, bind) = (Folder::new("list-mistakes"), free());
    listed(&folder, bind, "\"127.0.0.0/8\"");
    let serve = folder.serve();
    let table: [(&[&str], &str); 4] = [
        (&["add", "blockd", "10.0.0.0/8"], "there is no list `blockd`; did you mean `blocked`?"),
        (&["show", "blockd"], "did you mean `blocked`?"),
        (&["add", "blocked", "192.0.2.1", "10.0.0.300", "10.1.1.1/8"], "`10.0.0.300` is no network"),
        (&["remove", "blocked", "127.0.0.1"], "`127.0.0.1/32` is in the list as a part of `127.0.0.0/8`"),
    ];
    for (arguments, words) in table {
        let (code, _, err) = serve.ask(&[&["list"], arguments].concat());
        assert!(code == 1 && err.contains(words), "{arguments:?}: {code}: {err}");
    }
    let (_, out, _) = serve.ask(&["list", "show", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&out).unwrap();
    let expected = serde_json::json!([{ "list": "blocked", "from_file": 1, "added": 0, "removed": 0 }]);
    assert_eq!(shown["lists"], expected);
}

#[test]
fn a_hangup_opens_log_files_anew_even_if_the_cluster_file_has_mistakes() {
    let (folder, bind) = (Folder::new("logs"), free());
    listed(&folder, bind, "");
    let (log, moved) = (folder.0.join("access.log"), folder.0.join("access.log.1"));
    let target =
        format!("log = {{ target = \"file:{}\", format = \"json\" }}\n[[frontend.front.rule]]\nwhen", log.display());
    let text = std::fs::read_to_string(folder.file()).unwrap().replacen("[[frontend.front.rule]]\nwhen", &target, 1);
    std::fs::write(folder.file(), &text).unwrap();
    let mut serve = folder.serve();
    for (text, said) in [(format!("{text}x = 1\n"), "not applied: revision 1"), (text, "applied: revision 2")] {
        wait_until("the log says something", || {
            get(&mut TcpStream::connect(bind).unwrap()).unwrap();
            std::fs::metadata(&log).is_ok_and(|log| log.len() > 0)
        });
        std::fs::rename(&log, &moved).unwrap();
        std::fs::write(folder.file(), text).unwrap();
        serve.signal(Signal::SIGHUP);
        serve.says(said);
    }
    wait_until("the log is there again", || log.exists());
}
