//! The little of netlink that readings need: requests, answers, attributes.
//!
//! In: a request as bytes. Out: the messages of its answer, borrowed from one buffer. Never: a wait without end
//! (answers time out), a read beyond what the kernel sent, or an unnoticed truncation.
//! Message and attribute layout: include/uapi/linux/netlink.h.

use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBuf, ReceiveTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
};
use nix::sys::time::TimeVal;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const ANSWER_TIMEOUT_S: i64 = 2;
/// The kernel answers dumps in pieces of at most 32 KiB (net/netlink/af_netlink.c, `netlink_dump`).
const BUFFER: usize = 32 * 1024;
/// Requests that may be sent together: their answers must fit into a socket's buffer (net.core.rmem_default, 208 KiB),
/// an RDMA port's with all its counters in up to 8 KiB each.
pub const TOGETHER_MAX: usize = 16;

/// A netlink socket with its buffer.
pub struct Netlink {
    fd: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
}

/// One message: its type and what follows the netlink header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Type of the message (RTM_*, or a generic netlink family's number).
    pub kind: u16,
    /// What follows the netlink header.
    pub body: &'a [u8],
}

/// A request being put together.
pub struct Request(Vec<u8>);

impl Request {
    /// A request of this message type, its fixed part first.
    #[must_use]
    pub fn new(kind: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(fixed);
        Self(bytes)
    }

    /// Appends an attribute of 32 bits.
    #[must_use]
    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Appends an attribute of 8 bits.
    #[must_use]
    pub fn u8(self, kind: u16, value: u8) -> Self {
        self.bytes(kind, &[value])
    }

    /// Appends an attribute of text, with its terminating zero.
    #[must_use]
    pub fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Appends an attribute that holds those which `inner` appends.
    #[must_use]
    pub fn nested(mut self, kind: u16, inner: impl FnOnce(Self) -> Self) -> Self {
        const NLA_F_NESTED: u16 = 0x8000;
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        let mut whole = inner(self);
        let length = u16::try_from(whole.0.len() - start).unwrap_or(u16::MAX);
        whole.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        whole
    }

