//! flannel's schema, so that hosts of both kinds share a network: what is below `/coreos.com/network`, read and written.
//!
//! `config` is what all hosts agree on; below `subnets/` each host has a key that names its subnet, whose value says
//! how the host is reached. All of it was written by others and is checked before it is believed. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Peer, Plan, Subnets, Vtep};
use crate::net::item::Mac;
use crate::net::prefix::Prefix;

const VNI: u32 = 1;
const VNI_MAX: u32 = (1 << 24) - 1;
/// What Linux and flannel use, which is not the one that IANA has given since.
const PORT: u16 = 8472;
const BACKEND: &str = "vxlan";
/// The longest subnets in which a host has room for a bridge and a workload.
const LENGTH_MAX: (u8, u8) = (30, 126);
/// Half of a host's subnets' usual length: at least four have to fit.
const FOUR: u8 = 2;

/// As flannel writes it; names of fields are compared without regard to case, as Go does.
pub fn read_plan(text: &[u8]) -> Result<Plan, String> {
    let fields = lowered(text)?;
    let backend = match fields.get("backend") {
        Some(Value::Object(backend)) => lower(backend),
        _ => return Err("`Backend` is missing".to_owned()),
    };
    let kind = backend.get("type").and_then(Value::as_str).unwrap_or("udp");
    if kind != BACKEND {
        return Err(format!("`Backend.Type` is `{kind}`, and only `{BACKEND}` is spoken here"));
    }
    let is_on = |name: &str, standard: bool| match fields.get(name) {
        Some(Value::Bool(on)) => *on,
        _ => standard,
    };
    if !is_on("enableipv4", true) {
        return Err("`EnableIPv4` is false, but keys of subnets name an IPv4 subnet".to_owned());
    }
    let ipv4 = range(&fields, &["network", "subnetlen", "subnetmin", "subnetmax"], true)?;
    let ipv6 = if is_on("enableipv6", false) {
        Some(range(&fields, &["ipv6network", "ipv6subnetlen", "ipv6subnetmin", "ipv6subnetmax"], false)?)
    } else {
        None
    };
    let number = |name: &str, standard: u64| match backend.get(name) {
        None => Ok(standard),
        Some(value) => value.as_u64().ok_or_else(|| format!("`Backend.{name}` is not a number")),
    };
    let vni = u32::try_from(number("vni", VNI.into())?).unwrap_or(u32::MAX);
    if !(1..=VNI_MAX).contains(&vni) {
        return Err(format!("`Backend.VNI` is not between 1 and {VNI_MAX}"));
    }
    // 0 is Linux's own choice.
    let port = match u16::try_from(number("port", 0)?) {
        Ok(0) => PORT,
        Ok(port) => port,
        Err(_) => return Err("`Backend.Port` is not a port".to_owned()),
    };
    let direct_routing = matches!(backend.get("directrouting"), Some(Value::Bool(true)));
    Ok(Plan { ipv4, ipv6, vni, port, direct_routing })
}

/// What a file says that founds a network.
pub fn write_plan(plan: &Plan) -> String {
    let mut config = json!({
        "Network": plan.ipv4.whole.to_string(),
        "SubnetLen": plan.ipv4.length,
        "Backend": {
            "Type": BACKEND, "VNI": plan.vni, "Port": plan.port, "DirectRouting": plan.direct_routing,
        },
    });
    if let Some(range) = &plan.ipv6 {
        config["EnableIPv6"] = json!(true);
        config["IPv6Network"] = json!(range.whole.to_string());
        config["IPv6SubnetLen"] = json!(range.length);
    }
    config.to_string()
}

/// Where subnets of one family come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    pub whole: Prefix,
    /// Of each host's subnet.
    pub length: u8,
    /// First addresses of the first and of the last subnet that may be leased.
    pub first: IpAddr,
    pub last: IpAddr,
}

