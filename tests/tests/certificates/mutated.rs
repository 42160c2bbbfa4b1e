//! Files with random damage: whatever becomes of them, nothing panics and nothing takes long. `FUZZ_RUNS` and `FUZZ_SEED`
//! change how many and which.

#[path = "../../../node/fuzz/bodies.rs"]
mod bodies;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use node::certificates::{File, Parts, Roots, Source, assemble};

use super::pki::Pki;

/// Pieces that mean something somewhere.
const WORDS: [&[u8]; 12] = [
    b"-----BEGIN CERTIFICATE-----\n",
    b"-----END CERTIFICATE-----\n",
    b"-----BEGIN PRIVATE KEY-----\n",
    b"\n",
    b"\0",
    b"=",
    b"\x30\x80",
    b"\x30\x84\xff\xff\xff\xff",
    b"\x02\x04\x7f\xff\xff\xff",
    b"\x02\x03\x01\x00\x00",
    b"\xa0\x82\xff\xff",
    b"\x05\x00",
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

    fn mutate(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        let end = (at + self.below(8)).min(input.len());
        match self.below(5) {
            0 if at < input.len() => input[at] = self.below(256) as u8,
            1 if at < input.len() => input[at] ^= 1 << self.below(8),
            2 => drop(input.splice(at..at, WORDS[self.below(WORDS.len())].iter().copied())),
            3 => drop(input.splice(at..end, WORDS[self.below(WORDS.len())].iter().copied())),
            _ => drop(input.drain(at..end)),
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Damages each seed many times.
fn run(seeds: &[Vec<u8>], runs: u64, body: impl Fn(&[u8])) {
    let mut chance = Chance(number("FUZZ_SEED", 1) | 1 << 63);
    let mut slowest = Duration::ZERO;
    for _ in 0..number("FUZZ_RUNS", runs) {
        let mut input = seeds[chance.below(seeds.len())].clone();
        for _ in 0..=chance.below(4) {
            chance.mutate(&mut input);
        }
        let began = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| body(&input)));
        assert!(outcome.is_ok(), "it fails with \"{}\"", input.escape_ascii());
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_secs(15), "one took {slowest:?}");
}

#[test]
fn damaged_pem_is_refused_or_read_and_never_breaks_the_reader() {
    let pki = Pki::new("mutated-pem");
    pki.join("bundle.pem", &["leaf.pem", "leaf.key", "lower.pem", "upper.pem", "root.pem"]);
    run(&[pki.read("bundle.pem"), pki.read("root.pem")], 3_000, bodies::pem);
}

#[test]
fn damaged_certificates_inside_sound_pem_never_break_the_reader() {
    let pki = Pki::new("mutated-der");
    let key = pki.read("leaf.key");
    run(&[pki.der("leaf"), pki.der("lower")], 3_000, |der| bodies::pem(&[pem(der).as_bytes(), &key].concat()));
}

#[test]
fn damaged_pfx_is_refused_in_bounded_time() {
    let pki = Pki::new("mutated-pfx");
    for (name, how) in [("modern", "-iter 2"), ("legacy", "-legacy -iter 2")] {
        pki.openssl(&format!(
            "pkcs12 -export -in leaf.pem -inkey leaf.key -certfile upper.pem -passout pass:x {how} -out {name}.pfx"
        ));
    }
    run(&[pki.read("modern.pfx"), pki.read("legacy.pfx")], 1_000, bodies::pfx);
}

#[test]
fn damaged_ocsp_responses_never_break_the_reader() {
    let pki = Pki::new("mutated-ocsp");
    pki.join("bundle.pem", &["leaf.pem", "leaf.key"]);
    pki.openssl("ocsp -issuer lower.pem -cert leaf.pem -reqout request");
    pki.write("index", "");
    pki.openssl(
        "ocsp -index index -CA lower.pem -rsigner lower.pem -rkey lower.key -reqin request -respout response -ndays 7",
    );
    let (bundle, roots) = (pki.read("bundle.pem"), Roots::default());
    let with = |bytes: &[u8]| {
        let source = Source::Bundle(File { path: "x", bytes: &bundle });
        let ocsp = Some(File { path: "o", bytes });
        assemble(&Parts { source, chain: None, imported: &[], ocsp, roots: &roots }, 0)
    };
    assert!(with(&pki.read("response")).is_ok());
    run(&[pki.read("response")], 2_000, |bytes| drop(with(bytes)));
}

fn pem(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = der.chunks(3).flat_map(|group| {
        let bits = group.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte)) << (8 * (3 - group.len()));
        (0..4).map(move |n| if n <= group.len() { char::from(DIGITS[bits >> (18 - 6 * n) & 63]) } else { '=' })
    });
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", digits.collect::<String>())
}
