//! Work that must not take the CPU from requests: loads and unloads.
//!
//! Lower priorities are taken by threads of their own, which end with the work: a process without privileges cannot give
//! a thread its priority back. None of these threads may hold what requests wait for, such as Python's interpreter lock.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{Builder, scope};
use std::time::Duration;

/// How often is looked whether the work gets on.
const WINDOW: Duration = Duration::from_millis(250);

/// Runs a task on a thread that gives way to those that serve, and waits for it. A panic of the task goes on here.
///
/// Threads that the task starts inherit the priority: what it must not slow down has to exist before. Only on Linux do
/// threads have priorities of their own; elsewhere, those are of processes, and nothing is done.
///
/// # Errors
///
/// If the system gives no thread.
pub fn run_in_background<T: Send>(name: &str, task: impl FnOnce() -> T + Send) -> io::Result<T> {
    scope(|scope| {
        let (under_way, watch) = mpsc::channel();
        let thread = Builder::new().name(name.to_owned()).spawn_scoped(scope, move || {
            // The channel is open until the task has ended.
            if let Some(idle) = priority::give_way() {
                // Whoever looks after it has to know of it before it may be left waiting.
                let _ = under_way.send(idle);
                priority::give_way_always();
            }
            let result = task();
            drop(under_way);
            result
        })?;
        if let Ok(mut idle) = watch.recv() {
            while watch.recv_timeout(WINDOW) == Err(RecvTimeoutError::Timeout) {
                if idle.starves() {
                    idle.raise();
                    break;
                }
            }
        }
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// Gives a thread of this process a slice of so many nanoseconds, or the usual one for 0. Linux heeds it since 6.12.
pub fn set_slice(thread: i32, nanoseconds: u64) {
    priority::set_slice(thread, nanoseconds);
}

#[cfg(target_os = "linux")]
mod priority {
    use std::fs;

    /// A tenth of the weight of a thread that serves: enough that a load comes to its end soon on a machine whose CPUs are
    /// all busy, be it with other programs.
    const NICENESS: libc::c_int = 10;

    /// The weight does not say how soon a request gets the CPU back: where the kernel lets what runs finish its slice of
    /// some milliseconds, a short slice does. Linux heeds it since 6.12.
    const SLICE_NANOSECONDS: u64 = 100_000;

    /// A thread that had the CPU for less than this part of the time in which it wanted it makes too little progress.
    const SHARE: u64 = 20;

    /// A thread that may have the lowest priority, and get its niceness back.
    #[derive(Debug, PartialEq)]
    pub(super) struct Idle {
        thread: libc::pid_t,
        niceness: libc::c_int,
        /// For how long it has run and waited for a CPU, in nanoseconds.
        turns: (u64, u64),
    }

    /// Gives the calling thread a low priority. Says whether it may have the lowest: only where that can be taken back, as
    /// it gets next to nothing beside others that want all of the CPU.
    pub(super) fn give_way() -> Option<Idle> {
        // SAFETY: takes numbers only; 0 is the calling thread.
        let own = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        // A process that is less important than this as a whole stays so.
        let niceness = NICENESS.max(own);
        // Whoever may not raise a priority again stays one below.
        let can_rise = set_niceness(0, niceness + 1) && set_niceness(0, niceness);
        // SAFETY: takes numbers only. An operator may have chosen another policy for the process, which stays.
        let is_usual = unsafe { libc::sched_getscheduler(0) } == libc::SCHED_OTHER;
        // SAFETY: takes nothing.
        let thread = unsafe { libc::gettid() };
        (can_rise && is_usual).then(|| Idle { thread, niceness, turns: turns(thread) })
    }

    /// Gives the calling thread the lowest priority: it runs where nothing else wants to, and gives way at once.
    pub(super) fn give_way_always() {
        set(0, libc::SCHED_IDLE, 0, 0, SLICE_NANOSECONDS);
    }

    pub(super) fn set_slice(thread: libc::pid_t, nanoseconds: u64) {
        // SAFETY: takes numbers only.
        let niceness = unsafe { libc::getpriority(libc::PRIO_PROCESS, thread as libc::id_t) };
        set(thread, libc::SCHED_OTHER, libc::SCHED_FLAG_KEEP_POLICY, niceness, nanoseconds);
    }

    impl Idle {
        /// Whether the thread has got too little of the CPU since this was last asked.
        pub(super) fn starves(&mut self) -> bool {
            let before = std::mem::replace(&mut self.turns, turns(self.thread));
            let (ran, waited) = (self.turns.0.saturating_sub(before.0), self.turns.1.saturating_sub(before.1));
            waited > ran.saturating_mul(SHARE - 1)
        }

        /// Takes the thread out of the lowest priority.
        pub(super) fn raise(self) {
            set(self.thread, libc::SCHED_OTHER, 0, self.niceness, SLICE_NANOSECONDS);
        }
    }

    /// For how long a thread of this process has run and waited for a CPU (`proc_pid_schedstat(5)`).
    fn turns(thread: libc::pid_t) -> (u64, u64) {
        let text = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap_or_default();
        let mut numbers = text.split_whitespace().map(|number| number.parse().unwrap_or_default());
        (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default())
    }

    fn set_niceness(thread: libc::pid_t, niceness: libc::c_int) -> bool {
        // SAFETY: takes numbers only.
        let set_plainly = || unsafe { libc::setpriority(libc::PRIO_PROCESS, thread as libc::id_t, niceness) } == 0;
        // Sandboxes may not know the first call, and policies that have no niceness refuse it.
        set(thread, libc::SCHED_OTHER, libc::SCHED_FLAG_KEEP_POLICY, niceness, SLICE_NANOSECONDS) || set_plainly()
    }

    /// Sets policy, niceness and slice at once; says whether that was allowed.
    fn set(thread: libc::pid_t, policy: libc::c_int, flags: libc::c_int, niceness: libc::c_int, slice: u64) -> bool {
        /// `struct sched_attr` in its first version, of 48 bytes.
        #[repr(C)]
        struct Attributes {
            size: u32,
            policy: u32,
            flags: u64,
            niceness: i32,
            priority: u32,
            slice: u64,
            deadline: u64,
            period: u64,
        }
        let attributes = Attributes {
            size: size_of::<Attributes>() as u32,
            policy: policy as u32,
            flags: flags as u64,
            niceness,
            priority: 0,
            slice,
            deadline: 0,
            period: 0,
        };
        // SAFETY: the kernel reads as many bytes as the size says.
        unsafe { libc::syscall(libc::SYS_sched_setattr, thread, &raw const attributes, 0) == 0 }
    }
}

#[cfg(not(target_os = "linux"))]
mod priority {
    /// There is none.
    #[derive(Debug, PartialEq)]
    pub(super) enum Idle {}

    pub(super) fn give_way() -> Option<Idle> {
        None
    }

    pub(super) fn give_way_always() {}

    pub(super) fn set_slice(_thread: i32, _nanoseconds: u64) {}

    impl Idle {
        pub(super) fn starves(&mut self) -> bool {
            match *self {}
        }

        pub(super) fn raise(self) {
            match self {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_task_runs_on_a_thread_of_its_own_and_its_result_comes_back() {
        let name = run_in_background("load", || std::thread::current().name().map(str::to_owned));
        assert_eq!(name.expect("a thread").as_deref(), Some("load"));
    }

    #[test]
    fn a_panic_goes_on_in_the_caller() {
        let panicked = std::panic::catch_unwind(|| run_in_background("load", || panic!("told to")));
        assert_eq!(panicked.expect_err("it panics").downcast_ref(), Some(&"told to"));
    }

    #[cfg(target_os = "linux")]
    fn niceness() -> libc::c_int {
        // SAFETY: takes numbers only.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
    }

    #[cfg(target_os = "linux")]
    fn policy() -> libc::c_int {
        // SAFETY: takes numbers only.
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn only_the_task_has_a_low_priority() {
        let before = (niceness(), policy());
        let (there, _) = run_in_background("load", || (niceness(), policy())).expect("a thread");
        assert!(there >= before.0.max(10), "{there}");
        assert_eq!((niceness(), policy()), before);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_task_that_gets_no_cpu_is_raised() {
        let allowed = allowed_cpus();
        stay_on(&one_of(&allowed));
        let is_over = AtomicBool::new(false);
        let raised = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
            let raised = run_in_background("load", || {
                let start = Instant::now();
                while policy() == libc::SCHED_IDLE && start.elapsed() < Duration::from_secs(30) {}
                policy() != libc::SCHED_IDLE
            });
            is_over.store(true, Ordering::Relaxed);
            raised
        });
        stay_on(&allowed);
        assert!(raised.expect("a thread"), "nobody looks after it");
    }

    /// The CPUs that this thread may run on.
    #[cfg(target_os = "linux")]
    fn allowed_cpus() -> libc::cpu_set_t {
        // SAFETY: a set of CPUs is plain bits, which the kernel fills.
        unsafe {
            let mut cpus = std::mem::zeroed();
            assert_eq!(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut cpus), 0);
            cpus
        }
    }

    /// One of these CPUs.
    #[cfg(target_os = "linux")]
    fn one_of(cpus: &libc::cpu_set_t) -> libc::cpu_set_t {
        // SAFETY: a set of CPUs is plain bits; the numbers are within it.
        unsafe {
            let mut one = std::mem::zeroed();
            let first = (0..libc::CPU_SETSIZE as usize).find(|&cpu| libc::CPU_ISSET(cpu, cpus)).expect("a CPU");
            libc::CPU_SET(first, &mut one);
            one
        }
    }

    /// Keeps this thread, and those that it starts, to these CPUs.
    #[cfg(target_os = "linux")]
    fn stay_on(cpus: &libc::cpu_set_t) {
        // SAFETY: the kernel reads the set.
        assert_eq!(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), cpus) }, 0);
    }
}
