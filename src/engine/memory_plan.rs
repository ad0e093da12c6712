//! How models share memories: what one of them finds beside all others.
//!
//! All are planned before any is loaded. A cache is taken from the system when it is first used, so that a memory that
//! was asked after a load would count as free what is promised already; and what one model needs for its weights must
//! not have become another's cache.
//!
//! A model's share of a memory is its own part, as vLLM's users read it: 0.6 and 0.3 divide a card without meeting. Parts
//! that cannot all be had, such as the default for each of two models, are bounded by what the others leave, and all of
//! them together leave a little of the memory to what nobody plans.

use crate::engine::memory::Room;

/// How full all models together may fill a memory: the default share of one, whose rest is for what nobody plans, such as
/// the driver's own. A single larger share raises it.
const FILLED_SHARE: f64 = 0.9;

/// The host's memory, or a device's own, before anything is loaded.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// All of it; for the host as much as is free.
    pub total_bytes: u64,
    /// What could be taken now.
    pub free_bytes: u64,
    /// Share of what weights and steps leave that caches may take together.
    pub cache_share: f64,
}

/// What a model asks for.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The memory of each rank, by its place in the plan; ranks may share one.
    pub memories: Vec<usize>,
    /// Share of each memory that is its own part.
    pub used_share: f64,
    /// What weights and a step of a rank take.
    pub model_bytes: u64,
    /// What a rank's cache takes, where it was asked for; `None` sizes it by what there is.
    pub kv_cache_bytes: Option<u64>,
    /// The least that a rank's cache is of use with: one sequence of the model's context.
    pub context_bytes: u64,
}

/// The memories and who takes what of them.
#[derive(Clone, Debug, Default)]
pub struct MemoryPlan {
    memories: Vec<Memory>,
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    claim: Claim,
    /// What a rank's cache takes, once it is settled.
    cache_bytes: Option<u64>,
}

impl Entry {
    fn num_ranks_in(&self, memory: usize) -> u64 {
        self.claim.memories.iter().filter(|place| **place == memory).count() as u64
    }

    fn model_bytes_in(&self, memory: usize) -> u64 {
        self.claim.model_bytes.saturating_mul(self.num_ranks_in(memory))
    }

    fn cache_bytes_in(&self, memory: usize) -> u64 {
        self.cache_bytes.unwrap_or(0).saturating_mul(self.num_ranks_in(memory))
    }

    /// Returns what a cache that waits to be sized must have.
    fn awaited_bytes_in(&self, memory: usize) -> u64 {
        let is_waiting = self.is_sized() && self.cache_bytes.is_none();
        if is_waiting {
            self.claim.context_bytes.saturating_mul(self.num_ranks_in(memory))
        } else {
            0
        }
    }

    /// Returns whether its cache is sized by what there is.
    fn is_sized(&self) -> bool {
        self.claim.kv_cache_bytes.is_none()
    }
}

impl MemoryPlan {
    /// Adds a memory and returns its place.
    pub fn add_memory(&mut self, memory: Memory) -> usize {
        self.memories.push(memory);
        self.memories.len() - 1
    }

    /// Adds a model behind the others.
    pub fn add(&mut self, claim: Claim) {
        self.entries.push(Entry { claim, cache_bytes: None });
    }

    /// Returns the models in the order in which they are to be placed: where a cache was asked for, it comes before those
    /// that take what is left, so that too large a wish is refused where it was made. Of those the one whose share leaves
    /// the least to its cache comes first, so that what it cannot take is the others'.
    pub fn order(&self) -> Vec<usize> {
        let key = |index: &usize| {
            let entry = &self.entries[*index];
            let spare_in = |place: &usize| {
                let needed =
                    entry.model_bytes_in(*place).saturating_add(entry.awaited_bytes_in(*place));
                self.part_bytes(entry, *place).saturating_sub(needed) / entry.num_ranks_in(*place)
            };
            (entry.is_sized(), entry.claim.memories.iter().map(spare_in).min())
        };
        let mut order: Vec<usize> = (0..self.entries.len()).collect();
        order.sort_by_key(key);
        order
    }

