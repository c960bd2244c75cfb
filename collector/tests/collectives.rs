//! Ranks of one communicator on several hosts, as their agents tell of them, and what the collector says when one stands still.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod agent;

use agent::{Agent, Collector, PATIENCE, mono_ns};
use railwatch_engine::Signal;
use railwatch_store::{Reader, SignalFilter};
use railwatch_wire::v1::{self, agent_message::Body};
use std::time::{Duration, Instant};

/// Of each host: its one rank at a sequence number.
fn told(rank: u32, ranks: u32, sequence: u64) -> Body {
    let communicator = v1::Communicator {
        library: "nccl".into(),
        identity: 0xab,
        rank: Some(rank),
        ranks: Some(ranks),
        last_sequence: sequence,
        state: "alive".into(),
        ..v1::Communicator::default()
    };
    let process = v1::GpuProcess {
        pid: 100 + rank,
        comm: "python".into(),
        started_unix_ns: 1,
        communicators: vec![communicator],
        ..v1::GpuProcess::default()
    };
    Body::Snapshot(v1::Snapshot {
        taken_mono_ns: mono_ns(),
        gpu: Some(v1::GpuState { processes: vec![process], ..v1::GpuState::default() }),
        sources: vec![v1::SourceState { source: "gpu.memory".into(), on: true, ..v1::SourceState::default() }],
        ..v1::Snapshot::default()
    })
}

/// The collector's signals of collectives, the first first.
fn signals(collector: &Collector) -> Vec<Signal> {
    let reader = Reader::open(&collector.state_dir().join("railwatch.db")).unwrap();
    let stored = reader.signals(&SignalFilter::default()).unwrap();
    let all = stored.into_iter().rev().map(|stored| stored.signal);
    all.filter(|signal| signal.name.starts_with("collective.")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rank_that_stands_while_ranks_of_other_hosts_wait_is_told_on_its_host_and_so_is_its_going_on() {
    const RANKS: u32 = 3;
    let collector = Collector::start().await;
    let mut agents: Vec<Agent> = Vec::new();
    for rank in 0..RANKS {
        agents.push(collector.agent(&format!("h{rank}")).await);
    }
    // Rank 1 stops at 30, the others wait one further, until it is told of; then all go on.
    let (mut second, mut stop) = (0, 30);
    let end = Instant::now() + PATIENCE;
    let found = loop {
        for (rank, agent) in (0..).zip(&agents) {
            agent.say(told(rank, RANKS, second.min(stop + u64::from(rank != 1)))).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        second += 1;
        let found = signals(&collector);
        match &found[..] {
            [] => {}
            [_] => stop = u64::MAX - 1,
            _ => break found,
        }
        assert!(Instant::now() < end, "never told: {second} s");
    };
    let [stalled, resumed] = &found[..] else { panic!("{found:?}") };
    let of = |key: &str| stalled.attributes.get(key).map(String::as_str).unwrap_or_default();
    assert_eq!((stalled.name.as_str(), resumed.name.as_str()), ("collective.stalled", "collective.resumed"));
    for signal in [stalled, resumed] {
        assert_eq!((signal.element.host.as_str(), signal.element.name.as_str()), ("h1", "00000000000000ab/1"));
    }
    assert_eq!((of("scope"), of("cause"), of("sequence"), of("ahead_sequence")), ("hosts", "behind", "30", "31"));
    assert_eq!((of("behind_ranks"), of("ranks"), of("pid")), ("1", "3", "101"));
    assert!(
        stalled.summary.contains("python (pid 101), rank 1") && stalled.summary.contains("rank 0 on h0"),
        "{stalled:?}"
    );
}
