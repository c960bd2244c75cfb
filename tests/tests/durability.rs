//! kill -9 of the collector, again and again, while a host sends signals that each carry a payload of their own:
//! what was acknowledged is stored, once.

use anyhow::{Result, ensure};
use railwatch_store::{Reader, SignalFilter};
use railwatch_tests::{
    installation::{HOST, Installation, Options, eventually, heard},
    uplink::Host,
};
use railwatch_wire::v1::{Entity, Frame, Severity, Signal, frame};
use std::{
    collections::BTreeSet,
    process::Command,
    time::{Duration, Instant},
};

const SIGNALS: u64 = 3_000;
const KILLS: u64 = 6;
const SENDER: &str = "sender1";

fn signal(sequence: u64, start: Instant) -> Frame {
    let signal = Signal {
        name: "gpu.alloc.failed".into(),
        entity: Some(Entity { kind: "process".into(), name: format!("{}", 100_000 + sequence % 40) }),
        severity: Severity::Error.into(),
        observed_mono_ns: u64::try_from(start.elapsed().as_nanos()).unwrap_or(0),
        // The payload: no other signal has it.
        value: sequence as f64,
        unit: "1".into(),
        summary: "cudaMalloc failed".into(),
        attributes: [("code".to_owned(), "2".to_owned())].into(),
        ..Signal::default()
    };
    Frame { sequence, body: Some(frame::Body::Signal(signal)), ..Frame::default() }
}

#[test]
fn what_was_acknowledged_is_stored_once_however_often_the_collector_is_killed() -> Result<()> {
    let mut installation = Installation::start(&Options::default())?;
    let pki = installation.path("sender-pki");
    let issued = Command::new(railwatch_tests::installation::program("railwatch-collector")?)
        .args(["pki", "issue", SENDER, "--state-dir"])
        .arg(installation.path("collector"))
        .arg("--out")
        .arg(&pki)
        .status()?;
    ensure!(issued.success(), "pki issue failed");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let start = Instant::now();
    let mut acknowledged_ever = 0;
    let mut resent = 0;
    for round in 0..=KILLS {
        let end = SIGNALS * (round + 1) / (KILLS + 1);
        let address = installation.address("uplink");
        let reached = runtime.block_on(async {
            let host = eventually_connected(&address, &pki, start).await?;
            let resume = host.welcome.acknowledged_through;
            ensure!(
                resume >= acknowledged_ever,
                "the collector acknowledged {acknowledged_ever} and came back with {resume}"
            );
            // As an agent whose spool was trimmed late: what is stored already comes again.
            let from = resume.saturating_sub(50) + 1;
            resent += resume + 1 - from;
            for sequence in from..=end {
                host.frame(signal(sequence, start)).await?;
            }
            if round == KILLS {
                host.acknowledged_through(SIGNALS).await;
            } else {
                // Somewhere between the first and the last acknowledgement of this round.
                tokio::time::sleep(Duration::from_millis(3 + round * 7)).await;
            }
            Ok(host.acknowledged())
        })?;
        acknowledged_ever = acknowledged_ever.max(reached);
        if round < KILLS {
            installation.collector.kill()?;
            installation.collector.restart()?;
            installation.collector_restarted()?;
        }
    }
    ensure!(resent > 0, "the test sent nothing twice");

    let reader = Reader::open(&installation.path("collector/railwatch.db"))?;
    let stored = reader.signals(&SignalFilter { host: Some(SENDER.into()), ..SignalFilter::default() })?;
    let payloads: BTreeSet<u64> = stored.iter().map(|stored| stored.signal.value as u64).collect();
    ensure!(stored.len() == payloads.len(), "{} signals stored, {} different ones", stored.len(), payloads.len());
    let wanted: BTreeSet<u64> = (1..=SIGNALS).collect();
    let missing: Vec<_> = wanted.difference(&payloads).take(10).collect();
    ensure!(missing.is_empty(), "acknowledged and not stored: {missing:?}…");
    // The real agent beside it came back by itself.
    eventually("the agent's return", || {
        Ok(installation.rows(&["hosts"])?.iter().find(|row| heard(row, HOST)).map(drop))
    })
}

async fn eventually_connected(address: &str, pki: &std::path::Path, start: Instant) -> Result<Host> {
    let end = Instant::now() + railwatch_tests::installation::PATIENCE;
    loop {
        match Host::connect(address, pki, SENDER, *b"durability-test!", start).await {
            Ok(host) => return Ok(host),
            Err(error) if Instant::now() >= end => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
