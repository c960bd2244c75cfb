//! Loads the kernel half of disk requests, attaches it, and reads its maps.
//!
//! In: the running kernel's types, the processes that hold a GPU. Out: counts and times per disk, operation and issuer;
//! requests in flight; the books of both. Never: anything pinned, so that nothing stays when this is dropped; an offset that
//! the running kernel did not tell.

use railwatch_abi::disk::{DiskBooks, DiskConfig, DiskKey, GPU_PROCESSES_MAX, Requests, Started};
use railwatch_gpu::kernel::object::{Aligned, Parsed, named};
use railwatch_gpu::kernel::offsets::{KernelTypes, Types};
use railwatch_gpu::kernel::{LoadError, Off, possible_cpus, preconditions, sys};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

#[cfg(target_arch = "x86_64")]
static EMBEDDED: &Aligned<[u8]> =
    &Aligned { align: [], bytes: *include_bytes!("../objects/railwatch-disk-x86_64.bpf.o") };
#[cfg(target_arch = "aarch64")]
static EMBEDDED: &Aligned<[u8]> =
    &Aligned { align: [], bytes: *include_bytes!("../objects/railwatch-disk-aarch64.bpf.o") };

/// Operations whose numbers the kernel half relies on (include/linux/blk_types.h).
const OPERATIONS: [(&str, u32); 4] =
    [("REQ_OP_READ", 0), ("REQ_OP_FLUSH", 2), ("REQ_OP_DISCARD", 3), ("REQ_OP_DRV_IN", 34)];
/// Tracepoints, how many arguments each must have, and their programs.
const PROGRAMS: [(&str, &std::ffi::CStr, usize, &str); 2] =
    [("block_rq_issue", c"block_rq_issue", 1, "issued"), ("block_rq_complete", c"block_rq_complete", 3, "completed")];

/// What was seen, and what is not counted. `seen` = issued + `reissued` + `started_full` + `kinds_full`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Requests that were handed to a driver.
    pub seen: u64,
    /// Of those: handed over again, after the driver gave them back.
    pub reissued: u64,
    /// Of those: not timed, because too many were in flight.
    pub started_full: u64,
    /// Of those: not counted by disk, because there were too many kinds.
    pub kinds_full: u64,
    /// Not in `seen`: ends without a beginning, of requests that were in flight when the programs were attached too.
    pub unmatched: u64,
    /// Not in `seen`: the kernel left a program out, because it had interrupted itself.
    pub missed: u64,
}

/// The loaded kernel half. Dropping it detaches it and frees its maps.
pub struct DiskKernel {
    maps: HashMap<String, OwnedFd>,
    programs: Vec<OwnedFd>,
    /// Of `programs`; closing a link detaches its program.
    links: [Option<OwnedFd>; 2],
    cpus: usize,
    gpu_processes: BTreeSet<u32>,
    off: Vec<Off>,
}

/// The name in a key.
#[must_use]
pub fn disk_name(key: &DiskKey) -> String {
    let end = key.name.iter().position(|byte| *byte == 0).unwrap_or(key.name.len());
    String::from_utf8_lossy(&key.name[..end]).into_owned()
}

impl DiskKernel {
    /// Loads and attaches. What this kernel does not tell is in [`Self::off`].
    ///
    /// # Errors
    /// [`LoadError`] says what is missing: a capability, kernel 5.16, a field.
    pub fn load() -> Result<Self, LoadError> {
        Self::load_by(&Types::default())
    }

