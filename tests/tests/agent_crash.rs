//! kill -9 of both daemons while processes fail allocations of sizes of their own: all are in the store, once, also those
//! that were between the kernel's ring and the agent's disk, and those that failed while there was no agent.

use anyhow::{Context, Result, ensure};
use nix::{
    sys::{
        ptrace,
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
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

/// Bytes that the first failing process of each test asks for; each further one asks for a byte more. The tests run side
/// by side, and each agent watches the whole host.
const FIRST: [u64; 2] = [1 << 36, 1 << 37];
/// More than any test asks for.
const SIZES_MAX: u64 = 1 << 16;
/// How often the agent is killed in the second test.
const KILLS: u64 = 8;
/// Events taken out of the kernel's ring, on the agent's page.
const READ: &str = "railwatch_gpu_kernel_events_read_total";
/// How long there is no collector.
const OUTAGE: Duration = Duration::from_secs(30);

/// A process that lives for one failed allocation.
fn fails(bytes: u64) -> Result<()> {
    let mut program = Caller::start(&["libcudart.so"])?;
    program.call("fixture_fail_next 2")?;
    ensure!(program.call(&format!("cudaMalloc &0 {bytes}"))? == 2, "the fixture fails as told");
    program.kill()
}

/// How often each size of a test is in the store.
fn stored(installation: &Installation, first: u64) -> Result<BTreeMap<u64, usize>> {
    let reader = Reader::open(&installation.path("collector/railwatch.db"))?;
    let filter = SignalFilter { host: Some(HOST.into()), ..SignalFilter::default() };
    let mut sizes = BTreeMap::new();
    for stored in reader.signals(&filter)?.iter().filter(|stored| stored.signal.name == "gpu.alloc.failed") {
        // Other programs on the host fail too.
        let bytes = stored.signal.value as u64;
        if (first..first + SIZES_MAX).contains(&bytes) {
            *sizes.entry(bytes).or_default() += 1;
        }
    }
    Ok(sizes)
}

/// A number on the agent's metrics page.
fn metric(installation: &Installation, series: &str) -> Result<u64> {
    let page =
        ureq::get(format!("http://{}/metrics", installation.agent_metrics())).call()?.body_mut().read_to_string()?;
    let line = page.lines().find(|line| line.starts_with(series));
    let value = line.and_then(|line| line.rsplit(' ').next()).with_context(|| format!("no {series} on\n{page}"))?;
    Ok(value.parse::<f64>()? as u64)
}

/// Signals that wait on the agent's disk for a collector.
fn spooled(installation: &Installation) -> Result<u64> {
    metric(installation, "railwatch_agent_spool_waiting{kind=\"signal\"}")
}

/// A thread of another process that stands still until that process is killed.
struct Stopped(Pid);

impl Stopped {
    /// Stops the thread of this name (as the kernel keeps it: 15 bytes).
    fn thread(pid: u32, name: &str) -> Result<Self> {
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?;
            if std::fs::read_to_string(task.path().join("comm"))?.trim_end() != name {
                continue;
            }
            let thread = Pid::from_raw(task.file_name().to_string_lossy().parse()?);
            ptrace::seize(thread, ptrace::Options::empty())?;
            ptrace::interrupt(thread)?;
            waitpid(thread, Some(WaitPidFlag::__WALL))?;
            return Ok(Self(thread));
        }
        anyhow::bail!("process {pid} has no thread {name}")
    }

    /// After the kill of its process: its end has to be taken notice of, or the process stays a zombie.
    fn ended(self) -> Result<()> {
        waitpid(self.0, Some(WaitPidFlag::__WALL))?;
        Ok(())
    }
}

/// Waits until all of these are in the store, and says how often each is.
fn all_stored(installation: &Installation, wanted: std::ops::Range<u64>) -> Result<BTreeMap<u64, usize>> {
    eventually("every failure in the store", || {
        let sizes = stored(installation, wanted.start)?;
        let missing: Vec<_> =
            wanted.clone().filter(|size| !sizes.contains_key(size)).map(|size| size - wanted.start).collect();
        ensure!(missing.is_empty(), "of {} failures, missing by number: {missing:?}", wanted.end - wanted.start);
        Ok(Some(sizes))
    })
    .with_context(|| installation.agent.log_text())
}

/// Fails once more, and sees that nothing came a second time before that.
fn none_doubled(installation: &Installation, first: u64, next: u64) -> Result<()> {
    fails(next)?;
    eventually("a failure after all", || Ok(stored(installation, first)?.contains_key(&next).then_some(())))?;
    let doubled: Vec<_> = stored(installation, first)?.into_iter().filter(|(_, count)| *count > 1).collect();
    ensure!(doubled.is_empty(), "stored more than once: {doubled:?}");
    Ok(())
}

#[test]
fn every_failure_is_stored_once_however_daemons_are_killed() -> Result<()> {
    let mut installation = Installation::start(&Options::default())?;
    // The library is known and traced before the first process that counts.
    let known = Caller::start(&["libcudart.so"])?;
    installation.attached(known.pid())?;

    let first = FIRST[0];
    let mut next = first;
    let mut fail = |count: u64| -> Result<u64> {
        for _ in 0..count {
            fails(next)?;
            next += 1;
        }
        Ok(next)
    };
    let before = fail(5)?;
    all_stored(&installation, first..before)?;

    installation.collector.kill()?;
    let outage = Instant::now();
    let mut killed = false;
    while outage.elapsed() < OUTAGE {
        let so_far = fail(2)?;
        if !killed && outage.elapsed() > OUTAGE / 2 {
            // It dies with all that on its disk; what fails while there is no agent waits in the kernel.
            let waiting = so_far - before;
            eventually("the failures on the agent's disk", || Ok((spooled(&installation)? >= waiting).then_some(())))?;
            installation.agent.kill()?;
            killed = true;
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

    let sizes = all_stored(&installation, first..end)?;
    none_doubled(&installation, first, end)?;
    eprintln!("{} failures, {} stored before the last", end - first, sizes.len());
    Ok(())
}

#[test]
fn a_failure_on_its_way_from_the_ring_to_the_disk_at_the_kill_is_stored_once() -> Result<()> {
    let mut installation = Installation::start(&Options::default())?;
    let known = Caller::start(&["libcudart.so"])?;
    installation.attached(known.pid())?;
    let first = FIRST[1];
    let mut next = first;
    let mut fail = |count: u64| -> Result<u64> {
        for _ in 0..count {
            fails(next)?;
            next += 1;
        }
        Ok(next)
    };
    for round in 0..KILLS {
        fail(1)?;
        // The thread that writes to the disk stands still, and the kill finds everything before it; or, every other
        // time, it goes on, and the kill comes when it comes.
        let stopped = (round % 2 == 0)
            .then(|| Stopped::thread(installation.agent.pid(), "railwatch-uplin").context("stop the spool's thread"))
            .transpose()?;
        let read = metric(&installation, READ)?;
        fail(3)?;
        if stopped.is_some() {
            eventually("the agent takes seen, failed and gone of each", || {
                Ok((metric(&installation, READ)? >= read + 9).then_some(()))
            })?;
        }
        installation.agent.signal("KILL")?;
        stopped.map(Stopped::ended).transpose()?;
        installation.agent.kill()?;
        let end = fail(1)?;
        installation.agent.restart()?;
        installation.connected()?;
        all_stored(&installation, first..end).with_context(|| format!("kill {round}"))?;
    }
    none_doubled(&installation, first, next)
}
