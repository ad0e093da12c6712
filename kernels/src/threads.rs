//! Work of the host that all of its threads share: weights that are brought into another form, copies to pinned memory.

use std::num::NonZero;
use std::thread;

/// Threads beyond which a memory's channels, not the cores, are what is short.
const THREADS_MAX: usize = 16;

/// Calls `work` with each part and its index; neighbours go to one thread.
pub fn for_each_part<T: Send>(parts: Vec<T>, work: &(impl Fn(usize, T) + Sync)) {
    let num_threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
    let share = parts.len().div_ceil(num_threads).max(1);
    let mut parts = parts.into_iter().enumerate();
    thread::scope(|scope| {
        loop {
            let own: Vec<(usize, T)> = parts.by_ref().take(share).collect();
            if own.is_empty() {
                break;
            }
            let run = move || own.into_iter().for_each(|(index, part)| work(index, part));
            // The last share is this thread's.
            if parts.len() == 0 {
                run();
            } else {
                scope.spawn(run);
            }
        }
    });
}

/// Copies between slices of one length; large ones by several threads, for which a page that is not in memory yet is one of
/// many that are waited for.
#[cfg(any(feature = "cuda", test))]
pub(crate) fn copy(from: &[u8], to: &mut [u8]) {
    const PART_BYTES: usize = 512 << 10;
    if to.len() <= PART_BYTES {
        return to.copy_from_slice(from);
    }
    let parts = to.chunks_mut(PART_BYTES).zip(from.chunks(PART_BYTES)).collect();
    for_each_part(parts, &|_, (to, from): (&mut [u8], &[u8])| to.copy_from_slice(from));
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn every_part_is_worked_on_once_with_its_index() {
        for num_parts in [0, 1, 2, 7, 100] {
            let seen = Mutex::new(Vec::new());
            for_each_part((0..num_parts).map(|i| i * 3).collect(), &|index, part: usize| {
                seen.lock().unwrap().push((index, part));
            });
            let mut seen = seen.into_inner().unwrap();
            seen.sort_unstable();
            assert_eq!(seen, (0..num_parts).map(|i| (i, i * 3)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn copies_of_any_length_are_whole() {
        for len in [0, 1, (512 << 10) - 1, (2 << 20) + 3] {
            let from: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let mut to = vec![0; len];
            copy(&from, &mut to);
            assert!(to == from, "{len}");
        }
    }
}
