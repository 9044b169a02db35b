//! The handler of SIGBUS for mapped files.
//!
//! A page of a mapping that the file no longer covers raises SIGBUS when it is read, and the default ends the process.
//! For registered ranges the handler puts zeros in place of the rest of the range, marks it as damaged, and the read
//! continues. Other signals are passed to the handler before it. The handler uses atomics and `mmap` only, and no locks.
#![allow(unsafe_code, reason = "signal handlers are functions of C")]

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The number of tables that may be mapped at the same time.
const MAX_RANGES: usize = 4096;

/// A registered range. It is changed under `CHANGES` only, and never while a thread reads memory of the range.
struct Slot {
    /// Odd during a change.
    generation: AtomicUsize,
    /// 0 if the slot is free.
    start: AtomicUsize,
    end: AtomicUsize,
    is_damaged: AtomicBool,
}

static SLOTS: [Slot; MAX_RANGES] = [const {
    Slot {
        generation: AtomicUsize::new(0),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        is_damaged: AtomicBool::new(false),
    }
}; MAX_RANGES];
/// One more than the last slot that was ever used.
static USED: AtomicUsize = AtomicUsize::new(0);
static CHANGES: Mutex<()> = Mutex::new(());
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// A range of mapped memory that may be read although its file may be cut short.
#[derive(Debug)]
pub(crate) struct Guarded {
    slot: usize,
}

impl Guarded {
    /// Registers whole pages; `None` if there are too many ranges, or the system refuses the handler.
    pub(crate) fn register(start: usize, len: usize) -> Option<Self> {
        let _changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        if PREVIOUS.get().is_none() {
            install()?;
        }
        let slot = SLOTS.iter().position(|slot| slot.start.load(SeqCst) == 0)?;
        SLOTS[slot].is_damaged.store(false, SeqCst);
        SLOTS[slot].set(start, start + len);
        USED.fetch_max(slot + 1, SeqCst);
        Some(Self { slot })
    }

    /// Whether zeros have taken the place of a part of the range.
    pub(crate) fn is_damaged(&self) -> bool {
        SLOTS[self.slot].is_damaged.load(SeqCst)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        SLOTS[self.slot].set(0, 0);
    }
}

impl Slot {
    fn set(&self, start: usize, end: usize) {
        self.generation.fetch_add(1, SeqCst);
        self.start.store(start, SeqCst);
        self.end.store(end, SeqCst);
        self.generation.fetch_add(1, SeqCst);
    }

    /// The end of the range, if the address is in it.
    fn end_for(&self, address: usize) -> Option<usize> {
        let generation = self.generation.load(SeqCst);
        let (start, end) = (self.start.load(SeqCst), self.end.load(SeqCst));
        // A slot that changes is not that of the address: its range is being read.
        let is_stable = generation.is_multiple_of(2) && self.generation.load(SeqCst) == generation;
        (is_stable && (start..end).contains(&address)).then_some(end)
    }
}

/// The size of a page of memory.
pub(crate) fn page_size() -> usize {
    static SIZE: AtomicUsize = AtomicUsize::new(0);
    match SIZE.load(SeqCst) {
        0 => {
            // SAFETY: takes a number only.
            let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
            let size = usize::try_from(size).unwrap_or(4096);
            SIZE.store(size, SeqCst);
            size
        }
        size => size,
    }
}

fn install() -> Option<()> {
    page_size();
    // SAFETY: all-zero bytes are a valid value of this C struct.
    let (mut previous, mut own) = unsafe { (std::mem::zeroed(), std::mem::zeroed::<libc::sigaction>()) };
    // SAFETY: both pointers are valid or null; nothing is changed.
    if unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut previous) } != 0 {
        return None;
    }
    PREVIOUS.set(previous).ok()?;
    own.sa_sigaction = on_bus_error as *const () as usize;
    own.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler has the type that SA_SIGINFO requires, and may run in any thread at any time.
    (unsafe { libc::sigaction(libc::SIGBUS, &raw const own, ptr::null_mut()) } == 0).then_some(())
}

extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid pointer; for SIGBUS it has an address.
    let address = unsafe { (*info).si_addr() } as usize;
    // SAFETY: as above. Other processes send codes of 0 and below, without an address.
    let is_fault = unsafe { (*info).si_code } > 0;
    if is_fault && cover(address) {
        return;
    }
    let Some(previous) = PREVIOUS.get() else { return };
    match previous.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // The read is repeated, and then ends the process with the signal.
            // SAFETY: as the action was before.
            unsafe { libc::sigaction(signal, previous, ptr::null_mut()) };
            if !is_fault {
                // SAFETY: takes a number only.
                unsafe { libc::raise(signal) };
            }
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: the flag says that the handler has this type.
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: without the flag, the handler has this type.
            let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}

/// Puts zeros in place of a registered range, from the page of the address on. Returns whether that was possible.
fn cover(address: usize) -> bool {
    let used = USED.load(SeqCst).min(MAX_RANGES);
    let Some((slot, end)) = SLOTS[..used].iter().find_map(|slot| Some((slot, slot.end_for(address)?))) else {
        return false;
    };
    let page = address - address % page_size();
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: the pages are those of a mapping that its owner keeps while it reads. They keep their size and stay
    // readable.
    let zeros = unsafe { libc::mmap(page as *mut c_void, end - page, libc::PROT_READ, flags, -1, 0) };
    if zeros == libc::MAP_FAILED {
        return false;
    }
    slot.is_damaged.store(true, SeqCst);
    true
}
