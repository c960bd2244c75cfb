//! What a new configuration changes, and whether a running agent can take it.

use super::{Config, Disk, Drops, Gpu, Health, Inventory, Peers, Probe, Sampling, Spool, Tape};

/// What becomes of a changed field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// In force from now on.
    Now,
    /// In force after the next start; the old value holds until then.
    AfterRestart,
}

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name in the file.
    pub field: &'static str,
    /// What becomes of it.
    pub effect: Effect,
}

/// Every field that differs between two configurations, in the order of the file.
///
/// The patterns name every field: one that is added does not build until somebody says here what a change of it does.
pub fn changes(old: &Config, new: &Config) -> Vec<Change> {
    let mut found = Vec::new();
    let mut compare = |differs: bool, field, effect| {
        if differs {
            found.push(Change { field, effect });
        }
    };
    let Config {
        host_name,
        state_dir,
        log,
        collector,
        server_name,
        pki_dir,
        tls_trust,
        tls_certificate,
        tls_key,
        metrics_listen,
        gpu,
        sampling,
        spool,
        drops,
        health,
        tape,
        probe,
        peers,
        inventory,
        disk: Disk { enabled: disk_enabled },
    } = new;
    compare(*host_name != old.host_name, "host_name", Effect::AfterRestart);
    compare(*state_dir != old.state_dir, "state_dir", Effect::AfterRestart);
    compare(*log != old.log, "log", Effect::Now);
    compare(*collector != old.collector, "collector", Effect::Now);
    compare(*server_name != old.server_name, "server_name", Effect::Now);
    compare(*pki_dir != old.pki_dir, "pki_dir", Effect::Now);
    compare(*tls_trust != old.tls_trust, "tls_trust", Effect::Now);
    compare(*tls_certificate != old.tls_certificate, "tls_certificate", Effect::Now);
    compare(*tls_key != old.tls_key, "tls_key", Effect::Now);
    compare(*metrics_listen != old.metrics_listen, "metrics_listen", Effect::AfterRestart);
    let Gpu { enabled, scope, pin_dir, extra_paths, events_per_process_per_s, series_max } = gpu;
    compare(*enabled != old.gpu.enabled, "gpu.enabled", Effect::AfterRestart);
    compare(*scope != old.gpu.scope, "gpu.scope", Effect::AfterRestart);
    compare(*pin_dir != old.gpu.pin_dir, "gpu.pin_dir", Effect::AfterRestart);
    compare(*extra_paths != old.gpu.extra_paths, "gpu.extra_paths", Effect::AfterRestart);
    let old_events_per_s = old.gpu.events_per_process_per_s;
    compare(*events_per_process_per_s != old_events_per_s, "gpu.events_per_process_per_s", Effect::AfterRestart);
    compare(*series_max != old.gpu.series_max, "gpu.series_max", Effect::Now);
    let Sampling { sysfs_root, software_interfaces, series_max, cpu_budget_percent, rtnl_budget_percent, cadence_ms } =
        sampling;
    compare(*sysfs_root != old.sampling.sysfs_root, "sampling.sysfs_root", Effect::AfterRestart);
    let old_interfaces = &old.sampling.software_interfaces;
    compare(software_interfaces != old_interfaces, "sampling.software_interfaces", Effect::AfterRestart);
    compare(*series_max != old.sampling.series_max, "sampling.series_max", Effect::AfterRestart);
    let budget_differs = cpu_budget_percent.to_bits() != old.sampling.cpu_budget_percent.to_bits();
    compare(budget_differs, "sampling.cpu_budget_percent", Effect::AfterRestart);
    let budget_differs = rtnl_budget_percent.to_bits() != old.sampling.rtnl_budget_percent.to_bits();
    compare(budget_differs, "sampling.rtnl_budget_percent", Effect::AfterRestart);
    compare(*cadence_ms != old.sampling.cadence_ms, "sampling.cadence_ms", Effect::Now);
    let Spool { bytes_max } = spool;
    compare(*bytes_max != old.spool.bytes_max, "spool.bytes_max", Effect::AfterRestart);
    let Drops { enabled, scope } = drops;
    compare(*enabled != old.drops.enabled, "drops.enabled", Effect::AfterRestart);
    compare(*scope != old.drops.scope, "drops.scope", Effect::AfterRestart);
    let Health { enabled, procfs_root, nvml_library, dcmi_library, hccn_tool, kmsg_socket, disk_socket } = health;
    compare(*enabled != old.health.enabled, "health.enabled", Effect::AfterRestart);
    compare(*procfs_root != old.health.procfs_root, "health.procfs_root", Effect::AfterRestart);
    compare(*nvml_library != old.health.nvml_library, "health.nvml_library", Effect::AfterRestart);
    compare(*dcmi_library != old.health.dcmi_library, "health.dcmi_library", Effect::AfterRestart);
    compare(*hccn_tool != old.health.hccn_tool, "health.hccn_tool", Effect::AfterRestart);
    compare(*kmsg_socket != old.health.kmsg_socket, "health.kmsg_socket", Effect::AfterRestart);
    compare(*disk_socket != old.health.disk_socket, "health.disk_socket", Effect::AfterRestart);
    let Tape { enabled, bytes_max } = tape;
    compare(*enabled != old.tape.enabled, "tape.enabled", Effect::AfterRestart);
    compare(*bytes_max != old.tape.bytes_max, "tape.bytes_max", Effect::AfterRestart);
    let Probe { enabled, listen, key_file, answers_per_source_per_s, packets_per_s_per_nic_max, verbs_socket } = probe;
    compare(*enabled != old.probe.enabled, "probe.enabled", Effect::AfterRestart);
    compare(*listen != old.probe.listen, "probe.listen", Effect::AfterRestart);
    compare(*key_file != old.probe.key_file, "probe.key_file", Effect::AfterRestart);
    let old_answers = old.probe.answers_per_source_per_s;
    compare(*answers_per_source_per_s != old_answers, "probe.answers_per_source_per_s", Effect::AfterRestart);
    let old_packets = old.probe.packets_per_s_per_nic_max;
    compare(*packets_per_s_per_nic_max != old_packets, "probe.packets_per_s_per_nic_max", Effect::AfterRestart);
    compare(*verbs_socket != old.probe.verbs_socket, "probe.verbs_socket", Effect::AfterRestart);
    let Peers { enabled, own_interfaces } = peers;
    compare(*enabled != old.peers.enabled, "peers.enabled", Effect::AfterRestart);
    compare(*own_interfaces != old.peers.own_interfaces, "peers.own_interfaces", Effect::AfterRestart);
    let Inventory { enabled } = inventory;
    compare(*enabled != old.inventory.enabled, "inventory.enabled", Effect::AfterRestart);
    compare(*disk_enabled != old.disk.enabled, "disk.enabled", Effect::AfterRestart);
    found
}
