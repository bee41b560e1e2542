//! HMAC-SHA1 (RFC 2104) with the key's two blocks hashed once. The general-purpose implementations hash them again, or
//! copy a context, for every packet; SHA-1 is two thirds of what this profile costs.

use sha1::block_api::compress;
use zeroize::{Zeroize, ZeroizeOnDrop};

const BLOCK_LEN: usize = 64;

/// The state before the first block (FIPS 180-4 section 5.3.1).
const INITIAL: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];

#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct HmacSha1 {
    inner: [u32; 5],
    outer: [u32; 5],
}

impl HmacSha1 {
    /// Takes a key of the length that SRTP has; it is shorter than a block, so it is not hashed first.
    pub(super) fn new(key: &[u8; 20]) -> Self {
        HmacSha1 { inner: keyed(key, 0x36), outer: keyed(key, 0x5c) }
    }

    /// The tag over `data` followed by `suffix`, which is at most 4 bytes.
    pub(super) fn sign(&self, data: &[u8], suffix: &[u8]) -> [u8; 20] {
        debug_assert!(suffix.len() <= 4, "the rollover counter is the longest suffix");
        let (blocks, rest) = data.as_chunks::<BLOCK_LEN>();
        let mut state = self.inner;
        compress(&mut state, blocks);
        let inner = finish(state, rest, suffix, BLOCK_LEN + data.len() + suffix.len());
        finish(self.outer, &inner, &[], BLOCK_LEN + inner.len())
    }
}

fn keyed(key: &[u8; 20], pad: u8) -> [u32; 5] {
    let mut block = [pad; BLOCK_LEN];
    for (byte, key) in block.iter_mut().zip(key) {
        *byte ^= key;
    }
    let mut state = INITIAL;
    compress(&mut state, &[block]);
    block.zeroize();
    state
}

/// Hashes what is left, less than a block and a suffix, with the padding of FIPS 180-4 section 5.1.1.
fn finish(mut state: [u32; 5], rest: &[u8], suffix: &[u8], total_len: usize) -> [u8; 20] {
    let mut tail = [0; 2 * BLOCK_LEN];
    let end = rest.len() + suffix.len();
    tail[..rest.len()].copy_from_slice(rest);
    tail[rest.len()..end].copy_from_slice(suffix);
    tail[end] = 0x80;
    let len = if end + 9 <= BLOCK_LEN { BLOCK_LEN } else { 2 * BLOCK_LEN };
    tail[len - 8..len].copy_from_slice(&(8 * total_len as u64).to_be_bytes());
    compress(&mut state, tail[..len].as_chunks().0);
    let mut digest = [0; 20];
    for (slot, word) in digest.as_chunks_mut().0.iter_mut().zip(state) {
        *slot = word.to_be_bytes();
    }
    digest
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::hmac;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tags_equal_those_of_a_general_implementation(
            key in any::<[u8; 20]>(),
            data in prop::collection::vec(any::<u8>(), 0..300),
            suffix_len in 0usize..=4,
        ) {
            let suffix = &[1, 2, 3, 4][..suffix_len];
            let theirs = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key);
            let theirs = hmac::sign(&theirs, &[&data[..], suffix].concat());
            prop_assert_eq!(&HmacSha1::new(&key).sign(&data, suffix)[..], theirs.as_ref());
        }
    }
}
