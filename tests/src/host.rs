//! A host of files and doubles that has everything: every file source reads something, every table has each of its rows.
//!
//! In: nothing but the repository's fixtures. Out: an agent's configuration over trees of sysfs and procfs, a double of NVML
//! (tests/fixtures/nvml), one of hccn_tool, images of optical modules. Never: a device of the host that runs the test.

use anyhow::{Context, Result, ensure};
use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tempfile::TempDir;

/// Counters in hw_counters of further devices, one for each driver, so that each row of the drivers' vocabulary is read.
const RDMA_DEVICES: &[(&str, &[&str])] = &[
    (
        "mlx5_0",
        &[
            "rx_dct_connect",
            "roce_adp_retrans",
            "roce_adp_retrans_to",
            "roce_slow_restart",
            "roce_slow_restart_cnps",
            "roce_slow_restart_trans",
        ],
    ),
    (
        "bnxt_re0",
        &["active_pds", "active_ahs", "active_srqs", "active_cqs", "active_mrs", "active_mws", "rx_roce_errors"],
    ),
    ("rxe0", &["retry_exceeded_err", "retry_rnr_exceeded_err", "completer_retry_err", "send_err", "link_downed"]),
    ("efa_0", &["rx_drops", "retrans_bytes", "retrans_pkts", "retrans_timeout_events"]),
    ("ionic_0", &["rx_rdma_mtu_discard_pkts", "rx_rdma_cnp_pkts"]),
];

/// All that the double of NVML can answer, for GPU 0.
const GPU: &str = "count 1\nutilization.0 97\nmemory_used.0 42949672960\nmemory_total.0 85899345920\nclock_sm.0 1980\n\
    clock_memory.0 2619\ntemperature.0 61\npower.0 612345\nenergy.0 1000000\nthrottle.0 4\necc_corrected.0 2\n\
    ecc_uncorrected.0 0\necc_lifetime_corrected.0 50\necc_lifetime_uncorrected.0 1\nrows_corrected.0 1\n\
    rows_uncorrected.0 0\nrows_pending.0 0\nrows_failure.0 0\npcie_replays.0 3\nnvlinks.0 18\nnvlink_replays.0 0\n\
    nvlink_recoveries.0 0\nnvlink_crc.0 1\n";

/// All that the double of DCMI can answer, for NPU 0.
const NPU: &str = "count 1\nhealth.0 0\ntemperature.0 55\npower.0 1624\nutilization.0 88\nclock.0 1800\nhbm_used.0 32768\n\
    ecc_single.0 4\necc_double.0 0";

/// What a controller and a disk say of themselves.
const DISKS: &[(&str, &str)] = &[
    (
        "nvme0",
        r#"{"nvme":{"critical_warning":0,"temperature_k":313,"spare_percent":100,"spare_threshold_percent":10,
        "used_percent":4,"unsafe_shutdowns":3,"media_errors":0,"error_log_entries":9}}"#,
    ),
    (
        "sda",
        r#"{"ata":{"is_failing":false,"reallocated":2,"reported_uncorrectable":0,"pending":0,"offline_uncorrectable":0,
        "link_crc_errors":5,"temperature_c":35}}"#,
    ),
];

/// What hccn_tool prints of NPU 0; there is no other.
const HCCN: &str = r#"#!/bin/sh
[ "$2" = 0 ] || exit 1
case "$3" in
-link) echo "link status: UP" ;;
-stat) for word in mac_tx_total_oct_num mac_rx_total_oct_num mac_tx_total_pkt_num mac_rx_total_pkt_num \
    mac_tx_mac_pause_num mac_rx_mac_pause_num mac_tx_pfc_pkt_num mac_rx_pfc_pkt_num mac_tx_bad_pkt_num mac_rx_bad_pkt_num \
    mac_rx_fcs_err_pkt_num roce_rx_cnp_pkt_num roce_tx_cnp_pkt_num roce_new_pkt_rty_num roce_out_of_order_num \
    roce_unexpected_ack_num roce_verification_err_num; do echo "$word:0"; done ;;
