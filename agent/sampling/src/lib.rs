//! The sampling core of the agent: sources of readings, the threads that read them, the recorder of 1 s windows, and
//! the rules that turn an edge into a signal at once.
//!
//! A source ([`Source`]) declares series and reads raw values, each between two readings of CLOCK_MONOTONIC. The
//! [`Sampler`] reads every source on an OS thread of its own, at absolute deadlines. A [`Recorder`] per thread computes
//! rates from the times of the readings, closes windows and raises [`Signal`]s; a [`Sink`] takes both. A [`Tape`], where there is one, takes every batch as it was read. Loss is counted
//! where it happens: faults by reason and source, missed deadlines, refused series, rejected readings, a full sink.
//!
//! Never: a rate from a nominal interval, a wall-clock time, an unbounded buffer, an async runtime.
#![forbid(unsafe_code)]

mod batch;
mod bounds;
mod burst;
mod catalog;
pub mod clock;
mod counter;
pub mod files;
mod frame;
mod governor;
mod reader;
mod recorder;
mod rtnl;
mod sampler;
mod series;
mod signal;
mod slot;
mod slowed;
mod source;
mod stats;
mod still;
mod tape;
mod watch;

pub use batch::{Batch, Reading, Value};
pub use bounds::Bounds;
pub use burst::{BURST_REST, BURST_SHARE, BURST_TIME, BURST_TIME_MAX, BurstRefused, Bursts};
pub use catalog::{Catalog, SERIES_MAX_DEFAULT};
pub use clock::{ClockPair, Moment};
pub use counter::{Step, step};
pub use frame::{Flags, WindowFrame};
pub use recorder::{Declare, Output, Recorder, Rejects, SERIES_BYTES, SeriesHandle};
pub use sampler::{Sampler, SamplerConfig, Sink, SinkFull, StartError, UnknownSource};
pub use series::{AtLimit, Counter, Entity, Kind, SeriesDef, SeriesId};
pub use signal::{BURST, HOLD_OFF, Rule, Severity, Signal, When};
pub use slot::QUIET;
pub use slowed::{RESTORED, SLOWED};
pub use source::{CadenceRange, ErrorReason, ReadError, Source, Unavailable};
pub use stats::{SourceReport, SourceState};
pub use tape::{Tape, TapeWriter};
