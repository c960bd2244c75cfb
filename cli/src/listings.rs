//! The listings, as data: where each comes from, which JSON fields are promised in which order, and how a row looks
//! as a line. Pure: rows in, text out.

use crate::human;
use crate::row::Row;
use crate::table::{self, Cell, Tone};

/// A listing.
pub struct Listing {
    /// Path of the API that answers it with an array.
    pub path: &'static str,
    /// The fields that JSON shows, in this order.
    pub fields: &'static [&'static str],
    /// Programs rely on exactly those fields; others are shown only with `--full`.
    pub fixed: bool,
    pub(crate) heads: &'static [&'static str],
    pub(crate) line: fn(&Row, u64) -> Vec<Cell>,
    pub(crate) nothing: &'static str,
}

impl Listing {
    /// The table of `rows` at the instant `now_ns`.
    pub fn table(&self, rows: &[Row], now_ns: u64, colour: bool) -> String {
        if rows.is_empty() {
            return format!("{}\n", self.nothing);
        }
        let lines: Vec<_> = rows.iter().map(|row| (self.line)(row, now_ns)).collect();
        table::render(self.heads, &lines, colour)
    }
}

/// `railwatch hosts`.
pub static HOSTS: Listing = Listing {
    path: "/v1/hosts",
    fields: &[
        "host",
        "boot_id",
        "last_seen_ms",
        "clock_offset_us",
        "clock_uncertainty_us",
        "seen",
        "delivered",
        "dropped",
    ],
    fixed: true,
    heads: &["HOST", "STATE", "HEARD", "CLOCK OFFSET", "SEEN", "DELIVERED", "DROPPED", "AGENT", "KERNEL", "OFF"],
    line: |row, _| {
        let clock = match (row.signed("clock_offset_us"), row.number("clock_uncertainty_us")) {
            (Some(offset), Some(within)) => {
                format!("{} ± {}", human::microseconds(offset), human::unsigned_microseconds(within))
            }
            _ => String::new(),
        };
        let off = row.rows("limitations");
        let off: Vec<_> =
            off.iter().map(|limitation| format!("{} ({})", limitation.text("what"), limitation.text("why"))).collect();
        // A kernel is asked once a second: one that has missed two questions answers no more.
        let (state, tone) = match (row.flag("connected"), row.number("kernel_last_seen_ms")) {
            (false, _) => ("silent", Tone::Bad),
            (true, None) => ("connected", Tone::Good),
            (true, Some(..=2_500)) => ("stalled", Tone::Warn),
            (true, Some(_)) => ("unreachable", Tone::Bad),
        };
        let dropped = row.number("dropped").unwrap_or(0);
        vec![
            Cell::text(row.text("host")),
            Cell::text(state).tone(tone),
            Cell::number(row.number("last_seen_ms").map_or("-".into(), |ms| format!("{} ago", human::span_ms(ms)))),
            Cell::text(clock),
            count(row, "seen"),
            count(row, "delivered"),
            Cell::number(dropped).tone(if dropped == 0 { Tone::Plain } else { Tone::Warn }),
            Cell::text(row.text("agent_version")),
            Cell::text(row.text("kernel_release")),
            Cell::text(off.join("; ")).tone(Tone::Warn),
        ]
    },
    nothing: "No host has connected yet. On each host, `systemctl status railwatch-agent` says whether its agent runs.",
};

