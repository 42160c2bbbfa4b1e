//! A short run of the fuzz targets without a fuzzer: their seeds, and seeded mutations of them. `FUZZ_RUNS` and `FUZZ_SEED`
//! change how many and which.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../fuzz/bodies.rs"]
mod bodies;

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Pieces that mean something somewhere.
const WORDS: [&[u8]; 33] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"=",
    b"\"",
    b"0\r\n\r\n",
    b"ffffffffffffffff",
    b"\r\nContent-Length: 5",
    b"\r\nTransfer-Encoding: chunked",
    b"\r\nConnection: ",
    b"\r\nHost: h",
    b"\r\nUpgrade: h2c",
    b" HTTP/1.0",
    b"http://h",
    b"%00",
    b"[::1]",
    b"\x80",
    b"-1",
    b"\x16\x03\x01",
    b"\0\0\0\x06\0\x04\0\0\x01a",
    b"\0\x10\0\x05\0\x03\x02h2",
    b"\0\x01",
    b"PROXY TCP4 ",
    b" 192.0.2.1",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11",
    b"\x02\0\x01a",
    b"\x20\0\x05\x01\0\0\0\0",
];

/// xorshift64*: the same numbers everywhere.
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % end.max(1)
    }

    fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(input.len() + 1);
        let end = (at + self.below(8)).min(input.len());
        match self.below(6) {
            0 if at < input.len() => input[at] = self.below(256) as u8,
            1 if at < input.len() => input[at] ^= 1 << self.below(8),
            2 => drop(input.splice(at..at, WORDS[self.below(WORDS.len())].iter().copied())),
            3 => drop(input.splice(at..end, WORDS[self.below(WORDS.len())].iter().copied())),
            4 => drop(input.drain(at..end)),
            _ => {
                let from = self.below(other.len());
                let until = (from + self.below(40)).min(other.len());
                drop(input.splice(at..at, other[from..until].iter().copied()));
            }
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn run(target: &str, body: fn(&[u8])) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    let tried = |input: &[u8]| {
        let outcome = catch_unwind(AssertUnwindSafe(|| body(input)));
        assert!(outcome.is_ok(), "{target} fails with \"{}\"", input.escape_ascii());
    };
    seeds.iter().for_each(|seed| tried(seed));
    let mut chance = Chance(number("FUZZ_SEED", 1) | 1 << 63);
    for _ in 0..number("FUZZ_RUNS", 30_000) {
        let mut input = seeds[chance.below(seeds.len())].clone();
        for _ in 0..=chance.below(4) {
            let other = &seeds[chance.below(seeds.len())];
            chance.mutate(&mut input, other);
        }
        tried(&input);
    }
}

#[test]
fn heads() {
    run("head", bodies::head);
}

#[test]
fn chunked_bodies() {
    run("chunked", bodies::chunked);
}

#[test]
fn cookies() {
    run("cookie", bodies::cookie);
}

#[test]
fn hosts() {
    run("host", bodies::host);
}

#[test]
fn hellos() {
    run("hello", bodies::hello);
}

#[test]
fn proxy_headers() {
    run("proxy_protocol", bodies::proxy_protocol);
}
