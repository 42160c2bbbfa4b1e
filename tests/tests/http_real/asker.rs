//! Load whose every answer is counted by what it was: clients that keep their connections, one request at a time.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Answers by their status and the first line of their body, if that was the server's; `no answer: …` else.
pub(crate) type Counts = BTreeMap<String, usize>;

/// A client.
pub(crate) struct Asker {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

/// Clients that ask until they are told that it is over.
pub(crate) struct Askers {
    over: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<(Counts, Duration)>>,
}

impl Asker {
    pub(crate) fn new(address: SocketAddr) -> Asker {
        Asker { address, stream: None }
    }

    /// What becomes of a request; on a new connection if the last one ended.
    pub(crate) fn ask(&mut self, request: &str) -> String {
        let answer = self.try_ask(request);
        answer.unwrap_or_else(|error| {
            self.stream = None;
            format!("no answer: {:?}", error.kind())
        })
    }

    fn try_ask(&mut self, request: &str) -> io::Result<String> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let stream = TcpStream::connect(self.address)?;
                stream.set_read_timeout(Some(Duration::from_secs(30)))?;
                stream.set_nodelay(true)?;
                none.insert(BufReader::new(stream))
            }
        };
        stream.get_mut().write_all(request.as_bytes())?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        let head = head.to_ascii_lowercase();
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let length = field("content-length:").and_then(|length| length.parse().ok()).ok_or(ErrorKind::InvalidData)?;
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        if field("connection:") == Some("close") {
            self.stream = None;
        }
        let status = head.split(' ').nth(1).unwrap_or_default();
        let server = field("x-server:").unwrap_or("lbnode");
        Ok(format!("{status} {server}"))
    }
}

impl Askers {
    /// So many of them, each saying these requests in turn.
    pub(crate) fn start(address: SocketAddr, count: usize, requests: &'static [&'static str]) -> Askers {
        let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = (0..count)
            .map(|_| {
                let (over, asked) = (Arc::clone(&over), Arc::clone(&asked));
                thread::spawn(move || {
                    let (mut asker, mut counts, mut longest) = (Asker::new(address), Counts::new(), Duration::ZERO);
                    for request in requests.iter().cycle() {
                        if over.load(SeqCst) {
                            break;
                        }
                        let began = Instant::now();
                        *counts.entry(asker.ask(request)).or_default() += 1;
                        longest = longest.max(began.elapsed());
                        asked.fetch_add(1, SeqCst);
                    }
                    (counts, longest)
                })
            })
            .collect();
        Askers { over, asked, threads }
    }

    /// How many answers there were so far.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }

    /// All answers, and how long the slowest took.
    pub(crate) fn finish(self) -> (Counts, Duration) {
        self.over.store(true, SeqCst);
        let mut all = (Counts::new(), Duration::ZERO);
        for thread in self.threads {
            let (counts, longest) = thread.join().unwrap();
            counts.into_iter().for_each(|(what, count)| *all.0.entry(what).or_default() += count);
            all.1 = all.1.max(longest);
        }
        all
    }
}
