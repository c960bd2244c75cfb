//! Everything known of one host: plain data, filled by its stream, read by whoever shows it.

use super::SeriesTable;
use crate::clock::Estimator;
use crate::inventory::Compact;
use railwatch_engine::Timestamp;
use railwatch_pki::PeerKernel;
use railwatch_wire::v1;
use std::collections::BTreeMap;
use std::sync::Arc;

/// seen = delivered + the sum of dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LossAccount {
    /// Everything there was to report.
    pub seen: u64,
    /// What arrived.
    pub delivered: u64,
    /// What did not, by reason.
    pub dropped: BTreeMap<String, u64>,
}

impl LossAccount {
    /// The account with what the collector refused moved from delivered to dropped, so that the sum still holds.
    pub fn with_refusals<'a>(&self, refused: impl IntoIterator<Item = (&'a str, u64)>) -> Self {
        let mut account = self.clone();
        for (reason, count) in refused {
            let moved = count.min(account.delivered);
            if moved > 0 {
                account.delivered -= moved;
                *account.dropped.entry(format!("collector_{reason}")).or_default() += moved;
            }
        }
        account
    }
}

/// One host.
#[derive(Debug)]
pub struct Host {
    /// The name in its certificate.
    pub name: String,
    /// What it said when it connected.
    pub hello: v1::Hello,
    /// A stream of it is open.
    pub connected: bool,
    /// Which stream that is, or was.
    pub generation: u64,
    /// When anything last came from it.
    pub last_seen: Timestamp,
    /// Of its stream: whether the host's kernel still answers.
    pub kernel: PeerKernel,
    /// When the state of its sources last came: about once a second from an agent that looks at its host, where a heartbeat says
    /// only that its uplink lives.
    pub told_at: Timestamp,
    /// Its clock, of the running boot.
    pub clock: Estimator,
    /// Its series.
    pub series: SeriesTable,
    /// Its own account of what it lost.
    pub loss: LossAccount,
    /// Its sources.
    pub sources: Vec<v1::SourceState>,
    /// Its ports.
    pub ports: Vec<v1::PortState>,
    /// Its optical modules.
    pub modules: Vec<v1::ModuleState>,
    /// Its GPU processes and their coverage.
    pub gpu: v1::GpuState,
    /// Packets that its kernel dropped.
    pub drops: v1::DropState,
    /// Whom it talks to.
    pub peers: v1::PeerState,
    /// What it can do for probes; none: it does not say.
    pub probe: Option<v1::ProbeState>,
    /// How its devices sit, and what runs where.
    pub placement: v1::PlacementState,
    /// What is installed and set on it, as far as it is compared with others.
    pub inventory: Arc<Compact>,
    /// Frames refused since the collector started, by reason.
    pub rejected_frames: BTreeMap<&'static str, u64>,
}

impl Host {
    /// A host of which nothing is known yet.
    pub fn new(name: &str, now: Timestamp) -> Self {
        Self {
            name: name.to_owned(),
            hello: v1::Hello::default(),
            connected: false,
            generation: 0,
            last_seen: now,
            kernel: PeerKernel::default(),
            told_at: Timestamp::default(),
            clock: Estimator::default(),
            series: SeriesTable::default(),
            loss: LossAccount::default(),
            sources: Vec::new(),
            ports: Vec::new(),
            modules: Vec::new(),
            gpu: v1::GpuState::default(),
            drops: v1::DropState::default(),
            peers: v1::PeerState::default(),
            probe: None,
            placement: v1::PlacementState::default(),
            inventory: Arc::default(),
            rejected_frames: BTreeMap::new(),
        }
    }

    /// The stream of this generation ended. Returns false where a newer one took its place before.
    pub fn closed(&mut self, generation: u64) -> bool {
        let current = self.generation == generation;
        self.connected &= !current;
        current
    }

    /// A stream of it opened. After a reboot nothing of the boot before is true any more.
    pub fn opened(&mut self, hello: v1::Hello, generation: u64, now: Timestamp) {
        if self.hello.boot_id != hello.boot_id {
            let rejected_frames = std::mem::take(&mut self.rejected_frames);
            *self = Self { rejected_frames, ..Self::new(&self.name, now) };
        }
        self.hello = hello;
        (self.connected, self.generation) = (true, generation);
        self.last_seen = now;
    }

