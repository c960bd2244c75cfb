//! executor: not there yet.
