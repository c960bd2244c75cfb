//! railwatch-sampling
