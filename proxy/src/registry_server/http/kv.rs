//! `/v1/kv` and `/v1/txn`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use hyper::body::{Bytes, Incoming};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Server;
use super::ask::{Answer, Ask, Problem, body_of};
use super::written::normal;
use crate::registry_server::change::{Change, Done, KvOp, KvVerb, Refusal};
use crate::registry_server::model::{Entry, Name};
use crate::registry_server::state::{State, Topic};

const KEY_BYTES_MAX: usize = 1024;
/// As Consul has it.
const TXN_OPERATIONS_MAX: usize = 128;

impl Server {
    pub(super) async fn kv(&self, ask: &Ask, body: Incoming) -> Result<Answer, Problem> {
        let key = ask.path.strip_prefix("/v1/kv").unwrap_or_default();
        let key = key.strip_prefix('/').unwrap_or(key);
        match ask.method.as_str() {
            "GET" | "HEAD" => self.kv_get(ask, key).await,
            "PUT" => self.kv_put(ask, key, body).await,
            "DELETE" => self.kv_delete(ask, key).await,
            _ => Err(Problem::nothing_here(ask)),
        }
    }

    async fn kv_get(&self, ask: &Ask, key: &str) -> Result<Answer, Problem> {
        let none = || Answer::empty().with_status(StatusCode::NOT_FOUND);
        if ask.has("keys") {
            let separator = ask.parameter("separator").filter(|separator| !separator.is_empty());
            let view = |state: &State| {
                let keys = keys(state, key, separator);
                Ok(if keys.is_empty() { none() } else { Answer::json(&keys) })
            };
            return self.read(ask, Topic::of_prefix(key), |state| state.prefix_index(key), view).await;
        }
        if ask.has("recurse") {
            let view = |state: &State| {
                let found: Vec<Value> = state.keys(key).map(|(key, entry)| shown(key, entry, true)).collect();
                Ok(if found.is_empty() { none() } else { Answer::json(&found) })
            };
            return self.read(ask, Topic::of_prefix(key), |state| state.prefix_index(key), view).await;
        }
        if key.is_empty() {
            return Err(Problem::bad("Missing key name"));
        }
        let raw = ask.has("raw");
        let view = |state: &State| {
            Ok(match state.kv.get(key) {
                None => none(),
                Some(entry) if raw => Answer::text(entry.value.clone(), "application/octet-stream"),
                Some(entry) => Answer::json(&[shown(key, entry, true)]),
            })
        };
        self.read(ask, Topic::of_key(key), |state| state.key_index(key), view).await
    }

    async fn kv_put(&self, ask: &Ask, key: &str, body: Incoming) -> Result<Answer, Problem> {
        let key = checked_key(key)?;
        let max = self.settings.limits.value_bytes;
        let value = body_of(body, max).await.inspect_err(|problem| {
            if problem.status == StatusCode::PAYLOAD_TOO_LARGE {
                self.metrics.refused.with_label_values(&["value_bytes"]).inc();
            }
        })?;
        let index = ask.number("cas")?;
        let (acquire, release) = (ask.parameter("acquire"), ask.parameter("release"));
        let verb = match (index, acquire, release) {
            (None, None, None) => KvVerb::Set,
            (Some(_), None, None) => KvVerb::Cas,
            (None, Some(_), None) => KvVerb::Lock,
            (None, None, Some(_)) => KvVerb::Unlock,
            _ => {
                return Err(Problem::bad(
                    "Conflicting flags: `cas`, `acquire` and `release` exclude each other",
                ));
            }
        };
        let op = KvOp {
            verb,
            key,
            value,
            flags: ask.number("flags")?.unwrap_or(0),
            index: index.unwrap_or(0),
            session: acquire.or(release).unwrap_or_default().into(),
        };
        self.made(Change::Kv(op)).await
    }

    async fn kv_delete(&self, ask: &Ask, key: &str) -> Result<Answer, Problem> {
        let index = ask.number("cas")?;
        let verb = match (index, ask.has("recurse")) {
            (None, true) => KvVerb::DeleteTree,
            (None, false) => KvVerb::Delete,
            (Some(_), false) => KvVerb::DeleteCas,
            (Some(_), true) => {
                return Err(Problem::bad("Conflicting flags: `cas` and `recurse` exclude each other"));
            }
        };
        if key.is_empty() && verb != KvVerb::DeleteTree {
            return Err(Problem::bad("Missing key name"));
        }
        let op = KvOp { index: index.unwrap_or(0), ..KvOp::of(verb, key.into()) };
        self.made(Change::Kv(op)).await
    }

    /// `true` or `false`, as clients expect it.
    async fn made(&self, change: Change) -> Result<Answer, Problem> {
        match self.registry.change(change).await? {
            Done::Made(made) => Ok(Answer::json(&made)),
            Done::AsAsked | Done::Txn(_) => Ok(Answer::json(&true)),
        }
    }

