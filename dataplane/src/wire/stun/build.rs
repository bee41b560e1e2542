//! Builders: attributes one by one for answers, a whole binding request for clients.

use std::net::{IpAddr, SocketAddr};

use super::{
    ERROR_CODE, FINGERPRINT, FINGERPRINT_ATTRIBUTE_LEN, HEADER_LEN, ICE_CONTROLLED, ICE_CONTROLLING,
    INTEGRITY_ATTRIBUTE_LEN, IceRole, MAGIC_COOKIE, MESSAGE_INTEGRITY, MessageType, PRIORITY, TRANSACTION_LEN,
    UNKNOWN_ATTRIBUTES, USE_CANDIDATE, USERNAME, XOR_MAPPED_ADDRESS, fingerprint, integrity,
};

/// Writes a message attribute by attribute into a slice. A message that does not fit is noticed at [`Writer::finish`].
pub struct Writer<'o> {
    out: &'o mut [u8],
    /// Bytes written, `None` once something did not fit.
    at: Option<usize>,
}

impl<'o> Writer<'o> {
    /// Starts a message.
    pub fn new(out: &'o mut [u8], message_type: MessageType, transaction: &[u8; TRANSACTION_LEN]) -> Self {
        let mut writer = Writer { out, at: Some(0) };
        writer.put(&(message_type as u16).to_be_bytes());
        writer.put(&[0, 0]);
        writer.put(&MAGIC_COOKIE.to_be_bytes());
        writer.put(transaction);
        writer
    }

    /// Goes on behind the first `len` bytes of `out`, which hold a message's header and attributes already: a test changes a
    /// request and signs it anew. A `len` that is no whole header, not in words or not inside `out` fits nothing.
    pub fn reopen(out: &'o mut [u8], len: usize) -> Self {
        let is_message = (HEADER_LEN..=out.len()).contains(&len) && len.is_multiple_of(4);
        Writer { out, at: is_message.then_some(len) }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.at = self.at.and_then(|at| {
            self.out.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
            Some(at + bytes.len())
        });
    }

    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        debug_assert!(value.len() <= 0xffff, "an attribute's length has 16 bits");
        self.put(&kind.to_be_bytes());
        self.put(&(value.len() as u16).to_be_bytes());
        self.put(value);
        self.put(&[0; 3][..value.len().next_multiple_of(4) - value.len()]);
    }

    /// Adds USERNAME.
    pub fn username(&mut self, username: &[u8]) {
        self.attribute(USERNAME, username);
    }

    /// Adds PRIORITY.
    pub fn priority(&mut self, priority: u32) {
        self.attribute(PRIORITY, &priority.to_be_bytes());
    }

    /// Adds USE-CANDIDATE.
    pub fn use_candidate(&mut self) {
        self.attribute(USE_CANDIDATE, &[]);
    }

    /// Adds ICE-CONTROLLING or ICE-CONTROLLED.
    pub fn role(&mut self, role: IceRole) {
        match role {
            IceRole::Controlling(tie_breaker) => self.attribute(ICE_CONTROLLING, &tie_breaker.to_be_bytes()),
            IceRole::Controlled(tie_breaker) => self.attribute(ICE_CONTROLLED, &tie_breaker.to_be_bytes()),
        }
    }

    /// Adds XOR-MAPPED-ADDRESS (RFC 8489 section 14.2). An IPv4 address mapped into IPv6 is written as IPv4.
    pub fn xor_mapped_address(&mut self, address: SocketAddr) {
        let mut mask = [0; 16];
        mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
        if self.at.is_some() {
            mask[4..].copy_from_slice(&self.out[8..HEADER_LEN]);
        }
        let mut value = [0; 20];
        value[2..4].copy_from_slice(&(address.port() ^ (MAGIC_COOKIE >> 16) as u16).to_be_bytes());
        let len = match address.ip().to_canonical() {
            IpAddr::V4(ip) => {
                value[1] = 1;
                value[4..8].copy_from_slice(&ip.octets());
                8
            }
            IpAddr::V6(ip) => {
                value[1] = 2;
                value[4..].copy_from_slice(&ip.octets());
                20
            }
        };
        for (byte, mask) in value[4..len].iter_mut().zip(mask) {
            *byte ^= mask;
        }
        self.attribute(XOR_MAPPED_ADDRESS, &value[..len]);
    }

    /// Adds ERROR-CODE, 300..=699, without a reason phrase: it is for humans, and an answer must not outgrow its request.
    pub fn error_code(&mut self, code: u16) {
        self.attribute(ERROR_CODE, &[0, 0, (code / 100) as u8, (code % 100) as u8]);
    }

    /// Adds UNKNOWN-ATTRIBUTES, of which [`MAX_UNKNOWN_ATTRIBUTES`](super::MAX_UNKNOWN_ATTRIBUTES) at most are written.
    pub fn unknown_attributes(&mut self, kinds: &[u16]) {
        let mut value = [0; 2 * super::MAX_UNKNOWN_ATTRIBUTES];
        let len = 2 * kinds.len().min(super::MAX_UNKNOWN_ATTRIBUTES);
        for (slot, kind) in value.as_chunks_mut().0.iter_mut().zip(kinds) {
            *slot = kind.to_be_bytes();
        }
        self.attribute(UNKNOWN_ATTRIBUTES, &value[..len]);
    }

    /// Adds MESSAGE-INTEGRITY over what was written so far.
    pub fn integrity(&mut self, password: &[u8]) {
        let Some(at) = self.at else { return };
        let tag = integrity(password, &self.out[..at]);
        debug_assert_eq!(tag.as_ref().len() + 4, INTEGRITY_ATTRIBUTE_LEN);
        self.attribute(MESSAGE_INTEGRITY, tag.as_ref());
    }

    /// Adds FINGERPRINT over what was written so far; it has to be the last attribute.
    pub fn fingerprint(&mut self) {
        let Some(at) = self.at else { return };
        let value = fingerprint::of(&self.out[..at]).to_be_bytes();
        debug_assert_eq!(value.len() + 4, FINGERPRINT_ATTRIBUTE_LEN);
        self.attribute(FINGERPRINT, &value);
    }

    /// Fills in the length. The message's length in bytes, `None` when it did not fit.
    #[must_use]
    pub fn finish(self) -> Option<usize> {
        let end = self.at?;
        let len = u16::try_from(end - HEADER_LEN).ok()?;
        self.out[2..4].copy_from_slice(&len.to_be_bytes());
        Some(end)
    }
}

/// A connectivity check as a full agent sends it (RFC 8445 section 7.2). The relay is a lite agent and sends none: this is
/// for the peers in tests and simulations.
#[derive(Clone, Copy, Debug)]
pub struct BindingRequest<'a> {
    /// Random per check.
    pub transaction: [u8; TRANSACTION_LEN],
    /// `receiver's ufrag:sender's ufrag`.
    pub username: &'a [u8],
    /// The receiver's password.
    pub password: &'a [u8],
    /// Of the candidate this check would make.
    pub priority: u32,
    /// The sender's role.
    pub role: IceRole,
    /// Nominates the pair.
    pub use_candidate: bool,
}

impl BindingRequest<'_> {
    /// Writes the request with MESSAGE-INTEGRITY and FINGERPRINT. Its length in bytes, `None` when `out` is too small.
    #[must_use]
    pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
        let mut writer = Writer::new(out, MessageType::BindingRequest, &self.transaction);
        writer.username(self.username);
        writer.role(self.role);
        writer.priority(self.priority);
        if self.use_candidate {
            writer.use_candidate();
        }
        writer.integrity(self.password);
        writer.fingerprint();
        writer.finish()
    }
}
