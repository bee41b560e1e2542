//! The lite side of ICE (RFC 8445 section 2.5 and 7.3) and consent (RFC 7675): answers checks, sends none.
//!
//! Nothing is answered to who does not hold our password. An answer is never longer than its request: no SOFTWARE, no
//! reason phrase, FINGERPRINT only for who sent one, and what is still longer (a request without PRIORITY and role over
//! IPv6, which no ICE agent sends) is dropped and counted.

use std::{fmt, net::SocketAddr, time::Duration};

use gangway_shared::{entropy::Entropy, time::Time};
use subtle::ConstantTimeEq;

use crate::wire::{
    DropReason, Packet,
    stun::{IceRole, MAX_UNKNOWN_ATTRIBUTES, Message, MessageType, Writer, username_of},
};

/// Longest local ufrag in bytes.
pub const MAX_UFRAG_LEN: usize = 16;

/// Longest local password in bytes.
pub const MAX_PWD_LEN: usize = 32;

/// Length of a minted ufrag: 48 bits, so that relays of one worker practically never meet; RFC 8445 section 5.3 asks 24.
const MINTED_UFRAG_LEN: usize = 8;

/// Length of a minted password: 144 bits; RFC 8445 section 5.3 asks 128.
const MINTED_PWD_LEN: usize = 24;

/// Longest answer in bytes: header, ERROR-CODE, UNKNOWN-ATTRIBUTES, MESSAGE-INTEGRITY, FINGERPRINT.
const MAX_ANSWER_LEN: usize = 20 + 8 + 4 + 2 * MAX_UNKNOWN_ATTRIBUTES + 24 + 8;

/// Error code for an unknown comprehension-required attribute (RFC 8489 section 14.8).
const UNKNOWN_ATTRIBUTE: u16 = 420;

/// Error code for a peer in the wrong role (RFC 8445 section 7.3.1.1).
const ROLE_CONFLICT: u16 = 487;

const ICE_CHARS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Our ufrag and password on one leg, as plain old data for the arena. All zero is "none", which no check can match.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LocalCredentials {
    ufrag: [u8; MAX_UFRAG_LEN],
    pwd: [u8; MAX_PWD_LEN],
    ufrag_len: u8,
    pwd_len: u8,
    reserved: [u8; 6],
}

impl LocalCredentials {
    /// Takes given credentials; `None` when their lengths or characters are not those of RFC 8839 section 5.4 within our
    /// limits (ufrag 4..=16, password 22..=32 bytes).
    #[must_use]
    pub fn new(ufrag: &[u8], pwd: &[u8]) -> Option<Self> {
        let fits = (4..=MAX_UFRAG_LEN).contains(&ufrag.len()) && (22..=MAX_PWD_LEN).contains(&pwd.len());
        if !fits || !ufrag.iter().chain(pwd).all(|byte| ICE_CHARS.contains(byte)) {
            return None;
        }
        let mut credentials = LocalCredentials::default();
        credentials.ufrag[..ufrag.len()].copy_from_slice(ufrag);
        credentials.pwd[..pwd.len()].copy_from_slice(pwd);
        (credentials.ufrag_len, credentials.pwd_len) = (ufrag.len() as u8, pwd.len() as u8);
        Some(credentials)
    }

    /// Mints credentials. The caller sees to it that no two legs of a worker share a ufrag.
    pub fn mint(entropy: &mut (impl Entropy + ?Sized)) -> Self {
        let mut drawn = [0; MINTED_UFRAG_LEN + MINTED_PWD_LEN];
        entropy.fill(&mut drawn);
        let chars = drawn.map(|byte| ICE_CHARS[usize::from(byte % 64)]);
        let (ufrag, pwd) = chars.split_at(MINTED_UFRAG_LEN);
        LocalCredentials::new(ufrag, pwd).expect("minted within the limits")
    }

    /// The ufrag, in ASCII.
    #[must_use]
    pub fn ufrag(&self) -> &[u8] {
        &self.ufrag[..usize::from(self.ufrag_len).min(MAX_UFRAG_LEN)]
    }

    /// The password, in ASCII.
    #[must_use]
    pub fn pwd(&self) -> &[u8] {
        &self.pwd[..usize::from(self.pwd_len).min(MAX_PWD_LEN)]
    }

    /// False for the all-zero record.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.ufrag_len > 0 && self.pwd_len > 0
    }
}

impl fmt::Debug for LocalCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalCredentials({}, [redacted])", String::from_utf8_lossy(self.ufrag()))
    }
}

/// What a check that was answered means for its leg. In both cases the packet holds the answer, to be sent where the check
/// came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StunOutcome {
    /// The check authenticated: its address belongs to the leg, and the peer consents to be sent to.
    Accepted {
        /// USE-CANDIDATE: send to this address from now on.
        nominated: bool,
        /// PRIORITY of the peer-reflexive candidate, 0 when the check had none.
        priority: u32,
    },
    /// The check authenticated but is answered with an error and means nothing: [`DropReason::IceRoleConflict`] (487) or
    /// [`DropReason::StunUnknownAttribute`] (420).
    Refused(DropReason),
}

