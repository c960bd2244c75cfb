//! The history of the map: what held when, what changed between, and what goes with time.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use railwatch_engine::Timestamp;
use railwatch_store::{Batch, MapChange, Retention, Store};

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1_700_000_000 * SECOND;

fn at(second: u64) -> Timestamp {
    Timestamp(NOW + second * SECOND)
}

fn told(store: &mut Store, second: u64, facts: &[(&str, Option<&str>)]) {
    let mut batch = Batch::default();
    let change = |(fact, body): &(&str, Option<&str>)| MapChange {
        at: at(second),
        fact: (*fact).to_owned(),
        body: body.map(str::to_owned),
    };
    batch.map_changes(facts.iter().map(change).collect());
    store.commit(&batch).unwrap();
}

fn held(store: &Store, second: u64) -> Vec<(String, String, u64)> {
    let rows = store.reader().unwrap().map_at(at(second)).unwrap();
    rows.into_iter().map(|row| (row.fact, row.body, (row.since.0 - NOW) / SECOND)).collect()
}

#[test]
fn the_map_at_any_past_instant_and_what_changed_between_two() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("railwatch.db");
    let mut store = Store::open(&path).unwrap();
    assert_eq!(store.reader().unwrap().map_since().unwrap(), None);
    told(&mut store, 1, &[("link/a", Some("up")), ("node/x", Some("switch"))]);
    told(&mut store, 2, &[("link/a", Some("down")), ("node/x", Some("switch"))]);
    drop(store);
    let mut store = Store::open(&path).unwrap();
    told(&mut store, 3, &[("link/a", None), ("link/a", None)]);
    told(&mut store, 4, &[("link/a", Some("up"))]);
    let row = |fact: &str, body: &str, since| (fact.to_owned(), body.to_owned(), since);
    let switch = || row("node/x", "switch", 1);
    for (second, expected) in [
        (0, vec![]),
        (1, vec![row("link/a", "up", 1), switch()]),
        (2, vec![row("link/a", "down", 2), switch()]),
        (3, vec![switch()]),
        (9, vec![row("link/a", "up", 4), switch()]),
    ] {
        assert_eq!(held(&store, second), expected, "at {second}");
    }
    let reader = store.reader().unwrap();
    let changed = |from, to, limit| {
        let rows = reader.map_changes(at(from), at(to), limit).unwrap();
        rows.into_iter().map(|row| ((row.at.0 - NOW) / SECOND, row.before, row.after)).collect::<Vec<_>>()
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(changed(1, 3, 0), [(2, text("up"), text("down")), (3, text("down"), None)]);
    assert_eq!(changed(3, 9, 0), [(4, None, text("up"))]);
    assert_eq!(changed(0, 9, 2).len(), 2);
    assert_eq!(reader.map_since().unwrap(), Some(at(1)));
    assert_eq!(reader.totals().unwrap().counters["map_changes"], 5);
}

#[test]
fn what_ceased_long_ago_goes_and_what_holds_stays() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(&directory.path().join("railwatch.db")).unwrap();
    for second in 0..20 {
        told(&mut store, second, &[("link/a", Some(&second.to_string()))]);
    }
    let retention = Retention { map_max: 12, ..Retention::default() };
    assert_eq!(store.prune(&retention, at(30)).unwrap().map, 7);
    let year = Timestamp(NOW + 366 * 86_400 * SECOND);
    assert_eq!(store.prune(&Retention::default(), year).unwrap().map, 12);
    assert_eq!(held(&store, 30).len(), 1, "what holds stays");
    assert_eq!(store.reader().unwrap().totals().unwrap().counters["map_pruned"], 19);
}
