//! Probes as the API shows them: pairs, the plan, and what can be sensed at all.
//!
//! In: queries. Out: [`ProbeRow`]s; a [`PlanRow`]; [`OutlookRow`](railwatch_engine::cover::OutlookRow)s. Bounded: so many rows an answer.

use super::ApiState;
use super::problem::Problem;
use super::routes::bad_query;
use crate::probes::jobs::Ranks;
use crate::probes::{Planned, results};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use railwatch_engine::cover::{OutlookRow, Scope, Uncovered};
use results::{Only, ProbeRow};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Seconds shown where the query does not say.
const LAST_S_DEFAULT: u64 = 60;
/// Rows of one answer.
const ROWS_MAX: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProbesQuery {
    host: Option<String>,
    /// Pairs between hosts of this job.
    job: Option<String>,
    /// Seconds; whole windows of 10 s are shown.
    last_s: Option<u64>,
}

/// A row per pair of NICs, those that lose most first.
pub(super) async fn probes(
    State(api): State<ApiState>,
    query: Result<Query<ProbesQuery>, QueryRejection>,
) -> Result<Json<Vec<ProbeRow>>, Problem> {
    let Query(ProbesQuery { host, job, last_s }) = query.map_err(bad_query)?;
    let kept_s = results::WINDOW.as_secs() * results::WINDOWS as u64;
    let last_s = last_s.unwrap_or(LAST_S_DEFAULT);
    if !(1..=kept_s).contains(&last_s) {
        return Err(Problem::bad_request(format!("last_s is from 1 to {kept_s}: probes are kept so long")));
    }
    let made = tokio::task::spawn_blocking(move || {
        let ranks = ranks(&api, job.as_deref())?;
        let only = Only { host: host.as_deref(), job: ranks.as_ref() };
        let mut rows = api.0.probes.rows(Duration::from_secs(last_s), only);
        rows.sort_by(|a, b| b.loss.unwrap_or(0.0).total_cmp(&a.loss.unwrap_or(0.0)));
        rows.truncate(ROWS_MAX);
        Ok(Json(rows))
    });
    made.await.map_err(|_| Problem::unavailable("the collector is stopping"))?
}

/// Hosts of the job that is asked for.
fn ranks(api: &ApiState, job: Option<&str>) -> Result<Option<Ranks>, Problem> {
    job.map(|job| api.0.probes.ranks(job)).transpose().map_err(Problem::not_found)
}

/// What is planned, for what, and what it does not reach.
#[derive(Serialize)]
pub(super) struct PlanRow {
    per_direction_per_s: f64,
    packets_per_s_per_nic_max: f64,
    /// Mean over NICs, of probes and answers.
    packets_per_s_per_nic: f64,
    packets_per_s_per_nic_most: f64,
    /// Of the directions of links that are up, the part with the rate it should have; null where no link is known.
    coverage: Option<f64>,
    /// Whose pairs are probed.
    scopes: Vec<Scope>,
    /// How rails were told apart.
    rails: railwatch_engine::cover::Rails,
    nics: usize,
    /// Pairs of NICs that no known way joins: what is between them is in no figure here.
    blind_pairs: usize,
    planned_in_ms: f64,
    suspects: Vec<String>,
    /// Hosts that take no whole part.
    left_out: BTreeMap<String, String>,
    /// Jobs whose NICs are probed with each other.
    jobs: Vec<JobRow>,
    /// Jobs beyond those: too many run.
    jobs_left_out: u64,
    directions: Vec<DirectionRow>,
    flows: Vec<FlowRow>,
    /// There are more flows than are shown.
    flows_cut: bool,
}

#[derive(Serialize)]
struct DirectionRow {
    direction: String,
    /// Expected, probes and answers.
    per_s: f64,
    /// By payload in bytes.
    per_s_by_size: BTreeMap<u32, f64>,
    /// Of those whose path is known.
    sure_per_s: f64,
    certainty: f64,
    uncovered: Option<Uncovered>,
}

/// How much of a job is probed.
#[derive(Serialize)]
struct JobRow {
    job: String,
    /// Its NICs that probe.
    nics: usize,
    /// Its hosts without any.
    hosts_without: usize,
    /// Pairs of the shape, over all rails.
    pairs: usize,
    pairs_probed: usize,
    /// For those there is no room.
    pairs_left_out: usize,
}

