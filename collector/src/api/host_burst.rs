//! `POST /v1/hosts/{host}/burst`: has a host's agent read at its shortest cadences for a while.

use super::ApiState;
use super::problem::Problem;
use super::routes::{bad_body, check_note};
use crate::auth::Caller;
use crate::bursts::TIME_MAX;
use crate::directives::NotDone;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long where the body does not say.
const FOR_MS_DEFAULT: u64 = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    #[serde(default = "for_ms_default")]
    for_ms: u64,
    #[serde(default)]
    reason: String,
}

fn for_ms_default() -> u64 {
    FOR_MS_DEFAULT
}

/// What the agent says of it.
#[derive(Serialize)]
pub(super) struct Done {
    host: String,
    message: String,
}

pub(super) async fn burst(
    State(api): State<ApiState>,
    Extension(caller): Extension<Caller>,
    Path(host): Path<String>,
    body: Result<Json<Body>, JsonRejection>,
) -> Result<Json<Done>, Problem> {
    let Json(Body { for_ms, reason }) = body.map_err(bad_body)?;
    check_note(&reason)?;
    let time = Duration::from_millis(for_ms);
    if time.is_zero() || time > TIME_MAX {
        return Err(Problem::bad_request(format!("for_ms={for_ms}: expected 1 to {}", TIME_MAX.as_millis())));
    }
    if api.0.live.find(&host).is_none() {
        return Err(Problem::not_found(format!("there is no host {host}; GET /v1/hosts lists them")));
    }
    let message = api.0.bursts.ask(&caller.name, &host, time, &reason).await?;
    Ok(Json(Done { host, message }))
}

impl From<NotDone> for Problem {
    fn from(why: NotDone) -> Self {
        let detail = why.to_string();
        let problem = |status, name, title| Self::new(status, name, title, detail.clone());
        match why {
            NotDone::Away(_) => {
                problem(StatusCode::SERVICE_UNAVAILABLE, "host-away", "The host is away").retry_after(5)
            }
            NotDone::Busy(_) => Self::unavailable(detail),
            NotDone::TimedOut(_) => {
                problem(StatusCode::GATEWAY_TIMEOUT, "host-silent", "The host does not answer").retry_after(5)
            }
            NotDone::Refused(..) => problem(StatusCode::CONFLICT, "host-refuses", "The host's agent refuses"),
        }
    }
}
