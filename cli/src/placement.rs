//! The listings of jobs and of devices, as data; see [`crate::listings`].
//!
//! Pure: rows in, text out. A line of a table sums up; JSON and YAML have every rank, device and path.

use crate::listings::Listing;
use crate::row::Row;
use crate::table::{Cell, Tone};

/// `railwatch jobs`.
pub static JOBS: Listing = Listing {
    path: "/v1/jobs",
    fields: &["job", "scheduler", "name", "hosts", "ranks", "world_size", "communicators"],
    fixed: true,
    heads: &["JOB", "SCHEDULER", "NAME", "RANKS", "HOSTS", "COMMUNICATORS", "ENDED BADLY", "CONTRADICTIONS"],
    line: |row, _| {
        let ranks = row.rows("ranks");
        let live = ranks.iter().filter(|rank| rank.text("exited_at").is_empty()).count();
        let of = row.number("world_size").map_or_else(String::new, |size| format!("/{size}"));
        let failed: Vec<_> = ranks.iter().filter_map(ended_badly).collect();
        let contradictions: usize = ranks.iter().map(|rank| rank.texts("contradictions").len()).sum();
        let bad = if failed.is_empty() { Tone::Plain } else { Tone::Bad };
        let warn = if contradictions == 0 { Tone::Plain } else { Tone::Warn };
        vec![
            Cell::text(row.text("job")),
            Cell::text(row.text("scheduler")),
            Cell::text(row.text("name")),
            Cell::number(format!("{live}{of}")),
            Cell::text(some(&row.texts("hosts"))),
            Cell::number(row.rows("communicators").len()),
            Cell::text(failed.join(", ")).tone(bad),
            Cell::number(contradictions).tone(warn),
        ]
    },
    nothing: "No process that uses a GPU is known. `railwatch gpu coverage` says what is seen; `railwatch hosts` what is off.",
};

/// "rank 3: signal 9".
fn ended_badly(rank: &Row) -> Option<String> {
    let who = rank
        .number("rank")
        .map_or_else(|| format!("pid {}", rank.number("pid").unwrap_or(0)), |rank| format!("rank {rank}"));
    match (rank.number("exit_code"), rank.number("exit_signal")) {
        (_, Some(signal)) if rank.flag("oom_killed") => Some(format!("{who}: signal {signal}, out of memory")),
        (_, Some(signal)) => Some(format!("{who}: signal {signal}")),
        (Some(code), None) if code != 0 => Some(format!("{who}: code {code}")),
        _ => None,
    }
}

/// The first few names, and how many more.
fn some(names: &[&str]) -> String {
    const SHOWN: usize = 4;
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

/// `railwatch placement`.
pub static PLACEMENT: Listing = Listing {
    path: "/v1/placement",
    fields: &["host", "devices", "paths", "off"],
    fixed: true,
    heads: &["HOST", "GPUS", "NICS", "NVME", "NEAREST NICS", "OFF"],
    line: |row, _| {
        let (devices, paths) = (row.rows("devices"), row.rows("paths"));
        let count = |kind: &str| Cell::number(devices.iter().filter(|device| device.text("kind") == kind).count());
        let gpus = devices.iter().filter(|device| device.text("kind") == "gpu");
        let nearest: Vec<_> = gpus.filter_map(|gpu| nearest(gpu.text("name"), &paths)).collect();
        let off = row.rows("off");
        let off: Vec<_> = off.iter().map(|off| format!("{} ({})", off.text("what"), off.text("why"))).collect();
        vec![
            Cell::text(row.text("host")),
            count("gpu"),
            count("nic"),
            count("nvme"),
            Cell::text(nearest.join(", ")),
            Cell::text(off.join("; ")).tone(Tone::Warn),
        ]
    },
    nothing: "No host has told how its devices sit yet. `railwatch hosts` says which are connected.",
};

/// "gpu/0 nic/eth0 pcie_switch": the NIC that is nearest to a GPU.
fn nearest(gpu: &str, paths: &[Row]) -> Option<String> {
    const KINDS: [&str; 4] = ["pcie_switch", "root_port", "numa_node", "system"];
    let from = format!("gpu/{gpu}");
    let of_gpu = || paths.iter().filter(|path| path.text("from") == from && path.text("to").starts_with("nic/"));
    let path = KINDS.iter().find_map(|kind| of_gpu().find(|path| path.text("kind") == *kind))?;
    Some(format!("{from} {} {}", path.text("to"), path.text("kind")))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use serde_json::json;

    #[test]
    fn a_job_shows_who_failed_and_how_many_live() {
        let row = Row::one(
            json!({"job": "42", "scheduler": "slurm", "name": null, "hosts": ["a", "b", "c", "d", "e"], "world_size": 8, "communicators": [{}],
                "ranks": [
                    {"rank": 0, "exited_at": null, "contradictions": []},
                    {"rank": 1, "exited_at": "x", "exit_code": 0, "contradictions": []},
                    {"rank": 2, "exited_at": "x", "exit_code": 3, "contradictions": ["y"]},
                    {"rank": null, "pid": 17, "exited_at": "x", "exit_code": null, "exit_signal": 9, "oom_killed": true}]}),
            "",
        );
        assert_eq!(
            JOBS.table(&[row.unwrap()], 0, false),
            "JOB  SCHEDULER  NAME  RANKS  HOSTS                  COMMUNICATORS  ENDED BADLY                                      CONTRADICTIONS\n\
             42   slurm      -       1/8  a, b, c, d and 1 more              1  rank 2: code 3, pid 17: signal 9, out of memory               1\n"
        );
    }

    #[test]
    fn each_gpu_shows_the_nic_that_is_nearest() {
        let row = Row::one(
            json!({"host": "a", "off": [{"what": "NVLinks", "why": "no NVML"}],
                "devices": [{"kind": "gpu", "name": "0"}, {"kind": "gpu", "name": "1"}, {"kind": "nic", "name": "eth0"}],
                "paths": [
                    {"from": "gpu/0", "to": "gpu/1", "kind": "nvlink", "links": 18},
                    {"from": "gpu/0", "to": "nic/eth1", "kind": "system"},
                    {"from": "gpu/0", "to": "nic/eth0", "kind": "pcie_switch"}]}),
            "",
        );
        assert_eq!(
            PLACEMENT.table(&[row.unwrap()], 0, false),
            "HOST  GPUS  NICS  NVME  NEAREST NICS                OFF\n\
             a        2     1     0  gpu/0 nic/eth0 pcie_switch  NVLinks (no NVML)\n"
        );
    }
}
