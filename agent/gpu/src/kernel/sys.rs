//! The bpf(2) and perf_event_open(2) calls that the loader makes, typed. Nothing else in this crate is a system call on
//! BPF objects.
//!
//! In: descriptors and plain values. Out: descriptors and plain values, or the errno.
//! Never: a policy. (aya has no uprobe_multi, no task storage, no batch reads; with `aya_obj` for the object format,
//! this much is all that is needed, and all of it is visible.)

use std::ffi::CStr;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use railwatch_abi::maps::Plain;

const MAP_CREATE: u32 = 0;
const MAP_LOOKUP: u32 = 1;
const MAP_UPDATE: u32 = 2;
const MAP_DELETE: u32 = 3;
const PROG_LOAD: u32 = 5;
const OBJ_GET_INFO: u32 = 15;
const OBJ_PIN: u32 = 6;
const OBJ_GET: u32 = 7;
const PROG_NEXT_ID: u32 = 11;
const PROG_OF_ID: u32 = 13;
const RAW_TRACEPOINT_OPEN: u32 = 17;
const BTF_LOAD: u32 = 18;
const MAP_FREEZE: u32 = 22;
const MAP_LOOKUP_BATCH: u32 = 24;
const MAP_LOOKUP_AND_DELETE_BATCH: u32 = 25;
const LINK_CREATE: u32 = 28;

const ATTACH_PERF_EVENT: u32 = 41;
/// `BPF_TRACE_UPROBE_MULTI` (kernel 6.6).
pub const ATTACH_UPROBE_MULTI: u32 = 48;
const UPROBE_MULTI_RETURN: u32 = 1;

/// Issues bpf(2) with one of its attribute structs.
fn bpf<T>(command: u32, attr: &mut T) -> Result<i32> {
    // SAFETY: `attr` is a live `repr(C)` prefix of `union bpf_attr`, and its size says how much of it there is.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if done < 0 { Err(Error::last_os_error()) } else { Ok(done as i32) }
}

fn bpf_fd<T>(command: u32, attr: &mut T) -> Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the command returned a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn address<T: ?Sized>(value: &T) -> u64 {
    std::ptr::from_ref(value).cast::<u8>().addr() as u64
}

/// At most 15 bytes of a name, as the kernel keeps it.
fn short_name(name: &str) -> [u8; 16] {
    let mut short = [0; 16];
    for (to, from) in short.iter_mut().take(15).zip(name.bytes()) {
        *to = if from.is_ascii_alphanumeric() || from == b'_' || from == b'.' { from } else { b'_' };
    }
    short
}

/// What a map is to be.
pub struct MapSpec<'a> {
    /// Name shown by bpftool.
    pub name: &'a str,
    /// `BPF_MAP_TYPE_*`.
    pub kind: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Bound.
    pub max_entries: u32,
    /// `BPF_F_*`.
    pub flags: u32,
    /// BTF with the ids of key and value type, where the map type wants it.
    pub btf: Option<(BorrowedFd<'a>, u32, u32)>,
}

/// Creates a map.
pub fn map_create(spec: &MapSpec<'_>) -> Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        kind: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        flags: u32,
        inner: u32,
        numa_node: u32,
        name: [u8; 16],
        ifindex: u32,
        btf_fd: u32,
        btf_key: u32,
        btf_value: u32,
    }
    let (btf_fd, btf_key, btf_value) =
        spec.btf.map_or((0, 0, 0), |(fd, key, value)| (fd.as_raw_fd() as u32, key, value));
    bpf_fd(
        MAP_CREATE,
        &mut Attr {
            kind: spec.kind,
            key_size: spec.key_size,
            value_size: spec.value_size,
            max_entries: spec.max_entries,
            flags: spec.flags,
            inner: 0,
            numa_node: 0,
            name: short_name(spec.name),
            ifindex: 0,
            btf_fd,
            btf_key,
            btf_value,
        },
    )
}

#[repr(C)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Writes an element from bytes.
pub fn map_update_bytes(map: BorrowedFd<'_>, key: &[u8], value: &[u8], flags: u64) -> Result<()> {
    bpf(
        MAP_UPDATE,
        &mut Element { map: map.as_raw_fd() as u32, pad: 0, key: address(key), value: address(value), flags },
    )
    .map(drop)
}

