//! Allocations and frees, physical handles and mappings.
//!
//! In: pending calls and their results. Out: `ALLOCATIONS` and the balances in `TOTALS` and `CONTEXTS`.
//! A free takes its entry out when it begins and puts it back if it fails, because the address may be handed out
//! again before the free's return is seen.

use aya_ebpf::bindings::{BPF_ANY, BPF_F_USER_STACK, BPF_NOEXIST};
use aya_ebpf::helpers::generated::bpf_get_stackid;
use railwatch_abi::DEVICE_UNKNOWN;
use railwatch_abi::args::SLOTS;
use railwatch_abi::cookie::{Cookie, DeviceRule, Kind, Layer, Op, SizeRule, Space};
use railwatch_abi::maps::{
    Allocation, AllocationKey, ContextKey, LAYERS, Pending, Reason, Thread, TotalsKey,
};
use railwatch_abi::sizes::array_format;

use crate::account::{grow, totals};
use crate::atomic::{add, add_signed, add_u32};
use crate::context;
use crate::maps::{ALLOCATIONS, CONTEXTS, PROCESSES, STACKS, config};
use crate::regs::Regs;
use crate::report;
use crate::user::{self, arg};

const DRIVER: usize = Layer::CudaDriver as usize;
const HANDLE: u32 = Space::Handle as u32;
const MAPPING: u32 = Space::Mapping as u32;
/// Mappings that one unmap may cover.
const UNMAP_MAX: u32 = 16;

/// Device and context that an allocation of this layer belongs to.
#[inline(always)]
pub fn device(thread: &Thread, layer: usize) -> (i32, u64) {
    let layer = layer & (LAYERS - 1);
    let device = thread.device[layer];
    if layer != DRIVER {
        return (device, 0);
    }
    let runtime = thread.device[Layer::CudaRuntime as usize];
    if thread.context != 0 {
        (device, thread.context)
    } else if thread.pending[Layer::CudaRuntime as usize].stack_pointer != 0 && runtime >= 0 {
        // Called by the runtime, which works in the primary context of the thread's device.
        (runtime, context::primary(runtime))
    } else {
        (DEVICE_UNKNOWN, 0)
    }
}

/// A free begins: takes the allocation out.
#[inline(always)]
pub fn take(process: u64, cookie: Cookie, pending: &mut Pending) {
    let address = arg(&pending.args, cookie.arg(0));
    pending.begun = 0;
    let space = cookie.space() as u32;
    let key = AllocationKey { process, address, layer: cookie.layer() as u32, space };
    let Some(found) = ALLOCATIONS.get_ptr(key) else { return };
    // SAFETY: a live map value, copied before it is removed.
    let found = unsafe { *found };
    // A handle that is still mapped, or referenced again, outlives this release.
    if space == HANDLE && (found.references > 1 || found.mappings > 0) {
        return;
    }
    pending.taken = found;
    // Of two frees of one address at once, one has it.
    if ALLOCATIONS.remove(key).is_ok() {
        pending.begun = address;
    }
}

/// The pending call is gone without a return: what its free took out goes back.
#[inline(never)]
pub fn abandon(process: u64, pending: &mut Pending) -> u32 {
    pending.stack_pointer = 0;
    let cookie = Cookie(pending.cookie);
    if cookie.op() == Op::Free as u8 {
        put_back(process, cookie, pending);
    }
    report::lost(process, Reason::Abandoned)
}

#[inline(always)]
fn put_back(process: u64, cookie: Cookie, pending: &mut Pending) {
    if pending.begun == 0 {
        return;
    }
    let key = AllocationKey {
        process,
        address: pending.begun,
        layer: cookie.layer() as u32,
        space: cookie.space() as u32,
    };
    pending.begun = 0;
    // An entry made in between is a newer allocation: it stays.
    if let Err(code) = ALLOCATIONS.insert(key, pending.taken, BPF_NOEXIST.into())
        && code != EEXIST
    {
        report::lost(process, Reason::AllocationsFull);
    }
}

const EEXIST: i32 = -17;

