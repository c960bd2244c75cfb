//! What the collector is told: a TOML file, every field with a default, and the flags that override it.
//!
//! In: the text of the file. Out: a [`Config`] whose every value is in range, or a [`ConfigError`] that names file, line,
//! column and field. Never: an unknown field passed over, a value corrected in silence, or a half-taken file.

use crate::executor::WebhookConfig;
use crate::inventory::drift::DriftOptions;
use crate::switches::{self, SflowConfig, SwitchConfig};
use railwatch_store::Retention;
use serde::{Deserialize, Deserializer, de::Error as _};
use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};
use tracing_subscriber::EnvFilter;

/// Where the file is unless `--config` says otherwise. This one may be absent.
pub const PATH_DEFAULT: &str = "/etc/railwatch/collector.toml";
/// Largest file read, bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Everything a collector can be told.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Database, certificates, tokens and the halt file.
    pub state_dir: PathBuf,
    /// Where `collector.json` tells the operator's command how to reach this collector. `/run/railwatch` for root,
    /// else `$XDG_RUNTIME_DIR/railwatch`, where absent.
    pub run_dir: Option<PathBuf>,
    /// What is logged: `info`, or directives such as `warn,railwatch_collector=debug`.
    #[serde(deserialize_with = "log_filter")]
    pub log: String,
    /// How it is logged.
    pub log_format: LogFormat,
    /// Where agents connect; port 0 takes a free one.
    pub uplink_listen: SocketAddr,
    /// Where the HTTP/JSON API listens; port 0 takes a free one.
    pub api_listen: SocketAddr,
    /// Certificate chain and key of the API, PEM; without them it speaks plain HTTP, on loopback only.
    pub api_tls_certificate: Option<PathBuf>,
    /// See `api_tls_certificate`.
    pub api_tls_key: Option<PathBuf>,
    /// Lets the API speak plain HTTP beyond loopback: something in front of the collector encrypts.
    pub api_allow_plaintext: bool,
    /// Where the page for Prometheus listens; port 0 takes a free one.
    pub metrics_listen: SocketAddr,
    /// Hosts connected at once; more are told to come back later.
    #[serde(deserialize_with = "bounded::<_, 1, 100_000>")]
    pub streams_max: u64,
    /// DNS names and addresses for which the development CA certifies this collector; its host name and loopback
    /// come on top. Without effect where `tls_certificate` is set.
    pub server_names: Vec<String>,
    /// CAs to trust, PEM. The development CA in the state directory where absent; so with the next three.
    pub tls_trust: Option<PathBuf>,
    /// Own certificate chain, PEM.
    pub tls_certificate: Option<PathBuf>,
    /// Own private key, PEM, mode 0600.
    pub tls_key: Option<PathBuf>,
    /// Revocation lists, PEM.
    pub tls_revoked: Option<PathBuf>,
    /// A host that is not heard leaves live state after this long; its incidents and signals stay in the store.
    #[serde(deserialize_with = "bounded::<_, 10, 31_536_000>")]
    pub forget_hosts_after_s: u64,
    /// Detecting and deciding.
    pub engine: railwatch_engine::Options,
    /// How much of the past the store keeps.
    pub retention: Retention,
    /// Where approved orders go; without it they are withheld.
    pub webhook: Option<WebhookConfig>,
    /// Export to an OTLP endpoint.
    pub otlp: Otlp,
    /// When hosts that differ from their peers are told.
    #[serde(deserialize_with = "drift")]
    pub drift: DriftOptions,
    /// Switches that are asked what they say.
    pub switches: Vec<SwitchConfig>,
    /// The receiver of sFlow.
    pub sflow: SflowConfig,
    /// The map of the fabric.
    pub map: MapOptions,
}

