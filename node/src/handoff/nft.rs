//! Runs `nft`: the one program that turns the text of rules into rules.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

/// A hundred thousand connections take half a second.
const LIMIT: Duration = Duration::from_secs(5);
/// What is kept of its complaint: it repeats whole lines of elements.
const COMPLAINT: usize = 400;

/// Rules could not be loaded; then all stands as before.
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

/// Loads a text in one transaction.
///
/// # Errors
/// The program is missing, too slow, or refuses.
pub(super) async fn load(text: &str) -> Result<(), NftError> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => NftError::Missing,
        _ => NftError::Run(error),
    })?;
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
        let complaint: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(COMPLAINT).collect();
        return Err(NftError::Refused(complaint));
    }
    fed.map_err(NftError::Run)
}
