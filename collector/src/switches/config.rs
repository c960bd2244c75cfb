//! What is configured of switches.
//!
//! In: `[[switches]]` and `[sflow]`. Out: a [`Target`] with the contents of its files. Never: a password over a plain connection.

use railwatch_switches::client::{Security, Target};
use serde::{Deserialize, Deserializer, de::Error as _};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Switches of one collector.
const SWITCHES_MAX: usize = 1024;
/// Longest name, bytes.
const NAME_BYTES_MAX: usize = 64;
/// Longest password, bytes.
const PASSWORD_BYTES_MAX: usize = 1024;

/// A switch.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchConfig {
    /// How it is called here until it says its own name.
    pub name: String,
    /// `HOST:PORT` of its gNMI server; without it only its sFlow is read.
    pub address: Option<String>,
    /// Who may sign its certificate, PEM.
    pub tls_trust: Option<PathBuf>,
    /// Own certificate chain, PEM, where it wants one.
    pub tls_certificate: Option<PathBuf>,
    /// Own key, PEM.
    pub tls_key: Option<PathBuf>,
    /// The name in its certificate, where that is not its address.
    pub tls_name: Option<String>,
    /// Without TLS: in a network of management that is trusted.
    #[serde(default)]
    pub insecure: bool,
    /// User, where it wants one.
    pub username: Option<String>,
    /// File with the user's password alone.
    pub password_file: Option<PathBuf>,
    /// Between samples of its counters; 0: as fast as it can.
    #[serde(default = "sample_ms", deserialize_with = "bounded_sample_ms")]
    pub sample_ms: u64,
    /// Addresses that its sFlow comes from.
    #[serde(default)]
    pub sflow_agents: Vec<IpAddr>,
}

/// The receiver of sFlow.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SflowConfig {
    /// Where it listens, UDP; off where absent. The usual port is 6343.
    pub listen: Option<SocketAddr>,
}

fn sample_ms() -> u64 {
    1000
}

fn bounded_sample_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match u64::deserialize(deserializer)? {
        good @ (0 | 100..=60_000) => Ok(good),
        bad => Err(D::Error::custom(format!("{bad} is neither 0 nor between 100 and 60000"))),
    }
}

impl SwitchConfig {
    fn check(&self) -> Result<(), String> {
        let wrong = |why: &str| Err(format!("switch {:?}: {why}", self.name));
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX {
            return Err(format!("a switch's name has 1 to {NAME_BYTES_MAX} bytes: {:?}", self.name));
        }
        let Some(address) = &self.address else {
            return if self.sflow_agents.is_empty() {
                wrong("it has neither address nor sflow_agents")
            } else {
                Ok(())
            };
        };
        if !address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()) {
            return wrong("write its address as HOST:PORT");
        }
        if self.insecure == self.tls_trust.is_some() {
            return wrong("set tls_trust, the CA of its certificate, or insecure = true");
        }
        if self.tls_certificate.is_some() != self.tls_key.is_some() {
            return wrong("tls_certificate and tls_key belong together: set both or none");
        }
        if self.username.is_some() != self.password_file.is_some() {
            return wrong("username and password_file belong together: set both or none");
        }
        if self.insecure && (self.username.is_some() || self.tls_certificate.is_some() || self.tls_name.is_some()) {
            return wrong("without TLS there is neither password nor certificate");
        }
        Ok(())
    }

    /// How it is reached, with what its files say now.
    pub(super) fn target(&self) -> Result<Target, String> {
        let read = |path: &Path| std::fs::read(path).map_err(|error| format!("read {}: {error}", path.display()));
        let security = match &self.tls_trust {
            None => Security::Insecure,
            Some(trust) => {
                let identity = match (&self.tls_certificate, &self.tls_key) {
                    (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
                    _ => None,
                };
                Security::Tls { trust: read(trust)?, identity, server_name: self.tls_name.clone() }
            }
        };
        let credentials = match (&self.username, &self.password_file) {
            (Some(user), Some(file)) => {
                let password = String::from_utf8(read(file)?).map_err(|_| format!("{} is no text", file.display()))?;
                let password = password.trim_end_matches(['\r', '\n']);
                if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
                    return Err(format!("{} has no password of 1 to {PASSWORD_BYTES_MAX} bytes", file.display()));
                }
                Some((user.clone(), password.to_owned()))
            }
            _ => None,
        };
        Ok(Target {
            address: self.address.clone().unwrap_or_default(),
            security,
            credentials,
            sample: Duration::from_millis(self.sample_ms),
        })
    }
}

/// What contradicts itself, with the switch.
///
/// # Errors
/// The first that does.
pub fn check(switches: &[SwitchConfig]) -> Result<(), String> {
    if switches.len() > SWITCHES_MAX {
        return Err(format!("{} switches are more than {SWITCHES_MAX}", switches.len()));
    }
    let (mut names, mut agents) = (BTreeSet::new(), BTreeSet::new());
    for switch in switches {
        switch.check()?;
        if !names.insert(&switch.name) {
            return Err(format!("two switches are called {:?}", switch.name));
        }
        if let Some(agent) = switch.sflow_agents.iter().find(|agent| !agents.insert(**agent)) {
            return Err(format!("{agent} is the sflow agent of two switches"));
        }
    }
    Ok(())
}
