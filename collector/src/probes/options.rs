//! `[probes]` of the collector's configuration: whether, how much, and when not.
//!
//! In: the table's fields. Out: a [`ProbeOptions`] whose every value is in range, and from it what the planner and the agents are told.

use railwatch_engine::Timestamp;
use railwatch_engine::cover::{self, Scope, Shape};
use railwatch_wire::{limits, v1};
use serde::Deserialize;

/// Smallest probe: what a responder needs to know that it is one (`agent/probe/src/packet.rs`).
const SIZE_BYTES_MIN: u32 = 64;
/// Largest: a datagram.
const SIZE_BYTES_MAX: u32 = 65_507;
const SIZES_MAX: usize = 8;
const DAY_S: u64 = 86_400;

/// See docs/probes.md.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProbeOptions {
    /// Plan probes at all.
    pub enabled: bool,
    /// Probes and answers a second that cross each link in each direction, all sizes together.
    pub per_direction_per_s: f64,
    /// Probes and answers a second that leave a NIC.
    pub packets_per_s_per_nic_max: f64,
    /// UDP payloads; each direction gets equal parts.
    pub sizes_bytes: Vec<u32>,
    /// Order in which pairs are probed.
    pub shape: Shape,
    /// Which pairs: `rail` or `fleet`, by which links are covered, and `job`, besides.
    pub scopes: Vec<Scope>,
    /// Of all probes: that of training's traffic, whose queues are to be watched.
    pub dscp: u8,
    /// A probe without an answer for so long is lost.
    pub timeout_ms: u32,
    /// An agent that does not hear of the collector for so long stops probing.
    pub lease_ms: u32,
    /// How often agents tell what became of their probes.
    pub report_every_ms: u32,
    /// How much more often flows are sent that share a way with a lossy one.
    pub suspect_factor: f64,
    /// Times of day without probes, UTC: `"02:00-02:30"`; over midnight: `"23:50-00:10"`.
    pub quiet: Vec<String>,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        let cover::Options {
            per_direction_per_s,
            packets_per_s_per_nic_max,
            sizes_bytes,
            shape,
            dscp,
            suspect_factor,
            ..
        } = cover::Options::default();
        Self {
            enabled: true,
            per_direction_per_s,
            packets_per_s_per_nic_max,
            sizes_bytes,
            shape,
            scopes: vec![Scope::Rail],
            dscp,
            timeout_ms: 200,
            lease_ms: 10_000,
            report_every_ms: 1000,
            suspect_factor,
            quiet: Vec::new(),
        }
    }
}

impl ProbeOptions {
    /// Why it cannot be worked with.
    ///
    /// # Errors
    /// Names the field, its value and its range.
    pub fn check(&self) -> Result<(), String> {
        let between = |name: &str, value: f64, min: f64, max: f64| match (min..=max).contains(&value) {
            true => Ok(()),
            false => Err(format!("probes.{name}: {value} is not between {min} and {max}")),
        };
        between("per_direction_per_s", self.per_direction_per_s, 0.1, 1000.0)?;
        between("packets_per_s_per_nic_max", self.packets_per_s_per_nic_max, 1.0, 10_000.0)?;
        between("dscp", self.dscp.into(), 0.0, 63.0)?;
        between("timeout_ms", self.timeout_ms.into(), 10.0, 5000.0)?;
        between("lease_ms", self.lease_ms.into(), 3000.0, 600_000.0)?;
        between("report_every_ms", self.report_every_ms.into(), 100.0, 60_000.0)?;
        between("suspect_factor", self.suspect_factor, 1.0, 100.0)?;
        if self.sizes_bytes.is_empty() || self.sizes_bytes.len() > SIZES_MAX {
            return Err(format!("probes.sizes_bytes: from 1 to {SIZES_MAX} sizes"));
        }
        for (at, size) in self.sizes_bytes.iter().enumerate() {
            between("sizes_bytes", f64::from(*size), SIZE_BYTES_MIN.into(), SIZE_BYTES_MAX.into())?;
            if self.sizes_bytes[..at].contains(size) {
                return Err(format!("probes.sizes_bytes: {size} is there twice"));
            }
        }
        if !self.scopes.iter().any(|scope| matches!(scope, Scope::Rail | Scope::Fleet)) {
            return Err(
                "probes.scopes: name \"rail\" or \"fleet\", whose pairs cover the links; \"job\" comes besides"
                    .to_owned(),
            );
        }
        if (1..self.scopes.len()).any(|at| self.scopes[..at].contains(&self.scopes[at])) {
            return Err("probes.scopes: one of them is there twice".to_owned());
        }
        if self.quiet.len() > limits::QUIET_WINDOWS_MAX / DAYS {
            return Err(format!("probes.quiet: at most {} times of day", limits::QUIET_WINDOWS_MAX / DAYS));
        }
        self.quiet.iter().try_for_each(|text| match times_of_day(text) {
            Some(_) => Ok(()),
            None => Err(format!("probes.quiet: {text:?} is no time of day: write \"02:00-02:30\", UTC")),
        })
    }

