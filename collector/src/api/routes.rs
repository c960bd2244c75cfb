//! The routes: each takes its query, asks whoever knows, and answers in JSON.

use super::ApiState;
use super::problem::Problem;
use super::watch::watch;
use crate::auth::Caller;
use crate::live::Live;
use crate::live::rows::{
    DropAccountRow, DropRow, FlowRow, GpuCoverageRow, GpuProcessRow, HostRow, NeighbourRow, NicRow, OpticsRow,
    PeerAccountRow, PlacementRow, QueuePairRow, SourceCostRow,
};
use crate::switches::SwitchRow;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use railwatch_engine::{AuditEntry, Decision, DecisionState, Incident, Timestamp};
use railwatch_store::{AuditFilter, DecisionFilter, IncidentFilter, InventoryChange, SignalFilter, StoredSignal};
use serde::{Deserialize, Serialize};

/// Largest request body, bytes.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// Longest note or reason, bytes.
const NOTE_BYTES_MAX: usize = 1024;
/// Rows where the query does not say how many.
const LIMIT_DEFAULT: u64 = 100;
/// Rows at most.
const LIMIT_MAX: u64 = 1000;
/// Signals and decisions shown with an incident.
const WITH_INCIDENT_MAX: u64 = 100;

pub(super) fn router() -> Router<ApiState> {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/v1/version", get(version))
        .route("/v1/status", get(status))
        .route("/v1/hosts", get(hosts))
        .route("/v1/hosts/{host}/series", get(super::tape::series))
        .route("/v1/hosts/{host}/tape", get(super::tape::tape))
        .route("/v1/hosts/{host}/burst", post(super::host_burst::burst))
        .route("/v1/gpu/processes", get(gpu_processes))
        .route("/v1/gpu/coverage", get(gpu_coverage))
        .route("/v1/nic", get(nic))
        .route("/v1/sources", get(sources))
        .route("/v1/drops", get(drops))
        .route("/v1/drops/accounts", get(drop_accounts))
        .route("/v1/optics", get(optics))
        .route("/v1/neighbours", get(neighbours))
        .route("/v1/queue-pairs", get(queue_pairs))
        .route("/v1/flows", get(flows))
        .route("/v1/peers/accounts", get(peer_accounts))
        .route("/v1/inventory", get(super::inventory::inventory))
        .route("/v1/inventory/history", get(super::inventory::history))
        .route("/v1/inventory/drift", get(super::inventory::drift))
        .route("/v1/jobs", get(super::jobs::jobs))
        .route("/v1/placement", get(placement))
        .route("/v1/switches", get(switches))
        .route("/v1/incidents", get(incidents))
        .route("/v1/incidents/{id}", get(incident))
        .route("/v1/incidents/{id}/tape", get(super::tape::kept))
        .route("/v1/signals", get(signals))
        .route("/v1/decisions", get(decisions))
        .route("/v1/decisions/{id}", get(decision))
        .route("/v1/decisions/{id}/verdict", post(verdict))
        .route("/v1/audit", get(audit))
        .route("/v1/watch", get(watch))
        .route("/v1/topology", get(super::topology::topology))
        .route("/v1/path", get(super::path::path))
        .route("/v1/halt", get(halt_state).post(halt))
        .fallback(async || Problem::not_found("there is nothing at this path; docs/API.md lists what there is"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method",
                "The method does not fit the path",
                "docs/API.md says which methods each path has",
            )
        })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

async fn ready(State(api): State<ApiState>) -> Result<&'static str, Problem> {
    if let Some(why) = api.0.core.store_error() {
        return Err(Problem::unavailable(format!("the store cannot be written: {why}")));
    }
    api.0.readers.query(|reader| reader.decision(0).map(drop)).await?;
    Ok("ready\n")
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
    api: &'static str,
}

async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION"), api: "v1" })
}

/// How much the collector has to do, and what it left out.
#[derive(Serialize)]
struct Status {
    level: &'static str,
    frames_waiting: u64,
    store_lag_ms: u64,
    store_error: Option<String>,
    shed: Shed,
}

/// Since the collector started. Signals are never among it.
#[derive(Serialize)]
struct Shed {
    tape: u64,
    windows: u64,
    streams: u64,
}

