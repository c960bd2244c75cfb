//! The one table of traced symbols: name, interface, meaning, and where its arguments lie in the C prototype.
//!
//! In: nothing. Out: [`TABLE`], [`by_name`], and the attach [`Cookie`] of each symbol for an architecture.
//! Never: code per symbol. A new function is a new line here.
//!
//! Sources: CUDA 12.9 `cuda_runtime_api.h` and `cuda.h`, ROCm 6 `hip_runtime_api.h`, CANN 8 `acl_rt.h` and `hccl.h`,
//! NCCL 2.28 and RCCL `nccl.h`. Array bytes are the logical ones; a driver's padding is not visible to its caller.

use std::collections::HashMap;
use std::sync::LazyLock;

use railwatch_abi::args::{Arch, ByValue, Slot, locate};
use railwatch_abi::cookie::{Cookie, DeviceRule, Kind, Layer, Meaning, Op, SizeRule, Space};

/// Index into [`TABLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SymbolId(pub u16);

impl SymbolId {
    /// The symbol. `None` where the id came from a kernel half with another table.
    pub fn get(self) -> Option<&'static Symbol> {
        TABLE.get(usize::from(self.0))
    }
}

/// One traced function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Name in the dynamic or static symbol table, without version.
    pub name: &'static str,
    /// Interface.
    pub layer: Layer,
    /// What a call does.
    pub op: Op,
    /// What it allocates.
    pub kind: Kind,
    /// What names the allocation.
    pub space: Space,
    /// Where the bytes come from.
    pub size: SizeRule,
    /// Where the device comes from.
    pub device: DeviceRule,
    /// Positions in the C prototype, by role (see [`Meaning::args`]); `NO` where there is none.
    args: [u8; 4],
    /// The large struct passed by value, if any.
    by_value: Option<ByValue>,
}

/// No such argument.
const NO: u8 = 15;

impl Symbol {
    /// Attached before all others: what balances rest on.
    pub fn keeps_balance(&self) -> bool {
        !matches!(self.op, Op::Count | Op::Collective | Op::PointToPoint)
    }

    /// The attach cookie on `arch`.
    pub fn cookie(&self, id: SymbolId, arch: Arch) -> Cookie {
        let args =
            self.args.map(|position| if position == NO { Slot::NONE } else { locate(arch, self.by_value, position) });
        Cookie::new(Meaning {
            symbol: id.0,
            op: self.op,
            layer: self.layer,
            kind: self.kind,
            space: self.space,
            size: self.size,
            device: self.device,
            args,
            // The unique id is hashed at entry from wherever it lies; everything else is saved as stack words.
            stack: args.iter().any(|slot| slot.on_stack()),
        })
    }
}

/// The symbol called `name`.
pub fn by_name(name: &str) -> Option<(SymbolId, &'static Symbol)> {
    static INDEX: LazyLock<HashMap<&'static str, SymbolId>> =
        LazyLock::new(|| TABLE.iter().zip(0..).map(|(symbol, id)| (symbol.name, SymbolId(id))).collect());
    let id = *INDEX.get(name)?;
    Some((id, id.get()?))
}

/// A function that is counted and timed, and nothing else.
const fn count(layer: Layer, name: &'static str) -> Symbol {
    Symbol {
        name,
        layer,
        op: Op::Count,
        kind: Kind::Device,
        space: Address,
        size: SizeRule::Nothing,
        device: DeviceRule::Current,
        args: [NO; 4],
        by_value: None,
    }
}

/// `f(void **out, size_t bytes, …)`.
const fn alloc(layer: Layer, name: &'static str) -> Symbol {
    sized(layer, name, SizeRule::Bytes, [0, 1, NO, NO])
}

/// An allocation of device memory with its own size rule.
const fn sized(layer: Layer, name: &'static str, size: SizeRule, args: [u8; 4]) -> Symbol {
    Symbol { op: Op::Alloc, size, args, ..count(layer, name) }
}

/// `f(void **out, size_t bytes, …)`, pinned memory of the host.
const fn alloc_host(layer: Layer, name: &'static str) -> Symbol {
    Symbol { kind: Kind::Host, ..alloc(layer, name) }
}

/// An allocation named by an array object.
const fn array(layer: Layer, name: &'static str, size: SizeRule, args: [u8; 4]) -> Symbol {
    Symbol { space: Array, ..sized(layer, name, size, args) }
}

