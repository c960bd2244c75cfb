//! RDMA devices and their ports, found in sysfs.
//!
//! In: `class/infiniband` under the sysfs root. Out: each port with its driver, rate, link layer and interface.
//! With RDMA netlink in exclusive network-namespace mode, and in a container, sysfs shows the devices of the agent's
//! own network namespace only.

use crate::ports::{PortInfo, PortKind};
use crate::sysfs;
use railwatch_sampling::{Entity, ErrorReason, Kind, SeriesDef, Unavailable};
use std::path::{Path, PathBuf};

/// One port of an RDMA device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RdmaPort {
    /// `mlx5_0`.
    pub(crate) device: String,
    /// From 1.
    pub(crate) number: u32,
    /// `class/infiniband/DEVICE/ports/NUMBER` under the root.
    pub(crate) directory: PathBuf,
}

impl RdmaPort {
    /// `mlx5_0/1`.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.device, self.number)
    }

    /// Declares one of its series.
    pub(crate) fn series(
        &self,
        name: &'static str,
        unit: &'static str,
        kind: Kind,
        more: impl IntoIterator<Item = (&'static str, String)>,
    ) -> SeriesDef {
        let labels = [("rdma.device.name", self.device.clone()), ("rdma.port.number", self.number.to_string())];
        let entity = Entity { kind: "port", name: self.name() };
        SeriesDef::new(name, unit, kind, entity, labels.into_iter().chain(more))
    }

    /// What it is and how it stands.
    pub(crate) fn info(&self, root: &Path) -> PortInfo {
        let line = |file: &str| sysfs::line(self.directory.join(file));
        PortInfo {
            name: self.name(),
            kind: PortKind::Rdma,
            state: line("state").map(|text| state_name(&text)).unwrap_or_default(),
            driver: sysfs::driver(root, "infiniband", &self.device),
            speed_bits_per_s: line("rate").and_then(|text| bits_per_s(&text)),
            netdev: line("gid_attrs/ndevs/0").filter(|text| !text.is_empty()),
            link_layer: line("link_layer").filter(|text| !text.is_empty()),
        }
    }
}

/// All ports of all RDMA devices, in order of name and number.
pub(crate) fn ports(root: &Path) -> Result<Vec<RdmaPort>, Unavailable> {
    let directory = root.join("class/infiniband");
    let missing = |why: &dyn std::fmt::Display| {
        Unavailable::new(
            ErrorReason::Missing,
            format!(
                "no RDMA port in {} ({why}); on a host that has such NICs, load their RDMA driver (mlx5_ib, bnxt_re, irdma, …) \
                 or, in a container, mount the host's /sys",
                directory.display()
            ),
        )
    };
    let devices = sysfs::names(&directory).map_err(|error| missing(&error))?;
    let mut ports = Vec::new();
    for device in devices {
        let directory = directory.join(&device).join("ports");
        let numbers = sysfs::names(&directory).unwrap_or_default();
        let mut numbers: Vec<u32> = numbers.iter().filter_map(|number| number.parse().ok()).collect();
        numbers.sort_unstable();
        ports.extend(numbers.into_iter().map(|number| RdmaPort {
            device: device.clone(),
            number,
            directory: directory.join(number.to_string()),
        }));
    }
    if ports.is_empty() { Err(missing(&"the directory is empty")) } else { Ok(ports) }
}

/// "4: ACTIVE" is `active`.
fn state_name(text: &str) -> String {
    text.split_once(':').map_or(text, |(_, name)| name).trim().to_ascii_lowercase()
}

/// "400 Gb/sec (4X NDR)" in bits per second.
fn bits_per_s(text: &str) -> Option<u64> {
    let (number, unit) = text.split_once(' ')?;
    let gigabits: f64 = number.parse().ok()?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be within a sane range")]
    (unit.starts_with("Gb/sec") && (0.1..1e6).contains(&gigabits)).then(|| (gigabits * 1e9).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::{bits_per_s, state_name};

    #[test]
    fn rates_are_read_as_drivers_write_them() {
        for (text, expected) in [
            ("400 Gb/sec (4X NDR)", Some(400_000_000_000)),
            ("2.5 Gb/sec (1X SDR)", Some(2_500_000_000)),
            ("200 Gb/sec (2X NDR)", Some(200_000_000_000)),
            ("0 Gb/sec", None),
            ("nan Gb/sec", None),
            ("", None),
            ("1e300 Gb/sec", None),
        ] {
            assert_eq!(bits_per_s(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_state_is_its_name_in_lower_case() {
        assert_eq!(state_name("4: ACTIVE"), "active");
        assert_eq!(state_name("1: DOWN"), "down");
    }
}