/// A free returned.
#[inline(always)]
pub fn freed(thread: &mut Thread, layer: usize, cookie: Cookie, code: i32) {
    let layer = layer & (LAYERS - 1);
    let process = thread.process;
    let pending = &mut thread.pending[layer];
    if code != 0 {
        put_back(process, cookie, pending);
        report::failed(thread, layer, cookie, code);
        return;
    }
    let address = arg(&pending.args, cookie.arg(0));
    if pending.begun != 0 {
        release(process, &pending.taken);
    } else if cookie.space() as u32 == HANDLE {
        unreference(process, layer, address);
    } else if address != 0 {
        unmatched(process, layer);
    }
}

#[inline(always)]
fn unmatched(process: u64, layer: usize) {
    if let Some(entry) = PROCESSES.get_ptr_mut(process) {
        // SAFETY: a live field of a map value.
        add(unsafe { &raw mut (*entry).unmatched_frees[layer & (LAYERS - 1)] }, 1);
    }
}

/// One reference of a handle less; the bytes go with the last reference and the last mapping.
#[inline(never)]
fn unreference(process: u64, layer: usize, handle: u64) -> u32 {
    let key = AllocationKey { process, address: handle, layer: layer as u32, space: HANDLE };
    let Some(found) = ALLOCATIONS.get_ptr_mut(key) else {
        unmatched(process, layer);
        return 0;
    };
    // SAFETY: live fields of a map value.
    let (references, mappings) =
        unsafe { (add_u32(&raw mut (*found).references, u32::MAX), (*found).mappings) };
    if references == 0 && mappings == 0 {
        // SAFETY: as above; copied before it is removed.
        let allocation = unsafe { *found };
        if ALLOCATIONS.remove(key).is_ok() {
            release(process, &allocation);
        }
    }
    0
}

/// Books the end of an allocation, unless a device reset or context destroy did so before.
#[inline(always)]
fn release(process: u64, allocation: &Allocation) {
    close(process, allocation, false);
}

#[inline(always)]
fn close(process: u64, allocation: &Allocation, implicit: bool) {
    let key = TotalsKey {
        process,
        device: allocation.device,
        layer: allocation.layer as u16,
        kind: allocation.kind as u16,
    };
    let Some(totals) = totals(&key) else { return };
    let size = allocation.size as i64;
    // SAFETY: live fields of map values.
    unsafe {
        let mut generation = (*totals).generation;
        if allocation.context != 0 {
            let Some(context) = CONTEXTS.get_ptr_mut(ContextKey { process, context: allocation.context }) else {
                return;
            };
            generation = (*context).generation;
            if generation == allocation.generation {
                let kind = allocation.kind as usize;
                if kind < 3 {
                    add_signed(&raw mut (*context).allocated[kind], -size);
                }
            }
        }
        if generation != allocation.generation {
            add(&raw mut (*totals).stale_frees, 1);
            return;
        }
        add_signed(&raw mut (*totals).allocated, -size);
        if implicit {
            add(&raw mut (*totals).implicit_freed, size as u64);
        } else {
            add(&raw mut (*totals).frees, 1);
        }
    }
}

/// Bytes asked for, where the arguments alone say it.
#[inline(always)]
pub fn asked(args: &[u64; SLOTS], cookie: Cookie) -> u64 {
    if cookie.size_rule() == SizeRule::Bytes as u8 { arg(args, cookie.arg(1)) } else { 0 }
}

