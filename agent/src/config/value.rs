//! Values that are checked while they are read, so that the error names line and column.

use railwatch_pki::HostName;
use serde::{Deserialize, Deserializer, de::Error};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A whole number from `MIN` to `MAX`.
pub(super) fn bounded<'de, D: Deserializer<'de>, const MIN: u64, const MAX: u64>(from: D) -> Result<u64, D::Error> {
    let number = i64::deserialize(from)?;
    u64::try_from(number)
        .ok()
        .filter(|number| (MIN..=MAX).contains(number))
        .ok_or_else(|| D::Error::custom(format!("{number} is out of range; expected {MIN} to {MAX}")))
}

/// A share of one core, above 0 and up to 100 percent.
pub(super) fn share_percent<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let percent = f64::deserialize(from)?;
    let is_good = percent > 0.0 && percent <= 100.0;
    if is_good {
        Ok(percent)
    } else {
        Err(D::Error::custom(format!("{percent} is out of range; expected above 0 and up to 100")))
    }
}

pub(super) fn host_name<'de, D: Deserializer<'de>>(from: D) -> Result<Option<HostName>, D::Error> {
    HostName::parse(&String::deserialize(from)?).map(Some).map_err(D::Error::custom)
}

pub(super) fn log_filter<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    match tracing_subscriber::EnvFilter::builder().parse(&text) {
        Ok(_) => Ok(text),
        Err(error) => Err(D::Error::custom(format!(
            "{text:?} is no log filter ({error}); expected a level (error, warn, info, debug, trace) or TARGET=LEVEL,..."
        ))),
    }
}

macro_rules! deserialized_from_text {
    ($name:ident) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

/// `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: u16,
}

deserialized_from_text!(Endpoint);

impl Endpoint {
    /// A port of this host.
    pub fn local(port: u16) -> Self {
        Self { host: "127.0.0.1".into(), port }
    }

    /// The host, without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no address; expected HOST:PORT, e.g. collector.example:7700 or [::1]:7700");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host_is_good = match bracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
            }
        };
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        if host_is_good { Ok(Self { host: host.to_owned(), port }) } else { Err(wrong()) }
    }
}

/// At most 64 absolute paths.
pub(super) fn absolute_paths<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    const PATHS_MAX: usize = 64;
    let paths = Vec::<String>::deserialize(deserializer)?;
    if paths.len() > PATHS_MAX {
        return Err(D::Error::custom(format!("{} paths; at most {PATHS_MAX}", paths.len())));
    }
    match paths.iter().find(|path| !path.starts_with('/')) {
        Some(path) => {
            Err(D::Error::custom(format!("{path:?} is no absolute path; expected e.g. /opt/*/lib/libcuda.so*")))
        }
        None => Ok(paths),
    }
}

/// Which part of the host is traced, enforced in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of it.
    None,
    /// Processes in the agent's own network namespace.
    Netns,
    /// Processes in this cgroup and below it.
    Cgroup(PathBuf),
}

deserialized_from_text!(Scope);

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            None if text == "netns" => Ok(Self::Netns),
            Some(("cgroup", path)) if path.starts_with('/') => Ok(Self::Cgroup(path.into())),
            _ => Err(format!("{text:?} is no scope; expected none, netns or cgroup:/ABSOLUTE/PATH")),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Netns => f.write_str("netns"),
            Self::Cgroup(path) => write!(f, "cgroup:{}", path.display()),
        }
    }
}
