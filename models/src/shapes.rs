//! Published shapes by name, so that a full-size model can be measured with [random weights](crate::random_weights)
//! and without a download.

use kernels::backend::DType;

use crate::config::{Activation, Biases, DecoderSpec, MixtureSpec, NormKind, Rope, RopeKind};

/// What the models of one maker share.
#[derive(Clone, Copy, Debug)]
enum Family {
    Qwen25Coder,
    Qwen3,
    Qwen3Coder,
    Codestral,
    DeepSeekCoder,
    StarCoder2,
    CodeGemma,
    CodeLlama,
    SeedCoder,
    Mellum,
}

/// Whether the head is the embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    Tied,
    Own,
}

/// The sizes in which the models of one family differ.
#[derive(Debug)]
struct Shape {
    name: &'static str,
    family: Family,
    sizes: Sizes,
    theta: f64,
    head: Head,
}

/// Hidden size, width of the feed-forward part, layers, query heads, key/value heads, vocabulary.
type Sizes = [usize; 6];

const fn row(name: &'static str, family: Family, sizes: Sizes, theta: f64, head: Head) -> Shape {
    Shape { name, family, sizes, theta, head }
}

/// # Source
/// The `config.json` of each base model as its maker published it.
const SHAPES: &[Shape] = {
    use Family::{
        CodeGemma, CodeLlama, Codestral, DeepSeekCoder, Mellum, Qwen3, Qwen3Coder, Qwen25Coder,
        SeedCoder, StarCoder2,
    };
    use Head::{Own, Tied};
    &[
        row("qwen2.5-coder-0.5b", Qwen25Coder, [896, 4864, 24, 14, 2, 151_936], 1e6, Tied),
        row("qwen2.5-coder-1.5b", Qwen25Coder, [1536, 8960, 28, 12, 2, 151_936], 1e6, Tied),
        row("qwen2.5-coder-3b", Qwen25Coder, [2048, 11_008, 36, 16, 2, 151_936], 1e6, Tied),
        row("qwen2.5-coder-7b", Qwen25Coder, [3584, 18_944, 28, 28, 4, 152_064], 1e6, Own),
        row("qwen2.5-coder-14b", Qwen25Coder, [5120, 13_824, 48, 40, 8, 152_064], 1e6, Own),
        row("qwen2.5-coder-32b", Qwen25Coder, [5120, 27_648, 64, 40, 8, 152_064], 1e6, Own),
        row("qwen3-0.6b", Qwen3, [1024, 3072, 28, 16, 8, 151_936], 1e6, Tied),
        row("qwen3-1.7b", Qwen3, [2048, 6144, 28, 16, 8, 151_936], 1e6, Tied),
        row("qwen3-4b", Qwen3, [2560, 9728, 36, 32, 8, 151_936], 1e6, Tied),
        row("qwen3-8b", Qwen3, [4096, 12_288, 36, 32, 8, 151_936], 1e6, Own),
        row("qwen3-14b", Qwen3, [5120, 17_408, 40, 40, 8, 151_936], 1e6, Own),
        row("qwen3-32b", Qwen3, [5120, 25_600, 64, 64, 8, 151_936], 1e6, Own),
        row("qwen3-coder-30b-a3b", Qwen3Coder, [2048, 5472, 48, 32, 4, 151_936], 1e7, Own),
        row("codestral-22b", Codestral, [6144, 16_384, 56, 48, 8, 32_768], 1e6, Own),
        row("deepseek-coder-1.3b", DeepSeekCoder, [2048, 5504, 24, 16, 16, 32_256], 1e5, Own),
        row("deepseek-coder-6.7b", DeepSeekCoder, [4096, 11_008, 32, 32, 32, 32_256], 1e5, Own),
        row(
            "starcoder2-3b",
            StarCoder2,
            [3072, 12_288, 30, 24, 2, 49_152],
            999_999.442_035_881_3,
            Tied,
        ),
        row("starcoder2-7b", StarCoder2, [4608, 18_432, 32, 36, 4, 49_152], 1e6, Tied),
        row("starcoder2-15b", StarCoder2, [6144, 24_576, 40, 48, 4, 49_152], 1e5, Own),
        row("codegemma-2b", CodeGemma, [2048, 16_384, 18, 8, 1, 256_000], 1e4, Tied),
        row("codegemma-7b", CodeGemma, [3072, 24_576, 28, 16, 16, 256_000], 1e4, Tied),
        row("codellama-7b", CodeLlama, [4096, 11_008, 32, 32, 32, 32_016], 1e6, Own),
        row("codellama-13b", CodeLlama, [5120, 13_824, 40, 40, 40, 32_016], 1e6, Own),
        row("seed-coder-8b", SeedCoder, [4096, 14_336, 32, 32, 8, 155_136], 5e5, Own),
        row("mellum-4b", Mellum, [3072, 8256, 30, 24, 24, 98_304], 5e5, Own),
    ]
};

/// Returns the names that [`shape`] knows.
pub fn shape_names() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|shape| shape.name)
}

/// Returns the decoder of a published shape, in bf16; `None` where the name is unknown.
pub fn shape(name: &str) -> Option<DecoderSpec> {
    let shape = SHAPES.iter().find(|shape| shape.name == name)?;
    Some(shape.family.with_its_own(shape.plain()))
}

