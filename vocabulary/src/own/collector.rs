//! What the collector says of itself.

use super::{Section, counter, gauge, histogram};
use crate::{Board, NoPanel, Proof};

/// Collector: the process.
pub(super) const PROCESS: Section = Section {
    title: "Collector: the process",
    board: Board::Own,
    metrics: &[
        gauge("railwatch_collector_build_info", &["version"], "What runs here").unshown(NoPanel::Labels),
        counter(
            "railwatch_collector_configuration_reloads_refused_total",
            &[],
            "Reloads refused because the file was bad; the old configuration stayed",
        )
        .on("Configuration refused"),
        gauge(
            "railwatch_collector_configuration_stale",
            &[],
            "1 while the configuration file is bad and an older one is in force",
        )
        .on("Collector: states"),
        gauge("railwatch_collector_halted", &[], "1 while all acting is halted").on("Collector: states"),
        counter(
            "railwatch_collector_stalls_total",
            &[],
            "Times the collector stood still for too long to judge silence",
        )
        .on("Collector: stalls"),
    ],
};

/// Collector: uplink.
pub(super) const UPLINK: Section = Section {
    title: "Collector: uplink",
    board: Board::Own,
    metrics: &[
        counter("railwatch_collector_uplink_signals_total", &[], "Signal frames taken").on("Collector: frames taken"),
        counter("railwatch_collector_uplink_windows_total", &[], "Windows frames taken").on("Collector: frames taken"),
        counter("railwatch_collector_uplink_samples_total", &[], "Window samples taken: one series in one window each")
            .on("Collector: samples taken"),
        counter(
            "railwatch_collector_uplink_refused_total",
            &["reason"],
            "Frames, samples, definitions and states refused, by reason",
        )
        .proven(Proof::Test("collector/tests/uplink.rs"))
        .on("Collector: refused, unreadable, missing"),
        counter(
            "railwatch_collector_uplink_unreadable_total",
            &["reason"],
            "Messages that could not be read, each of which ended its stream",
        )
        .proven(Proof::Test("collector/tests/uplink.rs"))
        .on("Collector: refused, unreadable, missing"),
        counter(
            "railwatch_collector_uplink_streams_rejected_total",
            &["reason"],
            "Streams turned away or ended by the collector, by reason",
        )
        .proven(Proof::Test("collector/tests/uplink.rs"))
        .on("Collector: streams"),
        counter("railwatch_collector_uplink_streams_opened_total", &[], "Streams opened").on("Collector: streams"),
        counter("railwatch_collector_uplink_streams_closed_total", &[], "Streams ended; opened less closed are open")
            .on("Collector: streams"),
        counter(
            "railwatch_collector_uplink_skipped_total",
            &["kind"],
            "Frames that agents cut from their spools at the quota, by kind",
        )
        .proven(Proof::Test("collector/tests/uplink.rs"))
        .on("Collector: refused, unreadable, missing"),
        counter("railwatch_collector_uplink_missing_total", &[], "Frames missing from a stream without explanation")
            .on("Collector: refused, unreadable, missing"),
        counter("railwatch_collector_uplink_frames_submitted_total", &[], "Frames given to the store and the engine")
            .on("Collector: frames taken"),
        counter(
            "railwatch_collector_uplink_frames_acknowledged_total",
            &[],
            "Frames stored and acknowledged; submitted less acknowledged are in the queue",
        )
        .on("Collector: frames taken"),
        histogram("railwatch_collector_uplink_acknowledge_seconds", &[], "From taking a frame to acknowledging it")
            .on("Collector: time to acknowledge a frame"),
        counter(
            "railwatch_collector_uplink_handshakes_total",
            &["outcome"],
            "TLS handshakes of the uplink, by how they ended",
        )
        .on("Collector: TLS handshakes"),
    ],
};

/// Collector: store.
pub(super) const STORE: Section = Section {
    title: "Collector: store",
    board: Board::Own,
    metrics: &[
        counter("railwatch_collector_store_frames_accepted_total", &[], "Frames stored").on("Store: frames"),
        counter("railwatch_collector_store_frames_duplicate_total", &[], "Frames that had been stored before")
            .on("Store: frames"),
        counter(
            "railwatch_collector_store_frames_missing_total",
            &[],
            "Frames that never came and that no agent's account explains",
        )
        .on("Store: frames"),
        counter("railwatch_collector_store_signals_total", &[], "Signals stored and judged").on("Store: frames"),
        counter("railwatch_collector_store_commits_total", &[], "Transactions").on("Store: transactions"),
        counter("railwatch_collector_store_commits_failed_total", &[], "Transactions that failed and were tried again")
            .on("Store: transactions"),
        counter("railwatch_collector_store_commit_seconds_total", &[], "Time that transactions took")
            .on("Store: time in transactions"),
        gauge("railwatch_collector_store_unwritable", &[], "1 while nothing can be stored or acknowledged")
            .on("Collector: states"),
    ],
};

