//! What the engine speaks: events, effects, and the records that effects carry.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Unix nanoseconds on the collector's timeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

/// A host's name, as its certificate says it.
pub type HostName = String;

/// How bad an observation is. Order matters: the worst is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// May become a fault.
    Warning,
    /// Is a fault.
    Error,
    /// Stops work now.
    Critical,
}

/// Something a signal is about: `kind` "nic", "port", "gpu", "process", "host"; `name` unique within the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Element {
    /// The host it belongs to.
    pub host: HostName,
    /// Its kind.
    pub kind: String,
    /// Its name within the host.
    pub name: String,
}

/// An observation on an element, on the collector's timeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    /// Canonical name: "nic.link.down", "nic.errors", "gpu.alloc.failed".
    pub name: String,
    /// What it is about.
    pub element: Element,
    /// How bad.
    pub severity: Severity,
    /// When it was true.
    pub observed: Timestamp,
    /// The true instant lies within `observed` ± this many nanoseconds (reading and clock together).
    pub half_width_ns: u64,
    /// The value seen.
    pub value: f64,
    /// The value before, where there is one.
    pub previous: Option<f64>,
    /// UCUM unit of both.
    pub unit: String,
    /// One plain sentence.
    pub summary: String,
    /// More, by allow-listed key.
    pub attributes: BTreeMap<String, String>,
    /// Inputs were lossy since then: no action rests on this signal.
    pub incomplete_since: Option<Timestamp>,
    /// How many like it the agent left out since the last one it sent.
    #[serde(default)]
    pub suppressed: u64,
}

/// What happens to the engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack")]
pub enum Event {
    /// A host's stream opened.
    HostConnected {
        /// Which.
        host: HostName,
        /// Its boot.
        boot_id: String,
    },
    /// Anything arrived from a host.
    HostHeard {
        /// Which.
        host: HostName,
        /// When it arrived: not after the step's `now`, and before it where the collector was busy.
        at: Timestamp,
    },
    /// The agent of a host is late, and this is the last that the host's kernel acknowledged of what was sent to it. It may lie before the
    /// agent's last word: then nothing was acknowledged since.
    HostAcknowledged {
        /// Which.
        host: HostName,
        /// When the acknowledgement arrived: not after the step's `now`.
        at: Timestamp,
    },
    /// A host wanted to open a stream and was told to come back later: it lives, and cannot be heard until then.
    HostTurnedAway {
        /// Which.
        host: HostName,
        /// When it is to be back.
        until: Timestamp,
    },
    /// A host's stream ended; `orderly` when the agent said goodbye.
    HostDisconnected {
        /// Which.
        host: HostName,
        /// The agent closed the stream itself.
        orderly: bool,
        /// Who ended it, where it was not orderly.
        #[serde(default)]
        by: EndedBy,
    },
    /// A signal that is not a replay; it is stored in the same transaction as the effects of this event. `frame` names it uniquely: "HOST/STREAM/SEQUENCE".
    Signal {
        /// Unique name of the frame.
        frame: String,
        /// The signal.
        signal: Signal,
    },
    /// What explains the probes that were lost of late, likeliest first; empty when none is lost any more. Comes when it changes.
    LossExplained {
        /// The first lost probe.
        since: Timestamp,
        /// Each with its share.
        suspects: Vec<Suspect>,
    },
    /// Time passed: what has been quiet for long enough ends. Comes at least every 100 ms.
    Tick,
    /// Time passed, and every hearing so far was told: who is silent? Comes at least every 100 ms.
    JudgeSilence,
    /// The collector itself stood still (suspended, starved, a slow disk): for that long nobody can have been heard.
    Stalled {
        /// How long.
        for_ns: u64,
    },
    /// A person judged a proposed decision.
    Verdict {
        /// Which.
        decision: u64,
        /// Who.
        actor: String,
        /// Go on, or not.
        approve: bool,
        /// Why, in the person's words.
        note: String,
    },
    /// The executor finished an order, well or badly.
    OrderFinished {
        /// Which.
        idempotency_key: String,
        /// How it ended.
        outcome: Outcome,
    },
    /// Acting was halted or released.
    Halt {
        /// True: nothing may act.
        halted: bool,
        /// Who.
        actor: String,
        /// Why, in their words; empty where they gave none.
        #[serde(default)]
        reason: String,
    },
}

