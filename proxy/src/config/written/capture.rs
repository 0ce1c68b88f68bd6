//! `capture`: traffic that is led here without the workload's knowledge, as written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{OneOrMany, Span};

/// Takes the traffic that a capture table leads here (see `outrigger net`): what the workload sends, and what comes to
/// it. One of the two is enough.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Capture {
    /// How the table leads it here, as the network file says. Default: redirect.
    pub(crate) mode: Option<Mode>,
    /// Where arrives what the workload sends: one IP:port or a list; an empty list takes nothing. Default:
    /// 127.0.0.1:15001 and, where the host has IPv6, [::1]:15001.
    pub(crate) outbound: Option<OneOrMany>,
    /// Where arrives what comes to the workload: one IP:port or a list; an empty list takes nothing. Default:
    /// 0.0.0.0:15006 and, where the host has IPv6, [::]:15006.
    pub(crate) inbound: Option<OneOrMany>,
    /// What becomes of a connection to an address that no service has. Default: pass.
    pub(crate) unknown: Option<Unknown>,
    /// How long a client is given to speak first, before an endpoint is connected to that may be the one to do so.
    /// Default: 200ms.
    pub(crate) detect: Option<Span>,
    /// A connection that is relayed as TCP ends when nothing has moved on it for so long. Default: 1h.
    pub(crate) idle: Option<Span>,
    /// Ports that the workload dials and on which nothing is parsed, in quotes: `"3306"`, `"8000-8099"`. What goes there
    /// is relayed as TCP, at once. Default: none.
    pub(crate) opaque_outbound: Option<Vec<String>>,
    /// The same for the workload's own ports. Default: none.
    pub(crate) opaque_inbound: Option<Vec<String>>,
}

/// How captured connections come.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Translated; the kernel says what was dialled.
    Redirect,
    /// As they are, to sockets that stand for any address. Needs CAP_NET_RAW or CAP_NET_ADMIN at the start.
    Tproxy,
}

/// What becomes of a connection to an address that no service has.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Unknown {
    /// It goes where it was meant to, unread.
    Pass,
    /// It is reset.
    Refuse,
}
