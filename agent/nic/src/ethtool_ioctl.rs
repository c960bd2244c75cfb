//! Private statistics of a network driver: `ethtool -S`.
//!
//! In: an interface's name. Out: its driver, the names of its statistics, their values. Netlink tells the names but not
//! the values, so this is the ioctl SIOCETHTOOL (include/uapi/linux/ethtool.h). The kernel answers under RTNL, and
//! writes as many values as the driver has *now*, whatever the caller made room for (net/ethtool/ioctl.c,
//! `ethtool_get_stats`): the answer goes into a buffer that ends at a page nobody may write, so that a driver that grew
//! its statistics meanwhile gives EFAULT and never a write out of bounds.

use crate::netlink::{malformed, number, text};
use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const GDRVINFO: u32 = 0x3;
const GSTRINGS: u32 = 0x1b;
const GSTATS: u32 = 0x1d;
const ETH_SS_STATS: u32 = 1;
const NAME_BYTES: usize = 32;
/// `struct ethtool_drvinfo`: its size, where the driver's name is, and where the number of statistics is.
const DRVINFO_BYTES: usize = 196;
const DRVINFO_DRIVER: usize = 4;
const DRVINFO_STATISTICS: usize = 180;
/// Statistics of one interface beyond which it is not read (mlx5 with 128 queues has about 8,000).
const STATISTICS_MAX: usize = 32_768;

/// The first fields of `struct ethtool_drvinfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) driver: String,
    pub(crate) driver_version: String,
    /// Empty where the driver does not say.
    pub(crate) firmware_version: String,
}

/// A socket for the ioctl, with its buffer.
pub(crate) struct EthtoolIoctl {
    socket: OwnedFd,
    buffer: Guarded,
}

impl EthtoolIoctl {
    pub(crate) fn open() -> io::Result<Self> {
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        Ok(Self { socket, buffer: Guarded::new(12 + STATISTICS_MAX * NAME_BYTES)? })
    }

    /// What `ethtool -i` shows first.
    pub(crate) fn identity(&mut self, interface: &str) -> io::Result<Identity> {
        let info = self.ask(interface, &[GDRVINFO], DRVINFO_BYTES)?;
        let field = |place: usize| text(&info[place * NAME_BYTES + 4..][..NAME_BYTES]).trim().to_owned();
        Ok(Identity { driver: field(0), driver_version: field(1), firmware_version: field(2) })
    }

    /// The name that the interface's driver gives itself.
    pub(crate) fn driver(&mut self, interface: &str) -> io::Result<String> {
        let info = self.ask(interface, &[GDRVINFO], DRVINFO_BYTES)?;
        Ok(text(&info[DRVINFO_DRIVER..DRVINFO_DRIVER + NAME_BYTES]).to_owned())
    }

    /// The names of its statistics, in the order of their values.
    pub(crate) fn names(&mut self, interface: &str) -> io::Result<Vec<String>> {
        let info = self.ask(interface, &[GDRVINFO], DRVINFO_BYTES)?;
        let count = number(info.get(DRVINFO_STATISTICS..)).map_or(0, |count| count as usize);
        if count > STATISTICS_MAX {
            return Err(Errno::EMSGSIZE.into());
        }
        let request = [GSTRINGS, ETH_SS_STATS, u32::try_from(count).unwrap_or(u32::MAX)];
        let answer = self.ask(interface, &request, 12 + count * NAME_BYTES)?;
        Ok(answer[12..].chunks_exact(NAME_BYTES).map(|name| text(name).to_owned()).collect())
    }

    /// Its statistics, of which there must be `count`; as bytes, eight each in host order.
    pub(crate) fn values(&mut self, interface: &str, count: usize) -> io::Result<&[u8]> {
        let request = [GSTATS, u32::try_from(count).unwrap_or(u32::MAX)];
        let answer = self.ask(interface, &request, 8 + count * 8)?;
        if number(answer.get(4..)).is_none_or(|now| now as usize != count) {
            return Err(malformed("another number of statistics than their names"));
        }
        Ok(&answer[8..])
    }

