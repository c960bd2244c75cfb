//! What a network namespace holds: its TCP connections, and which interface each of its addresses is on.
//!
//! In: a process that lives in it. Out: a [`Look`]. The agent's own namespace is asked directly. Another one is entered by a
//! thread of its own, which ends with the look: one that failed to come back would read somebody else's network for ever.
//! Nothing stays open: an open socket would keep a container's namespace alive after its container. Where entering is refused,
//! /proc/PID/net says who is connected, and not how much was carried.
//! Never: the agent's other threads in another namespace.

use super::inet_diag::{Socket, dump, parse};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::SockProtocol;
use railwatch_nic::netlink::{Attributes, Netlink, Request, number, text};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;

const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// Text of /proc/PID/net/tcp that is read: about 40,000 sockets.
const TEXT_BYTES_MAX: u64 = 6 * 1024 * 1024;
/// Sockets that are kept of one namespace: 2 MiB.
const SOCKETS_MAX: usize = 16_384;
/// Stack of the thread that enters another namespace.
const STACK_BYTES: usize = 256 * 1024;

/// What was seen of a namespace.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub(super) sockets: Vec<Socket>,
    pub(super) interfaces: Interfaces,
    /// Sockets of interest that there was no room for.
    pub(super) beyond: u64,
    /// Only /proc could be read, because of this.
    pub(super) refused: Option<io::Error>,
}

impl Look {
    fn keep(&mut self, socket: Socket, wanted: Wanted<'_>) {
        match wanted(socket.inode) {
            false => {}
            true if self.sockets.len() < SOCKETS_MAX => self.sockets.push(socket),
            true => self.beyond += 1,
        }
    }
}

/// Interfaces by index and by address.
#[derive(Debug, Default)]
pub(super) struct Interfaces {
    names: HashMap<u32, String>,
    /// `None`: the address is on more than one.
    by_address: HashMap<IpAddr, Option<u32>>,
}

impl Interfaces {
    fn of_this_namespace() -> io::Result<Self> {
        let mut netlink = Netlink::open(SockProtocol::NetlinkRoute)?;
        let mut found = Self::default();
        netlink.dump(&mut Request::new(RTM_GETLINK, &[0; 16]), |message| {
            if message.kind == RTM_NEWLINK
                && let Some(index) = number(message.body.get(4..8))
                && let Some(name) = message.body.get(16..).and_then(|rest| Attributes(rest).find_kind(IFLA_IFNAME))
            {
                found.names.insert(index, text(name).to_owned());
            }
        })?;
        netlink.dump(&mut Request::new(RTM_GETADDR, &[0; 8]), |message| {
            if message.kind == RTM_NEWADDR
                && let Some(index) = number(message.body.get(4..8))
                && let Some(address) = message.body.get(8..).and_then(local_address)
            {
                found
                    .by_address
                    .entry(address)
                    .and_modify(|on| *on = on.filter(|on| *on == index))
                    .or_insert(Some(index));
            }
        })?;
        Ok(found)
    }

    /// The interface that a connection leaves by, as its ends tell: the one it is bound to, or the one that holds its own
    /// address. What stays on this host leaves by `lo`. `None` where that does not decide.
    pub(super) fn of(&self, socket: &Socket) -> Option<&str> {
        if socket.bound_to.is_none() && self.by_address.contains_key(&socket.destination.ip()) {
            return Some("lo");
        }
        let index = socket.bound_to.or_else(|| *self.by_address.get(&socket.source.ip())?)?;
        self.names.get(&index).map(String::as_str)
    }
}

/// IFA_LOCAL of IPv4 (where IFA_ADDRESS is the other end of a point-to-point link), IFA_ADDRESS of IPv6.
fn local_address(attributes: &[u8]) -> Option<IpAddr> {
    let find = |kind| Attributes(attributes).find_kind(kind);
    let bytes = find(IFA_LOCAL).or_else(|| find(IFA_ADDRESS))?;
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
        _ => None,
    }
}

