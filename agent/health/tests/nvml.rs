//! The NVML source against a double of the library (tests/fixtures/nvml), loaded as the real one is.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod driven;

use driven::{Driven, Tree, fixtures};
use railwatch_sampling::{ErrorReason, Severity};
use std::process::Command;

/// A healthy GPU.
const HEALTHY: &str = "utilization.0 97\nmemory_used.0 42949672960\nclock_sm.0 1980\nclock_memory.0 2619\ntemperature.0 61\n\
                       power.0 612345\nenergy.0 1000000\nthrottle.0 4\necc_corrected.0 2\necc_uncorrected.0 0\n\
                       ecc_lifetime_corrected.0 50\necc_lifetime_uncorrected.0 1\nrows_corrected.0 1\nrows_uncorrected.0 0\n\
                       rows_pending.0 0\nrows_failure.0 0\npcie_replays.0 3\nnvlinks.0 18\nnvlink_replays.0 0\n\
                       nvlink_recoveries.0 0\nnvlink_crc.0 1\n";

struct Double {
    tree: Tree,
    nvml: Driven,
}

impl Double {
    fn new(flags: &[&str], state: &str) -> Self {
        let tree = Tree::new();
        let config = tree.config();
        let code = fixtures().join("nvml/nvml.c");
        let built = Command::new("gcc")
            .args(["-O1", "-w", "-shared", "-fPIC", "-o"])
            .arg(&config.nvml_library)
            .arg(code)
            .args(flags)
            .output()
            .expect("gcc runs (package gcc)");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let nvml = Driven::new(&config, "gpu.nvml");
        let double = Self { tree, nvml };
        double.set(state);
        double
    }

    fn set(&self, state: &str) {
        self.tree.write("libnvidia-ml.so.1.state", state);
    }
}

#[test]
fn everything_a_gpu_says_is_read_in_its_unit() {
    let mut double = Double::new(&[], &format!("count 1\n{HEALTHY}"));
    double.nvml.probe().unwrap();
    let read = double.nvml.read();
    for (series, value) in [
        ("gpu.reachable", 1.0),
        ("gpu.utilization", 0.97),
        ("gpu.memory.used", 42_949_672_960.0),
        ("gpu.clock.sm", 1.98e9),
        ("gpu.temperature", 61.0),
        ("gpu.power", 612.345),
        ("gpu.throttle.power_cap", 1.0),
        ("gpu.throttle.thermal", 0.0),
        ("gpu.nvlink.active", 18.0),
        ("gpu.row_remap.failure", 0.0),
    ] {
        let got = read[&format!("0000:10:00.0 {series}")];
        assert!((got - value).abs() < 1e-6 * value.max(1.0), "{series}: {got}");
    }
    assert_eq!(double.nvml.catalog.all().len(), 26, "every value of the table and whether it is reachable");
    assert_eq!(double.nvml.signals(), [], "a power cap and errors of the past are no fault");
}

#[test]
fn faults_of_a_gpu_are_told() {
    let mut double = Double::new(&[], &format!("count 1\n{HEALTHY}"));
    double.nvml.probe().unwrap();
    double.nvml.read();
    // Slow groups are read at every fifth reading.
    double.set(&format!("count 1\n{HEALTHY}throttle.0 68\necc_uncorrected.0 1\nrows_failure.0 1\nrows_pending.0 1\nnvlink_recoveries.0 1\n"));
    for _ in 0..5 {
        double.nvml.read();
    }
    let mut told: Vec<_> = double.nvml.signals().into_iter().map(|(name, _, severity)| (name, severity)).collect();
    told.sort();
    assert_eq!(
        told,
        [
            ("gpu.ecc.uncorrected", Severity::Critical),
            ("gpu.nvlink.errors", Severity::Error),
            ("gpu.row_remap.failed", Severity::Critical),
            ("gpu.row_remap.waits", Severity::Warning),
            ("gpu.throttled", Severity::Warning),
        ]
    );
}

#[test]
fn a_remap_that_failed_before_the_agent_came_is_told_too() {
    let mut double = Double::new(&[], &format!("count 1\n{HEALTHY}rows_failure.0 1\n"));
    double.nvml.probe().unwrap();
    double.nvml.read();
    assert_eq!(double.nvml.signals(), [("gpu.row_remap.failed", "0000:10:00.0".to_owned(), Severity::Critical)]);
}

#[test]
fn an_xid_is_told_with_its_class_once() {
    let mut double = Double::new(&[], &format!("count 2\n{HEALTHY}temperature.1 40\n"));
    double.nvml.probe().unwrap();
    double.nvml.read();
    for (serial, code) in [(1, 31), (2, 79)] {
        double.set(&format!("count 2\n{HEALTHY}temperature.1 40\nxid.1 {code}\nxid_serial.1 {serial}\n"));
        double.nvml.read();
        double.nvml.read();
    }
    let told: Vec<_> = double
        .nvml
        .whole_signals()
        .into_iter()
        .map(|s| (s.name, s.entity.name, s.severity, s.summary, s.attributes[0].1.clone()))
        .collect();
    let gpu = "0000:11:00.0".to_owned();
    let summary = |text: &str| format!("gpu 0000:11:00.0: {text}");
    assert_eq!(
        told,
        [
            (
                "gpu.xid",
                gpu.clone(),
                Severity::Error,
                summary("XID 31, GPU memory page fault"),
                "application".to_owned()
            ),
            ("gpu.xid", gpu, Severity::Critical, summary("XID 79, GPU has fallen off the bus"), "hardware".to_owned()),
        ]
    );
}

