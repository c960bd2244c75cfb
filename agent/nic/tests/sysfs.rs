//! What the NIC sources make of sysfs trees: synthetic ones that change while they are read.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod driven;
mod tree;

use driven::Driven;
use railwatch_nic::{NicConfig, NicSources, PortKind};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{ErrorReason, Flags};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tree::Tree;

fn sources(root: &Path) -> NicSources {
    NicSources::new(&NicConfig { sysfs_root: root.to_owned(), software_interfaces: Vec::new() })
}

fn faults(driven: &mut Driven) -> usize {
    // Every declared series that brought no reading is a fault the batch counted.
    driven.catalog.all().len() - driven.read()
}

#[test]
fn data_counters_are_bytes_and_narrow_counters_say_when_they_are_full() {
    let tree = Tree::new();
    let port = tree.rdma_port("mlx5_0", 1);
    port.counters(
        "counters",
        &[
            ("port_rcv_data", "1000"),
            ("port_xmit_data", "18446744073709551600"),
            ("unicast_rcv_packets", "5"),
            ("link_downed", "255"),
            ("symbol_error", "65530"),
            ("excessive_buffer_overrun_errors", "15"),
            ("port_xmit_wait", "4294967295"),
        ],
    );
    let mut pma = Driven::new(&mut sources(tree.root()), "rdma.pma");
    pma.probe().unwrap();
    assert_eq!(pma.read(), 7);
    port.counters("counters", &[("port_rcv_data", "1250"), ("symbol_error", "65535")]);
    pma.read();
    let rows = pma.window();
    assert_eq!(rows.delta("mlx5_0/1 rdma.port.io receive"), 1000, "250 words of 4 bytes");
    assert_eq!(rows.delta("mlx5_0/1 rdma.port.errors.symbol receive"), 5);
    for full in ["rdma.port.link_downs", "rdma.port.errors.symbol receive", "rdma.port.transmit_wait transmit"] {
        assert!(rows.flags(&format!("mlx5_0/1 {full}")).has(Flags::SATURATED), "{full}");
    }
    let mut signals: Vec<_> = pma.signals().into_iter().map(|s| (s.name, s.summary)).collect();
    signals.sort();
    let hidden = |what, max| {
        format!(
            "port mlx5_0/1: the counter of {what} is at its maximum {max} and hides further ones until it is cleared"
        )
    };
    assert_eq!(
        signals,
        [
            ("nic.counter.saturated", hidden("buffer overrun errors", 15)),
            ("nic.counter.saturated", hidden("link downs", 255)),
            ("nic.errors", "port mlx5_0/1: symbol errors grew by 5 to 65535 and should never move".to_owned()),
        ]
    );
}

#[test]
fn queue_counters_wrap_at_32_bits_and_a_reset_is_no_wrap() {
    let tree = Tree::new();
    let port = tree.rdma_port("mlx5_0", 1);
    port.counters(
        "hw_counters",
        &[("rx_write_requests", "4294967200"), ("out_of_buffer", "3000000000"), ("lifespan", "0")],
    );
    let mut hw = Driven::new(&mut sources(tree.root()), "rdma.hw");
    hw.probe().unwrap();
    assert_eq!(hw.read(), 2, "lifespan is no counter");
    port.counters("hw_counters", &[("rx_write_requests", "104"), ("out_of_buffer", "12")]);
    hw.read();
    let rows = hw.window();
    assert_eq!(rows.delta("mlx5_0/1 rdma.port.requests.write receive"), 200);
    assert!(rows.flags("mlx5_0/1 rdma.port.requests.write receive").has(Flags::WRAPPED));
    assert_eq!(rows.delta("mlx5_0/1 rdma.port.out_of_buffer receive"), 0);
    assert!(rows.flags("mlx5_0/1 rdma.port.out_of_buffer receive").has(Flags::RESTARTED));
}

#[test]
fn a_counter_nobody_knows_is_kept_under_its_own_name() {
    let tree = Tree::new();
    tree.rdma_port("newnic0", 1).counters("hw_counters", &[("rx_quantum_flux", "7")]);
    let mut hw = Driven::new(&mut sources(tree.root()), "rdma.hw");
    hw.probe().unwrap();
    hw.read();
    let rows = hw.window();
    assert_eq!(rows.frame.total[rows.row("newnic0/1 rdma.port.vendor rx_quantum_flux")], 7);
}

