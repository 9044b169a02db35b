//! Bulkhead: limits the concurrent long runs of each version, so that a version that hangs leaves threads to others.

use std::sync::{Arc, OnceLock};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Workers;

/// Permits for the long runs of one version; a run without one waits in order.
///
/// Each version has a share of permits, and competes with all versions for further ones. A version that hangs keeps its
/// permits, and the others still have their shares. A waiting run is a future, so that cancelling the call frees its
/// tensors.
#[derive(Debug, Default)]
pub struct RunPermits {
    /// Created by the first run.
    share: OnceLock<Arc<Semaphore>>,
    /// Whether the version is limited to its share.
    is_fixed: bool,
}

impl RunPermits {
    /// Creates exactly `runs` permits.
    pub fn fixed(runs: usize) -> Self {
        Self { share: OnceLock::from(permits(runs.max(1))), is_fixed: true }
    }

    /// Waits for a permit. Dropping it returns it.
    pub async fn acquire(&self) -> OwnedSemaphorePermit {
        let workers = Workers::current();
        let share = self.share.get_or_init(|| permits(workers.as_ref().map_or(usize::MAX, |workers| workers.share)));
        if let Ok(permit) = Arc::clone(share).try_acquire_owned() {
            return permit;
        }
        let of_share = Arc::clone(share).acquire_owned();
        let permit = match workers.filter(|_| !self.is_fixed) {
            None => of_share.await,
            Some(workers) => tokio::select! {
                biased;
                permit = of_share => permit,
                permit = Arc::clone(&workers.beyond_shares).acquire_owned() => permit,
            },
        };
        permit.expect("the semaphores are never closed")
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
            Poll::Ready(permit) => Some(permit),
            Poll::Pending => None,
        }
    }

    /// A permit that is available without waiting.
    fn at_once(permits: &RunPermits) -> Option<OwnedSemaphorePermit> {
        look(&mut (Box::pin(permits.acquire()) as Next))
    }

    /// Runs a test on a worker of a server that admits this many runs.
    fn on_a_server(runs: usize, test: impl FnOnce() + Send) {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                Workers::new(runs).join();
                test();
            });
            thread.join().expect("it does not panic");
        });
    }

    #[test]
    fn one_version_can_take_all_permits_but_the_shares_of_others() {
        on_a_server(2, || {
            let (hanging, other) = (RunPermits::default(), RunPermits::default());
            let held: Vec<_> = std::iter::from_fn(|| at_once(&hanging)).collect();
            assert_eq!(held.len(), 2 + 2 * Workers::BEYOND_SHARES);
            let others: Vec<_> = std::iter::from_fn(|| at_once(&other)).collect();
            assert_eq!(others.len(), 2);
            drop(others);
            assert!(at_once(&other).is_some());
        });
    }

    #[test]
    fn runs_get_their_permits_in_order_and_those_that_are_given_up_get_none() {
        on_a_server(1, || {
            let permits = RunPermits::default();
            let mut held: Vec<_> = std::iter::from_fn(|| at_once(&permits)).collect();
            let mut waiting: Vec<Next> = (0..3).map(|_| Box::pin(permits.acquire()) as Next).collect();
            assert!(waiting.iter_mut().all(|next| look(next).is_none()));
            drop(waiting.remove(0));
            held.pop();
            assert!(at_once(&permits).is_none(), "others came first");
            assert!(look(&mut waiting[1]).is_none());
            let first = look(&mut waiting[0]);
            assert!(first.is_some());
            drop(first);
            assert!(look(&mut waiting[1]).is_some());
        });
    }

    #[test]
    fn fixed_permits_are_neither_more_nor_fewer() {
        on_a_server(4, || {
            let permits = RunPermits::fixed(3);
            let held: Vec<_> = std::iter::from_fn(|| at_once(&permits)).collect();
            assert_eq!(held.len(), 3);
        });
    }
}
