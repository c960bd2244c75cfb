//! What discovery asks of the kernel half, and what it answers.
//!
//! In: an object with its points, from discovery. Out: probes in place, or why not. Discovery calls
//! [`Attacher::attach`] once per object however many processes map it, and never decides in which order its points
//! are taken.

use std::path::Path;

use super::elf::Found;
use super::object::Identity;

/// Names one object for as long as it is attached. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(pub u32);

/// An object to attach.
#[derive(Debug)]
pub struct Attachable<'a> {
    /// Its name in later calls.
    pub id: ObjectId,
    /// Its inode: the same over a restart of the agent, for links that were kept.
    pub identity: Identity,
    /// Leads to exactly this inode during the call, and only in this process (`/proc/self/fd/N`).
    pub probe_path: &'a Path,
    /// Path for people, as the program that loaded it sees it.
    pub path: &'a str,
    /// Where to probe, in table order; never empty.
    pub points: &'a [Found],
}

/// Probes in place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attached {
    /// How many points.
    pub points: usize,
    /// What was said of the first point that could not be attached, where others could.
    pub first_error: Option<String>,
    /// An agent before left the probes in place: nothing was missed, and what that agent had marked is marked still.
    pub kept: bool,
}

/// Nothing of the object could be attached: what was tried, and what the kernel said.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AttachError(pub String);

/// Puts probes in place, and keeps what is known of figures that begin in the middle.
pub trait Attacher {
    /// Probes an object that has no probes of this agent yet.
    fn attach(&mut self, object: &Attachable<'_>) -> Result<Attached, AttachError>;

    /// Takes the probes of an object away: no process has it mapped, or its content changed under the same inode, so
    /// that they no longer stand at the starts of functions.
    fn detach(&mut self, object: ObjectId);

    /// A process may have called functions of this object before its probes were in place: its figures are not whole.
    fn mark_late(&mut self, pid: u32, object: ObjectId);
}
