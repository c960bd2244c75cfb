//! The collector as a library: everything that does IO around the engine.
//!
//! Frames come in through [`ingest`], signals go to [`core`] (stored, then acknowledged, then judged by the engine),
//! windows and snapshots go to [`live`]. [`api`], [`metrics`] and [`otlp`] show what is there. [`daemon`] wires it all.
//! Nothing here detects: that is the engine's alone.
#![forbid(unsafe_code)]

pub mod api;
pub mod auth;
pub mod bursts;
pub mod certificates;
pub mod clock;
pub mod collectives;
pub mod config;
pub mod core;
pub mod daemon;
pub mod directives;
pub mod executor;
pub mod ingest;
pub mod inventory;
pub mod live;
pub mod logging;
pub mod map;
pub mod metrics;
pub mod otlp;
pub mod overload;
pub mod probes;
mod run_file;
pub mod started;
pub mod switches;
pub mod tape;
pub mod traces;
