//! Real commands to real drivers: QEMU's NVMe controller and its SATA disk, in the virtual machines of
//! `cargo xtask test kernels`. Elsewhere a host has no disk that a test may ask.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]

use railwatch_health::smart::Health;
use railwatch_health::smart::helper::{Options, round};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn disks_answer_the_commands_as_they_are_decoded() {
    if std::env::var_os("RAILWATCH_VM").is_none() {
        eprintln!("no NVMe or SATA disk of its own here: tested in the virtual machines (`cargo xtask test kernels`)");
        return;
    }
    for driver in ["nvme", "ahci", "sd_mod"] {
        let done = Command::new("modprobe").arg(driver).status().unwrap();
        assert!(done.success(), "modprobe {driver}");
    }
    let end = Instant::now() + Duration::from_secs(60);
    for node in ["/dev/nvme0", "/dev/sda"] {
        while !Path::new(node).exists() {
            assert!(Instant::now() < end, "the virtual machine has no {node}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let options =
        Options { sysfs_root: "/sys".into(), dev_root: "/dev".into(), socket: "/nowhere".into(), every_s: 60 };
    let reports: Vec<_> = round(&options).collect();
    assert_eq!(reports.iter().map(|report| report.name.as_str()).collect::<Vec<_>>(), ["nvme0", "sda"], "{reports:?}");
    // hw/nvme/ctrl.c: the temperature that the controller was made with, a spare of 100 %, no errors.
    let Health::Nvme(nvme) = &reports[0].health else { panic!("{reports:?}") };
    assert_eq!((nvme.critical_warning, nvme.warning(), nvme.media_errors), (0, None, 0));
    assert_eq!(nvme.temperature_k, Some(0x143));
    assert_eq!(reports[0].serial, "RAILWATCH-NVME");
    // hw/ide/core.c, `smart_attributes`: no sector was reallocated, 31 degrees in attribute 190, and it is well.
    let Health::Ata(ata) = &reports[1].health else { panic!("{reports:?}") };
    assert_eq!((ata.is_failing, ata.reallocated, ata.temperature_c), (Some(false), Some(0), Some(31)), "{ata:?}");
    assert_eq!(reports[1].serial, "RAILWATCH-SATA");
    assert!(reports.iter().all(|report| report.asked_ns.0 <= report.asked_ns.1));
}
