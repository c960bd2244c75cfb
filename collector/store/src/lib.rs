//! railwatch-store
