//! ingest: being filled.
