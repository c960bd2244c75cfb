//! The kernel half's object: embedded, relocated against the maps, loaded.
//!
//! In: the object for this architecture (`objects/`, or the file that `RAILWATCH_EBPF_OBJECT` names), and the
//! configuration. Out: maps and programs as descriptors. Never: a build; `cargo xtask ebpf build` makes the object.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use aya_obj::generated::bpf_insn;
use aya_obj::{Object, ProgramSection};
use railwatch_abi::maps::{Config, Plain};

use super::{LoadError, sys};

/// Bytes at an alignment that an ELF file can be read in place at.
pub struct Aligned<T: ?Sized> {
    /// Makes it so.
    pub align: [u64; 0],
    /// The file.
    pub bytes: T,
}

#[cfg(target_arch = "x86_64")]
static EMBEDDED: &Aligned<[u8]> =
    &Aligned { align: [], bytes: *include_bytes!("../../objects/railwatch-x86_64.bpf.o") };
#[cfg(target_arch = "aarch64")]
static EMBEDDED: &Aligned<[u8]> =
    &Aligned { align: [], bytes: *include_bytes!("../../objects/railwatch-aarch64.bpf.o") };

/// `BPF_MAP_TYPE_TASK_STORAGE`.
const TASK_STORAGE: u32 = 29;
/// `BPF_MAP_TYPE_STACK_TRACE`.
const STACK_TRACE: u32 = 7;
/// `BPF_PROG_TYPE_KPROBE`, uprobes included.
const KPROBE: u32 = 2;
/// `BPF_PROG_TYPE_SCHED_CLS`.
const CLASSIFIER: u32 = 3;
/// `BPF_PROG_TYPE_RAW_TRACEPOINT`.
const RAW_TRACEPOINT: u32 = 17;
/// `BPF_F_RDONLY_PROG`.
const READ_ONLY: u32 = 1 << 7;

/// The parsed object, its configuration filled in.
pub struct Parsed {
    object: Object,
    /// FNV-1a of the bytes: pinned state of another object is not adopted.
    pub hash: u64,
}

/// FNV-1a, 64 bits.
pub fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Start value of [`fnv`].
pub const BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// The bytes of a plain value.
pub fn bytes_of<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `Plain` has no padding, and the slice lives as long as the value.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

impl Parsed {
    /// Parses the object for this architecture.
    pub fn new(config: &Config) -> Result<Self, LoadError> {
        Self::of(&EMBEDDED.bytes, "RAILWATCH_EBPF_OBJECT", config)
    }

    /// Parses an object (8-byte aligned), or the file that the environment variable `instead` names, with `config` in
    /// place of its read-only global `CONFIG`.
    pub fn of<T: Plain>(embedded: &[u8], instead: &str, config: &T) -> Result<Self, LoadError> {
        let overridden = match std::env::var_os(instead) {
            Some(path) => Some(std::fs::read(&path).map_err(|source| LoadError::Object {
                reason: format!("reading {} (from {instead}): {source}", path.display()),
            })?),
            None => None,
        };
        let bytes = overridden.as_deref().unwrap_or(embedded);
        let wrong = |error: String| LoadError::Object { reason: error };
        let mut object = Object::parse(bytes).map_err(|error| wrong(format!("parsing: {error}")))?;
        object
            .patch_map_data(HashMap::from([("CONFIG", (bytes_of(config), true))]))
            .map_err(|error| wrong(format!("setting its configuration: {error}")))?;
        Ok(Self { object, hash: fnv(BASIS, bytes) })
    }

    /// Names of the maps that hold state, in a stable order; the read-only data is not state.
    pub fn state_maps(&self) -> Vec<String> {
        let mut names: Vec<_> = self.object.maps.keys().filter(|name| !is_data(name)).cloned().collect();
        names.sort();
        names
    }

