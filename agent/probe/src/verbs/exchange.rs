//! How a member asks another for a queue pair, and what it is told: datagrams of the probe protocol. Pure.
//!
//! ```text
//!  0  magic "RWP1"   4  kind: 3 a wish, 4 its answer   8  session of the loan   16  sequence   24  zeros
//! 48  HMAC-SHA256 over bytes 0 to 48, the length of the datagram and bytes 64 to 128; its first 16 bytes
//! 64  a wish: what for, kind, MTU, traffic class, flow label, queue pair, PSN, key, size, address (GID); at 104 a ticket
//!     an answer: what became of it, MTU, queue pair, PSN, key, key of the region, lease or errno, address (GID), place of the region;
//!     at 112 a ticket for the next wish of the session
//! ```
//! Numbers are big-endian. Wish and answer are of one length. A session is one loan: asked again, it is renewed, not doubled. Older
//! responders take none of it for a probe, and say nothing. Who asks without a ticket of now, as at first, is told one and asks again: a wish
//! that somebody recorded is worth nothing ([`super::fresh`]). Never: a word believed before its code is checked.

use crate::packet::{CODE_BYTES, HEAD_BYTES, Key, MAGIC, SIGNED, signed, u32_at, u64_at};
use hmac::Mac;

/// Of the datagrams.
pub(crate) const BYTES: usize = HEAD_BYTES + BODY_BYTES;
/// What follows the head.
pub(crate) const BODY_BYTES: usize = 64;
/// The most that one probe may carry.
pub const SIZE_MAX: usize = 1 << 20;
/// The least: what a probe over datagrams begins with.
pub const SIZE_MIN: usize = 64;
/// Of a ticket.
pub(super) const TICKET_BYTES: usize = 16;
/// Where it stands in the body of a wish, and of an answer.
const WISHED_WITH: usize = 40;
const TOLD_AT: usize = 48;
/// A loan that is not renewed for so long ends, milliseconds.
pub const LEASE_MS: u32 = 10_000;
const WISH: u8 = 3;
const ANSWER: u8 = 4;
/// Of queue pairs and packets, 24 bits (InfiniBand architecture, 9.2).
const NUMBER_MAX: u32 = 0xff_ffff;
/// Of IPv6 (RFC 8200, 3).
pub(super) const FLOW_LABEL_MAX: u32 = 0xf_ffff;

/// The service of a queue pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// Unreliable datagrams: one there, and one back by the process that answers.
    Datagram,
    /// Reliably connected: writes, which the other NIC acknowledges.
    Connected,
}

/// What a prober wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// It needs the queue pair no longer.
    pub(super) is_over: bool,
    pub(super) service: Service,
    /// Its path MTU, as a code.
    pub(super) mtu: u8,
    /// What answers are to carry.
    pub(super) traffic_class: u8,
    /// What answers are to carry.
    pub(super) flow_label: u32,
    /// Its own queue pair.
    pub(super) number: u32,
    /// Of its next packet.
    pub(super) psn: u32,
    /// That its own queue pair wants of datagrams.
    pub(super) qkey: u32,
    /// Of a probe, bytes.
    pub(super) size_bytes: u32,
    /// Its own address.
    pub(super) gid: [u8; 16],
}

/// What it is lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lent {
    pub(super) mtu: u8,
    pub(super) number: u32,
    pub(super) psn: u32,
    pub(super) qkey: u32,
    pub(super) region_key: u32,
    pub(super) lease_ms: u32,
    pub(super) gid: [u8; 16],
    pub(super) region_at: u64,
}

/// Why it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// Nobody serves it there.
    #[error("its helper for RDMA does not run or finds no library or device: see the limitations of that host")]
    NoHelper,
    /// The address that was asked is none of a RoCEv2 port.
    #[error("the address that was asked is not one of its RDMA ports (RoCEv2)")]
    NoPort,
    /// All that it lends is lent.
    #[error("all queue pairs or all pinned memory that it lends are lent")]
    AllLent,
    /// All that it lends to one address is lent.
    #[error("all queue pairs that it lends to one address are lent")]
    ShareLent,
    /// Its library or NIC refused.
    #[error("its RDMA library or NIC refused: {}", std::io::Error::from_raw_os_error(*.0))]
    Failed(i32),
    /// It cannot be carried out.
    #[error("it takes the request for none that can be carried out (size, MTU or version)")]
    Bad,
    /// It was given back.
    #[error("it was given back")]
    Over,
    /// It carries no ticket of now, but the answer one.
    #[error("the request carries no ticket of now")]
    NoTicket,
    /// Its responder at that address has nobody to ask.
    #[error(
        "its responder at that address lends none: no probe.verbs_socket, no RDMA device, or not the family of its probe.listen; see the limitations of that host"
    )]
    NoLender,
}

