//! What was found, as the wire has it. Pure.

use super::tasks::Kept;
use super::topology::Topology;
use crate::convert::cut;
use crate::daemon::wire;
use crate::privileges::Limitation;
use crate::shared::Shared;
use railwatch_placement::devices::Device;
use railwatch_placement::path::Path;
use railwatch_placement::task::{Membership, contradictions};
use railwatch_wire::limits::{
    DEVICE_NAMES_MAX, DEVICE_PATHS_PER_HOST_MAX, DEVICES_PER_HOST_MAX, NAME_BYTES_MAX, TASK_CONTRADICTIONS_MAX,
    TASKS_PER_HOST_MAX, TEXT_BYTES_MAX,
};
use railwatch_wire::v1;

/// The whole of it now.
pub fn state(topology: &Topology, shared: &Shared) -> v1::PlacementState {
    let (rows, left_out) = shared.tasks.rows();
    let table = shared.gpu().state;
    let mut off = topology.off.clone();
    if left_out > 0 {
        off.push(Limitation::new(
            "jobs and ranks of processes",
            format!("{left_out} processes beyond the bound are not listed"),
        ));
    }
    v1::PlacementState {
        devices: topology.devices.iter().take(DEVICES_PER_HOST_MAX).map(device).collect(),
        paths: topology.paths.iter().take(DEVICE_PATHS_PER_HOST_MAX).map(path).collect(),
        tasks: rows.iter().take(TASKS_PER_HOST_MAX).map(|kept| task(kept, &table)).collect(),
        off: wire(&off),
    }
}

fn name(text: &str) -> String {
    cut(text.to_owned(), NAME_BYTES_MAX)
}

fn device(device: &Device) -> v1::Device {
    v1::Device {
        kind: device.kind.name().to_owned(),
        name: name(&device.name),
        pci_address: name(&device.address),
        numa_node: device.numa_node,
        upstream: device.upstream.iter().take(DEVICE_NAMES_MAX).map(|bridge| name(bridge)).collect(),
        uuid: name(&device.uuid),
        aliases: device.aliases.iter().take(DEVICE_NAMES_MAX).map(|alias| name(alias)).collect(),
    }
}

fn path(path: &Path) -> v1::DevicePath {
    v1::DevicePath {
        from: name(&path.from),
        to: name(&path.to),
        kind: path.nearness.name().to_owned(),
        links: path.links,
    }
}

fn task(kept: &Kept, table: &v1::GpuState) -> v1::Task {
    let task = &kept.task;
    let is_row = |process: &&v1::GpuProcess| process.pid == task.identity.pid && process.exited_unix_ns.is_none();
    let row = table.processes.iter().find(is_row).filter(|_| kept.ended.is_none());
    let memberships: Vec<_> = row.into_iter().flat_map(|row| &row.communicators).filter_map(membership).collect();
    let contradictions = task.contradictions.iter().cloned().chain(contradictions(task.ranks, &memberships));
    let status = kept.ended.map(|ended| ended.status).unwrap_or_default();
    let container = task.container.clone().unwrap_or_default();
    v1::Task {
        pid: task.identity.pid,
        comm: name(&task.comm),
        started_unix_ns: kept.started_unix_ns,
        container: name(&container.id),
        pod: name(&container.pod_uid.unwrap_or_default()),
        scheduler: task.scheduler.to_owned(),
        job: name(&task.job),
        rank: task.ranks.rank,
        world_size: task.ranks.world_size,
        local_rank: task.ranks.local_rank,
        environment: task.environment.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
        exited_unix_ns: kept.ended.map(|ended| ended.unix_ns),
        exit_code: status.exit_code().map(i32::from),
        exit_signal: status.signal().map(i32::from),
        step: name(&task.step),
        contradictions: contradictions.take(TASK_CONTRADICTIONS_MAX).map(|text| cut(text, TEXT_BYTES_MAX)).collect(),
        core_dumped: status.core_dumped(),
        oom_killed: status.oom_killed(),
    }
}

/// A communicator whose making was seen.
pub fn membership(communicator: &v1::Communicator) -> Option<Membership> {
    let v1::Communicator { identity, rank, ranks, .. } = communicator;
    (*identity != 0).then_some(Membership { identity: *identity, rank: (*rank)?, ranks: (*ranks)? })
}