/// Local part of the USERNAME of a check of which nothing is believed yet, to route it to its leg.
#[must_use]
pub fn local_ufrag_of(bytes: &[u8]) -> Option<&[u8]> {
    split_username(username_of(bytes)?).map(|(local, _)| local)
}

fn split_username(username: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = username.iter().position(|byte| *byte == b':')?;
    Some((&username[..colon], &username[colon + 1..]))
}

/// Judges a check that came from `from` and puts the answer in its place.
///
/// `remote_ufrag` is what signalling said of the peer, `None` while it has said nothing: on incoming calls checks come
/// before the browser's answer.
///
/// # Errors
/// The reason to drop the packet without any answer: `StunMalformed`, `StunNotARequest`, `StunBadFingerprint`,
/// `StunUnknownUser`, `StunBadIntegrity`, `StunAnswerTooLong`. The packet is unchanged then.
pub fn respond(
    packet: &mut Packet<'_>,
    from: SocketAddr,
    local: &LocalCredentials,
    remote_ufrag: Option<&[u8]>,
) -> Result<StunOutcome, DropReason> {
    let request = Message::parse(packet.bytes())?;
    let outcome = judge(&request, local, remote_ufrag)?;
    let mut answer = [0; MAX_ANSWER_LEN];
    let len = write_answer(&request, outcome, from, local, &mut answer).ok_or(DropReason::StunAnswerTooLong)?;
    if len > packet.len() || !packet.replace(&answer[..len]) {
        return Err(DropReason::StunAnswerTooLong);
    }
    Ok(outcome)
}

fn judge(
    request: &Message<'_>,
    local: &LocalCredentials,
    remote_ufrag: Option<&[u8]>,
) -> Result<StunOutcome, DropReason> {
    if !request.is(MessageType::BindingRequest) {
        return Err(DropReason::StunNotARequest);
    }
    if request.fingerprint() == Some(false) {
        return Err(DropReason::StunBadFingerprint);
    }
    let (ours, theirs) = request.username().and_then(split_username).ok_or(DropReason::StunUnknownUser)?;
    let is_ours = local.is_set() && bool::from(ours.ct_eq(local.ufrag()));
    if !is_ours || remote_ufrag.is_some_and(|remote| !bool::from(remote.ct_eq(theirs))) {
        return Err(DropReason::StunUnknownUser);
    }
    if !request.has_integrity(local.pwd()) {
        return Err(DropReason::StunBadIntegrity);
    }
    // From here on the sender holds our password, and errors are answered.
    if !request.unknown_attributes().is_empty() {
        return Ok(StunOutcome::Refused(DropReason::StunUnknownAttribute));
    }
    // A lite agent is controlled whenever its peer is a full one, whatever the tie-breakers say (RFC 8445 section 6.1.1).
    if let Some(IceRole::Controlled(_)) = request.role() {
        return Ok(StunOutcome::Refused(DropReason::IceRoleConflict));
    }
    Ok(StunOutcome::Accepted { nominated: request.use_candidate(), priority: request.priority().unwrap_or(0) })
}

fn write_answer(
    request: &Message<'_>,
    outcome: StunOutcome,
    from: SocketAddr,
    local: &LocalCredentials,
    out: &mut [u8],
) -> Option<usize> {
    let message_type = match outcome {
        StunOutcome::Accepted { .. } => MessageType::BindingSuccess,
        StunOutcome::Refused(_) => MessageType::BindingError,
    };
    let mut writer = Writer::new(out, message_type, &request.transaction());
    match outcome {
        StunOutcome::Accepted { .. } => writer.xor_mapped_address(from),
        StunOutcome::Refused(DropReason::IceRoleConflict) => writer.error_code(ROLE_CONFLICT),
        StunOutcome::Refused(_) => {
            writer.error_code(UNKNOWN_ATTRIBUTE);
            writer.unknown_attributes(request.unknown_attributes());
        }
    }
    writer.integrity(local.pwd());
    if request.fingerprint().is_some() {
        writer.fingerprint();
    }
    writer.finish()
}

/// When the peer last consented to be sent to (RFC 7675 section 5.1), as plain old data. All zero is "never".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Consent {
    /// Microseconds on the relay's clock plus one, so that zero can mean never.
    granted: u64,
}

impl Consent {
    /// Notes an accepted check.
    pub fn grant(&mut self, now: Time) {
        self.granted = now.as_micros().saturating_add(1);
    }

    /// Lets it end at `at` already, unless it is granted again.
    pub fn end_by(&mut self, at: Time, timeout: Duration) {
        let timeout = u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX);
        let granted = at.as_micros().saturating_sub(timeout).saturating_add(1);
        self.granted = self.granted.min(granted);
    }

    /// When it was last granted.
    #[must_use]
    pub fn granted_at(&self) -> Option<Time> {
        self.granted.checked_sub(1).map(Time::from_micros)
    }

    /// When it ends unless it is granted again; `None` when it never was.
    #[must_use]
    pub fn expires_at(&self, timeout: Duration) -> Option<Time> {
        self.granted_at().map(|granted| granted + timeout)
    }

    /// True when it was granted once and that is `timeout` or longer ago.
    #[must_use]
    pub fn expired(&self, now: Time, timeout: Duration) -> bool {
        self.expires_at(timeout).is_some_and(|end| end <= now)
    }
}

#[cfg(test)]
mod tests;
