//! What of a model decides its speed, and models of a named shape with random weights.

use models::{
    DecoderSpec, Device, LoadOptions, ModelError, Source, kv_bytes_per_block, rank_spec,
    weight_footprint, weights::Weights,
};

use crate::bench::engine::{ExpertTraffic, ModelFacts, Traffic};

/// The name of the embedded model's shape.
const DEMO: &str = "demo";

/// Draws the weights of every random model: speed does not depend on it.
const WEIGHT_SEED: u64 = 1;

/// Returns the names of the shapes that [`shape`] knows.
pub fn shape_names() -> impl Iterator<Item = &'static str> {
    std::iter::once(DEMO).chain(models::shape_names())
}

/// Returns what a model of this shape is; `None` where the name is unknown.
///
/// # Errors
/// The embedded model's configuration cannot be read.
pub fn shape(name: &str) -> Result<Option<DecoderSpec>, ModelError> {
    if name == DEMO { models::read_spec(Source::Demo).map(Some) } else { Ok(models::shape(name)) }
}

/// Draws the weights of a random model.
///
/// # Errors
/// As [`models::random_weights`].
pub fn draw(spec: &DecoderSpec) -> Result<Weights, ModelError> {
    models::random_weights(spec, WEIGHT_SEED)
}

/// Returns the host's memory that drawing weights of this shape takes and loading them takes beside it, before either.
///
/// # Errors
/// The spec breaks a rule.
///
/// # Units
/// bytes
pub fn drawn_bytes(spec: &DecoderSpec, device: Device) -> Result<u64, ModelError> {
    let element_bytes = spec.dtype.block_bytes() as u64;
    // The file, and its copy in the layout of the kernels, which a GPU has in its own memory.
    let num_copies = if device.is_real_gpu() { 1 } else { 2 };
    Ok(num_copies * element_bytes * models::arch::plan(spec)?.num_parameters())
}

/// Returns what a model is and what a step of it reads.
///
/// # Errors
/// The spec breaks a rule, or the weights are not those of the spec.
pub fn facts(
    name: String,
    is_random: bool,
    (spec, weights): (&DecoderSpec, &Weights),
    options: &LoadOptions,
) -> Result<(ModelFacts, Traffic), ModelError> {
    // Of one rank: they read side by side.
    let LoadOptions { weight_format, device, tensor_parallel_size: num_ranks, .. } = *options;
    let footprint = weight_footprint(spec, weights, weight_format, device, num_ranks)?;
    let block =
        kv_bytes_per_block(&rank_spec(spec, num_ranks)?, options.block_size, options.kv_dtype);
    let kv_bytes_per_token = block / options.block_size as u64;
    let share = spec
        .mixture
        .as_ref()
        .map_or(0.0, |mixture| mixture.experts_per_token as f64 / mixture.num_experts as f64);
    let plan = weights.plan(spec)?;
    let num_idle_parameters = (plan.num_in_experts() as f64 * (1.0 - share)).round() as u64;
    let facts = ModelFacts {
        name,
        is_random,
        architecture: spec.architecture,
        num_parameters: plan.num_parameters(),
        num_active_parameters: plan.num_parameters() - num_idle_parameters,
        weight_format: footprint.type_names(),
        weight_bytes: footprint.num_bytes,
        kv_cache_dtype: options.kv_dtype.name(),
        kv_bytes_per_token,
    };
    let experts = ExpertTraffic { num_bytes: footprint.expert_bytes, share };
    Ok((facts, Traffic { weight_bytes: footprint.step_bytes, experts, kv_bytes_per_token }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use models::{
        Device, GraphMode, KvCacheSize, KvDType, WeightFormat,
        config::{MixtureSpec, NormKind},
    };

    use super::*;

    fn options(weight_format: WeightFormat) -> LoadOptions {
        LoadOptions {
            device: Device::Cpu,
            weight_format,
            block_size: 16,
            kv_dtype: KvDType::F16,
            kv_cache: KvCacheSize::Blocks(1),
            max_num_tokens: 1,
            max_num_seqs: 1,
            max_num_logit_rows: 1,
            context_tokens_max: None,
            num_threads: None,
            simd: None,
            graphs: GraphMode::Eager,
            adapters: Arc::default(),
            tensor_parallel_size: 1,
        }
    }

    #[test]
    fn of_a_mixture_the_experts_of_a_token_count() {
        let dense = models::read_spec(Source::Demo).unwrap();
        assert_eq!(dense.norm, NormKind::Rms);
        let mixture = MixtureSpec {
            num_experts: 8,
            experts_per_token: 2,
            expert_size: 64,
            has_normed_weights: true,
            layers: vec![true; dense.num_layers],
        };
        let architecture = "Qwen3MoeForCausalLM";
        let mixed = DecoderSpec { architecture, mixture: Some(mixture), ..dense.clone() };
        let in_experts = (dense.num_layers * 8 * 3 * 64 * dense.hidden_size) as u64;
        for spec in [dense, mixed] {
            let weights = draw(&spec).unwrap();
            let options = options(WeightFormat::Stored);
            let (facts, traffic) =
                facts("m".to_owned(), true, (&spec, &weights), &options).unwrap();
            let in_experts = if spec.mixture.is_some() { in_experts } else { 0 };
            let idle = facts.num_parameters - facts.num_active_parameters;
            assert_eq!(idle, in_experts / 4 * 3);
            assert_eq!(traffic.experts.num_bytes, 2 * in_experts);
            // The head is the embedding: every weight is read.
            assert_eq!(traffic.weight_bytes + traffic.experts.num_bytes, facts.weight_bytes);
            let of_one = traffic.experts.bytes_read(1);
            assert!((of_one - in_experts as f64 / 2.0).abs() < 1e-3, "{of_one}");
        }
    }
}
