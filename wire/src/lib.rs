//! railwatch-wire