impl Range {
    /// With flannel's defaults: the range's first subnet is left out.
    pub fn of(whole: Prefix, length: Option<u8>) -> Result<Self, String> {
        let (longest, usual) = if whole.is_ipv4() { (LENGTH_MAX.0, 24) } else { (LENGTH_MAX.1, 64) };
        let fewest = whole.length().saturating_add(FOUR);
        let length = length.unwrap_or(if fewest <= usual { usual } else { fewest });
        if !(fewest..=longest).contains(&length) {
            return Err(format!(
                "{whole} does not hold four subnets of length {length}, of at most {longest}"
            ));
        }
        let all = Self { whole, length, first: whole.first(), last: whole.last() };
        let last = all.count() - 1;
        let nth = |index: u128| all.nth(index).map_or(whole.first(), Prefix::address);
        Ok(Self { first: nth(1), last: nth(last), ..all })
    }

    /// How many subnets the whole has.
    pub fn count(&self) -> u128 {
        1_u128.checked_shl(u32::from(self.length.saturating_sub(self.whole.length()))).unwrap_or(u128::MAX)
    }

    pub fn nth(&self, index: u128) -> Option<Prefix> {
        let bits = if self.whole.is_ipv4() { 32 } else { 128 };
        let offset = index.checked_shl(bits - u32::from(self.length))?;
        Prefix::new(self.whole.nth(offset)?, self.length)
    }

    /// The place of a subnet among all.
    pub fn index(&self, subnet: Prefix) -> u128 {
        let bits = if self.whole.is_ipv4() { 32 } else { 128 };
        self.whole.offset(subnet.first()).checked_shr(bits - u32::from(self.length)).unwrap_or(0)
    }

    /// A host may lease it.
    pub fn has(&self, subnet: Prefix) -> bool {
        subnet.is_ipv4() == self.whole.is_ipv4()
            && subnet.length() == self.length
            && subnet.is_network()
            && (self.first..=self.last).contains(&subnet.first())
    }
}

fn range(fields: &BTreeMap<String, Value>, names: &[&str; 4], is_ipv4: bool) -> Result<Range, String> {
    let [network, length, first, last] = names;
    let Some(whole) = fields.get(*network).and_then(Value::as_str) else {
        return Err(format!("`{network}` is missing"));
    };
    let whole: Prefix = whole.parse()?;
    if whole.is_ipv4() != is_ipv4 {
        return Err(format!("`{network}` is of the other family"));
    }
    let number = match fields.get(*length).and_then(Value::as_u64) {
        None | Some(0) => None,
        Some(number) => Some(u8::try_from(number).map_err(|_| format!("`{length}` is not a length"))?),
    };
    let mut range = Range::of(whole.network(), number)?;
    let bound = |name: &str, standard: IpAddr| match fields.get(name).and_then(Value::as_str) {
        None | Some("") => Ok(standard),
        Some(text) => {
            let address = text.parse::<IpAddr>().ok().filter(|address| range.whole.contains(*address));
            let subnet = address.and_then(|address| Prefix::new(address, range.length));
            let subnet = subnet.filter(|subnet| subnet.is_network());
            subnet.map(Prefix::address).ok_or_else(|| format!("`{name}` is not a subnet of the network"))
        }
    };
    (range.first, range.last) = (bound(first, range.first)?, bound(last, range.last)?);
    if range.first > range.last {
        return Err(format!("`{first}` is behind `{last}`"));
    }
    Ok(range)
}

fn lowered(text: &[u8]) -> Result<BTreeMap<String, Value>, String> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(fields)) => Ok(lower(&fields)),
        Ok(_) => Err("it is not a JSON object".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn lower(fields: &Map<String, Value>) -> BTreeMap<String, Value> {
    fields.iter().map(|(name, value)| (name.to_lowercase(), value.clone())).collect()
}

/// `10.5.34.0-24`, and `10.5.34.0-24&fd05:22::-64` with both families.
pub fn key(subnets: &Subnets) -> String {
    let part = |subnet: Prefix| format!("{}-{}", subnet.address(), subnet.length());
    let ipv4 = part(subnets.ipv4);
    subnets.ipv6.map_or_else(|| ipv4.clone(), |ipv6| format!("{ipv4}&{}", part(ipv6)))
}

pub fn read_key(text: &str) -> Option<Subnets> {
    let part = |text: &str| {
        let (address, length) = text.rsplit_once('-')?;
        let subnet = Prefix::new(address.parse().ok()?, length.parse().ok()?)?;
        subnet.is_network().then_some(subnet)
    };
    let (ipv4, ipv6) = match text.split_once('&') {
        Some((ipv4, ipv6)) => (part(ipv4)?, Some(part(ipv6)?)),
        None => (part(text)?, None),
    };
    let fits = ipv4.is_ipv4() && ipv6.is_none_or(|ipv6| !ipv6.is_ipv4());
    fits.then_some(Subnets { ipv4, ipv6 })
}

/// How a host is reached, as the value of its key says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    pub ipv4: Option<Vtep>,
    pub ipv6: Option<Vtep>,
}

