//! Several agents on one kernel, each for its own part of it, and pids of processes in namespaces of their own.

use anyhow::{Context, Result, ensure};
use railwatch_tests::{
    gpu::Driver,
    installation::{HOST, Installation, Options, eventually, is_whole},
};
use serde_json::Value;
use std::{fs, path::PathBuf};

/// The second agent's host.
const OTHER: &str = "host8";
const WORK: [&str; 9] = ["--threads", "2", "--iterations", "300", "--keep", "3", "--hold", "60", "--wait"];

/// A cgroup of its own, removed at the end.
struct Cgroup(PathBuf);

impl Cgroup {
    fn make(name: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let root = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .find(|fields| fields.get(2) == Some(&"cgroup2"))
            .context("no cgroup2 file system is mounted")?[1]
            .to_owned();
        let folder = PathBuf::from(root).join(format!("railwatch-{name}-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(Self(folder))
    }

    fn options(&self) -> Options {
        Options { agent_toml: format!("[gpu]\nscope = \"cgroup:{}\"\n", self.0.display()), ..Options::default() }
    }

    fn driver(&self) -> Result<Driver> {
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.0.display());
        Driver::start_under(&["sh", "-c", &enter, "sh"], &WORK)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its processes were just killed; it can be removed once the kernel has let go of them.
        let _ = eventually("the cgroup's end", || Ok(fs::remove_dir(&self.0).ok()));
    }
}

fn rows_of(installation: &Installation, listing: &str, pid: u32) -> Result<Vec<Value>> {
    let rows = installation.rows(&["gpu", listing])?;
    Ok(rows.into_iter().filter(|row| row["pid"] == pid).collect())
}

#[test]
fn two_agents_on_one_kernel_share_it_by_cgroup() -> Result<()> {
    let (first, second) = (Cgroup::make("a")?, Cgroup::make("b")?);
    let installation = Installation::start(&first.options())?;
    let _other = installation.add_agent(OTHER, &second.options())?;
    let mut drivers = [(HOST, first.driver()?), (OTHER, second.driver()?)];
    for (_, driver) in &drivers {
        installation.attached(driver.pid())?;
    }
    for (_, driver) in &mut drivers {
        driver.go()?;
    }
    for (host, driver) in &mut drivers {
        let balance = driver.balance()?;
        let shown = installation.process_row(driver.pid(), "runtime", |row| {
            row["allocs"] == balance["allocs"] && row["frees"] == balance["frees"]
        })?;
        ensure!(shown["allocated_bytes"] == balance["allocated_bytes"], "shown {shown:#}, own {balance:#}");
        ensure!(is_whole(&shown), "{shown:#}");
        for listing in ["processes", "coverage"] {
            let rows = rows_of(&installation, listing, driver.pid())?;
            ensure!(!rows.is_empty() && rows.iter().all(|row| row["host"] == *host), "{listing} of {host}: {rows:#?}");
        }
    }
    Ok(())
}

#[test]
fn a_process_in_a_pid_namespace_of_its_own_is_shown_with_the_host_s_pid() -> Result<()> {
    let installation = Installation::start(&Options::default())?;
    let mut driver = Driver::start_under(&["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"], &WORK)?;
    let outer = driver.pid();
    let pid: u32 = eventually("the driver in its namespace", || {
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"))?;
        Ok(children.split_whitespace().next().map(str::parse).transpose()?)
    })?;
    installation.attached(pid)?;
    driver.go()?;
    let balance = driver.balance()?;
    ensure!(balance["pid"] == 1, "it is alone in its namespace: {balance:#}");
    let shown = installation.process_row(pid, "runtime", |row| row["allocs"] == balance["allocs"])?;
    ensure!(is_whole(&shown) && shown["comm"] == "driver", "{shown:#}");
    let all = installation.rows(&["gpu", "processes"])?;
    ensure!(all.iter().all(|row| row["pid"] != 1), "{all:#?}");
    Ok(())
}
