//! STUN binding messages (RFC 8489 section 5 and 14, RFC 8445 section 16.1): a checked view, verification, and builders.
//!
//! ```text
//! |0 0|  class and method  |         length of attributes         |
//! |                      magic cookie 0x2112a442                  |
//! |                  transaction id, 96 bits                      |
//! | attribute type         | length | value, padded to a word ... |
//! ```

mod build;
mod fingerprint;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use aws_lc_rs::hmac;
use subtle::ConstantTimeEq;

pub use build::{BindingRequest, Writer};

use super::{DropReason, be16, be32};

/// Length of the STUN header in bytes.
pub const HEADER_LEN: usize = 20;

/// Length of a transaction id in bytes.
pub const TRANSACTION_LEN: usize = 12;

/// Length in bytes of the MESSAGE-INTEGRITY attribute with its header.
const INTEGRITY_ATTRIBUTE_LEN: usize = 24;

/// Length in bytes of the FINGERPRINT attribute with its header.
const FINGERPRINT_ATTRIBUTE_LEN: usize = 8;

/// Unknown attributes that are remembered to be named in a 420; a request with more is still refused.
pub const MAX_UNKNOWN_ATTRIBUTES: usize = 8;

const MAGIC_COOKIE: u32 = 0x2112_a442;

const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const PRIORITY: u16 = 0x0024;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;
const ICE_CONTROLLED: u16 = 0x8029;
const ICE_CONTROLLING: u16 = 0x802a;

/// Attributes from here on may be ignored by who does not know them (RFC 8489 section 14).
const FIRST_OPTIONAL: u16 = 0x8000;

/// Class and method of the messages that ICE uses (RFC 8489 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum MessageType {
    /// A connectivity or consent check.
    BindingRequest = 0x0001,
    /// A keep-alive that wants no answer.
    BindingIndication = 0x0011,
    /// The answer that carries the mapped address.
    BindingSuccess = 0x0101,
    /// The answer that carries an error code.
    BindingError = 0x0111,
}

/// The role a peer claims, with the tie-breaker (RFC 8445 section 7.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IceRole {
    /// ICE-CONTROLLING.
    Controlling(u64),
    /// ICE-CONTROLLED.
    Controlled(u64),
}

/// A STUN message whose attributes all lie inside it. Of an attribute that comes twice the first counts; what follows
/// MESSAGE-INTEGRITY is not believed, except FINGERPRINT.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    message_type: u16,
    username: Option<&'a [u8]>,
    priority: Option<u32>,
    use_candidate: bool,
    role: Option<IceRole>,
    mapped_address: Option<SocketAddr>,
    error_code: Option<u16>,
    unknown: [u16; MAX_UNKNOWN_ATTRIBUTES],
    unknown_count: usize,
    integrity_at: Option<usize>,
    fingerprint_at: Option<usize>,
}

