//! What the kernel half and the agent say to each other: plain `repr(C)` data, shared by both so that it cannot drift.
//!
//! Flows in: nothing. Flows out: the attach cookie ([`cookie`]), map keys and values ([`maps`]), ring-buffer
//! events ([`event`]) and the rules by which arguments are found in registers ([`args`]).
//! Never: code with side effects, pointers, allocation, or anything whose layout differs between the two halves.
#![no_std]
#![forbid(unsafe_code)]

pub mod args;
pub mod cookie;
pub mod disk;
pub mod drops;
pub mod event;
pub mod lab;
pub mod maps;
pub mod sizes;

/// Version of everything in this crate. Pinned maps and links of another version are not re-adopted.
pub const ABI_VERSION: u32 = 1;

/// The device of a thread or allocation whose device is not known.
pub const DEVICE_UNKNOWN: i32 = -1;
