//! How long the operators of a published shape take on the device that was asked for.

use std::time::Duration;

use kernels::{backend::Backend, bench};

pub use kernels::bench::{Ceilings, Event, Measurement, Plan, Time, Widths};

use crate::{
    config::{DecoderSpec, NormKind},
    error::ModelError,
    load::{Device, DeviceOptions, DeviceUser, with_device},
};

/// Least time of a measurement of the memory.
const READ_TIME: Duration = Duration::from_millis(20);

/// Returns the widths of a model's layers.
pub fn widths(spec: &DecoderSpec) -> Widths {
    Widths {
        hidden_size: spec.hidden_size,
        ffn_size: spec.ffn_size,
        mixture: spec.mixture.as_ref().map(|mixture| mixture.shape(spec.hidden_size)),
        activation: spec.activation,
        is_gated: spec.is_gated,
        has_layer_norm: spec.norm == NormKind::Layer,
        num_heads: spec.num_heads,
        num_kv_heads: spec.num_kv_heads,
        head_dim: spec.head_dim,
        vocab_size: spec.vocab_size,
    }
}

/// Measures every operator of a model's widths, after the device's ceilings. `sink` hears of each, and says whether to go
/// on. Returns the device's name.
///
/// # Errors
/// [`ModelError`]: there is no such device, or it failed or is too small.
pub fn kernels(
    device: Device,
    options: &DeviceOptions,
    plan: &Plan,
    sink: &mut dyn FnMut(Event) -> bool,
) -> Result<String, ModelError> {
    with_device(device, options, Bench { plan, sink })
}

/// Reads `num_bytes` of a device's memory `repeat` times, and returns the bytes a second of each.
///
/// # Errors
/// As [`kernels()`].
pub fn read_speeds(
    device: Device,
    options: &DeviceOptions,
    num_bytes: usize,
    repeat: usize,
) -> Result<Vec<f64>, ModelError> {
    with_device(device, options, Read { num_bytes, repeat })
}

struct Read {
    num_bytes: usize,
    repeat: usize,
}

impl DeviceUser for Read {
    type Output = Vec<f64>;

    fn use_backend<B: Backend>(self, mut backend: B) -> Result<Vec<f64>, ModelError> {
        let time = Time { min: READ_TIME, repeat: self.repeat };
        Ok(bench::read_speeds(&mut backend, self.num_bytes, time)?)
    }
}

struct Bench<'a> {
    plan: &'a Plan,
    sink: &'a mut dyn FnMut(Event) -> bool,
}

impl DeviceUser for Bench<'_> {
    type Output = String;

    fn use_backend<B: Backend>(self, mut backend: B) -> Result<String, ModelError> {
        bench::run(&mut backend, self.plan, self.sink)?;
        Ok(backend.name())
    }
}
