//! Models out of a seed, for tests and benches: the file format of real ones, no download, no meaning.
//!
//! A model of full size is drawn in a second or two: the file is laid out first, then all cores fill it in place, each
//! run of values from a seed of its own, so that the bytes do not depend on how many cores there are.

use std::num::NonZero;

use half::{bf16, f16};
use kernels::{allocate, backend::DType};
use safetensors::{
    Dtype as StoredDtype,
    tensor::{Metadata, TensorInfo},
};

use crate::{
    arch,
    config::DecoderSpec,
    error::{ModelError, WeightsError},
    weights::{Stored, TensorSpec, Weights},
};

/// The file's name in messages.
const FILE: &str = "random.safetensors";

/// Values drawn from one seed: few enough that cores share a layer, enough that a seed costs nothing.
const RUN_LEN: usize = 1 << 16;

/// Returns random weights for `spec`, the same for the same seed, in the element type that the spec names. They take the
/// memory of one file.
///
/// Matrices keep the variance of what they multiply, norms lie around 1 and biases around 0, so that activations stay
/// in the range of a trained model whatever the depth, and logits spread as widely as the activations.
///
/// # Errors
/// As [`arch::plan`]; [`ModelError::Weights`] where the sizes cannot be written as safetensors;
/// [`ModelError::Backend`] where memory is short.
pub fn random_weights(spec: &DecoderSpec, seed: u64) -> Result<Weights, ModelError> {
    let plan = arch::plan(spec)?;
    let (stored, mut end) = (stored_dtype(spec.dtype, &plan.embedding)?, 0);
    let mut infos = Vec::new();
    for tensor in plan.tensors() {
        let data_offsets = (end, end + tensor.num_elements() * spec.dtype.block_bytes());
        end = data_offsets.1;
        let info = TensorInfo { dtype: stored, shape: tensor.shape.clone(), data_offsets };
        infos.push((tensor.name.clone(), info));
    }
    let header = header(infos)?;
    let mut file = allocate::zeroed(header.len() + end, "the host")?;
    let (head, data) = file.split_at_mut(header.len());
    head.copy_from_slice(&header);
    fill(plan.tensors(), (stored, spec.dtype.block_bytes()), seed, data);
    Weights::from_bytes(FILE, file)
}

/// Returns the type as safetensors know it; they have no blocks.
fn stored_dtype(dtype: DType, tensor: &TensorSpec) -> Result<StoredDtype, WeightsError> {
    match dtype {
        DType::F32 => Ok(StoredDtype::F32),
        DType::Bf16 => Ok(StoredDtype::BF16),
        DType::F16 => Ok(StoredDtype::F16),
        blocks => {
            let (file, tensor) = (FILE.to_owned(), tensor.name.clone());
            Err(WeightsError::Dtype { file, tensor, found: format!("{blocks:?}") })
        }
    }
}

/// Returns what stands before the tensors: the length of the rest, and the list of tensors padded to whole words.
fn header(infos: Vec<(String, TensorInfo)>) -> Result<Vec<u8>, ModelError> {
    let format_error = |source: safetensors::SafeTensorError| -> ModelError {
        super::format_error(FILE, source).into()
    };
    let metadata = Metadata::new(None, infos).map_err(format_error)?;
    let mut list = serde_json::to_vec(&metadata)
        .map_err(|source| format_error(safetensors::SafeTensorError::from(source)))?;
    list.resize(list.len().next_multiple_of(8), b' ');
    Ok([&(list.len() as u64).to_le_bytes(), &list[..]].concat())
}

/// A stretch of one tensor, drawn from its own seed.
struct Run<'a> {
    centre: f32,
    spread: f32,
    seed: u64,
    bytes: &'a mut [u8],
}

fn fill<'a>(
    tensors: impl Iterator<Item = &'a TensorSpec>,
    (dtype, element_bytes): (StoredDtype, usize),
    seed: u64,
    mut data: &mut [u8],
) {
    let mut runs = Vec::new();
    let mut state = seed;
    for tensor in tensors {
        let (bytes, rest) = data.split_at_mut(tensor.num_elements() * element_bytes);
        data = rest;
        let (centre, spread) = match tensor.shape[..] {
            // A uniform variable in ±√(3/n) has variance 1/n.
            [_, cols] => (0.0, (3.0 / cols as f32).sqrt()),
            _ if tensor.name.ends_with("bias") || tensor.stored == Stored::LessOne => (0.0, 0.1),
            _ => (1.0, 0.1),
        };
        for bytes in bytes.chunks_mut(RUN_LEN * element_bytes) {
            runs.push(Run { centre, spread, seed: draw(&mut state), bytes });
        }
    }
    let num_threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| {
        for runs in deal(runs, num_threads) {
            scope.spawn(|| runs.into_iter().for_each(|run| run.draw(dtype)));
        }
    });
}

/// Deals the runs to so many hands.
fn deal(runs: Vec<Run<'_>>, num_hands: usize) -> Vec<Vec<Run<'_>>> {
    let mut hands: Vec<Vec<Run<'_>>> = (0..num_hands).map(|_| Vec::new()).collect();
    for (index, run) in runs.into_iter().enumerate() {
        hands[index % num_hands].push(run);
    }
    hands
}

impl Run<'_> {
    fn draw(self, dtype: StoredDtype) {
        match dtype {
            StoredDtype::F32 => self.write(f32::to_le_bytes),
            StoredDtype::BF16 => self.write(|value| bf16::from_f32(value).to_le_bytes()),
            StoredDtype::F16 => self.write(|value| f16::from_f32(value).to_le_bytes()),
            other => unreachable!("`stored_dtype` knows no {other:?}"),
        }
    }

    /// Writes two values a draw: 32 bits each, of which a single-precision fraction keeps 24.
    fn write<const N: usize>(self, encode: impl Fn(f32) -> [u8; N]) {
        let Self { centre, spread, mut seed, bytes } = self;
        let value = |bits: u32| centre + spread * (bits.cast_signed() as f32 / 2_147_483_648.0);
        let (values, _) = bytes.as_chunks_mut::<N>();
        for pair in values.chunks_mut(2) {
            let bits = draw(&mut seed);
            pair[0] = encode(value(bits as u32));
            if let [_, second] = pair {
                *second = encode(value((bits >> 32) as u32));
            }
        }
    }
}

/// Draws 64 bits with `SplitMix64`, which is enough for noise and needs no dependency.
///
/// # Source
/// Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_around_their_centre_and_do_not_depend_on_the_hands() {
        let drawn = |num_hands| {
            let mut bytes = vec![0_u8; 8 * RUN_LEN + 4];
            let runs = bytes.chunks_mut(4 * RUN_LEN).zip(0..);
            let runs = runs.map(|(bytes, seed)| Run { centre: 1.0, spread: 0.5, seed, bytes });
            for run in deal(runs.collect(), num_hands).into_iter().flatten() {
                run.draw(StoredDtype::F32);
            }
            let (values, _) = bytes.as_chunks();
            values.iter().map(|value| f32::from_le_bytes(*value)).collect::<Vec<f32>>()
        };
        let values = drawn(1);
        assert_eq!(values, drawn(3));
        assert!(values.iter().all(|value| (0.5..=1.5).contains(value)));
        let len = values.len() as f32;
        let mean = values.iter().sum::<f32>() / len;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / len;
        // A uniform variable in ±0.5 has variance 1/12.
        assert!((mean - 1.0).abs() < 0.01 && (variance - 1.0 / 12.0).abs() < 0.001);
        assert_ne!(values[0].to_bits(), values[RUN_LEN].to_bits(), "each run has its own seed");
    }
}
