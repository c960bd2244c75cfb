//! Is the map true? Compares the collector's map with the lab's own plan, and the paths that it predicts with those that packets take.
//!
//! In: a lab that is up. Out: a [`Verdict`]: what the map lacks of the plan, what it has beyond, and for random 5-tuples whether the way that a capture at
//! every switch shows is the one predicted. Packets are UDP with a mark of their own; nothing else is captured. Never: a look at routing
//! tables: what a packet did is the proof.

mod capture;

use crate::{
    daemons, enter, interrupt,
    lab::Lab,
    plan::{End, Link, LinkKind, Plan},
    progress::Step,
};
use anyhow::{Context, Result, ensure};
use capture::{Capture, Seen};
use serde::Serialize;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    net::{SocketAddrV4, UdpSocket},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

/// What the map must know of the plan by then: hosts report within a second, an inventory file is read within one more.
const SETTLES_WITHIN: Duration = Duration::from_secs(20);
/// Questions that the collector is asked at one time: an agent without traces lets each wait.
const ASKERS: usize = 8;
/// Flows that are sent and captured together: what waits in a capture must fit into its buffer.
const BATCH: usize = 100;
/// A packet that crosses four links of the lab has arrived by then.
const ARRIVES_WITHIN: Duration = Duration::from_secs(5);

/// What is asked.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// Random 5-tuples whose ways are captured
    #[arg(long, default_value_t = 100)]
    pub flows: u32,
    /// What they are drawn from
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// First write the map's inventory file from the plan: the links between switches that no host sees
    #[arg(long)]
    pub inventory: bool,
}

/// Names of one kind: those of the plan that the map has, those that it lacks, those that it has beyond.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// In the plan.
    pub planned: usize,
    /// Of those, on the map.
    pub found: usize,
    /// Of those, not on the map.
    pub missing: Vec<String>,
    /// On the map, not in the plan.
    pub beyond: Vec<String>,
}

/// A flow whose way was not one of those predicted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WrongFlow {
    /// `10.0.0.1:40000>10.0.1.1:4791`.
    pub flow: String,
    /// What the capture showed.
    pub took: Vec<String>,
    /// What was predicted, likeliest first.
    pub predicted: Vec<Vec<String>>,
}

/// What came out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Verdict {
    /// By name.
    pub hosts: Compared,
    /// By name.
    pub switches: Compared,
    /// Of hosts and leaves.
    pub host_links: Compared,
    /// Of leaves and spines.
    pub fabric_links: Compared,
    /// At which a link ends.
    pub ports: Compared,
    /// What the map itself says that it contradicts.
    pub contradictions: Vec<String>,
    /// What the map itself says that it does not know.
    pub unknown: Vec<String>,
    /// Flows sent.
    pub flows: usize,
    /// Of those, whose way was captured whole.
    pub captured: usize,
    /// Of those, for which one way was predicted as the one.
    pub exact: usize,
    /// Of the exact ones, that took it.
    pub exact_right: usize,
    /// Of the others, that took one of those predicted.
    pub set_right: usize,
    /// Why no one way was predicted of these, in the collector's words, and of how many.
    pub set_because: BTreeMap<String, usize>,
    /// Those of which no way was predicted: the map lacks the links.
    pub unpredicted: usize,
    /// Those that took another.
    pub wrong: Vec<WrongFlow>,
    /// How long it took to compare the map, until it was whole or given up, s.
    pub map_s: f64,
    /// How long it took to predict, send and compare all flows, s.
    pub flows_s: f64,
}

/// The map beside the plan, in short.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MapFound {
    /// Every host, switch, link and port, nothing beyond, no contradiction.
    pub equals_plan: bool,
    /// What is not so, in words.
    pub differences: Vec<String>,
    /// How long it took until it was so, or given up.
    pub seconds: f64,
}

