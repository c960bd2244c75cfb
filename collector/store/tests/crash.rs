//! The store under kill -9 and under a full disk: a child process writes, and says what was acknowledged; this one looks at what is there.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use railwatch_engine::{Element, Severity, Signal, Timestamp};
use railwatch_store::{Batch, Frame, FrameBody, FrameVerdict, SignalFilter, Store, StoreError, StreamId};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const STREAM: StreamId = [1; 16];
const HOSTS: u64 = 8;
const DATABASE: &str = "RAILWATCH_TEST_DATABASE";

/// A frame whose payload names host and sequence, so that each is told from every other.
fn frame(host: &str, sequence: u64) -> Frame {
    let signal = Signal {
        name: "nic.errors".into(),
        element: Element { host: host.into(), kind: "nic".into(), name: "eth0".into() },
        severity: Severity::Error,
        observed: Timestamp(sequence),
        half_width_ns: 0,
        value: 1.0,
        previous: None,
        unit: "1".into(),
        summary: format!("{host}-{sequence}"),
        attributes: BTreeMap::new(),
        incomplete_since: None,
        suppressed: 0,
    };
    Frame { sequence, skipped_signals: 0, skipped_windows: 0, body: FrameBody::Signal(signal) }
}

fn host(number: u64) -> String {
    format!("host{number}")
}

/// Goes on where the store is: of every host the next frame, and the last once more as after a broken connection.
fn next_batch(store: &Store) -> Batch {
    let mut batch = Batch::default();
    for number in 0..HOSTS {
        let host = host(number);
        let through = store.acknowledged_through(&host, &STREAM);
        if through > 0 {
            let replay = batch.frame(store, &host, STREAM, &frame(&host, through), Timestamp(1), None);
            assert_eq!(replay, FrameVerdict::Duplicate);
        }
        batch.frame(store, &host, STREAM, &frame(&host, through + 1), Timestamp(1), None);
    }
    batch
}

/// The child's part: nothing where this is the parent.
#[test]
fn child_writes_until_it_dies_or_the_disk_is_full() {
    let Ok(path) = std::env::var(DATABASE) else { return };
    let mut store = Store::open(Path::new(&path)).unwrap();
    loop {
        let batch = next_batch(&store);
        match store.commit(&batch) {
            // On standard error: the test harness holds standard output back.
            Ok(_) => eprintln!("acknowledged {}", store.acknowledged_through("host0", &STREAM)),
            Err(error) => {
                assert!(matches!(error, StoreError::DiskFull { .. }), "{error:?}");
                assert!(error.to_string().contains("free some space"), "{error}");
                let through = store.acknowledged_through("host0", &STREAM);
                assert!(matches!(store.commit(&batch), Err(StoreError::DiskFull { .. })), "tried again, still full");
                assert_eq!(store.acknowledged_through("host0", &STREAM), through, "nothing more is acknowledged");
                let readable = store.reader().unwrap().signals(&SignalFilter { limit: 1, ..SignalFilter::default() });
                assert_eq!(readable.unwrap().len(), 1, "readable while full");
                eprintln!("full at {through}");
                return;
            }
        }
    }
}

fn child(path: &Path, limit_blocks: Option<u64>) -> Child {
    let test = std::env::current_exe().unwrap();
    let limit = limit_blocks.map_or(String::new(), |blocks| format!("trap '' XFSZ; ulimit -f {blocks}; "));
    Command::new("sh")
        .arg("-c")
        .arg(format!("{limit}exec \"$0\" --exact child_writes_until_it_dies_or_the_disk_is_full --nocapture"))
        .arg(test)
        .env(DATABASE, path)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Every acknowledged frame is there once, and none beyond what the streams say.
fn nothing_lost_nothing_doubled(path: &Path, acknowledged: u64) -> Store {
    let store = Store::open(path).unwrap();
    let signals = store.reader().unwrap().signals(&SignalFilter::default()).unwrap();
    let found: BTreeSet<String> = signals.iter().map(|stored| stored.signal.summary.clone()).collect();
    assert_eq!(found.len(), signals.len(), "a payload is there twice");
    let mut expected = BTreeSet::new();
    for host in (0..HOSTS).map(host) {
        let through = store.acknowledged_through(&host, &STREAM);
        assert!(through >= acknowledged, "{host}: {acknowledged} was acknowledged, the store knows {through}");
        expected.extend((1..=through).map(|sequence| format!("{host}-{sequence}")));
    }
    assert_eq!(found, expected);
    store
}

fn database(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("railwatch.db")
}

#[test]
fn a_killed_collector_has_every_acknowledged_frame_once() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = database(&directory);
    let mut last = 0;
    for round in 0..8u32 {
        let mut child = child(&path, None);
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let acknowledged = |line: &String| line.strip_prefix("acknowledged ").and_then(|n| n.parse::<u64>().ok());
        // Some commits in, then at an instant that has nothing to do with them.
        let mut seen = lines.by_ref().filter_map(|line| acknowledged(&line)).nth(3 + round as usize).unwrap();
        std::thread::sleep(Duration::from_micros(u64::from(round) * 313));
        child.kill().unwrap();
        child.wait().unwrap();
        seen = lines.filter_map(|line| acknowledged(&line)).last().unwrap_or(seen);
        assert!(seen > last, "the child of round {round} got on");
        last = seen;
        drop(nothing_lost_nothing_doubled(&path, seen));
    }
}

#[test]
fn a_full_disk_is_told_loses_nothing_acknowledged_and_is_over_when_there_is_room() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = database(&directory);
    let mut child = child(&path, Some(800));
    let lines: Vec<String> = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap).collect();
    assert!(child.wait().unwrap().success(), "{lines:?}");
    let full = lines.iter().find_map(|line| line.strip_prefix("full at ")).unwrap().parse::<u64>().unwrap();
    assert!(full > 3, "it filled up, and did not fail at once: {full}");
    let mut store = nothing_lost_nothing_doubled(&path, full);
    let batch = next_batch(&store);
    store.commit(&batch).unwrap();
    assert_eq!(store.acknowledged_through("host0", &STREAM), full + 1);
}
