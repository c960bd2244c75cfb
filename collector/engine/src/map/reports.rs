//! What everybody says, by fact.
//!
//! In: reports, each whole for its reporter and source; who went away. Out: facts with their claims, which [`super::Topology`] is made
//! from. What a report no longer holds loses that voice at once; what a reporter said that went away loses it after a while: cables
//! do not go with an agent. Bounded, and what is beyond a bound is counted.

use super::fabric::PortName;
use super::fact::{Fact, Heard, Voice, Word};
use super::statement::{Flow, NodeKind, Source, Statement};
use crate::Timestamp;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Statements of one report.
const STATEMENTS_PER_REPORT_MAX: usize = 65_536;
/// Facts of the whole map, and traces.
const FACTS_MAX: usize = 1_000_000;
const TRACES_MAX: usize = 65_536;
/// Addresses of one port.
const ADDRESSES_PER_PORT_MAX: usize = 64;
/// How long the word of a reporter that went away lasts; of the existence of nodes longer.
pub const AFTER_GONE_NS: u64 = 600_000_000_000;
/// See [`AFTER_GONE_NS`].
pub const NODE_AFTER_GONE_NS: u64 = 86_400_000_000_000;
/// How long a trace says which way a flow goes.
pub const TRACE_FRESH_NS: u64 = 60_000_000_000;

/// What a fact is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Node(String),
    Port(PortName),
    /// The lesser end first.
    Cable(PortName, PortName),
    Address(IpAddr, PortName),
    Contains(String, String),
}

/// What is said of a port itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PortSaid {
    pub up: Option<bool>,
    pub speed_bits_per_s: Option<u64>,
    pub mac: Option<String>,
}

impl Word for PortSaid {}
impl Word for NodeKind {}

/// Which way a flow's packets went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Who saw it.
    pub reporter: Arc<str>,
    /// When.
    pub at: Timestamp,
    /// After the sender, in order, the receiver left out; `None` where nobody answered.
    pub hops: Vec<Option<IpAddr>>,
    /// The receiver, or the hop before it, answered.
    pub reached: bool,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MapCounts {
    /// Reports taken.
    pub reports: u64,
    /// Reports that came after a later one of the same reporter and source.
    pub late: u64,
    /// Statements beyond a bound.
    pub left_out: u64,
    /// Statements that cannot be true whoever says them: a port without a name, a cable from a port to itself.
    pub malformed: u64,
    /// Facts now.
    pub facts: u64,
}

#[derive(Clone, Debug, Default)]
struct Report {
    at: Timestamp,
    gone: Option<Timestamp>,
    keys: BTreeSet<Key>,
    flows: BTreeSet<Flow>,
}

/// See the page.
#[derive(Clone, Debug, Default)]
pub struct Map {
    reports: BTreeMap<Voice, Report>,
    pub(super) nodes: BTreeMap<String, Fact<NodeKind>>,
    pub(super) ports: BTreeMap<PortName, Fact<PortSaid>>,
    pub(super) cables: BTreeMap<(PortName, PortName), Fact<Heard>>,
    pub(super) addresses: BTreeMap<(IpAddr, PortName), Fact<()>>,
    pub(super) contains: BTreeMap<(String, String), Fact<()>>,
    pub(super) traces: BTreeMap<Flow, Trace>,
    counts: MapCounts,
    revision: u64,
}

impl Map {
    /// All that this reporter says now by this source; an empty list takes back what it said.
    pub fn report(&mut self, reporter: &str, source: Source, says: Vec<Statement>, at: Timestamp) {
        let voice: Voice = (reporter.into(), source);
        let before = self.reports.remove(&voice).unwrap_or_default();
        if before.at > at {
            self.counts.late += 1;
            self.reports.insert(voice, before);
            return;
        }
        self.counts.reports += 1;
        self.counts.left_out += says.len().saturating_sub(STATEMENTS_PER_REPORT_MAX) as u64;
        let mut report = Report { at, ..Report::default() };
        for statement in says.into_iter().take(STATEMENTS_PER_REPORT_MAX) {
            self.take(&voice, statement, at, &mut report);
        }
        for key in before.keys.difference(&report.keys) {
            self.unsay(&voice, key, at);
        }
        for flow in before.flows.difference(&report.flows) {
            if self.traces.get(flow).is_some_and(|trace| trace.reporter == voice.0) {
                self.traces.remove(flow);
                self.revision += 1;
            }
        }
        if !report.keys.is_empty() || !report.flows.is_empty() {
            self.reports.insert(voice, report);
        }
    }

