//! Host memory that the GPU writes by itself, so that what is asked for arrives while other work is asked for.
//!
//! Each copy has a room of its own, and an event behind it: who waits for it waits for nothing that was asked for later.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaStream, DriverError, PinnedHostSlice, result,
};

/// Least size of a room: one serves the tokens of any usual step, so that none is allocated while requests are served.
const ROOM_BYTES_MIN: usize = 4096;

/// Copies under way, and rooms for others.
#[derive(Default)]
pub(super) struct Downloads {
    begun: VecDeque<Download>,
    spare: Vec<Room>,
}

struct Download {
    room: Room,
    num_bytes: usize,
}

struct Room {
    memory: PinnedHostSlice<u8>,
    num_bytes: usize,
    /// Comes after the copy.
    is_written: CudaEvent,
}

impl fmt::Debug for Downloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Downloads({} begun)", self.begun.len())
    }
}

impl Downloads {
    /// Asks for a copy of what a device's address will hold.
    ///
    /// # Safety
    /// The memory from `address` on has as many bytes, on the stream's device.
    pub(super) unsafe fn begin(
        &mut self,
        stream: &Arc<CudaStream>,
        address: u64,
        num_bytes: usize,
    ) -> Result<(), DriverError> {
        stream.context().bind_to_thread()?;
        let fitting = self.spare.iter().position(|room| room.num_bytes >= num_bytes);
        let mut room = match fitting {
            Some(index) => self.spare.swap_remove(index),
            None => Room::new(stream, num_bytes.next_power_of_two().max(ROOM_BYTES_MIN))?,
        };
        if num_bytes > 0 {
            let part = &mut room.memory.as_mut_slice()?[..num_bytes];
            // SAFETY: the address has as many bytes, says the caller; `part` is neither read nor freed before the event that
            // follows, for the room stays in `begun`, which outlives the stream's work.
            unsafe { result::memcpy_dtoh_async(part, address, stream.cu_stream()) }?;
        }
        let recorded = room.is_written.record(stream);
        // Kept in any case: the copy may be under way.
        self.begun.push_back(Download { room, num_bytes });
        recorded
    }

    /// Waits for the first copy that was not brought yet; returns whether there was one of that length.
    pub(super) fn end(&mut self, bytes: &mut [u8]) -> Result<bool, DriverError> {
        let is_next = self.begun.front().is_some_and(|copy| copy.num_bytes == bytes.len());
        let Some(copy) = self.begun.front_mut().filter(|_| is_next) else { return Ok(false) };
        copy.room.is_written.synchronize()?;
        bytes.copy_from_slice(&copy.room.memory.as_slice()?[..copy.num_bytes]);
        self.spare.extend(self.begun.pop_front().map(|copy| copy.room));
        Ok(true)
    }
}

impl Room {
    fn new(stream: &Arc<CudaStream>, num_bytes: usize) -> Result<Self, DriverError> {
        let context = stream.context();
        // Not write-combined, as uploads' memory is: the host reads it.
        // SAFETY: bytes are read only where a copy has written them.
        let memory = unsafe { context.alloc_pinned_with_flags::<u8>(num_bytes, 0) }?;
        Ok(Self { memory, num_bytes, is_written: context.new_event(None)? })
    }
}