impl Shape {
    /// Returns these sizes as Llama has them.
    fn plain(&self) -> DecoderSpec {
        let [hidden_size, ffn_size, num_layers, num_heads, num_kv_heads, vocab_size] = self.sizes;
        DecoderSpec {
            architecture: "LlamaForCausalLM",
            vocab_size,
            hidden_size,
            num_layers,
            num_heads,
            num_kv_heads,
            head_dim: hidden_size / num_heads,
            ffn_size,
            mixture: None,
            norm: NormKind::Rms,
            norm_eps: 1e-6,
            has_head_norms: false,
            biases: Biases::NONE,
            activation: Activation::Silu,
            is_gated: true,
            embedding_scale: None,
            rope: Rope { theta: self.theta, kind: RopeKind::Default },
            max_position_embeddings: 16_384,
            has_tied_head: self.head == Head::Tied,
            windows: vec![None; num_layers],
            dtype: DType::Bf16,
            eos_token_ids: Vec::new(),
        }
    }
}

impl Family {
    /// Returns the decoder with what the family has otherwise than Llama.
    fn with_its_own(self, plain: DecoderSpec) -> DecoderSpec {
        match self {
            Self::Qwen25Coder => DecoderSpec {
                architecture: "Qwen2ForCausalLM",
                biases: Biases { qkv: true, ..Biases::NONE },
                max_position_embeddings: 32_768,
                ..plain
            },
            Self::Qwen3 => DecoderSpec {
                architecture: "Qwen3ForCausalLM",
                head_dim: 128,
                has_head_norms: true,
                max_position_embeddings: 40_960,
                ..plain
            },
            Self::Qwen3Coder => DecoderSpec {
                architecture: "Qwen3MoeForCausalLM",
                mixture: Some(MixtureSpec {
                    num_experts: 128,
                    experts_per_token: 8,
                    expert_size: 768,
                    has_normed_weights: true,
                    layers: vec![true; plain.num_layers],
                }),
                max_position_embeddings: 262_144,
                ..Self::Qwen3.with_its_own(plain)
            },
            Self::Codestral => DecoderSpec {
                architecture: "MistralForCausalLM",
                norm_eps: 1e-5,
                max_position_embeddings: 32_768,
                ..plain
            },
            Self::DeepSeekCoder => DecoderSpec {
                rope: Rope { kind: RopeKind::Linear { factor: 4.0 }, ..plain.rope },
                ..plain
            },
            Self::StarCoder2 => DecoderSpec {
                architecture: "Starcoder2ForCausalLM",
                norm: NormKind::Layer,
                norm_eps: 1e-5,
                biases: Biases { qkv: true, attention_output: true, ffn: true },
                activation: Activation::GeluTanh,
                is_gated: false,
                windows: vec![Some(4096); plain.num_layers],
                ..plain
            },
            Self::CodeGemma => DecoderSpec {
                architecture: "GemmaForCausalLM",
                head_dim: 256,
                activation: Activation::GeluTanh,
                embedding_scale: Some((plain.hidden_size as f64).sqrt() as f32),
                max_position_embeddings: 8192,
                ..plain
            },
            Self::CodeLlama => DecoderSpec { norm_eps: 1e-5, ..plain },
            Self::SeedCoder => DecoderSpec { max_position_embeddings: 32_768, ..plain },
            Self::Mellum => DecoderSpec { max_position_embeddings: 8192, ..plain },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_has_the_parameters_of_its_model() {
        // As the model cards and the headers of the published files count them, in millions.
        let millions = [
            ("qwen2.5-coder-0.5b", 494.03),
            ("qwen2.5-coder-1.5b", 1543.71),
            ("qwen2.5-coder-3b", 3085.94),
            ("qwen2.5-coder-7b", 7615.62),
            ("qwen2.5-coder-14b", 14_770.03),
            ("qwen2.5-coder-32b", 32_763.88),
            ("qwen3-0.6b", 596.05),
            ("qwen3-1.7b", 1720.57),
            ("qwen3-4b", 4022.47),
            ("qwen3-8b", 8190.74),
            ("qwen3-14b", 14_768.31),
            ("qwen3-32b", 32_762.12),
            ("qwen3-coder-30b-a3b", 30_532.12),
            ("codestral-22b", 22_247.28),
            ("deepseek-coder-1.3b", 1346.47),
            ("deepseek-coder-6.7b", 6740.51),
            ("starcoder2-3b", 3030.37),
            ("starcoder2-7b", 7173.92),
            ("starcoder2-15b", 15_957.89),
            ("codegemma-2b", 2506.17),
            ("codegemma-7b", 8537.68),
            ("codellama-7b", 6738.55),
            ("codellama-13b", 13_016.03),
        ];
        // Those of which three digits are told.
        let rounded = [("seed-coder-8b", 8250.0), ("mellum-4b", 4020.0)];
        let exact = millions.iter().map(|row| (row, 0.01));
        for ((name, millions), limit) in exact.chain(rounded.iter().map(|row| (row, 5.0))) {
            let spec = shape(name).unwrap();
            let num_parameters = crate::arch::plan(&spec).unwrap().num_parameters();
            let is_close = (num_parameters as f64 / 1e6 - millions).abs() < limit;
            assert!(is_close, "{name}: {num_parameters}");
        }
        assert_eq!(shape_names().count(), millions.len() + rounded.len());
        assert_eq!(shape("qwen"), None);
    }
}
