//! What the host's ports are and how they stand: written by the sources, read by the uplink and the command.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Kind of port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortKind {
    /// A network interface.
    Netdev,
    /// A port of an RDMA device.
    Rdma,
}

impl PortKind {
    /// As shown: `netdev`, `rdma`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Netdev => "netdev",
            Self::Rdma => "rdma",
        }
    }
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// `eth0`, `mlx5_2/1`.
    pub name: String,
    /// Interface or RDMA port.
    pub kind: PortKind,
    /// `up`, `down`, `dormant`, …; of an RDMA port `active`, `init`, `down`, ….
    pub state: String,
    /// Kernel driver; empty where the device has none.
    pub driver: String,
    /// Link speed, bits per second, as the driver says; `None` where it does not.
    pub speed_bits_per_s: Option<u64>,
    /// Of an RDMA port: its network interface, where it has one.
    pub netdev: Option<String>,
    /// Of an RDMA port: `InfiniBand` or `Ethernet`.
    pub link_layer: Option<String>,
}

/// All ports the sources read, by name; and the pause frames of interfaces, by name.
#[derive(Debug, Default)]
pub struct Ports(Mutex<BTreeMap<String, PortInfo>>, Mutex<BTreeMap<String, u64>>);

impl Ports {
    /// All of them now.
    #[must_use]
    pub fn all(&self) -> Vec<PortInfo> {
        self.locked().values().cloned().collect()
    }

    /// Replaces all ports of one kind.
    pub(crate) fn replace(&self, kind: PortKind, ports: impl IntoIterator<Item = PortInfo>) {
        let mut all = self.locked();
        all.retain(|_, port| port.kind != kind);
        all.extend(ports.into_iter().map(|port| (port.name.clone(), port)));
    }

    /// Notes a new state.
    pub(crate) fn set_state(&self, name: &str, state: &str) {
        if let Some(port) = self.locked().get_mut(name)
            && port.state != state
        {
            state.clone_into(&mut port.state);
        }
    }

    /// Notes a new speed, bits per second.
    pub(crate) fn set_speed(&self, name: &str, bits_per_s: u64) {
        if let Some(port) = self.locked().get_mut(name) {
            port.speed_bits_per_s = Some(bits_per_s);
        }
    }

    /// Notes how many pause frames an interface has had, sent and received.
    pub(crate) fn note_pauses(&self, name: &str, frames: u64) {
        let mut pauses = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        match pauses.get_mut(name) {
            Some(known) => *known = frames,
            None => _ = pauses.insert(name.to_owned(), frames),
        }
    }

    /// The pause frames of an interface, and its speed in bits per second, where they are known.
    pub(crate) fn pauses_and_speed(&self, name: &str) -> (Option<u64>, Option<u64>) {
        let pauses = self.1.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied();
        (pauses, self.locked().get(name).and_then(|port| port.speed_bits_per_s))
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<String, PortInfo>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