impl<'a> Message<'a> {
    /// Checks the header and walks the attributes.
    ///
    /// # Errors
    /// [`DropReason::StunMalformed`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let mut attributes = Attributes::of(bytes).ok_or(DropReason::StunMalformed)?;
        let mut message = Message {
            bytes,
            message_type: be16(bytes, 0),
            username: None,
            priority: None,
            use_candidate: false,
            role: None,
            mapped_address: None,
            error_code: None,
            unknown: [0; MAX_UNKNOWN_ATTRIBUTES],
            unknown_count: 0,
            integrity_at: None,
            fingerprint_at: None,
        };
        while let Some(attribute) = attributes.next() {
            attribute.and_then(|attribute| message.take(attribute)).ok_or(DropReason::StunMalformed)?;
        }
        Ok(message)
    }

    /// Takes in one attribute; `None` when its value does not fit its type or it stands where it must not.
    fn take(&mut self, attribute: Attribute<'a>) -> Option<()> {
        let Attribute { at, kind, value } = attribute;
        // FINGERPRINT is the last attribute (RFC 8489 section 14.7).
        if self.fingerprint_at.is_some() {
            return None;
        }
        if kind == FINGERPRINT {
            self.fingerprint_at = (value.len() == 4).then_some(at);
            return self.fingerprint_at.map(drop);
        }
        if self.integrity_at.is_some() {
            return Some(());
        }
        match kind {
            USERNAME => self.username = self.username.or(Some(value)),
            PRIORITY => self.priority = self.priority.or(Some(u32::from_be_bytes(value.try_into().ok()?))),
            USE_CANDIDATE => self.use_candidate = true,
            ICE_CONTROLLING => self.claim(IceRole::Controlling(u64::from_be_bytes(value.try_into().ok()?))),
            ICE_CONTROLLED => self.claim(IceRole::Controlled(u64::from_be_bytes(value.try_into().ok()?))),
            XOR_MAPPED_ADDRESS => self.mapped_address = Some(self.unmask(value)?),
            ERROR_CODE => {
                let &[_, _, class, number, ..] = value else { return None };
                self.error_code = Some(u16::from(class & 7) * 100 + u16::from(number));
            }
            MESSAGE_INTEGRITY => self.integrity_at = (value.len() == 20).then_some(Some(at))?,
            UNKNOWN_ATTRIBUTES | MESSAGE_INTEGRITY_SHA256 => {}
            kind if kind < FIRST_OPTIONAL => {
                if let Some(slot) = self.unknown.get_mut(self.unknown_count) {
                    *slot = kind;
                    self.unknown_count += 1;
                }
            }
            _ => {}
        }
        Some(())
    }

    fn claim(&mut self, role: IceRole) {
        self.role = self.role.or(Some(role));
    }

    fn unmask(&self, value: &[u8]) -> Option<SocketAddr> {
        let mask = self.bytes.get(4..HEADER_LEN)?;
        let (family, port, address) = (*value.get(1)?, value.get(2..4)?, value.get(4..)?);
        let port = be16(port, 0) ^ (MAGIC_COOKIE >> 16) as u16;
        let ip = match family {
            1 => IpAddr::V4(Ipv4Addr::from(be32(<&[u8; 4]>::try_from(address).ok()?, 0) ^ MAGIC_COOKIE)),
            2 => {
                let mask = u128::from_be_bytes(mask.try_into().ok()?);
                IpAddr::V6(Ipv6Addr::from(u128::from_be_bytes(address.try_into().ok()?) ^ mask))
            }
            _ => return None,
        };
        Some(SocketAddr::new(ip, port))
    }

    /// True when class and method are those of `wanted`.
    #[must_use]
    pub fn is(&self, wanted: MessageType) -> bool {
        self.message_type == wanted as u16
    }

    /// The transaction id.
    #[must_use]
    pub fn transaction(&self) -> [u8; TRANSACTION_LEN] {
        let mut transaction = [0; TRANSACTION_LEN];
        transaction.copy_from_slice(&self.bytes[8..HEADER_LEN]);
        transaction
    }

    /// USERNAME: `receiver's ufrag:sender's ufrag` in a request (RFC 8445 section 7.2.2).
    #[must_use]
    pub fn username(&self) -> Option<&'a [u8]> {
        self.username
    }

    /// PRIORITY of the peer-reflexive candidate that this check would make.
    #[must_use]
    pub fn priority(&self) -> Option<u32> {
        self.priority
    }

    /// True when the controlling peer nominates this pair.
    #[must_use]
    pub fn use_candidate(&self) -> bool {
        self.use_candidate
    }

    /// The role the sender claims.
    #[must_use]
    pub fn role(&self) -> Option<IceRole> {
        self.role
    }

    /// XOR-MAPPED-ADDRESS, in clear.
    #[must_use]
    pub fn mapped_address(&self) -> Option<SocketAddr> {
        self.mapped_address
    }

    /// ERROR-CODE as a number of three digits.
    #[must_use]
    pub fn error_code(&self) -> Option<u16> {
        self.error_code
    }

    /// Unknown comprehension-required attributes, the first [`MAX_UNKNOWN_ATTRIBUTES`] of them.
    #[must_use]
    pub fn unknown_attributes(&self) -> &[u16] {
        &self.unknown[..self.unknown_count]
    }

    /// True when MESSAGE-INTEGRITY is there and made with `password` (short-term credentials, RFC 8489 section 9.1).
    /// Takes the same time for every wrong value.
    #[must_use]
    pub fn has_integrity(&self, password: &[u8]) -> bool {
        let Some(at) = self.integrity_at else { return false };
        let expected = integrity(password, &self.bytes[..at]);
        bool::from(expected.as_ref().ct_eq(&self.bytes[at + 4..at + INTEGRITY_ATTRIBUTE_LEN]))
    }

    /// `None` without FINGERPRINT, else whether it is right.
    #[must_use]
    pub fn fingerprint(&self) -> Option<bool> {
        let at = self.fingerprint_at?;
        Some(be32(self.bytes, at + 4) == fingerprint::of(&self.bytes[..at]))
    }
}

/// HMAC-SHA1 over the message before its MESSAGE-INTEGRITY, with the header's length as if the message ended behind that
/// attribute (RFC 8489 section 14.5).
fn integrity(password: &[u8], before: &[u8]) -> hmac::Tag {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password);
    let mut context = hmac::Context::with_key(&key);
    context.update(&before[..2]);
    context.update(&((before.len() - HEADER_LEN + INTEGRITY_ATTRIBUTE_LEN) as u16).to_be_bytes());
    context.update(&before[4..]);
    context.sign()
}

/// USERNAME of a message of which nothing is believed yet: enough to route it to the leg whose password will judge it.
#[must_use]
pub fn username_of(bytes: &[u8]) -> Option<&[u8]> {
    let mut attributes = Attributes::of(bytes)?;
    while let Some(Some(attribute)) = attributes.next() {
        if attribute.kind == USERNAME {
            return Some(attribute.value);
        }
    }
    None
}

struct Attribute<'a> {
    at: usize,
    kind: u16,
    value: &'a [u8],
}

struct Attributes<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Attributes<'a> {
    /// Checks the header: two zero bits, cookie, length in words that is exactly the datagram's.
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let is_stun = bytes.len() >= HEADER_LEN
            && bytes[0] >> 6 == 0
            && be32(bytes, 4) == MAGIC_COOKIE
            && bytes.len().is_multiple_of(4)
            && usize::from(be16(bytes, 2)) == bytes.len() - HEADER_LEN;
        is_stun.then_some(Attributes { bytes, at: HEADER_LEN })
    }

    /// The next attribute, `None` at the end, `Some(None)` when it ends behind the message.
    fn next(&mut self) -> Option<Option<Attribute<'a>>> {
        let at = self.at;
        if at >= self.bytes.len() {
            return None;
        }
        // Message and attributes are whole words, so four bytes of header are always there.
        let (kind, len) = (be16(self.bytes, at), usize::from(be16(self.bytes, at + 2)));
        let end = at + 4 + len;
        self.at = end.next_multiple_of(4);
        Some(self.bytes.get(at + 4..end).map(|value| Attribute { at, kind, value }))
    }
}

#[cfg(test)]
mod tests;
