//! What an operator installs: units that are as closed as promised, manifests that the published schemas accept.

use anyhow::{Context, Result, ensure};
use std::{path::PathBuf, process::Command};

/// The exposure that docs/SPECIFICATION.md promises, of `systemd-analyze security`: 0 is closed, 10 is open.
const EXPOSURE_MAX: f64 = 2.5;

const UNITS: [&str; 5] = [
    "railwatch-agent.service",
    "railwatch-collector.service",
    "railwatch-kmsg.service",
    "railwatch-disk.service",
    "railwatch-verbs.service",
];

fn deploy(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

/// What `systemd-analyze security` says of a unit file.
fn exposure(unit: &std::path::Path) -> Result<()> {
    let (_, text) =
        output(Command::new("systemd-analyze").args(["security", "--offline=true", "--no-pager"]).arg(unit))?;
    let level: f64 = text
        .lines()
        .find_map(|line| line.split_once("Overall exposure level for")?.1.split_once(": ")?.1.split(' ').next())
        .with_context(|| format!("{}: systemd-analyze gave no level:\n{text}", unit.display()))?
        .parse()?;
    eprintln!("{}: {level}", unit.display());
    ensure!(level <= EXPOSURE_MAX, "{}: exposure {level} is above {EXPOSURE_MAX}:\n{text}", unit.display());
    Ok(())
}

fn output(command: &mut Command) -> Result<(bool, String)> {
    let output = command.output().with_context(|| format!("start {:?}", command.get_program()))?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

#[test]
fn units_stay_under_the_promised_exposure() -> Result<()> {
    UNITS.iter().try_for_each(|unit| exposure(&deploy("systemd").join(unit)))
}

#[test]
fn the_agents_unit_stays_under_it_with_each_drop_in() -> Result<()> {
    let unit = std::fs::read_to_string(deploy("systemd/railwatch-agent.service"))?;
    let folder = tempfile::tempdir()?;
    let mut count = 0;
    for entry in std::fs::read_dir(deploy("systemd/drop-ins"))? {
        let entry = entry?;
        // Read behind the unit, as systemd does.
        let name = format!("railwatch-agent-{}.service", entry.path().file_stem().unwrap_or_default().display());
        let path = folder.path().join(name);
        std::fs::write(&path, format!("{unit}\n{}", std::fs::read_to_string(entry.path())?))?;
        exposure(&path)?;
        count += 1;
    }
    ensure!(count >= 2, "{count} drop-ins were found");
    Ok(())
}

#[test]
fn units_hold_no_setting_that_systemd_does_not_know() -> Result<()> {
    for unit in UNITS {
        let (_, text) = output(Command::new("systemd-analyze").arg("verify").arg(deploy("systemd").join(unit)))?;
        // The binaries are not installed where this runs; that is the one complaint allowed.
        let complaints: Vec<_> =
            text.lines().filter(|line| line.contains(unit) && !line.contains("is not executable")).collect();
        ensure!(complaints.is_empty(), "{unit}: {complaints:#?}");
    }
    Ok(())
}

#[test]
fn manifests_are_valid_under_the_published_schemas() -> Result<()> {
    let python = std::env::var("RAILWATCH_PYTHON")
        .context("run this through `cargo xtask test`: it makes the Python environment")?;
    let validator = PathBuf::from(python).with_file_name("kubernetes-validate");
    for version in ["1.28", "1.34"] {
        let (valid, text) = output(
            Command::new(&validator).args(["--strict", "-k", version]).arg(deploy("kubernetes/railwatch.yaml")),
        )?;
        ensure!(valid, "Kubernetes {version}: {text}");
    }
    Ok(())
}

#[test]
fn no_container_is_privileged() -> Result<()> {
    let text = std::fs::read_to_string(deploy("kubernetes/railwatch.yaml"))?;
    ensure!(!text.contains("privileged: true\n"), "a container asks for privileged mode");
    ensure!(text.matches("allowPrivilegeEscalation: false").count() == text.matches("image: ").count());
    ensure!(text.matches("drop: [ALL]").count() == text.matches("image: ").count());
    Ok(())
}
