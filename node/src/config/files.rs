//! Files that a cluster file names: lists of networks, error pages. They are read when it is, and what they said
//! then belongs to the revision: a file that changes or goes later changes nothing that runs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};

use super::reader::Value;

/// What named files say, by their paths.
pub type Contents = BTreeMap<String, String>;

/// All files of one configuration together, in bytes: the plan goes to the proxy core in one message.
const MAX_TOTAL: usize = 4 << 20;

/// Where named files are read from, and what was read.
pub(super) struct Files<'c> {
    /// `None`: the disk.
    kept: Option<&'c Contents>,
    read: RefCell<Contents>,
}

impl<'c> Files<'c> {
    pub(super) fn on_disk() -> Files<'static> {
        Files { kept: None, read: RefCell::default() }
    }

    pub(super) fn kept(contents: &'c Contents) -> Files<'c> {
        Files { kept: Some(contents), read: RefCell::default() }
    }

    /// What a file says, which `value` names; at most so many bytes.
    pub(super) fn read(&self, path: &str, most: u64, value: &Value<'_>) -> Option<String> {
        if let Some(known) = self.read.borrow().get(path) {
            return Some(known.clone());
        }
        let text = match self.kept {
            Some(kept) => kept.get(path).cloned().ok_or_else(|| io::Error::other("it was not kept with the revision")),
            None => from_disk(path, most),
        };
        let text = text.map_err(|error| value.report(format!("cannot read {path}: {error}"))).ok()?;
        let mut read = self.read.borrow_mut();
        if read.values().map(String::len).sum::<usize>() + text.len() > MAX_TOTAL {
            value.report(format!("{path}: all files together have more than {MAX_TOTAL} bytes"));
            return None;
        }
        read.insert(path.to_owned(), text.clone());
        Some(text)
    }

    /// All that was read.
    pub(super) fn into_contents(self) -> Contents {
        self.read.into_inner()
    }
}

fn from_disk(path: &str, most: u64) -> io::Result<String> {
    // Looked at before it is opened: to open a pipe would be to wait for whoever writes into it.
    let found = std::fs::metadata(path)?;
    if !found.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let long = || io::Error::other(format!("it is longer than {most} bytes"));
    if found.len() > most {
        return Err(long());
    }
    let mut text = String::new();
    File::open(path)?.take(most + 1).read_to_string(&mut text)?;
    if text.len() as u64 > most {
        return Err(long());
    }
    Ok(text)
}
