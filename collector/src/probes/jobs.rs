//! Which jobs run on several hosts, and in which order their ranks lie on them.
//!
//! In: jobs of live state. Out: [`Job`]s for the planner; for a job that somebody names, its hosts with their lowest ranks. A host of which all
//! ranks ended is no more of its job. Bounded: so many jobs; those beyond are counted. Never: a job of one host, which has no pair.

use crate::live::rows::JobRow;
use railwatch_engine::cover::Job;
use std::collections::{BTreeMap, BTreeSet};

/// Jobs whose NICs are probed with each other.
pub const JOBS_MAX: usize = 1024;

/// Jobs that run, and how many more than are followed.
pub fn running(rows: &[JobRow]) -> (Vec<Job>, u64) {
    let mut jobs: Vec<_> = rows
        .iter()
        .map(|row| Job { name: row.job.as_str().into(), hosts: hosts(row) })
        .filter(|job| job.hosts.len() > 1)
        .collect();
    let beyond = jobs.len().saturating_sub(JOBS_MAX) as u64;
    jobs.truncate(JOBS_MAX);
    (jobs, beyond)
}

/// In the order of their lowest ranks, also of those that ended: the order is the same as long as the host takes part.
fn hosts(row: &JobRow) -> Vec<String> {
    let alive: BTreeSet<&str> =
        row.ranks.iter().filter(|rank| rank.exited_at.is_none()).map(|rank| rank.host.as_str()).collect();
    let mut seen = BTreeSet::new();
    let by_rank = row.ranks.iter().map(|rank| rank.host.as_str());
    by_rank.filter(|host| alive.contains(host) && seen.insert(*host)).map(str::to_owned).collect()
}

/// Hosts of a job with their lowest ranks, where known.
pub type Ranks = BTreeMap<String, Option<u32>>;

/// Of the job that is called so: by its identifier, else by "scheduler/identifier" or by the name that people gave it.
///
/// # Errors
/// No job is called so, or several are: says which.
pub fn ranks(rows: &[JobRow], name: &str) -> Result<Ranks, String> {
    let of_scheduler = |row: &JobRow| row.scheduler.as_ref().map(|scheduler| format!("{scheduler}/{}", row.job));
    let by_identifier: Vec<_> = rows.iter().filter(|row| row.job == name).collect();
    let by_name = || {
        let is_called = |row: &&JobRow| of_scheduler(row).as_deref() == Some(name) || row.name.as_deref() == Some(name);
        rows.iter().filter(is_called).collect::<Vec<_>>()
    };
    let found = if by_identifier.is_empty() { by_name() } else { by_identifier };
    match &found[..] {
        [] => Err(format!("no job is called {name:?}: `railwatch jobs` lists those that run")),
        [row] => {
            let mut ranks = Ranks::new();
            for rank in &row.ranks {
                // They are by rank: the first of a host is its lowest.
                ranks.entry(rank.host.clone()).or_insert(rank.rank);
            }
            Ok(ranks)
        }
        several => {
            let names: Vec<_> =
                several.iter().map(|row| of_scheduler(row).unwrap_or_else(|| row.job.clone())).collect();
            Err(format!("{name:?} is the name of {} jobs: {}", several.len(), names.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use crate::live::Live;
    use railwatch_wire::v1;
    use std::time::Duration;

    fn task(pid: u32, job: &str, rank: Option<u32>, has_ended: bool) -> v1::Task {
        v1::Task {
            pid,
            scheduler: "slurm".into(),
            job: job.into(),
            rank,
            environment: [("SLURM_JOB_NAME".to_owned(), format!("name of {job}"))].into(),
            exited_unix_ns: has_ended.then_some(1),
            ..v1::Task::default()
        }
    }

    fn rows(hosts: &[(&str, Vec<v1::Task>)]) -> Vec<JobRow> {
        let live = Live::new(Duration::from_secs(60));
        for (host, tasks) in hosts {
            live.host(host).lock().placement.tasks.clone_from(tasks);
        }
        live.jobs()
    }

    #[test]
    fn hosts_are_in_the_order_of_their_ranks_and_those_that_ended_are_gone() {
        let rows = rows(&[
            ("a", vec![task(1, "7", Some(2), false), task(2, "7", Some(3), false), task(3, "8", Some(0), false)]),
            // Its lowest rank ended: it keeps its place.
            ("b", vec![task(1, "7", Some(0), true), task(2, "7", Some(5), false)]),
            ("c", vec![task(1, "7", Some(4), false)]),
            ("d", vec![task(1, "7", Some(1), true)]),
            ("e", vec![task(1, "8", None, true)]),
        ]);
        let (jobs, beyond) = running(&rows);
        assert_eq!(jobs, [Job { name: "7".into(), hosts: vec!["b".into(), "a".into(), "c".into()] }]);
        assert_eq!(beyond, 0);
    }

    #[test]
    fn too_many_jobs_are_counted() {
        let tasks = |first: u32| (0..1030).map(|job| task(job, &format!("{job}"), Some(first), false)).collect();
        let rows = rows(&[("a", tasks(0)), ("b", tasks(1))]);
        let (jobs, beyond) = running(&rows);
        assert_eq!((jobs.len(), beyond), (JOBS_MAX, 6));
    }

    #[test]
    fn a_job_is_found_by_its_number_or_its_name_if_it_is_the_only_one() {
        let mut other = task(1, "7", Some(0), false);
        other.scheduler = "kubernetes".into();
        let rows = rows(&[
            ("a", vec![task(1, "7", Some(0), false), task(2, "8", Some(4), false)]),
            ("b", vec![task(1, "8", Some(2), false), task(2, "8", None, false)]),
            ("c", vec![other]),
        ]);
        let expected: Ranks = [("a".to_owned(), Some(4)), ("b".to_owned(), Some(2))].into();
        for name in ["8", "slurm/8", "name of 8"] {
            assert_eq!(ranks(&rows, name), Ok(expected.clone()), "{name}");
        }
        assert_eq!(ranks(&rows, "slurm/7").unwrap().keys().collect::<Vec<_>>(), ["a"]);
        for (name, part) in [("7", "kubernetes/7, slurm/7"), ("9", "no job is called")] {
            let why = ranks(&rows, name).unwrap_err();
            assert!(why.contains(part), "{name}: {why}");
        }
    }
}
