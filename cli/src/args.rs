//! The command line, as data. What it says in `--help` is the short manual; docs/CLI.md is the long one.

use crate::failure::EXIT_STATUS_HELP;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

const FINDING_HELP: &str = "\
The collector is found by --collector, else RAILWATCH_COLLECTOR, else the run file
/run/railwatch/collector.json, else $XDG_RUNTIME_DIR/railwatch/collector.json.
The token comes from --token-file, else RAILWATCH_TOKEN, else RAILWATCH_TOKEN_FILE, else the run file.";

/// See what Railwatch sees, and say yes or no to what it proposes.
#[derive(Debug, Parser)]
#[command(name = "railwatch", version, after_help = format!("{FINDING_HELP}\n\n{EXIT_STATUS_HELP}"), max_term_width = 100)]
pub struct CommandLine {
    /// How to reach the collector.
    #[command(flatten)]
    pub connection: Connection,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How to reach the collector.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// Base URL of the collector's API, such as http://127.0.0.1:7701
    #[arg(long, global = true, value_name = "URL")]
    pub collector: Option<String>,
    /// File that holds the bearer token
    #[arg(long, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub token_file: Option<PathBuf>,
    /// PEM file of the authority that signed an https collector's certificate
    #[arg(long, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub ca_file: Option<PathBuf>,
    /// Give up on an answer after this long
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,
}

