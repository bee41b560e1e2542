//! H.264 in descriptions (RFC 6184 section 8): which payload types are the same stream, and what one peer is told of the other.
//!
//! A relay that does not decode can only join payload types of one profile and one packetization mode. Levels are no part of
//! that: they bound a receiver, and each side learns the other's.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a payload type is without `profile-level-id`: Baseline, level 1 (RFC 6184 section 8.1).
const DEFAULT_PROFILE_LEVEL: [u8; 3] = [0x42, 0x00, 0x0a];
/// `constraint_set3_flag`, which with level 11 of the older profiles means level 1b.
const CONSTRAINT_SET_3: u8 = 0x10;
/// Longest `sprop-parameter-sets` passed on, in characters.
const PARAMETER_SETS_MAX: usize = 192;
/// Numbers that raise a receiver's bounds above its level; they describe the receiver, so they are passed on.
const RECEIVER_BOUNDS: [&str; 6] = ["max-mbps", "max-smbps", "max-fs", "max-cpb", "max-dpb", "max-br"];

/// A profile by its `profile_idc` and the constraint bits that tell it from others (RFC 6184 table 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Profile {
    /// What every H.264 device decodes.
    ConstrainedBaseline,
    /// With slice groups and redundant slices, which hardly an encoder makes.
    Baseline,
    /// With B slices and interlacing.
    Main,
    /// The streaming profile.
    Extended,
    /// With 8x8 transforms.
    High,
    /// High without interlacing and B slices.
    ConstrainedHigh,
    /// Any other, by `profile_idc` and all its constraint bits.
    Other(u8, u8),
}

impl Profile {
    /// The profile of the first two bytes of `profile-level-id`.
    #[must_use]
    pub fn of(profile_idc: u8, constraints: u8) -> Self {
        let set = |bit: u8| constraints & (0x80 >> bit) != 0;
        match profile_idc {
            0x42 if set(1) => Profile::ConstrainedBaseline,
            0x42 => Profile::Baseline,
            0x4d if set(0) => Profile::ConstrainedBaseline,
            0x4d => Profile::Main,
            0x58 if set(0) && set(1) => Profile::ConstrainedBaseline,
            0x58 if set(0) => Profile::Baseline,
            0x58 => Profile::Extended,
            0x64 if set(4) && set(5) => Profile::ConstrainedHigh,
            0x64 => Profile::High,
            _ => Profile::Other(profile_idc, constraints),
        }
    }

    /// Whether streams of the one are taken for streams of the other: the same profile, or the two Baselines, whose difference
    /// (slice groups) no encoder in use makes.
    #[must_use]
    pub fn serves(self, other: Profile) -> bool {
        let is_base = |profile| matches!(profile, Profile::ConstrainedBaseline | Profile::Baseline);
        self == other || (is_base(self) && is_base(other))
    }
}

/// What makes two H.264 payload types the same stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// Profile.
    pub profile: Profile,
    /// `packetization-mode`: 0 single NAL units, 1 non-interleaved. Absent is 0 (RFC 6184 section 8.1).
    pub mode: u8,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} mode {}", self.profile, self.mode)
    }
}

/// The `a=fmtp` value of an H.264 payload type, as far as a relay needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    profile_level: [u8; 3],
    mode: u8,
    is_asymmetric: bool,
    bounds: Vec<(&'static str, u32)>,
    parameter_sets: Option<String>,
}

impl Parameters {
    /// Reads a value; what cannot be read counts as absent.
    #[must_use]
    pub fn parse(fmtp: &str) -> Self {
        let mut read = Parameters {
            profile_level: DEFAULT_PROFILE_LEVEL,
            mode: 0,
            is_asymmetric: false,
            bounds: Vec::new(),
            parameter_sets: None,
        };
        for (name, value) in fmtp.split(';').filter_map(|parameter| parameter.split_once('=')) {
            let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
            match name.as_str() {
                "profile-level-id" => read.profile_level = profile_level(value).unwrap_or(read.profile_level),
                "packetization-mode" => read.mode = value.parse().unwrap_or(0),
                "level-asymmetry-allowed" => read.is_asymmetric = value == "1",
                "sprop-parameter-sets" => read.parameter_sets = Some(value.to_owned()).filter(|sets| is_base64(sets)),
                _ => {
                    let known = RECEIVER_BOUNDS.into_iter().find(|bound| *bound == name);
                    let repeated = read.bounds.iter().any(|(bound, _)| *bound == name);
                    read.bounds.extend(known.filter(|_| !repeated).zip(value.parse().ok()));
                }
            }
        }
        read
    }

