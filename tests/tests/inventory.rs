//! The inventory of hosts, from their files to the operator's screen: what holds, what changed while nobody looked, who differs.

use anyhow::{Context, Result, ensure};
use railwatch_tests::installation::{HOST, Installation, Options, eventually};
use serde_json::{Value, json};
use std::{fs, path::Path, process::Command};
use tempfile::TempDir;

/// A copy of a RoCE host's sysfs, its NIC with a firmware.
fn sysfs(firmware: &str) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/sysfs/roce-host/.");
    let copied = Command::new("cp").args(["-r", source]).arg(folder.path()).status()?;
    ensure!(copied.success(), "copy {source}");
    set_firmware(folder.path(), firmware)?;
    Ok(folder)
}

fn set_firmware(root: &Path, version: &str) -> Result<()> {
    fs::write(root.join("class/infiniband/mlx5_0/fw_ver"), format!("{version}\n")).context("write fw_ver")
}

fn options(root: &Path) -> Options {
    Options {
        // Four agents on one machine: what this test does not look at is off.
        agent_toml:
            "[gpu]\nenabled = false\n[drops]\nenabled = false\n[health]\nenabled = false\n[tape]\nenabled = false\n"
                .to_owned(),
        agent_arguments: vec!["--sysfs-root".to_owned(), root.display().to_string()],
        ..Options::default()
    }
}

/// The firmware that the collector knows of a host, with everything about it.
fn firmware(installation: &Installation, host: &str) -> Result<Option<Value>> {
    let rows = installation.rows(&["inventory", "--host", host, "--entity", "mlx5*", "--key", "firmware.*"])?;
    Ok(rows.into_iter().next())
}

#[test]
fn a_host_that_comes_back_with_another_firmware_is_in_the_history_and_differs_from_its_peers() -> Result<()> {
    let own = sysfs("28.39.1002")?;
    let mut installation = Installation::start(&options(own.path()))?;
    let shown =
        eventually("the firmware", || firmware(&installation, HOST)).with_context(|| installation.agent.log_text())?;
    ensure!(shown["value"] == "28.39.1002" && shown["entity_kind"] == "rdma" && shown["since"].is_u64(), "{shown:#}");
    ensure!(installation.rows(&["inventory", "history"])?.is_empty(), "a first inventory is no change");
    let peers = [sysfs("28.39.1002")?, sysfs("28.39.1002")?, sysfs("28.39.1002")?];
    let mut agents = Vec::new();
    for (n, root) in peers.iter().enumerate() {
        let host = format!("peer{n}");
        agents.push(installation.add_agent(&host, &options(root.path()))?);
        eventually("the peer's firmware", || firmware(&installation, &host))?;
    }
    ensure!(installation.rows(&["inventory", "drift"])?.is_empty(), "all agree");

    // Upgraded while neither the agent nor the collector runs.
    installation.agent.stop()?;
    installation.collector.stop()?;
    set_firmware(own.path(), "28.41.1000")?;
    installation.collector.restart()?;
    installation.collector_restarted()?;
    installation.agent.restart()?;
    let mut history = Vec::new();
    eventually("the change", || {
        history = installation.rows(&["inventory", "history", "--host", HOST, "--around", "-1s"])?;
        Ok((!history.is_empty()).then_some(()))
    })
    .with_context(|| installation.agent.log_text())?;
    let [change] = history.as_slice() else { anyhow::bail!("more than what changed: {history:#?}") };
    for (field, expected) in [
        ("entity", json!("mlx5_0")),
        ("key", json!("firmware.version")),
        ("before", json!("28.39.1002")),
        ("after", json!("28.41.1000")),
        ("over_reboot", json!(false)),
    ] {
        ensure!(change[field] == expected, "{field} is not {expected}: {change:#}");
    }
    let drift = eventually("the drift", || {
        let rows = installation.rows(&["inventory", "drift"])?;
        Ok((!rows.is_empty()).then_some(rows))
    })?;
    let [row] = drift.as_slice() else { anyhow::bail!("more than what differs: {drift:#?}") };
    ensure!(row["host"] == HOST && row["value"] == "28.41.1000" && row["expected"] == "28.39.1002", "{row:#}");
    ensure!(row["agree"] == 3 && row["peers"] == 4, "{row:#}");
    let table = installation.railwatch("read", &["inventory", "drift"])?;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    ensure!(table.contains("PEERS HAVE") && table.contains("3 of 4"), "{table}");
    Ok(())
}