    /// What was put together so far, after the netlink header.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.0[HEADER..]
    }

    fn bytes(mut self, kind: u16, payload: &[u8]) -> Self {
        let length = u16::try_from(payload.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(payload);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn seal(&mut self, flags: u16, sequence: u32) {
        seal(&mut self.0, flags, sequence);
    }
}

fn seal(request: &mut [u8], flags: u16, sequence: u32) {
    let length = u32::try_from(request.len()).unwrap_or(u32::MAX);
    request[0..4].copy_from_slice(&length.to_ne_bytes());
    request[6..8].copy_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
    request[8..12].copy_from_slice(&sequence.to_ne_bytes());
}

/// Requests for one object each, that can be sent by one system call.
#[derive(Default)]
pub struct Requests {
    bytes: Vec<u8>,
    /// Where each begins.
    starts: Vec<usize>,
}

impl Requests {
    /// Adds a request; returns its place.
    pub fn push(&mut self, request: &Request) -> usize {
        self.starts.push(self.bytes.len());
        self.bytes.extend_from_slice(&request.0);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.starts.len() - 1
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Those of these places, each sealed with a sequence number of its own, counted from `sequence`.
    fn sealed(&mut self, places: Range<usize>, sequence: u32) -> &[u8] {
        let Self { bytes, starts } = self;
        let end = bytes.len();
        let start = |place: usize| starts.get(place).copied().unwrap_or(end);
        let whole = start(places.start)..start(places.end);
        for (number, place) in (0..).zip(places) {
            let one = start(place)..start(place + 1);
            seal(&mut bytes[one], 0, sequence.wrapping_add(number));
        }
        &bytes[whole]
    }
}

impl Netlink {
    /// A socket for requests.
    ///
    /// # Errors
    /// The kernel has no such protocol, or refuses.
    pub fn open(protocol: SockProtocol) -> io::Result<Self> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        setsockopt(&fd, ReceiveTimeout, &TimeVal::new(ANSWER_TIMEOUT_S, 0))?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self { fd, buffer: vec![0; BUFFER], sequence: 0 })
    }

    /// A socket that listens to multicast groups (bit mask) and never blocks.
    ///
    /// # Errors
    /// As for [`Netlink::open`].
    pub fn listen(protocol: SockProtocol, groups: u32, buffer_bytes: usize) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        setsockopt(&fd, RcvBuf, &buffer_bytes)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self { fd, buffer: vec![0; BUFFER], sequence: 0 })
    }

    /// Sends a request for one object and hands the answer's message to `take`.
    ///
    /// # Errors
    /// What the kernel answered (`ENODEV`, `EOPNOTSUPP`, …), or `EAGAIN` when it did not within two seconds.
    pub fn ask<T>(&mut self, request: &mut Request, take: impl FnOnce(Message<'_>) -> T) -> io::Result<T> {
        self.send(request, 0)?;
        loop {
            let length = self.receive()?;
            let mut messages = Messages(&self.buffer[..length]);
            if let Some((sequence, message)) = messages.next()
                && sequence == self.sequence
            {
                return match message.kind {
                    NLMSG_ERROR => Err(error_of(message.body)),
                    _ => Ok(take(message)),
                };
            }
            // Left over from a request that timed out.
        }
    }

    /// Sends a request for all objects and hands each message of the answer to `take`.
    ///
    /// # Errors
    /// As for [`Netlink::ask`].
    pub fn dump(&mut self, request: &mut Request, mut take: impl FnMut(Message<'_>)) -> io::Result<()> {
        self.send(request, NLM_F_DUMP)?;
        loop {
            let length = self.receive()?;
            for (sequence, message) in Messages(&self.buffer[..length]) {
                match message.kind {
                    _ if sequence != self.sequence => {}
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return Err(error_of(message.body)),
                    _ => take(message),
                }
            }
        }
    }

    /// Sends the requests of these places by one system call, 16 at most, and hands each answer to `take`, with its place.
    /// The kernel reads all objects within that call: its answers wait before it returns.
    ///
    /// # Errors
    /// The requests could not be sent, or not all answers came within two seconds.
    pub fn ask_each(
        &mut self,
        requests: &mut Requests,
        places: Range<usize>,
        mut take: impl FnMut(usize, io::Result<Message<'_>>),
    ) -> io::Result<()> {
        debug_assert!(places.len() <= TOGETHER_MAX);
        if places.is_empty() {
            return Ok(());
        }
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(u32::try_from(places.len()).unwrap_or(u32::MAX));
        send(self.fd.as_raw_fd(), requests.sealed(places.clone(), first), MsgFlags::empty())?;
        let mut missing = places.len();
        while missing > 0 {
            let length = self.receive()?;
            for (sequence, message) in Messages(&self.buffer[..length]).take(missing) {
                // What is left over from a request that timed out lies outside.
                let number = sequence.wrapping_sub(first) as usize;
                if number < places.len() {
                    missing -= 1;
                    let answer = if message.kind == NLMSG_ERROR { Err(error_of(message.body)) } else { Ok(message) };
                    take(places.start + number, answer);
                }
            }
        }
        Ok(())
    }

    /// Hands every message that waits to `take`, without blocking.
    ///
    /// # Errors
    /// `ENOBUFS`: some were lost.
    pub fn drain(&mut self, mut take: impl FnMut(Message<'_>)) -> io::Result<()> {
        loop {
            let length = match self.receive() {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            Messages(&self.buffer[..length]).for_each(|(_, message)| take(message));
        }
    }

    /// Its descriptor, to wait on.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn send(&mut self, request: &mut Request, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        request.seal(flags, self.sequence);
        send(self.fd.as_raw_fd(), &request.0, MsgFlags::empty())?;
        Ok(())
    }

    fn receive(&mut self) -> io::Result<usize> {
        loop {
            // With MSG_TRUNC the kernel returns the length the message had, even where it did not fit.
            return match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Ok(length) if length > self.buffer.len() => Err(io::Error::from_raw_os_error(Errno::EMSGSIZE as i32)),
                Ok(length) => Ok(length),
                Err(Errno::EINTR) => continue,
                Err(errno) => Err(errno.into()),
            };
        }
    }
}

fn error_of(body: &[u8]) -> io::Error {
    match number(body.get(..4)) {
        Some(code) => io::Error::from_raw_os_error(u32::cast_signed(code).wrapping_neg()),
        None => malformed("an error without a code"),
    }
}

/// An answer that does not follow the layout.
#[must_use]
pub fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The messages in a buffer, with their sequence numbers; ends at the first that is not whole.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u32, Message<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let length = number(self.0.get(..4))? as usize;
        let kind = u16::from_ne_bytes(self.0.get(4..6)?.try_into().ok()?);
        let sequence = number(self.0.get(8..12))?;
        let body = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((sequence, Message { kind, body }))
    }
}

