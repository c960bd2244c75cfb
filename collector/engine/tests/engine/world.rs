//! A world in virtual time for the engine: hosts that speak every 200 ms, a store made of what the engine told, and a
//! language of one line per happening (see `scenarios/`). Every run is recorded, and the record replayed.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use railwatch_engine::{
    Decision, DecisionState, Effect, Element, EndedBy, Engine, Event, Incident, IncidentState, KnownHost, Logged,
    Options, Outcome, PastOrder, Recorder, Restored, Severity, Signal, Suspect, Timestamp,
};
use std::collections::{BTreeMap, BTreeSet};

pub const START: u64 = 1_700_000_000_000_000_000;
const MS: u64 = 1_000_000;

pub struct World {
    pub engine: Engine,
    options: Options,
    recorder: Recorder,
    now_ms: u64,
    speaking: BTreeSet<String>,
    /// Of those that do not speak: whether their kernels acknowledge, or are asked in vain.
    kernels: BTreeMap<String, bool>,
    hosts: BTreeMap<String, KnownHost>,
    frames: u64,
    halted_by: Option<String>,
    pub incidents: BTreeMap<u64, Incident>,
    pub decisions: BTreeMap<u64, Decision>,
    pub orders: Vec<PastOrder>,
    pub cancelled: Vec<String>,
    pub audit: Vec<String>,
    pub log: Vec<(Timestamp, Logged)>,
    pub told: Vec<(Timestamp, Vec<Effect>)>,
}

impl World {
    pub fn new(options: Options) -> Self {
        let restored =
            Restored { at: Timestamp(START), epoch: 1, installation: "rwtest".into(), ..Restored::default() };
        Self {
            engine: Engine::restore(options.clone(), restored.clone()),
            options,
            recorder: Recorder::default(),
            now_ms: 0,
            speaking: BTreeSet::new(),
            kernels: BTreeMap::new(),
            hosts: BTreeMap::new(),
            frames: 0,
            halted_by: None,
            incidents: BTreeMap::new(),
            decisions: BTreeMap::new(),
            orders: Vec::new(),
            cancelled: Vec::new(),
            audit: Vec::new(),
            log: vec![(Timestamp(START), Logged::Restored(Box::new(restored)))],
            told: Vec::new(),
        }
    }

    pub fn now(&self) -> Timestamp {
        Timestamp(START + self.now_ms * MS)
    }

    pub fn step(&mut self, event: Event) {
        let now = self.now();
        let effects = self.engine.step(event.clone(), now);
        // Through JSON, as the store keeps it.
        for line in self.recorder.note(&event, &effects) {
            self.log.push((now, serde_json::from_str(&serde_json::to_string(&line).unwrap()).unwrap()));
        }
        for effect in &effects {
            self.check(effect);
            match effect.clone() {
                Effect::Incident(incident) => drop(self.incidents.insert(incident.id, incident)),
                Effect::Decision(decision) => drop(self.decisions.insert(decision.id, decision)),
                Effect::Order(order) => self.orders.push(PastOrder { at: now, order }),
                Effect::Audit(entry) => self.audit.push(entry.what),
                Effect::Cancel { idempotency_key, .. } => self.cancelled.push(idempotency_key),
                Effect::Joined { .. } => {}
            }
        }
        if !effects.is_empty() {
            self.told.push((now, effects));
        }
    }

    /// What holds of every effect, whatever happens.
    fn check(&self, effect: &Effect) {
        match effect {
            Effect::Incident(incident) => {
                let sum: f64 = incident.hypotheses.iter().map(|hypothesis| hypothesis.posterior).sum();
                assert!(sum <= 1.0, "posteriors sum to {sum}");
                assert!(!incident.hypotheses.is_empty() && !incident.title.is_empty(), "{incident:?}");
                assert!(incident.hypotheses.windows(2).all(|pair| pair[0].posterior >= pair[1].posterior));
                assert!(incident.frames.len() <= self.options.limits.frames_per_incident_max);
                assert!(incident.started <= incident.opened, "{incident:?}");
                assert_eq!(incident.resolved.is_some(), incident.state == IncidentState::Resolved, "{incident:?}");
            }
            Effect::Order(order) => {
                assert_eq!(self.halted_by, None, "an order while halted");
                let decision = &self.decisions[&order.decision];
                assert_eq!(decision.state, DecisionState::Ordered);
                assert!(decision.guards.iter().all(|guard| guard.passed), "{:?}", decision.guards);
                let incident = &self.incidents[&decision.incident];
                assert!(incident.state == IncidentState::Open && !incident.late);
            }
            _ => {}
        }
    }

