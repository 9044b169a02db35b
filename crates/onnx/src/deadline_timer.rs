//! The attendant: one thread that cancels runs at their deadline, and starts the threads of sessions.
//!
//! The runtime cancels a run between two operations once a flag in its options is set. Most runs end long before their
//! deadline, so none sets a timer. Each thread that runs models has a slot with the deadline of its current run. The
//! attendant inspects all slots at each tick, and sleeps while no run has a deadline. A run costs two uncontended locks.
//!
//! Sessions are created on threads of low priority, which the threads that they start would inherit. The attendant was
//! started before, at the usual priority.

use std::cell::OnceCell;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use crate::api::{Api, RawRunOptions};

/// The period of the attendant: a run is cancelled so much after its deadline.
const TICK: Duration = Duration::from_millis(10);

/// After this many ticks without a run that has a deadline, the attendant sleeps.
const IDLE_TICKS: u32 = 100;

/// The severity that no message of a run has: errors are returned to the client, and not logged as well.
const FATAL: i32 = 4;

/// A message to the attendant.
enum Message {
    /// A run has a deadline.
    Wake,
    /// Start a thread, and answer with the result.
    Start(Box<dyn FnOnce() + Send>, Sender<io::Result<std::thread::JoinHandle<()>>>),
}

/// The attendant of a process.
pub(crate) struct Attendant {
    api: &'static Api,
    slots: Mutex<Vec<Arc<Slot>>>,
    is_ticking: AtomicBool,
    messages: Sender<Message>,
}

/// The only one: the slots of threads refer to it.
static ATTENDANT: OnceLock<Result<Attendant, String>> = OnceLock::new();

impl Attendant {
    /// The attendant, which the first call starts.
    ///
    /// # Errors
    ///
    /// The reason why the system gives no thread.
    pub(crate) fn start(api: &'static Api) -> Result<&'static Self, String> {
        let start = || {
            let (messages, received) = channel();
            let thread = Builder::new().name("servable-onnx".to_owned());
            thread.spawn(move || attend(&received)).map_err(|error| format!("no thread to cancel runs in: {error}"))?;
            Ok(Self { api, slots: Mutex::default(), is_ticking: AtomicBool::new(false), messages })
        };
        ATTENDANT.get_or_init(start).as_ref().map_err(Clone::clone)
    }

    /// Calls `run` with the options of a run that is cancelled at the deadline. Also returns whether it was.
    pub(crate) fn cancelled_at<T>(
        &'static self,
        deadline: Option<Instant>,
        run: impl FnOnce(*const RawRunOptions) -> T,
    ) -> (T, bool) {
        let slot =
            CURRENT.try_with(|current| Arc::clone(&current.0.get_or_init(|| Registered(self, self.new_slot())).1));
        // The variables of a thread that ends may be gone. It runs nothing for which somebody waits.
        let Ok(slot) = slot else { return (run(ptr::null()), false) };
        let Some(deadline) = deadline else { return (run(slot.options.0), false) };
        self.begin(&slot, deadline);
        let ending = Ending(self.api, &slot);
        let result = run(slot.options.0);
        let was_cancelled = slot.state().is_cancelled;
        drop(ending);
        (result, was_cancelled)
    }

    /// Starts a thread of the usual priority.
    pub(crate) fn start_thread(&self, work: impl FnOnce() + Send + 'static) -> io::Result<std::thread::JoinHandle<()>> {
        let (sender, started) = channel();
        let ended = || io::Error::other("the thread that starts threads has ended");
        self.messages.send(Message::Start(Box::new(work), sender)).map_err(|_| ended())?;
        started.recv().map_err(|_| ended())?
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

    fn begin(&self, slot: &Slot, deadline: Instant) {
        slot.state().deadline = Some(deadline);
        // Either this sees that the attendant sleeps, or the attendant sees the deadline before it sleeps: both lock
        // the state of the slot in between.
        if !self.is_ticking.load(Ordering::SeqCst) && !self.is_ticking.swap(true, Ordering::SeqCst) {
            let _ = self.messages.send(Message::Wake);
        }
    }

    /// Cancels the runs whose deadline has passed. Returns whether there are runs with a deadline.
    fn inspect(&self) -> bool {
        let now = Instant::now();
        let mut has_runs = false;
        for slot in self.slots().iter() {
            let mut state = slot.state();
            let Some(deadline) = state.deadline else { continue };
            has_runs = true;
            if deadline <= now && !state.is_cancelled && !slot.options.0.is_null() {
                state.is_cancelled = true;
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

/// The work of the thread.
fn attend(received: &Receiver<Message>) {
    let mut idle_ticks = IDLE_TICKS;
    loop {
        let is_asleep = idle_ticks == IDLE_TICKS;
        let message = if is_asleep {
            received.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            received.recv_timeout(TICK)
        };
        match message {
            Ok(Message::Wake) => idle_ticks = 0,
            Ok(Message::Start(work, sender)) => {
                let started = Builder::new().name("onnx-intra-op".to_owned()).spawn(work);
                let _ = sender.send(started);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let Some(Ok(attendant)) = ATTENDANT.get() else { continue };
        if idle_ticks == IDLE_TICKS {
            continue;
        }
        idle_ticks = if attendant.inspect() { 0 } else { idle_ticks + 1 };
        if idle_ticks == IDLE_TICKS {
            attendant.is_ticking.store(false, Ordering::SeqCst);
            if attendant.inspect() && !attendant.is_ticking.swap(true, Ordering::SeqCst) {
                idle_ticks = 0;
            }
        }
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
    is_cancelled: bool,
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

/// Ends the run of a slot, also on a panic.
struct Ending<'a>(&'static Api, &'a Slot);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut state = self.1.state();
        if std::mem::take(&mut *state).is_cancelled {
            // SAFETY: the options are alive, and no run uses them.
            drop(self.0.check(unsafe { (self.0.run_options_unset_terminate)(self.1.options.0) }));
        }
    }
}

thread_local! {
    static CURRENT: Current = const { Current(OnceCell::new()) };
}

/// The slot of this thread.
struct Current(OnceCell<Registered>);

/// A slot that the attendant inspects until its thread ends.
struct Registered(&'static Attendant, Arc<Slot>);

impl Drop for Registered {
    fn drop(&mut self) {
        self.0.slots().retain(|slot| !Arc::ptr_eq(slot, &self.1));
        // SAFETY: ours; the attendant does not know the slot any more. Null is accepted.
        unsafe { (self.0.api.release_run_options)(self.1.options.0) }
    }
}