/// What became of a wish.
pub(super) type Answer = Result<Lent, Refused>;

impl Wish {
    pub(super) fn encode(&self) -> [u8; BODY_BYTES] {
        let Self { is_over, service, mtu, traffic_class, flow_label, number, psn, qkey, size_bytes, gid } = self;
        let mut body = [0; BODY_BYTES];
        body[0] = if *is_over { 2 } else { 1 };
        body[1] = match service {
            Service::Datagram => 1,
            Service::Connected => 2,
        };
        body[2..4].copy_from_slice(&[*mtu, *traffic_class]);
        for (at, value) in [(4, flow_label), (8, number), (12, psn), (16, qkey), (20, size_bytes)] {
            body[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        body[24..40].copy_from_slice(gid);
        body
    }

    /// `None` where a value is beyond what it can be.
    pub(super) fn decode(body: &[u8; BODY_BYTES]) -> Option<Self> {
        let wish = Self {
            is_over: match body[0] {
                1 => false,
                2 => true,
                _ => return None,
            },
            service: match body[1] {
                1 => Service::Datagram,
                2 => Service::Connected,
                _ => return None,
            },
            mtu: body[2],
            traffic_class: body[3],
            flow_label: u32_at(body, 4),
            number: u32_at(body, 8),
            psn: u32_at(body, 12),
            qkey: u32_at(body, 16),
            size_bytes: u32_at(body, 20),
            gid: std::array::from_fn(|at| body[24 + at]),
        };
        let is_good = (1..=5).contains(&wish.mtu)
            && wish.flow_label <= FLOW_LABEL_MAX
            && wish.number <= NUMBER_MAX
            && wish.psn <= NUMBER_MAX
            && (SIZE_MIN..=wish.size_max()).contains(&(wish.size_bytes as usize));
        is_good.then_some(wish)
    }

    /// A datagram is one packet.
    fn size_max(&self) -> usize {
        match self.service {
            Service::Datagram => mtu_bytes(self.mtu),
            Service::Connected => SIZE_MAX,
        }
    }
}

/// Of a code of InfiniBand: 1 is 256 bytes, 5 is 4,096.
pub(super) fn mtu_bytes(code: u8) -> usize {
    128 << code.clamp(1, 5)
}

/// Of what became of a wish.
pub(super) fn encode_answer(answer: &Answer) -> [u8; BODY_BYTES] {
    let mut body = [0; BODY_BYTES];
    let errno = match answer {
        Ok(lent) => {
            let Lent { mtu, number, psn, qkey, region_key, lease_ms, gid, region_at } = lent;
            body[1] = *mtu;
            for (at, value) in [(4, number), (8, psn), (12, qkey), (16, region_key), (20, lease_ms)] {
                body[at..at + 4].copy_from_slice(&value.to_be_bytes());
            }
            body[24..40].copy_from_slice(gid);
            body[40..48].copy_from_slice(&region_at.to_be_bytes());
            return body;
        }
        Err(Refused::Failed(errno)) => *errno,
        Err(_) => 0,
    };
    body[0] = match answer {
        Ok(_) => 0,
        Err(Refused::NoHelper) => 1,
        Err(Refused::NoPort) => 2,
        Err(Refused::AllLent) => 3,
        Err(Refused::ShareLent) => 4,
        Err(Refused::Failed(_)) => 5,
        Err(Refused::Bad) => 6,
        Err(Refused::Over) => 7,
        Err(Refused::NoTicket) => 8,
        Err(Refused::NoLender) => 9,
    };
    body[20..24].copy_from_slice(&errno.to_be_bytes());
    body
}

/// That nothing is lent.
pub(crate) fn refusal(refused: Refused) -> [u8; BODY_BYTES] {
    encode_answer(&Err(refused))
}

/// `None` where it says nothing that is known.
pub(super) fn decode_answer(body: &[u8; BODY_BYTES]) -> Option<Answer> {
    Some(Err(match body[0] {
        0 => {
            let lent = Lent {
                mtu: body[1],
                number: u32_at(body, 4),
                psn: u32_at(body, 8),
                qkey: u32_at(body, 12),
                region_key: u32_at(body, 16),
                lease_ms: u32_at(body, 20),
                gid: std::array::from_fn(|at| body[24 + at]),
                region_at: u64_at(body, 40),
            };
            let is_good =
                (1..=5).contains(&lent.mtu) && lent.number <= NUMBER_MAX && lent.psn <= NUMBER_MAX && lent.lease_ms > 0;
            return is_good.then_some(Ok(lent));
        }
        1 => Refused::NoHelper,
        2 => Refused::NoPort,
        3 => Refused::AllLent,
        4 => Refused::ShareLent,
        5 => Refused::Failed(u32_at(body, 20).cast_signed()),
        6 => Refused::Bad,
        7 => Refused::Over,
        8 => Refused::NoTicket,
        9 => Refused::NoLender,
        _ => return None,
    }))
}

/// A proof that a wish was made now, for [`super::fresh`] to make and check.
pub(super) type Ticket = [u8; TICKET_BYTES];

/// The ticket that a wish carries.
pub(super) fn ticket_of_wish(body: &[u8; BODY_BYTES]) -> Ticket {
    std::array::from_fn(|at| body[WISHED_WITH + at])
}

/// A wish that carries the ticket.
pub(super) fn wish_with(mut body: [u8; BODY_BYTES], ticket: &Ticket) -> [u8; BODY_BYTES] {
    body[WISHED_WITH..WISHED_WITH + TICKET_BYTES].copy_from_slice(ticket);
    body
}

/// The ticket that an answer carries.
pub(super) fn ticket_of_answer(body: &[u8; BODY_BYTES]) -> Ticket {
    std::array::from_fn(|at| body[TOLD_AT + at])
}

/// An answer that carries the ticket.
pub(crate) fn answer_with(mut body: [u8; BODY_BYTES], ticket: &Ticket) -> [u8; BODY_BYTES] {
    body[TOLD_AT..TOLD_AT + TICKET_BYTES].copy_from_slice(ticket);
    body
}

/// Whose wish or answer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loan {
    pub(crate) session: u64,
    pub(crate) sequence: u64,
}

/// Whether a datagram begins as a wish does: cheap, before [`open`].
pub(crate) fn looks_like_a_wish(bytes: &[u8]) -> bool {
    bytes.len() == BYTES && bytes.starts_with(MAGIC) && bytes[4] == WISH
}

/// Reads a wish.
pub(crate) fn open_wish(bytes: &[u8], key: &Key) -> Option<(Loan, [u8; BODY_BYTES])> {
    looks_like_a_wish(bytes).then(|| open(bytes, key)).flatten()
}

/// Reads an answer.
pub(super) fn open_answer(bytes: &[u8], key: &Key) -> Option<(Loan, [u8; BODY_BYTES])> {
    let is_one = bytes.len() == BYTES && bytes.starts_with(MAGIC) && bytes[4] == ANSWER;
    is_one.then(|| open(bytes, key)).flatten()
}

fn open(bytes: &[u8], key: &Key) -> Option<(Loan, [u8; BODY_BYTES])> {
    let body: [u8; BODY_BYTES] = bytes.get(HEAD_BYTES..)?.try_into().ok()?;
    let mut code = signed(&bytes[..SIGNED], bytes.len(), key);
    code.update(&body);
    code.verify_truncated_left(&bytes[SIGNED..HEAD_BYTES]).ok()?;
    Some((Loan { session: u64_at(bytes, 8), sequence: u64_at(bytes, 16) }, body))
}

/// Writes a wish.
pub(super) fn seal_wish(loan: Loan, body: &[u8; BODY_BYTES], key: &Key) -> [u8; BYTES] {
    seal(WISH, loan, body, key)
}

/// Writes an answer.
pub(crate) fn seal_answer(loan: Loan, body: &[u8; BODY_BYTES], key: &Key) -> [u8; BYTES] {
    seal(ANSWER, loan, body, key)
}

fn seal(kind: u8, loan: Loan, body: &[u8; BODY_BYTES], key: &Key) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[..4].copy_from_slice(MAGIC);
    bytes[4] = kind;
    bytes[8..16].copy_from_slice(&loan.session.to_be_bytes());
    bytes[16..24].copy_from_slice(&loan.sequence.to_be_bytes());
    bytes[HEAD_BYTES..].copy_from_slice(body);
    let mut code = signed(&bytes[..SIGNED], BYTES, key);
    code.update(body);
    let code = code.finalize().into_bytes();
    bytes[SIGNED..HEAD_BYTES].copy_from_slice(&code[..CODE_BYTES]);
    bytes
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use crate::packet;

