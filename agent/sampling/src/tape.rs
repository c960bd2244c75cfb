//! Where every reading is kept, if anywhere: the sampler's side of it.
//!
//! In: a writer per sampling thread. Out: what the declared series are, after each probe, and each batch as it was read,
//! before windows and rules see it. Never: a wait; what a tape cannot take it counts itself.

use crate::batch::Batch;
use crate::recorder::SeriesHandle;
use crate::series::SeriesDef;

/// Keeps every reading.
pub trait Tape: Send + Sync {
    /// For the thread that reads this source.
    fn writer(&self, source: &'static str) -> Box<dyn TapeWriter>;

    /// Memory that a series takes on it before anything is compressed, bytes.
    fn bytes_per_series(&self) -> usize {
        0
    }
}

/// The tape as one sampling thread sees it. Called on that thread: must return at once.
pub trait TapeWriter: Send {
    /// The series that are declared from now on, after each probe. A handle that is missing is gone, and may come back
    /// as another series.
    fn series(&mut self, living: &mut dyn Iterator<Item = (SeriesHandle, &SeriesDef)>);

    /// What one read or one event brought.
    fn take(&mut self, batch: &Batch);
}