/// Who ended a stream without a goodbye.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// The host's side: its process died, and its kernel said so.
    #[default]
    Host,
    /// The collector: it turned the agent away, or stopped.
    Collector,
    /// Nobody: nothing was acknowledged any more, and the connection was given up.
    Network,
}

/// An element that may be why probes are lost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Suspect {
    /// Which; of no host: a link's direction by its name, `leaf1:eth3>spine0:eth1`.
    pub element: Element,
    /// "path_loss", "path_blackhole" or "path_long_packets_lost".
    pub fault_mode: String,
    /// Its share of all explanations, that there is no fault among them.
    pub posterior: f64,
    /// How many of the packets that it concerns it loses, 0 to 1.
    pub rate: f64,
    /// Flows that may cross it and lost probes.
    pub lossy_flows: u32,
    /// Flows that lost probes and do not cross it.
    pub other_lossy_flows: u32,
    /// Hosts that probe by the lossy flows that may cross it.
    pub hosts: u32,
}

/// How an order ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Carried out.
    Done {
        /// What the executor answered.
        detail: String,
    },
    /// Not carried out, and it will not be tried again.
    Failed {
        /// Why.
        detail: String,
    },
    /// Held back: halted, fenced by a newer epoch, or expired.
    Withheld {
        /// Why.
        detail: String,
    },
}

/// What the collector must store and carry out, in this order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// The incident is now this.
    Incident(Incident),
    /// The decision is now this.
    Decision(Decision),
    /// Carry this out once.
    Order(Order),
    /// Write this down for ever.
    Audit(AuditEntry),
    /// This frame's signal belongs to this incident.
    Joined {
        /// Unique name of the frame.
        frame: String,
        /// The incident's identifier.
        incident: u64,
    },
    /// Do not carry this order out if it is not carried out yet; the executor answers with `OrderFinished` either way.
    Cancel {
        /// Of the order.
        idempotency_key: String,
        /// Why, for the record.
        reason: String,
    },
}

/// Where an incident stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IncidentState {
    /// The symptom is there.
    Open,
    /// The symptom is gone.
    Resolved,
}

/// A fault mode on an element, with its evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hypothesis {
    /// A name of the table in `faults.rs`: "link_down", "gpu_out_of_memory", ...
    pub fault_mode: String,
    /// Where.
    pub element: Element,
    /// Between 0 and 1; the posteriors of an incident's hypotheses sum to at most 1.
    pub posterior: f64,
    /// Plain sentences, each with its numbers.
    pub evidence_for: Vec<String>,
    /// Likewise.
    pub evidence_against: Vec<String>,
}

/// What an operator sees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// Counted from 1 within the store.
    pub id: u64,
    /// Which detector opened it.
    pub detector: String,
    /// One line.
    pub title: String,
    /// The worst of its signals.
    pub severity: Severity,
    /// Where it stands.
    pub state: IncidentState,
    /// The element blamed most.
    pub element: Element,
    /// When the fault was first true.
    pub started: Timestamp,
    /// When the engine opened it.
    pub opened: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
    /// No symptom since then; it resolves when that lasts. Absent while the symptom is there.
    pub quiet_since: Option<Timestamp>,
    /// When the symptom was gone.
    pub resolved: Option<Timestamp>,
    /// Known only from signals that came long after the fact (a spool's replay): nothing acts on it.
    pub late: bool,
    /// Signals joined into it.
    pub signal_count: u64,
    /// What was counted, by name: signals, failure codes, silences. Bounded.
    pub tally: BTreeMap<String, u64>,
    /// The last frames joined into it, bounded.
    pub frames: Vec<String>,
    /// Most likely first.
    pub hypotheses: Vec<Hypothesis>,
    /// Some evidence was lossy since then.
    pub incomplete_since: Option<Timestamp>,
}

