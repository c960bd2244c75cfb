//! The kernel half of the packet drops: one program where the kernel drops a packet, one where TCP sends one again.
//!
//! In: the raw tracepoints `kfree_skb` and `tcp_retransmit_skb`. Out: totals per reason and interface, and per flow
//! ([`maps`]). Never: an event per drop, an allocation, a byte of payload, a sleep.
//!
//! An object of its own: where it does not load, GPU accounting does not notice.
#![no_std]
#![no_main]
#![expect(internal_features, reason = "atomic addition exists only as an intrinsic on this target")]
#![feature(core_intrinsics)]

mod count;
mod flow;
mod maps;
mod place;

use core::ffi::c_void;
use railwatch_abi::drops::{FlowKey, QUIET_REASONS, RETRANSMIT};

use crate::maps::{config, field, quiet};
use crate::place::Place;

/// GPL-only helpers are called; the sources may be used under either licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// An argument of the tracepoint.
///
/// # Safety
/// The tracepoint has more than `index` arguments; attaching is refused otherwise.
#[inline(always)]
unsafe fn argument(ctx: *mut c_void, index: usize) -> u64 {
    // SAFETY: the caller's promise; arguments are 8 bytes each.
    unsafe { ctx.cast::<u64>().add(index).read_volatile() }
}

/// A packet is dropped: `kfree_skb(skb, location, reason[, receiver])`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/kfree_skb")]
pub fn dropped(ctx: *mut c_void) -> u32 {
    // SAFETY: the loader attaches where there is a reason, and says where there is a receiver.
    let (skb, reason) = unsafe { (argument(ctx, 0), argument(ctx, 2) as u32) };
    if reason < QUIET_REASONS && quiet(reason) {
        return 0;
    }
    // SAFETY: as above.
    let receiver = if config!(has_receiver) != 0 { unsafe { argument(ctx, 3) } } else { 0 };
    let place = Place::of_packet(skb, receiver);
    let mut key = FlowKey { reason, ..place.key() };
    let readable = config!(has_flow) != 0 && flow::of_packet(skb, &mut key);
    count::one(&place, &key, length(skb), readable);
    0
}

/// TCP sends a segment again: `tcp_retransmit_skb(sk, skb[, error])`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/tcp_retransmit_skb")]
pub fn retransmitted(ctx: *mut c_void) -> u32 {
    // SAFETY: the tracepoint has had these two since it exists, and the loader says where it has a third.
    let (socket, skb) = unsafe { (argument(ctx, 0), argument(ctx, 1)) };
    // SAFETY: as above.
    if config!(has_retransmit_error) != 0 && unsafe { argument(ctx, 2) } as i32 != 0 {
        return 0;
    }
    let place = Place::of_socket(socket);
    let mut key = FlowKey { reason: RETRANSMIT, ..place.key() };
    let readable = config!(has_socket) != 0 && flow::of_socket(socket, &mut key);
    count::one(&place, &key, length(skb), readable);
    0
}

#[inline(always)]
fn length(skb: u64) -> u64 {
    if config!(has_length) == 0 {
        return 0;
    }
    field::<u32>(skb, config!(skb_len)).map_or(0, u64::from)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
