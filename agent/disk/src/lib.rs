//! How long disks take for a request: reads of data loaders, writes of checkpoints.
//!
//! In: the tracepoints `block:block_rq_issue` and `block:block_rq_complete`, counted in the kernel (`agent-ebpf/disk`), and
//! which processes hold a GPU. Out: a [`DiskLatencySource`] for the sampler, with the signals [`SIGNALS`] when a disk becomes
//! slower than it used to be, and [`RULES`]. Never: an event per request, a file's name, a byte of data, a pinned object.

mod baseline;
mod histogram;
mod kernel;
mod source;

pub use baseline::{Baseline, Change, Window};
pub use histogram::Histogram;
pub use kernel::{Books, DiskKernel, disk_name};
pub use source::{DiskLatencySource, GpuProcesses, RULES, SIGNALS};
