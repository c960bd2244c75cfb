//! What a run is judged by: what the collector was told and said, and what the job itself measured.
//!
//! In: the collector's API, the ranks' own lines, processor time of processes. Out: the figures of the report. Never: a look
//! at the plan's secret (which element is at fault) except to compare with it.

use crate::{daemons, interrupt, lab::Lab, plan::Plan, run::Blame, scenario::Injection, train::Iteration};
use anyhow::{Context, Result, bail, ensure};
use nix::unistd::{Pid, SysconfVar, sysconf};
use serde::Serialize;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// How long a job may take until it iterates.
const PATIENCE: Duration = Duration::from_secs(60);

/// Unix nanoseconds: the collector's timeline, as it runs on this machine.
///
/// # Errors
/// A clock before 1970.
pub fn now_ns() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}

/// Processor time that a process has used, s. Source: proc(5), /proc/PID/stat fields 14 and 15.
///
/// # Errors
/// It is gone.
pub fn cpu_seconds(pid: Pid) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').context("a process has a name")?.1;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("a system has a clock")?;
    Ok(ticks as f64 / per_second as f64)
}

/// When iterations ended, Unix ms, by rank.
pub struct Iterations(Vec<Vec<u64>>);

impl Iterations {
    /// Reads the lines of all ranks.
    ///
    /// # Errors
    /// A log that cannot be read.
    pub fn read(lab: &Lab) -> Result<Self> {
        let of_host = |host: &crate::plan::Host| {
            let text = fs::read_to_string(lab.log(&host.name, "rank"))?;
            let lines = text.lines().filter_map(|line| serde_json::from_str::<Iteration>(line).ok());
            Ok(lines.map(|line| line.end_unix_ms).collect())
        };
        Ok(Self(lab.plan.hosts.iter().map(of_host).collect::<Result<_>>()?))
    }

    /// Mean time of the iterations that ended within two instants, Unix ms: of the rank that ended the fewest.
    #[must_use]
    pub fn mean_ms(&self, from: u64, to: u64) -> Option<f64> {
        let ended = |ends: &Vec<u64>| ends.iter().filter(|end| (from..to).contains(end)).count();
        let fewest = self.0.iter().map(ended).min()?;
        (fewest > 0).then(|| ((to - from) as f64 / fewest as f64 * 10.0).round() / 10.0)
    }
}

/// Waits until every rank has ended some iterations.
///
/// # Errors
/// One does not.
pub fn wait_for_iterations(lab: &Lab, count: usize) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let iterations = Iterations::read(lab)?;
        let slow: Vec<_> =
            (0..).zip(&iterations.0).filter(|(_, ends)| ends.len() < count).map(|(rank, _)| rank).collect();
        let Some(first) = slow.first() else { return Ok(()) };
        let host: &str = lab.plan.hosts.get::<usize>(*first).map_or("", |host| &host.name);
        ensure!(
            Instant::now() < end,
            "ranks {slow:?} do not iterate after {PATIENCE:?}; rank {first} says:\n{}",
            fs::read_to_string(lab.log(host, "rank")).unwrap_or_default()
        );
        interrupt::pause(Duration::from_millis(100))?;
    }
}

/// What the collector was told and said.
#[derive(Debug, PartialEq)]
pub struct Found {
    /// See the report.
    pub sensed_ms: Option<f64>,
    /// See the report.
    pub sensed_by: Option<String>,
    /// See the report.
    pub located_ms: Option<f64>,
    /// See the report.
    pub reported: Vec<Blame>,
    /// See the report.
    pub correct: Option<bool>,
    /// See the report.
    pub wrong: Vec<String>,
}

