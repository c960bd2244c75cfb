//! The RDMA sources against a real kernel: software RoCE (rdma_rxe) on a veth pair. Changes the host's RDMA devices, and so
//! runs in a virtual machine.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod driven;

use driven::Driven;
use railwatch_nic::{NicConfig, NicSources};
use railwatch_sampling::ErrorReason;
use railwatch_sampling::clock::monotonic_ns;
use std::process::Command;
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
    assert!(path.contains("STAT_GET (ports: 1)") && path.ends_with("hw_counters (ports: 0)"), "{path}");
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
