//! Choosing tokens on the device, so that logits stay there.

use crate::backend::BackendError;
use crate::checks::Check;
use crate::cuda::device::{Argument, Device, DeviceMemory, Launch};
use crate::cuda::memory::{CudaBuffer, Elements};
use crate::metadata::SampleRow;

/// Threads of a block of `sample.cu`; a row has at most as many chunks.
const THREADS: usize = 256;

/// Tokens of a chunk, whose best one block finds: enough to keep it busy, few enough to keep all multiprocessors so.
const CHUNK: usize = 2048;

/// Words of a row as `sample.cu` reads it.
const ROW_WORDS: usize = 13;

/// Room for choosing a number of tokens.
#[derive(Debug)]
pub(super) struct SampleRoom<M> {
    max_num_rows: usize,
    num_chunks: usize,
    rows: M,
    pairs: M,
    bests: M,
    /// One a row; zero between launches.
    tickets: M,
    tokens: M,
    words: Vec<u32>,
    pair_words: Vec<u32>,
}

impl<M: DeviceMemory> SampleRoom<M> {
    pub(super) fn new<D: Device<Memory = M>>(
        device: &D,
        max_num_rows: usize,
        num_ids: usize,
    ) -> Result<Self, BackendError> {
        let num_chunks = num_ids.div_ceil(CHUNK).clamp(1, THREADS);
        let mut tickets = device.allocate(max_num_rows * size_of::<u32>())?;
        device.zero(&mut tickets)?;
        Ok(Self {
            max_num_rows,
            num_chunks,
            rows: device.allocate(max_num_rows * ROW_WORDS * size_of::<u32>())?,
            pairs: device.allocate(0)?,
            bests: device.allocate(max_num_rows * num_chunks * size_of::<u64>())?,
            tickets,
            tokens: device.allocate(max_num_rows * size_of::<u32>())?,
            words: Vec::new(),
            pair_words: Vec::new(),
        })
    }

    /// Returns whether so many rows of so many tokens have room.
    pub(super) fn holds(&self, num_rows: usize, num_ids: usize) -> bool {
        num_rows <= self.max_num_rows
            && num_ids.div_ceil(CHUNK).clamp(1, THREADS) == self.num_chunks
    }

    /// Packs what the kernels read, and takes it to the device.
    fn load<D: Device<Memory = M>>(
        &mut self,
        device: &D,
        rows: &[SampleRow<'_>],
    ) -> Result<(), BackendError> {
        self.words.clear();
        self.pair_words.clear();
        for row in rows {
            let first_bias = (self.pair_words.len() / 2) as u32;
            self.pair_words.extend(row.bias.iter().flat_map(|&(id, bias)| [id, bias.to_bits()]));
            let first_seen = (self.pair_words.len() / 2) as u32;
            self.pair_words.extend(row.seen.iter().flat_map(|&(id, count)| [id, count]));
            let words: [u32; ROW_WORDS] = [
                row.temperature.to_bits(),
                row.log_min_p.to_bits(),
                row.top_p.to_bits(),
                row.top_k,
                row.point as u32,
                (row.point >> 32) as u32,
                row.repetition_penalty.to_bits(),
                row.presence_penalty.to_bits(),
                row.frequency_penalty.to_bits(),
                first_bias,
                row.bias.len() as u32,
                first_seen,
                row.seen.len() as u32,
            ];
            self.words.extend(words);
        }
        let num_bytes = self.pair_words.len() * size_of::<u32>();
        if self.pairs.num_bytes() < num_bytes {
            self.pairs = device.allocate(num_bytes.next_power_of_two())?;
        }
        if num_bytes > 0 {
            device.upload(&mut self.pairs, 0, bytemuck::cast_slice(&self.pair_words))?;
        }
        device.upload(&mut self.rows, 0, bytemuck::cast_slice(&self.words))
    }

    /// Chooses a token for each of the first rows of `logits`, `[num_rows, vocab_size]`, among the first `num_ids`.
    pub(super) fn sample<D: Device<Memory = M>>(
        &mut self,
        device: &mut D,
        logits: &CudaBuffer<M>,
        (vocab_size, num_ids): (usize, usize),
        rows: &[SampleRow<'_>],
    ) -> Result<Vec<u32>, BackendError> {
        let check = Check("sample");
        check.holds("logits", logits.len(), rows.len(), vocab_size)?;
        check.at_most("`num_ids`", num_ids, vocab_size)?;
        let logits = logits.argument(check, "logits", Elements::F32)?;
        self.load(device, rows)?;
        let num_rows = rows.len() as u32;
        let pointer = |memory: &M| Argument::Pointer(memory.address());
        let sizes = [Argument::U32(vocab_size as u32), Argument::U32(num_ids as u32)];
        if !self.pair_words.is_empty() {
            device.launch(&Launch {
                kernel: "adjust_logits",
                grid: [num_rows, 1, 1],
                num_threads: THREADS as u32,
                shared_bytes: 0,
                arguments: &[logits, pointer(&self.rows), pointer(&self.pairs), sizes[0], sizes[1]],
            })?;
        }
        device.launch(&Launch {
            kernel: "sample",
            grid: [self.num_chunks as u32, num_rows, 1],
            num_threads: THREADS as u32,
            shared_bytes: 0,
            arguments: &[
                pointer(&self.tokens),
                logits,
                pointer(&self.rows),
                pointer(&self.bests),
                pointer(&self.tickets),
                sizes[0],
                sizes[1],
            ],
        })?;
        let mut tokens = vec![0; rows.len()];
        device.download(&self.tokens, 0, bytemuck::cast_slice_mut(&mut tokens))?;
        Ok(tokens)
    }
}
