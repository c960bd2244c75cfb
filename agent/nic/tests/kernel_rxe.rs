//! The RDMA sources against a real kernel: software RoCE (rdma_rxe) on a veth pair. Changes the host's RDMA devices, and so
//! runs in a virtual machine.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod driven;

use driven::Driven;
use railwatch_nic::{NicConfig, NicSources};
use railwatch_sampling::ErrorReason;
use railwatch_sampling::clock::monotonic_ns;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

fn run(command: &str) {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().expect("commands of iproute2 and kmod");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "needs a kernel with rdma_rxe to itself: cargo xtask vm 6.12"]
fn all_hardware_counters_of_a_port_come_by_netlink_and_its_link_is_followed() {
    // rxe asks for crc32 by itself, but only where the kernel can call modprobe.
    for module in ["veth", "crc32_generic", "rdma_rxe"] {
        run(&format!("modprobe {module}"));
    }
    run("ip link add rwv0 type veth peer name rwv1");
    run("ip link set rwv0 up");
    run("ip link set rwv1 up");
    run("rdma link add rwrxe0 type rxe netdev rwv0");
    let mut nic = NicSources::new(&NicConfig::default());
    let ports = nic.ports.clone();
    let mut hw = Driven::new(&mut nic, "rdma.hw");
    hw.probe().unwrap();
    let path = hw.source.kernel_path().to_owned();
    assert!(path.contains("STAT_GET (ports: 1)") && path.contains("hw_counters (ports: 0;"), "{path}");
    let files = std::fs::read_dir("/sys/class/infiniband/rwrxe0/ports/1/hw_counters").unwrap();
    let expected = files.filter(|file| file.as_ref().unwrap().file_name() != "lifespan").count();
    assert!(expected >= 10, "rxe has {expected} counters");
    for _ in 0..3 {
        assert_eq!(hw.read(), expected, "every counter the driver has, at every read");
    }
    assert_eq!(hw.catalog.refused(), 0);

    let mut pma = Driven::new(&mut nic, "rdma.pma");
    assert_eq!(pma.probe().unwrap_err().reason, ErrorReason::NotAvailable, "rxe has no PMA");

    let mut link = Driven::new(&mut nic, "rdma.link");
    link.probe().unwrap();
    link.read();
    let port = ports.all().remove(0);
    assert_eq!((port.name.as_str(), port.state.as_str(), port.netdev.as_deref()), ("rwrxe0/1", "active", Some("rwv0")));
    run("ip link set rwv1 down");
    let told = |link: &mut Driven, count: usize| {
        for _ in 0..6000 {
            link.read();
            if link.out.signals.len() >= count {
                break;
            }
            sleep(Duration::from_millis(10));
        }
        link.signals().into_iter().map(|s| (s.name, s.entity.name)).collect::<Vec<_>>()
    };
    assert_eq!(told(&mut link, 1), [("nic.link.down", "rwrxe0/1".to_owned())]);
    run("ip link set rwv1 up");
    assert_eq!(told(&mut link, 1), [("nic.link.up", "rwrxe0/1".to_owned())]);

    run("rdma link delete rwrxe0");
    assert_eq!(link.read() + hw.read(), 0, "nothing is left to read, and nothing is made up");
    assert_eq!(link.probe().unwrap_err().reason, ErrorReason::Missing);
    link.recorder.retire_all(monotonic_ns(), &mut link.out);
    assert_eq!(link.signals().iter().map(|s| s.name).collect::<Vec<_>>(), ["nic.link.down"]);
    run("ip link delete rwv0");
}

/// A transfer between two ports of this machine by perftest (unpacked at RAILWATCH_PERFTEST), while `meanwhile` is called.
fn transfer(from: &str, to: &str, mut meanwhile: impl FnMut()) {
    let prefix = std::env::var("RAILWATCH_PERFTEST").expect("perftest, unpacked: cargo xtask test kernels has it");
    let start = |device: &str, more: &[&str]| {
        Command::new(format!("{prefix}/usr/bin/ib_send_bw"))
            .env("LD_LIBRARY_PATH", format!("{prefix}/usr/lib/x86_64-linux-gnu:{prefix}/lib/x86_64-linux-gnu"))
            .args(["-d", device, "-x", "1", "-n", "2000", "-s", "1024", "-F"])
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut receiver = start(to, &[]);
    // Port 18515, listening (include/net/tcp_states.h).
    let listens = || {
        let sockets = ["/proc/net/tcp", "/proc/net/tcp6"].map(|file| std::fs::read_to_string(file).unwrap_or_default());
        sockets.iter().any(|text| text.lines().any(|line| line.contains(":4853 ") && line.contains(" 0A ")))
    };
    assert!(
        (0..600).any(|_| listens() || {
            sleep(Duration::from_millis(50));
            false
        }),
        "ib_send_bw listens"
    );
    let mut sender = start(from, &["127.0.0.1"]);
    while sender.try_wait().unwrap().is_none() {
        meanwhile();
        sleep(Duration::from_millis(10));
    }
    assert!(sender.wait().unwrap().success() && receiver.wait().unwrap().success(), "the transfer ends whole");
    meanwhile();
}

#[test]
#[ignore = "needs a kernel with rdma_rxe to itself, and perftest: cargo xtask test kernels"]
fn loss_on_the_wire_shows_at_each_end_in_the_right_counter_and_as_a_signal() {
    for module in ["veth", "crc32_generic", "rdma_rxe", "ib_uverbs", "sch_netem"] {
        run(&format!("modprobe {module}"));
    }
    // Providers of libibverbs are looked for here alone. A virtual machine's root is its own.
    let prefix = std::env::var("RAILWATCH_PERFTEST").expect("perftest, unpacked: cargo xtask test kernels has it");
    run(&format!("cp -a {prefix}/etc/libibverbs.d /etc/"));
    run(&format!("cp -a {prefix}/usr/lib/x86_64-linux-gnu/libibverbs /usr/lib/x86_64-linux-gnu/"));
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
    let mut hw = Driven::new(&mut NicSources::new(&NicConfig::default()), "rdma.hw");
    hw.probe().unwrap();
    hw.read();

    transfer("rxl0", "rxl1", || {
        hw.read();
    });
    let rows = hw.window();
    assert!(rows.delta("rxl1/1 rdma.port.hw.packets receive") >= 2000, "the transfer is seen");
    // The first packets can overrun the queue of a neighbour that is not resolved yet.
    let at_first = rows.delta("rxl1/1 rdma.port.out_of_sequence receive");
    assert!(at_first < 10, "{at_first} of 2000");
    assert_eq!(hw.signals(), [], "a whole wire is no loss");

    run("tc qdisc add dev rwl0 root netem loss 5%");
    transfer("rxl0", "rxl1", || {
        hw.read();
    });
    let rows = hw.window();
    assert!(rows.delta("rxl1/1 rdma.port.out_of_sequence receive") > 20, "the receiver misses packets");
    assert!(rows.delta("rxl0/1 rdma.port.completer_retries transmit") > 20, "the sender sends again");
    assert_eq!(rows.delta("rxl0/1 rdma.port.out_of_sequence receive"), 0, "nothing is lost on the way back");
    let told: Vec<_> = hw.signals().into_iter().map(|signal| (signal.name, signal.entity.name)).collect();
    for end in ["rxl0/1", "rxl1/1"] {
        assert!(told.contains(&("nic.rdma.loss", end.to_owned())), "{end}: {told:?}");
    }
    run("rdma link delete rxl0");
    run("rdma link delete rxl1");
    run("ip link delete rwl0");
}
