//! The map: as it is believed now, as it was, and what changed between two instants.

use super::ApiState;
use super::problem::Problem;
use super::routes::bad_query;
use crate::clock::Timeline;
use crate::map::history;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use railwatch_engine::Timestamp;
use railwatch_engine::map::{Kept, MapCounts, State as Fact, Topology};
use serde::Deserialize;
use serde_json::{Value, json};

/// Changes of one answer.
const CHANGES_MAX: u64 = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopologyQuery {
    /// Unix nanoseconds: the map as it was then.
    at: Option<u64>,
    /// Unix nanoseconds: what changed from then on, up to `at` where that is given.
    since: Option<u64>,
}

pub(super) async fn topology(
    State(api): State<ApiState>,
    query: Result<Query<TopologyQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(TopologyQuery { at, since }) = query.map_err(bad_query)?;
    let until = Timestamp(at.unwrap_or_else(|| Timeline::now().0));
    if let Some(since) = since.map(Timestamp) {
        if since >= until {
            return Err(Problem::bad_request("since is not before at, or not in the past"));
        }
        let ask = move |reader: &railwatch_store::Reader| {
            Ok((history::between(reader, since, until, CHANGES_MAX)?, reader.map_since()?))
        };
        let (changes, kept_since) = api.0.readers.query(ask).await?;
        let cut = changes.len() as u64 == CHANGES_MAX;
        return Ok(Json(json!({
            "since": since, "until": until, "kept_since": kept_since, "cut": cut, "changes": changes
        })));
    }
    if at.is_some() {
        let ask = move |reader: &railwatch_store::Reader| Ok((history::at(reader, until)?, reader.map_since()?));
        let (facts, kept_since) = api.0.readers.query(ask).await?;
        if kept_since.is_none_or(|kept_since| until < kept_since) {
            let from = kept_since.map_or_else(
                || "nothing of the map is kept yet".to_owned(),
                |since| format!("what is kept of the map begins at {}", crate::live::rfc3339(since)),
            );
            return Err(Problem::not_found(format!("{from}; ask for an instant from then on")));
        }
        return Ok(Json(past(until, facts)));
    }
    let (topology, counts) = (api.0.map.topology(), api.0.map.counts());
    let made = tokio::task::spawn_blocking(move || now(&topology, counts));
    made.await.map(Json).map_err(|_| Problem::unavailable("the collector is stopping"))
}

fn now(topology: &Topology, counts: MapCounts) -> Value {
    let Topology { nodes, ports, links, contains, contradictions, unknown, beyond, .. } = topology;
    json!({
        "nodes": nodes, "ports": ports, "links": links, "contains": contains,
        "contradictions": contradictions, "unknown": unknown, "beyond": beyond, "counts": counts,
    })
}

/// What held at an instant. Contradictions and what was unknown are not kept: they are null.
fn past(at: Timestamp, facts: Vec<(String, Kept, Timestamp)>) -> Value {
    let (mut nodes, mut ports, mut links, mut contains) = (vec![], vec![], vec![], vec![]);
    for (_, Kept { state, confidence, sources }, since) in facts {
        let (list, own) = match state {
            Fact::Node { name, is } => (&mut nodes, json!({"name": name, "kind": is})),
            Fact::Port { port, up, speed_bits_per_s, mac, addresses } => (
                &mut ports,
                json!({
                    "node": port.node, "port": port.port, "up": up, "speed_bits_per_s": speed_bits_per_s, "mac": mac,
                    "addresses": addresses,
                }),
            ),
            Fact::Link { name, a, b, up } => (&mut links, json!({"name": name, "a": a, "b": b, "up": up})),
            Fact::Contains { outer, inner } => (&mut contains, json!({"outer": outer, "inner": inner})),
        };
        let mut whole = own;
        whole["confidence"] = json!(confidence);
        whole["sources"] = json!(sources);
        whole["since"] = json!(since);
        list.push(whole);
    }
    json!({
        "at": at, "nodes": nodes, "ports": ports, "links": links, "contains": contains,
        "contradictions": null, "unknown": null, "beyond": null,
    })
}
