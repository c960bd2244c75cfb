//! More than the store takes: a host that floods does not keep another's signal waiting, what is left out is counted and
//! acknowledged, no signal is, and the account adds up.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod agent;

use agent::{Collector, PATIENCE, definition, hello, signal, windows};
use railwatch_wire::v1::{
    self, agent_message::Body, collector_message::Body as Answer, frame::Body as Frame, reject::Reason,
};
use std::time::{Duration, Instant};

/// Frames of the flood; every second one is a signal.
const FRAMES: u64 = 3_000;
/// Frames of one transaction, and of one turn.
const BEFORE_THE_QUIET_MAX: usize = 1_024 + 32;

/// A number on the collector's page; 0 where it is not there.
async fn metric(collector: &Collector, name: &str) -> u64 {
    let page = collector.metrics().await;
    let line =
        page.lines().find_map(|line| line.strip_prefix("railwatch_collector_")?.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse::<f64>().ok()).map_or(0, |value| value as u64)
}

async fn until(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !reached().await {
        assert!(Instant::now() < end, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flooding_host_starves_nobody_and_what_is_left_out_is_counted_and_is_never_a_signal() {
    let collector = Collector::start().await;
    let (mut flood, mut quiet) = (collector.agent("flood").await, collector.agent("quiet").await);
    for host in ["flood", "quiet"] {
        collector.until(host, |row| row.clock_uncertainty_us.is_some()).await;
    }
    flood.say(Body::Definitions(v1::Definitions { series: (0..4).map(definition).collect() })).await;
    // Nothing can be written while somebody else writes.
    let store = rusqlite::Connection::open(collector.state_dir().join("railwatch.db")).unwrap();
    store.execute_batch("PRAGMA busy_timeout = 10000; BEGIN IMMEDIATE").unwrap();

    let sender = flood.sender();
    let flooding = tokio::spawn(async move {
        for sequence in 1..=FRAMES {
            let body = if sequence % 2 == 0 { signal("flood") } else { Frame::Windows(windows(4, sequence as f64)) };
            let frame = v1::Frame { sequence, body: Some(body), ..v1::Frame::default() };
            sender.send(agent::encoded(Body::Frame(frame))).await.unwrap();
        }
    });
    until("the level of overload", async || metric(&collector, "overload_level").await == 2).await;
    let mut submitted = 0;
    until("the flood to stand", async || {
        let before = submitted;
        submitted = metric(&collector, "uplink_frames_submitted_total").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        submitted > 1_024 && submitted == before
    })
    .await;
    quiet.frame(1, signal("quiet")).await;
    until("the quiet host's signal", async || {
        metric(&collector, "uplink_frames_submitted_total").await == submitted + 1
    })
    .await;
    let (_late, answer) = collector.open("late", hello("late")).await;
    let Answer::Reject(reject) = answer else { panic!("a host that was not there before is taken: {answer:?}") };
    assert_eq!(reject.reason(), Reason::Overloaded);
    assert!(reject.retry_after_ms >= 10_000, "{reject:?}");

    store.execute_batch("COMMIT").unwrap();
    quiet.acknowledged(1).await;
    flooding.await.unwrap();
    flood.acknowledged(FRAMES).await;

    let hosts: Vec<String> = store
        .prepare("SELECT host FROM signals ORDER BY rowid")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let place = hosts.iter().position(|host| host == "quiet").unwrap();
    assert_eq!(hosts.len() as u64, FRAMES / 2 + 1, "every signal is stored");
    assert!(place < BEFORE_THE_QUIET_MAX, "{place} signals of the flood were stored before the other host's only one");

    let row = collector.row("flood");
    let shed = row.rejected_frames["overloaded"];
    let taken = metric(&collector, "uplink_windows_total").await;
    assert!(shed > 0 && taken + shed == FRAMES / 2, "{taken} windows taken and {shed} shed of {}", FRAMES / 2);
    assert_eq!(metric(&collector, "overload_shed_total{what=\"windows\"}").await, shed);
    assert_eq!(metric(&collector, "uplink_refused_total{reason=\"overloaded\"}").await, shed);
    assert_eq!(metric(&collector, "overload_shed_total{what=\"streams\"}").await, 1);
    until("the end of the overload", async || metric(&collector, "overload_level").await == 0).await;
    let (_late, answer) = collector.open("late", hello("late")).await;
    assert!(matches!(answer, Answer::Welcome(_)), "{answer:?}");
}
