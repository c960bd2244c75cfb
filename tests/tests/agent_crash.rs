//! kill -9 of both daemons while processes fail allocations of sizes of their own: what the agent was there for is in
//! the store, once.

use anyhow::{Context, Result, ensure};
use railwatch_store::{Reader, SignalFilter};
use railwatch_tests::{
    gpu::Caller,
    installation::{HOST, Installation, Options, eventually},
};
use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

/// Bytes that the first failing process asks for; each further one asks for a byte more.
const FIRST: u64 = 1 << 36;
/// How long there is no collector.
const OUTAGE: Duration = Duration::from_secs(30);

/// A process that lives for one failed allocation.
fn fails(bytes: u64) -> Result<()> {
    let mut program = Caller::start(&["libcudart.so"])?;
    program.call("fixture_fail_next 2")?;
    ensure!(program.call(&format!("cudaMalloc &0 {bytes}"))? == 2, "the fixture fails as told");
    program.kill()
}

/// How often each size is in the store.
fn stored(installation: &Installation) -> Result<BTreeMap<u64, usize>> {
    let reader = Reader::open(&installation.path("collector/railwatch.db"))?;
    let filter = SignalFilter { host: Some(HOST.into()), ..SignalFilter::default() };
    let mut sizes = BTreeMap::new();
    for stored in reader.signals(&filter)?.iter().filter(|stored| stored.signal.name == "gpu.alloc.failed") {
        // The agent watches the whole host: other programs on it fail too.
        let bytes = stored.signal.value as u64;
        if bytes >= FIRST {
            *sizes.entry(bytes).or_default() += 1;
        }
    }
    Ok(sizes)
}

/// Signals that wait on the agent's disk for a collector.
fn spooled(installation: &Installation) -> Result<u64> {
    let page =
        ureq::get(format!("http://{}/metrics", installation.agent_metrics())).call()?.body_mut().read_to_string()?;
    let line = page.lines().find(|line| line.starts_with("railwatch_agent_spool_waiting{kind=\"signal\"}"));
    let value = line.and_then(|line| line.rsplit(' ').next()).context("the page says what waits")?;
    Ok(value.parse::<f64>()? as u64)
}

#[test]
fn every_failure_that_the_agent_was_there_for_is_stored_once_however_daemons_are_killed() -> Result<()> {
    let mut installation = Installation::start(&Options::default())?;
    // The library is known and traced before the first process that counts.
    let known = Caller::start(&["libcudart.so"])?;
    installation.attached(known.pid())?;

    let mut next = FIRST;
    let mut fail = |count: u64| -> Result<u64> {
        for _ in 0..count {
            fails(next)?;
            next += 1;
        }
        Ok(next)
    };
    let all_stored = |installation: &Installation, wanted: &[u64]| -> Result<BTreeMap<u64, usize>> {
        eventually("every failure in the store", || {
            let sizes = stored(installation)?;
            let missing: Vec<_> =
                wanted.iter().filter(|size| !sizes.contains_key(size)).map(|size| size - FIRST).collect();
            ensure!(missing.is_empty(), "of {} failures, missing by number: {missing:?}", wanted.len());
            Ok(Some(sizes))
        })
    };
    let before = fail(5)?;
    all_stored(&installation, &(FIRST..before).collect::<Vec<_>>())?;

    installation.collector.kill()?;
    let outage = Instant::now();
    let mut mortal = None;
    while outage.elapsed() < OUTAGE {
        let so_far = fail(2)?;
        if mortal.is_none() && outage.elapsed() > OUTAGE / 2 {
            // It dies with all that on its disk; what fails while there is no agent is not promised.
            let waiting = so_far - before;
            eventually("the failures on the agent's disk", || Ok((spooled(&installation)? >= waiting).then_some(())))?;
            installation.agent.kill()?;
            mortal = Some(so_far);
            fail(1)?;
            installation.agent.restart()?;
            eventually("the agent's page", || Ok(spooled(&installation).ok()))?;
        }
        thread::sleep(Duration::from_millis(600));
    }
    installation.collector.restart()?;
    installation.collector_restarted()?;
    // Some of these before the agent is back on its stream, some after.
    let end = fail(10)?;
    installation.connected()?;

    let wanted: Vec<u64> = (FIRST..end).filter(|size| Some(*size) != mortal).collect();
    let sizes = all_stored(&installation, &wanted)?;
    // And nothing comes a second time behind it.
    fails(end)?;
    eventually("a failure after all", || Ok(stored(&installation)?.contains_key(&end).then_some(())))?;
    let doubled: Vec<_> = stored(&installation)?.into_iter().filter(|(_, count)| *count > 1).collect();
    ensure!(doubled.is_empty(), "stored more than once: {doubled:?}");
    eprintln!("{} failures, {} stored before the last", wanted.len(), sizes.len());
    Ok(())
}
