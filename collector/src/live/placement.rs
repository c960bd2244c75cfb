//! From what each host says of its devices and processes to the rows people read; and the jobs over all hosts.
//!
//! In: placement and GPU state of every host. Out: a row per host of devices and paths, and a row per job. Processes belong
//! to one job where a scheduler or launcher gave them the same number; else where they share a communicator. Never: a job
//! that two schedulers would count as different ones: an identifier counts within its scheduler.

use super::{
    Host, rfc3339,
    rows::{DeviceRow, JobCommunicatorRow, JobRankRow, JobRow, LimitationRow, PathRow, PlacementRow, RankDeviceRow},
};
use railwatch_engine::Timestamp;
use railwatch_wire::v1;
use std::collections::{BTreeMap, BTreeSet, HashMap};

fn text(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

/// A host that says nothing of devices has no row.
pub(super) fn row(host: &Host) -> Option<PlacementRow> {
    let v1::PlacementState { devices, paths, tasks: _, off } = &host.placement;
    let is_empty = devices.is_empty() && off.is_empty();
    (!is_empty).then(|| PlacementRow {
        host: host.name.clone(),
        devices: devices.iter().map(device).collect(),
        paths: paths
            .iter()
            .map(|path| PathRow {
                from: path.from.clone(),
                to: path.to.clone(),
                kind: path.kind.clone(),
                links: path.links,
            })
            .collect(),
        off: off.iter().map(|off| LimitationRow { what: off.what.clone(), why: off.why.clone() }).collect(),
    })
}

fn device(device: &v1::Device) -> DeviceRow {
    DeviceRow {
        kind: device.kind.clone(),
        name: device.name.clone(),
        pci_address: device.pci_address.clone(),
        numa_node: device.numa_node,
        upstream: device.upstream.clone(),
        uuid: text(&device.uuid),
        aliases: device.aliases.clone(),
    }
}

/// A process of some job, with what is needed to group it.
pub(super) struct Member {
    rank: JobRankRow,
    scheduler: String,
    job: String,
    name: String,
    world_size: Option<u32>,
    communicators: Vec<v1::Communicator>,
}

/// The processes of one host.
pub(super) fn members(host: &Host) -> Vec<Member> {
    let rows: HashMap<u32, &v1::GpuProcess> = host
        .gpu
        .processes
        .iter()
        .filter(|process| process.exited_unix_ns.is_none())
        .map(|process| (process.pid, process))
        .collect();
    host.placement.tasks.iter().map(|task| member(&host.name, task, rows.get(&task.pid).copied())).collect()
}

fn member(host: &str, task: &v1::Task, row: Option<&v1::GpuProcess>) -> Member {
    let row = row.filter(|_| task.exited_unix_ns.is_none());
    let mut devices: Vec<RankDeviceRow> = Vec::new();
    for balance in row.into_iter().flat_map(|row| &row.balances) {
        let Some(ordinal) = balance.device else { continue };
        let found = RankDeviceRow { ordinal, uuid: text(&balance.device_uuid) };
        if !devices.contains(&found) {
            devices.push(found);
        }
    }
    devices.sort_by_key(|device| device.ordinal);
    Member {
        rank: JobRankRow {
            rank: task.rank,
            host: host.to_owned(),
            pid: task.pid,
            comm: task.comm.clone(),
            local_rank: task.local_rank,
            gpus: devices,
            container: text(&task.container),
            pod: text(&task.pod),
            step: text(&task.step),
            started: rfc3339(Timestamp(task.started_unix_ns)),
            exited_at: task.exited_unix_ns.map(|at| rfc3339(Timestamp(at))),
            exit_code: task.exit_code,
            exit_signal: task.exit_signal,
            core_dumped: task.exit_signal.map(|_| task.core_dumped),
            oom_killed: task.oom_killed,
            environment: task.environment.clone().into_iter().collect(),
            contradictions: task.contradictions.clone(),
        },
        scheduler: task.scheduler.clone(),
        job: task.job.clone(),
        name: task.environment.get("SLURM_JOB_NAME").cloned().unwrap_or_default(),
        world_size: task.world_size,
        communicators: row.map(|row| row.communicators.clone()).unwrap_or_default(),
    }
}

/// Jobs by scheduler and identifier, then those that communicators alone hold together.
pub(super) fn jobs(members: Vec<Member>) -> Vec<JobRow> {
    let mut named: BTreeMap<(String, String), Vec<Member>> = BTreeMap::new();
    let mut nameless = Vec::new();
    for member in members {
        match member.job.is_empty() {
            false => named.entry((member.scheduler.clone(), member.job.clone())).or_default().push(member),
            true => nameless.push(member),
        }
    }
    // A process whose environment could not be read belongs where its communicators do.
    let mut job_of: HashMap<u64, (String, String)> = HashMap::new();
    for (key, members) in &named {
        for identity in members.iter().flat_map(identities) {
            job_of.insert(identity, key.clone());
        }
    }
    let mut rest = Vec::new();
    for member in nameless {
        let known = identities(&member).find_map(|identity| job_of.get(&identity).cloned());
        match known {
            Some(key) => named.entry(key).or_default().push(member),
            None => rest.push(member),
        }
    }
    let mut jobs: Vec<_> =
        named.into_iter().map(|((scheduler, job), members)| job_row(scheduler, job, members)).collect();
    let mut connected = connected(rest);
    connected.sort_by_key(|members| members.iter().map(|member| (member.rank.host.clone(), member.rank.pid)).min());
    for members in connected {
        let scheduler = members[0].scheduler.clone();
        let job = members.iter().flat_map(identities).min().map(|identity| format!("communicator:{identity:016x}"));
        let job = job.unwrap_or_else(|| format!("process:{}:{}", members[0].rank.host, members[0].rank.pid));
        jobs.push(job_row(scheduler, job, members));
    }
    jobs
}

fn identities(member: &Member) -> impl Iterator<Item = u64> {
    member.communicators.iter().map(|communicator| communicator.identity).filter(|identity| *identity != 0)
}

/// Groups of members that share communicators, directly or through others.
fn connected(members: Vec<Member>) -> Vec<Vec<Member>> {
    let mut group_of: Vec<usize> = (0..members.len()).collect();
    fn root(group_of: &mut [usize], mut at: usize) -> usize {
        while group_of[at] != at {
            group_of[at] = group_of[group_of[at]];
            at = group_of[at];
        }
        at
    }
    let mut first: HashMap<u64, usize> = HashMap::new();
    for (index, member) in members.iter().enumerate() {
        for identity in identities(member) {
            let other = *first.entry(identity).or_insert(index);
            let (one, other) = (root(&mut group_of, index), root(&mut group_of, other));
            group_of[one.max(other)] = one.min(other);
        }
    }
    let mut groups: BTreeMap<usize, Vec<Member>> = BTreeMap::new();
    for (index, member) in members.into_iter().enumerate() {
        groups.entry(root(&mut group_of, index)).or_default().push(member);
    }
    groups.into_values().collect()
}

fn job_row(scheduler: String, job: String, mut members: Vec<Member>) -> JobRow {
    let mut communicators: BTreeMap<u64, JobCommunicatorRow> = BTreeMap::new();
    for member in &members {
        for communicator in member.communicators.iter().filter(|communicator| communicator.identity != 0) {
            let row = communicators.entry(communicator.identity).or_insert_with(|| JobCommunicatorRow {
                identity: format!("{:016x}", communicator.identity),
                library: communicator.library.clone(),
                ranks: communicator.ranks,
                ranks_seen: 0,
                sequence_min: communicator.last_sequence,
                sequence_max: communicator.last_sequence,
            });
            row.ranks_seen += 1;
            row.sequence_min = row.sequence_min.min(communicator.last_sequence);
            row.sequence_max = row.sequence_max.max(communicator.last_sequence);
        }
    }
    let largest = communicators.iter().max_by_key(|(identity, row)| (row.ranks, std::cmp::Reverse(**identity)));
    let largest = largest.map(|(identity, row)| (*identity, row.ranks));
    let told_size = members.iter().filter_map(|member| member.world_size).max();
    // Nobody told a rank: that of the largest communicator is the best there is.
    if members.iter().all(|member| member.rank.rank.is_none()) {
        for member in &mut members {
            let of_largest = |communicator: &&v1::Communicator| {
                largest.is_some_and(|(identity, _)| communicator.identity == identity)
            };
            member.rank.rank = member.communicators.iter().find(of_largest).and_then(|communicator| communicator.rank);
        }
    }
    let name = members.iter().find_map(|member| text(&member.name));
    let mut ranks: Vec<_> = members.into_iter().map(|member| member.rank).collect();
    ranks.sort_by(|a, b| (a.rank.is_none(), a.rank, &a.host, a.pid).cmp(&(b.rank.is_none(), b.rank, &b.host, b.pid)));
    let hosts: BTreeSet<_> = ranks.iter().map(|rank| rank.host.clone()).collect();
    JobRow {
        job,
        scheduler: text(&scheduler),
        name,
        hosts: hosts.into_iter().collect(),
        ranks,
        world_size: told_size.or(largest.and_then(|(_, ranks)| ranks)),
        communicators: communicators.into_values().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use railwatch_engine::Timestamp;

    fn communicator(identity: u64, rank: u32, ranks: u32, last_sequence: u64) -> v1::Communicator {
        v1::Communicator {
            identity,
            rank: Some(rank),
            ranks: Some(ranks),
            last_sequence,
            library: "nccl".into(),
            ..Default::default()
        }
    }

    fn task(pid: u32, scheduler: &str, job: &str, rank: Option<u32>) -> v1::Task {
        let world_size = rank.map(|_| 4);
        v1::Task { pid, scheduler: scheduler.into(), job: job.into(), rank, world_size, ..v1::Task::default() }
    }

    fn host(name: &str, processes: Vec<(v1::Task, Vec<v1::Communicator>)>) -> Host {
        let mut host = Host::new(name, Timestamp(1));
        for (task, communicators) in processes {
            let balances = vec![v1::GpuBalance { device: Some(0), ..Default::default() }; 2];
            host.gpu.processes.push(v1::GpuProcess { pid: task.pid, communicators, balances, ..Default::default() });
            host.placement.tasks.push(task);
        }
        host
    }

    fn of(hosts: &[Host]) -> Vec<JobRow> {
        jobs(hosts.iter().flat_map(members).collect())
    }

    #[test]
    fn a_job_is_gathered_over_hosts_by_its_number() {
        let hosts = [
            host(
                "b",
                vec![
                    (task(1, "slurm", "42", Some(3)), vec![communicator(9, 3, 4, 70)]),
                    (task(2, "slurm", "42", Some(2)), vec![]),
                ],
            ),
            host(
                "a",
                vec![
                    (task(7, "slurm", "42", Some(0)), vec![communicator(9, 0, 4, 71)]),
                    (task(8, "slurm", "43", Some(0)), vec![]),
                ],
            ),
        ];
        let jobs = of(&hosts);
        let shown: Vec<_> = jobs
            .iter()
            .map(|job| {
                (
                    job.job.as_str(),
                    job.ranks.iter().map(|rank| (rank.rank, rank.host.as_str(), rank.pid)).collect::<Vec<_>>(),
                )
            })
            .collect();
        assert_eq!(
            shown,
            [("42", vec![(Some(0), "a", 7), (Some(2), "b", 2), (Some(3), "b", 1)]), ("43", vec![(Some(0), "a", 8)])]
        );
        let JobRow { hosts, world_size, communicators, .. } = &jobs[0];
        assert_eq!((hosts.join(" ").as_str(), *world_size), ("a b", Some(4)));
        let [row] = &communicators[..] else { panic!("{communicators:?}") };
        assert_eq!((row.ranks, row.ranks_seen, row.sequence_min, row.sequence_max), (Some(4), 2, 70, 71));
        assert_eq!(jobs[0].ranks[0].gpus.len(), 1, "one device through two layers");
    }

    #[test]
    fn without_a_scheduler_communicators_hold_a_job_together() {
        let hosts = [
            host(
                "a",
                vec![
                    (task(1, "", "", None), vec![communicator(5, 0, 2, 1), communicator(6, 0, 2, 1)]),
                    (task(2, "", "", None), vec![]),
                ],
            ),
            host(
                "b",
                vec![
                    (task(3, "", "", None), vec![communicator(5, 1, 2, 1)]),
                    (task(4, "", "", None), vec![communicator(6, 1, 2, 1)]),
                ],
            ),
        ];
        let jobs = of(&hosts);
        let shown: Vec<_> = jobs.iter().map(|job| (job.job.as_str(), job.ranks.len(), job.world_size)).collect();
        assert_eq!(shown, [("communicator:0000000000000005", 3, Some(2)), ("process:a:2", 1, None)]);
        assert_eq!(
            jobs[0].ranks.iter().map(|rank| (rank.pid, rank.rank)).collect::<Vec<_>>(),
            [(1, Some(0)), (3, Some(1)), (4, None)]
        );
    }

    #[test]
    fn a_process_whose_environment_is_not_known_joins_the_job_of_its_communicator() {
        let hosts = [host(
            "a",
            vec![
                (task(1, "slurm", "42", Some(0)), vec![communicator(5, 0, 2, 1)]),
                (task(2, "", "", None), vec![communicator(5, 1, 2, 1)]),
            ],
        )];
        let jobs = of(&hosts);
        assert_eq!(jobs.iter().map(|job| (job.job.as_str(), job.ranks.len())).collect::<Vec<_>>(), [("42", 2)]);
    }

    #[test]
    fn one_number_of_two_schedulers_is_two_jobs() {
        let hosts = [host("a", vec![(task(1, "slurm", "42", None), vec![]), (task(2, "", "42", None), vec![])])];
        assert_eq!(of(&hosts).len(), 2);
    }
}
