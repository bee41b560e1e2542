//! The browser's half of an ICE-DTLS leg: checks, a handshake, and the keys that come of it. Afterwards only consent checks.

use std::{net::SocketAddrV4, sync::Arc, time::Instant};

use dimpl::{Config, Dtls, DtlsCertificate, Output, SrtpProfile};
use gangway_dataplane::{
    srtp::{MasterKey, Profile},
    wire::stun::{BindingRequest, IceRole, Message},
};
use gangway_shared::rcp::Fingerprint;

use crate::sys::BUFFER_LEN_BYTES;

/// Our ufrag; the relay never sends checks, so there is no password.
pub const UFRAG: &str = "load";

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
    connected: bool,
    keys: Option<Keys>,
    /// Checks that were answered.
    pub answered: u64,
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
    /// A browser that was answered with these credentials and address.
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
            connected: false,
            keys: None,
            answered: 0,
        }
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
            priority: 1,
            role: IceRole::Controlling(7),
            use_candidate: true,
        };
        request.encode(out).expect("a check fits")
    }

    /// Takes an answer to a check; false when it is none of ours.
    pub fn on_stun(&mut self, bytes: &[u8]) -> bool {
        let genuine = Message::parse(bytes)
            .is_ok_and(|message| message.has_integrity(self.password.as_bytes()) && message.mapped_address().is_some());
        self.answered += u64::from(genuine);
        genuine
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
                    self.keys = Some(keys(&block, profile).ok_or("another SRTP profile than was offered")?);
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

/// Cuts the exported block (RFC 5764 section 4.2) into what the client writes and reads with.
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
