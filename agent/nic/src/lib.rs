//! railwatch-nic
