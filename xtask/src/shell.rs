//! Starts other programs, and says on one line each what is going on and how long it took.

use anyhow::{Context, Result, bail};
use std::{
    io::{self, Write},
    process::Command,
    time::Instant,
};

/// A piece of work a person waits for.
pub struct Step {
    name: String,
    start: Instant,
}

impl Step {
    /// Says what begins.
    pub fn begin(name: &str) -> Self {
        eprintln!("xtask: {name} …");
        Self { name: name.to_owned(), start: Instant::now() }
    }

    /// Says that it is done, and after how long.
    pub fn done(self) {
        eprintln!("xtask: {} ✓ {:.1} s", self.name, self.start.elapsed().as_secs_f64());
    }
}

/// Standard output for one of several that write at a time: whole lines only, each with the writer's name before it.
pub struct Prefixed {
    prefix: String,
    /// The beginning of a line that has not ended.
    begun: Vec<u8>,
}

impl Prefixed {
    /// Lines that begin with `prefix`.
    pub fn new(prefix: String) -> Self {
        Self { prefix, begun: Vec::new() }
    }

    fn write_lines(&mut self, output: &mut dyn Write) -> io::Result<()> {
        while let Some(end) = self.begun.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.begun.drain(..=end).collect();
            output.write_all(&[self.prefix.as_bytes(), &line].concat())?;
        }
        Ok(())
    }
}

impl Write for Prefixed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begun.extend_from_slice(bytes);
        self.write_lines(&mut io::stdout().lock())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

impl Drop for Prefixed {
    fn drop(&mut self) {
        if !self.begun.is_empty() {
            // A guest that died within a line: nobody is left to tell should standard output be closed, too.
            writeln!(self).ok();
        }
    }
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs it with its output on ours; an error when it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs it in silence; its output becomes part of the error when it fails.
pub fn quiet(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs it in silence and gives its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start `{}`", shown(command)))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("`{}` failed: {}\n{text}{}", shown(command), output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::Prefixed;

    #[test]
    #[expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    fn lines_come_whole_and_say_whose_they_are() {
        let mut lines = Prefixed::new("a: ".into());
        let mut seen = Vec::new();
        for piece in ["one\ntw", "o\n", "three"] {
            lines.begun.extend_from_slice(piece.as_bytes());
            lines.write_lines(&mut seen).unwrap();
        }
        assert_eq!(String::from_utf8(seen).unwrap(), "a: one\na: two\n");
    }
}
