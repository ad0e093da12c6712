//! Host memory that the GPU reads by itself, so that an upload returns before it has arrived.
//!
//! Two halves are filled in turn. A half is filled again only when what was copied from it has arrived, so that small
//! uploads wait at most once in [`HALF_BYTES`], and then for work that is long done.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use std::fmt;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaStream, DriverError, PinnedHostSlice, result,
};

use crate::threads;

/// Enough that a large upload runs at the bus's rate, and the threads that fill a half are worth their start: 0.6 ms at 55 GB/s.
const HALF_BYTES: usize = 32 << 20;

/// Of each upload in a half: a line of the host's cache.
const ALIGNMENT: usize = 64;

/// The way from the host to the device.
pub(super) struct Staging {
    halves: [Half; 2],
    current: usize,
    /// Bytes of the current half that are in use.
    used: usize,
}

struct Half {
    memory: PinnedHostSlice<u8>,
    /// Comes after the last copy from this half, once another is filled.
    is_read: CudaEvent,
}

impl fmt::Debug for Staging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Staging({} of {HALF_BYTES} bytes in half {})", self.used, self.current)
    }
}

impl Staging {
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Self, DriverError> {
        let halves = [Half::new(stream)?, Half::new(stream)?];
        Ok(Self { halves, current: 0, used: 0 })
    }

    /// Copies the bytes to a device's address. They may be changed as soon as this returns.
    ///
    /// # Safety
    /// The memory from `address` on has room for them, on the stream's device.
    pub(super) unsafe fn upload(
        &mut self,
        stream: &CudaStream,
        address: u64,
        bytes: &[u8],
    ) -> Result<(), DriverError> {
        stream.context().bind_to_thread()?;
        let mut num_done = 0;
        while num_done < bytes.len() {
            if self.used == HALF_BYTES {
                self.turn(stream)?;
            }
            let num_bytes = (bytes.len() - num_done).min(HALF_BYTES - self.used);
            let memory = self.halves[self.current].memory.as_mut_slice()?;
            let part = &mut memory[self.used..self.used + num_bytes];
            threads::copy(&bytes[num_done..num_done + num_bytes], part);
            let target = address + num_done as u64;
            // SAFETY: the target has room, says the caller; `part` stays as it is until `turn` has seen the copy's end,
            // and staging outlives the stream's work.
            unsafe { result::memcpy_htod_async(target, part, stream.cu_stream()) }?;
            // Aligned reads are the fastest; `HALF_BYTES` is a multiple too.
            self.used = (self.used + num_bytes).next_multiple_of(ALIGNMENT);
            num_done += num_bytes;
        }
        Ok(())
    }

    /// Begins the other half, once what was copied from it has arrived.
    fn turn(&mut self, stream: &CudaStream) -> Result<(), DriverError> {
        self.halves[self.current].is_read.record(stream)?;
        self.current = 1 - self.current;
        // An event that was never recorded counts as past.
        self.halves[self.current].is_read.synchronize()?;
        self.used = 0;
        Ok(())
    }
}

impl Half {
    fn new(stream: &Arc<CudaStream>) -> Result<Self, DriverError> {
        let context = stream.context();
        // SAFETY: bytes are written before they are read: by us to the end of what is then copied.
        let memory = unsafe { context.alloc_pinned::<u8>(HALF_BYTES) }?;
        Ok(Self { memory, is_read: context.new_event(None)? })
    }
}
