//! Bodies of `POST /v2/code/completions`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    lacuna_fuzz::wire("/v2/code/completions", data);
});
