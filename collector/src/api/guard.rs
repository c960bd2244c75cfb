//! What every request passes: a name for it, the Host header, the caller, the role, and a time limit.

use super::ApiState;
use super::problem::Problem;
use crate::auth::{Caller, Denied, Role};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Longest time for an answer; a stream of events is one that never ends.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

const REQUEST_ID: &str = "x-request-id";

/// Where a connection comes in and from whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connection {
    /// Our address.
    pub local: SocketAddr,
    /// Theirs.
    pub peer: SocketAddr,
}

pub(super) async fn guard(State(api): State<ApiState>, mut request: Request, next: Next) -> Response {
    let id = match request.headers().get(REQUEST_ID) {
        Some(given) if fit(given.as_bytes()) => given.clone(),
        _ => HeaderValue::try_from(api.next_request_id()).unwrap_or_else(|_| HeaderValue::from_static("?")),
    };
    let connection = request.extensions().get::<Connection>().copied();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let mut response = match admit(&api, connection, &request) {
        Err(problem) => problem.into_response(),
        Ok(caller) => {
            let caller_name = caller.as_ref().map(|caller| caller.name.clone());
            if let Some(caller) = caller {
                request.extensions_mut().insert(caller);
            }
            let answer = tokio::time::timeout(ANSWER_WITHIN, next.run(request)).await.unwrap_or_else(|_| {
                Problem::unavailable(
                    "no answer within 15 s: the collector is overloaded or its disk hangs; its log says more",
                )
                .into_response()
            });
            if method != Method::GET {
                tracing::info!(%method, path, caller = caller_name, status = answer.status().as_u16(), request_id = ?id, "API call");
            }
            answer
        }
    };
    let counters = &api.0.counters;
    match response.status().as_u16() {
        401 | 429 => {
            counters.denied.increment();
            // Those over the budget are counted and not logged: nobody fills the log by guessing.
            if response.status() == StatusCode::UNAUTHORIZED {
                tracing::warn!(%method, path, peer = ?connection.map(|c| c.peer), request_id = ?id, "API call without a valid token");
            }
        }
        403 | 421 => counters.forbidden.increment(),
        400..=499 => counters.refused.increment(),
        500.. => counters.failed.increment(),
        _ => counters.answered.increment(),
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn fit(id: &[u8]) -> bool {
    (1..=64).contains(&id.len()) && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte))
}

/// The caller; none for the two probes, which say nothing that needs one.
fn admit(api: &ApiState, connection: Option<Connection>, request: &Request) -> Result<Option<Caller>, Problem> {
    if connection.is_some_and(|connection| connection.local.ip().to_canonical().is_loopback()) {
        check_host(request)?;
    }
    if matches!(request.uri().path(), "/healthz" | "/readyz") {
        return Ok(None);
    }
    let authorization = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let caller = api.0.tokens.authenticate(authorization).map_err(denied)?;
    let needed = if matches!(*request.method(), Method::GET | Method::HEAD) { Role::Read } else { Role::Approve };
    if caller.role < needed {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "role",
            "The token may not do this",
            format!(
                "the token {:?} has the role {}, and this needs {needed}: use another token",
                caller.name, caller.role
            ),
        ));
    }
    Ok(Some(caller))
}

fn denied(denied: Denied) -> Problem {
    let detail = match denied {
        Denied::Missing => {
            "no token: send the header `Authorization: Bearer TOKEN`; the first tokens are in the collector's state directory"
        }
        Denied::Malformed => "the Authorization header is not `Bearer TOKEN`",
        Denied::Unknown => {
            "the token is unknown or was revoked: ask for another (file `tokens` in the collector's state directory)"
        }
        Denied::Expired => "the token has expired: ask for another (file `tokens` in the collector's state directory)",
        Denied::TooMany => {
            return Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too-many-failures",
                "Too many calls without a valid token",
                "too many calls without a valid token of late: correct the token, then try again; a valid one is served at any time",
            )
            .retry_after(2);
        }
    };
    Problem::new(StatusCode::UNAUTHORIZED, "token", "No valid token", detail)
}

/// On loopback the Host must be this host's loopback: a web page whose name was re-bound to 127.0.0.1 sends its own name.
fn check_host(request: &Request) -> Result<(), Problem> {
    let header = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = request.uri().authority().map(|authority| authority.as_str()).or(header).unwrap_or("");
    if is_loopback(authority) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::MISDIRECTED_REQUEST,
        "host",
        "This is not the host that was asked for",
        "the collector listens on loopback and answers only to localhost, 127.0.0.1 and [::1]: use one of those in the URL",
    ))
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::{fit, is_loopback};

    #[test]
    fn only_loopback_names_pass_whatever_they_are_dressed_as() {
        for (authority, expected) in [
            ("127.0.0.1:7701", true),
            ("localhost", true),
            ("LocalHost:80", true),
            ("[::1]:7701", true),
            ("127.9.9.9", true),
            ("", false),
            ("evil.example:7701", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("user@evil.example", false),
            ("10.0.0.1:7701", false),
        ] {
            assert_eq!(is_loopback(authority), expected, "{authority:?}");
        }
    }

    #[test]
    fn a_request_keeps_its_name_only_where_that_is_harmless_in_a_log() {
        let long = "x".repeat(65);
        for (id, expected) in
            [("abc-1_2.3:4", true), ("", false), ("a b", false), ("a\"", false), (long.as_str(), false)]
        {
            assert_eq!(fit(id.as_bytes()), expected, "{id:?}");
        }
    }
}
