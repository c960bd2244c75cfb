//! The process that reads the kernel's log for the agent.
//!
//! In: `/dev/kmsg`, from now on. Out: datagrams to the agent's socket, and a sign of life every ten seconds. While nobody
//! listens it does not read on: the kernel's own buffer keeps what comes, and what it must overwrite shows as a gap in the
//! record numbers, which is counted. It holds one record at a time, listens to nobody, and keeps nothing on disk.
//! It needs to open `/dev/kmsg` (CAP_SYSLOG where `kernel.dmesg_restrict` is 1) and to reach the socket.

use super::follow::Follower;
use super::record::Message;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use railwatch_sampling::clock::monotonic_ns;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time between two signs of life.
pub const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// Longest record of the kernel (PRINTK_MESSAGE_MAX), with room.
const READ_BYTES: usize = 16 * 1024;
/// Wait before a datagram is offered again.
const OFFER_AGAIN: Duration = Duration::from_millis(50);

/// What the helper is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The kernel's log.
    pub log: PathBuf,
    /// The agent's socket.
    pub socket: PathBuf,
}

/// Reads until the log ends, which `/dev/kmsg` never does.
///
/// # Errors
/// The log cannot be opened or read; the text names it and what would help.
pub fn run(options: &Options) -> io::Result<()> {
    let named = |error: io::Error| {
        let hint = match error.kind() {
            ErrorKind::PermissionDenied => ": it needs CAP_SYSLOG, and the device in its DeviceAllow=",
            _ => "",
        };
        io::Error::new(error.kind(), format!("{}: {error}{hint}", options.log.display()))
    };
    let mut log = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(&options.log)
        .map_err(named)?;
    // A pipe, as a test gives it, has no end to go to; of the kernel's log only what comes is news.
    match log.seek(SeekFrom::End(0)) {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::ESPIPE) => {}
        Err(error) => return Err(named(error)),
    }
    let out = UnixDatagram::unbound()?;
    let mut follower = Follower::default();
    let mut buffer = vec![0; READ_BYTES];
    send(&out, &options.socket, &follower.alive());
    loop {
        match log.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                for message in follower.take(&buffer[..length], monotonic_ns()) {
                    send(&out, &options.socket, &message);
                }
            }
            // EPIPE: what was to be read next has been overwritten; the next read goes on behind it.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::Interrupted) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if !wait(&log)? {
                    send(&out, &options.socket, &follower.alive());
                }
            }
            Err(error) => return Err(named(error)),
        }
    }
}

/// Waits for a record; `false` when it is time for a sign of life.
fn wait(log: &File) -> io::Result<bool> {
    let mut fds = [PollFd::new(log.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(ALIVE_EVERY).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(nix::errno::Errno::EINTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Offers a message until it is taken. A message that can never be sent is left out: it is too long, which the bounds on
/// captures exclude.
fn send(out: &UnixDatagram, socket: &Path, message: &Message) {
    let Ok(text) = serde_json::to_vec(message) else { return };
    loop {
        match out.send_to(&text, socket) {
            Ok(_) => return,
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => return,
            // Nobody listens yet, or no longer, or has no room.
            Err(_) => std::thread::sleep(OFFER_AGAIN),
        }
    }
}