/// Predicted ways beside those that packets took, in short.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PathsFound {
    /// Flows whose packet was seen all its way.
    pub checked: usize,
    /// Of those, that took the one way that was predicted.
    pub exact: usize,
    /// Of those, that took one of several predicted.
    pub as_set: usize,
    /// Why these were not predicted exactly, in the collector's words, and how many.
    pub as_set_because: BTreeMap<String, usize>,
    /// Of those, that took another, or of which none was predicted.
    pub wrong: Vec<WrongFlow>,
    /// Flows beside those, whose packet was not seen all its way.
    pub unseen: usize,
    /// How long all of it took.
    pub seconds: f64,
}

impl Verdict {
    /// The map equals the plan, and every flow took a way that was predicted.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let all = [&self.hosts, &self.switches, &self.host_links, &self.fabric_links, &self.ports];
        all.iter().all(|compared| compared.missing.is_empty() && compared.beyond.is_empty())
            && self.contradictions.is_empty()
            && self.wrong.is_empty()
            && self.unpredicted == 0
            && self.captured == self.flows
    }

    /// What of the plan the map lacks, what it has beyond, and what it contradicts.
    #[must_use]
    pub fn map(&self) -> MapFound {
        let kinds = [
            ("host", &self.hosts),
            ("switch", &self.switches),
            ("host link", &self.host_links),
            ("fabric link", &self.fabric_links),
            ("port", &self.ports),
        ];
        let named = |what: &str, kind: &str, names: &[String]| {
            names.iter().map(|name| format!("{what} {kind} {name}")).collect::<Vec<_>>()
        };
        let differ = kinds.iter().flat_map(|(kind, compared)| {
            [named("missing", kind, &compared.missing), named("beyond", kind, &compared.beyond)].concat()
        });
        let differences: Vec<_> =
            differ.chain(named("contradicted", "by the map itself:", &self.contradictions)).collect();
        MapFound { equals_plan: differences.is_empty(), differences, seconds: self.map_s }
    }

    /// How the flows went.
    #[must_use]
    pub fn paths(&self) -> PathsFound {
        PathsFound {
            checked: self.captured,
            exact: self.exact_right,
            as_set: self.set_right,
            as_set_because: self.set_because.clone(),
            wrong: self.wrong.clone(),
            unseen: self.flows - self.captured,
            seconds: self.flows_s,
        }
    }
}

/// Compares.
///
/// # Errors
/// The collector does not answer, or packets cannot be sent or captured.
pub fn verify(lab: &Lab, options: Options) -> Result<Verdict> {
    if options.inventory {
        write_inventory(lab)?;
    }
    let mut verdict = settled(lab, SETTLES_WITHIN)?;
    let flows = draw(lab, options);
    let step = Step::begin(format!("the ways of {} flows, predicted and captured", flows.len()));
    let begun = Instant::now();
    for batch in flows.chunks(BATCH) {
        check(lab, batch, &mut verdict)?;
    }
    verdict.flows_s = begun.elapsed().as_secs_f64();
    step.done();
    Ok(verdict)
}

/// The map beside the plan, once it is that, or after this time.
///
/// # Errors
/// The collector does not answer.
pub fn map(lab: &Lab, within: Duration) -> Result<MapFound> {
    Ok(settled(lab, within)?.map())
}

fn settled(lab: &Lab, within: Duration) -> Result<Verdict> {
    let begun = Instant::now();
    loop {
        let verdict = compared(lab, &daemons::get(lab, "/v1/topology")?);
        if verdict.is_whole() || begun.elapsed() > within {
            return Ok(Verdict { map_s: begun.elapsed().as_secs_f64(), ..verdict });
        }
        interrupt::pause(Duration::from_millis(500))?;
    }
}

/// Where the lab's collector looks for it.
#[must_use]
pub fn inventory_file(lab: &Lab) -> std::path::PathBuf {
    lab.folder.join("map.toml")
}

