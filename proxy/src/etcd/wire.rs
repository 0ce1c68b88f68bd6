//! What the JSON gateway says: bytes in base64, numbers of 64 bits as text, absent fields for zero.

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Part of every answer.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Header {
    #[serde(default, deserialize_with = "number")]
    pub cluster_id: u64,
    #[serde(default, deserialize_with = "number")]
    pub revision: i64,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct KeyValue {
    #[serde(default, deserialize_with = "bytes")]
    pub key: Vec<u8>,
    #[serde(default, deserialize_with = "bytes")]
    pub value: Vec<u8>,
    #[serde(default, deserialize_with = "number")]
    pub mod_revision: i64,
    #[serde(default, deserialize_with = "number")]
    pub create_revision: i64,
    #[serde(default, deserialize_with = "number")]
    pub lease: i64,
}

#[derive(Debug, Deserialize)]
pub struct RangeAnswer {
    pub header: Header,
    #[serde(default)]
    pub kvs: Vec<KeyValue>,
    #[serde(default)]
    pub more: bool,
}

#[derive(Debug, Deserialize)]
pub struct GrantAnswer {
    #[serde(rename = "ID", deserialize_with = "number")]
    pub id: i64,
}

/// Of `/v3/lease/keepalive`, which is a stream of one.
#[derive(Debug, Deserialize)]
pub struct KeptAnswer {
    pub result: Kept,
}

#[derive(Debug, Deserialize)]
pub struct Kept {
    /// Absent once the lease has ended.
    #[serde(rename = "TTL", default, deserialize_with = "number")]
    pub ttl: i64,
}

#[derive(Debug, Deserialize)]
pub struct TransactionAnswer {
    #[serde(default)]
    pub succeeded: bool,
}

#[derive(Debug, Deserialize)]
pub struct TokenAnswer {
    pub token: String,
}

/// One line of a watch.
#[derive(Debug, Default, Deserialize)]
pub struct Watched {
    pub header: Header,
    #[serde(default, deserialize_with = "number")]
    pub watch_id: i64,
    #[serde(default)]
    pub created: bool,
    #[serde(default)]
    pub canceled: bool,
    #[serde(default)]
    pub fragment: bool,
    #[serde(default, deserialize_with = "number")]
    pub compact_revision: i64,
    #[serde(default, rename = "cancel_reason")]
    pub reason: String,
    #[serde(default)]
    pub events: Vec<Event>,
}

#[derive(Debug)]
pub enum Event {
    Put(KeyValue),
    Delete(KeyValue),
}

impl Event {
    pub fn kv(&self) -> &KeyValue {
        match self {
            Self::Put(kv) | Self::Delete(kv) => kv,
        }
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Raw {
            #[serde(default)]
            r#type: String,
            kv: KeyValue,
        }
        let raw = Raw::deserialize(deserializer)?;
        match raw.r#type.as_str() {
            "" | "PUT" => Ok(Self::Put(raw.kv)),
            "DELETE" => Ok(Self::Delete(raw.kv)),
            other => Err(de::Error::custom(format!("an event of type {other}"))),
        }
    }
}

/// A line of a watch, or the error that it carries.
pub fn watched(line: &[u8]) -> Result<Watched, String> {
    #[derive(Deserialize)]
    struct Line {
        result: Option<Watched>,
        error: Option<Value>,
    }
    let line: Line = serde_json::from_slice(line).map_err(|error| format!("nonsense in a watch: {error}"))?;
    match (line.result, line.error) {
        (Some(watched), None) => Ok(watched),
        (_, Some(error)) => Err(error["message"].as_str().map_or_else(|| error.to_string(), str::to_owned)),
        (None, None) => Err("an empty line in a watch".to_owned()),
    }
}

/// Several may be sent in one body.
pub fn watch_request(id: i64, from: &str, to: &str, revision: i64) -> String {
    let (key, range_end) = (encode(from.as_bytes()), encode(to.as_bytes()));
    let start_revision = revision.to_string();
    json!({"create_request": {
        "key": key, "range_end": range_end, "start_revision": start_revision,
        "watch_id": id.to_string(), "fragment": true, "progress_notify": true,
    }})
    .to_string()
}

/// A put that counts only while the lease lives: etcd refuses it otherwise.
#[derive(Debug, Serialize)]
pub struct Put {
    key: String,
    value: String,
    lease: String,
}

impl Put {
    pub fn new(key: &str, value: &[u8], lease: i64) -> Self {
        Self { key: encode(key.as_bytes()), value: encode(value), lease: lease.to_string() }
    }
}

/// The first key after all that begin so.
pub fn after_prefix(prefix: &str) -> String {
    // All prefixes here end with a slash, and after `/` comes `0`.
    format!("{}0", prefix.trim_end_matches('/'))
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 with padding.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0_usize, |bits, at| bits << 8 | group.get(at).map_or(0, |b| usize::from(*b)));
        for at in 0..4 {
            let letter = if at <= group.len() { ALPHABET[bits >> (18 - 6 * at) & 63] } else { b'=' };
            text.push(char::from(letter));
        }
    }
    text
}

/// Base64, as the gateway writes it.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let trimmed = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - trimmed.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0_u32, 0);
    for letter in trimmed.bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    Some(bytes)
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
    decode(&text).ok_or_else(|| de::Error::custom("not base64"))
}

/// As text or as a number.
fn number<'de, D: Deserializer<'de>, N: TryFrom<i128>>(deserializer: D) -> Result<N, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let number = match &value {
        Value::String(text) => text.parse::<i128>().ok(),
        Value::Number(number) => number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from)),
        _ => None,
    };
    number.and_then(|number| N::try_from(number).ok()).ok_or_else(|| de::Error::custom("not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_there_and_back() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text).unwrap(), bytes.as_bytes());
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)).unwrap(), all);
        for bad in ["Z", "Zg", "Zg=", "Z===", "Zm9*", "Zg==Zg=="] {
            assert!(decode(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn reads_what_the_gateway_writes() {
        let line =
            br#"{"result":{"header":{"cluster_id":"12101053776118486841","revision":"3","raft_term":"2"},
            "watch_id":"1","events":[{"kv":{"key":"L2EvYw==","mod_revision":"3","value":"eA=="}},
            {"type":"DELETE","kv":{"key":"L2EvYw==","mod_revision":"3"}}]}}"#;
        let watched = watched(line).unwrap();
        assert_eq!((watched.header.cluster_id, watched.watch_id), (12_101_053_776_118_486_841, 1));
        let [Event::Put(put), Event::Delete(deleted)] = &watched.events[..] else { panic!("two events") };
        assert_eq!((&put.key[..], &put.value[..], deleted.mod_revision), (&b"/a/c"[..], &b"x"[..], 3));
    }

    #[test]
    fn a_cut_or_foreign_line_is_an_error() {
        for bad in [
            &b""[..],
            b"{",
            br#"{"result":{"hea"#,
            b"{}",
            b"[]",
            br#"{"result":{"header":{"revision":"x"}}}"#,
        ] {
            assert!(watched(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        let error = br#"{"error":{"grpc_code":14,"http_code":503,"message":"etcdserver: no leader"}}"#;
        assert_eq!(watched(error).unwrap_err(), "etcdserver: no leader");
    }

    #[test]
    fn a_prefix_ends_before_its_successor() {
        assert_eq!(after_prefix("/outrigger/services/"), "/outrigger/services0");
    }
}