/// `railwatch gpu processes`.
pub static GPU_PROCESSES: Listing = Listing {
    path: "/v1/gpu/processes",
    fields: &[
        "host",
        "pid",
        "comm",
        "container",
        "device",
        "layer",
        "allocated_bytes",
        "peak_bytes",
        "allocs",
        "frees",
        "failed_allocs",
        "incomplete_since",
    ],
    fixed: true,
    heads: &[
        "HOST",
        "PID",
        "COMM",
        "CONTAINER",
        "DEVICE",
        "LAYER",
        "ALLOCATED",
        "PEAK",
        "ALLOCS",
        "FREES",
        "FAILED",
        "FIGURES",
    ],
    line: |row, _| {
        let failed = row.number("failed_allocs").unwrap_or(0);
        let (figures, tone) = match (row.text("incomplete_since"), row.flag("exited")) {
            ("", false) => ("exact".to_owned(), Tone::Plain),
            ("", true) => ("exact, exited".to_owned(), Tone::Faint),
            (since, _) => (format!("incomplete since {since}: {}", row.text("incomplete_reason")), Tone::Warn),
        };
        vec![
            Cell::text(row.text("host")),
            count(row, "pid"),
            Cell::text(row.text("comm")),
            Cell::text(row.text("container").chars().take(12).collect::<String>()),
            Cell::number(row.signed("device").map_or("?".into(), |device| device.to_string())),
            Cell::text(row.text("layer")),
            memory(row, "allocated_bytes"),
            memory(row, "peak_bytes"),
            count(row, "allocs"),
            count(row, "frees"),
            Cell::number(failed).tone(if failed == 0 { Tone::Plain } else { Tone::Bad }),
            Cell::text(figures).tone(tone),
        ]
    },
    nothing: "No GPU-using process is known. `railwatch gpu coverage` says what is seen and why not; `railwatch hosts` what is off.",
};

/// `railwatch gpu coverage`.
pub static GPU_COVERAGE: Listing = Listing {
    path: "/v1/gpu/coverage",
    fields: &["host", "pid", "comm", "object", "status", "reason"],
    fixed: true,
    heads: &["HOST", "PID", "COMM", "STATUS", "OBJECT", "REASON"],
    line: |row, _| {
        let tone = if row.text("status") == "attached" { Tone::Good } else { Tone::Bad };
        vec![
            Cell::text(row.text("host")),
            count(row, "pid"),
            Cell::text(row.text("comm")),
            Cell::text(row.text("status")).tone(tone),
            Cell::text(row.text("object")),
            Cell::text(row.text("reason")),
        ]
    },
    nothing: "No process that uses CUDA, HIP, ACL, NCCL or HCCL is known on any host.",
};

/// `railwatch nic`.
pub static NIC: Listing = Listing {
    path: "/v1/nic",
    fields: &[
        "host",
        "port",
        "kind",
        "state",
        "driver",
        "speed_bits_per_s",
        "netdev",
        "window_end",
        "series",
        "errors",
        "pfc_priorities",
        "pause",
        "fec",
    ],
    fixed: false,
    heads: &[
        "HOST",
        "PORT",
        "KIND",
        "STATE",
        "SPEED",
        "DRIVER",
        "RECEIVED",
        "SENT",
        "PAUSED",
        "ERRORS AND DROPS IN THE LAST WINDOW",
    ],
    line: |row, _| {
        let series = row.rows("series");
        let rate = |direction: &str| {
            let io = series.iter().find(|series| {
                matches!(series.text("name"), "hw.network.io" | "rdma.port.io")
                    && series.row("labels").text("network.io.direction") == direction
            });
            let bytes_per_s = io.and_then(|series| series.real("mean"));
            Cell::number(bytes_per_s.map_or("-".into(), |rate| human::bits_per_second((rate * 8.0).round() as u64)))
        };
        let moved: Vec<_> = series
            .iter()
            .filter(|series| series.text("name").contains("error") || series.text("name").contains("drop"))
            // Those that the kernel dropped, of which many are harmless, are in `railwatch drops`.
            .filter(|series| !series.text("name").starts_with("hw.network.drops."))
            .filter_map(|series| Some((series, series.number("delta").filter(|delta| *delta > 0)?)))
            .map(|(series, delta)| match series.row("labels").text("network.io.direction") {
                "" => format!("{} {delta}", series.text("name")),
                direction => format!("{} {direction} {delta}", series.text("name")),
            })
            .collect();
        let state = row.text("state");
        let tone = match state {
            "up" | "active" => Tone::Good,
            "down" => Tone::Bad,
            _ => Tone::Plain,
        };
        vec![
            Cell::text(row.text("host")),
            Cell::text(row.text("port")),
            Cell::text(row.text("kind")),
            Cell::text(state).tone(tone),
            Cell::number(
                row.number("speed_bits_per_s").filter(|speed| *speed > 0).map_or("-".into(), human::bits_per_second),
            ),
            Cell::text(row.text("driver")),
            rate("receive"),
            rate("transmit"),
            pause_cell(row),
            Cell::text(moved.join(", ")).tone(if moved.is_empty() { Tone::Plain } else { Tone::Warn }),
        ]
    },
    nothing: "No port is known yet. `railwatch hosts` says which hosts are connected and which sources are off.",
};

