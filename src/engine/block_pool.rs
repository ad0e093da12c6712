//! The blocks of the KV cache: who is referenced, who is free, and which free block is taken next.
//!
//! A block is free or referenced, never both. Free blocks stand in one queue, taken from the front. A block whose
//! content may be used again is queued at the back, so that it lives as long as it can; one without such content is
//! queued at the front. The queue is a doubly linked list over indices, because a free block that is found again
//! by its content leaves from the middle.

/// A block of the KV cache, by its place in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

impl BlockId {
    /// Returns the place in the pool as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a block queues that nobody references any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// Its content cannot be found again: it is taken next.
    First,
    /// Its content may be found again: it is taken after all that are free now.
    Last,
}

/// Neighbours in the queue of free blocks; of no meaning for a referenced block.
#[derive(Clone, Copy, Debug)]
struct Links {
    previous: usize,
    next: usize,
}

/// The reference counts of all blocks, and the queue of those that are free.
#[derive(Debug)]
pub struct BlockPool {
    num_references: Vec<u32>,
    /// One entry a block, and one for the queue's two ends, which closes the ring.
    links: Vec<Links>,
    num_free: usize,
}

impl BlockPool {
    /// Makes a pool of free blocks.
    ///
    /// # Panics
    /// Where `num_blocks` is 0 or has no [`BlockId`].
    pub fn new(num_blocks: usize) -> Self {
        assert!(num_blocks > 0, "a pool has at least one block");
        assert!(u32::try_from(num_blocks).is_ok(), "block ids have 32 bits");
        let ring = num_blocks + 1;
        let links = (0..ring)
            .map(|index| Links { previous: (index + num_blocks) % ring, next: (index + 1) % ring })
            .collect();
        Self { num_references: vec![0; num_blocks], links, num_free: num_blocks }
    }

    /// Returns the number of blocks, free or not.
    pub fn num_blocks(&self) -> usize {
        self.num_references.len()
    }

    /// Returns the number of blocks that nobody references.
    pub fn num_free(&self) -> usize {
        self.num_free
    }

    /// Returns the number of blocks that somebody references.
    pub fn num_used(&self) -> usize {
        self.num_blocks() - self.num_free
    }

    /// Returns how many sequences hold a block.
    pub fn num_references(&self, block: BlockId) -> u32 {
        self.num_references[block.index()]
    }

    /// Takes the block at the front of the queue, with one reference.
    ///
    /// # Panics
    /// Where no block is free: callers look at [`BlockPool::num_free`] first, so that they get all blocks or none.
    pub fn allocate(&mut self) -> BlockId {
        assert!(self.num_free > 0, "the pool has a free block");
        let index = self.links[self.end()].next;
        self.take(index);
        BlockId(index as u32)
    }

    /// Adds a reference to a block, free or not.
    pub fn acquire(&mut self, block: BlockId) {
        if self.num_references(block) == 0 {
            self.take(block.index());
        } else {
            self.num_references[block.index()] += 1;
        }
    }

    /// Drops a reference; with the last one the block queues as `reuse` says.
    ///
    /// # Panics
    /// Where the block has no reference.
    pub fn release(&mut self, block: BlockId, reuse: Reuse) {
        let count = &mut self.num_references[block.index()];
        assert!(*count > 0, "a released block was referenced");
        *count -= 1;
        if *count == 0 {
            match reuse {
                Reuse::First => self.insert_after(self.end(), block.index()),
                Reuse::Last => self.insert_after(self.links[self.end()].previous, block.index()),
            }
        }
    }

    /// The entry of `links` that is no block, but stands before the first and behind the last.
    fn end(&self) -> usize {
        self.num_references.len()
    }

    fn take(&mut self, index: usize) {
        let Links { previous, next } = self.links[index];
        self.links[previous].next = next;
        self.links[next].previous = previous;
        self.num_references[index] = 1;
        self.num_free -= 1;
    }

    fn insert_after(&mut self, previous: usize, index: usize) {
        let next = self.links[previous].next;
        self.links[index] = Links { previous, next };
        self.links[previous].next = index;
        self.links[next].previous = index;
        self.num_free += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(pool: &mut BlockPool) -> Vec<u32> {
        (0..pool.num_free()).map(|_| pool.allocate().0).collect()
    }

    #[test]
    fn hands_out_each_block_once_in_order() {
        let mut pool = BlockPool::new(4);
        assert_eq!(drain(&mut pool), [0, 1, 2, 3]);
        assert_eq!((pool.num_free(), pool.num_used()), (0, 4));
    }

    #[test]
    fn takes_worthless_blocks_before_the_least_recently_used() {
        let mut pool = BlockPool::new(4);
        drain(&mut pool);
        for (block, reuse) in
            [(2, Reuse::Last), (0, Reuse::First), (3, Reuse::Last), (1, Reuse::First)]
        {
            pool.release(BlockId(block), reuse);
        }
        assert_eq!(drain(&mut pool), [1, 0, 2, 3]);
    }

    #[test]
    fn a_free_block_can_be_acquired_from_the_middle_of_the_queue() {
        let mut pool = BlockPool::new(3);
        pool.acquire(BlockId(1));
        assert_eq!(pool.num_references(BlockId(1)), 1);
        assert_eq!(drain(&mut pool), [0, 2]);
    }

    #[test]
    fn a_shared_block_is_free_with_its_last_reference_only() {
        let mut pool = BlockPool::new(1);
        let block = pool.allocate();
        pool.acquire(block);
        pool.release(block, Reuse::Last);
        assert_eq!(pool.num_free(), 0);
        pool.release(block, Reuse::Last);
        assert_eq!(pool.num_free(), 1);
    }

    #[test]
    #[should_panic(expected = "a released block was referenced")]
    fn a_second_release_is_a_broken_invariant() {
        let mut pool = BlockPool::new(1);
        let block = pool.allocate();
        pool.release(block, Reuse::First);
        pool.release(block, Reuse::First);
    }
}