#[test]
fn a_lost_gpu_is_told_the_others_go_on_and_it_is_told_when_it_is_back() {
    let two = format!("count 2\n{HEALTHY}temperature.1 40\n");
    let mut double = Double::new(&[], &two);
    double.nvml.probe().unwrap();
    double.nvml.read();
    double.set(&format!("{two}lost.0 1\n"));
    let read = double.nvml.read();
    assert_eq!(read["0000:11:00.0 gpu.temperature"], 40.0);
    // Still lost when the library is started anew.
    double.nvml.probe().unwrap();
    assert_eq!(double.nvml.read()["0000:10:00.0 gpu.reachable"], 0.0);
    double.set(&two);
    // The library is started anew, as a GPU after a reset needs.
    double.nvml.probe().unwrap();
    double.nvml.read();
    let told: Vec<_> = double.nvml.signals().into_iter().map(|(name, gpu, _)| (name, gpu)).collect();
    assert_eq!(told, [("gpu.lost", "0000:10:00.0".to_owned()), ("gpu.back", "0000:10:00.0".to_owned())]);
}

#[test]
fn what_a_gpu_or_an_older_library_lacks_has_no_series() {
    let mut double = Double::new(&["-DOLD"], "count 1\ntemperature.0 50\nthrottle.0 64\nrows_failure.0 1\n");
    double.nvml.probe().unwrap();
    double.nvml.read();
    let mut names: Vec<_> = double.nvml.catalog.all().iter().map(|def| def.name()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["gpu.reachable", "gpu.temperature", "gpu.throttle.brake", "gpu.throttle.power_cap", "gpu.throttle.thermal"]
    );
    assert_eq!(double.nvml.signals()[0].0, "gpu.throttled", "the older name of the call is used");
}

#[test]
fn a_library_without_driver_or_gpus_or_that_is_none_is_off_with_its_own_words() {
    for (state, reason, word) in [
        ("init 9\n", ErrorReason::Missing, "no NVIDIA driver is loaded"),
        ("init 4\n", ErrorReason::Denied, "nvidiactl"),
        ("init 999\n", ErrorReason::Io, "Unknown Error"),
        ("count 0\n", ErrorReason::Missing, "0 GPUs"),
    ] {
        let (got, text) = Double::new(&[], state).nvml.off();
        assert_eq!(got, reason, "{text}");
        assert!(text.contains(word), "{text}");
    }
    let tree = Tree::new();
    tree.write("libnvidia-ml.so.1", "no library at all");
    assert_eq!(Driven::new(&tree.config(), "gpu.nvml").off().0, ErrorReason::Missing);
    let other = railwatch_health::HealthConfig { nvml_library: "libc.so.6".into(), ..tree.config() };
    let (_, text) = Driven::new(&other, "gpu.nvml").off();
    assert!(text.contains("nvmlInit_v2 is missing"), "{text}");
}

#[test]
fn modes_are_told_where_a_gpu_has_them_and_nothing_where_there_is_no_library() {
    let double = Double::new(&[], "count 2\npersistence.0 1\necc_mode.0 0\npersistence.1 0\n");
    let mut modes = railwatch_health::NvmlModes::new(double.tree.config().nvml_library);
    let told: Vec<_> = modes.read().into_iter().map(|gpu| (gpu.pci_address, gpu.persistence, gpu.ecc)).collect();
    assert_eq!(told, [("0000:10:00.0".into(), Some(true), Some(false)), ("0000:11:00.0".into(), Some(false), None)]);
    assert_eq!(railwatch_health::NvmlModes::new("/nowhere/libnvidia-ml.so.1".into()).read(), []);
}

#[test]
fn where_nvlinks_lead_is_told_by_address() {
    let state =
        "count 4\nnvlinks.0 4\nnvlink_to.0 1\nnvlinks.1 4\nnvlink_to.1 0\nnvlinks.2 2\nnvlink_to.2 101\nnvlinks.3 3\n";
    let double = Double::new(&[], state);
    let library = double.tree.config().nvml_library;
    let gpus = railwatch_health::nvml_gpus(&library).unwrap();
    let found: Vec<_> =
        gpus.iter().map(|gpu| (gpu.address.as_str(), gpu.links.len(), gpu.links.first().map(String::as_str))).collect();
    assert_eq!(
        found,
        [
            ("0000:10:00.0", 4, Some("0000:11:00.0")),
            ("0000:11:00.0", 4, Some("0000:10:00.0")),
            ("0000:12:00.0", 2, Some("0000:c1:00.0")),
            ("0000:13:00.0", 0, None),
        ],
        "a link whose other end is not told is none"
    );
    assert!(gpus[0].uuid.starts_with("GPU-"), "{gpus:?}");
    double.set("init 9\n");
    assert!(railwatch_health::nvml_gpus(&library).is_err_and(|why| why.contains("Driver Not Loaded")));
}
