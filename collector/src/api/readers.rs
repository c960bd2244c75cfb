//! A few read-only connections to the store, lent to one request at a time, each used on a thread that may block.

use super::problem::Problem;
use crate::core::CoreHandle;
use railwatch_store::{Reader, StoreError};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// Connections at one time: queries take well under a millisecond, more would only wait for the disk.
const READERS_MAX: usize = 4;

/// Readers of one store. Clone it freely.
#[derive(Clone)]
pub struct Readers(Arc<Pool>);

struct Pool {
    core: CoreHandle,
    idle: Mutex<Vec<Reader>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    /// Of the core's store.
    pub fn new(core: CoreHandle) -> Self {
        Self(Arc::new(Pool { core, idle: Mutex::default(), permits: Arc::new(Semaphore::new(READERS_MAX)) }))
    }

    /// Runs `query` with a reader. A reader whose query failed is not used again.
    pub async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Problem> {
        let pool = Arc::clone(&self.0);
        let permit = Arc::clone(&pool.permits).acquire_owned().await;
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let idle = pool.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let reader = idle.map_or_else(|| pool.core.reader(), Ok)?;
            let answer = query(&reader)?;
            pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
            Ok::<T, StoreError>(answer)
        });
        match task.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                tracing::error!(%error, "a query for the API failed");
                Err(Problem::unavailable(format!(
                    "the store cannot be read: {error}; the collector's log says more, and `df` whether its disk is full"
                )))
            }
            Err(_) => Err(Problem::unavailable("the collector is stopping")),
        }
    }
}
