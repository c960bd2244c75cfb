//! The LLDP receiver against real speakers: lldpd of the distribution at both ends of a veth pair, and frames of our own making.
//! Needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW), iproute2, python3, and lldpd unpacked at RAILWATCH_LLDPD.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod driven;

use driven::{Driven, in_own_namespaces, ip, until};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use railwatch_nic::NicConfig;
use railwatch_peers::lldp::{CHANGED, LOST};
use railwatch_peers::{LldpSource, Neighbour, Peers};
use railwatch_sampling::{Catalog, ErrorReason, Sampler, SamplerConfig, Severity, Signal, Sink, SinkFull, WindowFrame};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

fn receiver() -> (Driven, Arc<Peers>) {
    let peers = Arc::new(Peers::default());
    let config = NicConfig { software_interfaces: vec!["veth".into()], ..NicConfig::default() };
    (Driven::new(LldpSource::new(config, Arc::clone(&peers))), peers)
}

/// Sends an LLDPDU from an interface to a group address (or another).
fn send(interface: &str, destination: &str, ether_type: &str, pdu: &str) {
    let script = format!(
        "import socket\n\
         s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n\
         s.bind(('{interface}', 0))\n\
         s.send(bytes.fromhex('{destination}' '020000000099' '{ether_type}' '{pdu}').ljust(60, b'\\0'))\n"
    );
    assert!(Command::new("python3").args(["-c", &script]).status().unwrap().success());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Chassis and port of subtype `local`, a name.
fn pdu(chassis: &str, port: &str, ttl_s: u16, name: &str) -> String {
    let tlv = |kind: u16, information: &[u8]| {
        let header = kind << 9 | u16::try_from(information.len()).unwrap();
        hex(&[&header.to_be_bytes()[..], information].concat())
    };
    let local = |text: &str| [&[7], text.as_bytes()].concat();
    [tlv(1, &local(chassis)), tlv(2, &local(port)), tlv(3, &ttl_s.to_be_bytes()), tlv(5, name.as_bytes()), tlv(0, b"")]
        .concat()
}

const NEAREST_BRIDGE: &str = "0180c200000e";
const LLDP: &str = "88cc";

#[test]
fn a_neighbour_is_heard_on_its_port_alone_followed_and_lost() {
    in_own_namespaces(|| {
        ip("link add rwa type veth peer name rwb");
        ip("link set rwa up");
        ip("link set rwb up");
        let (mut driven, peers) = receiver();
        driven.probe().unwrap();
        let series = ["lldp.frames", "lldp.frames.discarded", "lldp.neighbours"].map(str::to_owned);
        assert_eq!(driven.declared(), BTreeSet::from(series));
        driven.read();
        assert_eq!((peers.view().neighbours.len(), driven.told()), (0, vec![]));

        send("rwb", NEAREST_BRIDGE, LLDP, &pdu("leaf1", "swp1", 120, "leaf1.rack2"));
        until("the frame", || {
            driven.read();
            !peers.view().neighbours.is_empty()
        });
        let seen: Vec<_> = peers
            .view()
            .neighbours
            .iter()
            .map(|n| (n.interface.clone(), n.said.system_name.clone(), n.said.port.text.clone(), n.said.ttl_s))
            .collect();
        assert_eq!(seen, [("rwa".into(), "leaf1.rack2".into(), "swp1".into(), 120)]);
        assert_eq!(driven.told(), [(CHANGED, "rwa".to_owned(), "appeared".to_owned())]);
        assert_eq!(driven.told[0].summary, "port rwa: its neighbour is leaf1.rack2 port swp1");
        let attribute = |signal: &Signal, key| signal.attributes.iter().find(|(of, _)| *of == key).unwrap().1.clone();
        assert_eq!(attribute(&driven.told[0], "lldp.chassis.id"), "leaf1");

        // Every group of the standard is heard. A good frame that nothing but its address or type keeps out is not.
        for (destination, ether_type, chassis, is_heard) in [
            ("0180c2000003", LLDP, "non-TPMR bridge", true),
            ("0180c2000000", LLDP, "customer bridge", true),
            ("0180c2000001", LLDP, "address of pause frames", false),
            ("ffffffffffff", LLDP, "broadcast", false),
            (NEAREST_BRIDGE, "88b5", "experimental type", false),
        ] {
            send("rwb", destination, ether_type, &pdu(chassis, "p", 1, ""));
            // Behind it, so that it was heard before this one or never.
            let behind = format!("after {chassis}");
            send("rwb", NEAREST_BRIDGE, LLDP, &pdu("leaf1", "swp1", 120, &behind));
            let mut heard = false;
            until("the frame behind it", || {
                driven.read();
                let view = peers.view();
                heard |= view.neighbours.iter().any(|neighbour| neighbour.said.chassis.text == chassis);
                view.neighbours.iter().any(|neighbour| neighbour.said.system_name == behind)
            });
            assert_eq!(heard, is_heard, "{chassis}");
        }
        until("those that hold a second are gone", || {
            driven.read();
            peers.view().neighbours.len() == 1
        });

        // Another switch on the same port: somebody moved the cable. Then both go, one by its silence and one by its word.
        driven.told.clear();
        send("rwb", NEAREST_BRIDGE, LLDP, &pdu("leaf2", "swp1", 5, "leaf2"));
        until("the other neighbour", || {
            driven.read();
            driven.told().contains(&(CHANGED, "rwa".to_owned(), "another".to_owned()))
        });
        let another = driven.told.iter().find(|signal| signal.severity == Severity::Warning).unwrap();
        assert_eq!(attribute(another, "lldp.previous"), "leaf1 port swp1");
        until("leaf2's silence", || {
            driven.read();
            driven.told().contains(&(LOST, "rwa".to_owned(), "expired".to_owned()))
        });
        send("rwb", NEAREST_BRIDGE, LLDP, &pdu("leaf1", "swp1", 0, ""));
        until("leaf1's word", || {
            driven.read();
            driven.told().contains(&(LOST, "rwa".to_owned(), "shutdown".to_owned()))
        });
        assert_eq!(peers.view().neighbours.len(), 0);
        let last = driven.told.last().unwrap();
        assert_eq!((last.value, last.severity), (0.0, Severity::Warning), "none is left");
    });
}

#[test]
fn interfaces_come_and_go_while_it_listens() {
    in_own_namespaces(|| {
        ip("link add rwa type veth peer name rwb");
        ip("link set rwa up");
        ip("link set rwb up");
        let (mut driven, peers) = receiver();
        driven.probe().unwrap();
        ip("link add rwc type veth peer name rwd");
        ip("link set rwc up");
        ip("link set rwd up");
        // The notification asks for a probe, which the sampler makes.
        driven.read();
        driven.probe().unwrap();
        for (from, name) in [("rwd", "on c"), ("rwb", "on a")] {
            send(from, NEAREST_BRIDGE, LLDP, &pdu(name, "p", 120, name));
        }
        let ports = || peers.view().neighbours.iter().map(|n| n.interface.clone()).collect::<Vec<_>>();
        until("both frames", || {
            driven.read();
            ports().len() == 2
        });
        ip("link delete rwc");
        driven.probe().unwrap();
        driven.read();
        assert_eq!(ports(), ["rwa"]);
        assert_eq!(driven.told().last().unwrap(), &(LOST, "rwc".to_owned(), "port_gone".to_owned()));
        ip("link delete rwa");
        assert_eq!(driven.probe().unwrap_err().reason, ErrorReason::Missing);
        assert_eq!(ports(), Vec::<String>::new());
    });
}

#[test]
fn without_the_capability_it_is_off_and_says_which() {
    in_own_namespaces(|| {
        ip("link add rwa type veth peer name rwb");
        // This thread alone gives it up.
        caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_NET_RAW).unwrap();
        let (mut driven, peers) = receiver();
        let off = driven.probe().unwrap_err();
        assert_eq!(off.reason, ErrorReason::Denied);
        assert!(off.text.contains("CAP_NET_RAW"), "{off}");
        let shown = &peers.view().off["lldp"][0];
        assert_eq!((shown.what.as_str(), shown.why == off.text), ("LLDP neighbours", true));
    });
}

