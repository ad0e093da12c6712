//! Gives sequences their slots in the KV cache: all that a step needs, or none.
//!
//! Joins the pool (who may use a block) with the prefix cache (what a block holds) and hides both from the scheduler.
//! A block becomes findable when the step that fills it is planned, not when it is done: the executor writes before it
//! reads, so sequences that begin alike share blocks within one step. Only where it ends with a token that is still being
//! sampled, it becomes so when the next step is planned: a block is found by its tokens.

use crate::engine::block_pool::{BlockId, BlockPool, Reuse};
use crate::engine::prefix_cache::PrefixCache;
use crate::engine::sequence::Sequence;

/// The KV cache's bookkeeping.
#[derive(Debug)]
pub struct KvCacheManager {
    block_size: usize,
    pool: BlockPool,
    prefix_cache: Option<PrefixCache>,
}

impl KvCacheManager {
    /// Makes an empty cache.
    pub fn new(num_blocks: usize, block_size: usize, has_prefix_cache: bool) -> Self {
        Self {
            block_size,
            pool: BlockPool::new(num_blocks),
            prefix_cache: has_prefix_cache.then(|| PrefixCache::new(num_blocks, block_size)),
        }
    }

    /// Returns the number of tokens of a block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Returns the blocks' reference counts.
    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// Returns what is known about the blocks' content, where prompts share blocks.
    pub fn prefix_cache(&self) -> Option<&PrefixCache> {
        self.prefix_cache.as_ref()
    }

    /// Gives a sequence without blocks those that already hold its beginning, and returns true; or gives none and
    /// returns false where the blocks for all its other tokens are not free now.
    ///
    /// That is more than its next step may need: a long prompt is not begun while it would surely be given up half-way.
    /// The others are counted, not reserved, so sequences before it may still grow into them and preempt it. The last
    /// token is always left to compute: its logits are wanted.
    pub fn take_prefix(&mut self, sequence: &mut Sequence) -> bool {
        let found = self.find_prefix(sequence);
        let num_new = sequence.num_tokens().div_ceil(self.block_size) - found.len();
        let num_idle = found.iter().filter(|block| self.pool.num_references(**block) == 0).count();
        if num_new + num_idle > self.pool.num_free() {
            return false;
        }
        for block in found {
            self.pool.acquire(block);
            sequence.block_table.push(block);
        }
        sequence.num_published_blocks = sequence.block_table.len();
        sequence.num_computed_tokens = sequence.num_published_blocks * self.block_size;
        true
    }

    /// Gives a sequence the slots for its next `num_tokens` tokens and returns true, or changes nothing and returns
    /// false where too few blocks are free.
    pub fn allocate_slots(&mut self, sequence: &mut Sequence, num_tokens: usize) -> bool {
        let num_tokens = sequence.num_computed_tokens + num_tokens;
        let num_blocks = num_tokens.div_ceil(self.block_size);
        if num_blocks.saturating_sub(sequence.block_table.len()) > self.pool.num_free() {
            return false;
        }
        while sequence.block_table.len() < num_blocks {
            let block = self.pool.allocate();
            if let Some(cache) = &mut self.prefix_cache {
                cache.remove(block);
            }
            sequence.block_table.push(block);
        }
        self.publish_full_blocks(sequence, num_tokens);
        true
    }

    /// Takes all of a sequence's blocks back; it has then computed nothing.
    pub fn free(&mut self, sequence: &mut Sequence) {
        for block in sequence.block_table.drain_last_first() {
            let is_findable = self.prefix_cache.as_ref().is_some_and(|cache| cache.contains(block));
            self.pool.release(block, if is_findable { Reuse::Last } else { Reuse::First });
        }
        sequence.num_computed_tokens = 0;
        sequence.num_published_blocks = 0;
    }

    fn find_prefix(&self, sequence: &mut Sequence) -> Vec<BlockId> {
        let Some(cache) = &self.prefix_cache else { return Vec::new() };
        let num_tokens = sequence.num_tokens() - 1;
        sequence.name_blocks(cache, num_tokens);
        cache.find(&sequence.block_hashes()[..num_tokens / self.block_size]).collect()
    }

