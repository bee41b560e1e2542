//! What happens to a payload between two legs. One enum, applied in place.

pub mod g711;

/// The change a route makes to each payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Transform {
    /// Bytes as they come.
    #[default]
    Pass = 0,
    /// PCMA to PCMU.
    AlawToUlaw = 1,
    /// PCMU to PCMA.
    UlawToAlaw = 2,
}

impl Transform {
    /// Applies the change to a payload in place; its length stays.
    pub fn apply(self, payload: &mut [u8]) {
        match self {
            Transform::Pass => {}
            Transform::AlawToUlaw => g711::alaw_to_ulaw(payload),
            Transform::UlawToAlaw => g711::ulaw_to_alaw(payload),
        }
    }
}
