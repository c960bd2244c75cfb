//! How a command fails: a kind, which is the exit status that scripts rely on, what was tried on what, and what
//! to do next. Nothing here ever holds a token.

use std::fmt;

/// Why a command failed. The number is the exit status and never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// What was looked at is not in order: an image of a module with problems.
    Faulty = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// No collector was found, or it does not answer.
    Unreachable = 3,
    /// No token, an unknown token, or one that may not do this.
    NotAuthorised = 4,
    /// There is no such incident, decision, ...
    NotFound = 5,
    /// The collector understood and said no.
    Refused = 6,
    /// The collector answered something that this command does not understand.
    Unexpected = 7,
}

/// A failed command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its exit status.
    pub kind: Kind,
    /// What was being done, on what, and what happened instead.
    pub what: String,
    /// What a person can do about it.
    pub next: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: Kind, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { kind, what: what.into(), next: next.into() }
    }

    /// The exit status.
    pub fn status(&self) -> u8 {
        self.kind as u8
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "railwatch: {}", self.what)?;
        if !self.next.is_empty() {
            write!(f, "\n  next: {}", self.next)?;
        }
        Ok(())
    }
}

/// Exit statuses, as `--help` and docs/CLI.md show them.
pub const EXIT_STATUS_HELP: &str = "\
Exit status:
  0  done
  1  what was looked at has problems, as shown (`optics decode`)
  2  the command line makes no sense
  3  no collector found, or it does not answer
  4  not authorised: no token, an unknown or expired one, or one without the role
  5  there is no such incident or decision
  6  refused: for example a decision that is no longer proposed, or a guard that holds it back
  7  the collector answered something this command does not understand";
