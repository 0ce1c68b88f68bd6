//! Connection tracking: forgets UDP flows to given ports, so that their next packet meets the rules anew, and tells
//! whether captured connections go on.

use std::io;

use super::Protocol;
use super::kernel::Netfilter;
use super::message::{self, ACK, Answer, DUMP, Messages, REQUEST, attribute};
use super::transparent::MARK;

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = 1;
const DELETE: u16 = 2;
const ORIGINAL: u16 = 1;
const STATUS: u16 = 3;
const PROTOCOL_STATE: u16 = 4;
const FLOW_MARK: u16 = 8;
const ZONE: u16 = 18;
/// IPS_DST_NAT: the flow goes elsewhere than its client meant.
const TRANSLATED: u32 = 1 << 5;
/// States of TCP from SYN_SENT to LAST_ACK.
const GOES_ON: std::ops::RangeInclusive<u8> = 1..=6;
/// Both families are tracked in one table.
const ANY_FAMILY: u8 = 0;

impl Netfilter {
    /// Forgets the UDP flows whose client sent to one of these ports. That there are none is no error.
    pub fn forget_flows(&self, ports: &[u16]) -> io::Result<()> {
        if ports.is_empty() {
            return Ok(());
        }
        let mut flows = Vec::new();
        self.flows(|attributes| {
            if original_port(attributes).is_some_and(|port| ports.contains(&port)) {
                flows.push(Flow::read(attributes));
            }
        })?;
        flows.iter().try_for_each(|flow| self.forget(flow))
    }

    /// Whether there are connections that a capture has led to a sidecar and that have not ended.
    pub fn has_captured(&self) -> io::Result<bool> {
        let mut found = false;
        self.flows(|attributes| found |= is_captured(attributes).unwrap_or(false))?;
        Ok(found)
    }

    fn flows(&self, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        let mut request = Messages::default();
        request.add(SUBSYSTEM | GET, REQUEST | DUMP, (ANY_FAMILY, 0), |_| ());
        self.send(&request)?;
        let dumped = self.receive(|answer| match answer {
            Answer::Data { attributes } => {
                take(attributes);
                Ok(false)
            }
            Answer::Done => Ok(true),
            Answer::Result { error, .. } => error.map_or(Ok(true), Err),
        });
        match dumped {
            // A kernel that tracks nothing yet does not know the question.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => Ok(()),
            other => other,
        }
    }

    fn forget(&self, flow: &Flow) -> io::Result<()> {
        let mut request = Messages::default();
        request.add(SUBSYSTEM | DELETE, REQUEST | ACK, (flow.family, 0), |attributes| {
            attributes.nested(ORIGINAL, |tuple| tuple.raw(&flow.original));
            if let Some(zone) = &flow.zone {
                attributes.bytes(ZONE, zone);
            }
        });
        self.send(&request)?;
        let mut failed = None;
        self.receive(|answer| {
            if let Answer::Result { error, .. } = answer {
                failed = error;
                return Ok(true);
            }
            Ok(false)
        })?;
        match failed {
            // It has ended by itself.
            Some(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// How the kernel finds a flow again.
struct Flow {
    family: u8,
    original: Vec<u8>,
    zone: Option<Vec<u8>>,
}

impl Flow {
    fn read(attributes: &[u8]) -> Self {
        let original = attribute(attributes, ORIGINAL).unwrap_or_default();
        // An IPv6 address is the third of the address attributes.
        let is_ipv6 = attribute(original, 1).is_some_and(|address| attribute(address, 3).is_some());
        Self {
            family: if is_ipv6 { 10 } else { 2 },
            original: original.to_vec(),
            zone: attribute(attributes, ZONE).map(<[u8]>::to_vec),
        }
    }
}

/// Translated, or marked for a transparent socket.
fn is_captured(attributes: &[u8]) -> Option<bool> {
    let number = |kind: u16| attribute(attributes, kind).and_then(message::number).unwrap_or_default();
    let of_tcp = attribute(attribute(attributes, PROTOCOL_STATE)?, 1)?;
    let state = *attribute(of_tcp, 1)?.first()?;
    let is_led = number(STATUS) & TRANSLATED != 0 || number(FLOW_MARK) == MARK;
    Some(is_led && GOES_ON.contains(&state))
}

/// The UDP port that the client sent to.
fn original_port(attributes: &[u8]) -> Option<u16> {
    let protocol = attribute(attribute(attributes, ORIGINAL)?, 2)?;
    let is_udp = attribute(protocol, 1)? == [Protocol::Udp.number()];
    let port = attribute(protocol, 3)?;
    is_udp.then_some(u16::from_be_bytes(port.try_into().ok()?))
}
