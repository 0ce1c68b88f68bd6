//! From a question and the snapshot to a reply, at once: pure, but for the turn that rotates what is equal.
//!
//! What is not ours is left to the forwarder. Nothing here allocates once its lists have grown, and the cost of a
//! question follows its own answer.

use std::net::IpAddr;
use std::sync::Arc;

use super::name::Labels;
use super::reverse::Reverse;
use super::wire::{Code, Data, Query, Reply, Section, Soa, class, kind};
use super::zone::{Form, Located, Meaning, Zone};
use crate::config::{Answer, Config, Dns};
use crate::snapshot::{Pool, Snapshot};
use records::Chosen;

pub(super) mod alias;
mod records;
mod search;
mod way_back;

use search::Search;

/// Seconds in the SOA record that say something to secondary servers alone; there are none.
const UNUSED_S: u32 = 3600;
/// What is left of ANY (RFC 8482): a record that says so.
const ANY_IS_OVER: &[u8] = b"\x07RFC8482\x00";

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The reply is written.
    Answered(Code),
    /// The reply is written, and says that this is not done here.
    Refused,
    /// Not ours.
    Forward,
    /// A client's first attempt on its search list, which leads nowhere: `walk` goes on from here.
    Search,
}

/// How far the path of a search list has been walked.
#[derive(Debug)]
pub(super) enum Step {
    /// The reply is written.
    Answered,
    /// Whether this name exists is for others to say; it is the one at this place of the path.
    Ask(usize, Box<[u8]>),
    /// At the end of the path, and what was asked for was never ours: what others say of it stands.
    Nowhere,
}

/// What answers.
#[derive(Debug)]
pub(super) struct Answerer {
    snapshot: Arc<Snapshot>,
    zone: Zone,
    reverse: Reverse,
    search: Search,
    listen: Vec<IpAddr>,
    ttl_s: u32,
    turn: u32,
    chosen: Chosen,
}

impl Answerer {
    /// `listen` is where questions can be asked; `snapshot` has no services yet.
    pub(super) fn new(snapshot: Arc<Snapshot>, dns: &Dns, listen: Vec<IpAddr>) -> Self {
        Self {
            zone: zone(&snapshot.config, dns),
            snapshot,
            reverse: Reverse::default(),
            search: Search::new(&dns.search),
            listen,
            ttl_s: dns.ttl_s,
            turn: 0,
            chosen: Chosen::default(),
        }
    }

    /// From now on, this is what is so.
    pub(super) fn follow(&mut self, snapshot: Arc<Snapshot>) {
        self.reverse.follow(&self.snapshot, &snapshot);
        // What `dns` says stays as it was at the start.
        if let Some(dns) = &snapshot.config.dns
            && self.snapshot.config.domain != snapshot.config.domain
        {
            self.zone = zone(&snapshot.config, dns);
        }
        self.snapshot = snapshot;
    }

    /// Writes the reply to what is ours; `now_ms` is `clock::now_ms`.
    pub(super) fn answer(
        &mut self,
        query: &Query<'_>,
        (bytes_max, now_ms): (usize, u64),
        out: &mut Vec<u8>,
    ) -> Outcome {
        if query.class != class::IN || matches!(query.kind, kind::AXFR | kind::IXFR) {
            Reply::to(query, bytes_max, out).finish(Code::Refused);
            return Outcome::Refused;
        }
        // Its buffers are used again; what the name means borrows the rest.
        let mut chosen = std::mem::take(&mut self.chosen);
        self.turn = self.turn.wrapping_add(1);
        let outcome = self.answered(query, (bytes_max, now_ms), &mut chosen, out);
        self.chosen = chosen;
        outcome
    }

    fn answered(
        &self,
        query: &Query<'_>,
        (bytes_max, now_ms): (usize, u64),
        chosen: &mut Chosen,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let key = query.key();
        let labels = Labels::of(key.name());
        let located = self.located(&labels);
        // An alias of ours has no signature, and a signed question is answered under its own name.
        let may_walk = !query.signed && !query.dnssec_ok() && self.search.applies(&labels);
        if may_walk && located.as_ref().is_none_or(|located| !self.exists(located)) {
            return Outcome::Search;
        }
        let Some(located) = located else { return Outcome::Forward };
        if query.signed {
            // We share no key with anybody, and an unsigned reply to a signed question would be no answer.
            Reply::to(query, bytes_max, out).finish(Code::Refused);
            return Outcome::Refused;
        }
        let mut reply = Reply::to(query, bytes_max, out);
        let code = self.writer(now_ms).write(&mut reply, chosen, &located, (query.name(), query.kind));
        reply.finish(code);
        Outcome::Answered(code)
    }

