//! Keys, values and configuration of the maps of disk requests.
//!
//! In: written by the kernel half `railwatch-disk`. Out: read by the agent. Never: a sector, a file, a byte of data,
//! implicit padding, an offset that is not the running kernel's.

use crate::maps::Plain;

/// Bytes of a disk's name (`DISK_NAME_LEN`, include/linux/blkdev.h), zeros behind it.
pub const NAME_BYTES: usize = 32;

/// Values of [`DiskKey::operation`], told apart as the kernel's own statistics do (`op_stat_group`, block/blk.h, and the
/// flush requests beside it).
pub const READ: u32 = 0;
/// Everything that changes the disk and is no discard or flush.
pub const WRITE: u32 = 1;
/// `REQ_OP_FLUSH`: the request that the block layer makes of all flushes that wait.
pub const FLUSH: u32 = 2;
/// `REQ_OP_DISCARD`.
pub const DISCARD: u32 = 3;

/// Values of [`DiskKey::issuer`]: whose thread handed the request to the driver. A GPU process or a child of one.
pub const GPU: u32 = 0;
/// Another process.
pub const OTHER: u32 = 1;
/// A kernel thread: writeback, a scheduler's queue run later. Who made the request is not known then.
pub const KERNEL: u32 = 2;

/// Kinds of request that are told apart: disk, operation and issuer.
pub const KINDS_MAX: u32 = 512;
/// Requests in flight that are timed. Preallocated: no allocation happens where a request is issued.
pub const STARTED_MAX: u32 = 16_384;
/// GPU processes that are known to the kernel half.
pub const GPU_PROCESSES_MAX: u32 = 4_096;

/// Octaves that are divided by four: 1 µs to 17 s.
const OCTAVES: usize = 24;
/// Binary logarithm of the first of them, nanoseconds.
const FIRST_OCTAVE: u32 = 10;
/// Buckets of a histogram: below 1 µs, a quarter of an octave each (at most 12 % beside the truth), above 17 s.
pub const BUCKETS: usize = 2 + OCTAVES * 4;

/// The bucket of a time.
#[inline(always)]
#[must_use]
pub fn bucket(time_ns: u64) -> usize {
    if time_ns < 1 << FIRST_OCTAVE {
        return 0;
    }
    let octave = 63 - time_ns.leading_zeros();
    let quarter = (time_ns >> (octave - 2)) as u32 & 3;
    let index = 1 + (octave - FIRST_OCTAVE) * 4 + quarter;
    if index as usize >= BUCKETS { BUCKETS - 1 } else { index as usize }
}

/// The least time that belongs into a bucket, nanoseconds; of the bucket behind the last, twice that of the last.
#[must_use]
pub fn bucket_from_ns(bucket: usize) -> u64 {
    let Some(index) = bucket.checked_sub(1) else { return 0 };
    let (octave, quarter) = (index / 4, index as u64 % 4);
    (4 + quarter) << (FIRST_OCTAVE as usize + octave - 2)
}

/// What is counted together.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskKey {
    /// The disk's name, zeros behind it.
    pub name: [u8; NAME_BYTES],
    /// [`READ`] to [`DISCARD`].
    pub operation: u32,
    /// [`GPU`] to [`KERNEL`].
    pub issuer: u32,
}

/// Value of `REQUESTS`, one copy per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requests {
    /// Handed to the driver, each once.
    pub issued: u64,
    /// Of those: ended.
    pub completed: u64,
    /// Of the ended: with an error that is not "not supported" or "try again".
    pub errors: u64,
    /// Sum of their times from issue to end, nanoseconds.
    pub time_ns: u64,
    /// Of the ended, by time; each wraps.
    pub buckets: [u32; BUCKETS],
}

impl Default for Requests {
    fn default() -> Self {
        Self { issued: 0, completed: 0, errors: 0, time_ns: 0, buckets: [0; BUCKETS] }
    }
}

/// Value of `STARTED`: a request in flight, by its address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Started {
    /// Where it counts.
    pub key: DiskKey,
    /// CLOCK_MONOTONIC at the last issue, nanoseconds.
    pub at_ns: u64,
}

/// Value of `BOOKS` (one entry, one copy per CPU). `seen` = the issued of `REQUESTS` + `reissued` + `started_full` +
/// `kinds_full`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskBooks {
    /// Requests of the four operations that were handed to a driver.
    pub seen: u64,
    /// Of those: handed over again, after a driver gave them back. Timed from the last time on.
    pub reissued: u64,
    /// Of those: not timed, because too many were in flight.
    pub started_full: u64,
    /// Of those: not counted by disk, because `REQUESTS` was full.
    pub kinds_full: u64,
    /// Ends without a beginning: in flight when the programs were attached, or the end of a sequence with a flush.
    pub unmatched: u64,
}

/// What user space tells the kernel half once, before it runs (a read-only global). Offsets are in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskConfig {
    /// `request.q`.
    pub request_queue: u32,
    /// `request.cmd_flags`.
    pub request_flags: u32,
    /// `request.__data_len`.
    pub request_length: u32,
    /// `request_queue.disk`.
    pub queue_disk: u32,
    /// `gendisk.disk_name`.
    pub disk_name: u32,
    /// 1 where issuers can be told apart: `task_flags` to `task_tgid`.
    pub has_issuer: u32,
    /// `task_struct.flags`.
    pub task_flags: u32,
    /// `task_struct.real_parent`.
    pub task_parent: u32,
    /// `task_struct.tgid`.
    pub task_tgid: u32,
}

impl Plain for DiskKey {}
impl Plain for Requests {}
impl Plain for Started {}
impl Plain for DiskBooks {}
impl Plain for DiskConfig {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_no_padding_and_copies_per_cpu_are_whole_words() {
        assert_eq!(size_of::<DiskKey>(), NAME_BYTES + 8);
        assert_eq!(size_of::<Requests>(), 4 * 8 + BUCKETS * 4);
        assert_eq!(size_of::<Requests>() % 8, 0);
        assert_eq!(size_of::<Started>(), size_of::<DiskKey>() + 8);
    }

    #[test]
    fn a_time_lies_in_the_bucket_that_begins_at_or_below_it() {
        for (time_ns, expected) in
            [(0, 0), (1_023, 0), (1_024, 1), (1_279, 1), (1_280, 2), (2_047, 4), (2_048, 5), (u64::MAX, BUCKETS - 1)]
        {
            assert_eq!(bucket(time_ns), expected, "{time_ns}");
        }
        for index in 0..BUCKETS {
            let (from, to) = (bucket_from_ns(index), bucket_from_ns(index + 1));
            assert_eq!((bucket(from), bucket(to - 1)), (index, index), "{from} to {to}");
            assert!(index == 0 || to as f64 / from as f64 <= 1.25, "{from} to {to}");
        }
        assert_eq!(bucket_from_ns(BUCKETS - 1), 1 << 34);
    }
}
