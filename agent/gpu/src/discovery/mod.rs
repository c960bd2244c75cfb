//! Finds every process that uses an accelerator, as it begins to, and has its libraries probed before the first call.
//!
//! In: the kernel's reports of executable mappings (or, where those are refused, repeated reading of /proc), and a
//! table of function names. Out: probes through an [`Attacher`], [`Event`]s, and a coverage report. Libraries are found
//! by the functions they define, never by their names; a file name only serves to explain what could not be traced.
//! It never reads a command line or an environment, never changes a process, and trusts nothing in a file it reads.
//!
//! One thread owns a [`Discovery`] and calls [`Discovery::run_once`] in a loop. Between events it sleeps.

mod attach;
mod container;
mod elf;
mod family;
mod libraries;
mod moment;
mod object;
mod objects;
mod probes;
mod process;
mod procfs;
mod records;
mod rights;
mod ring;
mod wanted;
mod watch;

pub use attach::{AttachError, Attachable, Attached, Attacher, ObjectId};
pub use container::{Container, container_of};
pub use elf::{ElfError, ElfIndex, Found, ReadAt, Symtab, index};
pub use object::Identity;
pub use probes::Probes;
pub use process::Incomplete;
pub use records::{FileId, Mapped, Record, decode};
pub use wanted::{SymbolId, Wanted};
pub use watch::{Counters, Discovery, Event, Options, ProcessInfo};
