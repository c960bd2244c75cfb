//! SIGHUP: the configuration read again. A good one is taken as far as a running agent can, and what waits for a restart
//! is said; of a bad one nothing is taken.

use crate::cli::Options;
use crate::config::{Config, Effect, SourceName, changes};
use crate::daemon::target;
use crate::logging::LogControl;
use crate::outbox::Outbox;
use crate::shared::Shared;
use railwatch_sampling::Sampler;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Holds the configuration in force.
pub struct Reloader {
    options: Options,
    config: Config,
    log: LogControl,
}

impl Reloader {
    /// With the configuration that the agent was started with.
    pub fn new(options: Options, config: Config, log: LogControl) -> Self {
        Self { options, config, log }
    }

    /// Reads the file and takes it, or keeps what is in force.
    pub fn reload(&mut self, shared: &Shared, outbox: &Outbox, sampler: &Mutex<Sampler>, gpu_series_max: &AtomicU64) {
        let new = match self.options.load() {
            Ok(new) => new,
            Err(error) => {
                shared.count_reload(false);
                tracing::error!("the configuration is refused and the old one stays in force: {error}");
                return;
            }
        };
        let changes = changes(&self.config, &new);
        for change in &changes {
            match change.effect {
                Effect::Now => tracing::info!(field = change.field, "the configuration changed, in force now"),
                Effect::AfterRestart => {
                    tracing::warn!(
                        field = change.field,
                        "the configuration changed, in force after a restart of the agent"
                    );
                }
            }
        }
        if let Err(error) = self.log.set(&new.log) {
            tracing::error!("the log's filter stays as it was: {error:#}");
        }
        gpu_series_max.store(new.gpu.series_max, Relaxed);
        // The uplink looks at the files themselves by its own; the same target is no change to it.
        outbox.uplink().point_at(target(&new));
        set_cadences(&self.config, &new, &sampler.lock().unwrap_or_else(PoisonError::into_inner));
        shared.count_reload(true);
        tracing::info!(changes = changes.len(), "the configuration was read again");
        self.config = new;
    }
}

fn set_cadences(old: &Config, new: &Config, sampler: &Sampler) {
    for source in SourceName::ALL {
        let (before, after) = (old.sampling.cadence_ms.get(&source), new.sampling.cadence_ms.get(&source));
        if before == after {
            continue;
        }
        // Taken out of the file: the source's own default holds after the next start.
        let Some(wanted) = after else {
            tracing::warn!(
                source = source.name(),
                "the cadence is no longer given; the source's own is in force after a restart"
            );
            continue;
        };
        match sampler.set_cadence(source.name(), (*wanted).into()) {
            Ok(got) if got != Duration::from(*wanted) => {
                tracing::warn!(
                    source = source.name(),
                    cadence_ms = got.as_millis(),
                    "the nearest cadence in the source's range is used"
                );
            }
            Ok(got) => tracing::info!(source = source.name(), cadence_ms = got.as_millis(), "cadence"),
            Err(error) => tracing::error!(%error, "the cadence was not changed"),
        }
    }
}