/// `railwatch sources`.
pub static SOURCES: Listing = Listing {
    path: "/v1/sources",
    fields: &["host", "source", "status", "reason", "cadence_ms", "read_us_p50", "read_us_p99", "cpu_percent"],
    fixed: true,
    heads: &["HOST", "SOURCE", "STATUS", "EVERY", "READ P50", "READ P99", "CPU", "MISSED", "REASON"],
    line: |row, _| {
        let tone = if row.text("status") == "on" { Tone::Good } else { Tone::Faint };
        let figure = |field: &str, unit: &str| {
            Cell::number(row.real(field).map_or("-".into(), |figure| format!("{figure:.1} {unit}")))
        };
        vec![
            Cell::text(row.text("host")),
            Cell::text(row.text("source")),
            Cell::text(row.text("status")).tone(tone),
            Cell::number(row.real("cadence_ms").map_or("-".into(), |every| format!("{every} ms"))),
            figure("read_us_p50", "µs"),
            figure("read_us_p99", "µs"),
            Cell::number(row.real("cpu_percent").map_or("-".into(), |share| format!("{share:.2} %"))),
            count(row, "missed_deadlines"),
            Cell::text(row.text("reason")),
        ]
    },
    nothing: "No source is known yet. `railwatch hosts` says which hosts are connected.",
};

/// `railwatch drops`.
pub static DROPS: Listing = Listing {
    path: "/v1/drops",
    fields: &[
        "host",
        "reason",
        "class",
        "interface",
        "protocol",
        "source",
        "source_port",
        "destination",
        "destination_port",
        "packets",
        "bytes",
        "first_seen",
        "last_seen",
    ],
    fixed: false,
    heads: &["HOST", "REASON", "CLASS", "INTERFACE", "PACKETS", "BYTES", "PROTOCOL", "FROM", "TO", "LAST SEEN"],
    line: |row, _| {
        let tone = match row.text("class") {
            "fault" => Tone::Bad,
            "loss" | "retransmit" => Tone::Warn,
            "harmless" => Tone::Faint,
            _ => Tone::Plain,
        };
        let (protocol, from) = match row.text("source") {
            "" => ("-", "in no flow listed".to_owned()),
            _ => (row.text("protocol"), end(row, "source", "source_port")),
        };
        vec![
            Cell::text(row.text("host")),
            Cell::text(row.text("reason")).tone(tone),
            Cell::text(row.text("class")),
            Cell::text(row.text("interface")),
            count(row, "packets"),
            memory(row, "bytes"),
            Cell::text(protocol),
            Cell::text(from),
            Cell::text(end(row, "destination", "destination_port")),
            Cell::text(row.text("last_seen")),
        ]
    },
    nothing: "No drop is known. `railwatch hosts --full` says where the source `drops` is off and why.",
};

