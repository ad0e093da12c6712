//! Finds out whether there is a GPU that can be used, before anything is asked of it.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use candle_core::cuda_backend::cudarc::driver::DriverError;
use candle_core::cuda_backend::cudarc::driver::result;
use candle_core::cuda_backend::cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute};

use super::error::{CAPABILITY_MIN, DRIVER_MIN, DeviceError};
use crate::cuda::device::DeviceFacts;

/// Returns what the GPU of this number is, where it can be used.
pub(super) fn check(ordinal: usize) -> Result<DeviceFacts, DeviceError> {
    let driver = driver_version()?;
    if driver < DRIVER_MIN {
        return Err(DeviceError::OldDriver { found: driver });
    }
    result::init().map_err(|error| DeviceError::of_start(error.0))?;
    let count = result::device::get_count()
        .map_err(|error| DeviceError::of_call("count of the GPUs", error))?;
    let num_devices = usize::try_from(count).unwrap_or(0);
    if num_devices == 0 {
        return Err(DeviceError::NoDevice);
    }
    let number = i32::try_from(ordinal).ok().filter(|_| ordinal < num_devices);
    let Some(number) = number else {
        return Err(DeviceError::NoSuchDevice { ordinal, num_devices });
    };
    facts(number, driver)
        .map_err(|error| DeviceError::of_call(format!("look at cuda:{ordinal}"), error))?
}

/// Returns what the GPU is, or that it is too old.
fn facts(number: i32, driver: (u32, u32)) -> Result<Result<DeviceFacts, DeviceError>, DriverError> {
    let device = result::device::get(number)?;
    let name = result::device::get_name(device)?;
    let major = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let num_sms = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    // SAFETY: `device` was returned by the driver.
    let total_bytes = unsafe { result::device::total_mem(device) }?;
    let capability = (major, minor);
    if capability < CAPABILITY_MIN {
        return Ok(Err(DeviceError::OldDevice { name, capability }));
    }
    Ok(Ok(DeviceFacts {
        name: format!("cuda:{number} ({name})"),
        capability,
        num_sms,
        total_bytes: total_bytes as u64,
        driver: Some(driver),
    }))
}

fn attribute(device: sys::CUdevice, attribute: Attribute) -> Result<u32, DriverError> {
    // SAFETY: `device` was returned by the driver.
    let value = unsafe { result::device::get_attribute(device, attribute) }?;
    Ok(u32::try_from(value).unwrap_or(0))
}

/// Returns the CUDA version that the driver supports. It answers before it is started.
fn driver_version() -> Result<(u32, u32), DeviceError> {
    let mut version = 0;
    // SAFETY: the driver writes an `int` to where it is told to.
    let code = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    code.result().map_err(|error| DeviceError::of_start(error.0))?;
    Ok(parse_version(version))
}

/// Returns major and minor of a version as CUDA writes it, `1000 * major + 10 * minor`.
fn parse_version(version: i32) -> (u32, u32) {
    let version = u32::try_from(version).unwrap_or(0);
    (version / 1000, version % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_parsed_and_compare() {
        for (version, parsed) in
            [(13000, (13, 0)), (12090, (12, 9)), (13020, (13, 2)), (0, (0, 0)), (-1, (0, 0))]
        {
            assert_eq!(parse_version(version), parsed);
        }
        assert!(parse_version(12090) < DRIVER_MIN && parse_version(13000) >= DRIVER_MIN);
    }
}
