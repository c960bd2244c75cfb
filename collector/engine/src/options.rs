//! What an operator may set about detecting and deciding, with its defaults, and the bounds of everything the engine keeps.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Settings of the engine. Every field has a default; unknown fields are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// A host not heard for this long is silent. Agents speak every 200 ms.
    pub silent_after_ms: u64,
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

pub(crate) const MS: u64 = 1_000_000;
