//! Modules of a host that is emulated: a tree of files under another root, through the public interface.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use railwatch_optics_source::{OpticsSource, RULES};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{Batch, Catalog, ErrorReason, Output, Recorder, Source, Unavailable};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn probe(source: &mut OpticsSource, recorder: &mut Recorder, out: &mut Output) -> Result<(), Unavailable> {
    recorder.probe(monotonic_ns(), out, |declare| source.probe(declare))
}

#[test]
fn a_tree_with_module_files_has_modules_and_one_without_says_what_is_missing() {
    let root = tempfile::tempdir().unwrap();
    let catalog = Arc::new(Catalog::default());
    let mut recorder = Recorder::new("optics", Duration::from_secs(1_000_000), &RULES, Arc::clone(&catalog));
    let (mut out, mut source) = (Output::default(), OpticsSource::new(root.path()));
    assert_eq!(source.kernel_path(), "class/net/*/module_eeprom.json");
    let off = probe(&mut source, &mut recorder, &mut out).unwrap_err();
    assert_eq!(off.reason, ErrorReason::Missing);
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    for (interface, fixture) in [("eth0", "cmis-two-banks"), ("eth1", "sff8472-external"), ("eth2", "sff8636-lr4")] {
        let directory = root.path().join("class/net").join(interface);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::copy(fixtures.join(format!("{fixture}.json")), directory.join("module_eeprom.json")).unwrap();
    }
    std::fs::create_dir_all(root.path().join("class/net/lo")).unwrap();
    probe(&mut source, &mut recorder, &mut out).unwrap();
    let mut batch = Batch::with_capacity(4096);
    source.read(&mut batch).unwrap();
    assert_eq!(catalog.outside_vocabulary(), "");
    assert!(batch.readings().len() > 100, "{}", batch.readings().len());
    let modules = source.modules().all();
    let told: Vec<_> =
        modules.iter().map(|(name, module)| (name.as_str(), module.lanes.len(), module.problems.len())).collect();
    assert_eq!(told, [("eth0", 16, 0), ("eth1", 1, 0), ("eth2", 4, 0)]);
    assert!(catalog.all().iter().any(|def| def.entity().name == "eth0/16" && def.name() == "hw.optics.rx_power"));
}