    /// Goes on along the client's search list, from this place.
    pub(super) fn walk(
        &self,
        query: &Query<'_>,
        from: usize,
        (bytes_max, now_ms): (usize, u64),
        out: &mut Vec<u8>,
    ) -> Step {
        let key = query.key();
        for (place, candidate) in self.search.path(key.name()).enumerate().skip(from) {
            let Some(candidate) = candidate else { continue };
            let Some(located) = self.located(&Labels::of(candidate.as_bytes())) else {
                return Step::Ask(place, candidate.as_bytes().into());
            };
            if !self.exists(&located) {
                continue;
            }
            let mut reply = Reply::to(query, bytes_max, out);
            if candidate.as_bytes() != key.name() {
                reply.record(query.name(), self.ttl_s, Data::Cname(candidate.as_bytes()));
            }
            let question = (candidate.as_bytes(), query.kind);
            let code = match query.kind {
                // The alias is all that was asked for.
                kind::CNAME => Code::NoError,
                _ => self.writer(now_ms).write(&mut reply, &mut Chosen::default(), &located, question),
            };
            reply.finish(code);
            return Step::Answered;
        }
        let Some(located) = self.zone.locate(&Labels::of(key.name())) else { return Step::Nowhere };
        let mut reply = Reply::to(query, bytes_max, out);
        let nothing = Located { meaning: Meaning::Nothing, ..located };
        let question = (query.name(), query.kind);
        let code = self.writer(now_ms).write(&mut reply, &mut Chosen::default(), &nothing, question);
        reply.finish(code);
        Step::Answered
    }

    fn writer(&self, now_ms: u64) -> Writer<'_> {
        Writer {
            snapshot: &self.snapshot,
            zone: &self.zone,
            reverse: &self.reverse,
            listen: &self.listen,
            ttl_s: self.ttl_s,
            turn: self.turn as usize,
            now_ms,
        }
    }

    /// What the name means, if it is ours. An address that nobody here has is somebody else's to name.
    fn located<'a>(&'a self, labels: &Labels<'a>) -> Option<Located<'a>> {
        let located = self.zone.locate(labels)?;
        match located.meaning {
            Meaning::Reverse(address)
                if !self.zone.is_virtual(address)
                    && !is_own_loopback(address)
                    && self.reverse.owners(address).is_empty() =>
            {
                None
            }
            _ => Some(located),
        }
    }

    /// Whether there is such a name, with or without records of some type.
    fn exists(&self, located: &Located<'_>) -> bool {
        match located.meaning {
            Meaning::Nothing => false,
            Meaning::Service { name, form } => service(&self.snapshot, name)
                .is_some_and(|pool| form != Form::Below || pool.settings.dns.wildcard),
            Meaning::Endpoint { service: name, id } => service(&self.snapshot, name)
                .is_some_and(|pool| pool.endpoints.iter().any(|endpoint| endpoint.id == id)),
            _ => true,
        }
    }
}

fn zone(config: &Config, dns: &Dns) -> Zone {
    Zone::new(&config.domain, dns.consul.as_ref(), dns.virtual_addresses)
}

fn service<'a>(snapshot: &'a Snapshot, name: &str) -> Option<&'a Arc<Pool>> {
    snapshot.pools.get(snapshot.services.get(name)?)
}

/// `127.0.0.1` and `::1`, which have the name `localhost` everywhere.
fn is_own_loopback(address: IpAddr) -> bool {
    address == IpAddr::from([127, 0, 0, 1]) || address == IpAddr::from(std::net::Ipv6Addr::LOCALHOST)
}

/// What a reply is written from.
#[derive(Debug, Clone, Copy)]
struct Writer<'a> {
    snapshot: &'a Snapshot,
    zone: &'a Zone,
    reverse: &'a Reverse,
    listen: &'a [IpAddr],
    ttl_s: u32,
    turn: usize,
    now_ms: u64,
}

