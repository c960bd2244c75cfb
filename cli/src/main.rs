//! The operator's command. Everything is in the library, so that tests call what the command calls.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    railwatch::run(std::env::args_os())
}
