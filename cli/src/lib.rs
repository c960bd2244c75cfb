//! The operator's command `railwatch`: asks the collector's HTTP API, shows the answer, passes a person's verdict on.
//!
//! Flows in: the command line ([`args`]), the environment and the run file ([`locate`]), answers ([`client`]).
//! Flows out: a table, JSON or YAML ([`listings`], [`detail`], [`output`]) and an exit status ([`failure`]).
//! It holds no state, decides nothing, and shows no token.
#![forbid(unsafe_code)]

pub mod args;
pub mod client;
pub mod detail;
pub mod events;
pub mod failure;
pub mod halt;
pub mod human;
pub mod inventory;
pub mod listings;
pub mod locate;
pub mod optics;
pub mod output;
pub mod placement;
pub mod probes;
pub mod row;
pub mod switches;
pub mod table;
pub mod tape;
pub mod topology;
pub mod watch;

use args::{Burst, Command, CommandLine, Connection, FixedShape, Format, Gpu, Halt, Optics, OpticsInstead};
use clap::{CommandFactory, Parser};
use client::Client;
use failure::{Failure, Kind};
use halt::Step;
use listings::Listing;
use locate::{Local, Surroundings};
use output::{Output, shaped};
use row::{Ordered, Row};
use serde_json::json;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use watch::now_ns;

/// Runs the command line in the surroundings of this process.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let status = match Surroundings::of_process() {
        Ok(around) => run_in(args, &around),
        Err(failure) => told(&failure),
    };
    ExitCode::from(status)
}

/// Runs the command line and gives the exit status.
pub fn run_in(args: impl IntoIterator<Item = OsString>, around: &Surroundings) -> u8 {
    let line = match CommandLine::try_parse_from(args) {
        Ok(line) => line,
        Err(error) => {
            // Help and version go to standard output, whose reader may be gone.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(Kind::Usage as u8);
        }
    };
    let asker = Asker { connection: line.connection, around };
    match execute(line.command, &asker, &mut Output::of_process()) {
        Ok(()) => 0,
        Err(failure) => told(&failure),
    }
}

fn told(failure: &Failure) -> u8 {
    eprintln!("{failure}");
    failure.status()
}

/// How this command was told to reach its collector.
struct Asker<'a> {
    connection: Connection,
    around: &'a Surroundings,
}

impl Asker<'_> {
    /// The URL that was named outright.
    fn named(&self) -> Option<&String> {
        self.connection.collector.as_ref().or(self.around.collector.as_ref())
    }

    fn connect(&self) -> Result<Client, Failure> {
        // A collector named outright is asked even where the run file cannot be read; only its token is not at hand then.
        let local = match Local::find(&self.around.run_files) {
            Err(_) if self.named().is_some() => Local::None,
            found => found?,
        };
        Client::new(locate::target(&self.connection, self.around, &local)?, &self.connection)
    }

    /// The state directory of the collector that is meant, where it is on this host.
    fn state_dir(&self) -> Option<PathBuf> {
        let local = Local::find(&self.around.run_files).unwrap_or(Local::None);
        match (self.named(), local.run()) {
            // Halting one collector must not stop another.
            (Some(url), Some(run)) => locate::same_loopback(url, &run.api).then(|| run.state_dir.clone()),
            (Some(url), None) if !locate::is_loopback(url) => None,
            (None, Some(run)) => Some(run.state_dir.clone()),
            (_, None) => self.around.default_state_dir.is_dir().then(|| self.around.default_state_dir.clone()),
        }
    }
}