/// An allocation returned.
#[inline(always)]
pub fn allocated(regs: &Regs, thread: &mut Thread, layer: usize, cookie: Cookie, code: i32) {
    let layer = layer & (LAYERS - 1);
    let process = thread.process;
    if code != 0 {
        report::failed(thread, layer, cookie, code);
        return;
    }
    let (mut device, mut context) = device(thread, layer);
    let args = &thread.pending[layer].args;
    let Some(address) = user::read::<u64>(arg(args, cookie.arg(0))) else {
        report::lost(process, Reason::Unreadable);
        return;
    };
    // Nothing was asked for and nothing was given.
    if address == 0 {
        return;
    }
    let mut kind = cookie.kind();
    let size = if cookie.size_rule() == SizeRule::Bytes as u8 {
        arg(args, cookie.arg(1))
    } else {
        let pending = &mut thread.pending[layer];
        computed(pending, cookie.0, process);
        // By way of memory: the verifier would follow each path of the computation to the end of the program.
        // SAFETY: a live field.
        unsafe { (&raw const pending.begun).read_volatile() }
    };
    let args = &thread.pending[layer].args;
    if cookie.device_rule() != DeviceRule::Current as u8 {
        match located(args, cookie) {
            Some((false, at)) => device = at,
            Some((true, _)) => kind = Kind::Host as u8,
            None => {
                report::lost(process, Reason::Unreadable);
                device = DEVICE_UNKNOWN;
            }
        }
        // Physical memory belongs to the device, not to a context: it survives the context's end.
        context = 0;
    }
    let stack = if config!(stacks) != 0 {
        // SAFETY: the context is this program's.
        unsafe { bpf_get_stackid(regs.0.cast_mut().cast(), (&raw const STACKS).cast_mut().cast(), BPF_F_USER_STACK.into()) as i32 }
    } else {
        -1
    };
    let new = Allocation {
        size,
        context,
        device,
        generation: 0,
        stack,
        kind,
        layer: layer as u8,
        pad: 0,
        references: 1,
        mappings: 0,
        handle: 0,
    };
    open(process, address, cookie.space() as u32, new);
}

/// Books a new allocation.
#[inline(always)]
fn open(process: u64, address: u64, space: u32, mut new: Allocation) {
    let key = TotalsKey { process, device: new.device, layer: new.layer as u16, kind: new.kind as u16 };
    let Some(totals) = totals(&key) else { return };
    let size = new.size as i64;
    // SAFETY: live fields of map values.
    unsafe {
        new.generation = (*totals).generation;
        if new.context != 0 {
            match context::entry(process, new.context, new.device) {
                Some(context) => {
                    new.generation = (*context).generation;
                    let kind = new.kind as usize;
                    if kind < 3 {
                        add_signed(&raw mut (*context).allocated[kind], size);
                    }
                }
                None => new.context = 0,
            }
        }
        add(&raw mut (*totals).allocs, 1);
        let key = AllocationKey { process, address, layer: new.layer as u32, space };
        let mut inserted = ALLOCATIONS.insert(key, new, BPF_NOEXIST.into());
        if inserted == Err(EEXIST) {
            replace(&key);
            inserted = ALLOCATIONS.insert(key, new, BPF_ANY.into());
        }
        if inserted.is_err() {
            // Its free will not be recognised, so its bytes are left out of the balance, which is marked.
            report::lost(process, Reason::AllocationsFull);
            return;
        }
        grow(totals, size);
    }
}

/// An address was handed out again without its free having been seen: the older allocation ended somewhere.
#[inline(never)]
fn replace(key: &AllocationKey) -> u32 {
    if let Some(old) = ALLOCATIONS.get_ptr(key) {
        // SAFETY: a live map value, copied before it is removed.
        let old = unsafe { *old };
        if ALLOCATIONS.remove(key).is_ok() {
            close(key.process, &old, true);
        }
    }
    0
}

/// Bytes of an allocation whose size is computed (pitched and array memory), left in `begun`.
#[inline(never)]
fn computed(pending: &mut Pending, cookie: u64, process: u64) -> u32 {
    pending.begun = match shape(&pending.args, Cookie(cookie)) {
        Some(shape) => shape.bytes(),
        None => {
            report::lost(process, Reason::Unreadable);
            0
        }
    };
    0
}

/// An extent of 0 stands for 1, in arrays of fewer dimensions. Without a branch, of which the verifier follows each.
#[inline(always)]
const fn at_least_1(extent: u64) -> u64 {
    extent + (extent.wrapping_sub(1) >> 63)
}

/// So many elements of so many bytes, in so many mipmap levels.
struct Shape {
    element: u64,
    extents: [u64; 3],
    levels: u64,
}

