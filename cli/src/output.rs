//! Where answers go: a table, JSON or YAML on standard output. A reader that went away ends the command quietly.

use crate::args::Format;
use crate::failure::{Failure, Kind};
use serde::Serialize;
use std::io::{self, ErrorKind, IsTerminal, Write};

/// Standard output, and whether it takes colour.
pub struct Output {
    /// Escape sequences may be used.
    pub colour: bool,
    /// The reader went away: nothing more needs doing.
    pub closed: bool,
}

impl Output {
    /// Colour only on a terminal, and not where NO_COLOR is set (no-color.org) or the terminal is dumb.
    pub fn of_process() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self { colour: wanted && io::stdout().is_terminal(), closed: false }
    }

    /// Writes and flushes.
    pub fn write(&mut self, text: &str) -> Result<(), Failure> {
        self.write_bytes(text.as_bytes())
    }

    /// Writes what is not text, and flushes.
    pub fn write_bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            Err(error) => Err(Failure::new(
                Kind::Unexpected,
                format!("cannot write to standard output: {error}"),
                "see whether the disk behind it is full",
            )),
        }
    }
}

/// `answer` in `format`, the table made by `table`.
pub fn shaped(format: Format, answer: &impl Serialize, table: impl FnOnce() -> String) -> Result<String, Failure> {
    let broken = |error: String| {
        Failure::new(
            Kind::Unexpected,
            format!("the collector's answer lacks something: {error}"),
            "compare versions with `railwatch version`",
        )
    };
    match format {
        Format::Table => Ok(table()),
        Format::Json => {
            serde_json::to_string_pretty(answer).map(|json| json + "\n").map_err(|error| broken(error.to_string()))
        }
        Format::Yaml => serde_yaml_ng::to_string(answer).map_err(|error| broken(error.to_string())),
    }
}
