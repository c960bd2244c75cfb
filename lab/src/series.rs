//! Many runs, one after another, and what they come to: how many were sensed and located, how soon, how many rightly, and whether anything is left behind.
//!
//! In: scenarios, seeds. Out: a [`Series`], written after each run, so that what ended is there however the series ends. Each run is a process of its
//! own, as a person would start it. Never: a figure of a run that did not work.

use crate::{interrupt, left, run, scenario::BUILT_IN};
use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Serialize;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Between two looks at a run.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// A run takes no longer than this beside what it is asked to observe.
const RUN_MAX: Duration = Duration::from_secs(300);
/// A run that is killed has had its fault for this long.
const KILLED_AFTER: Duration = Duration::from_secs(1);
/// Everything of a lab is gone so long after the end of its run: its keeper may have to wait for a lock.
const GONE_WITHIN: Duration = Duration::from_secs(60);
/// Runs of a series.
const RUNS_MAX: usize = 10_000;

/// What is run.
#[derive(Clone, Debug, clap::Args)]
#[group(id = "series")]
pub struct Options {
    /// Built-in scenarios or files; `all` for all that are built in
    #[arg(required = true)]
    pub scenarios: Vec<String>,
    /// Seeds: 1-10, or 1,4,7-9
    #[arg(long, default_value = "1-3", value_parser = seeds)]
    pub seeds: Seeds,
    /// How often in a row each is run with each seed
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub times: u32,
    /// After the runs of each scenario one more, which is ended by SIGKILL while its fault is there
    #[arg(long)]
    pub kill: bool,
    #[command(flatten)]
    #[expect(missing_docs, reason = "documented at the type; a comment here would become the command's help")]
    pub run: run::Options,
}

/// Seeds, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeds(pub Vec<u64>);

fn seeds(text: &str) -> Result<Seeds, String> {
    let number = |text: &str| text.trim().parse::<u64>().map_err(|_| format!("`{text}` is no seed: 1-10, or 1,4,7-9"));
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if last < first || last - first >= RUNS_MAX as u64 {
            return Err(format!("{first}-{last} is no range of at most {RUNS_MAX} seeds"));
        }
        all.extend(first..=last);
    }
    Ok(Seeds(all))
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ran {
    /// As asked for.
    pub scenario: String,
    /// As asked for.
    pub seed: u64,
    /// From 1, of those with this scenario and seed.
    pub time: u32,
    /// It was ended by SIGKILL on purpose, and has no report.
    pub killed: bool,
    /// It ended as it should.
    pub worked: bool,
    /// How it ended otherwise.
    pub why: Option<String>,
    /// From the command to its end.
    pub seconds: f64,
    /// What there was of its lab a while later.
    pub left_behind: Vec<String>,
    /// Its report; null where it has none.
    pub report: Option<Value>,
}

/// Instants of the runs that have them, ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Runs that have one.
    pub count: usize,
    /// Median, by nearest rank.
    pub p50: Option<f64>,
    /// By nearest rank: with fewer than 100 runs, the most.
    pub p99: Option<f64>,
    /// The most.
    pub max: Option<f64>,
}

/// What some runs come to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sum {
    /// Runs that were asked for a report.
    pub runs: usize,
    /// Of those, that worked. What follows is of these.
    pub worked: usize,
    /// In which something was done.
    pub faults: usize,
    /// Of the faults.
    pub sensed_ms: Spread,
    /// Of the faults.
    pub located_ms: Spread,
    /// In which just the element at fault was blamed, or, without a fault, nothing.
    pub right: usize,
    /// In which something else was blamed.
    pub wrong: usize,
    /// Faults for which nothing was blamed.
    pub unblamed: usize,
    /// Faults of which it was claimed beforehand what would be seen.
    pub claims: usize,
    /// Claims that turned out false, with their run.
    pub false_claims: Vec<String>,
    /// Runs whose map was not the plan, or whose packets went another way, with what differs.
    pub differences: Vec<String>,
    /// From the command to its end, s.
    pub seconds_max: f64,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Series {
    /// Runs that were asked for.
    pub asked: usize,
    /// Somebody stopped it.
    pub interrupted: bool,
    /// Everything worked, and nothing is left behind.
    pub clean: bool,
    /// What is left behind, with its run.
    pub left_behind: Vec<String>,
    /// Programs of faults that are in the kernel after the last run and were not before the first; null while another lab is up, to
    /// which they may belong.
    pub programs_left: Option<usize>,
    /// All runs.
    pub all: Sum,
    /// By scenario.
    pub scenarios: BTreeMap<String, Sum>,
    /// In order.
    pub runs: Vec<Ran>,
}

/// What is to be run.
struct Asked {
    scenario: String,
    seed: u64,
    time: u32,
    is_killed: bool,
}

