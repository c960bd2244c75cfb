//! `/v1/hosts/{host}/series` and `/v1/hosts/{host}/tape`: what a host reads, and the readings themselves around an instant;
//! `/v1/incidents/{id}/tape`: those that were kept.
//!
//! In: a host, selectors, an instant and a span. Out: readings on the collector's timeline; each keeps the half-width of
//! its own reading, and the uncertainty of the host's clock stands beside them all, for whoever compares hosts.

use super::ApiState;
use super::problem::Problem;
use super::routes::{bad_query, number};
use crate::clock::Timeline;
use crate::live::{Definition, rfc3339};
use crate::tape::selector::{self, Selector};
use crate::tape::{Fetched, Unanswered, Wanted};
use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use railwatch_engine::Timestamp;
use railwatch_wire::limits::TAPE_SERIES_MAX;
use railwatch_wire::tape::Reading;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Time looked at where the query does not say how much.
const SPAN_MS_DEFAULT: u64 = 10_000;
/// And at most.
const SPAN_MS_MAX: u64 = 600_000;

/// What a series is.
#[derive(Serialize)]
pub(super) struct Meaning {
    series: String,
    /// What to ask for it with.
    selector: String,
    name: String,
    labels: BTreeMap<String, String>,
    entity_kind: String,
    entity: String,
    unit: String,
    monotonic: bool,
}

impl From<&Definition> for Meaning {
    fn from(definition: &Definition) -> Self {
        Self {
            series: format!("{:016x}", definition.id),
            selector: selector::text(definition),
            name: definition.name.clone(),
            labels: definition.labels.clone(),
            entity_kind: definition.entity_kind.clone(),
            entity: definition.entity_name.clone(),
            unit: definition.unit.clone(),
            monotonic: definition.monotonic,
        }
    }
}

#[derive(Serialize)]
struct ReadingRow {
    at: Timestamp,
    half_width_ns: u64,
    value: Number,
}

/// A counter's raw steps, or a gauge's value; one that is not finite is null.
#[derive(Serialize)]
#[serde(untagged)]
enum Number {
    Steps(u64),
    Value(f64),
}

#[derive(Serialize)]
struct SeriesTape {
    #[serde(flatten)]
    meaning: Meaning,
    readings: Vec<ReadingRow>,
}

/// The answer.
#[derive(Serialize)]
pub(super) struct TapeAnswer {
    host: String,
    from: Timestamp,
    to: Timestamp,
    clock_uncertainty_us: u64,
    /// From here on the tape holds every reading; absent while it is empty.
    complete_since: Option<Timestamp>,
    /// More readings lie between `from` and `to` than one answer holds: the latest are missing.
    cut: bool,
    series: Vec<SeriesTape>,
}

#[derive(Default)]
struct Asked {
    selectors: Vec<Selector>,
    around: Option<Timestamp>,
    ago_ms: u64,
    span_ms: u64,
}

impl Asked {
    fn parse(pairs: Vec<(String, String)>) -> Result<Self, Problem> {
        let mut asked = Self { span_ms: SPAN_MS_DEFAULT, ..Self::default() };
        for (key, value) in pairs {
            let number = || {
                value
                    .parse::<u64>()
                    .map_err(|_| Problem::bad_request(format!("{key}={value}: expected a whole number")))
            };
            match key.as_str() {
                "series" => asked.selectors.push(Selector::parse(&value).map_err(Problem::bad_request)?),
                "around" => asked.around = Some(Timestamp(number()?)),
                "ago_ms" => asked.ago_ms = number()?,
                "span_ms" => asked.span_ms = number()?,
                _ => {
                    return Err(Problem::bad_request(format!(
                        "{key:?} is no part of this query; there are series (several times), around, ago_ms, span_ms"
                    )));
                }
            }
        }
        if asked.selectors.is_empty() {
            return Err(Problem::bad_request("no series: series=NAME says which; /v1/hosts/{host}/series lists them"));
        }
        if !(1..=SPAN_MS_MAX).contains(&asked.span_ms) {
            return Err(Problem::bad_request(format!("span_ms={}: expected 1 to {SPAN_MS_MAX}", asked.span_ms)));
        }
        if asked.around.is_some() && asked.ago_ms > 0 {
            return Err(Problem::bad_request("around and ago_ms both say when: give one of them"));
        }
        Ok(asked)
    }
}

