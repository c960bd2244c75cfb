//! What is installed and set: what holds, what changed, who differs.

use super::ApiState;
use super::problem::Problem;
use super::routes::bad_query;
use crate::inventory::drift::{By, DriftRow};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use railwatch_engine::{Incident, Timestamp};
use railwatch_store::{ChangeFilter, InventoryChange, InventoryFilter, InventoryRow, Reader, StoreError};
use serde::Deserialize;

/// Rows of one answer.
const ROWS_MAX: u64 = 10_000;
/// Changes of one answer where the query does not say how many.
const CHANGES_DEFAULT: u64 = 1000;
/// Longest pattern, bytes.
const PATTERN_BYTES_MAX: usize = 255;
/// How long before an incident a change still counts as just before.
const BEFORE_INCIDENT_NS: u64 = 600_000_000_000;
/// What is read once a minute is known that much later than it happened.
const KNOWN_LATER_NS: u64 = 60_000_000_000;
/// Changes shown with an incident.
const WITH_INCIDENT_MAX: u64 = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InventoryQuery {
    host: Option<String>,
    entity: Option<String>,
    key: Option<String>,
    limit: Option<u64>,
}

pub(super) async fn inventory(
    State(api): State<ApiState>,
    query: Result<Query<InventoryQuery>, QueryRejection>,
) -> Result<Json<Vec<InventoryRow>>, Problem> {
    let Query(InventoryQuery { host, entity, key, limit }) = query.map_err(bad_query)?;
    check(&entity)?;
    check(&key)?;
    let filter = InventoryFilter { host, entity, key, limit: self::limit(limit, ROWS_MAX)? };
    api.0.readers.query(move |reader| reader.inventory(&filter)).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HistoryQuery {
    host: Option<String>,
    key: Option<String>,
    /// Unix nanoseconds.
    since: Option<u64>,
    until: Option<u64>,
    limit: Option<u64>,
}

pub(super) async fn history(
    State(api): State<ApiState>,
    query: Result<Query<HistoryQuery>, QueryRejection>,
) -> Result<Json<Vec<InventoryChange>>, Problem> {
    let Query(HistoryQuery { host, key, since, until, limit }) = query.map_err(bad_query)?;
    check(&key)?;
    let limit = self::limit(limit, CHANGES_DEFAULT)?;
    let filter = ChangeFilter { host, key, since: since.map(Timestamp), until: until.map(Timestamp), limit };
    api.0.readers.query(move |reader| reader.inventory_changes(&filter)).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DriftQuery {
    host: Option<String>,
    #[serde(default)]
    by: By,
}

pub(super) async fn drift(
    State(api): State<ApiState>,
    query: Result<Query<DriftQuery>, QueryRejection>,
) -> Result<Json<Vec<DriftRow>>, Problem> {
    let Query(DriftQuery { host, by }) = query.map_err(bad_query)?;
    let made = tokio::task::spawn_blocking(move || {
        let live = &api.0.live;
        let mut rows = live.inventories().standing().look(live, by);
        if let Some(host) = host {
            rows.retain(|row| row.host == host);
        }
        rows.truncate(usize::try_from(ROWS_MAX).unwrap_or(usize::MAX));
        rows
    });
    made.await.map(Json).map_err(|_| Problem::unavailable("the collector is stopping"))
}

/// What is known to have changed on the host of an incident shortly before it began, newest first.
pub(super) fn before_incident(reader: &Reader, incident: &Incident) -> Result<Vec<InventoryChange>, StoreError> {
    let began = incident.started;
    reader.inventory_changes(&ChangeFilter {
        host: Some(incident.element.host.clone()),
        since: Some(Timestamp(began.0.saturating_sub(BEFORE_INCIDENT_NS))),
        until: Some(Timestamp(began.0.saturating_add(KNOWN_LATER_NS))),
        limit: WITH_INCIDENT_MAX,
        ..ChangeFilter::default()
    })
}

fn check(pattern: &Option<String>) -> Result<(), Problem> {
    match pattern {
        Some(pattern) if pattern.len() > PATTERN_BYTES_MAX => {
            Err(Problem::bad_request(format!("a pattern has at most {PATTERN_BYTES_MAX} bytes")))
        }
        _ => Ok(()),
    }
}

fn limit(asked: Option<u64>, default: u64) -> Result<u64, Problem> {
    match asked {
        None => Ok(default),
        Some(limit @ 1..=ROWS_MAX) => Ok(limit),
        Some(limit) => Err(Problem::bad_request(format!("limit={limit}: expected 1 to {ROWS_MAX}"))),
    }
}
