//! Which job a process belongs to, and which rank of it.
//!
//! In: /proc/PID/{stat,cgroup,environ} of a process that uses a GPU. Out: a [`Task`]. The control group's word comes before
//! the environment's, because a process cannot choose it; where the two, or the communicators, contradict each other, all is
//! shown and said ([`contradictions`]). Never: a read of a command line; a variable outside the list.

use crate::environment::{self, ENVIRON_BYTES_MAX, Ranks};
use crate::slurm::slurm_of;
use railwatch_gpu::discovery::{Container, container_of};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Names one process for good: its number, and its start in clock ticks since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// In the host's pid namespace.
    pub pid: u32,
    /// Field 22 of proc_pid_stat(5).
    pub start_ticks: u64,
}

/// What is known of where a process belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Which process.
    pub identity: Identity,
    /// Its program's name, at most 15 bytes.
    pub comm: String,
    /// Container and pod.
    pub container: Option<Container>,
    /// "slurm", "kubernetes"; empty where none is known.
    pub scheduler: &'static str,
    /// The scheduler's number or name of the job; a run id of torchrun where that is all there is; empty where none is known.
    pub job: String,
    /// The scheduler's part of the job.
    pub step: String,
    /// As the launcher told it.
    pub ranks: Ranks,
    /// Allowed variables.
    pub environment: BTreeMap<&'static str, String>,
    /// What contradicts itself, for people.
    pub contradictions: Vec<String>,
}

impl Task {
    /// Reads it below `proc`. `None` where the process is gone.
    #[must_use]
    pub fn read(proc: &Path, pid: u32) -> Option<Self> {
        let folder = proc.join(pid.to_string());
        let (comm, start_ticks) = stat(&std::fs::read(folder.join("stat")).ok()?)?;
        let cgroup = std::fs::read_to_string(folder.join("cgroup")).unwrap_or_default();
        let mut environ = Vec::new();
        // Denied, or empty once it ends: then nothing is known by it.
        if let Ok(file) = File::open(folder.join("environ")) {
            let _ = file.take(ENVIRON_BYTES_MAX).read_to_end(&mut environ);
        }
        // Another process may have taken the number meanwhile.
        let (_, still) = stat(&std::fs::read(folder.join("stat")).ok()?)?;
        (still == start_ticks).then(|| Self::of(Identity { pid, start_ticks }, comm, &cgroup, &environ))
    }

    /// From what /proc says.
    #[must_use]
    pub fn of(identity: Identity, comm: String, cgroup: &str, environ: &[u8]) -> Self {
        let environment = environment::allowed(environ);
        let container = container_of(cgroup);
        let pod = container.as_ref().and_then(|container| container.pod_uid.as_ref());
        let slurm = slurm_of(cgroup);
        let variable = |key: &str| environment.get(key).map(String::as_str);
        // torchrun's own default says nothing.
        let run = variable("TORCHELASTIC_RUN_ID").filter(|run| *run != "none");
        let mut contradictions = Vec::new();
        let (scheduler, job, step) = match (&slurm, variable("SLURM_JOB_ID")) {
            (Some(slurm), told) => {
                let job = slurm.job.to_string();
                if let Some(told) = told.filter(|told| *told != job) {
                    contradictions.push(format!("SLURM_JOB_ID is {told}, and the control group is of job {job}"));
                }
                ("slurm", job, slurm.step.clone().unwrap_or_default())
            }
            (None, Some(told)) => ("slurm", told.to_owned(), variable("SLURM_STEP_ID").unwrap_or_default().to_owned()),
            (None, None) if pod.is_some() => ("kubernetes", run.unwrap_or_default().to_owned(), String::new()),
            (None, None) => ("", run.unwrap_or_default().to_owned(), String::new()),
        };
        let ranks = environment::ranks(&environment);
        if let (Some(rank), Some(size)) = (ranks.rank, ranks.world_size)
            && rank >= size
        {
            contradictions.push(format!("it is told to be rank {rank} of {size}"));
        }
        Self { identity, comm, container, scheduler, job, step, ranks, environment, contradictions }
    }

    /// Whether a second look may tell more: a program that was just started by fork and exec had no environment yet.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.environment.is_empty()
    }
}

/// A communicator as one process has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Alike on all ranks.
    pub identity: u64,
    /// Rank in it.
    pub rank: u32,
    /// Ranks in it.
    pub ranks: u32,
}

