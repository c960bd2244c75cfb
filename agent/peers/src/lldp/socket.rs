//! The raw socket that hears LLDP, one for all ports.
//!
//! In: indices of the ports to hear on. Out: frames, each with the port it came in by. The kernel hands it frames of the
//! LLDP EtherType alone (a packet hook of that protocol, not of all packets: no other traffic is touched), and a classic BPF
//! filter lets through those to the three group addresses of the standard (IEEE 802.1AB-2016, table 7-1).
//! Never: a frame sent, promiscuous mode, a wait.

use nix::sys::socket::sockopt::RcvBuf;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// EtherType of LLDP.
const ETH_P_LLDP: u16 = 0x88cc;
/// Nearest bridge, nearest non-TPMR bridge, nearest customer bridge: all are 01:80:c2:00:00:XX.
const GROUPS: [u8; 3] = [0x0e, 0x03, 0x00];
/// Destination, source, EtherType.
const ETHERNET_HEADER: usize = 14;
/// A header and the longest LLDPDU of an Ethernet frame.
const FRAME_BYTES_MAX: usize = ETHERNET_HEADER + 1500;
/// Frames come every 30 s from each neighbour.
const BUFFER_BYTES: usize = 64 * 1024;

/// The socket.
pub struct LldpSocket {
    fd: OwnedFd,
    buffer: Box<[u8; FRAME_BYTES_MAX]>,
}

/// What there was to receive.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A frame without its Ethernet header, and the port it came in by.
    Frame {
        /// Index of the interface.
        port: u32,
        /// The LLDPDU, with padding.
        pdu: &'a [u8],
    },
    /// Longer than an LLDPDU may be.
    TooLong,
    /// Nothing waits.
    Nothing,
}

impl LldpSocket {
    /// Opens it; it hears nothing before it joined a port.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW; what the kernel said.
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // Protocol 0 hears nothing: the filter is there before the first frame.
        let fd = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
        setsockopt(&fd, RcvBuf, &BUFFER_BYTES)?;
        let mut program = filter();
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        set_option(&fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
        let mut address = empty_address();
        address.sll_protocol = ETH_P_LLDP.to_be();
        // SAFETY: `address` is a sockaddr_ll that lives through the call, and its length is given.
        let bound = unsafe {
            libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t)
        };
        if bound != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { fd, buffer: Box::new([0; FRAME_BYTES_MAX]) })
    }

    /// Makes a port accept frames to the groups. The kernel forgets it with the port or the socket.
    ///
    /// # Errors
    /// `ENODEV`: the port is gone.
    pub fn join(&self, port: u32) -> io::Result<()> {
        for group in GROUPS {
            let membership = libc::packet_mreq {
                mr_ifindex: i32::try_from(port).map_err(io::Error::other)?,
                mr_type: libc::PACKET_MR_MULTICAST as u16,
                mr_alen: 6,
                mr_address: [0x01, 0x80, 0xc2, 0, 0, group, 0, 0],
            };
            set_option(&self.fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)?;
        }
        Ok(())
    }

    /// Takes one frame, without blocking.
    ///
    /// # Errors
    /// What the kernel said, once: `ENETDOWN` when a port went down.
    pub fn receive(&mut self) -> io::Result<Received<'_>> {
        let mut address = empty_address();
        let mut address_length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: buffer and address are ours and live through the call, and their lengths are given.
        let length = unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                self.buffer.as_mut_ptr().cast(),
                self.buffer.len(),
                libc::MSG_TRUNC,
                (&raw mut address).cast(),
                &raw mut address_length,
            )
        };
        let Ok(length) = usize::try_from(length) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock => Ok(Received::Nothing),
                _ => Err(error),
            };
        };
        // With MSG_TRUNC the kernel returns the length that the frame had.
        let (Some(pdu), Ok(port)) = (self.buffer.get(ETHERNET_HEADER..length), u32::try_from(address.sll_ifindex))
        else {
            return Ok(Received::TooLong);
        };
        Ok(Received::Frame { port, pdu })
    }

    /// Frames that found no room since the last call.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn dropped(&self) -> io::Result<u32> {
        let mut counts = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: `counts` is a tpacket_stats that lives through the call, and its length is given.
        let read = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut counts).cast(),
                &raw mut length,
            )
        };
        if read == 0 { Ok(counts.tp_drops) } else { Err(io::Error::last_os_error()) }
    }

    /// Becomes readable when a frame came.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn empty_address() -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: 0,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    }
}

fn set_option<T>(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: `value` lives through the call, and its length is given.
    let set = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, option, (value as *const T).cast(), size_of::<T>() as libc::socklen_t)
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// LLDP to 01:80:c2:00:00:{0e,03,00}, whole; nothing else.
fn filter() -> [libc::sock_filter; 10] {
    const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
    const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let jump = |k: u32, jt: u8, jf: u8| libc::sock_filter { code: EQUAL as u16, jt, jf, k };
    [
        statement(LOAD_HALF, 12),
        jump(ETH_P_LLDP.into(), 0, 6),
        statement(LOAD_WORD, 0),
        jump(0x0180_c200, 0, 4),
        statement(LOAD_HALF, 4),
        jump(GROUPS[0].into(), 3, 0),
        jump(GROUPS[1].into(), 2, 0),
        jump(GROUPS[2].into(), 1, 0),
        statement(RETURN, 0),
        statement(RETURN, u32::MAX),
    ]
}
