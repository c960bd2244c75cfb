//! Export to an OTLP/gRPC endpoint that people already run: metrics from live state, incidents as log records.
//!
//! In: the newest window of every series every few seconds, and every change of an incident. Out: OTLP requests, in
//! order, one at a time. While the endpoint is away they wait in a bounded queue and are sent again with growing pauses;
//! what does not fit, or what the endpoint refuses for good, is dropped and counted. Off by default. Never: back
//! pressure on ingest.

mod client;
mod points;
mod records;
mod switches;

use crate::{clock::Timeline, config::Otlp, live::Live, metrics::Counters};
use client::{Client, Job, Queue};
use railwatch_engine::Incident;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::mpsc, task::JoinHandle};

/// Changes of incidents that wait to be put into a request.
const INCIDENTS_QUEUED_MAX: usize = 10_000;
/// Changes of incidents in one request.
const INCIDENTS_PER_REQUEST_MAX: usize = 512;

/// The exporter as the rest of the collector sees it: there, or off. Clone it freely.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    live: Live,
    counters: Arc<Counters>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    config: Otlp,
    incidents: mpsc::Sender<Incident>,
    task: JoinHandle<()>,
}

impl Handle {
    /// Off until [`Self::configure`].
    pub fn new(live: Live, counters: Arc<Counters>) -> Self {
        Self(Arc::new(Inner { live, counters, running: Mutex::default() }))
    }

    /// Exports as `config` says from now on. A request under way to another endpoint is given up.
    pub fn configure(&self, config: &Otlp) {
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.as_ref().is_some_and(|running| running.config == *config) {
            return;
        }
        if let Some(old) = running.take() {
            old.task.abort();
        }
        if let Some(endpoint) = &config.endpoint {
            let (incidents, receiver) = mpsc::channel(INCIDENTS_QUEUED_MAX);
            tracing::info!(endpoint, interval_s = config.interval_s, "exporting over OTLP");
            let task =
                tokio::spawn(export(self.0.live.clone(), config.clone(), Arc::clone(&self.0.counters), receiver));
            *running = Some(Running { config: config.clone(), incidents, task });
        }
    }

    /// Exports a change of an incident; without an endpoint nothing happens.
    pub fn incident(&self, incident: Incident) {
        let running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = &*running {
            self.0.counters.otlp_points.inc();
            if running.incidents.try_send(incident).is_err() {
                self.0.counters.otlp_drop("queue_full", 1);
            }
        }
    }

    /// So many transactions went by unseen: their incidents are not exported.
    pub fn missed(&self, count: u64) {
        if self.0.running.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            self.0.counters.otlp_drop("lagged", count);
        }
    }

    /// Ends the export. What waits is given up.
    pub fn stop(&self) {
        if let Some(old) = self.0.running.lock().unwrap_or_else(PoisonError::into_inner).take() {
            old.task.abort();
        }
    }
}

async fn export(live: Live, config: Otlp, counters: Arc<Counters>, incidents: mpsc::Receiver<Incident>) {
    match Client::new(&config, Arc::clone(&counters)) {
        Ok((client, queue)) => tokio::select! {
            () = client.run() => {}
            () = gather(live, &config, &counters, incidents, &queue) => {}
        },
        Err(error) => tracing::error!("OTLP export is off: {error:#}"),
    }
}

/// Puts requests into the queue.
async fn gather(
    live: Live,
    config: &Otlp,
    counters: &Counters,
    mut incidents: mpsc::Receiver<Incident>,
    queue: &Queue,
) {
    let mut ticks = tokio::time::interval(Duration::from_secs(config.interval_s));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            count = incidents.recv_many(&mut batch, INCIDENTS_PER_REQUEST_MAX) => {
                if count == 0 {
                    return;
                }
                queue.push(Job::Logs(records::request(&batch, Timeline::now())));
                batch.clear();
            }
            _ = ticks.tick() => {
                let live = live.clone();
                // Thousands of hosts take milliseconds: not on a thread that serves sockets.
                let requests = tokio::task::spawn_blocking(move || points::requests(&live, Timeline::now())).await.unwrap_or_default();
                for request in requests {
                    counters.otlp_points.inc_by(points::count(&request));
                    queue.push(Job::Metrics(request));
                }
            }
        }
    }
}