/// Collector: more than it can do.
pub(super) const OVERLOAD: Section = Section {
    title: "Collector: overload",
    board: Board::Own,
    metrics: &[
        gauge(
            "railwatch_collector_overload_level",
            &[],
            "0 normal; 1 busy: pieces of tape are refused; 2 overloaded: windows are shed and new hosts turned away",
        )
        .on("Collector: level of load"),
        counter("railwatch_collector_overload_changes_total", &[], "Changes of the level of load")
            .on("Collector: left out under load"),
        counter(
            "railwatch_collector_overload_shed_total",
            &["what"],
            "Left out and counted while there was too much to do, by what it was",
        )
        .on("Collector: left out under load"),
        gauge("railwatch_collector_store_frames_waiting", &[], "Frames waiting for the store and the engine")
            .on("Store: frames waiting"),
        gauge(
            "railwatch_collector_store_lag_seconds",
            &[],
            "From the arrival of the oldest frame of a transaction to having stored it",
        )
        .on("Store: lag"),
    ],
};

/// Collector: engine.
pub(super) const ENGINE: Section = Section {
    title: "Collector: engine",
    board: Board::Own,
    metrics: &[
        gauge("railwatch_collector_incidents_open", &["severity"], "Open incidents, by severity")
            .on("Open incidents")
            .at(Board::Fleet),
        histogram("railwatch_collector_signal_seconds", &[], "From taking a signal to having stored and judged it")
            .on("Time to judge a signal")
            .at(Board::Fleet),
        counter("railwatch_collector_orders_total", &[], "Orders given to the executor").on("Engine: orders"),
        counter("railwatch_collector_engine_frames_repeated_total", &[], "Frames that came to the engine twice")
            .on("Engine: repeated, late, unread"),
        counter("railwatch_collector_engine_signals_unread_total", &[], "Signals that no detector reads")
            .on("Engine: repeated, late, unread"),
        counter("railwatch_collector_engine_signals_late_total", &[], "Signals that came long after the fact")
            .on("Engine: repeated, late, unread"),
        counter(
            "railwatch_collector_engine_incidents_refused_total",
            &[],
            "Faults that became no incident because too many are open",
        )
        .on("Engine: refused at a bound"),
        counter(
            "railwatch_collector_engine_histories_refused_total",
            &[],
            "Late stories not told because too many are being told",
        )
        .on("Engine: refused at a bound"),
        counter("railwatch_collector_engine_hosts_refused_total", &[], "Hosts not watched because too many are")
            .on("Engine: refused at a bound"),
    ],
};

/// Collector: API.
pub(super) const API: Section = Section {
    title: "Collector: API",
    board: Board::Own,
    metrics: &[
        counter(
            "railwatch_collector_api_requests_answered_total",
            &[],
            "API requests answered with a status below 400",
        )
        .on("API: requests"),
        counter("railwatch_collector_api_requests_denied_total", &[], "API requests without a good token")
            .on("API: requests"),
        counter("railwatch_collector_api_requests_forbidden_total", &[], "API requests whose token may not do that")
            .on("API: requests"),
        counter("railwatch_collector_api_requests_refused_total", &[], "API requests refused otherwise")
            .on("API: requests"),
        counter("railwatch_collector_api_requests_failed_total", &[], "API requests that failed here")
            .on("API: requests"),
        counter("railwatch_collector_api_watchers_total", &[], "Watchers that began").on("API: watchers"),
        counter("railwatch_collector_api_watchers_stuck_total", &[], "Watchers cut off because they did not read")
            .on("API: watchers"),
        counter(
            "railwatch_collector_api_changes_missed_total",
            &[],
            "Changes that slow watchers were told they missed",
        )
        .on("API: watchers"),
        counter(
            "railwatch_collector_api_connections_refused_total",
            &[],
            "Connections to the API closed at once because there were too many",
        )
        .on("API: connections and tokens refused"),
        counter(
            "railwatch_collector_api_connections_broken_total",
            &[],
            "Connections to the API that ended in an error: bad TLS, bad HTTP, too slow",
        )
        .on("API: connections and tokens refused"),
        counter("railwatch_collector_api_token_failures_total", &[], "API calls with a bad token or none")
            .on("API: connections and tokens refused"),
        counter(
            "railwatch_collector_api_token_reloads_refused_total",
            &[],
            "Changed tokens files refused; the tokens read before stayed in force",
        )
        .on("API: connections and tokens refused"),
    ],
};

