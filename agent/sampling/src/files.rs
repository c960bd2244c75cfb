//! Files of sysfs and procfs, as sources read them: opened once, read again and again.
//!
//! In: a path under a configurable root. Out: text and numbers. A kept-open descriptor and `pread` cost a seventh of
//! open, read and close. Never: a number from text that is not one, or more bytes than the caller's bound.

use crate::batch::Batch;
use crate::source::ErrorReason;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// A file, kept open.
#[derive(Debug)]
pub struct KeptFile(File);

impl KeptFile {
    /// Opens it.
    ///
    /// # Errors
    /// As for [`File::open`].
    pub fn open(path: &Path) -> io::Result<Self> {
        File::open(path).map(Self)
    }

    /// What it holds now, up to the length of `buffer`; an answer that fills it is too long and no answer.
    ///
    /// # Errors
    /// [`ErrorReason::Overrun`], or why it could not be read.
    pub fn read<'b>(&self, buffer: &'b mut [u8]) -> Result<&'b [u8], ErrorReason> {
        let mut length = 0;
        // seq_file answers in pieces of a page or more.
        loop {
            let room = buffer.get_mut(length..).filter(|room| !room.is_empty()).ok_or(ErrorReason::Overrun)?;
            match self.0.read_at(room, u64::try_from(length).unwrap_or(u64::MAX)) {
                Ok(0) => return Ok(&buffer[..length]),
                Ok(more) => length += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ErrorReason::from(&error)),
            }
        }
    }

    /// What it holds now, where that is short and comes in one piece: the whole file of an attribute of sysfs, or of one that
    /// the kernel writes in one go.
    ///
    /// # Errors
    /// Why it could not be read.
    pub fn attribute<'b, const N: usize>(&self, buffer: &'b mut [u8; N]) -> Result<&'b [u8], ErrorReason> {
        let length = self.0.read_at(buffer, 0).map_err(|error| ErrorReason::from(&error))?;
        Ok(&buffer[..length])
    }

    /// It has no name any more: another file may be in its place. A tree that is not the kernel's own may be written so.
    #[must_use]
    pub fn is_unlinked(&self) -> bool {
        self.0.metadata().is_ok_and(|it| it.nlink() == 0)
    }

    /// The decimal number it holds now, and nothing else.
    ///
    /// # Errors
    /// As for [`number`], or why it could not be read.
    pub fn number(&self) -> Result<u64, ErrorReason> {
        number(self.attribute(&mut [0; 64])?)
    }

    /// As [`Self::number`], of a value that may be below zero (temperatures).
    ///
    /// # Errors
    /// As for [`Self::number`].
    pub fn signed(&self) -> Result<i64, ErrorReason> {
        let mut buffer = [0; 64];
        let text = std::str::from_utf8(self.attribute(&mut buffer)?).map_err(|_| ErrorReason::Malformed)?;
        text.trim().parse().map_err(|_| ErrorReason::Malformed)
    }

    /// The bytes at its beginning.
    ///
    /// # Errors
    /// Why it could not be read.
    pub fn first<const N: usize>(&self) -> Result<[u8; N], ErrorReason> {
        let mut buffer = [0; N];
        self.0.read_exact_at(&mut buffer, 0).map_err(|error| ErrorReason::from(&error))?;
        Ok(buffer)
    }
}

/// Counts a part of a read that failed. Only what is gone is worth a look for what there is; all else may pass by itself, and
/// a look at every failing read would cost more than the reads.
pub fn failed(batch: &mut Batch, reason: ErrorReason) {
    batch.fault(reason);
    if reason == ErrorReason::Missing {
        batch.ask_for_probe();
    }
}

/// A decimal number without sign, between white space.
///
/// # Errors
/// [`ErrorReason::Malformed`] for anything else.
pub fn number(bytes: &[u8]) -> Result<u64, ErrorReason> {
    let digits = bytes.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(ErrorReason::Malformed);
    }
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(ErrorReason::Malformed)
}

/// The first line of a file, trimmed; `None` where it cannot be read.
#[must_use]
pub fn line(path: impl AsRef<Path>) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// Names in a directory that begin with `prefix` and go on with digits only, sorted by number.
#[must_use]
pub fn numbered(directory: &Path, prefix: &str) -> Vec<String> {
    let mut found: Vec<(u64, String)> = names(directory)
        .into_iter()
        .filter_map(|name| Some((number(name.strip_prefix(prefix)?.as_bytes()).ok()?, name)))
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, name)| name).collect()
}

/// Names in a directory, sorted; none where it cannot be read.
#[must_use]
pub fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use ErrorReason as E;

    #[test]
    fn only_a_number_is_read_as_a_number() {
        for (text, expected) in [
            ("0\n", Ok(0)),
            ("18446744073709551615\n", Ok(u64::MAX)),
            ("18446744073709551616\n", Err(E::Malformed)),
            ("", Err(E::Malformed)),
            ("-1\n", Err(E::Malformed)),
            ("+5\n", Err(E::Malformed)),
            ("Unknown\n", Err(E::Malformed)),
            ("4\0", Err(E::Malformed)),
        ] {
            assert_eq!(number(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn a_file_longer_than_the_buffer_is_refused_and_not_cut() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "12345678").unwrap();
        let kept = KeptFile::open(file.path()).unwrap();
        assert_eq!(kept.read(&mut [0; 8]), Err(E::Overrun));
        assert_eq!(kept.read(&mut [0; 9]), Ok(&b"12345678"[..]));
    }

    #[test]
    fn numbered_folders_come_in_the_order_of_their_numbers() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["mc10", "mc2", "mc", "mcx", "power", "mc0"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        assert_eq!(numbered(folder.path(), "mc"), ["mc0", "mc2", "mc10"]);
        assert_eq!(numbered(&folder.path().join("absent"), "mc"), [""; 0]);
    }
}
