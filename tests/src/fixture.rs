//! What every test in the lab starts with: a folder that goes away, the built binary, a pair, and panics with words.

use std::error::Error;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use netns_lab::load::{Load, Spec};
use netns_lab::pair::{Pair, Settings};
use netns_lab::residue::Residue;
use netns_lab::wait::wait_until;
use nix::unistd::geteuid;

/// Generous: a debug build on two busy cores, and longer than the 30 s after which a node takes a LAN where nobody
/// says anything for what it is.
pub const LIMIT: Duration = Duration::from_secs(45);

/// How often a test is done that fails on a machine which stalls.
const ATTEMPTS: usize = 3;

/// What a node says that was denied its processor.
const STALLED: [&str; 2] = ["this process was stalled", "a worker of the proxy core hangs"];

/// A folder that is removed after a test that passed; the logs of one that failed stay.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// A new one for test `name`, or `None`, with the reason printed, where the lab can't run.
    pub fn new(name: &str) -> Option<Folder> {
        if !geteuid().is_root() {
            println!("skipped {name}: network namespaces need root");
            return None;
        }
        let path = std::env::temp_dir().join(format!("lbnode-test-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).or_fail("make the test's folder");
        Some(Folder(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The settings of `lbnode lab`, with this folder.
    pub fn settings(&self) -> Settings {
        Settings::new(binary(), self.0.clone())
    }

    /// A pair with these settings, settled.
    pub fn pair(&self, adjust: impl FnOnce(&mut Settings)) -> Pair {
        let mut settings = self.settings();
        adjust(&mut settings);
        Pair::start(settings, LIMIT).or_fail("start the pair")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("logs are in {}", self.0.display());
        } else if let Err(error) = std::fs::remove_dir_all(&self.0) {
            println!("{} could not be removed: {error}", self.0.display());
        }
    }
}

/// What most tests of hand-offs carry: three hundred connections, and a transfer each way that lasts.
pub const SMALL: Spec = Spec {
    idle: 240,
    busy: 60,
    transfer: 10_000_000,
    stretch: Duration::from_secs(20),
    limit: Duration::from_secs(120),
};

/// Connections through the VIP, all of them open when it returns.
pub fn load(pair: &Pair, spec: Spec) -> Load {
    let load = Load::start(&pair.site.client.netns, pair.site.stream_service(), spec).or_fail("start the load");
    wait_until("the load to work", LIMIT, || load.ready()).or_fail("open the connections");
    load
}

/// Ends a load that must have lost nothing.
#[track_caller]
pub fn assert_whole(load: Load, transfers: usize) {
    let recording = load.finish().or_fail("finish the load");
    let losses: Vec<_> = recording.losses.iter().take(3).collect();
    let found = (recording.losses.len(), recording.transfers.len());
    assert_eq!(found, (0, transfers), "lost, transferred; the first losses: {losses:?}");
}

/// Waits until no hand-off has anything in the kernels of either node.
pub fn nothing_left(pair: &Pair) {
    for node in &pair.site.nodes {
        wait_until(&format!("nothing of a hand-off to be left at {}", node.netns.name()), LIMIT, || match Residue::of(
            &node.netns,
        )
        .or_fail("look for residue")
        {
            residue if residue.is_none() => Ok(()),
            residue => Err(format!("{residue:?}")),
        })
        .or_fail("clear up");
    }
}

/// Writes something else into a generated file.
pub fn edit(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).or_fail("read a generated file");
    assert!(text.contains(from), "{} has no {from:?}", path.display());
    std::fs::write(path, text.replace(from, to)).or_fail("write a generated file");
}

/// The generated cluster file of a node.
pub fn cluster_file(pair: &Pair, index: usize) -> PathBuf {
    pair.nodes[index].folder.join("cluster.toml")
}

/// Whether tests that take minutes shall run.
pub fn long() -> bool {
    std::env::var_os("LBNODE_LONG").is_some()
}

/// Runs a test in a folder of its own. A node that is denied its processor for too long gives its VIP up by design, and its
/// connections with it: a test that fails then blames the machine it runs on, and is done again.
pub fn attempt(name: &str, test: impl Fn(&Folder)) {
    for number in 1..=ATTEMPTS {
        let Some(folder) = Folder::new(&format!("{name}-{number}")) else { return };
        let path = folder.path().to_owned();
        let tried = catch_unwind(AssertUnwindSafe(|| {
            // Dropped by the panic, so that it keeps its logs.
            let folder = folder;
            test(&folder);
        }));
        let Err(panic) = tried else { return };
        match stall(&path) {
            Some(line) if number < ATTEMPTS => println!("this machine was too busy to tell, so once more: {line}"),
            _ => resume_unwind(panic),
        }
    }
}

/// What a node says of having been stalled.
fn stall(folder: &Path) -> Option<String> {
    let logs = ["a", "b"].map(|node| std::fs::read_to_string(folder.join(node).join("agent.log")).unwrap_or_default());
    let says = |line: &&str| STALLED.iter().any(|words| line.contains(words));
    logs.iter().flat_map(|log| log.lines()).find(says).map(str::to_owned)
}

/// `lbnode`, as it was built: `LBNODE_BIN`, or where cargo puts it beside this test.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("LBNODE_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().or_fail("find this test");
    let path = own.ancestors().nth(2).map(|folder| folder.join("lbnode")).unwrap_or_default();
    assert!(path.exists(), "{} is missing: run `cargo build -p node` first, or set LBNODE_BIN", path.display());
    path
}

/// Waits for the turn of a test that measures time; it ends when the file is dropped. A lock on a file and not a
/// mutex, because some runners give each test a process of its own.
pub fn take_turn() -> File {
    let path = std::env::temp_dir().join("lbnode-test-turn");
    let file = File::options().create(true).append(true).open(path).or_fail("open the file of turns");
    file.lock().or_fail("wait for the turn");
    file
}

/// Ends a test with the error's own words and its causes.
pub trait OrFail<T> {
    /// The value, or a panic that says what was tried.
    fn or_fail(self, what: &str) -> T;
}

impl<T, E: Error> OrFail<T> for Result<T, E> {
    #[track_caller]
    fn or_fail(self, what: &str) -> T {
        match self {
            Ok(value) => value,
            Err(error) => {
                let mut text = format!("{what}: {error}");
                let mut cause = error.source();
                while let Some(error) = cause {
                    text += &format!(": {error}");
                    cause = error.source();
                }
                panic!("{text}")
            }
        }
    }
}