/// Collector: OTLP export.
pub(super) const OTLP: Section = Section {
    title: "Collector: OTLP export",
    board: Board::Own,
    metrics: &[
        counter("railwatch_collector_otlp_points_total", &[], "Points and log records given to the OTLP exporter")
            .on("OTLP: points"),
        counter("railwatch_collector_otlp_delivered_total", &[], "Points and log records that the OTLP endpoint took")
            .on("OTLP: points"),
        counter(
            "railwatch_collector_otlp_dropped_total",
            &["reason"],
            "Points and log records that never reached the OTLP endpoint, by reason",
        )
        .proven(Proof::Test("collector/tests/otlp.rs"))
        .on("OTLP: points"),
    ],
};

/// Collector: kept pieces of tape.
pub(super) const TAPE: Section = Section {
    title: "Collector: kept pieces of tape",
    board: Board::Own,
    metrics: &[
        counter("railwatch_collector_tape_pieces_kept_total", &[], "Pieces of tape kept, one for each incident")
            .on("Collector: pieces of tape"),
        counter("railwatch_collector_tape_pieces_failed_total", &[], "Pieces not had from their host, or not written")
            .on("Collector: pieces of tape"),
        counter(
            "railwatch_collector_tape_pieces_skipped_total",
            &[],
            "Pieces not tried because too many incidents came at a time",
        )
        .on("Collector: pieces of tape"),
        counter(
            "railwatch_collector_tape_pieces_evicted_total",
            &[],
            "Kept pieces removed again to stay within the bounds",
        )
        .on("Collector: pieces of tape"),
    ],
};

/// Collector: bursts of agents.
pub(super) const BURSTS: Section = Section {
    title: "Collector: bursts of agents",
    board: Board::Own,
    metrics: &[
        counter("railwatch_collector_bursts_by_person_total", &[], "Bursts of agents that a person asked for")
            .on("Collector: bursts"),
        counter("railwatch_collector_bursts_by_incident_total", &[], "Bursts of agents because of an incident")
            .on("Collector: bursts"),
        counter(
            "railwatch_collector_bursts_not_done_total",
            &[],
            "Bursts of hosts that were away, gave no answer or refused",
        )
        .on("Collector: bursts"),
        counter(
            "railwatch_collector_bursts_held_back_total",
            &[],
            "Bursts for incidents not sent, to stay within the limits",
        )
        .on("Collector: bursts"),
    ],
};

/// Collector: probes.
pub(super) const PROBES: Section = Section {
    title: "Collector: probes",
    board: Board::Own,
    metrics: &[
        counter("railwatch_collector_probes_plans_total", &[], "Plans of probes made because something changed")
            .on("Collector: probes"),
        counter(
            "railwatch_collector_probes_results_total",
            &[],
            "Intervals for which agents told what became of their probes",
        )
        .on("Collector: probes"),
        counter("railwatch_collector_probes_unknown_flows_total", &[], "Results of flows that are in no plan")
            .on("Collector: probes"),
        counter(
            "railwatch_collector_probes_suspects_refused_total",
            &[],
            "Suspects not followed because there are too many",
        )
        .on("Collector: probes"),
        gauge("railwatch_collector_probes_flows", &[], "Flows of probes in the plan").on("Collector: flows of probes"),
        gauge(
            "railwatch_collector_probes_suspects",
            &[],
            "Directions of links and NICs around which probes are sent more often",
        )
        .on("Collector: coverage by probes"),
        gauge("railwatch_collector_probes_directions", &[], "Directions of known links that are up")
            .on("Collector: coverage by probes"),
        gauge(
            "railwatch_collector_probes_directions_covered",
            &[],
            "Of them, those that probes cross at the rate they should",
        )
        .on("Collector: coverage by probes"),
        gauge(
            "railwatch_collector_probes_packets_per_second_most",
            &[],
            "Probes and answers planned of the NIC that sends most",
        )
        .on("Collector: packets of probes"),
        gauge(
            "railwatch_collector_probes_job_pairs",
            &[],
            "Pairs of NICs of jobs that run, where these are to be probed",
        )
        .on("Collector: pairs of jobs"),
        gauge(
            "railwatch_collector_probes_job_pairs_left_out",
            &[],
            "Of them, those that are not probed because there is no room",
        )
        .on("Collector: pairs of jobs"),
        gauge("railwatch_collector_probes_jobs_left_out", &[], "Jobs whose pairs are not probed because too many run")
            .on("Collector: pairs of jobs"),
    ],
};
const SWITCHES_TEST: Proof = Proof::Test("collector/src/switches/tests.rs");

