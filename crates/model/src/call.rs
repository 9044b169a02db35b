//! A call as those see it who do its work: until when its answer is wanted, and whether anybody still waits for it.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::error::{Code, Result, ServingError};

/// How much it matters that a call is answered soon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// Whatever is not said to be of low priority.
    #[default]
    High,
    /// Others come first, where calls wait for each other.
    Low,
}

impl Priority {
    /// The priority of this name.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if there is none, which says that this is what `said_in` says.
    pub fn from_name(name: &str, said_in: &str) -> Result<Self> {
        match name {
            "high" => Ok(Self::High),
            "low" => Ok(Self::Low),
            _ => Err(ServingError::invalid_argument(format!("{said_in} is \"{name}\"; it can be \"high\" or \"low\""))),
        }
    }
}

/// What a request says about its answer, whatever the protocol.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    /// When the caller gives up; `None` for never.
    pub deadline: Option<Instant>,
    /// Whether others come first.
    pub priority: Priority,
}

impl Call {
    /// A call whose answer is worthless after `deadline`.
    pub fn until(deadline: Option<Instant>) -> Self {
        Self { deadline, ..Self::default() }
    }

    /// The same call at this priority.
    #[must_use]
    pub fn with_priority(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// The same call, whose answer is worthless after that time since then as well.
    #[must_use]
    pub fn within(self, time: Option<Duration>, since: Instant) -> Self {
        let end = time.and_then(|time| since.checked_add(time));
        Self { deadline: self.deadline.into_iter().chain(end).min(), ..self }
    }

    /// Whether the answer is still wanted; without a deadline, this looks at no clock.
    ///
    /// # Errors
    ///
    /// `DEADLINE_EXCEEDED` if it is not.
    pub fn check(self) -> Result<()> {
        match self.deadline {
            Some(deadline) if deadline <= Instant::now() => Err(timed_out()),
            _ => Ok(()),
        }
    }

    /// The call as work that waits for its turn sees it, and the claim that its caller has on that work.
    ///
    /// A protocol drops the future that answers a call when the caller goes away. Whatever waits inside that future
    /// holds the claim; whoever does the work asks [`WaitingCall::check`] when its turn has come.
    pub fn hand_over(self) -> (Claim, WaitingCall) {
        let claim = Arc::new(());
        let caller = Arc::downgrade(&claim);
        (Claim { _alive: claim }, WaitingCall { call: self, caller })
    }
}

/// While this lives, somebody waits for the answer to a call.
#[derive(Debug)]
pub struct Claim {
    _alive: Arc<()>,
}

/// A call whose work waits: in a batch, or for a thread.
#[derive(Clone, Debug)]
pub struct WaitingCall {
    call: Call,
    caller: Weak<()>,
}

impl WaitingCall {
    /// When the caller gives up; `None` for never.
    pub fn deadline(&self) -> Option<Instant> {
        self.call.deadline
    }

    /// Whether the caller has gone away.
    pub fn is_cancelled(&self) -> bool {
        self.caller.strong_count() == 0
    }

    /// Whether the work is still worth doing.
    ///
    /// # Errors
    ///
    /// `DEADLINE_EXCEEDED` if the time is over, `CANCELLED` if the caller has gone away; nobody reads the latter.
    pub fn check(&self) -> Result<()> {
        self.call.check()?;
        if self.is_cancelled() {
            return Err(ServingError::new(Code::Cancelled, "the caller has gone away"));
        }
        Ok(())
    }
}

/// What a caller gets whose time is over, in the words of TensorFlow's sessions.
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
    fn an_answer_is_wanted_until_the_deadline() {
        let now = Instant::now();
        assert_eq!(code(Call::default().check()), None);
        assert_eq!(code(Call::until(Some(now + Duration::from_secs(60))).check()), None);
        assert_eq!(code(Call::until(Some(now)).check()), Some(Code::DeadlineExceeded));
    }

    #[test]
    fn work_is_worth_doing_while_its_caller_waits() {
        let (claim, waiting) = Call::default().hand_over();
        assert_eq!(code(waiting.check()), None);
        drop(claim);
        assert!(waiting.is_cancelled());
        assert_eq!(code(waiting.check()), Some(Code::Cancelled));
        let (_claim, late) = Call::until(Some(Instant::now())).hand_over();
        assert_eq!(code(late.check()), Some(Code::DeadlineExceeded));
    }
}
