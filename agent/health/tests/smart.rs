//! The source of disks' own health, fed with reports as the helper sends them.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

mod driven;

use driven::{Driven, Tree};
use railwatch_health::smart::ata::AtaHealth;
use railwatch_health::smart::nvme::NvmeHealth;
use railwatch_health::smart::{Health, Message, Report};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{ErrorReason, Severity};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;

const WELL: NvmeHealth = NvmeHealth {
    critical_warning: 0,
    temperature_k: Some(313),
    spare_percent: 100,
    spare_threshold_percent: 10,
    used_percent: 4,
    unsafe_shutdowns: 3,
    media_errors: 0,
    error_log_entries: 9,
};

const WELL_ATA: AtaHealth = AtaHealth {
    is_failing: Some(false),
    reallocated: Some(2),
    reported_uncorrectable: Some(0),
    pending: Some(0),
    offline_uncorrectable: None,
    link_crc_errors: Some(5),
    temperature_c: Some(35),
};

/// The helper's end of the socket.
struct Helper {
    tree: Tree,
    out: UnixDatagram,
}

impl Helper {
    fn new() -> (Self, Driven) {
        let tree = Tree::new();
        let mut source = Driven::new(&tree.config(), "disk.smart");
        assert_eq!(source.off().0, ErrorReason::TimedOut, "no helper yet");
        (Self { tree, out: UnixDatagram::unbound().unwrap() }, source)
    }

    fn raw(&self, bytes: &[u8]) {
        self.out.send_to(bytes, self.tree.config().disk_socket.unwrap()).unwrap();
    }

    fn says(&self, every_s: u32, name: &str, health: Health) {
        let now_ns = monotonic_ns();
        let (model, serial) = ("Flash 1".to_owned(), "S1".to_owned());
        let report = Report { name: name.into(), model, serial, asked_ns: (now_ns - 1000, now_ns), health };
        self.raw(&serde_json::to_vec(&Message { every_s, report: Some(report) }).unwrap());
    }
}

/// Takes what was sent and reads it: two readings of a new disk, because it is declared in between.
fn read(source: &mut Driven) -> std::collections::BTreeMap<String, f64> {
    source.on_event();
    source.probe().unwrap();
    source.read()
}

#[test]
fn a_report_becomes_readings_once() {
    let (helper, mut source) = Helper::new();
    let socket = helper.tree.config().disk_socket.unwrap();
    assert_eq!(std::fs::metadata(socket).unwrap().permissions().mode() & 0o777, 0o600);
    helper.says(60, "nvme0", Health::Nvme(WELL));
    helper.says(60, "sda", Health::Ata(WELL_ATA));
    let values = read(&mut source);
    for (name, expected) in [
        ("nvme0 disk.smart.failing", 0.0),
        ("nvme0 disk.smart.spare", 1.0),
        ("nvme0 disk.smart.spare_low", 0.0),
        ("nvme0 disk.smart.wear", 0.04),
        ("sda disk.smart.failing", 0.0),
        ("sda disk.smart.sectors.pending", 0.0),
        ("sda disk.temperature", 35.0),
    ] {
        assert_eq!(values.get(name), Some(&expected), "{name} in {values:?}");
    }
    assert!((values["nvme0 disk.temperature"] - 39.85).abs() < 1e-9);
    assert!(!values.contains_key("sda disk.smart.sectors.uncorrectable"), "it has no such attribute");
    assert!(source.signals().is_empty());
    source.read();
    assert_eq!(source.readings(), 0, "nothing new was said");
}