/// Asks the collector. Incidents count from the begin of the observation, signals from the injection.
///
/// # Errors
/// It does not answer.
pub fn found(lab: &Lab, injection: Option<&Injection>, begin_ns: u64, injected_ns: u64) -> Result<Found> {
    let signals = all(SIGNALS_PAGE, |page| daemons::get(lab, &format!("/v1/signals?{page}")))?;
    let incidents = daemons::get(lab, &format!("/v1/incidents?since={begin_ns}&limit=1000"))?;
    let mut whole = Vec::new();
    for incident in incidents.as_array().into_iter().flatten() {
        let id = incident["id"].as_u64().context("an incident has a number")?;
        whole.push(daemons::get(lab, &format!("/v1/incidents/{id}"))?);
    }
    Ok(judge(&lab.plan, injection, injected_ns, &signals, &whole))
}

/// All rows of a list that comes newest first, page by page: a fault that goes on is told over and over, and it is the first word that counts.
fn all(page_rows: usize, get: impl Fn(&str) -> Result<Value>) -> Result<Vec<Value>> {
    let mut rows: Vec<Value> = Vec::new();
    loop {
        let before = match rows.last() {
            Some(last) => format!("&before={}", last["id"].as_u64().context("a row has a number")?),
            None => String::new(),
        };
        let Value::Array(page) = get(&format!("limit={page_rows}{before}"))? else { bail!("a list is an array") };
        let is_last = page.len() < page_rows;
        rows.extend(page);
        if is_last {
            return Ok(rows);
        }
    }
}

/// Probes sent, as agents told of the last seconds: mean over all NICs; none where none was sent.
///
/// # Errors
/// The collector does not answer.
pub fn probes_per_s_per_nic(lab: &Lab) -> Result<Option<f64>> {
    let rows = daemons::get(lab, "/v1/probes?last_s=20")?;
    let nics: usize = lab.plan.hosts.iter().map(|host| host.nics.len()).sum();
    let rows = rows.as_array().map_or(&[][..], Vec::as_slice);
    let per_s: f64 = rows.iter().filter_map(|row| row["probes_per_s"].as_f64()).sum();
    Ok((per_s > 0.0).then(|| (per_s / nics as f64 * 10.0).round() / 10.0))
}

/// What became of probes, as agents told of the last seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Probed {
    /// Probes that were judged.
    pub sent: u64,
    /// Of them, those lost.
    pub lost: u64,
    /// Flows.
    pub flows: u64,
    /// Of those, flows whose way is known, and that of their answers.
    pub placed: u64,
}

/// By what carried them.
///
/// # Errors
/// The collector does not answer.
pub fn probed(lab: &Lab) -> Result<BTreeMap<String, Probed>> {
    let mut probed: BTreeMap<String, Probed> = BTreeMap::new();
    let rows = daemons::get(lab, "/v1/probes?last_s=20")?;
    let rows = rows.as_array().map_or(&[][..], Vec::as_slice);
    for of_transport in rows.iter().flat_map(|row| row["transports"].as_array().map_or(&[][..], Vec::as_slice)) {
        let sum = probed.entry(of_transport["transport"].as_str().unwrap_or_default().to_owned()).or_default();
        sum.sent += of_transport["sent"].as_u64().unwrap_or(0);
        sum.lost += of_transport["lost"].as_u64().unwrap_or(0);
    }
    let plan = daemons::get(lab, "/v1/probes/plan")?;
    for flow in plan["flows"].as_array().map_or(&[][..], Vec::as_slice) {
        let sum = probed.entry(flow["transport"].as_str().unwrap_or_default().to_owned()).or_default();
        sum.flows += 1;
        sum.placed += u64::from(flow["placed"] == true);
    }
    Ok(probed)
}

/// Rows of a page, the most that the collector gives.
const SIGNALS_PAGE: usize = 1000;

