//! Events and their books, scope, restart, late attach, both ways of attaching, and NVIDIA's own runtime.
//! Needs root and BPF.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod support;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use railwatch_abi::cookie::Layer::CudaRuntime as Runtime;
use railwatch_abi::event::EventKind;
use railwatch_abi::maps::Reason;
use railwatch_gpu::kernel::{Kernel, Method, Options};
use railwatch_gpu::scope::Scope;
use support::{Caller, attach, balance, fixture, load, memory, process, snapshot, symbols_of, traced, traced_with};

#[test]
fn a_flood_of_a_million_failures_reconciles_exactly() {
    let mut kernel = traced_with(Options { event_cap: 50, ..Options::default() }, &["libamdhip64.so"]);
    let mut caller = Caller::start(&["libamdhip64.so"]);
    let mut told = HashMap::new();
    let pid = caller.pid();
    for _ in 0..10 {
        assert_eq!(caller.call("repeat 100000 hipMalloc &0 0x20000000000").0, 2);
        kernel.drain(|event| {
            if event.pid() == pid {
                *told.entry(event.kind).or_insert(0) += 1;
                if event.kind == EventKind::AllocationFailed {
                    assert_eq!((event.code, event.value, event.device), (2, 0x20000000000, Some(0)));
                }
            }
        });
    }
    let loss = kernel.loss();
    let rows = process(&kernel, pid);
    let failed = told[&EventKind::AllocationFailed];
    assert_eq!(rows.memory.values().map(|row| row.failed_allocs()).sum::<u64>(), 1_000_000);
    // One more event than failures: the first sight of the process, which has no cap.
    assert_eq!((rows.events_seen, failed + rows.events_capped), (1_000_001, 1_000_000));
    assert!(failed > 0 && rows.lost.is_empty(), "{failed} told");
    assert_eq!(loss.seen, loss.submitted + loss.events_dropped());
    assert_eq!(loss.submitted, loss.delivered);
}

