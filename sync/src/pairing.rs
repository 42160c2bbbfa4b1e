//! Who this node is, and who its peer is: an identity (key and self-signed certificate), and the pins of the one
//! other certificate that is trusted.
//!
//! ```text
//!   identity/             0700
//!     key.pem             0600, ECDSA P-256, PKCS #8
//!     certificate.pem     0600, self-signed; its SHA-256 is the pin
//!     peer                0600, the peer's name and the pins that are accepted from it
//!     next-….pem          an identity that the peer is being told of (rotation)
//! ```
//! Every file is replaced as a whole and is on the disk when a function returns. The two files of an identity are
//! replaced one after the other, the key first: the certificate of a crash in between is still the next one.

mod files;
mod identity;
mod pin;

use std::io;
use std::path::{Path, PathBuf};

use files::Folder;

pub use identity::Identity;
pub(crate) use identity::provider;
pub use pin::{BadInvitation, BadName, Invitation, Pin, check_name};

/// Why an identity or the peer's pins could not be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum PairingError {
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
    /// A file is not what was written there.
    #[error("{} {why}; {remedy}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// What to do.
        remedy: &'static str,
    },
    /// There is no identity yet.
    #[error("this node has no identity in {}; make one with `lbnode pair init`", .0.display())]
    NoIdentity(PathBuf),
    /// Something else happened to it in the meantime.
    #[error("the next identity is not {0}, which was announced; rotate again")]
    NotStaged(Pin),
    /// There is one, and it would be lost.
    #[error("this node has an identity already, {0}; it would be lost")]
    AlreadyThere(Pin),
    /// The library could not make one.
    #[error("a new identity could not be made")]
    NotMade(#[source] rcgen::Error),
    /// The invitation is our own.
    #[error("that is this node's own invitation; it is for the other node, and this one needs the other one's")]
    Own,
    /// Another peer is trusted.
    #[error("this node is paired with {0} already; use --force to pair it with another one instead")]
    OtherPeer(Peer),
    /// There is no peer yet.
    #[error("this node has no peer; run `lbnode pair join` with what `lbnode pair init` printed on the other node")]
    NotPaired,
    /// A name cannot be a node's.
    #[error(transparent)]
    Name(#[from] BadName),
}

/// The other node, as far as it is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name: what it must call itself.
    pub name: String,
    /// Certificates that are accepted from it, oldest first: one, or two during a rotation.
    pub pins: Vec<Pin>,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pins: Vec<String> = self.pins.iter().map(|pin| pin.short()).collect();
        write!(f, "{} ({})", self.name, pins.join(", "))
    }
}

/// Whether something was done, or was so already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was done.
    Done,
    /// There was nothing to do.
    Already,
}

/// The folder with this node's identity and its peer. Files are read when it is opened and written when it changes.
#[derive(Debug)]
pub struct Pairing {
    folder: Folder,
    identity: Option<Identity>,
    next: Option<Identity>,
    peer: Option<Peer>,
}

impl Pairing {
    /// Reads what is in `folder`; nothing is written, and it need not exist.
    ///
    /// # Errors
    /// Files that cannot be read, and what cannot be used; each names the file and what to do.
    pub fn open(folder: &Path) -> Result<Pairing, PairingError> {
        let folder = Folder::new(folder);
        let (identity, next) = folder.read_identities()?;
        let peer = folder.read_peer()?;
        Ok(Pairing { folder, identity, next, peer })
    }

    /// Where the files are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// This node's identity, if it has one.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// The peer, if this node is paired.
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// What the other node has to be given to trust this one.
    pub fn invitation(&self, node: &str) -> Option<Result<Invitation, BadName>> {
        self.identity.as_ref().map(|identity| Invitation::new(node, identity.pin()))
    }

