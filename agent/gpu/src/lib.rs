//! railwatch-gpu
