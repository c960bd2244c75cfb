//! Does the map follow? Changes the fabric of a lab that is up, nothing restarted, and measures when the collector's map says so.
//!
//! In: a lab that is up. Out: a [`Report`]: for each change when the kernel told of it, and how long after that the map did. An instant is the
//! kernel's own: its notification of the port (rtnetlink), heard in the namespace where the change is made. The map is asked by the API, as an
//! operator would. Never: a change that is still there when it ends in order.

use crate::{
    cgroup, daemons, enter, fabric, fault, interrupt,
    lab::Lab,
    plan::{End, Link, LinkKind},
    progress::Step,
    routing, verify,
};
use anyhow::{Context, Result, ensure};
use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
    },
    time::{TimeVal, TimeValLike},
};
use serde::Serialize;
use serde_json::Value;
use std::{
    os::fd::{AsRawFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

/// include/uapi/linux/rtnetlink.h, `RTMGRP_LINK`: links that come, go or change.
const LINKS: u32 = 1;
/// Between two looks at the map.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// What is not on the map by then is not.
const GIVE_UP: Duration = Duration::from_secs(20);
/// The fabric is left alone so long before a change, and a port stays down so long: what LLDP said of it has ended by then.
const CALM: Duration = Duration::from_millis(1_200);
/// A host's agent must have said all of itself by then.
const SETTLED: Duration = Duration::from_secs(60);

/// What is changed, and how soon it must show.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Options {
    /// Links that are taken down and up again: every other one a host's
    #[arg(long, default_value_t = 4)]
    pub links: usize,
    /// A change of a link or cable is on the map within this, ms
    #[arg(long, default_value_t = 1000.0)]
    pub within_ms: f64,
    /// Adds no host
    #[arg(long)]
    pub no_host: bool,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// In words.
    pub what: String,
    /// What the map must say then.
    pub until: String,
    /// From the command to the kernel's notification, or to the command's end where that is of several ports, ms.
    pub kernel_ms: f64,
    /// From there to the map, ms; null where it was given up.
    pub map_ms: Option<f64>,
    /// Within this it must be, ms; null where it is only measured.
    pub within_ms: Option<f64>,
    /// Who says it then: source and reporter.
    pub by: Vec<String>,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// In order.
    pub changes: Vec<Change>,
    /// Links that the map did not have as down for as long as they were.
    pub lost: Vec<String>,
    /// The map is the plan again at the end, but for what is remembered of a host that was taken away.
    pub equals_plan: bool,
    /// What differs.
    pub differences: Vec<String>,
}

impl Change {
    fn is_in_time(&self) -> bool {
        match (self.map_ms, self.within_ms) {
            (None, _) => false,
            (Some(ms), Some(within_ms)) => ms <= within_ms,
            (Some(_), None) => true,
        }
    }
}

impl Report {
    /// An error where a change came late or not at all.
    ///
    /// # Errors
    /// That.
    pub fn must_be_in_time(&self) -> Result<()> {
        let late = self.changes.iter().filter(|change| !change.is_in_time());
        let late: Vec<_> = late
            .map(|change| match change.map_ms {
                Some(ms) => format!("{}: after {ms:.0} ms", change.what),
                None => format!("{}: not within {GIVE_UP:?}", change.what),
            })
            .collect();
        ensure!(late.is_empty(), "the map did not follow in time: {}", late.join("; "));
        ensure!(self.lost.is_empty(), "links that were down were not on the map: {}", self.lost.join(", "));
        ensure!(self.equals_plan, "the map is not the plan at the end: {}", self.differences.join("; "));
        Ok(())
    }
}

/// The kernel's notifications of links in one node.
struct Kernel(OwnedFd);

impl Kernel {
    fn open(lab: &Lab, node: &str) -> Result<Self> {
        enter::inside(lab, node, || {
            let socket =
                socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
                    .context("open rtnetlink")?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, LINKS)).context("hear of links")?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(GIVE_UP.as_secs().cast_signed()))?;
            Ok(Self(socket))
        })
    }

    /// When it tells of the first link that changes, while `change` is made; and when that began.
    fn told(&self, change: impl FnOnce() -> Result<()>) -> Result<(Instant, Instant)> {
        thread::scope(|scope| {
            let hears = scope.spawn(|| {
                let mut message = [0; 4096];
                recv(self.0.as_raw_fd(), &mut message, MsgFlags::empty()).map(|_| Instant::now())
            });
            let begun = Instant::now();
            change()?;
            let at = hears.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((begun, at.context("the kernel tells of the change")?))
        })
    }
}

