//! A TCP connection that carries frames, with the kernel's own times of each.
//!
//! In: packets to send, and when to read. Out: frames that came, with the instant at which the kernel had the last segment of what
//! was read; for each frame that was sent the instant at which the driver took its last segment, first; and what
//! the kernel had to send again (TCP_INFO). On a stream a stamp's number is the place of the last byte it was asked for
//! (SOF_TIMESTAMPING_OPT_ID), so each frame is one call, ends its segment (MSG_EOR), and waits for nobody (TCP_NODELAY). It is closed by a
//! reset (SO_LINGER 0), so that its ports can be used again at once. Nothing blocks. Never: a stamp of one frame given to
//! another, as where the kernel has joined what came while nobody read.

use super::frame::{Frame, Frames, NotAFrame, Outgoing};
use crate::packet::{Key, Packet, Resent};
use crate::socket::socket_address;
use crate::stamps::{self, Sent, stamp, stamping};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage, TimestampingFlag, Timestamps,
    bind, connect, getsockname, recvmsg, sendmsg, setsockopt, socket, sockopt,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// What may wait to be sent: a few frames of the longest, so that one goes whole by one call.
const SEND_BYTES: usize = 200 * 1024;

/// What the kernel says of a connection (struct tcp_info, include/uapi/linux/tcp.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Info {
    /// Segments sent again (tcpi_total_retrans).
    pub(crate) resent: u32,
    /// Of those, how many the other end says had come all the same (tcpi_dsack_dups, RFC 2883).
    pub(crate) undone: u32,
    /// Time-outs in a row without any answer of the other kernel (tcpi_backoff).
    pub(crate) backoff: u8,
    /// Bytes of a segment at most.
    pub(crate) segment_bytes: u32,
    /// Segments that came.
    pub(crate) came: u32,
    /// The other end has not answered yet (TCP_SYN_SENT).
    pub(crate) is_connecting: bool,
}

impl Info {
    /// As an answer tells it.
    pub(crate) fn told(&self) -> Resent {
        // Modulo 2^8, as the prober takes it.
        Resent { again: self.resent as u8, undone: self.undone as u8 }
    }
}

/// The connection.
#[derive(Debug)]
pub(crate) struct Connection {
    fd: OwnedFd,
    frames: Frames,
    outgoing: Option<Outgoing>,
    /// Bytes handed to the kernel, as stamps count them.
    written: u32,
    control: Vec<u8>,
}

impl Connection {
    /// Begins to connect; its packets carry `tos` (DSCP in the upper six bits).
    ///
    /// # Errors
    /// What the kernel refused.
    pub(crate) fn begin(local: SocketAddr, to: SocketAddr, tos: u8) -> io::Result<Self> {
        let family = if local.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
        // Flows to several hosts may have one source port, and one that was closed is free.
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        if local.is_ipv6() {
            setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
        }
        let connection = Self::with(fd, local.is_ipv6(), tos)?;
        let fd = connection.fd.as_raw_fd();
        bind(fd, &SockaddrStorage::from(local))?;
        match connect(fd, &SockaddrStorage::from(to)) {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(connection),
            Err(errno) => Err(errno.into()),
        }
    }

