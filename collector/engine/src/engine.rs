//! The state machine: one event in, its effects out.
//!
//! In: events, each with the instant it is judged at. Out: effects, in the order to store them. It keeps the open
//! incidents, their decisions, who speaks, and the stories that late signals tell; each bounded by [`Limits`](crate::Limits).
//! It never reads a clock and never forgets an open incident: what does not fit is refused and counted.

mod decisions;

use crate::case::{self, AGENT_SILENT, GPU_ALLOCATION, Key, LINK, PATH_LOSS};
use crate::history::Histories;
use crate::hosts::{Hosts, Silence, Verdict};
use crate::model::{
    AuditEntry, Decision, Effect, Element, Event, Incident, IncidentState, PastOrder, Restored, Signal, Suspect,
    Timestamp,
};
use crate::options::{MS, Options};
use crate::{gpu, link, path, silence};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What the engine's bounds and filters did. Only ever grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that came a second time.
    pub frames_repeated: u64,
    /// Signals that no detector reads.
    pub signals_unread: u64,
    /// Signals that came long after the fact.
    pub signals_late: u64,
    /// Faults not made an incident because too many are open.
    pub incidents_refused: u64,
    /// Late stories not told because too many are being told.
    pub histories_refused: u64,
    /// Hosts not watched because too many are.
    pub hosts_refused: u64,
}

/// The engine. See the crate's page.
#[derive(Debug)]
pub struct Engine {
    options: Options,
    epoch: u64,
    installation: String,
    halted_by: Option<String>,
    next_incident: u64,
    next_decision: u64,
    now: Timestamp,
    cases: BTreeMap<Key, Incident>,
    keys: BTreeMap<u64, Key>,
    /// Decisions of open incidents, and those whose order is out.
    decisions: BTreeMap<u64, Decision>,
    /// The last decision of each open incident.
    decided: BTreeMap<u64, u64>,
    past: VecDeque<PastOrder>,
    hosts: Hosts,
    histories: Histories,
    frames: BTreeSet<String>,
    frames_in_order: VecDeque<String>,
    counters: Counters,
}

impl Engine {
    /// An engine that goes on where the store's records end.
    pub fn restore(options: Options, restored: Restored) -> Self {
        let Restored {
            at,
            epoch,
            installation,
            next_incident,
            next_decision,
            halted_by,
            incidents,
            decisions,
            orders,
            hosts,
        } = restored;
        let mut hosts = Hosts::restore(hosts, at, &options);
        let mut engine = Self {
            epoch,
            installation,
            halted_by,
            next_incident: next_incident.max(1),
            next_decision: next_decision.max(1),
            now: at,
            cases: BTreeMap::new(),
            keys: BTreeMap::new(),
            decided: BTreeMap::new(),
            decisions: decisions.into_iter().map(|decision| (decision.id, decision)).collect(),
            past: orders.into(),
            histories: Histories::default(),
            frames: BTreeSet::new(),
            frames_in_order: VecDeque::new(),
            counters: Counters::default(),
            hosts: Hosts::default(),
            options,
        };
        for incident in incidents.into_iter().filter(|incident| incident.state == IncidentState::Open) {
            let key = Key::of(&incident.detector, &incident.element);
            if incident.detector == AGENT_SILENT && incident.quiet_since.is_none() {
                let is_stalled =
                    incident.hypotheses.first().is_some_and(|leading| leading.fault_mode == silence::STALLED);
                hosts.restore_silence(&incident.element.host, is_stalled);
            }
            engine.keys.insert(incident.id, key.clone());
            engine.cases.insert(key, incident);
        }
        engine.hosts = hosts;
        for decision in engine.decisions.values() {
            engine.decided.insert(decision.incident, decision.id);
        }
        engine
    }

