//! config: being filled.
