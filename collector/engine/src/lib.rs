//! railwatch-engine
