//! Digest client for 401 and 407: MD5 and SHA-256, qop absent or `auth` (RFC 2617, RFC 7616, RFC 8760).
//!
//! Credentials are bound to the account's resolved targets and to the realm that the first challenge from there named: a challenge
//! from anywhere else is never answered, so nobody can have a digest made to crack at home.

use std::net::SocketAddr;

use gangway_shared::{entropy::Entropy, secret::Secret};
use md5::{Digest as _, Md5};
use sha2::Sha256;

use super::{
    headers::AuthParams,
    message::{HeaderName, Method, Request, Response},
    uri::fmt_quoted,
};

/// The longest realm, nonce and opaque together that are answered, in bytes: they are all repeated in the answer.
const MAX_CHALLENGE_BYTES: usize = 2048;
/// How many methods are remembered as "challenged before" for one kind of challenge.
const MAX_METHODS: usize = 16;
/// Length of a cnonce before it is printed in hexadecimal.
const CNONCE_BYTES: usize = 8;

/// Whose credentials these are, and whom they may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// The credentials were refused: challenged again without `stale`, or with it twice.
    #[error("credentials refused")]
    Refused,
}

/// Who challenges: the server that we talk to (401) or a proxy on the way (407).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Server,
    Proxy,
}

impl Kind {
    const ALL: [Kind; 2] = [Kind::Server, Kind::Proxy];

    const fn challenge_header(self) -> HeaderName {
        match self {
            Kind::Server => HeaderName::WwwAuthenticate,
            Kind::Proxy => HeaderName::ProxyAuthenticate,
        }
    }

    const fn credentials_header(self) -> HeaderName {
        match self {
            Kind::Server => HeaderName::Authorization,
            Kind::Proxy => HeaderName::ProxyAuthorization,
        }
    }
}

/// Ordered by strength.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Algorithm {
    Md5,
    Sha256,
}

impl Algorithm {
    fn hex_digest(self, text: &str) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Algorithm::Md5 => hex(&Md5::digest(text.as_bytes())),
            Algorithm::Sha256 => hex(&Sha256::digest(text.as_bytes())),
        }
    }
}

#[derive(Clone, Debug)]
struct Challenge {
    realm: String,
    nonce: String,
    opaque: Option<String>,
    algorithm: Algorithm,
    /// The algorithm as the server wrote it, repeated only when it wrote one.
    algorithm_name: Option<String>,
    qop_auth: bool,
    stale: bool,
}

impl Challenge {
    /// Reads one challenge. `Unsupported` when it is sound but not for us, `NoChallenge` when it cannot be read.
    fn read(auth: &AuthParams) -> Result<Self, DigestError> {
        let value = |name: &str| auth.params.value(name);
        let (Some(realm), Some(nonce)) = (value("realm"), value("nonce")) else { return Err(DigestError::NoChallenge) };
        let opaque = value("opaque");
        if !auth.scheme.eq_ignore_ascii_case("Digest")
            || realm.len() + nonce.len() + opaque.map_or(0, str::len) > MAX_CHALLENGE_BYTES
        {
            return Err(DigestError::NoChallenge);
        }
        let algorithm_name = value("algorithm");
        let algorithm = match algorithm_name {
            None => Algorithm::Md5,
            Some(name) if name.eq_ignore_ascii_case("MD5") => Algorithm::Md5,
            Some(name) if name.eq_ignore_ascii_case("SHA-256") => Algorithm::Sha256,
            Some(_) => return Err(DigestError::Unsupported),
        };
        let qop = value("qop").filter(|options| !options.trim().is_empty());
        let qop_auth = qop.is_some_and(|options| options.split(',').any(|one| one.trim().eq_ignore_ascii_case("auth")));
        if qop.is_some() && !qop_auth {
            return Err(DigestError::Unsupported);
        }
        Ok(Challenge {
            realm: realm.to_owned(),
            nonce: nonce.to_owned(),
            opaque: opaque.map(str::to_owned),
            algorithm,
            algorithm_name: algorithm_name.map(str::to_owned),
            qop_auth,
            stale: value("stale").is_some_and(|stale| stale.eq_ignore_ascii_case("true")),
        })
    }
}

