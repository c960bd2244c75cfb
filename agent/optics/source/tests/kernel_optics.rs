//! The source against a real kernel: ethtool netlink down to a driver. It needs root and a card whose module can be
//! read: the fake card of `tests/fixtures` (`RAILWATCH_FAKE_NIC_KO` names its module file: loaded here, and its EEPROM
//! written), or an interface that has one already (`RAILWATCH_FAKE_NIC`). Without either it says so and does nothing.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use railwatch_optics::{Image, Module, Page, parse};
use railwatch_optics_source::{OpticsSource, RULES};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{Batch, Catalog, Output, Recorder, Source};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const PARAMETER: &str = "/sys/module/fakenic/parameters/eeprom";
const INTERFACE: &str = "fk_mlx5";

fn load(module: &str) {
    if !Path::new(PARAMETER).exists() {
        let loaded = Command::new("insmod").args([module, "drivers=mlx5"]).status().unwrap();
        assert!(loaded.success(), "insmod {module}: {loaded}");
    }
}

/// Writes every page of an image into the fake card.
fn plug(image: &Image) {
    for page in image.pages() {
        let (i2c, bank, number, offset) = match page {
            Page::A2 => (0x51, 0, 0, 0),
            Page::A0 | Page::Lower => (0x50, 0, 0, 0),
            Page::Upper { bank, page } => (0x50, bank, page, 128),
        };
        let mut text = format!("{INTERFACE} {i2c:x} {bank} {number:x} {offset} ");
        for byte in &image.page(page).unwrap()[..128] {
            write!(text, "{byte:02x}").unwrap();
        }
        std::fs::write(PARAMETER, text).unwrap();
    }
}

fn read_through_the_kernel(interface: &str) -> Module {
    let mut source = OpticsSource::new(Path::new("/sys"));
    let mut recorder = Recorder::new("optics", Duration::from_secs(1_000_000), &RULES, Arc::new(Catalog::default()));
    recorder.probe(monotonic_ns(), &mut Output::default(), |declare| source.probe(declare)).unwrap();
    let mut batch = Batch::with_capacity(4096);
    source.read(&mut batch).unwrap();
    let modules = source.modules().all();
    let module = modules.into_iter().find(|(name, _)| name == interface);
    module.unwrap_or_else(|| panic!("{interface} shows no module")).1
}

#[test]
fn a_module_is_read_through_the_kernels_own_interface() {
    let fixture = include_str!("../../fixtures/cmis-two-banks.json");
    if let Some(module) = std::env::var_os("RAILWATCH_FAKE_NIC_KO") {
        load(&module.to_string_lossy());
        let (image, _) = parse(fixture.as_bytes());
        plug(&image);
        assert_eq!(read_through_the_kernel(INTERFACE), railwatch_optics::decode(&image));
    } else if let Some(interface) = std::env::var_os("RAILWATCH_FAKE_NIC") {
        let module = read_through_the_kernel(&interface.to_string_lossy());
        assert!(module.standard.is_some() && !module.lanes.is_empty(), "{module:?}");
    } else {
        eprintln!(
            "SKIPPED: neither RAILWATCH_FAKE_NIC_KO (a module file) nor RAILWATCH_FAKE_NIC (an interface) is set"
        );
    }
}

/// Every kernel answers for an interface that has no module, and the source says why it is off.
#[test]
fn interfaces_without_modules_switch_the_source_off_with_a_reason() {
    if std::env::var_os("RAILWATCH_FAKE_NIC_KO").is_some() || std::env::var_os("RAILWATCH_FAKE_NIC").is_some() {
        eprintln!("SKIPPED: this machine is given a card with a module");
        return;
    }
    let mut source = OpticsSource::new(Path::new("/sys"));
    let mut recorder = Recorder::new("optics", Duration::from_secs(1), &RULES, Arc::new(Catalog::default()));
    match recorder.probe(monotonic_ns(), &mut Output::default(), |declare| source.probe(declare)) {
        Ok(()) => eprintln!("SKIPPED: this machine has cards whose modules can be read"),
        Err(off) => assert!(!off.text.is_empty() && off.text.contains("MODULE_EEPROM_GET"), "{off}"),
    }
}
