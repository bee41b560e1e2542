//! AEAD_AES_128_GCM and AEAD_AES_256_GCM (RFC 7714).
//!
//! ```text
//! SRTP   | header (authenticated)  | payload (encrypted) | tag 16 |
//! SRTCP  | first 8 (authenticated) | rest (encrypted)    | tag 16 | E, index 4 (authenticated) |
//! ```

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::{
    INDEX_LEN, Profile,
    kdf::{Kdf, Label},
};
use crate::wire::{be32, rtcp::HEADER_LEN};

pub(super) const TAG_LEN: usize = 16;

struct SessionKey {
    aead: LessSafeKey,
    salt: Zeroizing<[u8; NONCE_LEN]>,
}

impl SessionKey {
    fn derive(kdf: &Kdf, profile: Profile, encryption: Label, salt: Label) -> Option<Self> {
        let unbound = if profile == Profile::AeadAes256Gcm {
            UnboundKey::new(&AES_256_GCM, &kdf.derive::<32>(encryption)?[..])
        } else {
            UnboundKey::new(&AES_128_GCM, &kdf.derive::<16>(encryption)?[..])
        };
        Some(SessionKey { aead: LessSafeKey::new(unbound.ok()?), salt: kdf.derive(salt)? })
    }

    /// Two zero bytes, SSRC, index in 48 bits, all masked with the salt (RFC 7714 section 8.1; section 9.1 writes the 31
    /// bits of SRTCP behind 16 zero bits, which is the same).
    fn nonce(&self, ssrc: u32, index: u64) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[2..6].copy_from_slice(&ssrc.to_be_bytes());
        nonce[6..].copy_from_slice(&index.to_be_bytes()[2..]);
        for (byte, salt) in nonce.iter_mut().zip(self.salt.iter()) {
            *byte ^= salt;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    fn seal(&self, nonce: Nonce, aad: &[u8], clear: &mut [u8], tag: &mut [u8]) {
        self.aead
            .seal_in_place_scatter(nonce, Aad::from(aad), clear, &[], tag)
            .expect("a packet is far below the length limit of GCM");
    }
}

pub(super) struct GcmKeys {
    rtp: SessionKey,
    rtcp: SessionKey,
}

impl GcmKeys {
    pub(super) fn derive(kdf: &Kdf, profile: Profile) -> Option<Self> {
        Some(GcmKeys {
            rtp: SessionKey::derive(kdf, profile, Label::RtpEncryption, Label::RtpSalt)?,
            rtcp: SessionKey::derive(kdf, profile, Label::RtcpEncryption, Label::RtcpSalt)?,
        })
    }

    /// `bytes` ends with room for the tag.
    pub(super) fn seal_rtp(&self, bytes: &mut [u8], header_len: usize, ssrc: u32, index: u64) {
        let (header, rest) = bytes.split_at_mut(header_len);
        let (payload, tag) = rest.split_at_mut(rest.len() - TAG_LEN);
        self.rtp.seal(self.rtp.nonce(ssrc, index), header, payload, tag);
    }

    /// False when the tag is wrong; the payload is spoilt then.
    pub(super) fn open_rtp(&self, bytes: &mut [u8], header_len: usize, ssrc: u32, index: u64) -> bool {
        let (header, rest) = bytes.split_at_mut(header_len);
        self.rtp.aead.open_in_place(self.rtp.nonce(ssrc, index), Aad::from(&*header), rest).is_ok()
    }

    /// `bytes` ends with room for tag and index; `word` is index and E bit.
    pub(super) fn seal_rtcp(&self, bytes: &mut [u8], ssrc: u32, word: u32) {
        let (compound, index) = bytes.split_at_mut(bytes.len() - INDEX_LEN);
        index.copy_from_slice(&word.to_be_bytes());
        let (header, rest) = compound.split_at_mut(HEADER_LEN);
        let (body, tag) = rest.split_at_mut(rest.len() - TAG_LEN);
        let nonce = self.rtcp.nonce(ssrc, u64::from(word & !super::ENCRYPTED_BIT));
        self.rtcp.seal(nonce, &rtcp_aad(header, index), body, tag);
    }

    /// False when the tag is wrong; the content is spoilt then.
    pub(super) fn open_rtcp(&self, bytes: &mut [u8], ssrc: u32, index: u32) -> bool {
        let (compound, word) = bytes.split_at_mut(bytes.len() - INDEX_LEN);
        let (header, rest) = compound.split_at_mut(HEADER_LEN);
        let aad = rtcp_aad(header, word);
        self.rtcp.aead.open_in_place(self.rtcp.nonce(ssrc, u64::from(index)), Aad::from(aad), rest).is_ok()
    }
}

/// What is authenticated but not encrypted in SRTCP: the first eight bytes, the E bit and the index (RFC 7714 section 9.2).
fn rtcp_aad(header: &[u8], word: &[u8]) -> [u8; HEADER_LEN + INDEX_LEN] {
    let mut aad = [0; HEADER_LEN + INDEX_LEN];
    aad[..HEADER_LEN].copy_from_slice(header);
    aad[HEADER_LEN..].copy_from_slice(word);
    aad
}

/// E bit and index of a packet that is long enough to have them.
pub(super) fn rtcp_index_word(bytes: &[u8]) -> u32 {
    be32(bytes, bytes.len() - INDEX_LEN)
}
