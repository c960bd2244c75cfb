//! Hears of every executable mapping, fork, exec and exit on the host as it happens.
//!
//! Opens one dummy software perf event per CPU (`PERF_COUNT_SW_DUMMY`: it counts nothing and costs nothing by itself),
//! whose ring the kernel fills with side-band records. In: nothing but the kernel's rings. Out: [`Record`]s in time
//! order, and one descriptor to poll. It needs CAP_PERFMON (or `kernel.perf_event_paranoid` below 1).
//!
//! All `unsafe` of discovery is here: the system call, the shared mapping and the copy out of it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use super::records::{self, Record};

/// Pages of all rings together, beside a control page each: 4 MiB, so that a host of many CPUs pays no more.
const PAGES: usize = 1024;
/// Pages per ring at least and at most; 16 (64 KiB) hold about 500 mappings, or 1,000 forks and exits.
const RING_PAGES: (usize, usize) = (4, 16);

/// `struct perf_event_attr` up to `sig_data` (`PERF_ATTR_SIZE_VER7`, 128 bytes).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_watermark: u32,
    breakpoint_kind: u32,
    config1: u64,
    config2: u64,
    branch_sample_type: u64,
    sample_regs_user: u64,
    sample_stack_user: u32,
    clock: i32,
    sample_regs_interrupt: u64,
    aux_watermark: u32,
    sample_max_stack: u16,
    reserved: u16,
    aux_sample_size: u32,
    reserved_too: u32,
    sig_data: u64,
}

const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_COUNT_SW_DUMMY: u64 = 9;
const PERF_SAMPLE_TIME: u64 = 1 << 2;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
/// Bits of `perf_event_attr`'s flag word: mmap (executable mappings), comm, task, watermark, sample_id_all, mmap2,
/// comm_exec, use_clockid.
const FLAGS: u64 = 1 << 8 | 1 << 9 | 1 << 13 | 1 << 14 | 1 << 18 | 1 << 23 | 1 << 24 | 1 << 25;
/// Offsets in the control page (`struct perf_event_mmap_page`).
const DATA_HEAD: usize = 1024;
const DATA_TAIL: usize = 1032;

/// The rings of all CPUs.
#[derive(Debug)]
pub struct Rings {
    rings: Vec<Ring>,
    poll: OwnedFd,
}

impl Rings {
    /// Opens a ring on every CPU that is online.
    pub fn open() -> io::Result<Self> {
        // SAFETY: epoll_create1 takes no pointers; the descriptor it gives is owned by nobody else.
        let poll = unsafe {
            let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        let mut rings = Self { rings: Vec::new(), poll };
        rings.follow_cpus()?;
        if rings.rings.is_empty() {
            return Err(io::Error::other("no CPU is listed in /sys/devices/system/cpu/online"));
        }
        Ok(rings)
    }

    /// Opens rings for CPUs that came online since, and drops those of CPUs that went. Gives whether anything changed.
    pub fn follow_cpus(&mut self) -> io::Result<bool> {
        let online = online_cpus(&std::fs::read_to_string("/sys/devices/system/cpu/online")?);
        let pages = PAGES.checked_div(online.len()).unwrap_or(PAGES).clamp(RING_PAGES.0, RING_PAGES.1);
        // The kernel wants a power of two.
        let pages = 1 << pages.ilog2();
        let before = self.rings.len();
        self.rings.retain(|ring| online.contains(&ring.cpu));
        let mut changed = before != self.rings.len();
        for cpu in online {
            if self.rings.iter().any(|ring| ring.cpu == cpu) {
                continue;
            }
            let ring = match Ring::open(cpu, pages) {
                Ok(ring) => ring,
                // It went offline between the reading of the list and now.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => continue,
                Err(error) => return Err(error),
            };
            let mut interest = libc::epoll_event { events: libc::EPOLLIN as u32, u64: u64::from(cpu) };
            // SAFETY: both descriptors are open, and `interest` outlives the call.
            let status = unsafe {
                libc::epoll_ctl(self.poll.as_raw_fd(), libc::EPOLL_CTL_ADD, ring.event.as_raw_fd(), &raw mut interest)
            };
            if status != 0 {
                return Err(io::Error::last_os_error());
            }
            self.rings.push(ring);
            changed = true;
        }
        Ok(changed)
    }

    /// Takes everything in the rings, ordered by time across CPUs where a time is known.
    pub fn drain(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        for ring in &mut self.rings {
            ring.drain(&mut records);
        }
        // Stable: records of one time keep the order of their ring.
        records.sort_by_key(|(at_ns, _)| *at_ns);
        records.into_iter().map(|(_, record)| record).collect()
    }
}

impl AsFd for Rings {
    /// Readable when any ring holds a record.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poll.as_fd()
    }
}

