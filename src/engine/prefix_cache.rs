//! Finds blocks by what they hold, so that prompts that begin alike share them.
//!
//! The content of a block depends on its own tokens and on all tokens before it. Its name is therefore a hash of the
//! name of the block before it and its own token ids: equal names mean equal beginnings. Only full blocks are named;
//! they never change again.
//!
//! A collision would put one prompt's keys and values under another's. A name has 128 bits: two hashes with one secret
//! key, drawn for each cache, of messages that begin with different bytes. The hash is the standard library's,
//! SipHash-1-3. As far as it cannot be told from a random function, which is what it was made for and nobody has
//! proved, the halves are independent, two given contents share a name with a probability of 2⁻¹²⁸, any two of 2⁴⁰
//! with one below 2⁻⁴⁸, and who does not know the key cannot aim at it.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState},
};

use crate::engine::block_pool::BlockId;

/// The name of a full block: a hash over all tokens from the beginning of the sequence to the block's end, and over who
/// computed them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockHash(u128);

impl BlockHash {
    /// Returns what the first block of a sequence has before it: keys and values are the model's, or those of its adapter.
    fn root(adapter: Option<u32>) -> Self {
        Self(adapter.map_or(0, |adapter| 1 + u128::from(adapter)))
    }
}

/// The blocks that can be found by their content, referenced or free.
#[derive(Debug)]
pub struct PrefixCache {
    block_size: usize,
    /// One for both halves of a name: two of `RandomState` are not independent, they share half of their bits.
    key: RandomState,
    blocks: HashMap<BlockHash, BlockId>,
    /// The way back, by block.
    hashes: Vec<Option<BlockHash>>,
}

impl PrefixCache {
    /// Makes an empty cache over a pool's blocks.
    pub fn new(num_blocks: usize, block_size: usize) -> Self {
        Self {
            block_size,
            key: RandomState::new(),
            blocks: HashMap::with_capacity(num_blocks),
            hashes: vec![None; num_blocks],
        }
    }

    /// Returns the number of blocks that can be found.
    pub fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Returns whether a block can be found.
    pub fn contains(&self, block: BlockId) -> bool {
        self.hashes[block.index()].is_some()
    }

    /// Appends the names of the full blocks of `tokens` that `hashes` does not have yet, as `adapter` computes them.
    pub fn extend_hashes(&self, hashes: &mut Vec<BlockHash>, tokens: &[u32], adapter: Option<u32>) {
        for block in tokens.chunks_exact(self.block_size).skip(hashes.len()) {
            let parent = hashes.last().copied().unwrap_or(BlockHash::root(adapter));
            hashes.push(self.hash(parent, block));
        }
    }

    /// Returns the blocks with these names, up to the first that is not there.
    pub fn find<'a>(&'a self, hashes: &'a [BlockHash]) -> impl Iterator<Item = BlockId> + 'a {
        hashes.iter().map_while(|hash| self.blocks.get(hash).copied())
    }

    /// Makes a block findable. Where another block already has the name, that one stays, and this one is of no use to
    /// others.
    ///
    /// # Panics
    /// Where the block has a name already.
    pub fn insert(&mut self, hash: BlockHash, block: BlockId) {
        if let Entry::Vacant(entry) = self.blocks.entry(hash) {
            entry.insert(block);
            let old = self.hashes[block.index()].replace(hash);
            assert!(old.is_none(), "a block's content is named once");
        }
    }

    /// Forgets a block whose content is about to be overwritten, if it was known.
    pub fn remove(&mut self, block: BlockId) {
        if let Some(hash) = self.hashes[block.index()].take() {
            self.blocks.remove(&hash);
        }
    }

    fn hash(&self, parent: BlockHash, tokens: &[u32]) -> BlockHash {
        let half = |domain: u8| {
            let mut hasher = self.key.build_hasher();
            hasher.write_u8(domain);
            parent.hash(&mut hasher);
            u32::hash_slice(tokens, &mut hasher);
            u128::from(hasher.finish())
        };
        BlockHash((half(0) << 64) | half(1))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn names(cache: &PrefixCache, tokens: &[u32]) -> Vec<BlockHash> {
        let mut hashes = Vec::new();
        cache.extend_hashes(&mut hashes, tokens, None);
        hashes
    }

    fn found(cache: &PrefixCache, tokens: &[u32]) -> Vec<u32> {
        cache.find(&names(cache, tokens)).map(|block| block.0).collect()
    }

    #[test]
    fn only_full_blocks_have_a_name() {
        let cache = PrefixCache::new(4, 2);
        for (tokens, num_names) in
            [(&[][..], 0), (&[1], 0), (&[1, 2], 1), (&[1, 2, 3], 1), (&[1, 2, 3, 4], 2)]
        {
            assert_eq!(names(&cache, tokens).len(), num_names, "{tokens:?}");
        }
    }

    #[test]
    fn the_halves_of_a_name_differ_from_each_other_and_between_caches() {
        let tokens: Vec<u32> = (0..64).collect();
        let [first, second] = [(); 2].map(|()| names(&PrefixCache::new(1, 1), &tokens));
        let halves = |names: &[BlockHash]| -> HashSet<u64> {
            names.iter().flat_map(|name| [(name.0 >> 64) as u64, name.0 as u64]).collect()
        };
        assert_eq!(halves(&first).len(), 128);
        assert_eq!(halves(&[first, second].concat()).len(), 256);
    }

    #[test]
    fn names_grow_with_the_sequence() {
        let cache = PrefixCache::new(4, 2);
        let mut hashes = names(&cache, &[1, 2, 3]);
        cache.extend_hashes(&mut hashes, &[1, 2, 3, 4, 5], None);
        assert_eq!(hashes, names(&cache, &[1, 2, 3, 4]));
    }

    #[test]
    fn a_block_is_found_behind_the_same_beginning_only() {
        let mut cache = PrefixCache::new(4, 2);
        for (hash, block) in names(&cache, &[1, 2, 3, 4]).into_iter().zip([3, 0]) {
            cache.insert(hash, BlockId(block));
        }
        let rows: &[(&[u32], &[u32])] = &[
            (&[1, 2, 3, 4, 5], &[3, 0]),
            (&[1, 2, 4, 3], &[3]),
            (&[1, 2, 3], &[3]),
            (&[3, 4], &[]),
            (&[0, 0, 3, 4], &[]),
        ];
        for (tokens, blocks) in rows {
            assert_eq!(found(&cache, tokens), *blocks, "{tokens:?}");
        }
    }

    #[test]
    fn what_an_adapter_computed_is_its_own() {
        let cache = PrefixCache::new(4, 2);
        let names = [None, Some(0), Some(1)].map(|adapter| {
            let mut hashes = Vec::new();
            cache.extend_hashes(&mut hashes, &[1, 2, 3, 4], adapter);
            hashes
        });
        for (first, second) in [(0, 1), (0, 2), (1, 2)] {
            let mut pairs = names[first].iter().zip(&names[second]);
            assert!(pairs.all(|(first, second)| first != second));
        }
    }

    #[test]
    fn the_first_block_with_a_content_stays_the_one() {
        let mut cache = PrefixCache::new(2, 1);
        let hash = names(&cache, &[9])[0];
        cache.insert(hash, BlockId(0));
        cache.insert(hash, BlockId(1));
        assert!(!cache.contains(BlockId(1)));
        cache.remove(BlockId(1));
        assert_eq!(found(&cache, &[9]), [0]);
        cache.remove(BlockId(0));
        assert_eq!((found(&cache, &[9]), cache.num_blocks()), (vec![], 0));
    }
}
