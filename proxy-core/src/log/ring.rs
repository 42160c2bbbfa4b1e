//! A worker's lines on their way to the writer: a ring with one producer and one consumer, who never wait for each other.
//!
//! Made of atomic words, so that no `unsafe` is needed: on the machines we run on their loads and stores are plain ones.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst};

/// Words in a ring: 1 MiB, some five thousand lines. A writer that sleeps is woken when half of them are used.
const WORDS: u64 = 1 << 17;
/// Bytes of the longest line; a longer one is dropped. Request lines are cut long before, names are short.
pub(super) const LONGEST: usize = 32 << 10;

/// One entry is a word of sink and length, and the line's bytes.
#[derive(Debug, Default)]
pub(super) struct Ring {
    /// Made when the first line comes: most frontends of most people log, but not all.
    words: OnceLock<Box<[AtomicU64]>>,
    written: Position,
    read: Position,
}

/// Words ever written or read, in a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Position(AtomicU64);

impl Ring {
    /// Producer: whether there was room. `seen` is the producer's memory of how far the consumer was.
    pub(super) fn push(&self, sink: u32, line: &[u8], seen: &mut u64) -> bool {
        if line.len() > LONGEST {
            return false;
        }
        let words = self.words.get_or_init(|| (0..WORDS).map(|_| AtomicU64::new(0)).collect());
        let mut at = self.written.0.load(Relaxed);
        let end = at + 1 + line.len().div_ceil(8) as u64;
        if end - *seen > WORDS {
            *seen = self.read.0.load(Acquire);
            if end - *seen > WORDS {
                return false;
            }
        }
        let mut put = |word: u64| {
            words[(at % WORDS) as usize].store(word, Relaxed);
            at += 1;
        };
        put(u64::from(sink) << 32 | line.len() as u64);
        let (whole, rest) = line.as_chunks::<8>();
        whole.iter().for_each(|chunk| put(u64::from_le_bytes(*chunk)));
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            put(u64::from_le_bytes(last));
        }
        // In one order with the writer's decision to sleep.
        self.written.0.store(end, SeqCst);
        true
    }

    /// Consumer: where what is there now ends.
    pub(super) fn end(&self) -> u64 {
        self.written.0.load(SeqCst)
    }

    /// Consumer: every line up to an [`Ring::end`], with its sink. Whether there was one.
    pub(super) fn drain(&self, end: u64, line: &mut Vec<u8>, mut take: impl FnMut(u32, &[u8])) -> bool {
        let begin = self.read.0.load(Relaxed);
        let Some(words) = self.words.get().filter(|_| begin < end) else { return false };
        let mut at = begin;
        while at < end {
            let head = words[(at % WORDS) as usize].load(Relaxed);
            let length = (head & u64::from(u32::MAX)) as usize;
            let after = at + 1 + length.div_ceil(8) as u64;
            line.clear();
            for index in at + 1..after {
                line.extend_from_slice(&words[(index % WORDS) as usize].load(Relaxed).to_le_bytes());
            }
            line.truncate(length);
            take((head >> 32) as u32, line);
            at = after;
            // At once: what the producer may not use yet is as good as lost to it.
            self.read.0.store(at, Release);
        }
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.end() == self.read.0.load(Relaxed)
    }

    pub(super) fn half_full(&self) -> bool {
        self.written.0.load(Relaxed) - self.read.0.load(Relaxed) > WORDS / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(ring: &Ring) -> Vec<(u32, Vec<u8>)> {
        let mut lines = Vec::new();
        ring.drain(ring.end(), &mut Vec::new(), |sink, line| lines.push((sink, line.to_vec())));
        lines
    }

    #[test]
    fn lines_of_every_length_come_out_as_they_went_in() {
        let (ring, mut seen) = (Ring::default(), 0);
        assert_eq!(drained(&ring), []);
        for round in 0..200 {
            let lines: Vec<_> =
                (0..40usize).map(|length| (length as u32, vec![b'a' + round % 26; length * 37])).collect();
            for (sink, line) in &lines {
                assert!(ring.push(*sink, line, &mut seen));
            }
            assert_eq!(drained(&ring), lines);
            assert!(ring.is_empty());
        }
    }

    #[test]
    fn a_full_ring_refuses_and_has_room_again_after_a_drain() {
        let (ring, mut seen) = (Ring::default(), 0);
        let line = [b'x'; 240];
        let mut taken = 0;
        while ring.push(7, &line, &mut seen) {
            taken += 1;
        }
        assert_eq!(taken, WORDS / 31);
        assert!(ring.half_full());
        assert!(!ring.push(7, &line, &mut seen));
        assert_eq!(drained(&ring).len() as u64, taken);
        assert!(ring.push(7, &line, &mut seen));
    }

    #[test]
    fn a_line_that_is_too_long_is_refused() {
        let (ring, mut seen) = (Ring::default(), 0);
        assert!(ring.push(0, &vec![0; LONGEST], &mut seen));
        assert!(!ring.push(0, &vec![0; LONGEST + 1], &mut seen));
    }

    #[test]
    fn a_producer_and_a_consumer_at_once_lose_and_mix_up_nothing() {
        const LINES: u32 = 300_000;
        let ring = Ring::default();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut seen = 0;
                for number in 0..LINES {
                    let line = vec![(number % 251) as u8; (number % 300) as usize];
                    while !ring.push(number, &line, &mut seen) {
                        std::thread::yield_now();
                    }
                }
            });
            let (mut next, mut scratch) = (0, Vec::new());
            while next < LINES {
                let more = ring.drain(ring.end(), &mut scratch, |number, line| {
                    assert_eq!(number, next);
                    assert_eq!(line.len(), (number % 300) as usize);
                    assert!(line.iter().all(|byte| *byte == (number % 251) as u8));
                    next += 1;
                });
                if !more {
                    std::thread::yield_now();
                }
            }
        });
    }
}