    pub(super) async fn txn(&self, _: &Ask, body: Incoming) -> Result<Answer, Problem> {
        let limits = &self.settings.limits;
        let body = body_of(body, limits.value_bytes).await?;
        let written: Value = serde_json::from_slice(&body)
            .map_err(|error| Problem::bad(format!("Request decode failed: {error}")))?;
        let written: Vec<WrittenOp> = serde_json::from_value(normal(written))
            .map_err(|error| Problem::bad(format!("Request decode failed: {error}")))?;
        if written.len() > TXN_OPERATIONS_MAX {
            let message = format!("Transaction contains too many operations ({})", written.len());
            return Err(Problem {
                status: StatusCode::PAYLOAD_TOO_LARGE,
                ..Problem::bad(format!("{message}; at most {TXN_OPERATIONS_MAX}"))
            });
        }
        let ops = written.into_iter().map(WrittenOp::resolve).collect::<Result<Vec<KvOp>, Problem>>()?;
        match self.registry.change(Change::Txn(ops)).await {
            Ok(Done::Txn(done)) => {
                let results: Vec<Value> = done
                    .iter()
                    .map(|done| json!({ "KV": shown(&done.key, &done.entry, done.with_value) }))
                    .collect();
                Ok(Answer::json(&json!({ "Results": results, "Errors": null })))
            }
            Ok(Done::AsAsked | Done::Made(_)) => Ok(Answer::json(&json!({ "Results": [], "Errors": null }))),
            Err(Refusal::Txn(place, why)) => {
                let errors = json!([{ "OpIndex": place, "What": why }]);
                let answer = Answer::json(&json!({ "Results": null, "Errors": errors }));
                Ok(answer.with_status(StatusCode::CONFLICT))
            }
            Err(refusal) => Err(refusal.into()),
        }
    }
}

impl KvOp {
    fn of(verb: KvVerb, key: Name) -> Self {
        Self { verb, key, value: Bytes::new(), flags: 0, index: 0, session: Name::default() }
    }
}

fn checked_key(key: &str) -> Result<Name, Problem> {
    if key.is_empty() {
        return Err(Problem::bad("Missing key name"));
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(Problem::bad(format!("a key has at most {KEY_BYTES_MAX} bytes, not {}", key.len())));
    }
    Ok(key.into())
}

#[derive(Deserialize)]
struct WrittenOp {
    kv: Option<WrittenKv>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WrittenKv {
    verb: String,
    key: String,
    value: Option<String>,
    flags: Option<u64>,
    index: Option<u64>,
    session: Option<String>,
}

impl WrittenOp {
    fn resolve(self) -> Result<KvOp, Problem> {
        let Some(kv) = self.kv else {
            return Err(Problem::bad("transactions here know operations of `KV` only"));
        };
        let verb = match kv.verb.as_str() {
            "set" => KvVerb::Set,
            "cas" => KvVerb::Cas,
            "lock" => KvVerb::Lock,
            "unlock" => KvVerb::Unlock,
            "get" => KvVerb::Get,
            "get-tree" => KvVerb::GetTree,
            "delete" => KvVerb::Delete,
            "delete-tree" => KvVerb::DeleteTree,
            "delete-cas" => KvVerb::DeleteCas,
            "check-index" => KvVerb::CheckIndex,
            "check-session" => KvVerb::CheckSession,
            "check-not-exists" => KvVerb::CheckNotExists,
            other => return Err(Problem::bad(format!("unknown verb {other:?} of `KV`"))),
        };
        let tree = matches!(verb, KvVerb::GetTree | KvVerb::DeleteTree);
        let key = if tree { kv.key.into() } else { checked_key(&kv.key)? };
        let value = STANDARD.decode(kv.value.unwrap_or_default());
        let value = value.map_err(|error| Problem::bad(format!("a `Value` is base64: {error}")))?;
        Ok(KvOp {
            value: value.into(),
            flags: kv.flags.unwrap_or(0),
            index: kv.index.unwrap_or(0),
            session: kv.session.unwrap_or_default().into(),
            ..KvOp::of(verb, key)
        })
    }
}

/// Up to the separator, each once.
fn keys(state: &State, prefix: &str, separator: Option<&str>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for (key, _) in state.keys(prefix) {
        let end = separator.and_then(|s| key[prefix.len()..].find(s).map(|at| prefix.len() + at + s.len()));
        let key = &key[..end.unwrap_or(key.len())];
        if found.last().is_none_or(|last| last != key) {
            found.push(key.to_owned());
        }
    }
    found
}

fn shown(key: &str, entry: &Entry, with_value: bool) -> Value {
    let value = (with_value && !entry.value.is_empty()).then(|| STANDARD.encode(&entry.value));
    let mut shown = json!({
        "LockIndex": entry.lock_index,
        "Key": key,
        "Flags": entry.flags,
        "Value": value,
        "CreateIndex": entry.create_index,
        "ModifyIndex": entry.modify_index,
    });
    if !entry.session.is_empty() {
        shown["Session"] = Value::from(&*entry.session);
    }
    shown
}