/// The host's definitions, by selector.
fn definitions(api: &ApiState, host: &str) -> Result<Vec<Arc<Definition>>, Problem> {
    let cell = api
        .0
        .live
        .find(host)
        .ok_or_else(|| Problem::not_found(format!("no host {host:?} is known; GET /v1/hosts lists them")))?;
    Ok(cell.lock().series.iter().map(|series| Arc::clone(&series.definition)).collect())
}

pub(super) async fn series(
    State(api): State<ApiState>,
    Path(host): Path<String>,
) -> Result<Json<Vec<Meaning>>, Problem> {
    let mut rows: Vec<Meaning> = definitions(&api, &host)?.iter().map(|definition| (&**definition).into()).collect();
    rows.sort_by(|a, b| (&a.entity, &a.selector).cmp(&(&b.entity, &b.selector)));
    Ok(Json(rows))
}

pub(super) async fn tape(
    State(api): State<ApiState>,
    Path(host): Path<String>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Json<TapeAnswer>, Problem> {
    let Query(pairs) = query.map_err(bad_query)?;
    let asked = Asked::parse(pairs)?;
    let chosen = choose(&definitions(&api, &host)?, &asked.selectors, &host)?;
    let around =
        asked.around.unwrap_or(Timestamp(Timeline::now().0.saturating_sub(asked.ago_ms.saturating_mul(1_000_000))));
    let half_ns = asked.span_ms * 500_000;
    let (from, to) = (Timestamp(around.0.saturating_sub(half_ns)), Timestamp(around.0.saturating_add(half_ns)));
    let wanted = Wanted { series: chosen.iter().map(|definition| definition.id).collect(), from, to };
    let fetched = api.0.tapes.fetch(&api.0.live, &host, &wanted).await?;
    in_reach(&host, &fetched, to)?;
    // Up to a hundred thousands of readings: not on a thread that serves others.
    let answer = tokio::task::spawn_blocking(move || answer(host, from, to, &chosen, fetched)).await;
    answer.map(Json).map_err(|_| Problem::unavailable("the collector is stopping"))
}

/// The piece that was kept for an incident, as it lies on disk.
pub(super) async fn kept(
    State(api): State<ApiState>,
    id: Result<Path<u64>, PathRejection>,
) -> Result<impl IntoResponse, Problem> {
    let id = number(id)?;
    let kept = api.0.kept.clone();
    let read = tokio::task::spawn_blocking(move || kept.find(id).map(std::fs::read)).await;
    match read {
        Ok(Some(Ok(text))) => Ok(([(header::CONTENT_TYPE, "application/json")], text)),
        Ok(Some(Err(error))) => {
            Err(Problem::unavailable(format!("the piece kept for incident {id} cannot be read: {error}")))
        }
        Ok(None) => Err(Problem::not_found(format!(
            "no piece of tape is kept for incident {id}: its host was away or had no series, it came within the last \
             seconds, or newer ones took its place; `tape_kept` of GET /v1/incidents/ID says which have one"
        ))),
        Err(_) => Err(Problem::unavailable("the collector is stopping")),
    }
}

fn choose(known: &[Arc<Definition>], selectors: &[Selector], host: &str) -> Result<Vec<Arc<Definition>>, Problem> {
    let mut chosen: Vec<Arc<Definition>> = Vec::new();
    for selector in selectors {
        let before = chosen.len();
        let is_new = |chosen: &[Arc<Definition>], id| chosen.iter().all(|definition| definition.id != id);
        let matching: Vec<_> = known.iter().filter(|definition| selector.matches(definition)).collect();
        if matching.is_empty() {
            let near = selector.near(known.iter().map(|definition| &**definition));
            let hint = if near.is_empty() {
                format!("{} series are known there; /v1/hosts/{host}/series lists them", known.len())
            } else {
                format!("near are: {}", near.join(", "))
            };
            return Err(Problem::not_found(format!("host {host} has no such series ({selector}); {hint}")));
        }
        for definition in matching {
            if is_new(&chosen[..before], definition.id) {
                chosen.push(Arc::clone(definition));
            }
        }
    }
    if chosen.len() > TAPE_SERIES_MAX {
        return Err(Problem::bad_request(format!(
            "{} series match; at most {TAPE_SERIES_MAX} are read at a time: name an entity with @, or labels",
            chosen.len()
        )));
    }
    Ok(chosen)
}

/// Whether the tape reaches so far back at all.
fn in_reach(host: &str, fetched: &Fetched, to: Timestamp) -> Result<(), Problem> {
    let nothing = fetched.series.iter().all(|(_, _, readings)| readings.is_empty());
    match fetched.complete_since {
        Some(since) if nothing && to < since => Err(Problem::new(
            StatusCode::NOT_FOUND,
            "out-of-reach",
            "The tape does not reach back so far",
            format!(
                "the tape of host {host} reaches back to {} ({} s ago): a larger [tape] bytes_max on the host reaches further",
                rfc3339(since),
                Timeline::now().0.saturating_sub(since.0) / 1_000_000_000
            ),
        )),
        _ => Ok(()),
    }
}

fn answer(host: String, from: Timestamp, to: Timestamp, chosen: &[Arc<Definition>], fetched: Fetched) -> TapeAnswer {
    let Fetched { series, clock, cut, complete_since } = fetched;
    let mut by_id: BTreeMap<u64, (bool, Vec<Reading>)> =
        series.into_iter().map(|(id, gauge, readings)| (id, (gauge, readings))).collect();
    let series = chosen.iter().map(|definition| {
        let (gauge, readings) = by_id.remove(&definition.id).unwrap_or_default();
        let readings = readings.into_iter().map(|reading| ReadingRow {
            at: clock.map(reading.at_mono_ns),
            half_width_ns: reading.half_width_ns,
            value: if gauge { Number::Value(f64::from_bits(reading.bits)) } else { Number::Steps(reading.bits) },
        });
        SeriesTape { meaning: (&**definition).into(), readings: readings.collect() }
    });
    TapeAnswer {
        host,
        from,
        to,
        clock_uncertainty_us: clock.uncertainty_ns.div_ceil(1000),
        complete_since,
        cut,
        series: series.collect(),
    }
}

impl From<Unanswered> for Problem {
    fn from(why: Unanswered) -> Self {
        let detail = why.to_string();
        let problem = |status, name, title| Self::new(status, name, title, detail.clone());
        match why {
            Unanswered::Away(_) | Unanswered::Gone(_) => {
                problem(StatusCode::SERVICE_UNAVAILABLE, "host-away", "The host is away").retry_after(5)
            }
            Unanswered::NoClock(_) | Unanswered::Busy => Self::unavailable(detail),
            Unanswered::Overloaded => Self::unavailable(detail).retry_after(5),
            Unanswered::TimedOut(_) => {
                problem(StatusCode::GATEWAY_TIMEOUT, "host-silent", "The host does not answer").retry_after(5)
            }
            Unanswered::Refused(..) => problem(StatusCode::CONFLICT, "tape-refused", "The host gives no tape"),
            Unanswered::Malformed(..) => {
                problem(StatusCode::BAD_GATEWAY, "tape-malformed", "The host's answer is wrong")
            }
        }
    }
}
