//! The inventory file: what people know of the fabric and no machine says.
//!
//! In: a TOML file, read again when it changes. Out: a report of the source `inventory`. A file that cannot be read leaves what the one
//! before it said, and says so in the log once. Never: a file half taken.

use super::{MapRoom, Reports};
use crate::clock::Timeline;
use railwatch_engine::map::{NodeKind, PortName, Source, Statement};
use serde::Deserialize;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

/// Who reports.
pub const REPORTER: &str = "inventory-file";
/// How often it is looked whether the file changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Largest file, bytes: 10,000 nodes of 64 cables.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The file as people write it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Inventory {
    node: Vec<NodeEntry>,
    port: Vec<PortEntry>,
    cable: Vec<CableEntry>,
    rack: Vec<RackEntry>,
    power_feed: Vec<PowerFeedEntry>,
    line_card: Vec<LineCardEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeEntry {
    name: String,
    kind: NodeKind,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PortEntry {
    name: String,
    #[serde(default)]
    addresses: Vec<IpAddr>,
    speed_bits_per_s: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CableEntry {
    a: String,
    b: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RackEntry {
    name: String,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    switches: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PowerFeedEntry {
    name: String,
    racks: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LineCardEntry {
    switch: String,
    name: String,
    ports: Vec<String>,
}

/// What the text of a file says.
pub fn parse(text: &str) -> Result<Vec<Statement>, String> {
    let Inventory { node, port, cable, rack, power_feed, line_card } =
        toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
    let mut says = Vec::new();
    let part = |outer: String, inner: String| Statement::Contains { outer, inner };
    for NodeEntry { name, kind } in node {
        says.push(Statement::Node { name, kind });
    }
    for PortEntry { name, addresses, speed_bits_per_s } in port {
        let port = port_name(&name)?;
        says.push(Statement::Port { port, up: None, speed_bits_per_s, addresses, mac: None });
    }
    for CableEntry { a, b } in cable {
        let (near, far) = (port_name(&a)?, port_name(&b)?);
        if near == far {
            return Err(format!("the cable from {a} leads to where it begins"));
        }
        for port in [&near, &far] {
            says.push(Statement::Port {
                port: port.clone(),
                up: None,
                speed_bits_per_s: None,
                addresses: vec![],
                mac: None,
            });
        }
        says.push(Statement::Cable { near, far });
    }
    for RackEntry { name, hosts, switches } in rack {
        let of_kind = |kind: &'static str| move |node: String| format!("{kind}/{node}");
        let inside = hosts.into_iter().map(of_kind("host")).chain(switches.into_iter().map(of_kind("switch")));
        says.extend(inside.map(|inner| part(format!("rack/{name}"), inner)));
    }
    for PowerFeedEntry { name, racks } in power_feed {
        says.extend(racks.into_iter().map(|rack| part(format!("power_feed/{name}"), format!("rack/{rack}"))));
    }
    for LineCardEntry { switch, name, ports } in line_card {
        let card = format!("line_card/{switch}/{name}");
        says.push(part(format!("switch/{switch}"), card.clone()));
        says.extend(ports.into_iter().map(|port| part(card.clone(), format!("port/{switch}/{port}"))));
    }
    Ok(merged(says))
}

/// One statement for each port: what its own entry says, and that its cable names it, are one thing.
fn merged(says: Vec<Statement>) -> Vec<Statement> {
    let told: std::collections::BTreeSet<PortName> = says
        .iter()
        .filter_map(|says| match says {
            Statement::Port { port, addresses, speed_bits_per_s, .. }
                if !addresses.is_empty() || speed_bits_per_s.is_some() =>
            {
                Some(port.clone())
            }
            _ => None,
        })
        .collect();
    let is_bare = |says: &Statement| matches!(says, Statement::Port { port, addresses, speed_bits_per_s: None, .. } if addresses.is_empty() && told.contains(port));
    says.into_iter().filter(|says| !is_bare(says)).collect()
}

fn port_name(name: &str) -> Result<PortName, String> {
    match name.split_once(':') {
        Some((node, port)) if !node.is_empty() && !port.is_empty() => {
            Ok(PortName { node: node.to_owned(), port: port.to_owned() })
        }
        _ => Err(format!("{name:?} is no port: write NODE:PORT, as in \"leaf0:eth3\"")),
    }
}

/// What tells one version of the file from another without reading it.
fn version(path: &Path) -> io::Result<(SystemTime, u64)> {
    std::fs::metadata(path).and_then(|metadata| Ok((metadata.modified()?, metadata.len())))
}

fn read(path: &Path) -> Result<Vec<Statement>, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it is larger than {FILE_BYTES_MAX} bytes"));
    }
    parse(&text)
}

/// Reports what the file says, and again when it changes, until told to stop.
pub async fn follow(path: PathBuf, room: MapRoom, stop: CancellationToken) {
    let mut seen = None;
    loop {
        let found = version(&path).map_err(|error| error.kind());
        if seen != Some(found) {
            let file = path.clone();
            let said = tokio::task::spawn_blocking(move || read(&file)).await;
            match said {
                Ok(Ok(says)) => {
                    tracing::info!(file = %path.display(), statements = says.len(), "the map's inventory file is read");
                    room.report(REPORTER, Source::Inventory, says, Timeline::now());
                }
                // It may be written later.
                Ok(Err(_)) if found == Err(io::ErrorKind::NotFound) && seen.is_none() => {
                    tracing::warn!(file = %path.display(), "the map's inventory file is not there yet");
                }
                Ok(Err(why)) => tracing::error!(
                    file = %path.display(),
                    "the map's inventory file is not taken, what it said before stays: {why}"
                ),
                Err(_) => return,
            }
            seen = Some(found);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}
