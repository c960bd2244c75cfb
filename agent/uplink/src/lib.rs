//! railwatch-uplink
