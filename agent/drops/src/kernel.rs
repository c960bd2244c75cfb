//! Loads the kernel half of the drops, attaches it, and reads its maps.
//!
//! In: a [`Scope`], the running kernel's types. Out: totals, flows taken out of the table, the books of both.
//! Never: anything pinned, so that nothing stays when this is dropped; an offset that the running kernel did not tell.

use crate::reasons::Reasons;
use railwatch_abi::drops::{DropBooks, DropKey, Dropped, DropsConfig, Flow, FlowKey};
use railwatch_gpu::kernel::object::{Aligned, Parsed, named};
use railwatch_gpu::kernel::offsets::{KernelTypes, Types};
use railwatch_gpu::kernel::{LoadError, Off, possible_cpus, preconditions, sys};
use railwatch_gpu::scope::Scope;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

#[cfg(target_arch = "x86_64")]
static EMBEDDED: &Aligned<[u8]> =
    &Aligned { align: [], bytes: *include_bytes!("../objects/railwatch-drops-x86_64.bpf.o") };
#[cfg(target_arch = "aarch64")]
static EMBEDDED: &Aligned<[u8]> =
    &Aligned { align: [], bytes: *include_bytes!("../objects/railwatch-drops-aarch64.bpf.o") };

/// The tables of flows, by what `ACTIVE` says.
const FLOWS: [&str; 2] = ["FLOWS_EVEN", "FLOWS_ODD"];

/// A total of the kernel half, summed over CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Total {
    /// Of what.
    pub key: DropKey,
    /// How much.
    pub dropped: Dropped,
}

/// What was seen, and what is in no total. `seen` = the packets of all totals + `totals_full`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Drops and retransmissions within the scope.
    pub seen: u64,
    /// Of those: in no total, because there were too many pairs of reason and interface.
    pub totals_full: u64,
    /// Not in `seen`: a scope was asked for, and the packet's namespace could not be told.
    pub scope_unknown: u64,
    /// Not in `seen`: the kernel left the program out, because it had interrupted itself.
    pub missed: u64,
}

/// The loaded kernel half. Dropping it detaches it and frees its maps.
pub struct DropKernel {
    maps: HashMap<String, OwnedFd>,
    programs: Vec<OwnedFd>,
    // Held for their effect: closing a link detaches its program.
    _links: Vec<OwnedFd>,
    cpus: usize,
    active: usize,
    reasons: Reasons,
    home: u32,
    off: Vec<Off>,
}

impl DropKernel {
    /// Loads and attaches. What this kernel does not tell is in [`Self::off`].
    ///
    /// # Errors
    /// [`LoadError`] says what is missing: a capability, kernel 5.17, a field that the scope needs.
    pub fn load(scope: &Scope) -> Result<Self, LoadError> {
        Self::load_by(scope, &Types::default())
    }

    /// The same, by types that others read too.
    ///
    /// # Errors
    /// As for [`Self::load`].
    pub fn load_by(scope: &Scope, types: &Types) -> Result<Self, LoadError> {
        preconditions()?;
        let types = types.get();
        let reasons = types.as_ref().map(|types| Reasons::of(types)).unwrap_or_default();
        let mut off = Vec::new();
        let config = configure(scope, types.as_deref(), &reasons, &mut off)?;
        let mut parsed = Parsed::of(&EMBEDDED.bytes, "RAILWATCH_DROPS_OBJECT", &config)?;
        let maps = parsed.create_maps(HashMap::new(), false)?;
        parsed.relocate(&maps)?;
        for map in ["TOTALS", "FLOWS_EVEN", "FLOWS_ODD", "ACTIVE", "BOOKS"] {
            named(&maps, map)?;
        }
        let (mut programs, mut links) = (Vec::new(), Vec::new());
        for (program, name) in [("dropped", c"kfree_skb"), ("retransmitted", c"tcp_retransmit_skb")] {
            let fd = parsed.load(program, 0)?;
            match sys::raw_tracepoint(fd.as_fd(), name) {
                Ok(link) => links.push(link),
                // Its argument for the reason came with 5.17; without it the kernel refuses to attach.
                Err(source) if program == "dropped" => {
                    return Err(LoadError::Tracepoint { name: "kfree_skb (with a reason: kernel 5.17)", source });
                }
                Err(error) => off.push(Off {
                    what: "TCP retransmissions",
                    reason: format!("attaching to the tracepoint tcp_retransmit_skb: {error}"),
                }),
            }
            programs.push(fd);
        }
        Ok(Self {
            maps,
            programs,
            _links: links,
            cpus: possible_cpus(),
            active: 0,
            reasons,
            home: config.home_namespace,
            off,
        })
    }

    /// What is off on this kernel, and why.
    #[must_use]
    pub fn off(&self) -> &[Off] {
        &self.off
    }

    /// The running kernel's reasons.
    #[must_use]
    pub fn reasons(&self) -> &Reasons {
        &self.reasons
    }

