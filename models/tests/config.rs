//! `config.json` in all spellings, good and bad.

use kernels::backend::DType;
use models::{
    DecoderSpec, Source,
    arch::plan,
    config::{Biases, RopeKind, from_json},
    read_spec,
};
use serde_json::{Value, json};

/// `Qwen/Qwen2.5-Coder-0.5B` as published, in the spelling of transformers 4.
fn qwen_half_billion() -> Value {
    json!({
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151_643,
        "eos_token_id": 151_643, "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02,
        "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24,
        "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_scaling": null,
        "rope_theta": 1_000_000.0, "sliding_window": null, "tie_word_embeddings": true,
        "torch_dtype": "bfloat16", "use_cache": true, "use_sliding_window": false,
        "vocab_size": 151_936
    })
}

/// The same with other fields; null takes one out.
fn with(changes: &Value) -> Value {
    let mut config = qwen_half_billion();
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    config
}

fn read(config: &Value) -> Result<DecoderSpec, String> {
    from_json(config.to_string().as_bytes(), None).map_err(|error| error.to_string())
}

#[test]
fn reads_the_spelling_of_transformers_4() {
    let spec = read(&qwen_half_billion()).unwrap();
    assert_eq!(spec.architecture, "Qwen2ForCausalLM");
    assert_eq!((spec.vocab_size, spec.hidden_size, spec.ffn_size), (151_936, 896, 4864));
    assert_eq!((spec.num_layers, spec.num_heads, spec.num_kv_heads), (24, 14, 2));
    assert_eq!((spec.head_dim, spec.max_position_embeddings), (64, 32768));
    assert_eq!((spec.rope.theta, &spec.rope.kind), (1_000_000.0, &RopeKind::Default));
    assert!(spec.has_tied_head && spec.biases == Biases { qkv: true, ..Biases::NONE });
    assert_eq!((spec.norm_eps, spec.dtype), (1e-6, DType::Bf16));
    assert_eq!((spec.windows, spec.eos_token_ids), (vec![None; 24], vec![151_643]));
}

#[test]
fn reads_the_spelling_of_transformers_5_as_the_same() {
    let config = with(&json!({
        "torch_dtype": null, "dtype": "bfloat16", "rope_scaling": null, "rope_theta": null,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        "layer_types": vec!["full_attention"; 24], "head_dim": 64
    }));
    assert_eq!(read(&config).unwrap(), read(&qwen_half_billion()).unwrap());
}

#[test]
fn counts_the_parameters_that_are_published() {
    let spec = read(&qwen_half_billion()).unwrap();
    assert_eq!(plan(&spec).unwrap().num_parameters(), 494_032_768);
    let seven_billion = with(&json!({
        "hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28,
        "num_hidden_layers": 28, "num_key_value_heads": 4, "tie_word_embeddings": false,
        "vocab_size": 152_064
    }));
    let spec = read(&seven_billion).unwrap();
    assert_eq!(plan(&spec).unwrap().num_parameters(), 7_615_616_512);
}

#[test]
fn reads_the_demo_model() {
    let spec = read_spec(Source::Demo).unwrap();
    assert!(spec.has_tied_head);
    assert!(!spec.eos_token_ids.is_empty());
}

#[test]
fn fills_in_what_may_be_left_out() {
    let config = with(&json!({
        "rope_theta": null, "tie_word_embeddings": null, "num_key_value_heads": null,
        "rms_norm_eps": null, "torch_dtype": null, "hidden_act": null, "eos_token_id": null,
        "use_sliding_window": null
    }));
    let spec = read(&config).unwrap();
    assert_eq!((spec.rope.theta, spec.norm_eps, spec.num_kv_heads), (10_000.0, 1e-6, 14));
    assert_eq!((spec.has_tied_head, spec.dtype), (false, DType::F32));
    assert!(spec.eos_token_ids.is_empty());
}

#[test]
fn reads_windows() {
    let rows = [
        (json!({"sliding_window": 4096}), vec![None; 24]),
        (json!({"sliding_window": 4096, "use_sliding_window": true}), vec![None; 24]),
        (
            json!({"sliding_window": 4096, "use_sliding_window": true, "max_window_layers": 22}),
            [vec![None; 22], vec![Some(4096); 2]].concat(),
        ),
        (
            json!({"sliding_window": 512, "use_sliding_window": true, "max_window_layers": 0}),
            vec![Some(512); 24],
        ),
        (
            json!({
                "sliding_window": 512, "use_sliding_window": true, "num_hidden_layers": 2,
                "layer_types": ["sliding_attention", "full_attention"]
            }),
            vec![Some(512), None],
        ),
    ];
    for (changes, expected) in rows {
        assert_eq!(read(&with(&changes)).unwrap().windows, expected, "{changes}");
    }
}