    /// Takes a snapshot; parts that are absent stay as they were. Returns whether GPU state changed, and the ports
    /// whose state did.
    pub fn take(&mut self, snapshot: v1::Snapshot) -> (bool, Vec<(String, String)>) {
        let gpu_changed = snapshot.gpu.is_some_and(|gpu| {
            let changed = gpu != self.gpu;
            self.gpu = gpu;
            changed
        });
        if let Some(v1::LossAccount { seen, delivered, dropped }) = snapshot.loss {
            self.loss = LossAccount { seen, delivered, dropped: dropped.into_iter().collect() };
        }
        if let Some(drops) = snapshot.drops {
            self.drops = drops;
        }
        if let Some(peers) = snapshot.peers {
            self.peers = peers;
        }
        self.probe = snapshot.probe.or(self.probe.take());
        if let Some(placement) = snapshot.placement {
            self.placement = placement;
        }
        if !snapshot.sources.is_empty() {
            self.sources = snapshot.sources;
        }
        if !snapshot.modules.is_empty() || snapshot.no_modules {
            self.modules = snapshot.modules;
        }
        let mut changed_ports = Vec::new();
        if !snapshot.ports.is_empty() || snapshot.no_ports {
            for port in &snapshot.ports {
                let before = self.ports.iter().find(|known| known.kind == port.kind && known.name == port.name);
                if before.is_some_and(|known| known.state != port.state) {
                    changed_ports.push((port.name.clone(), port.state.clone()));
                }
            }
            self.ports = snapshot.ports;
        }
        (gpu_changed, changed_ports)
    }

    /// Counts a refused frame.
    pub fn rejected(&mut self, reason: &'static str, count: u64) {
        *self.rejected_frames.entry(reason).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::{Host, LossAccount};
    use railwatch_engine::Timestamp;
    use railwatch_wire::v1;

    #[test]
    fn the_account_still_adds_up_after_the_collectors_own_refusals() {
        let account = LossAccount { seen: 10, delivered: 7, dropped: [("ring_full".to_owned(), 3)].into() };
        for refused in [0, 2, 7, 100] {
            let row = account.with_refusals([("columns", refused)]);
            assert_eq!(row.seen, row.delivered + row.dropped.values().sum::<u64>(), "{refused}: {row:?}");
        }
        assert_eq!(account.with_refusals([("columns", 2)]).dropped["collector_columns"], 2);
    }

    #[test]
    fn the_end_of_an_older_stream_does_not_hide_the_newer() {
        let mut host = Host::new("h", Timestamp(1));
        host.opened(v1::Hello::default(), 1, Timestamp(2));
        host.opened(v1::Hello::default(), 2, Timestamp(3));
        assert!(!host.closed(1) && host.connected);
        assert!(host.closed(2) && !host.connected);
    }

    #[test]
    fn a_reboot_clears_what_the_boot_before_said_and_a_reconnection_does_not() {
        let mut host = Host::new("h", Timestamp(1));
        let hello = |boot: &str| v1::Hello { boot_id: boot.into(), ..v1::Hello::default() };
        host.opened(hello("a"), 1, Timestamp(2));
        host.take(v1::Snapshot {
            loss: Some(v1::LossAccount { seen: 5, delivered: 5, ..Default::default() }),
            ..Default::default()
        });
        host.opened(hello("a"), 2, Timestamp(3));
        assert_eq!(host.loss.seen, 5);
        host.opened(hello("b"), 3, Timestamp(4));
        assert_eq!(host.loss.seen, 0);
    }

    #[test]
    fn an_absent_part_of_a_snapshot_changes_nothing() {
        let mut host = Host::new("h", Timestamp(1));
        let port = |state: &str| v1::PortState {
            name: "eth0".into(),
            kind: "netdev".into(),
            state: state.into(),
            ..Default::default()
        };
        host.take(v1::Snapshot { ports: vec![port("up")], ..Default::default() });
        assert_eq!(host.take(v1::Snapshot::default()), (false, vec![]));
        assert_eq!(host.ports.len(), 1);
        let (_, changed) = host.take(v1::Snapshot { ports: vec![port("down")], ..Default::default() });
        assert_eq!(changed, [("eth0".to_owned(), "down".to_owned())]);
        host.take(v1::Snapshot { no_ports: true, ..Default::default() });
        assert!(host.ports.is_empty(), "the last port is gone");
    }
}