    /// The network namespace whose interfaces have totals of their own.
    #[must_use]
    pub fn home(&self) -> u32 {
        self.home
    }

    /// Reads all totals.
    ///
    /// # Errors
    /// Errno of bpf(2).
    pub fn totals(&self, mut visit: impl FnMut(Total)) -> io::Result<()> {
        sys::map_each_per_cpu(self.map("TOTALS"), self.cpus, |key: DropKey, copies: &[Dropped]| {
            let mut dropped = Dropped::default();
            for copy in copies {
                dropped.packets += copy.packets;
                dropped.bytes += copy.bytes;
                dropped.flows_full += copy.flows_full;
                dropped.no_flow += copy.no_flow;
            }
            visit(Total { key, dropped });
        })
    }

    /// Takes a total out whose interface is gone: nothing adds to it any more.
    ///
    /// # Errors
    /// Errno of bpf(2).
    pub fn forget(&self, key: &DropKey) -> io::Result<bool> {
        sys::map_delete(self.map("TOTALS"), key)
    }

    /// Takes all flows out of the table, each with what it lost since the last time. Programs write to the other table
    /// from then on; waits until none is in this one any more (membarrier(2): some milliseconds).
    ///
    /// # Errors
    /// Errno of bpf(2).
    pub fn take_flows(&mut self, visit: impl FnMut(FlowKey, Flow)) -> io::Result<()> {
        let ended = self.active;
        let next = 1 - ended;
        sys::map_update(self.map("ACTIVE"), &0u32, &u32::from(next == 1), 0)?;
        self.active = next;
        wait_for_programs();
        sys::map_take_each(self.map(FLOWS[ended]), visit)
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
        let mut copies = vec![DropBooks::default(); self.cpus];
        sys::map_lookup(self.map("BOOKS"), &0u32, &mut copies)?;
        let mut books = Books::default();
        for DropBooks { seen, totals_full, scope_unknown } in copies {
            books.seen += seen;
            books.totals_full += totals_full;
            books.scope_unknown += scope_unknown;
        }
        Ok(books)
    }

    fn map(&self, name: &str) -> BorrowedFd<'_> {
        // `load` refuses an object that lacks one of them.
        self.maps[name].as_fd()
    }
}

