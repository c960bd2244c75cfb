//! railwatch-gpu: accounts
