//! Libraries that a process loads long after its start, as Python does.

use anyhow::{Result, ensure};
use railwatch_tests::{
    gpu::Driver,
    installation::{Installation, Options, is_whole},
};
use serde_json::Value;

/// Work of a second or so: some of it before the agent can have noticed the library, most of it after.
const WORK: [&str; 10] = ["--threads", "4", "--iterations", "800", "--pause-us", "1000", "--keep", "3", "--hold", "60"];
/// Seconds from a process's start to its `dlopen`: what was found at start is settled long before.
const LATE: [&str; 2] = ["--delay", "10"];
/// For the tests that only need the library to come after the process.
const SOON: [&str; 2] = ["--delay", "1"];

#[test]
fn a_library_loaded_late_and_attached_before_its_first_call_is_exact() -> Result<()> {
    let installation = Installation::start(&Options::default())?;
    let mut driver = Driver::start(&[&WORK[..], &LATE, &["--wait"]].concat())?;
    installation.attached(driver.pid())?;
    driver.go()?;
    let balance = driver.balance()?;
    let shown = installation.process_row(driver.pid(), "runtime", |row| {
        row["allocs"] == balance["allocs"] && row["frees"] == balance["frees"]
    })?;
    ensure!(shown["allocated_bytes"] == balance["allocated_bytes"], "shown {shown:#}, own {balance:#}");
    ensure!(is_whole(&shown), "{shown:#}");
    Ok(())
}

#[test]
fn what_a_process_that_holds_a_device_did_before_it_was_traced_is_missing_and_marked() -> Result<()> {
    let installation = Installation::start(&Options::default())?;
    // A file where a GPU would be, held open as a process that holds memory of one does.
    let holding = "mount -t tmpfs none /dev && : > /dev/nvidia0 && exec 9< /dev/nvidia0 && exec \"$@\"";
    let mut driver =
        Driver::start_under(&["unshare", "--mount", "sh", "-c", holding, "sh"], &[&WORK[..], &SOON].concat())?;
    installation.attached(driver.pid())?;
    let balance = driver.balance()?;
    // Its first calls come as soon as the library is loaded: seen only where the probes were quicker.
    let exact = |row: &Value| ["allocated_bytes", "allocs", "frees"].iter().all(|field| row[field] == balance[field]);
    installation.process_row(driver.pid(), "runtime", |row| exact(row) || row["incomplete_since"].is_string())?;
    Ok(())
}

#[test]
fn frees_of_what_nobody_saw_allocated_mark_a_process() -> Result<()> {
    let installation = Installation::start(&Options::default())?;
    // Its first calls come as soon as the library is loaded, and all but the kept allocations, the last, are freed.
    let mut driver = Driver::start(&[&WORK[..], &SOON].concat())?;
    let balance = driver.balance()?;
    let exact = |row: &Value| ["allocated_bytes", "allocs", "frees"].iter().all(|field| row[field] == balance[field]);
    installation.process_row(driver.pid(), "runtime", |row| exact(row) || row["incomplete_since"].is_string())?;
    Ok(())
}