#[derive(Serialize)]
struct FlowRow {
    /// In hexadecimal: not every reader has whole numbers of 64 bits.
    id: String,
    source: String,
    target: String,
    source_address: String,
    source_port: u16,
    target_address: String,
    target_port: u16,
    size_bytes: u32,
    interval_us: u32,
    dense: bool,
    /// Whose pair it is.
    scope: Scope,
    /// The first job whose pair it is; null where it is there for the links.
    job: Option<String>,
    /// Its own path is known, and that of its answers.
    placed: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlanQuery {
    host: Option<String>,
    job: Option<String>,
}

/// The plan; of a host, its flows; of a job, those between its hosts.
pub(super) async fn plan(
    State(api): State<ApiState>,
    query: Result<Query<PlanQuery>, QueryRejection>,
) -> Result<Json<PlanRow>, Problem> {
    let Query(PlanQuery { host, job }) = query.map_err(bad_query)?;
    let made = tokio::task::spawn_blocking(move || {
        let ranks = ranks(&api, job.as_deref())?;
        let only = Only { host: host.as_deref(), job: ranks.as_ref() };
        Ok(Json(plan_row(&api.0.probes.planned(), only)))
    });
    made.await.map_err(|_| Problem::unavailable("the collector is stopping"))?
}

fn plan_row(planned: &Planned, only: Only<'_>) -> PlanRow {
    let Planned { fabric, placements, endpoints, rails, left_out, suspects, options, plan, took_ms, .. } = planned;
    let coverers = if options.fleet { Scope::Fleet } else { Scope::Rail };
    let scopes = std::iter::once(coverers).chain(planned.has_jobs.then_some(Scope::Job)).collect();
    let count = endpoints.len();
    #[expect(clippy::cast_precision_loss, reason = "a number of NICs")]
    let mean = if count == 0 { 0.0 } else { plan.packets_per_s.iter().sum::<f64>() / count as f64 };
    let mut flows: Vec<_> = plan
        .flows
        .iter()
        .filter(|flow| only.has(&endpoints[flow.from].port.node, &endpoints[flow.to].port.node))
        .take(ROWS_MAX + 1)
        .map(|flow| FlowRow {
            id: format!("{:016x}", flow.id),
            source: endpoints[flow.from].port.to_string(),
            target: endpoints[flow.to].port.to_string(),
            source_address: flow.flow.source.to_string(),
            source_port: flow.flow.source_port,
            target_address: flow.flow.destination.to_string(),
            target_port: flow.flow.destination_port,
            size_bytes: flow.size_bytes,
            interval_us: flow.interval_us,
            dense: flow.dense,
            scope: flow.scope(endpoints),
            job: flow.job.as_deref().map(str::to_owned),
            placed: placements.contains_key(&flow.flow),
        })
        .collect();
    let flows_cut = flows.len() > ROWS_MAX;
    flows.truncate(ROWS_MAX);
    let mut directions: Vec<_> = plan
        .covered
        .iter()
        .map(|covered| DirectionRow {
            direction: fabric.name(covered.direction),
            per_s: covered.per_s(),
            per_s_by_size: options.sizes_bytes.iter().copied().zip(covered.per_s_by_size.iter().copied()).collect(),
            sure_per_s: covered.sure_per_s,
            certainty: covered.certainty,
            uncovered: covered.uncovered,
        })
        .collect();
    // What is wrong first.
    directions.sort_by(|a, b| (a.uncovered.is_none(), &a.direction).cmp(&(b.uncovered.is_none(), &b.direction)));
    directions.truncate(ROWS_MAX);
    let names: BTreeSet<String> = suspects
        .directions
        .iter()
        .filter(|direction| direction.link < fabric.links().len())
        .map(|direction| fabric.name(*direction))
        .chain(suspects.nics.iter().map(ToString::to_string))
        .collect();
    PlanRow {
        per_direction_per_s: options.per_direction_per_s,
        packets_per_s_per_nic_max: options.packets_per_s_per_nic_max,
        packets_per_s_per_nic: mean,
        packets_per_s_per_nic_most: plan.packets_per_s.iter().copied().fold(0.0, f64::max),
        coverage: (!plan.covered.is_empty()).then(|| plan.coverage()),
        scopes,
        rails: *rails,
        nics: count,
        blind_pairs: plan.blind_pairs,
        planned_in_ms: *took_ms,
        suspects: names.into_iter().collect(),
        left_out: left_out.clone(),
        jobs: plan
            .jobs
            .iter()
            .map(|job| JobRow {
                job: job.name.to_string(),
                nics: job.nics,
                hosts_without: job.hosts_without,
                pairs: job.pairs,
                pairs_probed: job.pairs_probed,
                pairs_left_out: job.pairs - job.pairs_probed,
            })
            .collect(),
        jobs_left_out: planned.jobs_beyond,
        directions,
        flows,
        flows_cut,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CoverageQuery {
    /// Part of an element's name.
    element: Option<String>,
    /// What a loss takes, of 1.
    loss: Option<f64>,
}

/// What would be sensed, and located to what.
pub(super) async fn coverage(
    State(api): State<ApiState>,
    query: Result<Query<CoverageQuery>, QueryRejection>,
) -> Result<Json<Vec<OutlookRow>>, Problem> {
    let Query(CoverageQuery { element, loss }) = query.map_err(bad_query)?;
    if loss.is_some_and(|loss| !(loss > 0.0 && loss <= 1.0)) {
        return Err(Problem::bad_request("loss is above 0 and at most 1: the part of its packets that a link loses"));
    }
    let element = element.unwrap_or_default();
    let made = tokio::task::spawn_blocking(move || api.0.probes.outlook(&element, loss, ROWS_MAX));
    made.await.map(Json).map_err(|_| Problem::unavailable("the collector is stopping"))
}
