//! Rules and routes that bring marked packets back in by loopback, of one namespace: as they are, and single steps.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{IpVersion, RouteMessageBuilder};
use serde::{Deserialize, Serialize};

use super::{LOOPBACK, Links, ROUTE_PROTOCOL, error, gone_is_done};
use crate::net::firewall::Family;
use crate::net::observe::Standing;

/// Packets with this mark go by this table of routes. The table's number is the rule's priority as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkRule {
    pub family: Family,
    pub mark: u32,
    pub table: u32,
}

/// What a namespace has of both.
#[derive(Debug, Default)]
pub struct Steering {
    /// With the priority.
    rules: Vec<(MarkRule, u32)>,
    /// Family and table of each route to everywhere that is not of the main table, and whether it leads in by loopback.
    ways: Vec<(Family, u32, bool)>,
}

impl Steering {
    /// One that says the same as ours is as good. Another one for the mark is somebody else's.
    pub(in crate::net) fn rule(&self, rule: &MarkRule, is_ours: bool) -> Standing {
        let same = |(found, priority): &&(MarkRule, u32)| found == rule && *priority == rule.table;
        if self.rules.iter().any(|found| same(&found)) {
            return Standing::Same;
        }
        let mut others = self.rules.iter().map(|(other, _)| other);
        let other = others.any(|other| other.family == rule.family && other.mark == rule.mark);
        if other && !is_ours { Standing::Foreign } else { Standing::Absent }
    }

    pub(in crate::net) fn way_in(&self, family: Family, table: u32) -> Standing {
        let mut ways = self.ways.iter().filter(|(of, at, _)| (*of, *at) == (family, table));
        match ways.next() {
            Some((_, _, true)) => Standing::Same,
            Some((_, _, false)) => Standing::Foreign,
            None => Standing::Absent,
        }
    }
}

impl Links {
    pub async fn steering(&self) -> io::Result<Steering> {
        let mut rules = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let of_family: Vec<_> =
                self.handle.rule().get(version).execute().try_collect().await.map_err(error)?;
            rules.extend(of_family.iter().filter_map(read_rule));
        }
        let routes = self.routes().await?;
        let loopback = self.index(LOOPBACK).await?;
        let ways = routes.iter().filter_map(|route| read_way(route, loopback)).collect();
        Ok(Steering { rules, ways })
    }

    pub async fn add_mark_rule(&self, rule: &MarkRule) -> io::Result<()> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = rule_message(rule);
        match request.execute().await.map_err(error) {
            // A repeated step.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    pub async fn remove_mark_rule(&self, rule: &MarkRule) -> io::Result<()> {
        gone_is_done(self.handle.rule().del(rule_message(rule)).execute().await.map_err(error))
    }

    pub async fn add_way_in(&self, family: Family, table: u32) -> io::Result<()> {
        let message = way_message(family, table, self.index(LOOPBACK).await?);
        let in_words = |error: io::Error| match family {
            Family::Ipv6 if is_off(&error) => io::Error::new(
                error.kind(),
                "IPv6 is off on the loopback of this namespace, and `mode: tproxy` needs it there; set \
                 net.ipv6.conf.lo.disable_ipv6 to 0, or leave `capture.mode` at `redirect`",
            ),
            _ => error,
        };
        self.handle.route().add(message).replace().execute().await.map_err(|found| in_words(error(found)))
    }

    pub async fn remove_way_in(&self, family: Family, table: u32) -> io::Result<()> {
        let message = way_message(family, table, self.index(LOOPBACK).await?);
        gone_is_done(self.handle.route().del(message).execute().await.map_err(error))
    }
}

/// What the kernel says of a link or a stack without IPv6.
fn is_off(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let off = [Errno::ACCESS, Errno::NODEV, Errno::AFNOSUPPORT, Errno::OPNOTSUPP];
    error.raw_os_error().is_some_and(|code| off.iter().any(|errno| errno.raw_os_error() == code))
}

fn rule_message(rule: &MarkRule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = match rule.family {
        Family::Ipv4 => AddressFamily::Inet,
        Family::Ipv6 => AddressFamily::Inet6,
    };
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Table(rule.table),
        RuleAttribute::Priority(rule.table),
        RuleAttribute::FwMark(rule.mark),
        RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)),
    ];
    message
}

fn read_rule(message: &RuleMessage) -> Option<(MarkRule, u32)> {
    let family = family(message.header.family)?;
    let is_plain = message.header.action == RuleAction::ToTable && message.header.src_len == 0;
    let number = |pick: fn(&RuleAttribute) -> Option<u32>| message.attributes.iter().find_map(pick);
    let mark = number(|attribute| match attribute {
        RuleAttribute::FwMark(mark) => Some(*mark),
        _ => None,
    })?;
    let table = number(|attribute| match attribute {
        RuleAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let priority = number(|attribute| match attribute {
        RuleAttribute::Priority(priority) => Some(*priority),
        _ => None,
    });
    let table = table.filter(|_| is_plain).unwrap_or(message.header.table.into());
    Some((MarkRule { family, mark, table }, priority.unwrap_or_default()))
}

fn way_message(family: Family, table: u32, loopback: u32) -> RouteMessage {
    let protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    let mut message = match family {
        Family::Ipv4 => RouteMessageBuilder::<Ipv4Addr>::new().output_interface(loopback).build(),
        Family::Ipv6 => RouteMessageBuilder::<Ipv6Addr>::new().output_interface(loopback).build(),
    };
    let header = &mut message.header;
    (header.kind, header.protocol, header.scope) = (RouteType::Local, protocol, RouteScope::Host);
    // The attribute says which.
    header.table = RouteHeader::RT_TABLE_UNSPEC;
    message.attributes.push(RouteAttribute::Table(table));
    message
}

fn read_way(message: &RouteMessage, loopback: u32) -> Option<(Family, u32, bool)> {
    let family = family(message.header.address_family)?;
    if message.header.destination_prefix_length != 0 {
        return None;
    }
    let table = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let is_by_loopback = message
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, RouteAttribute::Oif(link) if *link == loopback));
    Some((family, table?, message.header.kind == RouteType::Local && is_by_loopback))
}

fn family(family: AddressFamily) -> Option<Family> {
    match family {
        AddressFamily::Inet => Some(Family::Ipv4),
        AddressFamily::Inet6 => Some(Family::Ipv6),
        _ => None,
    }
}

impl fmt::Display for MarkRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, mark, table } = self;
        write!(f, "rule for {family}: mark {mark:#x} goes by table {table}")
    }
}
