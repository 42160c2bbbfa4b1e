//! Counts the frames of a connection, and says when it is a flood. Pure.
//!
//! Frames that cost us something and bring nobody anything have a measure by kind: so many at once, so many a second
//! later on. What we send gives some back: window updates and pings are how a client takes an answer. Sizes, memory and
//! the order of frames are h2's to check.

use std::time::Duration;

use tokio::time::Instant;

use crate::http::head::BadHttp2;

/// What a connection begins with (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What of it is the first line to who speaks HTTP/1.
pub(crate) const PREFACE_LINE: &[u8] = PREFACE.split_at(16).0;

/// CONTINUATION frames of one head: with frames of 16 KiB that is more than a head may be long (CVE-2024-27316).
const CONTINUATIONS: u32 = 5;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// `END_STREAM` of DATA and HEADERS, `ACK` of SETTINGS and PING.
const FLAG: u8 = 1;
const END_HEADERS: u8 = 4;

/// One direction, cut into frames.
#[derive(Debug)]
struct Frames {
    /// Bytes of the preface that are still to come.
    preface: usize,
    head: [u8; 13],
    have: usize,
    /// Bytes of the payload that are still to come.
    skip: usize,
}

/// What is known of a frame.
#[derive(Clone, Copy, Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    length: usize,
    /// Of RST_STREAM: why.
    code: u32,
}

impl Frames {
    fn new(preface: usize) -> Frames {
        Frames { preface, head: [0; 13], have: 0, skip: 0 }
    }

    /// The frames that begin in `bytes`.
    fn each(&mut self, mut bytes: &[u8], mut frame: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            for skipped in [&mut self.preface, &mut self.skip] {
                let count = (*skipped).min(bytes.len());
                *skipped -= count;
                bytes = &bytes[count..];
            }
            // The reason of a RST_STREAM is its payload.
            let wanted = if self.have >= 9 { 13 } else { 9 };
            let count = (wanted - self.have).min(bytes.len());
            self.head[self.have..self.have + count].copy_from_slice(&bytes[..count]);
            self.have += count;
            bytes = &bytes[count..];
            if self.have < wanted {
                continue;
            }
            let [a, b, c, kind, flags, _, _, _, _, code @ ..] = self.head;
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if kind == RST_STREAM && length >= 4 && wanted == 9 {
                continue;
            }
            self.skip = length - (wanted - 9);
            self.have = 0;
            frame(Frame { kind, flags, length, code: u32::from_be_bytes(code) });
        }
    }
}

/// A vessel that a frame fills and time empties.
#[derive(Debug)]
struct Measure {
    filled: u32,
    /// More than this at once is a flood.
    most: u32,
    a_second: u32,
    emptied: Instant,
}

impl Measure {
    fn new(most: u32, a_second: u32, now: Instant) -> Measure {
        Measure { filled: 0, most, a_second, emptied: now }
    }

    /// Whether one more is too much.
    fn one_more(&mut self, now: Instant) -> bool {
        let gone = now.saturating_duration_since(self.emptied).min(Duration::from_secs(60));
        let leaked = u32::try_from(gone.as_millis()).map_or(0, |millis| millis * self.a_second / 1000);
        if leaked > 0 {
            self.give_back(leaked);
            self.emptied = now;
        }
        self.filled += 1;
        self.filled > self.most
    }

    fn give_back(&mut self, count: u32) {
        self.filled = self.filled.saturating_sub(count);
    }
}

/// What a connection has cost.
#[derive(Debug)]
pub(super) struct Meter {
    incoming: Frames,
    outgoing: Frames,
    continuations: u32,
    resets: Measure,
    settings: Measure,
    pings: Measure,
    priorities: Measure,
    empty: Measure,
    windows: Measure,
    unknown: Measure,
    /// Streams that were ended for what their client sent, since [`Meter::take_malformed`].
    malformed: u64,
    flood: Option<BadHttp2>,
}

