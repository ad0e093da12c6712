//! One persistent pool of threads, on which an operator runs its tasks.
//!
//! A run publishes a closure and a count. Workers and the caller claim tasks by counting `unclaimed` down; nothing is
//! allocated. The caller waits for the tasks that others claimed, never for a worker that has not come: where
//! other threads hog the cores, the caller does the work alone.
//!
//! **Why a claim is safe.** A claim takes `unclaimed` from `n > 0` to `n - 1`. From then until it counts `unfinished`
//! down, the run cannot end, so the closure that it reads is the one whose count it took, however late the thread
//! comes and however many runs went by since it last looked.
//!
//! **Waiting.** Idle workers spin for a moment, because an operator follows the other within microseconds, then
//! sleep, because the HTTP runtime wants the cores too. So does the caller at the end of a run.

#![expect(unsafe_code, reason = "a borrowed closure crosses threads that outlive the borrow")]

use std::any::Any;
use std::cell::UnsafeCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What runs, given the index of the task.
type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// How long a thread spins before it sleeps. Longer than the gap between two operators of a step (a few µs), shorter
/// than what a waiting HTTP thread would notice. A wake-up costs 5-50 µs.
const SPIN: Duration = Duration::from_micros(30);

/// Spins between two looks at the clock, which costs as much as a few spins.
const SPINS_PER_LOOK: usize = 32;

/// A fixed set of threads; the calling thread is the first of them.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// The closure of the run; written only while no task is unclaimed or unfinished.
    task: UnsafeCell<Option<&'static Task<'static>>>,
    unclaimed: AtomicUsize,
    unfinished: AtomicUsize,
    is_closing: AtomicBool,
    /// Workers that sleep or are about to.
    num_sleeping: AtomicUsize,
    /// Whether the caller sleeps or is about to.
    is_caller_sleeping: AtomicBool,
    /// Guards the two sleeps; holds the first panic of a run.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    work_came: Condvar,
    work_ended: Condvar,
}

// SAFETY: `task` is the only field that is not `Sync`; the protocol above says who reads and writes it when.
unsafe impl Sync for Shared {}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").field("unclaimed", &self.unclaimed).finish_non_exhaustive()
    }
}