    /// The same, by types that others read too.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn load_by(types: &Types) -> Result<Self, LoadError> {
        preconditions()?;
        let types = types.get().map_err(|source| LoadError::Object {
            reason: format!("reading the kernel's types from /sys/kernel/btf/vmlinux: {source}"),
        })?;
        let mut off = Vec::new();
        let config = configure(&types, &mut off)?;
        let mut parsed = Parsed::of(&EMBEDDED.bytes, "RAILWATCH_DISK_OBJECT", &config)?;
        let maps = parsed.create_maps(HashMap::new(), false)?;
        parsed.relocate(&maps)?;
        for map in ["REQUESTS", "STARTED", "GPU_PROCESSES", "BOOKS"] {
            named(&maps, map)?;
        }
        let programs = PROGRAMS.iter().map(|(.., program)| parsed.load(program, 0)).collect::<Result<_, _>>()?;
        let (cpus, links) = (possible_cpus(), [None, None]);
        let mut new = Self { maps, programs, links, cpus, gpu_processes: BTreeSet::new(), off };
        new.attach()?;
        Ok(new)
    }

    /// Attaches what is not attached: the end first, so that no request is left whose beginning alone was seen.
    ///
    /// # Errors
    /// [`LoadError::Tracepoint`].
    pub fn attach(&mut self) -> Result<(), LoadError> {
        for ((name, tracepoint, ..), (program, link)) in
            PROGRAMS.into_iter().zip(self.programs.iter().zip(&mut self.links)).rev()
        {
            if link.is_none() {
                let new = sys::raw_tracepoint(program.as_fd(), tracepoint);
                *link = Some(new.map_err(|source| LoadError::Tracepoint { name, source })?);
            }
        }
        Ok(())
    }

    /// Takes the program off at which requests begin to be timed. A run of it may still be under way.
    pub fn stop_issues(&mut self) {
        self.links[0] = None;
    }

    /// Takes both programs off. A run of one may still be under way.
    pub fn detach(&mut self) {
        self.links = [None, None];
    }

    /// Forgets the requests in flight, and returns them. Only while nothing is attached and no run is under way.
    ///
    /// # Errors
    /// Errno of bpf(2).
    pub fn clear(&self) -> io::Result<Vec<Started>> {
        let mut cleared = Vec::new();
        sys::map_take_each(self.map("STARTED"), |_: u64, started: Started| cleared.push(started))?;
        Ok(cleared)
    }

    /// What is off on this kernel, and why.
    #[must_use]
    pub fn off(&self) -> &[Off] {
        &self.off
    }

    /// Says which processes hold a GPU, all of them.
    ///
    /// # Errors
    /// Errno of bpf(2).
    pub fn set_gpu_processes(&mut self, processes: BTreeSet<u32>) -> io::Result<()> {
        for gone in self.gpu_processes.difference(&processes) {
            sys::map_delete(self.map("GPU_PROCESSES"), gone)?;
        }
        for new in processes.difference(&self.gpu_processes).take(GPU_PROCESSES_MAX as usize) {
            sys::map_update(self.map("GPU_PROCESSES"), new, &1u32, 0)?;
        }
        self.gpu_processes = processes;
        Ok(())
    }

    /// Reads all counts and times, summed over CPUs.
    ///
    /// # Errors
    /// Errno of bpf(2).
    pub fn requests(&self, mut visit: impl FnMut(DiskKey, Requests)) -> io::Result<()> {
        sys::map_each_per_cpu(self.map("REQUESTS"), self.cpus, |key: DiskKey, copies: &[Requests]| {
            let mut sum = Requests::default();
            for copy in copies {
                sum.issued += copy.issued;
                sum.completed += copy.completed;
                sum.errors += copy.errors;
                sum.time_ns += copy.time_ns;
                for (to, more) in sum.buckets.iter_mut().zip(copy.buckets) {
                    *to = to.wrapping_add(more);
                }
            }
            visit(key, sum);
        })
    }

    /// Takes a kind out whose disk is gone: nothing adds to it any more.
    ///
    /// # Errors
    /// Errno of bpf(2).
    pub fn forget(&self, key: &DiskKey) -> io::Result<bool> {
        sys::map_delete(self.map("REQUESTS"), key)
    }

    /// Visits the requests in flight. One whose end was missed stays among them until its memory is used again.
    ///
    /// # Errors
    /// Errno of bpf(2).
    pub fn in_flight(&self, mut visit: impl FnMut(Started)) -> io::Result<()> {
        sys::map_each(self.map("STARTED"), |_: u64, started: Started| visit(started))
    }

    /// The books, now.
    ///
    /// # Errors
    /// Errno of bpf(2).
    pub fn books(&self) -> io::Result<Books> {
        let mut books = self.books_without_missed()?;
        for program in &self.programs {
            books.missed += sys::prog_misses(program.as_fd())?;
        }
        Ok(books)
    }

    /// The same by one system call, for whoever asks often.
    pub(crate) fn books_without_missed(&self) -> io::Result<Books> {
        let mut copies = vec![DiskBooks::default(); self.cpus];
        sys::map_lookup(self.map("BOOKS"), &0u32, &mut copies)?;
        let mut books = Books::default();
        for DiskBooks { seen, reissued, started_full, kinds_full, unmatched } in copies {
            books.seen += seen;
            books.reissued += reissued;
            books.started_full += started_full;
            books.kinds_full += kinds_full;
            books.unmatched += unmatched;
        }
        Ok(books)
    }

    /// The programs, for whoever measures them.
    pub fn programs(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.programs.iter().map(AsFd::as_fd)
    }

    fn map(&self, name: &str) -> BorrowedFd<'_> {
        // `load` refuses an object that lacks one of them.
        self.maps[name].as_fd()
    }
}

/// Fills the configuration in, and says what this kernel does not tell.
fn configure(types: &KernelTypes, off: &mut Vec<Off>) -> Result<DiskConfig, LoadError> {
    let refused = |reason: String| LoadError::Object { reason };
    for (name, _, arguments, _) in PROGRAMS {
        let found = types.tracepoint_arguments(name);
        if found != Some(arguments) {
            return Err(refused(format!(
                "this kernel's tracepoint {name} has {found:?} arguments and not {arguments}"
            )));
        }
    }
    let operations = types.enumerators("req_op").or_else(|| types.enumerators("req_opf")).unwrap_or_default();
    for (operation, number) in OPERATIONS {
        if !operations.iter().any(|(name, value)| name == operation && *value == number) {
            return Err(refused(format!("this kernel's {operation} is not {number}")));
        }
    }
    let field = |name: &'static str, path: &[&str]| {
        types.offset(name, path).ok_or_else(|| refused(format!("this kernel's {name} has no {}", path.join("."))))
    };
    let mut config = DiskConfig {
        request_queue: field("request", &["q"])?,
        request_flags: field("request", &["cmd_flags"])?,
        request_length: field("request", &["__data_len"])?,
        queue_disk: field("request_queue", &["disk"])?,
        disk_name: field("gendisk", &["disk_name"])?,
        ..DiskConfig::default()
    };
    let of_task = |member| field("task_struct", &[member]);
    match (of_task("flags"), of_task("real_parent"), of_task("tgid")) {
        (Ok(flags), Ok(parent), Ok(tgid)) => {
            (config.task_flags, config.task_parent, config.task_tgid) = (flags, parent, tgid);
            config.has_issuer = 1;
        }
        (flags, parent, tgid) => {
            let reason = [flags, parent, tgid].into_iter().find_map(Result::err).map(|error| error.to_string());
            off.push(Off { what: "requests of GPU processes apart from others", reason: reason.unwrap_or_default() });
        }
    }
    Ok(config)
}
