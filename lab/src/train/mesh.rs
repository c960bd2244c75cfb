//! The connections between ranks: one per pair and rail, between the addresses of that rail.

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

/// Where ranks listen.
const PORT: u16 = 29_500;
/// DSCP 26, which RoCE networks use for training's traffic, in the byte of IP_TOS.
const TRAFFIC_CLASS: i32 = 26 << 2;
/// How long the other ranks may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// What TCP noticed on one rail, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Segments sent again.
    pub sent_again: u64,
    /// Segments that came out of sequence.
    pub out_of_sequence: u64,
}

/// By rail, by peer.
pub struct Mesh(Vec<Vec<Option<TcpStream>>>);

impl Mesh {
    /// Connects to the ranks above, and waits for those below.
    pub fn connect(rank: usize, ranks: &[Vec<Ipv4Addr>]) -> Result<Self> {
        let listeners: Vec<_> = ranks[rank]
            .iter()
            .map(|address| TcpListener::bind((*address, PORT)).with_context(|| format!("listen on {address}:{PORT}")))
            .collect::<Result<_>>()?;
        let mut mesh = Vec::new();
        for (rail, listener) in listeners.iter().enumerate() {
            let mut peers: Vec<Option<TcpStream>> = ranks.iter().map(|_| None).collect();
            for peer in rank + 1..ranks.len() {
                let mut stream = dial(ranks[rank][rail], ranks[peer][rail])?;
                stream.write_all(&u32::try_from(rank)?.to_be_bytes())?;
                peers[peer] = Some(prepared(stream)?);
            }
            for _ in 0..rank {
                let mut stream = listener.accept()?.0;
                let mut from = [0; 4];
                stream.read_exact(&mut from)?;
                let from = u32::from_be_bytes(from) as usize;
                ensure!(from < rank && peers[from].is_none(), "rank {from} came where it was not expected");
                peers[from] = Some(prepared(stream)?);
            }
            mesh.push(peers);
        }
        Ok(Self(mesh))
    }

    /// The connection to another rank.
    pub fn peer(&self, rail: usize, peer: usize) -> &TcpStream {
        // A rank never speaks to itself, and `connect` returns when all others are there.
        self.0[rail][peer].as_ref().unwrap_or_else(|| unreachable!("rank {peer} is connected on rail {rail}"))
    }

    /// What TCP noticed, by rail.
    pub fn losses(&self) -> Result<Vec<Loss>> {
        self.0
            .iter()
            .map(|peers| {
                peers.iter().flatten().try_fold(Loss::default(), |sum, stream| {
                    let loss = noticed(stream)?;
                    Ok(Loss {
                        sent_again: sum.sent_again + loss.sent_again,
                        out_of_sequence: sum.out_of_sequence + loss.out_of_sequence,
                    })
                })
            })
            .collect()
    }
}

/// Connects from one address to another, as soon as the other rank listens.
fn dial(from: Ipv4Addr, to: Ipv4Addr) -> Result<TcpStream> {
    let end = Instant::now() + PATIENCE;
    loop {
        match connect_from(from, to) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > end => {
                return Err(error).with_context(|| format!("connect from {from} to {to}:{PORT}"));
            }
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn connect_from(from: Ipv4Addr, to: Ipv4Addr) -> Result<TcpStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
    let fd: OwnedFd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0)))?;
    connect(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(to, PORT)))?;
    Ok(TcpStream::from(fd))
}

fn prepared(stream: TcpStream) -> Result<TcpStream> {
    stream.set_nodelay(true)?;
    setsockopt(&stream, sockopt::Ipv4Tos, &TRAFFIC_CLASS)?;
    Ok(stream)
}

/// Reads `struct tcp_info` (include/uapi/linux/tcp.h): `tcpi_total_retrans`, less `tcpi_dsack_dups` which the peer had got all
/// the same, and `tcpi_rcv_ooopack` (Linux 5.4).
fn noticed(stream: &TcpStream) -> Result<Loss> {
    const SENT_AGAIN: usize = 100;
    const NEEDLESSLY: usize = 216;
    const OUT_OF_SEQUENCE: usize = 224;
    let mut info = [0_u8; 256];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the buffer is as long as it is said to be.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    nix::errno::Errno::result(done).context("ask TCP what it noticed")?;
    let word = |at: usize| u64::from(u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]));
    Ok(Loss { sent_again: word(SENT_AGAIN).saturating_sub(word(NEEDLESSLY)), out_of_sequence: word(OUT_OF_SEQUENCE) })
}
