//! A fault of the lab's fabric: a tc classifier that loses packets of one direction of one link.
//!
//! In: packets at a port, a read-only configuration ([`FaultConfig`]). Out: the verdict, and what was seen, matched and lost
//! ([`FaultCounts`]). Never: a packet changed, an event, anything on a host that is no laboratory.
//!
//! Which packets are lost follows from the seed and their order, not from the kernel's random numbers: a run can be repeated.
#![no_std]
#![no_main]
#![expect(internal_features, reason = "atomic addition exists only as an intrinsic on this target")]
#![feature(core_intrinsics)]

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_skb_load_bytes;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use core::ffi::c_void;
use core::intrinsics::{AtomicOrdering::SeqCst, atomic_xadd};
use railwatch_abi::lab::{FaultConfig, FaultCounts};

/// GPL-only helpers are called; the sources may be used under either licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// `TC_ACT_UNSPEC` of linux/pkt_cls.h: the next filter decides.
const PASS: i32 = -1;
/// `TC_ACT_SHOT`.
const LOSE: i32 = 2;

const ETHERNET_HEADER: u32 = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const TCP: u32 = 6;
const UDP: u32 = 17;
const BGP: u32 = 179;

/// One element.
#[map]
static COUNTS: Array<FaultCounts> = Array::with_max_entries(1, 0);

/// Filled in by the loader.
#[unsafe(no_mangle)]
static CONFIG: FaultConfig = FaultConfig {
    seed: 0,
    loss_per_million: 0,
    length_min: 0,
    source: 0,
    source_mask: 0,
    destination: 0,
    destination_mask: 0,
    protocol: 0,
    source_port: 0,
    destination_port: 0,
    spares_control: 0,
};

/// Reads a field of the configuration. Volatile: the compiler must not take the zeros above for the truth.
macro_rules! config {
    ($field:ident) => {
        // SAFETY: a live static; the loader changes it before the program runs and never after.
        unsafe { core::ptr::read_volatile(&raw const CONFIG.$field) }
    };
}

/// A packet at the port.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
pub fn fault(packet: *mut __sk_buff) -> i32 {
    let Some(counts) = COUNTS.get_ptr_mut(0) else { return PASS };
    // SAFETY: the kernel passes a live packet.
    let length = unsafe { (*packet).len }.saturating_sub(ETHERNET_HEADER);
    // SAFETY: fields of a live map value.
    let (seen, matched, lost, lost_bytes) = unsafe {
        (
            &raw mut (*counts).seen,
            &raw mut (*counts).matched,
            &raw mut (*counts).lost,
            &raw mut (*counts).lost_bytes,
        )
    };
    add(seen, 1);
    if length < config!(length_min) || !matches(packet) {
        return PASS;
    }
    let place = add(matched, 1);
    if draw(config!(seed), place) >= config!(loss_per_million) {
        return PASS;
    }
    add(lost, 1);
    add(lost_bytes, u64::from(length));
    LOSE
}

/// Whether the conditions name the packet.
#[inline(always)]
fn matches(packet: *mut __sk_buff) -> bool {
    let any = config!(source_mask) | config!(destination_mask) | config!(protocol);
    let ports = config!(source_port) | config!(destination_port);
    if any | ports | config!(spares_control) == 0 {
        return true;
    }
    let Some(kind) = load::<2>(packet, 12) else { return false };
    if u16::from_be_bytes(kind) != ETHERTYPE_IPV4 {
        return any | ports == 0 && config!(spares_control) == 0;
    }
    let Some(head) = load::<20>(packet, ETHERNET_HEADER) else { return false };
    let source = u32::from_be_bytes([head[12], head[13], head[14], head[15]]);
    let destination = u32::from_be_bytes([head[16], head[17], head[18], head[19]]);
    let protocol = u32::from(head[9]);
    if (source ^ config!(source)) & config!(source_mask) != 0
        || (destination ^ config!(destination)) & config!(destination_mask) != 0
        || config!(protocol) != 0 && protocol != config!(protocol)
    {
        return false;
    }
    if ports | config!(spares_control) == 0 {
        return true;
    }
    if protocol != TCP && protocol != UDP {
        return ports == 0;
    }
    let header = u32::from(head[0] & 15) * 4;
    let Some(pair) = load::<4>(packet, ETHERNET_HEADER + header) else { return false };
    let from = u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    let to = u32::from(u16::from_be_bytes([pair[2], pair[3]]));
    let is_routing = protocol == TCP && (from == BGP || to == BGP);
    !(config!(spares_control) != 0 && is_routing
        || config!(source_port) != 0 && from != config!(source_port)
        || config!(destination_port) != 0 && to != config!(destination_port))
}

/// Bytes of the packet.
#[inline(always)]
fn load<const N: usize>(packet: *mut __sk_buff, offset: u32) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: the buffer is as long as it is said to be; the helper checks the offset.
    let result = unsafe { bpf_skb_load_bytes(packet as *const _, offset, (&raw mut bytes).cast::<c_void>(), N as u32) };
    (result == 0).then_some(bytes)
}

/// A number below a million: the finaliser of SplitMix64 (Steele, Lea, Flood 2014) over the packet's place in the sequence.
#[inline(always)]
fn draw(seed: u64, place: u64) -> u32 {
    let mut word = seed.wrapping_add(place.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((word ^ word >> 31) % 1_000_000) as u32
}

/// Adds, and gives the old value. The ordering is that of `src/atomic.rs`, for its reason.
#[inline(always)]
fn add(counter: *mut u64, by: u64) -> u64 {
    // SAFETY: callers pass a live, aligned field of a map value.
    unsafe { atomic_xadd::<u64, u64, { SeqCst }>(counter, by) }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
