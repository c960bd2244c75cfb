//! What both daemons show to Prometheus: a registry encoded in the format the scraper asks for, served on its own
//! listener.
//!
//! In: a `prometheus_client` registry and a bound listener. Out: `GET /metrics` in OpenMetrics 1.0 where the `Accept`
//! header names it, else in the older text format 0.0.4. Never: more than [`serve::CONNECTIONS_MAX`] scrapers at once,
//! a request without a time limit, or any path that changes something.
#![forbid(unsafe_code)]

pub mod format;
mod serve;

pub use format::Format;
pub use serve::{CONNECTIONS_MAX, serve};
