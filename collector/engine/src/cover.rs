//! Which probes keep every link, in each direction, watched at a chosen rate with the fewest packets; and what can be sensed with them.
//!
//! In: a [`Fabric`](crate::map::Fabric), the NICs that probe and answer, the jobs that run, what traces tell of flows, suspects, a seed. Out: a [`Plan`] of
//! flows, the coverage of each direction with how sure it is, and for each element and fault mode whether it would be sensed
//! ([`outlook()`]). Pure: no clock, no randomness, no IO; the same input gives the same plan. Never: a direction called covered because of a path
//! that nobody knows; a NIC above its budget.
//!
//! A probe is answered, so each flow crosses two paths: its own, and that of its answer, which the fabric may lead elsewhere.

mod choice;
pub mod clos;
mod ledger;
mod outlook;
mod plan;
mod rails;
mod shape;
mod shares;
mod ways;

pub use outlook::{
    CONGESTION_SERIES, ERROR_SERIES, FaultMode, LARGE_LOSS, OutlookRow, PAUSE_SERIES, SILENT_LOSS, Senses, outlook,
};
pub use plan::{
    Covered, Endpoint, Job, JobPlan, Options, Plan, PlannedFlow, Scope, Suspects, Uncovered, World, addresses_between,
    plan,
};
pub use rails::{Claim, Prefix, Rails, rails};
pub use shape::Shape;
pub use ways::{crossed, crossings};

/// A number that looks random, of another (splitmix64: Steele, Lea, Flood, OOPSLA 2014).
fn mix(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
