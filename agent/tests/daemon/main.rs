//! The agent as a process: what its operator, its collector and Prometheus see of it.
//!
//! One program, so that it is linked once. The tests of `gpu` and `memory` need root and BPF, as the agent does.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod agent;
#[path = "../../uplink/tests/collector/mod.rs"]
mod collector;
mod disk;
mod drops;
mod gpu;
mod group;
mod health;
mod memory;
mod metrics;
mod placement;
mod privacy;
mod privileges;
mod probe;
mod reload;
mod service;
