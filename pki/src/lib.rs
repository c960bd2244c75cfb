//! railwatch-pki
