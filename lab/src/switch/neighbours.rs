//! LLDP neighbours of the switch, as its lldpd knows them.
//!
//! In: `lldpcli`, whose `watch` says when something changes; the kernel's word on links. Out: leaves of openconfig-lldp. lldpd is told at once
//! what the kernel says, as the LLDP of a switch hears of its own ports: by itself it waits a second. Never: a port that lldpd does not listen on.

use super::{Leaves, text};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{process::Stdio, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::watch,
};

/// lldpd is asked anew at least this often, should a change not be told.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// What changes together is read once.
const TOGETHER: Duration = Duration::from_millis(20);
/// lldpd starts at the same time.
const NOT_YET: Duration = Duration::from_millis(250);

/// Two ways to write the same ports: the one after the other is a change. lldpd is started with the second.
const PATTERNS: [&str; 2] = ["eth*,!lo", "eth*"];

fn lldpcli(arguments: &[&str]) -> Command {
    let mut command = Command::new("lldpcli");
    command.args(["-u", "/run/lldpd.socket", "-f", "json0"]).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Keeps `heard` up to date.
pub(super) async fn follow(name: String, mut links: watch::Receiver<u64>, heard: watch::Sender<Arc<Leaves>>) {
    loop {
        if let Err(error) = watched(&name, &mut links, &heard).await {
            eprintln!("lldpd: {error:#}");
        }
        tokio::time::sleep(NOT_YET).await;
    }
}

async fn watched(name: &str, links: &mut watch::Receiver<u64>, heard: &watch::Sender<Arc<Leaves>>) -> Result<()> {
    let mut watch: Child = lldpcli(&["watch"]).stdout(Stdio::piped()).spawn().context("start `lldpcli watch`")?;
    let mut lines = BufReader::new(watch.stdout.take().context("its output is a pipe")?).lines();
    let mut patterns = PATTERNS.iter().cycle();
    loop {
        let leaves = neighbours(name).await?;
        heard.send_if_modified(|before| {
            let is_new = **before != leaves;
            if is_new {
                *before = Arc::new(leaves);
            }
            is_new
        });
        tokio::select! {
            line = lines.next_line() => ensure!(line?.is_some(), "`lldpcli watch` ended"),
            changed = links.changed() => {
                changed.context("the kernel's messages ended")?;
                look_at_ports(patterns.next().context("a cycle has no end")?).await?;
            }
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
        tokio::time::sleep(TOGETHER).await;
        // The other lines of the same event.
        while let Ok(line) = tokio::time::timeout(Duration::from_millis(1), lines.next_line()).await {
            ensure!(line?.is_some(), "`lldpcli watch` ended");
        }
    }
}

/// Has lldpd look at its ports now, and announce itself on those that are new or up again. It does so whenever what it listens on changes
/// (`levent_update_now` of lldpd 1.0.16), where after a message of the kernel it waits a second for more of them (`levent_iface_recv`).
async fn look_at_ports(pattern: &str) -> Result<()> {
    let output = lldpcli(&["configure", "system", "interface", "pattern", pattern]).output().await?;
    ensure!(output.status.success(), "lldpcli: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

async fn neighbours(name: &str) -> Result<Leaves> {
    let output = lldpcli(&["show", "neighbors"]).output().await.context("start lldpcli: is it on the path?")?;
    ensure!(output.status.success(), "lldpcli: {}", String::from_utf8_lossy(&output.stderr));
    leaves(name, &serde_json::from_slice(&output.stdout).context("read what lldpcli says")?)
}

/// From what `lldpcli -f json0` says: everything is a list there.
fn leaves(name: &str, said: &Value) -> Result<Leaves> {
    let mut leaves = Leaves::from([("/lldp/state/system-name".to_owned(), text(name))]);
    let lists = said["lldp"].as_array().context("lldpcli says nothing of LLDP")?;
    for neighbour in lists.iter().filter_map(|list| list["interface"].as_array()).flatten() {
        let (Some(port), Some(id)) = (neighbour["name"].as_str(), neighbour["rid"].as_str()) else { continue };
        let of = format!("/lldp/interfaces/interface[name={port}]/neighbors/neighbor[id={id}]/state");
        let (chassis, far) = (&neighbour["chassis"][0], &neighbour["port"][0]);
        for (leaf, value) in [
            ("id", Some(id)),
            ("system-name", chassis["name"][0]["value"].as_str()),
            ("chassis-id", chassis["id"][0]["value"].as_str()),
            ("port-id", far["id"][0]["value"].as_str()),
            ("port-description", far["descr"][0]["value"].as_str()),
        ] {
            leaves.extend(value.map(|value| (format!("{of}/{leaf}"), text(value))));
        }
    }
    Ok(leaves)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_is_named_by_its_system_and_its_port() -> Result<()> {
        let said = serde_json::json!({"lldp": [{"interface": [{
            "name": "eth4", "via": "LLDP", "rid": "2",
            "chassis": [{"id": [{"type": "mac", "value": "02:00"}], "name": [{"value": "spine0"}]}],
            "port": [{"id": [{"type": "ifname", "value": "eth1"}], "descr": [{"value": "eth1"}]}]
        }]}]});
        let of = "/lldp/interfaces/interface[name=eth4]/neighbors/neighbor[id=2]/state";
        let expected = [
            (format!("{of}/chassis-id"), text("02:00")),
            (format!("{of}/id"), text("2")),
            (format!("{of}/port-description"), text("eth1")),
            (format!("{of}/port-id"), text("eth1")),
            (format!("{of}/system-name"), text("spine0")),
            ("/lldp/state/system-name".to_owned(), text("leaf0")),
        ];
        assert_eq!(leaves("leaf0", &said)?, Leaves::from(expected));
        assert_eq!(leaves("leaf0", &serde_json::json!({"lldp": [{}]}))?.len(), 1);
        Ok(())
    }
}
