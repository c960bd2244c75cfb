//! The agent ends and starts again under a working process: its balance stays exact, or says that it is not.

use anyhow::{Result, ensure};
use railwatch_tests::{
    gpu::{Caller, Driver},
    installation::{Daemon, Installation, Options, eventually, is_whole},
};

#[test]
fn a_balance_stays_exact_while_the_agent_is_stopped_and_killed_under_load() -> Result<()> {
    let mut installation = Installation::start(&Options::default())?;
    // Some six seconds of work, a good part of it while no agent runs.
    let mut driver = Driver::start(&[
        "--threads",
        "8",
        "--iterations",
        "5000",
        "--pause-us",
        "1000",
        "--fail-percent",
        "3",
        "--keep",
        "5",
        "--hold",
        "60",
        "--wait",
    ])?;
    installation.attached(driver.pid())?;
    driver.go()?;
    let mut under_load = 0;
    for round in 0..4 {
        let before = installation.process_row(driver.pid(), "runtime", |row| row["allocs"].as_u64() > Some(0))?;
        under_load += usize::from(driver.works());
        if round % 2 == 0 {
            installation.agent.stop()?;
        } else {
            installation.agent.kill()?;
        }
        installation.agent.restart()?;
        installation.connected()?;
        ensure!(is_whole(&before), "before restart {round}: {before:#}");
    }
    ensure!(under_load > 0, "the driver was done before the first restart");
    eprintln!("{under_load} of 4 restarts under load");
    let balance = driver.balance()?;
    let shown = installation.process_row(driver.pid(), "runtime", |row| {
        (row["allocs"] == balance["allocs"] && row["frees"] == balance["frees"]) || !is_whole(row)
    })?;
    for field in ["allocated_bytes", "allocs", "frees", "failed_allocs"] {
        ensure!(shown[field] == balance[field], "{field}: shown {shown:#}, own {balance:#}");
    }
    ensure!(is_whole(&shown), "{shown:#}");
    Ok(())
}

#[test]
fn without_pins_a_restart_marks_what_it_may_have_missed() -> Result<()> {
    let mut installation = Installation::start(&Options { no_pin: true, ..Options::default() })?;
    let mut program = Caller::start(&["libcudart.so"])?;
    installation.attached(program.pid())?;
    program.call("cudaMalloc &0 1000")?;
    let before = installation.process_row(program.pid(), "runtime", |row| row["allocated_bytes"] == 1000)?;
    ensure!(is_whole(&before), "{before:#}");
    for ends in [Daemon::kill, Daemon::stop] {
        ends(&mut installation.agent)?;
        program.call("cudaMalloc &1 234")?;
        installation.agent.restart()?;
        // What the old agent last said stands until the new one speaks; what the new one says is marked.
        let marked = eventually("the mark", || {
            program.call("cudaMalloc &2 5")?;
            let rows = installation.rows(&["gpu", "processes"])?;
            let row = rows.into_iter().find(|row| row["pid"] == program.pid() && row["layer"] == "runtime");
            Ok(row.filter(|row| row["incomplete_since"].is_string() || row["allocated_bytes"] != 1000))
        })?;
        ensure!(marked["incomplete_since"].is_string(), "not true, and not marked: {marked:#}");
    }
    Ok(())
}
