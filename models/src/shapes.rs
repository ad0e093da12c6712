//! Published shapes by name, so that a full-size model can be measured with [random weights](crate::random_weights)
//! and without a download.

use kernels::backend::DType;

use crate::config::{DecoderSpec, Rope, RopeKind};

/// The sizes in which the models of one family differ.
struct Shape {
    name: &'static str,
    hidden_size: usize,
    ffn_size: usize,
    num_layers: usize,
    num_heads: usize,
    num_kv_heads: usize,
    vocab_size: usize,
    has_tied_head: bool,
}

/// # Source
/// The `config.json` of each base model as its maker published it.
const SHAPES: &[Shape] = &[
    Shape {
        name: "qwen2.5-coder-0.5b",
        hidden_size: 896,
        ffn_size: 4864,
        num_layers: 24,
        num_heads: 14,
        num_kv_heads: 2,
        vocab_size: 151_936,
        has_tied_head: true,
    },
    Shape {
        name: "qwen2.5-coder-1.5b",
        hidden_size: 1536,
        ffn_size: 8960,
        num_layers: 28,
        num_heads: 12,
        num_kv_heads: 2,
        vocab_size: 151_936,
        has_tied_head: true,
    },
    Shape {
        name: "qwen2.5-coder-3b",
        hidden_size: 2048,
        ffn_size: 11_008,
        num_layers: 36,
        num_heads: 16,
        num_kv_heads: 2,
        vocab_size: 151_936,
        has_tied_head: true,
    },
    Shape {
        name: "qwen2.5-coder-7b",
        hidden_size: 3584,
        ffn_size: 18_944,
        num_layers: 28,
        num_heads: 28,
        num_kv_heads: 4,
        vocab_size: 152_064,
        has_tied_head: false,
    },
    Shape {
        name: "qwen2.5-coder-14b",
        hidden_size: 5120,
        ffn_size: 13_824,
        num_layers: 48,
        num_heads: 40,
        num_kv_heads: 8,
        vocab_size: 152_064,
        has_tied_head: false,
    },
    Shape {
        name: "qwen2.5-coder-32b",
        hidden_size: 5120,
        ffn_size: 27_648,
        num_layers: 64,
        num_heads: 40,
        num_kv_heads: 8,
        vocab_size: 152_064,
        has_tied_head: false,
    },
];

/// Returns the names that [`shape`] knows.
pub fn shape_names() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|shape| shape.name)
}

/// Returns the decoder of a published shape, in bf16; `None` where the name is unknown.
pub fn shape(name: &str) -> Option<DecoderSpec> {
    let shape = SHAPES.iter().find(|shape| shape.name == name)?;
    Some(DecoderSpec {
        architecture: "Qwen2ForCausalLM",
        vocab_size: shape.vocab_size,
        hidden_size: shape.hidden_size,
        num_layers: shape.num_layers,
        num_heads: shape.num_heads,
        num_kv_heads: shape.num_kv_heads,
        head_dim: shape.hidden_size / shape.num_heads,
        ffn_size: shape.ffn_size,
        norm_eps: 1e-6,
        rope: Rope { theta: 1_000_000.0, kind: RopeKind::Default },
        max_position_embeddings: 32_768,
        has_tied_head: shape.has_tied_head,
        has_qkv_bias: true,
        windows: vec![None; shape.num_layers],
        dtype: DType::Bf16,
        eos_token_ids: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_has_the_parameters_of_its_model() {
        // As the model cards count them.
        let millions = [
            ("0.5b", 494.03),
            ("1.5b", 1543.71),
            ("3b", 3085.94),
            ("7b", 7615.62),
            ("14b", 14_770.03),
            ("32b", 32_763.88),
        ];
        for (name, millions) in millions {
            let spec = shape(&format!("qwen2.5-coder-{name}")).unwrap();
            let num_parameters = crate::arch::plan(&spec).unwrap().num_parameters();
            assert!((num_parameters as f64 / 1e6 - millions).abs() < 0.01, "{num_parameters}");
        }
        assert_eq!(shape_names().count(), millions.len());
        assert_eq!(shape("qwen"), None);
    }
}