-optical) printf 'present : present\nVcc : 3270.00 mV\ntemperature : 44 C\nTx Power0 : 1.2 mW\nRx Power0 : 1.1 mW\nTx Bias0 : 38.0 mA\n' ;;
esac
"#;

/// The host.
pub struct FixtureHost(TempDir);

impl FixtureHost {
    /// Lays it out.
    pub fn new() -> Result<Self> {
        let host = Self(tempfile::Builder::new().prefix("railwatch-host-").tempdir()?);
        host.nics()?;
        host.pcie()?;
        host.files()?;
        host.accelerators()?;
        host.write("probe.key", "the key of this cluster")?;
        fs::set_permissions(host.path("probe.key"), fs::Permissions::from_mode(0o600))?;
        Ok(host)
    }

    /// A file or folder of it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file in place: an agent that keeps it open reads the new text.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        fs::create_dir_all(path.parent().context("a file has a folder")?)?;
        fs::write(&path, format!("{text}\n")).with_context(|| format!("write {}", path.display()))
    }

    /// The agent's configuration that reads this host.
    pub fn agent_toml(&self) -> String {
        let path = |name: &str| self.path(name).display().to_string();
        format!(
            "[sampling]\nsysfs_root = {:?}\n[health]\nprocfs_root = {:?}\nnvml_library = {:?}\ndcmi_library = {:?}\n\
             hccn_tool = {:?}\nkmsg_socket = {:?}\ndisk_socket = {:?}\n\
             [probe]\nenabled = true\nlisten = \"127.0.0.1:0\"\nkey_file = {:?}\n",
            path("sys"),
            path("proc"),
            path("libnvidia-ml.so.1"),
            path("libdcmi.so"),
            path("hccn_tool"),
            path("kmsg.sock"),
            path("disk.sock"),
            path("probe.key")
        )
    }

    /// Says to the agent what its helpers would, of the kernel's log and of disks; nobody listens yet at first.
    pub fn speak_as_helpers(&self) -> Result<()> {
        self.say("kmsg.sock", r#"{"lines":12,"lost":0}"#)?;
        let uptime = fs::read_to_string("/proc/uptime").context("read /proc/uptime")?;
        let uptime_s: f64 = uptime.split_whitespace().next().unwrap_or_default().parse().context("an uptime")?;
        let asked_ns = Duration::try_from_secs_f64(uptime_s)?.as_nanos();
        for (name, health) in DISKS {
            self.say(
                "disk.sock",
                &format!(
                    r#"{{"every_s":60,"report":{{"name":"{name}","model":"Fast SSD","serial":"S1","asked_ns":[{asked_ns},{asked_ns}],
                    "health":{health}}}}}"#
                ),
            )?;
        }
        Ok(())
    }

    fn say(&self, socket: &str, message: &str) -> Result<()> {
        match UnixDatagram::unbound()?.send_to(message.as_bytes(), self.path(socket)) {
            Ok(_) => Ok(()),
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) =>
            {
                Ok(())
            }
            // The agent takes them once it looks again.
            Err(error) if error.raw_os_error() == Some(11) => Ok(()),
            Err(error) => Err(error).context("send to the agent as the helper"),
        }
    }

    fn nics(&self) -> Result<()> {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR"));
        fs::create_dir(self.path("sys"))?;
        let source = fixtures.join("fixtures/sysfs/roce-host/.");
        let copied = Command::new("cp").arg("-r").arg(source).arg(self.path("sys")).status()?;
        ensure!(copied.success(), "copy the tree of a RoCE host");
        for (device, counters) in RDMA_DEVICES {
            let port = format!("sys/class/infiniband/{device}/ports/1");
            if !self.path(&port).join("state").exists() {
                self.write(&format!("{port}/state"), "4: ACTIVE")?;
            }
            for counter in *counters {
                self.write(&format!("{port}/hw_counters/{counter}"), "1")?;
            }
        }
        for (interface, image) in [("eth0", "cmis-vdm"), ("eth1", "sff8636-lr4")] {
            let image = fixtures.join(format!("../agent/optics/fixtures/{image}.json"));
            fs::copy(image, self.path(&format!("sys/class/net/{interface}/module_eeprom.json")))?;
        }
        Ok(())
    }

    fn pcie(&self) -> Result<()> {
        let port = "sys/devices/pci0000:00/0000:00:01.0";
        for (file, text) in [
            ("class", "0x030200"),
            ("vendor", "0x10de"),
            ("config", "xx"),
            ("max_link_width", "16"),
            ("current_link_width", "16"),
            ("current_link_speed", "32.0 GT/s PCIe"),
            ("aer_dev_correctable", "RxErr 0\nTOTAL_ERR_COR 0"),
            ("aer_dev_nonfatal", "TLP 0\nTOTAL_ERR_NONFATAL 0"),
            ("aer_dev_fatal", "TLP 0\nTOTAL_ERR_FATAL 0"),
        ] {
            self.write(&format!("{port}/0000:10:00.0/{file}"), text)?;
        }
        self.write(&format!("{port}/max_link_width"), "16")?;
        let devices = self.path("sys/bus/pci/devices");
        fs::create_dir_all(&devices)?;
        std::os::unix::fs::symlink(self.path(port).join("0000:10:00.0"), devices.join("0000:10:00.0"))?;
        Ok(())
    }

    fn files(&self) -> Result<()> {
        let pressure =
            "some avg10=0.00 avg60=0.00 avg300=0.00 total=100\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=50";
        let cpu = "sys/devices/system/cpu/cpu0";
        for (file, text) in [
            ("proc/pressure/cpu", pressure),
            ("proc/pressure/memory", pressure),
            ("proc/pressure/io", pressure),
            ("proc/pressure/irq", "full avg10=0.00 avg60=0.00 avg300=0.00 total=9"),
            ("proc/diskstats", " 259 0 nvme0n1 10 0 80 5 20 0 160 9 1 12 14 0 0 0 0 0 0"),
            ("sys/block/nvme0n1/device/model", "Fast SSD"),
            ("proc/interrupts", "      CPU0\nMCE: 0 x\nDFR: 0 x\nTHR: 0 x\nMCP: 5 x\nTRM: 0 x"),
            ("sys/devices/system/edac/mc/mc0/dimm0/dimm_label", "CPU_SrcID#0_MC#0_Chan#0_DIMM#0"),
            ("sys/devices/system/edac/mc/mc0/dimm0/dimm_ce_count", "0"),
            ("sys/devices/system/edac/mc/mc0/dimm0/dimm_ue_count", "0"),
            ("sys/class/hwmon/hwmon0/name", "coretemp"),
            ("sys/class/hwmon/hwmon0/temp1_label", "Package id 0"),
            ("sys/class/hwmon/hwmon0/temp1_input", "54500"),
            ("sys/class/nvme/nvme0/state", "live"),
            ("sys/class/nvme/nvme0/model", "Fast SSD"),
            ("sys/class/nvme/nvme0/serial", "S1"),
            ("sys/class/nvme/nvme0/hwmon1/temp1_input", "38850"),
        ] {
            self.write(file, text)?;
        }
        for (file, text) in [
            ("topology/physical_package_id", "0"),
            ("topology/core_id", "0"),
            ("thermal_throttle/core_throttle_count", "1"),
            ("thermal_throttle/package_throttle_count", "1"),
        ] {
            self.write(&format!("{cpu}/{file}"), text)?;
        }
        Ok(())
    }

    fn accelerators(&self) -> Result<()> {
        for (library, code, state) in [
            ("libnvidia-ml.so.1", concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/nvml/nvml.c"), GPU),
            ("libdcmi.so", concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/dcmi/dcmi.c"), NPU),
        ] {
            let flags = ["-O1", "-w", "-shared", "-fPIC", "-o"];
            let built = Command::new("gcc").args(flags).arg(self.path(library)).arg(code).output()?;
            ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
            self.write(&format!("{library}.state"), state)?;
        }
        let tool = self.path("hccn_tool");
        fs::write(&tool, HCCN)?;
        fs::set_permissions(tool, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }
}