impl Meter {
    pub(super) fn new(now: Instant) -> Meter {
        let measure = |most, a_second| Measure::new(most, a_second, now);
        Meter {
            incoming: Frames::new(PREFACE.len()),
            outgoing: Frames::new(0),
            continuations: 0,
            // Whoever leaves a page of a hundred images resets a hundred streams (CVE-2023-44487).
            resets: measure(300, 100),
            settings: measure(20, 2),
            pings: measure(60, 10),
            priorities: measure(300, 50),
            empty: measure(100, 10),
            windows: measure(1000, 200),
            unknown: measure(300, 50),
            malformed: 0,
            flood: None,
        }
    }

    /// What is too much, if anything was.
    pub(super) fn flood(&self) -> Option<BadHttp2> {
        self.flood
    }

    pub(super) fn take_malformed(&mut self) -> u64 {
        std::mem::take(&mut self.malformed)
    }

    /// Counts what a client sent.
    pub(super) fn came(&mut self, bytes: &[u8], now: Instant) {
        let Meter { incoming, continuations, flood, .. } = self;
        let (resets, settings, pings) = (&mut self.resets, &mut self.settings, &mut self.pings);
        let (priorities, empty, windows, unknown) =
            (&mut self.priorities, &mut self.empty, &mut self.windows, &mut self.unknown);
        incoming.each(bytes, |frame| {
            let flagged = frame.flags & FLAG != 0;
            let (measure, why) = match frame.kind {
                HEADERS => {
                    *continuations = 0;
                    return;
                }
                CONTINUATION => {
                    *continuations += 1;
                    if *continuations > CONTINUATIONS && frame.flags & END_HEADERS == 0 {
                        flood.get_or_insert(BadHttp2::Continuations);
                    }
                    return;
                }
                // A pad length and the padding may be all that there is.
                DATA if frame.length == 0 && !flagged => (&mut *empty, BadHttp2::EmptyData),
                DATA | GOAWAY => return,
                SETTINGS | PING if flagged => return,
                RST_STREAM => (&mut *resets, BadHttp2::Resets),
                SETTINGS => (&mut *settings, BadHttp2::Settings),
                PING => (&mut *pings, BadHttp2::Pings),
                PRIORITY => (&mut *priorities, BadHttp2::Priorities),
                WINDOW_UPDATE => (&mut *windows, BadHttp2::WindowUpdates),
                _ => (&mut *unknown, BadHttp2::UnknownFrames),
            };
            if measure.one_more(now) {
                flood.get_or_insert(why);
            }
        });
    }