    fn take(&mut self, voice: &Voice, statement: Statement, at: Timestamp, report: &mut Report) {
        let is_named = |port: &PortName| !port.node.is_empty() && !port.port.is_empty();
        match statement {
            Statement::Node { name, kind } if !name.is_empty() => {
                self.said(voice, Key::Node(name), |map, key| named(key, &mut map.nodes, voice, kind, at), report);
            }
            Statement::Port { port, up, speed_bits_per_s, addresses, mac } if is_named(&port) => {
                let said = PortSaid { up, speed_bits_per_s, mac };
                self.counts.left_out += addresses.len().saturating_sub(ADDRESSES_PER_PORT_MAX) as u64;
                for address in addresses.into_iter().take(ADDRESSES_PER_PORT_MAX).filter(is_unicast) {
                    let key = Key::Address(address, port.clone());
                    self.said(voice, key, |map, key| named(key, &mut map.addresses, voice, (), at), report);
                }
                self.said(voice, Key::Port(port), |map, key| named(key, &mut map.ports, voice, said, at), report);
            }
            Statement::Cable { near, far } if is_named(&near) && is_named(&far) && near != far => {
                self.cable(voice, (near, far), Heard::Now, at, report);
            }
            Statement::Remembered { near, far } if is_named(&near) && is_named(&far) && near != far => {
                self.cable(voice, (near, far), Heard::Before, at, report);
            }
            Statement::Contains { outer, inner } if !outer.is_empty() && !inner.is_empty() && outer != inner => {
                let key = Key::Contains(outer, inner);
                self.said(voice, key, |map, key| named(key, &mut map.contains, voice, (), at), report);
            }
            Statement::Trace { flow, hops, reached } => {
                if self.traces.len() >= TRACES_MAX && !self.traces.contains_key(&flow) {
                    self.counts.left_out += 1;
                    return;
                }
                let trace = Trace { reporter: Arc::clone(&voice.0), at, hops, reached };
                report.flows.insert(flow.clone());
                let known = self.traces.get(&flow);
                // What is told again with everything else was seen when it was told first.
                let is_same = known.is_some_and(|known| (&known.hops, known.reached) == (&trace.hops, trace.reached));
                if !is_same && known.is_none_or(|known| known.at <= at) {
                    self.traces.insert(flow, trace);
                    self.revision += 1;
                }
            }
            _ => self.counts.malformed += 1,
        }
    }

    fn cable(
        &mut self,
        voice: &Voice,
        (near, far): (PortName, PortName),
        heard: Heard,
        at: Timestamp,
        report: &mut Report,
    ) {
        let (near, far) = if near < far { (near, far) } else { (far, near) };
        let key = Key::Cable(near, far);
        // What it hears now counts, in whatever order it tells.
        if heard == Heard::Now || !report.keys.contains(&key) {
            self.said(voice, key, |map, key| named(key, &mut map.cables, voice, heard, at), report);
        }
    }

    fn said(&mut self, voice: &Voice, key: Key, say: impl FnOnce(&mut Self, &Key) -> bool, report: &mut Report) {
        if self.facts() >= FACTS_MAX && !self.knows(voice, &key) {
            self.counts.left_out += 1;
            return;
        }
        if say(self, &key) {
            self.revision += 1;
        }
        report.keys.insert(key);
    }

    fn facts(&self) -> usize {
        self.nodes.len() + self.ports.len() + self.cables.len() + self.addresses.len() + self.contains.len()
    }

    fn knows(&self, voice: &Voice, key: &Key) -> bool {
        match key {
            Key::Node(name) => self.nodes.get(name).is_some_and(|fact| fact.claims.contains_key(voice)),
            Key::Port(port) => self.ports.get(port).is_some_and(|fact| fact.claims.contains_key(voice)),
            Key::Cable(..) => lookup(key, &self.cables).is_some(),
            Key::Address(..) => lookup(key, &self.addresses).is_some(),
            Key::Contains(..) => lookup(key, &self.contains).is_some(),
        }
    }

    fn unsay(&mut self, voice: &Voice, key: &Key, at: Timestamp) {
        self.revision += 1;
        match key {
            Key::Node(_) => drop_claim(key, &mut self.nodes, voice, at),
            Key::Port(_) => drop_claim(key, &mut self.ports, voice, at),
            Key::Cable(..) => drop_claim(key, &mut self.cables, voice, at),
            Key::Address(..) => drop_claim(key, &mut self.addresses, voice, at),
            Key::Contains(..) => drop_claim(key, &mut self.contains, voice, at),
        }
    }

    /// The reporter went away: from now on its word counts half, and runs out.
    pub fn gone(&mut self, reporter: &str, at: Timestamp) {
        let voices: Vec<Voice> = self.reports.keys().filter(|(known, _)| **known == *reporter).cloned().collect();
        for voice in voices {
            let Some(mut report) = self.reports.remove(&voice) else { continue };
            if report.gone.is_none() && report.at <= at {
                report.gone = Some(at);
                let until = |key: &Key| {
                    let lasts = if matches!(key, Key::Node(_)) { NODE_AFTER_GONE_NS } else { AFTER_GONE_NS };
                    Some(Timestamp(at.0.saturating_add(lasts)))
                };
                for key in &report.keys {
                    self.limit(&voice, key, until(key));
                }
                self.revision += 1;
            }
            self.reports.insert(voice, report);
        }
    }

