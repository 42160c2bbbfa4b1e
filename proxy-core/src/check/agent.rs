//! What a server says of itself (HAProxy's `agent-check`): a line that changes its weight and its state.
//!
//! An agent that says nothing changes nothing: whether the server is there is the other check's matter.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::line::{First, Sockets};
use super::probe::{excerpt, words};
use crate::plan::{AgentCheck, MAX_WEIGHT};

/// Longest line that is read.
const LINE: usize = 1024;

/// What a server's agent has made of it; everything as configured until it says otherwise.
#[derive(Debug)]
pub(crate) struct Said(AtomicU32);

/// The same, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Of the configured weight.
    percent: u16,
    /// It keeps the clients that it has.
    pub(crate) drain: bool,
    /// Out of service, on purpose.
    pub(crate) maintenance: bool,
    /// Out of service, by accident.
    pub(crate) down: bool,
}

impl Default for Said {
    fn default() -> Said {
        Said(AtomicU32::new(Standing::PLAIN.packed()))
    }
}

impl Said {
    pub(crate) fn standing(&self) -> Standing {
        Standing::unpacked(self.0.load(SeqCst))
    }

    /// Whether that is news.
    pub(crate) fn set(&self, standing: Standing) -> bool {
        self.0.swap(standing.packed(), SeqCst) != standing.packed()
    }

    /// Everything is as configured again; whether it wasn't.
    pub(crate) fn forget(&self) -> bool {
        self.set(Standing::PLAIN)
    }
}

impl Standing {
    const PLAIN: Standing = Standing { percent: 100, drain: false, maintenance: false, down: false };

    fn packed(self) -> u32 {
        let flag = |on, bit| u32::from(on) << bit;
        u32::from(self.percent) | flag(self.drain, 16) | flag(self.maintenance, 17) | flag(self.down, 18)
    }

    fn unpacked(packed: u32) -> Standing {
        let flag = |bit: u32| packed >> bit & 1 == 1;
        let [low, high, ..] = packed.to_le_bytes();
        Standing { percent: u16::from_le_bytes([low, high]), drain: flag(16), maintenance: flag(17), down: flag(18) }
    }

    /// What the server is given of its configured weight.
    pub(crate) fn percent(self) -> u16 {
        if self.drain { 0 } else { self.percent }
    }

    /// After what the agent says: words between blanks, tabs and commas; what follows `#` is for people. `None`: a word
    /// that means nothing, and then none of them counts.
    fn after(mut self, line: &str) -> Option<Standing> {
        let line = line.split('#').next().unwrap_or_default();
        let mut any = false;
        for word in line.split([' ', '\t', ',']).filter(|word| !word.is_empty()) {
            any = true;
            match word.to_ascii_lowercase().as_str() {
                "up" => self.down = false,
                "down" | "stopped" | "fail" | "failed" => self.down = true,
                "ready" => (self.drain, self.maintenance) = (false, false),
                "drain" => (self.drain, self.maintenance) = (true, false),
                "maint" => (self.drain, self.maintenance) = (false, true),
                word => self.percent = percent(word)?,
            }
        }
        any.then_some(self)
    }
}

/// `75%`; over 100 % is allowed.
fn percent(word: &str) -> Option<u16> {
    let digits = word.strip_suffix('%')?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u16::MAX).min(MAX_WEIGHT * 100))
}

/// Asks an agent: where the server stands then, and in which words it said so.
///
/// # Errors
/// Why nothing came of it, in words.
pub(super) async fn ask(
    sockets: &Sockets,
    address: SocketAddr,
    agent: &AgentCheck,
    standing: Standing,
) -> Result<(Standing, String), String> {
    let said = timeout(agent.timeout, hear(sockets, address, &agent.send)).await;
    let said = said.map_err(|_| format!("no answer within {:?}", agent.timeout))?.map_err(|error| words(&error))?;
    let line = String::from_utf8_lossy(&said);
    let line = line.trim();
    match standing.after(line) {
        Some(standing) => Ok((standing, excerpt(line.as_bytes()))),
        None => Err(format!("said `{}`, which means nothing", excerpt(line.as_bytes()))),
    }
}

async fn hear(sockets: &Sockets, address: SocketAddr, send: &str) -> io::Result<Vec<u8>> {
    let mut stream = sockets.begin(address, if send.is_empty() { First::They } else { First::We })?;
    stream.opened().await?;
    stream.write_all(send.as_bytes()).await?;
    let mut said = Vec::new();
    let end = |said: &[u8]| memchr::memchr2(b'\n', b'\r', said);
    while end(&said).is_none() && said.len() < LINE {
        if (&mut stream).take((LINE - said.len()) as u64).read_buf(&mut said).await? == 0 {
            break;
        }
    }
    said.truncate(end(&said).unwrap_or(said.len()));
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::share;

    fn after(lines: &[&str]) -> Option<Standing> {
        lines.iter().try_fold(Standing::PLAIN, |standing, line| standing.after(line))
    }

    #[test]
    fn words_change_weight_and_state_and_stay_until_they_are_taken_back() {
        let standing = Standing::PLAIN;
        assert_eq!(after(&["75%"]), Some(Standing { percent: 75, ..standing }));
        assert_eq!(after(&["drain"]), Some(Standing { drain: true, ..standing }));
        assert_eq!(after(&["drain", "up 50%"]), Some(Standing { drain: true, percent: 50, ..standing }));
        assert_eq!(after(&["maint", "ready"]), Some(standing));
        assert_eq!(after(&["DOWN # disk full, 3%"]), Some(Standing { down: true, ..standing }));
        assert_eq!(after(&["down", "up,ready 100%"]), Some(standing));
        assert_eq!(after(&["down"]).map(|standing| Standing::unpacked(standing.packed())), after(&["down"]));
    }

    #[test]
    fn what_means_nothing_changes_nothing() {
        for line in ["", "#up", "HTTP/1.1 400 Bad Request", "-5%", "%", "5 %", "up sideways", "\u{fffd}"] {
            assert_eq!(after(&[line]), None, "{line:?}");
        }
    }

    #[test]
    fn a_part_of_a_weight_is_rounded_up_and_has_its_bounds() {
        let weight = |line: &str| after(&[line]).expect("it means something").percent();
        let weight = |line: &str, configured| share(configured, weight(line));
        assert_eq!([weight("50%", 3), weight("1%", 1), weight("0%", 10), weight("drain", 10)], [2, 1, 0, 0]);
        assert_eq!([weight("200%", 100), weight("99999999%", 100), weight("300%", 0)], [200, 256, 0]);
    }
}
