//! kill -9 of both daemons while processes fail allocations of sizes of their own: what the agent was there for is in
//! the store, once.

use anyhow::{Result, ensure};
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
        *sizes.entry(stored.signal.value as u64).or_default() += 1;
    }
    Ok(sizes)
}

#[test]
fn every_failure_that_the_agent_was_there_for_is_stored_once_however_daemons_are_killed() -> Result<()> {
    let mut installation = Installation::start(&Options::default())?;
    // The library is known and traced before the first process that counts.
    let known = Caller::start(&["libcudart.so"])?;
    installation.attached(known.pid())?;

    let mut next = FIRST;
    let mut fail = |count: u64| -> Result<()> {
        for _ in 0..count {
            fails(next)?;
            next += 1;
        }
        Ok(())
    };
    fail(5)?;
    installation.collector.kill()?;
    let outage = Instant::now();
    while outage.elapsed() < OUTAGE {
        fail(2)?;
        thread::sleep(Duration::from_millis(600));
    }
    installation.collector.restart()?;
    installation.collector_restarted()?;
    // Some of these before the agent is back on its stream, some after; then it dies with what it has not sent.
    fail(10)?;
    installation.agent.kill()?;
    let mortal = next;
    fails(mortal)?;
    installation.agent.restart()?;
    installation.connected()?;

    let wanted: Vec<u64> = (FIRST..mortal).collect();
    let sizes = eventually("every failure in the store", || {
        let sizes = stored(&installation)?;
        let missing: Vec<_> = wanted.iter().filter(|size| !sizes.contains_key(size)).map(|size| size - FIRST).collect();
        ensure!(missing.is_empty(), "of {} failures, missing by number: {missing:?}", wanted.len());
        Ok(Some(sizes))
    })?;
    // And nothing comes a second time behind it.
    fails(mortal + 1)?;
    eventually("a failure after all", || Ok(stored(&installation)?.contains_key(&(mortal + 1)).then_some(())))?;
    let doubled: Vec<_> = stored(&installation)?.into_iter().filter(|(_, count)| *count > 1).collect();
    ensure!(doubled.is_empty(), "stored more than once: {doubled:?}");
    eprintln!("{} failures, {} stored before the last", wanted.len(), sizes.len());
    Ok(())
}
