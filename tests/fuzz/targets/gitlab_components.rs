//! Bodies of `POST /v4/code/suggestions`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    lacuna_fuzz::wire("/v4/code/suggestions", data);
});
