//! Sees marked packets leave a switch: one packet socket in its network namespace, for all its ports.
//!
//! In: a switch. Out: of each packet with our mark, its number and the port that it left by. A classic BPF filter lets nothing else through. Never: a
//! packet touched, or one of the workload read.

use crate::{enter, lab::Lab};
use anyhow::{Context, Result};
use nix::{errno::Errno, net::if_::if_indextoname};
use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// The first four bytes of our packets: "RLWV".
pub const MARK: u32 = 0x524c_5756;
/// include/uapi/linux/if_packet.h: a packet that this host sends.
const PACKET_OUTGOING: u8 = 4;
/// All protocols: packets that leave are shown to such sockets alone (net/core/dev.c, `dev_queue_xmit_nit`).
const ETH_P_ALL: u16 = 0x0003;
/// IP header, UDP header, mark and number; options have room.
const BYTES: usize = 96;
const BUFFER_BYTES: libc::c_int = 4 * 1024 * 1024;

/// How a packet passed a switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The port that it left by.
    pub out: String,
}

/// A switch that is watched.
pub struct Capture {
    socket: OwnedFd,
    ports: BTreeMap<u32, String>,
}

/// UDP over IPv4 whose payload begins with the mark. The socket's packets begin with their IP header.
fn filter() -> [libc::sock_filter; 7] {
    let step = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let (load, load_x, jump_equal, ret) = (libc::BPF_LD, libc::BPF_LDX, libc::BPF_JMP | libc::BPF_JEQ, libc::BPF_RET);
    [
        step(load | libc::BPF_B | libc::BPF_ABS, 9, 0, 0),
        step(jump_equal | libc::BPF_K, libc::IPPROTO_UDP as u32, 0, 4),
        step(load_x | libc::BPF_B | libc::BPF_MSH, 0, 0, 0),
        step(load | libc::BPF_W | libc::BPF_IND, 8, 0, 0),
        step(jump_equal | libc::BPF_K, MARK, 0, 1),
        step(ret | libc::BPF_K, BYTES as u32, 0, 0),
        step(ret | libc::BPF_K, 0, 0, 0),
    ]
}

impl Capture {
    /// Watches a switch from now on.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn open(lab: &Lab, switch: &str) -> Result<Self> {
        enter::inside(lab, switch, || {
            let socket = open().with_context(|| format!("capture at {switch}"))?;
            let mut ports = BTreeMap::new();
            for link in lab.plan.links_of(switch) {
                let port = &link.end(switch).port;
                let index = nix::net::if_::if_nametoindex(port.as_str())
                    .with_context(|| format!("find port {port} of {switch}"))?;
                ports.insert(index, port.clone());
            }
            Ok(Self { socket, ports })
        })
    }

    /// What has left since the last call: the number of each packet, and how it passed.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn take(&self) -> Result<Vec<(u32, Seen)>> {
        let mut found = Vec::new();
        let mut buffer = [0u8; BYTES];
        loop {
            // SAFETY: all zero is a sockaddr_ll: integers and an array of bytes.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            // SAFETY: buffer and address are ours and live through the call, and their lengths are given.
            let received = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    0,
                    (&raw mut from).cast(),
                    &raw mut length,
                )
            };
            let Ok(received) = usize::try_from(received) else {
                return match Errno::last() {
                    Errno::EAGAIN => Ok(found),
                    error => Err(error).context("read captured packets"),
                };
            };
            let index = u32::try_from(from.sll_ifindex).unwrap_or_default();
            if from.sll_pkttype != PACKET_OUTGOING {
                continue;
            }
            let port = self.ports.get(&index).cloned();
            let port = port.or_else(|| if_indextoname(index).ok()?.into_string().ok());
            if let (Some(number), Some(out)) = (number(&buffer[..received]), port) {
                found.push((number, Seen { out }));
            }
        }
    }
}

/// The number behind the mark.
fn number(packet: &[u8]) -> Option<u32> {
    const UDP_HEADER: usize = 8;
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let bytes = packet.get(header + UDP_HEADER + 4..)?.get(..4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn open() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // Protocol 0 captures nothing: the filter is there before the first packet.
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above gave it to us alone.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut program = filter();
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    set(&socket, libc::SO_ATTACH_FILTER, &program)?;
    // A lab runs as root; where that is not enough the buffer stays as it is.
    let _ = set(&socket, libc::SO_RCVBUFFORCE, &BUFFER_BYTES);
    // SAFETY: all zero is a sockaddr_ll: integers and an array of bytes.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    (address.sll_family, address.sll_protocol) = (libc::AF_PACKET as u16, ETH_P_ALL.to_be());
    // SAFETY: `address` is a sockaddr_ll that lives through the call, and its length is given.
    let bound =
        unsafe { libc::bind(fd, (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t) };
    if bound == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

fn set<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: `value` lives through the call, and its length is given.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const *value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn the_number_stands_behind_the_mark_whatever_options_the_header_has() {
        for words in [5usize, 6, 15] {
            let mut packet = vec![0u8; words * 4 + 8];
            packet[0] = 0x40 | u8::try_from(words).unwrap_or_default();
            packet.extend([0x52, 0x4c, 0x57, 0x56, 0, 0, 1, 2]);
            assert_eq!(number(&packet), Some(258));
            packet.pop();
            assert_eq!(number(&packet), None);
        }
        assert_eq!(number(&[]), None);
    }
}
