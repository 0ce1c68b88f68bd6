//! Where an overlay's etcd is, as the store keeps it: places of secrets, and no secrets.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{Etcd, Secret, Server};
use crate::tls;

const PROTOCOL: &str = "http/1.1";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub servers: Vec<Server>,
    /// What all keys begin with; begins with a slash and does not end with one.
    pub prefix: String,
    /// Name, and the file with the password.
    pub user: Option<(String, PathBuf)>,
    /// `None`: in the clear.
    pub tls: Option<TlsFiles>,
    /// For one exchange.
    pub timeout: Duration,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsFiles {
    pub ca_file: Option<PathBuf>,
    /// Certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    pub server_name: Option<String>,
}

impl Source {
    /// Reads the files as they are now, which blocks.
    pub fn open(&self) -> Result<Etcd, String> {
        let user = match &self.user {
            None => None,
            Some((name, file)) => {
                let password = std::fs::read_to_string(file);
                let password =
                    password.map_err(|error| format!("cannot read {}: {error}", file.display()))?;
                Some((name.clone(), Secret(password.trim().to_owned())))
            }
        };
        let tls = self.tls.as_ref().map(TlsFiles::open).transpose()?;
        let Self { servers, prefix, timeout, .. } = self;
        Ok(Etcd { servers: servers.clone(), tls, prefix: prefix.clone(), user, timeout: *timeout })
    }

    pub fn config_key(&self) -> String {
        format!("{}/config", self.prefix)
    }

    /// What the keys of all subnets begin with.
    pub fn subnets(&self) -> String {
        format!("{}/subnets/", self.prefix)
    }
}

impl TlsFiles {
    fn open(&self) -> Result<tls::Client, String> {
        let identity = self.identity.clone();
        let settings = tls::ClientSettings {
            ca_file: self.ca_file.clone(),
            identity: identity.map(|(cert_file, key_file)| tls::Identity { cert_file, key_file }),
            server_name: self.server_name.as_deref().and_then(tls::server_name),
            protocol: PROTOCOL,
        };
        tls::Client::load(settings).map_err(|error| error.to_string())
    }
}
