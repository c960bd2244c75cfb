//! railwatch-gpu: scope