#[derive(Debug)]
struct Ring {
    cpu: u32,
    mapping: NonNull<u8>,
    mapping_bytes: usize,
    page_bytes: usize,
    // After `mapping`, which is unmapped in `drop` before the descriptor closes.
    event: OwnedFd,
}

// SAFETY: the mapping belongs to this value alone, and may be read and unmapped from any thread.
unsafe impl Send for Ring {}

impl Ring {
    fn open(cpu: u32, pages: usize) -> io::Result<Self> {
        let attributes = Attributes {
            kind: PERF_TYPE_SOFTWARE,
            size: size_of::<Attributes>() as u32,
            config: PERF_COUNT_SW_DUMMY,
            sample_type: PERF_SAMPLE_TIME,
            flags: FLAGS,
            wakeup_watermark: 1,
            clock: libc::CLOCK_MONOTONIC,
            ..Attributes::default()
        };
        // SAFETY: `attributes` is a whole perf_event_attr of the size it states and outlives the call; on success the
        // kernel gives a new descriptor that nobody else owns.
        let event = unsafe {
            let fd = libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                -1 as libc::pid_t,
                cpu as libc::c_int,
                -1 as libc::c_int,
                PERF_FLAG_FD_CLOEXEC,
            );
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd as libc::c_int)
        };
        // SAFETY: sysconf has no preconditions.
        let page_bytes = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) })
            .map_err(|_| io::Error::other("the page size is unknown"))?;
        let mapping_bytes = (pages + 1) * page_bytes;
        // SAFETY: a new mapping at an address of the kernel's choice, of one control page and 2^n data pages as
        // perf_event_open(2) asks; nothing else in this process knows of it.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapping_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                event.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("the ring was mapped at zero"))?;
        Ok(Self { cpu, mapping, mapping_bytes, page_bytes, event })
    }

    fn control(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: `offset` is that of `data_head` or `data_tail`: aligned u64 fields inside the mapped control page, which
        // kernel and reader share and both access as whole words. The mapping lives as long as `self`.
        unsafe { self.mapping.add(offset).cast::<AtomicU64>().as_ref() }
    }

    fn drain(&mut self, out: &mut Vec<(u64, Record)>) {
        let data_bytes = self.mapping_bytes - self.page_bytes;
        let head = self.control(DATA_HEAD).load(Ordering::Acquire);
        let mut tail = self.control(DATA_TAIL).load(Ordering::Relaxed);
        let mut record = Vec::new();
        let mut last_ns = 0;
        while tail < head {
            let mut header = [0; 8];
            self.copy(tail, &mut header);
            let size = usize::from(u16::from_ne_bytes([header[6], header[7]]));
            if size < header.len() || size > data_bytes {
                // Cannot happen on a sound kernel; go on behind it as if all of it were lost.
                out.push((last_ns, Record::Lost { records: 1 }));
                tail = head;
                break;
            }
            record.resize(size, 0);
            self.copy(tail, &mut record);
            tail += size as u64;
            if let Some(bytes) = record.last_chunk() {
                last_ns = last_ns.max(u64::from_ne_bytes(*bytes));
            }
            if let Some(decoded) = records::decode(&record) {
                out.push((last_ns, decoded));
            }
        }
        self.control(DATA_TAIL).store(tail, Ordering::Release);
    }

    /// Copies from a position of the endless stream that the ring holds the last part of.
    fn copy(&self, position: u64, buffer: &mut [u8]) {
        let data_bytes = self.mapping_bytes - self.page_bytes;
        let start = (position % data_bytes as u64) as usize;
        let first = buffer.len().min(data_bytes - start);
        // SAFETY: the data area begins one page into the mapping and is `data_bytes` long; `start + first` and
        // `buffer.len() - first` both lie within it, because callers ask for at most `data_bytes`. The bytes lie between
        // tail and head, which the kernel does not write until the tail moves.
        unsafe {
            let data = self.mapping.add(self.page_bytes);
            data.add(start).copy_to_nonoverlapping(NonNull::from(&mut buffer[..first]).cast(), first);
            let rest = &mut buffer[first..];
            data.copy_to_nonoverlapping(NonNull::from(&mut *rest).cast(), rest.len());
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `open` with this length, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.mapping.as_ptr().cast(), self.mapping_bytes) };
    }
}

/// Parses a kernel CPU list such as `0-3,8,10-11`.
fn online_cpus(list: &str) -> Vec<u32> {
    let mut cpus = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            cpus.extend(first..=last.min(first.saturating_add(8191)));
        }
    }
    cpus
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_read_as_the_kernel_writes_them() {
        for (list, cpus) in [("0\n", vec![0]), ("0-3,8,10-11\n", vec![0, 1, 2, 3, 8, 10, 11]), ("\n", vec![])] {
            assert_eq!(online_cpus(list), cpus);
        }
    }

    #[test]
    fn attributes_have_the_size_the_kernel_knows() {
        assert_eq!(size_of::<Attributes>(), 128);
    }
}
