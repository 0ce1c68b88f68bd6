//! TLS, as written.

use schemars::JsonSchema;
use serde::Deserialize;

/// TLS towards servers. Files are PEM, relative to this file, and read again when they change.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClientTls {
    /// Certificates of those who may issue the servers'. Default: those that the system trusts.
    pub(crate) ca_file: Option<String>,
    /// The certificate to show to servers that ask for one, and its chain. Default: none.
    pub(crate) cert_file: Option<String>,
    /// The certificate's private key.
    pub(crate) key_file: Option<String>,
    /// The name that servers' certificates must have. Default: the host that is dialled.
    pub(crate) server_name: Option<String>,
}

/// TLS towards clients. Files are PEM, relative to this file, and read again when they change.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerTls {
    /// The certificate to show, and its chain.
    #[schemars(required)]
    pub(crate) cert_file: Option<String>,
    /// The certificate's private key.
    #[schemars(required)]
    pub(crate) key_file: Option<String>,
    /// Certificates of those who may issue clients'. Default: clients need no certificate.
    pub(crate) client_ca_file: Option<String>,
}
