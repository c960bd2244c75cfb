//! The receiver of sFlow: datagrams of configured agents alone.
//!
//! In: a UDP socket. Out: counters of switches that are not followed by gNMI, and a signal per switch, interface and reason of dropped packets,
//! once in [`REST_NS`]; those in between are counted in the next one. Whoever is no configured agent is not read. Bounded: [`KEYS_MAX`] kinds of
//! drops are told apart, [`SUB_AGENTS_MAX`] senders; the kernel drops what is not read in time, and the sequence tells. Never: an answer.

use super::table::{Cell, Table};
use super::{Around, tell};
use crate::clock::Timeline;
use railwatch_engine::{Element, Severity, Signal, Timestamp};
use railwatch_switches::sflow::{self, Packet, Sample, Sequence, reason};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::UdpSocket;

/// Between two signals of one switch, interface and reason.
const REST_NS: u64 = 10_000_000_000;
/// Switches, interfaces and reasons that are told apart.
const KEYS_MAX: usize = 4096;
/// Senders within the agents.
const SUB_AGENTS_MAX: usize = 4096;
/// The instant is that of the arrival; agents send notifications at once.
const HALF_WIDTH_NS: u64 = 250_000_000;
/// A socket that fails is read again.
const AGAIN: Duration = Duration::from_millis(100);
/// Reason of a packet whose time to live ran out.
const TTL_EXCEEDED: u32 = 257;

/// What became of datagrams.
#[derive(Debug, Default)]
pub struct SflowCounts {
    /// Read.
    pub taken: AtomicU64,
    /// Of no configured agent.
    pub unknown: AtomicU64,
    /// No datagrams of sFlow version 5, or samples in them that contradict themselves.
    pub malformed: AtomicU64,
    /// Missing, by their sequence.
    pub lost: AtomicU64,
}

/// What is told apart: the switch as configured, its interface, the reason.
type Key = (String, Option<u32>, u32);

#[derive(Default)]
struct Receiver {
    sequences: HashMap<(IpAddr, u32), Sequence>,
    /// When each was told last, and how many were not since.
    told: BTreeMap<Key, (Timestamp, u64)>,
    /// Left out because too many are told apart.
    beyond: u64,
}

