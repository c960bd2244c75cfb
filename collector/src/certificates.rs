//! Where the collector's certificate comes from: files that were configured, or the development CA in its state
//! directory, which certifies the collector at its start and again long before the certificate ends.
//!
//! Also `pki issue` and `pki revoke`, which work on the state directory alone: no running collector is needed, and one
//! that runs takes the new revocation list within seconds.

use crate::config::Config;
use anyhow::{Context, Result};
use railwatch_pki::{CredentialFiles, Credentials, DevelopmentCa, HostName, LEAF_LIFE, Reason};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio_util::sync::CancellationToken;

/// Changed certificate files and revocation lists are found within this.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Whether a certificate of the development CA is near its end is looked at this often.
const RENEW_LOOK_EVERY: Duration = Duration::from_secs(6 * 3600);

fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("pki")
}

/// The credentials of the uplink's server.
pub fn load(config: &Config) -> Result<Arc<Credentials>> {
    let files = match (&config.tls_certificate, &config.tls_key, &config.tls_trust) {
        (Some(certificate), Some(key), Some(trust)) => CredentialFiles {
            trust: trust.clone(),
            certificate: certificate.clone(),
            key: key.clone(),
            revoked: config.tls_revoked.clone(),
        },
        _ => certify(config)?,
    };
    Credentials::load(files).context("load the certificates of the uplink")
}

/// Keeps the credentials up to date until `stop`.
pub async fn keep(config: Config, credentials: Arc<Credentials>, stop: CancellationToken) {
    let renew = async {
        loop {
            tokio::time::sleep(RENEW_LOOK_EVERY).await;
            if config.tls_certificate.is_none()
                && let Err(error) = certify(&config)
            {
                tracing::error!(
                    "the collector's certificate cannot be renewed, agents refuse it once it has ended: {error:#}"
                );
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = railwatch_pki::follow(credentials, LOOK_EVERY) => {}
        () = renew => {}
    }
}

/// A certificate of the development CA for the names of this collector, unless a good one is there.
fn certify(config: &Config) -> Result<CredentialFiles> {
    let directory = directory(&config.state_dir);
    let ca = DevelopmentCa::open_or_create(&directory)
        .with_context(|| format!("open the development CA in {}", directory.display()))?;
    let files = CredentialFiles {
        trust: config.tls_trust.clone().unwrap_or_else(|| ca.trust()),
        certificate: directory.join("collector.pem"),
        key: directory.join("collector.key"),
        revoked: Some(config.tls_revoked.clone().unwrap_or_else(|| ca.revocation_list())),
    };
    let names: Vec<_> = names(config).into_iter().collect();
    let (names_file, names_text) = (directory.join("collector.names"), names.join("\n"));
    let fresh = fs::read_to_string(&names_file).is_ok_and(|text| text == names_text)
        && Credentials::load(files.clone()).is_ok_and(|old| old.not_after() > SystemTime::now() + LEAF_LIFE / 2);
    if !fresh {
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        ca.issue_server(&names, LEAF_LIFE)
            .context("certify the collector")?
            .write(&directory, "collector")
            .context("certify the collector")?;
        fs::write(&names_file, names_text).with_context(|| format!("write {}", names_file.display()))?;
    }
    Ok(files)
}

/// Every name by which agents may know this collector.
fn names(config: &Config) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    // A host without a usable name is reached by its other names.
    if let Ok(host) = fs::read_to_string("/proc/sys/kernel/hostname")
        && HostName::parse(host.trim()).is_ok()
    {
        names.insert(host.trim().to_owned());
    }
    if !config.uplink_listen.ip().is_unspecified() {
        names.insert(config.uplink_listen.ip().to_string());
    }
    names.extend(config.server_names.iter().cloned());
    names
}

/// `pki issue`: a certificate for the agent of `host`. Writes `agent.pem`, `agent.key` and `ca.pem` into `out`.
pub fn issue(state_dir: &Path, host: &str, out: &Path) -> Result<Vec<PathBuf>> {
    let host = HostName::parse(host)?;
    let ca = DevelopmentCa::open_or_create(&directory(state_dir))?;
    let written = ca.issue_agent(&host, LEAF_LIFE)?.write(out, "agent")?;
    let trust = out.join("ca.pem");
    fs::copy(ca.trust(), &trust).with_context(|| format!("copy the CA's certificate to {}", trust.display()))?;
    fs::set_permissions(&trust, fs::Permissions::from_mode(0o644))?;
    Ok(vec![written.certificate, written.key, trust])
}

/// `pki revoke`: no certificate that `host` has now is good any more. Returns their serials.
pub fn revoke(state_dir: &Path, host: &str) -> Result<Vec<String>> {
    let host = HostName::parse(host)?;
    let ca = DevelopmentCa::open_or_create(&directory(state_dir))?;
    let revoked = ca.revoke_host(&host, Reason::KeyCompromise)?;
    Ok(revoked.into_iter().map(|revocation| revocation.serial.to_string()).collect())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is the test failing")]
    use super::{issue, load, revoke};
    use crate::config::Config;
    use std::fs;

    #[test]
    fn a_restart_keeps_the_certificate_and_a_new_name_gets_a_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let config = Config { state_dir: directory.path().to_owned(), ..Config::default() };
        let certificate = |config: &Config| {
            let credentials = load(config).unwrap();
            fs::read(&credentials.files().certificate).unwrap()
        };
        let first = certificate(&config);
        assert_eq!(certificate(&config), first);
        let renamed = Config { server_names: vec!["collector.example".into()], ..config };
        assert_ne!(certificate(&renamed), first);
    }

    #[test]
    fn an_issued_certificate_is_complete_and_can_be_revoked_once() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("agent");
        let files = issue(directory.path(), "gpu-1", &out).unwrap();
        assert!(files.iter().all(|file| file.exists()) && files.len() == 3, "{files:?}");
        assert_eq!(revoke(directory.path(), "gpu-1").unwrap().len(), 1);
        assert!(issue(directory.path(), "GPU 1", &out).is_err());
    }
}
