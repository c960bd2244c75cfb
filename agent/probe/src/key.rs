//! The cluster's key, from a file that its owner alone may read.

use crate::packet::{KEY_BYTES_MIN, Key};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Longest file that is read, bytes.
const FILE_BYTES_MAX: u64 = 4096;

/// Why a key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("read the key {path}: {error}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Others may read it.
    #[error("the key {path} may be read by others (mode {mode:o}): chmod 0600 {path}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It holds less than a key.
    #[error("the key {path} has {bytes} bytes: at least {KEY_BYTES_MIN}, as from: openssl rand -hex 32")]
    Short {
        /// Which.
        path: PathBuf,
        /// How many.
        bytes: usize,
    },
}

impl Key {
    /// Everything in the file but white space at its end.
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let failed = |error| KeyError::Read { path: path.into(), error };
        let file = std::fs::File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Open { path: path.into(), mode });
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
        bytes.truncate(bytes.trim_ascii_end().len());
        Self::new(&bytes).ok_or(KeyError::Short { path: path.into(), bytes: bytes.len() })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_that_others_may_read_or_that_is_short_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path();
        let read = |text: &str, mode| {
            std::fs::write(path, text).unwrap();
            std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
            Key::read(path)
        };
        assert!(read("0123456789abcdef\n", 0o600).is_ok());
        assert!(matches!(read("0123456789abcdef\n", 0o640), Err(KeyError::Open { mode: 0o640, .. })));
        assert!(matches!(read("0123456789abcde\n\n", 0o400), Err(KeyError::Short { bytes: 15, .. })));
        assert!(matches!(Key::read(Path::new("/nonexistent/key")), Err(KeyError::Read { .. })));
    }
}
