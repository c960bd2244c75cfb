//! fdatasync on a thread of its own, because it may take seconds on a disk that is dying and the uplink must not wait.
//!
//! Flows in: files that were written. At most one batch waits; while it does, the spool keeps collecting.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

pub(crate) struct Syncer {
    batches: SyncSender<Vec<Arc<File>>>,
    errors: Arc<AtomicU64>,
}

impl Syncer {
    pub fn start() -> io::Result<Self> {
        let (batches, received) = sync_channel::<Vec<Arc<File>>>(1);
        let errors = Arc::new(AtomicU64::new(0));
        let counted = errors.clone();
        std::thread::Builder::new().name("railwatch-sync".into()).spawn(move || {
            for error in received.into_iter().flatten().filter_map(|file| file.sync_data().err()) {
                if counted.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::error!(
                        "cannot sync the spool to disk: {error}; after a power cut unacknowledged frames may be missing"
                    );
                }
            }
        })?;
        Ok(Self { batches, errors })
    }

    /// Hands a batch over; gives it back while another waits.
    pub fn sync(&self, files: Vec<Arc<File>>) -> Result<(), Vec<Arc<File>>> {
        self.batches.try_send(files).map_err(|refused| match refused {
            TrySendError::Full(files) | TrySendError::Disconnected(files) => files,
        })
    }

    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }
}
