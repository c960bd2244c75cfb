//! The core with a real store and a real clock: acknowledgements, incidents, verdicts, restarts, and a store that cannot be written.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use super::{Attachment, CoreConfig, CoreError, CoreHandle, StreamEnd, VerdictError};
use crate::clock::Timeline;
use crate::executor::{WebhookConfig, halt};
use railwatch_engine::{
    DecisionState, Effect, Element, EndedBy, IncidentState, Logged, Options, Severity, Signal, Timestamp, replay,
};
use railwatch_store::{
    AuditFilter, Frame, FrameBody, IncidentFilter, InventoryFilter, InventoryItem, OrderState, Retention, SignalFilter,
    Store, StreamId,
};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

const STREAM: StreamId = [9; 16];
const PATIENCE: Duration = Duration::from_secs(20);

fn spawn(directory: &Path, webhook: Option<WebhookConfig>) -> CoreHandle {
    let store = Store::open(&directory.join("railwatch.db")).unwrap();
    let config = CoreConfig {
        engine: Options::default(),
        retention: Retention::default(),
        state_dir: directory.to_owned(),
        webhook,
    };
    CoreHandle::spawn(store, config).unwrap()
}

async fn attach(core: &CoreHandle, host: &str) -> Attachment {
    core.attach(host, "boot1", STREAM, 1, Default::default()).await.unwrap()
}

fn signal_frame(host: &str, sequence: u64, name: &str, process: &str) -> Frame {
    let signal = Signal {
        name: name.into(),
        element: Element { host: host.into(), kind: "process".into(), name: process.into() },
        severity: Severity::Error,
        observed: Timeline::now(),
        half_width_ns: 1,
        value: 1.0,
        previous: None,
        unit: "1".into(),
        summary: format!("{host}-{sequence}"),
        attributes: BTreeMap::from([("code".to_owned(), "35".to_owned())]),
        incomplete_since: None,
        suppressed: 0,
    };
    Frame { sequence, skipped_signals: 0, skipped_windows: 0, body: FrameBody::Signal(signal) }
}

fn failed(host: &str, sequence: u64) -> Frame {
    signal_frame(host, sequence, "gpu.alloc.failed", "4242")
}

fn window(sequence: u64) -> Frame {
    Frame { sequence, skipped_signals: 0, skipped_windows: 0, body: FrameBody::Windows }
}

async fn acknowledged(attachment: &Attachment, through: u64) {
    let mut acknowledged = attachment.acknowledged();
    timeout(PATIENCE, acknowledged.wait_for(|now| *now >= through)).await.unwrap().unwrap();
}

/// Until `there` gives something.
async fn eventually<T>(mut there: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = there() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "it did not come");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_is_acknowledged_is_stored_and_judged_and_told_and_replays_are_recognised() {
    let directory = tempfile::tempdir().unwrap();
    let core = spawn(directory.path(), None);
    let mut published = core.subscribe();
    let host = attach(&core, "h1").await;
    for frame in [window(1), failed("h1", 2), failed("h1", 2), window(3)] {
        host.submit(frame).await.unwrap();
    }
    acknowledged(&host, 3).await;
    let reader = core.reader().unwrap();
    let incidents = reader.incidents(&IncidentFilter::default()).unwrap();
    assert_eq!((incidents.len(), incidents[0].signal_count), (1, 1));
    let joined = SignalFilter { incident: Some(incidents[0].id), ..SignalFilter::default() };
    assert_eq!(reader.signals(&joined).unwrap().len(), 1);
    let told = timeout(PATIENCE, published.recv()).await.unwrap().unwrap();
    assert!(
        told.effects
            .iter()
            .any(|effect| matches!(effect, Effect::Incident(incident) if incident.id == incidents[0].id))
    );
    let figures = core.figures();
    assert_eq!((figures.frames_accepted, figures.frames_duplicate, figures.signals, figures.windows), (3, 1, 1, 2));
    core.stop().await;

    let core = spawn(directory.path(), None);
    assert_eq!(core.epoch(), 2);
    let host = attach(&core, "h1").await;
    assert_eq!(*host.acknowledged().borrow(), 3, "what the Welcome says");
    for frame in [failed("h1", 2), failed("h1", 4)] {
        host.submit(frame).await.unwrap();
    }
    acknowledged(&host, 4).await;
    let incidents = core.reader().unwrap().incidents(&IncidentFilter::default()).unwrap();
    assert_eq!((incidents.len(), incidents[0].signal_count), (1, 2), "the incident goes on");
    core.stop().await;
}

