//! The uplink against agents that behave badly, over real mTLS: each gets a clear error or a counted rejection, and
//! neither its own good frames nor any other host suffer.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod agent;

use agent::{Collector, definition, encoded, hello, mono_ns, signal, windows};
use railwatch_collector::certificates;
use railwatch_wire::{
    limits,
    v1::{self, agent_message::Body, collector_message::Body as Answer, frame::Body as Frame, reject::Reason},
};
use std::{collections::BTreeMap, sync::atomic::Ordering};
use tonic::Code;

/// An agent whose stream must stay untouched by what another does.
struct Witness(agent::Agent, u64);

impl Witness {
    async fn of(collector: &Collector) -> Self {
        Self(collector.agent("witness").await, 0)
    }

    async fn is_well(&mut self) {
        self.1 += 1;
        self.0.frame(self.1, signal("all is well")).await;
        self.0.acknowledged(self.1).await;
    }
}

#[tokio::test]
async fn a_hello_that_cannot_be_taken_is_told_why() {
    let collector = Collector::start().await;
    let mut witness = Witness::of(&collector).await;
    for (bad, reason, says) in [
        (v1::Hello { protocol_min: 7, protocol_max: 9, ..hello("a") }, Reason::ProtocolVersion, "7 to 9"),
        (hello("b"), Reason::HostName, "certificate is for \"a\""),
        (v1::Hello { stream_id: vec![1, 2], ..hello("a") }, Reason::Malformed, "expected 16"),
    ] {
        let (_agent, answer) = collector.open("a", bad).await;
        let Answer::Reject(reject) = answer else { panic!("expected {reason:?}, got {answer:?}") };
        assert_eq!(reject.reason(), reason);
        assert!(reject.message.contains(says), "{}", reject.message);
    }
    let agent = agent::Agent::attach(collector.channel(collector.credentials("a")).await.unwrap());
    let mut agent = agent.await;
    agent.frame(1, signal("before hello")).await;
    assert_eq!(agent.rejected().await.reason(), Reason::Malformed);
    witness.is_well().await;
    assert!(
        collector
            .metrics()
            .await
            .contains("railwatch_collector_uplink_streams_rejected_total{reason=\"host_name\"} 1\n")
    );
}

#[tokio::test]
async fn a_newer_version_and_unknown_fields_are_taken() {
    let collector = Collector::start().await;
    let (mut agent, answer) = collector.open("a", v1::Hello { protocol_max: 900, ..hello("a") }).await;
    let Answer::Welcome(welcome) = answer else { panic!("{answer:?}") };
    assert_eq!((welcome.protocol_version, welcome.acknowledged_through), (1, 0));
    // Field 2000 of the message, length-delimited, 3 bytes: a body that this version does not know.
    agent.say_raw(vec![0x82, 0x7d, 3, 1, 2, 3]).await;
    // A frame followed by the same unknown field.
    let frame = v1::Frame { sequence: 1, body: Some(signal("known")), ..v1::Frame::default() };
    let mut bytes = encoded(Body::Frame(frame));
    bytes.extend([0x82, 0x7d, 3, 1, 2, 3]);
    agent.say_raw(bytes).await;
    agent.acknowledged(1).await;
    assert_eq!(collector.row("a").rejected_frames, BTreeMap::from([("empty".to_owned(), 1)]));
}

