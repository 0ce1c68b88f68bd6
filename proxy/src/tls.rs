//! TLS: what connections are made and taken with, from PEM files that may change.
//!
//! `Client` and `Server` hold what is in force, and their clones share it. Whoever watches their `files` reads them again;
//! a connection takes what is in force when it begins. Invariant: what cannot be used changes nothing, and no default
//! of the process decides anything: the cryptography (ring) is named here alone.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

mod blame;
mod pem;

pub use blame::blame;
pub use pem::{Error, Reason};
pub use rustls::ClientConfig;

/// How a client trusts servers, and what it shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSettings {
    /// Certificates of those who may issue the server's; `None`: whom the system trusts.
    pub ca_file: Option<PathBuf>,
    /// For servers that ask for a certificate.
    pub identity: Option<Identity>,
    /// In place of the name that was dialled.
    pub server_name: Option<ServerName<'static>>,
    /// What is spoken inside, as ALPN calls it.
    pub protocol: &'static str,
}

/// What a server shows its clients, and whether it asks for theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    pub identity: Identity,
    /// Certificates of those who may issue clients'; `None`: clients need none.
    pub client_ca_file: Option<PathBuf>,
    /// What is spoken inside, as ALPN calls it.
    pub protocol: &'static str,
}

/// A certificate with its chain, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

/// What connections to servers are made with. Two are equal if they have the same settings.
#[derive(Debug, Clone)]
pub struct Client {
    pub settings: Arc<ClientSettings>,
    in_force: Arc<watch::Sender<Arc<ClientConfig>>>,
}

/// What connections of clients are taken with. Two are equal if they have the same settings.
#[derive(Debug, Clone)]
pub struct Server {
    pub settings: Arc<ServerSettings>,
    in_force: Arc<watch::Sender<Arc<ServerConfig>>>,
}

impl PartialEq for Client {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl Eq for Client {}

impl PartialEq for Server {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl Eq for Server {}

impl Client {
    /// Reads the files, which blocks.
    pub fn load(settings: ClientSettings) -> Result<Self, Error> {
        let in_force = Arc::new(watch::Sender::new(Arc::new(client_config(&settings)?)));
        Ok(Self { settings: Arc::new(settings), in_force })
    }

    /// Reads the files as they are now, which blocks.
    pub fn read(&self) -> Result<Arc<ClientConfig>, Error> {
        client_config(&self.settings).map(Arc::new)
    }

    /// For connections to come.
    pub fn put_in_force(&self, config: Arc<ClientConfig>) {
        self.in_force.send_replace(config);
    }

    pub fn in_force(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.in_force.borrow())
    }

    /// What to watch. The system's own roots are read again with any of them.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let identity = self.settings.identity.iter().flat_map(Identity::files);
        self.settings.ca_file.iter().map(PathBuf::as_path).chain(identity)
    }

    /// Shakes hands with a server; how long that may take is the caller's to bound.
    pub async fn connect(&self, host: &str, stream: TcpStream) -> io::Result<client::TlsStream<TcpStream>> {
        let name = match &self.settings.server_name {
            Some(name) => name.clone(),
            None => server_name(host).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidInput, format!("`{host}` cannot be in a certificate"))
            })?,
        };
        TlsConnector::from(self.in_force()).connect(name, stream).await.map_err(explained)
    }
}

impl Server {
    /// Reads the files, which blocks.
    pub fn load(settings: ServerSettings) -> Result<Self, Error> {
        let in_force = Arc::new(watch::Sender::new(Arc::new(server_config(&settings)?)));
        Ok(Self { settings: Arc::new(settings), in_force })
    }

    /// Reads the files again, for connections to come; blocks.
    pub fn reload(&self) -> Result<(), Error> {
        self.in_force.send_replace(Arc::new(server_config(&self.settings)?));
        Ok(())
    }

    /// What to watch.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let client_ca = self.settings.client_ca_file.iter().map(PathBuf::as_path);
        self.settings.identity.files().into_iter().chain(client_ca)
    }

    /// Shakes hands with a client; how long that may take is the caller's to bound.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<server::TlsStream<TcpStream>> {
        let config = Arc::clone(&self.in_force.borrow());
        TlsAcceptor::from(config).accept(stream).await.map_err(explained)
    }
}

impl Identity {
    fn files(&self) -> [&Path; 2] {
        [&self.cert_file, &self.key_file]
    }
}

/// A name or address as it may be in a certificate.
pub fn server_name(text: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(text.to_owned()).ok()
}

fn explained(error: io::Error) -> io::Error {
    match blame(&error) {
        Some(text) => io::Error::new(error.kind(), text),
        None => error,
    }
}

fn client_config(settings: &ClientSettings) -> Result<ClientConfig, Error> {
    let roots = match &settings.ca_file {
        Some(file) => pem::roots(file)?,
        None => pem::system_roots()?,
    };
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().map_err(Error::Defect)?;
    let builder = builder.with_root_certificates(roots);
    let mut config = match &settings.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = pem::identity(identity)?;
            builder.with_client_auth_cert(chain, key).map_err(|error| pem::unusable(identity, error))?
        }
    };
    config.alpn_protocols = vec![settings.protocol.into()];
    Ok(config)
}

fn server_config(settings: &ServerSettings) -> Result<ServerConfig, Error> {
    let builder = ServerConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().map_err(Error::Defect)?;
    let builder = match &settings.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let roots = Arc::new(pem::roots(file)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            let verifier = verifier.map_err(|error| Error::Defect(rustls::Error::General(error.to_string())));
            builder.with_client_cert_verifier(verifier?)
        }
    };
    let (chain, key) = pem::identity(&settings.identity)?;
    let config = builder.with_single_cert(chain, key);
    let mut config = config.map_err(|error| pem::unusable(&settings.identity, error))?;
    config.alpn_protocols = vec![settings.protocol.into()];
    Ok(config)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[cfg(test)]
mod tests;
