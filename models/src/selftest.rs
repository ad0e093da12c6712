//! The selftest's grid of operators on the device that was asked for.

use kernels::{backend::Backend, selftest};

pub use kernels::selftest::{Grid, Group, Outcome};

use crate::{
    error::ModelError,
    load::{Device, DeviceOptions, DeviceUser, with_device},
};

/// Runs every operator of a device against the reference, and hands each outcome to `sink`. Returns the device's name.
///
/// # Errors
/// [`ModelError`]: there is no such device, or it failed or refused a case.
pub fn operators(
    device: Device,
    options: &DeviceOptions,
    grid: Grid,
    sink: &mut dyn FnMut(Outcome),
) -> Result<String, ModelError> {
    with_device(device, options, Operators { grid, sink })
}

struct Operators<'a> {
    grid: Grid,
    sink: &'a mut dyn FnMut(Outcome),
}

impl DeviceUser for Operators<'_> {
    type Output = String;

    fn use_backend<B: Backend>(self, mut backend: B) -> Result<String, ModelError> {
        for group in Group::ALL {
            selftest::run(&mut backend, group, self.grid, self.sink)?;
        }
        Ok(backend.name())
    }
}