#[test]
fn what_a_full_ring_cuts_is_counted() {
    // No cap to speak of: 200,000 events of 72 bytes do not fit 256 KiB.
    let mut kernel = traced_with(Options { event_cap: u32::MAX, ..Options::default() }, &["libamdhip64.so"]);
    let mut caller = Caller::start(&["libamdhip64.so"]);
    assert_eq!(caller.call("repeat 200000 hipMalloc &0 0x20000000000").0, 2);
    let mut delivered = 0;
    kernel.drain(|_| delivered += 1);
    let loss = kernel.loss();
    assert!(loss.by_reason[&Reason::RingFull] > 190_000, "{loss:?}");
    assert_eq!(loss.delivered, delivered);
    assert_eq!(loss.seen, loss.delivered + loss.events_dropped());
    let rows = process(&kernel, caller.pid());
    assert_eq!(rows.incomplete_since_ns(Runtime), None, "events were cut, figures were not");
}

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn agents_of_different_cgroups_stand_side_by_side() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let unified = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).expect("cgroup2 is mounted");
    let root = Path::new(unified.split(' ').nth(1).unwrap());
    let folders = ["a", "b"].map(|name| {
        let folder = root.join(format!("railwatch-test-{}-{name}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        Folder(folder)
    });
    let inner = Folder(folders[0].0.join("inner"));
    std::fs::create_dir(&inner.0).unwrap();
    let kernels = [0, 1].map(|index| {
        let scope = Scope::cgroup(&folders[index].0).unwrap();
        traced_with(Options { scope, ..Options::default() }, &["libcudart.so"])
    });
    let mut callers = [Some(&inner.0), Some(&folders[1].0), None].map(|folder| {
        let caller = Caller::start(&["libcudart.so"]);
        if let Some(folder) = folder {
            std::fs::write(folder.join("cgroup.procs"), caller.pid().to_string()).unwrap();
        }
        caller
    });
    for caller in &mut callers {
        caller.ok(&["cudaMalloc &0 100"]);
    }
    let seen = kernels.each_ref().map(|kernel| {
        let snapshot = snapshot(kernel);
        callers.each_ref().map(|caller| snapshot.live(caller.pid()).is_some())
    });
    assert_eq!(seen, [[true, false, false], [false, true, false]]);
    assert!(kernels[0].scope().contains(callers[0].pid()) && !kernels[1].scope().contains(callers[0].pid()));
    for mut caller in callers {
        caller.kill();
    }
    drop(inner);
}

#[test]
fn agents_of_different_network_namespaces_stand_side_by_side() {
    let mut inside =
        Caller::run(Command::new("unshare").arg("--net").arg(fixture("caller")).arg(fixture("libcudart.so")));
    let mut outside = Caller::start(&["libcudart.so"]);
    let kernels = [inside.pid(), std::process::id()].map(|pid| {
        let scope = Scope::network_namespace(Path::new(&format!("/proc/{pid}/ns/net"))).unwrap();
        traced_with(Options { scope, ..Options::default() }, &["libcudart.so"])
    });
    inside.ok(&["cudaMalloc &0 100"]);
    outside.ok(&["cudaMalloc &0 100"]);
    let seen = kernels.each_ref().map(|kernel| {
        let snapshot = snapshot(kernel);
        [inside.pid(), outside.pid()].map(|pid| snapshot.live(pid).is_some())
    });
    assert_eq!(seen, [[true, false], [false, true]]);
}

#[test]
fn balances_survive_an_agents_restart_and_count_what_happened_meanwhile() {
    let pins = PathBuf::from(format!("/sys/fs/bpf/railwatch-test-{}", std::process::id()));
    let options = || Options { pin_dir: Some(pins.clone()), event_cap: 50, ..Options::default() };
    let mut caller = Caller::start(&["libcudart.so"]);
    let first = traced_with(options(), &["libcudart.so"]);
    assert_eq!((first.off(), first.adopted()), (&[][..], false));
    caller.ok(&["cudaMalloc &0 100", "cudaMalloc &1 10"]);
    drop(first);
    caller.ok(&["cudaMalloc &2 7", "cudaFree @0"]);
    let mut second = load(options());
    assert!(second.adopted());
    let again = second.attach(&fixture("libcudart.so"), &symbols_of(&fixture("libcudart.so"))).unwrap();
    assert!(again.already, "its probes were there all along");
    caller.ok(&["cudaFree @1"]);
    assert_eq!(balance(&memory(&second, caller.pid(), Runtime, Some(0))), (7, 117, 3, 2, 0));
    assert_eq!(process(&second, caller.pid()).incomplete_since_ns(Runtime), None);
    second.drain(|_| ());
    let loss = second.loss();
    assert_eq!((loss.seen, loss.submitted), (loss.delivered + loss.events_dropped(), loss.delivered));
    // Another build or configuration does not adopt it, and takes its probes away.
    drop(second);
    let third = load(Options { event_cap: 51, ..options() });
    assert!(!third.adopted());
    caller.ok(&["cudaMalloc &3 1000"]);
    assert!(snapshot(&third).processes.is_empty());
    drop(third);
    let _ = std::fs::remove_dir_all(&pins);
    for scope in std::fs::read_dir(&pins).into_iter().flatten().flatten() {
        for build in std::fs::read_dir(scope.path()).into_iter().flatten().flatten() {
            for pin in std::fs::read_dir(build.path()).into_iter().flatten().flatten() {
                let _ = std::fs::remove_file(pin.path());
            }
            let _ = std::fs::remove_dir(build.path());
        }
        let _ = std::fs::remove_dir(scope.path());
    }
    let _ = std::fs::remove_dir(&pins);
    assert!(!pins.exists(), "nothing stays pinned");
}

#[test]
fn a_process_older_than_its_probes_is_marked_and_its_device_is_not_guessed() {
    let mut caller = Caller::start(&["libcudart.so"]);
    caller.ok(&["cudaMalloc &0 100"]);
    let mut kernel = load(Options::default());
    kernel.mark_late(caller.pid(), &[Runtime]).unwrap();
    attach(&mut kernel, &fixture("libcudart.so"));
    // A new thread starts on device 0; the old one may have chosen another before.
    caller.ok(&["cudaMalloc &1 10", "on 1 cudaMalloc &2 3", "cudaSetDevice 4", "cudaMalloc &3 20", "cudaFree @0"]);
    let rows = process(&kernel, caller.pid());
    let held: Vec<_> = rows.memory.iter().map(|(&(_, device), row)| (device, row.allocated_bytes)).collect();
    assert_eq!(held, [(None, 10), (Some(0), 3), (Some(4), 20)]);
    assert!(rows.incomplete_since_ns(Runtime).is_some());
    assert_eq!(rows.incomplete_since_ns(railwatch_abi::cookie::Layer::Nccl), None);
    assert_eq!(rows.unmatched_frees.get(&Runtime), Some(&1));
}

/// Of the running kernel, major and minor.
fn kernel_version() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|word| word.parse().ok());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn both_ways_of_attaching_count_alike_and_detach() {
    for method in [Method::PerfEvent, Method::Multi] {
        let mut kernel = load(Options { method: Some(method), ..Options::default() });
        let path = fixture("libcudart.so");
        let attached = kernel.attach(&path, &symbols_of(&path)).unwrap();
        // uprobe_multi came with 6.6; before it, asking for it gives what there is.
        let given = if kernel_version() < (6, 6) { Method::PerfEvent } else { method };
        assert_eq!((attached.method, attached.failures.len()), (given, 0));
        let mut caller = Caller::start(&["libcudart.so"]);
        caller.ok(&["cudaMallocAsync &0 100 0", "pair 1000 cudaMalloc cudaFree 8"]);
        assert!(kernel.detach(attached.id) && !kernel.detach(attached.id));
        caller.ok(&["pair 1000 cudaMalloc cudaFree 8"]);
        assert_eq!(balance(&memory(&kernel, caller.pid(), Runtime, Some(0))), (100, 108, 1001, 1000, 0), "{method:?}");
    }
}

