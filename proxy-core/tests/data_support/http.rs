//! HTTP as plainly as can be: clients and servers that say exactly what a test tells them, and a plan that speaks it.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use proxy_core::plan::{Action, Condition, Http, Mode, Pattern, Plan, Rule, Server, Text};
use socket2::SockRef;

use super::{Plane, listeners, plan, server, start};

/// For what is not to happen in a test: longer than any of its waits.
pub(crate) const NEVER: Duration = Duration::from_secs(120);

/// One frontend that speaks HTTP, one backend, no timeout that matters.
pub(crate) fn web(bind: SocketAddr, servers: Vec<Server>) -> Plan {
    let mut plan = plan(bind, servers);
    plan.frontends[0].client_timeout = NEVER;
    plan.frontends[0].mode = Mode::Http(Box::new(Http {
        request_timeout: NEVER,
        keep_alive_timeout: NEVER,
        forwarded: None,
        request_edits: Vec::new(),
        response_edits: Vec::new(),
        client_cert_headers: Vec::new(),
        error_pages: BTreeMap::new(),
        http2: false,
    }));
    plan.backends[0].server_timeout = NEVER;
    plan.backends[0].queue_timeout = NEVER;
    plan.backends[0].connect_timeout = Duration::from_secs(5);
    plan
}

/// The frontend's HTTP.
pub(crate) fn http(plan: &mut Plan) -> &mut Http {
    let Mode::Http(http) = &mut plan.frontends[0].mode else { panic!("it speaks HTTP") };
    http
}

/// A plane of one worker with [`web`]'s plan, changed.
pub(crate) fn stage(servers: Vec<Server>, change: impl FnOnce(&mut Plan)) -> (SocketAddr, Plane) {
    let (address, sockets) = listeners(1);
    let mut plan = web(address, servers);
    change(&mut plan);
    (address, start(plan, 1, sockets))
}

/// What is done with requests whose path begins so.
pub(crate) fn rule(path: &str, action: Action) -> Rule {
    let text = Text { any: vec![Pattern::Prefix(path.into())], ignore_case: false };
    Rule { when: Some(Condition::Path(text)), action }
}

/// A request or an answer.
#[derive(Debug)]
pub(crate) struct Message {
    /// With the empty line.
    pub(crate) head: String,
    /// Without framing.
    pub(crate) body: Vec<u8>,
    /// Fields after a chunked body.
    pub(crate) trailers: String,
}

impl Message {
    /// A word of the first line.
    fn word(&self, index: usize) -> &str {
        self.head.lines().next().and_then(|line| line.split(' ').nth(index)).unwrap_or_default()
    }

    pub(crate) fn method(&self) -> &str {
        self.word(0)
    }

    pub(crate) fn path(&self) -> &str {
        self.word(1)
    }