fn asked(options: &Options) -> Result<Vec<Asked>> {
    let built_in = BUILT_IN.iter().map(|(name, _)| *name);
    let named = options.scenarios.iter().flat_map(|name| match name.as_str() {
        "all" => built_in.clone().collect::<Vec<_>>(),
        name => vec![name],
    });
    let mut asked = Vec::new();
    for scenario in named {
        let one = |seed, time, is_killed| Asked { scenario: scenario.to_owned(), seed, time, is_killed };
        let reported =
            options.seeds.0.iter().flat_map(|seed| (1..=options.times).map(move |time| one(*seed, time, false)));
        asked.extend(reported);
        let last = options.seeds.0.last().copied().unwrap_or_default();
        asked.extend(options.kill.then(|| one(last, options.times + 1, true)));
    }
    ensure!(asked.len() <= RUNS_MAX, "{} runs are more than {RUNS_MAX}", asked.len());
    Ok(asked)
}

/// Runs all, each by the command `lab run` with these arguments beside; writes `json` after each.
///
/// # Errors
/// A run did not work, something is left behind, or somebody asked to stop; what ended is written and returned by `json` alone.
pub fn series(options: &Options, arguments: &[String], json: Option<&Path>) -> Result<Series> {
    let asked = asked(options)?;
    let mut series = Series { asked: asked.len(), ..Series::default() };
    let before = left::fault_programs()?;
    for (number, one) in (1..).zip(&asked) {
        eprintln!("series: {number} of {}: {} seed {}", asked.len(), one.scenario, one.seed);
        let ran = ran(one, options, arguments);
        series.interrupted = ran.is_err();
        if let Ok(ran) = ran {
            eprintln!("series: {}", line(&ran));
            series.runs.push(ran);
        }
        let programs = left::fault_programs()?;
        series.programs_left = before.as_ref().zip(programs).map(|(before, now)| {
            let is_new = |program: &&u32| !before.contains(program);
            now.iter().filter(is_new).count()
        });
        series.sum();
        if let Some(json) = json {
            write(json, &series)?;
        }
        if series.interrupted {
            break;
        }
    }
    Ok(series)
}

fn write(json: &Path, series: &Series) -> Result<()> {
    let new = PathBuf::from(format!("{}.new", json.display()));
    fs::write(&new, serde_json::to_string_pretty(series)? + "\n")
        .and_then(|()| fs::rename(&new, json))
        .with_context(|| format!("write {}", json.display()))
}

/// One run as its own process. An error is somebody's wish to stop, and then that process has ended, too.
fn ran(one: &Asked, options: &Options, arguments: &[String]) -> Result<Ran> {
    let folder = std::env::temp_dir();
    let report = folder.join(format!("railwatch-lab-series-{}.json", std::process::id()));
    let mut command = Command::new(std::env::current_exe().context("find the own program")?);
    command.args(["run", &one.scenario, "--seed", &one.seed.to_string(), "--json"]).arg(&report).args(arguments);
    if let Some(observe_s) = options.run.observe_s {
        command.args(["--observe-s", &observe_s.to_string()]);
    }
    if let Some(flows) = options.run.flows {
        command.args(["--flows", &flows.to_string()]);
    }
    let begun = Instant::now();
    let mut process =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().context("start a run")?;
    let name = format!("run{}", process.id());
    let injected = Arc::new(AtomicBool::new(false));
    let words = process.stderr.take().map(|words| follow(words, Arc::clone(&injected)));
    let limit = RUN_MAX + Duration::from_secs_f64(options.run.observe_s.unwrap_or_default());
    let ended = wait(&mut process, one.is_killed.then_some(&injected), limit);
    let last = words.and_then(|words| words.join().ok()).unwrap_or_default();
    let seconds = (begun.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    let text = fs::read(&report);
    // It is there only where the run came to its end.
    let _ = fs::remove_file(&report);
    let status = ended?;
    let worked = if one.is_killed { status.code().is_none() } else { status.success() };
    Ok(Ran {
        scenario: one.scenario.clone(),
        seed: one.seed,
        time: one.time,
        killed: one.is_killed,
        worked,
        why: (!worked).then(|| format!("{status}: {last}")),
        seconds,
        left_behind: left::after(&name, GONE_WITHIN)?,
        report: text.ok().and_then(|text| serde_json::from_slice(&text).ok()),
    })
}

/// Passes a run's words on; says once that its fault is there. Its last line.
fn follow(words: impl Read + Send + 'static, injected: Arc<AtomicBool>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut last = String::new();
        for line in BufReader::new(words).lines().map_while(Result::ok) {
            if line.contains(run::FAULT_BEGINS) {
                injected.store(true, Ordering::Release);
            }
            eprintln!("{line}");
            last = line;
        }
        last
    })
}

