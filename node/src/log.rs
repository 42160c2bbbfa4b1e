//! Log lines: text or JSON to stderr, and never a thread that waits for somebody to read them.
//!
//! Whoever logs hands the finished line to a bounded queue; one thread writes. A full queue drops the line and
//! counts it ([`dropped`]); when writing works again the thread says how many are missing.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{LogConfig, LogFormat, LogLevel};

/// Lines that wait for the writer; at some 200 bytes a line less than a megabyte.
const QUEUE: usize = 1024;
/// How long the end of the process may wait for the last lines.
const FLUSH: Duration = Duration::from_millis(500);

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines dropped since the process started because nobody read the ones before.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Flushes what is queued when dropped, for half a second at most.
#[derive(Debug)]
pub struct Flush {
    queue: &'static OnceLock<SyncSender<Line>>,
    done: Receiver<()>,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No thread to write with.
    #[error("cannot start the thread that writes log lines")]
    Thread(#[source] io::Error),
    /// It was set up before.
    #[error("logging is set up already")]
    Twice,
}

/// Sets up logging for the whole process. Keep what it returns until the end.
pub fn start(config: LogConfig) -> Result<Flush, LogError> {
    static SENDER: OnceLock<SyncSender<Line>> = OnceLock::new();
    let (sender, lines) = sync_channel(QUEUE);
    let (finished, done) = sync_channel(1);
    spawn_writer(lines, io::stderr(), finished).map_err(LogError::Thread)?;
    SENDER.set(sender.clone()).map_err(|_| LogError::Twice)?;
    let level = match config.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let subscriber = tracing_subscriber::fmt().with_max_level(level).with_writer(Queue(sender)).with_ansi(false);
    let set = match config.format {
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    set.map_err(|_| LogError::Twice)?;
    Ok(Flush { queue: &SENDER, done })
}

#[derive(Debug)]
enum Line {
    Text(Vec<u8>),
    Last,
}

impl Drop for Flush {
    fn drop(&mut self) {
        if let Some(sender) = self.queue.get()
            && sender.try_send(Line::Last).is_ok()
        {
            // Nobody reads: then nobody misses the rest.
            let (Ok(()) | Err(_)) = self.done.recv_timeout(FLUSH);
        }
    }
}

/// Collects one event and queues it when the event is complete.
struct Queue(SyncSender<Line>);

struct Buffer<'q> {
    line: Vec<u8>,
    queue: &'q SyncSender<Line>,
}

impl<'q> MakeWriter<'q> for Queue {
    type Writer = Buffer<'q>;
    fn make_writer(&'q self) -> Buffer<'q> {
        Buffer { line: Vec::with_capacity(256), queue: &self.0 }
    }
}

impl Write for Buffer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        let line = Line::Text(std::mem::take(&mut self.line));
        match self.queue.try_send(line) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn spawn_writer(
    lines: Receiver<Line>,
    mut out: impl Write + Send + 'static,
    finished: SyncSender<()>,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("log".into()).spawn(move || {
        let mut told = 0;
        loop {
            match lines.recv_timeout(Duration::from_secs(1)) {
                // A line that cannot be written (a closed pipe) is a line that nobody got.
                Ok(Line::Text(line)) => {
                    if out.write_all(&line).is_err() {
                        DROPPED.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Ok(Line::Last) => {
                    let (Ok(()) | Err(_)) = finished.try_send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let missing = dropped();
            if missing > told
                && writeln!(out, "{} log lines were dropped: nobody read them in time", missing - told).is_ok()
            {
                told = missing;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read as _};
    use std::time::Instant;

    use super::*;

    fn event(queue: &Queue, text: &str) {
        queue.make_writer().write_all(text.as_bytes()).unwrap();
    }

    fn read_until(pipe: &mut PipeReader, wanted: &str) -> String {
        let mut text = String::new();
        let mut bytes = [0; 4096];
        while !text.contains(wanted) {
            let length = pipe.read(&mut bytes).unwrap();
            assert!(length > 0, "the pipe ended before `{wanted}` came");
            text += std::str::from_utf8(&bytes[..length]).unwrap();
        }
        text
    }

    #[test]
    fn a_pipe_that_nobody_reads_stops_nobody_and_the_loss_is_counted_and_said() {
        let (mut reader, writer) = io::pipe().unwrap();
        let (sender, lines) = sync_channel(16);
        let (finished, _done) = sync_channel(1);
        spawn_writer(lines, writer, finished).unwrap();
        let queue = Queue(sender);
        let before = dropped();
        let start = Instant::now();
        // More than a pipe (64 KiB) and the queue hold together.
        let line = format!("{}\n", "x".repeat(1023));
        for _ in 0..1000 {
            event(&queue, &line);
        }
        assert!(start.elapsed() < Duration::from_secs(5), "logging waited: {:?}", start.elapsed());
        assert!(dropped() - before > 800, "only {} of 1000 were dropped", dropped() - before);
        let text = read_until(&mut reader, "nobody read them in time");
        assert!(text.contains("log lines were dropped"), "{text}");
        // What came through is whole lines; the last read may have ended in the middle of one.
        let (whole, _) = text.rsplit_once('\n').expect("the notice ends its line");
        assert!(whole.lines().filter(|line| line.starts_with('x')).all(|line| line.len() == 1023));
    }
}
