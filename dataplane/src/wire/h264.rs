//! H.264 in RTP (RFC 6184): which NAL units that matter for joining a stream start in a payload. Single units, STAP-A
//! (section 5.7.1) and FU-A (section 5.8) are read; the other packet types belong to packetization mode 2, which nobody offers.
//!
//! ```text
//! single  |F|NRI| type 1-23 | ...
//! STAP-A  |F|NRI|     24    | size (16) | unit | size (16) | unit ...
//! FU-A    |F|NRI|     28    |S|E|R| type | ...   S: the unit starts here
//! ```

use super::be16;

const TYPE_MASK: u8 = 0x1f;
const SINGLE_MAX: u8 = 23;
const IDR_SLICE: u8 = 5;
const SEQUENCE_PARAMETERS: u8 = 7;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;
const FU_START_BIT: u8 = 0x80;

/// What starts in a payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Units {
    /// A sequence parameter set (type 7): the front of a picture that anybody can start with.
    pub has_parameters: bool,
    /// A slice of an IDR picture (type 5). A picture can have several.
    pub has_idr: bool,
}

impl Units {
    fn add(&mut self, header: u8) {
        let kind = header & TYPE_MASK;
        self.has_parameters |= kind == SEQUENCE_PARAMETERS;
        self.has_idr |= kind == IDR_SLICE;
    }
}

/// Reads a payload. What is cut off or malformed counts as far as it can be read.
#[must_use]
pub fn units(payload: &[u8]) -> Units {
    let mut found = Units::default();
    let Some((header, rest)) = payload.split_first() else { return found };
    match header & TYPE_MASK {
        1..=SINGLE_MAX => found.add(*header),
        STAP_A => aggregated(rest).for_each(|unit| found.add(unit)),
        FU_A => {
            if let Some(fragment) = rest.first().filter(|fragment| *fragment & FU_START_BIT != 0) {
                found.add(*fragment);
            }
        }
        _ => {}
    }
    found
}

/// Headers of the units of a STAP-A, up to the first that does not fit.
fn aggregated(mut rest: &[u8]) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let (size, behind) = rest.split_at_checked(2)?;
        let (unit, behind) = behind.split_at_checked(be16(size, 0).into())?;
        rest = behind;
        unit.first().copied()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PARAMETERS: Units = Units { has_parameters: true, has_idr: false };
    const IDR: Units = Units { has_parameters: false, has_idr: true };

    #[test]
    fn parameters_and_idr_slices_are_found_in_every_packet_type() {
        assert_eq!(units(&[0x67, 0x42]), PARAMETERS);
        assert_eq!(units(&[0x65, 0x88]), IDR);
        assert_eq!(
            units(&[0x78, 0, 2, 0x67, 0x42, 0, 1, 0x68, 0, 2, 0x65, 0x88]),
            Units { has_parameters: true, ..IDR }
        );
        assert_eq!(units(&[0x7c, 0x85, 0x88]), IDR);
        assert_eq!(units(&[0x7c, 0x87, 0x42]), PARAMETERS);
    }

    #[test]
    fn what_goes_on_or_is_another_unit_starts_nothing() {
        for payload in [&[][..], &[0x61, 1], &[0x7c, 0x05, 1], &[0x7c, 0x45, 1], &[0x7c], &[0x78], &[0x60], &[0x7f, 5]]
        {
            assert_eq!(units(payload), Units::default(), "{payload:02x?}");
        }
    }

    #[test]
    fn an_aggregate_is_read_up_to_what_does_not_fit() {
        assert_eq!(units(&[0x78, 0, 1, 0x67, 0, 9, 0x65]), PARAMETERS);
        assert_eq!(units(&[0x78, 0, 0, 0, 1, 0x65]), Units::default(), "an empty unit is none");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_read_without_a_panic(payload in prop::collection::vec(any::<u8>(), 0..64)) {
            let found = units(&payload);
            prop_assert!(found == Units::default() || !payload.is_empty());
        }
    }
}
