//! A real GPU: memory and stream by candle, our kernels by the driver, large products by cuBLASLt.
//!
//! | to read | what it holds |
//! |---|---|
//! | `start` | whether there is a GPU that can be used |
//! | [`error`](DeviceError) | what was found instead, and what to do |
//! | `modules` | our kernels, by name |
//! | `products` | large products, tuned by shape |
//! | `pool` | what becomes of freed memory |
//! | `staging` | uploads that do not wait |
//! | `downloads` | downloads that do not wait |
//! | `nccl` | sums over several GPUs; `without_nccl` refuses them |
//!
//! All work is on candle's one stream, which is not the default one. Order on it is all that protects memory: candle's own
//! tracking by events is off. The thread that drives a device may change, but there is one at a time.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

mod downloads;
mod error;
mod modules;
#[cfg(feature = "nccl")]
mod nccl;
#[cfg(not(feature = "nccl"))]
#[path = "without_nccl.rs"]
mod nccl;
mod pool;
mod products;
mod staging;
mod start;

use std::cell::RefCell;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::sys::{
    CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode,
};
use candle_core::cuda_backend::cudarc::driver::{
    CudaGraph as DriverGraph, CudaSlice, CudaStream, DevicePtr, DriverError, result,
};

use self::downloads::Downloads;
pub use self::error::DeviceError;
use self::modules::Kernels;
use self::nccl::Communicator;
use self::products::{Mode, Products};
use self::staging::Staging;
use crate::backend::BackendError;
use crate::cuda::device::{Device, DeviceFacts, DeviceMemory, Launch, Matmul};
use crate::group::Member;

/// A GPU that was found fit, with all that its use needs.
#[derive(Debug)]
pub struct CudaDevice {
    facts: DeviceFacts,
    kernels: Kernels,
    products: Products,
    staging: RefCell<Staging>,
    downloads: Downloads,
    mode: Mode,
    /// The other GPUs of its group, where it joined one.
    communicator: Option<Arc<Communicator>>,
    stream: Arc<CudaStream>,
    /// Owns the stream and, for whoever works with candle's tensors beside us, its libraries' handles.
    candle: candle_core::CudaDevice,
}

/// An allocation on a GPU.
#[derive(Debug)]
pub struct CudaMemory {
    /// Frees itself in the stream's order.
    slice: CudaSlice<u8>,
    address: u64,
    num_bytes: usize,
}

/// What was captured on a GPU.
pub struct CudaGraph {
    graph: DriverGraph,
    /// Tells devices apart: the graph's kernels live as long as the device that captured it.
    stream: Arc<CudaStream>,
    /// Outlives the graph, whose sums name it.
    _communicator: Option<Arc<Communicator>>,
}

// SAFETY: the driver's graphs belong to no thread, but calls must be one after the other: `replay` takes the device
// exclusively, and a graph is launched nowhere else.
unsafe impl Send for CudaGraph {}

impl std::fmt::Debug for CudaGraph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CudaGraph({:p})", self.graph.cu_graph_exec())
    }
}

impl DeviceMemory for CudaMemory {
    fn address(&self) -> u64 {
        self.address
    }

    fn num_bytes(&self) -> usize {
        self.num_bytes
    }
}

impl CudaDevice {
    /// Opens the GPU of this number, loads the kernels and allocates what every use needs: a context, libraries, 32 MiB
    /// for products on the device, two halves of 32 MiB for uploads on the host.
    ///
    /// # Errors
    /// [`DeviceError`]: what was found instead of a GPU that can be used, and what to do.
    pub fn new(ordinal: usize) -> Result<Self, DeviceError> {
        let facts = start::check(ordinal)?;
        let candle = candle_core::CudaDevice::new_with_stream(ordinal).map_err(|error| {
            DeviceError::Call { what: format!("open {}", facts.name), said: error.to_string() }
        })?;
        // SAFETY: there is one stream, whose order protects all memory.
        unsafe { candle.disable_event_tracking() };
        let stream = candle.cuda_stream();
        pool::keep_freed(stream.context())
            .map_err(|error| DeviceError::of_call("the pool of memory", error))?;
        let kernels = Kernels::load(stream.context(), &facts)?;
        let products = Products::new(&stream)?;
        let staging = Staging::new(&stream)
            .map_err(|error| DeviceError::of_call("host memory for uploads", error))?;
        stream.synchronize().map_err(|error| DeviceError::of_call("start", error))?;
        let staging = RefCell::new(staging);
        let (downloads, mode, communicator) = (Downloads::default(), Mode::Run, None);
        Ok(Self {
            facts,
            kernels,
            products,
            staging,
            downloads,
            mode,
            communicator,
            stream,
            candle,
        })
    }

