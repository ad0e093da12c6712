//! Where a sequence's keys and values lie: its blocks, in the order of its positions.
//!
//! The table is append-only: a block that was written down stays at its place until the sequence gives all of them
//! back. Whatever was derived from an entry, on the device too, therefore stays true.

use crate::engine::block_pool::BlockId;

/// The blocks of one sequence; block `i` holds the positions from `i * block_size`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockTable {
    blocks: Vec<BlockId>,
}

impl BlockTable {
    /// Returns the number of blocks.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Returns whether no block is held.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Returns the blocks in the order of their positions.
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// Appends a block.
    pub fn push(&mut self, block: BlockId) {
        self.blocks.push(block);
    }

    /// Takes the blocks off, the last first: the head of a chain is of use to most prompts, so it is given back last.
    pub fn drain_last_first(&mut self) -> impl Iterator<Item = BlockId> + '_ {
        self.blocks.drain(..).rev()
    }

    /// Returns the slot of a position: `block_id * block_size + offset`.
    ///
    /// # Panics
    /// Where no block was allocated for the position.
    pub fn slot(&self, position: usize, block_size: usize) -> u32 {
        let block = self.blocks[position / block_size];
        (block.index() * block_size + position % block_size) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_its_block_and_the_offset_in_it() {
        let mut table = BlockTable::default();
        table.push(BlockId(7));
        table.push(BlockId(2));
        for (position, slot) in [(0, 28), (3, 31), (4, 8), (7, 11)] {
            assert_eq!(table.slot(position, 4), slot, "position {position}");
        }
    }

    #[test]
    fn blocks_are_taken_off_from_the_end() {
        let mut table = BlockTable::default();
        for block in [4, 1, 9] {
            table.push(BlockId(block));
        }
        assert_eq!(table.drain_last_first().map(|block| block.0).collect::<Vec<_>>(), [9, 1, 4]);
        assert!(table.is_empty());
    }
}
