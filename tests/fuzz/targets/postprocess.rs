//! Completions and what stands around them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lacuna_fuzz::chain(data));
