//! The long runs of a version wait for each other, so that they do not keep threads from those of others.

use std::sync::{Arc, OnceLock};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Threads;

/// How many runs of one version are under way on threads that may block; further ones wait here, in order.
///
/// A version has a share, which nobody else can use, and may use beyond it what all versions have in common. So one that
/// hangs keeps what it has got, while the others go on with at least their shares; and one that is alone gets all that a
/// server is good for. What waits is a future: it goes away with its caller, and the tensors with it.
#[derive(Debug, Default)]
pub struct Turns {
    /// One permit for each run of the share, once the first run has come.
    share: OnceLock<Arc<Semaphore>>,
    /// Whether there is nothing beyond the share.
    is_fixed: bool,
}

impl Turns {
    /// Turns for so many runs at once, neither fewer nor more.
    pub fn fixed(runs: usize) -> Self {
        Self { share: OnceLock::from(permits(runs.max(1))), is_fixed: true }
    }

    /// Waits for the turn of a run, which lasts until the result is dropped.
    pub async fn next(&self) -> OwnedSemaphorePermit {
        let threads = Threads::current();
        let share = self.share.get_or_init(|| permits(threads.as_ref().map_or(usize::MAX, |threads| threads.share)));
        if let Ok(turn) = Arc::clone(share).try_acquire_owned() {
            return turn;
        }
        let of_share = Arc::clone(share).acquire_owned();
        let turn = match threads.filter(|_| !self.is_fixed) {
            None => of_share.await,
            Some(threads) => tokio::select! {
                biased;
                turn = of_share => turn,
                turn = Arc::clone(&threads.beyond_shares).acquire_owned() => turn,
            },
        };
        turn.expect("the semaphores are never closed")
    }
}

fn permits(count: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)))
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Next<'a> = Pin<Box<dyn Future<Output = OwnedSemaphorePermit> + 'a>>;

    fn look(next: &mut Next<'_>) -> Option<OwnedSemaphorePermit> {
        match next.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    /// The turn of a run that need not wait.
    fn at_once(turns: &Turns) -> Option<OwnedSemaphorePermit> {
        look(&mut (Box::pin(turns.next()) as Next))
    }

    /// Does something on a thread of a server with so many workers.
    fn on_a_server(workers: usize, test: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                Threads::new(workers).enter();
                test();
            });
            thread.join().expect("it does not panic");
        });
    }

    #[test]
    fn a_version_that_is_alone_gets_all_and_leaves_others_their_shares() {
        on_a_server(2, || {
            let (hanging, other) = (Turns::default(), Turns::default());
            let held: Vec<_> = std::iter::from_fn(|| at_once(&hanging)).collect();
            assert_eq!(held.len(), 2 + 2 * Threads::BEYOND_SHARES);
            let others: Vec<_> = std::iter::from_fn(|| at_once(&other)).collect();
            assert_eq!(others.len(), 2);
            drop(others);
            assert!(at_once(&other).is_some());
        });
    }

    #[test]
    fn runs_get_their_turns_in_order_and_those_that_are_given_up_get_none() {
        on_a_server(1, || {
            let turns = Turns::default();
            let mut held: Vec<_> = std::iter::from_fn(|| at_once(&turns)).collect();
            let mut waiting: Vec<Next> = (0..3).map(|_| Box::pin(turns.next()) as Next).collect();
            assert!(waiting.iter_mut().all(|next| look(next).is_none()));
            drop(waiting.remove(0));
            held.pop();
            assert!(at_once(&turns).is_none(), "others came first");
            assert!(look(&mut waiting[1]).is_none());
            let first = look(&mut waiting[0]);
            assert!(first.is_some());
            drop(first);
            assert!(look(&mut waiting[1]).is_some());
        });
    }

    #[test]
    fn what_has_threads_of_its_own_gets_just_those() {
        on_a_server(4, || {
            let turns = Turns::fixed(3);
            let held: Vec<_> = std::iter::from_fn(|| at_once(&turns)).collect();
            assert_eq!(held.len(), 3);
        });
    }
}