    /// Takes one event at `now` and returns what to store and do, in order. An instant earlier than the last counts as the last.
    pub fn step(&mut self, event: Event, now: Timestamp) -> Vec<Effect> {
        let now = now.max(self.now);
        self.now = now;
        let mut effects = Vec::new();
        match event {
            Event::HostConnected { host, boot_id } => self.connected(&host, &boot_id, &mut effects),
            Event::HostHeard { host, at } => self.heard(&host, at.min(now), &mut effects),
            Event::HostTurnedAway { host, until } => {
                self.hosts.excuse(&host, until, &self.options);
                self.heard(&host, now, &mut effects);
            }
            Event::HostAcknowledged { host, at } => self.hosts.acknowledged(&host, at.min(now)),
            Event::HostDisconnected { host, orderly: true, .. } => {
                if self.hosts.departed(&host) == Some(Silence::Alone) {
                    self.host_is_back(&host, now, &mut effects);
                }
            }
            Event::HostDisconnected { host, orderly: false, by } => {
                if self.hosts.broke_off(&host, by) == Some(Silence::Alone) {
                    self.silence_changed(&host, &mut effects);
                }
            }
            Event::Signal { frame, signal } => self.signal(&frame, &signal, &mut effects),
            Event::LossExplained { since, suspects } => self.loss_explained(since.min(now), &suspects, &mut effects),
            Event::Tick => self.tick(&mut effects),
            Event::JudgeSilence => self.judge_silence(&mut effects),
            Event::Stalled { for_ns: _ } => self.hosts.stalled(now, &self.options),
            Event::Verdict { decision, actor, approve, note } => {
                self.verdict(decision, &actor, approve, &note, &mut effects);
            }
            Event::OrderFinished { idempotency_key, outcome } => {
                self.order_finished(&idempotency_key, outcome, &mut effects);
            }
            Event::Halt { halted, actor, reason } => self.halt(halted, actor, &reason, &mut effects),
        }
        effects
    }

    /// A decision of an open incident, or one whose order is out.
    pub fn decision(&self, id: u64) -> Option<&Decision> {
        self.decisions.get(&id)
    }

    /// Whether an incident is open.
    pub fn is_open(&self, incident: u64) -> bool {
        self.keys.contains_key(&incident)
    }

    /// Goes on with other settings. What is open stays open.
    pub fn reconfigure(&mut self, options: Options) {
        self.options = options;
    }

    /// Open incidents.
    pub fn open_incidents(&self) -> usize {
        self.cases.len()
    }

    /// Hosts that should be heard.
    pub fn hosts_watched(&self) -> usize {
        self.hosts.watched()
    }

    /// What bounds and filters did so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    // ---- hosts -----------------------------------------------------------------------------------

    fn connected(&mut self, host: &str, boot_id: &str, effects: &mut Vec<Effect>) {
        let (watched, earlier_boot) = self.hosts.connected(host, boot_id, self.now, &self.options);
        if !watched {
            self.counters.hosts_refused += 1;
            return;
        }
        if earlier_boot.is_some()
            && let Some(incident) = self.cases.get_mut(&Key::silent(host))
        {
            case::count(incident, silence::REBOOTS, 1, &self.options.limits);
        }
        self.heard(host, self.now, effects);
    }

    fn heard(&mut self, host: &str, at: Timestamp, effects: &mut Vec<Effect>) {
        if self.hosts.heard(host, at) == Some(Silence::Alone) {
            self.host_is_back(host, at, effects);
        }
    }

    fn host_is_back(&mut self, host: &str, at: Timestamp, effects: &mut Vec<Effect>) {
        let key = Key::silent(host);
        let Some(incident) = self.cases.get_mut(&key) else { return };
        incident.quiet_since = Some(at);
        incident.updated = self.now;
        silence::describe_one(incident, self.hosts.get(host), self.now);
        effects.push(Effect::Incident(incident.clone()));
    }

    fn judge_silence(&mut self, effects: &mut Vec<Effect>) {
        let together = Key::together();
        for verdict in self.hosts.judge(self.now, self.cases.contains_key(&together), &self.options) {
            match verdict {
                Verdict::Alone(host) => self.fell_silent(&host, effects),
                Verdict::Together { hosts, watched } => self.fell_silent_together(&hosts, watched, effects),
                Verdict::Changed(host) => self.silence_changed(&host, effects),
                Verdict::StillTogether { silent, members, news } => self.still_together(silent, members, news, effects),
                Verdict::Forgotten(host) => {
                    let name = host.clone();
                    self.audit(
                        "engine",
                        "host.forgotten",
                        format!("{name}: silent for too long, no longer watched"),
                        effects,
                    );
                    self.host_is_back(&host, self.now, effects);
                }
            }
        }
    }