    /// Profile and mode.
    #[must_use]
    pub fn format(&self) -> Format {
        Format { profile: Profile::of(self.profile_level[0], self.profile_level[1]), mode: self.mode }
    }

    /// Levels in order, with 1b between 1 and 1.1.
    fn level(&self) -> u16 {
        let [profile_idc, constraints, level_idc] = self.profile_level;
        let is_1b = matches!(profile_idc, 0x42 | 0x4d | 0x58) && level_idc == 11 && constraints & CONSTRAINT_SET_3 != 0;
        if is_1b { 105 } else { u16::from(level_idc) * 10 }
    }
}

/// An `a=fmtp` value without what only raises bounds or saves time: what is left decides what stream it is.
#[must_use]
pub fn essential(fmtp: &str) -> String {
    let names = ["level-asymmetry-allowed", "packetization-mode", "profile-level-id"];
    let is_essential = |parameter: &&str| {
        parameter.split_once('=').is_some_and(|(name, _)| names.iter().any(|n| n.eq_ignore_ascii_case(name.trim())))
    };
    fmtp.split(';').filter(is_essential).collect::<Vec<_>>().join(";")
}

/// Reads `profile-level-id`, or an entry of the setting `profiles`: six hexadecimal digits.
#[must_use]
pub fn profile_level(text: &str) -> Option<[u8; 3]> {
    if text.len() != 6 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let number = u32::from_str_radix(text, 16).ok()?;
    let [_, profile_idc, constraints, level_idc] = number.to_be_bytes();
    Some([profile_idc, constraints, level_idc])
}

fn is_base64(sets: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b',');
    !sets.is_empty() && sets.len() <= PARAMETER_SETS_MAX && sets.bytes().all(plain)
}

/// The `a=fmtp` value that tells a peer what the other side of the relay receives, for a payload type of `format`.
///
/// `own` is what the peer wrote of itself, `other` what the other side wrote. Profile bytes stay the peer's own, because an
/// answer may not change them. The level is the other side's where both allow asymmetry, else the lower of both (RFC 6184
/// section 8.2.2).
#[must_use]
pub fn told(format: Format, own: Option<&str>, other: Option<&str>) -> String {
    let (own, other) = (own.map(Parameters::parse), other.map(Parameters::parse));
    let shown = own.as_ref().or(other.as_ref());
    let [profile_idc, constraints, level_idc] = shown.map_or(DEFAULT_PROFILE_LEVEL, |shown| shown.profile_level);
    // An offer of ours has no `own`: the other side's asymmetry is then all there is.
    let is_asymmetric = shown.is_some() && [&own, &other].into_iter().flatten().all(|side| side.is_asymmetric);
    let bounding = match (&own, &other) {
        (Some(own), Some(other)) if is_asymmetric || other.level() <= own.level() => Some(other),
        (own, other) => own.as_ref().or(other.as_ref()),
    };
    let level_idc = bounding.map_or(level_idc, |side| side.profile_level[2]);
    // Whether level 11 means 1b goes with the level.
    let is_1b = bounding.is_some_and(|side| side.level() == 105);
    let constraints = match level_idc {
        11 if is_1b => constraints | CONSTRAINT_SET_3,
        11 if profile_idc != 0x64 => constraints & !CONSTRAINT_SET_3,
        _ => constraints,
    };
    let mut text = String::new();
    if is_asymmetric {
        text.push_str("level-asymmetry-allowed=1;");
    }
    text.push_str(&format!("packetization-mode={};", format.mode));
    text.push_str(&format!("profile-level-id={profile_idc:02x}{constraints:02x}{level_idc:02x}"));
    for (bound, value) in other.iter().flat_map(|other| &other.bounds) {
        text.push_str(&format!(";{bound}={value}"));
    }
    if let Some(sets) = other.as_ref().and_then(|other| other.parameter_sets.as_deref()) {
        text.push_str(&format!(";sprop-parameter-sets={sets}"));
    }
    text
}

#[cfg(test)]
mod tests;
