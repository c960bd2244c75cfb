//! Optical modules of a host, from the bytes of their memory to the operator's screen.

use anyhow::{Context, Result, ensure};
use railwatch_tests::installation::{HOST, Installation, Options, eventually};
use serde_json::json;
use std::{fs, path::Path};

#[test]
fn the_modules_of_a_host_show_with_what_they_are_and_measure() -> Result<()> {
    let root = tempfile::tempdir()?;
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/optics/fixtures");
    for (interface, fixture) in [("eth0", "cmis-two-banks"), ("eth1", "sff8636-copper"), ("eth2", "sff8472-aliased")] {
        let directory = root.path().join("class/net").join(interface);
        fs::create_dir_all(&directory)?;
        fs::copy(fixtures.join(format!("{fixture}.json")), directory.join("module_eeprom.json"))?;
    }
    let agent_arguments = vec!["--sysfs-root".to_owned(), root.path().display().to_string()];
    let installation = Installation::start(&Options { agent_arguments, ..Options::default() })?;
    let mut rows = Vec::new();
    eventually("the modules", || {
        rows = installation.rows(&["optics"])?;
        Ok((rows.len() == 3).then_some(()))
    })
    .with_context(|| format!("{rows:#?}\n{}", installation.agent.log_text()))?;
    let of = |interface: &str| rows.iter().find(|row| row["interface"] == interface).cloned().unwrap_or_default();
    let (cmis, copper, aliased) = (of("eth0"), of("eth1"), of("eth2"));
    for (field, expected) in [
        ("host", json!(HOST)),
        ("standard", json!("CMIS")),
        ("part_number", json!("RW-QDD-400G-DR4")),
        ("serial", json!("RW0000004")),
        ("date_code", json!("260118B2")),
        ("temperature_c", json!(42.0)),
        ("problems", json!([])),
    ] {
        ensure!(cmis[field] == expected, "{field} is not {expected}: {cmis:#}");
    }
    ensure!(cmis["lanes"][15]["tx_power_mw"] == json!(0.8), "lane 16, of the second bank: {cmis:#}");
    ensure!(copper["temperature_c"].is_null() && copper["lanes"][0]["rx_power_mw"].is_null(), "{copper:#}");
    let problem = aliased["problems"][0].as_str().unwrap_or_default();
    ensure!(problem.contains("A2 is A0 read again") && aliased["vcc_v"].is_null(), "{aliased:#}");
    let optics = eventually("the source", || {
        let hosts = installation.rows(&["hosts"])?;
        let sources = hosts[0]["sources"].as_array().cloned().unwrap_or_default();
        Ok(sources.into_iter().find(|source| source["source"] == "optics" && source["on"] == json!(true)))
    })?;
    ensure!(optics["cadence_ns"] == json!(30_000_000_000_u64), "{optics:#}");
    Ok(())
}
