//! TCP sockets of a network namespace: by sock_diag, or by /proc/PID/net/tcp where that is all there is.
//!
//! In: a netlink socket, or a file's text. Out: sockets with both ends, their state, their inode and, by sock_diag, what they
//! carried. Never: a socket that listens, or one that nobody owns any more (TIME_WAIT).
//! Layout: include/uapi/linux/inet_diag.h, include/uapi/linux/tcp.h, net/ipv4/tcp_ipv4.c (`get_tcp4_sock`).

use super::source::Figures;
use railwatch_nic::netlink::{Attributes, Message, Netlink, Request, number, number64};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_INFO: u16 = 2;

/// Names by include/net/tcp_states.h.
const STATES: [&str; 12] = [
    "?",
    "established",
    "syn_sent",
    "syn_recv",
    "fin_wait1",
    "fin_wait2",
    "time_wait",
    "close",
    "close_wait",
    "last_ack",
    "listen",
    "closing",
];
const TIME_WAIT: u8 = 6;
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;
/// Those that are connections somebody owns.
const WANTED: u32 = 0xffe & !(1 << TIME_WAIT | 1 << CLOSE | 1 << LISTEN);

/// A socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) inode: u64,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) state: &'static str,
    /// The interface that it is bound to.
    pub(super) bound_to: Option<u32>,
    pub(super) figures: Option<Figures>,
}

/// Hands the TCP connections of the namespace that `netlink` was opened in to `take`.
pub(super) fn dump(netlink: &mut Netlink, mut take: impl FnMut(Socket)) -> io::Result<()> {
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut request = Request::new(SOCK_DIAG_BY_FAMILY, &question(family));
        netlink.dump(&mut request, |message| {
            if message.kind == SOCK_DIAG_BY_FAMILY {
                socket(message).into_iter().for_each(&mut take);
            }
        })?;
    }
    Ok(())
}

/// struct inet_diag_req_v2.
fn question(family: i32) -> [u8; 56] {
    let mut fixed = [0; 56];
    fixed[0] = u8::try_from(family).unwrap_or_default();
    fixed[1] = libc::IPPROTO_TCP as u8;
    fixed[2] = 1 << (INET_DIAG_INFO - 1);
    fixed[4..8].copy_from_slice(&WANTED.to_ne_bytes());
    fixed
}

/// struct inet_diag_msg and its attributes.
fn socket(message: Message<'_>) -> Option<Socket> {
    let body = message.body;
    let (family, state) = (*body.first()?, *body.get(1)?);
    let port = |at: usize| Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?));
    let address = |at: usize| -> Option<IpAddr> {
        match i32::from(family) {
            libc::AF_INET => Some(<[u8; 4]>::try_from(body.get(at..at + 4)?).ok()?.into()),
            libc::AF_INET6 => Some(IpAddr::from(<[u8; 16]>::try_from(body.get(at..at + 16)?).ok()?).to_canonical()),
            _ => None,
        }
    };
    Some(Socket {
        source: SocketAddr::new(address(8)?, port(4)?),
        destination: SocketAddr::new(address(24)?, port(6)?),
        bound_to: number(body.get(40..44)).filter(|index| *index != 0),
        inode: number(body.get(68..72))?.into(),
        state: STATES.get(usize::from(state)).copied().unwrap_or("?"),
        figures: Attributes(body.get(72..)?).find_kind(INET_DIAG_INFO).and_then(figures),
    })
}

/// struct tcp_info, as far as it goes on this kernel.
fn figures(info: &[u8]) -> Option<Figures> {
    let rtt_us = number(info.get(68..72))?;
    Some(Figures {
        rtt_ns: (rtt_us != 0).then(|| u64::from(rtt_us) * 1000),
        retransmits: number(info.get(100..104))?.into(),
        sent_bytes: number64(info.get(120..128))?,
        received_bytes: number64(info.get(128..136))?,
    })
}