    /// One that somebody else began, and that was accepted.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(crate) fn accepted(fd: OwnedFd, is_v6: bool, tos: u8) -> io::Result<Self> {
        let connection = Self::with(fd, is_v6, tos)?;
        connection.begin_stamps()?;
        Ok(connection)
    }

    fn with(fd: OwnedFd, is_v6: bool, tos: u8) -> io::Result<Self> {
        setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
        setsockopt(&fd, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
        // What it has stays where the system refuses.
        let _ = setsockopt(&fd, sockopt::SndBuf, &SEND_BYTES);
        match is_v6 {
            true => setsockopt(&fd, sockopt::Ipv6TClass, &i32::from(tos))?,
            false => setsockopt(&fd, sockopt::Ipv4Tos, &i32::from(tos))?,
        }
        let control = cmsg_space!(Timestamps, libc::sock_extended_err, libc::sockaddr_in6);
        Ok(Self { fd, frames: Frames::default(), outgoing: None, written: 0, control })
    }

    /// Once it can be written: whether it is connected.
    ///
    /// # Errors
    /// Why it is not.
    pub(crate) fn connected(&self) -> io::Result<()> {
        match nix::sys::socket::getsockopt(&self.fd, sockopt::SocketError)? {
            0 => self.begin_stamps(),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Numbers count from here: nothing was written before.
    fn begin_stamps(&self) -> io::Result<()> {
        let flags = stamping() | TimestampingFlag::SOF_TIMESTAMPING_OPT_ID;
        Ok(setsockopt(&self.fd, sockopt::Timestamping, &flags)?)
    }

    /// Where it is bound.
    pub(crate) fn local(&self) -> io::Result<SocketAddr> {
        let address: SockaddrStorage = getsockname(self.fd.as_raw_fd())?;
        socket_address(&address).ok_or_else(|| io::Error::other("bound to no IP address"))
    }

    /// Whether a frame waits for room, and nothing else may be sent.
    pub(crate) fn is_full(&self) -> bool {
        self.outgoing.is_some()
    }

    /// Sends a packet as a frame of `length` bytes. Its stamp will have the number returned. What the kernel has no room for
    /// goes with [`Self::flush`].
    ///
    /// # Errors
    /// EAGAIN where the frame before still waits; what ended the connection.
    pub(crate) fn send(&mut self, packet: &Packet, length: usize, key: &Key) -> io::Result<u32> {
        if self.outgoing.is_some() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let outgoing = Outgoing::new(packet, length, key);
        let bytes: usize = outgoing.rest().iter().map(|part| part.len()).sum();
        let last = self.written.wrapping_add(u32::try_from(bytes).unwrap_or(0)).wrapping_sub(1);
        self.outgoing = Some(outgoing);
        self.flush()?;
        Ok(last)
    }

    /// Sends what waits, as far as there is room.
    ///
    /// # Errors
    /// What ended the connection.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while let Some(outgoing) = &mut self.outgoing {
            let slices = outgoing.rest().map(IoSlice::new);
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_EOR;
            match sendmsg::<SockaddrStorage>(self.fd.as_raw_fd(), &slices, &[], flags, None) {
                Ok(bytes) => {
                    self.written = self.written.wrapping_add(u32::try_from(bytes).unwrap_or(0));
                    if outgoing.went(bytes) {
                        self.outgoing = None;
                    }
                }
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Reads once, and hands over the frames that are whole now, with the stamp of their last segment where it is theirs for certain.
    /// Returns how many bytes came: 0 where nothing waited.
    ///
    /// # Errors
    /// What ended the connection: a peer that sends no frames, too (InvalidData).
    pub(crate) fn read(&mut self, buffer: &mut [u8], mut each: impl FnMut(&Frame, Option<u64>)) -> io::Result<usize> {
        let room = buffer.len();
        let mut slices = [IoSliceMut::new(buffer)];
        let fd = self.fd.as_raw_fd();
        let received = recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut self.control), MsgFlags::MSG_DONTWAIT);
        let received = match received {
            Ok(received) => received,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(0),
            Err(errno) => return Err(errno.into()),
        };
        let mut stamp_unix_ns = None;
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmTimestampsns(stamps) = message {
                stamp_unix_ns = stamp(&stamps);
            }
        }
        let bytes = received.bytes;
        if bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = buffer.get(..bytes).unwrap_or_default();
        while !rest.is_empty() {
            let taken = self.frames.take(rest).map_err(|NotAFrame| io::Error::from(io::ErrorKind::InvalidData))?;
            let (used, frame) = taken;
            rest = rest.get(used..).unwrap_or_default();
            if let Some(frame) = frame {
                // The stamp is of the last segment that was read. What lies behind the end of the buffer may be joined to it.
                each(&frame, stamp_unix_ns.filter(|_| rest.is_empty() && bytes < room));
            }
        }
        Ok(bytes)
    }

    /// Hands over the stamps that have come, `most` of them at most. A segment that is sent again may be stamped again.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn stamps(&mut self, most: usize, each: impl FnMut(Sent)) -> io::Result<()> {
        stamps::take(&self.fd, &mut self.control, most, each)
    }

    /// What the kernel says of it; all 0 where it says nothing.
    pub(crate) fn info(&self) -> Info {
        // Offsets of linux/tcp.h, whose fields never move: libc's own struct ends before those that came since Linux 4.18.
        const SYN_SENT: u8 = 2;
        const SND_MSS: usize = 16;
        const TOTAL_RETRANS: usize = 100;
        const SEGS_IN: usize = 140;
        const DSACK_DUPS: usize = 216;
        let mut bytes = [0u8; 256];
        if crate::socket::get(&self.fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut bytes).is_err() {
            return Info::default();
        }
        // What an older kernel does not write stays 0.
        let at = |at: usize| {
            let [a, b, c, d] = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            u32::from_ne_bytes([a, b, c, d])
        };
        Info {
            resent: at(TOTAL_RETRANS),
            undone: at(DSACK_DUPS),
            backoff: bytes[4],
            segment_bytes: at(SND_MSS),
            came: at(SEGS_IN),
            is_connecting: bytes[0] == SYN_SENT,
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
