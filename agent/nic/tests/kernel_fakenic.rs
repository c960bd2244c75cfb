//! Drivers' own words through the real paths of a kernel: the fake network card (tests/fixtures/fakenic) answers ethtool
//! and DCB as cards of mlx5, bnxt, ice and hns3 do. Loads a module, and so runs in a virtual machine.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod driven;

use driven::Driven;
use railwatch_nic::{Ethtool, NicConfig, NicSources};
use railwatch_sampling::Severity;
use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

const CARDS: [&str; 4] = ["fk_mlx5", "fk_bnxt", "fk_ice", "fk_hns3"];

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("commands of iproute2 and busybox");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Sets a value of a card: "rx_prio3_pause", "pause.rx".
fn set(card: &str, name: &str, value: u64) {
    let line = format!("{card} {name} {value}");
    fs::write("/sys/module/fakenic/parameters/set", &line).unwrap_or_else(|error| panic!("{line}: {error}"));
}

fn kernel_at_least(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (major, minor)
}

/// Sources that find the four cards, all up.
fn sources() -> NicSources {
    let module = std::env::var("RAILWATCH_FAKE_NIC_KO").expect("the fake network card: cargo xtask vm builds it");
    run("insmod", &[&module]);
    for card in CARDS {
        run("ip", &["link", "set", card, "up"]);
        // Priority 3 is lossless.
        set(card, "pfc.enabled", 0b1000);
    }
    NicSources::new(&NicConfig::default())
}

/// One source, probed and read once.
fn begun(nic: &mut NicSources, name: &str) -> Driven {
    let mut driven = Driven::new(nic, name);
    driven.probe().unwrap();
    driven.read();
    assert_eq!(driven.catalog.refused(), 0, "{name}: no two series share a name");
    driven
}

/// 128 bytes of the memory of fk_mlx5's module, by ETHTOOL_MSG_MODULE_EEPROM_GET; else the error number.
fn module_memory(bank: u8, page: u8, offset: u32) -> Result<Vec<u8>, i32> {
    let index = fs::read_to_string("/sys/class/net/fk_mlx5/ifindex").unwrap().trim().parse().unwrap();
    let mut ethtool = Ethtool::open().unwrap();
    let request = ethtool.request(31, index, 0).u32(2, offset).u32(3, 128);
    let mut request = request.u8(4, page).u8(5, bank).u8(6, 0x50);
    let memory = ethtool.ask(&mut request, |answer| answer.find_kind(7).map(<[u8]>::to_vec));
    memory.map(Option::unwrap).map_err(|error| error.raw_os_error().unwrap())
}

