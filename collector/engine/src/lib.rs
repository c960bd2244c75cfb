//! The engine: events in, effects out, nothing else.
//!
//! `step(event, now)` is a pure function of the state and its arguments. There is no clock (`now` comes in), no
//! randomness (identifiers are counted), no IO and no async here; the collector carries the effects out and stores
//! them. The same events give the same effects, byte for byte: that is what replay and the simulator rest on.
#![forbid(unsafe_code)]

mod case;
pub mod cover;
mod decide;
mod engine;
mod faults;
mod gpu;
mod history;
mod hosts;
mod link;
pub mod locate;
pub mod map;
pub mod model;
mod options;
mod path;
mod replay;
mod silence;

pub use engine::{Counters, Engine};
pub use model::*;
pub use options::{Limits, OptionError, Options};
pub use path::alike;
pub use replay::{Logged, Recorder, replay};
