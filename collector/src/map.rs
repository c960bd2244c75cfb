//! The map of the fabric as the collector keeps it: who reports to it, and who reads it.
//!
//! In: what reporters say, through [`Reports`]: hosts' snapshots, traces, an inventory file, switches.

use railwatch_engine::Timestamp;
use railwatch_engine::map::{Source, Statement};

/// Who takes what reporters say. A reporter's statements of one source are whole: what it no longer says is no longer so.
pub trait Reports: Send + Sync {
    /// All that this reporter says now by this source. An empty list takes back what it said before.
    fn report(&self, reporter: &str, source: Source, says: Vec<Statement>, at: Timestamp);

    /// The reporter went away: what it said is believed a while longer, and no longer renewed.
    fn gone(&self, reporter: &str, at: Timestamp);
}