    /// Makes this node's identity.
    ///
    /// # Errors
    /// [`PairingError::AlreadyThere`] if there is one; [`Pairing::create_anew`] replaces it.
    pub fn create(&mut self, node: &str) -> Result<&Identity, PairingError> {
        match &self.identity {
            Some(identity) => Err(PairingError::AlreadyThere(identity.pin())),
            None => self.create_anew(node),
        }
    }

    /// Makes this node's identity, instead of the one it may have: the peer has to join again.
    pub fn create_anew(&mut self, node: &str) -> Result<&Identity, PairingError> {
        let pin = self.stage(node)?;
        self.promote(pin)
    }

    /// Trusts the node of an invitation from now on.
    ///
    /// # Errors
    /// [`PairingError::Own`]; [`PairingError::OtherPeer`] if another one, or another certificate, is trusted now.
    pub fn trust(&mut self, invitation: Invitation) -> Result<Change, PairingError> {
        match &self.peer {
            Some(peer) if peer.name == invitation.node() && peer.pins.contains(&invitation.pin()) => {
                Ok(Change::Already)
            }
            Some(peer) => Err(PairingError::OtherPeer(peer.clone())),
            None => self.trust_instead(invitation),
        }
    }

    /// Trusts the node of an invitation, and no longer the one that was trusted before.
    pub fn trust_instead(&mut self, invitation: Invitation) -> Result<Change, PairingError> {
        if self.identity.as_ref().is_some_and(|own| own.pin() == invitation.pin()) {
            return Err(PairingError::Own);
        }
        let peer = Peer { name: invitation.node().to_owned(), pins: vec![invitation.pin()] };
        if self.peer.as_ref() == Some(&peer) {
            return Ok(Change::Already);
        }
        self.write_peer(peer)?;
        Ok(Change::Done)
    }

    /// Rotation, first step: makes the next identity and keeps it beside the current one.
    pub fn stage(&mut self, node: &str) -> Result<Pin, PairingError> {
        self.settle()?;
        let made = Identity::generate(node)?;
        self.folder.write_next(&made)?;
        Ok(self.next.insert(made).pin())
    }

    /// Rotation, last step: the next identity, which has to be `pin`, becomes the current one.
    pub fn promote(&mut self, pin: Pin) -> Result<&Identity, PairingError> {
        let Some(next) = self.next.take_if(|next| next.pin() == pin) else {
            return Err(PairingError::NotStaged(pin));
        };
        if let Err(error) = self.folder.promote() {
            self.next = Some(next);
            return Err(error);
        }
        Ok(self.identity.insert(next))
    }

    /// Rotation given up: the next identity is forgotten.
    pub fn unstage(&mut self) -> Result<(), PairingError> {
        self.settle()?;
        self.folder.remove_next()?;
        self.next = None;
        Ok(())
    }

    /// The peer rotates: `next` is accepted beside `current`, and no other.
    pub fn accept_also(&mut self, current: Pin, next: Pin) -> Result<&Peer, PairingError> {
        let pins = if current == next { vec![current] } else { vec![current, next] };
        self.accept(pins)
    }

    /// The peer has rotated: only `pin` is accepted from now on.
    pub fn accept_only(&mut self, pin: Pin) -> Result<&Peer, PairingError> {
        self.accept(vec![pin])
    }

    fn accept(&mut self, pins: Vec<Pin>) -> Result<&Peer, PairingError> {
        let Some(peer) = &self.peer else { return Err(PairingError::NotPaired) };
        if peer.pins != pins {
            let name = peer.name.clone();
            self.write_peer(Peer { name, pins })?;
        }
        self.peer.as_ref().ok_or(PairingError::NotPaired)
    }

    fn write_peer(&mut self, peer: Peer) -> Result<(), PairingError> {
        self.folder.write_peer(&peer)?;
        self.peer = Some(peer);
        Ok(())
    }

    /// Ends a replacement that was cut in two, before anything is written over its second half.
    fn settle(&mut self) -> Result<(), PairingError> {
        if let Some(identity) = self.folder.half_promoted()? {
            self.folder.promote()?;
            self.identity = Some(identity);
            self.next = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
