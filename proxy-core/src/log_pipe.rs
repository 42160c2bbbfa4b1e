//! The core's log: lines on standard error, which is the agent's pipe.
//!
//! The agent makes the pipe non-blocking, so the pipe is the queue: a line that finds it full is dropped and counted,
//! and no worker ever waits for whoever reads the log. How many were dropped is said when there is room again.

use std::error::Error;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tracing_subscriber::fmt::MakeWriter;

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Sends this process's log to standard error: level, where, what; the agent adds the time.
pub(crate) fn start(level: tracing::Level) {
    let started =
        tracing_subscriber::fmt().with_max_level(level).with_ansi(false).without_time().with_writer(LogPipe).try_init();
    if let Err(error) = started {
        last_words("the log was started already", error.as_ref());
    }
    // One line a panic: the agent quotes a core's last line, and a backtrace would hide what happened.
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let text = panic.to_string().replace('\n', " ");
        let _ =
            writeln!(io::stderr(), "ERROR proxy_core: thread {}: {text}", thread.name().unwrap_or("without a name"));
    }));
}

/// An error with its causes, for where there is no log.
pub(crate) fn last_words(what: &str, error: &dyn Error) {
    // Nobody is left to tell when this fails.
    let _ = writeln!(io::stderr(), "ERROR proxy_core: {what}: {}", chain(error));
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

struct LogPipe;

impl MakeWriter<'_> for LogPipe {
    type Writer = LogPipe;

    fn make_writer(&self) -> LogPipe {
        LogPipe
    }
}

impl Write for LogPipe {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let dropped = DROPPED.swap(0, Relaxed);
        let said = match dropped {
            0 => Ok(()),
            _ => io::stderr().write_all(format!(" WARN proxy_core: {dropped} log lines were dropped\n").as_bytes()),
        };
        if said.and_then(|()| io::stderr().write_all(line)).is_err() {
            DROPPED.fetch_add(dropped + 1, Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