    fn ask(&mut self, interface: &str, request: &[u32], answer_bytes: usize) -> io::Result<&[u8]> {
        let start = self.buffer.ending_with(answer_bytes.max(request.len() * 4))?;
        // SAFETY: an ifreq is plain data; all zeroes is one.
        let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
        if interface.len() >= ifreq.ifr_name.len() {
            return Err(Errno::ENODEV.into());
        }
        for (to, from) in ifreq.ifr_name.iter_mut().zip(interface.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        ifreq.ifr_ifru.ifru_data = start.cast();
        // SAFETY: `start` has at least `answer_bytes` and the request's bytes behind it, all within the mapping and
        // zeroed by the kernel or by an earlier answer; `&mut self` makes the access exclusive.
        unsafe {
            std::ptr::write_bytes(start.cast::<u8>(), 0, answer_bytes);
            std::ptr::copy_nonoverlapping(request.as_ptr().cast::<u8>(), start.cast::<u8>(), request.len() * 4);
        }
        // SAFETY: the ioctl reads the ifreq, which lives until it returns, and writes behind `start`: what does not fit
        // before the end of the buffer meets the guard page and is refused by the kernel with EFAULT.
        Errno::result(unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL, &raw mut ifreq) })?;
        // SAFETY: these bytes are within the mapping and were written above; nobody writes them while they are borrowed.
        Ok(unsafe { std::slice::from_raw_parts(start.cast::<u8>(), answer_bytes) })
    }
}

/// Memory that ends at a page which nobody may touch. Pages never used cost no memory.
struct Guarded {
    start: NonNull<c_void>,
    /// Up to the guard page.
    bytes: usize,
}

const PAGE: usize = 64 * 1024; // the largest page of the architectures supported

impl Guarded {
    fn new(bytes: usize) -> io::Result<Self> {
        let bytes = bytes.next_multiple_of(PAGE);
        let whole = NonZeroUsize::new(bytes + PAGE).ok_or(Errno::EINVAL)?;
        // SAFETY: a new private mapping, at an address that the kernel chooses.
        let start = unsafe {
            mmap_anonymous(None, whole, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE)
        }?;
        let guarded = Self { start, bytes };
        // SAFETY: the last page of the mapping made above, which nothing refers to.
        unsafe { mprotect(start.byte_add(bytes), PAGE, ProtFlags::PROT_NONE) }?;
        Ok(guarded)
    }

    /// Where an answer of so many bytes begins, so that it ends at the guard (short of it by less than eight bytes, as
    /// values must be aligned).
    fn ending_with(&self, bytes: usize) -> io::Result<*mut c_void> {
        let offset = self.bytes.checked_sub(bytes.next_multiple_of(8)).ok_or(Errno::EMSGSIZE)?;
        // SAFETY: the offset lies within the mapping.
        Ok(unsafe { self.start.byte_add(offset) }.as_ptr())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, made in `new`, to which no borrow is left. Failing would leak it, no more.
        let _ = unsafe { munmap(self.start, self.bytes + PAGE) };
    }
}

// SAFETY: the mapping belongs to this value alone, and access to it needs `&mut`.
unsafe impl Send for Guarded {}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_is_an_error_and_so_is_a_name_too_long() {
        let mut ioctl = EthtoolIoctl::open().unwrap();
        for name in ["rwnosuch0", "an-interface-name-too-long", ""] {
            assert_eq!(ioctl.driver(name).unwrap_err().raw_os_error(), Some(libc::ENODEV), "{name:?}");
        }
    }

    #[test]
    fn an_answer_ends_at_the_guard_whatever_its_length() {
        let guarded = Guarded::new(1000).unwrap();
        for bytes in [1, 8, 196, 65_536] {
            let start = guarded.ending_with(bytes).unwrap();
            let end = guarded.start.as_ptr() as usize + guarded.bytes;
            let room = end - start as usize;
            assert!((bytes..bytes + 8).contains(&room), "{bytes} bytes have {room}");
        }
        assert!(guarded.ending_with(65_537).is_err());
    }
}
