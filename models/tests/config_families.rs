//! `config.json` of each family as its maker publishes it, and what is refused of it.

use models::{
    DecoderSpec,
    arch::plan,
    config::{Activation, Biases, NormKind, RopeKind, from_json},
    shape,
};
use serde_json::{Value, json};

/// Published files, with the shape that they must be read as.
fn published() -> Vec<(&'static str, Value)> {
    vec![
        (
            "deepseek-coder-6.7b",
            json!({
                "architectures": ["LlamaForCausalLM"], "bos_token_id": 32013, "eos_token_id": 32014,
                "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008,
                "max_position_embeddings": 16384, "model_type": "llama", "num_attention_heads": 32,
                "num_hidden_layers": 32, "num_key_value_heads": 32, "pretraining_tp": 1,
                "rms_norm_eps": 1e-06, "rope_scaling": {"factor": 4.0, "type": "linear"},
                "rope_theta": 100_000, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
                "vocab_size": 32256
            }),
        ),
        (
            "codestral-22b",
            json!({
                "architectures": ["MistralForCausalLM"], "attention_dropout": 0.0, "eos_token_id": 2,
                "head_dim": 128, "hidden_act": "silu", "hidden_size": 6144, "intermediate_size": 16384,
                "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 48,
                "num_hidden_layers": 56, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
                "rope_theta": 1_000_000.0, "sliding_window": null, "tie_word_embeddings": false,
                "torch_dtype": "bfloat16", "vocab_size": 32768
            }),
        ),
        (
            "qwen3-0.6b",
            json!({
                "architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "eos_token_id": 151_645,
                "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072,
                "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
                "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
                "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 1_000_000,
                "sliding_window": null, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
                "use_sliding_window": false, "vocab_size": 151_936
            }),
        ),
        mixture(),
        (
            "starcoder2-3b",
            json!({
                "architectures": ["Starcoder2ForCausalLM"], "embedding_dropout": 0.1, "eos_token_id": 0,
                "hidden_act": "gelu_pytorch_tanh", "hidden_size": 3072, "intermediate_size": 12288,
                "max_position_embeddings": 16384, "mlp_type": "default", "model_type": "starcoder2",
                "norm_epsilon": 1e-05, "norm_type": "layer_norm", "num_attention_heads": 24,
                "num_hidden_layers": 30, "num_key_value_heads": 2,
                "rope_theta": 999_999.442_035_881_3, "sliding_window": 4096, "torch_dtype": "bfloat16",
                "use_bias": true, "vocab_size": 49152
            }),
        ),
        (
            "codegemma-2b",
            json!({
                "architectures": ["GemmaForCausalLM"], "attention_bias": false, "eos_token_id": 1,
                "head_dim": 256, "hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh",
                "hidden_size": 2048, "intermediate_size": 16384, "max_position_embeddings": 8192,
                "model_type": "gemma", "num_attention_heads": 8, "num_hidden_layers": 18,
                "num_key_value_heads": 1, "rms_norm_eps": 1e-06, "rope_scaling": null,
                "rope_theta": 10000.0, "torch_dtype": "bfloat16", "vocab_size": 256_000
            }),
        ),
    ]
}

/// The published file of a mixture of experts.
fn mixture() -> (&'static str, Value) {
    (
        "qwen3-coder-30b-a3b",
        json!({
            "architectures": ["Qwen3MoeForCausalLM"], "attention_dropout": 0.0,
            "decoder_sparse_step": 1, "eos_token_id": 151_645, "head_dim": 128,
            "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 5472,
            "max_position_embeddings": 262_144, "max_window_layers": 28,
            "mlp_only_layers": [], "model_type": "qwen3_moe", "moe_intermediate_size": 768,
            "norm_topk_prob": true, "num_attention_heads": 32, "num_experts": 128,
            "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4,
            "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 10_000_000,
            "sliding_window": null, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
            "use_sliding_window": false, "vocab_size": 151_936
        }),
    )
}

fn read(config: &Value) -> Result<DecoderSpec, String> {
    from_json(config.to_string().as_bytes(), None).map_err(|error| error.to_string())
}

/// The named configuration with other fields; null takes one out.
fn with(name: &str, changes: &Value) -> Value {
    let mut config = published().into_iter().find(|row| row.0 == name).unwrap().1;
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    config
}

/// The same without a field.
fn without(name: &str, field: &str) -> Value {
    let mut config = with(name, &json!({}));
    config.as_object_mut().unwrap().remove(field).unwrap();
    config
}

