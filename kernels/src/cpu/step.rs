//! A step's metadata, and the cut of its queries into tasks.

use crate::allocate;
use crate::backend::BackendError;
use crate::cpu::DEVICE;
use crate::host_step::HostStep;
use crate::metadata::StepInput;

/// Tokens of a query tile: a head's keys and values are read once for all of them. More would leave a chunk of a
/// prefill too few tasks for the threads of a large machine.
const QUERY_TILE: usize = 8;

/// The metadata of a step on the CPU.
#[derive(Debug)]
pub struct CpuStep {
    host: HostStep,
    /// Query tile `i` is tokens `bounds[i]..bounds[i + 1]`, all of one sequence.
    query_bounds: Vec<u32>,
    /// The sequence of each query tile.
    query_seqs: Vec<u32>,
}

impl CpuStep {
    pub(crate) fn new(
        max_num_tokens: usize,
        max_num_seqs: usize,
        max_blocks_per_seq: usize,
    ) -> Result<Self, BackendError> {
        Ok(Self {
            host: HostStep::new(max_num_tokens, max_num_seqs, max_blocks_per_seq, DEVICE)?,
            query_bounds: allocate::reserved(max_num_tokens.saturating_add(1), DEVICE)?,
            query_seqs: allocate::reserved(max_num_tokens, DEVICE)?,
        })
    }

    pub(crate) fn load(&mut self, input: &StepInput<'_>) -> Result<(), BackendError> {
        self.host.load(input)?;
        self.query_bounds.clear();
        self.query_seqs.clear();
        self.query_bounds.push(0);
        for (index, sequence) in self.host.sequences().enumerate() {
            for start in sequence.tokens.clone().step_by(QUERY_TILE) {
                self.query_bounds.push((start + QUERY_TILE).min(sequence.tokens.end) as u32);
                self.query_seqs.push(index as u32);
            }
        }
        Ok(())
    }

    pub(crate) fn host(&self) -> &HostStep {
        &self.host
    }

    pub(crate) fn query_bounds(&self) -> &[u32] {
        &self.query_bounds
    }

    pub(crate) fn query_seq(&self, tile: usize) -> usize {
        self.query_seqs[tile] as usize
    }
}
