//! `dns.forward`: where names go that are not ours, as written.

use schemars::JsonSchema;
use serde::Deserialize;

/// Where names go that are not ours.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Forward {}
