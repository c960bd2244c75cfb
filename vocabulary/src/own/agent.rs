//! What the agent says of itself.

use super::{Section, counter, gauge};
use crate::{Board, NoPanel, Proof};

/// Agent: the process.
pub(super) const PROCESS: Section = Section {
    title: "Agent: the process",
    board: Board::Own,
    metrics: &[
        gauge(
            "railwatch_agent_build_info",
            &["architecture", "kernel", "version"],
            "Always 1; its labels say what runs",
        )
        .unshown(NoPanel::Labels),
        counter("railwatch_agent_cpu_seconds_total", &[], "Processor time the agent has used")
            .on("Agent: processor time"),
        gauge("railwatch_agent_resident_memory_bytes", &[], "Memory of the agent, without its BPF maps")
            .on("Agent: memory"),
        gauge("railwatch_agent_bpf_map_memory_bytes", &[], "Memory that the kernel holds for the agent's BPF maps")
            .on("Agent: memory"),
        counter("railwatch_agent_reloads_total", &["result"], "Configurations read while running, by result")
            .on("Configuration read again"),
        gauge(
            "railwatch_agent_limitations",
            &["what"],
            "What is off or limited on this host, and how many causes it has; `railwatch-agent capabilities` says why",
        )
        .proven(Proof::Test("agent/tests/daemon/privileges.rs"))
        .on("What is off or limited"),
        gauge("railwatch_agent_certificate_not_after_timestamp_seconds", &[], "End of the own certificate, Unix time")
            .on("Certificates: time left"),
    ],
};

/// Agent: uplink and spool.
pub(super) const UPLINK: Section = Section {
    title: "Agent: uplink and spool",
    board: Board::Own,
    metrics: &[
        gauge("railwatch_agent_uplink_connected", &[], "A collector has welcomed this agent").on("Agents connected"),
        counter("railwatch_agent_uplink_connections_total", &[], "Welcomes by a collector").on("Agent: connections"),
        counter("railwatch_agent_uplink_failures_total", &[], "Dials that failed and streams that broke")
            .on("Agent: connections"),
        gauge(
            "railwatch_agent_uplink_acknowledge_seconds",
            &[],
            "From sending a frame to its acknowledgement, the last one measured",
        )
        .on("Agent: time to acknowledgement"),
        counter("railwatch_agent_uplink_refused_total", &["kind"], "Handed to the uplink and not taken, by kind")
            .on("Agent: refused and cut"),
        gauge("railwatch_agent_spool_waiting", &["kind"], "Frames not sent yet, by kind").on("Spool: frames"),
        gauge("railwatch_agent_spool_in_flight", &[], "Frames sent and not acknowledged").on("Spool: frames"),
        gauge("railwatch_agent_spool_disk_bytes", &[], "Frames kept on disk").on("Spool: bytes"),
        gauge("railwatch_agent_spool_memory_bytes", &[], "Frames kept in memory because the disk refused them")
            .on("Spool: bytes"),
        counter(
            "railwatch_agent_spool_cut_total",
            &["kind"],
            "Frames that a quota cut before they were acknowledged, by kind",
        )
        .on("Agent: refused and cut"),
        counter("railwatch_agent_spool_disk_errors_total", &[], "Refusals of the disk").on("Agent: refused and cut"),
    ],
};

/// Agent: account of losses.
pub(super) const LOSS: Section = Section {
    title: "Agent: account of losses",
    board: Board::Own,
    metrics: &[
        counter(
            "railwatch_agent_occurrences_seen_total",
            &[],
            "Events, signals and windows settled: delivered or dropped",
        )
        .on("Occurrences"),
        counter(
            "railwatch_agent_occurrences_delivered_total",
            &[],
            "Of these: taken by the next room and not cut since",
        )
        .on("Occurrences"),
        counter("railwatch_agent_occurrences_dropped_total", &["reason"], "Of these: dropped, by reason")
            .proven(Proof::Needs("a loss, by a full queue or a full disk; the account is tested in agent/src/loss.rs"))
            .on("Occurrences dropped"),
        gauge("railwatch_agent_occurrences_pending", &[], "Noticed and not settled yet").on("Occurrences pending"),
    ],
};

/// Agent: sources.
pub(super) const SOURCES: Section = Section {
    title: "Agent: sources",
    board: Board::Own,
    metrics: &[
        gauge("railwatch_source_on", &["source"], "Being read (1) or off (0)").on("Sources read"),
        counter("railwatch_source_reads_total", &["source"], "Reads done").on("Sources: reads and events"),
        counter("railwatch_source_events_total", &["source"], "Events taken between reads")
            .on("Sources: reads and events"),
        counter("railwatch_source_readings_total", &["source"], "Values read").on("Sources: readings"),
        counter("railwatch_source_cost_seconds_total", &["source"], "Time spent reading")
            .on("Sources: time spent reading"),
        counter("railwatch_source_cpu_seconds_total", &["source"], "Processor time of the source's thread")
            .on("Sources: processor time"),
        counter("railwatch_source_rtnl_seconds_total", &["source"], "Time for which reads held RTNL or waited for it")
            .on("Sources: time at RTNL"),
        gauge("railwatch_source_series_memory_bytes", &["source"], "Memory of its series")
            .on("Sources: memory of series"),
        gauge("railwatch_source_series_left_out", &["source"], "Series beyond the memory that a source may take")
            .on("Sources: series left out"),
        gauge("railwatch_source_cadence_seconds", &["source"], "Time between reads").on("Sources: cadence"),
        gauge(
            "railwatch_source_backed_off",
            &["source"],
            "How often the cadence was halved to stay within the budget of processor time",
        )
        .on("Sources: cadence halved"),
        counter("railwatch_source_missed_deadlines_total", &["source"], "Deadlines that passed without a read")
            .on("Sources: errors, rejects, missed deadlines"),
        counter("railwatch_source_errors_total", &["reason", "source"], "What could not be read, by reason")
            .on("Sources: errors, rejects, missed deadlines"),
        counter(
            "railwatch_source_rejected_readings_total",
            &["reason", "source"],
            "Readings that did not reach a window, by reason",
        )
        .proven(Proof::Needs(
            "a reading out of order or beyond a bound; the count is tested in agent/sampling/tests/recorder.rs",
        ))
        .on("Sources: errors, rejects, missed deadlines"),
    ],
};