#[tokio::test]
async fn a_host_whose_stream_breaks_is_missed_within_seconds_and_one_that_speaks_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let core = spawn(directory.path(), None);
    let mut hosts = Vec::new();
    for name in ["h1", "h2", "h3", "h4"] {
        hosts.push(attach(&core, name).await);
    }
    let first = hosts.remove(0);
    // The newest connection is the one that counts: an older one that ends says nothing.
    let again = attach(&core, "h1").await;
    first.detach(StreamEnd::Broken(EndedBy::Host)).await;
    drop(hosts.pop());
    let reader = core.reader().unwrap();
    let opened = eventually(|| {
        again.heard();
        hosts.iter().for_each(Attachment::heard);
        reader.incidents(&IncidentFilter::default()).unwrap().pop()
    })
    .await;
    assert_eq!((opened.element.host.as_str(), opened.hypotheses[0].fault_mode.as_str()), ("h4", "agent_silent"));
    let sensed_ms = (opened.opened.0 - opened.started.0) / 1_000_000;
    assert!((1_000..1_500).contains(&sensed_ms), "sensed after {sensed_ms} ms");
    let back = attach(&core, "h4").await;
    let resolved = eventually(|| {
        again.heard();
        back.heard();
        hosts.iter().for_each(Attachment::heard);
        reader.incident(opened.id).unwrap().filter(|incident| incident.state == IncidentState::Resolved)
    })
    .await;
    assert!(resolved.resolved.is_some());
    assert_eq!(reader.incidents(&IncidentFilter::default()).unwrap().len(), 1, "nobody else was missed");
    core.stop().await;
}

/// A server that answers 500 until told otherwise, and counts what it carried out by key.
fn server() -> (String, mpsc::Receiver<String>, std::sync::Arc<std::sync::atomic::AtomicU16>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let status = std::sync::Arc::new(std::sync::atomic::AtomicU16::new(500));
    let answer = status.clone();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut piece = [0; 4096];
            let text = loop {
                let read = stream.read(&mut piece).unwrap_or(0);
                request.extend_from_slice(&piece[..read]);
                let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
                let length =
                    text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.trim().parse().ok());
                let whole = text.split_once("\r\n\r\n").is_some_and(|(_, body)| Some(body.len()) >= length);
                if read == 0 || (length.is_some() && whole) {
                    break text;
                }
            };
            let key =
                text.split("idempotency-key: ").nth(1).and_then(|rest| rest.lines().next()).unwrap_or("").to_owned();
            let status = answer.load(std::sync::atomic::Ordering::SeqCst);
            let _ = write!(stream, "HTTP/1.1 {status} Said\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            if sender.send(key).is_err() {
                return;
            }
        }
    });
    (url, receiver, status)
}

fn webhook(directory: &Path, url: &str) -> WebhookConfig {
    std::fs::write(directory.join("secret"), "0123456789abcdef").unwrap();
    toml::from_str(&format!("url = {url:?}\nsecret_file = {:?}\nbackoff_ms = 20", directory.join("secret"))).unwrap()
}

