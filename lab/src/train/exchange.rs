//! Moves bytes over several connections at once, in both directions, without one waiting for the other.
//!
//! In: what is to be sent and received on which connection. Out: done, when all of it is. Never: a thread, a deadlock: whoever
//! can make progress does.

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};
use std::{
    net::TcpStream,
    os::fd::{AsFd, AsRawFd},
};

/// Bytes to move one way over one connection.
pub struct Transfer<'a> {
    stream: &'a TcpStream,
    sends: bool,
    left: usize,
}

impl<'a> Transfer<'a> {
    /// So many bytes away.
    #[must_use]
    pub fn send(stream: &'a TcpStream, bytes: usize) -> Self {
        Self { stream, sends: true, left: bytes }
    }

    /// So many bytes here.
    #[must_use]
    pub fn receive(stream: &'a TcpStream, bytes: usize) -> Self {
        Self { stream, sends: false, left: bytes }
    }

    /// Moves what can be moved now.
    fn step(&mut self, buffer: &mut [u8]) -> Result<()> {
        let length = self.left.min(buffer.len());
        let fd = self.stream.as_raw_fd();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let moved =
            if self.sends { send(fd, &buffer[..length], flags) } else { recv(fd, &mut buffer[..length], flags) };
        match moved {
            Ok(0) => bail!("a peer closed its connection"),
            Ok(bytes) => self.left -= bytes,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error).context("a peer's connection failed"),
        }
        Ok(())
    }
}

/// Moves all of it. `buffer` is what is sent and where what is received goes.
///
/// # Errors
/// A peer that is gone.
pub fn exchange(transfers: &mut Vec<Transfer<'_>>, buffer: &mut [u8]) -> Result<()> {
    loop {
        for transfer in transfers.iter_mut() {
            transfer.step(buffer)?;
        }
        transfers.retain(|transfer| transfer.left > 0);
        if transfers.is_empty() {
            return Ok(());
        }
        let events = |sends| if sends { PollFlags::POLLOUT } else { PollFlags::POLLIN };
        let mut waits: Vec<_> =
            transfers.iter().map(|transfer| PollFd::new(transfer.stream.as_fd(), events(transfer.sends))).collect();
        match poll(&mut waits, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("wait for a peer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::TcpListener, thread};

    #[test]
    fn both_ends_may_send_more_than_the_sockets_hold_before_either_receives() -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let a = TcpStream::connect(listener.local_addr()?)?;
        let b = listener.accept()?.0;
        let bytes = 32 << 20;
        let both = |stream: &TcpStream| {
            let mut transfers = vec![Transfer::send(stream, bytes), Transfer::receive(stream, bytes)];
            exchange(&mut transfers, &mut vec![0; 1 << 16])
        };
        thread::scope(|scope| {
            let other = scope.spawn(|| both(&b));
            both(&a)?;
            other.join().expect("no panic")
        })
    }

    #[test]
    fn a_peer_that_is_gone_is_told() -> Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let a = TcpStream::connect(listener.local_addr()?)?;
        drop(listener.accept()?.0);
        let error = exchange(&mut vec![Transfer::receive(&a, 1)], &mut [0; 16]).expect_err("nobody sends");
        assert!(error.to_string().contains("closed"), "{error:#}");
        Ok(())
    }
}
