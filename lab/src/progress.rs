//! Says on standard error what is going on, and how long it took. Standard output is for results alone.

use std::time::Instant;

/// A piece of work a person waits for.
pub struct Step {
    name: String,
    start: Instant,
}

impl Step {
    /// Says what begins.
    #[must_use]
    pub fn begin(name: impl Into<String>) -> Self {
        let name = name.into();
        eprintln!("lab: {name} …");
        Self { name, start: Instant::now() }
    }

    /// Says that it is done, and after how long.
    pub fn done(self) {
        eprintln!("lab: {} ✓ {:.1} s", self.name, self.start.elapsed().as_secs_f64());
    }
}
