//! The interface sources against a real kernel: a veth pair in a network namespace of its own, which ends with the test's
//! thread, whatever happens. Needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN) and iproute2.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use railwatch_nic::{NicConfig, NicSources, Ports, RULES};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{
    Catalog, ErrorReason, Sampler, SamplerConfig, Signal, Sink, SinkFull, SourceState, WindowFrame,
};
use std::net::UdpSocket;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

#[derive(Default)]
struct Seen {
    windows: Mutex<Vec<WindowFrame>>,
    /// Signals, and when each arrived.
    signals: Mutex<Vec<(Signal, u64)>>,
}

impl Sink for Seen {
    fn window(&self, frame: WindowFrame) -> Result<(), SinkFull> {
        self.windows.lock().unwrap().push(frame);
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<(), SinkFull> {
        self.signals.lock().unwrap().push((signal, monotonic_ns()));
        Ok(())
    }
}

impl Seen {
    /// Name, interface and cause of every signal of a link so far, in order of arrival. (A slow machine may slow the sources
    /// too, and says so.)
    fn told(&self) -> Vec<(&'static str, String, String)> {
        let cause = |s: &Signal| {
            s.attributes.iter().find(|(key, _)| *key == "cause").map(|(_, c)| c.clone()).unwrap_or_default()
        };
        let signals = self.signals.lock().unwrap();
        let of_links = signals.iter().filter(|(s, _)| s.name.starts_with("nic.link."));
        of_links.map(|(s, _)| (s.name, s.entity.name.clone(), cause(s))).collect()
    }
}

struct Lab {
    sampler: Sampler,
    seen: Arc<Seen>,
    catalog: Arc<Catalog>,
    nic_ports: Arc<Ports>,
}

/// Runs a test on a thread of its own, in a network namespace of its own with the pair `rwa`-`rwb`, both up.
fn in_own_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        let own = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
        unshare(own).expect("namespaces of its own: this test needs root (CAP_SYS_ADMIN)");
        // sysfs shows the network namespace of whoever mounted it.
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mounts of its own");
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).expect("sysfs of its own");
        // IPv6 would send neighbour discovery of its own, and the byte counts would not be ours alone.
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").expect("IPv6 off in the test's namespace");
        // Where veth is a module, `ip` needs it loaded; where it is built in, there may be no modprobe.
        let _ = Command::new("modprobe").arg("veth").status();
        ip("link add rwa type veth peer name rwb");
        ip("link set rwa up");
        ip("link set rwb up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("the command `ip` (package iproute2)");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn lab() -> Lab {
    let nic = NicSources::new(&NicConfig { software_interfaces: vec!["veth".into()], ..NicConfig::default() });
    let (seen, catalog) = (Arc::new(Seen::default()), Arc::new(Catalog::default()));
    let config = SamplerConfig { rules: RULES, reprobe: Duration::from_secs(2), ..SamplerConfig::default() };
    let mut sampler = Sampler::new(config, Arc::clone(&catalog), Arc::clone(&seen) as Arc<dyn Sink>);
    for source in nic.sources {
        sampler.start(source, None).unwrap();
    }
    until("both interfaces read", || {
        let reports = sampler.reports();
        reports[..2].iter().all(|report| report.state == SourceState::On && report.reads >= 1)
    });
    Lab { sampler, seen, catalog, nic_ports: nic.ports }
}

fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..12_000 {
        if condition() {
            return;
        }
        sleep(Duration::from_millis(5));
    }
    panic!("waited a minute for {what}");
}

/// What all windows so far say of one series.
fn delta(seen: &Seen, catalog: &Catalog, interface: &str, name: &str, direction: &str) -> u64 {
    let windows = seen.windows.lock().unwrap();
    let wanted = catalog.all().into_iter().find(|def| {
        def.entity().name == interface && def.name() == name && def.label("network.io.direction") == Some(direction)
    });
    let id = wanted.expect("the series is declared").id();
    windows
        .iter()
        .flat_map(|w| w.series.iter().zip(&w.delta).filter(|(series, _)| **series == id).map(|(_, delta)| *delta))
        .sum()
}