/// `railwatch optics`.
pub static OPTICS: Listing = Listing {
    path: "/v1/optics",
    fields: &[
        "host",
        "interface",
        "standard",
        "vendor",
        "part_number",
        "serial",
        "date_code",
        "state",
        "temperature_c",
        "vcc_v",
        "lanes",
        "thresholds",
        "checksum_ok",
        "problems",
        "far_end",
    ],
    fixed: false,
    heads: &[
        "HOST",
        "INTERFACE",
        "STANDARD",
        "VENDOR",
        "PART",
        "SERIAL",
        "DATE",
        "STATE",
        "TEMP",
        "TX mW",
        "RX mW",
        "FAR END",
        "LOOK AT",
    ],
    line: |row, _| {
        let lanes = row.rows("lanes");
        let least = |field: &str| {
            let values = lanes.iter().filter_map(|lane| lane.real(field));
            let least = values.reduce(f64::min);
            Cell::number(least.map_or("-".into(), |least| format!("{least:.4}")))
        };
        let of_lanes = |flag: &str, words: &str| {
            let set: Vec<_> =
                lanes.iter().filter(|lane| lane.flag(flag)).filter_map(|lane| lane.number("lane")).collect();
            let set: Vec<_> = set.iter().map(u64::to_string).collect();
            (!set.is_empty()).then(|| format!("{words}: {}", set.join(" ")))
        };
        let problems = row.texts("problems");
        let look: Vec<_> =
            [of_lanes("rx_los", "no light"), of_lanes("tx_fault", "tx fault"), of_lanes("tx_los", "no host signal")]
                .into_iter()
                .flatten()
                .chain(problems.iter().map(|problem| (*problem).to_owned()))
                .collect();
        vec![
            Cell::text(row.text("host")),
            Cell::text(row.text("interface")),
            Cell::text(row.text("standard")),
            Cell::text(row.text("vendor")),
            Cell::text(row.text("part_number")),
            Cell::text(row.text("serial")),
            Cell::text(row.text("date_code")),
            Cell::text(row.text("state")),
            Cell::number(row.real("temperature_c").map_or("-".into(), |celsius| format!("{celsius:.1} °C"))),
            least("tx_power_mw"),
            least("rx_power_mw"),
            Cell::text(far_end(row)),
            Cell::text(look.join("; ")).tone(if look.is_empty() { Tone::Plain } else { Tone::Warn }),
        ]
    },
    nothing: "No optical module is known yet. `railwatch hosts -o json --full` says whether the source `optics` is on, and why not.",
};

/// `leaf0:Ethernet1, 2.1 dB`: the other end of the cable, and the most that a lane loses on the way.
fn far_end(row: &Row) -> String {
    let far = row.row("far_end");
    if far.0.is_empty() {
        return String::new();
    }
    let most = far.rows("losses").first().and_then(|loss| loss.real("loss_db"));
    let most = most.map(|db| format!(", {db:.1} dB")).unwrap_or_default();
    format!("{}:{}{most}", far.text("switch"), far.text("port"))
}

/// `railwatch neighbours`.
pub static NEIGHBOURS: Listing = Listing {
    path: "/v1/neighbours",
    fields: &[
        "host",
        "interface",
        "system_name",
        "port_id",
        "port_description",
        "chassis_id",
        "management_addresses",
        "ttl_s",
        "first_heard",
        "last_heard",
    ],
    fixed: false,
    heads: &["HOST", "INTERFACE", "SYSTEM", "PORT", "PORT DESCRIPTION", "CHASSIS", "ADDRESSES", "SINCE"],
    line: |row, _| {
        vec![
            Cell::text(row.text("host")),
            Cell::text(row.text("interface")),
            Cell::text(row.text("system_name")),
            Cell::text(row.text("port_id")),
            Cell::text(row.text("port_description")),
            Cell::text(row.text("chassis_id")),
            Cell::text(row.texts("management_addresses").join(" ")),
            Cell::text(row.text("first_heard")),
        ]
    },
    nothing: "No neighbour was heard. `railwatch sources` says whether the source `lldp` is on; switches speak every 30 s, where LLDP is on there.",
};

/// `railwatch queue-pairs`.
pub static QUEUE_PAIRS: Listing = Listing {
    path: "/v1/queue-pairs",
    fields: &[
        "host",
        "device",
        "port",
        "number",
        "remote_number",
        "type",
        "state",
        "pid",
        "comm",
        "source",
        "source_port",
        "destination",
        "destination_port",
    ],
    fixed: false,
    heads: &["HOST", "DEVICE", "PORT", "NUMBER", "REMOTE", "TYPE", "STATE", "PID", "COMM", "FROM", "TO"],
    line: |row, _| {
        let tone = if row.text("state") == "ERR" { Tone::Bad } else { Tone::Plain };
        vec![
            Cell::text(row.text("host")),
            Cell::text(row.text("device")),
            count(row, "port"),
            count(row, "number"),
            count(row, "remote_number"),
            Cell::text(row.text("type")),
            Cell::text(row.text("state")).tone(tone),
            count(row, "pid"),
            Cell::text(row.text("comm")),
            Cell::text(end(row, "source", "source_port")),
            Cell::text(end(row, "destination", "destination_port")),
        ]
    },
    nothing: "No RDMA queue pair is known. `railwatch sources` says whether the source `rdma.qp` is on, and why not.",
};

