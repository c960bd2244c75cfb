//! Log lines to standard error, for people or for programs, with a filter that a reload can change.

use crate::config::{Config, LogFormat};
use anyhow::{Context, Result};
use std::io;
use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt};

/// Changes the filter.
#[derive(Clone, Debug)]
pub struct Logging(reload::Handle<EnvFilter, Registry>);

impl Logging {
    /// Starts logging as `config` says.
    pub fn start(config: &Config) -> Result<Self> {
        let filter = EnvFilter::try_new(&config.log).context("the log filter")?;
        let (filter, handle) = reload::Layer::new(filter);
        let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
        let registry = tracing_subscriber::registry().with(filter);
        match config.log_format {
            LogFormat::Text => registry.with(lines.with_ansi(false)).try_init(),
            LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
        }
        .context("start logging")?;
        Ok(Self(handle))
    }

    /// Filters by `filter` from now on.
    pub fn set(&self, filter: &str) -> Result<()> {
        let filter = EnvFilter::try_new(filter).context("the log filter")?;
        self.0.reload(filter).context("change the log filter")
    }
}
