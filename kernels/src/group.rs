//! Ranks that compute one model together: each has a shard, and what each has a part of is summed over all.
//!
//! A rank is a thread with a backend of its own; all ask for the same sums in the same order. The exchange here goes
//! through the memory of the process: it is what the CPU and the emulated GPU use, and what brings GPUs with a library of
//! their own together. It adds in the order of the ranks, so that a sum is the same to the bit on each of them and in each
//! run. A rank that fails or goes away wakes all that wait, for good: a group does not recover.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::backend::BackendError;
use crate::checks::Check;

/// Ranks that wait for each other.
#[derive(Clone, Debug)]
pub struct Group {
    shared: Arc<Shared>,
}

/// A rank's place in a group. Dropping it is leaving, which ends the group.
#[derive(Debug)]
pub struct Member {
    rank: usize,
    group: Group,
}

struct Shared {
    num_ranks: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Sums so far.
    num_sums: u64,
    /// What each rank that came brought to the next sum.
    parts: Vec<Option<Vec<f32>>>,
    /// The last sum; nobody can begin another before all took it.
    sum: Vec<f32>,
    /// The rank that failed first, or 0 where the group was ended.
    failed: Option<usize>,
    /// What is to be done when one fails.
    hooks: Vec<Hook>,
}

type Hook = Box<dyn FnOnce() + Send>;

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("num_ranks", &self.num_ranks).finish_non_exhaustive()
    }
}

impl Group {
    /// Makes a group and its members, rank 0 first.
    pub fn new(num_ranks: usize) -> (Self, Vec<Member>) {
        let parts = (0..num_ranks).map(|_| None).collect();
        let state = Mutex::new(State { parts, ..State::default() });
        let shared = Arc::new(Shared { num_ranks, state, changed: Condvar::new() });
        let group = Self { shared };
        let members = (0..num_ranks).map(|rank| Member { rank, group: group.clone() }).collect();
        (group, members)
    }

    /// Says that a rank failed, once: all that wait, or will, get [`BackendError::RankFailed`].
    pub fn fail(&self, rank: usize) {
        for hook in self.close(rank) {
            hook();
        }
    }

    /// Ends the group between two steps: ranks may go, and nothing is done that is for a failure.
    pub fn end(&self) {
        drop(self.close(0));
    }

    /// Has all sums refused from now on, and returns what was to be done then, once.
    fn close(&self, rank: usize) -> Vec<Hook> {
        let mut state = self.state();
        let hooks = std::mem::take(&mut state.hooks);
        state.failed.get_or_insert(rank);
        drop(state);
        self.shared.changed.notify_all();
        hooks
    }

    /// Refuses where a rank has failed.
    ///
    /// # Errors
    /// [`BackendError::RankFailed`].
    pub fn check(&self) -> Result<(), BackendError> {
        self.state().failed.map_or(Ok(()), |rank| Err(BackendError::RankFailed { rank }))
    }

