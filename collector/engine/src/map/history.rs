//! What the map was, and what changed: the believed facts by name, and the differences between two such maps.
//!
//! In: a [`Topology`]. Out: its [`State`]s by name, which whoever keeps history stores, and from which the map at a past
//! instant is made again. Likelihoods come and go with every word and are no change.

use super::fabric::PortName;
use super::statement::{NodeKind, Source};
use super::topology::Topology;
use crate::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What a fact says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum State {
    /// A host or a switch.
    Node {
        /// Its name.
        name: String,
        /// What it is.
        is: NodeKind,
    },
    /// A port.
    Port {
        /// Which.
        #[serde(flatten)]
        port: PortName,
        /// `None` where nobody tells.
        up: Option<bool>,
        /// `None` where nobody tells.
        speed_bits_per_s: Option<u64>,
        /// `None` where nobody tells.
        mac: Option<String>,
        /// Its addresses.
        addresses: Vec<IpAddr>,
    },
    /// A cable.
    Link {
        /// `leaf1:eth3-spine0:eth1`.
        name: String,
        /// Lower end.
        a: String,
        /// Upper end.
        b: String,
        /// Not known to be down.
        up: bool,
    },
    /// A part.
    Contains {
        /// `KIND/NAME` of the whole.
        outer: String,
        /// `KIND/NAME` of the part.
        inner: String,
    },
}

/// A fact as history keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// What it says.
    pub state: State,
    /// As when it was written.
    pub confidence: f64,
    /// As when it was written.
    pub sources: Vec<Source>,
}

/// A fact that began, changed or ceased.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// When it was known.
    pub at: Timestamp,
    /// `link/leaf1:eth3-spine0:eth1`, `node/leaf1`, `port/leaf1:eth3`, `contains/rack/r1>host/host0`.
    pub fact: String,
    /// `None`: it began.
    pub before: Option<Kept>,
    /// `None`: it ceased.
    pub after: Option<Kept>,
}

impl Topology {
    /// All that is believed, by the names that [`Change::fact`] has.
    #[must_use]
    pub fn kept(&self) -> BTreeMap<String, Kept> {
        let mut all = BTreeMap::new();
        let mut keep = |fact: String, state, standing: &super::fact::Standing| {
            let kept = Kept { state, confidence: standing.confidence, sources: standing.sources.clone() };
            all.insert(fact, kept);
        };
        for node in &self.nodes {
            let state = State::Node { name: node.name.clone(), is: node.kind };
            keep(format!("node/{}", node.name), state, &node.standing);
        }
        for fact in &self.ports {
            let port = PortName { node: fact.node.clone(), port: fact.port.clone() };
            let name = format!("port/{port}");
            let state = State::Port {
                port,
                up: fact.up,
                speed_bits_per_s: fact.speed_bits_per_s,
                mac: fact.mac.clone(),
                addresses: fact.addresses.clone(),
            };
            keep(name, state, &fact.standing);
        }
        for link in &self.links {
            let state = State::Link { name: link.name.clone(), a: link.a.clone(), b: link.b.clone(), up: link.up };
            keep(format!("link/{}", link.name), state, &link.standing);
        }
        for fact in &self.contains {
            let state = State::Contains { outer: fact.outer.clone(), inner: fact.inner.clone() };
            keep(format!("contains/{}>{}", fact.outer, fact.inner), state, &fact.standing);
        }
        all
    }
}

/// What leads from one map to another, by name.
#[must_use]
pub fn changes(before: &BTreeMap<String, Kept>, after: &BTreeMap<String, Kept>, at: Timestamp) -> Vec<Change> {
    let mut found = Vec::new();
    for (fact, now) in after {
        let was = before.get(fact);
        if was.is_none_or(|was| was.state != now.state) {
            let (fact, before, after) = (fact.clone(), was.cloned(), Some(now.clone()));
            found.push(Change { at, fact, before, after });
        }
    }
    for (fact, was) in before.iter().filter(|(fact, _)| !after.contains_key(*fact)) {
        found.push(Change { at, fact: fact.clone(), before: Some(was.clone()), after: None });
    }
    found
}