#[test]
fn published_configurations_are_the_published_shapes() {
    for (name, config) in published() {
        let expected = shape(name).unwrap();
        let mut found = DecoderSpec { eos_token_ids: Vec::new(), ..read(&config).unwrap() };
        // The reader of JSON may miss the last bit of a long number.
        assert!((found.rope.theta / expected.rope.theta - 1.0).abs() < 1e-12, "{name}");
        found.rope.theta = expected.rope.theta;
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn biases_are_where_the_family_has_them() {
    let spec = |name, changes: Value| read(&with(name, &changes)).unwrap();
    let granite = json!({"attention_bias": true, "mlp_bias": true});
    let all = Biases { qkv: true, attention_output: true, ffn: true };
    let attention = Biases { ffn: false, ..all };
    let llama = "deepseek-coder-6.7b";
    for (name, changes, expected) in [
        (llama, json!({}), Biases::NONE),
        (llama, granite, all),
        (llama, json!({"attention_bias": true}), attention),
        ("qwen3-0.6b", json!({"attention_bias": true}), attention),
        ("codegemma-2b", json!({"attention_bias": true}), attention),
        ("starcoder2-3b", json!({}), all),
        ("starcoder2-3b", json!({"use_bias": false}), Biases::NONE),
    ] {
        let spec = spec(name, changes);
        assert_eq!(spec.biases, expected, "{name}");
        let plan = plan(&spec).unwrap();
        // A norm by mean and variance has its bias in any case.
        let biases =
            plan.tensors().filter(|t| t.name.contains(".bias") && !t.name.contains("norm"));
        let per_layer = 3 * usize::from(expected.qkv)
            + usize::from(expected.attention_output)
            + usize::from(expected.ffn) * if spec.is_gated { 3 } else { 2 };
        assert_eq!(biases.count(), per_layer * spec.num_layers, "{name}");
    }
}

#[test]
fn what_is_not_written_is_the_familys_default() {
    let window = |name: &str, config: &Value| {
        let spec = read(config).unwrap();
        assert_eq!(spec.windows, vec![spec.windows[0]; spec.num_layers], "{name}");
        spec.windows[0]
    };
    let mistral = "codestral-22b";
    assert_eq!(window(mistral, &with(mistral, &json!({}))), None);
    assert_eq!(window(mistral, &without(mistral, "sliding_window")), Some(4096));
    assert_eq!(window(mistral, &with(mistral, &json!({"sliding_window": 7}))), Some(7));
    assert_eq!(window("starcoder2-3b", &without("starcoder2-3b", "sliding_window")), None);
    assert_eq!(read(&without(mistral, "head_dim")).unwrap().head_dim, 128);
    assert_eq!(read(&without("qwen3-0.6b", "head_dim")).unwrap().head_dim, 128);
    assert_eq!(read(&without("codegemma-2b", "head_dim")).unwrap().head_dim, 256);
    assert!(!read(&without(mistral, "tie_word_embeddings")).unwrap().has_tied_head);
    let spec = read(&without("starcoder2-3b", "norm_epsilon")).unwrap();
    assert_eq!((spec.norm, spec.norm_eps), (NormKind::Layer, 1e-5));
    assert!(
        read(&with("starcoder2-3b", &json!({"tie_word_embeddings": null}))).unwrap().has_tied_head
    );
}

#[test]
fn gemmas_names_for_its_function_mean_the_tanh_form() {
    let gemma = "codegemma-2b";
    for changes in [
        json!({}),
        json!({"hidden_activation": null}),
        json!({"hidden_activation": null, "hidden_act": null}),
        json!({"hidden_act": "gelu_pytorch_tanh", "hidden_activation": null}),
    ] {
        let spec = read(&with(gemma, &changes)).unwrap();
        assert_eq!(spec.activation, Activation::GeluTanh, "{changes}");
    }
    let spec = read(&with("starcoder2-3b", &json!({"hidden_act": "gelu"}))).unwrap();
    assert_eq!(spec.activation, Activation::GeluErf);
}

#[test]
fn layers_are_mixtures_where_the_file_says_so() {
    let moe = "qwen3-coder-30b-a3b";
    let layers = |changes: Value| {
        let few = json!({"num_hidden_layers": 6});
        let mut config = with(moe, &few);
        config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        read(&config).unwrap().mixture.unwrap().layers
    };
    let of = |dense: &[usize]| (0..6).map(|layer| !dense.contains(&layer)).collect::<Vec<_>>();
    assert_eq!(layers(json!({})), of(&[]));
    assert_eq!(layers(json!({"mlp_only_layers": null})), of(&[]));
    assert_eq!(layers(json!({"mlp_only_layers": [0, 5]})), of(&[0, 5]));
    assert_eq!(layers(json!({"decoder_sparse_step": 2})), of(&[0, 2, 4]));
    let both = json!({"decoder_sparse_step": 3, "mlp_only_layers": [2]});
    assert_eq!(layers(both), of(&[0, 1, 2, 3, 4]));
    let mixture = |config: &Value| read(config).unwrap().mixture.unwrap();
    assert!(!mixture(&without(moe, "norm_topk_prob")).has_normed_weights);
    let mut renamed = without(moe, "num_experts");
    renamed["num_local_experts"] = json!(64);
    assert_eq!(mixture(&renamed).num_experts, 64);
    // Shards of the published model: its heads allow four.
    let spec = shape(moe).unwrap();
    for num_ranks in [1, 2, 4] {
        assert!(models::rank_spec(&spec, num_ranks).is_ok(), "{num_ranks}");
    }
}

#[test]
fn yarn_serves_the_context_that_it_was_made_for() {
    let llama = "deepseek-coder-6.7b";
    for (original, factor, expected) in
        [(4096, 4.0, 16384), (16384, 4.0, 65536), (1024, 2.0, 16384)]
    {
        let scaling = json!({"rope_scaling": {
            "type": "yarn", "factor": factor, "original_max_position_embeddings": original
        }});
        let spec = read(&with(llama, &scaling)).unwrap();
        assert_eq!(spec.max_position_embeddings, expected, "{scaling}");
        let RopeKind::Yarn(yarn) = &spec.rope.kind else { panic!("{:?}", spec.rope) };
        assert_eq!((yarn.beta_fast, yarn.beta_slow, yarn.truncate), (32.0, 1.0, true));
        assert!((f64::from(spec.rope.amplitude()) - (0.1 * f64::ln(factor) + 1.0)).abs() < 1e-6);
    }
    // What the paper says of frequencies: the fastest is kept, the slowest divided.
    let scaling = json!({"rope_theta": 10000.0, "rope_scaling": {
        "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096
    }});
    let scaled = read(&with(llama, &scaling)).unwrap().rope.inv_freq(128);
    let plain = read(&with(llama, &json!({"rope_scaling": null, "rope_theta": 10000.0})));
    let plain = plain.unwrap().rope.inv_freq(128);
    assert_eq!(scaled[0].to_bits(), plain[0].to_bits());
    assert!((scaled[63] / plain[63] - 0.25).abs() < 1e-6);
    assert!(scaled.windows(2).all(|pair| pair[0] > pair[1]));
}

#[test]
fn what_a_family_cannot_be_is_refused_by_the_field() {
    let rows = [
        (
            "codestral-22b",
            json!({"layer_types": ["full_attention"]}),
            "`layer_types` must be absent, got [\"full_attention\"]",
        ),
        (
            "codestral-22b",
            json!({"sliding_window": 0}),
            "`sliding_window` must be at least 1, got 0",
        ),
        (
            "codestral-22b",
            json!({"sliding_window": "all"}),
            "`sliding_window` must be a whole number from 0, got \"all\"",
        ),
        (
            "starcoder2-3b",
            json!({"norm_type": "rms"}),
            "`norm_type` must be \"layer_norm\", got \"rms\"",
        ),
        (
            "starcoder2-3b",
            json!({"mlp_type": "gated"}),
            "`mlp_type` must be \"default\", got \"gated\"",
        ),
        (
            "starcoder2-3b",
            json!({"norm_epsilon": 0}),
            "`norm_epsilon` must be above 0 and below 1, got 0",
        ),
        ("starcoder2-3b", json!({"use_bias": 1}), "`use_bias` must be true or false, got 1"),
        (
            "codegemma-2b",
            json!({"use_bidirectional_attention": true}),
            "`use_bidirectional_attention` must be false, got true",
        ),
        (
            "codegemma-2b",
            json!({"hidden_activation": "relu"}),
            "`hidden_activation` must be one of",
        ),
        ("qwen3-0.6b", json!({"use_sliding_window": true}), "`sliding_window` is missing"),
        ("qwen3-0.6b", json!({"attention_bias": "no"}), "`attention_bias` must be true or false"),
        ("deepseek-coder-6.7b", json!({"mlp_bias": 0}), "`mlp_bias` must be true or false, got 0"),
    ];
    for (name, changes, expected) in rows {
        check_refused(name, &changes, expected);
    }
}

fn check_refused(name: &str, changes: &Value, expected: &str) {
    let error = read(&with(name, changes)).unwrap_err();
    assert!(error.starts_with("config.json: "), "{error}");
    assert!(error.contains(expected), "{name} {changes}: {error}");
}

#[test]
fn what_a_mixture_cannot_be_is_refused_by_the_field() {
    let rows = [
        (
            json!({"mlp_only_layers": [48]}),
            "`mlp_only_layers` must be a list of layers below 48, got 48",
        ),
        (json!({"decoder_sparse_step": 0}), "`decoder_sparse_step` must be at least 1, got 0"),
        (json!({"num_experts": 0}), "`num_experts` must be from 1 to 4096, got 0"),
        (
            json!({"num_experts": 4096}),
            "`num_experts` must be at most 131072 in all 48 layers, got 196608",
        ),
        (json!({"num_experts": null}), "`num_experts` is missing"),
        (
            json!({"num_experts_per_tok": 129}),
            "`num_experts_per_tok` must be from 1 to 128, got 129",
        ),
        (json!({"moe_intermediate_size": 0}), "`moe_intermediate_size` must be from 1"),
    ];
    for (changes, expected) in rows {
        check_refused("qwen3-coder-30b-a3b", &changes, expected);
    }
}
