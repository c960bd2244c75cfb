//! core: not there yet.