#[test]
fn a_probe_that_finds_the_same_goes_on_and_a_device_that_came_back_is_read_by_its_new_files() {
    let tree = Tree::new();
    let port = tree.rdma_port("mlx5_0", 1);
    port.counters("hw_counters", &[("rx_write_requests", "5")]);
    let mut hw = Driven::new(&mut sources(tree.root()), "rdma.hw");
    hw.probe().unwrap();
    assert_eq!(hw.read(), 1);
    hw.probe().unwrap();
    port.counters("hw_counters", &[("rx_write_requests", "9")]);
    assert_eq!(hw.read(), 1);
    assert_eq!(hw.window().delta("mlx5_0/1 rdma.port.requests.write receive"), 4);
    // The old directory stays somewhere, so that the new one is surely another.
    let folder = tree.root().join("class/infiniband/mlx5_0/ports/1/hw_counters");
    std::fs::rename(&folder, tree.root().join("gone")).unwrap();
    port.counters("hw_counters", &[("rx_write_requests", "70")]);
    hw.probe().unwrap();
    assert_eq!(hw.read(), 1);
    let rows = hw.window();
    assert_eq!(rows.frame.total[rows.row("mlx5_0/1 rdma.port.requests.write receive")], 70);
    port.counters("hw_counters", &[("rx_read_requests", "3")]);
    hw.probe().unwrap();
    assert_eq!(hw.read(), 2, "a counter more");
}

#[test]
fn a_port_without_pma_or_without_its_directory_leaves_the_others_alone() {
    let tree = Tree::new();
    tree.rdma_port("bnxt_re0", 1);
    tree.rdma_port("mlx4_0", 1)
        .counters("counters", &[("link_downed", "N/A (no PMA)"), ("port_rcv_data", "N/A (no PMA)")]);
    let mut pma = Driven::new(&mut sources(tree.root()), "rdma.pma");
    let off = pma.probe().unwrap_err();
    assert_eq!(off.reason, ErrorReason::NotAvailable);
    tree.rdma_port("mlx5_0", 2).counters("counters", &[("link_downed", "1")]);
    pma.probe().unwrap();
    assert_eq!(pma.read(), 1);
}

#[test]
fn an_unreadable_counter_is_a_counted_fault_and_not_a_zero() {
    let tree = Tree::new();
    let port = tree.rdma_port("mlx5_0", 1);
    port.counters("counters", &[("port_rcv_errors", "3"), ("symbol_error", "9")]);
    let mut pma = Driven::new(&mut sources(tree.root()), "rdma.pma");
    pma.probe().unwrap();
    pma.read();
    for garbage in ["", "N/A (no PMA)", "-4", "3\0\0"] {
        port.counters("counters", &[("symbol_error", garbage)]);
        assert_eq!(faults(&mut pma), 1, "{garbage:?}");
    }
    port.counters("counters", &[("symbol_error", "9")]);
    assert_eq!(faults(&mut pma), 0);
    let rows = pma.window();
    assert_eq!((rows.delta("mlx5_0/1 rdma.port.errors.symbol receive"), rows.frame.resets[0]), (0, 0));
    assert_eq!(pma.signals(), []);
}

#[test]
fn an_rdma_port_going_down_and_vanishing_and_coming_back_is_told_in_that_order() {
    let tree = Tree::new();
    let port = tree.rdma_port("mlx5_0", 1);
    let mut nic = sources(tree.root());
    let ports = Arc::clone(&nic.ports);
    let mut link = Driven::new(&mut nic, "rdma.link");
    link.probe().unwrap();
    link.read();
    port.state("1: DOWN", "2: Polling");
    link.read();
    assert_eq!(ports.all()[0].state, "down");
    port.state("4: ACTIVE", "5: LinkUp");
    link.read();
    tree.remove_rdma("mlx5_0");
    let gone = link.probe().unwrap_err();
    assert_eq!(gone.reason, ErrorReason::Missing);
    assert!(gone.text.contains("load their RDMA driver"), "{gone}");
    link.recorder.retire_all(monotonic_ns(), &mut link.out);
    assert_eq!(ports.all(), []);
    tree.rdma_port("mlx5_0", 1);
    link.probe().unwrap();
    link.read();
    let told: Vec<_> = link
        .signals()
        .into_iter()
        .map(|s| (s.name, s.attributes.into_iter().find(|(key, _)| *key == "cause").map(|(_, cause)| cause)))
        .collect();
    assert_eq!(
        told,
        [
            ("nic.link.down", Some("polling".to_owned())),
            ("nic.link.up", None),
            ("nic.link.down", Some("vanished".to_owned())),
            ("nic.link.up", None),
        ]
    );
}

