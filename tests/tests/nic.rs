//! Ports of a host from its drivers' own counters to the operator's screen, and what raises an incident.

use anyhow::{Context, Result, ensure};
use railwatch_tests::installation::{HOST, Installation, Options, eventually};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};
use tempfile::TempDir;

/// The port of the fixture that the tests move.
const PORT: &str = "mlx5_0/1";

/// A copy of a RoCE host's sysfs whose counters a test advances.
struct Sysfs(TempDir);

impl Sysfs {
    fn copy() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/sysfs/roce-host/.");
        let copied = Command::new("cp").args(["-r", source]).arg(folder.path()).status()?;
        ensure!(copied.success(), "copy {source}");
        Ok(Self(folder))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join("class/infiniband/mlx5_0/ports/1").join(name)
    }

    /// Replaces a file as the kernel does: no reader sees half of it.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let beside = self.0.path().join("new");
        fs::write(&beside, text)?;
        fs::rename(beside, self.file(name)).with_context(|| format!("write {name}"))
    }

    fn add(&self, name: &str, more: u64) -> Result<()> {
        let now: u64 = fs::read_to_string(self.file(name))?.trim().parse().with_context(|| format!("read {name}"))?;
        self.write(name, &format!("{}\n", now + more))
    }

    /// The same at once for readers that keep the file open, as the kernel's own are: a number that grows is never shorter
    /// than before, so that nobody reads half of one.
    fn step(&self, name: &str, more: u64) -> Result<()> {
        let now: u64 = fs::read_to_string(self.file(name))?.trim().parse().with_context(|| format!("read {name}"))?;
        let file = fs::File::options().write(true).open(self.file(name))?;
        file.write_all_at(format!("{}\n", now + more).as_bytes(), 0).with_context(|| format!("write {name}"))
    }

    fn install(&self) -> Result<Installation> {
        let root: &Path = self.0.path();
        let agent_arguments = vec!["--sysfs-root".to_owned(), root.display().to_string()];
        Installation::start(&Options { agent_arguments, ..Options::default() })
    }
}

fn port(installation: &Installation) -> Result<Option<Value>> {
    Ok(installation.rows(&["nic"])?.into_iter().find(|row| row["port"] == PORT))
}

/// A series of a port's row.
fn series<'a>(row: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    row["series"].as_array().into_iter().flatten().filter(move |series| series["name"] == name)
}

/// Waits until a series of the port was read, so that what moves next moves against a first reading.
fn read_once(installation: &Installation, name: &str) -> Result<Value> {
    let what = format!("the first window of {name}");
    eventually(&what, || Ok(port(installation)?.filter(|row| series(row, name).next().is_some())))
        .with_context(|| installation.agent.log_text())
}

fn incident(installation: &Installation, what: &str, found: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut last = Vec::new();
    eventually(what, || {
        last = installation.rows(&["incidents"])?;
        Ok(last.iter().find(|row| row["element"]["name"] == PORT && found(row)).cloned())
    })
    .with_context(|| format!("incidents: {last:#?}\n{:#?}", port(installation)))
}

#[test]
fn a_port_shows_with_state_and_rates_and_congestion_is_no_incident() -> Result<()> {
    let sysfs = Sysfs::copy()?;
    let installation = sysfs.install()?;
    let mut last = None;
    let shown = eventually("a rate", || {
        // Words of four bytes; and what moves on healthy hosts too.
        sysfs.add("counters/port_rcv_data", 250_000)?;
        sysfs.add("counters/port_xmit_discards", 1)?;
        sysfs.add("hw_counters/out_of_sequence", 1)?;
        last = port(&installation)?;
        let rate = |row: &Value| {
            series(row, "rdma.port.io").any(|series| {
                series["labels"]["network.io.direction"] == "receive" && series["mean"].as_f64() > Some(0.0)
            })
        };
        Ok(last.clone().filter(rate))
    })
    .with_context(|| format!("{last:#?}\n{}", installation.agent.log_text()))?;
    ensure!(shown["host"] == HOST && shown["kind"] == "rdma" && shown["state"] == "active", "{shown:#}");
    ensure!(shown["speed_bits_per_s"].as_u64() > Some(0) && shown["window_end"].is_string(), "{shown:#}");
    // Of this port: the agent watches the whole host, and other programs on it may fail.
    let incidents = installation.rows(&["incidents"])?;
    ensure!(incidents.iter().all(|row| row["element"]["name"] != PORT), "{incidents:#?}");
    Ok(())
}

#[test]
fn a_counter_that_must_never_move_raises_an_incident() -> Result<()> {
    let sysfs = Sysfs::copy()?;
    let installation = sysfs.install()?;
    read_once(&installation, "rdma.port.errors")?;
    sysfs.add("counters/port_rcv_errors", 7)?;
    let raised = incident(&installation, "the incident", |_| true)?;
    ensure!(raised["element"]["host"] == HOST && raised["state"] == "open", "{raised:#}");
    Ok(())
}