/// Shape of a listing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people, with human units
    #[default]
    Table,
    /// JSON for programs, raw units
    Json,
    /// The same as YAML
    Yaml,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Shape {
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// The form of a listing whose JSON fields are fixed, and what it lists.
#[derive(Clone, Debug, Default, Args)]
pub struct FixedShape {
    /// Only of this host
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
    /// In JSON and YAML, every field that the collector sends and not only the fixed ones
    #[arg(long)]
    pub full: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Hosts, when each was last heard, its clock, and what was lost on the way
    Hosts(FixedShape),
    /// What the GPUs' processes hold, and what of that is seen
    Gpu {
        /// Which listing.
        #[command(subcommand)]
        listing: Gpu,
    },
    /// NIC and RDMA ports with their latest rates
    Nic {
        /// Only of this host
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
        #[command(flatten)]
        #[expect(missing_docs, reason = "documented at the type; a comment here would become the command's help")]
        shape: Shape,
    },
    /// Telemetry sources: on or off and why, how often each is read, and what a reading costs
    Sources(FixedShape),
    /// Packets that the hosts' kernels dropped, with reason and flow; not those of RDMA or switches
    Drops {
        /// Only of this host
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
        #[command(flatten)]
        #[expect(missing_docs, reason = "documented at the type; a comment here would become the command's help")]
        shape: Shape,
    },
    /// Optical modules: what each is and measures; or what an image of one says
    Optics(Optics),
    /// What is at the other end of each cable, as it says itself (LLDP)
    Neighbours {
        /// Only of this host
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
        #[command(flatten)]
        #[expect(missing_docs, reason = "documented at the type; a comment here would become the command's help")]
        shape: Shape,
    },
    /// RDMA queue pairs, with the process that made each
    QueuePairs {
        /// Only of this host
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
        #[command(flatten)]
        #[expect(missing_docs, reason = "documented at the type; a comment here would become the command's help")]
        shape: Shape,
    },
    /// Jobs over all hosts: their ranks with host, process, GPUs and container, and their communicators
    Jobs {
        /// Only those that run on this host
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
        #[command(flatten)]
        #[expect(missing_docs, reason = "documented at the type; a comment here would become the command's help")]
        shape: Shape,
    },
    /// TCP connections of the processes that use a GPU
    Flows {
        /// Only of this host
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
        #[command(flatten)]
        #[expect(missing_docs, reason = "documented at the type; a comment here would become the command's help")]
        shape: Shape,
    },
    /// GPUs, NICs and NVMe disks of each host, and how near each GPU is to the others
    Placement {
        /// Only of this host
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
        #[command(flatten)]
        #[expect(missing_docs, reason = "documented at the type; a comment here would become the command's help")]
        shape: Shape,
    },
    /// Switches as they say they are (gNMI, sFlow), or the ports of one
    Switches {
        /// The ports of this switch
        switch: Option<String>,
        #[command(flatten)]
        #[expect(missing_docs, reason = "documented at the type; a comment here would become the command's help")]
        shape: Shape,
    },
    /// Incidents, or one with all its evidence
    Incidents {
        /// One incident, in full
        id: Option<u64>,
        /// Only those in this state
        #[arg(long, value_enum, conflicts_with = "id")]
        state: Option<IncidentState>,
        /// The newest so many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000), conflicts_with = "id")]
        limit: u32,
        #[command(flatten)]
        #[expect(missing_docs, reason = "documented at the type; a comment here would become the command's help")]
        shape: Shape,
    },
    /// What the collector proposes to do, or one proposal with its alternatives and guards
    Decisions {
        /// One decision, in full
        id: Option<u64>,
        /// The newest so many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000), conflicts_with = "id")]
        limit: u32,
        #[command(flatten)]
        #[expect(missing_docs, reason = "documented at the type; a comment here would become the command's help")]
        shape: Shape,
    },
    /// Let a proposed decision be carried out
    Approve(Verdict),
    /// Say no to a proposed decision
    Reject(Verdict),
    /// Who did what, newest first
    Audit {
        /// The newest so many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        #[command(flatten)]
        #[expect(missing_docs, reason = "documented at the type; a comment here would become the command's help")]
        shape: Shape,
    },
    /// Changes of incidents, decisions and hosts as they happen; JSON is one object a line
    Watch {
        /// End after this long; without it, at Ctrl-C
        #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
        for_: Option<Duration>,
        #[command(flatten)]
        #[expect(missing_docs, reason = "documented at the type; a comment here would become the command's help")]
        shape: Shape,
    },
    /// What is installed and set on hosts: firmware, drivers, kernel, links, flow control
    Inventory(Inventory),
    /// A host's readings to the millisecond, from its memory, around an instant
    Tape(Tape),
    /// Probes from NIC to NIC: what was lost, and how long the fabric and each host took
    Probes(Probes),
    /// What would be sensed within a second, of which element, and to what it would be located
    Coverage {
        /// Only elements with this in their name: leaf1, host3:eth0, 'leaf1:eth3>spine0:eth1'
        #[arg(long, value_name = "TEXT")]
        element: Option<String>,
        /// What a loss takes: of 100 packets so many; 1 of all packets, or 100 of the large ones, where absent
        #[arg(long, value_name = "PERCENT", value_parser = percent)]
        loss: Option<f64>,
        #[command(flatten)]
        #[expect(missing_docs, reason = "documented at the type; a comment here would become the command's help")]
        shape: Shape,
    },
    /// Have a host's agent read at its shortest cadences for a while
    Burst(Burst),
    /// The map of the fabric: nodes, links, who says so; as it is, as it was, or what changed
    Topology(Topology),
    /// Which way a flow goes from a host, a host's port or an address to another, and back; all ways where that is not known
    Path(Path),
    /// Stop all acting, at once; works when the collector is down
    Halt(Halt),
    /// Allow acting again
    Resume(Halt),
    /// Print completions for a shell
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Versions of this command and of the collector
    Version,
}

/// Which GPU listing.
#[derive(Clone, Debug, Subcommand)]
pub enum Gpu {
    /// Memory held, by process, device and layer
    Processes(FixedShape),
    /// Which GPU-using processes are seen, which are not, and why
    Coverage(FixedShape),
}

/// Optical modules.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Optics {
    /// Instead of the listing.
    #[command(subcommand)]
    pub instead: Option<OpticsInstead>,
    /// Only of this host
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at the type; a comment here would become the command's help")]
    pub shape: Shape,
}

/// What `optics` does instead of listing.
#[derive(Clone, Debug, Subcommand)]
pub enum OpticsInstead {
    /// Decode an image of a module's EEPROM; needs no collector. Fails with 1 where the image has problems
    Decode {
        /// {"pages": {"lower": HEX, "00": HEX, "11": HEX, "A0": HEX, …}}; a page of a bank as "0.11"
        #[arg(value_hint = clap::ValueHint::FilePath)]
        file: PathBuf,
        #[command(flatten)]
        #[expect(missing_docs, reason = "documented at the type; a comment here would become the command's help")]
        shape: Shape,
    },
}