/// What is known about one kind of challenge from the account's target.
#[derive(Clone, Debug)]
struct Protection {
    /// The last challenge; `None` after its nonce was refused.
    challenge: Option<Challenge>,
    /// How often its nonce was used.
    count: u32,
    /// The pinned realm.
    realm: String,
    /// Methods that were challenged: only those carry credentials unasked. An INVITE that nobody challenges would carry them on to
    /// whoever is called.
    methods: Vec<Method>,
}

/// What was already tried for one request: a refusal must not become a storm of retries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    answered: [bool; 2],
    refreshed: [bool; 2],
}

/// The digest state of one account: pinned realms, nonces and their counts.
#[derive(Clone, Debug)]
pub struct Client {
    account: Account,
    protections: [Option<Protection>; 2],
}

impl Client {
    /// A client that has seen no challenge yet.
    #[must_use]
    pub const fn new(account: Account) -> Self {
        Client { account, protections: [None, None] }
    }

    /// The account.
    #[must_use]
    pub const fn account(&self) -> &Account {
        &self.account
    }

    /// Replaces the account. Pinned realms and nonces stay when only its targets changed.
    pub fn replace_account(&mut self, account: Account) {
        if account.username != self.account.username || account.password != self.account.password {
            self.protections = [None, None];
        }
        self.account = account;
    }

    /// Whether credentials may be sent to `remote`.
    #[must_use]
    pub fn may_answer(&self, remote: SocketAddr) -> bool {
        self.account.targets.contains(&remote)
    }

    /// Credentials for a request that nobody challenged yet, with the nonces of earlier challenges to the same method: none when
    /// there was no such challenge, or when `remote` is not the account's target.
    pub fn preempt(
        &mut self,
        request: &Request,
        remote: SocketAddr,
        entropy: &mut dyn Entropy,
    ) -> Vec<(HeaderName, String)> {
        if !self.may_answer(remote) {
            return Vec::new();
        }
        let kinds = Kind::ALL.into_iter().zip(&mut self.protections);
        let known = kinds.filter_map(|(kind, protection)| Some((kind, protection.as_mut()?)));
        let wanted = known.filter(|(_, protection)| protection.methods.contains(&request.method));
        wanted
            .filter_map(|(kind, protection)| {
                let value = protection.credentials(&self.account, request, entropy)?;
                Some((kind.credentials_header(), value))
            })
            .collect()
    }

    /// Credentials for the challenges in a 401 or 407 to `request`, which went to `remote`: the strongest that we speak of each kind.
    /// `attempts` belongs to the request and starts empty.
    ///
    /// # Errors
    /// Why the challenge is not answered.
    pub fn answer(
        &mut self,
        attempts: &mut Attempts,
        request: &Request,
        response: &Response,
        remote: SocketAddr,
        entropy: &mut dyn Entropy,
    ) -> Result<Vec<(HeaderName, String)>, DigestError> {
        if !self.may_answer(remote) {
            return Err(DigestError::ForeignPeer);
        }
        let mut credentials = Vec::new();
        for kind in Kind::ALL {
            if response.headers.value(&kind.challenge_header()).is_some() {
                self.accept(kind, attempts, request, response)?;
                let protection = self.protections[kind as usize].as_mut().ok_or(DigestError::NoChallenge)?;
                let value = protection.credentials(&self.account, request, entropy).ok_or(DigestError::NoChallenge)?;
                credentials.push((kind.credentials_header(), value));
            }
        }
        if credentials.is_empty() { Err(DigestError::NoChallenge) } else { Ok(credentials) }
    }

    /// Takes the challenge of one kind, or says why not.
    fn accept(
        &mut self,
        kind: Kind,
        attempts: &mut Attempts,
        request: &Request,
        response: &Response,
    ) -> Result<(), DigestError> {
        let pinned = self.protections[kind as usize].as_ref().map(|protection| protection.realm.clone());
        let challenge = choose(kind, response, pinned.as_deref(), request.method == Method::Register)?;
        let sent = request.headers.auth(&kind.credentials_header());
        let same_nonce = sent.iter().any(|auth| auth.params.value("nonce") == Some(&challenge.nonce));
        let slot = kind as usize;
        let may_retry = !attempts.answered[slot] || (challenge.stale && !attempts.refreshed[slot]);
        if same_nonce || !may_retry {
            if let Some(protection) = &mut self.protections[slot] {
                protection.challenge = None;
            }
            return Err(DigestError::Refused);
        }
        attempts.refreshed[slot] |= attempts.answered[slot];
        attempts.answered[slot] = true;
        let mut methods = self.protections[slot].take().map(|protection| protection.methods).unwrap_or_default();
        if !methods.contains(&request.method) && methods.len() < MAX_METHODS {
            methods.push(request.method.clone());
        }
        let realm = challenge.realm.clone();
        self.protections[slot] = Some(Protection { challenge: Some(challenge), count: 0, realm, methods });
        Ok(())
    }
}

