//! The one generic way of acting: a signed POST to whatever the operators run.
//!
//! `Railwatch-Signature: t=UNIX_SECONDS,v1=HEX`, where HEX is HMAC-SHA256 with the shared secret over `UNIX_SECONDS`, a full stop and the body. With it go
//! `Idempotency-Key` (act once per key) and `Railwatch-Epoch` (refuse one lower than the highest seen).

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use ureq::tls::{PemItem, RootCerts, TlsConfig};

/// Where to send orders, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// `https://...`; `http://` to this host only.
    pub url: String,
    /// File with the shared secret, at least 16 bytes. Read before each attempt, so that it can be changed.
    pub secret_file: PathBuf,
    /// Actions that may be sent; every other order is withheld.
    #[serde(default = "default_actions")]
    pub actions: BTreeSet<String>,
    /// How long one attempt may take.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Pause after the first failed attempt; doubled after each further one.
    #[serde(default = "default_backoff_ms")]
    pub backoff_ms: u64,
    /// The longest pause.
    #[serde(default = "default_backoff_max_ms")]
    pub backoff_max_ms: u64,
    /// Certificates (PEM) to trust for `https://`; without it the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Allows `http://` to other hosts: whoever is on the path can read orders, and cannot forge them.
    #[serde(default)]
    pub allow_plain_http: bool,
}

fn default_actions() -> BTreeSet<String> {
    BTreeSet::from(["ticket".to_owned(), "cordon_node".to_owned()])
}

fn default_timeout_ms() -> u64 {
    5_000
}

fn default_backoff_ms() -> u64 {
    500
}

fn default_backoff_max_ms() -> u64 {
    30_000
}

/// The webhook cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The address is none.
    #[error("webhook.url {url:?} is not an address: {detail}; write https://HOST[:PORT]/PATH")]
    Address {
        /// As configured.
        url: String,
        /// Why.
        detail: String,
    },
    /// Unencrypted to another host.
    #[error(
        "webhook.url {url:?} would send orders unencrypted to another host; use https://, or set allow_plain_http = true"
    )]
    Plain {
        /// As configured.
        url: String,
    },
    /// The secret is not usable.
    #[error("webhook.secret_file {path}: {detail}; make one with `openssl rand -hex 32`")]
    Secret {
        /// Its file.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// No certificates to trust.
    #[error(
        "webhook.ca_file {path}: {detail}; name a PEM file of the authorities that the webhook's certificate comes from"
    )]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why.
        detail: String,
    },
}

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Carried out, now or before.
    Done(String),
    /// Refused for good.
    Refused(String),
    /// Not now; try again.
    Again(String),
}

pub(super) struct Webhook {
    config: WebhookConfig,
    agent: ureq::Agent,
}

const SECRET_BYTES_MIN: usize = 16;
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Of an answer's text, so much is kept.
const ANSWER_BYTES_MAX: u64 = 400;

impl Webhook {
    pub(super) fn new(config: WebhookConfig) -> Result<Self, WebhookError> {
        let bad = |detail: String| WebhookError::Address { url: config.url.clone(), detail };
        let uri: ureq::http::Uri = config.url.parse().map_err(|error| bad(format!("{error}")))?;
        let host = uri.host().ok_or_else(|| bad("there is no host in it".to_owned()))?.trim_matches(['[', ']']);
        let local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let mut agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_millis(config.timeout_ms)))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("railwatch-collector/", env!("CARGO_PKG_VERSION")));
        match uri.scheme_str() {
            Some("https") => {
                let path = config.ca_file.clone().unwrap_or_else(|| PathBuf::from(SYSTEM_AUTHORITIES));
                let tls = TlsConfig::builder()
                    .root_certs(RootCerts::Specific(Arc::new(authorities(&path)?)))
                    .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
                    .build();
                agent = agent.tls_config(tls);
            }
            Some("http") if local || config.allow_plain_http => {}
            Some("http") => return Err(WebhookError::Plain { url: config.url }),
            _ => return Err(bad("it begins with neither https:// nor http://".to_owned())),
        }
        let webhook = Self { agent: agent.build().into(), config };
        webhook.secret()?;
        Ok(webhook)
    }

    pub(super) fn config(&self) -> &WebhookConfig {
        &self.config
    }

    fn secret(&self) -> Result<Vec<u8>, WebhookError> {
        let path = &self.config.secret_file;
        let failed = |detail: String| WebhookError::Secret { path: path.clone(), detail };
        let secret = std::fs::read(path).map_err(|error| failed(error.to_string()))?.trim_ascii().to_vec();
        if secret.len() < SECRET_BYTES_MIN {
            return Err(failed(format!("{} bytes are too few, {SECRET_BYTES_MIN} are needed", secret.len())));
        }
        Ok(secret)
    }

    /// Sends `body` once.
    pub(super) fn send(&self, key: &str, epoch: u64, body: &str) -> Answer {
        let secret = match self.secret() {
            Ok(secret) => secret,
            Err(error) => return Answer::Again(error.to_string()),
        };
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let sent = self
            .agent
            .post(&self.config.url)
            .header("Content-Type", "application/json")
            .header("Idempotency-Key", key)
            .header("Railwatch-Epoch", epoch.to_string())
            .header("Railwatch-Signature", format!("t={at},v1={}", signature(&secret, at, body)))
            .send(body);
        match sent {
            Ok(mut response) => {
                let status = response.status().as_u16();
                let text = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).lossy_utf8(true).read_to_string();
                judge(status, text.unwrap_or_default().trim())
            }
            Err(error) => Answer::Again(error.to_string()),
        }
    }
}

