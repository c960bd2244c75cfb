//! Reads the event ring (`BPF_MAP_TYPE_RINGBUF`; layout: kernel Documentation/bpf/ringbuf.rst).
//!
//! In: the map's descriptor. Out: whole records, in order. Never: a wait; the descriptor can be polled.

use std::io::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use railwatch_abi::event::RawEvent;

const BUSY: u32 = 1 << 31;
const DISCARD: u32 = 1 << 30;
const HEADER: u64 = 8;

/// The mapped ring.
pub struct Ring {
    page: usize,
    /// Consumer position; the one page written here.
    consumer: NonNull<u8>,
    /// Producer position, one page; then the data, twice in a row, so that no record wraps.
    producer: NonNull<u8>,
    size: usize,
}

// SAFETY: the mappings belong to this value alone, and all access goes through `&mut self` or atomics.
unsafe impl Send for Ring {}

fn map(fd: BorrowedFd<'_>, length: usize, protection: i32, offset: usize) -> Result<NonNull<u8>> {
    // SAFETY: a fresh mapping of a live descriptor, at an address of the kernel's choice.
    let at = unsafe {
        libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, fd.as_raw_fd(), offset as libc::off_t)
    };
    if at == libc::MAP_FAILED {
        return Err(Error::last_os_error());
    }
    NonNull::new(at.cast()).ok_or_else(|| Error::other("the event ring was mapped at address 0"))
}

impl Ring {
    /// Maps the ring of `size` bytes.
    pub fn open(fd: BorrowedFd<'_>, size: usize) -> Result<Self> {
        // SAFETY: no preconditions.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).map_err(Error::other)?;
        let consumer = map(fd, page, libc::PROT_READ | libc::PROT_WRITE, 0)?;
        match map(fd, page + 2 * size, libc::PROT_READ, page) {
            Ok(producer) => Ok(Self { page, consumer, producer, size }),
            Err(error) => {
                // SAFETY: mapped above with this length, and not used any more.
                unsafe { libc::munmap(consumer.as_ptr().cast(), page) };
                Err(error)
            }
        }
    }

    fn consumed(&self) -> &AtomicU64 {
        // SAFETY: the first word of a live page-aligned mapping.
        unsafe { self.consumer.cast::<AtomicU64>().as_ref() }
    }

    fn produced(&self) -> u64 {
        // SAFETY: as above.
        unsafe { self.producer.cast::<AtomicU64>().as_ref() }.load(Ordering::Acquire)
    }

    /// The record at `position`: its length, and the record if it is one of ours. `None` where it is being written.
    fn at(&self, position: u64) -> Option<(u64, Option<RawEvent>)> {
        let offset = self.page + (position as usize & (self.size - 1));
        // SAFETY: inside the mapping; headers are 8-aligned.
        let header = unsafe { self.producer.add(offset).cast::<AtomicU32>().as_ref() }.load(Ordering::Acquire);
        if header & BUSY != 0 {
            return None;
        }
        let length = u64::from(header & !DISCARD);
        let event = (header & DISCARD == 0 && length as usize == size_of::<RawEvent>()).then(|| {
            // SAFETY: a committed record of this size lies in the doubled data area, 8-aligned, and any bits make one.
            unsafe { self.producer.add(offset + HEADER as usize).cast::<RawEvent>().read() }
        });
        Some(((length + HEADER).next_multiple_of(8), event))
    }

    /// Hands over every whole record, and gives their number.
    pub fn drain(&mut self, mut take: impl FnMut(RawEvent)) -> u64 {
        let mut position = self.consumed().load(Ordering::Relaxed);
        let mut taken = 0;
        while position < self.produced() {
            let Some((length, event)) = self.at(position) else { break };
            if let Some(event) = event {
                taken += 1;
                take(event);
            }
            position += length;
            self.consumed().store(position, Ordering::Release);
        }
        taken
    }

    /// Whole records not yet handed over.
    pub fn unread(&self) -> u64 {
        let mut position = self.consumed().load(Ordering::Relaxed);
        let mut unread = 0;
        while position < self.produced() {
            let Some((length, event)) = self.at(position) else { break };
            unread += u64::from(event.is_some());
            position += length;
        }
        unread
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: both were mapped in `open` with these lengths, and nothing borrows from them any more.
        unsafe {
            libc::munmap(self.consumer.as_ptr().cast(), self.page);
            libc::munmap(self.producer.as_ptr().cast(), self.page + 2 * self.size);
        }
    }
}
