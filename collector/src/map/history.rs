//! The map's history: each difference between one making and the next goes to the store.
//!
//! In: every [`Topology`]. Out: changes, through the core. What the store says held when the collector ended holds on until somebody
//! says otherwise, or nobody has said it again for a while: the hosts come back one after the other. Never: a write for what is as it was.

use super::MapRoom;
use crate::clock::Timeline;
use crate::core::CoreHandle;
use railwatch_engine::Timestamp;
use railwatch_engine::map::{AFTER_GONE_NS, Change, Kept, Topology, changes};
use railwatch_store::{MapChange, MapChanged, MapRow, Reader, StoreError};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The facts that held at an instant, with the instants since when; what cannot be read as one is left out, and told.
pub fn at(reader: &Reader, at: Timestamp) -> Result<Vec<(String, Kept, Timestamp)>, StoreError> {
    let rows = reader.map_at(at)?.into_iter();
    Ok(rows.filter_map(|MapRow { fact, body, since }| Some((fact, read(&body)?, since))).collect())
}

/// What changed after one instant and up to another, oldest first.
pub fn between(reader: &Reader, after: Timestamp, until: Timestamp, limit: u64) -> Result<Vec<Change>, StoreError> {
    let rows = reader.map_changes(after, until, limit)?.into_iter();
    let change = |MapChanged { at, fact, before, after }| Change {
        at,
        fact,
        before: before.as_deref().and_then(read),
        after: after.as_deref().and_then(read),
    };
    Ok(rows.map(change).collect())
}

fn read(body: &str) -> Option<Kept> {
    serde_json::from_str(body)
        .inspect_err(|error| tracing::error!(%error, body, "a stored fact of the map cannot be read, and is left out"))
        .ok()
}

/// What the store has, and what is to be written.
struct Ledger {
    held: BTreeMap<String, Kept>,
    ends_from: Timestamp,
}

impl Ledger {
    fn differences(&mut self, topology: &Topology, now: Timestamp) -> Vec<MapChange> {
        let found = changes(&self.held, &topology.kept(), now);
        let is_told = |change: &Change| change.after.is_some() || now >= self.ends_from;
        let mut told = Vec::new();
        for Change { at, fact, before: _, after } in found.into_iter().filter(is_told) {
            let body = match &after {
                None => None,
                // A fact is names and numbers: it has a text.
                Some(after) => match serde_json::to_string(after) {
                    Ok(body) => Some(body),
                    Err(_) => continue,
                },
            };
            told.push(MapChange { at, fact: fact.clone(), body });
            match after {
                Some(after) => self.held.insert(fact, after),
                None => self.held.remove(&fact),
            };
        }
        told
    }
}

/// Keeps the history until told to stop.
pub async fn follow(room: MapRoom, core: CoreHandle, stop: CancellationToken) {
    let started = Timeline::now();
    let held = core.reader().and_then(|reader| at(&reader, started)).unwrap_or_else(|error| {
        tracing::error!(%error, "the map's history cannot be read: all facts are written as new");
        Vec::new()
    });
    let held = held.into_iter().map(|(fact, kept, _)| (fact, kept)).collect();
    let mut ledger = Ledger { held, ends_from: Timestamp(started.0.saturating_add(AFTER_GONE_NS)) };
    let mut makings = room.subscribe();
    // What ends with the time since the start ends without a new making.
    let mut settles = Box::pin(tokio::time::sleep(std::time::Duration::from_nanos(AFTER_GONE_NS)));
    let mut is_settled = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = makings.changed() => if changed.is_err() { return },
            () = &mut settles, if !is_settled => is_settled = true,
        }
        let topology: Arc<Topology> = Arc::clone(&makings.borrow_and_update());
        let looked = tokio::task::spawn_blocking(move || {
            let told = ledger.differences(&topology, Timeline::now());
            (ledger, told)
        });
        let Ok((back, told)) = looked.await else { return };
        ledger = back;
        if !told.is_empty() && core.map_changes(told).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use railwatch_engine::map::{Map, NodeKind, Source, Statement};

    #[test]
    fn after_a_start_what_was_holds_until_those_who_said_it_had_time_to_come_back() {
        let node = |name: &str| Statement::Node { name: name.into(), kind: NodeKind::Host };
        let mut before = Map::default();
        before.report("a", Source::Host, vec![node("a")], Timestamp(1));
        before.report("b", Source::Host, vec![node("b")], Timestamp(1));
        let mut ledger = Ledger { held: before.topology().kept(), ends_from: Timestamp(100) };
        let mut map = Map::default();
        map.report("a", Source::Host, vec![node("a"), node("c")], Timestamp(2));
        let mut told = |at| {
            let found = ledger.differences(&map.topology(), Timestamp(at));
            found.into_iter().map(|change| (change.fact, change.body.is_some())).collect::<Vec<_>>()
        };
        assert_eq!(told(50), [("node/c".to_owned(), true)]);
        assert_eq!(told(60), []);
        assert_eq!(told(100), [("node/b".to_owned(), false)]);
        assert_eq!(told(110), []);
    }
}