async fn status(State(api): State<ApiState>) -> Json<Status> {
    let load = api.0.core.overload().figures();
    Json(Status {
        level: load.level.name(),
        frames_waiting: load.frames,
        store_lag_ms: load.lag_ms,
        store_error: api.0.core.store_error(),
        shed: Shed { tape: load.tapes_refused, windows: load.windows_shed, streams: load.hosts_turned_away },
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HostQuery {
    pub(super) host: Option<String>,
}

pub(super) type HostQueried = Result<Query<HostQuery>, QueryRejection>;

/// Rows of live state, of one host where that is asked. Made on a thread that may be busy: there may be 10,000 hosts.
async fn live_rows<T: Send + 'static>(
    api: ApiState,
    query: HostQueried,
    rows: fn(&Live) -> Vec<T>,
    host: fn(&T) -> &str,
) -> Result<Json<Vec<T>>, Problem> {
    let Query(HostQuery { host: only }) = query.map_err(bad_query)?;
    let made = tokio::task::spawn_blocking(move || {
        let mut rows = rows(&api.0.live);
        if let Some(only) = only {
            rows.retain(|row| host(row) == only);
        }
        rows
    });
    made.await.map(Json).map_err(|_| Problem::unavailable("the collector is stopping"))
}

async fn hosts(State(api): State<ApiState>, query: HostQueried) -> Result<Json<Vec<HostRow>>, Problem> {
    live_rows(api, query, Live::hosts, |row| &row.host).await
}

async fn gpu_processes(State(api): State<ApiState>, query: HostQueried) -> Result<Json<Vec<GpuProcessRow>>, Problem> {
    live_rows(api, query, Live::gpu_processes, |row| &row.host).await
}

async fn gpu_coverage(State(api): State<ApiState>, query: HostQueried) -> Result<Json<Vec<GpuCoverageRow>>, Problem> {
    live_rows(api, query, Live::gpu_coverage, |row| &row.host).await
}

async fn nic(State(api): State<ApiState>, query: HostQueried) -> Result<Json<Vec<NicRow>>, Problem> {
    live_rows(api, query, Live::nic, |row| &row.host).await
}

async fn sources(State(api): State<ApiState>, query: HostQueried) -> Result<Json<Vec<SourceCostRow>>, Problem> {
    live_rows(api, query, Live::sources, |row| &row.host).await
}

async fn drops(State(api): State<ApiState>, query: HostQueried) -> Result<Json<Vec<DropRow>>, Problem> {
    live_rows(api, query, Live::drops, |row| &row.host).await
}

async fn drop_accounts(State(api): State<ApiState>, query: HostQueried) -> Result<Json<Vec<DropAccountRow>>, Problem> {
    live_rows(api, query, Live::drop_accounts, |row| &row.host).await
}

async fn optics(State(api): State<ApiState>, query: HostQueried) -> Result<Json<Vec<OpticsRow>>, Problem> {
    live_rows(api, query, Live::optics, |row| &row.host).await
}

async fn neighbours(State(api): State<ApiState>, query: HostQueried) -> Result<Json<Vec<NeighbourRow>>, Problem> {
    live_rows(api, query, Live::neighbours, |row| &row.host).await
}

async fn queue_pairs(State(api): State<ApiState>, query: HostQueried) -> Result<Json<Vec<QueuePairRow>>, Problem> {
    live_rows(api, query, Live::queue_pairs, |row| &row.host).await
}

async fn flows(State(api): State<ApiState>, query: HostQueried) -> Result<Json<Vec<FlowRow>>, Problem> {
    live_rows(api, query, Live::flows, |row| &row.host).await
}

async fn peer_accounts(State(api): State<ApiState>, query: HostQueried) -> Result<Json<Vec<PeerAccountRow>>, Problem> {
    live_rows(api, query, Live::peer_accounts, |row| &row.host).await
}

async fn placement(State(api): State<ApiState>, query: HostQueried) -> Result<Json<Vec<PlacementRow>>, Problem> {
    live_rows(api, query, Live::placement, |row| &row.host).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SwitchQuery {
    /// As configured, or as the switch calls itself.
    switch: Option<String>,
}

async fn switches(
    State(api): State<ApiState>,
    query: Result<Query<SwitchQuery>, QueryRejection>,
) -> Result<Json<Vec<SwitchRow>>, Problem> {
    let Query(SwitchQuery { switch }) = query.map_err(bad_query)?;
    let made = tokio::task::spawn_blocking(move || {
        let mut rows = api.0.live.switches().rows();
        if let Some(only) = switch {
            rows.retain(|row| row.name == only || row.system_name == only);
        }
        rows
    });
    made.await.map(Json).map_err(|_| Problem::unavailable("the collector is stopping"))
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StateQuery {
    Open,
    Resolved,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IncidentsQuery {
    state: Option<StateQuery>,
    host: Option<String>,
    /// Opened at or after this, Unix nanoseconds.
    since: Option<u64>,
    before: Option<u64>,
    limit: Option<u64>,
}

async fn incidents(
    State(api): State<ApiState>,
    query: Result<Query<IncidentsQuery>, QueryRejection>,
) -> Result<Json<Vec<Incident>>, Problem> {
    let Query(query) = query.map_err(bad_query)?;
    let filter = IncidentFilter {
        open: query.state.map(|state| matches!(state, StateQuery::Open)),
        host: query.host,
        before: query.before,
        limit: limit(query.limit)?,
        ..IncidentFilter::default()
    };
    let mut found = api.0.readers.query(move |reader| reader.incidents(&filter)).await?;
    if let Some(since) = query.since {
        // Newest first, and identifiers grow with the time of opening: what follows an older one is older still.
        let fresh = found.iter().take_while(|incident| incident.opened >= Timestamp(since)).count();
        found.truncate(fresh);
    }
    Ok(Json(found))
}

#[derive(Serialize)]
struct IncidentInFull {
    #[serde(flatten)]
    incident: Incident,
    decisions: Vec<Decision>,
    signals: Vec<SignalRow>,
    /// A piece of the host's tape around the incident is kept: GET /v1/incidents/ID/tape.
    tape_kept: bool,
    /// What changed on its host from 10 minutes before it began to the minute in which such a change becomes known.
    changes: Vec<InventoryChange>,
}

#[derive(Serialize)]
struct SignalRow {
    received: Timestamp,
    #[serde(flatten)]
    signal: railwatch_engine::Signal,
}

impl From<StoredSignal> for SignalRow {
    fn from(stored: StoredSignal) -> Self {
        Self { received: stored.received, signal: stored.signal }
    }
}

async fn incident(
    State(api): State<ApiState>,
    id: Result<Path<u64>, PathRejection>,
) -> Result<Json<IncidentInFull>, Problem> {
    let id = number(id)?;
    let kept = api.0.kept.clone();
    let found = api.0.readers.query(move |reader| {
        let Some(incident) = reader.incident(id)? else { return Ok(None) };
        let of_it = DecisionFilter { incident: Some(id), limit: WITH_INCIDENT_MAX, ..DecisionFilter::default() };
        let decisions = reader.decisions(&of_it)?;
        let of_it = SignalFilter { incident: Some(id), limit: WITH_INCIDENT_MAX, ..SignalFilter::default() };
        let signals = reader.signals(&of_it)?.into_iter().map(SignalRow::from).collect();
        let tape_kept = kept.find(id).is_some();
        let changes = super::inventory::before_incident(reader, &incident)?;
        Ok(Some(IncidentInFull { incident, decisions, signals, tape_kept, changes }))
    });
    found
        .await?
        .map(Json)
        .ok_or_else(|| Problem::not_found(format!("there is no incident {id}; GET /v1/incidents lists them")))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignalsQuery {
    host: Option<String>,
    before: Option<u64>,
    limit: Option<u64>,
}

async fn signals(
    State(api): State<ApiState>,
    query: Result<Query<SignalsQuery>, QueryRejection>,
) -> Result<Json<Vec<StoredSignal>>, Problem> {
    let Query(query) = query.map_err(bad_query)?;
    let filter = SignalFilter { incident: None, host: query.host, before: query.before, limit: limit(query.limit)? };
    api.0.readers.query(move |reader| reader.signals(&filter)).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DecisionsQuery {
    state: Option<DecisionState>,
    incident: Option<u64>,
    before: Option<u64>,
    limit: Option<u64>,
}

async fn decisions(
    State(api): State<ApiState>,
    query: Result<Query<DecisionsQuery>, QueryRejection>,
) -> Result<Json<Vec<Decision>>, Problem> {
    let Query(query) = query.map_err(bad_query)?;
    let filter = DecisionFilter {
        state: query.state,
        incident: query.incident,
        before: query.before,
        limit: limit(query.limit)?,
    };
    api.0.readers.query(move |reader| reader.decisions(&filter)).await.map(Json)
}

async fn decision(
    State(api): State<ApiState>,
    id: Result<Path<u64>, PathRejection>,
) -> Result<Json<Decision>, Problem> {
    let id = number(id)?;
    let found = api.0.readers.query(move |reader| reader.decision(id)).await?;
    found
        .map(Json)
        .ok_or_else(|| Problem::not_found(format!("there is no decision {id}; GET /v1/decisions lists them")))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VerdictBody {
    approve: bool,
    #[serde(default)]
    note: String,
}

async fn verdict(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<u64>, PathRejection>,
    body: Result<Json<VerdictBody>, JsonRejection>,
) -> Result<Json<Decision>, Problem> {
    let id = number(id)?;
    let Json(VerdictBody { approve, note }) = body.map_err(bad_body)?;
    check_note(&note)?;
    let after = api.0.core.verdict(id, &caller.name, approve, &note).await?;
    if approve && after.state == DecisionState::Withheld {
        let why = after.outcome.unwrap_or_else(|| "a guard".into());
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "held-back",
            "A guard holds the decision back",
            format!("decision {id} is held back: {why}; approve it again when that has changed"),
        ));
    }
    Ok(Json(after))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditQuery {
    after: Option<u64>,
    limit: Option<u64>,
}

#[derive(Serialize)]
struct AuditRow {
    id: u64,
    #[serde(flatten)]
    entry: AuditEntry,
}

async fn audit(
    State(api): State<ApiState>,
    query: Result<Query<AuditQuery>, QueryRejection>,
) -> Result<Json<Vec<AuditRow>>, Problem> {
    let Query(query) = query.map_err(bad_query)?;
    let filter = AuditFilter { after: query.after, limit: limit(query.limit)? };
    let rows = api.0.readers.query(move |reader| reader.audit(&filter)).await?;
    Ok(Json(rows.into_iter().map(|(id, entry)| AuditRow { id, entry }).collect()))
}

/// Whether acting is halted, by whom and why.
#[derive(Serialize)]
struct HaltState {
    halted: bool,
    actor: Option<String>,
    reason: Option<String>,
}

impl HaltState {
    fn of(api: &ApiState) -> Json<Self> {
        let (actor, reason) = api.0.core.halted().map(|halt| (halt.actor, halt.reason)).unzip();
        Json(Self { halted: actor.is_some(), actor, reason })
    }
}

async fn halt_state(State(api): State<ApiState>) -> Json<HaltState> {
    HaltState::of(&api)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HaltBody {
    halted: bool,
    #[serde(default)]
    reason: String,
}

async fn halt(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<HaltBody>, JsonRejection>,
) -> Result<Json<HaltState>, Problem> {
    let Json(HaltBody { halted, reason }) = body.map_err(bad_body)?;
    check_note(&reason)?;
    if halted {
        api.0.core.halt(&caller.name, &reason).await?;
    } else {
        api.0.core.release(&caller.name).await?;
    }
    Ok(HaltState::of(&api))
}

fn limit(asked: Option<u64>) -> Result<u64, Problem> {
    match asked {
        None => Ok(LIMIT_DEFAULT),
        Some(limit @ 1..=LIMIT_MAX) => Ok(limit),
        Some(limit) => {
            Err(Problem::bad_request(format!("limit={limit}: expected 1 to {LIMIT_MAX}; `before` gives the next page")))
        }
    }
}

pub(super) fn check_note(note: &str) -> Result<(), Problem> {
    if note.len() > NOTE_BYTES_MAX {
        return Err(Problem::bad_request(format!(
            "the note has {} bytes: at most {NOTE_BYTES_MAX} go into the audit",
            note.len()
        )));
    }
    Ok(())
}

pub(super) fn number(id: Result<Path<u64>, PathRejection>) -> Result<u64, Problem> {
    id.map(|Path(id)| id).map_err(|_| Problem::bad_request("the identifier in the path is not a number"))
}

pub(super) fn bad_query(rejection: QueryRejection) -> Problem {
    Problem::bad_request(format!("the query cannot be understood: {}", rejection.body_text()))
}

pub(super) fn bad_body(rejection: JsonRejection) -> Problem {
    Problem::new(rejection.status(), "bad-body", "The body cannot be understood", rejection.body_text())
}
