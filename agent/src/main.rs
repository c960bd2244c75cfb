//! railwatch-agent
fn main() {}