#[test]
fn joins_the_ends_of_text_of_both_files() {
    let rows = [
        (json!(7), json!({}), vec![7]),
        (json!(7), json!({"eos_token_id": 9}), vec![7, 9]),
        (json!([9, 7]), json!({"eos_token_id": [7, 3]}), vec![3, 7, 9]),
        (json!(null), json!({"eos_token_id": null}), vec![]),
    ];
    for (eos, generation, expected) in rows {
        let config = with(&json!({"eos_token_id": eos})).to_string();
        let spec = from_json(config.as_bytes(), Some(generation.to_string().as_bytes())).unwrap();
        assert_eq!(spec.eos_token_ids, expected, "{eos} {generation}");
    }
}

#[test]
fn refuses_quantisations_that_it_does_not_compute() {
    let of = |config: Value| json!({ "quantization_config": config });
    let rows = [
        (json!({}), "`quantization_config.quant_method` is missing"),
        (json!({"quant_method": "bitsandbytes"}), "or as GGUF, got \"bitsandbytes\""),
        (json!({"quant_method": "gptq", "bits": 8}), "`quantization_config.bits` must be 4, got 8"),
        (json!({"quant_method": "gptq", "bits": 4, "desc_act": true}), "act-order"),
        (
            json!({"quant_method": "gptq", "checkpoint_format": "marlin"}),
            "`quantization_config.checkpoint_format` must be one of gptq, gptq_v2",
        ),
        (json!({"quant_method": "awq", "version": "gemv"}), "must be one of gemm"),
        (json!({"quant_method": "awq", "zero_point": false}), "must be true, got false"),
        (
            json!({"quant_method": "compressed-tensors", "format": "pack-quantized"}),
            "must be one of float-quantized",
        ),
    ];
    check_refused(&rows.map(|(config, expected)| (of(config), expected)));
}

/// Each row is an edit and a part of the message that it leads to.
fn check_refused(rows: &[(Value, &str)]) {
    for (changes, expected) in rows {
        let error = read(&with(changes)).unwrap_err();
        assert!(error.starts_with("config.json: "), "{error}");
        assert!(error.contains(expected), "{changes}: {error}");
    }
}

#[test]
fn names_the_field_and_the_value_that_it_refuses() {
    check_refused(&[
        (json!({"architectures": null}), "`architectures` is missing"),
        (json!({"architectures": []}), "`architectures` is missing"),
        (
            json!({"architectures": ["GPT2LMHeadModel"]}),
            "`architectures` must be one of Qwen2ForCausalLM, Qwen3ForCausalLM, Qwen3MoeForCausalLM, \
             LlamaForCausalLM, MistralForCausalLM, Starcoder2ForCausalLM, GemmaForCausalLM, got GPT2LMHeadModel",
        ),
        (json!({"architectures": [3]}), "`architectures` must be a list of names, got 3"),
        (json!({"hidden_size": null}), "`hidden_size` is missing"),
        (json!({"hidden_size": "896"}), "`hidden_size` must be a whole number from 0, got \"896\""),
        (json!({"hidden_size": 896.5}), "`hidden_size` must be a whole number from 0, got 896.5"),
        (json!({"hidden_size": -896}), "`hidden_size` must be a whole number from 0, got -896"),
        (json!({"vocab_size": 0}), "`vocab_size` must be from 1 to 4194304, got 0"),
        (
            json!({"num_attention_heads": 15}),
            "`num_attention_heads` must be a divisor of `hidden_size` (896), got 15",
        ),
        (
            json!({"num_attention_heads": 0}),
            "`num_attention_heads` must be a divisor of `hidden_size` (896), got 0",
        ),
        (
            json!({"num_key_value_heads": 4}),
            "`num_key_value_heads` must be a divisor of `num_attention_heads` (14), got 4",
        ),
        (json!({"num_key_value_heads": 0}), "`num_key_value_heads` must be from 1 to 1024, got 0"),
        (json!({"head_dim": 63}), "`head_dim` must be even, its halves being rotated, got 63"),
        (json!({"rms_norm_eps": 0.0}), "`rms_norm_eps` must be above 0 and below 1, got 0"),
        (json!({"rope_theta": -1.0}), "`rope_theta` must be finite and at least 1, got -1"),
        (
            json!({"hidden_act": "relu"}),
            "`hidden_act` must be one of silu, swish, gelu, gelu_pytorch_tanh, gelu_new, gelu_fast, got \"relu\"",
        ),
        (json!({"hidden_act": 3}), "`hidden_act` must be one of silu"),
        (json!({"torch_dtype": "int8"}), "`torch_dtype` must be bfloat16, float16 or float32"),
        (json!({"dtype": "float8_e4m3fn"}), "`dtype` must be bfloat16, float16 or float32"),
        (json!({"tie_word_embeddings": "yes"}), "`tie_word_embeddings` must be true or false"),
        (
            json!({"eos_token_id": -1}),
            "`eos_token_id` must be a token id or a list of them, got -1",
        ),
        (json!({"eos_token_id": [1, "x"]}), "`eos_token_id` must be a token id or a list of them"),
        (json!({"eos_token_id": 151_936}), "`eos_token_id` must be below `vocab_size` (151936)"),
    ]);
}

