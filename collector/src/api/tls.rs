//! The API's TLS: a certificate chain and its key from PEM files, HTTP/2 and HTTP/1.1.

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;

/// The API cannot speak TLS with these files.
#[derive(Debug, thiserror::Error)]
#[error("TLS for the API from {certificate} and {key}: {why}")]
pub struct TlsError {
    certificate: String,
    key: String,
    why: String,
}

/// TLS with the chain in `certificate` and the private key in `key`.
pub fn tls(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    load(certificate, key).map_err(|why| TlsError {
        certificate: certificate.display().to_string(),
        key: key.display().to_string(),
        why,
    })
}

fn load(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, String> {
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(certificate).and_then(|certificates| certificates.collect());
    let chain = chain.map_err(|error| format!("the certificate cannot be read: {error}"))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| format!("the key cannot be read: {error}"))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