/// `railwatch flows`.
pub static FLOWS: Listing = Listing {
    path: "/v1/flows",
    fields: &[
        "host",
        "pid",
        "comm",
        "protocol",
        "source",
        "source_port",
        "destination",
        "destination_port",
        "interface",
        "state",
        "sent_bytes",
        "received_bytes",
        "retransmits",
        "rtt_ns",
    ],
    fixed: false,
    heads: &["HOST", "PID", "COMM", "FROM", "TO", "INTERFACE", "STATE", "SENT", "RECEIVED", "RETRANSMITS", "RTT"],
    line: |row, _| {
        let rtt = row.number("rtt_ns").map_or("-".into(), |ns| human::unsigned_microseconds(ns / 1000));
        let tone = if row.number("retransmits").unwrap_or(0) == 0 { Tone::Plain } else { Tone::Warn };
        vec![
            Cell::text(row.text("host")),
            count(row, "pid"),
            Cell::text(row.text("comm")),
            Cell::text(end(row, "source", "source_port")),
            Cell::text(end(row, "destination", "destination_port")),
            Cell::text(row.text("interface")),
            Cell::text(row.text("state")),
            memory(row, "sent_bytes"),
            memory(row, "received_bytes"),
            count(row, "retransmits").tone(tone),
            Cell::number(rtt),
        ]
    },
    nothing: "No TCP connection of a GPU process is known. `railwatch sources` says whether the source `tcp.flows` is on, and why not.",
};

/// `railwatch incidents`.
pub static INCIDENTS: Listing = Listing {
    path: "/v1/incidents",
    fields: &["id", "detector", "title", "severity", "state", "element", "started", "opened", "updated", "resolved"],
    fixed: false,
    heads: &["ID", "AGE", "SEVERITY", "STATE", "ELEMENT", "TITLE", "MOST LIKELY"],
    line: |row, now_ns| {
        let likely = row.rows("hypotheses").first().map(hypothesis).unwrap_or_default();
        vec![
            count(row, "id"),
            Cell::number(row.number("started").map_or("-".into(), |then| human::ago(then, now_ns))),
            Cell::text(row.text("severity")).tone(severity_tone(row.text("severity"))),
            Cell::text(row.text("state")).tone(if row.text("state") == "open" { Tone::Plain } else { Tone::Faint }),
            Cell::text(row.element("element")),
            Cell::text(row.text("title")),
            Cell::text(likely),
        ]
    },
    nothing: "No incident.",
};

/// `railwatch decisions`.
pub static DECISIONS: Listing = Listing {
    path: "/v1/decisions",
    fields: &[
        "id",
        "incident",
        "action",
        "target",
        "state",
        "proposed",
        "updated",
        "actor",
        "outcome",
        "alternatives",
        "guards",
    ],
    fixed: false,
    heads: &["ID", "AGE", "STATE", "ACTION", "TARGET", "INCIDENT", "BY", "HELD BACK BY", "OUTCOME"],
    line: |row, now_ns| {
        let guards = row.rows("guards");
        let held: Vec<_> =
            guards.iter().filter(|guard| !guard.flag("passed")).map(|guard| guard.text("name")).collect();
        vec![
            count(row, "id"),
            Cell::number(row.number("proposed").map_or("-".into(), |then| human::ago(then, now_ns))),
            Cell::text(row.text("state")).tone(decision_tone(row.text("state"))),
            Cell::text(row.text("action")),
            Cell::text(row.element("target")),
            count(row, "incident"),
            Cell::text(row.text("actor")),
            Cell::text(held.join(", ")),
            Cell::text(row.text("outcome")),
        ]
    },
    nothing: "No decision: nothing is proposed.",
};