/// Writes an element.
pub fn map_update<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K, value: &V, flags: u64) -> Result<()> {
    bpf(
        MAP_UPDATE,
        &mut Element { map: map.as_raw_fd() as u32, pad: 0, key: address(key), value: address(value), flags },
    )
    .map(drop)
}

/// Reads an element into `values`, which holds one value (or one per CPU). `false` where there is none.
pub fn map_lookup<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K, values: &mut [V]) -> Result<bool> {
    let done = bpf(
        MAP_LOOKUP,
        &mut Element {
            map: map.as_raw_fd() as u32,
            pad: 0,
            key: address(key),
            value: values.as_mut_ptr().addr() as u64,
            flags: 0,
        },
    );
    absent_is_false(done)
}

/// Removes an element. `false` where there was none.
pub fn map_delete<K: Plain>(map: BorrowedFd<'_>, key: &K) -> Result<bool> {
    absent_is_false(bpf(
        MAP_DELETE,
        &mut Element { map: map.as_raw_fd() as u32, pad: 0, key: address(key), value: 0, flags: 0 },
    ))
}

fn absent_is_false(done: Result<i32>) -> Result<bool> {
    match done {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Visits every element of a hash map, a batch a call. Elements that come or go meanwhile may or may not be visited.
pub fn map_each<K: Plain + Default, V: Plain + Default>(
    map: BorrowedFd<'_>,
    mut visit: impl FnMut(K, V),
) -> Result<()> {
    batches(map, MAP_LOOKUP_BATCH, 1, |key, values: &[V]| visit(key, values[0]))
}

/// As [`map_each`], of a map whose values have a copy per CPU (a multiple of 8 bytes long).
pub fn map_each_per_cpu<K: Plain + Default, V: Plain + Default>(
    map: BorrowedFd<'_>,
    cpus: usize,
    visit: impl FnMut(K, &[V]),
) -> Result<()> {
    batches(map, MAP_LOOKUP_BATCH, cpus, visit)
}

/// As [`map_each`], taking each element out of the map.
pub fn map_take_each<K: Plain + Default, V: Plain + Default>(
    map: BorrowedFd<'_>,
    mut visit: impl FnMut(K, V),
) -> Result<()> {
    batches(map, MAP_LOOKUP_AND_DELETE_BATCH, 1, |key, values: &[V]| visit(key, values[0]))
}

/// Walks a hash map whose values have this many copies (at least one).
fn batches<K: Plain + Default, V: Plain + Default>(
    map: BorrowedFd<'_>,
    command: u32,
    copies: usize,
    mut visit: impl FnMut(K, &[V]),
) -> Result<()> {
    #[repr(C)]
    struct Attr {
        from: u64,
        next: u64,
        keys: u64,
        values: u64,
        count: u32,
        map: u32,
        element_flags: u64,
        flags: u64,
    }
    // Large values with a copy for each of hundreds of CPUs come in smaller batches, so that a batch stays below 256 KiB. The first
    // is far smaller: most maps hold a handful, and memory of more than 128 KiB is asked of the kernel anew each time.
    let room_of = |bytes: usize| (bytes / (size_of::<V>() * copies).max(1)).clamp(8, 512);
    let (mut room, room_max) = (room_of(16 * 1024), room_of(256 * 1024));
    let mut keys = vec![K::default(); room];
    let mut values = vec![V::default(); room * copies];
    let (mut position, mut next): (u64, u64) = (0, 0);
    let mut first = true;
    loop {
        let mut attr = Attr {
            from: if first { 0 } else { address(&position) },
            next: std::ptr::from_mut(&mut next).addr() as u64,
            keys: keys.as_mut_ptr().addr() as u64,
            values: values.as_mut_ptr().addr() as u64,
            count: room as u32,
            map: map.as_raw_fd() as u32,
            element_flags: 0,
            flags: 0,
        };
        let done = bpf(command, &mut attr).map(drop);
        let end = match done {
            Ok(()) => false,
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT) => true,
                // One bucket holds more than there is room for.
                Some(libc::ENOSPC) => {
                    room *= 2;
                    keys.resize(room, K::default());
                    values.resize(room * copies, V::default());
                    continue;
                }
                _ => return Err(error),
            },
        };
        for (key, values) in keys.iter().zip(values.chunks_exact(copies)).take(attr.count as usize) {
            visit(*key, values);
        }
        if end {
            return Ok(());
        }
        position = next;
        first = false;
        if room < room_max {
            room = room_max;
            keys.resize(room, K::default());
            values.resize(room * copies, V::default());
        }
    }
}

