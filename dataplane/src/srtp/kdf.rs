//! Session keys from a master key: AES in counter mode as a random function (RFC 3711 section 4.3, RFC 7714 section 11).

use aws_lc_rs::{
    cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey},
    iv::FixedLength,
};
use zeroize::Zeroizing;

/// What a derived key is for (RFC 3711 section 4.3.2).
#[derive(Clone, Copy)]
pub(super) enum Label {
    RtpEncryption = 0,
    RtpAuthentication = 1,
    RtpSalt = 2,
    RtcpEncryption = 3,
    RtcpAuthentication = 4,
    RtcpSalt = 5,
}

/// The random function of one master key. The key derivation rate is zero, as DTLS-SRTP has it.
pub(super) struct Kdf {
    cipher: EncryptingKey,
    /// The master salt as a counter block: 14 bytes (a salt of 12 is filled with zeros) and the block count.
    salt_block: Zeroizing<[u8; 16]>,
}

impl Kdf {
    /// `None` when the key is not one of AES-128 or AES-256, or the salt is longer than 14 bytes.
    pub(super) fn new(key: &[u8], salt: &[u8]) -> Option<Self> {
        let mut salt_block = Zeroizing::new([0; 16]);
        salt_block[..14].get_mut(..salt.len())?.copy_from_slice(salt);
        Some(Kdf { cipher: counter_mode(key)?, salt_block })
    }

    pub(super) fn derive<const N: usize>(&self, label: Label) -> Option<Zeroizing<[u8; N]>> {
        let mut block = *self.salt_block;
        block[7] ^= label as u8;
        let mut derived = Zeroizing::new([0; N]);
        let context = EncryptionContext::Iv128(FixedLength::from(block));
        self.cipher.less_safe_encrypt(&mut derived[..], context).ok()?;
        Some(derived)
    }
}

/// AES in counter mode with a key of 16 or 32 bytes.
pub(super) fn counter_mode(key: &[u8]) -> Option<EncryptingKey> {
    let algorithm = match key.len() {
        16 => &AES_128,
        32 => &AES_256,
        _ => return None,
    };
    EncryptingKey::ctr(UnboundCipherKey::new(algorithm, key).ok()?).ok()
}
