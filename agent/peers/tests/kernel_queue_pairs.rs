//! RDMA queue pairs against a real kernel: perftest between two ports of software RoCE on a veth pair. Changes the host's RDMA
//! devices, and so runs in a virtual machine.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod driven;

use driven::{Driven, until};
use railwatch_nic::Owner;
use railwatch_peers::{Peers, QueuePairRow, QueuePairSource};
use railwatch_sampling::ErrorReason;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

fn run(command: &str) {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().expect("commands of iproute2 and kmod");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// perftest's ib_write_bw, ended with the value.
struct Perftest(Child);

impl Perftest {
    fn start(device: &str, more: &[&str]) -> Self {
        let prefix = std::env::var("RAILWATCH_PERFTEST").expect("perftest, unpacked: cargo xtask test kernels has it");
        let child = Command::new(format!("{prefix}/usr/bin/ib_write_bw"))
            .env("LD_LIBRARY_PATH", format!("{prefix}/usr/lib/x86_64-linux-gnu:{prefix}/lib/x86_64-linux-gnu"))
            // Reliable connections, four of them, until it is ended.
            .args(["-d", device, "-x", "1", "-q", "4", "-s", "1024", "-D", "600", "-F"])
            .args(more)
            // On its standard error it says what a person needs who looks why this test failed.
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Perftest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs a kernel with rdma_rxe to itself, and perftest: cargo xtask test kernels"]
fn queue_pairs_of_a_process_show_with_both_numbers_their_state_and_their_process() {
    for module in ["veth", "crc32_generic", "rdma_rxe", "ib_uverbs"] {
        run(&format!("modprobe {module}"));
    }
    let peers = Arc::new(Peers::default());
    let mut driven = Driven::new(QueuePairSource::new(Arc::clone(&peers)));
    assert_eq!(driven.probe().unwrap_err().reason, ErrorReason::Missing, "no device yet");
    assert_eq!(peers.view().off.get("rdma.qp"), None, "a host without RDMA lacks nothing");

    // Providers of libibverbs are looked for here alone. A virtual machine's root is its own.
    let prefix = std::env::var("RAILWATCH_PERFTEST").expect("perftest, unpacked: cargo xtask test kernels has it");
    run(&format!("cp -a {prefix}/etc/libibverbs.d /etc/"));
    run(&format!("cp -a {prefix}/usr/lib/x86_64-linux-gnu/libibverbs /usr/lib/x86_64-linux-gnu/"));
    run("ip link set lo up");
    run("ip link add rwl0 type veth peer name rwl1");
    for (interface, address) in [("rwl0", "10.77.0.1/24"), ("rwl1", "10.77.0.2/24")] {
        run(&format!("ip address add {address} dev {interface}"));
        run(&format!("ip link set {interface} up"));
    }
    for interface in ["all", "rwl0", "rwl1"] {
        let folder = format!("/proc/sys/net/ipv4/conf/{interface}");
        std::fs::write(format!("{folder}/accept_local"), "1").unwrap();
        std::fs::write(format!("{folder}/rp_filter"), "0").unwrap();
    }
    run("rdma link add rxl0 type rxe netdev rwl0");
    run("rdma link add rxl1 type rxe netdev rwl1");
    driven.probe().unwrap();
    assert!(driven.declared().contains("rdma.queue_pairs"));
    driven.read();
    let of_the_kernel = peers.view().queue_pairs;
    assert!(!of_the_kernel.is_empty(), "the kernel has its own for management");
    for row in of_the_kernel.iter() {
        assert_eq!(row.pair.owner, Owner::Kernel("ib_core".into()), "{row:?}");
        assert_eq!((row.pair.kind, row.comm.as_str()), ("GSI", "ib_core"), "{row:?}");
    }

    // Without the connection manager, as NCCL does: the kernel knows no address then.
    let receiver = Perftest::start("rxl1", &[]);
    let start_sender = || Perftest::start("rxl0", &["127.0.0.1"]);
    let mut sender = start_sender();
    let receiver_pid = receiver.0.id();
    let of = |pid: u32| -> Vec<QueuePairRow> {
        let view = peers.view();
        view.queue_pairs.iter().filter(|row| row.pair.owner == Owner::Process(pid)).cloned().collect()
    };
    let are_in = |states: &[&str], rows: &[QueuePairRow]| {
        rows.len() == 4 && rows.iter().all(|row| states.contains(&row.pair.state))
    };
    until("both ends ready", || {
        // One that came before the receiver listened has ended.
        if sender.0.try_wait().unwrap().is_some() {
            sender = start_sender();
        }
        driven.read();
        // One that only receives needs to be no more than ready to receive.
        are_in(&["RTS"], &of(sender.0.id())) && are_in(&["RTR", "RTS"], &of(receiver_pid))
    });
    let sender_pid = sender.0.id();
    let (sent, received) = (of(sender_pid), of(receiver_pid));
    for (own, device, far) in [(&sent, "rxl0", &received), (&received, "rxl1", &sent)] {
        for row in own {
            assert_eq!((row.device.as_str(), row.comm.as_str()), (device, "ib_write_bw"), "{row:?}");
            assert_eq!((row.pair.kind, row.pair.port), ("RC", Some(1)), "{row:?}");
            let other = far.iter().find(|other| Some(other.pair.number) == row.pair.remote_number);
            let other = other.unwrap_or_else(|| panic!("nobody at the other end of {row:?} among {far:#?}"));
            assert_eq!(other.pair.remote_number, Some(row.pair.number), "both ends say the same");
            assert_eq!((row.source, row.destination), (None, None), "{row:?}");
        }
    }
    drop((sender, receiver));
    until("their queue pairs are gone", || {
        driven.read();
        of(sender_pid).is_empty() && of(receiver_pid).is_empty()
    });
    assert_eq!(peers.view().queue_pairs, of_the_kernel);
    run("rdma link delete rxl0");
    run("rdma link delete rxl1");
    assert_eq!(driven.probe().unwrap_err().reason, ErrorReason::Missing);
    assert_eq!(peers.view().queue_pairs.len(), 0);
    run("ip link delete rwl0");
}