/// What is installed and set.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Inventory {
    /// Instead of what holds now.
    #[command(subcommand)]
    pub instead: Option<InventoryInstead>,
    /// Only of this host
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// Only of entities of this name or kind; * and ? stand for any characters: 'eth*', rdma
    #[arg(long, value_name = "GLOB")]
    pub entity: Option<String>,
    /// Only this key; * and ? stand for any characters: mtu, 'sysctl.*'
    #[arg(long, value_name = "GLOB")]
    pub key: Option<String>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at the type; a comment here would become the command's help")]
    pub shape: Shape,
}

/// What `inventory` shows instead.
#[derive(Clone, Debug, Subcommand)]
pub enum InventoryInstead {
    /// What changed, newest first
    History {
        /// Only of this host
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
        /// Only this key; * and ? stand for any characters
        #[arg(long, value_name = "GLOB")]
        key: Option<String>,
        /// Around when: an RFC 3339 time, an age such as -30s, or incident:NUMBER; the newest where it is left out
        #[arg(long, value_name = "INSTANT", allow_hyphen_values = true)]
        around: Option<String>,
        /// How much time, half of it before the instant
        #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "20m", requires = "around")]
        span: Duration,
        #[command(flatten)]
        #[expect(missing_docs, reason = "documented at the type; a comment here would become the command's help")]
        shape: Shape,
    },
    /// What differs from what most peers have
    Drift {
        /// Only of this host
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
        /// With whom hosts are compared
        #[arg(long, value_enum, default_value_t)]
        by: Peers,
        #[command(flatten)]
        #[expect(missing_docs, reason = "documented at the type; a comment here would become the command's help")]
        shape: Shape,
    },
}

/// With whom hosts are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Peers {
    /// All hosts
    #[default]
    Fleet,
    /// Hosts that run the same job; libraries are compared here alone
    Job,
}

impl Peers {
    /// As the API says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fleet => "fleet",
            Self::Job => "job",
        }
    }
}

/// A piece of a host's tape.
#[derive(Clone, Debug, Args)]
pub struct Tape {
    /// Of this host
    #[arg(long, value_name = "HOST", required_unless_present = "incident")]
    pub host: Option<String>,
    /// The piece that the collector kept when this incident was opened; --series is NAME, NAME@ENTITY or a whole selector
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["host", "around", "span", "list"])]
    pub incident: Option<u64>,
    /// Which series: NAME, NAME{label=value}, NAME@ENTITY; may be given several times
    #[arg(long, value_name = "SERIES", required_unless_present_any = ["list", "incident"])]
    pub series: Vec<String>,
    /// When: an RFC 3339 time, an age such as -30s, or incident:NUMBER; now where it is left out
    #[arg(long, value_name = "INSTANT", allow_hyphen_values = true, conflicts_with = "list")]
    pub around: Option<String>,
    /// How much time, half of it before the instant; at most 10m
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10s", conflicts_with = "list")]
    pub span: Duration,
    /// List the host's series instead, each as it can be asked for
    #[arg(long, conflicts_with = "series")]
    pub list: bool,
    /// Form of the answer; JSON where it is left out, lines for --list
    #[arg(short, long, value_enum)]
    pub output: Option<TapeFormat>,
    /// Write to this file and not to standard output
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath, conflicts_with = "list")]
    pub file: Option<PathBuf>,
}

/// Form of a piece of tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TapeFormat {
    /// JSON for programs, raw units
    Json,
    /// A picture: counters as rates, gauges as values
    Png,
}

/// Probes.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Probes {
    /// Instead of what became of them.
    #[command(subcommand)]
    pub instead: Option<ProbesInstead>,
    /// Only those that this host sends or answers
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// Only those between hosts of this job, with their lowest ranks
    #[arg(long, value_name = "NAME")]
    pub job: Option<String>,
    /// Over this time, at most 2m; windows of 10 s are shown whole
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "60s")]
    pub last: Duration,
    /// Draw loss and delay of all pairs into this PNG file
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub heatmap: Option<PathBuf>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at the type; a comment here would become the command's help")]
    pub shape: Shape,
}
/// The map.
#[derive(Clone, Debug, Args)]
pub struct Topology {
    /// As it was then: an RFC 3339 time, an age such as -30s, or incident:NUMBER
    #[arg(long, value_name = "INSTANT", allow_hyphen_values = true)]
    pub at: Option<String>,
    /// Instead, what changed from then on, up to --at
    #[arg(long, value_name = "INSTANT", allow_hyphen_values = true)]
    pub since: Option<String>,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub output: TopologyFormat,
}

