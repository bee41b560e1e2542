//! Entropy as the pure modules see it: bytes that somebody else drew.

/// A source of random bytes. Programs implement it over the operating system; simulations over [`SeededEntropy`].
pub trait Entropy {
    /// Fills `bytes` whole.
    fn fill(&mut self, bytes: &mut [u8]);

    /// Eight random bytes as a number.
    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A number in `0..bound`; the bias of the modulo is below 2^-32 for bounds of 32 bits, which no caller can notice.
    ///
    /// # Panics
    /// When `bound` is zero.
    fn below(&mut self, bound: u32) -> u32 {
        assert!(bound > 0, "an empty range has no random member");
        u32::try_from(self.next_u64() % u64::from(bound)).expect("a remainder is below its 32-bit divisor")
    }

    /// `len_bytes` random bytes in lower-case hexadecimal: for tags, branches, call ids and tokens.
    fn hex(&mut self, len_bytes: usize) -> String {
        let mut bytes = vec![0; len_bytes];
        self.fill(&mut bytes);
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl<E: Entropy + ?Sized> Entropy for Box<E> {
    fn fill(&mut self, bytes: &mut [u8]) {
        (**self).fill(bytes);
    }
}

impl<E: Entropy + ?Sized> Entropy for &mut E {
    fn fill(&mut self, bytes: &mut [u8]) {
        (**self).fill(bytes);
    }
}

/// A replayable generator for simulations and tests (SplitMix64). Its output is predictable: never use it for a secret.
#[derive(Clone, Debug)]
pub struct SeededEntropy(u64);

impl SeededEntropy {
    /// The same seed gives the same bytes for ever.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        SeededEntropy(seed)
    }
}

impl Entropy for SeededEntropy {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }

    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_give_equal_bytes_and_others_differ() {
        assert_eq!(SeededEntropy::new(7).hex(16), SeededEntropy::new(7).hex(16));
        assert_ne!(SeededEntropy::new(7).hex(16), SeededEntropy::new(8).hex(16));
    }

    #[test]
    fn below_stays_below() {
        let mut entropy = SeededEntropy::new(1);
        assert!((0..1000).all(|_| entropy.below(3) < 3));
    }
}