    /// A thread that panicked held the lock between whole changes only, so that what it left is right.
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Member {
    /// Returns this rank's number, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Returns the number of ranks.
    pub fn num_ranks(&self) -> usize {
        self.group.shared.num_ranks
    }

    /// Has `hook` done when a rank fails or leaves, by the thread that says so; at once where one has.
    pub fn on_failure(&self, hook: impl FnOnce() + Send + 'static) {
        let mut state = self.group.state();
        if state.failed.is_none() {
            state.hooks.push(Box::new(hook));
            return;
        }
        drop(state);
        hook();
    }

    /// Replaces `values` by their sum over all ranks, added in the ranks' order. Waits for all of them.
    ///
    /// # Errors
    /// [`BackendError::RankFailed`] where another rank failed or left; [`BackendError::Shape`] where the ranks bring
    /// different numbers of values, which ends the group.
    pub fn all_reduce(&self, values: &mut [f32]) -> Result<(), BackendError> {
        let mut state = self.group.state();
        if let Some(rank) = state.failed {
            return Err(BackendError::RankFailed { rank });
        }
        let other = state.parts.iter().flatten().map(Vec::len).next();
        if let Some(expected) = other.filter(|&expected| expected != values.len()) {
            drop(state);
            self.group.fail(self.rank);
            return Check("all_reduce").equal("values of each rank", values.len(), expected);
        }
        let number = state.num_sums;
        state.parts[self.rank] = Some(values.to_vec());
        if state.parts.iter().all(Option::is_some) {
            state.add_parts();
            self.group.shared.changed.notify_all();
        }
        while state.num_sums == number {
            if let Some(rank) = state.failed {
                return Err(BackendError::RankFailed { rank });
            }
            let waited = self.group.shared.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        values.copy_from_slice(&state.sum);
        Ok(())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.group.fail(self.rank);
    }
}

impl State {
    /// Takes the parts of all ranks and leaves their sum.
    fn add_parts(&mut self) {
        let mut parts = self.parts.iter_mut().filter_map(Option::take);
        let mut sum = parts.next().unwrap_or_default();
        for part in parts {
            for (sum, value) in sum.iter_mut().zip(part) {
                *sum += value;
            }
        }
        self.sum = sum;
        self.num_sums += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    /// Runs `work` on each rank of a group, and returns what each came to.
    fn on_each<T: Send>(num_ranks: usize, work: impl Fn(Member) -> T + Sync) -> Vec<T> {
        let (_, members) = Group::new(num_ranks);
        thread::scope(|scope| {
            let work = &work;
            let ranks = members.into_iter().map(|member| scope.spawn(move || work(member)));
            let ranks: Vec<_> = ranks.collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn sums_are_added_in_the_order_of_the_ranks() {
        // Whoever is late: f32 sums of these depend on their order.
        let values = |rank: usize| [1.0e8, 1.0, -1.0e8, 3.0][rank];
        let expected: f32 = (0..4).map(values).fold(0.0, |sum, value| sum + value);
        for late in 0..4 {
            let (sender, receiver) = mpsc::channel();
            let receiver = Mutex::new(receiver);
            let sums = on_each(4, |member| {
                if member.rank() == late {
                    for _ in 0..3 {
                        receiver.lock().unwrap().recv().unwrap();
                    }
                } else {
                    sender.send(()).unwrap();
                }
                let mut value = [values(member.rank()), member.rank() as f32];
                member.all_reduce(&mut value).unwrap();
                (value, member)
            });
            let expected = [expected, 6.0].map(f32::to_bits);
            assert!(sums.iter().all(|(sum, _)| sum.map(f32::to_bits) == expected), "{late} late");
        }
    }

    #[test]
    fn a_sum_waits_until_all_have_taken_the_one_before() {
        let sums = on_each(3, |member| {
            let mut all = Vec::new();
            for round in 0..200 {
                let mut values = vec![(round * (member.rank() + 1)) as f32; round % 5];
                member.all_reduce(&mut values).unwrap();
                all.push(values);
            }
            (all, member)
        });
        for (all, _) in &sums {
            for (round, values) in all.iter().enumerate() {
                assert_eq!(*values, vec![6.0 * round as f32; round % 5]);
            }
        }
    }

    #[test]
    fn alone_a_rank_has_the_sum_already() {
        let (_, members) = Group::new(1);
        let mut values = [1.5, f32::MIN_POSITIVE];
        members[0].all_reduce(&mut values).unwrap();
        assert_eq!(values.map(f32::to_bits), [1.5, f32::MIN_POSITIVE].map(f32::to_bits));
    }

    #[test]
    fn a_rank_that_leaves_fails_or_panics_wakes_the_others() {
        let leave = |member: Member| {
            drop(member);
            None
        };
        // The member is kept: it is not its end that wakes the others.
        let fail = |member: Member| {
            member.group.fail(member.rank());
            Some(member)
        };
        let panic = |member: Member| {
            let caught = thread::spawn(move || {
                let _member = member;
                std::panic::resume_unwind(Box::new(()));
            });
            assert!(caught.join().is_err());
            None
        };
        let ways: [&(dyn Fn(Member) -> Option<Member> + Sync); 3] = [&leave, &fail, &panic];
        for way in ways {
            let found = on_each(3, |member| {
                if member.rank() == 1 {
                    return (None, way(member));
                }
                let first = member.all_reduce(&mut [0.0]).unwrap_err().to_string();
                let again = member.all_reduce(&mut [0.0]).unwrap_err().to_string();
                assert_eq!(first, again, "a group does not recover");
                (Some(first), Some(member))
            });
            let messages: Vec<&String> = found.iter().flat_map(|(message, _)| message).collect();
            assert_eq!(messages.len(), 2);
            assert!(messages.iter().all(|message| message.starts_with("rank 1 ")), "{messages:?}");
        }
    }

    #[test]
    fn ranks_that_disagree_are_refused() {
        let messages = on_each(2, |member| {
            let mut values = vec![0.0; 2 + member.rank()];
            (member.all_reduce(&mut values).unwrap_err().to_string(), member)
        });
        let all = messages.iter().map(|(message, _)| message.as_str()).collect::<Vec<_>>();
        assert!(all.iter().any(|message| message.contains("values of each rank")), "{all:?}");
        assert!(all.iter().any(|message| message.contains(" failed")), "{all:?}");
    }

    #[test]
    fn hooks_run_once_when_a_rank_fails() {
        let (group, members) = Group::new(2);
        let (sender, receiver) = mpsc::channel();
        for member in &members {
            let (sender, rank) = (sender.clone(), member.rank());
            member.on_failure(move || sender.send(rank).unwrap());
        }
        assert!(group.check().is_ok());
        group.fail(1);
        drop(members);
        drop(sender);
        assert_eq!(receiver.iter().collect::<Vec<_>>(), [0, 1]);
        assert!(matches!(group.check(), Err(BackendError::RankFailed { rank: 1 })));
    }

    #[test]
    fn a_group_that_is_ended_does_nothing_for_a_failure() {
        let (group, members) = Group::new(2);
        let (sender, receiver) = mpsc::channel();
        members[1].on_failure(move || sender.send(()).unwrap());
        group.end();
        assert!(group.check().is_err() && members[0].all_reduce(&mut [0.0]).is_err());
        drop(members);
        assert!(receiver.recv().is_err(), "the hook was dropped, and not run");
    }
}
