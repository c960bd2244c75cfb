//! What the core makes known of incidents, passed on to the OTLP endpoint and to the count of open ones. Where this
//! falls behind, the count is read from the store again, and what the endpoint missed is counted.

use crate::{core::CoreHandle, metrics::OpenIncidents, otlp};
use railwatch_engine::{Effect, Incident};
use railwatch_store::IncidentFilter;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

/// Every open incident in the store.
fn open(core: &CoreHandle) -> Vec<Incident> {
    let filter = IncidentFilter { open: Some(true), ..IncidentFilter::default() };
    core.reader().and_then(|reader| reader.incidents(&filter)).unwrap_or_else(|error| {
        tracing::error!(%error, "open incidents cannot be read; their count is wrong until the next change of each");
        Vec::new()
    })
}

/// Passes on until `stop`.
pub async fn follow(core: CoreHandle, incidents: OpenIncidents, exporter: otlp::Handle, stop: CancellationToken) {
    let mut published = core.subscribe();
    incidents.replace(&open(&core));
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => return,
            received = published.recv() => received,
        };
        match received {
            Ok(published) => {
                for effect in &published.effects {
                    if let Effect::Incident(incident) = effect {
                        incidents.update(incident);
                        exporter.incident(incident.clone());
                    }
                }
            }
            Err(RecvError::Lagged(missed)) => {
                incidents.replace(&open(&core));
                exporter.missed(missed);
            }
            Err(RecvError::Closed) => return,
        }
    }
}
