//! The HTTP client: one request, one answer, and every way it can go wrong told apart.
//! It follows no redirect and uses no proxy: the token goes to the collector named and nowhere else.

use crate::args::Connection;
use crate::failure::{Failure, Kind};
use crate::locate::{Target, is_loopback};
use serde_json::Value;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use ureq::http::{Response, StatusCode, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig};
use ureq::{Agent, Body};

/// Largest answer that is read, bytes: 10,000 hosts with every field fit.
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The collector sends a heartbeat every 10 s; after three the stream is dead.
const STREAM_SILENCE_MAX: Duration = Duration::from_secs(30);

/// A collector that can be asked.
pub struct Client {
    agent: Agent,
    target: Target,
    timeout: Duration,
}

impl Client {
    /// For this target. Nothing is sent yet.
    pub fn new(target: Target, connection: &Connection) -> Result<Self, Failure> {
        let timeout = connection.timeout.unwrap_or(Duration::from_secs(10));
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("railwatch/", env!("CARGO_PKG_VERSION")))
            .timeout_global(Some(timeout));
        if target.url.starts_with("https://") {
            config = config.tls_config(tls(target.ca_file.as_deref())?);
        } else if !is_loopback(&target.url) {
            eprintln!(
                "railwatch: warning: {} is plain HTTP to another host: the token can be read on the way",
                target.url
            );
        }
        Ok(Self { agent: config.build().new_agent(), target, timeout })
    }

    /// Its base URL.
    pub fn url(&self) -> &str {
        &self.target.url
    }

    /// `GET path`.
    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        let request = self.agent.get(self.at(path)).header(header::AUTHORIZATION, self.bearer()?);
        self.answer("GET", path, request.call())
    }

    /// `POST path` with a JSON body.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let request = self.agent.post(self.at(path)).header(header::AUTHORIZATION, self.bearer()?);
        self.answer("POST", path, request.send_json(body))
    }

    /// `GET path` whose answer is a stream of server-sent events, after the event `after` where one was seen.
    pub fn stream(&self, path: &str, after: Option<&str>) -> Result<impl Read + use<>, Failure> {
        let mut request = self
            .agent
            .get(self.at(path))
            .config()
            .timeout_global(None)
            .timeout_connect(Some(self.timeout))
            .timeout_recv_response(Some(self.timeout))
            .timeout_per_read(Some(STREAM_SILENCE_MAX))
            .build()
            .header(header::AUTHORIZATION, self.bearer()?)
            .header(header::ACCEPT, "text/event-stream");
        if let Some(id) = after {
            request = request.header("last-event-id", id);
        }
        let mut response = request.call().map_err(|error| self.unreachable("GET", path, &error))?;
        if response.status() != StatusCode::OK {
            return Err(self.problem("GET", path, &mut response));
        }
        Ok(response.into_body().into_reader())
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.target.url)
    }

    fn bearer(&self) -> Result<String, Failure> {
        self.target.token.as_ref().map(|token| format!("Bearer {}", token.reveal())).map_err(Clone::clone)
    }

    fn answer(&self, method: &str, path: &str, sent: Result<Response<Body>, ureq::Error>) -> Result<Value, Failure> {
        let mut response = sent.map_err(|error| self.unreachable(method, path, &error))?;
        if !response.status().is_success() {
            return Err(self.problem(method, path, &mut response));
        }
        response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_json().map_err(|error| match error {
            ureq::Error::Json(error) => {
                self.unexpected(format!("{method} {}{path}: the answer is not JSON: {error}", self.target.url))
            }
            error => self.unreachable(method, path, &error),
        })
    }

    fn unreachable(&self, method: &str, path: &str, error: &ureq::Error) -> Failure {
        let at = format!("{method} {}{path}", self.target.url);
        let tls = "give the authority that signed its certificate with --ca-file; the certificate must name this host";
        let (what, next) = match error {
            ureq::Error::Timeout(_) => (
                format!("{at}: no answer within {} s", self.timeout.as_secs_f64()),
                "see whether the collector is overloaded or the network drops packets; --timeout allows more time",
            ),
            ureq::Error::HostNotFound => (format!("{at}: no such host"), "check the host's name in the URL, and DNS"),
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::Pem(_) => (format!("{at}: TLS: {error}"), tls),
            ureq::Error::Io(io) if io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
                (format!("{at}: TLS: {io}"), tls)
            }
            ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) | ureq::Error::Http(_) => {
                return self.unexpected(format!("{at}: this is not HTTP as a collector speaks it: {error}"));
            }
            ureq::Error::BodyExceedsLimit(limit) => {
                return self.unexpected(format!("{at}: the answer is longer than {limit} bytes"));
            }
            error if self.target.local => (
                format!("{at}: {error}"),
                "the process its run file names lives but does not answer there: see `journalctl -u railwatch-collector`",
            ),
            error => (
                format!("{at}: {error}"),
                "see whether the collector runs there and the port is right (its API is on 7701 by default)",
            ),
        };
        Failure::new(Kind::Unreachable, what, next)
    }

    fn unexpected(&self, what: String) -> Failure {
        Failure::new(Kind::Unexpected, what, "see whether the URL is a Railwatch collector's API, and of what version")
    }

    /// What an answer other than success means. The collector's own words come first (RFC 9457 `detail`).
    fn problem(&self, method: &str, path: &str, response: &mut Response<Body>) -> Failure {
        let status = response.status();
        let at = format!("{method} {}{path}", self.target.url);
        let body: Option<Value> = response.body_mut().with_config().limit(64 * 1024).read_json().ok();
        let said = body.as_ref().and_then(|body| body.get("detail")).and_then(Value::as_str).map(crate::table::visible);
        let (kind, next) = match status.as_u16() {
            401 => (
                Kind::NotAuthorised,
                "give a token that the collector knows and that has not expired: --token-file or RAILWATCH_TOKEN_FILE",
            ),
            403 => (Kind::NotAuthorised, "use a token with the role `approve`"),
            // A collector always says why; a 404 without words is somebody else's.
            404 if path.contains("/tape") => (
                Kind::NotFound,
                "`railwatch tape --host HOST --list` lists a host's series, `railwatch hosts` the hosts",
            ),
            404 if said.is_some() => {
                (Kind::NotFound, "list what there is: `railwatch incidents`, `railwatch decisions`")
            }
            400 | 409 | 413 | 415 | 422 if said.is_some() => (Kind::Refused, ""),
            429 | 502..=504 => (Kind::Unreachable, "try again in a moment"),
            _ => {
                return self.unexpected(format!(
                    "{at}: status {status}{}",
                    said.map(|s| format!(": {s}")).unwrap_or_default()
                ));
            }
        };
        let said = said.unwrap_or_else(|| format!("status {status}"));
        Failure::new(kind, format!("{at}: {said}"), next)
    }
}

fn tls(ca_file: Option<&Path>) -> Result<TlsConfig, Failure> {
    let Some(path) = ca_file else {
        return Err(Failure::new(
            Kind::Usage,
            "an https collector needs the authority that signed its certificate",
            "give it with --ca-file; the collector's own is pki/ca.pem in its state directory",
        ));
    };
    let bad = |why: String| {
        Failure::new(
            Kind::Usage,
            format!("cannot use the authority in {}: {why}", path.display()),
            "give a PEM file with CERTIFICATE blocks with --ca-file",
        )
    };
    let pem = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
    let mut roots = Vec::new();
    for item in ureq::tls::parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| bad(error.to_string()))? {
            roots.push(certificate);
        }
    }
    if roots.is_empty() {
        return Err(bad("it holds no certificate".into()));
    }
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}
