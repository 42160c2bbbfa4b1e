//! `proxy_protocol` of ../bodies.rs, under libFuzzer.
#![no_main]

#[path = "../bodies.rs"]
#[allow(dead_code)]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::proxy_protocol(data));