    fn fell_silent(&mut self, host: &str, effects: &mut Vec<Effect>) {
        let last_heard = self.hosts.get(host).map_or(self.now, |host| host.last_heard);
        let key = Key::silent(host);
        let element = Element { host: host.to_owned(), kind: "host".to_owned(), name: host.to_owned() };
        let Some(incident) = self.open(&key, element, last_heard) else { return };
        incident.quiet_since = None;
        let (now, limits) = (self.now, &self.options.limits);
        let Some(incident) = self.cases.get_mut(&key) else { return };
        incident.updated = now;
        case::count(incident, silence::SILENCES, 1, limits);
        silence::describe_one(incident, self.hosts.get(host), now);
        self.changed(&key, effects);
    }

    /// A silence goes on, and is understood another way.
    fn silence_changed(&mut self, host: &str, effects: &mut Vec<Effect>) {
        let key = Key::silent(host);
        let Some(incident) = self.cases.get_mut(&key) else { return };
        incident.updated = self.now;
        silence::describe_one(incident, self.hosts.get(host), self.now);
        self.changed(&key, effects);
    }

    fn fell_silent_together(&mut self, hosts: &[String], watched: usize, effects: &mut Vec<Effect>) {
        let key = Key::together();
        let started = hosts.iter().filter_map(|host| self.hosts.get(host)).map(|host| host.last_heard).min();
        let element = Element { host: String::new(), kind: "hosts".to_owned(), name: String::new() };
        if self.open(&key, element, started.unwrap_or(self.now)).is_none() {
            return;
        }
        let (now, limits) = (self.now, &self.options.limits);
        let Some(incident) = self.cases.get_mut(&key) else { return };
        incident.quiet_since = None;
        incident.updated = now;
        case::count(incident, silence::SILENCES, hosts.len() as u64, limits);
        let members = usize::try_from(case::tally(incident, silence::SILENCES)).unwrap_or(usize::MAX);
        let stalled = hosts.iter().filter(|host| self.hosts.get(host).is_some_and(|host| host.stalled)).count();
        silence::describe_many(incident, hosts, stalled, members, watched);
        self.changed(&key, effects);
    }

    fn still_together(&mut self, silent: usize, members: usize, news: bool, effects: &mut Vec<Effect>) {
        let now = self.now;
        let Some(incident) = self.cases.get_mut(&Key::together()) else { return };
        let quiet = silent == 0;
        if quiet == incident.quiet_since.is_some() && !news {
            return;
        }
        incident.quiet_since = if quiet { incident.quiet_since.or(Some(now)) } else { None };
        incident.updated = now;
        silence::still_many(incident, members, silent);
        effects.push(Effect::Incident(incident.clone()));
    }

    // ---- signals -----------------------------------------------------------------------------------

    fn signal(&mut self, frame: &str, signal: &Signal, effects: &mut Vec<Effect>) {
        if !self.first_time(frame) {
            self.counters.frames_repeated += 1;
            return;
        }
        let Some((detector, element)) = detector_of(signal) else {
            self.counters.signals_unread += 1;
            return;
        };
        let key = Key::of(detector, &element);
        let age_ns = self.now.0.saturating_sub(signal.observed.0);
        let late = age_ns > (self.options.late_after_ms * MS).saturating_add(signal.half_width_ns);
        if late {
            self.counters.signals_late += 1;
            // A story already open takes a late signal as a footnote; one that itself is known only late, as news.
            let footnote = self.cases.get(&key).map(|incident| !incident.late);
            match footnote {
                None => self.late(key, element, frame, signal, effects),
                Some(true) => {
                    if let Some(incident) = self.cases.get_mut(&key) {
                        case::join(incident, frame, signal, self.now, &self.options.limits);
                        case::count(incident, &format!("{} (late)", signal.name), 1, &self.options.limits);
                    }
                    effects.push(self.joined(&key, frame));
                    self.changed(&key, effects);
                }
                Some(false) => self.fresh(&key, element, frame, signal, false, effects),
            }
            return;
        }
        self.fresh(&key, element, frame, signal, true, effects);
    }

