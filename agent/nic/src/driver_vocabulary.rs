//! What network drivers call their private statistics (`ethtool -S`), and what we call them: one table, no branches.
//!
//! `#` in a driver's name stands for one digit: the priority (0 to 7), or the traffic class, as the row says. Only rows
//! are read into series: drivers have thousands of statistics per queue that say nothing of the fabric.
//! Sources, Linux 6.12: drivers/net/ethernet/ mellanox/mlx5/core/en_stats.c, broadcom/bnxt/bnxt_ethtool.c,
//! intel/ice/ice_ethtool.c, hisilicon/hns3/hns3pf/hclge_main.c, pensando/ionic/ionic_stats.c. Software RoCE (rxe) has
//! its counters at the RDMA device; its interface has none.

use crate::vocabulary::Direction::{self, Receive, Transmit};
use std::time::Duration;

/// What the digit in a driver's name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The statistic is of the whole port.
    None,
    /// IEEE 802.1p priority: label `network.priority`.
    Priority,
    /// The driver's own class of service: label `network.cos`.
    Cos,
}

/// One statistic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) kernel: &'static str,
    pub(crate) name: &'static str,
    pub(crate) direction: Option<Direction>,
    pub(crate) unit: &'static str,
    pub(crate) class: Class,
    /// Canonical units per step of the driver.
    pub(crate) scale: u32,
}

/// The statistics of one driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vocabulary {
    /// As the driver names itself (ETHTOOL_GDRVINFO).
    pub(crate) driver: &'static str,
    /// How often the driver or the card refreshes them, where a read does not.
    pub(crate) refresh: Option<Duration>,
    pub(crate) rows: &'static [Row],
}

const fn port(kernel: &'static str, name: &'static str, direction: Direction, unit: &'static str) -> Row {
    Row { kernel, name, direction: Some(direction), unit, class: Class::None, scale: 1 }
}

const fn priority(kernel: &'static str, name: &'static str, direction: Direction, unit: &'static str) -> Row {
    Row { class: Class::Priority, ..port(kernel, name, direction, unit) }
}

const fn from_us(row: Row) -> Row {
    Row { scale: 1000, ..row }
}

const FRAMES: &str = "hw.network.pfc.pause_frames";
const TIME: &str = "hw.network.pfc.pause_time";
const TRANSITIONS: &str = "hw.network.pfc.transitions";

