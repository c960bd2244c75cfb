//! What the store promises: nothing acknowledged is lost, nothing is doubled, and a bad file is told apart from a full disk.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use railwatch_engine::{
    AuditEntry, Effect, Element, Engine, Event, IncidentState, KnownHost, Logged, Options, Severity, Signal, Timestamp,
};
use railwatch_store::{
    AuditFilter, Batch, DecisionFilter, End, Former, Frame, FrameBody, FrameVerdict, IncidentFilter, OrderState,
    Retention, SignalFilter, Store, StoreError, StreamId,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

const STREAM: StreamId = [7; 16];
const NOW: Timestamp = Timestamp(1_700_000_000_000_000_000);

fn signal(host: &str, value: f64) -> Signal {
    Signal {
        name: "nic.link.down".into(),
        element: Element { host: host.into(), kind: "nic".into(), name: "eth0".into() },
        severity: Severity::Error,
        observed: NOW,
        half_width_ns: 1,
        value,
        previous: None,
        unit: "1".into(),
        summary: "down".into(),
        attributes: BTreeMap::new(),
        incomplete_since: None,
        suppressed: 0,
    }
}

fn frame(sequence: u64, body: FrameBody) -> Frame {
    Frame { sequence, skipped_signals: 0, skipped_windows: 0, body }
}

fn signal_frame(host: &str, sequence: u64) -> Frame {
    #[expect(clippy::cast_precision_loss, reason = "small")]
    frame(sequence, FrameBody::Signal(signal(host, sequence as f64)))
}

fn take(store: &mut Store, host: &str, frames: &[Frame]) -> Vec<FrameVerdict> {
    let mut batch = Batch::default();
    let verdicts = frames.iter().map(|frame| batch.frame(store, host, STREAM, frame, NOW, None)).collect();
    store.commit(&batch).unwrap();
    verdicts
}

#[test]
fn the_next_collector_is_told_how_the_one_before_ended_and_when() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("railwatch.db");
    let mut store = Store::open(&path).unwrap();
    assert_eq!(store.former(), None, "the first of all");
    take(&mut store, "host1", &[signal_frame("host1", 1)]);
    drop(store);
    let mut store = Store::open(&path).unwrap();
    assert_eq!(store.former(), Some(Former { end: End::Broken, last_seen: Some(NOW) }), "killed");
    let ended = Timestamp(NOW.0 + 5);
    let mut batch = Batch::default();
    batch.end(ended);
    assert!(!batch.is_empty());
    store.commit(&batch).unwrap();
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.former(), Some(Former { end: End::Stopped, last_seen: Some(ended) }));
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.former().map(|former| former.end), Some(End::Broken), "an end is told once");
    drop(store);
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute("DELETE FROM meta WHERE name = 'ended'", []).unwrap();
    drop(connection);
    let store = Store::open(&path).unwrap();
    assert_eq!(store.former().map(|former| former.end), Some(End::Unknown), "left by an older version");
}

const TAKEN: FrameVerdict = FrameVerdict::Accepted { missing: 0 };

#[test]
fn a_replayed_frame_is_recognised_within_a_batch_after_it_and_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("railwatch.db");
    let mut store = Store::open(&path).unwrap();
    let one = signal_frame("host1", 1);
    assert_eq!(take(&mut store, "host1", &[one.clone(), one.clone()]), [TAKEN, FrameVerdict::Duplicate]);
    assert_eq!(take(&mut store, "host1", std::slice::from_ref(&one)), [FrameVerdict::Duplicate]);
    assert_eq!(
        take(&mut store, "host2", std::slice::from_ref(&one)),
        [TAKEN],
        "another host's stream is another stream"
    );
    let epoch = store.epoch();
    drop(store);
    let mut store = Store::open(&path).unwrap();
    assert_eq!(store.epoch(), epoch + 1);
    assert_eq!(store.acknowledged_through("host1", &STREAM), 1);
    assert_eq!(take(&mut store, "host1", &[one]), [FrameVerdict::Duplicate]);
    assert_eq!(store.reader().unwrap().signals(&SignalFilter::default()).unwrap().len(), 2);
}

#[test]
fn a_gap_is_taken_only_where_it_is_explained_or_insisted_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(&directory.path().join("db")).unwrap();
    assert_eq!(take(&mut store, "h", &[signal_frame("h", 3)]), [FrameVerdict::Gap { expected: 1 }]);
    assert_eq!(store.acknowledged_through("h", &STREAM), 0);
    let explained = Frame { skipped_signals: 1, skipped_windows: 1, ..signal_frame("h", 3) };
    assert_eq!(take(&mut store, "h", &[explained]), [FrameVerdict::Accepted { missing: 2 }]);
    let mut batch = Batch::default();
    let verdict = batch.frame(&store, "h", STREAM, &frame(10, FrameBody::Windows), NOW, Some(1));
    assert_eq!(verdict, FrameVerdict::Accepted { missing: 6 });
    store.commit(&batch).unwrap();
    let counters = store.reader().unwrap().totals().unwrap().counters;
    assert_eq!(
        (counters["frames_missing"], counters["signals_skipped_by_agents"], counters["windows_skipped_by_agents"]),
        (6, 1, 1)
    );
    assert_eq!(store.acknowledged_through("h", &STREAM), 10);
}