/// What no host sees: the switches, their ports and addresses, the cables between them.
fn write_inventory(lab: &Lab) -> Result<()> {
    let mut text = String::new();
    for switch in &lab.plan.switches {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "[[node]]\nname = {:?}\nkind = \"switch\"\n", switch.name);
    }
    for link in lab.plan.links.iter().filter(|link| link.kind == LinkKind::Fabric) {
        for end in [&link.a, &link.b] {
            let _ = writeln!(text, "[[port]]\nname = \"{end}\"\naddresses = [\"{}\"]\n", end.address);
        }
        let _ = writeln!(text, "[[cable]]\na = \"{}\"\nb = \"{}\"\n", link.a, link.b);
    }
    // At once, so that no half of it is read.
    let (file, new) = (inventory_file(lab), lab.folder.join("map.toml.new"));
    fs::write(&new, text).and_then(|()| fs::rename(&new, &file)).with_context(|| format!("write {}", file.display()))
}

fn texts<'v>(rows: &'v Value, field: &str) -> BTreeSet<&'v str> {
    rows.as_array().into_iter().flatten().filter_map(|row| row[field].as_str()).collect()
}

/// The map beside the plan.
fn compared(lab: &Lab, map: &Value) -> Verdict {
    let plan = &lab.plan;
    let of_kind = |kind: &str| {
        let nodes = map["nodes"].as_array().into_iter().flatten();
        nodes.filter(|node| node["kind"] == kind).filter_map(|node| node["name"].as_str()).collect::<BTreeSet<_>>()
    };
    let hosts: BTreeSet<_> = plan.hosts.iter().map(|host| host.name.as_str()).collect();
    let switches: BTreeSet<_> = plan.switches.iter().map(|switch| switch.name.as_str()).collect();
    let links = |kind: LinkKind| {
        let of_kind = plan.links.iter().filter(move |link| link.kind == kind);
        of_kind.map(|link| link.name.as_str()).collect::<BTreeSet<_>>()
    };
    let (of_hosts, of_fabric) = (links(LinkKind::Host), links(LinkKind::Fabric));
    let is_host_link = |name: &&str| hosts.contains(name.split(':').next().unwrap_or_default());
    let (known_of_hosts, known_of_fabric): (BTreeSet<_>, BTreeSet<_>) =
        texts(&map["links"], "name").into_iter().partition(is_host_link);
    let ports: BTreeSet<String> = plan.links.iter().flat_map(|link| [link.a.to_string(), link.b.to_string()]).collect();
    let known_ports = map["ports"].as_array().into_iter().flatten();
    let known_ports = known_ports.filter_map(|port| Some((port["node"].as_str()?, port["port"].as_str()?)));
    // Ports of management belong to no link of the plan.
    let is_fabric = |(_, port): &(&str, &str)| port.starts_with("eth");
    let known_ports: BTreeSet<String> =
        known_ports.filter(is_fabric).map(|(node, port)| format!("{node}:{port}")).collect();
    let said = |rows: &Value| {
        let rows = rows.as_array().into_iter().flatten();
        let word = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
        rows.map(|row| format!("{} {}", word(row, "kind"), word(row, "about"))).collect()
    };
    Verdict {
        hosts: compare(&hosts, &of_kind("host")),
        switches: compare(&switches, &of_kind("switch")),
        host_links: compare(&of_hosts, &known_of_hosts),
        fabric_links: compare(&of_fabric, &known_of_fabric),
        ports: compare(&ports.iter().map(String::as_str).collect(), &known_ports.iter().map(String::as_str).collect()),
        contradictions: said(&map["contradictions"]),
        unknown: said(&map["unknown"]),
        ..Verdict::default()
    }
}

fn compare(planned: &BTreeSet<&str>, known: &BTreeSet<&str>) -> Compared {
    let names = |set: Vec<&&str>| set.into_iter().map(|name| (*name).to_owned()).collect();
    Compared {
        planned: planned.len(),
        found: planned.intersection(known).count(),
        missing: names(planned.difference(known).collect()),
        beyond: names(known.difference(planned).collect()),
    }
}

