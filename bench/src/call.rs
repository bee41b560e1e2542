//! What a system under test is told of a call, and what it answers: the language between the load generator and all relays.

use std::net::SocketAddrV4;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use gangway_dataplane::srtp::{MasterKey, Profile};
use gangway_shared::{
    entropy::{Entropy, SeededEntropy},
    rcp::{Fingerprint, SrtpSuite},
};
use serde::{Deserialize, Serialize};

/// What flows in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Media {
    /// G.711, 160 bytes each 20 ms.
    Audio,
    /// H.264 of about 1.5 Mbit/s in 30 frames a second.
    Video,
}

/// How one end of a call is protected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "security", rename_all = "snake_case")]
pub enum Security {
    /// Plain RTP.
    Plain,
    /// SRTP by these keys.
    Srtp {
        /// Profile.
        suite: SrtpSuite,
        /// Key and salt that the end sends with, base64.
        send: String,
        /// Key and salt that the relay shall send with where it takes keys from outside, base64.
        receive: String,
    },
    /// ICE and DTLS.
    Ice {
        /// The end's user fragment.
        ufrag: String,
        /// SHA-256 of its certificate.
        fingerprint: Fingerprint,
        /// SSRC of what it sends (RFC 5576).
        ssrc: u32,
    },
}

/// One end of a call as the relay is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndSpec {
    /// Where it listens and from where it sends.
    pub rtp: SocketAddrV4,
    /// The same for RTCP.
    pub rtcp: SocketAddrV4,
    /// Its protection.
    #[serde(flatten)]
    pub security: Security,
}

/// A call between two ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallSpec {
    /// Counts from 0.
    pub number: u32,
    /// What flows.
    pub media: Media,
    /// Both ends.
    pub ends: [EndSpec; 2],
}

/// Where an end sends to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The relay's address for RTP.
    pub rtp: SocketAddrV4,
    /// And for RTCP.
    pub rtcp: SocketAddrV4,
    /// Key and salt that the relay sends with, base64, on an SRTP end.
    #[serde(default)]
    pub key: Option<String>,
    /// What it takes to check and shake hands with the relay on an ICE end.
    #[serde(default)]
    pub ice: Option<IceAnswer>,
}

/// The relay on an ICE end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IceAnswer {
    /// Its user fragment.
    pub ufrag: String,
    /// Its password.
    pub pwd: String,
    /// Whether it begins the handshake: `a=setup:active` in its answer (RFC 5763 section 5).
    pub begins: bool,
}

/// The dataplane's name of a profile.
#[must_use]
pub fn profile(suite: SrtpSuite) -> Profile {
    match suite {
        SrtpSuite::AesCm128HmacSha1_80 => Profile::AesCm128HmacSha1_80,
        SrtpSuite::AeadAes128Gcm => Profile::AeadAes128Gcm,
        SrtpSuite::AeadAes256Gcm => Profile::AeadAes256Gcm,
    }
}

/// A master key of base64 text; `None` when its length does not fit.
#[must_use]
pub fn master_key(suite: SrtpSuite, text: &str) -> Option<MasterKey> {
    let profile = profile(suite);
    let bytes = BASE64_STANDARD.decode(text).ok()?;
    let (key, salt) = bytes.split_at_checked(profile.key_len())?;
    MasterKey::new(profile, key, salt)
}

/// Key and salt of a seeded generator, base64: repeatable, and worth nothing as a secret.
#[must_use]
pub fn seeded_key(suite: SrtpSuite, entropy: &mut SeededEntropy) -> String {
    let profile = profile(suite);
    let mut bytes = vec![0; profile.key_len() + profile.salt_len()];
    entropy.fill(&mut bytes);
    BASE64_STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeded_keys_fit_their_profile_and_differ() {
        let mut entropy = SeededEntropy::new(1);
        for suite in [SrtpSuite::AesCm128HmacSha1_80, SrtpSuite::AeadAes128Gcm, SrtpSuite::AeadAes256Gcm] {
            let (first, second) = (seeded_key(suite, &mut entropy), seeded_key(suite, &mut entropy));
            assert_ne!(first, second);
            assert!(master_key(suite, &first).is_some());
            assert!(master_key(suite, &first[4..]).is_none());
        }
    }
}