impl Writer<'_> {
    /// Records of this owner and type, or the SOA record that says how long there are none.
    fn write(
        &self,
        reply: &mut Reply<'_>,
        chosen: &mut Chosen,
        located: &Located<'_>,
        (owner, kind): (&[u8], u16),
    ) -> Code {
        reply.authoritative();
        let before = reply.answers();
        let exists = match located.meaning {
            Meaning::Nothing => false,
            Meaning::Empty => true,
            Meaning::Apex => {
                self.apex(reply, located.zone, (owner, kind));
                true
            }
            Meaning::Server => {
                self.listen.iter().for_each(|address| self.address(reply, (owner, kind), *address));
                true
            }
            Meaning::Localhost => {
                let addresses = [IpAddr::from([127, 0, 0, 1]), std::net::Ipv6Addr::LOCALHOST.into()];
                addresses.into_iter().for_each(|address| self.address(reply, (owner, kind), address));
                true
            }
            Meaning::Address(address) => {
                self.address(reply, (owner, kind), address);
                true
            }
            Meaning::Service { name, form } => self.service(reply, chosen, (name, form), (owner, kind)),
            Meaning::Endpoint { service, id } => self.endpoint(reply, chosen, (service, id), (owner, kind)),
            Meaning::Reverse(address) => self.way_back(reply, address, (owner, kind)),
        };
        if exists && kind == kind::ANY {
            reply.record(owner, self.ttl_s, Data::Hinfo(ANY_IS_OVER));
        }
        if reply.answers() == before && !reply.is_full() {
            reply.section(Section::Authority);
            reply.record(located.zone, self.ttl_s, Data::Soa(self.soa()));
        }
        if exists { Code::NoError } else { Code::NxDomain }
    }

    fn apex(&self, reply: &mut Reply<'_>, zone: &[u8], (owner, kind): (&[u8], u16)) {
        match kind {
            kind::SOA => drop(reply.record(owner, self.ttl_s, Data::Soa(self.soa()))),
            kind::NS => {
                reply.record(owner, self.ttl_s, Data::Ns(&self.zone.server));
                // Only that zone has the server's name.
                if *zone == *self.zone.domain {
                    reply.section(Section::Additional);
                    for address in self.listen {
                        for kind in [kind::A, kind::AAAA] {
                            self.address(reply, (&self.zone.server, kind), *address);
                        }
                    }
                }
            }
            _ => {}
        }
    }

    fn soa(&self) -> Soa<'_> {
        Soa {
            server: &self.zone.server,
            mailbox: &self.zone.mailbox,
            // Goes up with each change; nobody compares it over more than half of its range.
            serial: self.snapshot.version as u32,
            refresh_s: UNUSED_S,
            retry_s: UNUSED_S,
            expire_s: UNUSED_S,
            negative_s: self.ttl_s,
        }
    }

    fn service(
        &self,
        reply: &mut Reply<'_>,
        chosen: &mut Chosen,
        (name, form): (&str, Form<'_>),
        question: (&[u8], u16),
    ) -> bool {
        let Some(pool) = service(self.snapshot, name) else { return false };
        let is_virtual = match form {
            Form::Below if !pool.settings.dns.wildcard => return false,
            Form::Usual | Form::Below => pool.settings.dns.answer == Answer::Virtual,
            Form::Virtual => true,
            Form::Endpoints | Form::Srv | Form::Consul(_) => false,
        };
        let tag = if let Form::Consul(tag) = form { tag } else { None };
        match question.1 {
            kind::A | kind::AAAA if form == Form::Srv => {}
            kind::A | kind::AAAA if is_virtual => {
                let addresses = self.snapshot.addresses.of(name);
                for address in addresses.into_iter().flat_map(|(v4, v6)| [v4.into(), v6.into()]) {
                    self.address(reply, question, address);
                }
            }
            _ => {
                let zone = &self.snapshot.config.node.zone;
                let wanted = |key: &str, value: &str| match tag {
                    None => true,
                    Some(tag) => {
                        key.strip_prefix("tag-").is_some_and(|text| tag.is(text))
                            || key == self.zone.tag_label() && tag.is(value)
                    }
                };
                chosen.choose(pool, (zone, self.turn, self.now_ms), tag.map(|_| wanted));
                if matches!(form, Form::Consul(_)) && chosen.is_empty() {
                    return false;
                }
                self.endpoints(reply, chosen, pool, (question, form));
            }
        }
        true
    }

    fn endpoint(
        &self,
        reply: &mut Reply<'_>,
        chosen: &mut Chosen,
        (name, id): (&str, u64),
        question: (&[u8], u16),
    ) -> bool {
        let Some(pool) = service(self.snapshot, name) else { return false };
        if !chosen.only(pool, id) {
            return false;
        }
        self.endpoints(reply, chosen, pool, (question, Form::Endpoints));
        true
    }

    /// If it is of the type asked for.
    fn address(&self, reply: &mut Reply<'_>, (owner, kind): (&[u8], u16), address: IpAddr) {
        match (address, kind) {
            (IpAddr::V4(address), kind::A) => drop(reply.record(owner, self.ttl_s, Data::A(address))),
            (IpAddr::V6(address), kind::AAAA) => drop(reply.record(owner, self.ttl_s, Data::Aaaa(address))),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
