//! The scheduling of threads that must not take the CPU from requests.

use pyo3::prelude::*;

/// Gives the calling thread, and those that it will start, less weight than those that serve.
///
/// Nice 10 has a tenth of the weight of a thread that serves: enough that a load comes to its end soon on a machine whose
/// CPUs are all busy, be it with other programs. The weight does not say how soon a request gets the CPU back, though:
/// where the kernel lets what runs finish its slice of some milliseconds, a short slice does (Linux 6.12 and later;
/// earlier ones ignore it). Elsewhere than on Linux, priorities are those of processes, and nothing is done.
#[pyfunction]
pub(crate) fn yield_to_requests() {
    #[cfg(target_os = "linux")]
    {
        const NICENESS: i32 = 10;
        const SLICE_NANOSECONDS: u64 = 100_000;
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
        // A process that is less important than this as a whole stays so.
        // SAFETY: takes numbers only; 0 is the calling thread.
        let own = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let attributes = Attributes {
            size: size_of::<Attributes>() as u32,
            policy: 0,
            // An operator may have chosen another policy for the process.
            flags: libc::SCHED_FLAG_KEEP_POLICY as u64,
            niceness: NICENESS.max(own),
            priority: 0,
            slice: SLICE_NANOSECONDS,
            deadline: 0,
            period: 0,
        };
        // SAFETY: the kernel reads as many bytes as the size says.
        let refused = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) } != 0;
        if refused {
            // As in sandboxes that do not know the call, and under policies that have no niceness.
            // SAFETY: takes numbers only; 0 is the calling thread. Less priority is never refused.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, attributes.niceness) };
        }
    }
}
