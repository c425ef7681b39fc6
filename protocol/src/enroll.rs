//! Enrolment: the token an operator carries, and the one exchange it buys.
//!
//! A token is text: `zxt1_` and base64url (no padding) of a postcard [`Token`] and the first four
//! bytes of its BLAKE3 hash, which finds typing errors. It holds the seed of an Ed25519 key whose
//! public half alone the hub stores. The agent proves possession by signing its request together
//! with keying material of the TLS session, so the seed never crosses the wire and the proof
//! cannot be carried to another session.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use crate::ids::{AgentId, OrgId, TokenId};

/// ALPN protocol name of the enrolment exchange.
pub const ALPN: &[u8] = b"zx-enroll/1";

/// Label of the TLS exporter (RFC 8446 section 7.5) whose 32 bytes are signed.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-zero-x-enroll";

/// Server name that every hub's certificate carries and every agent asks for: agents trust a
/// pinned root, not a name service.
pub const HUB_NAME: &str = "zero-x-hub";

/// Longest message of the exchange, in bytes.
pub const MESSAGE_BYTES: usize = 64 << 10;

const PREFIX: &str = "zxt1_";

/// SHA-256 of a CA key's SubjectPublicKeyInfo (DER), as RFC 7469 pins keys.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin(pub [u8; 32]);

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Pin {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let hex = text.strip_prefix("sha256:").ok_or(TokenError::Pin)?;
        let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(hex.as_bytes());
        let bytes: [u8; 32] = bytes
            .ok()
            .and_then(|b| b.try_into().ok())
            .ok_or(TokenError::Pin)?;
        Ok(Self(bytes))
    }
}

impl Pin {
    /// Returns the pin of a certificate's key.
    ///
    /// # Errors
    ///
    /// When the bytes are not a DER certificate.
    pub fn of_certificate(der: &[u8]) -> Result<Self, TokenError> {
        use x509_parser::prelude::FromDer;
        let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(der)
            .map_err(|_| TokenError::Certificate)?;
        let spki = certificate.public_key().raw;
        let digest = ring::digest::digest(&ring::digest::SHA256, spki);
        Ok(Self(
            digest
                .as_ref()
                .try_into()
                .map_err(|_| TokenError::Certificate)?,
        ))
    }
}

/// Says why a text is neither a token nor a pin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The text does not begin as a token does.
    #[error("not an enrolment token: it begins with {PREFIX}")]
    Prefix,
    /// A character or the checksum is wrong.
    #[error("the enrolment token is damaged: copy it again, whole")]
    Damaged,
    /// The text is not a pin.
    #[error("a pin is sha256: and 64 hexadecimal digits")]
    Pin,
    /// The bytes are not a certificate.
    #[error("not a DER certificate")]
    Certificate,
}

/// What an enrolment token holds.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its id at the hub.
    pub id: TokenId,
    /// Seed of the Ed25519 key. A secret.
    pub seed: [u8; 32],
    /// Addresses of the hub for agents, `host:port`, in the order to try.
    pub hubs: Vec<String>,
    /// Keys of the hub's root CA; more than one while a CA is being replaced.
    pub pins: Vec<Pin>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("id", &self.id)
            .field("hubs", &self.hubs)
            .field("pins", &self.pins)
            .finish_non_exhaustive()
    }
}

impl Token {
    /// Returns the token's text, which is a secret.
    pub fn to_text(&self) -> String {
        let mut bytes = postcard::to_stdvec(self).expect("plain structs always serialise");
        let check = blake3::hash(&bytes);
        bytes.extend(check.as_bytes().iter().take(4));
        format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&bytes))
    }

    /// Reads a token; white space around it is ignored.
    ///
    /// # Errors
    ///
    /// When the text is no token, or was damaged on its way.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let body = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        let bytes = BASE64URL_NOPAD
            .decode(body.as_bytes())
            .map_err(|_| TokenError::Damaged)?;
        let (bytes, check) = bytes.split_last_chunk::<4>().ok_or(TokenError::Damaged)?;
        if blake3::hash(bytes).as_bytes().first_chunk::<4>() != Some(check) {
            return Err(TokenError::Damaged);
        }
        match postcard::take_from_bytes(bytes) {
            Ok((token, [])) => Ok(token),
            Ok(_) | Err(_) => Err(TokenError::Damaged),
        }
    }
}

/// An agent's request, postcard behind a little-endian u32 length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Which token.
    pub token: TokenId,
    /// PKCS #10 request, DER. The hub takes the key from it and ignores its names.
    pub csr: Vec<u8>,
    /// Ed25519 signature by the token's key over [`signed_message`], 64 bytes.
    pub signature: Vec<u8>,
    /// The operator's name for the agent; the host's name by default.
    pub name: String,
    /// The agent's program version.
    pub agent_version: String,
}

/// The hub's answer, framed alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The agent is enrolled.
    Issued {
        /// Its organisation.
        org: OrgId,
        /// Its id.
        agent: AgentId,
        /// Certificate chain, DER, leaf first.
        chain: Vec<Vec<u8>>,
        /// The hub's root certificates, DER, the one that signs first: two while its authority is
        /// being replaced.
        roots: Vec<Vec<u8>>,
        /// End of the leaf's validity, milliseconds since 1970 UTC.
        not_after_ms: i64,
        /// The hub's key that bundles are sealed to ([`crate::bundle::HubKey`]).
        bundle_key: [u8; 32],
    },
    /// The token was not accepted.
    Refused {
        /// Stable code: `token_unknown`, `token_expired`, `token_used`, `token_name`,
        /// `signature`, `request`.
        code: String,
        /// Words for the operator.
        reason: String,
    },
}

/// Returns what the token's key signs: a domain, the request and the session's exporter.
pub fn signed_message(csr: &[u8], exporter: &[u8; 32]) -> Vec<u8> {
    [b"zx-enroll-1".as_slice(), csr, exporter].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_and_every_damage_is_noticed() {
        let token = Token {
            id: TokenId::from_bytes([1; 16]),
            seed: [2; 32],
            hubs: vec!["hub.example:7443".into()],
            pins: vec![Pin([3; 32])],
        };
        let text = token.to_text();
        assert_eq!(Token::parse(&format!(" {text}\n")).unwrap(), token);
        assert_eq!(Token::parse("hello"), Err(TokenError::Prefix));
        for cut in PREFIX.len()..text.len() {
            assert_eq!(
                Token::parse(text.get(..cut).unwrap()),
                Err(TokenError::Damaged)
            );
        }
        assert!(!format!("{token:?}").contains("seed"));
    }

    #[test]
    fn a_pin_survives_its_text() {
        let pin = Pin([0xab; 32]);
        assert_eq!(pin.to_string().parse::<Pin>().unwrap(), pin);
        assert_eq!("sha256:00".parse::<Pin>(), Err(TokenError::Pin));
    }
}