/// A flow to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flow {
    number: u32,
    from: (String, String, SocketAddrV4),
    to: (String, String, SocketAddrV4),
}

/// Flows between NICs of different hosts, on one rail or between rails.
fn draw(lab: &Lab, options: Options) -> Vec<Flow> {
    // SplitMix64 (Steele, Lea, Flood 2014): the same flows for the same seed, without a dependency.
    let mut state = options.seed;
    let mut below = move |bound: u64| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    };
    let hosts = &lab.plan.hosts;
    if hosts.len() < 2 {
        return Vec::new();
    }
    let mut pick = |bound: usize| usize::try_from(below(bound as u64)).unwrap_or_default();
    // Ports below those that the kernel gives out by itself (net.ipv4.ip_local_port_range).
    let mut flows = Vec::new();
    for number in 0..options.flows {
        let from = pick(hosts.len());
        let to = (from + 1 + pick(hosts.len() - 1)) % hosts.len();
        let mut end = |host: &crate::plan::Host| {
            let nic = &host.nics[pick(host.nics.len())];
            let port = 10_000 + u16::try_from(pick(20_000)).unwrap_or_default();
            (host.name.clone(), nic.port.clone(), SocketAddrV4::new(nic.address, port))
        };
        flows.push(Flow { number, from: end(&hosts[from]), to: end(&hosts[to]) });
    }
    flows
}

/// Predicts, sends, and compares with what was captured.
fn check(lab: &Lab, flows: &[Flow], verdict: &mut Verdict) -> Result<()> {
    let predicted = predictions(lab, flows)?;
    let captures: Vec<Capture> =
        lab.plan.switches.iter().map(|switch| Capture::open(lab, &switch.name)).collect::<Result<_>>()?;
    // Whoever listens there keeps the receiver's kernel from answering that nobody does.
    let mut listening = Vec::new();
    for flow in flows {
        listening.push(enter::inside(lab, &flow.to.0, || bound(flow.to.2))?);
        let socket = enter::inside(lab, &flow.from.0, || bound(flow.from.2))?;
        let packet = [&capture::MARK.to_be_bytes()[..], &flow.number.to_be_bytes()].concat();
        socket
            .send_to(&packet, flow.to.2)
            .with_context(|| format!("send a packet from {} to {}", flow.from.2, flow.to.2))?;
    }
    let mut ways: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    let end = Instant::now() + ARRIVES_WITHIN;
    let mut seen: BTreeMap<u32, BTreeMap<String, Seen>> = BTreeMap::new();
    while ways.len() < flows.len() && Instant::now() < end {
        for (switch, capture) in lab.plan.switches.iter().zip(&captures) {
            for (number, passed) in capture.take()? {
                seen.entry(number).or_default().insert(switch.name.clone(), passed);
            }
        }
        for flow in flows.iter().filter(|flow| !ways.contains_key(&flow.number)).collect::<Vec<_>>() {
            if let Some(way) = seen.get(&flow.number).and_then(|seen| way(lab, flow, seen)) {
                ways.insert(flow.number, way);
            }
        }
        interrupt::pause(Duration::from_millis(20))?;
    }
    drop(listening);
    for flow in flows {
        verdict.flows += 1;
        let Some(took) = ways.remove(&flow.number) else { continue };
        verdict.captured += 1;
        let Some(Predicted { exact, paths, why }) = predicted.get(&flow.number) else { continue };
        verdict.exact += usize::from(*exact);
        verdict.unpredicted += usize::from(paths.is_empty());
        match (exact, paths.contains(&took)) {
            (true, true) => verdict.exact_right += 1,
            (false, true) => {
                verdict.set_right += 1;
                *verdict.set_because.entry(why.clone()).or_default() += 1;
            }
            (_, false) => verdict.wrong.push(WrongFlow {
                flow: format!("{}>{}", flow.from.2, flow.to.2),
                took,
                predicted: paths.clone(),
            }),
        }
    }
    Ok(())
}

