//! The deadline, the priority and the cancellation of a call.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::error::{Code, Result, ServingError};

/// The priority of a call in queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// The default.
    #[default]
    High,
    /// Calls of high priority go first.
    Low,
}

impl Priority {
    /// The priority with this name.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if there is none. The text names `said_in`, the source of the value.
    pub fn from_name(name: &str, said_in: &str) -> Result<Self> {
        match name {
            "high" => Ok(Self::High),
            "low" => Ok(Self::Low),
            _ => Err(ServingError::invalid_argument(format!("{said_in} is \"{name}\"; it can be \"high\" or \"low\""))),
        }
    }
}

/// The deadline and the priority of a request, the same for all protocols.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    /// The deadline; `None` for none.
    pub deadline: Option<Instant>,
    /// The priority.
    pub priority: Priority,
}

impl Call {
    /// A call with this deadline.
    pub fn until(deadline: Option<Instant>) -> Self {
        Self { deadline, ..Self::default() }
    }

    /// The same call with this priority.
    #[must_use]
    pub fn with_priority(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// The same call, with a deadline at most `time` after `since`.
    #[must_use]
    pub fn within(self, time: Option<Duration>, since: Instant) -> Self {
        let end = time.and_then(|time| since.checked_add(time));
        Self { deadline: self.deadline.into_iter().chain(end).min(), ..self }
    }

    /// Checks that the deadline has not passed. Without a deadline, the clock is not read.
    ///
    /// # Errors
    ///
    /// `DEADLINE_EXCEEDED` if it has.
    pub fn check(self) -> Result<()> {
        match self.deadline {
            Some(deadline) if deadline <= Instant::now() => Err(timed_out()),
            _ => Ok(()),
        }
    }

    /// Splits the call into a claim for its caller, and a [`WaitingCall`] for the queued work. Dropping the claim
    /// cancels the work.
    ///
    /// A protocol drops the future that answers a call when the caller goes away. That future holds the claim. The
    /// thread that does the work calls [`WaitingCall::check`] before it begins.
    pub fn hand_over(self) -> (Claim, WaitingCall) {
        let claim = Arc::new(());
        let caller = Arc::downgrade(&claim);
        (Claim { _alive: claim }, WaitingCall { call: self, caller })
    }
}

/// The interest of a caller in the answer. Dropping it cancels the call.
#[derive(Debug)]
pub struct Claim {
    _alive: Arc<()>,
}

/// A call whose work is queued, for a batch or for a thread.
#[derive(Clone, Debug)]
pub struct WaitingCall {
    call: Call,
    caller: Weak<()>,
}

impl WaitingCall {
    /// The deadline; `None` for none.
    pub fn deadline(&self) -> Option<Instant> {
        self.call.deadline
    }

    /// Whether the caller has dropped its claim.
    pub fn is_cancelled(&self) -> bool {
        self.caller.strong_count() == 0
    }

    /// Checks that the answer is still needed.
    ///
    /// # Errors
    ///
    /// `DEADLINE_EXCEEDED` if the deadline has passed, `CANCELLED` if the caller has gone away. No client sees the
    /// latter.
    pub fn check(&self) -> Result<()> {
        self.call.check()?;
        if self.is_cancelled() {
            return Err(ServingError::new(Code::Cancelled, "the caller has gone away"));
        }
        Ok(())
    }
}

/// The error at the deadline, with the text of TensorFlow's sessions.
pub fn timed_out() -> ServingError {
    ServingError::new(Code::DeadlineExceeded, "Timed out waiting for notification")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn code(result: Result<()>) -> Option<Code> {
        result.err().map(|error| error.code)
    }

    #[test]
    fn a_call_passes_the_check_until_its_deadline() {
        let now = Instant::now();
        assert_eq!(code(Call::default().check()), None);
        assert_eq!(code(Call::until(Some(now + Duration::from_secs(60))).check()), None);
        assert_eq!(code(Call::until(Some(now)).check()), Some(Code::DeadlineExceeded));
    }

    #[test]
    fn dropping_the_claim_cancels_the_call() {
        let (claim, waiting) = Call::default().hand_over();
        assert_eq!(code(waiting.check()), None);
        drop(claim);
        assert!(waiting.is_cancelled());
        assert_eq!(code(waiting.check()), Some(Code::Cancelled));
        let (_claim, late) = Call::until(Some(Instant::now())).hand_over();
        assert_eq!(code(late.check()), Some(Code::DeadlineExceeded));
    }
}
