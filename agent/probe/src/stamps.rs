//! The kernel's own times of what a socket sends and receives (SO_TIMESTAMPING, Documentation/networking/timestamping.rst).
//!
//! In: a socket that was asked to stamp. Out: for what was sent the instant at which the driver took it, from the error queue; for what
//! was received, the instant at which the kernel had it. All are software stamps, CLOCK_REALTIME. Never: a wait.

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, TimestampingFlag, Timestamps, recvmsg};
use nix::sys::time::TimeSpec;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};

/// SO_EE_ORIGIN_TIMESTAMPING of linux/errqueue.h: the error is a stamp.
const ORIGIN_TIMESTAMPING: u8 = 4;

/// When the driver took what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Of a datagram: what [`crate::StampedSocket::send_to`] returned for it. Of a stream: the place of its last byte, modulo 2^32.
    pub id: u32,
    /// Unix nanoseconds.
    pub stamp_unix_ns: u64,
}

/// What is asked for, but for numbers (`SOF_TIMESTAMPING_OPT_ID`).
pub(crate) fn stamping() -> TimestampingFlag {
    TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_TX_SOFTWARE
        | TimestampingFlag::SOF_TIMESTAMPING_OPT_TSONLY
}

/// Hands over the stamps that have come, `most` of them at most.
///
/// # Errors
/// What the kernel said; stamps so far were handed over.
pub(crate) fn take(fd: &OwnedFd, control: &mut [u8], most: usize, mut each: impl FnMut(Sent)) -> io::Result<()> {
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    for _ in 0..most {
        let mut none = [0; 0];
        let mut slices = [IoSliceMut::new(&mut none)];
        let received = match recvmsg::<SockaddrStorage>(fd.as_raw_fd(), &mut slices, Some(control), flags) {
            Ok(received) => received,
            Err(Errno::EAGAIN) => return Ok(()),
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        let (mut stamp_unix_ns, mut id) = (None, None);
        for message in received.cmsgs()? {
            match message {
                ControlMessageOwned::ScmTimestampsns(stamps) => stamp_unix_ns = stamp(&stamps),
                ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _)
                    if error.ee_origin == ORIGIN_TIMESTAMPING =>
                {
                    id = Some(error.ee_data);
                }
                _ => {}
            }
        }
        if let (Some(id), Some(stamp_unix_ns)) = (id, stamp_unix_ns) {
            each(Sent { id, stamp_unix_ns });
        }
    }
    Ok(())
}

/// A software stamp, Unix nanoseconds; none where the kernel gave none.
pub(crate) fn stamp(stamps: &Timestamps) -> Option<u64> {
    Some(nanoseconds(stamps.system)).filter(|ns| *ns > 0)
}

fn nanoseconds(time: TimeSpec) -> u64 {
    let whole = u64::try_from(time.tv_sec()).unwrap_or(0);
    whole.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec()).unwrap_or(0))
}