/// Agent: tape.
pub(super) const TAPE: Section = Section {
    title: "Agent: tape",
    board: Board::Own,
    metrics: &[
        gauge("railwatch_agent_tape_memory_bytes", &["of"], "Memory of the tape, in use and at most").on("Tape: memory"),
        counter("railwatch_agent_tape_compressed_bytes_total", &[], "Memory that compressed readings took, in all").on("Tape: bytes compressed"),
        counter("railwatch_agent_tape_samples_total", &["fate"], "Readings of all sources, by what became of them: written, and of those compressed, evicted for newer ones or lost; refused ones were never written").on("Tape: samples"),
        counter("railwatch_agent_tape_dumps_total", &["fate"], "Critical signals without a collector, by what became of the readings around them on this host's disk; evicted counts files").on("Tape: dumps"),
        gauge("railwatch_agent_tape_reach_seconds", &[], "How far back the tape holds every reading").on("Tape: how far back"),
    ],
};

/// Agent: probes, planned and answered.
pub(super) const PROBE: Section = Section {
    title: "Agent: probes",
    board: Board::Own,
    metrics: &[
        counter(
            "railwatch_agent_probe_datagrams_total",
            &["result"],
            "Datagrams that came in for the responder, by what became of them",
        )
        .on("Probes that came in"),
        counter(
            "railwatch_agent_probes_total",
            &["result"],
            "Probes as planned, by what became of them: sent, then answered or lost or, without a word on the fabric, unsent; or left out",
        )
        .on("Planned probes"),
        counter(
            "railwatch_agent_probe_plans_total",
            &["result"],
            "Plans of probes that came, by what became of them; lapsed ones ended because nobody renewed them",
        )
        .on("Plans of probes"),
        gauge("railwatch_agent_probe_flows", &["state"], "Flows of the plan, probed and those that cannot be")
            .on("Flows that are probed"),
        counter(
            "railwatch_agent_probe_frames_total",
            &["result"],
            "Probes over TCP that came in for the responder, by what became of them",
        )
        .on("Probes over TCP that came in"),
        counter(
            "railwatch_agent_probe_connections_total",
            &["result"],
            "Connections that came in for the responder, by what became of them: accepted are all; of those some proved the cluster's key, and the others were closed",
        )
        .on("Connections of probes that came in"),
        gauge("railwatch_agent_probe_connections_open", &[], "Connections that the responder holds")
            .on("Connections of probes held"),
        counter(
            "railwatch_agent_probe_connects_total",
            &["result"],
            "Connections of planned flows over TCP, by what became of them: established, or unanswered, or refused by either host; of those established, ended by the other host, or given up by this one",
        )
        .on("Connections of planned flows"),
    ],
};

/// Agent: accounting of GPU calls.
pub(super) const GPU: Section = Section {
    title: "Agent: accounting of GPU calls",
    board: Board::Gpu,
    metrics: &[
        gauge("railwatch_gpu_probes_loaded", &[], "The kernel half is loaded").on("GPU probes loaded"),
        gauge("railwatch_gpu_processes", &[], "Processes that use a GPU now").on("GPU processes"),
        gauge("railwatch_gpu_objects", &["status"], "Libraries and programs of GPU processes, by status").on("GPU libraries and programs"),
        gauge("railwatch_gpu_allocated_bytes", &["api", "device", "layer"], "Memory held by the processes of this host, by interface, layer and device ordinal as the processes count; layers see the same memory and are not to be added").on("Memory held by processes"),
        counter("railwatch_gpu_kernel_events_seen_total", &[], "Events the kernel half was to send").on("Kernel half: events"),
        counter("railwatch_gpu_kernel_events_submitted_total", &[], "Events it put into the ring").on("Kernel half: events"),
        counter("railwatch_gpu_kernel_events_read_total", &[], "Events taken out of the ring").on("Kernel half: events"),
        counter("railwatch_gpu_kernel_lost_total", &["reason"], "What the kernel half could not send or record, by reason").on("Kernel half: lost"),
        counter("railwatch_gpu_discovery_total", &["kind"], "What the search for GPU libraries did and missed, by kind").on("Search for GPU libraries"),
    ],
};

/// Agent: ports.
pub(super) const PORTS: Section = Section {
    title: "Agent: ports",
    board: Board::Nic,
    metrics: &[
        gauge(
            "railwatch_port_info",
            &["driver", "kind", "port", "state"],
            "Always 1; its labels say how each port stands",
        )
        .unshown(NoPanel::Labels),
        gauge("railwatch_port_speed_bytes_per_second", &["port"], "Link speed as the driver says").on("Links: speed"),
    ],
};