/// What is told of the fabric besides what hosts and switches say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MapOptions {
    /// A file of nodes, cables, racks, power feeds and line cards (docs/map.md); read again when it changes.
    pub inventory_file: Option<PathBuf>,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Export of metrics, and of incidents as log records, over OTLP/gRPC.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Otlp {
    /// `http://HOST:PORT` or `https://HOST:PORT`; export is off where absent.
    #[serde(deserialize_with = "endpoint")]
    pub endpoint: Option<String>,
    /// Between exports of metrics. Incidents go at once.
    #[serde(deserialize_with = "bounded::<_, 1, 3600>")]
    pub interval_s: u64,
    /// The longest one request may take.
    #[serde(deserialize_with = "bounded::<_, 1, 300>")]
    pub timeout_s: u64,
    /// Requests that wait while the endpoint is away; then the oldest metrics are dropped and counted.
    #[serde(deserialize_with = "bounded::<_, 1, 100_000>")]
    pub queue_requests_max: u64,
    /// Headers of each request, lower case: `authorization = "Bearer ..."`.
    #[serde(deserialize_with = "headers")]
    pub headers: BTreeMap<String, String>,
    /// CAs to trust for `https`, PEM.
    pub tls_trust: Option<PathBuf>,
}

impl Default for Otlp {
    fn default() -> Self {
        Self {
            endpoint: None,
            interval_s: 15,
            timeout_s: 10,
            queue_requests_max: 256,
            headers: BTreeMap::new(),
            tls_trust: None,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/railwatch/collector".into(),
            run_dir: None,
            log: "info".into(),
            log_format: LogFormat::Text,
            uplink_listen: SocketAddr::from(([0, 0, 0, 0], 7700)),
            api_listen: SocketAddr::from(([127, 0, 0, 1], 7701)),
            api_tls_certificate: None,
            api_tls_key: None,
            api_allow_plaintext: false,
            metrics_listen: SocketAddr::from(([0, 0, 0, 0], 7702)),
            streams_max: 12_000,
            server_names: Vec::new(),
            tls_trust: None,
            tls_certificate: None,
            tls_key: None,
            tls_revoked: None,
            forget_hosts_after_s: 86_400,
            engine: railwatch_engine::Options::default(),
            retention: Retention::default(),
            webhook: None,
            otlp: Otlp::default(),
            drift: DriftOptions::default(),
            switches: Vec::new(),
            sflow: SflowConfig::default(),
            map: MapOptions::default(),
        }
    }
}

fn drift<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DriftOptions, D::Error> {
    let options = DriftOptions::deserialize(deserializer)?;
    options.check().map(|()| options).map_err(D::Error::custom)
}

/// Why a configuration is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {}: cannot be read: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file says something wrong. Line, column and field are in the text.
    #[error("configuration {}: {why}", path.display())]
    Wrong {
        /// Which file.
        path: PathBuf,
        /// What, and where.
        why: String,
    },
}

/// Flags that override the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Overrides {
    /// Directory of the database, certificates, tokens and the halt file
    #[arg(long)]
    pub state_dir: Option<PathBuf>,
    /// Directory of collector.json
    #[arg(long)]
    pub run_dir: Option<PathBuf>,
    /// Where agents connect; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub uplink_listen: Option<SocketAddr>,
    /// Where the HTTP/JSON API listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub api_listen: Option<SocketAddr>,
    /// Where the page for Prometheus listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<SocketAddr>,
}

impl Overrides {
    /// Puts the flags over `config`.
    pub fn apply(&self, config: &mut Config) {
        let Self { state_dir, run_dir, uplink_listen, api_listen, metrics_listen } = self.clone();
        config.state_dir = state_dir.unwrap_or_else(|| config.state_dir.clone());
        config.run_dir = run_dir.or(config.run_dir.take());
        config.uplink_listen = uplink_listen.unwrap_or(config.uplink_listen);
        config.api_listen = api_listen.unwrap_or(config.api_listen);
        config.metrics_listen = metrics_listen.unwrap_or(config.metrics_listen);
    }
}

