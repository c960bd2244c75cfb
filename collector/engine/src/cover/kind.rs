//! What probes are made of: what carries them, how long they are, and how many packets that comes to.
//!
//! In: transports and sizes of [`Options`]. Out: kinds, of which each direction gets an equal part; payloads, such that packets of one size
//! are equally long whatever carries them; and the packets of a turn, by who sends them. Pure.
//!
//! A turn of a flow is one probe, or a train of them where it is longer than one may be. What a turn comes to is reckoned for links that carry 1,500
//! bytes, the least that a fabric does: longer ones make fewer packets of it. Of TCP the acknowledgements count as well, of each two
//! segments one at once, and one for what is left of them (RFC 1122, 4.2.3.2; Linux, net/ipv4/tcp_input.c, `__tcp_ack_snd_check`): those of a probe ride on
//! its answer, but for those that go at once; those of an answer go alone, since nothing else is to be sent.

use super::plan::{Endpoint, Options};
use crate::map::{Flow, Transport};
use std::net::IpAddr;

/// Bytes of a packet that every link of a fabric carries.
const MTU_BYTES: u32 = 1500;
const V4_BYTES: u32 = 20;
const V6_BYTES: u32 = 40;
const UDP_BYTES: u32 = 8;
/// With the time stamps that both ends put into each segment (RFC 7323).
const TCP_BYTES: u32 = 32;
/// Before each probe of a stream: its length (`agent/probe/src/stream/frame.rs`).
const PREFIX_BYTES: u32 = 4;
/// The longest probe of a stream, without its prefix: what is longer is a train of them.
const FRAME_BYTES_MAX: u32 = 65_507;
/// From this on a payload is to make a long packet, bytes.
pub(super) const LONG_BYTES: u32 = 1024;

/// What carries a probe, and which of the sizes it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its protocol.
    pub transport: Transport,
    /// Number of the size.
    pub size: usize,
}

/// Packets of one turn of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Packets {
    /// With payload, that cross each direction of the way there; as many of the answers cross each of the way back.
    pub crossing: f64,
    /// That leave the NIC that probes.
    pub prober: f64,
    /// That leave the NIC that answers.
    pub answerer: f64,
}

impl Packets {
    /// Of a turn with so much payload, all probes of it together.
    #[must_use]
    pub fn of_turn(transport: Transport, payload_bytes: u32, is_v6: bool) -> Self {
        let room = MTU_BYTES - if is_v6 { V6_BYTES } else { V4_BYTES };
        let (count, at_once, later) = match transport {
            Transport::Udp => (payload_bytes.div_ceil(room - UDP_BYTES).max(1), 0, 0),
            Transport::Tcp => {
                let frames = payload_bytes.div_ceil(FRAME_BYTES_MAX).max(1);
                let segments = (payload_bytes.div_ceil(frames) + PREFIX_BYTES).div_ceil(room - TCP_BYTES);
                (frames * segments, frames * (segments / 2), frames * segments.div_ceil(2))
            }
        };
        let [count, at_once, later] = [count, at_once, later].map(f64::from);
        Self { crossing: count, prober: count + later, answerer: count + at_once }
    }

    /// Of a turn of this flow.
    #[must_use]
    pub fn of_flow(flow: &Flow, payload_bytes: u32) -> Self {
        Self::of_turn(flow.transport, payload_bytes, flow.source.is_ipv6())
    }

    /// So many times as many.
    pub(super) fn times(self, factor: f64) -> Self {
        let Self { crossing, prober, answerer } = self;
        Self { crossing: crossing * factor, prober: prober * factor, answerer: answerer * factor }
    }
}

/// How many bytes less a probe carries as its heads are longer than those of UDP over IPv4.
fn longer_heads_bytes(transport: Transport, address: IpAddr) -> u32 {
    let of_family = if address.is_ipv6() { V6_BYTES - V4_BYTES } else { 0 };
    let of_transport = match transport {
        Transport::Udp => 0,
        Transport::Tcp => TCP_BYTES + PREFIX_BYTES - UDP_BYTES,
    };
    of_family + of_transport
}

impl Options {
    /// All kinds: every size over each transport.
    #[must_use]
    pub fn kinds(&self) -> Vec<Kind> {
        let sizes = 0..self.sizes_bytes.len();
        self.transports
            .iter()
            .flat_map(|transport| sizes.clone().map(|size| Kind { transport: *transport, size }))
            .collect()
    }