#[test]
#[ignore = "loads a kernel module: cargo xtask vm 6.12"]
fn every_drivers_words_come_through_the_kernel_as_one_vocabulary() {
    let mut nic = sources();
    let ports = nic.ports.clone();
    let mut driver = begun(&mut nic, "netdev.driver");
    let mut queues = begun(&mut nic, "netdev.queues");
    let mut dcb = begun(&mut nic, "netdev.dcb");
    let mut link = begun(&mut nic, "netdev.link");
    begun(&mut nic, "netdev");
    for card in CARDS {
        assert!(driver.source.kernel_path().contains(card), "{}", driver.source.kernel_path());
    }
    let of_cards: Vec<_> =
        ports.all().into_iter().map(|port| (port.name, port.driver, port.speed_bits_per_s)).collect();
    for (card, of_driver) in CARDS.iter().zip(["mlx5_core", "bnxt_en", "ice", "hns3"]) {
        assert!(of_cards.contains(&((*card).to_owned(), of_driver.to_owned(), Some(400_000_000_000))), "{of_cards:?}");
    }

    // What a driver calls it, how far it moves, and what is told.
    let moves = [
        ("fk_mlx5", "rx_prio3_pause", 700, "hw.network.pfc.pause_frames 3 receive", 700),
        ("fk_mlx5", "tx_prio3_pause", 70, "hw.network.pfc.pause_frames 3 transmit", 70),
        ("fk_mlx5", "rx_prio3_pause_duration", 5, "hw.network.pfc.pause_time 3 receive", 5_000),
        ("fk_mlx5", "rx_prio3_pause_transition", 9, "hw.network.pfc.transitions 3 receive", 9),
        ("fk_mlx5", "rx_prio3_discards", 11, "hw.network.priority.discards 3 receive", 11),
        ("fk_mlx5", "rx_prio5_marked", 13, "hw.network.priority.ecn_marked 5 receive", 13),
        ("fk_mlx5", "rx_prio3_bytes", 51, "hw.network.priority.io 3 receive", 51),
        ("fk_mlx5", "rx_prio3_buf_discard", 52, "hw.network.priority.discards.buffer 3 receive", 52),
        ("fk_mlx5", "rx_prio3_cong_discard", 53, "hw.network.priority.discards.congestion 3 receive", 53),
        ("fk_mlx5", "rx_global_pause_duration", 17, "hw.network.pause_time receive", 17_000),
        ("fk_mlx5", "rx_global_pause_transition", 54, "hw.network.pause_transitions receive", 54),
        ("fk_mlx5", "tx_pause_storm_warning_events", 55, "hw.network.pfc.storm_warnings transmit", 55),
        ("fk_mlx5", "tx_pause_storm_error_events", 56, "hw.network.pfc.storm_errors transmit", 56),
        ("fk_mlx5", "rx_discards_phy", 57, "hw.network.discards receive", 57),
        ("fk_mlx5", "rx_out_of_buffer", 58, "hw.network.out_of_buffer receive", 58),
        ("fk_mlx5", "rx_symbol_err_phy", 59, "hw.network.errors.symbol receive", 59),
        ("fk_mlx5", "link_down_events_phy", 60, "hw.network.phy.link_downs", 60),
        ("fk_bnxt", "rx_pfc_ena_frames_pri3", 701, "hw.network.pfc.pause_frames 3 receive", 701),
        ("fk_bnxt", "pfc_pri3_rx_duration_us", 6, "hw.network.pfc.pause_time 3 receive", 6_000),
        ("fk_bnxt", "rx_discard_packets_cos2", 19, "hw.network.cos.discards 2 receive", 19),
        ("fk_ice", "rx_priority_3_xoff.nic", 702, "hw.network.pfc.pause_frames 3 receive", 702),
        ("fk_ice", "rx_priority_3_xon.nic", 700, "hw.network.pfc.resume_frames 3 receive", 700),
        ("fk_ice", "tx_dropped_link_down.nic", 61, "hw.network.dropped.link_down transmit", 61),
        ("fk_ice", "mac_local_faults.nic", 62, "hw.network.faults.local receive", 62),
        ("fk_ice", "mac_remote_faults.nic", 63, "hw.network.faults.remote receive", 63),
        ("fk_hns3", "mac_rx_pause_xoff_time", 64, "hw.network.xoff_ticks receive", 64),
        ("fk_hns3", "mac_rx_pfc_pri3_pkt_num", 703, "hw.network.pfc.pause_frames 3 receive", 703),
        ("fk_hns3", "mac_rx_pfc_pri3_xoff_time", 23, "hw.network.pfc.xoff_ticks 3 receive", 23),
    ];
    let mut by_netlink = vec![];
    for card in CARDS {
        by_netlink.extend([
            (card, "pause.rx", 29, "hw.network.pause_frames receive", 29),
            (card, "pause.tx", 31, "hw.network.pause_frames transmit", 31),
            (card, "fec.corrected", 1_000_000_007, "hw.network.fec.corrected_blocks receive", 1_000_000_007),
            (card, "fec.uncorrectable", 2, "hw.network.fec.uncorrectable_blocks receive", 2),
            (card, "fec.bits", 37, "hw.network.fec.corrected_bits receive", 37),
        ]);
        if kernel_at_least(6, 3) {
            by_netlink.push((card, "link.downs", 41, "hw.network.physical_link_downs", 41));
        }
    }
    let by_dcb = [
        ("fk_hns3", "pfc.requests.3", 43, "hw.network.pfc.requests 3 transmit", 43),
        ("fk_hns3", "pfc.indications.3", 47, "hw.network.pfc.indications 3 receive", 47),
    ];
    for (card, name, value, ..) in moves.iter().chain(&by_netlink).chain(&by_dcb) {
        set(card, name, *value);
    }
    driver.read();
    queues.read();
    dcb.read();
    for (driven, expected) in [(&mut driver, &moves[..]), (&mut queues, &by_netlink), (&mut dcb, &by_dcb)] {
        let rows = driven.window();
        for (card, name, _, series, delta) in expected {
            assert_eq!(rows.delta(&format!("{card} {series}")), *delta, "{card} {name}");
        }
        // What did not move is a zero that was read; what the driver does not have is no series.
        let moved = rows.frame.delta.iter().filter(|delta| **delta > 0).count();
        assert_eq!(moved, expected.len(), "nothing else moved");
        if driven.source.name() == "netdev.dcb" {
            assert_eq!(rows.last("fk_mlx5 hw.network.pfc.enabled 3"), 1.0);
            assert_eq!(rows.last("fk_mlx5 hw.network.pfc.enabled 4"), 0.0);
            assert!(!rows.rows.contains_key("fk_mlx5 hw.network.pfc.requests 3 transmit"), "mlx5's is a stale cache");
        }
        if driven.source.name() == "netdev.driver" {
            assert!(!rows.rows.contains_key("fk_ice hw.network.pfc.pause_time 3 receive"), "ice has no pause time");
            assert!(!rows.rows.contains_key("fk_hns3 hw.network.pfc.pause_time 3 receive"), "hns3 states no unit");
        }
    }
    let told: Vec<_> = queues.signals().into_iter().map(|signal| (signal.name, signal.entity.name)).collect();
    assert_eq!(told, CARDS.map(|card| ("nic.errors", card.to_owned())), "blocks that FEC could not correct");
    driver.signals();

    // Pause of priority 3 for most of the time: told; its end: told. Frames on priority 4, which has no flow control: told.
    driver.read();
    let (mut paused_us, mut told) = (5, Vec::new());
    for _ in 0..600 {
        sleep(Duration::from_millis(50));
        paused_us += 45_000;
        set("fk_mlx5", "rx_prio3_pause_duration", paused_us);
        driver.read();
        told.extend(driver.signals());
        if !told.is_empty() {
            break;
        }
    }
    assert_eq!(
        (told[0].name, told[0].entity.name.as_str(), told[0].severity),
        ("nic.pause.duty", "fk_mlx5", Severity::Warning)
    );
    assert!(told[0].summary.contains("(priority 3, receive)"), "{}", told[0].summary);
    set("fk_ice", "rx_priority_4_xoff.nic", 3);
    driver.read();
    let told: Vec<_> =
        driver.signals().into_iter().map(|signal| (signal.name, signal.entity.name, signal.value)).collect();
    assert_eq!(told, [("nic.pfc.unexpected", "fk_ice".to_owned(), 3.0)]);
    assert_eq!(driver.window().delta("fk_ice hw.network.pfc.unexpected_pause_frames receive"), 3);

    // Pause of the whole link while nothing is dropped.
    queues.read();
    let mut told = Vec::new();
    for step in 1..600 {
        sleep(Duration::from_millis(50));
        set("fk_bnxt", "pause.rx", 29 + step * 1_000);
        queues.read();
        told.extend(queues.signals());
        if !told.is_empty() {
            break;
        }
    }
    assert_eq!((told[0].name, told[0].entity.name.as_str()), ("nic.pause.global", "fk_bnxt"));
    assert!(told[0].attributes.contains(&("cause", "drops_still".to_owned())), "{:?}", told[0].attributes);

    // A link that falls, tells no speed for as long (SPEED_UNKNOWN), and comes back at half its speed.
    link.signals();
    set("fk_mlx5", "speed", u32::MAX.into());
    set("fk_mlx5", "carrier", 0);
    let mut told = Vec::new();
    let mut until = |link: &mut Driven, name: &str| {
        for _ in 0..600 {
            link.read();
            told.extend(link.signals().into_iter().map(|signal| (signal.name, signal.entity.name)));
            if told.iter().any(|(told, _)| *told == name) {
                return;
            }
            sleep(Duration::from_millis(50));
        }
        panic!("no {name} in {told:?}");
    };
    until(&mut link, "nic.link.down");
    link.probe().unwrap();
    link.read();
    set("fk_mlx5", "speed", 200_000);
    set("fk_mlx5", "carrier", 1);
    until(&mut link, "nic.link.up");
    until(&mut link, "nic.speed.reduced");
    assert!(told.iter().all(|(_, port)| port == "fk_mlx5"), "{told:?}");
    let rows = link.window();
    assert_eq!((rows.delta("fk_mlx5 hw.network.carrier_downs"), rows.last("fk_mlx5 hw.network.speed")), (1, 2e11));
    assert_eq!(
        ports.all().into_iter().find(|port| port.name == "fk_mlx5").unwrap().speed_bits_per_s,
        Some(200_000_000_000)
    );

    // A module's memory, as the optics are read: its lower half, and its upper half by page and bank.
    for (bank, page, offset, byte) in [(0, 0, 0, 0x1e), (0, 0x11, 128, 0x5a), (1, 0x11, 128, 0xa5)] {
        let line = format!("fk_mlx5 50 {bank} {page:x} {offset} {}", format!("{byte:02x}").repeat(128));
        fs::write("/sys/module/fakenic/parameters/eeprom", &line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(module_memory(bank, page, offset), Ok(vec![byte; 128]), "bank {bank} page {page:x}h");
    }
    assert_eq!(module_memory(0, 0x10, 128), Err(nix::libc::EINVAL), "a page that is not there");

    // Cards that go are faults and ask for a probe, which finds nothing.
    run("rmmod", &["fakenic"]);
    for source in [&mut driver, &mut queues, &mut dcb] {
        assert_eq!(source.read(), 0, "nothing is left to read, and nothing is made up");
        source.probe().unwrap_err();
    }
}