/// Takes signals and the moments they arrived at.
#[derive(Default)]
struct Told(Mutex<Vec<Signal>>);

impl Sink for Told {
    fn window(&self, _: WindowFrame) -> Result<(), SinkFull> {
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<(), SinkFull> {
        self.0.lock().unwrap().push(signal);
        Ok(())
    }
}

#[test]
fn a_frame_becomes_a_signal_without_a_wait_for_the_next_read() {
    in_own_namespaces(|| {
        ip("link add rwa type veth peer name rwb");
        ip("link set rwa up");
        ip("link set rwb up");
        let (driven, peers) = receiver();
        let told = Arc::new(Told::default());
        let catalog = Arc::new(Catalog::default());
        let mut sampler = Sampler::new(SamplerConfig::default(), catalog, Arc::clone(&told) as Arc<dyn Sink>);
        // A read takes no frames: only the frame itself can have been what woke it.
        sampler.start(driven.source, Some(std::time::Duration::from_secs(10))).unwrap();
        until("it listens", || sampler.reports()[0].reads > 0);
        send("rwb", NEAREST_BRIDGE, LLDP, &pdu("leaf1", "swp1", 120, "leaf1"));
        until("the signal", || !told.0.lock().unwrap().is_empty());
        assert_eq!(told.0.lock().unwrap()[0].name, CHANGED);
        assert_eq!(peers.view().neighbours.len(), 1);
        assert!(sampler.reports()[0].events > 0);
        sampler.stop();
    });
}

/// The speaker, ended with the value.
struct Lldpd(Child);

impl Drop for Lldpd {
    fn drop(&mut self) {
        // It has a child that ends when it does.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

impl Lldpd {
    /// Speaks on one interface of this thread's namespace, as a host of this name.
    fn start(interface: &str, name: &str) -> Self {
        let prefix = std::env::var("RAILWATCH_LLDPD").expect("lldpd, unpacked: cargo xtask test crates has it");
        let libraries = format!("{prefix}/usr/lib/x86_64-linux-gnu:{prefix}/lib/x86_64-linux-gnu");
        // It says its first word after a whole interval, which is 30 s unless told otherwise.
        let configuration = format!("/run/{name}.conf");
        fs::write(&configuration, "configure lldp tx-interval 1\nconfigure lldp tx-hold 120\n").unwrap();
        let lldpd =
            format!("{prefix}/usr/sbin/lldpd -d -O {configuration} -L {prefix}/usr/sbin/lldpcli -I {interface}");
        let command = format!("hostname {name} && exec {lldpd} -u /run/lldpd/{name} -S 'speaker {name}'");
        let child = Command::new("unshare")
            .args(["--uts", "sh", "-c", &command])
            .env("LD_LIBRARY_PATH", libraries)
            .stdout(Stdio::null())
            .stderr(fs::File::create(format!("/run/lldpd-{name}.log")).unwrap())
            .spawn()
            .unwrap();
        Self(child)
    }
}

/// What lldpd needs of a host: its user, a name that is known, a folder to be confined to. In this thread's mounts alone.
fn prepare_for_lldpd() {
    let none = None::<&str>;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    fs::create_dir("/run/lldpd").unwrap();
    for (file, line) in [
        ("passwd", "_lldpd:x:990:990::/run/lldpd:/usr/sbin/nologin\n"),
        ("group", "_lldpd:x:990:\n"),
        ("hosts", "127.0.1.1 rw-near\n127.0.1.2 rw-far\n"),
    ] {
        let (etc, own) = (Path::new("/etc").join(file), Path::new("/run").join(file));
        let text = fs::read_to_string(&etc).unwrap();
        let kept: String =
            text.lines().filter(|line| !line.starts_with("_lldpd:")).map(|line| format!("{line}\n")).collect();
        fs::write(&own, kept + line).unwrap();
        mount(Some(&own), &etc, none, MsFlags::MS_BIND, none).unwrap();
    }
}

fn mac(interface: &str) -> String {
    fs::read_to_string(format!("/sys/class/net/{interface}/address")).unwrap().trim().to_owned()
}

/// Listens until the only neighbour is of this name.
fn hear(name: &str) -> Neighbour {
    let (mut driven, peers) = receiver();
    driven.probe().unwrap();
    until(&format!("{name}'s frame"), || {
        driven.read();
        peers.view().neighbours.iter().any(|neighbour| neighbour.said.system_name == name)
    });
    let view = peers.view();
    let [neighbour] = &view.neighbours[..] else { panic!("{:?}", view.neighbours) };
    neighbour.clone()
}

#[test]
fn both_ends_of_a_cable_say_the_same_of_it_where_lldpd_speaks_at_both() {
    in_own_namespaces(|| {
        prepare_for_lldpd();
        ip("link add rwa type veth peer name rwb");
        let mac_b = mac("rwb");
        let (of_b, b_is_there) = channel();
        let (go, told_to_go) = channel();
        let far = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
            of_b.send(nix::unistd::gettid()).unwrap();
            told_to_go.recv().unwrap();
            mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>).unwrap();
            prepare_for_lldpd();
            ip("link set rwb up");
            let speaker = Lldpd::start("rwb", "rw-far");
            let heard = hear("rw-near");
            (heard, speaker)
        });
        ip(&format!("link set rwb netns {}", b_is_there.recv().unwrap()));
        ip("link set rwa up");
        go.send(()).unwrap();
        let _speaker = Lldpd::start("rwa", "rw-near");
        let near_heard = hear("rw-far");
        let (far_heard, _far_speaker) = far.join().unwrap();

        // Each end names the other's interface, by name and by the address that lldpd calls a port.
        for (heard, own, mac, system) in
            [(&near_heard, "rwa", &mac_b, "speaker rw-far"), (&far_heard, "rwb", &mac("rwa"), "speaker rw-near")]
        {
            assert_eq!(heard.interface, own, "{heard:?}");
            assert_eq!((heard.said.port.subtype, &heard.said.port.text), ("mac", mac), "{heard:?}");
            assert_eq!((heard.said.chassis.subtype, &heard.said.chassis.text), ("mac", mac), "{heard:?}");
            assert_eq!(heard.said.system_description, system, "{heard:?}");
            assert_eq!(heard.said.ttl_s, 120, "{heard:?}");
            assert!(heard.said.skipped.organisation > 0, "lldpd says more by 802.1 and 802.3: {heard:?}");
            assert_eq!(heard.said.skipped.malformed, 0, "{heard:?}");
        }
        assert_eq!(
            (near_heard.said.port_description.as_str(), far_heard.said.port_description.as_str()),
            ("rwb", "rwa")
        );
    });
}
