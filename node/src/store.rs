//! What a node keeps on disk: the applied revision, and what was changed of lists at run time. Each is one file,
//! replaced as a whole, so that it is either the old one or the new one.
//!
//! A file that cannot be read is set aside, never deleted.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::{self, Contents};
use crate::lists::Overlay;

/// What runs on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revision {
    /// Counts up by one with each applied change; the bootstrap file is 1.
    pub number: u64,
    /// The cluster file, to the letter.
    pub text: String,
    /// What the files said that it names, when it was applied: no later start depends on them.
    #[serde(default, skip_serializing_if = "Contents::is_empty")]
    pub files: Contents,
}

impl Revision {
    /// What tells it from others: the SHA-256 of the text, or of the text and all files, in hex.
    pub fn digest(&self) -> String {
        let mut parts = vec![config::digest(&self.text)];
        parts.extend(self.files.iter().map(|(path, content)| format!("{} {path}", config::digest(content.bytes()))));
        if self.files.is_empty() { parts.remove(0) } else { config::digest(parts.join("\n")) }
    }
}

/// Why the store could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The system said no.
    #[error("could not {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// What was found when a file of the store was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// Nothing was ever written.
    Empty,
    /// This.
    Kept(T),
    /// Something unreadable, which now lies at this path.
    SetAside(PathBuf, String),
}

/// The store in the node's state directory.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// Opens the store, making the directory (0700) if it is not there.
    pub fn open(state_dir: &Path) -> Result<Store, StoreError> {
        use std::os::unix::fs::DirBuilderExt as _;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(|source| StoreError::Io {
            what: "make the state directory",
            path: state_dir.into(),
            source,
        })?;
        Ok(Store { path: state_dir.join("revision.json") })
    }

    /// Reads what was applied last.
    pub fn read(&self) -> Result<Found<Revision>, StoreError> {
        read(&self.path)
    }

    /// Reads what was changed of lists at run time.
    pub fn lists(&self) -> Result<Found<Overlay>, StoreError> {
        read(&self.lists_path())
    }

    /// Remembers what was changed of lists at run time.
    pub fn set_lists(&self, overlay: &Overlay) -> Result<(), StoreError> {
        replace(&self.lists_path(), overlay)
    }

    fn lists_path(&self) -> PathBuf {
        self.path.with_file_name("lists.json")
    }

    /// Whether an operator took the node out of service; it stays out over restarts.
    pub fn maintenance(&self) -> bool {
        self.maintenance_mark().exists()
    }

    /// Remembers whether the node is out of service.
    pub fn set_maintenance(&self, on: bool) -> Result<(), StoreError> {
        let mark = self.maintenance_mark();
        let done = if on { File::create(&mark).map(drop) } else { fs::remove_file(&mark) };
        match done {
            Err(error) if !on && error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map_err(|source| StoreError::Io { what: "change the maintenance mark", path: mark, source }),
        }
    }

    fn maintenance_mark(&self) -> PathBuf {
        self.path.with_file_name("maintenance")
    }

    /// Writes `revision` so that it survives a power cut from the moment this returns.
    pub fn write(&self, revision: &Revision) -> Result<(), StoreError> {
        replace(&self.path, revision)
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Found<T>, StoreError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Empty),
        Err(source) => return Err(StoreError::Io { what: "read", path: path.to_owned(), source }),
    };
    match serde_json::from_slice(&bytes) {
        Ok(kept) => Ok(Found::Kept(kept)),
        Err(error) => {
            let aside = path.with_extension("json.unreadable");
            fs::rename(path, &aside).map_err(|source| StoreError::Io {
                what: "set aside the unreadable",
                path: path.to_owned(),
                source,
            })?;
            Ok(Found::SetAside(aside, error.to_string()))
        }
    }
}

fn replace(path: &Path, kept: &impl Serialize) -> Result<(), StoreError> {
    replace_file(path, &serde_json::to_vec_pretty(kept).expect("what is kept is plain data"))
}