#[test]
fn a_batch_that_was_not_committed_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("db")).unwrap();
    let mut batch = Batch::default();
    assert_eq!(batch.frame(&store, "h", STREAM, &signal_frame("h", 1), NOW, None), TAKEN);
    drop(batch);
    assert_eq!(store.acknowledged_through("h", &STREAM), 0);
}

#[test]
fn what_the_engine_did_comes_back_after_a_restart_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let mut store = Store::open(&path).unwrap();
    let mut engine = Engine::restore(Options::default(), store.restore(NOW, None).unwrap());
    let first = signal_frame("h", 1);
    let mut batch = Batch::default();
    batch.frame(&store, "h", STREAM, &first, NOW, None);
    let event = Event::Signal { frame: first.name("h", &STREAM), signal: signal("h", 1.0) };
    batch.log([Logged::Event(event.clone())], NOW);
    batch.effects(&engine.step(event.clone(), NOW), NOW);
    batch.host(KnownHost { host: "h".into(), boot_id: "b".into(), last_heard: NOW, departed: false });
    store.commit(&batch).unwrap();

    let decision = store.reader().unwrap().decisions(&DecisionFilter::default()).unwrap().remove(0);
    let mut batch = Batch::default();
    let verdict = Event::Verdict { decision: decision.id, actor: "ana".into(), approve: true, note: String::new() };
    batch.effects(&engine.step(verdict, NOW), NOW);
    store.commit(&batch).unwrap();
    drop(store);

    let mut store = Store::open(&path).unwrap();
    let restored = store.restore(NOW, None).unwrap();
    assert_eq!((restored.next_incident, restored.next_decision, restored.epoch), (2, 2, 2));
    assert_eq!(
        (restored.incidents.len(), restored.decisions.len(), restored.orders.len(), restored.hosts.len()),
        (1, 1, 1, 1)
    );
    let resumed = store.resume_orders().unwrap();
    assert_eq!(resumed[0].0.epoch, 2, "a resumed order is of the new epoch");
    assert_eq!(resumed[0].0.idempotency_key, restored.orders[0].order.idempotency_key, "and of the old key");

    let mut engine = Engine::restore(Options::default(), restored);
    let mut batch = Batch::default();
    batch.order_state(resumed[0].0.idempotency_key.clone(), OrderState::Done, 1, "200".into());
    let up = Event::Signal { frame: "h/x/2".into(), signal: Signal { name: "nic.link.up".into(), ..signal("h", 1.0) } };
    batch.effects(&engine.step(up, NOW), NOW);
    let later = Timestamp(NOW.0 + 3_600_000_000_000);
    batch.effects(&engine.step(Event::Tick, later), later);
    store.commit(&batch).unwrap();

    let reader = store.reader().unwrap();
    let incidents = reader.incidents(&IncidentFilter { detector: Some("link".into()), ..Default::default() }).unwrap();
    assert_eq!(incidents.len(), 1, "the host that did not come back is another story");
    assert_eq!(incidents[0].state, IncidentState::Resolved);
    let of_incident =
        reader.signals(&SignalFilter { incident: Some(incidents[0].id), ..SignalFilter::default() }).unwrap();
    assert_eq!(of_incident.len(), 1);
    assert_eq!(reader.orders(None, 0).unwrap()[0].state, OrderState::Done);
    assert!(!reader.audit(&AuditFilter::default()).unwrap().is_empty());
    let log = reader.event_log(0, 0).unwrap();
    assert!(log.iter().any(|(_, _, _, entry)| *entry == Logged::Event(event.clone())));
}

#[test]
fn what_the_filters_ask_is_what_comes() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(&directory.path().join("db")).unwrap();
    let mut engine = Engine::restore(Options::default(), store.restore(NOW, None).unwrap());
    let mut batch = Batch::default();
    for (number, host) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let event = Event::Signal { frame: format!("{host}/s/{number}"), signal: signal(host, 1.0) };
        batch.effects(&engine.step(event, NOW), NOW);
    }
    store.commit(&batch).unwrap();
    let reader = store.reader().unwrap();
    let ids = |filter: IncidentFilter| reader.incidents(&filter).unwrap().iter().map(|i| i.id).collect::<Vec<_>>();
    let all = IncidentFilter::default;
    assert_eq!(ids(all()), [4, 3, 2, 1]);
    assert_eq!(ids(IncidentFilter { limit: 2, ..all() }), [4, 3]);
    assert_eq!(ids(IncidentFilter { before: Some(3), ..all() }), [2, 1]);
    assert_eq!(ids(IncidentFilter { host: Some("b".into()), ..all() }), [2]);
    assert_eq!(ids(IncidentFilter { open: Some(false), ..all() }), [0; 0]);
    assert_eq!(ids(IncidentFilter { severity_min: Some(Severity::Critical), ..all() }), [0; 0]);
    assert_eq!(ids(IncidentFilter { detector: Some("link".into()), ..all() }).len(), 4);
    assert_eq!(reader.totals().unwrap().incidents_open, 4);
}

