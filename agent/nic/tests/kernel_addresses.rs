//! Addresses of interfaces, as a real kernel tells them, in a network namespace that ends with the test. Needs root and iproute2.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use nix::sched::{CloneFlags, unshare};
use railwatch_nic::Addresses;
use std::process::Command;

fn shell(command: &str) {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn addresses_follow_what_the_interfaces_have() {
    let test = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace of its own: this test needs root");
        // Where veth is a module, `ip` needs it loaded; where it is built in, there may be no modprobe.
        let _ = Command::new("modprobe").arg("veth").status();
        shell("ip link add v0 type veth peer name v1; ip addr add 10.0.1.3/31 dev v0; ip link set v0 up");
        let mut addresses = Addresses::open().unwrap();
        let mut of = |interface: &str| {
            addresses.refresh().unwrap();
            addresses.of(interface).to_vec()
        };
        assert_eq!((of("v0"), of("v1")), (vec!["10.0.1.3/31".to_owned()], vec![]));
        // Of the link alone: nobody beyond it can reach that.
        shell("ip addr add 10.0.2.1/24 dev v0; ip addr add 169.254.7.7/16 scope link dev v0");
        assert_eq!(of("v0"), ["10.0.1.3/31", "10.0.2.1/24"]);
        shell("ip addr del 10.0.1.3/31 dev v0; ip addr add 10.0.3.1/24 dev v1");
        assert_eq!((of("v0"), of("v1")), (vec!["10.0.2.1/24".to_owned()], vec!["10.0.3.1/24".to_owned()]));
        shell("ip link del v0");
        assert_eq!((of("v0"), of("v1")), (vec![], vec![]));
    };
    if let Err(panic) = std::thread::spawn(test).join() {
        std::panic::resume_unwind(panic);
    }
}
