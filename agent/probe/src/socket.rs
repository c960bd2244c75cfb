//! A UDP socket whose datagrams carry the kernel's own times.
//!
//! In: datagrams and where they go. Out: datagrams with the instant at which the kernel received them, and for each that
//! was sent the instant at which the driver took it, a moment later, from the socket's error queue (SO_TIMESTAMPING,
//! Documentation/networking/timestamping.rst). All are software stamps, CLOCK_REALTIME: they need no privilege and every
//! driver gives them; what a queueing discipline of this host holds up is before them, and so is counted as host delay.
//! Never fragments: a datagram beyond the path's MTU is refused (EMSGSIZE), because a probe of fragments measures something else.

use crate::label::flow_label;
use crate::stamps::{self, Sent, stamp, stamping};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrLike, SockaddrStorage,
    TimestampingFlag, Timestamps, bind, getsockname, recvmsg, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// IPV6_FLOWINFO_SEND of linux/in6.h: labels are those of the address that is sent to.
const FLOWINFO_SEND: libc::c_int = 33;

/// A datagram that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// How much of the buffer it fills.
    pub length: usize,
    /// Whom it says it is from.
    pub from: SocketAddr,
    /// When the kernel received it; `None` where it does not say.
    pub stamp_unix_ns: Option<u64>,
    /// Its type of service or traffic class, 0 where not known.
    pub tos: u8,
    /// The own address it came to, where that was asked for ([`StampedSocket::tell_own_address`]).
    pub to: Option<IpAddr>,
}

/// The socket. Nothing blocks but [`Self::wait`].
#[derive(Debug)]
pub struct StampedSocket {
    fd: OwnedFd,
    is_v6: bool,
    /// Of IPv6, its own end, whose datagrams carry labels; none of a socket of IPv4.
    labels: Option<SocketAddrV6>,
    /// What datagrams carry unless told otherwise.
    tos: u8,
    next_id: u32,
    /// For control messages, so that none is allocated for each datagram.
    control: Vec<u8>,
}

impl StampedSocket {
    /// Binds it; its own datagrams carry `tos` (DSCP in the upper six bits).
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn bind(local: SocketAddr, tos: u8) -> io::Result<Self> {
        let is_v6 = local.is_ipv6();
        let family = if is_v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let fd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        if is_v6 {
            setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
            setsockopt(&fd, sockopt::Ipv6TClass, &i32::from(tos))?;
            set(&fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
            set(&fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)?;
            set(&fd, libc::IPPROTO_IPV6, FLOWINFO_SEND, 1)?;
        } else {
            setsockopt(&fd, sockopt::Ipv4Tos, &i32::from(tos))?;
            setsockopt(&fd, sockopt::IpRecvTos, &true)?;
            set(&fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)?;
        }
        setsockopt(&fd, sockopt::Timestamping, &(stamping() | TimestampingFlag::SOF_TIMESTAMPING_OPT_ID))?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(local))?;
        let control = cmsg_space!(Timestamps, libc::sock_extended_err, libc::sockaddr_in6, i32, i32, libc::in6_pktinfo);
        let mut socket = Self { fd, is_v6, labels: None, tos, next_id: 0, control };
        socket.labels = match socket.local()? {
            SocketAddr::V6(own) => Some(own),
            SocketAddr::V4(_) => None,
        };
        Ok(socket)
    }

