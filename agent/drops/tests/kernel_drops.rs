//! Real drops with known counts and flows, against the kernel's own word. Each test has a network namespace of its own,
//! which is the scope, so that nothing else on the host is counted. Needs root (CAP_SYS_ADMIN) and iproute2.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use nix::sched::{CloneFlags, unshare};
use railwatch_abi::drops::{FLOWS_MAX, Flow, FlowKey, RETRANSMIT};
use railwatch_drops::{Account, Books, DropKernel, DropView, Drops, DropsSource, FlowRow, FlowTable};
use railwatch_gpu::scope::Scope;
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{Batch, Catalog, Output, Recorder, Source};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One test at a time: some count what this process holds, or what a CPU has time for.
static TURN: Mutex<()> = Mutex::new(());

fn in_own_namespace(test: impl FnOnce(Scope) + Send + 'static) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    apart(test);
}

/// Runs a test on a thread of its own, in a network namespace of its own in which `lo` is up.
fn apart(test: impl FnOnce(Scope) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace of its own: this test needs root (CAP_SYS_ADMIN)");
        ip("link set lo up");
        test(Scope::network_namespace(Path::new("/proc/thread-self/ns/net")).unwrap());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("the command `ip` (package iproute2)");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What was dropped so far, by reason: packets, and those without a flow.
fn totals(kernel: &DropKernel) -> BTreeMap<String, (u64, u64)> {
    let mut by_reason: BTreeMap<_, (u64, u64)> = BTreeMap::new();
    kernel
        .totals(|total| {
            let sum = by_reason.entry(kernel.reasons().name(total.key.reason)).or_default();
            sum.0 += total.dropped.packets;
            sum.1 += total.dropped.no_flow + total.dropped.flows_full;
        })
        .unwrap();
    by_reason
}

fn flows(kernel: &mut DropKernel) -> Vec<FlowRow> {
    let mut table = FlowTable::default();
    kernel.take_flows(|key, flow| table.add(key, flow)).unwrap();
    table.top(usize::MAX)
}

/// Every packet is in a flow, or in its total as one that is not.
fn reconciles(kernel: &DropKernel, flows: u64) -> Books {
    let (mut packets, mut without) = (0, 0);
    for (all, no) in totals(kernel).values() {
        packets += all;
        without += no;
    }
    let books = kernel.books().unwrap();
    assert_eq!(books.seen, packets + books.totals_full, "{books:?}");
    assert_eq!(packets, flows + without, "{books:?}");
    books
}

/// Waits until `packets` of a reason are counted: a busy CPU hands packets of `lo` to a thread, which has its own time.
fn counted(kernel: &DropKernel, reason: &str, packets: u64) -> u64 {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let missed = kernel.books().unwrap().missed;
        let seen = totals(kernel).get(reason).map_or(0, |total| total.0) + missed;
        if seen >= packets || Instant::now() > end {
            assert_eq!(seen, packets, "{reason}: {:?}", totals(kernel));
            return missed;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends until told otherwise; an ICMP error for an earlier datagram is not one of this.
fn send(socket: &UdpSocket, to: SocketAddr, payload: &[u8]) {
    while let Err(error) = socket.send_to(payload, to) {
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    }
}

#[test]
fn a_datagram_for_a_closed_port_is_no_socket_with_its_flow() {
    in_own_namespace(|scope| {
        let mut kernel = DropKernel::load(&scope).unwrap();
        assert_eq!(kernel.off(), [], "this kernel tells everything");
        let mut sent = 0;
        // Fewer than a CPU's backlog holds.
        for (address, packets, header) in
            [(IpAddr::from(Ipv4Addr::LOCALHOST), 800u64, 28), (Ipv6Addr::LOCALHOST.into(), 700, 48)]
        {
            let socket = UdpSocket::bind((address, 0)).unwrap();
            // RoCEv2's port: a packet for it that reaches the kernel is a packet like any other.
            let to = SocketAddr::from((address, 4791));
            let before = monotonic_ns();
            for _ in 0..packets {
                send(&socket, to, b"four");
            }
            sent += packets;
            let missed = counted(&kernel, "NO_SOCKET", sent);
            let rows = flows(&mut kernel);
            let own: Vec<_> = rows.iter().filter(|row| kernel.reasons().name(row.key.reason) == "NO_SOCKET").collect();
            assert_eq!(own.len(), 1, "{rows:?}");
            let FlowRow { key, flow } = own[0];
            assert_eq!((own[0].source(), own[0].destination()), (address, address));
            assert_eq!(key.source_port, socket.local_addr().unwrap().port());
            assert_eq!((key.destination_port, own[0].protocol().as_str(), key.interface), (4791, "udp", 1));
            assert!(flow.packets <= packets && flow.packets + missed >= packets, "{flow:?} {missed}");
            // What is left when UDP drops it: its own header and payload, or more where the network header is on still.
            assert!((12..=4 + header).contains(&(flow.bytes / flow.packets)), "{flow:?}");
            let times = [before, flow.first_ns, flow.last_ns, monotonic_ns()];
            assert!(times.is_sorted(), "{times:?}");
        }
    });
}

#[test]
fn a_full_socket_buffer_is_counted_to_the_packet() {
    in_own_namespace(|scope| {
        let mut kernel = DropKernel::load(&scope).unwrap();
        let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let size: libc::c_int = 4096;
        // SAFETY: a live descriptor and a live int of the length given.
        let set = unsafe {
            let value = std::ptr::from_ref(&size).cast();
            libc::setsockopt(receiver.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, value, size_of_val(&size) as u32)
        };
        assert_eq!(set, 0);
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let sent = 500;
        for _ in 0..sent {
            send(&sender, receiver.local_addr().unwrap(), &[7; 512]);
        }
        receiver.set_nonblocking(true).unwrap();
        let mut received = 0;
        while receiver.recv(&mut [0; 1024]).is_ok() {
            received += 1;
        }
        assert!(received < sent, "the buffer overflows");
        counted(&kernel, "SOCKET_RCVBUFF", sent - received);
        let rows: Vec<_> = flows(&mut kernel)
            .into_iter()
            .filter(|row| row.key.destination_port == receiver.local_addr().unwrap().port())
            .collect();
        let reasons: Vec<_> = rows.iter().map(|row| kernel.reasons().name(row.key.reason)).collect();
        assert_eq!(reasons, ["SOCKET_RCVBUFF"]);
        let dropped: u64 = rows.iter().map(|row| row.flow.packets).sum();
        assert_eq!(dropped + kernel.books().unwrap().missed, sent - received, "{rows:?}");
        let inode = match scope {
            Scope::NetworkNamespace { inode } => inode,
            _ => unreachable!("as the test arranged"),
        };
        // Even where UDP has put other things in the place of the device.
        assert!(rows.iter().all(|row| (row.key.namespace, row.key.interface) == (inode, 1)), "{rows:?}");
    });
}

#[test]
fn a_wrong_checksum_is_a_fault() {
    in_own_namespace(|scope| {
        let mut kernel = DropKernel::load(&scope).unwrap();
        // An IP header that the kernel completes (IP_HDRINCL), and a UDP header with a checksum that is wrong.
        let mut packet = [0u8; 32];
        packet[0] = 0x45;
        packet[8..10].copy_from_slice(&[64, 17]);
        packet[12..20].copy_from_slice(&[127, 0, 0, 1, 127, 0, 0, 1]);
        packet[20..28].copy_from_slice(&[0x30, 0x39, 0x12, 0xb7, 0, 12, 0xde, 0xad]);
        // SAFETY: a socket of its own, and a live address and buffer of the lengths given.
        unsafe {
            let raw = libc::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW);
            assert!(raw >= 0);
            let to = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: 0,
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
                sin_zero: [0; 8],
            };
            for _ in 0..40 {
                let sent = libc::sendto(
                    raw,
                    packet.as_ptr().cast(),
                    packet.len(),
                    0,
                    std::ptr::from_ref(&to).cast(),
                    size_of_val(&to) as u32,
                );
                assert_eq!(sent, 32);
            }
            libc::close(raw);
        }
        let missed = counted(&kernel, "UDP_CSUM", 40);
        let rows = flows(&mut kernel);
        let row = rows.iter().find(|row| row.key.destination_port == 4791).unwrap();
        assert_eq!(kernel.reasons().name(row.key.reason), "UDP_CSUM");
        assert_eq!(kernel.reasons().class(row.key.reason).name(), "fault");
        assert_eq!(kernel.reasons().class(row.key.reason).series(), "hw.network.drops.fault");
        assert_eq!((row.key.source_port, row.flow.packets + missed), (12345, 40));
    });
}

#[test]
fn a_segment_sent_again_is_counted_as_the_kernel_counts_it_and_consumed_packets_never_are() {
    in_own_namespace(|scope| {
        let mut kernel = DropKernel::load(&scope).unwrap();
        let _ = Command::new("modprobe").arg("veth").status();
        ip("link add rwa type veth peer name rwb");
        ip("addr add 10.99.0.1/24 dev rwa");
        ip("link set rwa up");
        ip("link set rwb up");
        // What is sent before the link has its queue is dropped on this side.
        while !{
            let link = ip("-o link show rwa");
            link.contains("state UP") && !link.contains("qdisc noop ")
        } {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Nobody has this address: the other end drops what is not for it, and no answer comes.
        ip("neigh add 10.99.0.2 lladdr 02:00:00:00:00:99 dev rwa nud permanent");
        let to = SocketAddr::from(([10, 99, 0, 2], 4242));
        let connected = std::net::TcpStream::connect_timeout(&to, Duration::from_millis(3_500));
        assert!(connected.is_err());
        let snmp = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
        let mut tcp = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: ")).map(|line| line.split(' '));
        let at = tcp.next().unwrap().position(|name| name == "RetransSegs").unwrap();
        let retransmitted: u64 = tcp.next().unwrap().nth(at).unwrap().parse().unwrap();
        assert!(retransmitted >= 1, "{snmp}");
        counted(&kernel, "OTHERHOST", retransmitted + 1);

        let rows = flows(&mut kernel);
        let of = |reason: &str| {
            let is_own = |row: &&FlowRow| kernel.reasons().name(row.key.reason) == reason && row.key.protocol == 6;
            rows.iter().find(is_own).unwrap_or_else(|| panic!("no {reason} in {rows:?}"))
        };
        let (again, dropped) = (of("TCP_RETRANSMIT"), of("OTHERHOST"));
        assert_eq!((again.key.reason, again.flow.packets), (RETRANSMIT, retransmitted));
        let series = |row: &FlowRow| kernel.reasons().class(row.key.reason).series();
        assert_eq!((series(again), series(dropped)), ("hw.network.tcp.retransmits", "hw.network.drops.harmless"));
        // The first one and its repetitions, each dropped at the other end.
        assert_eq!(dropped.flow.packets, retransmitted + 1);
        for row in [again, dropped] {
            assert_eq!(row.source(), IpAddr::from([10, 99, 0, 1]));
            assert_eq!((row.destination(), row.key.destination_port), (to.ip(), 4242));
        }
        assert_eq!(again.key.source_port, dropped.key.source_port);
        let index = |name: &str| nix::net::if_::if_nametoindex(name).unwrap();
        assert_eq!((again.key.interface, dropped.key.interface), (index("rwa"), index("rwb")));
        assert!(totals(&kernel).keys().all(|reason| !reason.contains("CONSUMED")), "{:?}", totals(&kernel));
    });
}

#[test]
fn another_namespace_is_out_of_scope_and_nothing_stays_attached() {
    in_own_namespace(|scope| {
        let kernel = DropKernel::load(&scope).unwrap();
        apart(|_| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            for _ in 0..50 {
                send(&socket, ([127, 0, 0, 1], 9).into(), b"x");
            }
        });
        assert_eq!(kernel.books().unwrap().seen, 0);
        assert_ne!(held_bpf_objects(), 0);
        drop(kernel);
        assert_eq!(held_bpf_objects(), 0);
    });
}

/// Programs, links and maps that this process has open; nothing is pinned, so that there is nothing else of ours.
fn held_bpf_objects() -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let links = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.filter(|link| link.to_string_lossy().contains("bpf")).count()
}