/// Collector: switches.
pub(super) const SWITCHES: Section = Section {
    title: "Collector: switches",
    board: Board::Nic,
    metrics: &[
        gauge("railwatch_collector_fleet_switch_up", &["switch"], "1 while the stream of the switch is open")
            .proven(SWITCHES_TEST)
            .on("Switches connected"),
        gauge(
            "railwatch_collector_fleet_switch_port_up",
            &["port", "switch"],
            "1 while the switch says that its port is up",
        )
        .proven(SWITCHES_TEST)
        .on("Switches: ports up"),
        gauge(
            "railwatch_collector_fleet_switch_io_bytes_per_second",
            &["direction", "port", "switch"],
            "Rate of a switch's port between its last two samples",
        )
        .proven(SWITCHES_TEST)
        .on("Switches: traffic"),
        gauge(
            "railwatch_collector_fleet_switch_dropped_per_second",
            &["direction", "port", "switch"],
            "Packets that a switch's port drops, between its last two samples",
        )
        .proven(SWITCHES_TEST)
        .on("Switches: drops and errors"),
        gauge(
            "railwatch_collector_fleet_switch_errors_per_second",
            &["direction", "port", "switch"],
            "Bad packets that a switch's port counts, between its last two samples",
        )
        .proven(SWITCHES_TEST)
        .on("Switches: drops and errors"),
        counter(
            "railwatch_collector_fleet_switch_unusable_total",
            &["reason", "switch"],
            "Values of a switch that were not taken, by reason",
        )
        .proven(SWITCHES_TEST)
        .on("Switches: not taken"),
        counter(
            "railwatch_collector_fleet_switch_signals_lost_total",
            &["switch"],
            "Signals of a switch that could not be stored",
        )
        .proven(SWITCHES_TEST)
        .on("Switches: not taken"),
        counter(
            "railwatch_collector_fleet_switch_sflow_datagrams_total",
            &["outcome"],
            "Datagrams of sFlow by what became of them; malformed counts samples too",
        )
        .proven(SWITCHES_TEST)
        .on("Switches: sFlow"),
    ],
};

/// Collector: the fleet.
pub(super) const FLEET: Section = Section {
    title: "Collector: the fleet",
    board: Board::Fleet,
    metrics: &[
        gauge("railwatch_collector_hosts_connected", &[], "Hosts with an open stream").on("Hosts"),
        gauge("railwatch_collector_hosts_watched", &[], "Hosts that should be heard").on("Hosts"),
        gauge("railwatch_collector_fleet_config_drift_items", &["key"], "Values of the fleet's inventory that differ from what most peers have, by key; looked at once a minute").proven(Proof::Test("collector/src/inventory/follow.rs")).on("Drift of configuration"),
        gauge("railwatch_collector_fleet_config_drift_hosts", &[], "Hosts with any such value").on("Drift of configuration"),
        gauge("railwatch_collector_fleet_host_up", &["host"], "1 while a stream of the host's agent is open").on("Hosts connected, by host"),
        gauge("railwatch_collector_fleet_host_last_seen_seconds", &["host"], "Since anything was heard from the host").on("Not heard for"),
        gauge("railwatch_collector_fleet_host_clock_offset_seconds", &["host"], "The host's CLOCK_REALTIME less the collector's timeline").on("Clocks"),
        gauge("railwatch_collector_fleet_host_clock_uncertainty_seconds", &["host"], "The true offset lies within this").on("Clocks"),
        gauge("railwatch_collector_fleet_host_series", &["host"], "Series the host has defined").on("Series of a host"),
        counter("railwatch_collector_fleet_host_dropped_total", &["host"], "What the host's agent and the collector had to drop").on("Dropped"),
        gauge("railwatch_collector_fleet_gpu_allocated_bytes", &["api", "device", "host", "layer"], "Device memory held by all processes of a device, by layer and API; one runtime allocation shows in its driver layer too").on("GPU memory held"),
        gauge("railwatch_collector_fleet_gpu_failed_allocations", &["host"], "Failed allocations of the host's living processes").on("GPU allocations failed"),
        gauge("railwatch_collector_fleet_nic_up", &["host", "kind", "port"], "1 while the port's state is up").on("Ports up"),
        gauge("railwatch_collector_fleet_nic_io_bytes_per_second", &["direction", "host", "port", "series"], "Mean rate of a port in its newest window").on("Traffic of ports"),
        gauge("railwatch_collector_fleet_nic_packets_per_second", &["direction", "host", "port", "series"], "Mean packet rate of a port in its newest window").on("Packets of ports"),
        gauge("railwatch_collector_fleet_nic_errors_per_second", &["direction", "host", "port", "series"], "Mean error rate of a port in its newest window").on("Errors of ports"),
    ],
};
