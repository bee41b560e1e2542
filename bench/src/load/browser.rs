//! The browser's half of an ICE-DTLS leg: checks, answers to those of a relay that is a full agent, a handshake, and the keys that come
//! of it. Afterwards only consent checks.

use std::{net::SocketAddrV4, sync::Arc, time::Instant};

use dimpl::{Config, Dtls, DtlsCertificate, Output, SrtpProfile};
use gangway_dataplane::{
    srtp::{MasterKey, Profile},
    wire::stun::{BindingRequest, IceRole, Message, MessageType, Writer},
};
use gangway_shared::rcp::Fingerprint;

use crate::sys::BUFFER_LEN_BYTES;

/// What a browser is checked with. All have the same: each has a socket of its own.
pub const UFRAG: &str = "load";
/// The password to it.
pub const PASSWORD: &str = "passwordpasswordpassword";

/// What its checks claim of the candidate that they would make: host candidates of a browser's first network have it.
const PRIORITY: u32 = 1_853_824_767;

/// Room for the answer to a check: header, XOR-MAPPED-ADDRESS, MESSAGE-INTEGRITY and FINGERPRINT.
pub const ANSWER_MAX: usize = 64;

/// What a STUN message was to a browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// An answer to one of its checks.
    Answer,
    /// A check; its answer has so many bytes.
    Check(usize),
    /// A sign of life that wants no answer (RFC 8445 section 11).
    KeepAlive,
    /// Nothing that a peer of its own sends.
    Strange,
}

/// Keys of a finished handshake: what the browser sends and receives with.
pub type Keys = (MasterKey, MasterKey);

/// See the module text.
pub struct Browser {
    username: String,
    password: String,
    /// Where the relay is.
    pub to: SocketAddrV4,
    transaction: u32,
    dtls: Option<Dtls>,
    /// Whether it began the handshake: whose keys are whose depends on that.
    begins: bool,
    connected: bool,
    keys: Option<Keys>,
    /// Checks of its own that were answered.
    pub answered: u64,
    /// Checks of the relay that it answered.
    pub checked: u64,
}

/// A certificate that all browsers of a run share, and its fingerprint.
///
/// # Panics
/// When none can be made.
#[must_use]
pub fn certificate() -> (DtlsCertificate, Fingerprint) {
    let certificate = dimpl::certificate::generate_self_signed_certificate().expect("a certificate");
    let fingerprint = Fingerprint(certificate.fingerprint().try_into().expect("SHA-256 has 32 bytes"));
    (certificate, fingerprint)
}

impl Browser {
    /// A browser that was answered with these credentials and address, and begins the handshake.
    ///
    /// # Panics
    /// When the crate refuses its own defaults.
    #[must_use]
    pub fn new(certificate: DtlsCertificate, ufrag: &str, password: &str, to: SocketAddrV4) -> Self {
        let config = Config::builder().build().expect("the crate's defaults");
        let mut dtls = Dtls::new_12(Arc::new(config), certificate, Instant::now());
        dtls.set_active(true);
        Browser {
            username: format!("{ufrag}:{UFRAG}"),
            password: password.to_owned(),
            to,
            transaction: 0,
            dtls: Some(dtls),
            begins: true,
            connected: false,
            keys: None,
            answered: 0,
            checked: 0,
        }
    }

    /// The same, but the relay begins the handshake.
    #[must_use]
    pub fn begun_by_relay(mut self) -> Self {
        if let Some(dtls) = &mut self.dtls {
            dtls.set_active(false);
        }
        self.begins = false;
        self
    }

    /// USERNAME of its checks.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }

    /// What they are signed with: the relay's password.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Writes a check that nominates, and returns its length.
    ///
    /// # Panics
    /// When the credentials are longer than the standard allows.
    pub fn check(&mut self, out: &mut [u8]) -> usize {
        self.transaction = self.transaction.wrapping_add(1);
        let mut transaction = [0; 12];
        transaction[..4].copy_from_slice(&self.transaction.to_be_bytes());
        let request = BindingRequest {
            transaction,
            username: self.username.as_bytes(),
            password: self.password.as_bytes(),
            priority: PRIORITY,
            role: IceRole::Controlling(7),
            use_candidate: true,
        };
        request.encode(out).expect("a check fits")
    }