/// The attributes in a buffer, kind and payload; ends at the first that is not whole.
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// The payload of the first attribute of this kind.
    #[must_use]
    pub fn find_kind(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find(|(found, _)| *found == kind).map(|(_, payload)| payload)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(self.0.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?);
        let payload = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        // The two high bits say "nested" and "network byte order".
        Some((kind & 0x3fff, payload))
    }
}

/// A number of 32 bits in host order.
#[must_use]
pub fn number(bytes: Option<&[u8]>) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes?.get(..4)?.try_into().ok()?))
}

/// A number of 64 bits in host order.
#[must_use]
pub fn number64(bytes: Option<&[u8]>) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes?.get(..8)?.try_into().ok()?))
}

/// Text up to its terminating zero.
#[must_use]
pub fn text(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..end]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use crate::link::{self, Link};
    use proptest::prelude::*;

    #[test]
    fn the_loopback_of_this_namespace_is_found_and_an_interface_that_is_not_there_is_an_error() {
        let mut netlink = Netlink::open(SockProtocol::NetlinkRoute).unwrap();
        let mut links = Vec::new();
        netlink.dump(&mut link::request(0), |message| links.extend(Link::decode(message))).unwrap();
        let loopback = links.iter().find(|link| link.is_loopback).unwrap();
        let again = netlink.ask(&mut link::request(loopback.index), Link::decode).unwrap().unwrap();
        assert_eq!((again.name.as_str(), again.index), (loopback.name.as_str(), loopback.index));
        let error = netlink.ask(&mut link::request(0x7fff_ffff), Link::decode).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::ENODEV as i32));
        netlink
            .ask(&mut link::request(loopback.index), Link::decode)
            .unwrap()
            .expect("an error leaves the socket usable");
    }

    #[test]
    fn requests_sent_together_are_answered_each_in_its_place_and_an_error_is_of_its_own_alone() {
        let mut netlink = Netlink::open(SockProtocol::NetlinkRoute).unwrap();
        let mut links = Vec::new();
        netlink.dump(&mut link::request(0), |message| links.extend(Link::decode(message))).unwrap();
        let (loopback, nobody) = (links.iter().find(|link| link.is_loopback).unwrap().index, 0x7fff_ffff);
        let mut requests = Requests::default();
        for index in [loopback, nobody, loopback, nobody] {
            requests.push(&link::request(index));
        }
        for places in [0..4, 1..3, 3..4, 0..0, 0..4] {
            let mut answers = Vec::new();
            let take = |place: usize, answer: io::Result<Message<'_>>| {
                let index = answer.map(|message| Link::decode(message).unwrap().index);
                answers.push((place, index.map_err(|error| error.raw_os_error().unwrap())));
            };
            netlink.ask_each(&mut requests, places.clone(), take).unwrap();
            let expected = |place| (place, if place % 2 == 0 { Ok(loopback) } else { Err(Errno::ENODEV as i32) });
            assert_eq!(answers, places.map(expected).collect::<Vec<_>>());
        }
    }

    #[test]
    fn draining_a_quiet_socket_does_not_block() {
        let mut netlink = Netlink::listen(SockProtocol::NetlinkRoute, 0, 4096).unwrap();
        netlink.drain(|message| panic!("nobody sent {message:?}")).unwrap();
    }

    proptest! {
        #[test]
        fn no_bytes_whatever_break_the_decoders(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 16u16..19) {
            let _ = Link::decode(Message { kind, body: &bytes });
            let read: usize = Attributes(&bytes).map(|(_, payload)| payload.len() + 4).sum();
            prop_assert!(read <= bytes.len());
            let read: usize = Messages(&bytes).map(|(_, message)| message.body.len() + HEADER).sum();
            prop_assert!(read <= bytes.len());
        }
    }
}