/// All drivers known.
pub(crate) const DRIVERS: &[Vocabulary] = &[
    // One read is about 34 firmware commands; each brings fresh values.
    Vocabulary {
        driver: "mlx5_core",
        refresh: None,
        rows: &[
            priority("rx_prio#_pause", FRAMES, Receive, "{frame}"),
            priority("tx_prio#_pause", FRAMES, Transmit, "{frame}"),
            from_us(priority("rx_prio#_pause_duration", TIME, Receive, "ns")),
            from_us(priority("tx_prio#_pause_duration", TIME, Transmit, "ns")),
            priority("rx_prio#_pause_transition", TRANSITIONS, Receive, "{event}"),
            priority("rx_prio#_discards", "hw.network.priority.discards", Receive, "{packet}"),
            priority("rx_prio#_buf_discard", "hw.network.priority.discards.buffer", Receive, "{packet}"),
            priority("rx_prio#_cong_discard", "hw.network.priority.discards.congestion", Receive, "{packet}"),
            priority("rx_prio#_marked", "hw.network.priority.ecn_marked", Receive, "{packet}"),
            priority("rx_prio#_bytes", "hw.network.priority.io", Receive, "By"),
            priority("tx_prio#_bytes", "hw.network.priority.io", Transmit, "By"),
            from_us(port("rx_global_pause_duration", "hw.network.pause_time", Receive, "ns")),
            from_us(port("tx_global_pause_duration", "hw.network.pause_time", Transmit, "ns")),
            port("rx_global_pause_transition", "hw.network.pause_transitions", Receive, "{event}"),
            port("tx_pause_storm_warning_events", "hw.network.pfc.storm_warnings", Transmit, "{event}"),
            port("tx_pause_storm_error_events", "hw.network.pfc.storm_errors", Transmit, "{event}"),
            port("rx_discards_phy", "hw.network.discards", Receive, "{packet}"),
            port("tx_discards_phy", "hw.network.discards", Transmit, "{packet}"),
            port("rx_out_of_buffer", "hw.network.out_of_buffer", Receive, "{packet}"),
            port("rx_symbol_err_phy", "hw.network.errors.symbol", Receive, "{error}"),
            Row { direction: None, ..port("link_down_events_phy", "hw.network.phy.link_downs", Receive, "{event}") },
        ],
    },
    // The card writes them into the host's memory once a second.
    Vocabulary {
        driver: "bnxt_en",
        refresh: Some(Duration::from_secs(1)),
        rows: &[
            priority("rx_pfc_ena_frames_pri#", FRAMES, Receive, "{frame}"),
            priority("tx_pfc_ena_frames_pri#", FRAMES, Transmit, "{frame}"),
            from_us(priority("pfc_pri#_rx_duration_us", TIME, Receive, "ns")),
            from_us(priority("pfc_pri#_tx_duration_us", TIME, Transmit, "ns")),
            priority("pfc_pri#_rx_transitions", TRANSITIONS, Receive, "{event}"),
            priority("pfc_pri#_tx_transitions", TRANSITIONS, Transmit, "{event}"),
            priority("rx_bytes_pri#", "hw.network.priority.io", Receive, "By"),
            priority("tx_bytes_pri#", "hw.network.priority.io", Transmit, "By"),
            Row {
                class: Class::Cos,
                ..port("rx_discard_packets_cos#", "hw.network.cos.discards", Receive, "{packet}")
            },
            port("rx_stat_discard", "hw.network.discards", Receive, "{packet}"),
            port("tx_stat_discard", "hw.network.discards", Transmit, "{packet}"),
            port("rx_pcs_symbol_err", "hw.network.errors.symbol", Receive, "{error}"),
            Row { direction: None, ..port("link_down_events", "hw.network.phy.link_downs", Receive, "{event}") },
        ],
    },
    // Registers, read at every call. No duration: pause time cannot be known on this card.
    Vocabulary {
        driver: "ice",
        refresh: None,
        rows: &[
            priority("rx_priority_#_xoff.nic", FRAMES, Receive, "{frame}"),
            priority("tx_priority_#_xoff.nic", FRAMES, Transmit, "{frame}"),
            priority("rx_priority_#_xon.nic", "hw.network.pfc.resume_frames", Receive, "{frame}"),
            priority("tx_priority_#_xon.nic", "hw.network.pfc.resume_frames", Transmit, "{frame}"),
            port("rx_dropped.nic", "hw.network.discards", Receive, "{packet}"),
            port("tx_dropped_link_down.nic", "hw.network.dropped.link_down", Transmit, "{packet}"),
            port("mac_local_faults.nic", "hw.network.faults.local", Receive, "{event}"),
            port("mac_remote_faults.nic", "hw.network.faults.remote", Receive, "{event}"),
        ],
    },
    // Firmware commands, fresh at every call. The unit of its XOFF times is the hardware's and stated nowhere: they are
    // no pause time in nanoseconds, and no duty is computed from them.
    Vocabulary {
        driver: "hns3",
        refresh: None,
        rows: &[
            priority("mac_rx_pfc_pri#_pkt_num", FRAMES, Receive, "{frame}"),
            priority("mac_tx_pfc_pri#_pkt_num", FRAMES, Transmit, "{frame}"),
            priority("mac_rx_pfc_pri#_xoff_time", "hw.network.pfc.xoff_ticks", Receive, "{tick}"),
            priority("mac_tx_pfc_pri#_xoff_time", "hw.network.pfc.xoff_ticks", Transmit, "{tick}"),
            port("mac_rx_pause_xoff_time", "hw.network.xoff_ticks", Receive, "{tick}"),
            port("mac_tx_pause_xoff_time", "hw.network.xoff_ticks", Transmit, "{tick}"),
        ],
    },
    // The card writes them into the host's memory; its driver does not say how often: a second is assumed. Frames are
    // counted over all priorities together.
    Vocabulary {
        driver: "ionic",
        refresh: Some(Duration::from_secs(1)),
        rows: &[
            port("frames_rx_pripause", FRAMES, Receive, "{frame}"),
            port("frames_tx_pripause", FRAMES, Transmit, "{frame}"),
            from_us(priority("rx_pripause_#_1us_count", TIME, Receive, "ns")),
            from_us(priority("tx_pripause_#_1us_count", TIME, Transmit, "ns")),
        ],
    },
];