impl Config {
    /// What the file at `path` says, with `overrides` on top. An absent file is an error unless it is the default one.
    pub fn load(path: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let mut config = match File::open(path) {
            Ok(file) => {
                let mut text = String::new();
                file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
                if text.len() as u64 > FILE_BYTES_MAX {
                    return Err(unreadable(io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes"))));
                }
                Self::parse(&text).map_err(|why| ConfigError::Wrong { path: path.to_owned(), why })?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && path == Path::new(PATH_DEFAULT) => Self::default(),
            Err(error) => return Err(unreadable(error)),
        };
        overrides.apply(&mut config);
        Ok(config)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        if config.tls_certificate.is_some() != config.tls_key.is_some() {
            return Err("tls_certificate and tls_key belong together: set both or none".into());
        }
        if config.tls_certificate.is_some() && config.tls_trust.is_none() {
            return Err("tls_certificate needs tls_trust, the CAs whose agents may connect".into());
        }
        if config.api_tls_certificate.is_some() != config.api_tls_key.is_some() {
            return Err("api_tls_certificate and api_tls_key belong together: set both or none".into());
        }
        config.engine.check().map_err(|error| error.to_string())?;
        switches::check(&config.switches)?;
        Ok(config)
    }

    /// How long a host that is not heard stays in live state.
    pub fn forget_hosts_after(&self) -> Duration {
        Duration::from_secs(self.forget_hosts_after_s)
    }

    /// The directory of `collector.json`.
    pub fn run_dir(&self) -> PathBuf {
        self.run_dir.clone().unwrap_or_else(|| {
            let of_user = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty());
            // systemd makes and names the directory for a service that is not root.
            let of_service = std::env::var_os("RUNTIME_DIRECTORY").filter(|path| !path.is_empty());
            match (of_service, of_user) {
                (Some(directory), _) => directory.into(),
                (None, Some(directory)) if !is_root() => PathBuf::from(directory).join("railwatch"),
                _ => "/run/railwatch".into(),
            }
        })
    }

    /// Fields in which `self` differs from `running` and that only a restart can apply.
    pub fn needs_restart(&self, running: &Self) -> Vec<&'static str> {
        let Self {
            state_dir,
            run_dir,
            log: _,
            log_format,
            uplink_listen,
            api_listen,
            api_tls_certificate,
            api_tls_key,
            api_allow_plaintext,
            metrics_listen,
            streams_max,
            server_names,
            tls_trust,
            tls_certificate,
            tls_key,
            tls_revoked,
            forget_hosts_after_s: _,
            engine: _,
            retention: _,
            webhook,
            otlp: _,
            drift: _,
            switches,
            sflow,
            map,
        } = self;
        [
            ("state_dir", *state_dir != running.state_dir),
            ("run_dir", *run_dir != running.run_dir),
            ("log_format", *log_format != running.log_format),
            ("uplink_listen", *uplink_listen != running.uplink_listen),
            ("api_listen", *api_listen != running.api_listen),
            ("api_tls_certificate", *api_tls_certificate != running.api_tls_certificate),
            ("api_tls_key", *api_tls_key != running.api_tls_key),
            ("api_allow_plaintext", *api_allow_plaintext != running.api_allow_plaintext),
            ("metrics_listen", *metrics_listen != running.metrics_listen),
            ("streams_max", *streams_max != running.streams_max),
            ("server_names", *server_names != running.server_names),
            ("tls_trust", *tls_trust != running.tls_trust),
            ("tls_certificate", *tls_certificate != running.tls_certificate),
            ("tls_key", *tls_key != running.tls_key),
            ("tls_revoked", *tls_revoked != running.tls_revoked),
            ("webhook", *webhook != running.webhook),
            ("switches", *switches != running.switches),
            ("sflow", *sflow != running.sflow),
            ("map", *map != running.map),
        ]
        .into_iter()
        .filter_map(|(field, differs)| differs.then_some(field))
        .collect()
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn bounded<'de, D: Deserializer<'de>, const MIN: u64, const MAX: u64>(deserializer: D) -> Result<u64, D::Error> {
    let value = u64::deserialize(deserializer)?;
    if (MIN..=MAX).contains(&value) {
        Ok(value)
    } else {
        Err(D::Error::custom(format!("{value} is not between {MIN} and {MAX}")))
    }
}

fn log_filter<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    match EnvFilter::from_str(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(D::Error::custom(format!(
            "{text:?} is no log filter ({error}): write a level or target=level, separated by commas"
        ))),
    }
}

fn endpoint<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong = |why: &dyn fmt::Display| {
        D::Error::custom(format!(
            "{text:?} is no OTLP/gRPC endpoint ({why}): write http://HOST:4317 or https://HOST:4317"
        ))
    };
    let endpoint = tonic::transport::Endpoint::from_str(&text).map_err(|error| wrong(&error))?;
    match endpoint.uri().scheme_str() {
        Some("http" | "https") => Ok(Some(text)),
        _ => Err(wrong(&"the scheme is neither http nor https")),
    }
}

fn headers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let headers = BTreeMap::<String, String>::deserialize(deserializer)?;
    for (name, value) in &headers {
        let good = tonic::metadata::AsciiMetadataKey::from_bytes(name.as_bytes()).is_ok_and(|key| key.as_str() == name)
            && tonic::metadata::AsciiMetadataValue::try_from(value.as_str()).is_ok();
        if !good {
            return Err(D::Error::custom(format!(
                "the header {name:?} is not lower case, or its value is not printable ASCII"
            )));
        }
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::{Config, Overrides};
    use std::{fs, path::Path};

    #[test]
    fn an_empty_file_is_the_defaults_and_flags_win_over_the_file() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("collector.toml");
        fs::write(&path, "state_dir = \"/a\"\nuplink_listen = \"127.0.0.1:1\"\n").unwrap();
        let overrides = Overrides { state_dir: Some("/b".into()), ..Overrides::default() };
        let config = Config::load(&path, &overrides).unwrap();
        assert_eq!(config.state_dir, Path::new("/b"));
        assert_eq!(config.uplink_listen.port(), 1);
    }

