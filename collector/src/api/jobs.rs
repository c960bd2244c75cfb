//! Jobs with what they do to the fabric: who talks to whom, over which links, and which jobs share a link.
//!
//! In: jobs, flows and queue pairs of live state, the map. Out: a row per job. A link is one that some flow of the job may take: which of several ways
//! a flow takes `railwatch path` tells. Never: a conversation whose ends are not on the fabric; those are counted.

use super::ApiState;
use super::path::links_between;
use super::problem::Problem;
use super::routes::{HostQueried, HostQuery, bad_query};
use crate::live::Live;
use crate::live::rows::JobRow;
use axum::Json;
use axum::extract::{Query, State};
use railwatch_engine::map::Topology;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// Conversations of one job that are listed; more are counted.
const TALKS_MAX: usize = 4096;
/// Ways of one conversation that are looked at.
const PATHS_MAX: usize = 64;

/// A job, and what it does to the fabric.
#[derive(Serialize)]
pub(super) struct JobOnFabric {
    #[serde(flatten)]
    job: JobRow,
    /// Pairs of ports that its processes' flows and queue pairs join.
    talks: Vec<Talk>,
    /// Of its flows and queue pairs: without two known ends on the fabric.
    elsewhere: u64,
    /// Pairs beyond those listed.
    talks_beyond: u64,
    /// Links that its flows may take.
    links: Vec<String>,
    /// Jobs whose flows may take some of the same links.
    shares: Vec<Share>,
}

/// One direction between two ports.
#[derive(Serialize)]
struct Talk {
    from: String,
    to: String,
    /// TCP connections.
    flows: u64,
    /// RDMA queue pairs.
    queue_pairs: u64,
    /// Every flow between these takes them.
    links: Vec<String>,
    /// Each flow takes some of them.
    links_possible: Vec<String>,
}

/// A job that shares links.
#[derive(Serialize)]
struct Share {
    job: String,
    links: Vec<String>,
}

/// A job is whole, on whatever hosts it runs: the query keeps those that run on the host too.
pub(super) async fn jobs(State(api): State<ApiState>, query: HostQueried) -> Result<Json<Vec<JobOnFabric>>, Problem> {
    let Query(HostQuery { host: only }) = query.map_err(bad_query)?;
    let made = tokio::task::spawn_blocking(move || {
        let mut rows = on_fabric(&api.0.live, &api.0.map.topology());
        if let Some(only) = only {
            rows.retain(|row| row.job.hosts.contains(&only));
        }
        rows
    });
    made.await.map(Json).map_err(|_| Problem::unavailable("the collector is stopping"))
}

/// How many of each kind.
#[derive(Default)]
struct Counts {
    flows: u64,
    queue_pairs: u64,
}

fn on_fabric(live: &Live, topology: &Topology) -> Vec<JobOnFabric> {
    let nics = topology.fabric.nics().iter().map(|nic| (nic.port.node.as_str(), nic.port.port.as_str()));
    let number: HashMap<(&str, &str), usize> = nics.zip(0..).collect();
    // All addresses of each: a flow may be over IPv6 beside IPv4.
    let nic_of: HashMap<IpAddr, usize> = topology
        .ports
        .iter()
        .filter_map(|port| Some((*number.get(&(port.node.as_str(), port.port.as_str()))?, &port.addresses)))
        .flat_map(|(nic, addresses)| addresses.iter().map(move |address| (*address, nic)))
        .collect();
    let mut rows: Vec<JobOnFabric> = live.jobs().into_iter().map(|job| row(job, live, topology, &nic_of)).collect();
    let mut users: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (number, row) in rows.iter().enumerate() {
        row.links.iter().for_each(|link| users.entry(link).or_default().push(number));
    }
    let mut shared: BTreeMap<(usize, usize), Vec<String>> = BTreeMap::new();
    for (link, users) in &users {
        for one in users {
            for other in users.iter().filter(|other| *other != one) {
                shared.entry((*one, *other)).or_default().push((*link).to_owned());
            }
        }
    }
    for ((one, other), links) in shared {
        let job = rows[other].job.job.clone();
        rows[one].shares.push(Share { job, links });
    }
    rows
}

fn row(job: JobRow, live: &Live, topology: &Topology, nic_of: &HashMap<IpAddr, usize>) -> JobOnFabric {
    let mut pairs: BTreeMap<(usize, usize), Counts> = BTreeMap::new();
    let mut elsewhere = 0;
    let nic = |address: &str| address.parse::<IpAddr>().ok().and_then(|address| nic_of.get(&address).copied());
    let mut pids: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
    for rank in job.ranks.iter().filter(|rank| rank.exited_at.is_none()) {
        pids.entry(&rank.host).or_default().insert(rank.pid);
    }
    for (host, pids) in pids {
        let Some(cell) = live.find(host) else { continue };
        let host = cell.lock();
        let mut count = |source: &str, destination: &str, add: fn(&mut Counts)| match (nic(source), nic(destination)) {
            (Some(from), Some(to)) if from != to => add(pairs.entry((from, to)).or_default()),
            _ => elsewhere += 1,
        };
        for flow in host.peers.flows.iter().filter(|flow| pids.contains(&flow.pid)) {
            count(&flow.source, &flow.destination, |counts| counts.flows += 1);
        }
        for pair in host.peers.queue_pairs.iter().filter(|pair| pids.contains(&pair.pid)) {
            count(&pair.source, &pair.destination, |counts| counts.queue_pairs += 1);
        }
    }
    let talks_beyond = pairs.len().saturating_sub(TALKS_MAX) as u64;
    let mut links = BTreeSet::new();
    let mut talks = Vec::new();
    for ((from, to), counts) in pairs.into_iter().take(TALKS_MAX) {
        let ways = links_between(topology, from, to, PATHS_MAX);
        let possible: BTreeSet<&String> = ways.iter().flat_map(|(_, links)| links).collect();
        let is_certain = |link: &&&String| ways.iter().all(|(_, links)| links.contains(link));
        let (certain, open): (Vec<&String>, Vec<&String>) = possible.iter().partition(is_certain);
        links.extend(possible.iter().map(|link| (*link).clone()));
        let nics = topology.fabric.nics();
        talks.push(Talk {
            from: nics[from].port.to_string(),
            to: nics[to].port.to_string(),
            flows: counts.flows,
            queue_pairs: counts.queue_pairs,
            links: certain.into_iter().cloned().collect(),
            links_possible: open.into_iter().cloned().collect(),
        });
    }
    JobOnFabric { job, talks, elsewhere, talks_beyond, links: links.into_iter().collect(), shares: Vec::new() }
}
