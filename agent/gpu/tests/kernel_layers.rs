//! The driver layer's contexts and physical memory, and collectives. Needs root and BPF.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod support;

use railwatch_abi::cookie::Layer::{CudaDriver as Driver, CudaRuntime as Runtime, Hccl, Nccl};
use railwatch_abi::event::EventKind;
use support::{Caller, balance, memory, process, traced};

#[test]
fn driver_allocations_belong_to_the_device_of_the_current_context() {
    let kernel = traced(&["libcuda.so"]);
    let mut caller = Caller::start(&["libcuda.so"]);
    // Nothing says which context is current yet.
    caller.ok(&["cuMemAlloc_v2 &0 1"]);
    caller.ok(&[
        "cuCtxCreate_v2 &1 0 3",
        "cuMemAlloc_v2 &0 10",
        "cuDevicePrimaryCtxRetain &2 1",
        "cuCtxPushCurrent_v2 @2",
    ]);
    caller.ok(&[
        "cuMemAlloc_v2 &0 100",
        "cuCtxPopCurrent_v2 &5",
        "cuMemAlloc_v2 &0 20",
        "cuCtxSetCurrent @2",
        "cuMemAlloc_v2 &3 200",
    ]);
    caller.ok(&["on 1 cuMemAlloc_v2 &4 2", "cuMemAllocManaged &6 7 1", "cuMemAllocHost_v2 &7 9", "cuMemFree_v2 @3"]);
    let held = |device| memory(&kernel, caller.pid(), Driver, device).allocated_bytes;
    assert_eq!((held(None), held(Some(3)), held(Some(1))), (3, 30, 107));
    assert_eq!(memory(&kernel, caller.pid(), Driver, Some(1)).host_allocated_bytes, 9);
}

#[test]
fn the_end_of_a_context_frees_what_was_in_it_and_nothing_else() {
    let kernel = traced(&["libcuda.so"]);
    let mut caller = Caller::start(&["libcuda.so"]);
    caller.ok(&[
        "cuCtxCreate_v2 &1 0 0",
        "cuMemAlloc_v2 &2 100",
        "cuCtxCreate_v2 &3 0 0",
        "cuMemAlloc_v2 &4 7",
        "cuMemAlloc_v2 &5 3",
    ]);
    caller.ok(&["cuMemFree_v2 @5", "cuCtxDestroy_v2 @3", "cuMemFree_v2 @4", "cuMemAlloc_v2 &6 20"]);
    let row = memory(&kernel, caller.pid(), Driver, Some(0));
    assert_eq!((row.allocated_bytes, row.peak_bytes, row.implicit_freed_bytes, row.stale_frees), (120, 120, 7, 1));
    caller.ok(&[
        "cuDevicePrimaryCtxRetain &7 1",
        "cuDevicePrimaryCtxRetain &7 1",
        "cuCtxSetCurrent @7",
        "cuMemAlloc_v2 &8 50",
    ]);
    caller.ok(&["cuDevicePrimaryCtxRelease_v2 1"]);
    assert_eq!(memory(&kernel, caller.pid(), Driver, Some(1)).allocated_bytes, 50, "one retain is left");
    caller.ok(&["cuDevicePrimaryCtxRelease_v2 1"]);
    assert_eq!(memory(&kernel, caller.pid(), Driver, Some(1)).implicit_freed_bytes, 50);
    caller.ok(&["cuMemAlloc_v2 &8 60", "cuDevicePrimaryCtxReset_v2 1"]);
    let row = memory(&kernel, caller.pid(), Driver, Some(1));
    assert_eq!((row.allocated_bytes, row.implicit_freed_bytes), (0, 110));
}

