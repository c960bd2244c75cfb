//! Small files, read once each time: what they hold is configuration, and seldom asked for.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Longest file that is read, bytes.
const BYTES_MAX: u64 = 1024 * 1024;

/// A whole file; `None` where it cannot be read, is no text, or is too long.
pub(crate) fn whole(path: impl AsRef<Path>) -> Option<String> {
    let mut text = String::new();
    let read = File::open(path).ok()?.take(BYTES_MAX + 1).read_to_string(&mut text).ok()?;
    (read as u64 <= BYTES_MAX).then_some(text)
}

/// The first bytes of a file that the kernel makes as it is read, and whose rest would cost.
pub(crate) fn start(path: impl AsRef<Path>, bytes: u64) -> Option<String> {
    let mut start = Vec::new();
    File::open(path).ok()?.take(bytes).read_to_end(&mut start).ok()?;
    Some(String::from_utf8_lossy(&start).into_owned())
}

/// The first line, trimmed; `None` where there is nothing on it.
pub(crate) fn line(path: impl AsRef<Path>) -> Option<String> {
    let text = whole(path)?;
    Some(text.lines().next()?.trim().to_owned()).filter(|line| !line.is_empty())
}

/// The last part of what a link points at.
pub(crate) fn link_name(path: impl AsRef<Path>) -> Option<String> {
    Some(std::fs::read_link(path).ok()?.file_name()?.to_string_lossy().into_owned())
}

/// Names in a directory, sorted; none where it cannot be read.
pub(crate) fn names(directory: impl AsRef<Path>) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

/// Numbers written as "0-3,8,10-11".
pub(crate) fn ranges(text: &str) -> Vec<u32> {
    /// More than any host has processors.
    const NUMBERS_MAX: usize = 65_536;
    let mut numbers = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            numbers.extend((first..=last).take(NUMBERS_MAX.saturating_sub(numbers.len())));
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::ranges;

    #[test]
    fn ranges_are_read_as_the_kernel_writes_them() {
        for (text, expected) in [
            ("0-3,8,10-11\n", vec![0, 1, 2, 3, 8, 10, 11]),
            ("5", vec![5]),
            ("", vec![]),
            ("x,2", vec![2]),
            ("3-1", vec![]),
        ] {
            assert_eq!(ranges(text), expected, "{text:?}");
        }
        assert_eq!(ranges("0-4294967295").len(), 65_536);
    }
}