    /// Takes a STUN message that came from `from`; an answer to it is written to `out`.
    pub fn on_stun(&mut self, bytes: &[u8], from: SocketAddrV4, out: &mut [u8; ANSWER_MAX]) -> Heard {
        let Ok(message) = Message::parse(bytes) else { return Heard::Strange };
        if message.is(MessageType::BindingIndication) {
            return Heard::KeepAlive;
        }
        if message.is(MessageType::BindingRequest) {
            let (theirs, _) = self.username.split_once(':').unwrap_or_default();
            let wanted = format!("{UFRAG}:{theirs}");
            if message.username() != Some(wanted.as_bytes()) || !message.has_integrity(PASSWORD.as_bytes()) {
                return Heard::Strange;
            }
            let mut writer = Writer::new(out, MessageType::BindingSuccess, &message.transaction());
            writer.xor_mapped_address(from.into());
            writer.integrity(PASSWORD.as_bytes());
            writer.fingerprint();
            let len = writer.finish();
            self.checked += 1;
            return Heard::Check(len.expect("an answer with an IPv4 address fits"));
        }
        if message.has_integrity(self.password.as_bytes()) && message.mapped_address().is_some() {
            self.answered += 1;
            return Heard::Answer;
        }
        Heard::Strange
    }

    /// Takes a DTLS datagram, if there is one, lets the handshake go on, and gives what is to be sent.
    ///
    /// # Errors
    /// When the handshake failed.
    pub fn shake(&mut self, datagram: Option<&[u8]>, mut send: impl FnMut(&[u8])) -> Result<(), String> {
        let Some(dtls) = &mut self.dtls else { return Ok(()) };
        dtls.handle_timeout(Instant::now()).map_err(|error| error.to_string())?;
        if let Some(datagram) = datagram {
            dtls.handle_packet(datagram).map_err(|error| error.to_string())?;
        }
        let mut buffer = [0; BUFFER_LEN_BYTES];
        loop {
            match dtls.poll_output(&mut buffer) {
                Output::Packet(datagram) => send(datagram),
                Output::Connected => self.connected = true,
                Output::KeyingMaterial(block, profile) => {
                    let (client, server) = keys(&block, profile).ok_or("another SRTP profile than was offered")?;
                    self.keys = Some(if self.begins { (client, server) } else { (server, client) });
                }
                Output::Timeout(_) => break,
                _ => {}
            }
        }
        Ok(())
    }

    /// The keys, once the handshake is done; the session is let go then.
    pub fn take_keys(&mut self) -> Option<Keys> {
        let keys = self.keys.take_if(|_| self.connected)?;
        self.dtls = None;
        Some(keys)
    }
}

