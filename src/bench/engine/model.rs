//! What of a model decides its speed, and models of a named shape with random weights.

use models::{
    DecoderSpec, LoadOptions, ModelError, Source, kv_bytes_per_block, rank_spec, weight_footprint,
    weights::Weights,
};

use crate::bench::engine::{ModelFacts, Traffic};

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

/// Returns the memory that drawing weights of this shape takes and loading them takes beside it, before either.
///
/// # Errors
/// The spec breaks a rule.
///
/// # Units
/// bytes
pub fn drawn_bytes(spec: &DecoderSpec) -> Result<u64, ModelError> {
    let element_bytes = spec.dtype.block_bytes() as u64;
    // The file, and its copy in the layout of the kernels.
    Ok(2 * element_bytes * models::arch::plan(spec)?.num_parameters())
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
    let facts = ModelFacts {
        name,
        is_random,
        architecture: spec.architecture,
        num_parameters: weights.plan(spec)?.num_parameters(),
        weight_format: footprint.type_names(),
        weight_bytes: footprint.num_bytes,
        kv_cache_dtype: options.kv_dtype.name(),
        kv_bytes_per_token,
    };
    Ok((facts, Traffic { weight_bytes: footprint.step_bytes, kv_bytes_per_token }))
}
