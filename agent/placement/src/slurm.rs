//! Which Slurm job, step and task a process is in, by its control group.
//!
//! In: the text of /proc/PID/cgroup. Out: the numbers that `slurmd` put into the path: `slurm/uid_1000/job_42/step_0/task_3`
//! under version 1 (src/plugins/cgroup/v1), `slurmstepd.scope/job_42/step_0/user/task_3` under version 2 (src/plugins/cgroup/v2).
//! A process cannot write these, as it can its environment.

/// A place in a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slurm {
    /// Job number.
    pub job: u64,
    /// "0", "batch", "extern", "interactive".
    pub step: Option<String>,
    /// Task of the step on this host, from 0.
    pub task: Option<u32>,
}

/// Finds it; `None` outside Slurm.
#[must_use]
pub fn slurm_of(cgroup: &str) -> Option<Slurm> {
    // Not all hierarchies of version 1 are used; the one that says most counts.
    cgroup
        .lines()
        .filter_map(|line| of_path(line.splitn(3, ':').nth(2)?))
        .max_by_key(|found| (found.step.is_some(), found.task.is_some()))
}

fn of_path(path: &str) -> Option<Slurm> {
    let mut parts = path.split('/').skip_while(|part| {
        !(*part == "slurm"
            || part.starts_with("slurm_")
            || part.starts_with("slurmstepd")
            || part.ends_with("_slurmstepd.scope"))
    });
    parts.next()?;
    let mut found: Option<Slurm> = None;
    for part in parts {
        match (part.split_once('_'), &mut found) {
            (Some(("job", job)), _) => found = Some(Slurm { job: job.parse().ok()?, ..Slurm::default() }),
            (Some(("step", step)), Some(slurm))
                if step.len() <= 32 && step.bytes().all(|byte| byte.is_ascii_alphanumeric()) =>
            {
                slurm.step = Some(step.to_owned());
            }
            (Some(("task", task)), Some(slurm)) => slurm.task = task.parse().ok(),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_and_every_kind_of_step_are_read() {
        for (text, expected) in [
            ("0::/system.slice/slurmstepd.scope/job_42/step_0/user/task_3", Some((42, Some("0"), Some(3)))),
            ("0::/system.slice/slurmstepd.scope/job_42/step_batch/user/task_0", Some((42, Some("batch"), Some(0)))),
            (
                "0::/system.slice/slurmstepd.scope/job_42/step_extern/user/task_special",
                Some((42, Some("extern"), None)),
            ),
            ("0::/system.slice/gpu-7_slurmstepd.scope/job_1/step_2/user/task_0", Some((1, Some("2"), Some(0)))),
            (
                "9:memory:/slurm/uid_1000/job_7/step_1\n4:freezer:/slurm/uid_1000/job_7/step_1/task_5\n1:cpu:/",
                Some((7, Some("1"), Some(5))),
            ),
            ("4:devices:/slurm_gpu-7/uid_0/job_9/step_0", Some((9, Some("0"), None))),
            ("0::/system.slice/slurmstepd.scope/system", None),
            ("0::/user.slice/job_42/step_0", None),
            ("0::/system.slice/slurmstepd.scope/job_x/step_0", None),
            ("", None),
        ] {
            let found = slurm_of(text);
            let expected = expected.map(|(job, step, task): (u64, Option<&str>, Option<u32>)| Slurm {
                job,
                step: step.map(str::to_owned),
                task,
            });
            assert_eq!(found, expected, "{text}");
        }
    }
}
