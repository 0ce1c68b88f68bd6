//! Keys of Consul, and of the embedded registry.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Entry, Listing, Step};
use crate::config::Consul;
use crate::control::registry::consul;
use crate::http_client::{Client, Error};

/// Where there is nothing yet there is nothing to wait for: it is asked for again after this.
const NOTHING_PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct ConsulKv {
    client: Client,
    /// Begins with `?`.
    query: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Found {
    key: String,
    value: Option<String>,
    modify_index: u64,
}

impl ConsulKv {
    pub(super) fn new(settings: &Consul) -> Self {
        let datacenter = settings.datacenter.as_ref().map(|dc| format!("dc={dc}&")).unwrap_or_default();
        Self { client: consul::client(settings), query: format!("?{datacenter}") }
    }

    pub(super) fn turn(&mut self) {
        self.client.turn();
    }

    pub(super) async fn read(&mut self, key: &str) -> Result<Option<Entry>, Error> {
        let found: Option<Vec<Found>> = self.found(&format!("/v1/kv/{key}{}", self.query)).await?;
        let found = found.and_then(|found| found.into_iter().next());
        found.map(|found| self.entry(found)).transpose()
    }

    pub(super) async fn list(&mut self, prefix: &str) -> Result<Listing, Error> {
        let path = format!("/v1/kv/{prefix}{}recurse", self.query);
        let within = self.client.timeout;
        let answer = match self.client.exchange(Method::GET, &path, Bytes::new(), within).await {
            Err(Error::Refused(_, StatusCode::NOT_FOUND, _)) => return Ok(Listing::default()),
            answer => answer?,
        };
        let index = answer.fields.get("x-consul-index").and_then(|value| value.to_str().ok()?.parse().ok());
        let found: Vec<Found> = self.read_json(&answer.body)?;
        let entries = found.into_iter().map(|found| self.entry(found)).collect::<Result<_, _>>()?;
        Ok(Listing { entries, revision: index })
    }

    pub(super) async fn keys(&mut self, prefix: &str) -> Result<Vec<String>, Error> {
        let keys = self.found(&format!("/v1/kv/{prefix}{}keys", self.query)).await?;
        Ok(keys.unwrap_or_default())
    }

    pub(super) async fn changed(
        &mut self,
        prefix: &str,
        since: Option<u64>,
        at_most: Duration,
    ) -> Result<(), Error> {
        let Some(index) = since.filter(|index| *index > 0) else {
            sleep(NOTHING_PAUSE.min(at_most)).await;
            return Ok(());
        };
        let wait = at_most.as_secs().max(1);
        let path = format!("/v1/kv/{prefix}{}keys&wait={wait}s&index={index}", self.query);
        // A server adds up to a sixteenth of the wait.
        let within = at_most + at_most / 16 + self.client.timeout;
        match self.client.exchange(Method::GET, &path, Bytes::new(), within).await {
            // All of it has gone.
            Ok(_) | Err(Error::Refused(_, StatusCode::NOT_FOUND, _)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn put(&mut self, key: &str, value: &[u8]) -> Result<(), Error> {
        self.is_done(&format!("/v1/kv/{key}{}", self.query), value.to_vec()).await.map(drop)
    }

    pub(super) async fn change(&mut self, steps: &[Step]) -> Result<bool, Error> {
        let body = Bytes::from(transaction(steps).to_string());
        let (path, within) = (format!("/v1/txn{}", self.query), self.client.timeout);
        match self.client.exchange(Method::PUT, &path, body, within).await {
            Ok(_) => Ok(true),
            Err(Error::Refused(_, StatusCode::CONFLICT, _)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn grant(&mut self, ttl: Duration) -> Result<String, Error> {
        #[derive(Deserialize)]
        struct Session {
            #[serde(rename = "ID")]
            id: String,
        }
        let session = json!({
            "Name": "outrigger", "TTL": format!("{}s", ttl.as_secs()), "Behavior": "delete", "LockDelay": "0s",
        });
        let path = format!("/v1/session/create{}", self.query);
        let answer = self.exchange(Method::PUT, &path, session.to_string().into()).await?;
        self.read_json::<Session>(&answer).map(|session| session.id)
    }

    pub(super) async fn renew(&mut self, session: &str) -> Result<bool, Error> {
        let path = format!("/v1/session/renew/{session}{}", self.query);
        match self.exchange(Method::PUT, &path, Bytes::new()).await {
            Ok(_) => Ok(true),
            Err(Error::Refused(_, StatusCode::NOT_FOUND, _)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn put_leased(&mut self, key: &str, value: &[u8], session: &str) -> Result<(), Error> {
        let path = format!("/v1/kv/{key}{}acquire={session}", self.query);
        if self.is_done(&path, value.to_vec()).await? {
            return Ok(());
        }
        // A session that this sidecar had before it was killed holds the key still.
        self.exchange(Method::DELETE, &format!("/v1/kv/{key}{}", self.query), Bytes::new()).await?;
        self.is_done(&path, value.to_vec()).await.map(drop)
    }

    pub(super) async fn end(&mut self, session: &str) -> Result<(), Error> {
        let path = format!("/v1/session/destroy/{session}{}", self.query);
        self.exchange(Method::PUT, &path, Bytes::new()).await.map(drop)
    }

    async fn is_done(&mut self, path: &str, body: Vec<u8>) -> Result<bool, Error> {
        let answer = self.exchange(Method::PUT, path, body.into()).await?;
        Ok(answer.trim_ascii() == b"true")
    }

    /// `None` for what does not exist.
    async fn found<T: DeserializeOwned>(&mut self, path: &str) -> Result<Option<T>, Error> {
        match self.exchange(Method::GET, path, Bytes::new()).await {
            Ok(body) => self.read_json(&body).map(Some),
            Err(Error::Refused(_, StatusCode::NOT_FOUND, _)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn exchange(&mut self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Error> {
        let within = self.client.timeout;
        Ok(self.client.exchange(method, path, body, within).await?.body)
    }

    fn read_json<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(body).map_err(|error| Error::Nonsense(self.client.server(), error.to_string()))
    }

    fn entry(&self, found: Found) -> Result<Entry, Error> {
        let value = STANDARD.decode(found.value.unwrap_or_default());
        let value = value.map_err(|error| Error::Nonsense(self.client.server(), error.to_string()))?;
        Ok(Entry { key: found.key, value: value.into(), revision: found.modify_index })
    }
}

fn transaction(steps: &[Step]) -> Value {
    let steps = steps.iter().map(|step| match step {
        // With index 0, `cas` makes a key that does not exist.
        Step::Swap { key, revision, value } => json!({"KV": {
            "Verb": "cas", "Key": key, "Index": revision, "Value": STANDARD.encode(value),
        }}),
        Step::Delete(key) => json!({"KV": { "Verb": "delete", "Key": key }}),
        Step::DeleteBelow(prefix) => json!({"KV": { "Verb": "delete-tree", "Key": prefix }}),
    });
    Value::Array(steps.collect())
}