/// Cuts the exported block (RFC 5764 section 4.2) into what client and server write with.
fn keys(block: &[u8], profile: SrtpProfile) -> Option<Keys> {
    let profile = match profile {
        SrtpProfile::AEAD_AES_256_GCM => Profile::AeadAes256Gcm,
        SrtpProfile::AEAD_AES_128_GCM => Profile::AeadAes128Gcm,
        SrtpProfile::AES128_CM_SHA1_80 => Profile::AesCm128HmacSha1_80,
        _ => return None,
    };
    let (key_len, salt_len) = (profile.key_len(), profile.salt_len());
    let side = |side: usize| {
        let key = block.get(side * key_len..)?.get(..key_len)?;
        let salt = block.get(2 * key_len + side * salt_len..)?.get(..salt_len)?;
        MasterKey::new(profile, key, salt)
    };
    Some((side(0)?, side(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELAY: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 4000);

    fn browser() -> Browser {
        Browser::new(certificate().0, "relay", "relays-password-of-22-bytes", RELAY)
    }

    fn relays_check(username: &str, password: &str) -> Vec<u8> {
        let request = BindingRequest {
            transaction: [7; 12],
            username: username.as_bytes(),
            password: password.as_bytes(),
            priority: 1,
            role: IceRole::Controlled(1),
            use_candidate: false,
        };
        let mut bytes = vec![0; 256];
        let len = request.encode(&mut bytes).unwrap();
        bytes.truncate(len);
        bytes
    }

    #[test]
    fn a_check_of_the_relay_is_answered_with_where_it_came_from() {
        let (mut browser, mut out) = (browser(), [0; ANSWER_MAX]);
        let Heard::Check(len) = browser.on_stun(&relays_check("load:relay", PASSWORD), RELAY, &mut out) else {
            panic!("a check");
        };
        let answer = Message::parse(&out[..len]).unwrap();
        assert!(answer.is(MessageType::BindingSuccess) && answer.has_integrity(PASSWORD.as_bytes()));
        assert_eq!((answer.transaction(), answer.mapped_address()), ([7; 12], Some(RELAY.into())));
        assert_eq!((answer.fingerprint(), browser.checked, browser.answered), (Some(true), 1, 0));
    }

    #[test]
    fn what_the_relay_did_not_sign_is_strange() {
        let (mut browser, mut out) = (browser(), [0; ANSWER_MAX]);
        for (username, password) in [("load:other", PASSWORD), ("load:relay", "another"), ("relay:load", PASSWORD)] {
            let heard = browser.on_stun(&relays_check(username, password), RELAY, &mut out);
            assert_eq!(heard, Heard::Strange, "{username} {password}");
        }
        assert_eq!(browser.on_stun(b"nonsense", RELAY, &mut out), Heard::Strange);
        assert_eq!(browser.checked, 0);
    }

    #[test]
    fn signs_of_life_want_no_answer() {
        let mut bytes = [0; 64];
        let mut writer = Writer::new(&mut bytes, MessageType::BindingIndication, &[1; 12]);
        writer.fingerprint();
        let len = writer.finish().unwrap();
        assert_eq!(browser().on_stun(&bytes[..len], RELAY, &mut [0; ANSWER_MAX]), Heard::KeepAlive);
    }

    #[test]
    fn whoever_begins_the_handshake_both_have_the_same_keys_crosswise() {
        let (mut first, mut second) = (browser(), browser().begun_by_relay());
        let (mut to_first, mut to_second) = (Vec::<Vec<u8>>::new(), Vec::<Vec<u8>>::new());
        let mut keys = (None, None);
        for _ in 0..20 {
            for datagram in std::iter::once(None).chain(std::mem::take(&mut to_first).into_iter().map(Some)) {
                first.shake(datagram.as_deref(), |bytes| to_second.push(bytes.to_vec())).unwrap();
            }
            for datagram in std::iter::once(None).chain(std::mem::take(&mut to_second).into_iter().map(Some)) {
                second.shake(datagram.as_deref(), |bytes| to_first.push(bytes.to_vec())).unwrap();
            }
            keys = (keys.0.or_else(|| first.take_keys()), keys.1.or_else(|| second.take_keys()));
        }
        let ((send, receive), (their_send, their_receive)) = (keys.0.expect("client"), keys.1.expect("server"));
        assert!(same(&send, &their_receive) && same(&receive, &their_send) && !same(&send, &receive));
    }

    /// Whether what one seals the other opens.
    fn same(send: &MasterKey, receive: &MasterKey) -> bool {
        use gangway_dataplane::{
            srtp::{RxStream, SrtpRx, SrtpTx, TxStream},
            wire::{Packet, rtp},
        };
        let mut buffer = [0; BUFFER_LEN_BYTES];
        rtp::begin_header(&mut buffer);
        rtp::set_ssrc(&mut buffer, 5);
        let mut packet = Packet::new(&mut buffer, 0, 172);
        SrtpTx::new(send).unwrap().protect_rtp(&mut TxStream::new(5), &mut packet).unwrap();
        SrtpRx::new(receive).unwrap().unprotect_rtp(&mut RxStream::new(5), &mut packet).is_ok()
    }
}
