//! Large products by cuBLASLt, with an algorithm for each shape that was the fastest of those it proposes.
//!
//! A shape's first product outside a capture measures the candidates, which takes some dozen launches. What was found holds
//! for all row counts up to the same power of two; then a new shape costs a check and no launch. The choice may differ
//! between two starts of the program, and with it the last bits of sums; within one it does not change.

mod calls;
mod plan;
mod tuning;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::cublaslt::sys::cublasLtMatmulAlgo_t;
use candle_core::cuda_backend::cudarc::driver::CudaStream;

use self::calls::{Addresses, Handle, Plan, Workspace};
use self::plan::PlanKey;
use super::error::DeviceError;
use crate::cuda::device::Matmul;

/// What computes products, and what it learned.
#[derive(Debug)]
pub(super) struct Products {
    plans: HashMap<PlanKey, Plan>,
    /// By the key of the largest shape that an algorithm was chosen for.
    tuned: HashMap<PlanKey, cublasLtMatmulAlgo_t>,
    workspace: Workspace,
    handle: Handle,
}

/// Most plans that are held: a row count, a matrix's shape and a store each. Another one costs some microseconds.
const NUM_PLANS_MAX: usize = 4096;

/// Whether launches run or are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// They run.
    Run,
    /// They become a graph.
    Capture,
}

impl Products {
    /// Allocates what all products share.
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Self, DeviceError> {
        let workspace = Workspace::new(stream)?;
        let handle = Handle::new()?;
        Ok(Self { plans: HashMap::new(), tuned: HashMap::new(), workspace, handle })
    }

    /// Computes a product.
    pub(super) fn run(
        &mut self,
        stream: &Arc<CudaStream>,
        product: &Matmul,
        mode: Mode,
    ) -> Result<(), DeviceError> {
        let Some(key) = PlanKey::of(product)? else { return Ok(()) };
        stream
            .context()
            .bind_to_thread()
            .map_err(|error| DeviceError::of_call(key.to_string(), error))?;
        if self.plans.len() >= NUM_PLANS_MAX && !self.plans.contains_key(&key) {
            // What was tuned stays.
            self.plans.clear();
        }
        let plan = match self.plans.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if mode == Mode::Capture => {
                return Err(DeviceError::Refused(format!(
                    "{key} has no plan yet, and none can be made while a graph is captured: compute it once before"
                )));
            }
            Entry::Vacant(entry) => {
                let mut plan = Plan::new(&self.handle, key)?;
                let tuned = self.tuned.get(&key.rounded()).copied();
                if !tuned.is_some_and(|algorithm| plan.accept(&self.handle, algorithm)) {
                    tuning::choose(&self.handle, &self.workspace, stream, &mut plan, product)?;
                    self.tuned.insert(key.rounded(), plan.algorithm());
                }
                entry.insert(plan)
            }
        };
        // SAFETY: what the product may touch is the caller's word.
        #[expect(unsafe_code, reason = "a call of cuBLASLt")]
        unsafe {
            plan.run(&self.handle, &self.workspace, stream, Addresses::of(product))
        }
    }
}
