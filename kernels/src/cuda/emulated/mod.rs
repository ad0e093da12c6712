//! The emulated GPU: the kernels' own sources, compiled for the CPU, run by `kernels/emulator/`.
//!
//! Threads of a launch run in an order drawn from the device's seed, and each launch draws the next. What a GPU leaves
//! undefined, such as fresh memory, is NaN here. What a GPU calls an error, and much that it would not notice, is a
//! [`BackendError::Device`] after which the device can still be used.

mod ffi;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::backend::BackendError;
use crate::cuda::device::{Argument, Device, DeviceFacts, DeviceMemory, Launch, Matmul};
use crate::group::Member;

/// How the device is called in errors and facts.
const NAME: &str = "emulated";

/// As large as a small GPU's, so that a test can exhaust it without touching it.
const TOTAL_BYTES: u64 = 8 << 30;

/// Few, so that the arithmetic of a launch sees several waves.
const NUM_SMS: u32 = 4;

/// What a GPU's allocator rounds to.
const ALLOCATION_UNIT: u64 = 256;

/// The alignment that tensor cores' libraries ask of operands.
const OPERAND_ALIGNMENT: u64 = 16;

/// A GPU that is computed by the CPU.
#[derive(Debug)]
pub struct EmulatedDevice {
    facts: DeviceFacts,
    shared: Arc<Shared>,
    random: Cell<u64>,
    fault: Option<String>,
    /// What a graph has so far, while one is captured.
    captured: RefCell<Option<Vec<Work>>>,
    /// What was asked for and not brought yet.
    downloads: VecDeque<Vec<u8>>,
    /// The group that it joined.
    member: Option<Arc<Member>>,
}

/// What memory shares with its device, which it may outlive.
#[derive(Debug, Default)]
struct Shared {
    used_bytes: AtomicU64,
    is_capturing: AtomicBool,
    has_freed_while_capturing: AtomicBool,
}

/// A buffer of the emulated device, between pages that trap.
#[derive(Debug)]
pub struct EmulatedMemory {
    buffer: ffi::Buffer,
    shared: Arc<Shared>,
}

/// Launches, products and sums in their order.
#[derive(Clone, Debug)]
pub struct EmulatedGraph {
    works: Vec<Work>,
}

#[derive(Clone, Debug)]
enum Work {
    Launch(OwnedLaunch),
    Matmul(Matmul),
    AllReduce { address: u64, len: usize },
}

#[derive(Clone, Debug)]
struct OwnedLaunch {
    kernel: String,
    grid: [u32; 3],
    num_threads: u32,
    shared_bytes: u32,
    arguments: Vec<Argument>,
}

