//! Digest client for 401 and 407: MD5 and SHA-256, qop absent or `auth` (RFC 2617, RFC 7616, RFC 8760).
//!
//! Credentials are bound to the account's resolved targets and to the realm that the first challenge from there named: a challenge
//! from anywhere else is never answered.

use std::net::SocketAddr;

use gangway_shared::{entropy::Entropy, secret::Secret};

use super::message::{HeaderName, Request, Response};

/// Whose credentials these are, and whom they may be shown.
#[derive(Clone, Debug)]
pub struct Account {
    /// The authentication name.
    pub username: String,
    /// The password.
    pub password: Secret<String>,
    /// The account's resolved registrar or proxy addresses: the only places credentials are sent to.
    pub targets: Vec<SocketAddr>,
}

/// Why a challenge is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The response holds no Digest challenge that can be read.
    #[error("no digest challenge")]
    NoChallenge,
    /// Only algorithms or qop values that we do not speak.
    #[error("no supported algorithm or qop")]
    Unsupported,
    /// The request went somewhere else than to the account's targets.
    #[error("challenged by a peer that is not the account's target")]
    ForeignPeer,
    /// The realm is not the one that was pinned.
    #[error("realm changed")]
    RealmChanged,
    /// The credentials were refused: challenged again without `stale`.
    #[error("credentials refused")]
    Refused,
}

/// The digest state of one account: pinned realms, nonces and their counts.
#[derive(Clone, Debug)]
pub struct Client {
    account: Account,
}

impl Client {
    /// A client that has seen no challenge yet.
    #[must_use]
    pub fn new(account: Account) -> Self {
        Client { account }
    }

    /// Whether credentials may be sent to `remote`.
    #[must_use]
    pub fn may_answer(&self, remote: SocketAddr) -> bool {
        self.account.targets.contains(&remote)
    }

    /// Credentials for the challenges in a 401 or 407 to `request`, which went to `remote`.
    ///
    /// # Errors
    /// Why the challenge is not answered.
    pub fn answer(
        &mut self,
        _request: &Request,
        _response: &Response,
        _remote: SocketAddr,
        _entropy: &mut dyn Entropy,
    ) -> Result<Vec<(HeaderName, String)>, DigestError> {
        unimplemented!()
    }
}
