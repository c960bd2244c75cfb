//! The DCMI source against a double of the library (tests/fixtures/dcmi), loaded as the real one is.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod driven;

use driven::{Driven, Tree, fixtures};
use railwatch_sampling::{ErrorReason, Severity};
use std::process::Command;

/// A healthy NPU.
const HEALTHY: &str = "health.0 0\ntemperature.0 55\npower.0 1624\nutilization.0 88\nclock.0 1800\nhbm_used.0 32768\n\
                       ecc_single.0 4\necc_double.0 0\n";

struct Double {
    tree: Tree,
    dcmi: Driven,
}

impl Double {
    fn new(flags: &[&str], state: &str) -> Self {
        let tree = Tree::new();
        let config = tree.config();
        let built = Command::new("gcc")
            .args(["-O1", "-w", "-shared", "-fPIC", "-o"])
            .arg(&config.dcmi_library)
            .arg(fixtures().join("dcmi/dcmi.c"))
            .args(flags)
            .output()
            .expect("gcc runs (package gcc)");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let dcmi = Driven::new(&config, "npu.dcmi");
        let double = Self { tree, dcmi };
        double.set(state);
        double
    }

    fn set(&self, state: &str) {
        self.tree.write("libdcmi.so.state", state);
    }
}

#[test]
fn everything_an_npu_says_is_read_in_its_unit() {
    let mut double = Double::new(&[], &format!("count 1\n{HEALTHY}"));
    double.dcmi.probe().unwrap();
    let read = double.dcmi.read();
    for (series, value) in [
        ("npu.reachable", 1.0),
        ("npu.health 0000:c0:00.0", 0.0),
        ("npu.temperature 0000:c0:00.0", 55.0),
        ("npu.power 0000:c0:00.0", 162.4),
        ("npu.utilization 0000:c0:00.0", 0.88),
        ("npu.clock.core 0000:c0:00.0", 1.8e9),
        ("npu.memory.used 0000:c0:00.0", 34_359_738_368.0),
        ("npu.memory.total 0000:c0:00.0", 68_719_476_736.0),
        ("npu.memory.temperature 0000:c0:00.0", 48.0),
        ("npu.memory.utilization 0000:c0:00.0", 0.25),
        ("npu.ecc.isolated_pages.corrected 0000:c0:00.0", 3.0),
    ] {
        let got = read[&format!("npu0 {series}")];
        assert!((got - value).abs() < 1e-6 * value.max(1.0), "{series}: {got}");
    }
    assert_eq!(double.dcmi.catalog.all().len(), 16, "every value of the table and whether it is reachable");
    assert_eq!(double.dcmi.signals(), [], "errors of the past are no fault");
}

#[test]
fn faults_of_an_npu_are_told_once_and_by_name() {
    let mut double = Double::new(&[], &format!("count 2\n{HEALTHY}health.1 0\n"));
    double.dcmi.probe().unwrap();
    double.dcmi.read();
    let faulty = format!("count 2\n{HEALTHY}health.1 3\nhealth.0 1\necc_double.0 1\ncode.1 2162169857\n");
    double.set(&faulty);
    double.dcmi.read();
    let mut told = double.dcmi.whole_signals();
    told.sort_by_key(|signal| signal.name);
    let names: Vec<_> = told.iter().map(|s| (s.name, s.entity.name.as_str(), s.severity)).collect();
    assert_eq!(
        names,
        [
            ("npu.ecc.uncorrected", "npu0", Severity::Critical),
            ("npu.fault", "npu1", Severity::Error),
            ("npu.health.bad", "npu1", Severity::Error),
        ],
        "a minor alarm is none"
    );
    assert_eq!(told[1].summary, "npu npu1: fault 0x80e01801, HBM multi-bit ECC error");
    assert!(told[2].summary.contains("critical alarm"), "{}", told[2].summary);
    double.dcmi.read();
    assert_eq!(double.dcmi.signals(), [], "what stays is not told again");
    double.set(&format!("count 2\n{HEALTHY}health.1 0\n"));
    double.dcmi.read();
    double.set(&faulty);
    double.dcmi.read();
    let names: Vec<_> = double.dcmi.signals().into_iter().map(|(name, _, _)| name).collect();
    assert_eq!(names.iter().filter(|name| **name == "npu.fault").count(), 1, "it came again: {names:?}");
}

#[test]
fn a_lost_npu_is_told_the_others_go_on_and_it_is_told_when_it_is_back() {
    let two = format!("count 2\n{HEALTHY}health.1 0\ntemperature.1 40\n");
    let mut double = Double::new(&[], &two);
    double.dcmi.probe().unwrap();
    double.dcmi.read();
    double.set(&format!("{two}lost.0 1\n"));
    let read = double.dcmi.read();
    assert_eq!(read["npu1 npu.temperature 0000:c1:00.0"], 40.0);
    double.dcmi.probe().unwrap();
    assert_eq!(double.dcmi.read()["npu0 npu.reachable"], 0.0);
    double.set(&two);
    double.dcmi.probe().unwrap();
    double.dcmi.read();
    let told: Vec<_> = double.dcmi.signals().into_iter().map(|(name, npu, _)| (name, npu)).collect();
    assert_eq!(told, [("npu.lost", "npu0".to_owned()), ("npu.back", "npu0".to_owned())]);
}

#[test]
fn an_npu_that_leaves_the_list_is_lost() {
    let two = format!("count 2\n{HEALTHY}health.1 0\n");
    let mut double = Double::new(&[], &two);
    double.dcmi.probe().unwrap();
    double.dcmi.read();
    double.set(&format!("count 1\n{HEALTHY}"));
    double.dcmi.read();
    double.dcmi.probe().unwrap();
    let told: Vec<_> = double.dcmi.signals().into_iter().map(|(name, npu, _)| (name, npu)).collect();
    assert_eq!(told, [("npu.lost", "npu1".to_owned())]);
}

#[test]
fn what_an_npu_or_an_older_library_lacks_has_no_series() {
    let mut double = Double::new(&["-DOLD"], &format!("count 1\n{HEALTHY}"));
    double.dcmi.probe().unwrap();
    double.dcmi.read();
    let mut names: Vec<_> = double.dcmi.catalog.all().iter().map(|def| def.name()).collect();
    names.sort_unstable();
    assert_eq!(names, ["npu.health", "npu.reachable", "npu.temperature"]);
}

#[test]
fn a_library_without_driver_or_npus_or_that_is_none_is_off_with_its_own_words() {
    for (state, reason, word) in [
        ("init -8002\n", ErrorReason::Denied, "root"),
        ("init -8013\n", ErrorReason::Denied, "container"),
        ("init -8005\n", ErrorReason::Io, "internal error"),
        ("count 0\n", ErrorReason::Missing, "no NPU"),
    ] {
        let (got, text) = Double::new(&[], state).dcmi.off();
        assert_eq!(got, reason, "{text}");
        assert!(text.contains(word), "{text}");
    }
    let tree = Tree::new();
    tree.write("libdcmi.so", "no library at all");
    assert_eq!(Driven::new(&tree.config(), "npu.dcmi").off().0, ErrorReason::Missing);
    let other = railwatch_health::HealthConfig { dcmi_library: "libc.so.6".into(), ..tree.config() };
    let (_, text) = Driven::new(&other, "npu.dcmi").off();
    assert!(text.contains("dcmi_init is missing"), "{text}");
}