    /// Creates every map that is not among `adopted`.
    pub fn create_maps(
        &self,
        mut adopted: HashMap<String, OwnedFd>,
        stacks: bool,
    ) -> Result<HashMap<String, OwnedFd>, LoadError> {
        let failed = |name: &str, source| LoadError::Map { name: name.to_owned(), source };
        let mut maps = HashMap::new();
        for (name, map) in &self.object.maps {
            if let Some(fd) = adopted.remove(name) {
                maps.insert(name.clone(), fd);
                continue;
            }
            let kind = map.map_type();
            let types = if kind == TASK_STORAGE {
                let btf = storage_types(map.value_size());
                Some(sys::btf_load(&btf).map_err(|source| failed("types of THREADS", source))?)
            } else {
                None
            };
            let data = is_data(name);
            let fd = sys::map_create(&sys::MapSpec {
                name,
                kind,
                key_size: map.key_size(),
                value_size: map.value_size(),
                max_entries: if kind == STACK_TRACE && !stacks { 1 } else { map.max_entries() },
                flags: map.map_flags() | if data { READ_ONLY } else { 0 },
                btf: types.as_ref().map(|fd| (fd.as_fd(), 1, 3)),
            })
            .map_err(|source| failed(name, source))?;
            if data {
                sys::map_update_bytes(fd.as_fd(), &[0; 4], map.data(), 0)
                    .and_then(|()| sys::map_freeze(fd.as_fd()))
                    .map_err(|source| failed(name, source))?;
            }
            maps.insert(name.clone(), fd);
        }
        Ok(maps)
    }

    /// Points the programs at their maps and at each other.
    pub fn relocate(&mut self, maps: &HashMap<String, OwnedFd>) -> Result<(), LoadError> {
        let definitions = self.object.maps.clone();
        let text: HashSet<usize> = self.object.functions.keys().map(|&(section, _)| section).collect();
        let wrong = |error: String| LoadError::Object { reason: error };
        self.object
            .relocate_maps(
                maps.iter().filter_map(|(name, fd)| Some((name.as_str(), fd.as_raw_fd(), definitions.get(name)?))),
                &text,
            )
            .map_err(|error| wrong(format!("relocating maps: {error}")))?;
        self.object.relocate_calls(&text).map_err(|error| wrong(format!("relocating calls: {error}")))
    }

    /// Loads a program, for the given way of attaching (0: the program type's own).
    pub fn load(&self, name: &str, attach_type: u32) -> Result<OwnedFd, LoadError> {
        let missing = || LoadError::Object { reason: format!("it has no program {name}") };
        let program = self.object.programs.get(name).ok_or_else(missing)?;
        let function = self.object.functions.get(&program.function_key()).ok_or_else(missing)?;
        let kind = match program.section {
            ProgramSection::RawTracePoint => RAW_TRACEPOINT,
            ProgramSection::SchedClassifier => CLASSIFIER,
            _ => KPROBE,
        };
        load_program(name, kind, attach_type, &function.instructions, &program.license)
    }
}

fn load_program(
    name: &str,
    kind: u32,
    attach_type: u32,
    instructions: &[bpf_insn],
    license: &CString,
) -> Result<OwnedFd, LoadError> {
    let first = match sys::prog_load(name, kind, attach_type, instructions, license, &mut []) {
        Ok(fd) => return Ok(fd),
        Err(error) => error,
    };
    // Once more, to hear why. The end of the log is what counts.
    let mut log = vec![0; 16 << 20];
    match sys::prog_load(name, kind, attach_type, instructions, license, &mut log) {
        Ok(fd) => Ok(fd),
        Err(_) => {
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
            let tail = String::from_utf8_lossy(&log[end.saturating_sub(3000)..end]).into_owned();
            Err(LoadError::Program { name: name.to_owned(), source: first, verifier: tail })
        }
    }
}

fn is_data(name: &str) -> bool {
    name.starts_with('.')
}

/// Type information that task storage wants: 1 is the key, a 4-byte int; 3 the value, an array of 8-byte ints.
fn storage_types(value_size: u32) -> Vec<u8> {
    let strings = b"\0int\0long\0";
    let types: [u32; 14] = [
        1,
        1 << 24,
        4,
        1 << 24 | 32, // 1: int, signed, 32 bits
        5,
        1 << 24,
        8,
        64, // 2: long, 64 bits
        0,
        3 << 24,
        0,
        2,
        1,
        value_size / 8, // 3: array of 2, indexed by 1
    ];
    let length = size_of_val(&types) as u32;
    let header = [0x1_eb9f, 24, 0, length, length, strings.len() as u32];
    let mut btf: Vec<u8> = header.into_iter().chain(types).flat_map(u32::to_le_bytes).collect();
    btf.extend_from_slice(strings);
    btf
}

/// The descriptor of a map that the object is known to have.
pub fn named<'a>(maps: &'a HashMap<String, OwnedFd>, name: &str) -> Result<BorrowedFd<'a>, LoadError> {
    maps.get(name)
        .map(AsFd::as_fd)
        .ok_or_else(|| LoadError::Object { reason: format!("it has no map {name}: it is of another version") })
}
