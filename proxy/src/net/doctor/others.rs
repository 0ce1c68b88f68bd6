//! Tables of others that decide about our packets, too.

use super::Finding;
use crate::net::firewall::TABLE;
use crate::net::firewall::kernel::{Netfilter, OtherChain};

const ABOUT: &str = "other tables";
/// Where ours leads a workload's traffic into the sidecar.
const CAPTURE_PRIORITY: i32 = -110;
/// Docker calls it before its own rules, and leaves what is in it alone.
const OF_DOCKER_S_USERS: &str = "DOCKER-USER";

pub(super) fn look() -> Finding {
    match Netfilter::open().and_then(|netfilter| netfilter.chains_of_others()) {
        Ok(chains) => judge(&chains),
        Err(error) => Finding::warning(ABOUT, format!("they cannot be read: {error}"), "run this as root"),
    }
}

/// An `accept` of ours ends our table only: one that drops, anywhere, has the last word.
fn judge(chains: &[OtherChain]) -> Finding {
    let mut says = Vec::new();
    let mut cures = Vec::new();
    for chain in chains.iter().filter(|chain| chain.table != TABLE) {
        let name = format!("{} {} {}", chain.family, chain.table, chain.name);
        if chain.is_forward() && chain.drops {
            says.push(format!("`{name}` drops what is forwarded unless a rule of its own lets it through"));
            let of_users = chains.iter().any(|other| {
                (other.family, &other.table) == (chain.family, &chain.table)
                    && other.name == OF_DOCKER_S_USERS
            });
            let into = if of_users { OF_DOCKER_S_USERS } else { &chain.name };
            let into = format!("{} {} {into}", chain.family, chain.table);
            cures.push(format!("nft insert rule {into} iifname BRIDGE accept; the same with oifname"));
        } else if chain.is_translation_of_output() && chain.priority <= CAPTURE_PRIORITY {
            says.push(format!("`{name}` redirects before ours does (priority {})", chain.priority));
            cures.push("let one capture alone be in force in a namespace".to_owned());
        }
    }
    if says.is_empty() {
        return Finding::good(ABOUT, "none of nftables drops what is forwarded, or captures before ours");
    }
    cures.dedup();
    Finding::warning(ABOUT, says.join("; "), cures.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::doctor::Verdict;

    fn chain(hook: u32, kind: &str, priority: i32, drops: bool) -> OtherChain {
        let (text, hook) = (|text: &str| text.to_owned(), Some(hook));
        OtherChain {
            family: "ip",
            table: text("docker"),
            name: text("c"),
            kind: text(kind),
            hook,
            priority,
            drops,
        }
    }

    #[test]
    fn only_what_stands_in_our_way_is_named() {
        let harmless =
            [chain(2, "filter", 0, false), chain(1, "filter", 0, true), chain(3, "nat", -100, false)];
        assert_eq!(judge(&harmless).verdict, Verdict::Good);
        let drops = judge(&[chain(2, "filter", 0, true)]);
        assert!(drops.says.contains("`ip docker c` drops"), "{drops:?}");
        assert!(drops.cure.contains("nft insert rule ip docker c"), "{drops:?}");
        let of_users = OtherChain { name: OF_DOCKER_S_USERS.into(), hook: None, ..chain(2, "", 0, false) };
        let drops = judge(&[chain(2, "filter", 0, true), of_users]);
        assert!(drops.cure.contains("nft insert rule ip docker DOCKER-USER iifname"), "{drops:?}");
        assert!(judge(&[chain(3, "nat", -150, false)]).says.contains("before ours"));
        let ours = OtherChain { table: TABLE.into(), ..chain(3, "nat", -110, false) };
        assert_eq!(judge(&[ours]).verdict, Verdict::Good);
    }
}
