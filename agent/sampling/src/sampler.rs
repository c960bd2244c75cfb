//! Starts, steers and stops the threads that read the sources.
//!
//! In: sources, and cadences that may change at any time. Out: a running thread per source, and a [`SourceReport`] of each.
//! One OS thread per source, so that a slow NIC never delays another's readings. Never: a wait for the sink.

use crate::burst::{Burst, Bursts};
use crate::catalog::Catalog;
use crate::clock::nanoseconds;
use crate::frame::WindowFrame;
use crate::governor::Governor;
use crate::reader::{Common, Control, Reader};
use crate::signal::{Rule, Signal};
use crate::source::Source;
use crate::stats::{SourceReport, SourceStats};
use crate::tape::Tape;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// The sink had no room; what was offered is gone, and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sink is full")]
pub struct SinkFull;

/// Takes what the samplers bring. Called from their threads: must return at once.
pub trait Sink: Send + Sync {
    /// A window that ended.
    ///
    /// # Errors
    /// [`SinkFull`]: counted as dropped by the sampler.
    fn window(&self, frame: WindowFrame) -> Result<(), SinkFull>;

    /// An edge, within a millisecond of being read.
    ///
    /// # Errors
    /// [`SinkFull`]: counted as dropped by the sampler.
    fn signal(&self, signal: Signal) -> Result<(), SinkFull>;
}

/// What all sources share.
#[derive(Clone, Copy, Debug)]
pub struct SamplerConfig {
    /// Length of a window.
    pub window: Duration,
    /// Time between two looks for ports that came or went, and for a source that is off.
    pub reprobe: Duration,
    /// Readings one source may bring in one read.
    pub batch_max: usize,
    /// CPU time that all sources together may use, as share of one core. Beyond it the dearest source is read less often.
    pub cpu_budget_share: f64,
    /// The same while a burst is on.
    pub burst_cpu_budget_share: f64,
    /// Share of the time for which the reads of one source may hold RTNL; ten times as much in a burst.
    pub rtnl_budget_share: f64,
    /// Memory that one source may take for its series, bytes, their place on the tape included. Series beyond are left out, and
    /// counted.
    pub source_bytes_max: usize,
    /// What raises signals.
    pub rules: &'static [Rule],
}

impl Default for SamplerConfig {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(1),
            reprobe: Duration::from_secs(10),
            batch_max: 4096,
            cpu_budget_share: 0.007,
            burst_cpu_budget_share: 0.1,
            rtnl_budget_share: 0.01,
            source_bytes_max: 12 << 20,
            rules: &[],
        }
    }
}

/// A sampling thread could not be started.
#[derive(Debug, thiserror::Error)]
#[error("starting the sampling thread of source {source_name}: {error}; check the limits on processes and open files")]
pub struct StartError {
    source_name: &'static str,
    error: std::io::Error,
}

/// No source of that name runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no source is called {0}; there are: {1}")]
pub struct UnknownSource(String, String);

/// Reads sources on threads of its own until it is stopped or dropped.
pub struct Sampler {
    config: SamplerConfig,
    catalog: Arc<Catalog>,
    sink: Arc<dyn Sink>,
    tape: Option<Arc<dyn Tape>>,
    governor: Arc<Governor>,
    burst_governor: Arc<Governor>,
    burst: Arc<Burst>,
    running: Vec<Running>,
}

struct Running {
    stats: Arc<SourceStats>,
    control: Arc<Control>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// A sampler without sources.
    #[must_use]
    pub fn new(config: SamplerConfig, catalog: Arc<Catalog>, sink: Arc<dyn Sink>) -> Self {
        let governor = Arc::new(Governor::new(config.cpu_budget_share));
        let burst_governor = Arc::new(Governor::new(config.burst_cpu_budget_share));
        Self { config, catalog, sink, tape: None, governor, burst_governor, burst: Arc::default(), running: Vec::new() }
    }

    /// Keeps every reading of the sources that are started from now on.
    #[must_use]
    pub fn with_tape(mut self, tape: Option<Arc<dyn Tape>>) -> Self {
        self.tape = tape;
        self
    }

    /// Starts reading a source, at its default cadence unless one is given.
    ///
    /// # Errors
    /// [`StartError`] when the system gives no thread or descriptor.
    pub fn start(&mut self, source: Box<dyn Source>, cadence: Option<Duration>) -> Result<(), StartError> {
        let name = source.name();
        let failed = |error: std::io::Error| StartError { source_name: name, error };
        let stats = Arc::new(SourceStats::new(name, source.kernel_path(), source.cadence(), cadence));
        let control = Arc::new(Control::new().map_err(failed)?);
        let Self { config, catalog, sink, governor, burst_governor, burst, .. } = self;
        let shared = Common { config, catalog, sink, governor, burst_governor, burst };
        let reader = Reader::new(source, &stats, &control, &shared).map_err(failed)?.with_tape(self.tape.as_deref());
        burst.join(&control);
        let thread = std::thread::Builder::new()
            .name(format!("rw-{name}"))
            .stack_size(256 * 1024)
            .spawn(move || reader.run())
            .map_err(failed)?;
        self.running.push(Running { stats, control, thread: Some(thread) });
        Ok(())
    }

    /// Changes the cadence of a running source, within its range; returns the cadence it got.
    ///
    /// # Errors
    /// [`UnknownSource`] names the sources there are.
    pub fn set_cadence(&self, source: &str, cadence: Duration) -> Result<Duration, UnknownSource> {
        let Some(running) = self.running.iter().find(|running| running.stats.source == source) else {
            let names: Vec<_> = self.running.iter().map(|running| running.stats.source).collect();
            return Err(UnknownSource(source.to_owned(), names.join(", ")));
        };
        let cadence = running.stats.ask(cadence);
        running.control.nudge();
        Ok(cadence)
    }

    /// The way to ask for reading every source at its shortest cadence for a time.
    #[must_use]
    pub fn on_request(&self) -> Bursts {
        Bursts(Arc::clone(&self.burst))
    }

    /// Bursts begun so far, by requests and by signals.
    #[must_use]
    pub fn bursts(&self) -> u64 {
        self.burst.begun()
    }

    /// How every source fares.
    #[must_use]
    pub fn reports(&self) -> Vec<SourceReport> {
        self.running.iter().map(|running| running.stats.report()).collect()
    }

    /// All series of all sources.
    #[must_use]
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// Ends all threads after the read they are in; each hands over its open window, marked partial.
    pub fn stop(mut self) -> Vec<SourceReport> {
        self.end();
        self.reports()
    }

    fn end(&mut self) {
        for Running { control, .. } in &self.running {
            control.stop();
        }
        for thread in self.running.iter_mut().filter_map(|running| running.thread.take()) {
            // A panic in a source was caught and reported on its own thread; nothing is left to learn here.
            let _ = thread.join();
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    nanoseconds(duration).max(1)
}
