//! The log: text on standard error, with a filter that a reload can change.

use anyhow::{Context, Result};
use std::io::IsTerminal;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt};

/// Changes what is logged while the agent runs.
pub struct LogControl(reload::Handle<EnvFilter, Registry>);

/// Starts the log. Under a service manager that keeps its own times, lines carry none.
pub fn start(filter: &str) -> Result<LogControl> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(filter);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        registry.with(lines.without_time()).try_init()
    } else {
        registry.with(lines).try_init()
    }
    .context("start the log")?;
    Ok(LogControl(handle))
}

impl LogControl {
    /// Uses another filter from now on.
    pub fn set(&self, filter: &str) -> Result<()> {
        self.0.reload(parse(filter)?).context("change the log's filter")
    }
}

fn parse(filter: &str) -> Result<EnvFilter> {
    EnvFilter::builder().parse(filter).with_context(|| format!("the log filter {filter:?}"))
}
