//! How fast a source may call: a token bucket and a concurrency bound per account and service.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::DefaultClock;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::{Semaphore, SemaphorePermit};

/// A bound on calls per second and on calls in flight, shared by everything that calls one
/// service in one account.
#[derive(Debug, Clone)]
pub struct Budget {
    bucket: Arc<RateLimiter<NotKeyed, InMemoryState, DefaultClock>>,
    in_flight: Arc<Semaphore>,
}

impl Budget {
    /// Makes a budget of `per_second` calls on average, `burst` at once after a pause, and
    /// `in_flight` at the same time.
    pub fn new(per_second: NonZeroU32, burst: NonZeroU32, in_flight: usize) -> Self {
        let quota = Quota::per_second(per_second).allow_burst(burst);
        Self {
            bucket: Arc::new(RateLimiter::direct(quota)),
            in_flight: Arc::new(Semaphore::new(in_flight.max(1))),
        }
    }

    /// Waits for a turn. Hold the permit while the call runs.
    ///
    /// # Cancel safety
    ///
    /// Cancelled, at most one token is lost.
    pub async fn turn(&self) -> SemaphorePermit<'_> {
        let permit = self
            .in_flight
            .acquire()
            .await
            .expect("the semaphore is never closed");
        while let Err(wait) = self.bucket.check() {
            let pause = wait.wait_time_from(governor::clock::Clock::now(&DefaultClock::default()));
            tokio::time::sleep(pause.max(Duration::from_millis(1))).await;
        }
        permit
    }
}
