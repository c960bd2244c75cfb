//! The development CA: one ECDSA P-256 key in one directory, made on first use, that signs the certificates and
//! the revocation list of one installation.
//!
//! ```text
//! DIR/ca.pem       the trust bundle (append an older CA's certificate here to overlap two)
//! DIR/ca.key       its private key, 0600
//! DIR/revoked.crl  the signed revocation list, from the start (empty)
//! DIR/issued.tsv   serial, holder, end of validity: what `revoke` looks up
//! ```
//! Never: a leaf that can sign, an agent certificate that can serve, a key written where others can read it.

use crate::error::PkiError;
use crate::files;
use crate::host_name::HostName;
use crate::identity::{AGENT_URI_PREFIX, Serial, parse};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    RevocationReason, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a development CA is valid.
pub const CA_LIFE: Duration = DAY.saturating_mul(3652);
/// How long a certificate is valid unless told otherwise.
pub const LEAF_LIFE: Duration = DAY.saturating_mul(30);
/// Certificates begin this much in the past, for hosts whose clocks run behind.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// A CA that this process can sign with.
pub struct DevelopmentCa {
    directory: PathBuf,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A new certificate and its key, not yet on disk.
pub struct Issued {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// Its private key, PKCS#8 PEM.
    pub key_pem: String,
    /// Its serial number.
    pub serial: Serial,
}

/// Where [`Issued::write`] put a pair.
#[derive(Clone, Debug)]
pub struct IssuedFiles {
    /// The certificate, readable by all.
    pub certificate: PathBuf,
    /// The key, 0600.
    pub key: PathBuf,
}

/// One certificate that [`DevelopmentCa::revoke_host`] put on the list.
#[derive(Clone, Debug)]
pub struct Revocation {
    /// Its serial.
    pub serial: Serial,
}

impl Issued {
    /// Writes `DIRECTORY/NAME.pem` and `DIRECTORY/NAME.key`, each replaced in one step, the key first: a reader
    /// between the two sees a mismatched pair and keeps the old one.
    pub fn write(&self, directory: &Path, name: &str) -> Result<IssuedFiles, PkiError> {
        files::private_directory(directory)?;
        let written = IssuedFiles {
            certificate: directory.join(format!("{name}.pem")),
            key: directory.join(format!("{name}.key")),
        };
        files::replace(&written.key, self.key_pem.as_bytes(), 0o600)?;
        files::replace(&written.certificate, self.certificate_pem.as_bytes(), 0o644)?;
        Ok(written)
    }
}

impl DevelopmentCa {
    /// Opens the CA in `directory`, or makes one there. Two processes that do so at once get the same CA.
    pub fn open_or_create(directory: &Path) -> Result<Self, PkiError> {
        files::private_directory(directory)?;
        let _lock = Self::lock(directory)?;
        let (certificate_path, key_path) = (directory.join("ca.pem"), directory.join("ca.key"));
        if !key_path.exists() {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(sign("the CA's key"))?;
            let mut params = CertificateParams::default();
            let valid = starting(CA_LIFE);
            (params.not_before, params.not_after) = (at(valid.start), at(valid.end));
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            // Two CAs that overlap must differ in name, or the one's list would be looked up for the other's leaves.
            let id: String = params.key_identifier(&key).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
            params.distinguished_name = common_name(&format!("Railwatch development CA {id}"));
            let certificate = params.self_signed(&key).map_err(sign("the CA's certificate"))?;
            files::replace(&certificate_path, certificate.pem().as_bytes(), 0o644)?;
            // The key comes last: without it the next start begins anew.
            files::replace(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
        }
        let ca = Self::open(directory, &certificate_path, &key_path)?;
        if !ca.revocation_list().exists() {
            ca.write_list(Vec::new())?;
        }
        Ok(ca)
    }

    fn open(directory: &Path, certificate_path: &Path, key_path: &Path) -> Result<Self, PkiError> {
        files::read_key(key_path)?;
        let unusable = |expected, found: String| PkiError::Unusable { path: key_path.to_owned(), expected, found };
        let pem = String::from_utf8(files::read(key_path)?).map_err(|e| unusable("a PEM key", e.to_string()))?;
        let key = KeyPair::from_pem(&pem).map_err(|e| unusable("an ECDSA P-256 key in PKCS#8 PEM", e.to_string()))?;
        let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
        let certificate = files::read_certificates(certificate_path)?
            .into_iter()
            .find(|der| parse(der).is_ok_and(|parsed| parsed.public_key().raw == spki))
            .ok_or_else(|| PkiError::KeyMismatch {
                key: key_path.to_owned(),
                certificate: certificate_path.to_owned(),
            })?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(sign("with the CA's certificate"))?;
        Ok(Self { directory: directory.to_owned(), certificate, issuer })
    }

    /// The trust bundle's file.
    pub fn trust(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// The signed revocation list's file.
    pub fn revocation_list(&self) -> PathBuf {
        self.directory.join("revoked.crl")
    }

    /// A server's certificate for these DNS names and IP addresses.
    pub fn issue_server(&self, names: &[&str], life: Duration) -> Result<Issued, PkiError> {
        self.issue_server_between(names, starting(life))
    }

    pub(crate) fn issue_server_between(&self, names: &[&str], valid: Range<SystemTime>) -> Result<Issued, PkiError> {
        let mut params = CertificateParams::default();
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => {
                    let bad = || PkiError::BadName { name: (*name).to_owned() };
                    rustls_pki_types::DnsName::try_from(*name).map_err(|_| bad())?;
                    SanType::DnsName((*name).try_into().map_err(|_| bad())?)
                }
            });
        }
        params.distinguished_name = common_name("railwatch collector");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params, &format!("server:{}", names.join(",")), valid)
    }

    /// The certificate of the agent on `host`.
    pub fn issue_agent(&self, host: &HostName, life: Duration) -> Result<Issued, PkiError> {
        self.issue_agent_between(host, starting(life))
    }

    pub(crate) fn issue_agent_between(&self, host: &HostName, valid: Range<SystemTime>) -> Result<Issued, PkiError> {
        let mut params = CertificateParams::default();
        let uri = format!("{AGENT_URI_PREFIX}{host}");
        params.subject_alt_names =
            vec![SanType::URI(uri.as_str().try_into().map_err(|_| PkiError::BadName { name: host.to_string() })?)];
        params.distinguished_name = common_name("railwatch agent");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params, host.as_str(), valid)
    }

    fn issue(&self, mut params: CertificateParams, holder: &str, valid: Range<SystemTime>) -> Result<Issued, PkiError> {
        (params.not_before, params.not_after) = (at(valid.start), at(valid.end));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(sign("a key"))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(sign("a certificate"))?;
        let serial = match parse(certificate.der()) {
            Ok(parsed) => Serial::new(parsed.raw_serial()),
            Err(error) => {
                return Err(PkiError::Unusable {
                    path: self.trust(),
                    expected: "to sign readable certificates",
                    found: error.to_string(),
                });
            }
        };
        let _lock = Self::lock(&self.directory)?;
        let path = self.record();
        let until = unix_s(valid.end);
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut record| {
                record.write_all(format!("{serial}\t{holder}\t{until}\n").as_bytes()).and_then(|()| record.sync_data())
            })
            .map_err(files::io("record the new certificate in", &path))?;
        Ok(Issued { certificate_pem: certificate.pem(), key_pem: key.serialize_pem(), serial })
    }

    /// Puts every certificate of `host` that is still valid on the list and signs it anew.
    pub fn revoke_host(&self, host: &HostName, reason: RevocationReason) -> Result<Vec<Revocation>, PkiError> {
        let path = self.record();
        let record = String::from_utf8_lossy(&files::read(&path)?).into_owned();
        let now = unix_s(SystemTime::now());
        let serials: Vec<Serial> = record
            .lines()
            .filter_map(|line| {
                let mut columns = line.split('\t');
                let (serial, holder, until) = (columns.next()?, columns.next()?, columns.next()?.parse::<i64>().ok()?);
                (holder == host.as_str() && until > now).then(|| Serial::from_hex(serial)).flatten()
            })
            .collect();
        if serials.is_empty() {
            return Err(PkiError::NeverIssued { host: host.to_string(), record: path });
        }
        self.revoke(&serials, reason)?;
        Ok(serials.into_iter().map(|serial| Revocation { serial }).collect())
    }

    /// Puts these serials on the list and signs it anew. One that is on it already stays as it is.
    pub fn revoke(&self, serials: &[Serial], reason: RevocationReason) -> Result<(), PkiError> {
        let _lock = Self::lock(&self.directory)?;
        let mut revoked = self.listed()?;
        for serial in serials {
            if !revoked.iter().any(|entry| &Serial::new(entry.serial_number.as_ref()) == serial) {
                revoked.push(RevokedCertParams {
                    serial_number: SerialNumber::from_slice(serial.bytes()),
                    revocation_time: at(SystemTime::now()),
                    reason_code: Some(reason),
                    invalidity_date: None,
                });
            }
        }
        self.write_list(revoked)
    }

    fn listed(&self) -> Result<Vec<RevokedCertParams>, PkiError> {
        let path = self.revocation_list();
        let mut entries = Vec::new();
        for der in files::read_revocation_lists(&path)? {
            let (_, list) = CertificateRevocationList::from_der(&der).map_err(|error| PkiError::Unusable {
                path: path.clone(),
                expected: "a revocation list",
                found: error.to_string(),
            })?;
            entries.extend(list.iter_revoked_certificates().map(|entry| RevokedCertParams {
                serial_number: SerialNumber::from_slice(Serial::new(entry.raw_serial()).bytes()),
                revocation_time: entry.revocation_date.to_datetime(),
                reason_code: entry.reason_code().and_then(|(_, code)| reason(code.0)),
                invalidity_date: None,
            }));
        }
        Ok(entries)
    }

    fn write_list(&self, revoked_certs: Vec<RevokedCertParams>) -> Result<(), PkiError> {
        let now = SystemTime::now();
        let list = CertificateRevocationListParams {
            this_update: at(now - CLOCK_SKEW),
            next_update: at(now + CA_LIFE),
            crl_number: SerialNumber::from(unix_s(now).unsigned_abs()),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuer)
        .and_then(|list| list.pem())
        .map_err(sign("the revocation list"))?;
        files::replace(&self.revocation_list(), list.as_bytes(), 0o644)
    }

    /// The CA's own certificate, DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    fn record(&self) -> PathBuf {
        self.directory.join("issued.tsv")
    }

    fn lock(directory: &Path) -> Result<File, PkiError> {
        let path = directory.join(".lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(files::io("open", &path))?;
        file.lock().map_err(files::io("lock", &path))?;
        Ok(file)
    }
}

/// RFC 5280 section 5.3.1.
fn reason(code: u8) -> Option<RevocationReason> {
    use RevocationReason::*;
    [
        Unspecified,
        KeyCompromise,
        CaCompromise,
        AffiliationChanged,
        Superseded,
        CessationOfOperation,
        CertificateHold,
        PrivilegeWithdrawn,
        AaCompromise,
    ]
    .into_iter()
    .find(|reason| *reason as u8 == code)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn sign(what: &'static str) -> impl FnOnce(rcgen::Error) -> PkiError {
    move |source| PkiError::Sign { what, source }
}

fn starting(life: Duration) -> Range<SystemTime> {
    let now = SystemTime::now();
    now - CLOCK_SKEW..now + life
}

fn unix_s(instant: SystemTime) -> i64 {
    instant.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// rcgen writes whole seconds.
fn at(instant: SystemTime) -> OffsetDateTime {
    OffsetDateTime::from(instant)
}