#[test]
fn layers_nest_and_are_booked_apart_and_a_runtime_reset_reaches_the_driver() {
    let kernel = traced(&["libcudart.so", "libcuda.so"]);
    let mut caller = Caller::start(&["libcudart.so", "libcuda.so"]);
    caller.ok(&["cudaSetDevice 2", "cudaMalloc &0 100", "cuMemAlloc_v2 &1 128"]);
    assert_eq!(memory(&kernel, caller.pid(), Runtime, Some(2)).allocated_bytes, 100);
    assert_eq!(memory(&kernel, caller.pid(), Driver, Some(2)).allocated_bytes, 128);
    // The runtime follows a context that the driver makes current.
    caller.ok(&["cuCtxCreate_v2 &2 0 5", "cudaMalloc &3 7"]);
    assert_eq!(memory(&kernel, caller.pid(), Runtime, Some(5)).allocated_bytes, 7);
    caller.ok(&["cudaSetDevice 2", "cudaDeviceReset"]);
    assert_eq!(memory(&kernel, caller.pid(), Runtime, Some(2)).implicit_freed_bytes, 100);
    assert_eq!(memory(&kernel, caller.pid(), Driver, Some(2)).implicit_freed_bytes, 128);
    assert_eq!(memory(&kernel, caller.pid(), Runtime, Some(5)).allocated_bytes, 7);
}

#[test]
fn physical_memory_is_held_until_its_last_reference_and_its_last_mapping_are_gone() {
    let kernel = traced(&["libcuda.so"]);
    let mut caller = Caller::start(&["libcuda.so"]);
    // CUmemAllocationProp in cells 10 and 11: pinned, no handle type, location {device, 6}.
    caller.ok(&["set 10 1", "set 11 0x600000001", "cuMemCreate &0 4096 &10 0", "cuMemCreate &1 8192 &10 0"]);
    let held = |caller: &Caller| {
        let row = memory(&kernel, caller.pid(), Driver, Some(6));
        (row.allocated_bytes, row.frees)
    };
    caller.ok(&["cuMemMap 0x1000000 4096 0 @0 0", "cuMemMap 0x1001000 8192 0 @1 0", "cuMemRelease @0"]);
    assert_eq!(held(&caller), (12288, 0), "released, still mapped");
    caller.ok(&["fixture_fail_next_driver 1"]);
    assert_eq!(caller.call("cuMemUnmap 0x1000000 12288").0, 1);
    assert_eq!(held(&caller), (12288, 0), "a failed unmap unmaps nothing");
    caller.ok(&["cuMemUnmap 0x1000000 12288"]);
    assert_eq!(held(&caller), (8192, 1), "one unmap over both; the second has a reference left");
    caller.ok(&["fixture_retain @1", "cuMemRetainAllocationHandle &2 0x1001000", "cuMemRelease @1"]);
    assert_eq!(held(&caller), (8192, 1), "retained");
    caller.ok(&["fixture_fail_next_driver 1"]);
    assert_eq!(caller.call("cuMemRelease @1").0, 1);
    assert_eq!(held(&caller), (8192, 1), "a failed release releases nothing");
    caller.ok(&["cuMemRelease @1"]);
    assert_eq!(held(&caller), (0, 2));
    // Location {host, 0}: pinned host memory.
    caller.ok(&["set 11 2", "cuMemCreate &0 100 &10 0"]);
    assert!(process(&kernel, caller.pid()).memory.values().any(|row| row.host_allocated_bytes == 100));
}

