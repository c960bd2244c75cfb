//! The lists of peers as they are now: written by the sources, read by whoever shows them.
//!
//! In: each list whole, by its source. Out: a [`View`]. A change of facts (who) is told from one of figures (how much, when
//! heard last), because the first is worth sending at once and the second is not. Never: a list half written.

use crate::flows::Flow;
use crate::lldp::Neighbour;
use crate::queue_pairs::QueuePairRow;
use crate::routes::Route;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Something that is not seen here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Off {
    /// What.
    pub what: String,
    /// Why, and what would change it.
    pub why: String,
}

/// Everything known of peers at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// By LLDP, by port.
    pub neighbours: Arc<Vec<Neighbour>>,
    /// By device and number.
    pub queue_pairs: Arc<Vec<QueuePairRow>>,
    /// By process.
    pub flows: Arc<Vec<Flow>>,
    /// By destination.
    pub routes: Arc<Vec<Route>>,
    /// What is not listed because of a bound, by what it is.
    pub beyond: BTreeMap<&'static str, u64>,
    /// What is not seen, by source.
    pub off: BTreeMap<&'static str, Vec<Off>>,
    /// Grows with each change of who, of what is beyond or of what is off.
    pub facts: u64,
    /// Grows with each change of figures alone.
    pub figures: u64,
}

/// What the sources last found.
#[derive(Default)]
pub struct Peers {
    view: Mutex<View>,
    told: Option<Box<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("view", &self.view).finish_non_exhaustive()
    }
}

impl Peers {
    /// Peers that call this at each change of facts, while they are locked: it must not look at them.
    #[must_use]
    pub fn told_to(told: impl Fn() + Send + Sync + 'static) -> Self {
        Self { view: Mutex::default(), told: Some(Box::new(told)) }
    }

    /// As it is now.
    #[must_use]
    pub fn view(&self) -> View {
        self.locked().clone()
    }

    pub(crate) fn set_neighbours(&self, rows: Vec<Neighbour>) {
        let mut view = self.locked();
        let same = |a: &Neighbour, b: &Neighbour| {
            Neighbour { last_heard_ns: 0, ..a.clone() } == Neighbour { last_heard_ns: 0, ..b.clone() }
        };
        let change = replace(&mut view.neighbours, rows, same);
        self.note(&mut view, change);
    }

    pub(crate) fn set_queue_pairs(&self, rows: Vec<QueuePairRow>) {
        let mut view = self.locked();
        let change = replace(&mut view.queue_pairs, rows, PartialEq::eq);
        self.note(&mut view, change);
    }

    pub(crate) fn set_flows(&self, rows: Vec<Flow>) {
        let mut view = self.locked();
        let same = |a: &Flow, b: &Flow| Flow { figures: None, ..a.clone() } == Flow { figures: None, ..b.clone() };
        let change = replace(&mut view.flows, rows, same);
        self.note(&mut view, change);
    }

    pub(crate) fn set_routes(&self, rows: Vec<Route>) {
        let mut view = self.locked();
        let change = replace(&mut view.routes, rows, PartialEq::eq);
        self.note(&mut view, change);
    }

    pub(crate) fn set_beyond(&self, what: &'static str, count: u64) {
        let mut view = self.locked();
        let before = if count == 0 { view.beyond.remove(what) } else { view.beyond.insert(what, count) };
        if before.unwrap_or_default() != count {
            self.note(&mut view, Change::Facts);
        }
    }

    pub(crate) fn set_off(&self, source: &'static str, off: Vec<Off>) {
        let mut view = self.locked();
        if view.off.get(source).map_or(&[][..], Vec::as_slice) != off {
            view.off.insert(source, off);
            self.note(&mut view, Change::Facts);
        }
    }

    fn note(&self, view: &mut View, change: Change) {
        match change {
            Change::None => {}
            Change::Figures => view.figures += 1,
            Change::Facts => {
                view.facts += 1;
                self.told.iter().for_each(|told| told());
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, View> {
        // Each list is replaced whole under this lock: nothing is left half way by a panic.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    None,
    Figures,
    Facts,
}

fn replace<T: PartialEq>(list: &mut Arc<Vec<T>>, rows: Vec<T>, same: impl Fn(&T, &T) -> bool) -> Change {
    if **list == rows {
        return Change::None;
    }
    let is_same = list.len() == rows.len() && list.iter().zip(&rows).all(|(a, b)| same(a, b));
    *list = Arc::new(rows);
    if is_same { Change::Figures } else { Change::Facts }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::Figures;
    use std::net::SocketAddr;

    fn flow(port: u16, sent_bytes: u64) -> Flow {
        let address = |port| SocketAddr::from(([10, 0, 0, 1], port));
        Flow {
            pid: 1,
            comm: "x".into(),
            source: address(port),
            destination: address(1),
            interface: None,
            state: "established",
            figures: Some(Figures { sent_bytes, ..Figures::default() }),
        }
    }

    #[test]
    fn who_and_how_much_are_told_apart() {
        let peers = Peers::default();
        let counts = || (peers.view().facts, peers.view().figures);
        for (what, rows, expected) in [
            ("nobody still", vec![], (0, 0)),
            ("the first", vec![flow(7, 0)], (1, 0)),
            ("the same", vec![flow(7, 0)], (1, 0)),
            ("more bytes", vec![flow(7, 9)], (1, 1)),
            ("another", vec![flow(8, 9)], (2, 1)),
            ("one more", vec![flow(8, 9), flow(9, 0)], (3, 1)),
        ] {
            peers.set_flows(rows);
            assert_eq!(counts(), expected, "{what}");
        }
        peers.set_beyond("flows", 0);
        peers.set_off("lldp", vec![]);
        assert_eq!(counts(), (3, 1), "what was not and is not is no change");
        peers.set_beyond("flows", 7);
        peers.set_off("lldp", vec![Off { what: "a".into(), why: "b".into() }]);
        assert_eq!(counts(), (5, 1));
        assert_eq!(peers.view().beyond.get("flows"), Some(&7));
    }
}