impl Shape {
    /// Bytes of all levels: each halves each extent, down to 1.
    #[inline(always)]
    fn bytes(self) -> u64 {
        let [mut width, mut height, mut depth] = self.extents;
        let mut bytes = 0u64;
        for level in 0..MIPMAP_MAX {
            if level >= self.levels {
                break;
            }
            bytes += self.element * at_least_1(width) * at_least_1(height) * at_least_1(depth);
            (width, height, depth) = (width / 2, height / 2, depth / 2);
        }
        bytes
    }
}

/// Mipmap levels that are followed: an extent of 2^16 and more does not exist.
const MIPMAP_MAX: u64 = 17;

/// A struct of three words: in saved stack words, or behind the pointer that stands for it.
#[inline(always)]
fn extent(args: &[u64; SLOTS], slot: u8) -> Option<[u64; 3]> {
    if slot >= railwatch_abi::args::STACK_FIRST {
        Some([args[8], args[9], args[10]])
    } else {
        user::read(arg(args, slot))
    }
}

/// Bytes per element of a `cudaChannelFormatDesc`: four bit counts.
#[inline(always)]
fn channel_bytes(address: u64) -> Option<u64> {
    let bits: [u32; 4] = user::read(address)?;
    Some((u64::from(bits[0]) + u64::from(bits[1]) + u64::from(bits[2]) + u64::from(bits[3])) / 8)
}

/// Bytes per element of `{CUarray_format format; unsigned channels}`.
#[inline(always)]
fn format_bytes(address: u64) -> Option<u64> {
    let format: [u32; 2] = user::read(address)?;
    Some(array_format(u64::from(format[0])) * u64::from(format[1]))
}

#[inline(always)]
fn shape(args: &[u64; SLOTS], cookie: Cookie) -> Option<Shape> {
    const PITCH: u8 = SizeRule::Pitch as u8;
    const PITCH_3D: u8 = SizeRule::Pitch3d as u8;
    const ARRAY: u8 = SizeRule::Array as u8;
    const ARRAY_3D: u8 = SizeRule::Array3d as u8;
    const DRIVER_ARRAY: u8 = SizeRule::DriverArray as u8;
    const DRIVER_ARRAY_3D: u8 = SizeRule::DriverArray3d as u8;
    const MIPMAP: u8 = SizeRule::Mipmap as u8;
    const DRIVER_MIPMAP: u8 = SizeRule::DriverMipmap as u8;
    let first = arg(args, cookie.arg(1));
    let levels = |role| arg(args, cookie.arg(role)) & 0xffff_ffff;
    Some(match cookie.size_rule() {
        PITCH => Shape { element: user::read(first)?, extents: [arg(args, cookie.arg(2)), 1, 1], levels: 1 },
        PITCH_3D => {
            let [_, height, depth] = extent(args, cookie.arg(1))?;
            // A cudaPitchedPtr: the address, then the pitch.
            Shape { element: user::read(arg(args, cookie.arg(0)) + 8)?, extents: [height, depth, 1], levels: 1 }
        }
        ARRAY => {
            let extents = [arg(args, cookie.arg(2)), arg(args, cookie.arg(3)), 1];
            Shape { element: channel_bytes(first)?, extents, levels: 1 }
        }
        ARRAY_3D => Shape { element: channel_bytes(first)?, extents: extent(args, cookie.arg(2))?, levels: 1 },
        MIPMAP => {
            Shape { element: channel_bytes(first)?, extents: extent(args, cookie.arg(2))?, levels: levels(3) }
        }
        DRIVER_ARRAY => {
            let [width, height]: [u64; 2] = user::read(first)?;
            Shape { element: format_bytes(first + 16)?, extents: [width, height, 1], levels: 1 }
        }
        DRIVER_ARRAY_3D => Shape { element: format_bytes(first + 24)?, extents: user::read(first)?, levels: 1 },
        DRIVER_MIPMAP => {
            Shape { element: format_bytes(first + 24)?, extents: user::read(first)?, levels: levels(2) }
        }
        _ => Shape { element: 0, extents: [0; 3], levels: 0 },
    })
}

