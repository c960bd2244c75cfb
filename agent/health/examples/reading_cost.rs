//! Prints what reading a host's health costs: `cargo run --release -p railwatch-health --example reading_cost [host]`.
//!
//! Without `host`, over an emulated tree of files: 8 GPUs, 8 NICs, 8 NVMe controllers and disks, 32 DIMMs, 256 processors in two
//! packages, 500 interrupts. What a device or its driver adds to a read does not appear there. First each source is read in
//! a row, then the sampler runs all of them for 20 s at their default cadences.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use railwatch_health::{HealthConfig, HealthSources, RULES};
use railwatch_sampling::clock::monotonic_ns;
use railwatch_sampling::{
    Batch, Catalog, Output, Recorder, Sampler, SamplerConfig, Signal, Sink, SinkFull, WindowFrame,
};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const READS: usize = 200;
const RUN: Duration = Duration::from_secs(20);

fn main() -> std::io::Result<()> {
    let tree = tempfile::tempdir()?;
    let config = if std::env::args().nth(1).is_some_and(|argument| argument == "host") {
        HealthConfig::default()
    } else {
        emulate(tree.path())?;
        HealthConfig {
            sysfs_root: tree.path().join("sys"),
            procfs_root: tree.path().join("proc"),
            ..HealthConfig::default()
        }
    };
    each_source(&config);
    all_at_their_cadence(&config);
    Ok(())
}

fn each_source(config: &HealthConfig) {
    println!("{:<10} {:>8} {:>10} {:>10} {:>12}", "source", "readings", "p50 us", "p99 us", "% of a core");
    for mut source in HealthSources::new(config).sources {
        let mut recorder = Recorder::new(source.name(), Duration::from_secs(1), RULES, Arc::new(Catalog::default()));
        let (mut out, mut batch) = (Output::default(), Batch::with_capacity(10_000));
        if let Err(off) = recorder.probe(monotonic_ns(), &mut out, |declare| source.probe(declare)) {
            println!("{:<10} off: {off}", source.name());
            continue;
        }
        let mut took_ns = Vec::with_capacity(READS);
        for _ in 0..READS {
            batch.clear();
            let before_ns = monotonic_ns();
            if let Err(error) = source.read(&mut batch) {
                println!("{:<10} {error}", source.name());
            }
            recorder.record(&batch, &mut out);
            took_ns.push(monotonic_ns() - before_ns);
        }
        took_ns.sort_unstable();
        let (p50, p99) = (took_ns[READS / 2], took_ns[READS * 99 / 100]);
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let (p50, p99, cadence_ns) = (p50 as f64, p99 as f64, source.cadence().default.as_nanos() as f64);
        println!(
            "{:<10} {:>8} {:>10.1} {:>10.1} {:>12.4}",
            source.name(),
            batch.readings().len(),
            p50 / 1e3,
            p99 / 1e3,
            p50 / cadence_ns * 100.0
        );
    }
}

struct Nowhere;

impl Sink for Nowhere {
    fn window(&self, _: WindowFrame) -> Result<(), SinkFull> {
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<(), SinkFull> {
        println!("signal: {}", signal.summary);
        Ok(())
    }
}

fn all_at_their_cadence(config: &HealthConfig) {
    let catalog = Arc::new(Catalog::default());
    let sampler_config = SamplerConfig { rules: RULES, ..SamplerConfig::default() };
    let resident_before = resident_kib();
    let mut sampler = Sampler::new(sampler_config, Arc::clone(&catalog), Arc::new(Nowhere));
    for source in HealthSources::new(config).sources {
        if let Err(error) = sampler.start(source, None) {
            println!("{error}");
        }
    }
    std::thread::sleep(Duration::from_secs(2));
    let before_us = cpu_us();
    std::thread::sleep(RUN);
    let spent_us = cpu_us() - before_us;
    let resident = resident_kib().saturating_sub(resident_before);
    let reports = sampler.stop();
    #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
    let percent = spent_us as f64 / RUN.as_micros() as f64 * 100.0;
    println!(
        "\n{} threads for {RUN:?} at default cadences: {percent:.3} % of one core, {resident} KiB resident for them, {} series",
        reports.len(),
        catalog.all().len()
    );
}

fn cpu_us() -> i64 {
    getrusage(UsageWho::RUSAGE_SELF)
        .map_or(0, |usage| usage.user_time().num_microseconds() + usage.system_time().num_microseconds())
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

fn emulate(root: &Path) -> std::io::Result<()> {
    let write = |path: String, text: &str| {
        let path = root.join(path);
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        std::fs::write(path, text)
    };
    for resource in ["cpu", "memory", "io"] {
        let text = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n";
        write(format!("proc/pressure/{resource}"), text)?;
    }
    let mut stats = String::new();
    for disk in 0..8 {
        write(format!("sys/block/nvme{disk}n1/device/model"), "emulated")?;
        write(format!("sys/class/nvme/nvme{disk}/state"), "live\n")?;
        write(format!("sys/class/nvme/nvme{disk}/hwmon1/temp1_input"), "40000\n")?;
        let _ = writeln!(stats, " 259 {disk} nvme{disk}n1 100 0 800 5 5 0 80 6 3 70 80 0 0 0 0 1 2");
    }
    write("proc/diskstats".into(), &stats)?;
    for dimm in 0..32 {
        let folder = format!("sys/devices/system/edac/mc/mc{}/dimm{}", dimm / 16, dimm % 16);
        for (file, text) in [("dimm_label", "DIMM"), ("dimm_ce_count", "0"), ("dimm_ue_count", "0")] {
            write(format!("{folder}/{file}"), text)?;
        }
    }
    let columns = "          0".repeat(256);
    let mut interrupts = String::new();
    for number in 0..500 {
        let _ = writeln!(interrupts, "{number:>4}:{columns}  IR-PCI-MSI  mlx5_comp{number}");
    }
    for row in ["THR", "DFR", "MCE", "MCP", "ERR"] {
        let _ = writeln!(interrupts, " {row}:{columns}  words");
    }
    write("proc/interrupts".into(), &interrupts)?;
    for cpu in 0..256 {
        let folder = format!("sys/devices/system/cpu/cpu{cpu}");
        for (file, text) in [
            ("topology/physical_package_id", (cpu / 128).to_string()),
            ("topology/core_id", (cpu % 128 / 2).to_string()),
            ("thermal_throttle/core_throttle_count", "0".into()),
            ("thermal_throttle/package_throttle_count", "0".into()),
        ] {
            write(format!("{folder}/{file}"), &text)?;
        }
    }
    for device in 0..24 {
        let (class, vendor) = [("0x030200", "0x10de"), ("0x020000", "0x15b3"), ("0x010802", "0x144d")][device / 8];
        let folder = format!("sys/bus/pci/devices/0000:{device:02x}:00.0");
        for (file, text) in [
            ("class", class),
            ("vendor", vendor),
            ("config", "xxxxxxxx"),
            ("max_link_width", "16"),
            ("current_link_width", "16"),
            ("current_link_speed", "32.0 GT/s PCIe"),
            ("aer_dev_correctable", "RxErr 0\nBadTLP 0\nBadDLLP 0\nRollover 0\nTimeout 0\nTOTAL_ERR_COR 0"),
            ("aer_dev_nonfatal", "Undefined 0\nDLP 0\nTLP 0\nTOTAL_ERR_NONFATAL 0"),
            ("aer_dev_fatal", "Undefined 0\nDLP 0\nTLP 0\nTOTAL_ERR_FATAL 0"),
        ] {
            write(format!("{folder}/{file}"), text)?;
        }
    }
    Ok(())
}
