//! The deadline timer: one thread that terminates runs at their deadline.
//!
//! The runtime ends a run between two operations once a flag in its options is set. Most runs end long before their
//! deadline, so none sets an alarm. Each thread that runs models has a slot with the deadline of its current run. The
//! timer inspects all slots at each tick, and sleeps while no run has a deadline. A run costs two uncontended locks.

use std::cell::OnceCell;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Builder, Thread};
use std::time::{Duration, Instant};

use crate::api::{Api, RawRunOptions};

/// The period of the timer: a run is terminated at most this long after its deadline.
const TICK: Duration = Duration::from_millis(10);

/// After this many ticks without a run that has a deadline, the timer sleeps.
const IDLE_TICKS: u32 = 100;

/// The severity that no message of a run has: errors are returned to the client, and not logged as well.
const FATAL: i32 = 4;

/// The deadline timer of a process.
pub(crate) struct DeadlineTimer {
    api: &'static Api,
    slots: Mutex<Vec<Arc<Slot>>>,
    is_ticking: AtomicBool,
    thread: OnceLock<Thread>,
}

/// The only one: the slots of threads refer to it.
static TIMER: OnceLock<Result<&'static DeadlineTimer, String>> = OnceLock::new();

impl DeadlineTimer {
    /// The timer, which the first call starts. It inherits the priority of that caller.
    ///
    /// # Errors
    ///
    /// The reason why the system gives no thread.
    pub(crate) fn start(api: &'static Api) -> Result<&'static Self, String> {
        let start = || {
            let (slots, is_ticking, thread) = (Mutex::default(), AtomicBool::new(false), OnceLock::new());
            let timer: &'static Self = Box::leak(Box::new(Self { api, slots, is_ticking, thread }));
            let builder = Builder::new().name("onnx-deadlines".to_owned());
            let started =
                builder.spawn(|| timer.tick()).map_err(|error| format!("no thread for deadlines: {error}"))?;
            let _ = timer.thread.set(started.thread().clone());
            Ok(timer)
        };
        TIMER.get_or_init(start).clone()
    }

    /// Calls `run` with the options of a run that is terminated at the deadline. Also returns whether it was.
    pub(crate) fn run_until<T>(
        &'static self,
        deadline: Option<Instant>,
        run: impl FnOnce(*const RawRunOptions) -> T,
    ) -> (T, bool) {
        let slot =
            CURRENT.try_with(|current| Arc::clone(&current.0.get_or_init(|| Registration(self, self.new_slot())).1));
        // The variables of a thread that ends may be gone. Nothing waits for its runs.
        let Ok(slot) = slot else { return (run(ptr::null()), false) };
        let Some(deadline) = deadline else { return (run(slot.options.0), false) };
        self.arm(&slot, deadline);
        let armed = Armed(self.api, &slot);
        let result = run(slot.options.0);
        let was_terminated = slot.state().is_terminated;
        drop(armed);
        (result, was_terminated)
    }

    fn new_slot(&self) -> Arc<Slot> {
        let mut options = ptr::null_mut();
        // SAFETY: the result is ours. A failure leaves null, which the runtime takes for its defaults.
        unsafe {
            let created = self.api.check((self.api.create_run_options)(&raw mut options));
            let quiet = created
                .and_then(|()| self.api.check((self.api.run_options_set_run_log_severity_level)(options, FATAL)));
            drop(quiet);
        }
        let slot = Arc::new(Slot { options: Options(options), state: Mutex::default() });
        self.slots().push(Arc::clone(&slot));
        slot
    }

    fn arm(&self, slot: &Slot, deadline: Instant) {
        slot.state().deadline = Some(deadline);
        // Either this sees that the timer sleeps, or the timer sees the deadline before it sleeps: both lock the state of
        // the slot in between.
        if !self.is_ticking.load(Ordering::SeqCst)
            && !self.is_ticking.swap(true, Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// The work of the thread.
    fn tick(&self) -> ! {
        loop {
            while !self.is_ticking.load(Ordering::SeqCst) {
                thread::park();
            }
            let mut idle_ticks = 0;
            while idle_ticks < IDLE_TICKS {
                thread::sleep(TICK);
                idle_ticks = if self.terminate_overdue() { 0 } else { idle_ticks + 1 };
            }
            self.is_ticking.store(false, Ordering::SeqCst);
            if self.terminate_overdue() {
                self.is_ticking.store(true, Ordering::SeqCst);
            }
        }
    }

    /// Terminates the runs whose deadline has passed. Returns whether there are runs with a deadline.
    fn terminate_overdue(&self) -> bool {
        let now = Instant::now();
        let mut has_runs = false;
        for slot in self.slots().iter() {
            let mut state = slot.state();
            let Some(deadline) = state.deadline else { continue };
            has_runs = true;
            if deadline <= now && !state.is_terminated && !slot.options.0.is_null() {
                state.is_terminated = true;
                // SAFETY: the options are alive. The runtime expects that another thread sets this flag.
                drop(self.api.check(unsafe { (self.api.run_options_set_terminate)(slot.options.0) }));
            }
        }
        has_runs
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The options of the runs of one thread, and the deadline of the current one.
struct Slot {
    options: Options,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    deadline: Option<Instant>,
    is_terminated: bool,
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An `OrtRunOptions`.
struct Options(*mut RawRunOptions);

// SAFETY: the options are not tied to a thread. Their flag is set under the lock of the slot, and read by the runtime.
unsafe impl Send for Options {}
// SAFETY: as above.
unsafe impl Sync for Options {}

/// A slot with a deadline, which is removed at the end of the run, also on a panic.
struct Armed<'a>(&'static Api, &'a Slot);

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        let mut state = self.1.state();
        if std::mem::take(&mut *state).is_terminated {
            // SAFETY: the options are alive, and no run uses them.
            drop(self.0.check(unsafe { (self.0.run_options_unset_terminate)(self.1.options.0) }));
        }
    }
}

thread_local! {
    static CURRENT: Current = const { Current(OnceCell::new()) };
}

/// The slot of this thread.
struct Current(OnceCell<Registration>);

/// A slot that the timer inspects until its thread ends.
struct Registration(&'static DeadlineTimer, Arc<Slot>);

impl Drop for Registration {
    fn drop(&mut self) {
        self.0.slots().retain(|slot| !Arc::ptr_eq(slot, &self.1));
        // SAFETY: ours; the timer does not know the slot any more. Null is accepted.
        unsafe { (self.0.api.release_run_options)(self.1.options.0) }
    }
}