    const WISHED: Wish = Wish {
        is_over: false,
        service: Service::Connected,
        mtu: 3,
        traffic_class: 104,
        flow_label: 0xf_fffe,
        number: 0xff_fffe,
        psn: 1,
        qkey: 0x7fff_fff0,
        size_bytes: 1 << 20,
        gid: [7; 16],
    };

    #[test]
    fn what_was_written_is_read() {
        let key = Key::new(b"0123456789abcdef").unwrap();
        let loan = Loan { session: u64::MAX, sequence: 9 };
        let datagram = Wish { service: Service::Datagram, size_bytes: 1024, ..WISHED };
        for wish in [WISHED, datagram, Wish { is_over: true, ..datagram }] {
            let bytes = seal_wish(loan, &wish.encode(), &key);
            let (read, body) = open_wish(&bytes, &key).unwrap();
            assert_eq!((read, Wish::decode(&body)), (loan, Some(wish)));
            assert_eq!(open_answer(&bytes, &key), None, "a wish is no answer");
            assert!(!packet::looks_like_a_probe(&bytes));
        }
        let lent = Lent {
            mtu: 5,
            number: 17,
            psn: 0xff_ffff,
            qkey: 3,
            region_key: u32::MAX,
            lease_ms: LEASE_MS,
            gid: [9; 16],
            region_at: u64::MAX - 1,
        };
        let refused = [
            Refused::NoHelper,
            Refused::NoPort,
            Refused::AllLent,
            Refused::ShareLent,
            Refused::Failed(libc::ENOMEM),
            Refused::Bad,
            Refused::Over,
            Refused::NoTicket,
            Refused::NoLender,
        ];
        for answer in refused.map(Err).into_iter().chain([Ok(lent)]) {
            let bytes = seal_answer(loan, &encode_answer(&answer), &key);
            let (read, body) = open_answer(&bytes, &key).unwrap();
            assert_eq!((read, decode_answer(&body)), (loan, Some(answer)));
        }
        let ticket = std::array::from_fn(|at| 200 + at as u8);
        let wish = wish_with(WISHED.encode(), &ticket);
        assert_eq!((Wish::decode(&wish), ticket_of_wish(&wish)), (Some(WISHED), ticket));
        let answer = answer_with(encode_answer(&Ok(lent)), &ticket);
        assert_eq!((decode_answer(&answer), ticket_of_answer(&answer)), (Some(Ok(lent)), ticket));
    }