fn execute(command: Command, asker: &Asker<'_>, out: &mut Output) -> Result<(), Failure> {
    match command {
        Command::Hosts(shape) => list(asker, &listings::HOSTS, shape, out),
        Command::Gpu { listing: Gpu::Processes(shape) } => list(asker, &listings::GPU_PROCESSES, shape, out),
        Command::Gpu { listing: Gpu::Coverage(shape) } => list(asker, &listings::GPU_COVERAGE, shape, out),
        Command::Nic { host, shape } => {
            list(asker, &listings::NIC, FixedShape { host, output: shape.output, full: true }, out)
        }
        Command::Sources(shape) => list(asker, &listings::SOURCES, shape, out),
        Command::Drops { host, shape } => {
            list(asker, &listings::DROPS, FixedShape { host, output: shape.output, full: true }, out)
        }
        Command::Optics(Optics { instead: Some(OpticsInstead::Decode { file, shape }), .. }) => {
            optics::decode(&file, shape.output, out)
        }
        Command::Optics(Optics { instead: None, host, shape }) => {
            list(asker, &listings::OPTICS, FixedShape { host, output: shape.output, full: true }, out)
        }
        Command::Neighbours { host, shape } => {
            list(asker, &listings::NEIGHBOURS, FixedShape { host, output: shape.output, full: true }, out)
        }
        Command::QueuePairs { host, shape } => {
            list(asker, &listings::QUEUE_PAIRS, FixedShape { host, output: shape.output, full: true }, out)
        }
        Command::Flows { host, shape } => {
            list(asker, &listings::FLOWS, FixedShape { host, output: shape.output, full: true }, out)
        }
        Command::Jobs { host, shape } => {
            list(asker, &placement::JOBS, FixedShape { host, output: shape.output, full: true }, out)
        }
        Command::Placement { host, shape } => {
            list(asker, &placement::PLACEMENT, FixedShape { host, output: shape.output, full: true }, out)
        }
        Command::Switches { switch, shape } => {
            switches::switches(&asker.connect()?, switch.as_deref(), shape.output, out)
        }
        Command::Incidents { id: None, state, limit, shape } => {
            let state = state.map(|state| format!("&state={}", state.as_str())).unwrap_or_default();
            newest(asker, &listings::INCIDENTS, limit, &state, shape.output, out)
        }
        Command::Incidents { id: Some(id), shape, .. } => {
            one(asker, &format!("/v1/incidents/{id}"), &listings::INCIDENTS, shape.output, detail::incident, out)
        }
        Command::Decisions { id: None, limit, shape } => {
            newest(asker, &listings::DECISIONS, limit, "", shape.output, out)
        }
        Command::Decisions { id: Some(id), shape, .. } => {
            one(asker, &format!("/v1/decisions/{id}"), &listings::DECISIONS, shape.output, detail::decision, out)
        }
        Command::Approve(verdict) => judge(asker, verdict, true, out),
        Command::Reject(verdict) => judge(asker, verdict, false, out),
        Command::Audit { limit, shape } => newest(asker, &listings::AUDIT, limit, "", shape.output, out),
        Command::Watch { for_, shape } => watch::watch(asker.connect()?, shape.output, for_, out),
        Command::Inventory(asked) => inventory::inventory(&asker.connect()?, &asked, out),
        Command::Tape(tape) => tape::tape(&asker.connect()?, &tape, out),
        Command::Probes(asked) => probes::probes(&asker.connect()?, &asked, out),
        Command::Coverage { element, loss, shape } => {
            probes::coverage(&asker.connect()?, element.as_deref(), loss, shape.output, out)
        }
        Command::Burst(burst) => ask_for_burst(asker, &burst, out),
        Command::Topology(asked) => topology::topology(&asker.connect()?, &asked, out),
        Command::Path(asked) => topology::path(&asker.connect()?, &asked, out),
        Command::Halt(halt) => set_halt(asker, &halt, true, out),
        Command::Resume(halt) => set_halt(asker, &halt, false, out),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut CommandLine::command(), "railwatch", &mut script);
            out.write(&String::from_utf8_lossy(&script))
        }
        Command::Version => version(asker, out),
    }
}

fn list(asker: &Asker<'_>, listing: &Listing, shape: FixedShape, out: &mut Output) -> Result<(), Failure> {
    let FixedShape { host, output: format, full } = shape;
    let rows = rows(asker, listing, &host.map(|host| format!("?host={}", percent_encoded(&host))).unwrap_or_default())?;
    if let Some(field) = listing.fixed.then(|| rows.iter().find_map(|row| row.missing(listing.fields))).flatten() {
        let what = format!("the collector's answer to {} lacks the field {field:?}", listing.path);
        return Err(Failure::new(Kind::Unexpected, what, "compare versions with `railwatch version`"));
    }
    let ordered: Vec<_> =
        rows.iter().map(|row| Ordered { row, fields: listing.fields, open: full || !listing.fixed }).collect();
    let text = shaped(format, &ordered, || listing.table(&rows, now_ns(), out.colour))?;
    out.write(&text)
}

/// The newest `limit` rows; says so where there may be more.
fn newest(
    asker: &Asker<'_>,
    listing: &Listing,
    limit: u32,
    more: &str,
    format: Format,
    out: &mut Output,
) -> Result<(), Failure> {
    let rows = rows(asker, listing, &format!("?limit={limit}{more}"))?;
    let ordered: Vec<_> = rows.iter().map(|row| Ordered { row, fields: listing.fields, open: true }).collect();
    let text = shaped(format, &ordered, || listing.table(&rows, now_ns(), out.colour))?;
    out.write(&text)?;
    if rows.len() >= limit as usize && !out.closed {
        eprintln!("railwatch: note: the newest {limit} are shown, there may be more: --limit shows up to 1000");
    }
    Ok(())
}

