//! Whether the subnets of a network file are free on this host.

use std::io;

use super::Finding;
use crate::net::links::{Dump, Links};
use crate::net::overlay::Plan;
use crate::net::prefix::Prefix;
use crate::net::settings::Settings;

const ABOUT: &str = "subnets";

pub(super) fn look(settings: &Settings) -> Vec<Finding> {
    match dump() {
        Ok(dump) => judge(settings, &dump),
        Err(error) => {
            vec![Finding::warning(ABOUT, format!("links cannot be read: {error}"), "look with `ip address`")]
        }
    }
}

fn dump() -> io::Result<Dump> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (connection, links) = Links::open()?;
        tokio::spawn(connection);
        links.dump().await
    })
}

fn judge(settings: &Settings, dump: &Dump) -> Vec<Finding> {
    let mut found = Vec::new();
    for (name, network) in &settings.networks {
        let founding = network.overlay.as_ref().and_then(|overlay| overlay.founding.as_ref());
        let ranges = founding.map_or(Vec::new(), Plan::wholes);
        let is_overlay = !ranges.is_empty();
        for range in network.subnets.iter().copied().chain(ranges) {
            let addresses = dump.addresses.iter().map(|(link, address)| (link, address.network()));
            // Within an overlay's range they may be ours, to other hosts.
            let is_to_a_host =
                |to: Prefix| is_overlay && range.contains(to.address()) && to.length() > range.length();
            let routes = dump.routes.iter().filter(|route| !is_to_a_host(route.to));
            let is_ours = |link: &str| {
                link == network.bridge || is_overlay && dump.link(link).is_some_and(|link| link.is_marked)
            };
            let other = addresses
                .chain(routes.map(|route| (&route.link, route.to)))
                .filter(|(link, prefix)| !is_ours(link) && prefix.length() > 0)
                .find(|(_, prefix)| prefix.overlaps(range));
            if let Some((link, prefix)) = other {
                found.push(Finding::bad(
                    ABOUT,
                    format!("{range} of network `{name}` overlaps with {prefix}, to which `{link}` leads"),
                    "take another range for one of them",
                ));
            }
        }
    }
    if found.is_empty() {
        found.push(Finding::good(ABOUT, "those of the file are free here"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::doctor::Verdict;
    use crate::net::settings::Network;

    #[test]
    fn an_overlap_is_named_and_our_own_bridge_is_none() {
        let network = Network {
            bridge: "or-web".into(),
            subnets: vec!["10.77.0.0/24".parse().unwrap()],
            mtu: None,
            masquerade: true,
            isolated: true,
            static_neighbours: false,
            overlay: None,
            whole: vec![],
        };
        let settings = Settings { networks: [("web".into(), network)].into(), ..Settings::default() };
        let with = |link: &str, address: &str| Dump {
            addresses: vec![(link.into(), address.parse().unwrap())],
            ..Dump::default()
        };
        assert_eq!(judge(&settings, &with("or-web", "10.77.0.1/24"))[0].verdict, Verdict::Good);
        assert_eq!(judge(&settings, &with("eth0", "10.78.0.1/24"))[0].verdict, Verdict::Good);
        let clash = judge(&settings, &with("eth0", "10.77.0.9/16"));
        assert!(clash[0].says.contains("10.77.0.0/16, to which `eth0` leads"), "{clash:?}");
    }
}
