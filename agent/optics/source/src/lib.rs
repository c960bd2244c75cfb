//! The optical modules of this host, read through their interfaces.
//!
//! In: pages of each module's EEPROM, by ethtool netlink (or, under a root that is no sysfs, from files). Out: the source
//! `optics` for the sampler, [`RULES`] of its signals, and [`Modules`], what each module is and measured last.
//!
//! A read holds RTNL, the lock of all network configuration, for 3 to 160 ms, and flags in a module clear when they are
//! read. So this reader is the only one that an agent has: one read at a time, what does not change once per plug, and a
//! module that answers slowly less often. Never: a write to a module, a second reader, a thread.
#![forbid(unsafe_code)]

mod cage;
mod eeprom;
mod modules;
mod pace;
mod series;
mod source;
mod trend;

pub use modules::Modules;
pub use series::{RULES, TREND_SIGNALS};
pub use source::OpticsSource;
