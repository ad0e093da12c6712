//! What of a model decides its speed, and models of a named shape with random weights.

use models::{
    DecoderSpec, LoadOptions, ModelError, Source, WeightFormat, kv_bytes_per_block, weight_bytes,
    weights::Weights,
};

use crate::bench::engine::{ModelFacts, Traffic};

/// The name of the embedded model's shape.
const DEMO: &str = "demo";

/// Draws the weights of every random model: speed does not depend on it.
const WEIGHT_SEED: u64 = 1;

/// A stream of reads from memory.
pub use models::ReadStream as Stream;

/// Returns the widest vector instructions that the kernels use on this machine.
pub fn simd_tier() -> String {
    models::SimdTier::fastest().to_string()
}

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

/// Returns what a model is and what a step of it reads.
///
/// # Errors
/// The spec breaks a rule.
pub fn facts(
    name: String,
    is_random: bool,
    (spec, weights): (&DecoderSpec, &Weights),
    options: &LoadOptions,
) -> Result<(ModelFacts, Traffic), ModelError> {
    let plan = weights.plan(spec)?;
    let num_parameters = plan.num_parameters();
    let weight_bytes = weight_bytes(spec, weights, options.weight_format)?;
    // A step takes one row a token out of the embedding. Where the embedding is the head too, it is read as that.
    let num_unread = plan.head.is_some().then(|| plan.embedding.num_elements() as u64);
    let num_read = num_parameters - num_unread.unwrap_or(0);
    let read = u128::from(weight_bytes) * u128::from(num_read) / u128::from(num_parameters);
    let block = kv_bytes_per_block(spec, options.block_size, options.kv_dtype);
    let kv_bytes_per_token = block / options.block_size as u64;
    let facts = ModelFacts {
        name,
        is_random,
        architecture: spec.architecture,
        num_parameters,
        weight_format: format_name(spec, options.weight_format),
        weight_bytes,
        kv_bytes_per_token,
    };
    Ok((facts, Traffic { weight_bytes: read as u64, kv_bytes_per_token }))
}

fn format_name(spec: &DecoderSpec, format: WeightFormat) -> &'static str {
    match format {
        WeightFormat::Int8 => "int8",
        WeightFormat::F32 => "f32",
        WeightFormat::Stored => spec.dtype.name(),
    }
}
