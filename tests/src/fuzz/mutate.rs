//! Random changes to known inputs.

use gangway_shared::entropy::{Entropy, SeededEntropy};

use super::pick;

/// Numbers that sit at the edges of lengths and counters.
const EDGES: [u32; 12] = [0, 1, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x1_0000, 0x7fff_ffff, 0xffff_ffff];

/// One of `inputs` after one to eight changes, at most `max` bytes long.
pub(super) fn mutated(entropy: &mut SeededEntropy, inputs: &[Vec<u8>], words: &[&[u8]], max: usize) -> Vec<u8> {
    let mut input = pick(entropy, inputs).clone();
    for _ in 0..=entropy.below(8) {
        change(entropy, &mut input, inputs, words);
    }
    input.truncate(max);
    input
}

fn change(entropy: &mut SeededEntropy, input: &mut Vec<u8>, inputs: &[Vec<u8>], words: &[&[u8]]) {
    let at = position(entropy, input.len());
    match entropy.below(9) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << entropy.below(8);
            }
        }
        1 => {
            let byte = entropy.next_u64().to_le_bytes()[0];
            input.insert(at, byte);
        }
        2 => input.truncate(at),
        3 => {
            let end = at + position(entropy, (input.len() - at).min(64));
            input.drain(at..end);
        }
        4 => {
            let end = at + position(entropy, (input.len() - at).min(256));
            let again = input[at..end].to_vec();
            input.splice(at..at, again);
        }
        5 => {
            let other = pick(entropy, inputs);
            let from = position(entropy, other.len());
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        6 => {
            let edge = pick(entropy, &EDGES).to_be_bytes();
            let width = 1 << entropy.below(3);
            for (byte, value) in input.iter_mut().skip(at).zip(&edge[4 - width..]) {
                *byte = *value;
            }
        }
        7 if !words.is_empty() => {
            let word = pick(entropy, words);
            input.splice(at..at, word.iter().copied());
        }
        _ => {
            if let Some(byte) = input.get_mut(at) {
                *byte = entropy.next_u64().to_le_bytes()[0];
            }
        }
    }
}

/// A position from 0 to and with `len`.
fn position(entropy: &mut SeededEntropy, len: usize) -> usize {
    entropy.below(u32::try_from(len).expect("inputs are small") + 1) as usize
}
