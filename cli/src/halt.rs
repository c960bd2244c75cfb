//! `railwatch halt` and `resume`: the file HALT in the collector's state directory, which the executor looks for
//! before every act, and the collector itself where it answers. Either suffices to halt; to resume, the collector is
//! asked, and the file is removed only where the collector is down. Says exactly what it did.

use crate::failure::{Failure, Kind};
use crate::human;
use serde_json::json;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What one of the two ways came to.
#[derive(Debug)]
pub enum Step {
    /// Done, in words.
    Done(String),
    /// Not possible here, and why.
    Absent(String),
    /// Tried, and failed.
    Failed(Failure),
}

/// Writes HALT in `state_dir`: `{"actor", "reason"}`, as the collector writes it. One that is there already stays as it is.
pub fn write_file(state_dir: &Path, who: &str, reason: &str, now_ns: u64) -> Step {
    let path = state_dir.join("HALT");
    let reason = if reason.is_empty() { "no reason given" } else { reason };
    let reason = format!("{reason} (by the file alone, at {})", human::instant(now_ns));
    let text = format!("{}\n", json!({"actor": who, "reason": reason}));
    let written = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        // The name too must outlive a power cut.
        std::fs::File::open(state_dir)?.sync_all()
    });
    match written {
        Ok(()) => Step::Done(format!("wrote {}: nothing is carried out while it exists", path.display())),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Step::Done(format!("{} exists already: nothing is carried out while it does", path.display()))
        }
        Err(error) => Step::Failed(file_failure("write", &path, &error)),
    }
}

/// Removes HALT from `state_dir`.
pub fn remove_file(state_dir: &Path) -> Step {
    let path = state_dir.join("HALT");
    match std::fs::remove_file(&path) {
        Ok(()) => Step::Done(format!("removed {}", path.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Step::Absent(format!("there is no {}", path.display())),
        Err(error) => Step::Failed(file_failure("remove", &path, &error)),
    }
}

fn file_failure(doing: &str, path: &Path, error: &std::io::Error) -> Failure {
    let kind = match error.kind() {
        ErrorKind::PermissionDenied => Kind::NotAuthorised,
        ErrorKind::NotFound => Kind::NotFound,
        _ => Kind::Refused,
    };
    Failure::new(
        kind,
        format!("cannot {doing} {}: {error}", path.display()),
        "run as the user that runs the collector (usually root); --state-dir names another directory",
    )
}

/// The person at the keyboard, for the reason in the file. Not proof of anything.
pub fn person() -> String {
    let uid = nix::unistd::getuid();
    let sudo = std::env::var("SUDO_USER").ok().filter(|name| !name.is_empty());
    let account = || nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name);
    sudo.or_else(account).unwrap_or_else(|| format!("uid {uid}"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;

    #[test]
    fn halting_twice_keeps_the_first_reason_and_resuming_removes_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(remove_file(dir.path()), Step::Absent(_)));
        assert!(matches!(write_file(dir.path(), "ann", "wrong isolation", 0), Step::Done(_)));
        assert!(
            matches!(write_file(dir.path(), "bob", "later", 0), Step::Done(text) if text.contains("exists already"))
        );
        let text = std::fs::read_to_string(dir.path().join("HALT")).unwrap();
        assert_eq!(
            text,
            "{\"actor\":\"ann\",\"reason\":\"wrong isolation (by the file alone, at 1970-01-01T00:00:00Z)\"}\n"
        );
        assert!(matches!(remove_file(dir.path()), Step::Done(_)));
        assert!(
            matches!(write_file(&dir.path().join("none"), "ann", "", 0), Step::Failed(failure) if failure.kind == Kind::NotFound)
        );
    }
}
