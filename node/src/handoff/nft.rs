//! Runs `nft`: the one program that turns the text of rules into rules.
//!
//! One `nft -i` runs as long as there are rules. They belong to it ([`OWNER`], Linux 5.12): nobody else can change or
//! flush them, and they go with it. It ends with this process, however that ends: its input ends.
//!
//! ```text
//!   include "/proc/PID/fd/N"   a file in memory that holds the text: one line is one transaction
//!   lbnode_7                   no command: after that complaint, all about the text has been said
//! ```
//!
//! Where that can't be done, the text is loaded by an `nft` that ends at once, without an owner.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStderr, ChildStdin, Command};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::rules::OWNER;
use crate::causes::chain;

/// How long it may take until it listens.
const START: Duration = Duration::from_secs(2);
/// A hundred thousand connections take half a second.
const LIMIT: Duration = Duration::from_secs(5);
/// What is kept of its complaint: it repeats whole lines of elements.
const COMPLAINT: usize = 400;

/// Rules could not be loaded; then all stands as before, or all is gone and [`super::kernel`] puts it back.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program is not there.
    #[error("nft is missing: install nftables")]
    Missing,
    /// It could not be run.
    #[error("cannot run nft")]
    Run(#[source] io::Error),
    /// It did not end in time, and was killed.
    #[error("nft did not end within {LIMIT:?}")]
    TimedOut,
    /// It, or the kernel, refused the rules.
    #[error("nft refused the rules: {0}")]
    Refused(String),
}

/// Loads texts, and holds what it loaded.
#[derive(Debug)]
pub(super) struct Nft {
    way: Way,
    /// Taken out while it works: if nobody waits for the answer any more, the process ends.
    session: Option<Session>,
    ended: Arc<Notify>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Untried,
    Owned,
    /// `nft` has no `-i`, or it or the kernel doesn't know owners.
    Plain,
}

impl Nft {
    /// Runs nothing yet; `ended` is told whenever the tables may have gone because the process did.
    pub(super) fn new(ended: Arc<Notify>) -> Nft {
        Nft { way: Way::Untried, session: None, ended }
    }

    /// Loads a text in one transaction.
    ///
    /// # Errors
    /// The program is missing, too slow, or refuses.
    pub(super) async fn load(&mut self, text: &str) -> Result<(), NftError> {
        if self.way == Way::Plain {
            return plain(text).await;
        }
        let error = match self.owned(text).await {
            Ok(()) => {
                self.way = Way::Owned;
                return Ok(());
            }
            Err(error) if self.way == Way::Owned => return Err(error),
            Err(error) => error,
        };
        // What is wrong with the text itself is wrong here as well.
        plain(text).await?;
        self.way = Way::Plain;
        self.session = None;
        let why = chain(&error);
        tracing::warn!(why, "the rules of hand-offs can have no owner: who flushes nftables cuts connections");
        Ok(())
    }

    /// Deletes a table that was loaded here; without an owner it stays.
    pub(super) async fn delete(&mut self, family: &str, table: &str) {
        if self.way != Way::Owned {
            return;
        }
        if let Err(error) = self.owned(&format!("delete table {family} {table}\n")).await {
            tracing::debug!(table, error = chain(&error), "all tables go with their owner, and the others come back");
            self.end().await;
        }
    }

    /// Ends the process, which owns nothing any more, and doesn't wait for it.
    pub(super) fn close(&mut self) {
        self.session = None;
    }

    /// Ends the process; then all that it owned is gone.
    pub(super) async fn end(&mut self) {
        if let Some(session) = self.session.take() {
            session.end().await;
        }
    }

    async fn owned(&mut self, text: &str) -> Result<(), NftError> {
        let mut session = match self.session.take().filter(|session| !session.keeper.is_finished()) {
            Some(session) => session,
            None => {
                let starting = Session::start(Arc::clone(&self.ended));
                timeout(START, starting).await.map_err(|_| NftError::TimedOut)??
            }
        };
        let error = match timeout(LIMIT, session.load(text)).await {
            Ok(Ok(complaint)) => {
                self.session = Some(session);
                return if complaint.is_empty() { Ok(()) } else { Err(refused(&complaint)) };
            }
            Ok(Err(error)) => NftError::Run(error),
            Err(_) => NftError::TimedOut,
        };
        // The next one could not touch what this one owns.
        session.end().await;
        Err(error)
    }
}