impl Vocabulary {
    /// The vocabulary of a driver.
    pub(crate) fn of(driver: &str) -> Option<&'static Self> {
        DRIVERS.iter().find(|vocabulary| vocabulary.driver == driver)
    }

    /// The row of a statistic, and its priority or class where the row has one.
    pub(crate) fn row(&self, kernel: &str) -> Option<(&'static Row, Option<u8>)> {
        self.rows.iter().find_map(|row| {
            if row.class == Class::None {
                return (row.kernel == kernel).then_some((row, None));
            }
            let (before, after) = row.kernel.split_once('#')?;
            let digit = kernel.strip_prefix(before)?.strip_suffix(after)?;
            match digit.as_bytes() {
                [digit @ b'0'..=b'7'] => Some((row, Some(digit - b'0'))),
                _ => None,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_drivers_names_find_their_row_with_the_priority_they_are_of() {
        for (driver, kernel, expected) in [
            ("mlx5_core", "rx_prio3_pause", Some((FRAMES, Some(3)))),
            ("mlx5_core", "rx_prio3_pause_duration", Some((TIME, Some(3)))),
            ("mlx5_core", "rx_prio3_pause_transition", Some((TRANSITIONS, Some(3)))),
            ("mlx5_core", "rx_prio8_pause", None),
            ("mlx5_core", "rx_prio33_pause", None),
            ("mlx5_core", "rx_prio_pause", None),
            ("mlx5_core", "rx_prio#_pause", None),
            ("mlx5_core", "rx_discards_phy", Some(("hw.network.discards", None))),
            ("bnxt_en", "pfc_pri7_tx_duration_us", Some((TIME, Some(7)))),
            ("bnxt_en", "rx_discard_packets_cos0", Some(("hw.network.cos.discards", Some(0)))),
            ("ice", "rx_priority_5_xoff.nic", Some((FRAMES, Some(5)))),
            ("hns3", "mac_rx_pfc_pri3_pkt_num", Some((FRAMES, Some(3)))),
            ("hns3", "rx_prio3_pause", None),
            ("ionic", "frames_rx_pripause", Some((FRAMES, None))),
        ] {
            let vocabulary = Vocabulary::of(driver).expect("a driver of the table");
            assert_eq!(vocabulary.row(kernel).map(|(row, class)| (row.name, class)), expected, "{driver} {kernel}");
        }
        assert_eq!(Vocabulary::of("veth"), None);
    }

    #[test]
    fn no_two_statistics_of_a_driver_share_a_series_and_one_series_has_one_unit_everywhere() {
        let mut units = std::collections::HashMap::new();
        for vocabulary in DRIVERS {
            let mut seen = HashSet::new();
            for row in vocabulary.rows {
                assert!(seen.insert((row.name, row.direction)), "{}: {} twice", vocabulary.driver, row.name);
                assert_eq!(row.class != Class::None, row.kernel.contains('#'), "{}", row.kernel);
                assert_eq!(*units.entry(row.name).or_insert(row.unit), row.unit, "{}", row.name);
            }
        }
    }
}
