//! The coverage report: which processes use an accelerator, and whether Railwatch sees what they do.
//!
//! In: what discovery found. Out: one row per process and object, for people and for `railwatch gpu coverage`. It holds
//! no command line and no environment.

/// One object of interest in one process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CoverageRow {
    /// Process, as seen in the host's pid namespace.
    pub pid: u32,
    /// Name of its program.
    pub comm: String,
    /// Path of the library or program as that process sees it, or of the device it holds.
    pub object: String,
    /// Whether it is traced.
    pub status: CoverageStatus,
    /// Why not, or what is missing although it is traced.
    pub reason: Option<String>,
}

/// Whether an object is traced in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CoverageStatus {
    /// Its functions are probed.
    Attached,
    /// None of its functions is.
    Unattachable,
}

impl CoverageStatus {
    /// The word of the report.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::Unattachable => "unattachable",
        }
    }
}