    /// Lets time pass: hosts that speak are heard every 200 ms, ticks come every 100 ms.
    pub fn until(&mut self, ms: u64) {
        while self.now_ms + 100 <= ms {
            self.now_ms += 100;
            if self.now_ms.is_multiple_of(200) {
                for host in self.speaking.clone() {
                    self.hosts.get_mut(&host).unwrap().last_heard = self.now();
                    self.step(Event::HostHeard { host, at: self.now() });
                }
            }
            if self.now_ms.is_multiple_of(200) {
                self.ask_kernels();
            }
            self.step(Event::JudgeSilence);
            self.step(Event::Tick);
        }
        self.now_ms = self.now_ms.max(ms);
    }

    /// What the kernels of hosts that do not speak acknowledged last.
    fn ask_kernels(&mut self) {
        for (host, answers) in self.kernels.clone() {
            let known = &self.hosts[&host];
            let at = if answers { self.now() } else { known.last_heard };
            if !self.speaking.contains(&host) && !known.departed {
                self.step(Event::HostAcknowledged { host, at });
            }
        }
    }

    pub fn run_line(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["until", ms] => self.until(ms.parse().unwrap()),
            ["hosts", count] => {
                for number in 1..=count.parse::<u32>().unwrap() {
                    self.connect(&format!("h{number}"), "boot1");
                }
            }
            ["connect", host, boot] => self.connect(host, boot),
            ["mute", hosts @ ..] => self.for_each(hosts, |world, host| {
                world.speaking.remove(host);
            }),
            ["unmute", hosts @ ..] => self.for_each(hosts, |world, host| {
                world.speaking.insert(host.to_owned());
                world.kernels.remove(host);
            }),
            // The agents stop, and their kernels go on; or whole hosts do.
            ["hang", hosts @ ..] => self.for_each(hosts, |world, host| world.silence(host, true)),
            ["dies", hosts @ ..] => self.for_each(hosts, |world, host| world.silence(host, false)),
            ["turned-away", host, for_ms] => {
                self.speaking.remove(*host);
                let until = Timestamp(self.now().0 + for_ms.parse::<u64>().unwrap() * MS);
                self.step(Event::HostTurnedAway { host: (*host).to_owned(), until });
            }
            // Each suspect: ELEMENT=POSTERIOR, a share of which the sum is at most 1.
            ["explained", mode, hosts, suspects @ ..] => {
                let suspect = |text: &&str| {
                    let (name, posterior) = text.split_once('=').unwrap();
                    Suspect {
                        element: Element { host: String::new(), kind: "link".into(), name: name.into() },
                        fault_mode: (*mode).to_owned(),
                        posterior: posterior.parse().unwrap(),
                        rate: 0.02,
                        lossy_flows: 5,
                        other_lossy_flows: 0,
                        hosts: hosts.parse().unwrap(),
                    }
                };
                let suspects = suspects.iter().map(suspect).collect();
                self.step(Event::LossExplained { since: self.now(), suspects });
            }
            ["bye", host] => self.disconnect(host, true, EndedBy::Host),
            ["break", host] => self.disconnect(host, false, EndedBy::Host),
            ["cut", host] => self.disconnect(host, false, EndedBy::Collector),
            ["given-up", host] => self.disconnect(host, false, EndedBy::Network),
            ["stalled", ms] => {
                let for_ns = ms.parse::<u64>().unwrap() * MS;
                self.now_ms += for_ns / MS;
                self.step(Event::Stalled { for_ns });
            }
            ["signal", name, host, kind, element, more @ ..] => self.signal(name, host, kind, element, more),
            ["again"] => self.signal_again(),
            ["approve", id] => self.verdict(id, true),
            ["reject", id] => self.verdict(id, false),
            ["finish", id, how] => {
                let detail = "told by the test".to_owned();
                let outcome = match *how {
                    "done" => Outcome::Done { detail },
                    "failed" => Outcome::Failed { detail },
                    _ => Outcome::Withheld { detail },
                };
                self.step(Event::OrderFinished { idempotency_key: format!("rwtest-{id}"), outcome });
            }
            ["halt", actor] => {
                self.halted_by = Some((*actor).to_owned());
                self.step(Event::Halt { halted: true, actor: (*actor).to_owned(), reason: String::new() });
            }
            ["release", actor] => {
                self.halted_by = None;
                self.step(Event::Halt { halted: false, actor: (*actor).to_owned(), reason: String::new() });
            }
            ["restart", away_ms] => self.restart(away_ms.parse().unwrap()),
            _ => panic!("not a line of a scenario: {line:?}"),
        }
    }

    fn for_each(&mut self, hosts: &[&str], mut change: impl FnMut(&mut Self, &str)) {
        for range in hosts {
            match range.split_once("..") {
                Some((first, last)) => {
                    let number = |text: &str| text.trim_start_matches('h').parse::<u32>().unwrap();
                    (number(first)..=number(last)).for_each(|number| change(self, &format!("h{number}")));
                }
                None => change(self, range),
            }
        }
    }

    fn connect(&mut self, host: &str, boot: &str) {
        self.speaking.insert(host.to_owned());
        self.kernels.remove(host);
        let known =
            KnownHost { host: host.to_owned(), boot_id: boot.to_owned(), last_heard: self.now(), departed: false };
        self.hosts.insert(host.to_owned(), known);
        self.step(Event::HostConnected { host: host.to_owned(), boot_id: boot.to_owned() });
    }

    fn silence(&mut self, host: &str, kernel_answers: bool) {
        self.speaking.remove(host);
        if self.hosts.contains_key(host) {
            self.kernels.insert(host.to_owned(), kernel_answers);
        }
    }

    fn disconnect(&mut self, host: &str, orderly: bool, by: EndedBy) {
        self.speaking.remove(host);
        self.kernels.remove(host);
        if let Some(known) = self.hosts.get_mut(host) {
            known.departed = orderly;
        }
        self.step(Event::HostDisconnected { host: host.to_owned(), orderly, by });
    }

    fn signal(&mut self, name: &str, host: &str, kind: &str, element: &str, more: &[&str]) {
        let mut signal = Signal {
            name: name.to_owned(),
            element: Element { host: host.to_owned(), kind: kind.to_owned(), name: element.to_owned() },
            severity: if name == "nic.link.up" { Severity::Info } else { Severity::Error },
            observed: self.now(),
            half_width_ns: 1_000,
            value: 1.0,
            previous: None,
            unit: "1".into(),
            summary: format!("{name} on {element}"),
            attributes: BTreeMap::new(),
            incomplete_since: None,
            suppressed: 0,
        };
        for pair in more {
            let (key, value) = pair.split_once('=').unwrap();
            match key {
                "late" => signal.observed = Timestamp(self.now().0 - value.parse::<u64>().unwrap() * MS),
                "value" => signal.value = value.parse().unwrap(),
                "previous" => signal.previous = Some(value.parse().unwrap()),
                "suppressed" => signal.suppressed = value.parse().unwrap(),
                "incomplete" => signal.incomplete_since = Some(self.now()),
                _ => drop(signal.attributes.insert(key.to_owned(), value.to_owned())),
            }
        }
        self.frames += 1;
        let frame = format!("{host}/stream/{}", self.frames);
        self.step(Event::Signal { frame, signal });
    }

    /// The last signal comes once more, as after a broken connection.
    fn signal_again(&mut self) {
        let last = self.log.iter().rev().find_map(|(_, line)| match line {
            Logged::Event(event @ Event::Signal { .. }) => Some(event.clone()),
            _ => None,
        });
        if let Some(event) = last {
            self.step(event);
        }
    }

    fn verdict(&mut self, id: &str, approve: bool) {
        self.step(Event::Verdict { decision: id.parse().unwrap(), actor: "ana".into(), approve, note: String::new() });
    }

    /// The collector goes away for a while and comes back with what its store holds; no host is connected then.
    fn restart(&mut self, away_ms: u64) {
        self.now_ms += away_ms;
        self.speaking.clear();
        self.kernels.clear();
        let open = |id: u64| self.incidents[&id].state == IncidentState::Open;
        let live = |decision: &&Decision| {
            decision.state == DecisionState::Ordered
                || (decision.state != DecisionState::Withdrawn && open(decision.incident))
        };
        let restored = Restored {
            at: self.now(),
            epoch: 2,
            installation: "rwtest".into(),
            next_incident: self.incidents.keys().last().map_or(1, |id| id + 1),
            next_decision: self.decisions.keys().last().map_or(1, |id| id + 1),
            halted_by: self.halted_by.clone(),
            incidents: self.incidents.values().filter(|incident| open(incident.id)).cloned().collect(),
            decisions: self.decisions.values().filter(live).cloned().collect(),
            orders: self.orders.clone(),
            hosts: self.hosts.values().cloned().collect(),
        };
        self.engine = Engine::restore(self.options.clone(), restored.clone());
        self.recorder = Recorder::default();
        self.log.push((self.now(), Logged::Restored(Box::new(restored))));
    }

    /// What a person would see: one line per incident, "open|past DETECTOR WHERE LEADING [late]", and per decision "ID ACTION STATE".
    pub fn picture(&self) -> Vec<String> {
        let incidents = self.incidents.values().map(|incident| {
            let state = if incident.state == IncidentState::Open { "open" } else { "past" };
            let Element { host, kind, name } = &incident.element;
            let place = if host.is_empty() {
                kind.clone()
            } else if host == name {
                host.clone()
            } else {
                format!("{host}/{name}")
            };
            let late = if incident.late { " late" } else { "" };
            format!("{state} {} {place} {}{late}", incident.detector, incident.hypotheses[0].fault_mode)
        });
        let decisions = self.decisions.values().map(|decision| {
            format!("decision {} {} {}", decision.id, decision.action, format!("{:?}", decision.state).to_lowercase())
        });
        let orders =
            self.orders.iter().map(|past| format!("order {} {}", past.order.idempotency_key, past.order.action));
        let cancelled = self.cancelled.iter().map(|key| format!("cancel {key}"));
        incidents.chain(decisions).chain(orders).chain(cancelled).collect()
    }
}
