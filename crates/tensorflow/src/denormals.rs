//! Flush-to-zero for runs in a caller's thread, as in the threads of TensorFlow.
//!
//! TensorFlow configures its threads to treat subnormal inputs of floating-point operations as zero, and to flush
//! subnormal results to zero. Models are trained and served that way. A network whose values decay runs many times
//! slower without it. A caller's thread is configured likewise, for the duration of the run only.

/// Calls `run` with subnormal numbers flushed to zero in this thread.
///
/// Has no effect on processors other than x86-64 and 64-bit ARM.
pub(crate) fn flushed<T>(run: impl FnOnce() -> T) -> T {
    let before = control::read();
    let restore = Restore(before);
    control::write(before | control::FLUSH);
    let result = run();
    drop(restore);
    result
}

/// Restores the control register, also on a panic.
struct Restore(control::Register);

impl Drop for Restore {
    fn drop(&mut self) {
        control::write(self.0);
    }
}

/// The floating-point control register of this thread.
#[cfg(target_arch = "x86_64")]
mod control {
    use std::arch::asm;

    pub(super) type Register = u32;

    /// MXCSR's "flush to zero" (results) and "denormals are zero" (inputs).
    pub(super) const FLUSH: Register = 1 << 15 | 1 << 6;

    pub(super) fn read() -> Register {
        let mut value: Register = 0;
        // SAFETY: stores the register into `value`, nothing else.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack, preserves_flags)) }
        value
    }

    pub(super) fn write(value: Register) {
        // SAFETY: the bits are those that were read, and the flush bits. Code compiled by Rust assumes that these are
        // off. While they are on, only the runtime runs, and glue without floating-point arithmetic.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const value, options(nostack, preserves_flags)) }
    }
}

/// The floating-point control register of this thread.
#[cfg(target_arch = "aarch64")]
mod control {
    use std::arch::asm;

    pub(super) type Register = u64;

    /// FPCR's "flush to zero", for inputs and results.
    pub(super) const FLUSH: Register = 1 << 24;

    pub(super) fn read() -> Register {
        let value: Register;
        // SAFETY: reads the register, nothing else.
        unsafe { asm!("mrs {}, fpcr", out(reg) value, options(nomem, nostack, preserves_flags)) }
        value
    }

    pub(super) fn write(value: Register) {
        // SAFETY: the bits are those that were read, and the flush bit. Code compiled by Rust assumes that it is off.
        // While it is on, only the runtime runs, and glue without floating-point arithmetic.
        unsafe { asm!("msr fpcr, {}", in(reg) value, options(nostack, preserves_flags)) }
    }
}

/// There is no such register.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod control {
    pub(super) type Register = u32;
    pub(super) const FLUSH: Register = 0;

    pub(super) fn read() -> Register {
        0
    }

    pub(super) fn write(_value: Register) {}
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[test]
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn flushing_lasts_as_long_as_the_call() {
        let product = || black_box(1e-30_f32) * black_box(1e-10_f32);
        assert!(product() > 0.0);
        assert_eq!(flushed(product).to_bits(), 0);
        assert!(product() > 0.0);
        assert!(std::panic::catch_unwind(|| flushed(|| panic!("in the middle"))).is_err());
        assert!(product() > 0.0);
    }
}