    pub(crate) fn status(&self) -> u16 {
        self.word(1).parse().unwrap()
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Whether `Connection` has this option.
    pub(crate) fn says(&self, option: &str) -> bool {
        self.field("connection").is_some_and(|value| value.split(',').any(|one| one.trim() == option))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    reader: BufReader<TcpStream>,
    /// At a server: which of its connections this is, from 1.
    pub(crate) number: usize,
}

impl Peer {
    pub(crate) fn new(stream: TcpStream) -> Peer {
        stream.set_read_timeout(Some(NEVER)).unwrap();
        stream.set_nodelay(true).unwrap();
        Peer { reader: BufReader::new(stream), number: 0 }
    }

    pub(crate) fn to(address: SocketAddr) -> Peer {
        Peer::new(TcpStream::connect(address).unwrap())
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// Says so; if the other side is gone, that shows when it is read from.
    pub(crate) fn say(&mut self, bytes: impl AsRef<[u8]>) -> &mut Peer {
        let _ = self.stream().write_all(bytes.as_ref());
        self
    }

    /// Closes it with a reset.
    pub(crate) fn reset(self) {
        SockRef::from(self.stream()).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// A head with its empty line; `None`: the stream ended before it began.
    pub(crate) fn head(&mut self) -> io::Result<Option<String>> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if self.reader.read_until(b'\n', &mut head)? == 0 {
                return if head.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
        }
        String::from_utf8(head).map(Some).map_err(|_| ErrorKind::InvalidData.into())
    }

    /// A whole request.
    pub(crate) fn request(&mut self) -> io::Result<Option<Message>> {
        let Some(head) = self.head()? else { return Ok(None) };
        let mut message = Message { head, body: Vec::new(), trailers: String::new() };
        self.body(&mut message)?;
        Ok(Some(message))
    }

    /// A whole answer, be it an interim one.
    pub(crate) fn answer_to(&mut self, method: &str) -> io::Result<Message> {
        let head = self.head()?.ok_or(ErrorKind::UnexpectedEof)?;
        let mut message = Message { head, body: Vec::new(), trailers: String::new() };
        if method != "HEAD" && !matches!(message.status(), 100..200 | 204 | 304) && !self.body(&mut message)? {
            self.reader.read_to_end(&mut message.body)?;
        }
        Ok(message)
    }

    pub(crate) fn answer(&mut self) -> io::Result<Message> {
        self.answer_to("GET")
    }

    /// Asks, and has the answer.
    pub(crate) fn get(&mut self, path: &str) -> Message {
        self.say(get(path)).answer().unwrap()
    }

    /// Reads so many bytes.
    pub(crate) fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Everything to the end of the stream.
    pub(crate) fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.reader.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// How it ends, if nothing comes before.
    pub(crate) fn end(&mut self) -> Result<(), ErrorKind> {
        let rest = self.rest().map_err(|error| error.kind())?;
        assert!(rest.is_empty(), "more came: {}", rest.escape_ascii());
        Ok(())
    }

    /// Takes what comes in one piece; 0: the end.
    pub(crate) fn some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }

    /// Whether the head said where the body ends.
    fn body(&mut self, message: &mut Message) -> io::Result<bool> {
        if message.field("transfer-encoding").is_some() {
            loop {
                let line = self.line()?;
                let size = usize::from_str_radix(&line, 16).map_err(|_| ErrorKind::InvalidData)?;
                if size == 0 {
                    break;
                }
                let chunk = self.exactly(size)?;
                message.body.extend_from_slice(&chunk);
                if !self.line()?.is_empty() {
                    return Err(ErrorKind::InvalidData.into());
                }
            }
            loop {
                match &*self.line()? {
                    "" => return Ok(true),
                    field => message.trailers += &format!("{field}\n"),
                }
            }
        }
        let Some(length) = message.field("content-length") else { return Ok(false) };
        let length = length.parse().map_err(|_| ErrorKind::InvalidData)?;
        message.body = self.exactly(length)?;
        Ok(true)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        let text = line.strip_suffix("\r\n").ok_or(ErrorKind::UnexpectedEof)?;
        Ok(text.to_owned())
    }
}

/// A request without a body.
pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")
}

/// A request with one.
pub(crate) fn with_body(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// A whole good answer.
pub(crate) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A body in chunks of `size` bytes.
pub(crate) fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in body.chunks(size) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// What a server met with.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) connections: AtomicUsize,
    /// Connections now.
    pub(crate) open: AtomicUsize,
    /// Method and path of every request, in order.
    pub(crate) requests: Mutex<Vec<String>>,
}

impl Seen {
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(SeqCst)
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// A server that reads whole requests; `serve` answers one, and says whether the connection stays open.
pub(crate) fn serving(serve: impl Fn(&Message, &mut Peer) -> bool + Send + Sync + 'static) -> (SocketAddr, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let shared = Arc::clone(&seen);
    let (address, _) = server(move |stream| {
        let mut peer = Peer::new(stream);
        peer.number = shared.connections.fetch_add(1, SeqCst) + 1;
        shared.open.fetch_add(1, SeqCst);
        while let Ok(Some(request)) = peer.request() {
            shared.requests.lock().unwrap().push(format!("{} {}", request.method(), request.path()));
            if !serve(&request, &mut peer) {
                break;
            }
        }
        drop(peer);
        shared.open.fetch_sub(1, SeqCst);
    });
    (address, seen)
}

/// A server that says which of its connections a request came on.
pub(crate) fn numbering() -> (SocketAddr, Arc<Seen>) {
    serving(|_, peer| {
        let number = peer.number;
        peer.say(ok(&number.to_string()));
        true
    })
}

/// A server that does `serve` with each of its connections.
pub(crate) fn scripted(serve: impl Fn(&mut Peer) + Send + Sync + 'static) -> (SocketAddr, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let shared = Arc::clone(&seen);
    let (address, _) = server(move |stream| {
        let mut peer = Peer::new(stream);
        peer.number = shared.connections.fetch_add(1, SeqCst) + 1;
        shared.open.fetch_add(1, SeqCst);
        serve(&mut peer);
        drop(peer);
        shared.open.fetch_sub(1, SeqCst);
    });
    (address, seen)
}

/// What many threads wait for.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    arrived: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    /// One more is here.
    pub(crate) fn arrive(&self) {
        *self.arrived.lock().unwrap() += 1;
        self.changed.notify_all();
    }

    /// Waits for so many.
    pub(crate) fn wait_for(&self, count: usize) {
        let (_all, timeout) =
            self.changed.wait_timeout_while(self.arrived.lock().unwrap(), NEVER, |arrived| *arrived < count).unwrap();
        assert!(!timeout.timed_out(), "waited in vain for {count} to arrive");
    }
}

/// Numbers that follow from a seed (xorshift64*).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    /// Below `most`.
    pub(crate) fn below(&mut self, most: usize) -> usize {
        (self.next() % most as u64) as usize
    }

    /// Bytes that differ from those of any other seed.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count.div_ceil(4)).flat_map(|_| (self.next() as u32).to_le_bytes()).take(count).collect()
    }
}
