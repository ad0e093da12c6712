//! Bodies of `POST /v1/chat/completions`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    lacuna_fuzz::wire("/v1/chat/completions", data);
});
