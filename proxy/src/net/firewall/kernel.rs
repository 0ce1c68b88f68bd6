//! One namespace's nftables, by netlink: replace our table whole, and tell whether it is as we left it.

use std::io;
use std::time::Duration;

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::encode::{self, DIGEST, Element, INET, SUBSYSTEM};
use super::message::{self, Answer, DUMP, Messages, REQUEST, attribute, each};
use super::{ANCHOR, Chain, ChainKind, Hook, Set, TABLE, Table, capture};

/// The kernel answers at once; longer means that it never will.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const RECEIVE_BYTES: usize = 1 << 20;

/// A socket of netfilter's, bound to the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netfilter(Socket);

impl Netfilter {
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_rx_buf_sz(RECEIVE_BYTES as u32)?;
        let timeout = rustix::net::sockopt::Timeout::Recv;
        rustix::net::sockopt::set_socket_timeout(&socket, timeout, Some(ANSWER_WITHIN))?;
        Ok(Self(socket))
    }

    /// One transaction: the old table goes and the new one comes, or nothing has changed.
    pub fn replace(&self, table: Option<&Table>) -> io::Result<()> {
        self.carry_out(&encode::replace(TABLE, table))
    }

    /// The same. Where the table was `from` a moment ago, and only elements of its sets differ, its rules stay: else the
    /// kernel would wait for the end of their use, a grace period of 10 ms and more, when this socket closes.
    pub fn change(&self, seen: Option<&Found>, from: Option<&Table>, to: Option<&Table>) -> io::Result<()> {
        if let (Some(seen), Some(from), Some(to)) = (seen, from, to)
            && seen.is(from)
            && let Some(batch) = encode::amend(TABLE, from, to)
            // Whoever has changed the table since then has it replaced.
            && self.carry_out(&batch).is_ok()
        {
            return Ok(());
        }
        self.replace(to)
    }

    fn carry_out(&self, batch: &Messages) -> io::Result<()> {
        self.send(batch)?;
        // The message before the batch's end asks for the answer; an error may come for any.
        let awaited = batch.last() - 1;
        let mut failed = None;
        self.receive(|answer| {
            let Answer::Result { to, error } = answer else { return Ok(false) };
            if failed.is_none() {
                failed = error;
            }
            // Without the right to begin, nothing behind it is looked at.
            Ok(to == awaited || (to == 1 && failed.is_some()))
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// What the kernel has under our name; `None` is nothing.
    pub fn found(&self) -> io::Result<Option<Found>> {
        let mut found = Found::default();
        self.dump(encode::GET_CHAIN, None, |chain| {
            if text(chain, 1) == TABLE {
                found.chains.push(FoundChain::read(chain));
            }
        })?;
        self.dump(encode::GET_RULE, None, |rule| {
            found.rules.push((text(rule, 2), attribute(rule, 7).and_then(digest).unwrap_or_default()));
        })?;
        let mut sets = Vec::new();
        self.dump(encode::GET_SET, None, |set| sets.push(text(set, 2)))?;
        for set in sets {
            let mut elements = Vec::new();
            self.dump(encode::GET_ELEMENTS, Some(&set), |list| elements.extend(read_elements(list)))?;
            elements.sort();
            found.sets.push((set, elements));
        }
        Ok((found != Found::default()).then_some(found))
    }

    /// How many packets the rules that count have seen. In a chain that translates, that is one for each flow.
    pub fn counted(&self) -> io::Result<u64> {
        let mut counted = 0;
        self.dump(encode::GET_RULE, None, |rule| {
            let expressions = attribute(rule, 4).map(each).into_iter().flatten();
            let counters = expressions.filter(|(_, expression)| text(expression, 1) == "counter");
            counted += counters.filter_map(|(_, counter)| packets(counter)).sum::<u64>();
        })?;
        Ok(counted)
    }

    /// Holds connection tracking and translation in place for as long as this socket lives: flows that were decided go
    /// on while our table is away, even after a flush of all tables, which leaves those with an owner. Fails before
    /// Linux 5.12.
    pub fn hold(&self, in_workload: bool) -> io::Result<()> {
        self.carry_out(&encode::owned(ANCHOR, &capture::anchor(in_workload)))
    }

    /// All chains in this namespace, of all tables, also those that only others call.
    pub fn chains_of_others(&self) -> io::Result<Vec<OtherChain>> {
        let mut found = Vec::new();
        for (number, family) in [(INET, "inet"), (2, "ip"), (10, "ip6"), (7, "bridge")] {
            let mut request = Messages::default();
            request.add(SUBSYSTEM | encode::GET_CHAIN, REQUEST | DUMP, (number, 0), |_| ());
            self.answers_to(&request, |chain| {
                let FoundChain { name, kind, hook, priority, policy } = FoundChain::read(chain);
                let (table, drops) = (text(chain, 1), hook.is_some() && policy != ACCEPT);
                found.push(OtherChain { family, table, name, kind, hook, priority, drops });
            })?;
        }
        Ok(found)
    }

    fn dump(&self, kind: u16, set: Option<&str>, take: impl FnMut(&[u8])) -> io::Result<()> {
        let mut request = Messages::default();
        request.add(SUBSYSTEM | kind, REQUEST | DUMP, (INET, 0), |attributes| {
            attributes.text(1, TABLE);
            if let Some(set) = set {
                attributes.text(2, set);
            }
        });
        self.answers_to(&request, take)
    }

    fn answers_to(&self, request: &Messages, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        self.send(request)?;
        let done = self.receive(|answer| match answer {
            Answer::Data { attributes } => {
                take(attributes);
                Ok(false)
            }
            Answer::Done => Ok(true),
            Answer::Result { error, .. } => error.map_or(Ok(true), Err),
        });
        match done {
            // No such table: nothing to tell.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    pub(super) fn send(&self, messages: &Messages) -> io::Result<()> {
        let bytes = messages.bytes();
        let sent = self.0.send(bytes, 0)?;
        if sent < bytes.len() {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "the kernel took only a part of the rules"));
        }
        Ok(())
    }

    /// Reads until `done` says so.
    pub(super) fn receive(&self, mut done: impl FnMut(Answer<'_>) -> io::Result<bool>) -> io::Result<()> {
        loop {
            let (bytes, _) = self.0.recv_from_full()?;
            for answer in message::answers(&bytes)? {
                if done(answer)? {
                    return Ok(());
                }
            }
        }
    }
}

/// A chain, whosever it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherChain {
    pub family: &'static str,
    pub table: String,
    pub name: String,
    pub kind: String,
    /// The kernel's number. Without one, the chain is called by others only.
    pub hook: Option<u32>,
    pub priority: i32,
    /// Unless a rule decides otherwise.
    pub drops: bool,
}

impl OtherChain {
    pub fn is_forward(&self) -> bool {
        self.hook == Some(Hook::Forward as u32)
    }

    pub fn is_translation_of_output(&self) -> bool {
        self.hook == Some(Hook::Output as u32) && self.kind == encode::chain_kind(ChainKind::Nat)
    }
}

/// A table as far as it tells whether somebody has changed it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    chains: Vec<FoundChain>,
    /// Chain and digest, in order; a rule of somebody else's has none.
    rules: Vec<(String, [u8; 8])>,
    sets: Vec<(String, Vec<Element>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FoundChain {
    name: String,
    kind: String,
    hook: Option<u32>,
    priority: i32,
    policy: u32,
}

const ACCEPT: u32 = 1;

impl Found {
    /// What a table looks like once it is installed.
    pub fn of(table: &Table) -> Self {
        let sets = table.sets.iter().map(|set| (set.name().to_owned(), sorted(set))).collect();
        let rules = table.chains.iter().flat_map(rules_of).collect();
        Self { chains: table.chains.iter().map(FoundChain::of).collect(), rules, sets }
    }

    /// Sets and chains come in the kernel's order; so do rules, but within a chain the order is theirs.
    pub fn is(&self, table: &Table) -> bool {
        let wanted = Self::of(table);
        let same_sets =
            wanted.sets.len() == self.sets.len() && wanted.sets.iter().all(|set| self.sets.contains(set));
        let same_chains = wanted.chains.len() == self.chains.len()
            && wanted.chains.iter().all(|chain| self.chains.contains(chain));
        let same_rules = wanted.rules.len() == self.rules.len()
            && wanted.chains.iter().all(|chain| wanted.rules_in(chain).eq(self.rules_in(chain)));
        same_sets && same_chains && same_rules
    }

    fn rules_in<'a>(&'a self, chain: &'a FoundChain) -> impl Iterator<Item = &'a [u8; 8]> {
        self.rules.iter().filter(|(name, _)| *name == chain.name).map(|(_, digest)| digest)
    }
}

fn rules_of(chain: &Chain) -> impl Iterator<Item = (String, [u8; 8])> {
    chain.rules.iter().map(|rule| (chain.name.clone(), rule.digest()))
}

fn sorted(set: &Set) -> Vec<Element> {
    let mut elements = encode::elements(set);
    elements.sort();
    elements
}

impl FoundChain {
    fn of(chain: &Chain) -> Self {
        Self {
            name: chain.name.clone(),
            kind: encode::chain_kind(chain.kind).into(),
            hook: Some(chain.hook as u32),
            priority: chain.priority,
            policy: ACCEPT,
        }
    }

    fn read(chain: &[u8]) -> Self {
        let hook = attribute(chain, 4).unwrap_or_default();
        let word = |of: &[u8], kind: u16| attribute(of, kind).and_then(message::number);
        Self {
            name: text(chain, 3),
            kind: text(chain, 7),
            hook: word(hook, 1),
            priority: word(hook, 2).unwrap_or_default().cast_signed(),
            policy: word(chain, 5).unwrap_or_default(),
        }
    }
}

fn read_elements(list: &[u8]) -> Vec<Element> {
    let elements = attribute(list, 3).map(each).into_iter().flatten();
    let value =
        |of: &[u8], kind: u16| attribute(of, kind).and_then(|data| attribute(data, 1)).map(<[u8]>::to_vec);
    elements.map(|(_, element)| (value(element, 1).unwrap_or_default(), value(element, 2))).collect()
}

/// Of a rule's counter.
fn packets(expression: &[u8]) -> Option<u64> {
    let packets = attribute(attribute(expression, 2)?, 2)?;
    packets.try_into().ok().map(u64::from_be_bytes)
}

/// From the user data of a rule.
fn digest(mut data: &[u8]) -> Option<[u8; 8]> {
    while let [kind, length, rest @ ..] = data {
        let value = rest.get(..usize::from(*length))?;
        if *kind == DIGEST {
            return value.try_into().ok();
        }
        data = &rest[usize::from(*length)..];
    }
    None
}

fn text(attributes: &[u8], kind: u16) -> String {
    attribute(attributes, kind).map(message::text).unwrap_or_default()
}
