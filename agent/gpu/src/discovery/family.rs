//! What tells that a program uses an accelerator: names of functions, of libraries, and strings that a runtime leaves
//! behind even when its symbols are gone.
//!
//! In: names and bytes. Out: a [`Families`] set. It is used to explain what is traced and what is not, and never to
//! decide what to probe: that is decided by symbols alone.

use super::elf::{ElfIndex, ReadAt};

/// A programming interface of an accelerator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Family {
    /// libcudart.
    CudaRuntime,
    /// libcuda.
    CudaDriver,
    /// libamdhip64.
    Hip,
    /// libascendcl.
    Ascend,
    /// libnccl, librccl.
    Nccl,
    /// libhccl.
    Hccl,
}

impl Family {
    const ALL: [Self; 6] = [Self::CudaRuntime, Self::CudaDriver, Self::Hip, Self::Ascend, Self::Nccl, Self::Hccl];

    /// Its name in a sentence.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CudaRuntime => "CUDA runtime",
            Self::CudaDriver => "CUDA driver",
            Self::Hip => "HIP",
            Self::Ascend => "Ascend ACL",
            Self::Nccl => "NCCL",
            Self::Hccl => "HCCL",
        }
    }

    /// Starts of the file names under which its library is shipped.
    const fn libraries(self) -> &'static [&'static str] {
        match self {
            Self::CudaRuntime => &["libcudart.so", "libcudart-"],
            Self::CudaDriver => &["libcuda.so"],
            Self::Hip => &["libamdhip64.so", "libamdhip64-"],
            Self::Ascend => &["libascendcl.so"],
            Self::Nccl => &["libnccl.so", "libnccl-", "librccl.so", "librccl-"],
            Self::Hccl => &["libhccl.so"],
        }
    }

    /// A string that its code holds whole, between zero bytes, stripped or not.
    const fn marker(self) -> Option<&'static [u8]> {
        match self {
            // An entry of cudaGetErrorName's table.
            Self::CudaRuntime => Some(b"\0cudaErrorMemoryAllocation\0"),
            // An environment variable that only the library itself reads.
            Self::Nccl => Some(b"\0NCCL_DEBUG_FILE\0"),
            // The others are shipped as shared libraries only.
            Self::CudaDriver | Self::Hip | Self::Ascend | Self::Hccl => None,
        }
    }
}

/// A set of families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Families(u8);

impl Families {
    /// None.
    pub const NONE: Self = Self(0);

    /// Adds one.
    pub fn insert(&mut self, family: Family) {
        self.0 |= 1 << family as u8;
    }

    /// Whether `family` is in it.
    #[must_use]
    pub const fn contains(self, family: Family) -> bool {
        self.0 & (1 << family as u8) != 0
    }

    /// Those of either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those of this set that the other lacks.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its members.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| self.contains(*family))
    }

    /// `CUDA runtime and NCCL`.
    #[must_use]
    pub fn names(self) -> String {
        self.iter().map(Family::name).collect::<Vec<_>>().join(" and ")
    }

    /// Those that functions of these names belong to.
    pub fn of_symbols<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let mut families = Self::NONE;
        names.filter_map(family_of_symbol).for_each(|family| families.insert(family));
        families
    }

    /// Those that a file name stands for.
    #[must_use]
    pub fn of_file_name(path: &[u8]) -> Self {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let mut families = Self::NONE;
        for family in Family::ALL {
            if family.libraries().iter().any(|start| name.starts_with(start.as_bytes())) {
                families.insert(family);
            }
        }
        families
    }
}

fn family_of_symbol(name: &str) -> Option<Family> {
    const PREFIXES: [(&str, Family); 7] = [
        ("cuda", Family::CudaRuntime),
        ("cu", Family::CudaDriver),
        ("hip", Family::Hip),
        ("acl", Family::Ascend),
        ("nccl", Family::Nccl),
        ("pnccl", Family::Nccl),
        ("Hccl", Family::Hccl),
    ];
    PREFIXES.into_iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, family)| family)
}

