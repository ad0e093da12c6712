//! Bodies of `POST /v2/prompts/model_configuration/check`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    lacuna_fuzz::wire("/v2/prompts/model_configuration/check", data);
});
