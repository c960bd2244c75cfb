//! A laboratory: a rail-optimised leaf-spine fabric of network namespaces on one machine, in which real faults happen to
//! real packets, with the product's own daemons on it.
//!
//! In: sizes, a scenario, a seed. Out: a running fabric with an agent per host, a collector and a training-shaped workload;
//! what a fault did and when it was sensed. Never: a change outside the namespaces, the cgroup and the folder that carry the
//! lab's name, and nothing of those is left when the lab ends, however it ends.

pub mod cgroup;
pub mod churn;
pub mod claim;
pub mod daemons;
pub mod enter;
pub mod fabric;
pub mod fault;
pub mod hardware;
pub mod interrupt;
pub mod keeper;
pub mod lab;
pub mod left;
pub mod observe;
pub mod optic;
pub mod plan;
pub mod progress;
pub mod routing;
pub mod run;
pub mod scenario;
pub mod series;
pub mod switch;
pub mod train;
pub mod verify;