/// RFC 3986, section 2.3: everything but unreserved characters as %XX.
fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn rows(asker: &Asker<'_>, listing: &Listing, query: &str) -> Result<Vec<Row>, Failure> {
    Row::list(asker.connect()?.get(&format!("{}{query}", listing.path))?, listing.path)
}

fn one(
    asker: &Asker<'_>,
    path: &str,
    listing: &Listing,
    format: Format,
    table: fn(&Row, u64, bool) -> String,
    out: &mut Output,
) -> Result<(), Failure> {
    let row = Row::one(asker.connect()?.get(path)?, path)?;
    let text = shaped(format, &Ordered { row: &row, fields: listing.fields, open: true }, || {
        table(&row, now_ns(), out.colour)
    })?;
    out.write(&text)
}

fn judge(asker: &Asker<'_>, verdict: args::Verdict, approve: bool, out: &mut Output) -> Result<(), Failure> {
    let path = format!("/v1/decisions/{}/verdict", verdict.id);
    let row = Row::one(asker.connect()?.post(&path, &json!({"approve": approve, "note": verdict.note}))?, &path)?;
    out.write(&detail::verdict(&row, out.colour))
}

/// To halt, the file first: it halts even while the collector hangs. Then the collector, whose audit says who it was.
/// To resume, the collector; its file is touched only where it is down.
fn set_halt(asker: &Asker<'_>, halt: &Halt, halted: bool, out: &mut Output) -> Result<(), Failure> {
    let state_dir = halt.state_dir.clone().or_else(|| asker.state_dir());
    let ask = || {
        let client = asker.connect()?;
        client.post("/v1/halt", &json!({"halted": halted, "reason": halt.reason}))?;
        Ok(format!(
            "the collector at {} says: {}",
            client.url(),
            if halted { "all acting is halted" } else { "acting is allowed" }
        ))
    };
    let no_dir =
        || Step::Absent("no state directory of a collector on this host is known: --state-dir names one".into());
    let (file, asked) = if halted {
        let file = state_dir.map_or_else(no_dir, |dir| halt::write_file(&dir, &halt::person(), &halt.reason, now_ns()));
        (file, ask())
    } else {
        let asked: Result<String, Failure> = ask();
        let down = asked.as_ref().is_err_and(|failure| failure.kind == Kind::Unreachable);
        let file = match state_dir {
            _ if !down => Step::Absent(String::new()),
            Some(dir) => halt::remove_file(&dir),
            None => no_dir(),
        };
        (file, asked)
    };
    let by_file = matches!(file, Step::Done(_));
    let failed = match file {
        Step::Done(text) => {
            out.write(&format!("{text}\n"))?;
            None
        }
        Step::Absent(text) => {
            if !text.is_empty() {
                eprintln!("railwatch: note: {text}");
            }
            None
        }
        Step::Failed(failure) => Some(failure),
    };
    match (asked, failed) {
        (Ok(text), failed) => {
            out.write(&format!("{text}\n"))?;
            if let Some(failure) = failed {
                eprintln!("railwatch: note: {}", failure.what);
            }
            Ok(())
        }
        (Err(failure), None) if by_file => {
            eprintln!("railwatch: note: the collector was not told: {}", failure.what);
            Ok(())
        }
        (Err(failure), None) => Err(failure),
        (Err(failure), Some(first)) => Err(Failure { what: format!("{}; and {}", first.what, failure.what), ..first }),
    }
}

fn ask_for_burst(asker: &Asker<'_>, burst: &Burst, out: &mut Output) -> Result<(), Failure> {
    let path = format!("/v1/hosts/{}/burst", percent_encoded(&burst.host));
    let for_ms = u64::try_from(burst.for_.as_millis()).unwrap_or(u64::MAX);
    let answer = asker.connect()?.post(&path, &json!({"for_ms": for_ms, "reason": burst.reason}))?;
    out.write(&format!("{}: {}\n", burst.host, Row::one(answer, &path)?.text("message")))
}

fn version(asker: &Asker<'_>, out: &mut Output) -> Result<(), Failure> {
    out.write(concat!("railwatch ", env!("CARGO_PKG_VERSION"), "\n"))?;
    let collector = asker.connect().and_then(|client| Ok((client.get("/v1/version")?, client.url().to_owned())));
    match collector {
        Ok((answer, url)) => {
            let row = Row::one(answer, "/v1/version")?;
            out.write(&format!("collector {} at {url}\n", row.text("version")))
        }
        Err(failure) => {
            eprintln!("railwatch: note: the collector's version is not known: {}", failure.what);
            Ok(())
        }
    }
}