/// One `nft -i`. Dropped, it is killed.
#[derive(Debug)]
struct Session {
    stdin: ChildStdin,
    stderr: BufReader<ChildStderr>,
    text: File,
    /// Of the last line that is no command.
    number: u64,
    /// Waits for the end of the process, and ends it when `_held` goes.
    keeper: JoinHandle<()>,
    _held: oneshot::Sender<()>,
}

impl Session {
    async fn start(ended: Arc<Notify>) -> Result<Session, NftError> {
        let text = memfd_create(c"rules", MFdFlags::MFD_CLOEXEC).map_err(|errno| NftError::Run(errno.into()))?;
        let mut command = Command::new("nft");
        command.arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        // It would write down all that it is told, and say what it thinks of the terminal. A ^C is not for it.
        command.env("HOME", "/dev/null").env("TERM", "dumb").process_group(0);
        let mut child = command.spawn().map_err(cannot_run)?;
        let stdin = child.stdin.take().expect("it was asked for");
        let stderr = BufReader::new(child.stderr.take().expect("it was asked for"));
        let (held, let_go) = oneshot::channel();
        let keeper = tokio::spawn(async move {
            tokio::select! {
                _ = child.wait() => {}
                // It may have ended already.
                _ = let_go => drop(child.kill().await),
            }
            ended.notify_one();
        });
        let mut session = Session { stdin, stderr, text: text.into(), number: 0, keeper, _held: held };
        // What it says before it was told anything is about nothing of ours.
        session.say("").await.map_err(NftError::Run)?;
        Ok(session)
    }

    /// Loads a text; the result is the complaint.
    async fn load(&mut self, text: &str) -> io::Result<String> {
        self.text.write_all_at(text.as_bytes(), 0)?;
        let file = self.text.as_raw_fd();
        let complaint = self.say(&format!("include \"/proc/{}/fd/{file}\"\n", std::process::id())).await?;
        self.text.set_len(0)?;
        Ok(complaint)
    }

    /// The complaint about a line.
    async fn say(&mut self, line: &str) -> io::Result<String> {
        self.number += 1;
        let end = format!("lbnode_{}\n", self.number);
        self.stdin.write_all((line.to_owned() + &end).as_bytes()).await?;
        let (mut complaint, mut before) = (String::new(), String::new());
        loop {
            let said = self.line().await?;
            if said == end {
                // What is wrong stood before it, and marks under it show where.
                self.line().await?;
                return Ok(complaint);
            }
            if complaint.len() < COMPLAINT {
                complaint += &before;
            }
            before = said;
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        match self.stderr.read_until(b'\n', &mut line).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended")),
            _ => Ok(String::from_utf8_lossy(&line).into_owned()),
        }
    }

    async fn end(self) {
        let Session { keeper, _held: held, .. } = self;
        drop(held);
        // A keeper that was aborted has killed it.
        let _ = keeper.await;
    }
}

async fn plain(text: &str) -> Result<(), NftError> {
    let text = text.replace(OWNER, "");
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(cannot_run)?;
    let mut stdin = child.stdin.take().expect("it was asked for");
    let feed = async move {
        let result = stdin.write_all(text.as_bytes()).await;
        // The end of the text is the end of the file.
        drop(stdin);
        result
    };
    let both = async { tokio::join!(feed, child.wait_with_output()) };
    let (fed, output) = timeout(LIMIT, both).await.map_err(|_| NftError::TimedOut)?;
    let output = output.map_err(NftError::Run)?;
    if !output.status.success() {
        return Err(refused(&String::from_utf8_lossy(&output.stderr)));
    }
    fed.map_err(NftError::Run)
}

fn refused(complaint: &str) -> NftError {
    NftError::Refused(complaint.trim().chars().take(COMPLAINT).collect())
}

fn cannot_run(error: io::Error) -> NftError {
    match error.kind() {
        io::ErrorKind::NotFound => NftError::Missing,
        _ => NftError::Run(error),
    }
}
