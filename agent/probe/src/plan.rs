//! What a prober is asked for: flows, how often each, and within which bounds. Data alone, checked.
//!
//! In: what the collector planned, as the agent read it. Out: flows that can be probed, and for each of the others its
//! number and what is wrong with it. Never: a flow beyond its ranges probed, or good flows given up for a bad one.

use crate::packet::{HEAD_BYTES, SIZE_MAX};
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Flows of a plan.
pub const FLOWS_MAX: usize = 2048;
/// Quiet windows of a plan.
pub const QUIET_MAX: usize = 64;
/// The shortest interval of one flow.
pub const INTERVAL_MIN: Duration = Duration::from_millis(1);
/// The longest time for which an answer is waited for.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(10);
/// The most that one turn of a flow sends, bytes: beyond a datagram, as a train of them.
pub const TURN_BYTES_MAX: usize = 1 << 20;

/// What carries probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// A datagram each.
    #[default]
    Udp,
    /// Frames of a connection.
    Tcp,
    /// A datagram of the RDMA NIC each.
    #[cfg(feature = "verbs")]
    RdmaUd,
    /// A write by the RDMA NIC each, over a reliable connection.
    #[cfg(feature = "verbs")]
    RdmaRc,
}

impl Transport {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            #[cfg(feature = "verbs")]
            Self::RdmaUd => "rdma_ud",
            #[cfg(feature = "verbs")]
            Self::RdmaRc => "rdma_rc",
        }
    }
}

/// Probes of one 5-tuple.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowSpec {
    /// The planner's number of it.
    pub id: u64,
    /// Of this host: whose budget it takes from.
    pub interface: Arc<str>,
    /// Its address.
    pub source: IpAddr,
    /// Source port; equal-cost paths are chosen by it.
    pub source_port: u16,
    /// Whose NIC answers.
    pub target_host: Arc<str>,
    /// Which of its NICs.
    pub target_interface: Arc<str>,
    /// Where the responder listens.
    pub destination: SocketAddr,
    /// What carries its probes.
    pub transport: Transport,
    /// Payload of one turn, bytes; beyond what one datagram, or one frame of a stream, may have, a train of them, a probe each.
    pub size_bytes: usize,
    /// Differentiated services code point, 0 to 63.
    pub dscp: u8,
    /// Between two turns.
    pub interval: Duration,
    /// Before the first.
    pub offset: Duration,
    /// A probe without an answer for so long is lost.
    pub timeout: Duration,
}

impl FlowSpec {
    /// What is wrong with it, if anything is.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let Self { source, source_port, destination, size_bytes, dscp, interval, offset, timeout, .. } = self;
        let wrong = |what: &str| Some(what.to_owned());
        if source.is_ipv4() != destination.is_ipv4() {
            wrong("source and destination are of two families")
        } else if *source_port == 0 || destination.port() == 0 {
            wrong("a port is 0")
        } else if !(HEAD_BYTES..=TURN_BYTES_MAX).contains(size_bytes) {
            Some(format!("its size is not {HEAD_BYTES} to {TURN_BYTES_MAX} bytes"))
        } else if *dscp > 63 {
            wrong("its DSCP is not 0 to 63")
        } else if *interval < INTERVAL_MIN {
            Some(format!("its interval is below {INTERVAL_MIN:?}"))
        } else if timeout.is_zero() || *timeout > TIMEOUT_MAX {
            Some(format!("its time-out is not above nothing and up to {TIMEOUT_MAX:?}"))
        } else if *offset > Duration::from_secs(600) {
            wrong("its first probe is more than ten minutes away")
        } else {
            None
        }
    }

    /// Whether it is the same flow, whose history goes on: all but how often and from when.
    #[must_use]
    pub fn continues(&self, before: &Self) -> bool {
        let Self { interval: _, offset: _, .. } = self;
        Self { interval: before.interval, offset: before.offset, ..self.clone() } == *before
    }
}

/// A time in which nothing is sent, Unix nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quiet {
    /// From here,
    pub from_unix_ns: u64,
    /// to before here.
    pub to_unix_ns: u64,
}

/// All flows of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshPlan {
    /// Of the planner: one that was replaced has a lower one.
    pub epoch: u64,
    /// Grows with each change.
    pub revision: u64,
    /// Not renewed for so long, it ends.
    pub lease: Duration,
    /// How often results are told.
    pub report_every: Duration,
    /// Probes of one NIC, a second, whatever the flows ask.
    pub packets_per_s_per_nic_max: u32,
    /// What to probe.
    pub flows: Vec<FlowSpec>,
    /// When not.
    pub quiet: Vec<Quiet>,
    /// Flows that could not even be read: number, and why.
    pub malformed: Vec<(u64, String)>,
}

/// The payload of one datagram, and how many there are, for a turn of so many bytes over a path that takes `datagram_max`.
#[must_use]
pub fn train(size_bytes: usize, datagram_max: usize) -> (usize, u32) {
    let most = datagram_max.clamp(HEAD_BYTES, SIZE_MAX);
    let count = size_bytes.div_ceil(most).max(1);
    (size_bytes.div_ceil(count).max(HEAD_BYTES), u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn spec(id: u64) -> FlowSpec {
        FlowSpec {
            id,
            interface: "eth0".into(),
            source: [10, 0, 0, 1].into(),
            source_port: 40_000,
            target_host: "b".into(),
            target_interface: "eth1".into(),
            destination: ([10, 0, 0, 2], 7704).into(),
            transport: Transport::Udp,
            size_bytes: 64,
            dscp: 26,
            interval: Duration::from_millis(100),
            offset: Duration::ZERO,
            timeout: Duration::from_millis(200),
        }
    }

    #[test]
    fn a_flow_beyond_its_ranges_says_which() {
        assert_eq!(spec(1).fault(), None);
        let cases: [(FlowSpec, &str); 7] = [
            (FlowSpec { source: [0; 16].into(), ..spec(1) }, "two families"),
            (FlowSpec { source_port: 0, ..spec(1) }, "port is 0"),
            (FlowSpec { size_bytes: 63, ..spec(1) }, "size"),
            (FlowSpec { dscp: 64, ..spec(1) }, "DSCP"),
            (FlowSpec { interval: Duration::from_micros(999), ..spec(1) }, "interval"),
            (FlowSpec { timeout: Duration::ZERO, ..spec(1) }, "time-out"),
            (FlowSpec { offset: Duration::from_secs(601), ..spec(1) }, "minutes away"),
        ];
        for (flow, expected) in cases {
            assert!(flow.fault().is_some_and(|fault| fault.contains(expected)), "{flow:?}");
        }
    }

    #[test]
    fn how_often_may_change_and_nothing_else() {
        let before = spec(1);
        assert!(FlowSpec { interval: INTERVAL_MIN, offset: INTERVAL_MIN, ..spec(1) }.continues(&before));
        assert!(!FlowSpec { dscp: 0, ..spec(1) }.continues(&before));
    }

    #[test]
    fn a_turn_beyond_a_datagram_is_a_train_of_equal_ones() {
        for (size, datagram, expected) in [
            (64, 1472, (64, 1)),
            (1472, 1472, (1472, 1)),
            (1473, 1472, (737, 2)),
            (1 << 20, 1472, (1471, 713)),
            (1 << 20, 0, (64, 16_384)),
        ] {
            assert_eq!(train(size, datagram), expected, "{size} by {datagram}");
        }
    }
}