#[test]
fn a_disk_that_gets_worse_is_told_by_name_and_severity() {
    let ata = |change: fn(&mut AtaHealth)| {
        let mut health = WELL_ATA;
        change(&mut health);
        (Health::Ata(WELL_ATA), Health::Ata(health))
    };
    let nvme = |change: fn(&mut NvmeHealth)| {
        let mut health = WELL;
        change(&mut health);
        (Health::Nvme(WELL), Health::Nvme(health))
    };
    for ((well, worse), expected, words) in [
        (nvme(|h| h.critical_warning = 0x0c), vec![("disk.failing", Severity::Critical)], "media read-only"),
        (nvme(|h| h.spare_percent = 10), vec![("disk.spare.low", Severity::Error)], "spare"),
        (
            nvme(|h| (h.critical_warning, h.spare_percent) = (1, 5)),
            vec![("disk.failing", Severity::Critical), ("disk.spare.low", Severity::Error)],
            "spare below its threshold",
        ),
        (nvme(|h| h.used_percent = 101), vec![("disk.wear.high", Severity::Warning)], "1.01"),
        (nvme(|h| h.media_errors = 2), vec![("disk.media_errors", Severity::Error)], "grew by 2 to 2"),
        (nvme(|h| h.unsafe_shutdowns = 4), vec![], ""),
        (ata(|h| h.is_failing = Some(true)), vec![("disk.failing", Severity::Critical)], "expects to fail"),
        (ata(|h| h.reallocated = Some(3)), vec![("disk.sectors.reallocated", Severity::Warning)], "grew by 1 to 3"),
        (ata(|h| h.pending = Some(8)), vec![("disk.sectors.pending", Severity::Error)], "8"),
        (ata(|h| h.reported_uncorrectable = Some(1)), vec![("disk.media_errors", Severity::Error)], "grew by 1"),
        (ata(|h| h.link_crc_errors = Some(6)), vec![("disk.link.errors", Severity::Warning)], "cable"),
    ] {
        let (helper, mut source) = Helper::new();
        helper.says(60, "disk0", well);
        read(&mut source);
        assert!(source.signals().is_empty());
        helper.says(60, "disk0", worse.clone());
        read(&mut source);
        let told = source.whole_signals();
        let names: Vec<_> = told.iter().map(|signal| (signal.name, signal.severity)).collect();
        assert_eq!(names, expected, "{worse:?}");
        assert!(told.first().is_none_or(|signal| signal.summary.contains(words)), "{told:?}");
        assert!(told.iter().all(|signal| signal.entity.kind == "disk" && signal.entity.name == "disk0"));
        helper.says(60, "disk0", worse);
        read(&mut source);
        assert!(source.signals().is_empty(), "told once");
    }
}

#[test]
fn a_disk_found_failing_is_told_at_once() {
    let (helper, mut source) = Helper::new();
    helper.says(60, "nvme0", Health::Nvme(NvmeHealth { critical_warning: 4, ..WELL }));
    read(&mut source);
    let told = source.whole_signals();
    let names: Vec<_> = told.iter().map(|s| (s.name, s.entity.kind, s.entity.name.as_str(), s.severity)).collect();
    assert_eq!(names, [("disk.failing", "nvme", "nvme0", Severity::Critical)], "the entity of the source nvme");
}

#[test]
fn what_is_no_message_or_beyond_its_bounds_is_not_believed() {
    let (helper, mut source) = Helper::new();
    helper.says(60, "nvme0", Health::Nvme(WELL));
    read(&mut source);
    let long = "x".repeat(300);
    let message = |name: &str, model: &str, every_s: u32| {
        serde_json::json!({"every_s": every_s, "report": {"name": name, "model": model, "serial": "", "asked_ns": [1, 2],
            "health": {"nvme": serde_json::to_value(WELL).unwrap()}}})
        .to_string()
        .into_bytes()
    };
    for bytes in [
        b"".to_vec(),
        b"{}".to_vec(),
        vec![0xff; 5000],
        message("../nvme1", "m", 60),
        message("nvme1", &long, 60),
        message("", "m", 60),
        message("nvme1", "m", 0),
    ] {
        helper.raw(&bytes);
        let values = read(&mut source);
        assert!(!values.keys().any(|name| name.starts_with("nvme1")), "{values:?}");
    }
    helper.raw(&message("nvme1", "m", 60));
    assert!(read(&mut source).contains_key("nvme1 disk.smart.wear"), "the same within its bounds");
}

#[test]
fn a_disk_that_does_not_answer_keeps_its_series_and_has_no_values() {
    let (helper, mut source) = Helper::new();
    helper.says(60, "sda", Health::Ata(WELL_ATA));
    let series = read(&mut source).len();
    helper.says(60, "sda", Health::Failed { why: "ask /dev/sda: Input/output error".into() });
    assert!(read(&mut source).is_empty(), "no value is made up");
    helper.says(60, "sda", Health::Ata(WELL_ATA));
    assert_eq!(read(&mut source).len(), series);
}

#[test]
fn a_helper_that_is_silent_for_three_rounds_is_gone() {
    let (helper, mut source) = Helper::new();
    helper.says(1, "nvme0", Health::Nvme(WELL));
    read(&mut source);
    std::thread::sleep(std::time::Duration::from_millis(3_100));
    let (reason, text) = source.off();
    assert_eq!(reason, ErrorReason::TimedOut);
    assert!(text.contains("railwatch-disk"), "{text}");
}