/// What the communicators of a process say against what its launcher told it. Only a communicator over all ranks is compared,
/// and only where the process is one rank of it: others number their ranks anew.
#[must_use]
pub fn contradictions(ranks: Ranks, communicators: &[Membership]) -> Vec<String> {
    let (Some(rank), Some(size)) = (ranks.rank, ranks.world_size) else { return Vec::new() };
    communicators
        .iter()
        .filter(|of| of.ranks == size && of.rank != rank)
        .filter(|of| communicators.iter().filter(|other| other.identity == of.identity).count() == 1)
        .map(|of| {
            format!(
                "it is told to be rank {rank} of {size}, and is rank {} of communicator {:016x}",
                of.rank, of.identity
            )
        })
        .take(4)
        .collect()
}

/// Name and start of proc_pid_stat(5).
fn stat(text: &[u8]) -> Option<(String, u64)> {
    // The name may itself hold spaces and brackets: it ends at the last bracket.
    let open = text.iter().position(|byte| *byte == b'(')?;
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let start_ticks = str::from_utf8(text.get(close + 1..)?).ok()?.split_ascii_whitespace().nth(19)?.parse().ok()?;
    Some((String::from_utf8_lossy(text.get(open + 1..close)?).into_owned(), start_ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "0::/kubepods.slice/kubepods-pod1b3c7f42_90ab_4cde_8f01_23456789abcd.slice/crio-3f4c0c9d0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5.scope";
    const STEP: &str = "0::/system.slice/slurmstepd.scope/job_42/step_0/user/task_3";

    fn task(cgroup: &str, environ: &[&str]) -> Task {
        Task::of(Identity { pid: 1, start_ticks: 2 }, "python".into(), cgroup, environ.join("\0").as_bytes())
    }

    #[test]
    fn the_job_is_the_control_groups_and_else_the_environments() {
        for (cgroup, environ, expected) in [
            (STEP, &["SLURM_JOB_ID=42"][..], ("slurm", "42", "0", 0)),
            (STEP, &["SLURM_JOB_ID=41"], ("slurm", "42", "0", 1)),
            (STEP, &[], ("slurm", "42", "0", 0)),
            ("0::/", &["SLURM_JOB_ID=7", "SLURM_STEP_ID=2"], ("slurm", "7", "2", 0)),
            (POD, &["TORCHELASTIC_RUN_ID=llama-3"], ("kubernetes", "llama-3", "", 0)),
            (POD, &["TORCHELASTIC_RUN_ID=none"], ("kubernetes", "", "", 0)),
            ("0::/", &["TORCHELASTIC_RUN_ID=llama-3"], ("", "llama-3", "", 0)),
            ("0::/", &["RANK=9", "WORLD_SIZE=8"], ("", "", "", 1)),
            ("0::/", &[], ("", "", "", 0)),
        ] {
            let Task { scheduler, job, step, contradictions, .. } = task(cgroup, environ);
            assert_eq!(
                (scheduler, job.as_str(), step.as_str(), contradictions.len()),
                expected,
                "{cgroup} {environ:?}"
            );
        }
    }

    #[test]
    fn a_rank_that_the_communicators_contradict_is_said() {
        let ranks = Ranks { rank: Some(3), world_size: Some(8), local_rank: None };
        let of = |identity, rank, ranks| Membership { identity, rank, ranks };
        for (what, communicators, count) in [
            ("the same", &[of(1, 3, 8)][..], 0),
            ("another", &[of(1, 5, 8)], 1),
            ("a part of the ranks numbers anew", &[of(1, 0, 4)], 0),
            ("several ranks in one process", &[of(1, 0, 8), of(1, 1, 8)], 0),
            ("one of two", &[of(1, 3, 8), of(2, 4, 8)], 1),
        ] {
            assert_eq!(contradictions(ranks, communicators).len(), count, "{what}");
        }
        assert!(contradictions(Ranks::default(), &[of(1, 5, 8)]).is_empty(), "nobody told it a rank");
    }

    #[test]
    fn a_name_with_brackets_does_not_move_the_start() {
        let fields: Vec<_> = (3..=24).map(|field| field.to_string()).collect();
        let text = format!("17 (a) (b c) {}", fields.join(" "));
        assert_eq!(stat(text.as_bytes()), Some(("a) (b c".to_owned(), 22)));
        assert_eq!(stat(b"17 (x"), None);
    }

    #[test]
    fn this_process_is_read_whole() {
        let own = Task::read(Path::new("/proc"), std::process::id());
        assert!(own.is_some_and(|own| own.identity.start_ticks > 0 && !own.comm.is_empty()));
        assert_eq!(Task::read(Path::new("/proc"), u32::MAX), None);
    }
}
