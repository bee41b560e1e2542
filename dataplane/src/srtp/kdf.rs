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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::srtp::tests::hex;

    #[test]
    fn session_keys_are_those_of_rfc_3711_appendix_b_3() {
        let kdf = Kdf::new(&hex("e1f97a0d3e018be0d64fa32c06de4139"), &hex("0ec675ad498afeebb6960b3aabe6"));
        let kdf = kdf.expect("an AES-128 key");
        let derived = |label| kdf.derive::<94>(label).expect("derivable").to_vec();
        assert_eq!(derived(Label::RtpEncryption)[..16], hex("c61e7a93744f39ee10734afe3ff7a087"));
        assert_eq!(derived(Label::RtpSalt)[..14], hex("30cbbc08863d8c85d49db34a9ae1"));
        assert_eq!(
            derived(Label::RtpAuthentication),
            hex("cebe321f6ff7716b6fd4ab49af256a156d38baa48f0a0acf3c34e2359e6cdbcee049646c43d9327ad175578ef7227098\
                 6371c10c9a369ac2f94a8c5fbcdddc256d6e919a48b610ef17c2041e474035766b68642c59bbfc2f34db60dbdfb2")
        );
    }

    #[test]
    fn keys_of_other_lengths_are_refused() {
        assert!(Kdf::new(&[0; 24], &[0; 14]).is_none());
        assert!(Kdf::new(&[0; 16], &[0; 15]).is_none());
    }
}
