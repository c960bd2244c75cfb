//! Which way a flow goes, or may go, in both directions, and what it passes.
//!
//! In: two ends, the ports of a flow where there is one. Out: paths with how likely each is. Of a flow that nobody has traced lately the agents at
//! both ends are asked for a trace; where they cannot, all ways are told.

use super::ApiState;
use super::problem::Problem;
use super::routes::bad_query;
use crate::clock::Timeline;
use crate::map::elements::{Element, Parts};
use crate::map::endpoint;
use crate::traces;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use railwatch_engine::map::{Flow, Nic, Topology, Transport, Ways};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Paths of one answer, each way.
const PATHS_MAX: usize = 256;
/// Longest name of an end, bytes: a host's, a port's, and what is between.
const WORD_BYTES_MAX: usize = 512;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PathQuery {
    from: String,
    to: String,
    source_port: Option<u16>,
    destination_port: Option<u16>,
    #[serde(default = "udp")]
    transport: Transport,
}

fn udp() -> Transport {
    Transport::Udp
}

/// One way that a flow may take.
#[derive(Serialize)]
struct PathRow {
    probability: f64,
    elements: Vec<Element>,
}

/// One direction.
#[derive(Serialize)]
struct Side {
    paths: Vec<PathRow>,
    exact: bool,
    why: String,
    /// There are more paths than are listed.
    cut: bool,
}

/// An end as it was understood.
#[derive(Serialize)]
struct End {
    port: String,
    address: std::net::IpAddr,
}

#[derive(Serialize)]
pub(super) struct PathAnswer {
    #[serde(flatten)]
    there: Side,
    back: Side,
    from: End,
    to: End,
    /// The 5-tuple there; null where its ports were not given.
    flow: Option<Flow>,
}

pub(super) async fn path(
    State(api): State<ApiState>,
    query: Result<Query<PathQuery>, QueryRejection>,
) -> Result<Json<PathAnswer>, Problem> {
    let Query(PathQuery { from, to, source_port, destination_port, transport }) = query.map_err(bad_query)?;
    if from.len().max(to.len()) > WORD_BYTES_MAX {
        return Err(Problem::bad_request(format!("an end has at most {WORD_BYTES_MAX} bytes")));
    }
    let ports = match (source_port, destination_port) {
        (Some(source), Some(destination)) => Some((source, destination)),
        (None, None) => None,
        _ => {
            return Err(Problem::bad_request(
                "a flow has two ports: give source_port and destination_port, or neither of them",
            ));
        }
    };
    let topology = api.0.map.topology();
    let nics = |word: &str| endpoint::nics(&topology, word).map_err(Problem::not_found);
    let (sources, destinations) = (nics(&from)?, nics(&to)?);
    let Some((a, b)) = endpoint::pair(&topology, &sources, &destinations) else {
        return Err(Problem::bad_request(format!("{from} and {to} are one NIC: a path leads from one to another")));
    };
    let (near, far) = (topology.fabric.nics()[a].clone(), topology.fabric.nics()[b].clone());
    let Some((source, destination)) = endpoint::addresses(&topology, (&from, a), (&to, b)) else {
        return Err(Problem::bad_request(format!(
            "{from} and {to} have no addresses of one family: nothing goes from IPv4 to IPv6"
        )));
    };
    let there = ports.map(|(source_port, destination_port)| Flow {
        source,
        destination,
        transport,
        source_port,
        destination_port,
    });
    let back = there.as_ref().map(Flow::reversed);
    let now = Timeline::now();
    let known = |from, to, flow: &Option<Flow>| topology.ways(from, to, flow.as_ref(), now);
    let (mut ways, mut ways_back) = (known(a, b, &there), known(b, a, &back));
    let mut shown = Arc::clone(&topology);
    if let (Some(there), Some(back)) = (&there, &back) {
        // Where there is no way, or one only, nothing is left to be seen.
        let is_open = |ways: &Ways| !ways.exact && !ways.set.paths.is_empty();
        let (seen, seen_back) =
            tokio::join!(trace(&api, &near, there, is_open(&ways)), trace(&api, &far, back, is_open(&ways_back)));
        if seen.is_ok() || seen_back.is_ok() {
            let room = api.0.map.clone();
            shown = tokio::task::spawn_blocking(move || room.make())
                .await
                .map_err(|_| Problem::unavailable("the collector is stopping"))?;
        }
        // The map may be another by now: the ends are found again.
        let again = (shown.nic_at(source), shown.nic_at(destination));
        let (Some(a), Some(b)) = again else {
            return Err(Problem::unavailable("the map changed while the flow was traced: ask again"));
        };
        let now = Timeline::now();
        ways = shown.ways(a, b, Some(there), now);
        ways_back = shown.ways(b, a, Some(back), now);
        for (ways, seen) in [(&mut ways, seen), (&mut ways_back, seen_back)] {
            if let (false, Err(Some(why))) = (ways.exact, seen) {
                ways.why = format!("{}; {why}", ways.why);
            }
        }
    }
    let live = api.0.live.clone();
    let (of_near, of_far) = (sources.len(), destinations.len());
    let made = tokio::task::spawn_blocking(move || {
        let parts = Parts::new(&shown, &live);
        let mut answer = PathAnswer {
            there: side(&parts, ways),
            back: side(&parts, ways_back),
            from: End { port: near.port.to_string(), address: source },
            to: End { port: far.port.to_string(), address: destination },
            flow: there,
        };
        if of_near.max(of_far) > 1 {
            let why = &mut answer.there.why;
            *why = format!("{why}; from {} to {}: name a port to ask for another", answer.from.port, answer.to.port);
        }
        answer
    });
    made.await.map(Json).map_err(|_| Problem::unavailable("the collector is stopping"))
}

fn side(parts: &Parts<'_>, Ways { set, exact, why }: Ways) -> Side {
    let cut = set.cut || set.paths.len() > PATHS_MAX;
    let row = |(probability, path): &(f64, railwatch_engine::map::Path)| PathRow {
        probability: *probability,
        elements: parts.of(path),
    };
    Side { paths: set.paths.iter().take(PATHS_MAX).map(row).collect(), exact, why, cut }
}

/// Has the agent of a NIC trace a flow that begins there, where that is wanted; else `Err(None)`. `Err` with why it could not.
async fn trace(api: &ApiState, nic: &Nic, flow: &Flow, wanted: bool) -> Result<(), Option<String>> {
    if !wanted {
        return Err(None);
    }
    let asked = traces::flow(nic.port.port.clone(), flow, 0);
    let host = &nic.port.node;
    let traced = api.0.map.traces().ask(host, vec![asked]).await.map_err(|error| Some(error.to_string()))?;
    let Some(traced) = traced.into_iter().next() else { return Err(None) };
    if !traced.failed.is_empty() {
        return Err(Some(format!("the agent of host {host} could not trace it: {}", traced.failed)));
    }
    api.0.map.traced(host, flow.clone(), traces::hops(&traced), traced.reached, Timeline::now());
    Ok(())
}

/// For [`super::jobs`]: all ways between two addresses, by the names of their links.
pub(super) fn links_between(topology: &Topology, from: usize, to: usize, paths_max: usize) -> Vec<(f64, Vec<String>)> {
    let named = |(likely, path): (f64, railwatch_engine::map::Path)| {
        let links = path.iter().filter_map(|way| topology.fabric.links().get(way.link));
        (likely, links.map(ToString::to_string).collect())
    };
    topology.fabric.paths(from, to, paths_max).paths.into_iter().map(named).collect()
}
