//! libFuzzer's door to the promise of the same name. `cargo +nightly fuzz run --fuzz-dir tests/fuzz postfix_main_cf`
#![no_main]

#[path = "../promises.rs"]
#[allow(dead_code)]
mod promises;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| promises::postfix_main_cf(octets));