fn judge(status: u16, text: &str) -> Answer {
    let said = if text.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {text}") };
    match status {
        200..=299 => Answer::Done(said),
        409 => Answer::Done(format!("{said} (carried out before)")),
        408 | 425 | 429 | 500..=599 => Answer::Again(said),
        _ => Answer::Refused(said),
    }
}

/// The signature's HEX.
pub fn signature(secret: &[u8], unix_s: u64, body: &str) -> String {
    // HMAC takes keys of any length (RFC 2104, section 2).
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return String::new() };
    mac.update(unix_s.to_string().as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn authorities(path: &Path) -> Result<Vec<ureq::tls::Certificate<'static>>, WebhookError> {
    let failed = |detail: String| WebhookError::Authorities { path: path.to_owned(), detail };
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let found: Vec<_> = ureq::tls::parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if found.is_empty() { Err(failed("there is no certificate in it".to_owned())) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::{Answer, Webhook, WebhookConfig, WebhookError, judge, signature};

    #[test]
    fn the_signature_is_the_one_openssl_computes() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac 0123456789abcdef
        let expected = "9eb18f493f8ec135";
        let got = signature(b"0123456789abcdef", 1_700_000_000, r#"{"a":1}"#);
        assert_eq!(&got[..16], expected);
    }

    #[test]
    fn an_answer_is_done_refused_or_worth_another_attempt() {
        let kind = |status| match judge(status, "") {
            Answer::Done(_) => "done",
            Answer::Refused(_) => "refused",
            Answer::Again(_) => "again",
        };
        for (status, expected) in [
            (200, "done"),
            (204, "done"),
            (409, "done"),
            (301, "refused"),
            (400, "refused"),
            (401, "refused"),
            (404, "refused"),
            (408, "again"),
            (429, "again"),
            (500, "again"),
            (503, "again"),
        ] {
            assert_eq!(kind(status), expected, "{status}");
        }
    }

    #[test]
    fn an_address_that_would_expose_orders_or_a_poor_secret_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let secret = directory.path().join("secret");
        std::fs::write(&secret, "0123456789abcdef\n").unwrap();
        let with = |url: &str, more: &str| -> Result<(), WebhookError> {
            let text = format!("url = {url:?}\nsecret_file = {:?}\n{more}", secret.display().to_string());
            Webhook::new(toml::from_str::<WebhookConfig>(&text).unwrap()).map(drop)
        };
        for good in ["http://127.0.0.1:1/x", "http://[::1]:1/x", "http://localhost/x"] {
            with(good, "").unwrap();
        }
        assert!(matches!(with("http://10.0.0.1/x", ""), Err(WebhookError::Plain { .. })));
        with("http://10.0.0.1/x", "allow_plain_http = true").unwrap();
        for bad in ["ftp://127.0.0.1/", "not an address", "/path"] {
            assert!(matches!(with(bad, ""), Err(WebhookError::Address { .. })), "{bad}");
        }
        std::fs::write(&secret, "short").unwrap();
        assert!(matches!(with("http://127.0.0.1:1/x", ""), Err(WebhookError::Secret { .. })));
    }
}