    /// What a probe of this kind carries: a long one that much less as its heads are longer than those of UDP over IPv4, so that packets are equally
    /// long and fit the same MTU.
    #[must_use]
    pub fn payload_bytes(&self, kind: Kind, address: IpAddr) -> u32 {
        let bytes = self.sizes_bytes[kind.size];
        let shorter = bytes.saturating_sub(longer_heads_bytes(kind.transport, address));
        if bytes < LONG_BYTES || self.sizes_bytes.contains(&shorter) { bytes } else { shorter }
    }

    /// Which of these kinds this flow with this payload is of.
    #[must_use]
    pub fn kind_of(&self, kinds: &[Kind], flow: &Flow, payload_bytes: u32) -> Option<usize> {
        let is_it =
            |kind: &Kind| kind.transport == flow.transport && self.payload_bytes(*kind, flow.source) == payload_bytes;
        kinds.iter().position(is_it)
    }
}

/// What an agent can do over TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// It probes over TCP.
    pub probes: bool,
    /// Port of its responder over IPv4; none: it answers no TCP there.
    pub port_v4: Option<u16>,
    /// And over IPv6.
    pub port_v6: Option<u16>,
    /// Connections that its host's responder holds.
    pub connections_max: u32,
    /// Of one address.
    pub per_source_max: u32,
}

/// Where a probe goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// From here,
    pub source: IpAddr,
    /// to there,
    pub destination: IpAddr,
    /// to this port.
    pub port: u16,
}

/// Addresses of one family that both have and over which the target answers, IPv4 before IPv6; none: the two cannot be probed so.
#[must_use]
pub fn ends(from: &Endpoint, to: &Endpoint, transport: Transport) -> Option<Ends> {
    let of = |end: &Endpoint, is_v6: bool| end.addresses().find(|address| address.is_ipv6() == is_v6);
    let port = |is_v6: bool| match transport {
        Transport::Udp => to.answers,
        Transport::Tcp if !from.streams.probes => None,
        Transport::Tcp => {
            if is_v6 {
                to.streams.port_v6
            } else {
                to.streams.port_v4
            }
        }
    };
    [false, true]
        .into_iter()
        .find_map(|is_v6| Some(Ends { source: of(from, is_v6)?, destination: of(to, is_v6)?, port: port(is_v6)? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_costs_what_it_puts_on_the_wire() {
        use Transport::{Tcp, Udp};
        for (transport, bytes, is_v6, crossing, prober, answerer) in [
            (Udp, 64, false, 1, 1, 1),
            (Udp, 1472, false, 1, 1, 1),
            (Udp, 1472, true, 2, 2, 2),
            (Udp, 1 << 20, false, 713, 713, 713),
            // A segment, whose acknowledgement is the answer, and the acknowledgement of the answer.
            (Tcp, 64, false, 1, 2, 1),
            (Tcp, 1444, false, 1, 2, 1),
            (Tcp, 1424, true, 1, 2, 1),
            (Tcp, 1445, false, 2, 3, 3),
            (Tcp, 65_507, false, 46, 69, 69),
            // Seventeen of 61,681 bytes.
            (Tcp, 1 << 20, false, 731, 1105, 1088),
        ] {
            let packets = Packets::of_turn(transport, bytes, is_v6);
            let expected = [crossing, prober, answerer].map(f64::from);
            assert_eq!([packets.crossing, packets.prober, packets.answerer], expected, "{transport:?} {bytes} {is_v6}");
        }
    }

    #[test]
    fn packets_of_one_size_are_equally_long_and_each_payload_is_of_one_kind() {
        let both = vec![Transport::Udp, Transport::Tcp];
        let (v4, v6) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([0; 16]));
        let options = Options { transports: both.clone(), ..Options::default() };
        let payloads = |options: &Options, address| -> Vec<u32> {
            options.kinds().into_iter().map(|kind| options.payload_bytes(kind, address)).collect()
        };
        assert_eq!(payloads(&options, v4), [64, 1458, 64, 1430]);
        assert_eq!(payloads(&options, v6), [64, 1438, 64, 1410]);
        // A size that is another when shorter stays itself.
        let options = Options { sizes_bytes: vec![64, 84, 1430, 1438, 1458], transports: both, ..Options::default() };
        assert_eq!(payloads(&options, v6)[..5], [64, 84, 1410, 1418, 1458]);
        for address in [v4, v6] {
            for (number, kind) in options.kinds().into_iter().enumerate() {
                let (source, destination) = (address, address);
                let flow = Flow { source, destination, transport: kind.transport, source_port: 1, destination_port: 2 };
                let payload = options.payload_bytes(kind, address);
                assert_eq!(options.kind_of(&options.kinds(), &flow, payload), Some(number), "{kind:?} {payload}");
            }
        }
    }
}