/// The source as the sampler drives it: series per reason and interface, flows, and an account that adds up.
#[test]
fn the_source_shows_totals_flows_and_an_account_that_adds_up() {
    in_own_namespace(|scope| {
        let (mut source, drops) = DropsSource::new(scope);
        let catalog = Arc::new(Catalog::default());
        let window = Duration::from_secs(100_000_000);
        let mut recorder = Recorder::new("drops", window, railwatch_drops::RULES, Arc::clone(&catalog));
        let mut out = Output::default();
        recorder.probe(monotonic_ns(), &mut out, |declare| source.probe(declare)).unwrap();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for sent in 1..=3_000 {
            send(&socket, ([127, 0, 0, 1], 9).into(), b"x");
            // No faster than a CPU's backlog allows.
            if sent % 500 == 0 {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let view = drive(&mut source, &mut recorder, &mut out, &drops);
        let missed = view.elsewhere["missed"];
        let total = view.totals.iter().find(|total| total.reason == "NO_SOCKET").unwrap();
        assert_eq!((total.interface.as_str(), total.packets + missed), ("lo", 3_000));
        let flow = &view.flows[0];
        assert_eq!((flow.reason.as_str(), flow.interface.as_str()), ("NO_SOCKET", "lo"));
        assert_eq!(flow.row.flow.packets + missed, 3_000);
        assert_eq!(view.seen, view.in_flows + view.elsewhere.values().sum::<u64>());
        assert_eq!(view.elsewhere["not_yet_read"], 0, "{view:?}");
        let told: Vec<_> = out.signals.iter().map(|signal| (signal.name, signal.entity.name.as_str())).collect();
        assert_eq!(told, [("net.drop.burst", "lo")], "3,000 within a reading or two are a burst");
        let series = catalog.all();
        assert_eq!(catalog.outside_vocabulary(), "");
        let own = series.iter().find(|def| def.label("reason") == Some("NO_SOCKET")).unwrap();
        assert_eq!((own.name(), own.label("network.interface.name")), ("hw.network.drops.loss", Some("lo")));
    });
}

/// Reads as the sampler does until the flows were taken over after the last drop.
fn drive(source: &mut DropsSource, recorder: &mut Recorder, out: &mut Output, drops: &Drops) -> Arc<DropView> {
    let mut batch = Batch::with_capacity(4096);
    for _ in 0..24 {
        batch.clear();
        source.read(&mut batch).unwrap();
        recorder.record(&batch, out);
        // Where it found a new reason, it asks for this.
        recorder.probe(monotonic_ns(), out, |declare| source.probe(declare)).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    drops.view()
}

/// A flood of far more flows than the table holds: what is in no flow is counted, to the packet.
#[test]
#[ignore = "a million drops: some seconds of a machine to itself"]
fn a_flood_of_flows_reconciles_to_the_packet() {
    const ADDRESSES: u8 = 100;
    const PORTS: u16 = 1_000;
    const ROUNDS: u64 = 10;
    in_own_namespace(|scope| {
        let mut kernel = DropKernel::load(&scope).unwrap();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let own = socket.local_addr().unwrap().port();
        let drops = u64::from(ADDRESSES) * u64::from(PORTS) * ROUNDS;
        let mut sent = 0;
        for _ in 0..ROUNDS {
            for address in 1..=ADDRESSES {
                for port in 1..=PORTS {
                    assert_ne!(port, own);
                    send(&socket, ([127, 1, 1, address], port).into(), b"x");
                    sent += 1;
                    if sent % 500 == 0 {
                        // No faster than a CPU's backlog allows.
                        counted(&kernel, "NO_SOCKET", sent);
                    }
                }
            }
        }
        let rows = flows(&mut kernel);
        let in_flows: u64 = rows.iter().map(|row| row.flow.packets).sum();
        let books = reconciles(&kernel, in_flows);
        let total = totals(&kernel)["NO_SOCKET"];
        assert_eq!(total.0 + books.missed, drops, "every drop is in its total");
        assert!(rows.len() <= FLOWS_MAX as usize && rows.len() as u32 >= FLOWS_MAX - 64, "{} flows", rows.len());
        assert!(total.1 > 0, "flows beyond the table are counted");
        // The table is empty again: a new flow finds room.
        send(&socket, ([127, 2, 2, 2], 2_000).into(), b"x");
        assert_eq!(flows(&mut kernel).len(), 1);
        eprintln!(
            "kernel_drops: {drops} drops of {} flows: {} flows kept with {in_flows} packets, {} packets beyond, {books:?}",
            drops / ROUNDS,
            rows.len(),
            total.1
        );
    });
}

/// Several CPUs at once, flows taken all the while: nothing is counted twice or lost between the two tables.
#[test]
fn flows_taken_while_packets_drop_add_up() {
    in_own_namespace(|scope| {
        let mut kernel = DropKernel::load(&scope).unwrap();
        let sockets: Vec<_> = (0..4).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
        let (sent, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let senders: Vec<_> = sockets
            .into_iter()
            .map(|socket| {
                let (sent, done) = (Arc::clone(&sent), Arc::clone(&done));
                std::thread::spawn(move || {
                    for _ in 0..20_000 {
                        // No faster than a CPU's backlog allows.
                        while sent.load(Relaxed) > done.load(Relaxed) + 400 {
                            std::thread::yield_now();
                        }
                        sent.fetch_add(1, Relaxed);
                        send(&socket, ([127, 0, 0, 1], 9).into(), b"x");
                    }
                })
            })
            .collect();
        let mut table = FlowTable::default();
        let mut takes = 0;
        while !senders.iter().all(std::thread::JoinHandle::is_finished) {
            kernel.take_flows(|key, flow| table.add(key, flow)).unwrap();
            let books = kernel.books().unwrap();
            done.store(books.seen + books.missed, Relaxed);
            takes += 1;
        }
        for sender in senders {
            sender.join().unwrap();
        }
        counted(&kernel, "NO_SOCKET", 80_000);
        kernel.take_flows(|key, flow| table.add(key, flow)).unwrap();
        let Account { taken, .. } = table.account();
        reconciles(&kernel, taken);
        assert!(takes > 1);
        let rows: BTreeMap<FlowKey, Flow> =
            table.top(usize::MAX).into_iter().map(|FlowRow { key, flow }| (key, flow)).collect();
        assert_eq!(rows.keys().filter(|key| key.destination_port == 9).count(), 4);
    });
}

/// Prints what counting costs where packets are dropped.
#[test]
#[ignore = "a measurement, not a check: prints nanoseconds per drop"]
fn cost_per_drop() {
    in_own_namespace(|scope| {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let round = |packets: u64| {
            let before = thread_cpu_ns();
            for _ in 0..packets {
                send(&socket, ([127, 0, 0, 1], 9).into(), b"x");
            }
            (thread_cpu_ns() - before) / packets
        };
        let (mut without, mut with) = (Vec::new(), Vec::new());
        round(2_000);
        for _ in 0..31 {
            without.push(round(2_000));
            let kernel = DropKernel::load(&scope).unwrap();
            round(200);
            with.push(round(2_000));
            drop(kernel);
        }
        without.sort_unstable();
        with.sort_unstable();
        let (without, with) = (without[15], with[15]);
        println!(
            "a datagram sent to a closed port and dropped: {without} ns; counted: {with} ns; a drop costs {} ns more",
            i128::from(with) - i128::from(without)
        );
    });
}

fn thread_cpu_ns() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}
