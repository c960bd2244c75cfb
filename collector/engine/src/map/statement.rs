//! One thing that somebody says of the fabric.

use super::fabric::PortName;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Where a statement comes from, the least believed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Concluded from a trace's addresses.
    Trace,
    /// Concluded from routes and neighbour tables.
    Route,
    /// A file that people keep.
    Inventory,
    /// A scheduler, or the launcher's own variables.
    Scheduler,
    /// Heard on the cable (IEEE 802.1AB).
    Lldp,
    /// A host's own kernel, of itself.
    Host,
    /// A switch, of itself (gNMI).
    Switch,
}

impl Source {
    /// How likely a statement of it is true, between 0 and 1.
    #[must_use]
    pub fn confidence(self) -> f64 {
        match self {
            Self::Trace => 0.8,
            Self::Route => 0.85,
            Self::Inventory => 0.9,
            Self::Scheduler => 0.95,
            Self::Lldp => 0.98,
            Self::Host | Self::Switch => 0.99,
        }
    }

    /// As JSON has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Route => "route",
            Self::Inventory => "inventory",
            Self::Scheduler => "scheduler",
            Self::Lldp => "lldp",
            Self::Host => "host",
            Self::Switch => "switch",
        }
    }
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// It runs jobs, and forwards nothing.
    Host,
    /// It forwards.
    Switch,
}

/// What carries a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// UDP; RoCEv2 too, with destination port 4791.
    Udp,
    /// TCP.
    Tcp,
}

impl Transport {
    /// All.
    pub const ALL: [Self; 2] = [Self::Udp, Self::Tcp];

    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// A 5-tuple.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Flow {
    /// Of the sender.
    pub source: IpAddr,
    /// Of the receiver.
    pub destination: IpAddr,
    /// What carries it.
    pub transport: Transport,
    /// Of the sender.
    pub source_port: u16,
    /// Of the receiver.
    pub destination_port: u16,
}

impl Flow {
    /// The flow of its answers.
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            transport: self.transport,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
}

/// One thing that a reporter says. A reporter's statements of one source are whole: what it no longer says is no longer so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statement {
    /// There is such a node.
    Node {
        /// Its name: a host's as in its certificate, a switch's as it calls itself.
        name: String,
        /// What it is.
        kind: NodeKind,
    },
    /// A node has such a port.
    Port {
        /// Which.
        port: PortName,
        /// Its state, where known.
        up: Option<bool>,
        /// Speed, where known.
        speed_bits_per_s: Option<u64>,
        /// Its addresses.
        addresses: Vec<IpAddr>,
        /// `02:00:00:00:00:01`, where known.
        mac: Option<String>,
    },
    /// A cable joins two ports. Heard at `near`.
    Cable {
        /// The port at which it was seen.
        near: PortName,
        /// The other end, as it calls itself.
        far: PortName,
    },
    /// A cable that joined two ports when the one at which it is remembered was last heard at: that port has been dark since, or is up again and
    /// nothing was heard yet.
    Remembered {
        /// The port at which it was seen.
        near: PortName,
        /// The other end, as it called itself.
        far: PortName,
    },
    /// A flow's packets went this way: addresses of those who answered, none where nobody did.
    Trace {
        /// Which flow.
        flow: Flow,
        /// After the sender, in order, the receiver left out.
        hops: Vec<Option<IpAddr>>,
        /// Whether the receiver, or the hop before it, answered.
        reached: bool,
    },
    /// Something is a part of something else, or fed by it: `("rack/r1", "host/host3")`, `("line_card/leaf0/1", "port/leaf0/eth3")`,
    /// `("pcie_switch/host3/0000:3a:00.0", "nic/host3/eth0")`, `("power_feed/a", "rack/r1")`.
    Contains {
        /// `KIND/NAME` of the whole.
        outer: String,
        /// `KIND/NAME` of the part.
        inner: String,
    },
}