/// What signals and incidents say about an injection.
fn judge(
    plan: &Plan,
    injection: Option<&Injection>,
    injected_ns: u64,
    signals: &[Value],
    incidents: &[Value],
) -> Found {
    let after = |instant: &Value| instant.as_u64().and_then(|instant| instant.checked_sub(injected_ns));
    let touches = |element: &Value| {
        let host = element["host"].as_str().unwrap_or_default();
        // What is of no host goes by its own name: the collector, a link.
        injection.is_some_and(|injection| match host {
            "" => element["name"] == injection.element.as_str(),
            host => injection.hosts.iter().any(|touched| touched == host),
        })
    };
    let identity = |signal: &Value| (signal["name"].to_string(), signal["element"].to_string());
    // What a host says all the time says nothing about the fault.
    let before: BTreeSet<_> =
        signals.iter().filter(|row| after(&row["received"]).is_none()).map(|row| identity(&row["signal"])).collect();
    let told = signals.iter().filter_map(|row| {
        let (signal, element) = (&row["signal"], &row["signal"]["element"]);
        // Severity `info` says that something is over. How fast an agent itself reads, on a machine that many share, is not of the fault.
        let of_itself = signal["name"].as_str().is_some_and(|name| name.starts_with("source."));
        let is_over = signal["severity"] == "info";
        let news = touches(element) && !is_over && !of_itself && !before.contains(&identity(signal));
        let by = format!("{} of {}", signal["name"].as_str().unwrap_or_default(), shown(element));
        after(&row["received"]).filter(|_| news).map(|at| (at, by))
    });
    let opened = incidents.iter().filter_map(|row| {
        let by = format!("incident {} of {}", row["detector"].as_str().unwrap_or_default(), shown(&row["element"]));
        after(&row["opened"]).filter(|_| touches(&row["element"])).map(|at| (at, by))
    });
    let sensed = told.chain(opened).min();
    let ms = |ns: u64| ns as f64 / 1e6;

    let mut reported: BTreeMap<String, Blame> = BTreeMap::new();
    let (mut located, mut wrong) = (None, BTreeSet::new());
    for incident in incidents {
        let hypotheses = incident["hypotheses"].as_array().map_or(&[][..], Vec::as_slice);
        // Those that are as likely as the first are blamed as much.
        let leading = hypotheses.iter().take_while(|it| it["posterior"] == hypotheses[0]["posterior"]);
        for blamed in leading {
            let element = name(plan, &blamed["element"]);
            let blame = Blame {
                element: element.clone(),
                fault_mode: blamed["fault_mode"].as_str().unwrap_or_default().to_owned(),
                posterior: blamed["posterior"].as_f64().unwrap_or_default(),
            };
            reported.entry(element.clone()).or_insert(blame);
            match injection {
                Some(injection) if same(&injection.element, &element) => {
                    let at = after(&incident["opened"]);
                    located = [located, at].into_iter().flatten().min();
                }
                _ => drop(wrong.insert(element)),
            }
        }
    }
    let correct = match injection {
        None => Some(reported.is_empty()),
        Some(_) if reported.is_empty() => None,
        Some(_) => Some(located.is_some() && wrong.is_empty()),
    };
    Found {
        sensed_ms: sensed.as_ref().map(|(at, _)| ms(*at)),
        sensed_by: sensed.map(|(_, by)| by),
        located_ms: located.map(ms),
        reported: reported.into_values().collect(),
        correct,
        wrong: wrong.into_iter().collect(),
    }
}

/// An element as the collector has it.
fn shown(element: &Value) -> String {
    let text = |field: &str| element[field].as_str().unwrap_or_default();
    format!("{}/{}", text("host"), text("name"))
}

/// An element in the words of the plan: a NIC stands for its link, since a host cannot tell the two apart; a process for the
/// rank of its host.
fn name(plan: &Plan, element: &Value) -> String {
    let text = |field: &str| element[field].as_str().unwrap_or_default();
    let (host, kind, name) = (text("host"), text("kind"), text("name"));
    let Some(planned) = plan.host(host) else { return name.to_owned() };
    let nic = planned.nics.iter().find(|nic| {
        let device = name.split('/').next().unwrap_or_default();
        nic.port == device || nic.rdma_device == device
    });
    match (nic, kind) {
        (Some(nic), _) => nic.link.clone(),
        (None, "process") => format!("{host}/rank{}", planned.rank),
        (None, "host") => host.to_owned(),
        (None, _) => format!("{host}/{name}"),
    }
}