#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(rename = "PublicIP", default, skip_serializing_if = "Option::is_none")]
    public_ip: Option<Ipv4Addr>,
    #[serde(rename = "PublicIPv6", default)]
    public_ipv6: Option<Ipv6Addr>,
    #[serde(rename = "BackendType", default)]
    backend: String,
    #[serde(rename = "BackendData", default, skip_serializing_if = "Option::is_none")]
    data: Option<Data>,
    #[serde(rename = "BackendV6Data", default, skip_serializing_if = "Option::is_none")]
    data_ipv6: Option<Data>,
}

#[derive(Serialize, Deserialize)]
struct Data {
    #[serde(rename = "VNI", default)]
    vni: u32,
    #[serde(rename = "VtepMAC")]
    mac: String,
}

/// Of a host whose network is this one; what else it may say is left out.
pub fn read_attributes(text: &[u8], vni: u32) -> Result<Attributes, String> {
    let written: Written = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if written.backend != BACKEND {
        return Err(format!("`BackendType` is `{}`", written.backend));
    }
    let vtep = |address: Option<IpAddr>, data: Option<Data>| {
        let (Some(address), Some(data)) = (address.filter(|address| !address.is_unspecified()), data) else {
            return Ok(None);
        };
        if address.is_loopback() || address.is_multicast() {
            return Err(format!("{address} is not the address of a host"));
        }
        // Old ones do not say it.
        if data.vni != vni && data.vni != 0 {
            return Err(format!("`VNI` is {}, not {vni}", data.vni));
        }
        let mac = data.mac.parse::<Mac>().ok().filter(|mac| mac.is_of_a_host());
        let mac = mac.ok_or_else(|| format!("`VtepMAC` is `{}`", data.mac))?;
        Ok(Some(Vtep { address, mac }))
    };
    let ipv4 = vtep(written.public_ip.map(IpAddr::V4), written.data)?;
    let ipv6 = vtep(written.public_ipv6.map(IpAddr::V6), written.data_ipv6)?;
    if ipv4.is_none() && ipv6.is_none() {
        return Err("it does not say how the host is reached".to_owned());
    }
    Ok(Attributes { ipv4, ipv6 })
}

pub fn write_attributes(attributes: &Attributes, vni: u32) -> String {
    let data = |vtep: &Option<Vtep>| vtep.as_ref().map(|vtep| Data { vni, mac: vtep.mac.to_string() });
    let public_ip = match attributes.ipv4.as_ref().map(|vtep| vtep.address) {
        Some(IpAddr::V4(address)) => Some(address),
        _ => None,
    };
    let public_ipv6 = match attributes.ipv6.as_ref().map(|vtep| vtep.address) {
        Some(IpAddr::V6(address)) => Some(address),
        _ => None,
    };
    let written = Written {
        public_ip,
        public_ipv6,
        backend: BACKEND.to_owned(),
        data: data(&attributes.ipv4),
        data_ipv6: data(&attributes.ipv6),
    };
    // Text and numbers alone: this cannot fail.
    serde_json::to_string(&written).unwrap_or_default()
}

impl Attributes {
    pub fn peer(&self, subnets: Subnets) -> Peer {
        Peer { subnets, ipv4: self.ipv4.clone(), ipv6: self.ipv6.clone() }
    }
}

#[cfg(test)]
mod tests;
