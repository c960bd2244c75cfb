//! A receiver of OTLP that is not ours: the official Python package (tests/fixtures/otlp_receiver.py).

use anyhow::{Context, Result};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// The receiver, ended with the value.
pub struct Receiver {
    process: Child,
    output: PathBuf,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
}

impl Receiver {
    /// Starts one that writes what comes to `output`.
    pub fn start(output: &Path) -> Result<Self> {
        let python = std::env::var_os("RAILWATCH_PYTHON").context("run this through `cargo xtask test system`")?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/otlp_receiver.py");
        let mut process = Command::new(python).arg(script).arg(output).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().context("the receiver speaks")?).read_line(&mut line)?;
        Ok(Self {
            port: line.trim().parse().context("the receiver says its port")?,
            process,
            output: output.to_owned(),
        })
    }

    /// The collector's configuration that exports to it.
    pub fn collector_toml(&self) -> String {
        format!("[otlp]\nendpoint = \"http://127.0.0.1:{}\"\ninterval_s = 1\n", self.port)
    }

    /// Everything that came so far, a metric or a log record each.
    pub fn received(&self) -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(&self.output).unwrap_or_default();
        // The last line may be half written.
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        whole.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Ended already, or ends now.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
