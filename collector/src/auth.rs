//! auth: not there yet.