    #[test]
    fn nothing_that_was_changed_or_made_by_a_stranger_is_believed() {
        let key = Key::new(b"0123456789abcdef").unwrap();
        let bytes = seal_wish(Loan { session: 1, sequence: 2 }, &WISHED.encode(), &key);
        for at in 0..BYTES {
            let mut changed = bytes;
            changed[at] ^= 1;
            assert_eq!(open_wish(&changed, &key), None, "byte {at}");
        }
        assert_eq!(open_wish(&bytes[..BYTES - 1], &key), None);
        assert_eq!(open_wish(&bytes, &Key::new(b"0123456789abcdeg").unwrap()), None);
    }

    #[test]
    fn a_wish_beyond_what_can_be_is_none() {
        let datagram = Wish { service: Service::Datagram, size_bytes: 1024, ..WISHED };
        for bad in [
            Wish { mtu: 0, ..WISHED },
            Wish { mtu: 6, ..WISHED },
            Wish { flow_label: 1 << 20, ..WISHED },
            Wish { number: 1 << 24, ..WISHED },
            Wish { psn: 1 << 24, ..WISHED },
            Wish { size_bytes: 63, ..WISHED },
            Wish { size_bytes: (1 << 20) + 1, ..WISHED },
            Wish { size_bytes: 1025, ..datagram },
        ] {
            assert_eq!(Wish::decode(&bad.encode()), None, "{bad:?}");
        }
        assert_eq!(decode_answer(&[10; BODY_BYTES]), None);
        assert_eq!((mtu_bytes(1), mtu_bytes(3), mtu_bytes(5)), (256, 1024, 4096));
    }
}