#[test]
fn a_second_collector_a_newer_schema_a_foreign_and_a_damaged_file_are_refused_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let store = Store::open(&path).unwrap();
    let refused = |path: &Path| Store::open(path).err().unwrap();
    assert!(matches!(refused(&path), StoreError::InUse { .. }));
    drop(store);

    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let error = refused(&path);
    assert!(matches!(error, StoreError::NewerSchema { found: 99, .. }));
    assert!(error.to_string().contains("newer version"), "{error}");

    let foreign = directory.path().join("foreign");
    rusqlite::Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    assert!(matches!(refused(&foreign), StoreError::Foreign { .. }));

    let garbage = directory.path().join("garbage");
    std::fs::write(&garbage, vec![0x5a; 8192]).unwrap();
    assert!(matches!(refused(&garbage), StoreError::Corrupt { .. }));
}

#[test]
fn the_audit_can_only_grow() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let mut store = Store::open(&path).unwrap();
    let mut batch = Batch::default();
    let entry = AuditEntry { at: NOW, actor: "ana".into(), what: "halt".into(), detail: String::new() };
    batch.effects(&[Effect::Audit(entry.clone())], NOW);
    store.commit(&batch).unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    assert!(other.execute("DELETE FROM audit", []).is_err());
    assert!(other.execute("UPDATE audit SET actor = 'eve'", []).is_err());
    assert_eq!(store.reader().unwrap().audit(&AuditFilter::default()).unwrap(), [(1, entry)]);
}

#[test]
fn pruning_keeps_the_newest_counts_the_rest_and_never_numbers_anything_twice() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let mut store = Store::open(&path).unwrap();
    let mut engine = Engine::restore(Options::default(), store.restore(NOW, None).unwrap());
    for sequence in 1..=20 {
        let host = format!("h{sequence}");
        let mut batch = Batch::default();
        let frame = signal_frame(&host, 1);
        batch.frame(&store, &host, STREAM, &frame, NOW, None);
        for (name, n) in [("nic.link.down", 1), ("nic.link.up", 2)] {
            let signal = Signal { name: name.into(), ..signal(&host, 0.0) };
            batch.effects(&engine.step(Event::Signal { frame: format!("{host}/x/{n}"), signal }, NOW), NOW);
        }
        store.commit(&batch).unwrap();
    }
    let mut batch = Batch::default();
    let later = Timestamp(NOW.0 + 3_600_000_000_000);
    batch.effects(&engine.step(Event::Tick, later), later);
    store.commit(&batch).unwrap();
    let far = Timestamp(NOW.0 + 400 * 86_400_000_000_000);
    let pruned = store.prune(&Retention { signals_max: 5, ..Retention::default() }, far).unwrap();
    assert_eq!((pruned.signals, pruned.incidents), (20, 20));
    assert_eq!(store.reader().unwrap().totals().unwrap().counters["incidents_pruned"], 20);
    assert_eq!(
        take(&mut store, "h1", &[signal_frame("h1", 1)]),
        [FrameVerdict::Duplicate],
        "pruned is still acknowledged"
    );
    drop(store);
    let restored = Store::open(&path).unwrap().restore(far, None).unwrap();
    assert_eq!((restored.next_incident, restored.next_decision), (21, 21));
}

/// A thousand hosts, one signal each, in groups as the collector commits them. Prints what it reached.
#[test]
fn a_thousand_hosts_share_their_commits() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut store = Store::open(&directory.path().join("db")).unwrap();
    let hosts: Vec<String> = (0..1000).map(|n| format!("host{n:04}")).collect();
    let begun = Instant::now();
    let (mut frames, mut commits) = (0u64, 0u32);
    for sequence in 1..=5 {
        for group in hosts.chunks(100) {
            let mut batch = Batch::default();
            for host in group {
                assert_eq!(batch.frame(&store, host, STREAM, &signal_frame(host, sequence), NOW, None), TAKEN);
                frames += 1;
            }
            store.commit(&batch).unwrap();
            commits += 1;
        }
    }
    let took = begun.elapsed();
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let rate = frames as f64 / took.as_secs_f64();
    println!(
        "{frames} signals of 1000 hosts in {commits} commits: {rate:.0} signals/s, {:.2} ms a commit (unoptimised build)",
        took.as_secs_f64() * 1000.0 / f64::from(commits)
    );
    assert_eq!(store.reader().unwrap().totals().unwrap().counters["signals_accepted"], frames);
}