fn bound(address: SocketAddrV4) -> Result<UdpSocket> {
    UdpSocket::bind(address).with_context(|| format!("bind {address}"))
}

/// Follows a packet from switch to switch by the ports that it left by; nothing where some switch has not seen it leave yet.
fn way(lab: &Lab, flow: &Flow, seen: &BTreeMap<String, Seen>) -> Option<Vec<String>> {
    let plan = &lab.plan;
    let first = at_port(plan, &flow.from.0, &flow.from.1)?;
    let mut way = vec![first.directed(&flow.from.0)];
    let mut at = first.opposite(&flow.from.0).node.as_str();
    // A packet that goes in circles ends with its time to live; here with the switches.
    while at != flow.to.0 && way.len() <= plan.switches.len() + 1 {
        let link = at_port(plan, at, &seen.get(at)?.out)?;
        way.push(link.directed(at));
        at = link.opposite(at).node.as_str();
    }
    (at == flow.to.0).then_some(way)
}

fn at_port<'p>(plan: &'p Plan, node: &str, port: &str) -> Option<&'p Link> {
    let is_end = |end: &End| end.node == node && end.port == port;
    plan.links.iter().find(|link| is_end(&link.a) || is_end(&link.b))
}

/// What the collector says of a flow.
struct Predicted {
    /// One way, and it is the one.
    exact: bool,
    /// The likeliest first.
    paths: Vec<Vec<String>>,
    /// What this rests on.
    why: String,
}

