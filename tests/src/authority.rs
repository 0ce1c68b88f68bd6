//! Somebody who issues certificates for tests, into a folder.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};

/// Signs whatever it is asked to.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, for those who trust it.
    pub file: PathBuf,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub struct Identity {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

/// A year that no test will see.
const LATE: i32 = 2999;

impl Authority {
    pub fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let file = folder.join(format!("{name}.pem"));
        replace(&file, &params.self_signed(&key).unwrap().pem());
        Self { folder: folder.to_owned(), issuer: Issuer::new(params, key), file }
    }

    /// For servers and clients of these names and addresses; replaces `FILE.crt` and `FILE.key`.
    pub fn issue(&self, file: &str, names: &[&str]) -> Identity {
        self.issue_until(file, names, LATE)
    }

    /// Valid until the beginning of a year.
    pub fn issue_until(&self, file: &str, names: &[&str], year: i32) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, file);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(year, 1, 1));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let path = |end: &str| self.folder.join(format!("{file}.{end}"));
        let identity = Identity { cert_file: path("crt"), key_file: path("key") };
        replace(&identity.cert_file, &certificate.pem());
        replace(&identity.key_file, &key.serialize_pem());
        identity
    }
}

/// Those who trust this file trust all of them.
pub fn bundle(authorities: &[&Authority], file: &Path) {
    let all: Vec<String> = authorities.iter().map(|one| fs::read_to_string(&one.file).unwrap()).collect();
    replace(file, &all.concat());
}

/// A file appears whole in place of the old one.
fn replace(file: &Path, text: &str) {
    let beside = file.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(&beside, file).unwrap();
}
