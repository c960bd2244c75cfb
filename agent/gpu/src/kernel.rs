//! railwatch-gpu: kernel
