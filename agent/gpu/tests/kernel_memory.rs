//! Balances of the CUDA runtime layer: exact whatever the calls do. Needs root and BPF.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use railwatch_abi::cookie::Layer::{Acl, CudaRuntime as Runtime, Hip};
use support::{Caller, balance, fixture, memory, process, snapshot, traced};

#[test]
fn eight_threads_that_free_each_others_memory_balance_to_the_byte() {
    let kernel = traced(&["libcudart.so"]);
    for seed in 1..=3u64 {
        let mut driver = Command::new(fixture("driver"))
            .args(["--threads", "8", "--iterations", "5000", "--fail-percent", "7", "--keep", "3", "--hold", "60"])
            .args(["--device", "3", "--seed", &seed.to_string(), "--library"])
            .arg(fixture("libcudart.so"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(driver.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let expected: serde_json::Value = serde_json::from_str(&line).unwrap();
        let rows = process(&kernel, driver.id());
        let row = memory(&kernel, driver.id(), Runtime, Some(3));
        driver.kill().unwrap();
        driver.wait().unwrap();
        let seen = serde_json::json!({
            "pid": rows.pid, "device": 3, "allocated_bytes": row.allocated_bytes, "allocs": row.allocs,
            "frees": row.frees, "failed_allocs": row.failed_allocs(),
            "failed_frees": rows.failures.iter().filter(|f| f.code == 700).map(|f| f.count).sum::<u64>(),
        });
        assert_eq!(seen, expected, "seed {seed}");
        assert!(row.peak_bytes >= row.allocated_bytes && rows.unmatched_frees.is_empty() && rows.lost.is_empty());
        assert_eq!(rows.incomplete_since_ns(Runtime), None);
    }
}

#[test]
fn only_the_outermost_call_counts_with_its_own_size() {
    let kernel = traced(&["libcudart.so"]);
    // (call, bytes): the first nests, the second jumps into cudaMalloc out of its own frame, the third does both.
    for (call, bytes) in [
        ("cudaMallocManaged &0 1000 1", 1000),
        ("cudaMallocAsync &0 1000 0", 1000),
        ("cudaMallocFromPoolAsync &0 1000 0 0", 1000),
    ] {
        let mut caller = Caller::start(&["libcudart.so"]);
        caller.ok(&[call]);
        let row = memory(&kernel, caller.pid(), Runtime, Some(0));
        assert_eq!(balance(&row), (bytes, bytes, 1, 0, 0), "{call}");
        caller.ok(&["cudaFreeAsync @0 0", call, "cudaFree @0", "cudaMalloc &0 5"]);
        let row = memory(&kernel, caller.pid(), Runtime, Some(0));
        assert_eq!(balance(&row), (5, bytes, 3, 2, 0), "{call}, then frees");
    }
}

#[test]
fn sizes_come_from_pitches_extents_and_formats() {
    let kernel = traced(&["libcudart.so"]);
    let mut caller = Caller::start(&["libcudart.so"]);
    // Cells 10…: extent 100 × 7 × 3. Cells 20…: four channels of 32, 32, 0 and 0 bits.
    caller.ok(&["set 10 100", "set 11 7", "set 12 3", "set 20 0x2000000020", "set 21 0"]);
    let mut held = 0;
    for (call, bytes) in [
        ("cudaMallocPitch &0 &1 600 7", 1024 * 7),
        ("big 1 3 10 cudaMalloc3D &0", 512 * 7 * 3),
        ("cudaMallocArray &0 &20 64 0 0", 8 * 64),
        ("cudaMallocArray &0 &20 64 4 0", 8 * 64 * 4),
        ("big 2 3 10 cudaMalloc3DArray &0 &20 0", 8 * 100 * 7 * 3),
        ("big 2 3 10 cudaMallocMipmappedArray &0 &20 3 0", 8 * (100 * 7 * 3 + 50 * 3 + 25)),
    ] {
        caller.ok(&[call]);
        held += bytes;
        assert_eq!(memory(&kernel, caller.pid(), Runtime, Some(0)).allocated_bytes, held, "{call}");
    }
    caller.ok(&[
        "cudaMallocHost &0 4096",
        "cudaHostAlloc &1 100 0",
        "cudaFreeHost @0",
        "big 1 8 10 cudaIpcOpenMemHandle &2 1",
    ]);
    let row = memory(&kernel, caller.pid(), Runtime, Some(0));
    assert_eq!((row.allocated_bytes, row.host_allocated_bytes, row.host_peak_bytes), (held, 100, 4196));
    assert_eq!((row.host_allocs, row.host_frees, row.imported_open), (2, 1, 1));
    caller.ok(&["cudaIpcCloseMemHandle @2"]);
    assert_eq!(memory(&kernel, caller.pid(), Runtime, Some(0)).imported_open, 0);
}

#[test]
fn failures_are_counted_by_code_and_change_no_balance() {
    let kernel = traced(&["libcudart.so"]);
    let mut caller = Caller::start(&["libcudart.so"]);
    caller.ok(&["cudaMalloc &0 100", "fixture_fail_next 2"]);
    assert_eq!(caller.call("cudaMalloc &1 7").0, 2);
    caller.ok(&["fixture_fail_next 35"]);
    assert_eq!(caller.call("cudaMallocAsync &1 7 0").0, 35);
    caller.ok(&["fixture_fail_next 700"]);
    assert_eq!(caller.call("cudaFree @0").0, 700);
    let row = memory(&kernel, caller.pid(), Runtime, Some(0));
    assert_eq!(balance(&row), (100, 100, 1, 0, 2));
    assert_eq!(row.failed_by_code.into_iter().collect::<Vec<_>>(), [(2, 1), (35, 1)]);
    // The failed free left the allocation in place; nothing was asked for, and nothing freed.
    caller.ok(&["cudaFree @0", "cudaFree 0", "cudaMalloc &0 0"]);
    assert_eq!(balance(&memory(&kernel, caller.pid(), Runtime, Some(0))), (0, 100, 1, 1, 2));
    // Never allocated under our eyes: said so, and not booked.
    caller.ok(&["cudaFree 0x7f0000200000"]);
    let rows = process(&kernel, caller.pid());
    assert_eq!(rows.unmatched_frees.get(&Runtime), Some(&1));
    assert_eq!(rows.memory[&(Runtime, Some(0))].frees, 1);
}

#[test]
fn a_call_left_by_longjmp_does_not_disturb_the_ones_after_it() {
    let kernel = traced(&["libcudart.so"]);
    let mut caller = Caller::start(&["libcudart.so"]);
    caller.ok(&["cudaMalloc &0 100"]);
    // The free never returns: its allocation is still held. The next calls come from the same stack depth or deeper.
    caller.ok(&["jump cudaFree @0", "jump cudaMalloc &1 999", "cudaMalloc &1 50", "pair 10 cudaMalloc cudaFree 77"]);
    let row = memory(&kernel, caller.pid(), Runtime, Some(0));
    assert_eq!(balance(&row), (150, 227, 12, 10, 0));
    caller.ok(&["cudaFree @0"]);
    let rows = process(&kernel, caller.pid());
    assert_eq!(rows.memory[&(Runtime, Some(0))].allocated_bytes, 50);
    assert_eq!(rows.lost.values().sum::<u64>(), 2, "both abandoned calls are counted: {:?}", rows.lost);
    assert!(rows.incomplete_since_ns(Runtime).is_some());
}

#[test]
fn the_device_is_the_one_current_on_the_calling_thread() {
    let kernel = traced(&["libcudart.so"]);
    let mut caller = Caller::start(&["libcudart.so"]);
    caller.ok(&[
        "cudaSetDevice 2",
        "cudaMalloc &0 10",
        "on 1 cudaMalloc &1 20",
        "on 2 cudaSetDevice 5",
        "on 2 cudaMalloc &2 40",
    ]);
    caller.ok(&["fixture_fail_next 101"]);
    assert_eq!(caller.call("cudaSetDevice 9").0, 101);
    caller.ok(&["cudaMalloc &3 80", "on 1 cudaFree @2"]);
    let rows = process(&kernel, caller.pid());
    let held: Vec<_> = rows.memory.iter().map(|(&(_, device), row)| (device, row.allocated_bytes, row.frees)).collect();
    assert_eq!(held, [(Some(0), 20, 0), (Some(2), 90, 0), (Some(5), 0, 1)]);
}

#[test]
fn a_device_reset_frees_what_the_process_had_there_and_later_frees_are_stale() {
    let kernel = traced(&["libcudart.so"]);
    let mut caller = Caller::start(&["libcudart.so"]);
    caller.ok(&[
        "cudaMalloc &0 100",
        "cudaSetDevice 1",
        "cudaMalloc &1 7",
        "cudaSetDevice 0",
        "cudaDeviceReset",
        "cudaMalloc &2 5",
        "cudaFree @0",
    ]);
    let row = memory(&kernel, caller.pid(), Runtime, Some(0));
    assert_eq!((row.allocated_bytes, row.implicit_freed_bytes, row.stale_frees, row.frees), (5, 100, 1, 0));
    assert_eq!(memory(&kernel, caller.pid(), Runtime, Some(1)).allocated_bytes, 7);
}

#[test]
fn an_address_handed_out_anew_replaces_the_allocation_whose_free_was_not_seen() {
    let kernel = traced(&["libcudart.so", "libamdhip64.so"]);
    let mut caller = Caller::start(&["libcudart.so", "libamdhip64.so"]);
    // cudaFree is traced, heap_give behind it is not: hipFree gives the same heap's slot back in another layer.
    caller.ok(&["hipMalloc &0 100", "hipFree @0", "hipMalloc &0 30"]);
    assert_eq!(balance(&memory(&kernel, caller.pid(), Hip, Some(0))), (30, 100, 2, 1, 0));
}

#[test]
fn a_forked_child_is_a_process_of_its_own() {
    let kernel = traced(&["libcudart.so"]);
    let mut caller = Caller::start(&["libcudart.so"]);
    caller.ok(&["cudaMalloc &9 100"]);
    // The child answers, and takes the lines that follow.
    assert_eq!(caller.call("fork").0, -2);
    caller.ok(&["cudaMalloc &8 7"]);
    let snapshot = snapshot(&kernel);
    let child = snapshot.processes.iter().find(|p| p.memory.values().any(|row| row.allocated_bytes == 7));
    let child = child.expect("the child's allocation is its own").clone();
    assert_ne!(child.pid, caller.pid());
    assert_eq!(memory(&kernel, caller.pid(), Runtime, Some(0)).allocated_bytes, 100);
}

#[test]
fn exit_exec_and_kill_end_a_process_and_leave_nothing_in_the_maps() {
    let kernel = traced(&["libcudart.so"]);
    let mut accounts = railwatch_gpu::accounts::Accounts::default();
    for end in ["exit 0", "exec", "kill -9"] {
        let mut caller = Caller::start(&["libcudart.so"]);
        caller.ok(&["cudaMalloc &0 100", "on 1 cudaMalloc &1 11"]);
        let pid = caller.pid();
        let before = accounts.refresh(&kernel).unwrap().live(pid).unwrap().clone();
        match end {
            "exec" => {
                let line = format!("exec {} {}", fixture("caller").display(), fixture("libcudart.so").display());
                caller.call(&line);
                caller.ok(&["cudaMalloc &0 3"]);
            }
            "kill -9" => caller.kill(),
            _ => {
                caller.send("exit 0");
                // The first thread is a zombie while others may still be ending: they leave the list of threads.
                let is_zombie = |stat: String| stat.contains(") Z ");
                let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
                while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !is_zombie(stat))
                    || threads() > 1
                {
                    std::thread::yield_now();
                }
            }
        }
        let after = accounts.refresh(&kernel).unwrap();
        let gone = after.processes.iter().find(|process| process.key == before.key).expect("its row stays");
        let row = &gone.memory[&(Runtime, Some(0))];
        assert!(gone.gone_ns.is_some(), "{end}");
        assert_eq!(
            (row.allocated_bytes, row.implicit_freed_bytes, row.allocs, row.peak_bytes),
            (0, 111, 2, 111),
            "{end}"
        );
        if end == "exec" {
            assert_eq!(balance(&after.live(pid).unwrap().memory[&(Runtime, Some(0))]), (3, 3, 1, 0, 0));
        }
    }
    drop(kernel);
}

#[test]
fn hip_and_ascend_allocations_balance_by_the_same_rules() {
    let kernel = traced(&["libamdhip64.so", "libascendcl.so"]);
    let mut caller = Caller::start(&["libamdhip64.so"]);
    caller.ok(&[
        "hipSetDevice 1",
        "hipMalloc &0 100",
        "hipExtMallocWithFlags &1 50 0",
        "hipHostMalloc &2 9 0",
        "hipFree @0",
    ]);
    assert_eq!(caller.call("hipMalloc &3 0x20000000000").0, 2);
    let row = memory(&kernel, caller.pid(), Hip, Some(1));
    assert_eq!((balance(&row), row.host_allocated_bytes), ((50, 150, 2, 1, 1), 9));
    let mut caller = Caller::start(&["libascendcl.so"]);
    // Without aclrtSetDevice the device is not known, and is not guessed.
    caller.ok(&[
        "aclrtMalloc &0 8 0",
        "aclrtSetDevice 4",
        "aclrtMalloc &1 100 0",
        "aclrtMallocAlign32 &2 50 0",
        "aclrtMallocHost &3 9",
    ]);
    caller.ok(&["aclrtFree @1", "aclrtFree @0"]);
    assert_eq!(balance(&memory(&kernel, caller.pid(), Acl, None)), (0, 8, 1, 1, 0));
    assert_eq!(balance(&memory(&kernel, caller.pid(), Acl, Some(4))), (50, 150, 2, 1, 0));
    caller.ok(&["aclrtResetDevice 4"]);
    assert_eq!(memory(&kernel, caller.pid(), Acl, Some(4)).implicit_freed_bytes, 59);
}

#[test]
fn a_million_calls_of_each_kind_are_counted_exactly() {
    let kernel = traced(&["libcudart.so"]);
    let mut caller = Caller::start(&["libcudart.so"]);
    caller.ok(&[
        "pair 1000000 cudaMalloc cudaFree 4096",
        "repeat 1000000 cudaLaunchKernel 0",
        "repeat 1000000 cudaMemcpyAsync 0 0 8 1 0",
    ]);
    caller.ok(&["repeat 1000000 cudaStreamSynchronize 0"]);
    let rows = process(&kernel, caller.pid());
    assert_eq!(balance(&rows.memory[&(Runtime, Some(0))]), (0, 4096, 1_000_000, 1_000_000, 0));
    let calls: Vec<_> = rows.calls.iter().map(|call| (call.symbol.get().unwrap().name, call.count)).collect();
    assert_eq!(
        calls,
        [("cudaLaunchKernel", 1_000_000), ("cudaMemcpyAsync", 1_000_000), ("cudaStreamSynchronize", 1_000_000)]
    );
    assert!(rows.calls.iter().all(|call| call.inside_ns >= call.longest_ns && call.longest_ns > 0));
    let _ = std::io::stdout().flush();
}
