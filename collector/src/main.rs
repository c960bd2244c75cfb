//! railwatch-collector
fn main() {}
