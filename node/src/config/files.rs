//! Files that a cluster file names: lists of networks, error pages, certificates. They are read when it is, and what they
//! said then belongs to the revision: a file that changes or goes later changes nothing that runs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::reader::Value;
use crate::certificates::import;

/// What named files say, by their paths. What was imported is called `imported:NAME`, an intermediate
/// `intermediate:NAME`: where they lie is each node's own.
pub type Contents = BTreeMap<String, Content>;

/// What a file says. It may be a private key, so nothing shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Content(Vec<u8>);

impl Content {
    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Content {
        Content(bytes)
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Content {
        Content(text.into())
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({} bytes)", self.0.len())
    }
}

/// On disk: text as it is, anything else in hex.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Stored {
    Text(String),
    Bytes { hex: String },
}

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                Stored::Bytes { hex: self.0.iter().map(|byte| format!("{byte:02x}")).collect() }.serialize(serializer)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Content, D::Error> {
        let hex = match Stored::deserialize(deserializer)? {
            Stored::Text(text) => return Ok(Content(text.into_bytes())),
            Stored::Bytes { hex } => hex,
        };
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        let byte = |pair: &[u8]| match pair {
            [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = hex.as_bytes().chunks(2).map(byte).collect();
        bytes.map(Content).ok_or_else(|| serde::de::Error::custom("a kept file is no hex"))
    }
}

/// All files of one configuration together, in bytes: the plan goes to the proxy core in one message.
const MAX_TOTAL: usize = 8 << 20;
/// What an imported certificate is kept as.
const IMPORTED: &str = "imported:";
/// The same of an intermediate.
const INTERMEDIATE: &str = "intermediate:";

/// Where named files are read from, and what was read.
pub(super) struct Files<'c> {
    from: Origin<'c>,
    read: RefCell<Contents>,
}

enum Origin<'c> {
    /// The disk, and the directory of what was imported, if there is one.
    Disk(Option<&'c Path>),
    /// A revision.
    Kept(&'c Contents),
}

impl<'c> Files<'c> {
    pub(super) fn on_disk(imported: Option<&'c Path>) -> Files<'c> {
        Files { from: Origin::Disk(imported), read: RefCell::default() }
    }

    pub(super) fn kept(contents: &'c Contents) -> Files<'c> {
        Files { from: Origin::Kept(contents), read: RefCell::default() }
    }

    /// The text of a file, which `value` names; at most so many bytes.
    pub(super) fn read(&self, path: &str, most: u64, value: &Value<'_>) -> Option<String> {
        let Content(bytes) = self.bytes(path, most, value)?;
        let no_text = |_| value.report(format!("cannot read {path}: stream did not contain valid UTF-8"));
        String::from_utf8(bytes).map_err(no_text).ok()
    }

    /// A file, which `value` names; at most so many bytes.
    pub(super) fn bytes(&self, path: &str, most: u64, value: &Value<'_>) -> Option<Content> {
        self.remembered(path, value, || match self.from {
            Origin::Kept(kept) => kept_as(kept, path),
            Origin::Disk(_) => from_disk(path.as_ref(), most),
        })
    }

    /// A certificate that was imported under this name: where it is for people, and what it says.
    pub(super) fn imported(&self, name: &str, most: u64, value: &Value<'_>) -> Option<(String, Content)> {
        let key = format!("{IMPORTED}{name}");
        let directory = match self.from {
            Origin::Kept(kept) => return Some((key.clone(), self.remembered(&key, value, || kept_as(kept, &key))?)),
            Origin::Disk(directory) => directory,
        };
        let path = directory.map(|directory| import::bundle(directory, name));
        let Some(path) = path.filter(|path| path.exists()) else {
            value.report(format!(
                "nothing was imported as `{name}` on this node: `lbnode cert import {name} FILE` does it"
            ));
            return None;
        };
        let content = self.remembered(&key, value, || from_disk(&path, most))?;
        Some((path.display().to_string(), content))
    }

    /// All intermediates that were imported; `value` is for mistakes.
    pub(super) fn intermediates(&self, most: u64, value: &Value<'_>) -> Vec<(String, Content)> {
        match self.from {
            Origin::Kept(kept) => {
                let ours = kept.iter().filter(|(key, _)| key.starts_with(INTERMEDIATE));
                let read = ours.filter_map(|(key, _)| Some((key.clone(), self.bytes(key, most, value)?)));
                read.collect()
            }
            Origin::Disk(None) => Vec::new(),
            Origin::Disk(Some(directory)) => {
                let found = import::intermediates(directory);
                let read = found.into_iter().filter_map(|(name, path)| {
                    let key = format!("{INTERMEDIATE}{name}");
                    let content = self.remembered(&key, value, || from_disk(&path, most))?;
                    Some((path.display().to_string(), content))
                });
                read.collect()
            }
        }
    }

    /// Reads once.
    fn remembered(&self, key: &str, value: &Value<'_>, read: impl FnOnce() -> io::Result<Content>) -> Option<Content> {
        if let Some(known) = self.read.borrow().get(key) {
            return Some(known.clone());
        }
        let content = read().map_err(|error| value.report(format!("cannot read {key}: {error}"))).ok()?;
        let mut read = self.read.borrow_mut();
        if read.values().map(|content| content.0.len()).sum::<usize>() + content.0.len() > MAX_TOTAL {
            value.report(format!("{key}: all files together have more than {MAX_TOTAL} bytes"));
            return None;
        }
        read.insert(key.to_owned(), content.clone());
        Some(content)
    }

    /// All that was read.
    pub(super) fn into_contents(self) -> Contents {
        self.read.into_inner()
    }
}

fn kept_as(kept: &Contents, key: &str) -> io::Result<Content> {
    kept.get(key).cloned().ok_or_else(|| io::Error::other("it was not kept with the revision"))
}

/// The content of a regular file; at most so many bytes.
pub(crate) fn from_disk(path: &Path, most: u64) -> io::Result<Content> {
    // Looked at before it is opened: to open a pipe would be to wait for whoever writes into it.
    let found = std::fs::metadata(path)?;
    if !found.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let long = || io::Error::other(format!("it is longer than {most} bytes"));
    if found.len() > most {
        return Err(long());
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(long());
    }
    Ok(Content(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_text_or_not_and_is_never_shown() {
        for bytes in [b"10.0.0.1\n".to_vec(), vec![0x30, 0x82, 0xff, 0], Vec::new()] {
            let content = Content(bytes);
            let json = serde_json::to_string(&content).expect("plain data");
            assert_eq!(serde_json::from_str::<Content>(&json).expect("ours"), content, "{json}");
            assert_eq!(format!("{content:?}"), format!("Content({} bytes)", content.0.len()));
        }
        for wrong in [r#"{"hex":"3"}"#, r#"{"hex":"+1"}"#, r#"{"hex":"0g"}"#, r#"{"hex":"é"}"#, "7"] {
            let read = serde_json::from_str::<Content>(wrong);
            assert!(read.is_err(), "{wrong} was read as {read:?}");
        }
    }
}
