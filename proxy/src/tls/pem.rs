//! Certificates and keys in PEM files, and what is wrong with them.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{InconsistentKeys, RootCertStore};

use super::Identity;

/// Larger than any system's whole bundle.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {reason}", file.display())]
    File { file: PathBuf, reason: Reason },
    #[error("this system has no root certificates that can be used{0}; name some with `ca_file`")]
    SystemRoots(String),
    #[error("{0}; this is a defect of outrigger")]
    Defect(rustls::Error),
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    #[error("larger than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("not PEM: {0}")]
    NotPem(pem::Error),
    #[error("holds no certificate in PEM form")]
    NoCertificate,
    #[error("holds no private key in PEM form; keys with a passphrase cannot be used")]
    NoKey,
    #[error("certificate {0} in it cannot be an issuer: {1}")]
    Root(usize, rustls::Error),
    #[error("is not the key of {}", .0.display())]
    NotItsKey(PathBuf),
    #[error("cannot be used: {0}")]
    Unusable(rustls::Error),
}

impl Error {
    /// The file to blame, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File { file, .. } => Some(file),
            Self::SystemRoots(_) | Self::Defect(_) => None,
        }
    }

    fn of(file: &Path, reason: Reason) -> Self {
        Self::File { file: file.to_owned(), reason }
    }
}

/// Those who may issue certificates.
pub(super) fn roots(file: &Path) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in certificates(file)?.into_iter().enumerate() {
        roots.add(certificate).map_err(|error| Error::of(file, Reason::Root(index + 1, error)))?;
    }
    Ok(roots)
}

pub(super) fn system_roots() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // A system's bundle may hold what this library does not know.
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable > 0 {
        return Ok(roots);
    }
    let reasons: Vec<String> = found.errors.iter().map(|error| format!(": {error}")).collect();
    Err(Error::SystemRoots(reasons.concat()))
}

/// A chain that begins with the certificate itself, and a key.
pub(super) fn identity(
    files: &Identity,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let chain = certificates(&files.cert_file)?;
    let bytes = read(&files.key_file)?;
    let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        let reason = match error {
            pem::Error::NoItemsFound => Reason::NoKey,
            error => Reason::NotPem(error),
        };
        Error::of(&files.key_file, reason)
    })?;
    Ok((chain, key))
}

/// Chain and key can be read, and yet rustls does not take them.
pub(super) fn unusable(files: &Identity, error: rustls::Error) -> Error {
    match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            Error::of(&files.key_file, Reason::NotItsKey(files.cert_file.clone()))
        }
        error @ rustls::Error::InvalidCertificate(_) => Error::of(&files.cert_file, Reason::Unusable(error)),
        error => Error::of(&files.key_file, Reason::Unusable(error)),
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = read(file)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let all = all.map_err(|error| Error::of(file, Reason::NotPem(error)))?;
    match all.is_empty() {
        true => Err(Error::of(file, Reason::NoCertificate)),
        false => Ok(all),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|opened| opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| Error::of(file, Reason::Unreadable(error)))?;
    match bytes.len() as u64 > FILE_BYTES_MAX {
        true => Err(Error::of(file, Reason::TooLarge)),
        false => Ok(bytes),
    }
}