/// Replaces a file as a whole, so that the new one survives a power cut from the moment this returns.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    let io = |what, path: &Path| {
        let path = path.to_path_buf();
        move |source| StoreError::Io { what, path, source }
    };
    // It has private keys. What a crash left may have any mode; a new file has this one from its first byte.
    let _ = fs::remove_file(&fresh);
    let created = File::options().write(true).create_new(true).mode(0o600).open(&fresh);
    let mut file = created.map_err(io("create", &fresh))?;
    file.write_all(bytes).map_err(io("write", &fresh))?;
    file.sync_all().map_err(io("sync", &fresh))?;
    fs::rename(&fresh, path).map_err(io("replace", path))?;
    let dir = path.parent().expect("the path was joined to a directory");
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("sync the directory", dir))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn store(name: &str) -> (PathBuf, Store) {
        let dir = std::env::temp_dir().join(format!("lbnode-store-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let store = Store::open(&dir).expect("a temporary directory");
        (dir, store)
    }

    #[test]
    fn what_was_written_is_read_again() {
        let (dir, store) = store("round-trip");
        assert_eq!(store.read().expect("readable"), Found::Empty);
        for number in 1..4 {
            let files = [(format!("/etc/{number}.lst"), "10.0.0.1\n".into())].into();
            let revision = Revision { number, text: format!("# revision {number}\n"), files };
            store.write(&revision).expect("writable");
            assert_eq!(store.read().expect("readable"), Found::Kept(revision));
        }
        let mode = fs::metadata(&store.path).expect("written").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "it may have private keys");
        fs::remove_dir_all(dir).expect("ours");
    }

    #[test]
    fn a_revision_without_files_is_its_text_and_any_file_makes_it_another() {
        let revision = |content: &str| {
            let files = (!content.is_empty()).then(|| ("/etc/a".to_owned(), content.into()));
            Revision { number: 1, text: "abc".into(), files: files.into_iter().collect() }.digest()
        };
        assert_eq!(revision(""), config::digest("abc"));
        let (one, other) = (revision("10.0.0.1"), revision("10.0.0.2"));
        assert_ne!(one, other);
        assert_ne!(one, revision(""));
        let before: Revision = serde_json::from_str(r#"{"number":1,"text":"abc"}"#).expect("what was written before");
        assert_eq!(before.digest(), revision(""));
    }

    #[test]
    fn what_was_changed_of_lists_lies_beside_the_revision() {
        let (dir, store) = store("lists");
        assert_eq!(store.lists().expect("readable"), Found::Empty);
        let text = r#"{"admins":{"added":["192.0.2.1/32"],"removed":["10.0.0.0/8"]}}"#;
        let overlay: Overlay = serde_json::from_str(text).expect("its form");
        store.set_lists(&overlay).expect("writable");
        assert_eq!(Store::open(&dir).expect("there").lists().expect("readable"), Found::Kept(overlay));
        assert_eq!(store.read().expect("readable"), Found::Empty);
        fs::remove_dir_all(dir).expect("ours");
    }

    #[test]
    fn maintenance_is_remembered_and_may_be_said_twice() {
        let (dir, store) = store("maintenance");
        for on in [false, true, true, false, false] {
            store.set_maintenance(on).expect("writable");
            assert_eq!(Store::open(&dir).expect("there").maintenance(), on);
        }
        fs::remove_dir_all(dir).expect("ours");
    }

    #[test]
    fn an_unreadable_file_is_set_aside_and_kept() {
        let (dir, store) = store("torn");
        fs::write(&store.path, b"{\"number\": 3, \"te").expect("writable");
        let Found::SetAside(aside, _) = store.read().expect("readable") else { panic!("it was taken for good") };
        assert_eq!(fs::read(aside).expect("kept"), b"{\"number\": 3, \"te");
        assert_eq!(store.read().expect("readable"), Found::Empty);
        fs::remove_dir_all(dir).expect("ours");
    }
}
