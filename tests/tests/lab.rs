//! The lab on this machine: a fabric comes up, routes, is broken, and leaves nothing behind, however it ends.

use anyhow::{Context, Result, ensure};
use railwatch_tests::installation::{eventually, program};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

/// Two hosts at two leaves, joined by two spines: the smallest fabric with a choice of paths.
const SMALLEST: [&str; 4] = ["--rails", "1", "--hosts-per-leaf", "1"];

fn lab(arguments: &[&str]) -> Result<Command> {
    for variable in ["RAILWATCH_LAB_ROUTING", "RAILWATCH_LAB_LIBRARIES"] {
        ensure!(std::env::var_os(variable).is_some(), "{variable} is not set: run this through `cargo xtask test lab`");
    }
    let mut command = Command::new(program("railwatch-lab")?);
    command.args(arguments);
    Ok(command)
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?} ended with {}:\n{out}{errors}", output.status);
    Ok(out.into_owned())
}

/// What there is of a lab: its folder, namespaces, cgroup and processes.
fn traces(name: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let folder = Path::new("/var/lib/railwatch-lab").join(name);
    found.extend(folder.exists().then(|| folder.display().to_string()));
    let namespaces = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    found.extend(
        namespaces
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|file| file.starts_with(&format!("rwlab-{name}-"))),
    );
    let cgroup = format!("/railwatch-lab-{name}");
    for entry in fs::read_dir("/proc")?.flatten() {
        let process = entry.path();
        let is_its = fs::read_to_string(process.join("cgroup"))
            .is_ok_and(|text| text.lines().any(|line| line.contains(&format!("{cgroup}/")) || line.ends_with(&cgroup)));
        let keeps =
            fs::read(process.join("cmdline")).is_ok_and(|words| words.ends_with(format!("keep\0{name}\0").as_bytes()));
        if is_its || keeps {
            found.push(format!(
                "{} {}",
                process.display(),
                fs::read_to_string(process.join("comm")).unwrap_or_default()
            ));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let cgroups = mounts.lines().filter(|line| line.split(' ').nth(2) == Some("cgroup2"));
    found.extend(
        cgroups
            .filter_map(|line| line.split(' ').nth(1))
            .map(|root| format!("{root}{cgroup}"))
            .filter(|folder| Path::new(folder).exists()),
    );
    Ok(found)
}

/// Waits until nothing is there of a lab: whoever was killed must still be buried by the machine's init.
fn gone(name: &str) -> Result<()> {
    eventually("the end of everything that a lab made", || {
        let left = traces(name)?;
        ensure!(left.is_empty(), "left behind: {left:#?}");
        Ok(Some(()))
    })
}

/// A lab that was left running, ended with the value.
struct Kept(String);

impl Drop for Kept {
    fn drop(&mut self) {
        let down = lab(&["down", "--name", &self.0]).and_then(|mut command| output(&mut command));
        if let Err(error) = down {
            eprintln!("{error:#}");
        }
    }
}

/// Runs a scenario on the smallest fabric.
fn run(scenario: &str) -> Result<Value> {
    let folder = tempfile::tempdir()?;
    let (file, report) = (folder.path().join("test.toml"), folder.path().join("report.json"));
    fs::write(&file, scenario)?;
    let text = |path: &Path| path.display().to_string();
    let arguments = ["run", &text(&file), "--seed", "3", "--json", &text(&report)];
    output(lab(&arguments)?.args(SMALLEST))?;
    serde_json::from_slice(&fs::read(report)?).context("a report is JSON")
}

#[test]
fn a_lab_is_what_its_plan_says_beside_another_and_leaves_nothing() -> Result<()> {
    let name = format!("test{}", std::process::id());
    let kept = Kept(name.clone());
    let plan = output(lab(&["up", "--json", "--name", &name])?.args(SMALLEST))?;
    let plan: Value = serde_json::from_str(&plan)?;
    let shell =
        |node: &str, words: &[&str]| output(&mut lab(&[&["shell", "--name", &name, node, "--"], words].concat())?);

    let hosts: Value = serde_json::from_str(&shell("management", &["railwatch", "hosts", "-o", "json"])?)?;
    let hosts = hosts.as_array().context("an array of hosts")?;
    ensure!(hosts.len() == 2 && hosts.iter().all(|row| row["last_seen_ms"].as_u64() < Some(2000)), "{hosts:#?}");

    // What the neighbours say of themselves is the plan, link by link.
    let links = plan["links"].as_array().context("an array of links")?;
    ensure!(links.len() == 6, "{links:#?}");
    for link in links {
        for (own, other) in [("a", "b"), ("b", "a")] {
            let text = |end: &str, field: &str| link[end][field].as_str().unwrap_or_default().to_owned();
            let (node, port) = (text(own, "node"), text(own, "port"));
            eventually("a neighbour by LLDP", || {
                let shown = shell(&node, &["lldpcli", "-f", "keyvalue", "show", "neighbors", "ports", &port])?;
                let says = |what: &str| {
                    let key = format!("lldp.{port}.{what}=");
                    shown.lines().find_map(|line| line.strip_prefix(&key)).unwrap_or_default().to_owned()
                };
                let is_planned =
                    says("chassis.name") == text(other, "node") && says("port.ifname") == text(other, "port");
                Ok(is_planned.then_some(()))
            })
            .with_context(|| format!("{link:#}"))?;
        }
    }

    // The switches say the same of themselves, their port of management left out.
    let expected: BTreeSet<_> = links
        .iter()
        .flat_map(|link| [("a", "b"), ("b", "a")].map(|(own, other)| (&link[own], &link[other])))
        .filter(|(own, _)| !own["node"].as_str().unwrap_or_default().starts_with("host"))
        .map(|(own, other)| format!("{}:{}-{}:{}", own["node"], own["port"], other["node"], other["port"]))
        .collect();
    eventually("the switches' own word", || {
        let rows: Value = serde_json::from_str(&shell("management", &["railwatch", "switches", "-o", "json"])?)?;
        let rows = rows.as_array().context("an array of switches")?;
        let said: BTreeSet<_> = rows
            .iter()
            .filter(|row| row["connected"] == true)
            .flat_map(|row| row["ports"].as_array().into_iter().flatten().map(move |port| (row, port)))
            .filter(|(_, port)| port["fabric"] == true && port["up"] == true)
            .flat_map(|(row, port)| {
                port["neighbours"].as_array().into_iter().flatten().map(move |far| (row, port, far))
            })
            .map(|(row, port, far)| {
                format!("{}:{}-{}:{}", row["system_name"], port["name"], far["system_name"], far["port_id"])
            })
            .collect();
        Ok((said == expected).then_some(()))
    })?;

    // Another lab has the same addresses and names inside, and does not notice.
    let report = run("about = \"beside another\"\nwarm_up_s = 3\nspread_s = 0\nfault_s = 1\nrecovery_s = 0")?;
    ensure!(report["fault"].is_null() && report["iteration_ms_before"].as_f64() > Some(0.0), "{report:#}");
    let sees = shell("management", &["railwatch", "gpu", "processes", "-o", "json"])?;
    let sees: Value = serde_json::from_str(&sees)?;
    ensure!(sees.as_array().is_some_and(|rows| rows.len() == 2), "each agent sees its own rank alone: {sees:#}");

    ensure!(!traces(&name)?.is_empty(), "the lab is up, and has traces");
    drop(kept);
    gone(&name)
}

#[test]
fn a_cut_cable_is_sensed_and_the_job_stands_still() -> Result<()> {
    let report = run("about = \"test\"\nwarm_up_s = 3\nspread_s = 1\nfault_s = 5\nrecovery_s = 4\n\
         [fault]\nkind = \"link-down\"\ntarget = \"host-link\"")?;
    ensure!(report["fault"]["element"].as_str().is_some_and(|name| name.starts_with("host")), "{report:#}");
    ensure!(report["sensed_ms"].as_f64().is_some_and(|ms| (0.0..5000.0).contains(&ms)), "{report:#}");
    ensure!(report["iteration_ms_before"].as_f64() > Some(0.0), "{report:#}");
    let during = report["iteration_ms_during"].as_f64();
    ensure!(during.is_none() || during > report["iteration_ms_before"].as_f64(), "{report:#}");
    Ok(())
}

#[test]
fn packets_are_lost_where_the_scenario_says_and_counted() -> Result<()> {
    let report = run("about = \"test\"\nwarm_up_s = 3\nspread_s = 1\nfault_s = 4\nrecovery_s = 3\n\
         [fault]\nkind = \"loss\"\ntarget = \"host0:eth0>leaf0:eth0\"\npercent = [2, 2]")?;
    ensure!(report["fault"]["element"] == "host0:eth0>leaf0:eth0", "{report:#}");
    ensure!(report["packets_lost"].as_u64() > Some(0), "{report:#}");
    ensure!(report["iteration_ms_after"].as_f64() > Some(0.0), "the job goes on: {report:#}");
    Ok(())
}

/// A process that is killed with the value.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_run_that_is_killed_leaves_nothing() -> Result<()> {
    let mut command = lab(&["run", "healthy"])?;
    command.args(SMALLEST).stdout(Stdio::null()).stderr(Stdio::null());
    let run = Killed(command.spawn()?);
    let name = format!("run{}", run.0.id());
    eventually("the workload of the lab", || {
        Ok(traces(&name)?.iter().any(|trace| trace.contains("railwatch-lab-t")).then_some(()))
    })?;
    drop(run);
    gone(&name)
}
