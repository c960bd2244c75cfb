//! From a call in a process to the collector.

use crate::agent::Agent;
use crate::collector::{Site, Stored, eventually};
use crate::group::{Caller, Group};
use railwatch_wire::v1::{GpuProcess, LossAccount, Signal, frame};

fn scoped(site: &Site, collector: &str, group: &Group) -> Agent {
    let agent = Agent::start(site, collector, &["--scope", &format!("cgroup:{}", group.0.display())]);
    assert_eq!(agent.metric("railwatch_gpu_probes_loaded"), Some(1.0), "needs root and BPF");
    agent
}

/// A process of the group that was there before; a second one then begins under watch: the library is probed already.
fn watched(site: &Site, group: &Group) -> (Caller, Caller) {
    let keeper = Caller::start(group, |_| {});
    eventually("the library is attached", || attached(site, keeper.pid()));
    let caller = Caller::start(group, |_| {});
    eventually("the process is known", || attached(site, caller.pid()));
    (keeper, caller)
}

pub fn attached(site: &Site, pid: u32) -> bool {
    site.stored(|stored| {
        let gpu = stored.snapshots.iter().rev().find_map(|snapshot| snapshot.gpu.as_ref());
        gpu.is_some_and(|gpu| gpu.coverage.iter().any(|row| row.pid == pid && row.status == "attached"))
    })
}

fn signals(stored: &Stored) -> Vec<Signal> {
    let bodies = stored.frames.iter().filter_map(|frame| frame.body.clone());
    let signals = bodies.filter_map(|body| if let frame::Body::Signal(signal) = body { Some(signal) } else { None });
    // Others may come from whatever else happens on this host.
    signals.filter(|signal| signal.name.starts_with("gpu.")).collect()
}

fn process(stored: &Stored, pid: u32) -> Option<GpuProcess> {
    let gpu = stored.snapshots.iter().rev().find_map(|snapshot| snapshot.gpu.as_ref())?;
    gpu.processes.iter().find(|process| process.pid == pid).cloned()
}

fn loss(stored: &Stored) -> Option<LossAccount> {
    stored.snapshots.iter().rev().find_map(|snapshot| snapshot.loss.clone())
}

#[test]
fn a_failed_allocation_reaches_the_collector_with_who_what_and_why() {
    let (site, group) = (Site::new(), Group::unified());
    let collector = site.listen("127.0.0.1:0");
    let agent = scoped(&site, &collector.address, &group);
    let (_keeper, mut caller) = watched(&site, &group);
    assert_eq!(caller.call("fixture_fail_next 2"), 0);
    assert_eq!(caller.call("cudaMalloc &0 4096"), 2);
    eventually("the signal", || site.stored(|stored| !signals(stored).is_empty()));
    let signal = site.stored(|stored| signals(stored)[0].clone());
    assert_eq!(signal.name, "gpu.alloc.failed");
    assert_eq!(signal.entity.unwrap().name, caller.pid().to_string());
    assert_eq!((signal.value, signal.unit.as_str()), (4096.0, "By"));
    let attribute = |key: &str| signal.attributes.get(key).map(String::as_str);
    assert_eq!(attribute("function"), Some("cudaMalloc"));
    assert_eq!(attribute("code"), Some("2"));
    assert_eq!(attribute("error"), Some("cudaErrorMemoryAllocation"));
    assert_eq!(attribute("layer"), Some("runtime"));
    assert_eq!(attribute("comm"), Some("caller"));
    agent.end();
}

#[test]
fn balances_follow_the_process_to_its_end() {
    let (site, group) = (Site::new(), Group::unified());
    let collector = site.listen("127.0.0.1:0");
    let agent = scoped(&site, &collector.address, &group);
    let (_keeper, mut caller) = watched(&site, &group);
    for line in ["cudaMalloc &0 1000", "cudaMalloc &1 500", "cudaFree @0"] {
        assert_eq!(caller.call(line), 0, "{line}");
    }
    let pid = caller.pid();
    eventually("the balance of 500 bytes", || {
        site.stored(|stored| process(stored, pid).is_some_and(|p| p.balances.iter().any(|b| b.allocated_bytes == 500)))
    });
    let seen = site.stored(|stored| process(stored, pid).unwrap());
    let balance = &seen.balances[0];
    assert_eq!((balance.allocs, balance.frees, balance.peak_bytes), (2, 1, 1500));
    assert_eq!(seen.incomplete_since_unix_ns, None, "it began under watch: {seen:?}");
    let allocated = "railwatch_gpu_allocated_bytes{";
    eventually("the page shows it", || {
        agent.page("*/*").lines().any(|l| l.starts_with(allocated) && l.ends_with(" 500"))
    });
    eventually("its series is in the windows", || {
        site.stored(|stored| {
            stored.frames.iter().any(
                |frame| matches!(&frame.body, Some(frame::Body::Windows(windows)) if windows.last.contains(&500.0)),
            )
        })
    });
    drop(caller);
    eventually("its end", || {
        site.stored(|stored| {
            process(stored, pid)
                .is_some_and(|p| p.exited_unix_ns.is_some() && p.balances.iter().all(|b| b.allocated_bytes == 0))
        })
    });
    eventually("its series leave the page", || !agent.page("*/*").contains(allocated));
    agent.end();
}

#[test]
fn a_flood_of_failures_reconciles_exactly() {
    const FAILURES: u64 = 3000;
    let (site, group) = (Site::new(), Group::unified());
    let collector = site.listen("127.0.0.1:0");
    std::fs::write(site.dir.path().join("flood.toml"), "[gpu]\nevents_per_process_per_s = 100\n").unwrap();
    let agent = scoped(&site, &collector.address, &group);
    let (_keeper, mut caller) = watched(&site, &group);
    for _ in 0..FAILURES {
        caller.call("fixture_fail_next 2");
        assert_eq!(caller.call("cudaMalloc &0 64"), 2);
    }
    let counted = |stored: &Stored| {
        let told: u64 = signals(stored).iter().map(|signal| signal.suppressed + 1).sum();
        let cut = process(stored, caller.pid()).map_or(0, |process| process.events_cut);
        (told, cut)
    };
    eventually("each failure is told, counted in a signal, or cut and counted", || {
        site.stored(|stored| {
            let (told, cut) = counted(stored);
            told + cut == FAILURES
        })
    });
    let pid = caller.pid();
    let failed = site.stored(|stored| process(stored, pid).unwrap().balances[0].failed_allocs);
    assert_eq!(failed, FAILURES, "the books do not depend on events");
    eventually("nothing is pending", || agent.metric("railwatch_agent_occurrences_pending") == Some(0.0));
    let account = site.stored(|stored| loss(stored).unwrap());
    assert_eq!(account.seen, account.delivered + account.dropped.values().sum::<u64>(), "{account:?}");
    let (read, submitted) = (
        agent.metric("railwatch_gpu_kernel_events_read_total"),
        agent.metric("railwatch_gpu_kernel_events_submitted_total"),
    );
    assert_eq!(read, submitted, "what the kernel sent was read");
    let seen = agent.metric("railwatch_gpu_kernel_events_seen_total").unwrap();
    assert!(seen >= FAILURES as f64, "{seen}");
    agent.end();
}
