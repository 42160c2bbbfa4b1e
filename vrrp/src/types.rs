//! The small values of the protocol, checked when they are made.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point of the monotonic clock, in microseconds since an origin that the caller chose.
///
/// The election never reads a clock: whoever drives it says what time it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(pub u64);

impl Time {
    /// How long ago `earlier` was; zero if it is in the future.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, rhs: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(rhs.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Time {
    type Output = Duration;
    fn sub(self, rhs: Time) -> Duration {
        self.since(rhs)
    }
}

/// A value that the protocol has no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfRange {
    /// RFC 9568 §5.2.3.
    #[error("a VRID is a number from 1 to 255, not {0}")]
    Vrid(i64),
    /// RFC 9568 §5.2.4; 255 is the address owner's and 0 releases.
    #[error("a priority is a number from 1 to 254, not {0}")]
    Priority(i64),
    /// RFC 9568 §5.2.7: twelve bits of centiseconds, and zero is discarded.
    #[error("an advert interval is a multiple of 10ms from 10ms to 40950ms, not {0:?}")]
    Interval(Duration),
}

/// Virtual router identifier, 1 to 255, unique per interface and address family (RFC 9568 §5.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Vrid(u8);

impl Vrid {
    /// The number on the wire.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<i64> for Vrid {
    type Error = OutOfRange;
    fn try_from(value: i64) -> Result<Self, OutOfRange> {
        match u8::try_from(value) {
            Ok(vrid @ 1..) => Ok(Vrid(vrid)),
            _ => Err(OutOfRange::Vrid(value)),
        }
    }
}

impl From<Vrid> for i64 {
    fn from(vrid: Vrid) -> i64 {
        i64::from(vrid.0)
    }
}

impl fmt::Display for Vrid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A configured priority, 1 to 254: the higher one is preferred (RFC 9568 §5.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Priority(u8);

impl Priority {
    /// The number on the wire.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<i64> for Priority {
    type Error = OutOfRange;
    fn try_from(value: i64) -> Result<Self, OutOfRange> {
        match u8::try_from(value) {
            Ok(priority @ 1..=254) => Ok(Priority(priority)),
            _ => Err(OutOfRange::Priority(value)),
        }
    }
}

impl From<Priority> for i64 {
    fn from(priority: Priority) -> i64 {
        i64::from(priority.0)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The advertisement interval: 1 to 4095 centiseconds (RFC 9568 §5.2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Interval(u16);

impl Interval {
    /// From the twelve bits of a packet; zero is no interval (erratum 8301).
    pub fn from_centiseconds(centiseconds: u16) -> Option<Interval> {
        (1..=0x0fff).contains(&centiseconds).then_some(Interval(centiseconds))
    }

    /// The twelve bits of a packet.
    pub fn centiseconds(self) -> u16 {
        self.0
    }

    /// As a length of time.
    pub fn duration(self) -> Duration {
        Duration::from_millis(u64::from(self.0) * 10)
    }
}

impl TryFrom<Duration> for Interval {
    type Error = OutOfRange;
    fn try_from(value: Duration) -> Result<Self, OutOfRange> {
        let exact = value.as_nanos().is_multiple_of(10_000_000);
        u16::try_from(value.as_millis() / 10)
            .ok()
            .filter(|_| exact)
            .and_then(Interval::from_centiseconds)
            .ok_or(OutOfRange::Interval(value))
    }
}