    /// What the planner is told.
    pub fn planner(&self) -> cover::Options {
        cover::Options {
            per_direction_per_s: self.per_direction_per_s,
            packets_per_s_per_nic_max: self.packets_per_s_per_nic_max,
            sizes_bytes: self.sizes_bytes.clone(),
            shape: self.shape,
            // Any NIC with any: those of a rail are among them.
            fleet: self.scopes.contains(&Scope::Fleet),
            dscp: self.dscp,
            suspect_factor: self.suspect_factor,
            flows_per_host_max: limits::PROBE_FLOWS_MAX,
            ..cover::Options::default()
        }
    }

    /// NICs of each job are to be probed with each other.
    pub fn has_jobs(&self) -> bool {
        self.scopes.contains(&Scope::Job)
    }

    /// What an agent is told of the budget: it counts its probes alone.
    pub fn probes_per_s_per_nic_max(&self) -> u32 {
        // Checked: at most 10,000.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range")]
        let most = self.packets_per_s_per_nic_max.ceil() as u32;
        most
    }

    /// The windows of today and its neighbours; they are others with each day.
    pub fn quiet_windows(&self, now: Timestamp) -> Vec<v1::QuietWindow> {
        let today_s = now.0 / 1_000_000_000 / DAY_S * DAY_S;
        let days = (0..DAYS as u64).map(|day| (today_s + day * DAY_S).saturating_sub(DAY_S));
        let windows = days.flat_map(|day_s| {
            self.quiet.iter().filter_map(|text| times_of_day(text)).map(move |(from_s, to_s)| {
                // It ends on the next day where its end is before its begin.
                let end_s = if to_s > from_s { to_s } else { to_s + DAY_S };
                let ns = |s: u64| (day_s + s) * 1_000_000_000;
                v1::QuietWindow { from_unix_ns: ns(from_s), to_unix_ns: ns(end_s) }
            })
        });
        windows.collect()
    }
}

/// Yesterday, whose window may last until today; today; tomorrow.
const DAYS: usize = 3;

/// "02:00-02:30" in seconds of the day.
fn times_of_day(text: &str) -> Option<(u64, u64)> {
    let time = |text: &str| {
        let (hours, minutes) = text.trim().split_once(':')?;
        let (hours, minutes) = (hours.parse::<u64>().ok()?, minutes.parse::<u64>().ok()?);
        (hours < 24 && minutes < 60).then_some(hours * 3600 + minutes * 60)
    };
    let (from, to) = text.split_once('-')?;
    Some((time(from)?, time(to)?)).filter(|(from, to)| from != to)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Spoil = fn(&mut ProbeOptions);

    #[test]
    fn what_is_out_of_range_names_its_field_and_the_defaults_are_good() {
        assert_eq!(ProbeOptions::default().check(), Ok(()));
        let wrong: [(&str, Spoil); 12] = [
            ("per_direction_per_s", |options| options.per_direction_per_s = f64::NAN),
            ("packets_per_s_per_nic_max", |options| options.packets_per_s_per_nic_max = 0.0),
            ("sizes_bytes", |options| options.sizes_bytes.clear()),
            ("sizes_bytes", |options| options.sizes_bytes = vec![63]),
            ("sizes_bytes", |options| options.sizes_bytes = vec![64, 64]),
            ("scopes", |options| options.scopes.clear()),
            ("scopes", |options| options.scopes = vec![Scope::Job]),
            ("scopes", |options| options.scopes = vec![Scope::Rail, Scope::Rail]),
            ("dscp", |options| options.dscp = 64),
            ("lease_ms", |options| options.lease_ms = 10),
            ("quiet", |options| options.quiet = vec!["2-3".into()]),
            ("quiet", |options| options.quiet = vec!["24:00-01:00".into()]),
        ];
        for (field, spoil) in wrong {
            let mut options = ProbeOptions::default();
            spoil(&mut options);
            let why = options.check().err().unwrap_or_default();
            assert!(why.contains(&format!("probes.{field}")), "{field}: {why:?}");
        }
    }

    #[test]
    fn a_time_of_day_is_quiet_every_day_also_over_midnight() {
        let quiet = vec!["02:00-02:30".to_owned(), "23:50-00:10".to_owned()];
        let options = ProbeOptions { quiet, ..ProbeOptions::default() };
        // A day of 2026, by its number since 1970.
        let day_s = 20_783 * DAY_S;
        let windows = options.quiet_windows(Timestamp((day_s + 12 * 3600) * 1_000_000_000));
        let is_quiet = |second: u64| {
            let at = (day_s + second) * 1_000_000_000;
            windows.iter().any(|window| (window.from_unix_ns..window.to_unix_ns).contains(&at))
        };
        for (second, expected) in [
            (0, true),
            (599, true),
            (600, false),
            (2 * 3600 - 1, false),
            (2 * 3600, true),
            (2 * 3600 + 1799, true),
            (2 * 3600 + 1800, false),
            (DAY_S - 600, true),
            (DAY_S + 2 * 3600, true),
        ] {
            assert_eq!(is_quiet(second), expected, "{second}");
        }
    }
}
