//! CPU placement of worker threads while models load.
//!
//! Linux moves a waiting thread to a CPU that becomes idle. A CPU that runs a load is never idle, even if the load has
//! the lowest priority. Two workers may then wait for each other on one CPU for milliseconds, while the other CPU runs
//! the load. If at most one CPU is without a load, workers are therefore pinned to separate CPUs until the load ends.
//! With more CPUs, one becomes idle soon.
//!
//! Linux also grants a load its small share of a CPU. A worker that has run for two slices may have to wait for a load,
//! which runs without preemption for milliseconds. Longer slices make this as rare as the share is small.

use std::cell::RefCell;
use std::sync::{Mutex, MutexGuard, PoisonError};

static PLACEMENT: Mutex<Placement> = Mutex::new(Placement::new());

thread_local! {
    static OWN: RefCell<Option<Worker>> = const { RefCell::new(None) };
}

/// Sets the scheduler slice of a thread in nanoseconds, if the system supports it; 0 means the default.
pub type SetSlice = fn(i32, u64);

/// A few times the default slice. Other threads still get the CPU soon.
const SLICE_NANOSECONDS: u64 = 10_000_000;

/// A guard: a load is in progress until it is dropped.
#[must_use = "the load is under way for as long"]
pub struct Loading(());

/// Marks the start of a load, or of other work in the background that occupies CPUs.
pub fn loading(set_slice: SetSlice) -> Loading {
    placement().begin_load(set_slice);
    Loading(())
}

impl Drop for Loading {
    fn drop(&mut self) {
        placement().end_load();
    }
}

/// Registers the calling thread as a worker until it ends or [leaves](leave). Repeated calls are cheap.
pub fn join() {
    OWN.with_borrow_mut(|own| {
        own.get_or_insert_with(|| {
            let id = affinity::own_id();
            placement().add(id);
            Worker(id)
        });
    });
}

/// Unregisters the calling thread as a worker.
pub fn leave() {
    // Dropped here, as it locks.
    drop(OWN.take());
}

/// Resets the CPU affinity and the slice of the calling thread, which it may have inherited from a worker.
pub fn as_usual() {
    placement().release(affinity::own_id());
}

/// A registered thread.
struct Worker(affinity::Id);

impl Drop for Worker {
    fn drop(&mut self) {
        placement().remove(self.0);
    }
}

fn placement() -> MutexGuard<'static, Placement> {
    PLACEMENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The registered workers, and the number of loads in progress.
struct Placement {
    workers: Vec<affinity::Id>,
    loads: usize,
    are_apart: bool,
    /// Known since the first load.
    set_slice: Option<SetSlice>,
}

impl Placement {
    const fn new() -> Self {
        Self { workers: Vec::new(), loads: 0, are_apart: false, set_slice: None }
    }

    fn begin_load(&mut self, set_slice: SetSlice) {
        self.set_slice = Some(set_slice);
        self.loads += 1;
        self.arrange();
    }

    fn end_load(&mut self) {
        self.loads -= 1;
        self.arrange();
    }

    fn add(&mut self, worker: affinity::Id) {
        self.workers.push(worker);
        self.arrange();
    }

    fn remove(&mut self, worker: affinity::Id) {
        if self.are_apart {
            self.release(worker);
        }
        self.workers.retain(|other| *other != worker);
        self.arrange();
    }

    /// Sets the CPU affinity of the workers for the current loads.
    fn arrange(&mut self) {
        let cpus = affinity::of_process();
        let have_one_each = self.workers.len() > 1 && self.workers.len() == cpus.len();
        let were_apart = std::mem::replace(&mut self.are_apart, have_one_each && self.loads + 1 >= cpus.len());
        for (number, &worker) in self.workers.iter().enumerate() {
            if self.are_apart {
                affinity::allow(worker, &cpus[number..=number]);
                self.slice(worker, SLICE_NANOSECONDS);
            } else if were_apart {
                self.release(worker);
            }
        }
    }

    fn release(&self, thread: affinity::Id) {
        affinity::allow(thread, &affinity::of_process());
        self.slice(thread, 0);
    }

    fn slice(&self, thread: affinity::Id, nanoseconds: u64) {
        if let Some(set_slice) = self.set_slice {
            set_slice(affinity::number(thread), nanoseconds);
        }
    }
}

#[cfg(target_os = "linux")]
mod affinity {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    pub(super) type Id = rustix::process::Pid;

    pub(super) fn own_id() -> Id {
        rustix::thread::gettid()
    }

    pub(super) fn number(thread: Id) -> i32 {
        thread.as_raw_nonzero().get()
    }

