//! Settings through the real paths of a kernel: the fake network card (tests/fixtures/fakenic) answers ethtool and DCB. Loads a module, and
//! so runs in a virtual machine.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use railwatch_inventory::{InventoryConfig, InventorySource, Known};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{Batch, Catalog, Output, Recorder, Source};
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const CARDS: [(&str, &str); 4] =
    [("fk_mlx5", "mlx5_core"), ("fk_bnxt", "bnxt_en"), ("fk_ice", "ice"), ("fk_hns3", "hns3")];

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().expect("commands of iproute2 and busybox");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn set(card: &str, name: &str, value: u64) {
    let line = format!("{card} {name} {value}");
    fs::write("/sys/module/fakenic/parameters/set", &line).unwrap_or_else(|error| panic!("{line}: {error}"));
}

#[test]
#[ignore = "loads a kernel module: cargo xtask test kernels"]
fn what_a_card_is_set_to_comes_through_ethtool_and_dcb_and_a_change_is_a_signal() {
    let module = std::env::var("RAILWATCH_FAKE_NIC_KO").expect("the fake network card: cargo xtask vm builds it");
    run("insmod", &[&module]);
    for (card, _) in CARDS {
        run("ip", &["link", "set", card, "up"]);
        set(card, "pfc.enabled", 0b1000);
    }
    let mut source = InventorySource::new(InventoryConfig::default(), Known::default, |_| {});
    let mut recorder = Recorder::new("inventory", Duration::from_secs(100), &[], Arc::new(Catalog::default()));
    recorder.probe(monotonic_ns(), &mut Output::default(), |declare| source.probe(declare)).unwrap();
    let mut batch = Batch::with_capacity(16);
    let mut read = |source: &mut InventorySource| {
        batch.clear();
        source.read(&mut batch).unwrap();
        batch.signals().iter().map(|signal| signal.summary.clone()).collect::<Vec<_>>()
    };
    assert_eq!(read(&mut source), [""; 0]);
    for (card, driver) in CARDS {
        for (key, value) in [
            ("driver", driver),
            ("fec.configured", "RS"),
            ("fec.active", "RS"),
            ("pause.receive", "on"),
            ("pause.transmit", "on"),
            ("pfc.enabled", "3"),
            ("mtu", "1500"),
        ] {
            assert_eq!(source.items().value("port", card, key), Some(value), "{card} {key}: {:#?}", source.items());
        }
    }
    let speed = |source: &InventorySource| source.items().value("port", "fk_ice", "link.speed").map(str::to_owned);
    assert!(
        speed(&source).is_some_and(|speed| speed.parse::<u32>().is_ok_and(|mbit| mbit >= 1000)),
        "{:?}",
        speed(&source)
    );
    set("fk_ice", "pfc.enabled", 0b1_1000);
    set("fk_mlx5", "speed", 100_000);
    let told = read(&mut source);
    assert!(told.contains(&"port fk_ice: pfc.enabled is 3 4, was 3".to_owned()), "{told:?}");
    assert!(told.iter().any(|summary| summary.starts_with("port fk_mlx5: link.speed is 100000, was ")), "{told:?}");
    assert_eq!(told.len(), 2, "{told:?}");
}
