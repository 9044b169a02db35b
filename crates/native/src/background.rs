//! Background threads of low priority, for loads and unloads: they must not take the CPU from requests.
//!
//! Each task gets a new thread, because a process without privileges cannot raise the priority of a thread again. A
//! background thread must not hold a lock that requests wait for, such as Python's interpreter lock (priority
//! inversion).

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{Builder, scope};
use std::time::Duration;

/// The interval at which the progress of the task is checked.
const WINDOW: Duration = Duration::from_millis(250);

/// Runs a task on a new thread of low priority, and waits for it. A panic of the task is propagated.
///
/// Threads that the task starts inherit the priority. Threads that must not be slow have to be started before.
/// Priorities are lowered on Linux only: elsewhere they belong to processes, not to threads.
///
/// # Errors
///
/// If the system cannot start a thread.
pub fn run_in_background<T: Send>(name: &str, task: impl FnOnce() -> T + Send) -> io::Result<T> {
    scope(|scope| {
        let (started, watch) = mpsc::channel();
        let thread = Builder::new().name(name.to_owned()).spawn_scoped(scope, move || {
            // The channel is closed when the task ends.
            if let Some(idle) = priority::lower() {
                // The watchdog has to know the thread before the thread can starve.
                let _ = started.send(idle);
                priority::become_idle();
            }
            let result = task();
            drop(started);
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

/// Sets the time slice of a thread of this process, in nanoseconds; 0 for the default. Linux heeds it since 6.12.
pub fn set_slice(thread: i32, nanoseconds: u64) {
    priority::set_slice(thread, nanoseconds);
}

#[cfg(target_os = "linux")]
mod priority {
    use std::fs;

    /// About a tenth of the weight of a thread that serves requests. A load still ends soon on a machine whose CPUs are
    /// busy.
    const NICENESS: libc::c_int = 10;

    /// A short time slice: a request gets the CPU back when the slice of the running thread ends. The weight does not
    /// shorten the default slice of some milliseconds. Linux heeds it since 6.12.
    const SLICE_NANOSECONDS: u64 = 100_000;

    /// A thread starves if it has run for less than 1 / 20 of the time in which it was runnable.
    const SHARE: u64 = 20;

    /// A thread with the policy `SCHED_IDLE`, whose former niceness can be restored.
    #[derive(Debug, PartialEq)]
    pub(super) struct Idle {
        thread: libc::pid_t,
        niceness: libc::c_int,
        /// The times for which it has run and has waited for a CPU, in nanoseconds.
        cpu_times: (u64, u64),
    }

    /// Lowers the priority of the calling thread. Returns the thread if it may use `SCHED_IDLE`.
    ///
    /// Beside busy threads, that policy gets almost no CPU. So it is used only if the priority can be raised again.
    pub(super) fn lower() -> Option<Idle> {
        // SAFETY: takes numbers only; 0 is the calling thread.
        let own = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        // The niceness of the process, if that is higher, is kept.
        let niceness = NICENESS.max(own);
        // Without the permission to raise the priority, the thread keeps a niceness that is higher by one.
        let can_rise = set_niceness(0, niceness + 1) && set_niceness(0, niceness);
        // SAFETY: takes numbers only. If an operator has chosen another policy for the process, that is kept.
        let is_usual = unsafe { libc::sched_getscheduler(0) } == libc::SCHED_OTHER;
        // SAFETY: takes nothing.
        let thread = unsafe { libc::gettid() };
        (can_rise && is_usual).then(|| Idle { thread, niceness, cpu_times: cpu_times(thread) })
    }

    /// Gives the calling thread the policy `SCHED_IDLE`: it runs on idle CPUs only, and is preempted at once.
    pub(super) fn become_idle() {
        set(0, libc::SCHED_IDLE, 0, 0, SLICE_NANOSECONDS);
    }

    pub(super) fn set_slice(thread: libc::pid_t, nanoseconds: u64) {
        // SAFETY: takes numbers only.
        let niceness = unsafe { libc::getpriority(libc::PRIO_PROCESS, thread as libc::id_t) };
        set(thread, libc::SCHED_OTHER, libc::SCHED_FLAG_KEEP_POLICY, niceness, nanoseconds);
    }

    impl Idle {
        /// Whether the thread has starved since the last call.
        pub(super) fn starves(&mut self) -> bool {
            let before = std::mem::replace(&mut self.cpu_times, cpu_times(self.thread));
            let (ran, waited) = (self.cpu_times.0.saturating_sub(before.0), self.cpu_times.1.saturating_sub(before.1));
            waited > ran.saturating_mul(SHARE - 1)
        }

        /// Restores the usual policy, with the low priority.
        pub(super) fn raise(self) {
            set(self.thread, libc::SCHED_OTHER, 0, self.niceness, SLICE_NANOSECONDS);
        }
    }

    /// The times for which a thread of this process has run and has waited for a CPU (`proc_pid_schedstat(5)`).
    fn cpu_times(thread: libc::pid_t) -> (u64, u64) {
        let text = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap_or_default();
        let mut numbers = text.split_whitespace().map(|number| number.parse().unwrap_or_default());
        (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default())
    }

    fn set_niceness(thread: libc::pid_t, niceness: libc::c_int) -> bool {
        // SAFETY: takes numbers only.
        let set_by_niceness = || unsafe { libc::setpriority(libc::PRIO_PROCESS, thread as libc::id_t, niceness) } == 0;
        // Some sandboxes lack the first call, and policies without niceness refuse it.
        set(thread, libc::SCHED_OTHER, libc::SCHED_FLAG_KEEP_POLICY, niceness, SLICE_NANOSECONDS) || set_by_niceness()
    }

    /// Sets policy, niceness and time slice together. Returns whether that was permitted.
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
    /// Not available.
    #[derive(Debug, PartialEq)]
    pub(super) enum Idle {}

    pub(super) fn lower() -> Option<Idle> {
        None
    }

    pub(super) fn become_idle() {}

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
    fn a_task_runs_on_a_new_thread_and_its_result_is_returned() {
        let name = run_in_background("load", || std::thread::current().name().map(str::to_owned));
        assert_eq!(name.expect("a thread").as_deref(), Some("load"));
    }

    #[test]
    fn a_panic_is_propagated_to_the_caller() {
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
    fn the_priority_of_a_starving_task_is_raised() {
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
        assert!(raised.expect("a thread"), "its priority was not raised");
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

    /// Pins this thread, and threads that it starts, to these CPUs.
    #[cfg(target_os = "linux")]
    fn stay_on(cpus: &libc::cpu_set_t) {
        // SAFETY: the kernel reads the set.
        assert_eq!(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), cpus) }, 0);
    }
}