pub(super) async fn receive(socket: UdpSocket, table: Table, around: Around) {
    let mut buffer = vec![0; sflow::DATAGRAM_BYTES_MAX];
    let mut receiver = Receiver::default();
    loop {
        let received = tokio::select! {
            () = around.stop.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        match received {
            Ok((length, from)) => {
                let counts = table.sflow();
                let Some(cell) = table.agent(from.ip().to_canonical()) else {
                    counts.unknown.fetch_add(1, Relaxed);
                    continue;
                };
                let signals = receiver.take(&buffer[..length], from.ip(), &cell, counts, Timeline::now());
                tell(&around.core, &cell, signals).await;
            }
            Err(error) => {
                tracing::warn!(%error, "receive sFlow");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

impl Receiver {
    fn take(
        &mut self,
        bytes: &[u8],
        from: IpAddr,
        cell: &Arc<Cell>,
        counts: &SflowCounts,
        now: Timestamp,
    ) -> Vec<Signal> {
        let datagram = sflow::read(bytes);
        let mut switch = cell.lock();
        let mut row = switch.sflow.take().unwrap_or_default();
        row.datagrams += 1;
        let mut signals = Vec::new();
        match datagram {
            Err(_) => {
                row.malformed += 1;
                counts.malformed.fetch_add(1, Relaxed);
            }
            Ok(datagram) => {
                counts.taken.fetch_add(1, Relaxed);
                counts.malformed.fetch_add(datagram.malformed, Relaxed);
                row.malformed += datagram.malformed;
                let sender = (from, datagram.sub_agent);
                if self.sequences.len() < SUB_AGENTS_MAX || self.sequences.contains_key(&sender) {
                    let missing = self.sequences.entry(sender).or_default().take(datagram.sequence);
                    row.lost = row.lost.saturating_add_signed(missing);
                    // A counter only grows: one that was overtaken stays counted there.
                    counts.lost.fetch_add(u64::try_from(missing).unwrap_or(0), Relaxed);
                }
                for sample in datagram.samples {
                    match sample {
                        Sample::Flow { .. } => row.flows += 1,
                        Sample::Counters(of_port) => {
                            row.counters += 1;
                            // What the switch says by gNMI is newer, and has its names.
                            if switch.connected_since.is_none() {
                                let known = switch.state.port_of_index(of_port.index).map(str::to_owned);
                                let name = known.unwrap_or_else(|| format!("if{}", of_port.index));
                                let (new, _) = switch.said(&of_port.notification(&name), now, HALF_WIDTH_NS);
                                signals.extend(new);
                            }
                        }
                        Sample::Discarded { left_out, input, output, reason: number, packet, .. } => {
                            row.drops_left_out = row.drops_left_out.max(left_out.into());
                            *row.drops.entry(reason(number)).or_default() += 1;
                            let key = (switch.name.clone(), input.or(output), number);
                            if let Some(suppressed) = self.may_tell(key, now) {
                                let index = input.or(output);
                                let port = index.and_then(|index| switch.state.port_of_index(index)).map(str::to_owned);
                                let dropped =
                                    Dropped { switch: &switch.state.name, index, port, reason: number, packet };
                                signals.push(dropped.signal(now, suppressed));
                            }
                        }
                    }
                }
            }
        }
        switch.sflow = Some(row);
        signals
    }

    /// How many like it were not told; nothing where it is not to be told either.
    fn may_tell(&mut self, key: Key, now: Timestamp) -> Option<u64> {
        if let Some((at, suppressed)) = self.told.get_mut(&key) {
            if now.0.saturating_sub(at.0) < REST_NS {
                *suppressed += 1;
                return None;
            }
            *at = now;
            return Some(std::mem::take(suppressed));
        }
        if self.told.len() >= KEYS_MAX {
            self.told.retain(|_, (at, _)| now.0.saturating_sub(at.0) < REST_NS);
            if self.told.len() >= KEYS_MAX {
                self.beyond += 1;
                return None;
            }
        }
        self.told.insert(key, (now, 0));
        Some(std::mem::take(&mut self.beyond))
    }
}

/// A packet that a switch dropped.
struct Dropped<'a> {
    switch: &'a str,
    index: Option<u32>,
    port: Option<String>,
    reason: u32,
    packet: Option<Packet>,
}

impl Dropped<'_> {
    fn signal(&self, now: Timestamp, suppressed: u64) -> Signal {
        let why = reason(self.reason);
        let port = self.port.clone().or_else(|| self.index.map(|index| format!("if{index}")));
        let mut attributes = BTreeMap::from([("reason".to_owned(), why.clone())]);
        attributes.extend(self.index.map(|index| ("interface".to_owned(), index.to_string())));
        let mut flow = String::new();
        if let Some(packet) = &self.packet {
            let end = |address: IpAddr, port: Option<u16>| match (address, port) {
                (address, None) => address.to_string(),
                (IpAddr::V4(address), Some(port)) => format!("{address}:{port}"),
                (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
            };
            flow = format!(
                " from {} to {}",
                end(packet.source, packet.source_port),
                end(packet.destination, packet.destination_port)
            );
            let mut add = |key: &str, value: String| drop(attributes.insert(key.to_owned(), value));
            add("source", packet.source.to_string());
            add("destination", packet.destination.to_string());
            add("protocol", packet.protocol.to_string());
            add("dscp", packet.dscp.to_string());
            if let (Some(source), Some(destination)) = (packet.source_port, packet.destination_port) {
                add("source_port", source.to_string());
                add("destination_port", destination.to_string());
            }
        }
        let at = port.as_ref().map(|port| format!(" at port {port}")).unwrap_or_default();
        let (kind, name) = port.map_or(("switch", self.switch.to_owned()), |port| ("port", port));
        Signal {
            name: "switch.drop.reported".to_owned(),
            element: Element { host: self.switch.to_owned(), kind: kind.to_owned(), name },
            severity: if self.reason == TTL_EXCEEDED { Severity::Info } else { Severity::Warning },
            observed: now,
            half_width_ns: HALF_WIDTH_NS,
            value: 1.0,
            previous: None,
            unit: "{packet}".to_owned(),
            summary: format!("{} dropped a packet{flow}{at}: {why}", self.switch),
            attributes,
            incomplete_since: None,
            suppressed,
        }
    }
}