#[test]
fn a_link_that_goes_down_raises_an_incident_at_its_port() -> Result<()> {
    let sysfs = Sysfs::copy()?;
    let installation = sysfs.install()?;
    let before = read_once(&installation, "rdma.port.up")?;
    ensure!(before["state"] == "active", "{before:#}");
    sysfs.write("state", "1: DOWN\n")?;
    sysfs.write("phys_state", "3: Disabled\n")?;
    let raised = incident(&installation, "the incident", |row| row["severity"] == "critical")?;
    ensure!(raised["element"]["host"] == HOST, "{raised:#}");
    eventually("the port's state", || Ok(port(&installation)?.filter(|row| row["state"] == "down"))).map(drop)
}

#[test]
fn every_source_says_whether_it_is_read_and_what_that_costs_or_why_not() -> Result<()> {
    let installation = Sysfs::copy()?.install()?;
    let rows = eventually("a read of the RDMA counters", || {
        let rows = installation.rows(&["sources"])?;
        Ok(rows.iter().any(|row| row["source"] == "rdma.hw" && row["read_us_p50"].is_number()).then_some(rows))
    })
    .with_context(|| installation.agent.log_text())?;
    for row in &rows {
        let is_on = row["status"] == "on";
        ensure!(is_on || row["status"] == "off", "{row:#}");
        ensure!(is_on == (row["reason"] == ""), "a reason where it is off, and only there: {row:#}");
        ensure!(row["cadence_ms"].as_f64().is_some_and(|every| every >= 1.0), "{row:#}");
        ensure!(row["cpu_percent"].as_f64().is_some_and(|share| (0.0..=100.0).contains(&share)), "{row:#}");
        let (p50, p99) = (row["read_us_p50"].as_f64(), row["read_us_p99"].as_f64());
        ensure!(p50.zip(p99).is_none_or(|(p50, p99)| 0.0 < p50 && p50 <= p99), "{row:#}");
    }
    Ok(())
}

#[test]
fn a_step_of_a_counter_is_found_on_the_hosts_tape_where_it_was_made() -> Result<()> {
    let sysfs = Sysfs::copy()?;
    let installation = sysfs.install()?;
    let selector = format!("rdma.port.cnp{{network.io.direction=transmit}}@{PORT}");
    eventually("the series in the list", || {
        let listed = installation.railwatch("read", &["tape", "--host", HOST, "--list"])?;
        let lines = String::from_utf8_lossy(&listed.stdout);
        let is_listed = |line: &str| line.starts_with("rdma.port.cnp{") && line.contains(&format!("@{PORT}  "));
        Ok(lines.lines().any(is_listed).then_some(()))
    })
    .with_context(|| installation.agent.log_text())?;
    let (before_ns, (), after_ns) = (unix_ns()?, sysfs.step("hw_counters/np_cnp_sent", 4_242)?, unix_ns()?);
    let asked = ["tape", "--host", HOST, "--series", &selector, "--span", "1m", "-o"];
    let mut last = Value::Null;
    // The reading after the step is on the tape within one cadence; the step lies between it and the one before.
    let (answer, from, to) = eventually("the step on the tape", || {
        let output = installation.railwatch("read", &[&asked[..], &["json"]].concat())?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        last = serde_json::from_slice(&output.stdout)?;
        let readings = last["series"][0]["readings"].as_array().cloned().unwrap_or_default();
        let step = readings.windows(2).find(|pair| pair[0]["value"] != pair[1]["value"]);
        Ok(step.map(|pair| (last.clone(), pair[0].clone(), pair[1].clone())))
    })
    .with_context(|| format!("{last:#}"))?;
    let number = |value: &Value| value.as_u64().with_context(|| format!("{value} is no whole number"));
    ensure!(number(&to["value"])? - number(&from["value"])? == 4_242, "exactly: {from} {to}");
    let slack_ns = number(&answer["clock_uncertainty_us"])? * 1_000;
    let early_ns = number(&from["at"])? - number(&from["half_width_ns"])? - slack_ns;
    let late_ns = number(&to["at"])? + number(&to["half_width_ns"])? + slack_ns;
    ensure!(early_ns <= after_ns && before_ns <= late_ns, "{early_ns} to {late_ns} holds {before_ns} to {after_ns}");
    let picture = installation.railwatch("read", &[&asked[..], &["png"]].concat())?;
    ensure!(picture.stdout.starts_with(b"\x89PNG\r\n"), "{}", String::from_utf8_lossy(&picture.stderr));
    let wrong = installation.railwatch("read", &["tape", "--host", HOST, "--series", "rdma.port.cmp"])?;
    let said = String::from_utf8_lossy(&wrong.stderr);
    ensure!(wrong.status.code() == Some(5) && said.contains("near are: rdma.port.cnp"), "{said}");
    Ok(())
}

fn unix_ns() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}
