//! metrics: being filled.