#[test]
fn names_the_setting_of_positions_that_it_refuses() {
    check_refused(&[
        (
            json!({"rope_scaling": {"type": "longrope", "factor": 4.0}}),
            "`rope_scaling.type` must be one of default, linear, dynamic, yarn and llama3, got \"longrope\"",
        ),
        (
            json!({"rope_parameters": {"rope_type": 3, "factor": 4.0}}),
            "`rope_parameters.rope_type` must be one of default",
        ),
        (json!({"rope_scaling": {"type": "linear"}}), "`rope_scaling.factor` is missing"),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 0.0}}),
            "`rope_scaling.factor` must be finite and above 0, got 0",
        ),
        (
            json!({"rope_scaling": {"type": "yarn", "factor": 4.0}}),
            "`rope_scaling.original_max_position_embeddings` is missing",
        ),
        (
            json!({"rope_scaling": {
                "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096, "beta_fast": -1
            }}),
            "`rope_scaling.beta_fast` must be finite and above 0, got -1",
        ),
        (
            json!({"rope_scaling": {
                "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 0
            }}),
            "`rope_scaling.original_max_position_embeddings` must be at least 1, got 0",
        ),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 4.0, "llama_4_scaling_beta": 0.1}}),
            "`rope_scaling.llama_4_scaling_beta` must be absent, being unsupported, got 0.1",
        ),
        (
            json!({"rope_scaling": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192
            }}),
            "`rope_scaling.high_freq_factor` must be above `low_freq_factor` (4), got 4",
        ),
        (
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0}}),
            "`rope_scaling.low_freq_factor` is missing",
        ),
        (json!({"partial_rotary_factor": 0.5}), "`partial_rotary_factor` must be 1, got 0.5"),
        (json!({"rope_parameters": {"factor": 4}}), "`rope_parameters.rope_type` is missing"),
        (
            json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
            "`rope_parameters.partial_rotary_factor` must be 1, got 0.5",
        ),
        (json!({"rope_scaling": "yarn"}), "`rope_scaling` must be an object, got \"yarn\""),
        (json!({"use_sliding_window": true}), "`sliding_window` is missing"),
        (
            json!({"use_sliding_window": true, "sliding_window": 0, "max_window_layers": 0}),
            "`sliding_window` must be at least 1, got 0",
        ),
        (
            json!({"use_sliding_window": true, "sliding_window": 9, "layer_types": ["full_attention"]}),
            "`layer_types` must be one entry a layer (24), got 1",
        ),
        (
            json!({"use_sliding_window": true, "sliding_window": 9, "layer_types": ["linear"]}),
            "`layer_types` must be a list of \"full_attention\" and \"sliding_attention\"",
        ),
    ]);
}

#[test]
fn refuses_text_that_is_not_an_object() {
    for text in ["", "[]", "{", "{\"hidden_size\": NaN}", "\u{feff}{}", "null"] {
        let error = from_json(text.as_bytes(), None).unwrap_err().to_string();
        assert_eq!(error, "config.json is not a JSON object", "{text}");
    }
    let config = qwen_half_billion().to_string();
    let error = from_json(config.as_bytes(), Some(b"x")).unwrap_err().to_string();
    assert_eq!(error, "generation_config.json is not a JSON object");
}

#[test]
fn shortens_a_long_value() {
    let error = read(&with(&json!({"hidden_act": "é".repeat(5000)}))).unwrap_err();
    assert!(error.len() < 400, "{error}");
}

/// Whatever one field says, reading ends in a spec that can be computed with or in an error with the field's name.
#[test]
fn never_panics_on_absurd_values() {
    let absurd = [
        json!(0),
        json!(1),
        json!(-1),
        json!(2),
        json!(3),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1u64 << 32),
        json!((1u64 << 63) + 1),
        json!(1e308),
        json!(-0.0),
        json!(1e-320),
        json!(0.1),
        json!(true),
        json!(""),
        json!("silu"),
        json!([]),
        json!([[]]),
        json!({}),
        json!({"rope_type": 1}),
        json!([null]),
    ];
    let config = qwen_half_billion();
    let mut fields: Vec<String> = config.as_object().unwrap().keys().cloned().collect();
    fields.extend(["head_dim", "rope_parameters", "layer_types", "dtype"].map(str::to_owned));
    for field in &fields {
        for value in &absurd {
            for base in [json!({}), json!({"use_sliding_window": true, "sliding_window": 8})] {
                let mut config = with(&base);
                config[field] = value.clone();
                let Ok(spec) = read(&config) else { continue };
                assert!(plan(&spec).unwrap().num_parameters() > 0);
                assert!(models::kv_bytes_per_block(&spec, 16, models::KvDType::F16) > 0);
                let inv_freq = spec.rope.inv_freq(spec.head_dim);
                assert!(inv_freq.iter().all(|x| x.is_finite()), "{field} {value}");
            }
        }
    }
}