#[test]
fn one_bad_point_does_not_keep_the_others_from_being_attached() {
    let mut kernel = load(Options::default());
    let path = fixture("libcudart.so");
    let mut points = symbols_of(&path);
    points[0].1 = 1 << 40;
    let attached = kernel.attach(&path, &points).unwrap();
    assert_eq!((attached.points, attached.failures.len()), (points.len() - 1, 1));
    assert_eq!(attached.failures[0].0, points[0].0);
    let error = kernel.attach(Path::new("/nonexistent.so"), &points).unwrap_err();
    assert!(error.to_string().contains("/nonexistent.so"), "{error}");
}

#[test]
fn live_bytes_are_told_by_call_stack_on_request() {
    let kernel = traced_with(Options { stacks: true, ..Options::default() }, &["libcudart.so"]);
    let mut caller = Caller::start(&["libcudart.so"]);
    caller.ok(&["cudaMalloc &0 100", "cudaMalloc &1 11", "on 1 cudaMalloc &2 7"]);
    let accounts = railwatch_gpu::accounts::Accounts::default();
    let key = process(&kernel, caller.pid()).key;
    let stacks: Vec<_> = accounts.stacks(&kernel).unwrap().into_iter().filter(|row| row.process == key).collect();
    assert_eq!(stacks.iter().map(|row| row.bytes).sum::<u64>(), 118);
    assert!(stacks.len() >= 2 && stacks.iter().all(|row| !row.addresses.is_empty()), "{stacks:?}");
    let _ = traced;
}

/// NVIDIA's runtime from its PyPI wheel, where `cargo xtask` keeps it.
fn real_runtime() -> PathBuf {
    let library = fixture("../libcudart-12.9.79/nvidia/cuda_runtime/lib/libcudart.so.12");
    assert!(library.exists(), "{} is missing: `cargo xtask test crates` fetches it", library.display());
    library
}

#[test]
fn the_real_runtimes_failing_calls_are_counted_exactly() {
    let library = real_runtime();
    let mut kernel: Kernel = load(Options::default());
    attach(&mut kernel, &library);
    let mut caller = Caller::run(Command::new(fixture("caller")).arg(&library));
    // Without a driver every call fails with cudaErrorInsufficientDriver.
    for call in [
        "repeat 1000 cudaMalloc &0 4096",
        "repeat 10 cudaMallocAsync &0 4096 0",
        "repeat 5 cudaMallocHost &0 64",
        "repeat 3 cudaDeviceSynchronize",
    ] {
        assert_eq!(caller.call(call).0, 35, "{call}");
    }
    let rows = process(&kernel, caller.pid());
    let row = &rows.memory[&(Runtime, Some(0))];
    assert_eq!(balance(row), (0, 0, 0, 0, 1015));
    assert_eq!(row.failed_by_code.iter().collect::<Vec<_>>(), [(&35, &1015)]);
    let failures: Vec<_> = rows.failures.iter().map(|f| (f.symbol.get().unwrap().name, f.code, f.count)).collect();
    assert_eq!(
        failures,
        [
            ("cudaMalloc", 35, 1000),
            ("cudaMallocAsync", 35, 10),
            ("cudaMallocHost", 35, 5),
            ("cudaDeviceSynchronize", 35, 3)
        ]
    );
    assert_eq!(rows.calls.iter().map(|call| call.count).sum::<u64>(), 3);
}