impl EmulatedDevice {
    /// Returns a device whose orders of threads follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            facts: DeviceFacts {
                name: NAME.to_owned(),
                capability: (9, 0),
                num_sms: NUM_SMS,
                total_bytes: TOTAL_BYTES,
                driver: None,
            },
            shared: Arc::default(),
            random: Cell::new(seed),
            fault: None,
            captured: RefCell::new(None),
            downloads: VecDeque::new(),
            member: None,
        }
    }

    /// Returns a device that runs the kernels which have this planted fault (`kernels/emulator/faults.tsv`), and the
    /// others as they are.
    ///
    /// # Panics
    /// Where no kernel was compiled with it: without the feature `cuda-faults`, or with an unknown id.
    pub fn with_fault(seed: u64, id: &str) -> Self {
        assert!(
            Self::fault_ids().iter().any(|known| known == id),
            "no kernel was compiled with the fault `{id}`; is the feature `cuda-faults` on?"
        );
        Self { fault: Some(id.to_owned()), ..Self::new(seed) }
    }

    /// Returns the ids of the planted faults that were compiled, sorted.
    pub fn fault_ids() -> Vec<String> {
        let mut ids: Vec<String> = ffi::kernel_names()
            .iter()
            .filter_map(|name| name.split_once('/').map(|(id, _)| id.to_owned()))
            .collect();
        ids.dedup();
        ids
    }

    /// Returns the next seed (splitmix64).
    fn next_seed(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Checks the work and runs it, or records it while a graph is captured.
    fn submit(&self, work: Work) -> Result<(), BackendError> {
        let mut captured = self.captured.borrow_mut();
        let mode = if captured.is_some() { ffi::Mode::OnlyCheck } else { ffi::Mode::Run };
        self.execute(&work, mode)?;
        if let Some(works) = captured.as_mut() {
            works.push(work);
        }
        Ok(())
    }

    fn execute(&self, work: &Work, mode: ffi::Mode) -> Result<(), BackendError> {
        match work {
            Work::Launch(launch) => self.execute_launch(launch, mode),
            Work::Matmul(product) => execute_matmul(product, mode),
            Work::AllReduce { address, len } => self.execute_all_reduce(*address, *len, mode),
        }
    }

    /// Sums over the ranks by way of the host. A GPU does it on its stream; the order of the work is the same.
    fn execute_all_reduce(
        &self,
        address: u64,
        len: usize,
        mode: ffi::Mode,
    ) -> Result<(), BackendError> {
        let Some(member) = &self.member else {
            return Err(refused("all_reduce: no group was joined".to_owned()));
        };
        let num_bytes = len.checked_mul(size_of::<f32>());
        if !num_bytes.is_some_and(|num_bytes| ffi::is_inside(address, num_bytes)) {
            return Err(refused(format!(
                "all_reduce: {len} values at {address:#x} exceed a buffer"
            )));
        }
        if mode == ffi::Mode::OnlyCheck {
            return Ok(());
        }
        let mut values = vec![0.0_f32; len];
        ffi::read(address, bytemuck::cast_slice_mut(&mut values));
        member.all_reduce(&mut values)?;
        ffi::write(address, bytemuck::cast_slice(&values));
        Ok(())
    }

    fn execute_launch(&self, launch: &OwnedLaunch, mode: ffi::Mode) -> Result<(), BackendError> {
        let faulty = self.fault.as_ref().map(|id| format!("{id}/{}", launch.kernel));
        let faulty = faulty.filter(|name| ffi::has_kernel(name));
        let seeded = ffi::SeededLaunch {
            kernel: faulty.as_deref().unwrap_or(&launch.kernel),
            grid: launch.grid,
            num_threads: launch.num_threads,
            shared_bytes: launch.shared_bytes,
            arguments: &launch.arguments,
            seed: self.next_seed(),
        };
        ffi::launch(&seeded, mode).map_err(refused)?;
        for (index, argument) in launch.arguments.iter().enumerate() {
            if let Argument::Pointer(address) = *argument
                && ffi::is_slack_damaged(address)
            {
                return Err(refused(format!(
                    "kernel {}: something was written beside the buffer of parameter {index}",
                    seeded.kernel
                )));
            }
        }
        Ok(())
    }

    /// Refuses what a GPU's stream refuses while it is captured.
    fn not_while_capturing(&self, what: &str) -> Result<(), BackendError> {
        if self.captured.borrow().is_none() {
            return Ok(());
        }
        Err(refused(format!("{what} is not permitted while a graph is captured")))
    }
}

impl Device for EmulatedDevice {
    type Memory = EmulatedMemory;
    type Graph = EmulatedGraph;

    fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    fn free_bytes(&self) -> Result<u64, BackendError> {
        Ok(TOTAL_BYTES - self.shared.used_bytes.load(Ordering::Relaxed))
    }

    fn allocate(&self, num_bytes: usize) -> Result<EmulatedMemory, BackendError> {
        self.not_while_capturing("an allocation")?;
        let out_of_memory = || BackendError::OutOfMemory { num_bytes, device: NAME };
        let counted = counted_bytes(num_bytes).ok_or_else(out_of_memory)?;
        let used = self.shared.used_bytes.fetch_add(counted, Ordering::Relaxed);
        let buffer = if used.checked_add(counted).is_some_and(|all| all <= TOTAL_BYTES) {
            ffi::Buffer::new(num_bytes)
        } else {
            None
        };
        let Some(buffer) = buffer else {
            self.shared.used_bytes.fetch_sub(counted, Ordering::Relaxed);
            return Err(out_of_memory());
        };
        Ok(EmulatedMemory { buffer, shared: Arc::clone(&self.shared) })
    }

    fn zero(&self, memory: &mut EmulatedMemory) -> Result<(), BackendError> {
        self.not_while_capturing("setting memory to zero")?;
        memory.buffer.zero();
        Ok(())
    }

    fn upload(
        &self,
        memory: &mut EmulatedMemory,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), BackendError> {
        self.not_while_capturing("a copy from the host")?;
        memory.buffer.write(offset, bytes);
        Ok(())
    }

    fn download(
        &self,
        memory: &EmulatedMemory,
        offset: usize,
        bytes: &mut [u8],
    ) -> Result<(), BackendError> {
        self.not_while_capturing("a copy to the host")?;
        memory.buffer.read(offset, bytes);
        Ok(())
    }

    fn begin_download(
        &mut self,
        memory: &EmulatedMemory,
        offset: usize,
        num_bytes: usize,
    ) -> Result<(), BackendError> {
        self.not_while_capturing("a copy to the host")?;
        let mut bytes = vec![0; num_bytes];
        memory.buffer.read(offset, &mut bytes);
        self.downloads.push_back(bytes);
        Ok(())
    }

