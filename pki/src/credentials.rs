//! The keys and certificates in use now, and the files they come from.
//!
//! Flows in: four files. Flows out: rustls configurations of the newest files that were good as a whole. A
//! handshake takes the configuration of its instant; a connection that is open keeps its own.
//! Never: a mixture of old and new files, or a bad file in use.

use crate::error::PkiError;
use crate::files;
use crate::identity::{PeerIdentity, instant, parse};
use crate::revocation::Revoked;
use arc_swap::ArcSwap;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, version::TLS13};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use tokio::sync::watch;
use x509_parser::time::ASN1Time;

/// Where one side of the uplink keeps its material.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialFiles {
    /// CAs to trust, PEM, one or several (an old and a new one while they overlap).
    pub trust: PathBuf,
    /// Own certificate chain, PEM, leaf first.
    pub certificate: PathBuf,
    /// Own private key, PEM, 0600.
    pub key: PathBuf,
    /// Revocation lists, PEM, where there are any; the collector has one.
    pub revoked: Option<PathBuf>,
}

/// What [`Credentials::reload`] found.
#[derive(Debug)]
pub enum Reload {
    /// The files are as they were.
    Unchanged,
    /// New handshakes use new files.
    Reloaded,
    /// The files changed and are not good; the old ones stay in use.
    Kept(PkiError),
}

/// Credentials that follow their files. Share it in an `Arc`.
pub struct Credentials {
    files: CredentialFiles,
    current: ArcSwap<Loaded>,
    seen: Mutex<Vec<Fingerprint>>,
    generation: watch::Sender<u64>,
}

struct Loaded {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    revoked: Arc<Revoked>,
    not_after: SystemTime,
}

/// device, inode, length, mtime, ctime: what any replacement or write of a file changes.
type Fingerprint = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;

impl Credentials {
    /// Reads and checks all files; the first problem is the error.
    pub fn load(files: CredentialFiles) -> Result<Arc<Self>, PkiError> {
        let seen = fingerprints(&files);
        let loaded = Loaded::read(&files)?;
        Ok(Arc::new(Self {
            files,
            current: ArcSwap::from_pointee(loaded),
            seen: Mutex::new(seen),
            generation: watch::Sender::new(0),
        }))
    }

    /// Looks at the files and takes them when they changed and are good as a whole. Costs four `stat` calls when
    /// nothing changed. After [`Reload::Kept`] the next call tries again.
    pub fn reload(&self) -> Reload {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let found = fingerprints(&self.files);
        if *seen == found {
            return Reload::Unchanged;
        }
        match Loaded::read(&self.files) {
            Ok(loaded) => {
                *seen = found;
                self.current.store(Arc::new(loaded));
                self.generation.send_modify(|generation| *generation += 1);
                Reload::Reloaded
            }
            Err(error) => Reload::Kept(error),
        }
    }

    /// TLS of a server that requires a client certificate; ALPN h2. For the next handshake: take it anew each time.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.current.load().server.clone()
    }

    /// TLS of a client with its certificate; ALPN h2. For the next handshake: take it anew each time.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        self.current.load().client.clone()
    }

    /// The revoked certificates now.
    pub fn revoked(&self) -> Arc<Revoked> {
        self.current.load().revoked.clone()
    }

    /// Whether a peer that was let in earlier must go now.
    pub fn is_revoked(&self, peer: &PeerIdentity) -> bool {
        self.current.load().revoked.contains(peer)
    }

    /// End of the own certificate's validity.
    pub fn not_after(&self) -> SystemTime {
        self.current.load().not_after
    }

    /// Counts reloads; a change is the moment to re-check open streams.
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// The files.
    pub fn files(&self) -> &CredentialFiles {
        &self.files
    }
}

impl Loaded {
    fn read(files: &CredentialFiles) -> Result<Self, PkiError> {
        let trust = files::read_certificates(&files.trust)?;
        let chain = files::read_certificates(&files.certificate)?;
        let key = files::read_key(&files.key)?;
        let lists = files.revoked.as_deref().map(files::read_revocation_lists).transpose()?.unwrap_or_default();
        let not_after = valid_now(&files.certificate, &chain[0])?;
        let lists_path = files.revoked.as_deref().unwrap_or(Path::new(""));
        let revoked = Revoked::read(&lists, lists_path, &trust, &files.trust)?;

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = |path: &Path| {
            let path = path.to_owned();
            move |source| PkiError::Tls { path, source }
        };
        let mut roots = RootCertStore::empty();
        for ca in &trust {
            roots.add(ca.clone()).map_err(tls(&files.trust))?;
        }
        let roots = Arc::new(roots);
        let unusable = |error: rustls::server::VerifierBuilderError| PkiError::Unusable {
            path: files.trust.clone(),
            expected: "CAs and their revocation lists",
            found: error.to_string(),
        };
        // A CA without a list (one that is being replaced) is trusted without one.
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .with_crls(lists.clone())
            .only_check_end_entity_revocation()
            .allow_unknown_revocation_status()
            .build()
            .map_err(unusable)?;
        let servers = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
            .with_crls(lists)
            .only_check_end_entity_revocation()
            .allow_unknown_revocation_status()
            .build()
            .map_err(unusable)?;

        let pair = |source| match source {
            rustls::Error::InconsistentKeys(_) => {
                PkiError::KeyMismatch { key: files.key.clone(), certificate: files.certificate.clone() }
            }
            source => PkiError::Tls { path: files.certificate.clone(), source },
        };
        let mut server = server_builder(provider.clone())
            .map_err(tls(&files.trust))?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(pair)?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(tls(&files.trust))?
            .with_webpki_verifier(servers)
            .with_client_auth_cert(chain, key)
            .map_err(pair)?;
        client.alpn_protocols = vec![b"h2".to_vec()];
        client.resumption = rustls::client::Resumption::disabled();
        Ok(Self { server: Arc::new(server), client: Arc::new(client), revoked: Arc::new(revoked), not_after })
    }
}

fn server_builder(
    provider: Arc<CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>, rustls::Error> {
    ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13])
}

/// The end of the leaf's validity, which must include this instant.
fn valid_now(path: &Path, der: &[u8]) -> Result<SystemTime, PkiError> {
    let certificate = parse(der).map_err(|error| PkiError::Unusable {
        path: path.to_owned(),
        expected: "a certificate",
        found: error.to_string(),
    })?;
    let (validity, now) = (certificate.validity(), ASN1Time::now());
    if now > validity.not_after {
        let days = (now.timestamp() - validity.not_after.timestamp()) / 86_400;
        return Err(PkiError::Expired { path: path.to_owned(), not_after: validity.not_after.to_string(), days });
    }
    if now < validity.not_before {
        return Err(PkiError::NotYetValid {
            path: path.to_owned(),
            not_before: validity.not_before.to_string(),
            now: now.to_string(),
        });
    }
    Ok(instant(validity.not_after.timestamp()))
}

fn fingerprints(files: &CredentialFiles) -> Vec<Fingerprint> {
    let CredentialFiles { trust, certificate, key, revoked } = files;
    [Some(trust), Some(certificate), Some(key), revoked.as_ref()]
        .into_iter()
        .flatten()
        .map(|path| {
            let found = std::fs::metadata(path).ok()?;
            Some((
                found.dev(),
                found.ino(),
                found.len(),
                (found.mtime(), found.mtime_nsec()),
                (found.ctime(), found.ctime_nsec()),
            ))
        })
        .collect()
}
