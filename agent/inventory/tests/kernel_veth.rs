//! The source against a real kernel: a veth pair in a network namespace of its own, which ends with the test's thread. Needs root
//! (CAP_SYS_ADMIN and CAP_NET_ADMIN) and iproute2.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use railwatch_inventory::{InventoryConfig, InventorySource, Known};
use railwatch_sampling::{Catalog, Sampler, SamplerConfig, Signal, Sink, SinkFull, WindowFrame};
use railwatch_wire::v1;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Seen(Mutex<Vec<Signal>>);

impl Sink for Seen {
    fn window(&self, _: WindowFrame) -> Result<(), SinkFull> {
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<(), SinkFull> {
        self.0.lock().unwrap().push(signal);
        Ok(())
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("the command `ip` (package iproute2)");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn eventually<T>(what: &str, mut there: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = there() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_changed_mtu_is_told_by_the_kernel_and_by_us_with_what_was_before() {
    let thread = std::thread::spawn(|| {
        let own = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
        unshare(own).expect("namespaces of its own: this test needs root (CAP_SYS_ADMIN)");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mounts of its own");
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).expect("sysfs of its own");
        // Where veth is a module, `ip` needs it loaded; where it is built in, there may be no modprobe.
        let _ = Command::new("modprobe").arg("veth").status();
        ip("link add rwa type veth peer name rwb");
        ip("link set rwa up");
        ip("link set rwb up");
        let config = InventoryConfig { software_interfaces: vec!["veth".into()], ..InventoryConfig::default() };
        let published = Arc::<Mutex<Option<v1::InventoryState>>>::default();
        let publish = Arc::clone(&published);
        let source = InventorySource::new(config, Known::default, move |state| *publish.lock().unwrap() = Some(state));
        let (seen, catalog) = (Arc::new(Seen::default()), Arc::new(Catalog::default()));
        let mut sampler = Sampler::new(SamplerConfig::default(), catalog, Arc::clone(&seen) as Arc<dyn Sink>);
        sampler.start(Box::new(source), None).unwrap();
        let mtu = |interface: &str| {
            let state = published.lock().unwrap();
            let items = &state.as_ref()?.items;
            let found = items.iter().find(|item| (item.entity.as_str(), item.key.as_str()) == (interface, "mtu"));
            found.map(|item| item.value.clone())
        };
        assert_eq!(eventually("the first inventory", || mtu("rwa")), "1500");
        let driver = published.lock().unwrap().as_ref().and_then(|state| {
            state.items.iter().find(|item| item.entity == "rwa" && item.key == "driver").map(|item| item.value.clone())
        });
        assert_eq!(driver.as_deref(), Some("veth"), "ethtool -i");
        ip("link set rwa mtu 9000");
        // The next slow reading is a minute away: the kernel's notification tells.
        let signals = eventually("the signal", || Some(seen.0.lock().unwrap().clone()).filter(|all| !all.is_empty()));
        let told: Vec<_> = signals.iter().map(|s| (s.name, s.entity.name.as_str(), s.summary.as_str())).collect();
        assert_eq!(told, [("config.changed", "rwa", "port rwa: mtu is 9000, was 1500")]);
        assert_eq!((signals[0].value, signals[0].previous), (9000.0, Some(1500.0)));
        assert!(signals[0].moment.half_width_ns < 1_000_000_000, "told by the kernel, it has its instant");
        assert_eq!((mtu("rwa").as_deref(), mtu("rwb").as_deref()), (Some("9000"), Some("1500")));
        // Down and up again changes no setting.
        ip("link set rwb down");
        ip("link set rwb up");
        ip("link set rwb mtu 4000");
        let signals = eventually("the other's", || Some(seen.0.lock().unwrap().clone()).filter(|all| all.len() > 1));
        let told: Vec<_> = signals[1..].iter().map(|s| s.summary.as_str()).collect();
        assert_eq!(told, ["port rwb: mtu is 4000, was 1500"]);
        sampler.stop();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
