//! The switch that halts all acting: a file in the collector's state directory, so that it works with no collector running.
//!
//! While the file is there nothing is carried out, whatever it says: one made by hand, empty or unreadable halts too.

use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// The file's name within the state directory.
pub const FILE: &str = "HALT";

/// Who halted acting, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halt {
    /// Who.
    pub actor: String,
    /// Why, in their words.
    pub reason: String,
}

/// The switch could not be set, cleared or read.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}: {source}")]
pub struct HaltError {
    action: &'static str,
    path: PathBuf,
    source: std::io::Error,
}

/// Halts all acting. Returns once that is on disk. Setting it again changes who and why.
pub fn set(state_dir: &Path, halt: &Halt) -> Result<(), HaltError> {
    let path = state_dir.join(FILE);
    let written = || -> std::io::Result<()> {
        // Written beside and renamed: never half a file, and a halt that is there stays there throughout.
        let beside = state_dir.join("HALT.new");
        let mut file = File::create(&beside)?;
        file.write_all(serde_json::to_string(halt)?.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(&beside, &path)?;
        File::open(state_dir)?.sync_all()
    };
    written().map_err(|source| HaltError { action: "could not halt acting by writing", path: path.clone(), source })
}

/// Lets acting go on. Returns whether it was halted.
pub fn clear(state_dir: &Path) -> Result<bool, HaltError> {
    let path = state_dir.join(FILE);
    let failed = |source| HaltError { action: "could not release acting by removing", path: path.clone(), source };
    match std::fs::remove_file(&path) {
        Ok(()) => File::open(state_dir).and_then(|directory| directory.sync_all()).map(|()| true).map_err(failed),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(source) => Err(failed(source)),
    }
}

/// Who halted acting; `None` only where there surely is no such file.
pub fn is_set(state_dir: &Path) -> Option<Halt> {
    let unknown = |reason: String| Some(Halt { actor: "someone".to_owned(), reason });
    match std::fs::read_to_string(state_dir.join(FILE)) {
        Ok(text) => serde_json::from_str(&text).ok().or_else(|| unknown(text.trim().chars().take(200).collect())),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => unknown(format!("the file {FILE} cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::{FILE, Halt, clear, is_set, set};

    #[test]
    fn halting_survives_releases_and_tells_who_and_any_file_of_that_name_halts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(is_set(path), None);
        assert!(!clear(path).unwrap());
        let halt = Halt { actor: "ana".into(), reason: "maintenance".into() };
        set(path, &halt).unwrap();
        set(path, &halt).unwrap();
        assert_eq!(is_set(path), Some(halt));
        assert!(clear(path).unwrap());
        assert_eq!(is_set(path), None);
        for content in ["", "stop!", "{\"actor\": 3}"] {
            std::fs::write(path.join(FILE), content).unwrap();
            assert_eq!(is_set(path).unwrap().reason, content);
        }
        clear(path).unwrap();
        std::fs::create_dir(path.join(FILE)).unwrap();
        assert!(is_set(path).is_some(), "what cannot be read halts");
        assert!(set(&path.join("no such directory"), &Halt { actor: "a".into(), reason: "b".into() }).is_err());
    }
}
