//! Collectives that stand still across hosts: which rank of a communicator does not go on while ranks of other hosts wait for it.
//!
//! In: the sequence numbers that hosts tell of their communicators, from live state, each second. Out: `collective.stalled` with
//! `scope` = `hosts`, and `collective.resumed`, through the core. The host's agent has the same rule for ranks that it sees itself:
//! what it can tell is left to it. Never: a word about a communicator of which a rank is unknown, or its host silent.

mod detector;

pub use detector::{Change, Detector, Rank, Seen};

use crate::clock::Timeline;
use crate::core::CoreHandle;
use crate::live::Live;
use railwatch_engine::{Element, Severity, Signal, Timestamp};
use railwatch_wire::v1;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A rank stands still while others of its communicator went on; it goes on.
pub const SIGNALS: [&str; 2] = ["collective.stalled", "collective.resumed"];

/// Between two looks. Hosts tell what changed about once a second.
const EVERY: Duration = Duration::from_secs(1);
/// A host whose state is older than this says nothing about now.
const FRESH_NS: u64 = 3_000_000_000;
/// Within what time a rank stood still for as long as is said: a look, and a snapshot on its way.
const HALF_WIDTH_NS: u64 = 2_000_000_000;
/// Signals of one look; what waits is told at the next.
const SIGNALS_MAX: usize = 16;

/// Looks until told to stop.
pub async fn follow(live: Live, core: CoreHandle, stop: CancellationToken) {
    let mut detector = Detector::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        let now = Timeline::now();
        for change in detector.look(now.0, &seen(&live, now), SIGNALS_MAX) {
            let signal = signal(&live, &change, now);
            if let Err(error) = core.observe(signal).await {
                tracing::error!(%error, "a collective that stands still across hosts is not told");
            }
        }
    }
}

/// Every live rank of every communicator that is shared with another host, for all that live state knows.
fn seen(live: &Live, now: Timestamp) -> Vec<Seen> {
    let mut found = Vec::new();
    for cell in live.cells() {
        let host = cell.lock();
        let is_fresh = host.connected && now.0.saturating_sub(host.told_at.0) <= FRESH_NS;
        let mut name: Option<Arc<str>> = None;
        for process in host.gpu.processes.iter().filter(|process| process.exited_unix_ns.is_none()) {
            for communicator in process.communicators.iter().filter(|one| one.state == "alive" && one.identity != 0) {
                let v1::Communicator { identity, rank: Some(rank), ranks: Some(ranks), last_sequence, .. } =
                    *communicator
                else {
                    continue;
                };
                let host = name.get_or_insert_with(|| host.name.as_str().into());
                let rank = Rank { identity, rank, host: Arc::clone(host), pid: process.pid };
                found.push(Seen { rank, ranks, sequence: last_sequence, is_fresh });
            }
        }
    }
    found
}

fn signal(live: &Live, change: &Change, now: Timestamp) -> Signal {
    let seconds = |ns: u64| Duration::from_nanos(ns).as_secs_f64();
    let (name, severity, rank, sequence, still_ns, text, more) = match change {
        Change::Behind { rank, sequence, still_ns, ahead, ahead_sequence, behind, ranks } => (
            SIGNALS[0],
            Severity::Error,
            rank,
            *sequence,
            *still_ns,
            format!(
                "has begun no collective for {:.0} s and is at {sequence}, while rank {} on {} is at {ahead_sequence}; {behind} of {ranks} \
                 ranks stand so",
                seconds(*still_ns),
                ahead.rank,
                ahead.host
            ),
            vec![
                ("cause", "behind".to_owned()),
                ("ahead_rank", ahead.rank.to_string()),
                ("ahead_host", ahead.host.to_string()),
                ("ahead_sequence", ahead_sequence.to_string()),
                ("ranks", ranks.to_string()),
                ("behind_ranks", behind.to_string()),
            ],
        ),
        Change::Resumed { rank, sequence, still_ns } => (
            SIGNALS[1],
            Severity::Info,
            rank,
            *sequence,
            *still_ns,
            format!("begins collectives again after {:.0} s", seconds(*still_ns)),
            vec![],
        ),
    };
    let cell = live.find(&rank.host);
    let process = cell.and_then(|cell| {
        let host = cell.lock();
        host.gpu.processes.iter().find(|process| process.pid == rank.pid).cloned()
    });
    let known = process.as_ref().map(|process| process.comm.as_str()).filter(|comm| !comm.is_empty());
    let comm = known.unwrap_or("a process");
    let identity = format!("{:016x}", rank.identity);
    let attributes: BTreeMap<String, String> = [
        ("scope", "hosts".to_owned()),
        ("communicator", identity.clone()),
        ("rank", rank.rank.to_string()),
        ("pid", rank.pid.to_string()),
        ("comm", comm.to_owned()),
        ("sequence", sequence.to_string()),
    ]
    .into_iter()
    .chain(more)
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    Signal {
        name: name.to_owned(),
        element: Element {
            host: rank.host.to_string(),
            kind: "communicator".to_owned(),
            name: format!("{identity}/{}", rank.rank),
        },
        severity,
        observed: now,
        half_width_ns: HALF_WIDTH_NS,
        value: seconds(still_ns),
        previous: None,
        unit: "s".to_owned(),
        summary: format!("{comm} (pid {}), rank {} of communicator {identity}, {text}", rank.pid, rank.rank),
        attributes,
        incomplete_since: process.and_then(|process| process.incomplete_since_unix_ns).map(Timestamp),
        suppressed: 0,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_signal_that_the_collector_makes_has_its_page() {
        let pages = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/signals");
        for signal in super::SIGNALS.into_iter().chain(crate::inventory::SIGNALS) {
            assert!(pages.join(format!("{signal}.md")).exists(), "docs/signals/{signal}.md is missing");
        }
    }
}
