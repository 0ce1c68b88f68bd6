//! Ed25519 keys, in the forms that other tools know: PKCS#8 and SubjectPublicKeyInfo, in PEM.
//!
//! `openssl genpkey -algorithm ed25519` makes keys that are read here, and reads those that are made here.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use crate::snapshot::Digest;

/// What stands before the 32 bytes of a key: algorithm and lengths, which are the same for all (RFC 8410).
const PRIVATE_PREFIX: [u8; 16] = *b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
const PUBLIC_PREFIX: [u8; 12] = *b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
const PRIVATE_LABEL: &str = "PRIVATE KEY";
const PUBLIC_LABEL: &str = "PUBLIC KEY";
const ID_DIGITS: usize = 16;

/// Whose signature is believed.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// Makes signatures. It is never printed.
pub struct SigningKey(Ed25519KeyPair);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("no PEM block `{0}` in it")]
    NoBlock(&'static str),
    #[error("not an Ed25519 key")]
    NotEd25519,
    #[error("the system gives no random numbers")]
    NoRandomness,
}

impl PublicKey {
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let der = block(text, PUBLIC_LABEL)?;
        let bytes = der.strip_prefix(&PUBLIC_PREFIX).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or(KeyError::NotEd25519)
    }

    pub fn pem(&self) -> String {
        pem(PUBLIC_LABEL, &[&PUBLIC_PREFIX[..], &self.0].concat())
    }

    /// Short for the key in manifests and messages.
    pub fn id(&self) -> String {
        Digest::of(&self.0).to_string().chars().take(ID_DIGITS).collect()
    }

    pub fn has_signed(&self, text: &str, signature: &str) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        STANDARD.decode(signature).is_ok_and(|signature| key.verify(text.as_bytes(), &signature).is_ok())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id())
    }
}

impl SigningKey {
    /// A new key, and its private form in PEM.
    pub fn generate() -> Result<(Self, String), KeyError> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| KeyError::NoRandomness)?;
        let pem = pem(PRIVATE_LABEL, &[&PRIVATE_PREFIX[..], &seed].concat());
        Ok((Self::parse(&pem)?, pem))
    }

    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let der = block(text, PRIVATE_LABEL)?;
        // Version 1 has no public half beside it to compare with.
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map(Self).map_err(|_| KeyError::NotEd25519)
    }

    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    /// In base64.
    pub fn sign(&self, text: &str) -> String {
        STANDARD.encode(self.0.sign(text.as_bytes()))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().id())
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    // 48 bytes and fewer fit one line.
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

/// The bytes of the first block with this label.
fn block(text: &str, label: &'static str) -> Result<Vec<u8>, KeyError> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let inside = text.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end));
    let (inside, _) = inside.ok_or(KeyError::NoBlock(label))?;
    let letters: String = inside.split_whitespace().collect();
    STANDARD.decode(letters).map_err(|_| KeyError::NotEd25519)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `openssl genpkey -algorithm ed25519`, with the public key by `openssl pkey -pubout`.
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIOPoMCeNL9LgFpwIaZBe8UYOWZ7EKACnWvURBWxhWXB0\n-----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEAC4gE7I6VOHg8B7v8enZz8siqfjA/hfBpJaXQ3UgkqFI=\n-----END PUBLIC KEY-----\n";

    #[test]
    fn keys_of_other_tools_are_read() {
        let (private, public) = (SigningKey::parse(PRIVATE).unwrap(), PublicKey::parse(PUBLIC).unwrap());
        assert_eq!(private.public(), public);
        assert_eq!(public.pem(), PUBLIC);
        assert!(public.has_signed("text", &private.sign("text")));
    }

    #[test]
    fn a_new_key_is_like_no_other_and_comes_back() {
        let (one, pem) = SigningKey::generate().unwrap();
        let (other, _) = SigningKey::generate().unwrap();
        assert_ne!(one.public(), other.public());
        assert_eq!(SigningKey::parse(&pem).unwrap().public(), one.public());
        assert_eq!(PublicKey::parse(&one.public().pem()).unwrap(), one.public());
        assert_eq!(one.public().id().len(), ID_DIGITS);
        let signature = one.sign("text");
        assert!(one.public().has_signed("text", &signature));
        assert!(!one.public().has_signed("texts", &signature));
        assert!(!other.public().has_signed("text", &signature));
        assert!(!one.public().has_signed("text", "not base64"));
        assert!(!format!("{one:?}").contains(pem.lines().nth(1).unwrap()));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert_eq!(PublicKey::parse(PRIVATE), Err(KeyError::NoBlock(PUBLIC_LABEL)));
        assert_eq!(SigningKey::parse(PUBLIC).unwrap_err(), KeyError::NoBlock(PRIVATE_LABEL));
        let short = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n";
        assert_eq!(PublicKey::parse(short), Err(KeyError::NotEd25519));
        assert_eq!(PublicKey::parse(&short.replace("MCow", "M*ow")), Err(KeyError::NotEd25519));
    }
}
