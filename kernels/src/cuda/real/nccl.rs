//! NCCL: sums over several GPUs, asked for on each one's stream, so that they are captured with the step around them.
//!
//! The library is loaded when a group is joined, and not linked: a build with it starts without it, and says what is
//! missing to who asks for several GPUs. **None of this ever ran on several GPUs.** What must be right there: all ranks ask
//! for the same sums in the same order; a graph names its communicator, so it holds it, and goes first; a rank that
//! fails aborts the communicators of all, for their streams would wait for it for ever.
//!
//! # Source
//! Names, types and numbers are those of NCCL's documented C interface (`nccl.h`, version 2).

#![expect(unsafe_code, reason = "calls of NCCL")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use candle_core::cuda_backend::cudarc::driver::{CudaStream, DevicePtr};

use super::error::DeviceError;
use crate::backend::BackendError;
use crate::group::Member;

/// What the loader looks for.
const LIBRARY: &str = "libnccl.so.2";

/// The oldest release whose sums can be captured together with the kernels around them: 2.11, as NCCL writes it.
const VERSION_MIN: c_int = 21_100;

/// Length of what ranks find each other by.
const ID_BYTES: usize = 128;

/// `ncclSuccess`
const SUCCESS: c_int = 0;
/// `ncclFloat32`
const FLOAT32: c_int = 7;
/// `ncclSum`
const SUM: c_int = 0;

/// `ncclComm_t`
type Handle = *mut c_void;

/// `ncclUniqueId`
#[repr(C)]
#[derive(Clone, Copy)]
struct UniqueId([u8; ID_BYTES]);

type AllReduce = unsafe extern "C" fn(
    *const c_void,
    *mut c_void,
    usize,
    c_int,
    c_int,
    Handle,
    *mut c_void,
) -> c_int;

/// The functions that are called.
struct Library {
    get_version: unsafe extern "C" fn(*mut c_int) -> c_int,
    get_unique_id: unsafe extern "C" fn(*mut UniqueId) -> c_int,
    init_rank: unsafe extern "C" fn(*mut Handle, c_int, UniqueId, c_int) -> c_int,
    all_reduce: AllReduce,
    abort: unsafe extern "C" fn(Handle) -> c_int,
    destroy: unsafe extern "C" fn(Handle) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    /// Keeps the code in memory.
    _file: libloading::Library,
}

/// A GPU's place among others.
pub(super) struct Communicator {
    library: Library,
    /// Empty once it was aborted.
    handle: Mutex<Option<Handle>>,
}

// SAFETY: NCCL's communicators belong to no thread; the thread of the device calls, and another may abort.
unsafe impl Send for Communicator {}
// SAFETY: as above.
unsafe impl Sync for Communicator {}

impl fmt::Debug for Communicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Communicator").finish_non_exhaustive()
    }
}

impl Communicator {
    /// Joins the GPUs of a group, and sums once: connections are made at the first sum, which must not be in a capture. A
    /// rank that fails before it has joined leaves the others in `init_rank`, which nothing wakes but NCCL's own timeout.
    pub(super) fn new(
        member: &Member,
        stream: &Arc<CudaStream>,
        refuse: &dyn Fn(DeviceError) -> BackendError,
    ) -> Result<Arc<Self>, BackendError> {
        let library = Library::load().map_err(refuse)?;
        let id = library.shared_id(member, refuse)?;
        let bound = stream.context().bind_to_thread();
        bound.map_err(|error| refuse(DeviceError::of_call("a group of GPUs", error)))?;
        let mut handle: Handle = ptr::null_mut();
        let [num_ranks, rank] =
            [member.num_ranks(), member.rank()].map(|count| (count as u32).cast_signed());
        // SAFETY: NCCL writes a handle to where it is told to, and takes the rest by value.
        let code = unsafe { (library.init_rank)(&raw mut handle, num_ranks, id, rank) };
        library.check("a group of GPUs", code).map_err(refuse)?;
        let joined = Arc::new(Self { library, handle: Mutex::new(Some(handle)) });
        let communicator = Arc::downgrade(&joined);
        member.on_failure(move || {
            let Some(communicator) = communicator.upgrade() else { return };
            // Aborting frees the streams that wait, and returns when no graph names the communicator any more: that may
            // be the caller's to bring about. Without a thread they go on waiting, which nothing here could mend.
            let abort = move || communicator.abort();
            let _ = thread::Builder::new().name("nccl-abort".to_owned()).spawn(abort);
        });
        joined.first_sum(stream).map_err(refuse)?;
        Ok(joined)
    }

