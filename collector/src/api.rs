//! api: not there yet.
