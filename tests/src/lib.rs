//! Tests of the whole: both daemons, the command and real peers together. [`uplink`] is a host's end of the uplink for
//! loads and faults that the real agent would never produce.
#![forbid(unsafe_code)]

pub mod gpu;
pub mod host;
pub mod installation;
pub mod otlp;
pub mod prometheus;
pub mod uplink;
pub mod webhook;
