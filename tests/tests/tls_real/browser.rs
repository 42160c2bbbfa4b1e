//! Chromium: a page over HTTP/2, many requests at once, and a WebSocket that shares their connection.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use tests::part::Part;
use tests::place::Place;
use tests::python::script;

use crate::long;
use crate::site::Front;

/// What the browser is given; it tells the server what it saw.
const PAGE: &str = r#"<!doctype html><title>a page</title><script>
async function look() {
  const seen = [];
  try {
    const answers = await Promise.all([...Array(50).keys()].map(n => fetch('/echo/' + n).then(answer => answer.text())));
    seen.push('fetched=' + answers.filter((text, n) => text === '/echo/' + n).length);
    const entries = performance.getEntriesByType('resource').filter(entry => entry.name.includes('/echo/'));
    seen.push('protocols=' + [...new Set(entries.map(entry => entry.nextHopProtocol))].join('+'));
    const socket = new WebSocket('wss://' + location.host + '/chat');
    await new Promise((done, failed) => { socket.onopen = done; socket.onerror = () => failed('no socket'); });
    const message = 'x'.repeat(100000);
    const back = new Promise(done => socket.onmessage = event => done(event.data));
    socket.send(message);
    seen.push('socket=' + (await back === message));
    const closed = new Promise(done => socket.onclose = event => done(event.code));
    socket.close(1000);
    seen.push('closed=' + await closed);
  } catch (error) { seen.push('error=' + error); }
  await fetch('/report?' + encodeURIComponent(seen.join(' ')));
}
look();
</script>"#;

/// A server of the page, of paths for their own sake, and an ear for the report.
fn pages(address: SocketAddr) -> Receiver<String> {
    let listener = TcpListener::bind(address).unwrap();
    let (reports, heard) = sync_channel(16);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let reports = reports.clone();
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                while let Some(first) = lines.next() {
                    lines.by_ref().find(String::is_empty);
                    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
                    if let Some(report) = path.strip_prefix("/report?") {
                        // Nobody listens any more: the test is over.
                        let _ = reports.try_send(report.replace("%20", " ").replace("%3D", "="));
                    }
                    let body = if path == "/" { PAGE } else { &path };
                    let head =
                        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nCache-Control: no-store\r\nContent-Length: ";
                    if (&stream).write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    heard
}

#[test]
fn long_chromium_speaks_http2_and_websockets_over_it() {
    if !long("long_chromium_speaks_http2_and_websockets_over_it") {
        return;
    }
    let place = Place::new("browser").unwrap();
    let heard = pages(place.at(9001));
    let socket = place.at(9002);
    let mut command = script("websocket_echo.py");
    command.args([socket.ip().to_string(), socket.port().to_string()]);
    let mut echo = Part::start("echo", command, place.folder()).unwrap();
    echo.wait_listening(socket).unwrap();
    let log = place.path("front.log");
    let front = Front::start(&place, place.at(9001), |site| {
        site.frontend = format!("log = {{ target = \"file:{}\" }}\n", log.display());
        site.more += &format!(
            "[[frontend.front.rule]]\nwhen = {{ path = \"/chat\" }}\nuse_backend = \"chat\"\n\
            [backend.chat]\nmode = \"http\"\nservers = [{{ name = \"chat\", address = \"{socket}\" }}]\n"
        );
    });
    // Lines of the proxy core, which has no rights, are written by its parent.
    let mut command = Command::new("chromium");
    command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--ignore-certificate-errors"]);
    command.args(["--disable-background-networking", "--disable-dev-shm-usage", "--proxy-server=direct://"]);
    command.arg(format!("--user-data-dir={}", place.path("profile").display()));
    command.arg(format!("--host-resolver-rules=MAP a.test {}", front.tls().ip())).arg(front.url("a.test", "/"));
    let chromium = Part::start("chromium", command, place.folder()).expect("chromium is needed (`.ci/setup browser`)");
    let report =
        heard.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|error| panic!("{error}: {}", chromium.tail()));
    assert_eq!(report, "fetched=50 protocols=h2 socket=true closed=1000", "{}", front.serve.part.tail());
    drop(chromium);
    let lines = tests::wait::wait_until("the line of the socket", Duration::from_secs(10), || {
        let text = std::fs::read_to_string(&log).map_err(|error| error.to_string())?;
        if text.contains("/chat") { Ok(text) } else { Err(text) }
    })
    .unwrap();
    let line = lines.lines().find(|line| line.contains("/chat")).unwrap();
    assert!(line.contains("/chat HTTP/2"), "the socket came over HTTP/2: {line}");
}