#[test]
fn ranks_of_one_communicator_share_an_identity_and_count_their_own_sequence() {
    let mut kernel = traced(&["libnccl.so", "librccl.so"]);
    let mut ranks = Vec::new();
    for rank in 0..2u32 {
        let mut caller = Caller::start(&[if rank == 0 { "libnccl.so" } else { "librccl.so" }]);
        // The id lies in cells 10 to 25 and is passed by value, after which the rank is the third register.
        caller.ok(&["id 10 77", &format!("big 2 16 10 ncclCommInitRank &0 2 {rank}")]);
        ranks.push(caller);
    }
    // f32 × 100, bf16 × 10, f16 × 5 (six arguments in registers, the communicator on the stack), int8 × 3.
    ranks[0].ok(&[
        "ncclAllReduce 0 0 100 7 0 @0 0",
        "ncclBcast 0 10 9 0 @0 0",
        "ncclReduce 0 0 5 6 0 0 @0 0",
        "ncclAlltoAll 0 0 3 0 @0 0",
    ]);
    ranks[0].ok(&["ncclSend 0 8 8 1 @0 0", "ncclGroupStart", "ncclGroupEnd"]);
    ranks[1].ok(&["ncclAllToAll 0 0 3 0 @0 0"]);
    assert_eq!(ranks[1].call("ncclAllReduce 0 0 100 7 0 0 0").0, 4, "a null communicator fails");
    let of = |pid| {
        let rows = process(&kernel, pid);
        assert_eq!(rows.communicators.len(), 1);
        let c = rows.communicators[0];
        assert_eq!((c.layer, c.ranks), (Nccl, Some(2)));
        (
            c.identity.unwrap(),
            (c.rank, c.sequence, c.point_to_point, c.bytes),
            c.last_symbol.unwrap().get().unwrap().name,
        )
    };
    let (first, second) = (of(ranks[0].pid()), of(ranks[1].pid()));
    assert_eq!(first.0, second.0, "one identity on all ranks");
    assert_eq!(first.1, (Some(0), 4, 1, 400 + 20 + 10 + 3 + 64));
    assert_eq!((second.1, second.2), ((Some(1), 1, 0, 3), "ncclAllToAll"));
    // A split's child is named alike on all ranks; another colour is another communicator.
    ranks[0].ok(&["ncclCommSplit @0 5 0 &1 0", "ncclCommSplit @0 6 0 &2 0", "ncclCommAbort @1"]);
    ranks[1].ok(&["ncclCommSplit @0 5 1 &1 0"]);
    ranks[0].ok(&["ncclCommDestroy @0"]);
    let pids = [ranks[0].pid(), ranks[1].pid()];
    let mut events = Vec::new();
    kernel.drain(|event| {
        if pids.contains(&event.pid()) && event.kind != EventKind::ProcessSeen {
            events.push((event.kind, event.pid(), event.value));
        }
    });
    let created: Vec<_> = events.iter().filter(|e| e.0 == EventKind::CommunicatorCreated).map(|e| (e.1, e.2)).collect();
    assert_eq!((created[0], created[1]), ((pids[0], first.0), (pids[1], first.0)));
    assert_eq!(created[2].1, created[4].1, "colour 5 on both ranks");
    assert_ne!(created[2].1, created[3].1, "colours 5 and 6");
    let ended: Vec<_> = events.iter().filter(|e| e.0 != EventKind::CommunicatorCreated).collect();
    assert_eq!(
        ended,
        [
            &(EventKind::CommunicatorAborted, pids[0], created[2].1),
            &(EventKind::CommunicatorDestroyed, pids[0], first.0)
        ]
    );
    assert_eq!(process(&kernel, pids[0]).communicators.len(), 1, "the split of colour 6 is left");
}

#[test]
fn communicators_made_in_other_ways_are_followed_too() {
    let kernel = traced(&["libnccl.so", "libhccl.so"]);
    let mut caller = Caller::start(&["libnccl.so", "libhccl.so"]);
    // In progress (7) is no failure; four devices of one process; a communicator made before it was traced.
    caller.ok(&["id 10 5"]);
    assert_eq!(caller.call("big 2 16 10 ncclCommInitRankConfig &30 4 3 0").0, 7);
    caller.ok(&["ncclCommInitAll &40 4 0", "ncclAllReduce 0 0 1 7 0 @42 0", "ncclAllReduce 0 0 1 7 0 0x1234 0"]);
    caller.ok(&[
        "HcclCommInitRootInfo 8 &10 2 &50",
        "HcclAllReduce 0 0 10 4 0 @50 0",
        "HcclAlltoAllV 0 0 0 4 0 0 0 4 @50 0",
        "HcclBarrier @50 0",
    ]);
    let rows = process(&kernel, caller.pid());
    let mut seen: Vec<_> = rows
        .communicators
        .iter()
        .map(|c| (c.layer, c.identity.is_some(), c.rank, c.ranks, c.sequence, c.bytes))
        .collect();
    seen.sort();
    let all = |rank, sequence| (Nccl, true, Some(rank), Some(4), sequence, 4 * sequence);
    assert_eq!(
        seen,
        [
            (Nccl, false, None, None, 1, 4),
            all(0, 0),
            all(1, 0),
            all(2, 1),
            all(3, 0),
            all(3, 0),
            (Hccl, true, Some(2), Some(8), 3, 40),
        ]
    );
    assert!(rows.failures.is_empty(), "{:?}", rows.failures);
    assert_eq!(balance(&memory(&kernel, caller.pid(), Runtime, Some(0))), (0, 0, 0, 0, 0));
}