/// Whether two names mean one element: a direction is part of its link and of its cable, a NIC an end of it.
pub(crate) fn same(at_fault: &str, blamed: &str) -> bool {
    let ends = |name: &str| name.split(['-', '>']).map(str::to_owned).collect::<BTreeSet<_>>();
    at_fault == blamed
        || (at_fault.contains('>') != blamed.contains('>') && ends(at_fault) == ends(blamed))
        || (blamed.contains(['-', '>']) && !at_fault.contains(['-', '>']) && ends(blamed).contains(at_fault))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plan::Sizes, scenario::Scenario};
    use serde_json::json;

    fn injection(plan: &Plan, target: &str) -> Injection {
        let text = format!("about = \"x\"\n[fault]\nkind = \"link-down\"\ntarget = \"{target}\"");
        Scenario::parse(&text).and_then(|it| it.draw("x", plan, 1)).expect("a scenario").expect("a fault")
    }

    fn signal(host: &str, name: &str, received: u64) -> Value {
        let element = json!({"host": host, "kind": "nic", "name": "eth0"});
        let severity = if name.ends_with("over") { "info" } else { "error" };
        json!({"received": received, "signal": {"name": name, "element": element, "severity": severity}})
    }

    fn incident(host: &str, kind: &str, name: &str, opened: u64) -> Value {
        let element = json!({"host": host, "kind": kind, "name": name});
        json!({"opened": opened, "element": element,
            "hypotheses": [{"fault_mode": "link_down", "element": element, "posterior": 0.7}]})
    }

    #[test]
    fn the_first_of_many_words_is_read_too() {
        for count in [0, 1, 9, 10, 11, 95] {
            let get = |page: &str| {
                let value =
                    |name: &str| page.split('&').find_map(|part| part.strip_prefix(name)?.parse::<usize>().ok());
                let (limit, before) = (value("limit=").expect("a limit"), value("before=").unwrap_or(count + 1));
                let rows: Vec<_> = (1..before).rev().take(limit).map(|id| json!({"id": id})).collect();
                Ok(Value::Array(rows))
            };
            let rows = all(10, get).expect("rows");
            let ids: Vec<_> = rows.iter().filter_map(|row| row["id"].as_u64()).collect();
            assert_eq!(ids, (1..=count as u64).rev().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_fault_is_sensed_by_what_is_new_on_a_host_that_it_touches() {
        let plan = Plan::new(Sizes::default()).expect("the default sizes");
        let injection = injection(&plan, "host3:eth0-leaf0:eth3");
        let ms = 1_000_000;
        for (signals, sensed) in [
            (vec![], None),
            (vec![signal("host3", "nic.link.down", 1030 * ms)], Some(30.0)),
            (vec![signal("host4", "nic.link.down", 1030 * ms)], None),
            (vec![signal("host3", "nic.rdma.loss.over", 1030 * ms)], None),
            (vec![signal("host3", "source.slowed", 1030 * ms)], None),
            (vec![signal("host3", "nic.errors", 900 * ms), signal("host3", "nic.errors", 1010 * ms)], None),
            (vec![signal("host3", "nic.errors", 1050 * ms), signal("host3", "nic.link.down", 1040 * ms)], Some(40.0)),
        ] {
            let found = judge(&plan, Some(&injection), 1000 * ms, &signals, &[]);
            assert_eq!(found.sensed_ms, sensed, "{signals:?}");
            assert_eq!(found.sensed_by.is_some(), sensed.is_some(), "{found:?}");
            assert_eq!(found.correct, None);
        }
    }

    #[test]
    fn a_collector_that_starts_again_is_sensed_by_its_own_word_alone() {
        let plan = Plan::new(Sizes::default()).expect("the default sizes");
        let text = "about = \"x\"\n[fault]\nkind = \"collector-restart\"";
        let injection =
            Scenario::parse(text).and_then(|it| it.draw("x", &plan, 1)).expect("a scenario").expect("a fault");
        let mut own = signal("", "collector.started", 1_500_000_000);
        own["signal"]["element"] = json!({"host": "", "kind": "collector", "name": "collector"});
        for (signals, sensed) in [
            (vec![own.clone()], Some(500.0)),
            (vec![signal("host3", "nic.errors", 1_400_000_000), own], Some(500.0)),
            (vec![signal("", "switch.link.down", 1_400_000_000)], None),
        ] {
            assert_eq!(judge(&plan, Some(&injection), 1_000_000_000, &signals, &[]).sensed_ms, sensed, "{signals:?}");
        }
    }

    #[test]
    fn blame_is_right_only_when_it_is_the_fault_s_alone() {
        let plan = Plan::new(Sizes::default()).expect("the default sizes");
        let fault = injection(&plan, "host3:eth0-leaf0:eth3");
        let ms = 1_000_000;
        let right = incident("host3", "nic", "eth0", 1200 * ms);
        let same_port = incident("host3", "port", "mlx5_0/1", 1100 * ms);
        let other = incident("host5", "host", "host5", 1300 * ms);
        for (incidents, correct, located, wrong) in [
            (vec![right.clone()], Some(true), Some(200.0), vec![]),
            (vec![right.clone(), same_port], Some(true), Some(100.0), vec![]),
            (vec![right, other.clone()], Some(false), Some(200.0), vec!["host5"]),
            (vec![other.clone()], Some(false), None, vec!["host5"]),
        ] {
            let found = judge(&plan, Some(&fault), 1000 * ms, &[], &incidents);
            assert_eq!((found.correct, found.located_ms), (correct, located), "{incidents:?}");
            assert_eq!(found.wrong, wrong, "{incidents:?}");
        }
        let mut either = incident("", "links", "", 1400 * ms);
        let link = |name: &str| {
            let element = json!({"host": "", "kind": "link", "name": name});
            json!({"fault_mode": "path_loss", "element": element, "posterior": 0.49})
        };
        either["hypotheses"] = json!([link("host3:eth0-leaf0:eth3"), link("leaf1:eth4>spine0:eth1")]);
        let found = judge(&plan, Some(&fault), 1000 * ms, &[], &[either]);
        assert_eq!((found.correct, found.located_ms), (Some(false), Some(400.0)), "one of two is no right answer");
        assert_eq!((found.reported.len(), found.wrong), (2, vec!["leaf1:eth4>spine0:eth1".to_owned()]));
        assert_eq!(judge(&plan, None, 0, &[], &[]).correct, Some(true));
        assert_eq!(judge(&plan, None, 0, &[], &[other]).correct, Some(false));
    }

    #[test]
    fn a_direction_is_part_of_its_link_and_a_nic_an_end_of_it() {
        for (at_fault, blamed, expected) in [
            ("leaf0:eth4>spine0:eth0", "leaf0:eth4-spine0:eth0", true),
            ("spine0:eth0>leaf0:eth4", "leaf0:eth4-spine0:eth0", true),
            ("leaf0:eth4-spine0:eth0", "spine0:eth0>leaf0:eth4", true),
            ("leaf0:eth4>spine0:eth0", "spine0:eth0>leaf0:eth4", false),
            ("leaf0:eth4>spine0:eth0", "leaf0:eth5-spine1:eth0", false),
            ("host3:eth0", "host3:eth0-leaf0:eth3", true),
            ("host3:eth0", "leaf0:eth3>host3:eth0", true),
            ("host3", "host3:eth0-leaf0:eth3", false),
            ("host3/rank3", "host3/rank3", true),
        ] {
            assert_eq!(same(at_fault, blamed), expected, "{at_fault} {blamed}");
        }
    }

    #[test]
    fn the_slowest_rank_says_how_long_an_iteration_takes() {
        let iterations = Iterations(vec![vec![100, 200, 300, 400], vec![150, 390]]);
        assert_eq!(iterations.mean_ms(0, 400), Some(200.0));
        assert_eq!(iterations.mean_ms(160, 380), None, "a rank that ended none");
    }
}
