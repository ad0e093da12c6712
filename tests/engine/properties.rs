//! Block pool and prefix cache against models that are too plain to be wrong.

use std::collections::{BTreeMap, VecDeque};

use lacuna::engine::block_pool::{BlockId, BlockPool, Reuse};
use lacuna::engine::prefix_cache::PrefixCache;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum PoolStep {
    Allocate,
    Acquire(u32),
    Release(u32, Reuse),
}

fn any_pool_step(num_blocks: u32) -> impl Strategy<Value = PoolStep> {
    let reuse = prop_oneof![Just(Reuse::First), Just(Reuse::Last)];
    prop_oneof![
        Just(PoolStep::Allocate),
        (0..num_blocks).prop_map(PoolStep::Acquire),
        (0..num_blocks, reuse).prop_map(|(block, reuse)| PoolStep::Release(block, reuse)),
    ]
}

proptest! {
    #[test]
    fn a_block_is_free_or_referenced_and_taken_in_order(
        steps in prop::collection::vec(any_pool_step(7), 0..200),
    ) {
        let mut pool = BlockPool::new(7);
        let mut free: VecDeque<u32> = (0..7).collect();
        let mut num_references = [0; 7];
        for step in steps {
            match step {
                PoolStep::Allocate => {
                    let Some(expected) = free.pop_front() else { continue };
                    num_references[expected as usize] = 1;
                    prop_assert_eq!(pool.allocate(), BlockId(expected));
                }
                PoolStep::Acquire(block) => {
                    free.retain(|other| *other != block);
                    num_references[block as usize] += 1;
                    pool.acquire(BlockId(block));
                }
                PoolStep::Release(block, reuse) => {
                    let count = &mut num_references[block as usize];
                    let Some(left) = u32::checked_sub(*count, 1) else { continue };
                    *count = left;
                    match (left, reuse) {
                        (0, Reuse::First) => free.push_front(block),
                        (0, Reuse::Last) => free.push_back(block),
                        (1.., _) => {}
                    }
                    pool.release(BlockId(block), reuse);
                }
            }
            prop_assert_eq!(pool.num_free(), free.len());
            prop_assert_eq!(pool.num_used() + pool.num_free(), pool.num_blocks());
            for (block, expected) in (0..).map(BlockId).zip(&num_references) {
                prop_assert_eq!(pool.num_references(block), *expected);
            }
        }
    }

    /// The model finds a block by all tokens up to its end, written out.
    #[test]
    fn finds_the_blocks_of_the_longest_known_beginning(
        block_size in 1..4_usize,
        steps in prop::collection::vec((prop::collection::vec(0..2_u32, 0..12), any::<bool>()), 1..60),
    ) {
        let num_blocks = 8;
        let mut cache = PrefixCache::new(num_blocks, block_size);
        let mut model: BTreeMap<Vec<u32>, BlockId> = BTreeMap::new();
        let mut next = 0;
        for (tokens, is_insertion) in steps {
            let mut hashes = Vec::new();
            cache.extend_hashes(&mut hashes, &tokens, None);
            let beginnings: Vec<&[u32]> =
                (1..=tokens.len() / block_size).map(|num| &tokens[..num * block_size]).collect();
            prop_assert_eq!(hashes.len(), beginnings.len());
            let expected: Vec<BlockId> =
                beginnings.iter().map_while(|beginning| model.get(*beginning).copied()).collect();
            prop_assert_eq!(cache.find(&hashes).collect::<Vec<_>>(), expected);
            if !is_insertion {
                continue;
            }
            for (hash, beginning) in hashes.iter().zip(beginnings) {
                let block = BlockId(next % num_blocks as u32);
                next += 1;
                cache.remove(block);
                model.retain(|_, other| *other != block);
                cache.insert(*hash, block);
                model.entry(beginning.to_vec()).or_insert(block);
                prop_assert_eq!(cache.contains(block), model.values().any(|other| *other == block));
            }
            prop_assert_eq!(cache.num_blocks(), model.len());
        }
    }
}