/// Where physical memory lies: (in the host, device ordinal).
#[inline(always)]
fn located(args: &[u64; SLOTS], cookie: Cookie) -> Option<(bool, i32)> {
    let properties = arg(args, cookie.arg(2));
    if cookie.device_rule() == DeviceRule::AclProperties as u8 {
        // aclrtPhysicalMemProp: three enums, then {uint32_t id; enum type}, where 0 is the host.
        let [id, kind]: [u32; 2] = user::read(properties + 12)?;
        return Some((kind == 0, id as i32));
    }
    // CUmemAllocationProp and hipMemAllocationProp: two enums, then {enum type; int id}, where 1 is a device.
    let [kind, id]: [u32; 2] = user::read(properties + 8)?;
    Some((kind != 1, id as i32))
}

/// A mapping or a handle changed hands.
#[inline(always)]
pub fn mapped(thread: &mut Thread, layer: usize, cookie: Cookie, op: u8) {
    const MAP: u8 = Op::Map as u8;
    const UNMAP: u8 = Op::Unmap as u8;
    let layer = layer & (LAYERS - 1);
    let process = thread.process;
    let args = &thread.pending[layer].args;
    let first = arg(args, cookie.arg(0));
    let second = arg(args, cookie.arg(1));
    match op {
        MAP => map(process, layer, first, second, arg(args, cookie.arg(2))),
        UNMAP => unmap(process, layer, first, second),
        _ => retain(process, layer, first),
    }
}

#[inline(always)]
fn map(process: u64, layer: usize, address: u64, size: u64, handle: u64) {
    let owner = AllocationKey { process, address: handle, layer: layer as u32, space: HANDLE };
    let Some(found) = ALLOCATIONS.get_ptr_mut(owner) else { return };
    let key = AllocationKey { process, address, layer: layer as u32, space: MAPPING };
    let mapping = Allocation {
        size,
        context: 0,
        device: DEVICE_UNKNOWN,
        generation: 0,
        stack: -1,
        kind: 0,
        layer: layer as u8,
        pad: 0,
        references: 0,
        mappings: 0,
        handle,
    };
    if ALLOCATIONS.insert(key, mapping, BPF_ANY.into()).is_err() {
        report::lost(process, Reason::AllocationsFull);
        return;
    }
    // SAFETY: a live field of a map value.
    add_u32(unsafe { &raw mut (*found).mappings }, 1);
}

#[inline(always)]
fn unmap(process: u64, layer: usize, first: u64, size: u64) {
    let mut address = first;
    for _ in 0..UNMAP_MAX {
        let key = AllocationKey { process, address, layer: layer as u32, space: MAPPING };
        let Some(found) = ALLOCATIONS.get_ptr(key) else { return };
        // SAFETY: a live map value, copied before it is removed.
        let mapping = unsafe { *found };
        if ALLOCATIONS.remove(key).is_err() {
            return;
        }
        unmap_handle(process, layer, mapping.handle);
        address += mapping.size;
        if address >= first + size {
            return;
        }
    }
    report::lost(process, Reason::UnmapTooWide);
}

/// One mapping of a handle less.
#[inline(never)]
fn unmap_handle(process: u64, layer: usize, handle: u64) -> u32 {
    let key = AllocationKey { process, address: handle, layer: layer as u32, space: HANDLE };
    let Some(found) = ALLOCATIONS.get_ptr_mut(key) else { return 0 };
    // SAFETY: live fields of a map value.
    let (mappings, references) = unsafe { (add_u32(&raw mut (*found).mappings, u32::MAX), (*found).references) };
    if mappings == 0 && references == 0 {
        // SAFETY: as above; copied before it is removed.
        let allocation = unsafe { *found };
        if ALLOCATIONS.remove(key).is_ok() {
            release(process, &allocation);
        }
    }
    0
}

/// A handle was given out once more.
#[inline(always)]
fn retain(process: u64, layer: usize, out: u64) {
    let Some(handle) = user::read::<u64>(out) else {
        report::lost(process, Reason::Unreadable);
        return;
    };
    let key = AllocationKey { process, address: handle, layer: layer as u32, space: HANDLE };
    if let Some(found) = ALLOCATIONS.get_ptr_mut(key) {
        // SAFETY: a live field of a map value.
        add_u32(unsafe { &raw mut (*found).references }, 1);
    }
}
