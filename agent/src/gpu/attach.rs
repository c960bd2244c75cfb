//! Lets discovery attach the kernel half that the thread of events shares, or says why it cannot.

use railwatch_gpu::discovery::{AttachError, Attachable, Attached, Attacher, ObjectId, Probes};
use std::sync::{Arc, Mutex, PoisonError};

/// Attaches under the lock; `None` refuses everything, so that what uses a GPU is still found and reported.
pub struct SharedProbes(pub Option<Arc<Mutex<Probes>>>);

impl SharedProbes {
    fn with<T>(&self, call: impl FnOnce(&mut Probes) -> T) -> Option<T> {
        // The kernel half's state is in the kernel; a panic between two calls into it leaves nothing half way.
        self.0.as_ref().map(|probes| call(&mut probes.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Attacher for SharedProbes {
    fn attach(&mut self, object: &Attachable<'_>) -> Result<Attached, AttachError> {
        self.with(|probes| probes.attach(object)).unwrap_or_else(|| {
            Err(AttachError("the kernel half is not loaded: see the limitations of this host".into()))
        })
    }

    fn detach(&mut self, object: ObjectId) {
        self.with(|probes| probes.detach(object));
    }

    fn mark_late(&mut self, pid: u32, object: ObjectId) {
        self.with(|probes| probes.mark_late(pid, object));
    }
}
