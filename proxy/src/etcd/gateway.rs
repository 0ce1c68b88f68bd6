//! Calls of etcd's JSON gateway, with authentication where it is configured.
//!
//! Each task that talks to etcd has one of its own. A token that etcd no longer knows is replaced once per call.

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::wire::{self, GrantAnswer, KeptAnswer, Put, RangeAnswer, TokenAnswer, TransactionAnswer};
use crate::config::{Etcd, Secret, Server};
use crate::http_client::{Client, Error, Lines};

#[derive(Debug)]
pub struct Gateway {
    client: Client,
    user: Option<(String, Secret)>,
}

impl Gateway {
    pub fn new(etcd: &Etcd) -> Self {
        let client = Client::new(etcd.servers.clone(), etcd.tls.clone(), etcd.timeout);
        Self { client, user: etcd.user.clone() }
    }

    pub fn server(&self) -> Server {
        self.client.server()
    }

    /// The next call goes to the next server; tokens are known to all, or made anew.
    pub fn turn(&mut self) {
        self.client.turn();
    }

    /// Keys from `from` to before `to`, or only `from`; as of a revision, or of now if it is 0. Linearizable.
    pub async fn range(
        &mut self,
        from: &[u8],
        to: &[u8],
        limit: usize,
        revision: i64,
    ) -> Result<RangeAnswer, Error> {
        let request = json!({
            "key": wire::encode(from), "range_end": wire::encode(to),
            "limit": limit.to_string(), "revision": revision.to_string(),
        });
        self.call("/v3/kv/range", &request).await
    }

    /// Keys alone, without their values; as of now.
    pub async fn keys(&mut self, from: &str, to: &str, limit: usize) -> Result<RangeAnswer, Error> {
        let (key, range_end) = (wire::encode(from.as_bytes()), wire::encode(to.as_bytes()));
        let request = json!({
            "key": key, "range_end": range_end, "limit": limit.to_string(), "keys_only": true,
        });
        self.call("/v3/kv/range", &request).await
    }

    /// Whether its comparisons held, and so it was done.
    pub async fn transact(&mut self, request: &Value) -> Result<bool, Error> {
        let answer: TransactionAnswer = self.call("/v3/kv/txn", request).await?;
        Ok(answer.succeeded)
    }

    pub async fn put(&mut self, key: &str, value: &[u8], lease: i64) -> Result<(), Error> {
        self.call::<Value>("/v3/kv/put", &json!(Put::new(key, value, lease))).await.map(drop)
    }

    pub async fn grant(&mut self, ttl_s: u64) -> Result<i64, Error> {
        let answer: GrantAnswer = self.call("/v3/lease/grant", &json!({ "TTL": ttl_s.to_string() })).await?;
        Ok(answer.id)
    }

    /// Whether the lease still lives.
    pub async fn keep_alive(&mut self, lease: i64) -> Result<bool, Error> {
        let answer: KeptAnswer =
            self.call("/v3/lease/keepalive", &json!({ "ID": lease.to_string() })).await?;
        Ok(answer.result.ttl > 0)
    }

    /// Everything that hangs on the lease goes with it.
    pub async fn revoke(&mut self, lease: i64) -> Result<(), Error> {
        self.call::<Value>("/v3/lease/revoke", &json!({ "ID": lease.to_string() })).await.map(drop)
    }

    pub async fn watch(&mut self, requests: String) -> Result<Lines, Error> {
        let requests = Bytes::from(requests);
        self.authenticate(false).await?;
        match self.client.lines("/v3/watch", requests.clone()).await {
            Err(error) if self.is_token_unknown(&error) => {
                self.authenticate(true).await?;
                self.client.lines("/v3/watch", requests).await
            }
            result => result,
        }
    }

    async fn call<T: DeserializeOwned>(&mut self, path: &str, request: &Value) -> Result<T, Error> {
        let body = Bytes::from(request.to_string());
        self.authenticate(false).await?;
        let answer = match self.exchange(path, body.clone()).await {
            Err(error) if self.is_token_unknown(&error) => {
                self.authenticate(true).await?;
                self.exchange(path, body).await?
            }
            result => result?,
        };
        serde_json::from_slice(&answer).map_err(|error| Error::Nonsense(self.server(), error.to_string()))
    }

    async fn exchange(&mut self, path: &str, body: Bytes) -> Result<Bytes, Error> {
        let within = self.client.timeout;
        Ok(self.client.exchange(Method::POST, path, body, within).await?.body)
    }

    /// Gets a token if one is needed and there is none, or always.
    async fn authenticate(&mut self, always: bool) -> Result<(), Error> {
        let Some((name, password)) = &self.user else { return Ok(()) };
        if !always && !self.client.fields.is_empty() {
            return Ok(());
        }
        let body = Bytes::from(json!({ "name": name, "password": password.0 }).to_string());
        self.client.fields.clear();
        let answer = self.exchange("/v3/auth/authenticate", body).await?;
        let nonsense = |error: String| Error::Nonsense(self.client.server(), error);
        let token: TokenAnswer = serde_json::from_slice(&answer).map_err(|e| nonsense(e.to_string()))?;
        let mut token = HeaderValue::from_str(&token.token).map_err(|e| nonsense(e.to_string()))?;
        token.set_sensitive(true);
        self.client.fields.push((AUTHORIZATION, token));
        Ok(())
    }

    fn is_token_unknown(&self, error: &Error) -> bool {
        let Error::Refused(_, status, text) = error else { return false };
        self.user.is_some()
            && (*status == StatusCode::UNAUTHORIZED
                || ["invalid auth token", "revision in header is old"]
                    .iter()
                    .any(|known| text.contains(known)))
    }
}