#[tokio::test]
async fn what_cannot_be_read_ends_its_stream_with_a_status_and_nothing_else() {
    let collector = Collector::start().await;
    let mut witness = Witness::of(&collector).await;
    let truncated = {
        let bytes = encoded(Body::Frame(v1::Frame { sequence: 2, body: Some(signal("cut")), ..v1::Frame::default() }));
        bytes[..bytes.len() - 3].to_vec()
    };
    for (bytes, code, says, reason) in [
        (vec![0; limits::MESSAGE_BYTES_MAX + 1], Code::OutOfRange, "larger than 4194304 bytes", "oversized"),
        (truncated, Code::InvalidArgument, "cannot be decoded", "malformed"),
        (vec![0xff; 64], Code::InvalidArgument, "cannot be decoded", "malformed"),
    ] {
        let (mut agent, answer) = collector.open("a", v1::Hello { stream_id: vec![bytes[0]; 16], ..hello("a") }).await;
        assert!(matches!(answer, Answer::Welcome(_)), "{answer:?}");
        let Answer::Welcome(welcome) = answer else { unreachable!() };
        let first = welcome.acknowledged_through + 1;
        agent.frame(first, signal("before")).await;
        agent.acknowledged(first).await;
        agent.say_raw(bytes).await;
        let (got, message) = agent.ended().await;
        assert_eq!(got, code, "{message}");
        assert!(message.contains(says), "{message}");
        assert!(
            collector
                .metrics()
                .await
                .contains(&format!("railwatch_collector_uplink_unreadable_total{{reason=\"{reason}\"}}"))
        );
        witness.is_well().await;
    }
}

