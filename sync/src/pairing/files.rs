//! The files of a pairing: each replaced as a whole, private, and checked when it is read.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::{Identity, PairingError, Peer, Pin, check_name};

const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";
const NEXT_CERTIFICATE: &str = "next-certificate.pem";
const NEXT_KEY: &str = "next-key.pem";
const PEER: &str = "peer";

/// Nothing of ours is longer, in bytes.
const MAX_FILE: u64 = 16 << 10;
const PEER_HEAD: &str = "# The peer that this node trusts; written by lbnode.";
const PEER_END: &str = "end";
const JOIN_AGAIN: &str =
    "remove it and run `lbnode pair join` again, with what `lbnode pair show` prints on the other node";
const INIT_AGAIN: &str = "restore both from a backup, or remove the folder and pair this node anew with \
                          `lbnode pair init`";

#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(path: &Path) -> Folder {
        Folder(path.to_owned())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The current identity and the next one.
    pub(super) fn read_identities(&self) -> Result<(Option<Identity>, Option<Identity>), PairingError> {
        let [key, next_key] = [self.read(KEY)?, self.read(NEXT_KEY)?];
        let [certificate, next_certificate] = [self.read(CERTIFICATE)?, self.read(NEXT_CERTIFICATE)?];
        // A crash may have left a part of the next one: it was never used, and a new one is made over it.
        let next = next_certificate.clone().zip(next_key).and_then(|(cert, key)| Identity::from_pem(cert, key).ok());
        // The key was replaced and its certificate was not.
        let half = |key: &String| next_certificate.clone().and_then(|cert| Identity::from_pem(cert, key.clone()).ok());
        let current = match (certificate, key) {
            // A key without a certificate was never shown to anybody.
            (None, None) => None,
            (None, Some(key)) => half(&key),
            (Some(certificate), Some(key)) => match Identity::from_pem(certificate, key.clone()) {
                Ok(identity) => Some(identity),
                Err(why) => Some(half(&key).ok_or_else(|| self.unreadable(CERTIFICATE, why, INIT_AGAIN))?),
            },
            (Some(_), None) => {
                return Err(self.unreadable(CERTIFICATE, "has no key.pem beside it".into(), INIT_AGAIN));
            }
        };
        Ok((current, next))
    }

    /// The identity whose key was put in place and whose certificate was not, if there is one.
    pub(super) fn half_promoted(&self) -> Result<Option<Identity>, PairingError> {
        let (key, next) = (self.read(KEY)?, self.read(NEXT_CERTIFICATE)?);
        Ok(next.zip(key).and_then(|(certificate, key)| Identity::from_pem(certificate, key).ok()))
    }

    pub(super) fn write_next(&self, identity: &Identity) -> Result<(), PairingError> {
        let pem = identity.pem();
        self.write(NEXT_KEY, &pem.key)?;
        self.write(NEXT_CERTIFICATE, &pem.certificate)
    }

    /// The next identity becomes the current one; may be called again after it was cut in two.
    pub(super) fn promote(&self) -> Result<(), PairingError> {
        self.rename(NEXT_KEY, KEY)?;
        self.rename(NEXT_CERTIFICATE, CERTIFICATE)
    }

    pub(super) fn remove_next(&self) -> Result<(), PairingError> {
        for name in [NEXT_CERTIFICATE, NEXT_KEY] {
            let path = self.0.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done.map_err(|source| PairingError::Io { what: "remove", path, source })?,
            }
        }
        self.sync()
    }

    pub(super) fn read_peer(&self) -> Result<Option<Peer>, PairingError> {
        let Some(text) = self.read(PEER)? else { return Ok(None) };
        parse_peer(&text).map(Some).map_err(|why| self.unreadable(PEER, why, JOIN_AGAIN))
    }

    pub(super) fn write_peer(&self, peer: &Peer) -> Result<(), PairingError> {
        self.write(PEER, &render_peer(peer))
    }

    fn unreadable(&self, name: &str, why: String, remedy: &'static str) -> PairingError {
        PairingError::Unreadable { path: self.0.join(name), why, remedy }
    }

    fn read(&self, name: &str) -> Result<Option<String>, PairingError> {
        let path = self.0.join(name);
        let mut text = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut text));
        match read {
            Ok(_) if text.len() as u64 > MAX_FILE => {
                let remedy = if name == PEER { JOIN_AGAIN } else { INIT_AGAIN };
                Err(self.unreadable(name, format!("is longer than {MAX_FILE} bytes"), remedy))
            }
            // What is no text fails where its content is looked at, with the same words as other garbage.
            Ok(_) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PairingError::Io { what: "read", path, source }),
        }
    }

    /// Replaces a file so that it is the old one or the new one, whenever the power goes.
    fn write(&self, name: &str, text: &str) -> Result<(), PairingError> {
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |source| PairingError::Io { what, path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0).map_err(io("make the folder", &self.0))?;
        let fresh = self.0.join(format!("{name}.new"));
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done.map_err(io("remove", &fresh))?,
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh).map_err(io("create", &fresh))?;
        file.write_all(text.as_bytes()).map_err(io("write", &fresh))?;
        file.sync_all().map_err(io("sync", &fresh))?;
        let path = self.0.join(name);
        fs::rename(&fresh, &path).map_err(io("replace", &path))?;
        self.sync()
    }

    /// What is not there any more was renamed before.
    fn rename(&self, from: &str, to: &str) -> Result<(), PairingError> {
        let path = self.0.join(to);
        match fs::rename(self.0.join(from), &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.exists() => Ok(()),
            done => done.map_err(|source| PairingError::Io { what: "replace", path, source }),
        }?;
        self.sync()
    }

    fn sync(&self) -> Result<(), PairingError> {
        File::open(&self.0).and_then(|folder| folder.sync_all()).map_err(|source| PairingError::Io {
            what: "sync the folder",
            path: self.0.clone(),
            source,
        })
    }
}

fn render_peer(peer: &Peer) -> String {
    let pins: String = peer.pins.iter().map(|pin| format!("pin {pin}\n")).collect();
    format!("{PEER_HEAD}\nname {}\n{pins}{PEER_END}\n", peer.name)
}

/// The last line tells a whole file from a torn one.
fn parse_peer(text: &str) -> Result<Peer, String> {
    let (mut name, mut pins, mut ended) = (None, Vec::new(), false);
    for (at, line) in text.lines().enumerate() {
        let bad = |why: String| format!("makes no sense in line {}: {why}", at + 1);
        match line.split_once(' ') {
            _ if ended => return Err(bad("it is behind the end".into())),
            _ if line.starts_with('#') => {}
            Some(("name", value)) if name.is_none() => {
                check_name(value).map_err(|error| bad(error.to_string()))?;
                name = Some(value.to_owned());
            }
            Some(("pin", value)) => {
                let pin: Pin = value.parse().map_err(|error| bad(format!("{error}")))?;
                pins.push(pin);
            }
            None if line == PEER_END => ended = true,
            _ => return Err(bad("neither name nor pin".into())),
        }
    }
    match (name, pins.len(), ended) {
        (Some(name), 1..=2, true) => Ok(Peer { name, pins }),
        (_, _, false) => Err("is torn: its last line is missing".into()),
        (None, ..) => Err("names no node".into()),
        (_, count, _) => Err(format!("has {count} pins, not one or two")),
    }
}