/// Changes the lab of this name, and puts it back.
///
/// # Errors
/// The lab does not do what it is told; what the map says is no error.
pub fn churn(name: &str, options: Options) -> Result<Report> {
    let mut lab = Lab::find(name)?;
    let step = Step::begin("the map is the plan before");
    let before = verify::map(&lab, SETTLED)?;
    ensure!(before.equals_plan, "the map is not the plan before anything changed: {}", before.differences.join("; "));
    step.done();
    let mut report = Report::default();
    let of_kind = |kind| lab.plan.links.iter().filter(move |link| link.kind == kind);
    let turns = of_kind(LinkKind::Host).map(Some).chain(std::iter::repeat(None));
    let turns = turns.zip(of_kind(LinkKind::Fabric).map(Some).chain(std::iter::repeat(None)));
    let links: Vec<_> = turns.take(lab.plan.links.len()).flat_map(|(host, fabric)| [host, fabric]).flatten().collect();
    for link in links.into_iter().take(options.links) {
        bounce(&lab, link, options, &mut report)?;
    }
    if let Some(link) = of_kind(LinkKind::Host).next_back() {
        move_cable(&lab, link, options, &mut report)?;
    }
    let mut known = Vec::new();
    if !options.no_host {
        let host = add(&mut lab, options, &mut report)?;
        remove(&mut lab, &host, options, &mut report)?;
        // That it exists is believed for a day, its ports for ten minutes (docs/map.md).
        known = vec![format!("beyond host {host}")];
        known.extend((0..lab.plan.sizes.rails).map(|rail| format!("beyond port {host}:eth{rail}")));
    }
    let begun = Instant::now();
    loop {
        let differences = verify::map(&lab, Duration::ZERO)?.differences;
        report.differences = differences.into_iter().filter(|what| !known.contains(what)).collect();
        report.equals_plan = report.differences.is_empty();
        if report.equals_plan || begun.elapsed() > SETTLED {
            return Ok(report);
        }
        interrupt::pause(Duration::from_millis(500))?;
    }
}

/// Takes a link down at its switch, and up again.
fn bounce(lab: &Lab, link: &Link, options: Options, report: &mut Report) -> Result<()> {
    let end = switch_end(link);
    let kernel = Kernel::open(lab, &end.node)?;
    interrupt::pause(CALM)?;
    let what = |how: &str| format!("{} {how} at {}", link.name, end.node);
    let is_down = |map: &Value| found(map, &link.name).is_some_and(|row| row["up"] == false);
    let (begun, told) = kernel.told(|| fault::set_port(lab, end, false))?;
    report.see(lab, what("down"), "the link is down", (begun, told), Some(options.within_ms), is_down)?;
    interrupt::pause(CALM)?;
    // What LLDP said of it has ended at both ends, and the cable is remembered.
    let map = daemons::get(lab, "/v1/topology")?;
    report.lost.extend((!is_down(&map)).then(|| link.name.clone()));
    // What else the kernel told of it is of the past.
    let kernel = Kernel::open(lab, &end.node)?;
    let is_up = |map: &Value| found(map, &link.name).is_some_and(|row| row["up"] == true);
    let (begun, told) = kernel.told(|| fault::set_port(lab, end, true))?;
    report.see(lab, what("up"), "the link is up", (begun, told), Some(options.within_ms), is_up)
}

/// Puts a host's cable into another port of its leaf, and back.
fn move_cable(lab: &Lab, link: &Link, options: Options, report: &mut Report) -> Result<()> {
    const ELSEWHERE: &str = "eth99";
    let (host, leaf) = (&link.a, &link.b);
    let elsewhere = format!("{host}-{}:{ELSEWHERE}", leaf.node);
    for (from, to, old, new) in [
        (leaf.port.as_str(), ELSEWHERE, &link.name, &elsewhere),
        (ELSEWHERE, leaf.port.as_str(), &elsewhere, &link.name),
    ] {
        interrupt::pause(CALM)?;
        let begun = Instant::now();
        fabric::rename_port(lab, &leaf.node, from, to)?;
        let told = Instant::now();
        let is_there = |map: &Value| {
            let is_up = |name: &str| found(map, name).is_some_and(|row| row["up"] == true);
            is_up(new) && !is_up(old)
        };
        let what = format!("the cable of {host} moves from {from} to {to} of {}", leaf.node);
        let until = format!("{new} is up and {old} is not");
        report.see(lab, what, &until, (begun, told), Some(options.within_ms), is_there)?;
    }
    Ok(())
}