/// Form of the map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum TopologyFormat {
    /// Links, contradictions and what is unknown, for people
    #[default]
    Table,
    /// JSON for programs
    Json,
    /// The same as YAML
    Yaml,
    /// For Graphviz
    Dot,
    /// A picture: hosts below, leaves, spines
    Svg,
}

/// A path.
#[derive(Clone, Debug, Args)]
pub struct Path {
    /// Where it begins: HOST, HOST:PORT or an address
    #[arg(value_name = "SRC")]
    pub source: String,
    /// Where it ends
    #[arg(value_name = "DST")]
    pub destination: String,
    /// Source port of the flow: the way of this flow alone, by a trace where nobody traced it lately
    #[arg(long, value_name = "N", requires = "dport")]
    pub sport: Option<u16>,
    /// Destination port of the flow; RoCE has 4791
    #[arg(long, value_name = "N", requires = "sport")]
    pub dport: Option<u16>,
    /// The flow is TCP, not UDP
    #[arg(long, requires = "sport")]
    pub tcp: bool,
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at the type; a comment here would become the command's help")]
    pub shape: Shape,
}

/// What `probes` shows instead.
#[derive(Clone, Debug, Subcommand)]
pub enum ProbesInstead {
    /// What is planned: flows, how well each direction of each link is covered, what is not and why
    Plan {
        /// Only flows that this host sends or answers
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
        /// Only flows between hosts of this job
        #[arg(long, value_name = "NAME")]
        job: Option<String>,
        #[command(flatten)]
        #[expect(missing_docs, reason = "documented at the type; a comment here would become the command's help")]
        shape: Shape,
    },
}

/// A judgement of a decision.
#[derive(Clone, Debug, Args)]
pub struct Verdict {
    /// The decision's number
    pub id: u64,
    /// Why, for the audit
    #[arg(long, default_value = "", hide_default_value = true)]
    pub note: String,
}

/// Reading faster for a while.
#[derive(Clone, Debug, Args)]
pub struct Burst {
    /// Of this host
    #[arg(long, value_name = "HOST")]
    pub host: String,
    /// For how long, at most 60s; the agent may shorten it, to keep its own bounds
    #[arg(long = "for", value_name = "DURATION", value_parser = duration, default_value = "10s")]
    pub for_: Duration,
    /// Why, for the audit
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}

/// Halting or resuming.
#[derive(Clone, Debug, Args)]
pub struct Halt {
    /// Why, for the audit
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
    /// The collector's state directory on this host, where the file HALT goes
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub state_dir: Option<PathBuf>,
}

/// Where an incident stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IncidentState {
    /// The symptom is there
    Open,
    /// The symptom is gone
    Resolved,
}

impl IncidentState {
    /// As the API says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Resolved => "resolved",
        }
    }
}

/// "500ms", "10s", "2m", "1h".
fn percent(text: &str) -> Result<f64, String> {
    let percent = text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>().map_err(|error| error.to_string())?;
    if percent > 0.0 && percent <= 100.0 { Ok(percent) } else { Err("above 0 and at most 100".to_owned()) }
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("expected a number and a unit: 500ms, 10s, 2m or 1h".into()),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(unit_ms))
        .filter(|ms| (1..=30 * 24 * 3_600_000).contains(ms))
        .map(Duration::from_millis)
        .ok_or_else(|| "expected more than nothing and at most 720h".into())
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn a_duration_has_a_number_a_unit_and_a_bound() {
        for (text, ms) in [("500ms", Some(500)), ("10s", Some(10_000)), ("2m", Some(120_000)), ("1h", Some(3_600_000))]
            .into_iter()
            .chain(["", "10", "s", "1.5s", "-1s", "0s", "721h", "99999999999999999999s", "1d"].map(|t| (t, None)))
        {
            assert_eq!(duration(text).ok().map(|d| d.as_millis()), ms, "{text:?}");
        }
    }
}
