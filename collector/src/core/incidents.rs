//! Incidents as they open.
//!
//! In: what the core makes known. Out: each new incident, once: an identifier grows, so a later effect with the same one is
//! news of the same incident. What was made known too fast to follow is told as a number. Never: a wait of the core.

use super::Published;
use railwatch_engine::{Effect, Incident, Timestamp};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::broadcast::{self, error::RecvError};

/// From one subscription on.
pub struct NewIncidents {
    published: broadcast::Receiver<Arc<Published>>,
    newest: u64,
    waiting: VecDeque<Incident>,
}

/// What there is.
pub enum News {
    /// It opened.
    Incident(Box<Incident>),
    /// So many things of the core were missed, incidents perhaps among them.
    Missed(u64),
}

impl NewIncidents {
    pub(super) fn of(published: broadcast::Receiver<Arc<Published>>) -> Self {
        Self { published, newest: 0, waiting: VecDeque::new() }
    }

    /// The next; `None` once the core has ended. A call that is given up loses nothing.
    pub async fn next(&mut self) -> Option<News> {
        loop {
            if let Some(incident) = self.waiting.pop_front() {
                return Some(News::Incident(Box::new(incident)));
            }
            let published = match self.published.recv().await {
                Ok(published) => published,
                Err(RecvError::Lagged(missed)) => return Some(News::Missed(missed)),
                Err(RecvError::Closed) => return None,
            };
            for effect in &published.effects {
                if let Effect::Incident(incident) = effect
                    && incident.id > self.newest
                {
                    self.newest = incident.id;
                    self.waiting.push_back(incident.clone());
                }
            }
        }
    }
}

/// Whether an incident is history: a late story, or a fault first true longer than `old_ns` ago.
pub fn is_history(incident: &Incident, now: Timestamp, old_ns: u64) -> bool {
    incident.late || now.0.saturating_sub(incident.started.0) > old_ns
}
