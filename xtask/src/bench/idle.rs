//! `cargo xtask bench idle`: what the agent of a running `cargo xtask up` costs while nothing happens.

use crate::daemon;
use anyhow::{Context, Result};
use serde::Serialize;
use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// Options of `bench idle`.
#[derive(clap::Args)]
pub struct Options {
    /// Also write the result to this file
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// How long to look, seconds
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// The process to look at; found by its name where it is left out
    #[arg(long)]
    pid: Option<u32>,
}

/// What is measured.
#[derive(Serialize)]
pub struct Figures {
    pid: u32,
    cpu_percent_of_one_core: f64,
    resident_kib: u64,
    bpf_maps_kib: u64,
    seconds: f64,
    kernel: String,
}

/// Measures.
pub fn measure(options: &Options) -> Result<Figures> {
    let pid = match options.pid {
        Some(pid) => pid,
        None => agent()?,
    };
    let begun = Instant::now();
    let before = daemon::cpu_seconds(pid)?;
    thread::sleep(Duration::from_secs(options.seconds));
    let used = daemon::cpu_seconds(pid)? - before;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Figures {
        pid,
        cpu_percent_of_one_core: used / seconds * 100.0,
        resident_kib: status_kib(pid, "VmRSS:")?,
        bpf_maps_kib: bpf_maps_kib(pid)?,
        seconds,
        kernel: daemon::kernel_release()?,
    })
}

fn agent() -> Result<u32> {
    fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|pid: &u32| {
            fs::read_link(format!("/proc/{pid}/exe"))
                .is_ok_and(|program| program.file_name().is_some_and(|name| name == "railwatch-agent"))
        })
        .context("no railwatch-agent runs: start `cargo xtask up` first")
}

pub(super) fn status_kib(pid: u32, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("proc(5) has this field")?;
    line.trim().trim_end_matches(" kB").parse().with_context(|| format!("{field} {line}"))
}

/// Memory charged for the maps that the process holds open. Source: kernel/bpf/syscall.c, bpf_map_show_fdinfo.
pub(super) fn bpf_maps_kib(pid: u32) -> Result<u64> {
    let mut maps = std::collections::BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))?.flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        if let (Some(bytes), Some(id)) = (field("memlock:"), field("map_id:")) {
            maps.insert(id, bytes);
        }
    }
    Ok(maps.values().sum::<u64>() / 1024)
}