    /// Returns what a rank of a model finds in the tightest of its memories, beside the weights and steps of all others and
    /// the caches that are settled. To be asked when all models were added, in their [order](Self::order): what one leaves
    /// of its part, those behind it may take.
    ///
    /// # Panics
    /// Where there is no such model.
    pub fn room(&self, index: usize) -> Room {
        let rooms =
            self.entries[index].claim.memories.iter().map(|place| self.room_in(index, *place));
        let least = |a: Room, b: Room| Room {
            free_bytes: a.free_bytes.min(b.free_bytes),
            cache_bytes: a.cache_bytes.min(b.cache_bytes),
        };
        rooms.reduce(least).unwrap_or(Room { free_bytes: 0, cache_bytes: 0 })
    }

    /// Returns what a rank of a model would find if it were served alone.
    ///
    /// # Panics
    /// Where there is no such model.
    pub fn room_alone(&self, index: usize) -> Room {
        let entries = vec![Entry { cache_bytes: None, ..self.entries[index].clone() }];
        Self { memories: self.memories.clone(), entries }.room(0)
    }

    /// Notes what a rank's cache takes.
    ///
    /// # Panics
    /// Where there is no such model.
    pub fn settle(&mut self, index: usize, cache_bytes: u64) {
        self.entries[index].cache_bytes = Some(cache_bytes);
    }

    fn room_in(&self, index: usize, place: usize) -> Room {
        let (memory, own) = (&self.memories[place], &self.entries[index]);
        let of_models = self.total(|entry| entry.model_bytes_in(place));
        let of_caches = self.total(|entry| entry.cache_bytes_in(place));
        let of_sized =
            self.total(|entry| if entry.is_sized() { entry.cache_bytes_in(place) } else { 0 });
        let usable_bytes = self.usable_bytes(place);
        let taken_bytes = of_models.saturating_add(of_caches);
        // Before the sized caches took theirs: the share is one of all that they divide.
        let divided_bytes = usable_bytes.saturating_sub(taken_bytes - of_sized);
        let for_caches =
            ((divided_bytes as f64 * memory.cache_share) as u64).saturating_sub(of_sized);
        // Each has what it must have before the rest is divided: equal parts would be too small for one and idle in another.
        let least = own.awaited_bytes_in(place).min(for_caches);
        let spare = for_caches.saturating_sub(self.total(|entry| entry.awaited_bytes_in(place)));
        let is_waiting = |entry: &&Entry| {
            entry.is_sized() && entry.cache_bytes.is_none() && entry.num_ranks_in(place) > 0
        };
        let num_waiting = self.entries.iter().filter(is_waiting).count().max(1) as u64;
        let num_ranks = own.num_ranks_in(place).max(1);
        let part_bytes = self.part_bytes(own, place);
        let own_bytes = own.model_bytes_in(place);
        let cap_bytes = (part_bytes.saturating_sub(own_bytes) as f64 * memory.cache_share) as u64;
        Room {
            free_bytes: usable_bytes.saturating_sub(taken_bytes - own_bytes).min(part_bytes)
                / num_ranks,
            cache_bytes: (least + spare / num_waiting).min(cap_bytes) / num_ranks,
        }
    }

    fn total(&self, bytes: impl Fn(&Entry) -> u64) -> u64 {
        self.entries.iter().map(bytes).fold(0, u64::saturating_add)
    }

    /// Returns a model's part of a memory.
    fn part_bytes(&self, entry: &Entry, place: usize) -> u64 {
        (self.memories[place].total_bytes as f64 * entry.claim.used_share) as u64
    }