#[test]
fn interfaces_with_a_device_are_read_and_the_loopback_is_not() {
    let tree = Tree::new();
    let eth = tree.interface("eth0", 2, true);
    tree.interface("docker0", 3, false);
    tree.loopback();
    eth.counters("statistics", &[("rx_bytes", "100"), ("tx_bytes", "7"), ("rx_crc_errors", "0")]);
    let mut nic = sources(tree.root());
    let ports = Arc::clone(&nic.ports);
    let mut netdev = Driven::new(&mut nic, "netdev");
    netdev.probe().unwrap();
    netdev.read();
    eth.counters("statistics", &[("rx_bytes", "1100"), ("rx_crc_errors", "2")]);
    netdev.read();
    let rows = netdev.window();
    assert_eq!(rows.delta("eth0 hw.network.io receive"), 1000);
    assert_eq!(rows.delta("eth0 hw.network.io transmit"), 0);
    assert!(rows.rows.keys().all(|key| key.starts_with("eth0 ")), "{:?}", rows.rows.keys());
    assert_eq!(netdev.signals().iter().map(|s| s.name).collect::<Vec<_>>(), ["nic.errors"]);
    let ports = ports.all();
    let [port] = &ports[..] else { panic!("one port: {ports:?}") };
    assert_eq!((port.name.as_str(), port.kind, port.state.as_str()), ("eth0", PortKind::Netdev, "up"));
    assert_eq!(port.speed_bits_per_s, Some(25_000_000_000));
}

#[test]
fn a_link_that_fell_and_rose_between_two_readings_is_told_as_a_flap() {
    let tree = Tree::new();
    let eth = tree.interface("eth0", 2, true);
    let mut link = Driven::new(&mut sources(tree.root()), "netdev.link");
    link.probe().unwrap();
    link.read();
    eth.file("carrier_down_count", "1");
    eth.file("carrier_up_count", "2");
    link.read();
    let told: Vec<_> = link.signals().into_iter().map(|s| (s.name, s.attributes.last().unwrap().1.clone())).collect();
    assert_eq!(told, [("nic.link.down", "flap".to_owned()), ("nic.link.up", "eth0".to_owned())]);
}

#[test]
fn the_committed_tree_of_a_roce_host_reads_without_a_fault() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/sysfs/roce-host");
    let mut nic = sources(&root);
    let ports = Arc::clone(&nic.ports);
    let mut counted = BTreeMap::new();
    for name in ["netdev", "netdev.link", "rdma.hw", "rdma.pma", "rdma.link"] {
        let mut driven = Driven::new(&mut nic, name);
        driven.probe().unwrap();
        let readings = driven.read();
        assert_eq!(readings, driven.catalog.all().len(), "{name}: every series has a reading");
        assert_eq!(driven.catalog.refused(), 0, "{name}: no two counters share a name");
        counted.insert(name, readings);
    }
    assert_eq!(counted["rdma.link"], 2);
    let names: Vec<_> = ports.all().into_iter().map(|port| (port.name, port.driver, port.netdev)).collect();
    assert_eq!(
        names,
        [
            ("bnxt_re0/1".to_owned(), "bnxt_en".to_owned(), Some("eth1".to_owned())),
            ("eth0".to_owned(), "mlx5_core".to_owned(), None),
            ("eth1".to_owned(), "bnxt_en".to_owned(), None),
            ("mlx5_0/1".to_owned(), "mlx5_core".to_owned(), Some("eth0".to_owned())),
        ]
    );
}

/// The real host's tree, where the checkout has it beside it; ours above covers the same shapes.
#[test]
fn a_real_h100_hosts_tree_reads_whole() {
    let real = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/rdma/h100-sys-class-infiniband");
    if !real.exists() {
        eprintln!("NOT RUN: no tree of a real host at {}", real.display());
        return;
    }
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("class")).unwrap();
    std::os::unix::fs::symlink(&real, root.path().join("class/infiniband")).unwrap();
    let mut nic = sources(root.path());
    for (name, expected) in [("rdma.hw", 9 * 25), ("rdma.pma", 9 * 21), ("rdma.link", 9)] {
        let mut driven = Driven::new(&mut nic, name);
        driven.probe().unwrap();
        assert_eq!(driven.read(), expected, "{name}");
        assert_eq!(driven.catalog.refused(), 0);
    }
}