    /// Counts what went to the client.
    pub(super) fn went(&mut self, bytes: &[u8], now: Instant) {
        let Meter { outgoing, resets, pings, windows, malformed, flood, .. } = self;
        outgoing.each(bytes, |frame| match frame.kind {
            HEADERS | DATA => {
                pings.give_back(1);
                windows.give_back(8);
            }
            // NO_ERROR, INTERNAL_ERROR, CANCEL and HTTP_1_1_REQUIRED are ours to give; others are the client's fault,
            // who may want us to reset streams as fast as it could itself (CVE-2025-8671).
            RST_STREAM if ![0, 2, 8, 13].contains(&frame.code) => {
                *malformed += 1;
                if resets.one_more(now) {
                    flood.get_or_insert(BadHttp2::Resets);
                }
            }
            _ => {}
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn meter(now: Instant) -> Meter {
        let mut meter = Meter::new(now);
        meter.came(PREFACE, now);
        meter
    }

    /// How many of a frame at once are no flood.
    fn stands(kind: u8, flags: u8, payload: &[u8]) -> Option<(usize, BadHttp2)> {
        let now = Instant::now();
        let mut meter = meter(now);
        (0..10_000).find_map(|count| {
            meter.came(&frame(kind, flags, payload), now);
            meter.flood().map(|why| (count, why))
        })
    }

    #[test]
    fn frames_of_no_use_have_their_measure_and_others_none() {
        for (kind, payload, expected) in [
            (RST_STREAM, &[0, 0, 0, 8][..], Some((300, BadHttp2::Resets))),
            (SETTINGS, &[], Some((20, BadHttp2::Settings))),
            (PING, &[0; 8], Some((60, BadHttp2::Pings))),
            (PRIORITY, &[0; 5], Some((300, BadHttp2::Priorities))),
            (DATA, &[], Some((100, BadHttp2::EmptyData))),
            (WINDOW_UPDATE, &[0, 0, 0, 1], Some((1000, BadHttp2::WindowUpdates))),
            (CONTINUATION, b"x", Some((5, BadHttp2::Continuations))),
            (0x10, &[0; 5], Some((300, BadHttp2::UnknownFrames))),
            (DATA, b"x", None),
            (HEADERS, b"x", None),
        ] {
            assert_eq!(stands(kind, 0, payload), expected, "{kind}");
        }
        for kind in [SETTINGS, PING, DATA] {
            assert_eq!(stands(kind, FLAG, b""), None, "{kind}");
        }
    }

    #[test]
    fn time_empties_a_measure_and_answers_give_back() {
        let mut now = Instant::now();
        let mut calm = meter(now);
        for _ in 0..1000 {
            now += Duration::from_millis(100);
            calm.came(&frame(PING, 0, &[0; 8]), now);
        }
        assert_eq!(calm.flood(), None);
        let mut taking = meter(now);
        for _ in 0..1000 {
            taking.went(&frame(DATA, 0, b"answer"), now);
            taking.came(&frame(PING, 0, &[0; 8]), now);
            taking.came(&frame(WINDOW_UPDATE, 0, &[0, 0, 0, 1]).repeat(8), now);
        }
        assert_eq!(taking.flood(), None);
    }

    #[test]
    fn heads_may_be_long_but_each_for_itself() {
        let now = Instant::now();
        let mut meter = meter(now);
        for _ in 0..100 {
            meter.came(&frame(HEADERS, 0, b"x"), now);
            meter.came(&frame(CONTINUATION, 0, b"x").repeat(5), now);
            meter.came(&frame(CONTINUATION, END_HEADERS, b"x"), now);
        }
        assert_eq!(meter.flood(), None);
    }

    #[test]
    fn streams_that_we_have_to_reset_count_as_reset() {
        let now = Instant::now();
        let mut meter = meter(now);
        for code in [0, 2, 8, 13] {
            meter.went(&frame(RST_STREAM, 0, &[0, 0, 0, code]).repeat(1000), now);
        }
        assert_eq!((meter.flood(), meter.take_malformed()), (None, 0));
        meter.went(&frame(RST_STREAM, 0, &[0, 0, 0, 1]).repeat(301), now);
        assert_eq!((meter.flood(), meter.take_malformed()), (Some(BadHttp2::Resets), 301));
        assert_eq!(meter.take_malformed(), 0);
    }

    proptest! {
        #[test]
        fn frames_are_counted_wherever_they_are_cut(
            lengths in proptest::collection::vec(0_usize..40, 1..30),
            cuts in proptest::collection::vec(1_usize..20, 1..10),
        ) {
            let mut text = PREFACE.to_vec();
            for (index, length) in lengths.iter().enumerate() {
                text.extend_from_slice(&frame([DATA, RST_STREAM, HEADERS][index % 3], 0, &vec![7; *length]));
            }
            let (mut frames, mut rest, mut cut) = (Frames::new(PREFACE.len()), &text[..], cuts.iter().cycle());
            let mut seen = Vec::new();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(rest.len().min(*cut.next().unwrap()));
                frames.each(piece, |frame| seen.push((frame.kind, frame.length)));
                rest = after;
            }
            let expected: Vec<_> = lengths.iter().enumerate().map(|(index, length)| ([DATA, RST_STREAM, HEADERS][index % 3], *length)).collect();
            prop_assert_eq!(seen, expected);
        }
    }
}