impl Pool {
    /// Starts `num_threads - 1` workers.
    ///
    /// # Errors
    /// Where the system refuses a thread; those that started are stopped.
    pub(crate) fn new(num_threads: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            task: UnsafeCell::new(None),
            unclaimed: AtomicUsize::new(0),
            unfinished: AtomicUsize::new(0),
            is_closing: AtomicBool::new(false),
            num_sleeping: AtomicUsize::new(0),
            is_caller_sleeping: AtomicBool::new(false),
            panic: Mutex::new(None),
            work_came: Condvar::new(),
            work_ended: Condvar::new(),
        });
        let mut pool = Self { shared: Arc::clone(&shared), workers: Vec::new() };
        for index in 1..num_threads {
            let shared = Arc::clone(&shared);
            let builder = std::thread::Builder::new().name(format!("kernels-{index}"));
            pool.workers.push(builder.spawn(move || shared.work())?);
        }
        Ok(pool)
    }

    /// Returns the number of threads, the caller included.
    pub(crate) fn num_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(task_index)` once for each index below `num_tasks`, last index first.
    ///
    /// # Panics
    /// With the first panic of a task, after all tasks ended.
    pub(crate) fn run(&mut self, num_tasks: usize, task: &Task<'_>) {
        if num_tasks <= 1 || self.workers.is_empty() {
            for index in (0..num_tasks).rev() {
                task(index);
            }
            return;
        }
        // SAFETY: `finish` returns only after the last task ended, and no thread reads the closure after that.
        let task = unsafe { std::mem::transmute::<&Task<'_>, &'static Task<'static>>(task) };
        self.shared.publish(num_tasks, task);
        while self.shared.run_one() {}
        self.shared.finish();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.is_closing.store(true, Ordering::SeqCst);
        drop(self.shared.lock());
        self.shared.work_came.notify_all();
        for worker in self.workers.drain(..) {
            // A task's panic was caught and handed on; a worker itself has nothing to panic with.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Opens a run. Only `Pool::run` comes here, which borrows the pool mutably: no other run is open.
    fn publish(&self, num_tasks: usize, task: &'static Task<'static>) {
        // SAFETY: `unclaimed` is 0, so no thread reads the cell before the store below.
        unsafe { *self.task.get() = Some(task) };
        self.unfinished.store(num_tasks, Ordering::Relaxed);
        // Publishes the two lines above. Sequentially consistent, as is the sleeper's count: either the sleeper
        // sees the tasks, or this thread sees the sleeper.
        self.unclaimed.store(num_tasks, Ordering::SeqCst);
        if self.num_sleeping.load(Ordering::SeqCst) > 0 {
            // Once the lock was had, whoever counted itself is in its wait, and hears the call.
            drop(self.lock());
            self.work_came.notify_all();
        }
    }

    /// Claims and runs a task; returns whether there was one.
    fn run_one(&self) -> bool {
        let claim = self.unclaimed.fetch_update(Ordering::SeqCst, Ordering::Relaxed, |unclaimed| {
            unclaimed.checked_sub(1)
        });
        let Ok(unclaimed) = claim else {
            return false;
        };
        // SAFETY: this thread holds a claim, so the cell was written and is not written now.
        let task = unsafe { *self.task.get() };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            if let Some(task) = task {
                task(unclaimed - 1);
            }
        }));
        if let Err(payload) = outcome {
            self.lock().get_or_insert(payload);
        }
        if self.unfinished.fetch_sub(1, Ordering::SeqCst) == 1
            && self.is_caller_sleeping.load(Ordering::SeqCst)
        {
            drop(self.lock());
            self.work_ended.notify_one();
        }
        true
    }

    /// Waits for the tasks that others claimed, and closes the run.
    fn finish(&self) {
        let is_finished = || self.unfinished.load(Ordering::SeqCst) == 0;
        if !spin_until(is_finished) {
            let mut guard = self.lock();
            self.is_caller_sleeping.store(true, Ordering::SeqCst);
            while !is_finished() {
                guard = self.work_ended.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            self.is_caller_sleeping.store(false, Ordering::SeqCst);
        }
        // Taken in a statement of its own: the lock must be free again before this thread unwinds.
        let payload = self.lock().take();
        if let Some(payload) = payload {
            resume_unwind(payload);
        }
    }

    /// A worker's life.
    fn work(&self) {
        let is_wanted =
            || self.unclaimed.load(Ordering::SeqCst) > 0 || self.is_closing.load(Ordering::SeqCst);
        while !self.is_closing.load(Ordering::SeqCst) {
            while self.run_one() {}
            if !spin_until(is_wanted) {
                let mut guard = self.lock();
                self.num_sleeping.fetch_add(1, Ordering::SeqCst);
                while !is_wanted() {
                    guard = self.work_came.wait(guard).unwrap_or_else(PoisonError::into_inner);
                }
                self.num_sleeping.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    /// No user code runs under the lock, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, Option<Box<dyn Any + Send>>> {
        self.panic.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Spins for a moment; returns whether `condition` came true.
fn spin_until(condition: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        for _ in 0..SPINS_PER_LOOK {
            if condition() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.elapsed() > SPIN {
            return condition();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each task must run once, whatever the sizes.
    fn check_runs_each_once(pool: &mut Pool, num_tasks: usize) {
        let counts: Vec<AtomicUsize> = (0..num_tasks).map(|_| AtomicUsize::new(0)).collect();
        pool.run(num_tasks, &|task| {
            counts[task].fetch_add(1, Ordering::Relaxed);
        });
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn runs_each_task_once() {
        for num_threads in [0, 1, 2, 3, 8] {
            let mut pool = Pool::new(num_threads).unwrap();
            for round in 0..300 {
                check_runs_each_once(&mut pool, [0, 1, 2, 3, 17, 100][round % 6]);
            }
        }
    }

    #[test]
    fn wakes_workers_that_fell_asleep() {
        let mut pool = Pool::new(3).unwrap();
        for _ in 0..20 {
            let asleep = Instant::now() + 4 * SPIN;
            while Instant::now() < asleep {
                std::thread::yield_now();
            }
            check_runs_each_once(&mut pool, 5);
        }
    }

    #[test]
    fn finishes_while_other_threads_hog_the_cores() {
        let stop = Arc::new(AtomicBool::new(false));
        let hogs: Vec<_> = (0..8)
            .map(|_| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || while !stop.load(Ordering::Relaxed) {})
            })
            .collect();
        let mut pool = Pool::new(4).unwrap();
        for _ in 0..20 {
            check_runs_each_once(&mut pool, 16);
        }
        stop.store(true, Ordering::Relaxed);
        for hog in hogs {
            hog.join().unwrap();
        }
    }

    #[test]
    fn hands_a_panic_on_and_lives() {
        for num_threads in [1, 2, 4] {
            let mut pool = Pool::new(num_threads).unwrap();
            for _ in 0..10 {
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    pool.run(9, &|task| assert_ne!(task, 4, "task four"));
                }));
                assert!(outcome.is_err());
                check_runs_each_once(&mut pool, 9);
            }
        }
    }

    #[test]
    fn is_called_from_one_thread_after_another() {
        let mut pool = Pool::new(2).unwrap();
        for _ in 0..5 {
            pool = std::thread::spawn(move || {
                check_runs_each_once(&mut pool, 7);
                pool
            })
            .join()
            .unwrap();
        }
    }
}
