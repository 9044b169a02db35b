//! The threads of one session, which the runtime asks for.

use std::ffi::c_void;
use std::ptr;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::attendant::Attendant;

/// Starts the threads of one session.
pub(crate) struct ThreadStarter(&'static Attendant);

impl ThreadStarter {
    pub(crate) fn new(attendant: &'static Attendant) -> Self {
        Self(attendant)
    }
}

/// A thread of a session, as the runtime knows it.
type Thread = Mutex<Option<JoinHandle<()>>>;

/// What a thread of the runtime is to call.
struct Work(unsafe extern "C" fn(*mut c_void), *mut c_void);

// SAFETY: the runtime gives both for another thread.
unsafe impl Send for Work {}

/// Starts a thread for the runtime. Returns null, which the runtime reports, if the system gives none.
///
/// # Safety
///
/// `starter` must be a [`ThreadStarter`]. The function must accept the argument in any thread.
pub(crate) unsafe extern "C" fn start_thread(
    starter: *mut c_void,
    function: unsafe extern "C" fn(*mut c_void),
    argument: *mut c_void,
) -> *mut c_void {
    // SAFETY: guaranteed by the caller.
    let starter = unsafe { &*starter.cast::<ThreadStarter>() };
    let work = Work(function, argument);
    let thread = starter.0.start_thread(move || {
        let Work(function, argument) = { work };
        // SAFETY: guaranteed by the caller.
        unsafe { function(argument) }
    });
    thread.map_or(ptr::null_mut(), |thread| Box::into_raw(Box::new(Thread::new(Some(thread)))).cast())
}

/// Waits for the end of a thread.
///
/// # Safety
///
/// `thread` must come from [`start_thread`], and must not be used afterwards.
pub(crate) unsafe extern "C" fn join_thread(thread: *mut c_void) {
    // SAFETY: guaranteed by the caller.
    let thread = unsafe { Box::from_raw(thread.cast::<Thread>()) };
    let thread = thread.lock().unwrap_or_else(PoisonError::into_inner).take();
    // A panic of the thread was reported there.
    drop(thread.map(JoinHandle::join));
}
