//! AES_CM_128_HMAC_SHA1_80 (RFC 3711 sections 4.1.1 and 4.2.1).
//!
//! ```text
//! SRTP   | header  | payload (encrypted) |             tag 10 |   the tag covers all before it and the rollover counter
//! SRTCP  | first 8 | rest (encrypted)    | E, index 4 | tag 10 |   the tag covers all before it
//! ```

use aws_lc_rs::{
    cipher::{EncryptingKey, EncryptionContext},
    iv::FixedLength,
};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{
    INDEX_LEN,
    hmac_sha1::HmacSha1,
    kdf::{Kdf, Label, counter_mode},
};
use crate::wire::{be32, rtcp::HEADER_LEN};

pub(super) const TAG_LEN: usize = 10;

struct SessionKey {
    cipher: EncryptingKey,
    hmac: HmacSha1,
    salt: Zeroizing<[u8; 14]>,
}

impl SessionKey {
    fn derive(kdf: &Kdf, encryption: Label, authentication: Label, salt: Label) -> Option<Self> {
        SessionKey::new(&*kdf.derive(encryption)?, &*kdf.derive(authentication)?, kdf.derive(salt)?)
    }

    fn new(encryption: &[u8; 16], authentication: &[u8; 20], salt: Zeroizing<[u8; 14]>) -> Option<Self> {
        Some(SessionKey { cipher: counter_mode(encryption)?, hmac: HmacSha1::new(authentication), salt })
    }

    /// Encrypts or decrypts: salt << 16, SSRC << 64 and index << 16 added up are the first counter block.
    fn apply_keystream(&self, ssrc: u32, index: u64, bytes: &mut [u8]) {
        let mut block = [0; 16];
        block[4..8].copy_from_slice(&ssrc.to_be_bytes());
        block[8..14].copy_from_slice(&index.to_be_bytes()[2..]);
        for (byte, salt) in block.iter_mut().zip(self.salt.iter()) {
            *byte ^= salt;
        }
        self.cipher
            .less_safe_encrypt(bytes, EncryptionContext::Iv128(FixedLength::from(block)))
            .expect("counter mode takes any length");
    }

    fn tag(&self, covered: &[u8], suffix: &[u8]) -> [u8; TAG_LEN] {
        let full = self.hmac.sign(covered, suffix);
        let mut tag = [0; TAG_LEN];
        tag.copy_from_slice(&full[..TAG_LEN]);
        tag
    }
}

pub(super) struct CmKeys {
    rtp: SessionKey,
    rtcp: SessionKey,
}

impl CmKeys {
    pub(super) fn derive(kdf: &Kdf) -> Option<Self> {
        Some(CmKeys {
            rtp: SessionKey::derive(kdf, Label::RtpEncryption, Label::RtpAuthentication, Label::RtpSalt)?,
            rtcp: SessionKey::derive(kdf, Label::RtcpEncryption, Label::RtcpAuthentication, Label::RtcpSalt)?,
        })
    }

    /// `bytes` ends with room for the tag.
    pub(super) fn seal_rtp(&self, bytes: &mut [u8], header_len: usize, ssrc: u32, index: u64) {
        let (covered, tag) = bytes.split_at_mut(bytes.len() - TAG_LEN);
        self.rtp.apply_keystream(ssrc, index, &mut covered[header_len..]);
        tag.copy_from_slice(&self.rtp.tag(covered, &rollover(index)));
    }

    /// False, and nothing changed, when the tag is wrong.
    pub(super) fn open_rtp(&self, bytes: &mut [u8], header_len: usize, ssrc: u32, index: u64) -> bool {
        let (covered, tag) = bytes.split_at_mut(bytes.len() - TAG_LEN);
        if !bool::from(self.rtp.tag(covered, &rollover(index)).ct_eq(tag)) {
            return false;
        }
        self.rtp.apply_keystream(ssrc, index, &mut covered[header_len..]);
        true
    }

    /// `bytes` ends with room for index and tag; `word` is index and E bit.
    pub(super) fn seal_rtcp(&self, bytes: &mut [u8], ssrc: u32, word: u32) {
        let (covered, tag) = bytes.split_at_mut(bytes.len() - TAG_LEN);
        let (compound, index) = covered.split_at_mut(covered.len() - INDEX_LEN);
        index.copy_from_slice(&word.to_be_bytes());
        self.rtcp.apply_keystream(ssrc, u64::from(word & !super::ENCRYPTED_BIT), &mut compound[HEADER_LEN..]);
        tag.copy_from_slice(&self.rtcp.tag(covered, &[]));
    }

    /// False, and nothing changed, when the tag is wrong.
    pub(super) fn open_rtcp(&self, bytes: &mut [u8], ssrc: u32, index: u32) -> bool {
        let (covered, tag) = bytes.split_at_mut(bytes.len() - TAG_LEN);
        if !bool::from(self.rtcp.tag(covered, &[]).ct_eq(tag)) {
            return false;
        }
        let end = covered.len() - INDEX_LEN;
        self.rtcp.apply_keystream(ssrc, u64::from(index), &mut covered[HEADER_LEN..end]);
        true
    }
}

fn rollover(index: u64) -> [u8; 4] {
    ((index >> 16) as u32).to_be_bytes()
}

/// E bit and index of a packet that is long enough to have them.
pub(super) fn rtcp_index_word(bytes: &[u8]) -> u32 {
    be32(bytes, bytes.len() - TAG_LEN - INDEX_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::srtp::tests::hex;

    #[test]
    fn the_keystream_is_that_of_rfc_3711_appendix_b_2() {
        let key = hex("2b7e151628aed2a6abf7158809cf4f3c").try_into().expect("16 bytes");
        let salt = hex("f0f1f2f3f4f5f6f7f8f9fafbfcfd").try_into().expect("14 bytes");
        let session = SessionKey::new(&key, &[0; 20], Zeroizing::new(salt)).expect("a key");
        let mut stream = vec![0; 0xff02 * 16];
        session.apply_keystream(0, 0, &mut stream);
        assert_eq!(
            stream[..48],
            hex("e03ead0935c95e80e166b16dd92b4eb4d23513162b02d0f72a43a2fe4a5f97ab41e95b3bb0a2e8dd477901e4fca894c0")
        );
        assert_eq!(
            stream[0xfeff * 16..],
            hex("ec8cdf7398607cb0f2d21675ea9ea1e4362b7c3c6773516318a077d7fc5073ae6a2cc3787889374fbeb4c81b17ba6c44")
        );
    }
}