/// The identity of a process's network namespace.
pub(super) fn namespace_of(pid: u32) -> io::Result<u64> {
    Ok(std::fs::metadata(format!("/proc/{pid}/ns/net"))?.ino())
}

/// The identity of the namespace that this thread is in.
pub(super) fn own_namespace() -> io::Result<u64> {
    Ok(std::fs::metadata("/proc/thread-self/ns/net")?.ino())
}

/// Which sockets are of interest, by inode.
pub(super) type Wanted<'a> = &'a (dyn Fn(u64) -> bool + Sync);

/// Looks at the namespace of a process, which is the one that this thread is in where `is_own`.
pub(super) fn look(pid: u32, is_own: bool, wanted: Wanted<'_>) -> io::Result<Look> {
    let looked = if is_own { look_here(wanted) } else { look_there(pid, wanted) };
    // Not entered (EPERM), or a kernel without tcp_diag (ENOENT).
    looked.or_else(|error| Ok(Look { refused: Some(error), ..by_proc(pid, wanted)? }))
}

fn look_here(wanted: Wanted<'_>) -> io::Result<Look> {
    let mut netlink = Netlink::open(SockProtocol::NetlinkSockDiag)?;
    let mut look = Look::default();
    dump(&mut netlink, |socket| look.keep(socket, wanted))?;
    // Without names, connections are still known.
    look.interfaces = Interfaces::of_this_namespace().unwrap_or_default();
    Ok(look)
}

fn look_there(pid: u32, wanted: Wanted<'_>) -> io::Result<Look> {
    let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("rw-netns".into()).stack_size(STACK_BYTES);
        let thread = thread.spawn_scoped(scope, move || {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            look_here(wanted)
        })?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread ended by a defect of its own")))
    })
}

/// Who is connected, by the files that show a process its own network.
fn by_proc(pid: u32, wanted: Wanted<'_>) -> io::Result<Look> {
    let mut look = Look::default();
    for file in ["tcp", "tcp6"] {
        let mut text = String::new();
        match File::open(format!("/proc/{pid}/net/{file}")) {
            Ok(file) => _ = file.take(TEXT_BYTES_MAX).read_to_string(&mut text)?,
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && file == "tcp6" => {}
            Err(error) => return Err(error),
        }
        parse(&text).for_each(|socket| look.keep(socket, wanted));
    }
    Ok(look)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interface_is_that_of_the_own_address_unless_the_socket_says_or_nothing_decides() {
        let address = |text: &str| text.parse::<IpAddr>().expect("a test's address");
        let interfaces = Interfaces {
            names: [(1, "lo".to_owned()), (2, "eth0".to_owned()), (3, "eth1".to_owned())].into(),
            by_address: [
                (address("127.0.0.1"), Some(1)),
                (address("10.0.0.1"), Some(2)),
                (address("10.0.1.1"), Some(3)),
                (address("fe80::1"), None),
            ]
            .into(),
        };
        for (source, destination, bound_to, expected) in [
            ("10.0.0.1:5", "10.0.0.9:6", None, Some("eth0")),
            ("10.0.0.1:5", "10.0.1.1:6", None, Some("lo")),
            ("127.0.0.1:5", "127.0.0.1:6", None, Some("lo")),
            ("10.0.0.1:5", "10.0.0.9:6", Some(3), Some("eth1")),
            ("10.0.0.1:5", "10.0.0.9:6", Some(9), None),
            ("[fe80::1]:5", "[fe80::2]:6", None, None),
            ("10.9.9.9:5", "10.0.0.9:6", None, None),
        ] {
            let end = |text: &str| text.parse().expect("a test's address");
            let socket = Socket {
                inode: 1,
                source: end(source),
                destination: end(destination),
                state: "established",
                bound_to,
                figures: None,
            };
            assert_eq!(interfaces.of(&socket), expected, "{source} to {destination}");
        }
    }
}