/// What people quoted of hosts in trouble, where the checkout has it beside it; the first tests here cover the same shapes.
#[test]
fn quoted_hosts_with_full_absent_and_partial_counters_read_as_such() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/rdma/edge-cases");
    let excerpts = [
        "gpud_pr943_mlx5_1_saturated_counters.txt",
        "node_exporter_966_mlx4_no_pma.txt",
        "byteps_179_mlx5_0_hw_counters_partial.txt",
    ];
    let read = excerpts.iter().map(|name| std::fs::read_to_string(folder.join(name))).collect::<Result<Vec<_>, _>>();
    let Ok(texts) = read else {
        eprintln!("NOT RUN: no excerpts of hosts at {}", folder.display());
        return;
    };
    let tree = Tree::new();
    let port = tree.rdma_port("mlx5_1", 1);
    let without_pma = tree.rdma_port("mlx4_0", 1);
    for line in texts.iter().flat_map(|text| text.lines()) {
        match (line.split_once(':'), line.split_once(' ')) {
            (Some((path, value)), _) if path.starts_with('/') => {
                without_pma.counters("counters", &[(path.rsplit('/').next().unwrap(), value)]);
            }
            (Some((name, value)), _) => port.counters("hw_counters", &[(name, value)]),
            (None, Some((name, value))) => port.counters("counters", &[(name, value)]),
            (None, None) => {}
        }
    }
    let mut pma = Driven::new(&mut sources(tree.root()), "rdma.pma");
    pma.probe().unwrap();
    assert_eq!(pma.read(), pma.catalog.all().len(), "every counter there is is read");
    let rows = pma.window();
    assert!(rows.rows.keys().all(|key| key.starts_with("mlx5_1/1 ")), "absent is no zero: {:?}", rows.rows.keys());
    let full = [
        "rdma.port.errors.buffer_overrun receive",
        "rdma.port.link_downs",
        "rdma.port.discards transmit",
        "rdma.port.transmit_wait transmit",
    ];
    for (key, row) in &rows.rows {
        let expected = full.iter().any(|full| *key == format!("mlx5_1/1 {full}"));
        assert_eq!(rows.frame.flags[*row].has(Flags::SATURATED), expected, "{key}");
    }
    let mut told: Vec<_> = pma.signals().into_iter().map(|signal| signal.name).collect();
    told.dedup();
    assert_eq!(told, ["nic.counter.saturated"]);
    let mut hw = Driven::new(&mut sources(tree.root()), "rdma.hw");
    hw.probe().unwrap();
    assert_eq!(hw.read(), 5, "the part of hw_counters that is there");
}

/// Drivers' words for the same thing, each through a port of its own.
#[test]
fn each_drivers_counters_have_one_name() {
    let cases: [(&str, &[(&str, &str)]); 6] = [
        ("mlx5_0", &[("out_of_sequence", "packets out of order"), ("np_cnp_sent", "cnp")]),
        ("bnxt_re0", &[("oos_drop_count", "packets out of order"), ("tx_cnp_pkts", "cnp"), ("active_pds", "a gauge")]),
        ("irdma0", &[("cnpSent", "cnp"), ("RxUDP", "packets")]),
        ("hns_0", &[("tx_cnp_pkt", "cnp"), ("rx_pkt", "packets")]),
        ("ionic_0", &[("resp_rx_outouf_seq", "packets out of order"), ("tx_rdma_cnp_pkts", "cnp")]),
        ("rxe0", &[("out_of_seq_request", "packets out of order"), ("rcvd_pkts", "packets")]),
    ];
    let tree = Tree::new();
    for (device, counters) in cases {
        for (name, _) in counters {
            tree.rdma_port(device, 1).counters("hw_counters", &[(name, "7")]);
        }
    }
    let mut hw = Driven::new(&mut sources(tree.root()), "rdma.hw");
    hw.probe().unwrap();
    hw.read();
    // A gauge may fall; a counter that did would be a reset.
    tree.rdma_port("bnxt_re0", 1).counters("hw_counters", &[("active_pds", "3")]);
    hw.read();
    let rows = hw.window();
    for (device, counters) in cases {
        for (name, what) in counters {
            let series = match *what {
                "cnp" => "rdma.port.cnp transmit",
                "packets" => "rdma.port.hw.packets receive",
                "a gauge" => "rdma.port.protection_domains",
                _ => "rdma.port.out_of_sequence receive",
            };
            let row = rows.row(&format!("{device}/1 {series}"));
            assert_eq!(rows.frame.resets[row], 0, "{device} {name}");
        }
    }
}
