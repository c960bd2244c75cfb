//! Files of keys and certificates: read whole with bounds, keys only when private, written so that a reader sees
//! the old or the new and nothing between.

use crate::error::PkiError;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Largest file read, bytes: a list with 10,000 revoked serials is below 1 MiB.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> PkiError {
    let path = path.to_owned();
    move |source| PkiError::Io { doing, path, source }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, PkiError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io("open", path))?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io("read", path))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(PkiError::Unusable { path: path.to_owned(), expected: "at most 8 MiB", found: "more".into() });
    }
    Ok(bytes)
}

/// Reads a private key that its owner alone can read; root's own may be readable by its group, as service
/// managers mount secrets (the rule of PostgreSQL's server.key).
pub(crate) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, PkiError> {
    let metadata = fs::metadata(path).map_err(io("open", path))?;
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    if metadata.mode() & forbidden != 0 {
        return Err(PkiError::KeyTooOpen {
            path: path.to_owned(),
            mode: metadata.mode() & 0o7777,
            owner: metadata.uid(),
        });
    }
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| PkiError::Unusable {
        path: path.to_owned(),
        expected: "a private key in PEM",
        found: error.to_string(),
    })
}

pub(crate) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let bytes = read(path)?;
    let unusable = |found: String| PkiError::Unusable { path: path.to_owned(), expected: "certificates in PEM", found };
    let found: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(error.to_string()))?;
    if found.is_empty() { Err(unusable(format!("none in {} bytes", bytes.len()))) } else { Ok(found) }
}

pub(crate) fn read_revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, PkiError> {
    let bytes = read(path)?;
    let unusable = |found: String| PkiError::Unusable {
        path: path.to_owned(),
        expected: "revocation lists in PEM (`X509 CRL`)",
        found,
    };
    let found: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(error.to_string()))?;
    if found.is_empty() { Err(unusable(format!("none in {} bytes", bytes.len()))) } else { Ok(found) }
}

/// Makes `directory` for its owner alone; one that exists is left as it is.
pub(crate) fn private_directory(directory: &Path) -> Result<(), PkiError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io("create", directory))
}

/// Replaces `path` in one step: new file, fdatasync, rename, fsync of the directory.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    // What an interrupted run left behind may have other permissions: begin anew.
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new).map_err(io("create", &new))?;
    file.write_all(bytes).and_then(|()| file.sync_data()).map_err(io("write", &new))?;
    fs::rename(&new, path).map_err(io("rename into place", path))?;
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|d| d.sync_all()).map_err(io("sync", directory))
}
