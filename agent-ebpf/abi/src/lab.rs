//! What a fault of the lab is told, and what it counts.
//!
//! In: written by the lab's loader before the program is loaded ([`FaultConfig`]). Out: read by the lab while the fault is
//! there ([`FaultCounts`]). Never: part of an installation; only a laboratory's network namespaces run it.

use crate::maps::Plain;

/// What one fault does to the packets of one direction of one link. An IPv4 condition of 0 is no condition.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultConfig {
    /// Start of the sequence that decides which packets are lost: the same seed loses the same ones of the same sequence.
    pub seed: u64,
    /// Packets lost of a million that match.
    pub loss_per_million: u32,
    /// Only packets of at least this length, bytes from the IP header on.
    pub length_min: u32,
    /// Only this source, as a big-endian number, under `source_mask`.
    pub source: u32,
    /// Bits of `source` that count.
    pub source_mask: u32,
    /// Only this destination, under `destination_mask`.
    pub destination: u32,
    /// Bits of `destination` that count.
    pub destination_mask: u32,
    /// Only this IP protocol.
    pub protocol: u32,
    /// Only this source port.
    pub source_port: u32,
    /// Only this destination port.
    pub destination_port: u32,
    /// 1: routing sessions (BGP), and what is no IPv4 (ARP, LLDP), pass: the data plane alone fails.
    pub spares_control: u32,
}

/// What it did.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Packets that passed by.
    pub seen: u64,
    /// Of those, the ones that the conditions name.
    pub matched: u64,
    /// Of those, the ones that were lost.
    pub lost: u64,
    /// Their length, bytes.
    pub lost_bytes: u64,
}

impl Plain for FaultConfig {}
impl Plain for FaultCounts {}