#[tokio::test]
async fn an_approved_decision_is_carried_out_over_a_restart_with_one_key() {
    let directory = tempfile::tempdir().unwrap();
    let (url, requests, status) = server();
    let config = webhook(directory.path(), &url);
    let core = spawn(directory.path(), Some(config.clone()));
    let host = attach(&core, "h1").await;
    host.submit(failed("h1", 1)).await.unwrap();
    acknowledged(&host, 1).await;
    assert_eq!(core.verdict(77, "ana", true, "").await, Err(VerdictError::Unknown(77)));
    let decision = core.verdict(1, "ana", true, "go").await.unwrap();
    assert_eq!((decision.state, decision.actor.as_deref()), (DecisionState::Ordered, Some("ana")));
    let again = core.verdict(1, "bob", false, "").await.unwrap_err();
    assert_eq!(again.to_string(), "decision 1 waits for no verdict: it is ordered");
    let key = requests.recv_timeout(PATIENCE).unwrap();
    core.stop().await;
    status.store(200, std::sync::atomic::Ordering::SeqCst);

    let core = spawn(directory.path(), Some(config));
    let reader = core.reader().unwrap();
    let done =
        eventually(|| reader.decision(1).unwrap().filter(|decision| decision.state == DecisionState::Done)).await;
    assert_eq!(done.outcome.as_deref(), Some("HTTP 200"));
    let order = reader.orders(Some(1), 0).unwrap().remove(0);
    assert_eq!((order.state, order.order.epoch), (OrderState::Done, 2));
    assert!(order.attempts >= 2);
    assert!(requests.try_iter().all(|sent| sent == key), "every attempt had the same key");
    let audit: Vec<String> = reader
        .audit(&AuditFilter { after: Some(0), limit: 0 })
        .unwrap()
        .into_iter()
        .map(|(_, entry)| entry.what)
        .collect();
    for what in ["decision.proposed", "verdict.refused", "decision.approved", "order.given", "order.done"] {
        assert!(audit.iter().any(|found| found == what), "{what} is not in {audit:?}");
    }
    core.stop().await;
}

#[tokio::test]
async fn halted_by_hand_or_by_api_an_approval_is_withheld_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let (url, requests, status) = server();
    status.store(200, std::sync::atomic::Ordering::SeqCst);
    let core = spawn(directory.path(), Some(webhook(directory.path(), &url)));
    let host = attach(&core, "h1").await;
    host.submit(failed("h1", 1)).await.unwrap();
    acknowledged(&host, 1).await;
    std::fs::write(directory.path().join(halt::FILE), "").unwrap();
    let withheld = core.verdict(1, "ana", true, "").await.unwrap();
    assert_eq!(withheld.state, DecisionState::Withheld);
    assert!(withheld.outcome.unwrap().contains("halted all acting"));
    assert!(core.release("ana").await.unwrap());
    core.halt("bob", "storm").await.unwrap();
    assert_eq!(core.halted().unwrap().actor, "bob");
    let withheld = core.verdict(1, "ana", true, "").await.unwrap();
    assert!(withheld.outcome.unwrap().contains("bob halted all acting"));
    core.release("bob").await.unwrap();
    assert_eq!(core.verdict(1, "ana", true, "").await.unwrap().state, DecisionState::Ordered);
    requests.recv_timeout(PATIENCE).unwrap();
    assert!(requests.try_recv().is_err());
    core.stop().await;
}