/// `f(handle *out, size_t bytes, const prop *, …)`.
const fn physical(layer: Layer, name: &'static str, device: DeviceRule) -> Symbol {
    Symbol { space: Handle, device, ..sized(layer, name, SizeRule::Bytes, [0, 1, 2, NO]) }
}

/// `f(handle *out, …)`, memory of another process.
const fn import(layer: Layer, name: &'static str, space: Space) -> Symbol {
    Symbol { kind: Kind::Imported, space, ..sized(layer, name, SizeRule::Nothing, [0, NO, NO, NO]) }
}

/// `f(what)`.
const fn free(layer: Layer, name: &'static str, space: Space) -> Symbol {
    Symbol { op: Op::Free, space, args: [0, NO, NO, NO], ..count(layer, name) }
}

/// An op of the device and context family.
const fn on(layer: Layer, name: &'static str, op: Op, args: [u8; 4]) -> Symbol {
    Symbol { op, args, ..count(layer, name) }
}

/// The same, with a large struct passed by value.
const fn passing(symbol: Symbol, position: u8, words: u8) -> Symbol {
    Symbol { by_value: Some(ByValue { position, words }), ..symbol }
}

/// A collective: positions of communicator, count and datatype.
const fn collective(layer: Layer, name: &'static str, args: [u8; 3]) -> Symbol {
    on(layer, name, Op::Collective, [args[0], args[1], args[2], NO])
}

/// A point-to-point transfer: positions of communicator, count and datatype.
const fn transfer(layer: Layer, name: &'static str, args: [u8; 3]) -> Symbol {
    on(layer, name, Op::PointToPoint, [args[0], args[1], args[2], NO])
}

use Layer::{Acl, CudaDriver as Cu, CudaRuntime as Rt, Hccl, Hip, Nccl};
use Space::{Address, Array, Handle, Mapping};

const ONE: [u8; 4] = [0, NO, NO, NO];
const NONE: [u8; 4] = [NO; 4];

/// Words of `cudaExtent` and `hipExtent`.
const EXTENT: u8 = 3;
/// Words of an IPC memory handle (64 bytes).
const IPC: u8 = 8;
/// Words of `ncclUniqueId` (128 bytes).
const UNIQUE_ID: u8 = 16;

