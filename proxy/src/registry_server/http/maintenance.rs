//! Taking a service or a node out for a while: `/v1/agent/maintenance` and `/v1/agent/service/maintenance`.

use super::Server;
use super::ask::{Answer, Ask, Problem};
use crate::registry_server::change::Change;
use crate::registry_server::model::Name;

impl Server {
    pub(super) async fn maintenance(&self, ask: &Ask, instance: Option<&str>) -> Result<Answer, Problem> {
        let on = match ask.parameter("enable") {
            Some("true" | "1") => Some(ask.parameter("reason").unwrap_or_default().to_owned()),
            Some("false" | "0") => None,
            Some(other) => return Err(Problem::bad(format!("Invalid value for enable: {other:?}"))),
            None => return Err(Problem::bad("Missing value for enable")),
        };
        let node = Name::from(self.settings.node.as_str());
        self.registry.change(Change::Maintenance { node, instance: instance.map(Name::from), on }).await?;
        Ok(Answer::empty())
    }
}