#[tokio::test]
async fn while_the_store_cannot_be_written_nothing_is_acknowledged_and_nothing_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let core = spawn(directory.path(), None);
    let host = attach(&core, "h1").await;
    host.submit(window(1)).await.unwrap();
    acknowledged(&host, 1).await;
    let other = rusqlite::Connection::open(directory.path().join("railwatch.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    host.submit(failed("h1", 2)).await.unwrap();
    eventually(|| core.store_error()).await;
    assert!(core.store_error().unwrap().contains("locked"), "{:?}", core.store_error());
    for mtu in ["9000", "1500"] {
        let (entity_kind, key, value) = ("port".to_owned(), "mtu".to_owned(), mtu.to_owned());
        let item = InventoryItem { entity_kind, key, value, ..InventoryItem::default() };
        host.inventory(vec![item]).await.unwrap();
    }
    assert!(matches!(core.verdict(1, "ana", true, "").await, Err(VerdictError::Core(CoreError::Store(_)))));
    assert_eq!(*host.acknowledged().borrow(), 1);
    assert_eq!(core.reader().unwrap().incidents(&IncidentFilter::default()).unwrap(), []);
    other.execute_batch("ROLLBACK").unwrap();
    acknowledged(&host, 2).await;
    let incidents = core.reader().unwrap().incidents(&IncidentFilter::default()).unwrap();
    let of_process = incidents.iter().filter(|incident| incident.element.name == "4242").count();
    assert_eq!(of_process, 1, "{incidents:?}");
    assert_eq!(core.store_error(), None);
    let reader = core.reader().unwrap();
    let inventory = || reader.inventory(&InventoryFilter::default()).unwrap();
    let stored = eventually(|| Some(inventory()).filter(|rows| !rows.is_empty())).await;
    assert_eq!(stored.iter().map(|row| row.value.as_str()).collect::<Vec<_>>(), ["1500"], "the last that was told");
    core.stop().await;
}

#[tokio::test]
async fn the_event_log_of_the_store_replays_to_the_same_incidents() {
    let directory = tempfile::tempdir().unwrap();
    for epoch in 1..=2u64 {
        let core = spawn(directory.path(), None);
        let host = attach(&core, "h1").await;
        for sequence in epoch * 10..epoch * 10 + 3 {
            host.submit(failed("h1", sequence)).await.unwrap();
        }
        acknowledged(&host, epoch * 10 + 2).await;
        core.verdict(1, "ana", false, "").await.ok();
        core.stop().await;
    }
    let store = Store::open(&directory.path().join("railwatch.db")).unwrap();
    let reader = store.reader().unwrap();
    let log: Vec<(Timestamp, Logged)> =
        reader.event_log(0, 0).unwrap().into_iter().map(|(_, _, now, line)| (now, line)).collect();
    let told = replay(&Options::default(), log);
    let last = told.iter().rev().flat_map(|(_, effects)| effects.iter().rev()).find_map(|effect| match effect {
        Effect::Incident(incident) if incident.id == 1 => Some(incident.clone()),
        _ => None,
    });
    assert_eq!(last, reader.incident(1).unwrap());
}

/// Prints what the specification's figure rests on; the bound is the specification's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_is_an_incident_on_disk_once_it_is_acknowledged_while_windows_pour_in() {
    let directory = tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
    let core = spawn(directory.path(), None);
    // A second host sends windows all the while.
    let noise = attach(&core, "noise").await;
    let noisy = tokio::spawn(async move {
        for sequence in 1.. {
            if noise.submit(window(sequence)).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    });
    let host = attach(&core, "h1").await;
    for sequence in 1..=200 {
        host.submit(signal_frame("h1", sequence, "gpu.alloc.failed", &sequence.to_string())).await.unwrap();
        acknowledged(&host, sequence).await;
        assert_eq!(core.reader().unwrap().totals().unwrap().incidents, sequence);
    }
    noisy.abort();
    core.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_hosts_share_commits_and_all_are_acknowledged() {
    let directory = tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
    let core = spawn(directory.path(), None);
    let begun = Instant::now();
    let hosts: Vec<_> = (0..1_000)
        .map(|number| {
            let core = core.clone();
            tokio::spawn(async move {
                let name = format!("host{number:04}");
                let host = attach(&core, &name).await;
                for sequence in 1..=10 {
                    host.heard();
                    host.submit(if sequence == 5 { failed(&name, 5) } else { window(sequence) }).await.unwrap();
                }
                acknowledged(&host, 10).await;
                host.detach(StreamEnd::Orderly).await;
            })
        })
        .collect();
    for host in hosts {
        host.await.unwrap();
    }
    let took = begun.elapsed();
    let figures = core.figures();
    println!(
        "10000 frames of 1000 hosts, 1000 of them incidents, in {took:?}: {} commits, {} ms in them (unoptimised build)",
        figures.commits,
        figures.commit_ns / 1_000_000
    );
    assert_eq!(figures.frames_accepted, 10_000);
    assert!(figures.commits < 2_500, "they share commits: {}", figures.commits);
    let totals = core.reader().unwrap().totals().unwrap();
    assert_eq!(totals.counters["signals_accepted"], 1_000);
    core.stop().await;
}

/// Halts and releases in the audit, oldest first: who, what, why.
fn halts(core: &CoreHandle) -> Vec<(String, String, String)> {
    let audit = core.reader().unwrap().audit(&AuditFilter { after: Some(0), limit: 0 }).unwrap();
    let lines = audit.into_iter().map(|(_, line)| (line.actor, line.what, line.detail));
    lines.filter(|(_, what, _)| what == "halt" || what == "release").collect()
}

#[tokio::test]
async fn every_halt_and_release_is_one_line_of_the_audit_with_who_and_why_whether_or_not_a_collector_ran() {
    let directory = tempfile::tempdir().unwrap();
    let line = |who: &str, what: &str, why: &str| (who.to_owned(), what.to_owned(), why.to_owned());
    let halt = |actor: &str, reason: &str| halt::Halt { actor: actor.to_owned(), reason: reason.to_owned() };
    let mut expected = Vec::new();

    let core = spawn(directory.path(), None);
    core.halt("bob", "storm").await.unwrap();
    expected.push(line("bob", "halt", "nothing is carried out: storm"));
    assert_eq!(halts(&core), expected);
    core.stop().await;

    // A restart repeats nothing.
    let core = spawn(directory.path(), None);
    core.stop().await;
    assert_eq!(halts(&core), expected);

    halt::clear(directory.path()).unwrap();
    let core = spawn(directory.path(), None);
    core.stop().await;
    expected.push(line("someone", "release", "acting goes on: the file HALT was removed"));
    assert_eq!(halts(&core), expected);

    halt::set(directory.path(), &halt("ana", "wrong rack")).unwrap();
    let core = spawn(directory.path(), None);
    core.stop().await;
    expected.push(line("ana", "halt", "nothing is carried out: wrong rack"));
    assert_eq!(halts(&core), expected);

    // Released and thrown again by somebody else while nothing ran.
    halt::set(directory.path(), &halt("eve", "")).unwrap();
    let core = spawn(directory.path(), None);
    expected.push(line("eve", "halt", "nothing is carried out"));
    assert!(core.release("ana").await.unwrap());
    expected.push(line("ana", "release", "acting goes on"));
    assert_eq!(halts(&core), expected);
    core.stop().await;
}

/// The core looks at the switch by itself ten times a second: what it sees in the middle of a release has an actor too.
#[tokio::test]
async fn a_release_has_its_actor_however_it_falls_between_two_looks_at_the_switch() {
    let directory = tempfile::tempdir().unwrap();
    let core = spawn(directory.path(), None);
    for _ in 0..200 {
        core.halt("bob", "").await.unwrap();
        assert!(core.release("ana").await.unwrap());
    }
    let releases: Vec<_> = halts(&core).into_iter().filter(|(_, what, _)| what == "release").collect();
    assert_eq!(releases.len(), 200);
    assert!(releases.iter().all(|(who, ..)| who == "ana"), "{releases:?}");
    core.stop().await;
}

#[tokio::test]
async fn the_collectors_own_signals_are_stored_and_judged_like_a_hosts_and_go_on_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    for run in 1..=2u64 {
        let core = spawn(directory.path(), None);
        let FrameBody::Signal(signal) = failed("h", run).body else { panic!("a signal") };
        core.observe(signal).await.unwrap();
        let reader = core.reader().unwrap();
        let stored = reader.signals(&SignalFilter::default()).unwrap();
        assert_eq!(stored.len() as u64, run, "stored when it returns");
        assert!(stored.iter().all(|row| row.incident == Some(1) && row.signal.element.host == "h"), "{stored:?}");
        let own: Vec<_> = core.observed(&["gpu.alloc.failed"]).unwrap().iter().map(|signal| signal.observed).collect();
        assert_eq!(own, stored.iter().map(|row| row.signal.observed).collect::<Vec<_>>(), "the newest first");
        assert_eq!(core.observed(&["another"]).unwrap(), []);
        core.stop().await;
    }
}
