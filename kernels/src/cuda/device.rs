//! What the CUDA backend asks of a GPU: memory, copies, launches by name, large products, graphs.
//!
//! Two implementations: the real one (`real`, feature `cuda`) and one that runs the kernels' own sources on the CPU
//! (`emulated`, feature `cuda-emulator`). All work is in the order of the calls, as on one stream. The methods are safe
//! to call and their arguments are addresses: whoever launches a kernel answers for what it may touch, so the only callers
//! are the checked wrappers of this folder.

use std::fmt::Debug;
use std::sync::Arc;

use crate::backend::BackendError;
use crate::group::Member;

/// A GPU, or something that computes what one would.
pub trait Device: Send + Debug + 'static {
    /// An allocation; dropping it frees the memory once the work that was asked for before is done.
    type Memory: DeviceMemory;
    /// Launches and products that were captured once and can be replayed.
    type Graph: Send + Debug;

    /// Returns what the device is and has.
    fn facts(&self) -> &DeviceFacts;

    /// Returns how much memory could be allocated now.
    ///
    /// # Units
    /// bytes
    ///
    /// # Errors
    /// [`BackendError::Device`], also while a graph is captured.
    fn free_bytes(&self) -> Result<u64, BackendError>;

    /// Allocates memory at an address that is a multiple of 256; on the emulated device of 16, because its buffers end at a
    /// page that traps. What it holds is undefined; the emulated device fills it with NaN.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`]; [`BackendError::Device`] while a graph is captured.
    fn allocate(&self, num_bytes: usize) -> Result<Self::Memory, BackendError>;

    /// Sets all bytes to zero.
    ///
    /// # Errors
    /// [`BackendError::Device`].
    fn zero(&self, memory: &mut Self::Memory) -> Result<(), BackendError>;

    /// Copies `bytes` to the memory, from `offset` on. They may be changed as soon as this returns.
    ///
    /// # Errors
    /// [`BackendError::Device`], also while a graph is captured.
    ///
    /// # Panics
    /// Where the memory has no room for them.
    fn upload(
        &self,
        memory: &mut Self::Memory,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), BackendError>;

    /// Copies to `bytes` what the memory holds from `offset` on, after all that was asked before.
    ///
    /// # Errors
    /// [`BackendError::Device`], also while a graph is captured.
    ///
    /// # Panics
    /// Where the memory holds fewer.
    fn download(
        &self,
        memory: &Self::Memory,
        offset: usize,
        bytes: &mut [u8],
    ) -> Result<(), BackendError>;

    /// Asks for a copy to the host of what the memory will hold once all that was asked before is done, and does not wait
    /// for it. [`Device::end_download`] brings the copies in the order in which they were asked for.
    ///
    /// # Errors
    /// [`BackendError::Device`], also while a graph is captured; [`BackendError::OutOfMemory`] on the host.
    ///
    /// # Panics
    /// Where the memory holds fewer.
    fn begin_download(
        &mut self,
        memory: &Self::Memory,
        offset: usize,
        num_bytes: usize,
    ) -> Result<(), BackendError>;

    /// Waits for the copy that was asked for first and not brought yet, and for nothing behind it.
    ///
    /// # Errors
    /// [`BackendError::Device`], also where no copy is under way or it is not as long as `bytes`.
    fn end_download(&mut self, bytes: &mut [u8]) -> Result<(), BackendError>;

    /// Runs a kernel of `kernels/cuda/` over its grid.
    ///
    /// # Errors
    /// [`BackendError::Device`]: no such kernel, a launch that the device refuses, or a fault that it found.
    fn launch(&mut self, launch: &Launch<'_>) -> Result<(), BackendError>;

    /// Computes a large product.
    ///
    /// # Errors
    /// [`BackendError::Device`].
    fn matmul(&mut self, product: &Matmul) -> Result<(), BackendError>;

    /// Makes the device a rank of a group. To be called once, and by all ranks at about the same time.
    ///
    /// # Errors
    /// [`BackendError::Device`] where it cannot be one of several; [`BackendError::RankFailed`].
    fn join(&mut self, member: &Arc<Member>) -> Result<(), BackendError>;

    /// Replaces `len` f32 values from `address` on by their sum over the ranks of the group, the same on each. Can be
    /// captured, as launches can.
    ///
    /// # Errors
    /// [`BackendError::Device`], also where no group was joined; [`BackendError::RankFailed`].
    fn all_reduce(&mut self, address: u64, len: usize) -> Result<(), BackendError>;

    /// From now on, records launches, products and sums instead of running them. Until the end nothing may be allocated, copied
    /// from or to the host, or freed.
    ///
    /// # Errors
    /// [`BackendError::Device`], also where a capture is under way.
    fn begin_capture(&mut self) -> Result<(), BackendError>;

    /// Ends the capture and returns what was recorded. After an error, too, the device runs what it is asked for.
    ///
    /// # Errors
    /// [`BackendError::Device`], also where no capture is under way.
    fn end_capture(&mut self) -> Result<Self::Graph, BackendError>;

    /// Runs what was captured, with the addresses of then and the memory's content of now.
    ///
    /// # Errors
    /// [`BackendError::Device`].
    fn replay(&mut self, graph: &Self::Graph) -> Result<(), BackendError>;
}

/// An allocation on a device.
pub trait DeviceMemory: Send + Debug + 'static {
    /// Returns the address of its first byte, as kernels see it.
    fn address(&self) -> u64;

    /// Returns its length.
    ///
    /// # Units
    /// bytes
    fn num_bytes(&self) -> usize;
}

/// What a device is and has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// What users read, such as `cuda:0 (NVIDIA H200)`.
    pub name: String,
    /// Compute capability, such as `(9, 0)`.
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub num_sms: u32,
    /// All of its memory, in bytes.
    pub total_bytes: u64,
    /// The driver's CUDA version, such as `(13, 0)`; `None` where there is no driver.
    pub driver: Option<(u32, u32)>,
}

/// One launch of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The kernel's name in its `.cu`.
    pub kernel: &'a str,
    /// Blocks along x, y and z; none of them 0.
    pub grid: [u32; 3],
    /// Threads of a block, at most 1024.
    pub num_threads: u32,
    /// Dynamic shared memory of a block, in bytes; may pass 48 KiB.
    pub shared_bytes: u32,
    /// The kernel's parameters in their order.
    pub arguments: &'a [Argument],
}

/// A parameter of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Argument {
    /// An address in the device's memory.
    Pointer(u64),
    /// `uint32_t`, or `int` where it is not negative.
    U32(u32),
    /// `float`.
    F32(f32),
}

impl Argument {
    /// Returns the parameter's bytes, the first of which a kernel of its type reads.
    pub fn bits(self) -> u64 {
        match self {
            Self::Pointer(address) => address,
            Self::U32(value) => u64::from(value),
            Self::F32(value) => u64::from(value.to_bits()),
        }
    }
}

/// `out = x Wᵀ` or `out += x Wᵀ`, with sums in f32.
///
/// # Shapes
/// `x` `[num_rows, cols]` bf16; `weights` `[rows, cols]` bf16; `out` `[num_rows, rows]` f32; each row-major without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matmul {
    /// Address of the activations.
    pub x: u64,
    /// Address of the weights.
    pub weights: u64,
    /// Address of the result.
    pub out: u64,
    /// Rows of activations.
    pub num_rows: usize,
    /// Input features, a multiple of 8.
    pub cols: usize,
    /// Output features.
    pub rows: usize,
    /// Whether `out` is added to.
    pub store: Store,
}

/// What becomes of what the result's memory held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// It is overwritten.
    Replace,
    /// It is added to.
    Add,
}