    /// What a signal that came in time (or news of a late story) does to its incident, which it may open.
    fn fresh(
        &mut self,
        key: &Key,
        element: Element,
        frame: &str,
        signal: &Signal,
        in_time: bool,
        effects: &mut Vec<Effect>,
    ) {
        let observed = signal.observed.min(self.now);
        if signal.name == link::UP && !self.cases.contains_key(key) {
            // The end of a late story, or no story at all.
            effects.extend(self.histories.up(
                key,
                frame,
                signal,
                observed,
                self.now,
                &self.options,
                &mut self.next_incident,
            ));
            return;
        }
        if signal.name == link::SATURATED && !self.cases.contains_key(key) {
            // It hides errors, and is none.
            return;
        }
        let started = self.histories.taken_over(key).unwrap_or(observed).min(observed);
        if self.open(key, element, started).is_none() {
            return;
        }
        let limits = &self.options.limits;
        let Some(incident) = self.cases.get_mut(key) else { return };
        case::join(incident, frame, signal, self.now, limits);
        incident.late &= !in_time;
        apply(incident, signal, observed, limits);
        effects.push(self.joined(key, frame));
        self.changed(key, effects);
    }

    fn late(&mut self, key: Key, element: Element, frame: &str, signal: &Signal, effects: &mut Vec<Effect>) {
        let observed = signal.observed.min(self.now);
        if signal.name == link::UP {
            effects.extend(self.histories.up(
                &key,
                frame,
                signal,
                observed,
                self.now,
                &self.options,
                &mut self.next_incident,
            ));
            return;
        }
        if signal.name == link::SATURATED {
            return;
        }
        match self.histories.tell(
            key,
            element,
            frame,
            signal,
            observed,
            self.now,
            &self.options,
            &mut self.next_incident,
        ) {
            Some(told) => effects.extend(told),
            None => self.counters.histories_refused += 1,
        }
    }

    /// What probes lost has one incident: a second fault shows in its hypotheses.
    fn loss_explained(&mut self, since: Timestamp, suspects: &[Suspect], effects: &mut Vec<Effect>) {
        let element = Element { host: String::new(), kind: "links".to_owned(), name: String::new() };
        let key = Key::of(PATH_LOSS, &element);
        if path::leading(suspects).is_empty() {
            if suspects.is_empty()
                && let Some(incident) = self.cases.get_mut(&key)
            {
                path::end(incident, self.now);
                effects.push(Effect::Incident(incident.clone()));
            }
            return;
        }
        let (now, limits) = (self.now, self.options.limits.clone());
        let Some(incident) = self.open(&key, element, since) else { return };
        path::apply(incident, suspects, now, &limits);
        self.changed(&key, effects);
    }

    fn first_time(&mut self, frame: &str) -> bool {
        if !self.frames.insert(frame.to_owned()) {
            return false;
        }
        self.frames_in_order.push_back(frame.to_owned());
        if self.frames_in_order.len() > self.options.limits.frames_max
            && let Some(oldest) = self.frames_in_order.pop_front()
        {
            self.frames.remove(&oldest);
        }
        true
    }

    fn joined(&self, key: &Key, frame: &str) -> Effect {
        let incident = self.cases.get(key).map_or(0, |incident| incident.id);
        Effect::Joined { frame: frame.to_owned(), incident }
    }

    // ---- incidents -----------------------------------------------------------------------------------

    /// The open incident of `key`, opened where there is none; `None` where too many are open.
    fn open(&mut self, key: &Key, element: Element, started: Timestamp) -> Option<&mut Incident> {
        if !self.cases.contains_key(key) {
            if self.cases.len() >= self.options.limits.open_incidents_max {
                self.counters.incidents_refused += 1;
                return None;
            }
            let mut incident = case::begin(&key.detector, element, started, self.now);
            incident.id = self.next_incident;
            self.next_incident += 1;
            self.keys.insert(incident.id, key.clone());
            self.cases.insert(key.clone(), incident);
        }
        self.cases.get_mut(key)
    }

