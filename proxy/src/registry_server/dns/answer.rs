//! From a question and the state to an answer. Pure, but for the turn that the caller draws.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, SOA, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::registry_server::model::Status;
use crate::registry_server::state::{Found, State};

/// Instances shown in one answer; the turn decides which.
const INSTANCES_MAX: usize = 512;
const EDNS_BYTES: u16 = 1232;

/// Whose names these are.
#[derive(Debug, Clone)]
pub(crate) struct Zone {
    pub(crate) datacenter: String,
    pub(crate) ttl_s: u32,
}

/// What a name stands for.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// The zone itself.
    Apex,
    Service {
        name: String,
        tag: Option<String>,
    },
    Node(String),
    Address(IpAddr),
    Nothing,
    /// Not below `consul.`.
    Foreign,
}

/// Records, or that there is no such name.
type Records = Option<(Vec<Record>, Vec<Record>)>;

impl Zone {
    /// In at most so many bytes; `turn` rotates the instances.
    pub(crate) fn answer(&self, state: &State, question: &Message, (limit, turn): (u16, u64)) -> Vec<u8> {
        let mut reply = Message::response(question.metadata.id, question.metadata.op_code);
        reply.metadata.recursion_desired = question.metadata.recursion_desired;
        reply.add_queries(question.queries.iter().cloned());
        if question.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(EDNS_BYTES);
            reply.set_edns(edns);
        }
        reply.metadata.response_code = match (question.metadata.op_code, question.queries.as_slice()) {
            (OpCode::Query, [query]) if query.query_class == DNSClass::IN => {
                self.fill(state, &query.name, query.query_type, turn, &mut reply)
            }
            (OpCode::Query, [_]) => ResponseCode::Refused,
            (OpCode::Query, _) => ResponseCode::FormErr,
            _ => ResponseCode::NotImp,
        };
        encoded(reply, usize::from(limit))
    }

    fn fill(
        &self,
        state: &State,
        name: &Name,
        kind: RecordType,
        turn: u64,
        reply: &mut Message,
    ) -> ResponseCode {
        let meaning = self.meaning(name);
        if meaning == Meaning::Foreign {
            return ResponseCode::Refused;
        }
        reply.metadata.authoritative = true;
        let records = match meaning {
            Meaning::Apex => Some((self.apex(name, kind), Vec::new())),
            Meaning::Service { name: service, tag } => {
                self.service(state, (&service, tag.as_deref()), name, kind, turn)
            }
            Meaning::Node(node) => {
                let found = state.nodes.iter().find(|(own, _)| own.eq_ignore_ascii_case(&node));
                found.map(|(_, node)| (self.addresses(name, &node.row.address, kind), Vec::new()))
            }
            Meaning::Address(address) => Some((self.addresses(name, &address.to_string(), kind), Vec::new())),
            Meaning::Nothing | Meaning::Foreign => None,
        };
        let found = records.is_some();
        let (answers, additionals) = records.unwrap_or_default();
        if answers.is_empty() {
            reply.add_authorities(self.soa());
        }
        reply.add_answers(answers);
        reply.add_additionals(additionals);
        if found { ResponseCode::NoError } else { ResponseCode::NXDomain }
    }

    fn meaning(&self, name: &Name) -> Meaning {
        let labels: Vec<String> =
            name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect();
        let mut labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        if labels.pop() != Some("consul") {
            return Meaning::Foreign;
        }
        if labels.is_empty() {
            return Meaning::Apex;
        }
        const KINDS: [&str; 3] = ["service", "node", "addr"];
        let is_kind = |label: Option<&&str>| label.is_some_and(|label| KINDS.contains(label));
        // `.DC.dc`, and the older `.DC`; any other datacentre has no names here.
        let spelt_out = labels.len() > 2 && labels.last() == Some(&"dc");
        if spelt_out {
            labels.pop();
        }
        let by_record = labels.len() >= 2 && labels[0].starts_with('_') && labels[1].starts_with('_');
        if !is_kind(labels.last()) && (labels.len() > 1 && is_kind(labels.get(labels.len() - 2)) || spelt_out)
        {
            if labels.pop() != Some(&self.datacenter) {
                return Meaning::Nothing;
            }
        } else if by_record && labels.len() == 3 && labels[2] == self.datacenter {
            labels.pop();
        }
        let kind = if is_kind(labels.last()) { labels.pop() } else { by_record.then_some("service") };
        match (kind, labels.as_slice()) {
            (Some("service"), [service, tag]) if by_record => {
                let tag = Some(tag[1..].to_owned()).filter(|tag| tag != "tcp");
                Meaning::Service { name: service[1..].to_owned(), tag }
            }
            (Some("service"), [tags @ .., service]) => {
                let tag = (!tags.is_empty()).then(|| tags.join("."));
                Meaning::Service { name: (*service).to_owned(), tag }
            }
            (Some("node"), [_, ..]) => Meaning::Node(labels.join(".")),
            (Some("addr"), [hex]) => address_of(hex).map_or(Meaning::Nothing, Meaning::Address),
            _ => Meaning::Nothing,
        }
    }

    fn service(
        &self,
        state: &State,
        (service, tag): (&str, Option<&str>),
        name: &Name,
        kind: RecordType,
        turn: u64,
    ) -> Records {
        let own = state.services.iter().map(|(own, _)| own).find(|own| own.eq_ignore_ascii_case(service))?;
        let is_well = |found: &Found<'_>| {
            let tagged =
                tag.is_none_or(|tag| found.instance.tags.iter().any(|t| t.eq_ignore_ascii_case(tag)));
            tagged && found.checks().iter().all(|check| check.status != Status::Critical)
        };
        let mut instances: Vec<Found<'_>> = state.instances_of(own).filter(is_well).collect();
        if instances.is_empty() {
            return None;
        }
        let turn = usize::try_from(turn % instances.len() as u64).unwrap_or(0);
        instances.rotate_left(turn);
        instances.truncate(INSTANCES_MAX);
        let (mut answers, mut additionals): (Vec<Record>, Vec<Record>) = (Vec::new(), Vec::new());
        for found in instances {
            if matches!(kind, RecordType::SRV | RecordType::ANY) {
                let Some((target, address)) = self.target(found) else { continue };
                let weight = u16::try_from(found.instance.weights.passing).unwrap_or(u16::MAX);
                let srv = SRV::new(1, weight, found.instance.port, target.clone());
                answers.push(self.record(name, RData::SRV(srv)));
                let more = self.addresses(&target, &address, RecordType::ANY);
                additionals.extend(more.into_iter().filter(|record| !matches!(record.data, RData::CNAME(_))));
            }
            if kind != RecordType::SRV {
                answers.extend(self.addresses(name, reached_at(found), kind));
            }
        }
        // Instances on one machine share its address.
        let mut seen = std::collections::HashSet::new();
        answers.retain(|record| seen.insert(record.data.to_string()));
        let mut seen = std::collections::HashSet::new();
        additionals.retain(|record| seen.insert(record.to_string()));
        Some((answers, additionals))
    }

    /// Where an SRV record points, and the address of that name.
    fn target(&self, found: Found<'_>) -> Option<(Name, String)> {
        let own = &found.instance.address;
        let dc = &self.datacenter;
        let name = match own.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => format!("{:08x}.addr.{dc}.consul.", u32::from(address)),
            Ok(IpAddr::V6(address)) => format!("{:032x}.addr.{dc}.consul.", u128::from(address)),
            Err(_) if own.is_empty() => format!("{}.node.{dc}.consul.", found.node.row.name),
            Err(_) => format!("{}.", own.trim_end_matches('.')),
        };
        // A name that DNS cannot carry is left out.
        Name::from_ascii(name).ok().map(|name| (name, reached_at(found).to_owned()))
    }

    /// Of an address; for a host name, where to look.
    fn addresses(&self, name: &Name, address: &str, kind: RecordType) -> Vec<Record> {
        let any = kind == RecordType::ANY;
        let data = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) if any || kind == RecordType::A => RData::A(A(address)),
            Ok(IpAddr::V6(address)) if any || kind == RecordType::AAAA => RData::AAAA(AAAA(address)),
            Ok(_) => return Vec::new(),
            Err(_) => match Name::from_ascii(format!("{}.", address.trim_end_matches('.'))) {
                Ok(host) if !address.is_empty() => RData::CNAME(CNAME(host)),
                _ => return Vec::new(),
            },
        };
        vec![self.record(name, data)]
    }

    fn apex(&self, name: &Name, kind: RecordType) -> Vec<Record> {
        match kind {
            RecordType::SOA | RecordType::ANY => self.soa().collect(),
            RecordType::NS => Name::from_ascii("ns.consul.")
                .map(|ns| self.record(name, RData::NS(NS(ns))))
                .into_iter()
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Nothing here is transferred, so most of it has no meaning.
    fn soa(&self) -> impl Iterator<Item = Record> + use<> {
        let names = ["consul.", "ns.consul.", "hostmaster.consul."].map(Name::from_ascii);
        let [Ok(apex), Ok(ns), Ok(mail)] = names else { return None.into_iter() };
        let soa = SOA::new(ns, mail, 1, 3600, 600, 86_400, 0);
        Some(Record::from_rdata(apex, self.ttl_s, RData::SOA(soa))).into_iter()
    }

    fn record(&self, name: &Name, data: RData) -> Record {
        Record::from_rdata(name.clone(), self.ttl_s, data)
    }
}

fn reached_at(found: Found<'_>) -> &str {
    let own = found.instance.address.as_str();
    if own.is_empty() { &found.node.row.address } else { own }
}

/// Eight hexadecimal digits are IPv4, 32 are IPv6.
fn address_of(hex: &str) -> Option<IpAddr> {
    match hex.len() {
        8 => u32::from_str_radix(hex, 16).ok().map(|bits| Ipv4Addr::from(bits).into()),
        32 => u128::from_str_radix(hex, 16).ok().map(|bits| Ipv6Addr::from(bits).into()),
        _ => None,
    }
}

/// As much as fits: first without what is additional, then with fewer answers and the sign that there are more.
fn encoded(mut reply: Message, limit: usize) -> Vec<u8> {
    loop {
        match reply.to_vec() {
            Ok(bytes) if bytes.len() <= limit => return bytes,
            Ok(_) if !reply.additionals.is_empty() => reply.additionals.clear(),
            Ok(bytes) if !reply.answers.is_empty() => {
                let fitting = reply.answers.len() * limit / bytes.len();
                let fewer = fitting.min(reply.answers.len() - 1);
                reply.answers.truncate(fewer);
                reply.metadata.truncation = true;
            }
            // A question that fits has an answer that does.
            _ => return Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Zone {
        Zone { datacenter: "dc1".into(), ttl_s: 0 }
    }

    fn meaning(name: &str) -> Meaning {
        zone().meaning(&Name::from_ascii(name).unwrap())
    }

    fn service(name: &str, tag: Option<&str>) -> Meaning {
        Meaning::Service { name: name.into(), tag: tag.map(str::to_owned) }
    }

    #[test]
    fn names_mean_what_they_mean_to_consul() {
        for name in ["web.service.consul.", "WEB.Service.dc1.consul.", "web.service.dc1.dc.consul."] {
            assert_eq!(meaning(name), service("web", None), "{name}");
        }
        assert_eq!(meaning("blue.web.service.consul."), service("web", Some("blue")));
        assert_eq!(meaning("v1.2.web.service.consul."), service("web", Some("v1.2")));
        for name in ["_web._tcp.service.consul.", "_web._tcp.consul.", "_web._tcp.service.dc1.consul."] {
            assert_eq!(meaning(name), service("web", None), "{name}");
        }
        assert_eq!(meaning("_web._blue.service.consul."), service("web", Some("blue")));
        for name in ["n1.node.consul.", "n1.node.dc1.consul.", "n1.node.dc1.dc.consul."] {
            assert_eq!(meaning(name), Meaning::Node("n1".into()), "{name}");
        }
        assert_eq!(meaning("a.b.node.consul."), Meaning::Node("a.b".into()));
        assert_eq!(meaning("0a000007.addr.dc1.consul."), Meaning::Address("10.0.0.7".parse().unwrap()));
        assert_eq!(meaning("consul."), Meaning::Apex);
        for name in ["web.service.dc2.consul.", "service.consul.", "web.consul.", "zz.addr.consul."] {
            assert_eq!(meaning(name), Meaning::Nothing, "{name}");
        }
        for name in ["example.com.", ".", "web.service.consul.example."] {
            assert_eq!(meaning(name), Meaning::Foreign, "{name}");
        }
    }
}