/// What the collector predicts of each flow.
fn predictions(lab: &Lab, flows: &[Flow]) -> Result<BTreeMap<u32, Predicted>> {
    let (found, failed) = (Mutex::new(BTreeMap::new()), Mutex::new(None));
    thread::scope(|scope| {
        for part in flows.chunks(flows.len().div_ceil(ASKERS).max(1)) {
            let (found, failed) = (&found, &failed);
            scope.spawn(move || {
                for flow in part {
                    match predict(lab, flow) {
                        Ok(predicted) => {
                            let mut found = found.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                            found.insert(flow.number, predicted);
                        }
                        Err(error) => {
                            *failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
                            return;
                        }
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)),
    }
}

fn predict(lab: &Lab, flow: &Flow) -> Result<Predicted> {
    let ((from, from_port, source), (to, to_port, destination)) = (&flow.from, &flow.to);
    let answer = daemons::get(
        lab,
        &format!(
            "/v1/path?from={from}:{from_port}&to={to}:{to_port}&source_port={}&destination_port={}",
            source.port(),
            destination.port()
        ),
    )?;
    let paths = answer["paths"].as_array().context("an answer has paths")?;
    ensure!(answer["exact"].is_boolean(), "an answer says whether it is exact: {answer}");
    let way = |path: &Value| {
        let elements = path["elements"].as_array().into_iter().flatten();
        let links = elements.filter_map(|element| element["direction"].as_str());
        links.map(str::to_owned).collect::<Vec<_>>()
    };
    Ok(Predicted {
        exact: answer["exact"] == true,
        paths: paths.iter().map(way).collect(),
        why: answer["why"].as_str().unwrap_or_default().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::*;
    use crate::lab::Programs;
    use crate::plan::Sizes;
    use serde_json::json;

    fn lab() -> Lab {
        let nowhere = std::path::PathBuf::from("/nonexistent");
        let programs = Programs { own: nowhere.clone(), routing: nowhere.clone(), libraries: nowhere.clone() };
        let plan = Plan::new(Sizes::default()).unwrap();
        Lab { name: "test".into(), folder: nowhere, kept: false, kernel_nexthops: false, plan, programs }
    }

    /// The plan as the map would tell it.
    fn map(lab: &Lab) -> Value {
        let plan = &lab.plan;
        let node = |name: &str, kind: &str| json!({"name": name, "kind": kind});
        let hosts = plan.hosts.iter().map(|host| node(&host.name, "host"));
        let switches = plan.switches.iter().map(|switch| node(&switch.name, "switch"));
        let ends = plan.links.iter().flat_map(|link| [&link.a, &link.b]);
        let ports = ends.map(|end| json!({"node": end.node, "port": end.port}));
        json!({
            "nodes": hosts.chain(switches).collect::<Vec<_>>(),
            "ports": ports.chain([json!({"node": "host0", "port": "mgmt0"})]).collect::<Vec<_>>(),
            "links": plan.links.iter().map(|link| json!({"name": link.name})).collect::<Vec<_>>(),
            "contradictions": [], "unknown": [],
        })
    }

    #[test]
    fn the_plan_itself_is_whole_and_each_thing_that_differs_is_named() {
        let lab = lab();
        let whole = compared(&lab, &map(&lab));
        assert!(whole.is_whole(), "{whole:?}");
        assert_eq!((whole.host_links.planned, whole.fabric_links.planned, whole.ports.found), (16, 8, 48));
        let mut other = map(&lab);
        other["links"][0]["name"] = json!("host0:eth0-leaf0:eth7");
        other["nodes"].as_array_mut().unwrap().pop();
        let found = compared(&lab, &other);
        assert!(!found.is_whole());
        assert_eq!(found.host_links.missing, ["host0:eth0-leaf0:eth0"]);
        assert_eq!(found.host_links.beyond, ["host0:eth0-leaf0:eth7"]);
        assert_eq!(found.switches.missing, ["spine1"]);
        let mut other = map(&lab);
        other["contradictions"] = json!([{"kind": "address", "about": "10.0.0.1"}]);
        assert_eq!(compared(&lab, &other).contradictions, ["address 10.0.0.1"]);
        assert_eq!(compared(&lab, &map(&lab)).map().differences, [""; 0]);
        assert_eq!(
            found.map().differences,
            [
                "missing switch spine1",
                "missing host link host0:eth0-leaf0:eth0",
                "beyond host link host0:eth0-leaf0:eth7",
            ]
        );
        assert!(!compared(&lab, &other).map().equals_plan);
    }

    #[test]
    fn a_way_is_followed_by_the_ports_that_switches_sent_by() {
        let lab = lab();
        let end =
            |host: &str| (host.to_owned(), "eth0".to_owned(), SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 1));
        let flow = Flow { number: 1, from: end("host0"), to: end("host5") };
        let mut seen = BTreeMap::new();
        for (switch, out) in [("leaf0", "eth5"), ("spine1", "eth1")] {
            seen.insert(switch.to_owned(), Seen { out: out.into() });
        }
        assert_eq!(way(&lab, &flow, &seen), None, "one switch has not said yet");
        seen.insert("leaf1".into(), Seen { out: "eth1".into() });
        assert_eq!(
            way(&lab, &flow, &seen).unwrap(),
            ["host0:eth0>leaf0:eth0", "leaf0:eth5>spine1:eth0", "spine1:eth1>leaf1:eth5", "leaf1:eth1>host5:eth0"]
        );
        seen.insert("leaf1".into(), Seen { out: "eth5".into() });
        assert_eq!(way(&lab, &flow, &seen), None, "in circles");
    }

    #[test]
    fn flows_are_drawn_alike_for_a_seed_and_never_from_a_host_to_itself() {
        let lab = lab();
        let options = |seed| Options { flows: 200, seed, inventory: false };
        let flows = draw(&lab, options(1));
        assert_eq!(flows, draw(&lab, options(1)));
        assert_ne!(flows, draw(&lab, options(2)));
        assert!(flows.iter().all(|flow| flow.from.0 != flow.to.0));
        let hosts: BTreeSet<_> = flows.iter().map(|flow| &flow.from.0).collect();
        assert_eq!(hosts.len(), 8);
    }
}
