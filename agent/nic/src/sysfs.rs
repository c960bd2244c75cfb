//! Files of sysfs about NICs.
//!
//! In: a path under a configurable root. Out: numbers and words. Never: a number from text that is not one
//! ("N/A (no PMA)").

use railwatch_sampling::ErrorReason;
pub(crate) use railwatch_sampling::files::line;
use railwatch_sampling::files::{KeptFile, number};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file of one number, kept open.
#[derive(Debug)]
pub(crate) struct NumberFile(KeptFile);

impl NumberFile {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        KeptFile::open(path).map(Self)
    }

    /// The number it holds now.
    pub(crate) fn read(&self) -> Result<u64, ErrorReason> {
        parse_number(self.0.attribute(&mut [0; 64])?)
    }

    /// See [`KeptFile::is_unlinked`].
    pub(crate) fn is_unlinked(&self) -> bool {
        self.0.is_unlinked()
    }
}

/// A decimal number, alone or before a colon ("4: ACTIVE").
pub(crate) fn parse_number(bytes: &[u8]) -> Result<u64, ErrorReason> {
    let bytes = bytes.trim_ascii();
    if bytes.starts_with(b"N/A") {
        return Err(ErrorReason::NotAvailable);
    }
    let digits = bytes.iter().position(|byte| *byte == b':').map_or(bytes, |colon| &bytes[..colon]);
    number(digits)
}

/// The last part of where a link points to.
pub(crate) fn link_name(path: impl AsRef<Path>) -> Option<String> {
    let target = std::fs::read_link(path).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// What tells a directory from a later one of the same name: a device that is gone and came back has other files.
pub(crate) fn directory_number(directory: impl AsRef<Path>) -> u64 {
    std::fs::metadata(directory).map_or(0, |metadata| metadata.ino())
}

/// Names in a directory, sorted.
pub(crate) fn names(directory: impl AsRef<Path>) -> io::Result<Vec<String>> {
    let mut names: Vec<String> =
        std::fs::read_dir(directory)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

/// Driver behind a device of a class (`class/net/eth0`); empty where there is none.
pub(crate) fn driver(root: &Path, class: &str, device: &str) -> String {
    link_name(device_path(root, class, device).join("device/driver")).unwrap_or_default()
}

/// `ROOT/class/CLASS/DEVICE`.
pub(crate) fn device_path(root: &Path, class: &str, device: &str) -> PathBuf {
    root.join("class").join(class).join(device)
}

#[cfg(test)]
mod tests {
    use super::parse_number;
    use railwatch_sampling::ErrorReason as E;

    #[test]
    fn only_a_number_is_read_as_a_number() {
        for (text, expected) in [
            ("0\n", Ok(0)),
            ("18446744073709551615\n", Ok(u64::MAX)),
            ("4: ACTIVE\n", Ok(4)),
            ("N/A (no PMA)\n", Err(E::NotAvailable)),
            ("", Err(E::Malformed)),
            ("-1\n", Err(E::Malformed)),
            ("18446744073709551616\n", Err(E::Malformed)),
            ("400 Gb/sec (4X NDR)\n", Err(E::Malformed)),
            ("+5\n", Err(E::Malformed)),
            ("\u{0}\u{0}", Err(E::Malformed)),
        ] {
            assert_eq!(parse_number(text.as_bytes()), expected, "{text:?}");
        }
    }
}
