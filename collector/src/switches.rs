//! Switches as they say they are: a task for each that follows it by gNMI, and a receiver of sFlow for all.
//!
//! In: `[[switches]]` and `[sflow]` of the configuration; what the switches send (`railwatch_switches`). Out: live state for the API and
//! the metrics ([`Table`]), statements for the map ([`Reports`]), signals for the core ([`CoreHandle::observe`]). A switch that is dead, slow or
//! lies holds up its own task and nothing else. Never: a change of a switch, a suspicion of the hosts at it.

mod config;
mod far_end;
mod row;
mod sflow;
mod table;
#[cfg(test)]
mod tests;

pub use config::{SflowConfig, SwitchConfig, check};
pub use far_end::{FarEndRow, FarEnds};
pub use row::SwitchRow;
pub use sflow::SflowCounts;
pub use table::{Switch, Table};

use crate::clock::{Timeline, nanoseconds};
use crate::core::CoreHandle;
use crate::map::Reports;
use railwatch_engine::map::Source;
use railwatch_engine::{Signal, Timestamp};
use railwatch_switches::client::{Event, Target, follow};
use std::sync::Arc;
use std::time::Duration;
use table::Cell;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Events of a stream that wait; then the switch does.
const EVENTS_MAX: usize = 16;
/// Rules end, neighbours expire.
const TICK: Duration = Duration::from_secs(1);
/// Between two reports to the map.
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// A target that does not say so itself has said everything by then.
const SYNCED_AFTER_NS: u64 = 15_000_000_000;
/// How far from the truth the instant of a reading may be that is sent on change.
const ON_CHANGE_HALF_WIDTH_NS: u64 = 250_000_000;
/// Files that could not be read are read again.
const FILES_AGAIN: Duration = Duration::from_secs(10);

/// What the tasks need.
#[derive(Clone)]
pub struct Around {
    /// Takes signals.
    pub core: CoreHandle,
    /// Takes statements.
    pub reports: Arc<dyn Reports>,
    /// Ends all.
    pub stop: CancellationToken,
}

/// Follows all switches, and receives sFlow where a socket is given.
pub fn start(
    table: &Table,
    switches: &[SwitchConfig],
    sflow: Option<UdpSocket>,
    around: &Around,
    tasks: &mut JoinSet<()>,
) {
    for config in switches {
        let cell = table.add(config);
        if config.address.is_some() {
            tasks.spawn(watch(config.clone(), cell, around.clone()));
        } else {
            tasks.spawn(ticks(cell, around.clone()));
        }
    }
    if let Some(socket) = sflow {
        tasks.spawn(sflow::receive(socket, table.clone(), around.clone()));
    }
}

async fn watch(config: SwitchConfig, cell: Arc<Cell>, around: Around) {
    let target = loop {
        match config.target() {
            Ok(target) => break target,
            Err(why) => {
                cell.lock().lost(&why);
                tracing::warn!(switch = config.name, "{why}; it is tried again every {FILES_AGAIN:?}");
            }
        }
        tokio::select! {
            () = around.stop.cancelled() => return,
            () = tokio::time::sleep(FILES_AGAIN) => {}
        }
    };
    let stop = around.stop.clone();
    tokio::select! {
        () = stop.cancelled() => {}
        () = Watch { config, cell, around, is_told: true }.run(target) => {}
    }
}

/// Ends rules of a switch that only its sFlow speaks of.
async fn ticks(cell: Arc<Cell>, around: Around) {
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            () = around.stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let signals = cell.lock().tick(Timeline::now(), ON_CHANGE_HALF_WIDTH_NS);
        tell(&around.core, &cell, signals).await;
    }
}

/// One switch's task.
struct Watch {
    config: SwitchConfig,
    cell: Arc<Cell>,
    around: Around,
    /// The map knows all that the switch says.
    is_told: bool,
}

impl Watch {
    async fn run(mut self, target: Target) {
        let (sender, mut events) = mpsc::channel(EVENTS_MAX);
        let following = follow(target, || Timeline::now().0, sender);
        tokio::pin!(following);
        let mut tick = tokio::time::interval(TICK);
        let mut report = tokio::time::interval(REPORT_EVERY);
        report.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = &mut following => return,
                Some(event) = events.recv() => self.event(event).await,
                _ = tick.tick() => self.tick().await,
                _ = report.tick(), if !self.is_told => self.report(),
            }
        }
    }

    async fn event(&mut self, event: Event) {
        let signals = {
            let mut switch = self.cell.lock();
            match event {
                Event::Connected(offer) => {
                    tracing::info!(switch = self.config.name, version = offer.version, "connected");
                    switch.connected(offer, Timeline::now());
                    Vec::new()
                }
                Event::Said(notification, at) => {
                    let half_width_ns = self.half_width_ns(&switch);
                    let (signals, map_changed) = switch.said(&notification, Timestamp(at), half_width_ns);
                    self.is_told &= !map_changed;
                    signals
                }
                Event::Synced(silent) => {
                    switch.synced(silent);
                    self.is_told = false;
                    Vec::new()
                }
                Event::Silent(silent) => {
                    switch.silent = silent;
                    Vec::new()
                }
                Event::Lost { why, again_in } => {
                    tracing::warn!(switch = self.config.name, ?again_in, "lost: {why}");
                    if switch.lost(&why) {
                        self.around.reports.gone(&self.config.name, Timeline::now());
                    }
                    Vec::new()
                }
            }
        };
        tell(&self.around.core, &self.cell, signals).await;
    }

    /// A sampled value may be as old as the sample is long.
    fn half_width_ns(&self, switch: &Switch) -> u64 {
        let sample = switch.offer.sample.unwrap_or(Duration::ZERO);
        nanoseconds(sample).max(ON_CHANGE_HALF_WIDTH_NS)
    }

    async fn tick(&mut self) {
        let now = Timeline::now();
        let signals = {
            let mut switch = self.cell.lock();
            if switch.is_unsynced_since(now.0.saturating_sub(SYNCED_AFTER_NS)) {
                switch.synced(Vec::new());
                self.is_told = false;
            }
            self.is_told &= !switch.expire(now);
            let half_width_ns = self.half_width_ns(&switch);
            switch.tick(now, half_width_ns)
        };
        tell(&self.around.core, &self.cell, signals).await;
    }

    /// Only of a switch that has said everything: half of what it says would take back the other half.
    fn report(&mut self) {
        let says = {
            let switch = self.cell.lock();
            switch.is_synced.then(|| switch.state.statements())
        };
        if let Some(says) = says {
            self.around.reports.report(&self.config.name, Source::Switch, says, Timeline::now());
        }
        self.is_told = true;
    }
}

/// Gives signals to the core, which stores and judges them.
async fn tell(core: &CoreHandle, cell: &Cell, signals: Vec<Signal>) {
    for signal in signals {
        let name = signal.name.clone();
        let told = core.observe(signal).await;
        let mut switch = cell.lock();
        switch.counts.signals += 1;
        if let Err(error) = told {
            switch.counts.signals_lost += 1;
            tracing::warn!(signal = name, %error, "a switch's signal is lost");
        }
    }
}
