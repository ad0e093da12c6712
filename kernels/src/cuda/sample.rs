//! Choosing tokens on the device, so that logits stay there.

use crate::backend::{BackendError, Vocabulary};
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

/// Pairs of a row that there is room for from the start: requests with bias or penalties are few, and more room means that
/// graphs are captured anew.
const PAIRS_PER_ROW: usize = 64;

/// What a padding row is: the likeliest token, which nobody reads.
const PADDING: [u32; ROW_WORDS] = row_words(
    &SampleRow {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        log_min_p: 0.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        bias: &[],
        seen: &[],
        point: 0,
    },
    [0, 0],
);

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
    words: Vec<u32>,
    pair_words: Vec<u32>,
}

/// Returns a row as `sample.cu` reads it; its lists begin at these pairs.
const fn row_words(row: &SampleRow<'_>, [first_bias, first_seen]: [u32; 2]) -> [u32; ROW_WORDS] {
    [
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
    ]
}

impl<M: DeviceMemory> SampleRoom<M> {
    pub(super) fn new<D: Device<Memory = M>>(
        device: &D,
        max_num_rows: usize,
        num_ids: usize,
    ) -> Result<Self, BackendError> {
        let num_chunks = num_chunks(num_ids);
        let mut tickets = device.allocate(max_num_rows * size_of::<u32>())?;
        device.zero(&mut tickets)?;
        Ok(Self {
            max_num_rows,
            num_chunks,
            rows: device.allocate(max_num_rows * ROW_WORDS * size_of::<u32>())?,
            pairs: device.allocate(max_num_rows * PAIRS_PER_ROW * size_of::<[u32; 2]>())?,
            bests: device.allocate(max_num_rows * num_chunks * size_of::<u64>())?,
            tickets,
            words: Vec::new(),
            pair_words: Vec::new(),
        })
    }

    /// Returns whether so many rows of so many tokens have room.
    pub(super) fn holds(&self, num_rows: usize, num_ids: usize) -> bool {
        num_rows <= self.max_num_rows && num_chunks(num_ids) == self.num_chunks
    }

    /// Packs what the kernels read, and takes it to the device. Returns whether it lies where it lay before.
    pub(super) fn load<D: Device<Memory = M>>(
        &mut self,
        device: &D,
        rows: &[SampleRow<'_>],
        num_padded_rows: usize,
    ) -> Result<bool, BackendError> {
        self.words.clear();
        self.pair_words.clear();
        for row in rows {
            let first_bias = (self.pair_words.len() / 2) as u32;
            self.pair_words.extend(row.bias.iter().flat_map(|&(id, bias)| [id, bias.to_bits()]));
            let first_seen = (self.pair_words.len() / 2) as u32;
            self.pair_words.extend(row.seen.iter().flat_map(|&(id, count)| [id, count]));
            self.words.extend(row_words(row, [first_bias, first_seen]));
        }
        for _ in rows.len()..num_padded_rows {
            self.words.extend(PADDING);
        }
        let num_bytes = self.pair_words.len() * size_of::<u32>();
        let has_room = num_bytes <= self.pairs.num_bytes();
        if !has_room {
            self.pairs = device.allocate(num_bytes.next_power_of_two())?;
        }
        device.upload(&mut self.pairs, 0, bytemuck::cast_slice(&self.pair_words))?;
        device.upload(&mut self.rows, 0, bytemuck::cast_slice(&self.words))?;
        Ok(has_room)
    }

    /// Chooses a token for each row of `logits` that was loaded, `[num_rows, vocabulary.size]`; `tokens` `[num_rows]`.
    pub(super) fn sample<D: Device<Memory = M>>(
        &self,
        device: &mut D,
        logits: &CudaBuffer<M>,
        vocabulary: Vocabulary,
        tokens: &M,
    ) -> Result<(), BackendError> {
        let check = Check("sample");
        let num_rows = self.words.len() / ROW_WORDS;
        check.holds("logits", logits.len(), num_rows, vocabulary.size)?;
        let logits = logits.argument(check, "logits", Elements::F32)?;
        let pointer = |memory: &M| Argument::Pointer(memory.address());
        let sizes = [vocabulary.size, vocabulary.num_ids].map(|size| Argument::U32(size as u32));
        // Also where there are none: the next step of the same graph may have some.
        device.launch(&Launch {
            kernel: "adjust_logits",
            grid: [num_rows as u32, 1, 1],
            num_threads: THREADS as u32,
            shared_bytes: 0,
            arguments: &[logits, pointer(&self.rows), pointer(&self.pairs), sizes[0], sizes[1]],
        })?;
        device.launch(&Launch {
            kernel: "sample",
            grid: [self.num_chunks as u32, num_rows as u32, 1],
            num_threads: THREADS as u32,
            shared_bytes: 0,
            arguments: &[
                pointer(tokens),
                logits,
                pointer(&self.rows),
                pointer(&self.bests),
                pointer(&self.tickets),
                sizes[0],
                sizes[1],
            ],
        })
    }
}

fn num_chunks(num_ids: usize) -> usize {
    num_ids.div_ceil(CHUNK).clamp(1, THREADS)
}