    /// Returns the same device as candle knows it: its tensors may be used on the thread that drives this one, in the order
    /// of the calls.
    pub fn candle(&self) -> &candle_core::CudaDevice {
        &self.candle
    }

    /// Refuses what must not happen between a capture's launches.
    fn check_no_capture(&self, what: &str) -> Result<(), BackendError> {
        match self.mode {
            Mode::Run => Ok(()),
            Mode::Capture => Err(self.refuse(DeviceError::Refused(format!(
                "{what} while a graph is captured: do it before"
            )))),
        }
    }

    fn refuse(&self, error: DeviceError) -> BackendError {
        error.on(&self.facts.name)
    }

    fn failed(&self, what: impl Into<String>, error: DriverError) -> BackendError {
        self.refuse(DeviceError::of_call(what, error))
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        // What is under way may read host memory that is about to be freed. A failure leaves nothing to be done.
        let _ = self.stream.synchronize();
    }
}

impl Device for CudaDevice {
    type Memory = CudaMemory;
    type Graph = CudaGraph;

    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn free_bytes(&self) -> Result<u64, BackendError> {
        self.check_no_capture("a look at the free memory")?;
        let context = self.stream.context();
        // Freed memory can go back to the driver when the stream is idle.
        let found = self.stream.synchronize().and_then(|()| pool::give_back(context));
        let found = found.and_then(|()| context.mem_get_info());
        let (free, _) = found.map_err(|error| self.failed("a look at the free memory", error))?;
        Ok(free as u64)
    }