    #[test]
    fn a_wrong_file_names_the_line_and_the_field() {
        for (text, says) in [
            ("log = \"info\"\nlisten = 1", &["line 2", "listen", "uplink_listen"][..]),
            ("streams_max = 0", &["line 1", "0 is not between 1 and 100000"]),
            ("\n\nlog = \"a=b=c\"", &["line 3", "log filter"]),
            ("uplink_listen = \"here\"", &["line 1", "uplink_listen"]),
            ("[otlp]\nendpoint = \"ftp://x\"", &["line 2", "http://HOST:4317"]),
            ("[otlp]\nendpoint = \"\"", &["line 2", "http://HOST:4317"]),
            ("[otlp.headers]\nAuthorization = \"x\"", &["Authorization", "lower case"]),
            ("[engine]\nsilent_after_s = 1", &["line 2", "silent_after_s"]),
            ("[engine]\nsilent_after_ms = 1", &["engine.silent_after_ms", "1 ms is less than two heartbeats"]),
            ("[engine]\nautomatic = [\"reboot\"]", &["engine.automatic", "reboot", "cordon_node"]),
            ("log = ", &["line 1"]),
            ("tls_key = \"k\"", &["tls_certificate", "belong together"]),
            ("tls_key = \"k\"\ntls_certificate = \"c\"", &["tls_trust"]),
            ("[[switches]]\nname = \"a\"", &["\"a\"", "sflow_agents"]),
            ("[[switches]]\nname = \"a\"\naddress = \"a\"", &["HOST:PORT"]),
            ("[[switches]]\nname = \"a\"\naddress = \"a:9339\"", &["tls_trust", "insecure"]),
            (
                "[[switches]]\nname = \"a\"\naddress = \"a:9339\"\ninsecure = true\nusername = \"u\"\npassword_file = \"p\"",
                &["without TLS"],
            ),
            ("[[switches]]\nname = \"a\"\nsample_ms = 5", &["line 3", "100"]),
            (
                "[[switches]]\nname = \"a\"\nsflow_agents = [\"::1\"]\n[[switches]]\nname = \"b\"\nsflow_agents = [\"::1\"]",
                &["::1", "two switches"],
            ),
        ] {
            let why = Config::parse(text).unwrap_err();
            for part in says {
                assert!(why.contains(part), "{text:?} gives {why:?}, which does not say {part:?}");
            }
        }
    }

    #[test]
    fn a_named_file_must_be_there() {
        let error = Config::load(Path::new("/nonexistent/collector.toml"), &Overrides::default()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/collector.toml"), "{error}");
    }

    #[test]
    fn a_reload_says_what_it_cannot_apply() {
        let running = Config::default();
        let wanted = Config {
            uplink_listen: ([127, 0, 0, 1], 1).into(),
            log: "debug".into(),
            forget_hosts_after_s: 60,
            ..running.clone()
        };
        assert_eq!(wanted.needs_restart(&running), ["uplink_listen"]);
    }
}