    /// Replaces `len` f32 values from `address` on by their sum over the ranks.
    pub(super) fn all_reduce(
        &self,
        stream: &CudaStream,
        address: u64,
        len: usize,
    ) -> Result<(), DeviceError> {
        let what = "a sum over the GPUs";
        // Not held during the call, which may wait for a stream that only an abort frees; NCCL allows one beside it.
        let handle = *self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(handle) = handle else {
            return Err(DeviceError::Refused(format!("{what}, of which one has failed")));
        };
        let values: *mut c_void = ptr::with_exposed_provenance_mut(address as usize);
        let stream = stream.cu_stream().cast();
        // SAFETY: the caller answers for the values, as for a launch; a communicator that is aborted meanwhile ends the call.
        let code =
            unsafe { (self.library.all_reduce)(values, values, len, FLOAT32, SUM, handle, stream) };
        self.library.check(what, code)
    }

    fn first_sum(&self, stream: &Arc<CudaStream>) -> Result<(), DeviceError> {
        let failed = |error| DeviceError::of_call("the first sum over the GPUs", error);
        let value = stream.alloc_zeros::<f32>(1).map_err(failed)?;
        self.all_reduce(stream, value.device_ptr(stream).0, 1)?;
        stream.synchronize().map_err(failed)
    }

    fn abort(&self) {
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(handle) = handle {
            // SAFETY: it was made by this library and taken out, so that nobody else can use it. A failure of the
            // last call leaves nothing to be done.
            let _ = unsafe { (self.library.abort)(handle) };
        }
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        let handle = self.handle.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(handle) = handle {
            // SAFETY: it was made by this library; graphs that name it held this value, so they are gone.
            let _ = unsafe { (self.library.destroy)(handle) };
        }
    }
}

impl Library {
    fn load() -> Result<Self, DeviceError> {
        let missing = |error: libloading::Error| DeviceError::NoNccl { said: error.to_string() };
        // SAFETY: NVIDIA's library; what it does when it is loaded is as trusted as the driver is.
        let file = unsafe { libloading::Library::new(LIBRARY) }.map_err(missing)?;
        let library = Self {
            get_version: function(&file, c"ncclGetVersion").map_err(missing)?,
            get_unique_id: function(&file, c"ncclGetUniqueId").map_err(missing)?,
            init_rank: function(&file, c"ncclCommInitRank").map_err(missing)?,
            all_reduce: function(&file, c"ncclAllReduce").map_err(missing)?,
            abort: function(&file, c"ncclCommAbort").map_err(missing)?,
            destroy: function(&file, c"ncclCommDestroy").map_err(missing)?,
            error_string: function(&file, c"ncclGetErrorString").map_err(missing)?,
            _file: file,
        };
        let mut version = 0;
        // SAFETY: NCCL writes an `int` to where it is told to.
        let code = unsafe { (library.get_version)(&raw mut version) };
        library.check("NCCL's version", code)?;
        if version < VERSION_MIN {
            return Err(DeviceError::OldNccl { found: version, needed: VERSION_MIN });
        }
        Ok(library)
    }

    /// Returns what rank 0 made for all to find each other by. Bytes travel as numbers: sums with zeros are exact.
    fn shared_id(
        &self,
        member: &Member,
        refuse: &dyn Fn(DeviceError) -> BackendError,
    ) -> Result<UniqueId, BackendError> {
        let mut id = UniqueId([0; ID_BYTES]);
        if member.rank() == 0 {
            // SAFETY: NCCL writes an id to where it is told to.
            let code = unsafe { (self.get_unique_id)(&raw mut id) };
            self.check("an id for a group of GPUs", code).map_err(refuse)?;
        }
        let mut numbers = id.0.map(f32::from);
        member.all_reduce(&mut numbers)?;
        Ok(UniqueId(numbers.map(|number| number as u8)))
    }

    fn check(&self, what: &str, code: c_int) -> Result<(), DeviceError> {
        if code == SUCCESS {
            return Ok(());
        }
        // SAFETY: takes any code.
        let text = unsafe { (self.error_string)(code) };
        let said = if text.is_null() {
            format!("NCCL's error {code}")
        } else {
            // SAFETY: not null, and a literal of the library, which is loaded.
            unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
        };
        let said = format!("{said}: NCCL_DEBUG=INFO makes it say more");
        Err(DeviceError::Call { what: what.to_owned(), said })
    }
}

/// Returns the function of a name; `F` is its type as `nccl.h` has it.
fn function<F: Copy>(file: &libloading::Library, name: &CStr) -> Result<F, libloading::Error> {
    // SAFETY: the types above are those of the functions that are asked for.
    let symbol = unsafe { file.get::<F>(name) }?;
    Ok(*symbol)
}