/// Every traced symbol. The order is the identity (a [`SymbolId`] is an index), so it is part of what a pinned state
/// depends on.
pub static TABLE: &[Symbol] = &[
    // CUDA runtime: memory.
    alloc(Rt, "cudaMalloc"),
    alloc(Rt, "cudaMallocAsync"),
    alloc(Rt, "cudaMallocAsync_ptsz"),
    alloc(Rt, "cudaMallocFromPoolAsync"),
    alloc(Rt, "cudaMallocFromPoolAsync_ptsz"),
    alloc(Rt, "cudaMallocManaged"),
    alloc_host(Rt, "cudaMallocHost"),
    alloc_host(Rt, "cudaHostAlloc"),
    sized(Rt, "cudaMallocPitch", SizeRule::Pitch, [0, 1, 3, NO]),
    passing(sized(Rt, "cudaMalloc3D", SizeRule::Pitch3d, [0, 1, NO, NO]), 1, EXTENT),
    array(Rt, "cudaMallocArray", SizeRule::Array, [0, 1, 2, 3]),
    passing(array(Rt, "cudaMalloc3DArray", SizeRule::Array3d, [0, 1, 2, NO]), 2, EXTENT),
    passing(array(Rt, "cudaMallocMipmappedArray", SizeRule::Mipmap, [0, 1, 2, 3]), 2, EXTENT),
    passing(import(Rt, "cudaIpcOpenMemHandle", Address), 1, IPC),
    free(Rt, "cudaIpcCloseMemHandle", Address),
    free(Rt, "cudaFree", Address),
    free(Rt, "cudaFreeAsync", Address),
    free(Rt, "cudaFreeAsync_ptsz", Address),
    free(Rt, "cudaFreeHost", Address),
    free(Rt, "cudaFreeArray", Array),
    free(Rt, "cudaFreeMipmappedArray", Array),
    on(Rt, "cudaSetDevice", Op::SetDevice, ONE),
    on(Rt, "cudaDeviceReset", Op::DeviceReset, NONE),
    on(Rt, "cudaThreadExit", Op::DeviceReset, NONE),
    // CUDA runtime: launches, copies, synchronisation.
    count(Rt, "cudaLaunchKernel"),
    count(Rt, "cudaLaunchKernel_ptsz"),
    count(Rt, "cudaLaunchKernelExC"),
    count(Rt, "cudaLaunchKernelExC_ptsz"),
    count(Rt, "cudaLaunchCooperativeKernel"),
    count(Rt, "cudaLaunchCooperativeKernel_ptsz"),
    count(Rt, "cudaGraphLaunch"),
    count(Rt, "cudaGraphLaunch_ptsz"),
    count(Rt, "cudaMemcpy"),
    count(Rt, "cudaMemcpy_ptds"),
    count(Rt, "cudaMemcpyAsync"),
    count(Rt, "cudaMemcpyAsync_ptsz"),
    count(Rt, "cudaMemcpy2D"),
    count(Rt, "cudaMemcpy2D_ptds"),
    count(Rt, "cudaMemcpy2DAsync"),
    count(Rt, "cudaMemcpy2DAsync_ptsz"),
    count(Rt, "cudaMemcpy3D"),
    count(Rt, "cudaMemcpy3D_ptds"),
    count(Rt, "cudaMemcpy3DAsync"),
    count(Rt, "cudaMemcpy3DAsync_ptsz"),
    count(Rt, "cudaMemcpyPeer"),
    count(Rt, "cudaMemcpyPeerAsync"),
    count(Rt, "cudaMemcpyToSymbol"),
    count(Rt, "cudaMemcpyToSymbol_ptds"),
    count(Rt, "cudaMemcpyToSymbolAsync"),
    count(Rt, "cudaMemcpyToSymbolAsync_ptsz"),
    count(Rt, "cudaMemcpyFromSymbol"),
    count(Rt, "cudaMemcpyFromSymbol_ptds"),
    count(Rt, "cudaMemcpyFromSymbolAsync"),
    count(Rt, "cudaMemcpyFromSymbolAsync_ptsz"),
    count(Rt, "cudaMemset"),
    count(Rt, "cudaMemset_ptds"),
    count(Rt, "cudaMemsetAsync"),
    count(Rt, "cudaMemsetAsync_ptsz"),
    count(Rt, "cudaStreamSynchronize"),
    count(Rt, "cudaStreamSynchronize_ptsz"),
    count(Rt, "cudaDeviceSynchronize"),
    count(Rt, "cudaEventSynchronize"),
    // CUDA driver: memory.
    alloc(Cu, "cuMemAlloc"),
    alloc(Cu, "cuMemAlloc_v2"),
    sized(Cu, "cuMemAllocPitch", SizeRule::Pitch, [0, 1, 3, NO]),
    sized(Cu, "cuMemAllocPitch_v2", SizeRule::Pitch, [0, 1, 3, NO]),
    alloc(Cu, "cuMemAllocManaged"),
    alloc(Cu, "cuMemAllocAsync"),
    alloc(Cu, "cuMemAllocAsync_ptsz"),
    alloc(Cu, "cuMemAllocFromPoolAsync"),
    alloc(Cu, "cuMemAllocFromPoolAsync_ptsz"),
    alloc_host(Cu, "cuMemAllocHost"),
    alloc_host(Cu, "cuMemAllocHost_v2"),
    alloc_host(Cu, "cuMemHostAlloc"),
    array(Cu, "cuArrayCreate", SizeRule::DriverArray, [0, 1, NO, NO]),
    array(Cu, "cuArrayCreate_v2", SizeRule::DriverArray, [0, 1, NO, NO]),
    array(Cu, "cuArray3DCreate", SizeRule::DriverArray3d, [0, 1, NO, NO]),
    array(Cu, "cuArray3DCreate_v2", SizeRule::DriverArray3d, [0, 1, NO, NO]),
    array(Cu, "cuMipmappedArrayCreate", SizeRule::DriverMipmap, [0, 1, 2, NO]),
    physical(Cu, "cuMemCreate", DeviceRule::CudaProperties),
    import(Cu, "cuMemImportFromShareableHandle", Handle),
    on(Cu, "cuMemRetainAllocationHandle", Op::HandleRetain, [0, 1, NO, NO]),
    on(Cu, "cuMemMap", Op::Map, [0, 1, 3, NO]),
    on(Cu, "cuMemUnmap", Op::Unmap, [0, 1, NO, NO]),
    passing(import(Cu, "cuIpcOpenMemHandle", Address), 1, IPC),
    passing(import(Cu, "cuIpcOpenMemHandle_v2", Address), 1, IPC),
    free(Cu, "cuIpcCloseMemHandle", Address),
    free(Cu, "cuMemFree", Address),
    free(Cu, "cuMemFree_v2", Address),
    free(Cu, "cuMemFreeAsync", Address),
    free(Cu, "cuMemFreeAsync_ptsz", Address),
    free(Cu, "cuMemFreeHost", Address),
    free(Cu, "cuArrayDestroy", Array),
    free(Cu, "cuMipmappedArrayDestroy", Array),
    free(Cu, "cuMemRelease", Handle),
    // CUDA driver: contexts.
    on(Cu, "cuCtxCreate", Op::ContextCreate, [0, 2, NO, NO]),
    on(Cu, "cuCtxCreate_v2", Op::ContextCreate, [0, 2, NO, NO]),
    on(Cu, "cuCtxCreate_v3", Op::ContextCreate, [0, 4, NO, NO]),
    on(Cu, "cuCtxCreate_v4", Op::ContextCreate, [0, 3, NO, NO]),
    on(Cu, "cuCtxDestroy", Op::ContextDestroy, ONE),
    on(Cu, "cuCtxDestroy_v2", Op::ContextDestroy, ONE),
    on(Cu, "cuCtxSetCurrent", Op::ContextSet, ONE),
    on(Cu, "cuCtxPushCurrent", Op::ContextPush, ONE),
    on(Cu, "cuCtxPushCurrent_v2", Op::ContextPush, ONE),
    on(Cu, "cuCtxPopCurrent", Op::ContextPop, NONE),
    on(Cu, "cuCtxPopCurrent_v2", Op::ContextPop, NONE),
    on(Cu, "cuDevicePrimaryCtxRetain", Op::PrimaryRetain, [1, 0, NO, NO]),
    on(Cu, "cuDevicePrimaryCtxRelease", Op::PrimaryRelease, ONE),
    on(Cu, "cuDevicePrimaryCtxRelease_v2", Op::PrimaryRelease, ONE),
    on(Cu, "cuDevicePrimaryCtxReset", Op::PrimaryReset, ONE),
    on(Cu, "cuDevicePrimaryCtxReset_v2", Op::PrimaryReset, ONE),
    // CUDA driver: launches, copies, synchronisation.
    count(Cu, "cuLaunchKernel"),
    count(Cu, "cuLaunchKernel_ptsz"),
    count(Cu, "cuLaunchKernelEx"),
    count(Cu, "cuLaunchKernelEx_ptsz"),
    count(Cu, "cuLaunchCooperativeKernel"),
    count(Cu, "cuLaunchCooperativeKernel_ptsz"),
    count(Cu, "cuGraphLaunch"),
    count(Cu, "cuGraphLaunch_ptsz"),
    count(Cu, "cuMemcpy"),
    count(Cu, "cuMemcpy_ptds"),
    count(Cu, "cuMemcpyAsync"),
    count(Cu, "cuMemcpyAsync_ptsz"),
    count(Cu, "cuMemcpyHtoD_v2"),
    count(Cu, "cuMemcpyHtoD_v2_ptds"),
    count(Cu, "cuMemcpyHtoDAsync_v2"),
    count(Cu, "cuMemcpyHtoDAsync_v2_ptsz"),
    count(Cu, "cuMemcpyDtoH_v2"),
    count(Cu, "cuMemcpyDtoH_v2_ptds"),
    count(Cu, "cuMemcpyDtoHAsync_v2"),
    count(Cu, "cuMemcpyDtoHAsync_v2_ptsz"),
    count(Cu, "cuMemcpyDtoD_v2"),
    count(Cu, "cuMemcpyDtoD_v2_ptds"),
    count(Cu, "cuMemcpyDtoDAsync_v2"),
    count(Cu, "cuMemcpyDtoDAsync_v2_ptsz"),
    count(Cu, "cuStreamSynchronize"),
    count(Cu, "cuStreamSynchronize_ptsz"),
    count(Cu, "cuCtxSynchronize"),
    count(Cu, "cuEventSynchronize"),
    // HIP: memory.
    alloc(Hip, "hipMalloc"),
    alloc(Hip, "hipExtMallocWithFlags"),
    alloc(Hip, "hipMallocAsync"),
    alloc(Hip, "hipMallocAsync_spt"),
    alloc(Hip, "hipMallocFromPoolAsync"),
    alloc(Hip, "hipMallocManaged"),
    alloc_host(Hip, "hipHostMalloc"),
    alloc_host(Hip, "hipHostAlloc"),
    alloc_host(Hip, "hipMallocHost"),
    alloc_host(Hip, "hipMemAllocHost"),
    sized(Hip, "hipMallocPitch", SizeRule::Pitch, [0, 1, 3, NO]),
    sized(Hip, "hipMemAllocPitch", SizeRule::Pitch, [0, 1, 3, NO]),
    passing(sized(Hip, "hipMalloc3D", SizeRule::Pitch3d, [0, 1, NO, NO]), 1, EXTENT),
    array(Hip, "hipMallocArray", SizeRule::Array, [0, 1, 2, 3]),
    passing(array(Hip, "hipMalloc3DArray", SizeRule::Array3d, [0, 1, 2, NO]), 2, EXTENT),
    passing(array(Hip, "hipMallocMipmappedArray", SizeRule::Mipmap, [0, 1, 2, 3]), 2, EXTENT),
    array(Hip, "hipArrayCreate", SizeRule::DriverArray, [0, 1, NO, NO]),
    array(Hip, "hipArray3DCreate", SizeRule::DriverArray3d, [0, 1, NO, NO]),
    physical(Hip, "hipMemCreate", DeviceRule::HipProperties),
    import(Hip, "hipMemImportFromShareableHandle", Handle),
    on(Hip, "hipMemRetainAllocationHandle", Op::HandleRetain, [0, 1, NO, NO]),
    on(Hip, "hipMemMap", Op::Map, [0, 1, 3, NO]),
    on(Hip, "hipMemUnmap", Op::Unmap, [0, 1, NO, NO]),
    passing(import(Hip, "hipIpcOpenMemHandle", Address), 1, IPC),
    free(Hip, "hipIpcCloseMemHandle", Address),
    free(Hip, "hipFree", Address),
    free(Hip, "hipFreeAsync", Address),
    free(Hip, "hipFreeAsync_spt", Address),
    free(Hip, "hipFreeHost", Address),
    free(Hip, "hipHostFree", Address),
    free(Hip, "hipFreeArray", Array),
    free(Hip, "hipArrayDestroy", Array),
    free(Hip, "hipFreeMipmappedArray", Array),
    free(Hip, "hipMemRelease", Handle),
    on(Hip, "hipSetDevice", Op::SetDevice, ONE),
    on(Hip, "hipDeviceReset", Op::DeviceReset, NONE),
    // HIP: launches, copies, synchronisation.
    count(Hip, "hipLaunchKernel"),
    count(Hip, "hipLaunchKernel_spt"),
    count(Hip, "hipExtLaunchKernel"),
    count(Hip, "hipModuleLaunchKernel"),
    count(Hip, "hipExtModuleLaunchKernel"),
    count(Hip, "hipLaunchCooperativeKernel"),
    count(Hip, "hipGraphLaunch"),
    count(Hip, "hipMemcpy"),
    count(Hip, "hipMemcpy_spt"),
    count(Hip, "hipMemcpyAsync"),
    count(Hip, "hipMemcpyAsync_spt"),
    count(Hip, "hipMemcpyWithStream"),
    count(Hip, "hipMemcpyHtoD"),
    count(Hip, "hipMemcpyHtoDAsync"),
    count(Hip, "hipMemcpyDtoH"),
    count(Hip, "hipMemcpyDtoHAsync"),
    count(Hip, "hipMemcpyDtoD"),
    count(Hip, "hipMemcpyDtoDAsync"),
    count(Hip, "hipMemcpy2D"),
    count(Hip, "hipMemcpy2DAsync"),
    count(Hip, "hipMemcpyPeer"),
    count(Hip, "hipMemcpyPeerAsync"),
    count(Hip, "hipMemset"),
    count(Hip, "hipMemsetAsync"),
    count(Hip, "hipStreamSynchronize"),
    count(Hip, "hipStreamSynchronize_spt"),
    count(Hip, "hipDeviceSynchronize"),
    count(Hip, "hipEventSynchronize"),
    // Ascend: memory.
    alloc(Acl, "aclrtMalloc"),
    alloc(Acl, "aclrtMallocAlign32"),
    alloc(Acl, "aclrtMallocCached"),
    alloc(Acl, "aclrtMallocWithCfg"),
    alloc(Acl, "aclrtMallocForTaskScheduler"),
    alloc_host(Acl, "aclrtMallocHost"),
    alloc_host(Acl, "aclrtMallocHostWithCfg"),
    physical(Acl, "aclrtMallocPhysical", DeviceRule::AclProperties),
    on(Acl, "aclrtMapMem", Op::Map, [0, 1, 3, NO]),
    on(Acl, "aclrtUnmapMem", Op::Unmap, ONE),
    import(Acl, "aclrtMemImportFromShareableHandle", Handle).with_out(2),
    free(Acl, "aclrtFreePhysical", Handle),
    free(Acl, "aclrtFree", Address),
    free(Acl, "aclrtFreeWithDevSync", Address),
    free(Acl, "aclrtFreeHost", Address),
    free(Acl, "aclrtFreeHostWithDevSync", Address),
    on(Acl, "aclrtSetDevice", Op::SetDevice, ONE),
    on(Acl, "aclrtResetDevice", Op::DeviceReset, ONE),
    on(Acl, "aclrtResetDeviceForce", Op::DeviceReset, ONE),
    on(Acl, "aclrtCreateContext", Op::ContextCreate, [0, 1, NO, NO]),
    on(Acl, "aclrtSetCurrentContext", Op::ContextSet, ONE),
    on(Acl, "aclrtDestroyContext", Op::ContextDestroy, ONE),
    // Ascend: launches, copies, synchronisation.
    count(Acl, "aclrtLaunchKernel"),
    count(Acl, "aclrtLaunchKernelWithConfig"),
    count(Acl, "aclopExecuteV2"),
    count(Acl, "aclmdlExecute"),
    count(Acl, "aclmdlExecuteAsync"),
    count(Acl, "aclrtMemcpy"),
    count(Acl, "aclrtMemcpyAsync"),
    count(Acl, "aclrtMemcpy2d"),
    count(Acl, "aclrtMemcpy2dAsync"),
    count(Acl, "aclrtMemset"),
    count(Acl, "aclrtMemsetAsync"),
    count(Acl, "aclrtSynchronizeStream"),
    count(Acl, "aclrtSynchronizeStreamWithTimeout"),
    count(Acl, "aclrtSynchronizeDevice"),
    count(Acl, "aclrtSynchronizeDeviceWithTimeout"),
    count(Acl, "aclrtSynchronizeEvent"),
    // NCCL and RCCL.
    passing(on(Nccl, "ncclCommInitRank", Op::CommInit, [0, 1, 2, 3]), 2, UNIQUE_ID),
    passing(on(Nccl, "ncclCommInitRankConfig", Op::CommInit, [0, 1, 2, 3]), 2, UNIQUE_ID),
    on(Nccl, "ncclCommInitRankScalable", Op::CommInit, [0, 1, 4, 2]),
    on(Nccl, "ncclCommInitAll", Op::CommInitAll, [0, 1, NO, NO]),
    on(Nccl, "ncclCommSplit", Op::CommSplit, [0, 1, 3, NO]),
    on(Nccl, "ncclCommDestroy", Op::CommDestroy, ONE),
    count(Nccl, "ncclCommFinalize"),
    on(Nccl, "ncclCommAbort", Op::CommAbort, ONE),
    collective(Nccl, "ncclAllReduce", [5, 2, 3]),
    collective(Nccl, "ncclAllGather", [4, 2, 3]),
    collective(Nccl, "ncclReduceScatter", [5, 2, 3]),
    collective(Nccl, "ncclBroadcast", [5, 2, 3]),
    collective(Nccl, "ncclBcast", [4, 1, 2]),
    collective(Nccl, "ncclReduce", [6, 2, 3]),
    collective(Nccl, "ncclAlltoAll", [4, 2, 3]),
    collective(Nccl, "ncclAllToAll", [4, 2, 3]),
    collective(Nccl, "ncclAllToAllv", [7, NO, 6]),
    collective(Nccl, "ncclGather", [5, 2, 3]),
    collective(Nccl, "ncclScatter", [5, 2, 3]),
    transfer(Nccl, "ncclSend", [4, 1, 2]),
    transfer(Nccl, "ncclRecv", [4, 1, 2]),
    count(Nccl, "ncclGroupStart"),
    count(Nccl, "ncclGroupEnd"),
    // HCCL.
    on(Hccl, "HcclCommInitRootInfo", Op::CommInit, [3, 0, 1, 2]),
    on(Hccl, "HcclCommInitRootInfoConfig", Op::CommInit, [4, 0, 1, 2]),
    on(Hccl, "HcclCommInitClusterInfo", Op::CommInit, [2, NO, NO, 1]),
    on(Hccl, "HcclCommInitClusterInfoConfig", Op::CommInit, [3, NO, NO, 1]),
    on(Hccl, "HcclCommInitAll", Op::CommInitAll, [2, 0, NO, NO]),
    on(Hccl, "HcclCommDestroy", Op::CommDestroy, ONE),
    collective(Hccl, "HcclAllReduce", [5, 2, 3]),
    collective(Hccl, "HcclBroadcast", [4, 1, 2]),
    collective(Hccl, "HcclReduceScatter", [5, 2, 3]),
    collective(Hccl, "HcclAllGather", [4, 2, 3]),
    collective(Hccl, "HcclReduce", [6, 2, 3]),
    collective(Hccl, "HcclScatter", [5, 2, 3]),
    collective(Hccl, "HcclAlltoAll", [6, 1, 2]),
    collective(Hccl, "HcclAlltoAllV", [8, NO, 3]),
    collective(Hccl, "HcclAlltoAllVC", [5, NO, 2]),
    collective(Hccl, "HcclBarrier", [0, NO, NO]),
    transfer(Hccl, "HcclSend", [4, 1, 2]),
    transfer(Hccl, "HcclRecv", [4, 1, 2]),
    transfer(Hccl, "HcclBatchSendRecv", [2, NO, NO]),
];