    fn changed(&mut self, key: &Key, effects: &mut Vec<Effect>) {
        let Some(incident) = self.cases.get(key) else { return };
        effects.push(Effect::Incident(incident.clone()));
        let id = incident.id;
        self.review(id, effects);
    }

    fn tick(&mut self, effects: &mut Vec<Effect>) {
        let room = self.options.limits.open_incidents_max.saturating_sub(self.cases.len());
        for (key, mut incident) in self.histories.settle(self.now, room, &self.options) {
            if incident.id == 0 {
                incident.id = self.next_incident;
                self.next_incident += 1;
            }
            incident.updated = self.now;
            let id = incident.id;
            effects.extend(incident.frames.iter().map(|frame| Effect::Joined { frame: frame.clone(), incident: id }));
            self.keys.insert(incident.id, key.clone());
            self.cases.insert(key.clone(), incident);
            self.changed(&key, effects);
        }
        let over: Vec<Key> = self
            .cases
            .iter()
            .filter(|(_, incident)| {
                incident
                    .quiet_since
                    .is_some_and(|since| self.now.0.saturating_sub(since.0) >= quiet_ns(incident, &self.options))
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in over {
            self.resolve(&key, effects);
        }
        // What the rate or a cooldown held back gets its turn, about once a second. Without a memory of the last time: a
        // tick without effects must change nothing, so that a log may leave it out.
        if !self.options.automatic.is_empty() && self.now.0 % (1_000 * MS) < 150 * MS {
            self.review_all(effects);
        }
    }

    fn resolve(&mut self, key: &Key, effects: &mut Vec<Effect>) {
        let Some(mut incident) = self.cases.remove(key) else { return };
        self.keys.remove(&incident.id);
        incident.state = IncidentState::Resolved;
        incident.resolved = incident.quiet_since;
        incident.updated = self.now;
        if *key == Key::together() {
            self.hosts.together_ended();
        }
        let id = incident.id;
        effects.push(Effect::Incident(incident));
        self.decided.remove(&id);
        let ids: Vec<u64> = self.decisions.values().filter(|decision| decision.incident == id).map(|d| d.id).collect();
        for decision in ids {
            self.end_with_incident(decision, effects);
        }
    }

    fn audit(&self, actor: &str, what: &str, detail: String, effects: &mut Vec<Effect>) {
        let entry = AuditEntry { at: self.now, actor: actor.to_owned(), what: what.to_owned(), detail };
        effects.push(Effect::Audit(entry));
    }
}

fn detector_of(signal: &Signal) -> Option<(&'static str, Element)> {
    match signal.name.as_str() {
        link::DOWN | link::UP | link::ERRORS | link::SATURATED => Some((LINK, link::element(signal))),
        gpu::FAILED => Some((GPU_ALLOCATION, signal.element.clone())),
        _ => None,
    }
}

/// Lets the incident's detector apply a signal and describe the incident anew.
pub(crate) fn apply(incident: &mut Incident, signal: &Signal, observed: Timestamp, limits: &crate::Limits) {
    if incident.detector == GPU_ALLOCATION {
        gpu::apply(incident, signal, observed, limits);
    } else {
        link::apply(incident, signal, observed, limits);
        link::describe(incident);
    }
}

fn quiet_ns(incident: &Incident, options: &Options) -> u64 {
    match incident.detector.as_str() {
        AGENT_SILENT => options.silent_resolve_after_ms * MS,
        GPU_ALLOCATION => options.gpu_quiet_ms * MS,
        PATH_LOSS => options.link_quiet_ms * MS,
        _ => link::quiet_ns(incident, options),
    }
}

pub(crate) fn named(element: &Element) -> String {
    match (element.host.as_str(), element.kind.as_str()) {
        ("", kind) => format!("{kind} {}", element.name),
        (host, "host") => host.to_owned(),
        (host, kind) => format!("{host} {kind} {}", element.name),
    }
}