/// Makes a map read-only for user space for good.
pub fn map_freeze(map: BorrowedFd<'_>) -> Result<()> {
    #[repr(C)]
    struct Attr {
        map: u32,
    }
    bpf(MAP_FREEZE, &mut Attr { map: map.as_raw_fd() as u32 }).map(drop)
}

/// Loads type information.
pub fn btf_load(btf: &[u8]) -> Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        btf: u64,
        log: u64,
        size: u32,
        log_size: u32,
        log_level: u32,
        /// The kernel writes it from 6.4 on; before, it must be 0, and so must not be left to padding.
        log_true_size: u32,
    }
    bpf_fd(
        BTF_LOAD,
        &mut Attr { btf: address(btf), log: 0, size: btf.len() as u32, log_size: 0, log_level: 0, log_true_size: 0 },
    )
}

/// Loads a program. On refusal, `log` holds the verifier's words.
pub fn prog_load(
    name: &str,
    kind: u32,
    attach_type: u32,
    instructions: &[aya_obj::generated::bpf_insn],
    license: &CStr,
    log: &mut [u8],
) -> Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        kind: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        ifindex: u32,
        attach_type: u32,
    }
    bpf_fd(
        PROG_LOAD,
        &mut Attr {
            kind,
            instruction_count: instructions.len() as u32,
            instructions: address(instructions),
            license: license.as_ptr().addr() as u64,
            log_level: u32::from(!log.is_empty()),
            log_size: log.len() as u32,
            log: if log.is_empty() { 0 } else { log.as_mut_ptr().addr() as u64 },
            kernel_version: 0,
            flags: 0,
            name: short_name(name),
            ifindex: 0,
            attach_type,
        },
    )
}

/// The kernel's number of a map: unique within a boot, the same for whoever opens it.
pub fn map_id(map: BorrowedFd<'_>) -> Result<u32> {
    #[repr(C)]
    struct Attr {
        fd: u32,
        length: u32,
        info: u64,
    }
    // SAFETY: plain integers and bytes, all of which may be 0.
    let mut info: aya_obj::generated::bpf_map_info = unsafe { std::mem::zeroed() };
    bpf(
        OBJ_GET_INFO,
        &mut Attr {
            fd: map.as_raw_fd() as u32,
            length: size_of_val(&info) as u32,
            info: std::ptr::from_mut(&mut info).addr() as u64,
        },
    )?;
    Ok(info.id)
}

/// Times that the kernel left a program out because one of its runs was interrupted by another (kernel 5.12; 0 before).
pub fn prog_misses(program: BorrowedFd<'_>) -> Result<u64> {
    #[repr(C)]
    struct Attr {
        fd: u32,
        length: u32,
        info: u64,
    }
    // SAFETY: plain integers, all of which may be 0.
    let mut info: aya_obj::generated::bpf_prog_info = unsafe { std::mem::zeroed() };
    bpf(
        OBJ_GET_INFO,
        &mut Attr {
            fd: program.as_raw_fd() as u32,
            length: size_of_val(&info) as u32,
            info: std::ptr::from_mut(&mut info).addr() as u64,
        },
    )?;
    Ok(info.recursion_misses)
}

/// Numbers of the programs that the kernel has under this name, whoever loaded them; at most its first 15 bytes count.
pub fn programs_named(name: &str) -> Result<Vec<u32>> {
    #[repr(C)]
    struct NextId {
        start: u32,
        next: u32,
        flags: u32,
    }
    #[repr(C)]
    struct Attr {
        fd: u32,
        length: u32,
        info: u64,
    }
    let wanted = short_name(name);
    let mut found = Vec::new();
    let mut at = NextId { start: 0, next: 0, flags: 0 };
    loop {
        match bpf(PROG_NEXT_ID, &mut at) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(found),
            other => other?,
        };
        let id = at.next;
        at = NextId { start: id, next: 0, flags: 0 };
        let program = match bpf(PROG_OF_ID, &mut NextId { start: id, next: 0, flags: 0 }) {
            // It went meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            // SAFETY: the call succeeded and gave a new descriptor to us alone.
            other => unsafe { OwnedFd::from_raw_fd(other?) },
        };
        // SAFETY: plain integers and bytes, all of which may be 0.
        let mut info: aya_obj::generated::bpf_prog_info = unsafe { std::mem::zeroed() };
        let info_at = std::ptr::from_mut(&mut info).addr() as u64;
        bpf(
            OBJ_GET_INFO,
            &mut Attr { fd: program.as_raw_fd() as u32, length: size_of_val(&info) as u32, info: info_at },
        )?;
        if info.name.iter().zip(&wanted).all(|(has, wanted)| *has as u8 == *wanted) {
            found.push(id);
        }
    }
}