/// Read per object in search of markers; a stripped program's constants rarely exceed a few MiB.
const MARKER_BYTES_MAX: u64 = 32 << 20;
const CHUNK_BYTES: usize = 256 * 1024;

/// Searches what an object loads read-only for the markers, as far as the first 32 MiB.
pub fn search_markers<R: ReadAt + ?Sized>(file: &R, index: &ElfIndex) -> Families {
    let markers = || Family::ALL.into_iter().filter_map(|family| Some((family, family.marker()?)));
    let overlap = markers().map(|(_, marker)| marker.len()).max().unwrap_or_default();
    let mut families = Families::NONE;
    let mut left = MARKER_BYTES_MAX;
    let mut chunk = vec![0; CHUNK_BYTES];
    for (start, length) in &index.read_only {
        let mut offset = 0;
        while offset < *length && left > 0 {
            let bytes = (length - offset).min(left).min(CHUNK_BYTES as u64) as usize;
            let Some(at) = start.checked_add(offset) else { break };
            let filled = file.read_at(&mut chunk[..bytes], at).unwrap_or_default();
            for (family, marker) in markers() {
                if !families.contains(family) && holds(&chunk[..filled], marker) {
                    families.insert(family);
                }
            }
            left = left.saturating_sub(filled as u64);
            if filled <= overlap || offset + filled as u64 >= *length {
                break;
            }
            // The next chunk begins a marker's length back, so that one across the border is seen.
            offset += (filled - overlap) as u64;
        }
    }
    families
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    // The capital letter is rare in code and constants alike; the standard library searches one byte word by word.
    let rare = needle.iter().position(u8::is_ascii_uppercase).unwrap_or(1);
    let mut from = rare;
    while let Some(next) = haystack.get(from..).and_then(|rest| rest.iter().position(|byte| *byte == needle[rare])) {
        let start = from + next - rare;
        if haystack[start..].starts_with(needle) {
            return true;
        }
        from += next + 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::elf::Symtab;

    #[test]
    fn names_tell_the_interface() {
        for (symbol, family) in [
            ("cudaMalloc", Some(Family::CudaRuntime)),
            ("cuMemAlloc_v2", Some(Family::CudaDriver)),
            ("hipMalloc", Some(Family::Hip)),
            ("aclrtMalloc", Some(Family::Ascend)),
            ("pncclAllReduce", Some(Family::Nccl)),
            ("HcclAllReduce", Some(Family::Hccl)),
            ("malloc", None),
        ] {
            assert_eq!(family_of_symbol(symbol), family, "{symbol}");
        }
        for (path, names) in [
            ("/usr/local/cuda/lib64/libcudart.so.12", "CUDA runtime"),
            ("/x/torch/lib/libcudart-9335f6a2.so.12", "CUDA runtime"),
            ("libcuda.so.1", "CUDA driver"),
            ("/opt/rocm/lib/librccl.so.1", "NCCL"),
            ("/usr/lib/libcudadebugger.so.1", ""),
            ("/usr/lib/libc.so.6", ""),
        ] {
            assert_eq!(Families::of_file_name(path.as_bytes()).names(), names, "{path}");
        }
    }

    #[test]
    fn a_marker_is_found_wherever_it_lies_but_only_whole() {
        let marker = Family::CudaRuntime.marker().unwrap_or_default();
        let size = 2 * CHUNK_BYTES + 100;
        let index = |length: usize| ElfIndex {
            found: Vec::new(),
            machine: 62,
            is_program: true,
            symtab: Symtab::Absent,
            read_only: vec![(10, length as u64 - 10)],
        };
        for at in [10, CHUNK_BYTES - 5, CHUNK_BYTES, 2 * CHUNK_BYTES - 20, size - marker.len()] {
            let mut file = vec![b'M'; size];
            file[at..at + marker.len()].copy_from_slice(marker);
            let found = search_markers(&file[..], &index(size));
            assert!(found.contains(Family::CudaRuntime), "at {at}");
            file[at] = b'x';
            assert!(search_markers(&file[..], &index(size)).is_empty(), "broken at {at}");
        }
        assert!(search_markers(&[0_u8; 20][..], &index(1 << 20)).is_empty());
    }
}
