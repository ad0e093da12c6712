//! Random matrices, buffers and steps of any size, made in little time.

use crate::backend::{Backend, BackendError, DType, MatrixData, WeightFormat};
use crate::metadata::StepInput;
use crate::selftest::rig::{Random, Use, empty};

/// Random bytes that larger matrices repeat: what is in them does not matter, only that it is no run of zeros.
const PATTERN_LEN: usize = 1 << 20;

/// Rows of the table that buffers are filled from.
const TABLE_ROWS: usize = 16;

/// Tokens of a cache block.
pub(super) const BLOCK_SIZE: usize = 16;

/// Returns the bytes of a random bf16 matrix of this many elements.
pub(super) fn random_bf16(num_elements: usize) -> Vec<u8> {
    let mut random = Random(7);
    let pattern: Vec<u8> = (0..PATTERN_LEN.min(num_elements))
        .flat_map(|_| half::bf16::from_f32(random.value() / 64.0).to_le_bytes())
        .collect();
    let mut bytes = Vec::with_capacity(2 * num_elements);
    while bytes.len() < 2 * num_elements {
        let len = pattern.len().min(2 * num_elements - bytes.len());
        bytes.extend_from_slice(&pattern[..len]);
    }
    bytes
}

/// Returns copies of a random matrix, which together take `rotated_bytes` or more.
pub(super) fn matrices<B: Backend>(
    backend: &mut B,
    (rows, cols): (usize, usize),
    format: WeightFormat,
    rotated_bytes: usize,
) -> Result<Vec<B::Matrix>, BackendError> {
    let bytes = random_bf16(rows * cols);
    let part = MatrixData { rows, cols, dtype: DType::Bf16, bytes: &bytes };
    let num_bytes = B::matrix_bytes(&[part], format);
    let num_copies = (rotated_bytes as u64).div_ceil(num_bytes.max(1)).max(1);
    (0..num_copies).map(|_| backend.matrix(&[part], format)).collect()
}

/// Returns a buffer of random values, `[num_rows, cols]`.
pub(super) fn values<B: Backend>(
    backend: &mut B,
    (num_rows, cols): (usize, usize),
    usage: Use,
) -> Result<B::Buffer, BackendError> {
    let bytes = random_bf16(TABLE_ROWS * cols);
    let part = MatrixData { rows: TABLE_ROWS, cols, dtype: DType::Bf16, bytes: &bytes };
    let table = backend.matrix(&[part], WeightFormat::Stored)?;
    let step = step(backend, &[Piece { context_tokens: num_rows, num_new: num_rows }])?;
    let mut buffer = empty(backend, num_rows * cols, usage)?;
    backend.embed(&step, &table, &mut buffer)?;
    Ok(buffer)
}

/// A sequence of a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// Tokens in the cache, the new ones included.
    pub(super) context_tokens: usize,
    /// New tokens, the last of them.
    pub(super) num_new: usize,
}

/// Returns a loaded step of these sequences, each in blocks of its own, one after the other; with logits for each
/// sequence's last token.
pub(super) fn step<B: Backend>(backend: &mut B, pieces: &[Piece]) -> Result<B::Step, BackendError> {
    let blocks_per_seq =
        pieces.iter().map(|piece| piece.context_tokens.div_ceil(BLOCK_SIZE)).max().unwrap_or(1);
    let (mut positions, mut slots, mut ends) = (Vec::new(), Vec::new(), vec![0]);
    let mut blocks = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let first_slot = index * blocks_per_seq * BLOCK_SIZE;
        for position in piece.context_tokens - piece.num_new..piece.context_tokens {
            positions.push(position as u32);
            slots.push((first_slot + position) as u32);
        }
        ends.push(positions.len() as u32);
        let first_block = index * blocks_per_seq;
        blocks.extend((first_block..first_block + blocks_per_seq).map(|block| block as u32));
    }
    let token_ids: Vec<u32> =
        (0..positions.len()).map(|token| (token % TABLE_ROWS) as u32).collect();
    let input = StepInput {
        token_ids: &token_ids,
        positions: &positions,
        slot_mapping: &slots,
        cu_seqlens_q: &ends,
        context_lens: &pieces.iter().map(|piece| piece.context_tokens as u32).collect::<Vec<_>>(),
        block_tables: &blocks,
        max_blocks_per_seq: blocks_per_seq,
        logit_rows: &ends[1..].iter().map(|end| end - 1).collect::<Vec<_>>(),
        adapters: &[],
    };
    let mut step = backend.step(token_ids.len(), pieces.len(), blocks_per_seq)?;
    backend.load_step(&input, &mut step)?;
    Ok(step)
}
