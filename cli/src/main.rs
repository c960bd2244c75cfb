//! railwatch
fn main() {}
