//! Names the accelerator libraries that programs of this host are likely to load, before any does.
//!
//! In: the loader's cache (/etc/ld.so.cache) and path patterns from the configuration. Out: paths. Probes on these are
//! in place before the first call of the first program, so its figures are complete from its start.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::family::Families;

/// Where vendors install, beside what the loader's cache names.
pub const VENDOR_PATTERNS: [&str; 6] = [
    "/usr/local/cuda*/lib64/libcudart.so*",
    "/usr/local/cuda*/targets/*/lib/libcudart.so*",
    "/opt/rocm*/lib/libamdhip64.so*",
    "/opt/rocm*/lib/librccl.so*",
    "/usr/local/Ascend/*/lib64/libascendcl.so*",
    "/usr/local/Ascend/*/lib64/libhccl.so*",
];

/// Paths that one pattern may stand for.
const MATCHES_MAX: usize = 1024;
/// Entries of one folder that are compared.
const ENTRIES_MAX: usize = 65_536;

/// Accelerator libraries in the loader's cache.
pub fn in_loader_cache(cache: &Path) -> Vec<PathBuf> {
    // A cache of 10,000 libraries has about 1 MiB.
    const CACHE_BYTES_MAX: u64 = 64 << 20;
    match fs::metadata(cache) {
        Ok(metadata) if metadata.len() <= CACHE_BYTES_MAX => {}
        _ => return Vec::new(),
    }
    parse_loader_cache(&fs::read(cache).unwrap_or_default())
}

/// glibc `sysdeps/generic/dl-cache.h`: `struct cache_file_new`, perhaps behind a cache of the old form.
fn parse_loader_cache(cache: &[u8]) -> Vec<PathBuf> {
    const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
    const HEADER_BYTES: usize = 48;
    const ENTRY_BYTES: usize = 24;
    let Some(start) = cache.windows(MAGIC.len()).position(|window| window == MAGIC) else { return Vec::new() };
    // Offsets of strings count from the start of the new form.
    let cache = &cache[start..];
    let word = |at: usize| Some(u32::from_ne_bytes(*cache.get(at..)?.first_chunk()?) as usize);
    let text = |at: usize| cache.get(at..)?.split(|byte| *byte == 0).next();
    let count = word(MAGIC.len()).unwrap_or_default().min(cache.len() / ENTRY_BYTES);
    let mut paths: Vec<PathBuf> = (0..count)
        .filter_map(|number| {
            let path = text(word(HEADER_BYTES + number * ENTRY_BYTES + 8)?)?;
            (!Families::of_file_name(path).is_empty()).then(|| PathBuf::from(OsStr::from_bytes(path)))
        })
        .collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

/// Existing paths that a pattern stands for; `*` stands for any characters within one name.
pub fn matching(pattern: &str) -> Vec<PathBuf> {
    let mut paths = vec![PathBuf::from("/")];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        if part.contains('*') {
            let entries = paths.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
            paths = entries
                .take(ENTRIES_MAX)
                .filter_map(Result::ok)
                .filter(|entry| matches(part.as_bytes(), entry.file_name().as_bytes()))
                .map(|entry| entry.path())
                .take(MATCHES_MAX)
                .collect();
        } else {
            paths.iter_mut().for_each(|path| path.push(part));
        }
    }
    paths.retain(|path| path.is_file());
    paths
}

/// Whether a name fits a pattern of literal pieces between stars.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let mut pieces = pattern.split(|byte| *byte == b'*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = pieces.next_back() else { return rest.is_empty() };
    for piece in pieces.filter(|piece| !piece.is_empty()) {
        let Some(at) = rest.windows(piece.len()).position(|window| window == piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_a_shell() {
        for (pattern, name, fits) in [
            ("libcudart.so*", "libcudart.so.12", true),
            ("libcudart.so*", "libcudart.so", true),
            ("libcudart.so*", "libcudart_static.a", false),
            ("cuda*", "cuda-12.9", true),
            ("a*b*c", "aXXbYYc", true),
            ("a*b*c", "aXXcYYb", false),
            ("*", "", true),
            ("exact", "exact", true),
            ("exact", "exactly", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn the_loaders_cache_names_accelerator_libraries_only() {
        let strings = b"libc.so.6\0/lib/libc.so.6\0libcuda.so.1\0/lib/libcuda.so.1\0";
        let mut cache = b"ld.so-1.7.0 an older form first\0".to_vec();
        cache.extend(b"glibc-ld.so.cache1.1");
        cache.extend(2_u32.to_ne_bytes());
        cache.extend([0; 24]);
        let strings_at = 48 + 2 * 24;
        for (key, value) in [(0, 10), (25, 38)] {
            cache.extend(3_u32.to_ne_bytes());
            cache.extend((strings_at + key as u32).to_ne_bytes());
            cache.extend((strings_at + value as u32).to_ne_bytes());
            cache.extend([0; 12]);
        }
        cache.extend(strings);
        assert_eq!(parse_loader_cache(&cache), [PathBuf::from("/lib/libcuda.so.1")]);
        for cut in 0..cache.len() {
            parse_loader_cache(&cache[..cut]);
        }
    }
}
