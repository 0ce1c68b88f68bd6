//! `/names`: what services are called, and their virtual addresses.

use serde_json::{Map, Value, json};

use crate::config::{Answer, Config};
use crate::control::publish::World;

/// Services in name order; `null` if no names are offered.
pub(super) fn view(config: &Config, world: Option<&World>) -> Value {
    let Some(dns) = &config.dns else { return Value::Null };
    let mut services = Map::new();
    let addresses = world.map(|world| &world.snapshot.addresses);
    for (service, _) in addresses.into_iter().flat_map(|addresses| addresses.iter()) {
        let own = addresses.and_then(|addresses| addresses.of(service));
        let names = config.services.get(&**service).unwrap_or(&config.defaults).dns;
        let answer = match names.answer {
            Answer::Endpoints => "endpoints",
            Answer::Virtual => "virtual",
        };
        services.insert(
            service.to_string(),
            json!({
                "name": format!("{service}.{}", config.domain),
                "answer": answer,
                "wildcard": names.wildcard,
                "ipv4": own.map(|(v4, _)| v4),
                "ipv6": own.map(|(_, v6)| v6),
            }),
        );
    }
    json!({ "listen": dns.listen, "domain": config.domain, "services": services })
}