impl Symbol {
    /// The same import with its out-pointer elsewhere.
    const fn with_out(mut self, position: u8) -> Self {
        self.args[0] = position;
        self
    }
}

// Unmapping is not a free of an allocation's own: the table never names a mapping outside `Map` and `Unmap`.
const _: () = {
    let mut i = 0;
    while i < TABLE.len() {
        assert!(!matches!(TABLE[i].space, Mapping), "a mapping is not an allocation");
        i += 1;
    }
    assert!(TABLE.len() < 1024, "a symbol id has 10 bits");
};

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_name_is_there_once_and_finds_its_own_line() {
        let names: HashSet<_> = TABLE.iter().map(|symbol| symbol.name).collect();
        assert_eq!(names.len(), TABLE.len(), "a name is in the table twice");
        for (index, symbol) in TABLE.iter().enumerate() {
            let (id, found) = by_name(symbol.name).expect("each name of the table is found");
            assert_eq!((usize::from(id.0), found), (index, symbol));
        }
        assert_eq!(by_name("pncclAllReduce"), None, "pnccl is the same function under a second name");
    }

    #[test]
    fn every_symbol_has_its_arguments_within_reach_on_both_architectures() {
        for arch in [Arch::X86_64, Arch::Aarch64] {
            for (index, symbol) in (0u16..).zip(TABLE) {
                let cookie = symbol.cookie(SymbolId(index), arch);
                assert_eq!((cookie.symbol(), cookie.op()), (index, symbol.op as u8), "{}", symbol.name);
                for role in 0..4 {
                    assert_eq!(
                        cookie.arg(role) == Slot::NONE.0,
                        symbol.args[role as usize] == NO,
                        "{} argument {role} on {arch:?}",
                        symbol.name
                    );
                }
            }
        }
    }

    #[test]
    fn large_structs_are_found_as_each_architecture_passes_them() {
        // (symbol, role, x86-64 slot, aarch64 slot)
        let cases = [
            ("ncclCommInitRank", 2, 8, 2),
            ("ncclCommInitRank", 3, 2, 3),
            ("ncclCommInitRankScalable", 2, 4, 4),
            ("cudaMalloc3D", 1, 8, 1),
            ("cudaMalloc3DArray", 2, 8, 2),
            ("cudaMallocMipmappedArray", 3, 2, 3),
            ("ncclReduce", 0, 8, 6),
            ("HcclAlltoAllV", 0, 10, 8),
        ];
        for (name, role, x86, arm) in cases {
            let (id, symbol) = by_name(name).expect("in the table");
            assert_eq!(symbol.cookie(id, Arch::X86_64).arg(role), x86, "{name} on x86-64");
            assert_eq!(symbol.cookie(id, Arch::Aarch64).arg(role), arm, "{name} on aarch64");
        }
    }
}