    /// From now on datagrams tell to which own address they came: a socket of all addresses answers from that one then, and so
    /// by the way that its routes have for it.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn tell_own_address(&self) -> io::Result<()> {
        match self.is_v6 {
            true => setsockopt(&self.fd, sockopt::Ipv6RecvPacketInfo, &true)?,
            false => setsockopt(&self.fd, sockopt::Ipv4PacketInfo, &true)?,
        }
        Ok(())
    }

    /// Lets so much wait unread, as far as the system allows.
    pub fn widen(&self, bytes: usize) {
        if setsockopt(&self.fd, sockopt::RcvBufForce, &bytes).is_err() {
            // Without CAP_NET_ADMIN: up to net.core.rmem_max. What it has stays where even that is refused.
            let _ = setsockopt(&self.fd, sockopt::RcvBuf, &bytes);
        }
    }

    /// Datagrams that this host had and had no room for in this socket, since it was made (SO_MEMINFO, include/uapi/linux/sock_diag.h);
    /// `None` where the kernel does not say.
    #[must_use]
    pub fn overflowed(&self) -> Option<u32> {
        const SK_MEMINFO_DROPS: usize = 8;
        let mut memory = [0; 9 * size_of::<u32>()];
        let length = get(&self.fd, libc::SOL_SOCKET, libc::SO_MEMINFO, &mut memory).ok()?;
        let drops = memory.as_chunks().0.get(SK_MEMINFO_DROPS)?;
        (length == memory.len()).then(|| u32::from_ne_bytes(*drops))
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn local(&self) -> io::Result<SocketAddr> {
        let address: SockaddrStorage = getsockname(self.fd.as_raw_fd())?;
        socket_address(&address).ok_or_else(|| io::Error::other("bound to no IP address"))
    }

    /// How many hops what is sent from now on may go.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set_time_to_live(&self, hops: u8) -> io::Result<()> {
        match self.is_v6 {
            true => set(&self.fd, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, hops.into()),
            false => set(&self.fd, libc::IPPROTO_IP, libc::IP_TTL, hops.into()),
        }
    }

    /// The most payload that the way to `to` takes in one datagram, as this host's routes and path MTU discovery have it.
    ///
    /// # Errors
    /// No way there.
    pub fn payload_max(&self, to: SocketAddr) -> io::Result<usize> {
        // Asked of a socket of its own: only a connected one knows a path.
        let from = SocketAddr::new(self.local()?.ip(), 0);
        let asked = std::net::UdpSocket::bind(from)?;
        asked.connect(to)?;
        let (level, option, head) = match self.is_v6 {
            true => (libc::IPPROTO_IPV6, libc::IPV6_MTU, 40 + 8),
            false => (libc::IPPROTO_IP, libc::IP_MTU, 20 + 8),
        };
        let mut mtu = [0; size_of::<libc::c_int>()];
        get(&asked, level, option, &mut mtu)?;
        Ok(usize::try_from(libc::c_int::from_ne_bytes(mtu)).unwrap_or(0).saturating_sub(head))
    }

    /// Sends a datagram with this type of service. Its stamp will have the number returned.
    ///
    /// # Errors
    /// EMSGSIZE where it is beyond the path's MTU; EAGAIN where the socket is full; what else the kernel refused.
    pub fn send_to(&mut self, bytes: &[u8], to: SocketAddr, tos: u8) -> io::Result<u32> {
        self.send_from(None, bytes, to, tos)
    }

    /// As [`Self::send_to`], from this own address where one is given.
    ///
    /// # Errors
    /// As there.
    pub fn send_from(&mut self, from: Option<IpAddr>, bytes: &[u8], to: SocketAddr, tos: u8) -> io::Result<u32> {
        let class = i32::from(tos);
        let message = match self.is_v6 {
            true => ControlMessage::Ipv6TClass(&class),
            false => ControlMessage::Ipv4Tos(&tos),
        };
        let (own_v4, own_v6);
        let own = match from {
            Some(IpAddr::V4(from)) => {
                let address = libc::in_addr { s_addr: u32::from(from).to_be() };
                own_v4 =
                    libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: libc::in_addr { s_addr: 0 } };
                Some(ControlMessage::Ipv4PacketInfo(&own_v4))
            }
            Some(IpAddr::V6(from)) => {
                own_v6 = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: from.octets() }, ipi6_ifindex: 0 };
                Some(ControlMessage::Ipv6PacketInfo(&own_v6))
            }
            None => None,
        };
        let all = [message, own.unwrap_or(message)];
        let messages = match (tos == self.tos, own.is_some()) {
            (true, false) => &all[..0],
            (false, false) => &all[..1],
            (true, true) => &all[1..],
            (false, true) => &all[..],
        };
        let send = |to: SocketAddr| {
            let to = SockaddrStorage::from(to);
            sendmsg(self.fd.as_raw_fd(), &[IoSlice::new(bytes)], messages, MsgFlags::MSG_DONTWAIT, Some(&to))
        };
        let mut sent = send(self.labelled(from, to));
        if sent == Err(Errno::EINVAL) && self.labels.take().is_some() {
            // Labels are for those alone who lease them, where anybody on the host does so (ipv6_flowlabel_exclusive): the kernel draws ours then.
            sent = send(to);
        }
        match sent {
            Ok(_) => {
                let id = self.next_id;
                self.next_id = self.next_id.wrapping_add(1);
                Ok(id)
            }
            Err(errno) => {
                // Kernels differ in whether a datagram that failed used up a number: they count from 0 again.
                setsockopt(&self.fd, sockopt::Timestamping, &stamping())?;
                let numbered = stamping() | TimestampingFlag::SOF_TIMESTAMPING_OPT_ID;
                setsockopt(&self.fd, sockopt::Timestamping, &numbered)?;
                self.next_id = 0;
                Err(errno.into())
            }
        }
    }

    /// The same destination, over IPv6 with the flow's own label, as traces have it: see `label`.
    fn labelled(&self, from: Option<IpAddr>, to: SocketAddr) -> SocketAddr {
        let (SocketAddr::V6(mut to), Some(own)) = (to, self.labels) else { return to };
        let own = match from {
            Some(IpAddr::V6(from)) => SocketAddrV6::new(from, own.port(), 0, 0),
            _ => own,
        };
        // As it is on the wire: the kernel does not turn it (struct sockaddr_in6).
        to.set_flowinfo(flow_label(own, to).to_be());
        to.into()
    }

    /// The next datagram, if there is one.
    ///
    /// # Errors
    /// What the kernel said; the socket stays usable.
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        self.receive_with(buffer, MsgFlags::MSG_DONTWAIT)
    }

    /// From now on [`Self::wait`] waits for so long at most.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn wait_at_most(&self, time: Duration) -> io::Result<()> {
        let microseconds = i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        setsockopt(&self.fd, sockopt::ReceiveTimeout, &TimeVal::microseconds(microseconds)).map_err(Into::into)
    }

    /// The next datagram, waited for within the one call that reads it; none after the time of [`Self::wait_at_most`], or sooner where a signal
    /// came.
    ///
    /// # Errors
    /// As for [`Self::receive`].
    pub fn wait(&mut self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        self.receive_with(buffer, MsgFlags::empty())
    }

    fn receive_with(&mut self, buffer: &mut [u8], flags: MsgFlags) -> io::Result<Option<Received>> {
        let mut slices = [IoSliceMut::new(buffer)];
        let received = recvmsg::<SockaddrStorage>(
            self.fd.as_raw_fd(),
            &mut slices,
            Some(&mut self.control),
            flags | MsgFlags::MSG_TRUNC,
        );
        let received = match received {
            Ok(received) => received,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let (mut stamp_unix_ns, mut tos, mut to) = (None, 0, None);
        for message in received.cmsgs()? {
            match message {
                ControlMessageOwned::ScmTimestampsns(stamps) => stamp_unix_ns = stamp(&stamps),
                ControlMessageOwned::Ipv4Tos(value) => tos = value,
                ControlMessageOwned::Ipv6TClass(value) => tos = u8::try_from(value).unwrap_or(0),
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    to = Some(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)).into());
                }
                ControlMessageOwned::Ipv6PacketInfo(info) => to = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into()),
                _ => {}
            }
        }
        let length = received.bytes;
        let from = received.address.as_ref().and_then(socket_address);
        let from = from.ok_or_else(|| io::Error::other("a datagram from no IP address"))?;
        Ok(Some(Received { length, from, stamp_unix_ns, tos, to }))
    }

    /// Hands over the stamps that have come, `most` of them at most.
    ///
    /// # Errors
    /// What the kernel said; stamps so far were handed over.
    pub fn stamps(&mut self, most: usize, each: impl FnMut(Sent)) -> io::Result<()> {
        stamps::take(&self.fd, &mut self.control, most, each)
    }
}

impl AsFd for StampedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(crate) fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    match address.family()? {
        AddressFamily::Inet => address.as_sockaddr_in().map(|v4| SocketAddrV4::from(*v4).into()),
        AddressFamily::Inet6 => address.as_sockaddr_in6().map(|v6| SocketAddrV6::from(*v6).into()),
        _ => None,
    }
}

/// What the kernel says of an option that nix has no name for, into `bytes`; how many those are.
pub(crate) fn get(fd: &impl AsRawFd, level: libc::c_int, option: libc::c_int, bytes: &mut [u8]) -> io::Result<usize> {
    let mut length = libc::socklen_t::try_from(bytes.len()).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: the kernel writes at most `length` bytes, which `bytes` has, and `length` itself; all it may write are bytes.
    let result = unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, bytes.as_mut_ptr().cast(), &raw mut length) };
    Errno::result(result)?;
    Ok(length as usize)
}

/// An option that nix has no name for.
pub(crate) fn set(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the pointer and length are those of a live c_int, which is what all options here take (ip(7), ipv6(7)).
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop).map_err(Into::into)
}