#[repr(C)]
struct Path {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Gives an object a name in a BPF file system, under which it outlives this process.
pub fn pin(object: BorrowedFd<'_>, path: &CStr) -> Result<()> {
    bpf(OBJ_PIN, &mut Path { path: path.as_ptr().addr() as u64, fd: object.as_raw_fd() as u32, flags: 0 }).map(drop)
}

/// Opens a pinned object.
pub fn open_pinned(path: &CStr) -> Result<OwnedFd> {
    bpf_fd(OBJ_GET, &mut Path { path: path.as_ptr().addr() as u64, fd: 0, flags: 0 })
}

/// Attaches to a raw tracepoint.
pub fn raw_tracepoint(program: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        name: u64,
        program: u32,
        pad: u32,
        cookie: u64,
    }
    bpf_fd(
        RAW_TRACEPOINT_OPEN,
        &mut Attr { name: name.as_ptr().addr() as u64, program: program.as_raw_fd() as u32, pad: 0, cookie: 0 },
    )
}

/// Attaches to many points of one file at once.
pub fn uprobe_multi(
    program: BorrowedFd<'_>,
    path: &CStr,
    offsets: &[u64],
    cookies: &[u64],
    returns: bool,
) -> Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        program: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
        path: u64,
        offsets: u64,
        reference_counters: u64,
        cookies: u64,
        count: u32,
        multi_flags: u32,
        pid: u32,
        pad: u32,
    }
    assert_eq!(offsets.len(), cookies.len(), "each point has its cookie");
    bpf_fd(
        LINK_CREATE,
        &mut Attr {
            program: program.as_raw_fd() as u32,
            target: 0,
            attach_type: ATTACH_UPROBE_MULTI,
            flags: 0,
            path: path.as_ptr().addr() as u64,
            offsets: address(offsets),
            reference_counters: 0,
            cookies: address(cookies),
            count: offsets.len() as u32,
            multi_flags: if returns { UPROBE_MULTI_RETURN } else { 0 },
            pid: 0,
            pad: 0,
        },
    )
}

/// Opens a perf event of the `uprobe` kind and attaches a program to it. The link keeps the event.
pub fn uprobe_perf(
    program: BorrowedFd<'_>,
    pmu: u32,
    path: &CStr,
    offset: u64,
    cookie: u64,
    returns: bool,
) -> Result<OwnedFd> {
    /// `struct perf_event_attr` up to `config2` (PERF_ATTR_SIZE_VER1).
    #[repr(C)]
    struct PerfAttr {
        kind: u32,
        size: u32,
        config: u64,
        sample_period: u64,
        sample_type: u64,
        read_format: u64,
        flags: u64,
        wakeup: u32,
        breakpoint: u32,
        config1: u64,
        config2: u64,
    }
    #[repr(C)]
    struct LinkAttr {
        program: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
        cookie: u64,
    }
    let attr = PerfAttr {
        kind: pmu,
        size: size_of::<PerfAttr>() as u32,
        config: u64::from(returns),
        sample_period: 0,
        sample_type: 0,
        read_format: 0,
        flags: 0,
        wakeup: 0,
        breakpoint: 0,
        config1: path.as_ptr().addr() as u64,
        config2: offset,
    };
    const CLOSE_ON_EXEC: libc::c_ulong = 8;
    // SAFETY: `attr` and the path it points to live across the call. Any CPU will do: a uprobe is one for all.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, std::ptr::from_ref(&attr), -1, 0, -1, CLOSE_ON_EXEC) };
    if fd < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    let event = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    bpf_fd(
        LINK_CREATE,
        &mut LinkAttr {
            program: program.as_raw_fd() as u32,
            target: event.as_raw_fd() as u32,
            attach_type: ATTACH_PERF_EVENT,
            flags: 0,
            cookie,
        },
    )
}