/// `railwatch audit`.
pub static AUDIT: Listing = Listing {
    path: "/v1/audit",
    fields: &["at", "actor", "what", "detail"],
    fixed: false,
    heads: &["AT", "ACTOR", "WHAT", "DETAIL"],
    line: |row, _| {
        vec![
            Cell::text(row.number("at").map(human::instant).unwrap_or_default()),
            Cell::text(row.text("actor")),
            Cell::text(row.text("what")),
            Cell::text(row.text("detail")),
        ]
    },
    nothing: "Nothing has been done yet.",
};

/// Signals of an incident, within its detail.
pub static SIGNALS: Listing = Listing {
    path: "",
    fields: &[],
    fixed: false,
    heads: &["AGE", "SEVERITY", "SIGNAL", "ELEMENT", "SUMMARY"],
    line: |row, now_ns| {
        vec![
            Cell::number(row.number("observed").map_or("-".into(), |then| human::ago(then, now_ns))),
            Cell::text(row.text("severity")).tone(severity_tone(row.text("severity"))),
            Cell::text(row.text("name")),
            Cell::text(row.element("element")),
            Cell::text(row.text("summary")),
        ]
    },
    nothing: "no signal of it is kept",
};

/// `railwatch inventory`.
pub static INVENTORY: Listing = Listing {
    path: "/v1/inventory",
    fields: &["host", "entity_kind", "entity", "role", "key", "value", "source", "since"],
    fixed: false,
    heads: &["HOST", "ENTITY", "KEY", "VALUE", "SINCE"],
    line: |row, now_ns| {
        vec![
            Cell::text(row.text("host")),
            Cell::text(entity(row)),
            Cell::text(row.text("key")),
            Cell::text(row.text("value")),
            Cell::number(row.number("since").map_or("-".into(), |then| human::ago(then, now_ns))),
        ]
    },
    nothing: "No host told what is installed and set on it, or none of it fits. `railwatch sources` says whether `inventory` is on.",
};

/// `railwatch inventory history`, and what changed before an incident.
pub static INVENTORY_CHANGES: Listing = Listing {
    path: "/v1/inventory/history",
    fields: &["at", "host", "entity_kind", "entity", "key", "before", "after", "over_reboot", "source"],
    fixed: false,
    heads: &["AT", "HOST", "ENTITY", "KEY", "BEFORE", "AFTER", ""],
    line: |row, _| {
        let value = |field| match row.text(field) {
            "" => Cell::text("").tone(Tone::Faint),
            value => Cell::text(value),
        };
        vec![
            Cell::text(row.number("at").map(human::instant).unwrap_or_default()),
            Cell::text(row.text("host")),
            Cell::text(entity(row)),
            Cell::text(row.text("key")),
            value("before"),
            value("after"),
            Cell::text(if row.flag("over_reboot") { "over a reboot" } else { "while running" }),
        ]
    },
    nothing: "Nothing changed.",
};

/// `railwatch inventory drift`.
pub static INVENTORY_DRIFT: Listing = Listing {
    path: "/v1/inventory/drift",
    fields: &[
        "host",
        "entity_kind",
        "entity",
        "key",
        "value",
        "expected",
        "group",
        "role",
        "peers",
        "agree",
        "severity",
        "meaning",
    ],
    fixed: false,
    heads: &["HOST", "ENTITY", "KEY", "VALUE", "PEERS HAVE", "AGREE", "AMONG"],
    line: |row, _| {
        let among = [row.text("group"), row.text("role")].join(" ");
        let of = |field| row.number(field).map_or("?".into(), |number| number.to_string());
        vec![
            Cell::text(row.text("host")),
            Cell::text(entity(row)),
            Cell::text(row.text("key")),
            Cell::text(row.text("value")).tone(severity_tone(row.text("severity"))),
            Cell::text(row.text("expected")),
            Cell::number(format!("{} of {}", of("agree"), of("peers"))),
            Cell::text(among.trim()),
        ]
    },
    nothing: "Nothing differs from what most peers have (or there are too few peers: `drift` in the collector's configuration).",
};

