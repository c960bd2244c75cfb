//! What runs where on one host: how GPUs, NICs and disks sit on its buses, which job each GPU process belongs to, how those
//! processes end, whether they run, and what their accounts say of leaks and of collectives that stand still.
//!
//! Flows in: sysfs ([`devices`]), /proc of processes that use a GPU ([`task`], [`sched`]), the ends that the kernel half tells
//! ([`end`]), and balances, sequence numbers and times of threads ([`leak`], [`stall`], [`stopped`], [`starved`]). Flows out: values for the state that a host
//! sends, and what a detector found. Never: a thread, a clock, a command line, or a variable of an environment that is not
//! in [`environment::KEYS`].
#![forbid(unsafe_code)]

pub mod devices;
pub mod end;
pub mod environment;
pub mod leak;
pub mod path;
pub mod sched;
pub mod slurm;
pub mod stall;
pub mod starved;
pub mod stopped;
pub mod task;
