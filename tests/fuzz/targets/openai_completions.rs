//! Bodies of `POST /v1/completions`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    lacuna_fuzz::wire("/v1/completions", data);
});
