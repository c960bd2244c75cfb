//! The door from a stream to the core: placeholder in memory until the core's handle is there.

use super::hello::StreamId;
use railwatch_engine::{Signal, Timestamp};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;

/// A stream the core knows.
pub struct Attached {
    /// Cumulative acknowledgement.
    pub acknowledged: watch::Receiver<u64>,
    /// The collector's epoch.
    pub epoch: u64,
}

/// The door.
#[derive(Clone, Default)]
pub struct Intake(Arc<Mutex<HashMap<(String, StreamId), watch::Sender<u64>>>>);

impl Intake {
    /// Opens a stream.
    pub async fn attach(&self, host: &str, _boot_id: &str, stream: StreamId) -> anyhow::Result<Attached> {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = streams.entry((host.to_owned(), stream)).or_insert_with(|| watch::Sender::new(0));
        Ok(Attached { acknowledged: sender.subscribe(), epoch: 1 })
    }

    /// Gives a frame; `None`: only its sequence.
    pub async fn submit(&self, host: &str, stream: StreamId, sequence: u64, _signal: Option<Signal>) -> anyhow::Result<()> {
        let streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = streams.get(&(host.to_owned(), stream)) {
            sender.send_replace(sequence);
        }
        Ok(())
    }

    /// Something came from the host.
    pub fn heard(&self, _host: &str, _at: Timestamp) {}

    /// The stream ended.
    pub async fn detach(&self, _host: &str, _orderly: bool) {}
}