#[tokio::test]
async fn a_bad_frame_is_counted_by_reason_and_acknowledged_with_the_rest() {
    let collector = Collector::start().await;
    let mut witness = Witness::of(&collector).await;
    let mut agent = collector.agent("a").await;
    collector.until("a", |row| row.clock_uncertainty_us.is_some()).await;
    agent.say(Body::Definitions(v1::Definitions { series: (0..4).map(definition).collect() })).await;
    let good = |value| Frame::Windows(windows(4, value));
    let bad_signal = |change: fn(&mut v1::Signal)| {
        let Frame::Signal(mut bad) = signal("bad") else { unreachable!() };
        change(&mut bad);
        Frame::Signal(bad)
    };
    let bad_windows = |change: fn(&mut v1::Windows)| {
        let mut bad = windows(4, 666.0);
        change(&mut bad);
        Frame::Windows(bad)
    };
    let frames = [
        Some(good(1.0)),
        None,
        Some(bad_windows(|w| _ = w.max.pop())),
        Some(bad_windows(|w| w.delta.push(1))),
        Some(bad_windows(|w| w.start_mono_ns = w.end_mono_ns + 1)),
        Some(bad_windows(|w| (w.start_mono_ns, w.end_mono_ns) = (1, 2))),
        Some(bad_windows(|w| w.end_mono_ns += 3_600_000_000_000)),
        Some(bad_windows(|w| w.sum[1] = f64::NAN)),
        Some(bad_windows(|w| w.series[2] = 42)),
        Some(signal("good")),
        Some(bad_signal(|s| s.value = f64::INFINITY)),
        Some(bad_signal(|s| s.name.clear())),
        Some(bad_signal(|s| s.name = "x".repeat(300))),
        Some(bad_signal(|s| s.summary = "x".repeat(2000))),
        Some(bad_signal(|s| s.attributes = (0..40).map(|n| (n.to_string(), String::new())).collect())),
        Some(bad_signal(|s| s.observed_mono_ns = 1)),
        Some(good(2.0)),
    ];
    let count = frames.len() as u64;
    for (sequence, body) in (1..).zip(frames) {
        agent.frame(sequence, body).await;
    }
    agent.acknowledged(count).await;
    let expected = [
        ("columns", 2),
        ("empty", 1),
        ("labels", 1),
        ("name", 2),
        ("not_finite", 2),
        ("text", 1),
        ("time_ahead", 1),
        ("time_backwards", 2),
        ("undefined_series", 1),
        ("window_order", 1),
    ];
    let row = collector.row("a");
    assert_eq!(row.rejected_frames, expected.map(|(reason, count)| (reason.to_owned(), count)).into());
    assert_eq!(row.seen, row.delivered + row.dropped);
    let page = collector.metrics().await;
    for (reason, count) in expected {
        assert!(
            page.contains(&format!("railwatch_collector_uplink_refused_total{{reason=\"{reason}\"}} {count}\n")),
            "{reason}\n{page}"
        );
    }
    let shown: Vec<_> =
        collector.daemon.live().host("a").lock().series.iter().map(|series| series.reading.last).collect();
    assert_eq!(shown, [2.0; 4], "the newest good window is what is shown");
    witness.is_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn series_beyond_the_limit_are_refused_and_the_first_ones_go_on() {
    let collector = Collector::start().await;
    let mut witness = Witness::of(&collector).await;
    let mut agent = collector.agent("a").await;
    let batch = |begin: usize| {
        encoded(Body::Definitions(v1::Definitions { series: (begin..begin + 20_000).map(definition).collect() }))
    };
    agent.say_raw(batch(0)).await;
    // Beyond the limit every definition is refused, whichever it is: one batch stands for all.
    let (beyond, batches) = (batch(20_000), 49);
    for _ in 0..batches {
        agent.say_raw(beyond.clone()).await;
    }
    agent.frame(1, Frame::Windows(windows(1000, 1.0))).await;
    agent.acknowledged(1).await;
    let row = collector.row("a");
    assert_eq!(row.series, limits::SERIES_PER_HOST_MAX as u64);
    assert_eq!(row.rejected_frames["series_limit"], batches * 20_000, "of a million");
    assert_eq!(row.rejected_frames.len(), 1, "{:?}", row.rejected_frames);
    witness.is_well().await;
}

#[tokio::test]
async fn a_gap_is_counted_unless_explained_and_a_replay_is_taken_once() {
    let collector = Collector::start().await;
    let mut agent = collector.agent("a").await;
    for sequence in [1, 2, 2, 1, 7] {
        agent.frame(sequence, signal("x")).await;
    }
    let explained = v1::Frame { sequence: 10, skipped_windows: 2, body: Some(signal("x")), ..v1::Frame::default() };
    agent.say(Body::Frame(explained)).await;
    agent.acknowledged(10).await;
    assert_eq!(collector.row("a").rejected_frames, BTreeMap::from([("replayed".to_owned(), 2)]));
    let page = collector.metrics().await;
    assert!(page.contains("railwatch_collector_uplink_missing_total 4\n"), "{page}");
    assert!(page.contains("railwatch_collector_uplink_skipped_total{kind=\"windows\"} 2\n"), "{page}");
    assert!(page.contains("railwatch_collector_uplink_signals_total 4\n"), "{page}");
}

#[tokio::test]
async fn the_newer_stream_of_a_host_wins() {
    let collector = Collector::start().await;
    let mut older = collector.agent("a").await;
    let mut newer = collector.agent("a").await;
    let reject = older.rejected().await;
    assert_eq!(reject.reason(), Reason::Superseded);
    assert!(reject.retry_after_ms > 0);
    newer.frame(1, signal("from the newer")).await;
    newer.acknowledged(1).await;
    assert!(collector.row("a").connected);
    drop(newer);
    collector.until("a", |row| !row.connected).await;
}

#[tokio::test]
async fn only_a_certificate_of_this_ca_that_is_not_revoked_gets_in() {
    let collector = Collector::start().await;
    let mut witness = Witness::of(&collector).await;
    let mut agent = collector.agent("a").await;
    certificates::revoke(&collector.state_dir(), "a").unwrap();
    assert_eq!(agent.rejected().await.reason(), Reason::Revoked);
    let revoked = collector.channel(collector.credentials("a")).await;
    let refused = match revoked {
        Err(_) => true,
        // With TLS 1.3 the client may hear of its refusal only when it first reads.
        Ok(channel) => agent::Agent::attach(channel).await.next().await.is_none_or(|answer| answer.is_err()),
    };
    assert!(refused, "a revoked certificate opens no stream");
    let other = Collector::start().await;
    let stranger = collector.channel(other.credentials("a")).await;
    assert!(stranger.is_err(), "the stranger's CA does not vouch for this collector");
    let plain = tonic::transport::Endpoint::from_shared(format!("http://{}", collector.daemon.addresses().uplink))
        .unwrap()
        .connect()
        .await;
    let refused = match plain {
        Err(_) => true,
        Ok(channel) => agent::Agent::attach(channel).await.next().await.is_none_or(|answer| answer.is_err()),
    };
    assert!(refused, "plain text opens no stream");
    witness.is_well().await;
}

#[tokio::test]
async fn a_hosts_clock_is_known_and_a_step_of_it_moves_nothing() {
    let collector = Collector::start().await;
    let agent = collector.agent("a").await;
    let row = collector.until("a", |row| row.clock_uncertainty_us.is_some_and(|us| us < 500_000)).await;
    let uncertainty = i64::try_from(row.clock_uncertainty_us.unwrap()).unwrap();
    assert!(row.clock_offset_us.unwrap().abs() <= uncertainty + 10_000, "{row:?}");
    let mapped = |mono| {
        let cell = collector.daemon.live().host("a");
        let estimate = cell.lock().clock.estimate(railwatch_collector::clock::Timeline::now()).unwrap();
        (estimate.map(mono).0, estimate.uncertainty_ns)
    };
    let instant = mono_ns();
    let (before, width) = mapped(instant);
    agent.realtime_ahead_ns.store(5_000_000_000, Ordering::Relaxed);
    let row = collector.until("a", |row| row.clock_steps == 1).await;
    assert!((row.clock_offset_us.unwrap() - 5_000_000).abs() < 1_000_000, "{row:?}");
    let (after, _) = mapped(instant);
    assert!(before.abs_diff(after) <= 2 * width, "{before} {after} ± {width}");
}

#[tokio::test]
async fn after_a_restart_a_stream_goes_on_after_what_was_acknowledged() {
    let collector = Collector::start().await;
    let mut agent = collector.agent("a").await;
    for sequence in 1..=50 {
        agent.frame(sequence, signal(&format!("payload {sequence}"))).await;
    }
    agent.acknowledged(50).await;
    drop(agent);
    let collector = collector.restart().await;
    let (mut agent, answer) =
        collector.open("a", v1::Hello { first_sequence: 41, next_sequence: 53, ..hello("a") }).await;
    let Answer::Welcome(welcome) = answer else { panic!("{answer:?}") };
    assert_eq!((welcome.acknowledged_through, welcome.collector_epoch), (50, 2));
    // An agent that did not hear the last acknowledgements sends some again.
    for sequence in 49..=52 {
        agent.frame(sequence, signal(&format!("payload {sequence}"))).await;
    }
    agent.acknowledged(52).await;
    let stored = collector.stored_signals();
    let expected: Vec<_> = (1..=52).map(|sequence| format!("payload {sequence}")).collect();
    assert_eq!(stored, expected, "each once, in order");
}

#[tokio::test]
async fn a_link_that_goes_down_is_an_incident_before_its_frame_is_a_second_old() {
    let collector = Collector::start().await;
    let mut agent = collector.agent("a").await;
    collector.until("a", |row| row.clock_uncertainty_us.is_some()).await;
    let Frame::Signal(down) = signal("eth0 went down") else { unreachable!() };
    let down = v1::Signal {
        name: "nic.link.down".into(),
        severity: v1::Severity::Error.into(),
        value: 0.0,
        previous: Some(1.0),
        ..down
    };
    agent.frame(1, Frame::Signal(down)).await;
    agent.acknowledged(1).await;
    let end = std::time::Instant::now() + agent::PATIENCE;
    loop {
        let page = collector.metrics().await;
        if page.contains("railwatch_collector_incidents_open{severity=\"error\"} 1\n") {
            break;
        }
        assert!(std::time::Instant::now() < end, "{page}");
    }
}