/// Returns when every program that ran at the call has ended: programs run in RCU read-side sections, and
/// MEMBARRIER_CMD_GLOBAL waits for those of all CPUs (kernel/sched/membarrier.c). Where it is refused (nohz_full), longer
/// than any program runs.
fn wait_for_programs() {
    const GLOBAL: libc::c_int = 1;
    // SAFETY: a system call without pointers.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if done != 0 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Fills the configuration in, and says what this kernel does not tell.
fn configure(
    scope: &Scope,
    types: Result<&KernelTypes, &io::Error>,
    reasons: &Reasons,
    off: &mut Vec<Off>,
) -> Result<DropsConfig, LoadError> {
    let own = std::fs::metadata("/proc/thread-self/ns/net").map_or(0, |namespace| namespace.ino() as u32);
    let mut config = DropsConfig { home_namespace: own, ..DropsConfig::default() };
    let refused = |reason: &str| LoadError::Object { reason: reason.to_owned() };
    match scope {
        Scope::Host => {}
        Scope::NetworkNamespace { inode } => {
            config.scope_namespace = *inode;
            config.home_namespace = *inode;
        }
        Scope::Cgroup { .. } => {
            return Err(refused("a packet is dropped outside any process, so a cgroup cannot be its scope"));
        }
    }
    for &reason in reasons.quiet() {
        config.keep_out(reason);
    }
    match types {
        Ok(types) => find(types, &mut config, off),
        Err(error) => off.push(Off {
            what: "names of drop reasons, interfaces and flows",
            reason: format!("reading the kernel's types from /sys/kernel/btf/vmlinux: {error}"),
        }),
    }
    if config.scope_namespace != 0 && config.has_interface == 0 {
        return Err(refused("this kernel does not tell a packet's network namespace, which the scope needs"));
    }
    if !reasons.is_named() && types.is_ok() {
        off.push(Off { what: "names of drop reasons", reason: "this kernel has no enum skb_drop_reason".to_owned() });
    }
    Ok(config)
}

/// Where things lie in this kernel.
fn find(types: &KernelTypes, config: &mut DropsConfig, off: &mut Vec<Off>) {
    config.has_receiver = u32::from(types.tracepoint_arguments("kfree_skb") >= Some(4));
    config.has_retransmit_error = u32::from(types.tracepoint_arguments("tcp_retransmit_skb") >= Some(3));
    let mut group = |what: &'static str, fields: &mut [(&mut u32, &'static str, &[&str])]| {
        for (place, name, path) in fields {
            let Some(offset) = types.offset(name, path) else {
                off.push(Off { what, reason: format!("this kernel's {name} has no {}", path.join(".")) });
                return 0;
            };
            **place = offset;
        }
        1
    };
    let c = config;
    c.has_length = group("bytes of dropped packets", &mut [(&mut c.skb_len, "sk_buff", &["len"])]);
    c.has_interface = group(
        "interface of dropped packets",
        &mut [
            (&mut c.skb_dev, "sk_buff", &["dev"]),
            (&mut c.skb_iif, "sk_buff", &["skb_iif"]),
            (&mut c.skb_sk, "sk_buff", &["sk"]),
            (&mut c.skb_dst, "sk_buff", &["_skb_refdst"]),
            (&mut c.dst_dev, "dst_entry", &["dev"]),
            (&mut c.device_ifindex, "net_device", &["ifindex"]),
            (&mut c.device_net, "net_device", &["nd_net", "net"]),
            (&mut c.net_inum, "net", &["ns", "inum"]),
            (&mut c.net_loopback, "net", &["loopback_dev"]),
            (&mut c.sock_net, "sock_common", &["skc_net", "net"]),
        ],
    );
    c.has_flow = group(
        "flow of dropped packets",
        &mut [
            (&mut c.skb_head, "sk_buff", &["head"]),
            (&mut c.skb_tail, "sk_buff", &["tail"]),
            (&mut c.skb_network_header, "sk_buff", &["network_header"]),
            (&mut c.skb_protocol, "sk_buff", &["protocol"]),
        ],
    );
    c.has_socket = group(
        "flow of TCP retransmissions",
        &mut [
            (&mut c.sock_family, "sock_common", &["skc_family"]),
            (&mut c.sock_port, "sock_common", &["skc_num"]),
            (&mut c.sock_peer_port, "sock_common", &["skc_dport"]),
            (&mut c.sock_address, "sock_common", &["skc_rcv_saddr"]),
            (&mut c.sock_peer, "sock_common", &["skc_daddr"]),
            (&mut c.sock_address6, "sock_common", &["skc_v6_rcv_saddr"]),
            (&mut c.sock_peer6, "sock_common", &["skc_v6_daddr"]),
            (&mut c.sock_dst, "sock", &["sk_dst_cache"]),
        ],
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Type information of a kernel whose `sk_buff` has these members, each 8 bytes after the one before.
    fn kernel_with(members: &[&str]) -> KernelTypes {
        let mut strings = vec![0u8];
        let mut name = |text: &str| {
            let at = strings.len() as u32;
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at
        };
        let mut types = vec![name("int"), 1 << 24, 4, 32];
        types.extend([name("sk_buff"), 4 << 24 | members.len() as u32, 8 * members.len() as u32]);
        for (index, member) in members.iter().enumerate() {
            types.extend([name(member), 1, 64 * index as u32]);
        }
        let length = types.len() as u32 * 4;
        let header = [0x1_eb9f, 24, 0, length, length, strings.len() as u32];
        let mut data: Vec<u8> = header.into_iter().chain(types).flat_map(u32::to_le_bytes).collect();
        data.extend_from_slice(&strings);
        KernelTypes::parse(data).expect("well-formed")
    }

    #[test]
    fn offsets_are_the_running_kernels_and_what_is_missing_is_off_alone() {
        let types = kernel_with(&["pad", "len", "head", "tail", "network_header", "protocol"]);
        let (mut config, mut off) = (DropsConfig::default(), Vec::new());
        find(&types, &mut config, &mut off);
        assert_eq!((config.has_length, config.skb_len), (1, 8));
        assert_eq!((config.has_flow, config.skb_head, config.skb_protocol), (1, 16, 40));
        assert_eq!((config.has_interface, config.has_socket, config.has_receiver), (0, 0, 0));
        let what: Vec<_> = off.iter().map(|off| (off.what, off.reason.as_str())).collect();
        assert_eq!(
            what,
            [
                ("interface of dropped packets", "this kernel's sk_buff has no dev"),
                ("flow of TCP retransmissions", "this kernel's sock_common has no skc_family")
            ]
        );
    }

    #[test]
    fn a_kernel_without_types_still_counts_reasons_but_takes_no_scope() {
        let error = io::Error::from(io::ErrorKind::NotFound);
        let mut off = Vec::new();
        let config = configure(&Scope::Host, Err(&error), &Reasons::default(), &mut off).expect("counts");
        assert_eq!((config.has_flow, config.has_interface), (0, 0));
        assert_eq!(off.len(), 1, "{off:?}");
        let scope = Scope::NetworkNamespace { inode: 1 };
        assert!(configure(&scope, Err(&error), &Reasons::default(), &mut off).is_err());
        let cgroup = Scope::Cgroup { id: 1, level: 1, path: "/".into() };
        assert!(configure(&cgroup, Err(&error), &Reasons::default(), &mut off).is_err());
    }
}