/// Adds a whole host. Its name.
fn add(lab: &mut Lab, options: Options, report: &mut Report) -> Result<String> {
    let name = lab.plan.grow()?;
    lab.write()?;
    let host = lab.plan.host(&name).context("the plan has the host that it grew by")?.clone();
    let step = Step::begin(format!("{name} comes: its namespace, links, routing, LLDP, hardware and agent"));
    cgroup::add(&lab.name, &name)?;
    routing::write_node(lab, &name)?;
    daemons::issue(lab, &host)?;
    let begun = Instant::now();
    fabric::add_host(lab, &name)?;
    let wired = Instant::now();
    for link in lab.plan.links_of(&name) {
        routing::announce(lab, link, true)?;
    }
    routing::start_lldpd(lab, &name)?;
    daemons::start_hardware_of(lab, &host)?;
    let started = Instant::now();
    daemons::start_agent(lab, &host)?;
    step.done();
    let links: Vec<_> = lab.plan.links_of(&name).map(|link| link.name.clone()).collect();
    let are_up = |map: &Value| links.iter().all(|link| found(map, link).is_some_and(|row| row["up"] == true));
    let is_host = |map: &Value| has_node(map, &name);
    report.see(
        lab,
        format!("the agent of {name} starts"),
        "the host is on the map",
        (wired, started),
        None,
        is_host,
    )?;
    report.see(lab, format!("{name} is wired"), "its links are on the map, up", (begun, wired), None, are_up)?;
    let step = Step::begin("the map is the plan, which has grown");
    let verdict = verify::map(lab, SETTLED)?;
    ensure!(verdict.equals_plan, "the map is not the plan with {name}: {}", verdict.differences.join("; "));
    step.done();
    // Cables of the new host move and fall as any other.
    let link = lab.plan.links_of(&name).next().context("a host has a link")?.clone();
    bounce(lab, &link, options, report)?;
    Ok(name)
}

/// Takes a host away as it stands: its processes killed, its cables out.
fn remove(lab: &mut Lab, name: &str, options: Options, report: &mut Report) -> Result<()> {
    let links: Vec<_> = lab.plan.links_of(name).cloned().collect();
    interrupt::pause(CALM)?;
    for link in &links {
        routing::announce(lab, link, false)?;
    }
    // The cable is out when the leaf's kernel says so: a namespace goes at its leisure.
    let leaf = links.first().context("a host has a link")?.b.node.clone();
    let (begun, told) = Kernel::open(lab, &leaf)?.told(|| {
        cgroup::remove_node(&lab.name, name)?;
        fabric::remove_node(lab, name)
    })?;
    lab.plan.shrink();
    lab.write()?;
    let are_down = |map: &Value| links.iter().all(|link| found(map, &link.name).is_none_or(|row| row["up"] != true));
    let until = "its links are not up";
    report.see(lab, format!("{name} is taken away"), until, (begun, told), Some(options.within_ms), are_down)?;
    let are_gone = |map: &Value| links.iter().all(|link| found(map, &link.name).is_none());
    report.see(lab, format!("{name} is taken away"), "its links are gone", (begun, told), None, are_gone)
}

impl Report {
    /// Waits until the map is so.
    fn see(
        &mut self,
        lab: &Lab,
        what: String,
        until: &str,
        (begun, told): (Instant, Instant),
        within_ms: Option<f64>,
        is_so: impl Fn(&Value) -> bool,
    ) -> Result<()> {
        let ms = |duration: Duration| (duration.as_secs_f64() * 10_000.0).round() / 10.0;
        let mut map_ms = None;
        let mut map = Value::Null;
        while map_ms.is_none() && told.elapsed() < GIVE_UP {
            map = daemons::get(lab, "/v1/topology")?;
            if is_so(&map) {
                map_ms = Some(ms(told.elapsed()));
            } else {
                interrupt::pause(LOOK_AGAIN)?;
            }
        }
        let kernel_ms = ms(told.duration_since(begun));
        let by = words_on(&map, &what);
        let shown = map_ms.map_or("not seen".to_owned(), |ms| format!("{ms:.0} ms"));
        eprintln!("churn: {what}: {until} {shown}");
        self.changes.push(Change { what, until: until.to_owned(), kernel_ms, map_ms, within_ms, by });
        Ok(())
    }
}

fn found<'m>(map: &'m Value, link: &str) -> Option<&'m Value> {
    map["links"].as_array()?.iter().find(|row| row["name"] == link)
}

fn has_node(map: &Value, name: &str) -> bool {
    map["nodes"].as_array().is_some_and(|nodes| nodes.iter().any(|node| node["name"] == name))
}

/// Who says what the map has of the link that a change is named after.
fn words_on(map: &Value, what: &str) -> Vec<String> {
    let link = what.split(' ').next().unwrap_or_default();
    let row = found(map, link).cloned().unwrap_or_default();
    let texts = |field: &str| {
        let words = row[field].as_array().cloned().unwrap_or_default();
        words.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    [texts("sources"), texts("reporters")].concat()
}

/// The end that is set down and up: always a switch's.
fn switch_end(link: &Link) -> &End {
    if link.kind == LinkKind::Host { &link.b } else { &link.a }
}
