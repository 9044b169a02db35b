//! The threads of sessions with a pool of their own, which the runtime asks for.

use std::ffi::c_void;
use std::io;
use std::ptr;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{Builder, JoinHandle};

/// A thread that starts the threads of sessions.
///
/// Sessions are created on threads of low priority, which the threads that they start would inherit.
pub(crate) struct ThreadSpawner(Sender<Order>);

/// The work of a thread, and the receiver of its handle.
type Order = (Work, Sender<io::Result<JoinHandle<()>>>);

static SPAWNER: OnceLock<Result<ThreadSpawner, String>> = OnceLock::new();

impl ThreadSpawner {
    /// The only one, which the first call starts. Threads inherit the priority of that caller.
    ///
    /// # Errors
    ///
    /// The reason why the system gives no thread.
    pub(crate) fn start() -> Result<&'static Self, String> {
        let start = || {
            let (orders, received) = channel::<Order>();
            let builder = Builder::new().name("onnx-spawner".to_owned());
            let spawn = move || {
                for (work, started) in received {
                    let builder = Builder::new().name("onnx-intra-op".to_owned());
                    let _ = started.send(builder.spawn(move || work.execute()));
                }
            };
            builder.spawn(spawn).map_err(|error| format!("no thread to start others: {error}"))?;
            Ok(Self(orders))
        };
        SPAWNER.get_or_init(start).as_ref().map_err(Clone::clone)
    }

    fn spawn(&self, work: Work) -> Option<JoinHandle<()>> {
        let (sender, started) = channel();
        self.0.send((work, sender)).ok()?;
        started.recv().ok()?.ok()
    }
}

/// A thread of a session, as the runtime knows it.
type Thread = Mutex<Option<JoinHandle<()>>>;

/// What a thread of the runtime is to call.
struct Work(unsafe extern "C" fn(*mut c_void), *mut c_void);

// SAFETY: the runtime gives both for another thread.
unsafe impl Send for Work {}

impl Work {
    fn execute(self) {
        // SAFETY: guaranteed by the caller of `start_thread`.
        unsafe { (self.0)(self.1) }
    }
}

/// Starts a thread for the runtime. Returns null, which the runtime reports, if the system gives none.
///
/// # Safety
///
/// `spawner` must be a [`ThreadSpawner`]. The function must accept the argument in any thread.
pub(crate) unsafe extern "C" fn start_thread(
    spawner: *mut c_void,
    function: unsafe extern "C" fn(*mut c_void),
    argument: *mut c_void,
) -> *mut c_void {
    // SAFETY: guaranteed by the caller.
    let spawner = unsafe { &*spawner.cast::<ThreadSpawner>() };
    let thread = spawner.spawn(Work(function, argument));
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
