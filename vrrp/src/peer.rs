//! The signed datagrams between the two nodes, as a pure thing: bytes in, heartbeats out, and the other way round.
//!
//! ```text
//!   "lb" · version · key id (4) · sequence (8) · bincode of the heartbeat · HMAC-SHA256 over all before it (32)
//! ```
//! The same bytes go over every path. The first copy counts; each path's own newest copy shows that the path is alive.
//! Sequences only grow, so a recorded datagram is refused on the path that it came over, and on another one is no news.

use std::collections::BTreeSet;
use std::time::Duration;

use bincode::config::{BigEndian, Configuration, Limit, Varint};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::heartbeat::Claim;
use crate::types::Time;

/// The longest datagram: fits any link without fragments (RFC 8200 §5: 1280 bytes, less IPv6 and UDP headers).
pub const MAX_DATAGRAM: usize = 1232;
/// VIPs in one datagram; more of them go into several.
const MAX_CLAIMS: usize = 24;
/// How long the keys before the newest are still good, for what is on its way.
const OLD_KEYS: Duration = Duration::from_secs(10);

const MAGIC: [u8; 3] = *b"lb\x01";
const HEAD: usize = MAGIC.len() + 4 + 8;
const TAG: usize = 32;
const CODEC: Configuration<BigEndian, Varint, Limit<MAX_DATAGRAM>> =
    bincode::config::standard().with_big_endian().with_limit::<MAX_DATAGRAM>();

/// The keys of one session of the sync channel, one for each direction.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// Names them on the wire.
    pub id: u32,
    /// Signs what we send.
    pub send: [u8; 32],
    /// Verifies what we receive.
    pub receive: [u8; 32],
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("id", &self.id).finish_non_exhaustive()
    }
}

/// One datagram's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Heartbeat {
    /// The highest sequence that we accepted: the sender need not repeat what came before it.
    ack: u64,
    /// Which one of those that were sent together; the first is 0.
    part: u16,
    claims: Vec<Claim>,
}

/// Why a datagram is not obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too short, too long, or another protocol or version.
    #[error("it is no heartbeat of this version")]
    Foreign,
    /// No session of ours made these keys, or it is too long ago.
    #[error("its keys (id {0:08x}) are not, or no more, ours")]
    UnknownKey(u32),
    /// The signature is wrong.
    #[error("its signature is wrong")]
    Forged,
    /// Nothing newer than what came over that path before.
    #[error("it was received before, or a newer one was")]
    Replayed,
    /// The signature is right and the content is not: another version of lbnode.
    #[error("its content cannot be read: do both nodes run the same version?")]
    Malformed,
}

impl Refused {
    /// The name of its counter.
    pub fn name(self) -> &'static str {
        match self {
            Refused::Foreign => "foreign",
            Refused::UnknownKey(_) => "unknown_key",
            Refused::Forged => "forged",
            Refused::Replayed => "replayed",
            Refused::Malformed => "malformed",
        }
    }
}

/// What is known of one set of keys.
#[derive(Clone, Debug)]
struct Window {
    keys: Keys,
    /// The highest sequence accepted from each path.
    newest: Vec<u64>,
    /// The first sequence of the newest heartbeat, and which of its parts have come over any path.
    beat: u64,
    parts: BTreeSet<u16>,
    /// Good until then; `None`: the newest keys.
    until: Option<Time>,
}

impl Window {
    fn highest(&self) -> u64 {
        self.newest.iter().copied().max().unwrap_or_default()
    }

    /// Notes that this part came; whether it is the first copy, and belongs to the newest heartbeat.
    fn is_news(&mut self, beat: u64, part: u16) -> bool {
        if beat > self.beat {
            self.beat = beat;
            self.parts.clear();
        }
        beat == self.beat && self.parts.insert(part)
    }
}

/// Signs, verifies, and remembers what came.
#[derive(Clone, Debug)]
pub struct Peer {
    paths: usize,
    /// The newest keys first; two at most.
    windows: Vec<Window>,
    sequence: u64,
    /// The highest sequence of ours that the peer has seen.
    acknowledged: u64,
}

impl Peer {
    /// Without keys yet: nothing can be sent, nothing is believed.
    pub fn new(paths: usize) -> Peer {
        Peer { paths, windows: Vec::new(), sequence: 0, acknowledged: 0 }
    }

    /// A new session has made new keys. Those that are known already keep what is known of them.
    pub fn rekey(&mut self, keys: Keys, now: Time) {
        let window = match self.windows.iter().position(|window| window.keys == keys) {
            Some(0) => return,
            Some(old) => Window { until: None, ..self.windows.remove(old) },
            None => Window { keys, newest: vec![0; self.paths], beat: 0, parts: BTreeSet::new(), until: None },
        };
        self.windows.retain(|other| other.keys.id != window.keys.id);
        self.windows.truncate(1);
        for old in &mut self.windows {
            old.until = Some(now + OLD_KEYS);
        }
        self.windows.insert(0, window);
    }

