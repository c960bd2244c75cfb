//! railwatch-abi
