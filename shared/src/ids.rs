//! Ids that cross the wall. The node number is in every one from the first day, so that a cluster can come later.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use thiserror::Error;

/// Names one relay on every node and across restarts: node, epoch of the control that minted it, counter within that epoch.
///
/// Opaque to the dataplane. On the wire and in logs it is 32 lower-case hexadecimal digits:
///
/// ```text
///  node (4) | zero (4) | epoch (8) | counter (16)
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayId(u128);

impl RelayId {
    /// Mints the id of the `counter`-th relay of a control's epoch.
    #[must_use]
    pub const fn new(node: u16, epoch: u32, counter: u64) -> Self {
        RelayId(((node as u128) << 112) | ((epoch as u128) << 64) | counter as u128)
    }

    /// The id as a number, for fixed-size records.
    #[must_use]
    pub const fn to_u128(self) -> u128 {
        self.0
    }

    /// The id with this number, as read back from a fixed-size record.
    #[must_use]
    pub const fn from_u128(value: u128) -> Self {
        RelayId(value)
    }

    /// The node that minted it.
    #[must_use]
    pub const fn node(self) -> u16 {
        (self.0 >> 112) as u16
    }

    /// The epoch of the control that minted it.
    #[must_use]
    pub const fn epoch(self) -> u32 {
        (self.0 >> 64) as u32
    }
}

impl fmt::Display for RelayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for RelayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RelayId({self})")
    }
}

/// Text that is no [`RelayId`].
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a relay id is 32 hexadecimal digits, not {0:?}")]
pub struct InvalidRelayId(String);

impl FromStr for RelayId {
    type Err = InvalidRelayId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        u128::from_str_radix(text, 16)
            .ok()
            .filter(|_| digits)
            .map(RelayId)
            .ok_or_else(|| InvalidRelayId(text.chars().take(40).collect()))
    }
}

impl Serialize for RelayId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RelayId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A leg within its relay: chosen by control, unique within one program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LegId(pub u8);

impl fmt::Display for LegId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How often a relay's program has been replaced; control counts up from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u32);

/// Position in the dataplane's event log, counted from 1 for each instance of the dataplane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventSeq(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relay_id_keeps_its_parts_and_survives_text() {
        let id = RelayId::new(7, 3, 42);
        assert_eq!((id.node(), id.epoch()), (7, 3));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string(), "0007000000000003000000000000002a");
    }

    #[test]
    fn relay_id_refuses_signs_and_wrong_lengths() {
        for bad in ["", "7", "+0000000000000000000000000000001", "0007000000000003000000000000002a0"] {
            assert!(bad.parse::<RelayId>().is_err(), "{bad:?} was taken");
        }
    }
}