    /// The name of the keys to sign with; `None`: there are none yet.
    pub fn key_id(&self) -> Option<u32> {
        self.windows.first().map(|window| window.keys.id)
    }

    /// The highest sequence that was sent.
    pub fn sent(&self) -> u64 {
        self.sequence
    }

    /// The highest sequence of ours that the peer says it has seen.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The datagrams that tell these claims: none without keys, else one at least.
    pub fn datagrams(&mut self, claims: &[Claim]) -> Vec<Vec<u8>> {
        let first = self.sequence + 1;
        let ack = self.windows.first().map_or(0, Window::highest);
        let datagrams = self.sign(claims, first, ack);
        self.sequence += datagrams.len() as u64;
        datagrams
    }

    /// The last words of this session, to be said by somebody else when we are dead: nothing that is
    /// signed with these keys is believed after them.
    pub fn last_words(&self, claims: &[Claim]) -> Vec<Vec<u8>> {
        // Room behind them, for the count of datagrams goes one further than the last.
        if claims.is_empty() { Vec::new() } else { self.sign(claims, u64::MAX - 1 - claims.len() as u64, 0) }
    }

    fn sign(&self, claims: &[Claim], first: u64, ack: u64) -> Vec<Vec<u8>> {
        let Some(window) = self.windows.first() else { return Vec::new() };
        let nothing: [&[Claim]; 1] = [&[]];
        let chunks: Vec<&[Claim]> =
            if claims.is_empty() { nothing.to_vec() } else { claims.chunks(MAX_CLAIMS).collect() };
        let seal = |(part, claims)| seal(&window.keys, first, part, ack, claims);
        (0..=u16::MAX).zip(chunks).map(seal).collect()
    }

    /// Reads one datagram that came over a path. `Ok(None)`: good, and the same came over another path before.
    ///
    /// # Errors
    /// Why it is not obeyed.
    pub fn open(&mut self, path: usize, datagram: &[u8], now: Time) -> Result<Option<Vec<Claim>>, Refused> {
        self.windows.retain(|window| window.until.is_none_or(|until| until > now));
        let foreign = datagram.len() > MAX_DATAGRAM || datagram.len() < HEAD + TAG || !datagram.starts_with(&MAGIC);
        if foreign || path >= self.paths {
            return Err(Refused::Foreign);
        }
        let (signed, tag) = datagram.split_at(datagram.len() - TAG);
        let (head, body) = signed.split_at(HEAD);
        let id = u32::from_be_bytes(head[3..7].try_into().expect("four bytes"));
        let sequence = u64::from_be_bytes(head[7..HEAD].try_into().expect("eight bytes"));
        let position = self.windows.iter().position(|window| window.keys.id == id).ok_or(Refused::UnknownKey(id))?;
        let window = &mut self.windows[position];
        mac(&window.keys.receive, signed).verify_slice(tag).map_err(|_| Refused::Forged)?;
        if sequence <= window.newest[path] {
            return Err(Refused::Replayed);
        }
        let (heartbeat, used): (Heartbeat, usize) =
            bincode::serde::decode_from_slice(body, CODEC).map_err(|_| Refused::Malformed)?;
        if used != body.len() {
            return Err(Refused::Malformed);
        }
        let beat = sequence.checked_sub(heartbeat.part.into()).ok_or(Refused::Malformed)?;
        window.newest[path] = sequence;
        let news = window.is_news(beat, heartbeat.part);
        // Under old keys only what is still on its way: the newest keys know better.
        let current = position == 0 || self.windows[0].highest() == 0;
        if !news || !current {
            return Ok(None);
        }
        self.acknowledged = self.acknowledged.max(heartbeat.ack.min(self.sequence));
        Ok(Some(heartbeat.claims))
    }
}

fn seal(keys: &Keys, first: u64, part: u16, ack: u64, claims: &[Claim]) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(256);
    datagram.extend_from_slice(&MAGIC);
    datagram.extend_from_slice(&keys.id.to_be_bytes());
    datagram.extend_from_slice(&(first + u64::from(part)).to_be_bytes());
    let heartbeat = Heartbeat { ack, part, claims: claims.to_vec() };
    let body = bincode::serde::encode_to_vec(&heartbeat, CODEC).expect("numbers and addresses always encode");
    datagram.extend_from_slice(&body);
    let tag = mac(&keys.send, &datagram).finalize().into_bytes();
    datagram.extend_from_slice(&tag);
    datagram
}

fn mac(key: &[u8; 32], message: &[u8]) -> Hmac<Sha256> {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes a key of any length (RFC 2104 §2)");
    mac.update(message);
    mac
}
