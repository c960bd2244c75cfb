//! From the kernel to the operator's screen: what a process does to a GPU library is what `railwatch` shows.

use anyhow::{Context, Result, ensure};
use railwatch_tests::{
    gpu::{Caller, Driver},
    installation::{HOST, Installation, Options, eventually, is_whole},
};

#[test]
fn a_balance_on_the_screen_is_the_program_s_own_to_the_byte() -> Result<()> {
    let installation = Installation::start(&Options::default())?;
    let mut driver = Driver::start(&[
        "--threads",
        "8",
        "--iterations",
        "3000",
        "--fail-percent",
        "5",
        "--keep",
        "7",
        "--device",
        "3",
        "--hold",
        "60",
        "--wait",
    ])?;
    installation.attached(driver.pid())?;
    driver.go()?;
    let balance = driver.balance()?;
    let shown = installation.process_row(driver.pid(), "runtime", |row| {
        row["allocs"] == balance["allocs"] && row["frees"] == balance["frees"]
    })?;
    for field in ["allocated_bytes", "allocs", "frees", "failed_allocs", "device"] {
        ensure!(shown[field] == balance[field], "{field}: shown {shown:#}, own {balance:#}");
    }
    ensure!(shown["peak_bytes"].as_u64() >= shown["allocated_bytes"].as_u64(), "{shown:#}");
    ensure!(shown["host"] == HOST && shown["comm"] == "driver", "{shown:#}");
    ensure!(is_whole(&shown), "attached before its first call, and yet: {shown:#}");

    let pid = driver.pid();
    drop(driver);
    installation
        .process_row(pid, "runtime", |row| row["allocated_bytes"] == 0)
        .context("kill -9 gives everything back")?;

    let hosts = installation.rows(&["hosts"])?;
    let host = hosts.iter().find(|row| row["host"] == HOST).context("the host is listed")?;
    for field in ["boot_id", "last_seen_ms", "clock_offset_us", "clock_uncertainty_us", "seen", "delivered", "dropped"]
    {
        ensure!(!host[field].is_null(), "{field} is missing: {host:#}");
    }
    let number = |field: &str| host[field].as_u64().unwrap_or(u64::MAX);
    ensure!(number("seen") == number("delivered") + number("dropped"), "{host:#}");
    Ok(())
}

#[test]
fn a_process_that_was_there_before_the_agent_is_marked() -> Result<()> {
    let mut early = Caller::start(&["libcudart.so"])?;
    early.call("cudaMalloc &0 1048576")?;
    let installation = Installation::start(&Options::default())?;
    installation.attached(early.pid())?;
    early.call("cudaMalloc &1 4096")?;
    let shown = installation.process_row(early.pid(), "runtime", |row| row["allocs"] == 1)?;
    ensure!(shown["incomplete_since"].is_string(), "it may hold what nobody saw: {shown:#}");
    Ok(())
}

#[test]
fn balances_survive_kill_9_of_the_agent() -> Result<()> {
    let mut installation = Installation::start(&Options::default())?;
    let mut program = Caller::start(&["libcudart.so"])?;
    installation.attached(program.pid())?;
    program.call("cudaMalloc &0 1000")?;
    installation.process_row(program.pid(), "runtime", |row| row["allocated_bytes"] == 1000)?;
    installation.agent.kill()?;
    program.call("cudaMalloc &1 234")?;
    installation.agent.restart()?;
    let shown =
        installation.process_row(program.pid(), "runtime", |row| row["allocated_bytes"] == 1234 || !is_whole(row))?;
    ensure!(
        shown["allocated_bytes"] == 1234 && is_whole(&shown),
        "the kernel half stays pinned over a restart: {shown:#}"
    );
    program.call("cudaFree @0")?;
    installation.process_row(program.pid(), "runtime", |row| row["allocated_bytes"] == 234)?;
    Ok(())
}

#[test]
fn a_failed_allocation_becomes_an_incident_with_a_proposal_that_a_person_approves() -> Result<()> {
    let installation = Installation::start(&Options::default())?;
    let mut program = Caller::start(&["libcudart.so"])?;
    installation.attached(program.pid())?;
    program.call("fixture_fail_next 2")?;
    ensure!(program.call("cudaMalloc &0 68719476736")? == 2, "the fixture fails as told");
    let pid = program.pid().to_string();
    let incident = eventually("the incident", || {
        let rows = installation.rows(&["incidents"])?;
        Ok(rows.into_iter().find(|row| row["element"]["name"] == *pid))
    })?;
    ensure!(incident["element"]["host"] == HOST && incident["state"] == "open", "{incident:#}");
    let decision = eventually("its decision", || {
        let rows = installation.rows(&["decisions"])?;
        Ok(rows.into_iter().find(|row| row["incident"] == incident["id"]))
    })?;
    ensure!(decision["state"] == "proposed", "nothing acts by default: {decision:#}");
    ensure!(decision["alternatives"].as_array().is_some_and(|list| list.len() > 1), "{decision:#}");
    ensure!(decision["guards"].as_array().is_some_and(|list| !list.is_empty()), "{decision:#}");

    let id = decision["id"].to_string();
    let refused = installation.railwatch("read", &["approve", &id])?;
    ensure!(refused.status.code() == Some(4), "a reader may not approve: {refused:?}");
    let halted = installation.railwatch("approve", &["halt", "--reason", "test"])?;
    ensure!(halted.status.success(), "{halted:?}");
    ensure!(installation.path("collector/HALT").exists(), "halt leaves its mark beside the store");
    Ok(())
}
