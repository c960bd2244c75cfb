//! What an operator may set about detecting and deciding, with its defaults, and the bounds of everything the engine keeps.

use crate::faults::{ACTIONS, OBSERVE};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Nanoseconds in a millisecond.
pub(crate) const MS: u64 = 1_000_000;

/// Settings of the engine. Every field has a default; unknown fields are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// A host not heard for this long is silent. Agents speak every 200 ms.
    pub silent_after_ms: u64,
    /// One whose kernel answers while its agent does not is told of after this long: a busy host lets an agent wait for some seconds.
    pub stalled_after_ms: u64,
    /// A host that came back must be heard for this long before its incident resolves.
    pub silent_resolve_after_ms: u64,
    /// A silent host is no longer watched after this long, and its incident ends.
    pub silent_forget_after_ms: u64,
    /// After a start of the collector, hosts have this long to come back before anyone is called silent.
    pub restart_grace_ms: u64,
    /// This many hosts falling silent together have a common cause, whatever the size of the cluster.
    pub silent_together_min: usize,
    /// A link that is up again must stay so for this long; doubled with each flap, up to sixteen times.
    pub link_quiet_ms: u64,
    /// A port whose errors stopped must be clean for this long.
    pub errors_quiet_ms: u64,
    /// A process must be free of failed allocations for this long.
    pub gpu_quiet_ms: u64,
    /// A signal older than this on arrival is history: nothing acts on it.
    pub late_after_ms: u64,
    /// A link reported down late, and not up since, counts as still down after this long without another word of it.
    pub late_settle_ms: u64,
    /// GPUs on a host, for the cost of losing one.
    pub gpus_per_host: u32,
    /// How long a fault costs when nothing cures it.
    pub horizon_s: u64,
    /// Actions that need no person's approval. Empty: everything is proposed only.
    pub automatic: BTreeSet<String>,
    /// An order is not carried out after this long.
    pub order_ttl_ms: u64,
    /// The same target gets no second order of the same action within this time.
    pub cooldown_ms: u64,
    /// Bounds.
    pub limits: Limits,
}

/// Bounds of what the engine keeps. What happens at each is counted in [`crate::Counters`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Hosts watched; further ones are not watched for silence.
    pub hosts_max: usize,
    /// Incidents open at once; further faults are counted, and seen again with their next signal.
    pub open_incidents_max: usize,
    /// Late observations kept apart while their story is told.
    pub histories_max: usize,
    /// Frames remembered, so that one that comes twice counts once.
    pub frames_max: usize,
    /// Names of the last frames kept in an incident.
    pub frames_per_incident_max: usize,
    /// Names counted in an incident.
    pub tally_names_max: usize,
    /// Orders remembered for the rate and cooldown guards.
    pub past_orders_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            silent_after_ms: 1_000,
            stalled_after_ms: 5_000,
            silent_resolve_after_ms: 2_000,
            silent_forget_after_ms: 24 * 3_600_000,
            restart_grace_ms: 15_000,
            silent_together_min: 5,
            link_quiet_ms: 10_000,
            errors_quiet_ms: 60_000,
            gpu_quiet_ms: 60_000,
            late_after_ms: 5_000,
            late_settle_ms: 5_000,
            gpus_per_host: 8,
            horizon_s: 3_600,
            automatic: BTreeSet::new(),
            order_ttl_ms: 300_000,
            cooldown_ms: 600_000,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            hosts_max: 20_000,
            open_incidents_max: 10_000,
            histories_max: 10_000,
            frames_max: 16_384,
            frames_per_incident_max: 32,
            tally_names_max: 32,
            past_orders_max: 4_096,
        }
    }
}

/// A setting that the engine cannot work with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("engine.{setting}: {why}")]
pub struct OptionError {
    /// Its name.
    pub setting: &'static str,
    /// What is wrong, and what would be right.
    pub why: String,
}

/// Agents speak this often.
const HEARTBEAT_MS: u64 = 200;

impl Options {
    /// Refuses what cannot work: a silence shorter than a heartbeat, an action that does not exist, a bound of nothing.
    pub fn check(&self) -> Result<(), OptionError> {
        let least = 2 * HEARTBEAT_MS;
        if self.silent_after_ms < least {
            let why = format!(
                "{} ms is less than two heartbeats; {least} ms is the least that tells silence from pause",
                self.silent_after_ms
            );
            return Err(OptionError { setting: "silent_after_ms", why });
        }
        if self.silent_together_min < 2 {
            return Err(OptionError {
                setting: "silent_together_min",
                why: "one host is not together; 2 is the least".into(),
            });
        }
        let known: Vec<&str> = ACTIONS.iter().map(|action| action.name).filter(|name| *name != OBSERVE).collect();
        if let Some(unknown) = self.automatic.iter().find(|name| !known.contains(&name.as_str())) {
            let why = format!("there is no action {unknown:?}; there are {}", known.join(", "));
            return Err(OptionError { setting: "automatic", why });
        }
        // A year: sums of such times and an instant cannot overflow then.
        let year_ms = 366 * 86_400_000;
        for (setting, ms) in [
            ("silent_after_ms", self.silent_after_ms),
            ("stalled_after_ms", self.stalled_after_ms),
            ("silent_resolve_after_ms", self.silent_resolve_after_ms),
            ("silent_forget_after_ms", self.silent_forget_after_ms),
            ("restart_grace_ms", self.restart_grace_ms),
            ("link_quiet_ms", self.link_quiet_ms),
            ("errors_quiet_ms", self.errors_quiet_ms),
            ("gpu_quiet_ms", self.gpu_quiet_ms),
            ("late_after_ms", self.late_after_ms),
            ("late_settle_ms", self.late_settle_ms),
            ("order_ttl_ms", self.order_ttl_ms),
            ("cooldown_ms", self.cooldown_ms),
        ] {
            if ms > year_ms {
                return Err(OptionError { setting, why: format!("{ms} ms is more than a year") });
            }
        }
        let Limits {
            hosts_max,
            open_incidents_max,
            histories_max,
            frames_max,
            frames_per_incident_max,
            tally_names_max,
            past_orders_max,
        } = self.limits;
        for (setting, bound) in [
            ("limits.hosts_max", hosts_max),
            ("limits.open_incidents_max", open_incidents_max),
            ("limits.histories_max", histories_max),
            ("limits.frames_max", frames_max),
            ("limits.frames_per_incident_max", frames_per_incident_max),
            ("limits.tally_names_max", tally_names_max),
            ("limits.past_orders_max", past_orders_max),
        ] {
            if bound == 0 {
                return Err(OptionError { setting, why: "0 leaves nothing; 1 is the least".into() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Options;

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        assert_eq!(Options::default().check(), Ok(()));
        let with = |change: fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            options.check().map_err(|error| error.to_string()).err().unwrap_or_default()
        };
        for (error, told) in [
            (with(|options| options.silent_after_ms = 100), "silent_after_ms: 100 ms is less than two heartbeats"),
            (with(|options| options.automatic.extend(["reboot".to_owned()])), "there is no action \"reboot\""),
            (with(|options| options.automatic.extend(["observe".to_owned()])), "there is no action \"observe\""),
            (with(|options| options.silent_together_min = 1), "silent_together_min"),
            (with(|options| options.cooldown_ms = u64::MAX), "more than a year"),
            (with(|options| options.limits.hosts_max = 0), "limits.hosts_max"),
        ] {
            assert!(error.contains(told), "{error:?}");
        }
    }
}
