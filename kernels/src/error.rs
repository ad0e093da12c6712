//! What can go wrong on a device.

/// A failure of the device, never of a request.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// A buffer of this size could not be had.
    #[error("cannot allocate {num_bytes} bytes on {device}")]
    OutOfMemory {
        /// What was asked for.
        num_bytes: usize,
        /// Where.
        device: &'static str,
    },
    /// The device refused or failed; a CUDA context does not recover from most of that.
    #[error("{device}: {what}")]
    Device {
        /// Which device.
        device: String,
        /// What it was asked for, and what it said.
        what: String,
    },
    /// A buffer or an argument does not have the shape that the operator needs.
    #[error("{operator}: {what}")]
    Shape {
        /// The operator that refused.
        operator: &'static str,
        /// The rule and the value that broke it.
        what: String,
    },
    /// Another rank of the group failed or left; its own error says why.
    #[error("rank {rank} failed, and the others cannot go on without it")]
    RankFailed {
        /// The first that did.
        rank: usize,
    },
}
