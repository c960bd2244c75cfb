//! railwatch-tests