#[test]
fn every_byte_sent_is_in_the_windows_of_both_ends() {
    in_own_namespace(|| {
        ip("addr add 192.0.2.1/24 dev rwa");
        ip("neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev rwa");
        let lab = lab();
        let socket = UdpSocket::bind("192.0.2.1:0").unwrap();
        let packets = 1000;
        for i in 0..packets {
            socket.send_to(&[0; 958], "192.0.2.2:9").unwrap();
            if i % 100 == 0 {
                sleep(Duration::from_millis(130));
            }
        }
        // 958 bytes, 8 of UDP, 20 of IPv4, 14 of Ethernet.
        let bytes = packets * 1000;
        let Lab { sampler, seen, catalog, nic_ports } = lab;
        // On a busy machine the source is slowed: its reading after the last packet may take a while.
        until("windows with the last packet at both ends", || {
            let at = |interface, name, direction| delta(&seen, &catalog, interface, name, direction);
            at("rwa", "hw.network.io", "transmit") >= bytes && at("rwb", "hw.network.io", "receive") >= bytes
        });
        let reports = sampler.stop();
        let netdev = &reports[0];
        assert_eq!((netdev.source, netdev.errors.iter().sum::<u64>()), ("netdev", 0), "{netdev:?}");
        let ports: Vec<_> = nic_ports.all().into_iter().map(|port| (port.name, port.state)).collect();
        assert_eq!(ports, [("rwa".to_owned(), "up".to_owned()), ("rwb".to_owned(), "up".to_owned())]);
        for (interface, name, direction, expected) in [
            ("rwa", "hw.network.packets", "transmit", packets),
            ("rwa", "hw.network.io", "transmit", bytes),
            ("rwb", "hw.network.io", "receive", bytes),
            ("rwa", "hw.network.io", "receive", 0),
        ] {
            assert_eq!(delta(&seen, &catalog, interface, name, direction), expected, "{interface} {name} {direction}");
        }
    });
}

#[test]
fn a_link_going_down_is_told_at_once_with_its_cause_and_in_order() {
    in_own_namespace(|| {
        let lab = lab();
        sleep(Duration::from_millis(50));
        assert_eq!(lab.seen.told(), [], "up at start is no news");
        let before_ns = monotonic_ns();
        ip("link set rwb down");
        until("both ends down", || lab.seen.told().len() >= 2);
        let mut down = lab.seen.told();
        down.sort_by_key(|(_, interface, _)| interface.clone());
        let owned = |name, interface: &str, cause: &str| (name, interface.to_owned(), cause.to_owned());
        assert_eq!(down, [owned("nic.link.down", "rwa", "no_carrier"), owned("nic.link.down", "rwb", "admin_down")]);
        for (signal, arrived_ns) in lab.seen.signals.lock().unwrap().iter() {
            assert!((before_ns..=*arrived_ns).contains(&signal.moment.at_ns), "{signal:?}");
            println!(
                "{} {}: {} us from reading to sink",
                signal.entity.name,
                signal.name,
                (arrived_ns - signal.moment.at_ns) / 1000
            );
        }
        ip("link set rwb up");
        until("both ends up", || lab.seen.told().len() >= 4);
        assert!(lab.seen.told()[2..].iter().all(|(name, _, _)| *name == "nic.link.up"), "{:?}", lab.seen.told());
        let link = lab.sampler.reports().into_iter().find(|report| report.source == "netdev.link").unwrap();
        assert!(link.events >= 2, "told by the kernel, not found by polling: {link:?}");
    });
}

#[test]
fn an_interface_that_goes_and_comes_is_noticed_without_waiting_for_the_slow_probe() {
    in_own_namespace(|| {
        let lab = lab();
        ip("link del rwa");
        until("both ends gone", || lab.seen.told().len() >= 2);
        assert!(lab.seen.told().iter().all(|(name, _, _)| *name == "nic.link.down"), "{:?}", lab.seen.told());
        until(
            "the source to be off",
            || matches!(&lab.sampler.reports()[1].state, SourceState::Off { reason: ErrorReason::Missing, text } if text.contains("veth")),
        );
        ip("link add rwa type veth peer name rwb");
        ip("link set rwa up");
        ip("link set rwb up");
        until("both ends up", || lab.seen.told().iter().filter(|(name, _, _)| *name == "nic.link.up").count() >= 2);
    });
}

#[test]
fn a_flap_faster_than_notifications_is_told() {
    in_own_namespace(|| {
        let lab = lab();
        for _ in 0..3 {
            ip("link set rwb down");
            ip("link set rwb up");
        }
        until("rwa down and up again", || {
            let told = lab.seen.told();
            let of_a: Vec<_> = told.iter().filter(|(_, interface, _)| interface == "rwa").collect();
            of_a.iter().any(|(name, _, _)| *name == "nic.link.down")
                && of_a.last().is_some_and(|(name, _, _)| *name == "nic.link.up")
        });
    });
}
