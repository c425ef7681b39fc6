//! The one door to blocking reads: bounded, counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use crate::error::ReadError;

/// Most reads that run at once. More would only share the same disk and cores; who comes later
/// waits in order.
const READS_AT_ONCE: usize = 32;

/// The door. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Door {
    places: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

impl Door {
    pub(crate) fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(READS_AT_ONCE)),
            waiting: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// Returns how many reads wait for a place.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Runs `work` on a blocking thread when there is a place.
    pub(crate) async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<R, ReadError> + Send + 'static,
    ) -> Result<R, ReadError> {
        let place = {
            let _waiting = Waiting::new(&self.waiting);
            Arc::clone(&self.places)
                .acquire_owned()
                .await
                .map_err(|_| ReadError::Closed)?
        };
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        });
        match done.await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down.
                Err(_) => Err(ReadError::Closed),
            },
        }
    }
}

/// Counts one waiting read, also when its future is dropped.
struct Waiting<'d>(&'d AtomicUsize);

impl<'d> Waiting<'d> {
    fn new(count: &'d AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