    /// Makes the blocks findable that are full of known tokens once `num_tokens` tokens are computed.
    fn publish_full_blocks(&mut self, sequence: &mut Sequence, num_tokens: usize) {
        let Some(cache) = &mut self.prefix_cache else { return };
        let num_tokens = num_tokens.min(sequence.num_known_tokens());
        sequence.name_blocks(cache, num_tokens);
        let num_full_blocks = num_tokens / self.block_size;
        for index in sequence.num_published_blocks..num_full_blocks {
            cache.insert(sequence.block_hashes()[index], sequence.block_table.blocks()[index]);
        }
        sequence.num_published_blocks = num_full_blocks;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computes all of a sequence's tokens, from nothing.
    fn compute(kv_cache: &mut KvCacheManager, sequence: &mut Sequence) {
        assert!(kv_cache.take_prefix(sequence));
        let num_tokens = sequence.num_uncomputed_tokens();
        assert!(kv_cache.allocate_slots(sequence, num_tokens));
        sequence.num_computed_tokens += num_tokens;
    }

    #[test]
    fn gives_all_blocks_or_none() {
        let mut kv_cache = KvCacheManager::new(3, 2, false);
        let mut sequence = Sequence::sample(0, vec![1; 9], 1);
        // (tokens of the step, whether it fits, blocks held after it)
        for (num_tokens, fits, num_blocks) in
            [(7, false, 0), (3, true, 2), (9, false, 2), (6, true, 3)]
        {
            assert_eq!(kv_cache.allocate_slots(&mut sequence, num_tokens), fits);
            assert_eq!(sequence.block_table().len(), num_blocks);
            assert_eq!(kv_cache.pool().num_used(), num_blocks);
        }
    }

    #[test]
    fn the_last_token_is_computed_though_its_block_is_known() {
        let mut kv_cache = KvCacheManager::new(8, 2, true);
        compute(&mut kv_cache, &mut Sequence::sample(0, vec![1, 2, 3, 4], 1));
        // (prompt, tokens found)
        for (prompt, num_found) in
            [(vec![1, 2, 3, 4], 2), (vec![1, 2, 3, 4, 5], 4), (vec![1, 2], 0), (vec![1, 2, 9], 2)]
        {
            let mut sequence = Sequence::sample(1, prompt, 1);
            assert!(kv_cache.take_prefix(&mut sequence));
            assert_eq!(sequence.num_computed_tokens(), num_found);
            kv_cache.free(&mut sequence);
        }
    }

    #[test]
    fn the_head_of_a_chain_is_kept_longest() {
        let mut kv_cache = KvCacheManager::new(4, 1, true);
        let mut first = Sequence::sample(0, vec![1, 2, 3], 1);
        compute(&mut kv_cache, &mut first);
        kv_cache.free(&mut first);
        assert_eq!((first.num_computed_tokens(), first.block_table().len()), (0, 0));
        let mut other = Sequence::sample(1, vec![8, 9], 1);
        compute(&mut kv_cache, &mut other);
        kv_cache.free(&mut other);
        let mut again = Sequence::sample(2, vec![1, 2, 3], 1);
        assert!(kv_cache.take_prefix(&mut again));
        assert_eq!(again.num_computed_tokens(), 2, "one block was unused, one was evicted");
    }

    #[test]
    fn found_blocks_do_not_count_as_room() {
        let mut kv_cache = KvCacheManager::new(3, 1, true);
        let mut first = Sequence::sample(0, vec![1, 2], 1);
        compute(&mut kv_cache, &mut first);
        kv_cache.free(&mut first);
        let mut long = Sequence::sample(1, vec![1, 2, 3, 4], 1);
        assert!(!kv_cache.take_prefix(&mut long), "two found, two missing, three free in all");
        assert_eq!((long.block_table().len(), kv_cache.pool().num_used()), (0, 0));
    }
}