    fn allocate(&self, num_bytes: usize) -> Result<CudaMemory, BackendError> {
        self.check_no_capture("an allocation")?;
        // The driver has no empty allocations, but an address is wanted anyway.
        // SAFETY: what the memory holds is undefined, as the interface says.
        let slice = unsafe { self.stream.alloc::<u8>(num_bytes.max(1)) };
        let slice = slice.map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                BackendError::OutOfMemory { num_bytes, device: "the GPU" }
            }
            _ => self.failed(format!("an allocation of {num_bytes} bytes"), error),
        })?;
        let address = slice.device_ptr(&self.stream).0;
        Ok(CudaMemory { slice, address, num_bytes })
    }

    fn zero(&self, memory: &mut CudaMemory) -> Result<(), BackendError> {
        self.check_no_capture("a clearing")?;
        self.stream
            .memset_zeros(&mut memory.slice)
            .map_err(|error| self.failed(format!("clearing of {} bytes", memory.num_bytes), error))
    }

    fn upload(
        &self,
        memory: &mut CudaMemory,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), BackendError> {
        check_room(memory, offset, bytes.len());
        self.check_no_capture("an upload")?;
        let address = memory.address + offset as u64;
        let mut staging = self.staging.borrow_mut();
        // SAFETY: the memory has room, as was just checked, and is on this stream's device: there is one.
        unsafe { staging.upload(&self.stream, address, bytes) }
            .map_err(|error| self.failed(format!("an upload of {} bytes", bytes.len()), error))
    }

    fn download(
        &self,
        memory: &CudaMemory,
        offset: usize,
        bytes: &mut [u8],
    ) -> Result<(), BackendError> {
        check_room(memory, offset, bytes.len());
        self.check_no_capture("a download")?;
        let num_bytes = bytes.len();
        let failed = |error| self.failed(format!("a download of {num_bytes} bytes"), error);
        if bytes.is_empty() {
            return self.stream.synchronize().map_err(failed);
        }
        self.stream.context().bind_to_thread().map_err(failed)?;
        let address = memory.address + offset as u64;
        // SAFETY: the memory holds as many bytes, and `bytes` stays borrowed until the stream is idle.
        let copied = unsafe { result::memcpy_dtoh_async(bytes, address, self.stream.cu_stream()) };
        // Also where the copy failed, so that nothing writes to `bytes` after this.
        let waited = self.stream.synchronize();
        copied.and(waited).map_err(failed)
    }

    fn begin_download(
        &mut self,
        memory: &CudaMemory,
        offset: usize,
        num_bytes: usize,
    ) -> Result<(), BackendError> {
        check_room(memory, offset, num_bytes);
        self.check_no_capture("a download")?;
        let address = memory.address + offset as u64;
        // SAFETY: the memory holds as many bytes, as was just checked, and is on this stream's device: there is one.
        unsafe { self.downloads.begin(&self.stream, address, num_bytes) }
            .map_err(|error| self.failed(format!("a download of {num_bytes} bytes"), error))
    }

    fn end_download(&mut self, bytes: &mut [u8]) -> Result<(), BackendError> {
        match self.downloads.end(bytes) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.refuse(DeviceError::Refused(format!(
                "no download of {} bytes was asked for first",
                bytes.len()
            )))),
            Err(error) => Err(self.failed(format!("a download of {} bytes", bytes.len()), error)),
        }
    }

    fn launch(&mut self, launch: &Launch<'_>) -> Result<(), BackendError> {
        let result = self.kernels.launch(&self.stream, launch);
        result.map_err(|error| self.refuse(error))
    }

    fn matmul(&mut self, product: &Matmul) -> Result<(), BackendError> {
        let result = self.products.run(&self.stream, product, self.mode);
        result.map_err(|error| self.refuse(error))
    }

    fn join(&mut self, member: &Arc<Member>) -> Result<(), BackendError> {
        self.check_no_capture("the joining of a group")?;
        let joined = Communicator::new(member, &self.stream, &|error| self.refuse(error))?;
        self.communicator = Some(joined);
        Ok(())
    }

    fn all_reduce(&mut self, address: u64, len: usize) -> Result<(), BackendError> {
        let Some(communicator) = &self.communicator else {
            let what = "a sum over several GPUs was asked of one that joined no group";
            return Err(self.refuse(DeviceError::Refused(what.to_owned())));
        };
        let summed = communicator.all_reduce(&self.stream, address, len);
        summed.map_err(|error| self.refuse(error))
    }

    fn begin_capture(&mut self) -> Result<(), BackendError> {
        self.check_no_capture("another capture")?;
        // Other threads' calls, such as another device's, do not disturb a capture in this mode.
        self.stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .map_err(|error| self.failed("begin of a capture", error))?;
        self.mode = Mode::Capture;
        Ok(())
    }

    fn end_capture(&mut self) -> Result<CudaGraph, BackendError> {
        self.mode = Mode::Run;
        // An error of a call that could not return it is returned by the next: the stream must not miss its end for that.
        let earlier = self.stream.context().check_err();
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0));
        let graph = earlier.and(graph).map_err(|error| self.failed("end of a capture", error))?;
        let Some(graph) = graph else {
            let what = "the captured graph was lost: something in it is not allowed in graphs";
            return Err(self.refuse(DeviceError::Refused(what.to_owned())));
        };
        graph.upload().map_err(|error| self.failed("upload of a graph", error))?;
        let (stream, communicator) = (Arc::clone(&self.stream), self.communicator.clone());
        Ok(CudaGraph { graph, stream, _communicator: communicator })
    }

    fn replay(&mut self, graph: &CudaGraph) -> Result<(), BackendError> {
        self.check_no_capture("a replay")?;
        if !Arc::ptr_eq(&graph.stream, &self.stream) {
            let what = "a graph of another device was replayed: replay it where it was captured";
            return Err(self.refuse(DeviceError::Refused(what.to_owned())));
        }
        graph.graph.launch().map_err(|error| self.failed("launch of a graph", error))
    }
}

/// # Panics
/// Where the memory does not have these bytes.
fn check_room(memory: &CudaMemory, offset: usize, num_bytes: usize) {
    let end = offset.checked_add(num_bytes);
    assert!(
        end.is_some_and(|end| end <= memory.num_bytes),
        "{num_bytes} bytes from {offset} on are not in a memory of {}",
        memory.num_bytes
    );
}