    fn limit(&mut self, voice: &Voice, key: &Key, until: Option<Timestamp>) {
        match key {
            Key::Node(_) => limit(key, &mut self.nodes, voice, until),
            Key::Port(_) => limit(key, &mut self.ports, voice, until),
            Key::Cable(..) => limit(key, &mut self.cables, voice, until),
            Key::Address(..) => limit(key, &mut self.addresses, voice, until),
            Key::Contains(..) => limit(key, &mut self.contains, voice, until),
        }
    }

    /// Forgets what has run out.
    pub fn expire(&mut self, now: Timestamp) {
        let age = |since: Timestamp| now.0.saturating_sub(since.0);
        let traces = self.traces.len();
        self.traces.retain(|_, trace| age(trace.at) <= TRACE_FRESH_NS);
        self.revision += u64::from(traces != self.traces.len());
        let over: Vec<(Voice, Timestamp)> = self
            .reports
            .iter()
            .filter_map(|(voice, report)| Some((voice.clone(), report.gone?)))
            .filter(|(_, gone)| age(*gone) > AFTER_GONE_NS)
            .collect();
        for (voice, gone) in over {
            let Some(mut report) = self.reports.remove(&voice) else { continue };
            let keeps = |key: &Key| matches!(key, Key::Node(_)) && age(gone) <= NODE_AFTER_GONE_NS;
            let (kept, over) = std::mem::take(&mut report.keys).into_iter().partition(keeps);
            report.keys = kept;
            for key in over {
                let key: Key = key;
                self.unsay(&voice, &key, now);
            }
            if !report.keys.is_empty() {
                self.reports.insert(voice, report);
            }
        }
    }

    /// Grows with each change that [`super::Topology`] may show.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// How much there is, and what was left out.
    #[must_use]
    pub fn counts(&self) -> MapCounts {
        MapCounts { facts: self.facts() as u64, ..self.counts }
    }
}

/// Addresses that say where something is: neither of every host, nor of one cable alone.
pub(super) fn is_unicast(address: &IpAddr) -> bool {
    let is_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        // fe80::/10, RFC 4291 section 2.5.6.
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    !is_local && !address.is_loopback() && !address.is_multicast() && !address.is_unspecified()
}

/// A table's own key within a [`Key`].
trait Own: Ord + Clone {
    fn own(key: &Key) -> Option<Self>;
}

impl Own for String {
    fn own(key: &Key) -> Option<Self> {
        if let Key::Node(name) = key { Some(name.clone()) } else { None }
    }
}

impl Own for PortName {
    fn own(key: &Key) -> Option<Self> {
        if let Key::Port(port) = key { Some(port.clone()) } else { None }
    }
}

impl Own for (PortName, PortName) {
    fn own(key: &Key) -> Option<Self> {
        if let Key::Cable(a, b) = key { Some((a.clone(), b.clone())) } else { None }
    }
}

impl Own for (IpAddr, PortName) {
    fn own(key: &Key) -> Option<Self> {
        if let Key::Address(address, port) = key { Some((*address, port.clone())) } else { None }
    }
}

impl Own for (String, String) {
    fn own(key: &Key) -> Option<Self> {
        if let Key::Contains(outer, inner) = key { Some((outer.clone(), inner.clone())) } else { None }
    }
}

fn lookup<'t, K: Own, T>(key: &Key, table: &'t BTreeMap<K, Fact<T>>) -> Option<&'t Fact<T>> {
    table.get(&K::own(key)?)
}

fn named<K: Own, T: Word>(key: &Key, table: &mut BTreeMap<K, Fact<T>>, voice: &Voice, said: T, at: Timestamp) -> bool {
    K::own(key).is_some_and(|own| table.entry(own).or_insert_with(|| Fact::new(at)).say(voice.clone(), said, at))
}

fn drop_claim<K: Own, T: Word>(key: &Key, table: &mut BTreeMap<K, Fact<T>>, voice: &Voice, at: Timestamp) {
    let Some(own) = K::own(key) else { return };
    if let Some(fact) = table.get_mut(&own) {
        fact.unsay(voice, at);
        if fact.claims.is_empty() {
            table.remove(&own);
        }
    }
}

fn limit<K: Own, T>(key: &Key, table: &mut BTreeMap<K, Fact<T>>, voice: &Voice, until: Option<Timestamp>) {
    let claim = K::own(key).and_then(|own| table.get_mut(&own)).and_then(|fact| fact.claims.get_mut(voice));
    if let Some(claim) = claim {
        claim.until = until;
    }
}
