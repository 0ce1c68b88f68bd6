//! Requests for tests, which answer what `outrigger_sdk::request` asks as the proxy would.

use crate::router::Head;

/// A request as a policy sees it. `get("/cart").with_header("x-user", "7")` builds one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub path: String,
    pub authority: String,
    /// In order; names in any case, and more than once.
    pub headers: Vec<(String, String)>,
    pub identity: Option<String>,
    pub source_address: String,
}

/// A `GET` from 127.0.0.1 to `web.mesh.internal`, without headers.
#[must_use]
pub fn get(path: &str) -> Request {
    Request {
        method: "GET".into(),
        path: path.into(),
        authority: "web.mesh.internal".into(),
        headers: Vec::new(),
        identity: None,
        source_address: "127.0.0.1".into(),
    }
}

impl Request {
    #[must_use]
    pub fn with_method(mut self, method: &str) -> Self {
        self.method = method.into();
        self
    }

    #[must_use]
    pub fn with_authority(mut self, authority: &str) -> Self {
        self.authority = authority.into();
        self
    }

    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    #[must_use]
    pub fn with_cookie(self, name: &str, value: &str) -> Self {
        self.with_header("cookie", &format!("{name}={value}"))
    }

    #[must_use]
    pub fn with_identity(mut self, identity: &str) -> Self {
        self.identity = Some(identity.into());
        self
    }

    #[must_use]
    pub fn with_source_address(mut self, address: &str) -> Self {
        self.source_address = address.into();
        self
    }

    /// What `route` gets as its first argument.
    #[must_use]
    pub fn head(&self) -> Head {
        Head { method: self.method(), path: self.path(), authority: self.authority() }
    }

    #[must_use]
    pub fn method(&self) -> String {
        self.method.clone()
    }

    #[must_use]
    pub fn path(&self) -> String {
        self.path.clone()
    }

    #[must_use]
    pub fn authority(&self) -> String {
        self.authority.to_ascii_lowercase()
    }

    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        self.values(name).next().map(str::to_owned)
    }

    #[must_use]
    pub fn headers(&self, name: &str) -> Vec<String> {
        self.values(name).map(str::to_owned).collect()
    }

    #[must_use]
    pub fn cookie(&self, name: &str) -> Option<String> {
        let mut pairs = self.values("cookie").flat_map(|line| line.split(';'));
        pairs.find_map(|pair| match pair.trim().split_once('=') {
            Some((key, value)) if key == name => Some(value.trim_matches('"').to_owned()),
            _ => None,
        })
    }

    #[must_use]
    pub fn query(&self, name: &str) -> Option<String> {
        let (_, query) = self.path.split_once('?')?;
        query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decoded(key) == name).then(|| percent_decoded(value))
        })
    }

    #[must_use]
    pub fn identity(&self) -> Option<String> {
        self.identity.clone()
    }

    #[must_use]
    pub fn source_address(&self) -> String {
        self.source_address.clone()
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers
            .iter()
            .filter(move |(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (byte, hex) {
            (b'%', Some(value)) => {
                decoded.push(value);
                at += 2;
            }
            (b'+', _) => decoded.push(b' '),
            _ => decoded.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_like_the_proxy() {
        let request = get("/cart?a=1&b=x%20y+z&bad=%zz&flag")
            .with_header("X-Tag", "one")
            .with_header("x-tag", "two")
            .with_header("cookie", "a=1; user=\"7\"");
        assert_eq!(request.header("x-TAG").as_deref(), Some("one"));
        assert_eq!(request.headers("x-tag"), ["one", "two"]);
        assert_eq!(request.cookie("user").as_deref(), Some("7"));
        assert_eq!(request.cookie("none"), None);
        assert_eq!(request.query("b").as_deref(), Some("x y z"));
        assert_eq!(request.query("bad").as_deref(), Some("%zz"));
        assert_eq!(request.query("flag").as_deref(), Some(""));
    }
}