/// What could be done, and what it would cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alternative {
    /// "observe", "ticket", "cordon_node", ...
    pub action: String,
    /// Expected cost in lost GPU-seconds.
    pub expected_cost_gpu_s: f64,
    /// Why it is or is not the one.
    pub reason: String,
}

/// A condition that must hold before anything acts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    /// "mode", "posterior", "evidence_complete", "halted", "rate", ...
    pub name: String,
    /// It holds.
    pub passed: bool,
    /// With the numbers.
    pub reason: String,
}

/// Where a decision stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecisionState {
    /// Waits for a person.
    Proposed,
    /// A person (or a policy) said yes.
    Approved,
    /// A person said no.
    Rejected,
    /// Its order is out.
    Ordered,
    /// Carried out.
    Done,
    /// Tried, and failed.
    Failed,
    /// Approved, but a guard held it back. It may be approved again.
    Withheld,
    /// Its incident ended, or another decision replaced it.
    Withdrawn,
}

/// What the engine would do about an incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Counted from 1 within the store.
    pub id: u64,
    /// For which incident.
    pub incident: u64,
    /// The cheapest adequate action.
    pub action: String,
    /// On what.
    pub target: Element,
    /// Where it stands.
    pub state: DecisionState,
    /// Every action considered, cheapest first.
    pub alternatives: Vec<Alternative>,
    /// Every guard, passed or not.
    pub guards: Vec<Guard>,
    /// When proposed.
    pub proposed: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
    /// Orders given for it so far.
    pub orders: u32,
    /// Who approved or rejected.
    pub actor: Option<String>,
    /// How it ended, in words.
    pub outcome: Option<String>,
}

/// Carry out one decision, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// One per decision, the same for every retry and every further order of it: whoever has seen it need not act again.
    pub idempotency_key: String,
    /// Fencing: an executor refuses an epoch lower than the highest it has seen.
    pub epoch: u64,
    /// Of which decision.
    pub decision: u64,
    /// What.
    pub action: String,
    /// On what.
    pub target: Element,
    /// Not after this.
    pub expires: Timestamp,
}

/// One line of the audit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// Who: "engine", or a person's name.
    pub actor: String,
    /// What: "decision.proposed", "decision.approved", "order.done", "halt", ...
    pub what: String,
    /// On what, in words.
    pub detail: String,
}

/// What a new engine takes over from the store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    /// When the collector started.
    pub at: Timestamp,
    /// Grows by one with each start on the store.
    pub epoch: u64,
    /// Random name of the store, made with it: no two stores give the same idempotency key.
    pub installation: String,
    /// Identifier of the next incident.
    pub next_incident: u64,
    /// Identifier of the next decision.
    pub next_decision: u64,
    /// Who halted acting, where it is halted.
    pub halted_by: Option<String>,
    /// Incidents not resolved.
    pub incidents: Vec<Incident>,
    /// Decisions of those, and any whose order is out.
    pub decisions: Vec<Decision>,
    /// Orders given of late, newest last: what the rate and cooldown guards count.
    pub orders: Vec<PastOrder>,
    /// Hosts that were heard of late.
    pub hosts: Vec<KnownHost>,
}

/// An order given in the past.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastOrder {
    /// When it was given.
    pub at: Timestamp,
    /// The order.
    pub order: Order,
}

/// A host that an earlier run of the collector heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownHost {
    /// Its name.
    pub host: HostName,
    /// Its boot when last connected.
    pub boot_id: String,
    /// When it was last heard.
    pub last_heard: Timestamp,
    /// It said goodbye.
    pub departed: bool,
}