    /// Returns what all models may take together, beside what other programs have taken.
    fn usable_bytes(&self, place: usize) -> u64 {
        let in_it = self.entries.iter().filter(|entry| entry.num_ranks_in(place) > 0);
        let filled = in_it.map(|entry| entry.claim.used_share).fold(FILLED_SHARE, f64::max);
        let Memory { total_bytes, free_bytes, .. } = self.memories[place];
        let kept_bytes = total_bytes - (total_bytes as f64 * filled) as u64;
        free_bytes.saturating_sub(kept_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Claim = Claim {
        memories: Vec::new(),
        used_share: 1.0,
        model_bytes: 100,
        kv_cache_bytes: None,
        context_bytes: 10,
    };

    /// A host of 1000 bytes, of which caches take half, and two GPUs of 2000, of which a tenth is in use.
    fn plan(claims: &[Claim]) -> MemoryPlan {
        let mut plan = MemoryPlan::default();
        plan.add_memory(Memory { total_bytes: 1000, free_bytes: 1000, cache_share: 0.5 });
        for _ in 0..2 {
            plan.add_memory(Memory { total_bytes: 2000, free_bytes: 1800, cache_share: 1.0 });
        }
        for claim in claims {
            plan.add(claim.clone());
        }
        plan
    }

    fn on(memories: &[usize]) -> Claim {
        Claim { memories: memories.to_vec(), ..ALONE }
    }

    fn asked(memories: &[usize], kv_cache_bytes: u64) -> Claim {
        Claim { kv_cache_bytes: Some(kv_cache_bytes), ..on(memories) }
    }

    #[track_caller]
    fn check(claims: &[Claim], sized: &[u64], expected: &[(u64, u64)]) {
        let mut plan = plan(claims);
        for index in plan.order() {
            let (free_bytes, cache_bytes) = expected[index];
            assert_eq!(plan.room(index), Room { free_bytes, cache_bytes }, "model {index}");
            let settled = claims[index].kv_cache_bytes.or(sized.get(index).copied());
            plan.settle(index, settled.unwrap_or(cache_bytes));
        }
    }

    #[test]
    fn a_model_alone_finds_all_of_its_memory() {
        check(&[on(&[0])], &[], &[(1000, 450)]);
        check(&[on(&[1])], &[], &[(1800, 1700)]);
        let part = Claim { used_share: 0.75, ..on(&[1]) };
        check(&[part], &[], &[(1500, 1400)]);
    }

    #[test]
    fn the_hosts_share_is_divided_and_what_one_leaves_the_next_takes() {
        check(&[on(&[0]), on(&[0])], &[], &[(900, 200), (700, 200)]);
        check(&[on(&[0]), on(&[0])], &[40], &[(900, 200), (860, 360)]);
        check(&[on(&[0]), on(&[0]), on(&[0])], &[110, 80], &[(800, 116), (690, 120), (610, 160)]);
    }

    #[test]
    fn what_was_asked_for_is_nobody_elses() {
        check(&[on(&[0]), asked(&[0], 300)], &[], &[(600, 250), (900, 390)]);
        check(&[asked(&[0], 300), on(&[0])], &[], &[(900, 390), (600, 250)]);
        check(&[asked(&[0], 300), asked(&[0], 9000)], &[], &[(900, 400), (600, 250)]);
    }

    #[test]
    fn models_on_different_memories_take_nothing_from_each_other() {
        check(&[on(&[0]), on(&[1]), on(&[2])], &[], &[(1000, 450), (1800, 1700), (1800, 1700)]);
    }

    #[test]
    fn ranks_share_a_host_and_the_tightest_gpu_counts() {
        check(&[on(&[0, 0])], &[], &[(500, 200)]);
        check(&[on(&[1, 2]), on(&[2])], &[300], &[(1700, 800), (1400, 1300)]);
    }

    #[test]
    fn models_that_fit_alone_and_not_together_find_too_little() {
        let large = Claim { model_bytes: 600, ..on(&[0]) };
        check(&[large.clone(), large.clone()], &[], &[(400, 0), (400, 0)]);
        let room = plan(&[large.clone(), large]).room_alone(1);
        assert_eq!(room, Room { free_bytes: 1000, cache_bytes: 200 });
    }
    #[test]
    fn a_share_is_a_models_own_part() {
        let part = |used_share| Claim { used_share, ..on(&[1]) };
        // 0.6 and 0.3 of 2000: the first finds its part whole, whatever the second took before it.
        check(&[part(0.6), part(0.3)], &[], &[(1000, 900), (600, 500)]);
        // Parts that nobody takes stay free.
        check(&[part(0.25), part(0.25)], &[], &[(500, 400), (500, 400)]);
        // Shares that add up to more than there is divide what one of them may fill.
        check(&[part(0.9), part(0.9)], &[], &[(1500, 700), (800, 700)]);
        check(&[part(0.6), part(0.6)], &[], &[(1200, 700), (800, 700)]);
        // The smaller part is full, and what it cannot take is the other's.
        check(&[part(0.9), part(0.2)], &[], &[(1200, 1100), (400, 300)]);
        let asked = Claim { kv_cache_bytes: Some(300), ..part(0.3) };
        check(&[asked, part(0.6)], &[], &[(600, 500), (1200, 1100)]);
    }

    #[test]
    fn each_cache_has_room_for_a_context_before_the_rest_is_divided() {
        let long = Claim { context_bytes: 300, ..on(&[0]) };
        check(&[on(&[0]), long.clone()], &[], &[(555, 55), (900, 345)]);
        check(&[long.clone(), long], &[], &[(900, 300), (600, 100)]);
    }
}