    fn end_download(&mut self, bytes: &mut [u8]) -> Result<(), BackendError> {
        let is_next = self.downloads.front().is_some_and(|copy| copy.len() == bytes.len());
        if !is_next {
            return Err(refused(format!("no copy of {} bytes was asked for first", bytes.len())));
        }
        if let Some(copy) = self.downloads.pop_front() {
            bytes.copy_from_slice(&copy);
        }
        Ok(())
    }

    fn launch(&mut self, launch: &Launch<'_>) -> Result<(), BackendError> {
        self.submit(Work::Launch(OwnedLaunch {
            kernel: launch.kernel.to_owned(),
            grid: launch.grid,
            num_threads: launch.num_threads,
            shared_bytes: launch.shared_bytes,
            arguments: launch.arguments.to_vec(),
        }))
    }

    fn matmul(&mut self, product: &Matmul) -> Result<(), BackendError> {
        self.submit(Work::Matmul(*product))
    }

    fn join(&mut self, member: &Arc<Member>) -> Result<(), BackendError> {
        self.member = Some(Arc::clone(member));
        Ok(())
    }

    fn all_reduce(&mut self, address: u64, len: usize) -> Result<(), BackendError> {
        self.submit(Work::AllReduce { address, len })
    }

    fn begin_capture(&mut self) -> Result<(), BackendError> {
        self.not_while_capturing("another capture")?;
        self.captured.replace(Some(Vec::new()));
        self.shared.has_freed_while_capturing.store(false, Ordering::Relaxed);
        self.shared.is_capturing.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn end_capture(&mut self) -> Result<EmulatedGraph, BackendError> {
        self.shared.is_capturing.store(false, Ordering::Relaxed);
        let Some(works) = self.captured.take() else {
            return Err(refused("no graph is captured that could be ended".to_owned()));
        };
        if self.shared.has_freed_while_capturing.load(Ordering::Relaxed) {
            return Err(refused(
                "freeing memory is not permitted while a graph is captured".to_owned(),
            ));
        }
        Ok(EmulatedGraph { works })
    }

    fn replay(&mut self, graph: &EmulatedGraph) -> Result<(), BackendError> {
        self.not_while_capturing("a replay")?;
        for work in &graph.works {
            self.execute(work, ffi::Mode::Run)?;
        }
        Ok(())
    }
}

impl DeviceMemory for EmulatedMemory {
    fn address(&self) -> u64 {
        self.buffer.address()
    }

    fn num_bytes(&self) -> usize {
        self.buffer.num_bytes()
    }
}

impl Drop for EmulatedMemory {
    fn drop(&mut self) {
        if self.shared.is_capturing.load(Ordering::Relaxed) {
            self.shared.has_freed_while_capturing.store(true, Ordering::Relaxed);
        }
        let counted = counted_bytes(self.buffer.num_bytes()).unwrap_or(0);
        self.shared.used_bytes.fetch_sub(counted, Ordering::Relaxed);
    }
}

/// Refuses what a GPU's library refuses, and operands that lie in no buffer.
fn execute_matmul(product: &Matmul, mode: ffi::Mode) -> Result<(), BackendError> {
    let Matmul { x, weights, out, num_rows, cols, rows, .. } = *product;
    if num_rows == 0 || cols == 0 || rows == 0 {
        return Err(refused(format!(
            "matmul: no dimension may be 0, got {num_rows} x {cols} x {rows}"
        )));
    }
    if !cols.is_multiple_of(8) {
        return Err(refused(format!("matmul: `cols` must be a multiple of 8, got {cols}")));
    }
    let operands = [
        ("x", x, num_rows.checked_mul(cols).and_then(|count| count.checked_mul(2))),
        ("weights", weights, rows.checked_mul(cols).and_then(|count| count.checked_mul(2))),
        ("out", out, num_rows.checked_mul(rows).and_then(|count| count.checked_mul(4))),
    ];
    for (name, address, num_bytes) in operands {
        if !address.is_multiple_of(OPERAND_ALIGNMENT) {
            return Err(refused(format!(
                "matmul: the address of `{name}` must be a multiple of 16, got {address:#x}"
            )));
        }
        if !num_bytes.is_some_and(|num_bytes| ffi::is_inside(address, num_bytes)) {
            return Err(refused(format!("matmul: `{name}` at {address:#x} exceeds its buffer")));
        }
    }
    if mode == ffi::Mode::Run {
        ffi::matmul(product);
    }
    Ok(())
}

/// What an allocation takes of the device's memory.
fn counted_bytes(num_bytes: usize) -> Option<u64> {
    (num_bytes as u64).checked_next_multiple_of(ALLOCATION_UNIT)
}

fn refused(what: String) -> BackendError {
    BackendError::Device { device: NAME.to_owned(), what }
}
