//! Results of pure functions, kept for as long as they are asked for.

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::{BuildHasher as _, Hash, RandomState},
    mem,
    sync::{Mutex, PoisonError},
};

/// What an entry takes beside what its key and value point to: two places of the table, which may be half empty, and what
/// two small allocations are rounded up by. Measured as the growth of a process.
const ENTRY_BYTES: usize = 160;

/// Parts with a lock each. When one is full, what it forgets is dropped by who came last: a little of all.
const NUM_SHARDS: usize = 16;

/// Results by what they were computed from, of which the ones not asked for longest are forgotten.
///
/// A shard has two tables. What is found or new goes to the young one; when that has half of the room, it becomes the old
/// one and what the old one still has is forgotten, so that nothing is searched for what to drop.
#[derive(Debug)]
pub struct Memo<K, V> {
    /// Room of a table.
    bytes_max: usize,
    hasher: RandomState,
    shards: Box<[Mutex<Tables<K, V>>]>,
}

#[derive(Debug)]
struct Tables<K, V> {
    young: HashMap<K, Entry<V>>,
    young_bytes: usize,
    old: HashMap<K, Entry<V>>,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    num_bytes: usize,
}

impl<K: Eq + Hash, V> Memo<K, V> {
    /// # Units
    /// `bytes_max`: bytes of memory, about
    pub fn new(bytes_max: usize) -> Self {
        Self::with_shards(bytes_max, NUM_SHARDS)
    }

    fn with_shards(bytes_max: usize, num_shards: usize) -> Self {
        let tables = || Tables { young: HashMap::new(), young_bytes: 0, old: HashMap::new() };
        Self {
            bytes_max: bytes_max / num_shards / 2,
            hasher: RandomState::new(),
            shards: (0..num_shards).map(|_| Mutex::new(tables())).collect(),
        }
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> &Mutex<Tables<K, V>> {
        &self.shards[self.hasher.hash_one(key) as usize % self.shards.len()]
    }

    /// Returns what `read` makes of a result that is known. Others wait while it reads.
    pub fn get<Q: Eq + Hash + ?Sized, R>(&self, key: &Q, read: impl FnOnce(&V) -> R) -> Option<R>
    where
        K: Borrow<Q>,
    {
        let mut tables = self.shard(key).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = tables.young.get(key) {
            return Some(read(&entry.value));
        }
        let (key, entry) = tables.old.remove_entry(key)?;
        let found = read(&entry.value);
        let forgotten = self.keep(&mut tables, key, entry);
        drop(tables);
        // Many small allocations, which others need not wait for.
        drop(forgotten);
        Some(found)
    }

    /// Keeps a result; `num_bytes` are what key and value point to.
    pub fn insert(&self, key: K, value: V, num_bytes: usize) {
        let entry = Entry { value, num_bytes: num_bytes + ENTRY_BYTES };
        let mut tables = self.shard(&key).lock().unwrap_or_else(PoisonError::into_inner);
        let forgotten = self.keep(&mut tables, key, entry);
        drop(tables);
        drop(forgotten);
    }

    /// Puts an entry into the young table; returns the table that is forgotten for it.
    fn keep(
        &self,
        tables: &mut Tables<K, V>,
        key: K,
        entry: Entry<V>,
    ) -> Option<HashMap<K, Entry<V>>> {
        let is_full = tables.young_bytes + entry.num_bytes > self.bytes_max;
        let forgotten = is_full.then(|| {
            tables.young_bytes = 0;
            // About as many will come: a table that grows is laid out anew while others wait.
            let empty = HashMap::with_capacity(tables.young.len());
            let young = mem::replace(&mut tables.young, empty);
            mem::replace(&mut tables.old, young)
        });
        let num_bytes = entry.num_bytes;
        let before = tables.young.insert(key, entry).map_or(0, |entry| entry.num_bytes);
        tables.young_bytes += num_bytes - before.min(num_bytes);
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Names = Memo<Box<str>, u32>;

    fn known(names: &Names, name: &str) -> Option<u32> {
        names.get(name, |number| *number)
    }

    #[test]
    fn what_was_kept_is_known() {
        let names = Names::new(1 << 20);
        assert_eq!(known(&names, "a"), None);
        names.insert("a".into(), 1, 1);
        names.insert("a".into(), 1, 1);
        names.insert("".into(), 2, 0);
        assert_eq!(known(&names, "a"), Some(1));
        assert_eq!(known(&names, "b"), None);
        assert_eq!(known(&names, ""), Some(2));
    }

    #[test]
    fn all_shards_together_keep_to_the_room() {
        let names = Names::new(1 << 16);
        for number in 0..10_000 {
            names.insert(number.to_string().into(), number, 4);
        }
        let tables = names.shards.iter().map(|shard| shard.lock().unwrap());
        let num_kept: usize = tables.map(|tables| tables.young.len() + tables.old.len()).sum();
        let most = (1 << 16) / (ENTRY_BYTES + 4);
        assert!((most / 3..=most).contains(&num_kept), "{num_kept} of {most}");
    }

    #[test]
    fn what_is_not_asked_for_is_forgotten_and_the_room_is_kept() {
        let entry = 1 + ENTRY_BYTES;
        let names = Names::with_shards(2 * 10 * entry, 1);
        let name = |index: u8| char::from(b'A' + index).to_string();
        for index in 0..30 {
            names.insert(name(index).into(), u32::from(index), 1);
            assert_eq!(known(&names, &name(0)), Some(0), "{index}");
            let tables = names.shards[0].lock().unwrap();
            assert!(tables.young.len() <= 10 && tables.old.len() <= 10);
            assert_eq!(tables.young_bytes, tables.young.len() * entry);
        }
        assert_eq!(known(&names, &name(29)), Some(29));
        assert_eq!(known(&names, &name(1)), None);
    }

    #[test]
    fn without_room_nothing_is_kept_for_long() {
        let names = Names::with_shards(0, 1);
        for name in ["a", "b", "c"] {
            names.insert(name.into(), 1, 1);
        }
        assert_eq!(known(&names, "a"), None);
    }
}