/// The connections in the text of /proc/PID/net/tcp or tcp6.
pub(super) fn parse(text: &str) -> impl Iterator<Item = Socket> {
    text.lines().skip(1).filter_map(line)
}

fn line(line: &str) -> Option<Socket> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (source, destination) = (end(words.next()?)?, end(words.next()?)?);
    let state = u8::from_str_radix(words.next()?, 16).ok()?;
    if WANTED.checked_shr(state.into()).is_none_or(|bits| bits & 1 == 0) {
        return None;
    }
    // Queues, timer, retransmissions of the segment in flight, user, timeout; then the inode.
    let inode = words.nth(5)?.parse().ok()?;
    let state = STATES.get(usize::from(state)).copied().unwrap_or("?");
    Some(Socket { inode, source, destination, state, bound_to: None, figures: None })
}

/// `0100007F:1F90`: each word of the address as a number of the host's order, the port as a number.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let address: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut octets = [0; 16];
            for (at, octets) in octets.chunks_exact_mut(4).enumerate() {
                octets.copy_from_slice(&word(at * 8)?);
            }
            IpAddr::from(Ipv6Addr::from(octets)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use nix::sys::socket::SockProtocol;
    use proptest::prelude::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;

    fn inode(stream: &TcpStream) -> u64 {
        std::fs::metadata(format!("/proc/self/fd/{}", stream.as_raw_fd())).unwrap().ino()
    }

    #[test]
    fn a_connection_of_this_process_is_found_with_what_it_carried_by_either_way() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            client.write_all(&[7; 50_000]).unwrap();
            server.read_exact(&mut [0; 50_000]).unwrap();
            server.write_all(&[7; 300]).unwrap();
            client.read_exact(&mut [0; 300]).unwrap();
            let wanted = inode(&client);

            let mut netlink = Netlink::open(SockProtocol::NetlinkSockDiag).unwrap();
            let mut found = Vec::new();
            dump(&mut netlink, |socket| found.extend((socket.inode == wanted).then_some(socket))).unwrap();
            let [socket] = &found[..] else { panic!("{found:?}") };
            assert_eq!(socket.source, client.local_addr().unwrap());
            assert_eq!(socket.destination, client.peer_addr().unwrap());
            assert_eq!((socket.state, socket.bound_to), ("established", None));
            let figures = socket.figures.clone().unwrap();
            // The kernel counts the SYN as a byte.
            assert!((50_000..=50_001).contains(&figures.sent_bytes), "{figures:?}");
            assert_eq!((figures.received_bytes, figures.rtt_ns.is_some()), (300, true), "{figures:?}");

            let file = if address.starts_with('[') { "tcp6" } else { "tcp" };
            let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
            let found: Vec<_> = parse(&text).filter(|socket| socket.inode == wanted).collect();
            assert_eq!(found, [Socket { figures: None, ..socket.clone() }]);
        }
    }

    #[test]
    fn a_socket_that_listens_or_waits_to_be_forgotten_is_no_connection() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100 0 0 10 0
   1: 0100007F:1F90 0200007F:D431 06 00000000:00000000 03:00000170 00000000     0        0 0 3 0
   2: 0100007F:1F90 0200007F:D432 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 20 4 30 10 -1
   3: 0100007F:1F90 0200007F:D4
   4: nonsense
";
        let found: Vec<_> = parse(text).map(|socket| (socket.inode, socket.state, socket.destination)).collect();
        let expected = u32::from_ne_bytes([127, 0, 0, 2]);
        assert_eq!(expected, 0x0200_007f_u32, "the text is of a little-endian host");
        assert_eq!(found, [(4711, "established", "127.0.0.2:54322".parse().unwrap())]);
    }

    proptest! {
        #[test]
        fn no_bytes_and_no_text_break_it(body in prop::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,200}") {
            let _ = (socket(Message { kind: SOCK_DIAG_BY_FAMILY, body: &body }), figures(&body), line(&text));
        }
    }
}
