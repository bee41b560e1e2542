//! AEAD_AES_128_GCM and AEAD_AES_256_GCM (RFC 7714).
//!
//! ```text
//! SRTP   | header (authenticated)  | payload (encrypted) | tag 16 |
//! SRTCP  | first 8 (authenticated) | rest (encrypted)    | tag 16 | E, index 4 (authenticated) |
//! ```

use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
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
        let salt = kdf.derive(salt)?;
        if profile == Profile::AeadAes256Gcm {
            SessionKey::new(&AES_256_GCM, &kdf.derive::<32>(encryption)?[..], salt)
        } else {
            SessionKey::new(&AES_128_GCM, &kdf.derive::<16>(encryption)?[..], salt)
        }
    }

    fn new(algorithm: &'static Algorithm, key: &[u8], salt: Zeroizing<[u8; NONCE_LEN]>) -> Option<Self> {
        Some(SessionKey { aead: LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?), salt })
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
        let sealed = self.aead.seal_in_place_separate_tag(nonce, Aad::from(aad), clear);
        tag.copy_from_slice(sealed.expect("a packet is far below the length limit of GCM").as_ref());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::srtp::tests::hex;

    /// Session keys of RFC 7714 sections 16 and 17: bytes counted up from zero, salt "Quid pro quo".
    fn sample_keys() -> [(GcmKeys, [&'static str; 2]); 2] {
        let key: [u8; 32] = std::array::from_fn(|index| index as u8);
        let session = |algorithm: &'static Algorithm| {
            let salt = Zeroizing::new(*b"Quid pro quo");
            SessionKey::new(algorithm, &key[..algorithm.key_len()], salt).expect("a key of the right length")
        };
        let keys = |algorithm| GcmKeys { rtp: session(algorithm), rtcp: session(algorithm) };
        [
            (
                keys(&AES_128_GCM),
                [
                    "f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833\
                     899d7f27beb16a9152cf765ee4390cce",
                    "63e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1730d6fda4ce09b4686303ded0bb9275b\
                     c84aa45896cf4d2fc5abf87245d9eade",
                ],
            ),
            (
                keys(&AES_256_GCM),
                [
                    "32b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae0f1ba63799b87b\
                     7aa3db36dfffd6b0f9bb7878d7a76c13",
                    "d50ae4d1f5ce5d304ba297e47d470c282c3ece5dbffe0a50a2eaa5c1110555be8415f658c61de0476f1b6fad\
                     1d1eb30c4446839f57ff6f6cb26ac3be",
                ],
            ),
        ]
    }

    #[test]
    fn the_sample_packets_of_rfc_7714_section_16_are_sealed_and_opened() {
        let clear = [hex("8040f17b8041f8d35501a0b2"), b"Gallia est omnis divisa in partes tres".to_vec()].concat();
        for (keys, [sealed, _]) in sample_keys() {
            let mut bytes = [&clear[..], &[0; TAG_LEN]].concat();
            keys.seal_rtp(&mut bytes, 12, 0x5501_a0b2, 0xf17b);
            assert_eq!(bytes[12..], hex(sealed));
            assert!(keys.open_rtp(&mut bytes, 12, 0x5501_a0b2, 0xf17b));
            assert_eq!(bytes[..clear.len()], clear);
        }
    }

    #[test]
    fn the_sample_packets_of_rfc_7714_section_17_are_sealed_and_opened() {
        let clear = hex("81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61\
             deadbeefdeadbeefdeadbeefdeadbeefdeadbeef");
        for (keys, [_, sealed]) in sample_keys() {
            let mut bytes = [&clear[..], &[0; TAG_LEN + INDEX_LEN]].concat();
            keys.seal_rtcp(&mut bytes, 0x4d61_7273, 0x8000_05d4);
            assert_eq!(bytes[8..], [hex(sealed), hex("800005d4")].concat());
            assert_eq!(rtcp_index_word(&bytes), 0x8000_05d4);
            assert!(keys.open_rtcp(&mut bytes, 0x4d61_7273, 0x5d4));
            assert_eq!(bytes[..clear.len()], clear);
        }
    }
}