/// Waits for its end; kills it where it is to be killed and its fault is there; ends it in order where somebody asked to stop.
fn wait(process: &mut Child, killed_at: Option<&Arc<AtomicBool>>, limit: Duration) -> Result<ExitStatus> {
    let pid = Pid::from_raw(process.id().cast_signed());
    let end = Instant::now() + limit;
    let mut kill_at = None;
    loop {
        if let Some(status) = process.try_wait().context("wait for a run")? {
            return Ok(status);
        }
        if killed_at.is_some_and(|injected| injected.load(Ordering::Acquire)) && kill_at.is_none() {
            kill_at = Some(Instant::now() + KILLED_AFTER);
        }
        if kill_at.is_some_and(|at| Instant::now() >= at) {
            // It may have ended by itself at this very moment.
            let _ = kill(pid, Signal::SIGKILL);
        }
        let stopped = interrupt::pause(LOOK_AGAIN);
        if stopped.is_err() || Instant::now() > end {
            let _ = kill(pid, Signal::SIGTERM);
            let status = process.wait().context("wait for a run")?;
            stopped?;
            return Ok(status);
        }
    }
}

/// What of a run a person wants to read at once.
fn line(ran: &Ran) -> String {
    let Ran { scenario, seed, worked, seconds, left_behind, report, killed, why, .. } = ran;
    let report = report.clone().unwrap_or_default();
    let ms = |field: &str| report[field].as_f64().map_or("-".to_owned(), |ms| format!("{ms:.0} ms"));
    let how = match (worked, killed) {
        (false, _) => format!("did not work: {}", why.as_deref().unwrap_or_default()),
        (true, true) => "killed".to_owned(),
        (true, false) => format!(
            "sensed {} by {}, located {}, correct {}, wrong {}",
            ms("sensed_ms"),
            report["sensed_by"].as_str().unwrap_or("-"),
            ms("located_ms"),
            report["correct"],
            report["wrong"]
        ),
    };
    let left =
        if left_behind.is_empty() { String::new() } else { format!(", LEFT BEHIND: {}", left_behind.join(", ")) };
    format!("{scenario} seed {seed}: {how}, {seconds:.0} s{left}")
}

impl Series {
    /// Sums up what has run so far.
    fn sum(&mut self) {
        self.all = Sum::of(self.runs.iter());
        self.scenarios.clear();
        for ran in &self.runs {
            let same = self.runs.iter().filter(|other| other.scenario == ran.scenario);
            self.scenarios.entry(ran.scenario.clone()).or_insert_with(|| Sum::of(same));
        }
        let left = self.runs.iter().flat_map(|ran| {
            ran.left_behind.iter().map(move |what| format!("{} seed {}: {what}", ran.scenario, ran.seed))
        });
        self.left_behind = left.collect();
        self.clean = !self.interrupted
            && self.runs.iter().all(|ran| ran.worked)
            && self.left_behind.is_empty()
            && self.programs_left.unwrap_or_default() == 0;
    }

    /// An error where something did not work or is left behind.
    ///
    /// # Errors
    /// That.
    pub fn must_be_clean(&self) -> Result<()> {
        if self.interrupted {
            bail!("interrupted after {} of {} runs", self.runs.len(), self.asked);
        }
        let failed: Vec<_> = self.runs.iter().filter(|ran| !ran.worked).map(line).collect();
        ensure!(failed.is_empty(), "{} runs did not work: {}", failed.len(), failed.join("; "));
        ensure!(self.left_behind.is_empty(), "left behind: {}", self.left_behind.join(", "));
        ensure!(self.clean, "{} programs are left in the kernel", self.programs_left.unwrap_or_default());
        Ok(())
    }
}