/// The strongest challenge of `kind`: of the pinned realm, or, for REGISTER, of any when the pinned one is not among them.
fn choose(kind: Kind, response: &Response, pinned: Option<&str>, register: bool) -> Result<Challenge, DigestError> {
    let mut failure = DigestError::NoChallenge;
    let mut challenges = Vec::new();
    for auth in response.headers.auth(&kind.challenge_header()) {
        match Challenge::read(&auth) {
            Ok(challenge) => challenges.push(challenge),
            Err(DigestError::Unsupported) => failure = DigestError::Unsupported,
            Err(_) => {}
        }
    }
    if challenges.is_empty() {
        return Err(failure);
    }
    let in_realm = |challenge: &Challenge| pinned.is_none_or(|realm| realm == challenge.realm);
    if challenges.iter().any(in_realm) {
        challenges.retain(in_realm);
    } else if !register {
        return Err(DigestError::RealmChanged);
    }
    // The first of the strongest: RFC 8760 section 2.4 has servers list by preference.
    challenges.reverse();
    challenges.into_iter().max_by_key(|challenge| challenge.algorithm).ok_or(DigestError::NoChallenge)
}

impl Protection {
    fn credentials(&mut self, account: &Account, request: &Request, entropy: &mut dyn Entropy) -> Option<String> {
        let challenge = self.challenge.as_ref()?;
        self.count = self.count.checked_add(1)?;
        let fresh = challenge.qop_auth.then(|| (self.count, entropy.hex(CNONCE_BYTES)));
        let uri = request.uri.to_string();
        let response = response_digest(challenge, account, request.method.as_str(), &uri, fresh.as_ref());
        let mut out = String::from("Digest ");
        let mut quoted = |name: &str, value: &str| {
            out.push_str(name);
            out.push('=');
            fmt_quoted(value, &mut out).expect("a String takes everything");
            out.push_str(", ");
        };
        quoted("username", &account.username);
        quoted("realm", &challenge.realm);
        quoted("nonce", &challenge.nonce);
        quoted("uri", &uri);
        if let Some((_, cnonce)) = &fresh {
            quoted("cnonce", cnonce);
        }
        if let Some(opaque) = &challenge.opaque {
            quoted("opaque", opaque);
        }
        quoted("response", &response);
        out.truncate(out.len() - 2);
        if let Some(name) = &challenge.algorithm_name {
            out.push_str(", algorithm=");
            out.push_str(name);
        }
        // RFC 7616 section 3.4: qop, nc and algorithm are not quoted in credentials.
        if let Some((count, _)) = fresh {
            out.push_str(&format!(", qop=auth, nc={count:08x}"));
        }
        Some(out)
    }
}

/// `response`, RFC 7616 section 3.4.1. `fresh` is the nonce count and cnonce of qop `auth`.
fn response_digest(
    challenge: &Challenge,
    account: &Account,
    method: &str,
    uri: &str,
    fresh: Option<&(u32, String)>,
) -> String {
    let hash = |text: String| challenge.algorithm.hex_digest(&text);
    let (realm, nonce) = (&challenge.realm, &challenge.nonce);
    let ha1 = hash(format!("{}:{realm}:{}", account.username, account.password.expose()));
    let ha2 = hash(format!("{method}:{uri}"));
    match fresh {
        Some((count, cnonce)) => hash(format!("{ha1}:{nonce}:{count:08x}:{cnonce}:auth:{ha2}")),
        None => hash(format!("{ha1}:{nonce}:{ha2}")),
    }
}

#[cfg(test)]
mod tests;