    /// The CPUs of the process, which are those of its first thread.
    pub(super) fn of_process() -> Vec<usize> {
        let cpus = sched_getaffinity(Some(rustix::process::getpid())).unwrap_or_default();
        (0..CpuSet::MAX_CPU).filter(|&cpu| cpus.is_set(cpu)).collect()
    }

    /// Sets the CPU affinity of a thread. Failure is harmless: the thread may have ended, and sandboxes may refuse.
    pub(super) fn allow(thread: Id, cpus: &[usize]) {
        let mut set = CpuSet::new();
        for &cpu in cpus {
            set.set(cpu);
        }
        let _ = sched_setaffinity(Some(thread), &set);
    }
}

#[cfg(not(target_os = "linux"))]
mod affinity {
    //! On other systems, the affinity of threads is not changed.

    pub(super) type Id = std::thread::ThreadId;

    pub(super) fn own_id() -> Id {
        std::thread::current().id()
    }

    pub(super) fn number(_thread: Id) -> i32 {
        0
    }

    pub(super) fn of_process() -> Vec<usize> {
        Vec::new()
    }

    pub(super) fn allow(_thread: Id, _cpus: &[usize]) {}
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::sync::mpsc::{Sender, channel};
    use std::thread::scope;

    use super::*;

    fn cpus_of(thread: affinity::Id) -> Vec<usize> {
        let cpus = rustix::thread::sched_getaffinity(Some(thread)).expect("a thread");
        (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| cpus.is_set(cpu)).collect()
    }

    static SLICES: Mutex<Vec<(i32, u64)>> = Mutex::new(Vec::new());

    fn note_slice(thread: i32, nanoseconds: u64) {
        SLICES.lock().unwrap().push((thread, nanoseconds));
    }

    fn slices_of(thread: affinity::Id) -> Vec<u64> {
        let slices = SLICES.lock().unwrap();
        slices.iter().filter(|(other, _)| *other == affinity::number(thread)).map(|(_, slice)| *slice).collect()
    }

    /// Runs a test with as many idle threads as CPUs, and one more.
    fn with_threads(act: impl FnOnce(&[affinity::Id], affinity::Id)) {
        scope(|scope| {
            let (started, ids) = channel();
            let _ends: Vec<Sender<()>> = (0..=affinity::of_process().len())
                .map(|_| {
                    let (end, ended) = channel();
                    let started = started.clone();
                    scope.spawn(move || {
                        started.send(affinity::own_id()).expect("somebody counts");
                        ended.recv()
                    });
                    end
                })
                .collect();
            let threads: Vec<_> = ids.iter().take(affinity::of_process().len() + 1).collect();
            let (other, one_each) = threads.split_first().expect("at least one");
            act(one_each, *other);
        });
    }

    #[test]
    fn threads_have_a_cpu_each_while_loads_leave_no_more_than_one_free() {
        let cpus = affinity::of_process();
        with_threads(|threads, _| {
            let mut placement = Placement::new();
            for &thread in threads {
                placement.add(thread);
            }
            for _ in 0..cpus.len().saturating_sub(2) {
                placement.begin_load(note_slice);
            }
            assert!(threads.iter().all(|&thread| cpus_of(thread) == cpus), "kept apart too soon");

            placement.begin_load(note_slice);
            let places: Vec<_> = threads.iter().map(|&thread| cpus_of(thread)).collect();
            assert_eq!(places, cpus.iter().map(|&cpu| vec![cpu]).collect::<Vec<_>>());

            placement.end_load();
            assert!(threads.iter().all(|&thread| cpus_of(thread) == cpus), "still apart");
            let expected = if cpus.len() > 1 { vec![SLICE_NANOSECONDS, 0] } else { vec![] };
            assert!(threads.iter().all(|&thread| slices_of(thread) == expected), "{:?}", SLICES.lock());
        });
    }

    #[test]
    fn a_thread_that_leaves_may_run_anywhere_and_the_next_gets_its_place() {
        let cpus = affinity::of_process();
        with_threads(|threads, other| {
            let mut placement = Placement::new();
            for &thread in threads {
                placement.add(thread);
            }
            for _ in &cpus {
                placement.begin_load(note_slice);
            }
            placement.remove(threads[0]);
            assert!(threads.iter().all(|&thread| cpus_of(thread) == cpus), "fewer threads than CPUs are apart");

            placement.add(other);
            assert_eq!(cpus_of(threads[0]), cpus);
            assert_eq!(cpus_of(other), cpus[cpus.len() - 1..]);
        });
    }

    #[test]
    fn a_thread_is_counted_once_until_it_ends() {
        let count = |id| placement().workers.iter().filter(|worker| **worker == id).count();
        let id = std::thread::spawn(move || {
            join();
            join();
            assert_eq!(count(affinity::own_id()), 1);
            affinity::own_id()
        });
        assert_eq!(count(id.join().expect("it is counted")), 0);
    }
}