impl Sum {
    fn of<'a>(runs: impl Iterator<Item = &'a Ran>) -> Self {
        let mut sum = Self::default();
        let (mut sensed, mut located) = (Vec::new(), Vec::new());
        for ran in runs.filter(|ran| !ran.killed) {
            sum.runs += 1;
            sum.seconds_max = sum.seconds_max.max(ran.seconds);
            let Some(report) = ran.report.as_ref().filter(|_| ran.worked) else { continue };
            sum.worked += 1;
            sum.faults += usize::from(!report["fault"].is_null());
            sensed.extend(report["sensed_ms"].as_f64());
            located.extend(report["located_ms"].as_f64());
            match report["correct"].as_bool() {
                Some(true) => sum.right += 1,
                Some(false) => sum.wrong += 1,
                None => sum.unblamed += 1,
            }
            let of = |what: &str| format!("{} seed {}: {what}", ran.scenario, ran.seed);
            let coverage = &report["coverage"];
            sum.claims += usize::from(!coverage.is_null());
            let claims = ["holds_truth", "reported_within", "sensed_as_claimed"].into_iter();
            sum.false_claims.extend(claims.filter(|field| coverage[*field] == false).map(of));
            let differences = report["map"]["differences"].as_array().into_iter().flatten().filter_map(Value::as_str);
            sum.differences.extend(differences.map(of));
            let wrong = report["paths"]["wrong"].as_array().into_iter().flatten();
            sum.differences.extend(wrong.map(|flow| format!("{}: {}", of("went another way"), flow["flow"])));
        }
        (sum.sensed_ms, sum.located_ms) = (Spread::of(sensed), Spread::of(located));
        sum
    }
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        // Nearest rank: the least value that so many of 100 do not exceed.
        let rank = |percent: usize| values.get((values.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        Self { count: values.len(), p50: rank(50), p99: rank(99), max: values.last().copied() }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use serde_json::json;

    #[test]
    fn seeds_are_numbers_and_ranges() {
        for (text, expected) in [("1-3", &[1, 2, 3][..]), ("7", &[7]), ("1,4,7-9", &[1, 4, 7, 8, 9]), ("3-3", &[3])] {
            assert_eq!(seeds(text).unwrap().0, expected, "{text}");
        }
        for text in ["", "a", "3-1", "1-", "-3", "0-18446744073709551615", "1,,2"] {
            assert!(seeds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn each_scenario_is_run_with_each_seed_so_often_and_once_more_to_be_killed() {
        let options = |scenarios: &[&str], kill| Options {
            scenarios: scenarios.iter().map(ToString::to_string).collect(),
            seeds: Seeds(vec![4, 9]),
            times: 2,
            kill,
            run: run::Options::default(),
        };
        let all: Vec<_> = asked(&options(&["healthy", "blackhole"], true)).unwrap();
        let told: Vec<_> = all.iter().map(|one| (one.scenario.as_str(), one.seed, one.time, one.is_killed)).collect();
        let of = |name| {
            [(name, 4, 1, false), (name, 4, 2, false), (name, 9, 1, false), (name, 9, 2, false), (name, 9, 3, true)]
        };
        assert_eq!(told, [of("healthy"), of("blackhole")].concat());
        assert_eq!(asked(&options(&["all"], false)).unwrap().len(), BUILT_IN.len() * 4);
    }

    fn ran(seed: u64, report: Option<Value>) -> Ran {
        Ran {
            scenario: "silent-drop".into(),
            seed,
            time: 1,
            killed: false,
            worked: report.is_some(),
            why: None,
            seconds: 30.0,
            left_behind: Vec::new(),
            report,
        }
    }

    fn report(sensed_ms: Option<f64>, correct: Option<bool>, within: Option<bool>) -> Value {
        json!({"fault": {"kind": "loss"}, "sensed_ms": sensed_ms, "located_ms": null, "correct": correct, "wrong": [],
            "coverage": {"claimed_sensed": true, "claimed_set": ["a"], "holds_truth": true, "reported_within": within}})
    }

    #[test]
    fn a_sum_is_of_what_worked_and_names_what_was_claimed_wrongly() {
        let runs = [
            ran(1, Some(report(Some(300.0), Some(true), Some(true)))),
            ran(2, Some(report(Some(100.0), Some(false), Some(false)))),
            ran(3, Some(report(None, None, None))),
            ran(4, None),
            Ran { killed: true, worked: true, ..ran(5, None) },
        ];
        let sum = Sum::of(runs.iter());
        assert_eq!((sum.runs, sum.worked, sum.faults), (4, 3, 3));
        assert_eq!((sum.right, sum.wrong, sum.unblamed, sum.claims), (1, 1, 1, 3));
        assert_eq!(sum.false_claims, ["silent-drop seed 2: reported_within"]);
        assert_eq!(sum.sensed_ms, Spread { count: 2, p50: Some(100.0), p99: Some(300.0), max: Some(300.0) });
        assert_eq!(sum.located_ms, Spread::default());
        let spread = Spread::of((1..=200).rev().map(f64::from).collect());
        assert_eq!((spread.p50, spread.p99, spread.max), (Some(100.0), Some(198.0), Some(200.0)));
    }

    #[test]
    fn a_series_is_clean_only_where_all_worked_and_nothing_is_left() {
        let good = || ran(1, Some(report(None, Some(true), None)));
        for (runs, programs_left, clean) in [
            (vec![good()], Some(0), true),
            (vec![good()], None, true),
            (vec![good()], Some(1), false),
            (vec![good(), ran(2, None)], Some(0), false),
            (vec![Ran { left_behind: vec!["namespace rwlab-run7-leaf0".into()], ..good() }], Some(0), false),
        ] {
            let mut series = Series { runs, programs_left, ..Series::default() };
            series.sum();
            assert_eq!((series.clean, series.must_be_clean().is_ok()), (clean, clean), "{series:?}");
        }
    }
}
