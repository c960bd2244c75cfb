//! How long disks take for a request: reads of data loaders, writes of checkpoints.
//!
//! In: the tracepoints `block:block_rq_issue` and `block:block_rq_complete`, counted in the kernel (`agent-ebpf/disk`), and
//! which processes hold a GPU. Out: a [`DiskLatencySource`] for the sampler, with the signals [`SIGNALS`] when a disk becomes
//! slower than it used to be, and [`RULES`]. Where timing all requests would cost more than 0.2 % of a core, they are timed in
//! slices, and those that are not are counted (`budget`). Never: an event per request, a file's name, a byte of data, a pinned object.

mod baseline;
mod budget;
mod histogram;
mod kernel;
mod own;
mod source;

pub use baseline::{Baseline, Change, Window};
pub use histogram::Histogram;
pub use kernel::{Books, DiskKernel, disk_name};
pub use source::{DiskLatencySource, GpuProcesses, RULES, SIGNALS};
