//! Entropy of the operating system, for credentials and names.

#![allow(clippy::disallowed_methods, reason = "the manager is the adapter that draws entropy")]

use gangway_shared::entropy::Entropy;

/// The kernel's random source.
#[derive(Clone, Copy, Debug)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&mut self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the kernel has entropy once it has booted");
    }
}