/// "port eth0", or "host" where the host is the entity.
fn entity(row: &Row) -> String {
    [row.text("entity_kind"), row.text("entity")].join(" ").trim().to_owned()
}

/// Alternatives of a decision, within its detail.
pub static ALTERNATIVES: Listing = Listing {
    path: "",
    fields: &[],
    fixed: false,
    heads: &["ACTION", "EXPECTED COST (GPU-SECONDS)", "REASON"],
    line: |row, _| {
        vec![
            Cell::text(row.text("action")),
            Cell::number(row.real("expected_cost_gpu_s").map_or("-".into(), |cost| format!("{cost:.0}"))),
            Cell::text(row.text("reason")),
        ]
    },
    nothing: "none",
};

/// Guards of a decision, within its detail.
pub static GUARDS: Listing = Listing {
    path: "",
    fields: &[],
    fixed: false,
    heads: &["GUARD", "", "REASON"],
    line: |row, _| {
        let (word, tone) = if row.flag("passed") { ("passed", Tone::Good) } else { ("HOLDS BACK", Tone::Bad) };
        vec![Cell::text(row.text("name")), Cell::text(word).tone(tone), Cell::text(row.text("reason"))]
    },
    nothing: "none",
};

/// "link_down (0.97)".
pub fn hypothesis(row: &Row) -> String {
    match row.real("posterior") {
        Some(posterior) => format!("{} ({posterior:.2})", row.text("fault_mode")),
        None => row.text("fault_mode").to_owned(),
    }
}

/// How a severity stands out.
pub fn severity_tone(severity: &str) -> Tone {
    match severity {
        "critical" | "error" => Tone::Bad,
        "warning" => Tone::Warn,
        _ => Tone::Plain,
    }
}

/// How a decision's state stands out.
pub fn decision_tone(state: &str) -> Tone {
    match state {
        "proposed" | "withheld" => Tone::Warn,
        "failed" => Tone::Bad,
        "done" => Tone::Good,
        "withdrawn" | "rejected" => Tone::Faint,
        _ => Tone::Plain,
    }
}

fn count(row: &Row, field: &str) -> Cell {
    Cell::number(row.number(field).map_or("-".into(), |number| number.to_string()))
}

/// "prio 3 receive 41 %, 802.3x transmit 12/s": what moved, the time where it is known, else the frames.
fn pause_cell(row: &Row) -> Cell {
    let moved: Vec<_> = row
        .rows("pause")
        .iter()
        .filter_map(|pause| {
            let (time, frames) = (pause.real("time_percent"), pause.real("frames_per_s"));
            let much = match (time.filter(|time| *time > 0.0), frames.filter(|frames| *frames > 0.0)) {
                (Some(time), _) => format!("{time:.1} %"),
                (None, Some(frames)) => format!("{frames:.0}/s"),
                (None, None) => return None,
            };
            let of = pause
                .number("priority")
                .map_or_else(|| pause.text("kind").to_owned(), |number| format!("prio {number}"));
            Some(format!("{of} {} {much}", pause.text("direction")))
        })
        .collect();
    Cell::text(moved.join(", ")).tone(if moved.is_empty() { Tone::Plain } else { Tone::Warn })
}

/// An end of a connection: "10.0.0.1:4791", "[fe80::1]:40000", "-" where it is not known.
fn end(row: &Row, address: &str, port: &str) -> String {
    match (row.text(address), row.number(port)) {
        ("", _) => "-".to_owned(),
        (address, None) => address.to_owned(),
        (address, Some(port)) if address.contains(':') => format!("[{address}]:{port}"),
        (address, Some(port)) => format!("{address}:{port}"),
    }
}

fn memory(row: &Row, field: &str) -> Cell {
    Cell::number(row.number(field).map_or("-".into(), human::bytes))
}
