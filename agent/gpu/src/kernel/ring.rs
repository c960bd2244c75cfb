//! Reads the event ring (`BPF_MAP_TYPE_RINGBUF`; layout: kernel Documentation/bpf/ringbuf.rst).
//!
//! In: the map's descriptor. Out: whole records, in order, each with its place. Never: a wait (the descriptor can be
//! polled), or room given back to the kernel before [`Custody`] says so.

use std::io::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use railwatch_abi::event::RawEvent;

use super::custody::Custody;

const BUSY: u32 = 1 << 31;
const DISCARD: u32 = 1 << 30;
const HEADER: u64 = 8;

/// Memory mapped by this process alone, until it is dropped.
pub(super) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to this value alone, and what lies in it is reached through atomics, or is a record that
// the kernel committed and writes no more.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn of(fd: BorrowedFd<'_>, length: usize, protection: i32, offset: usize) -> Result<Self> {
        // SAFETY: a fresh mapping of a live descriptor, at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                protection,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        Self::new(start, length)
    }

    /// A page of zeros.
    #[cfg(test)]
    pub(super) fn anonymous() -> Result<Self> {
        const LENGTH: usize = 4096;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a fresh mapping of no descriptor.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), LENGTH, protection, flags, -1, 0) };
        Self::new(start, LENGTH)
    }

    fn new(start: *mut libc::c_void, length: usize) -> Result<Self> {
        if start == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| Error::other("the event ring was mapped at address 0"))?;
        Ok(Self { start, length })
    }

    /// The address that many bytes in.
    pub(super) fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.length, "byte {offset} of a mapping of {}", self.length);
        // SAFETY: inside the mapping.
        unsafe { self.start.add(offset) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped with this length, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// The mapped ring.
pub struct Ring {
    page: usize,
    /// Producer position, one page; then the data, twice in a row, so that no record wraps.
    producer: Mapping,
    size: usize,
    custody: Arc<Custody>,
    /// The place of the next record that is to be handed over.
    read: u64,
}

/// What a look at the ring met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Records handed over.
    pub taken: u64,
    /// The next one is being written: its end may wake nobody.
    pub busy: bool,
}

impl Ring {
    /// Maps the ring of `size` bytes. Reading begins where the agent before released it.
    pub fn open(fd: BorrowedFd<'_>, size: usize) -> Result<Self> {
        // SAFETY: no preconditions.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).map_err(Error::other)?;
        let custody = Custody::new(Mapping::of(fd, page, libc::PROT_READ | libc::PROT_WRITE, 0)?);
        let producer = Mapping::of(fd, page + 2 * size, libc::PROT_READ, page)?;
        let read = custody.released();
        Ok(Self { page, producer, size, custody: Arc::new(custody), read })
    }

    /// What is taken and not settled.
    pub fn custody(&self) -> &Arc<Custody> {
        &self.custody
    }

    fn produced(&self) -> u64 {
        // SAFETY: the first word of a live page-aligned mapping.
        unsafe { self.producer.at(0).cast::<AtomicU64>().as_ref() }.load(Ordering::Acquire)
    }

    /// The record at `position`: its length, and the record if it is one of ours. `None` where it is being written.
    fn at(&self, position: u64) -> Option<(u64, Option<RawEvent>)> {
        let offset = self.page + (position as usize & (self.size - 1));
        // SAFETY: inside the mapping; headers are 8-aligned.
        let header = unsafe { self.producer.at(offset).cast::<AtomicU32>().as_ref() }.load(Ordering::Acquire);
        if header & BUSY != 0 {
            return None;
        }
        let length = u64::from(header & !DISCARD);
        let event = (header & DISCARD == 0 && length as usize == size_of::<RawEvent>()).then(|| {
            // SAFETY: a committed record of this size lies in the doubled data area, 8-aligned, and any bits make one.
            unsafe { self.producer.at(offset + HEADER as usize).cast::<RawEvent>().read() }
        });
        Some(((length + HEADER).next_multiple_of(8), event))
    }

    /// Hands over every whole record that was not handed over yet, with its place. Each is in custody until it is settled.
    pub fn drain(&mut self, mut take: impl FnMut(u64, RawEvent)) -> Drained {
        let mut taken = 0;
        while self.read < self.produced() {
            let Some((length, event)) = self.at(self.read) else { return Drained { taken, busy: true } };
            let place = self.read;
            self.read += length;
            match event {
                Some(event) => {
                    self.custody.take(place, self.read);
                    taken += 1;
                    take(place, event);
                }
                None => self.custody.pass(self.read),
            }
        }
        Drained { taken, busy: false }
    }

    /// Whole records not yet handed over.
    pub fn unread(&self) -> u64 {
        let mut position = self.read;
        let mut unread = 0;
        while position < self.produced() {
            let Some((length, event)) = self.at(position) else { break };
            unread += u64::from(event.is_some());
            position += length;
        }
        unread
    }
}
