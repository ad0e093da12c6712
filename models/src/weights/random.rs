//! Tiny models out of a seed, for tests and benches: the same file format, no download, no meaning.

use half::{bf16, f16};
use kernels::backend::DType;
use safetensors::{Dtype as StoredDtype, tensor::TensorView};

use crate::{
    arch,
    config::DecoderSpec,
    error::{ModelError, WeightsError},
    weights::{TensorSpec, Weights},
};

/// What errors call the file that there is not.
const FILE: &str = "random.safetensors";

/// Returns random weights for `spec`, the same for the same seed, in the element type that the spec names.
///
/// Matrices keep the variance of what they multiply, norms lie around 1 and biases around 0, so that activations stay
/// in the range of a trained model whatever the depth.
///
/// # Errors
/// As [`arch::plan`]; [`ModelError::Weights`] where the sizes or the element type cannot be written as safetensors.
pub fn random_weights(spec: &DecoderSpec, seed: u64) -> Result<Weights, ModelError> {
    let plan = arch::plan(spec)?;
    let stored = match spec.dtype {
        DType::F32 => StoredDtype::F32,
        DType::Bf16 => StoredDtype::BF16,
        DType::F16 => StoredDtype::F16,
        blocks => {
            let (file, tensor) = (FILE.to_owned(), plan.embedding.name.clone());
            return Err(WeightsError::Dtype { file, tensor, found: format!("{blocks:?}") }.into());
        }
    };
    let mut state = seed;
    let data: Vec<(&TensorSpec, Vec<u8>)> =
        plan.tensors().map(|tensor| (tensor, draw(tensor, stored, &mut state))).collect();
    let mut views = Vec::with_capacity(data.len());
    for (tensor, bytes) in &data {
        let view = TensorView::new(stored, tensor.shape.clone(), bytes).map_err(format_error)?;
        views.push((tensor.name.as_str(), view));
    }
    let bytes = safetensors::serialize(views, None).map_err(format_error)?;
    Weights::from_bytes(FILE, bytes)
}

fn format_error(source: safetensors::SafeTensorError) -> ModelError {
    super::format_error(FILE, source).into()
}

fn draw(tensor: &TensorSpec, stored: StoredDtype, state: &mut u64) -> Vec<u8> {
    let (centre, spread) = match tensor.shape[..] {
        // A uniform variable in ±√(3/n) has variance 1/n.
        [_, cols] => (0.0, (3.0 / cols as f32).sqrt()),
        _ if tensor.name.ends_with("bias") => (0.0, 0.1),
        _ => (1.0, 0.1),
    };
    let mut bytes = Vec::with_capacity(tensor.num_elements() * size_of::<f32>());
    for _ in 0..tensor.num_elements() {
        let value = centre + spread * (2.0 * uniform(state) - 1.0);
        match stored {
            StoredDtype::BF16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
            StoredDtype::F16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
            _ => bytes.extend(value.to_le_bytes()),
        }
    }
    bytes
}

/// Draws from [0, 1) with `SplitMix64`, which is enough for noise and needs no dependency.
///
/// # Source
/// Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
fn uniform(state: &mut u64) -> f32 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^= mixed >> 31;
    // The upper 24 bits are all that a single-precision fraction holds.
    (mixed >> 40) as f32 / 16_777_216.0
}
