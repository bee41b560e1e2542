//! H.264 in RTP (RFC 6184): which NAL units that matter for joining a stream start in a payload, and the parameter sets in it. Single
//! units, STAP-A (section 5.7.1) and FU-A (section 5.8) are read; the other packet types belong to packetization mode 2, which nobody
//! offers.
//!
//! ```text
//! single  |F|NRI| type 1-23 | ...
//! STAP-A  |F|NRI|     24    | size (16) | unit | size (16) | unit ...
//! FU-A    |F|NRI|     28    |S|E|R| type | ...   S: the unit starts here
//! slice   |F|NRI| type 1-5  |1 ...              the first bit: it is the first of its picture
//! ```

use super::be16;

/// Type of a sequence parameter set.
pub const SEQUENCE_PARAMETERS: u8 = 7;
/// Type of a picture parameter set.
pub const PICTURE_PARAMETERS: u8 = 8;

const TYPE_MASK: u8 = 0x1f;
const IMPORTANCE_MASK: u8 = 0x60;
const SINGLE_MAX: u8 = 23;
const SLICE_MAX: u8 = 5;
const IDR_SLICE: u8 = 5;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;
const FU_START_BIT: u8 = 0x80;
/// `first_mb_in_slice` is 0, coded as this one bit (ITU-T H.264 section 7.3.3).
const FIRST_SLICE_BIT: u8 = 0x80;

/// What starts in a payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Units {
    /// A sequence parameter set (type 7): the front of a picture that anybody can start with.
    pub has_parameters: bool,
    /// A picture parameter set (type 8).
    pub has_picture_parameters: bool,
    /// A slice of an IDR picture (type 5). A picture can have several.
    pub has_idr: bool,
    /// The first slice of an IDR picture.
    pub starts_idr: bool,
    /// A slice of any picture, or a part of one that started before.
    pub has_slice: bool,
}

impl Units {
    fn add(&mut self, header: u8, first: Option<u8>) {
        let kind = unit_type(header);
        self.has_parameters |= kind == SEQUENCE_PARAMETERS;
        self.has_picture_parameters |= kind == PICTURE_PARAMETERS;
        self.has_idr |= kind == IDR_SLICE;
        self.starts_idr |= kind == IDR_SLICE && first.is_some_and(|byte| byte & FIRST_SLICE_BIT != 0);
        self.has_slice |= (1..=SLICE_MAX).contains(&kind);
    }
}

/// The type in the first byte of a NAL unit.
#[must_use]
pub fn unit_type(header: u8) -> u8 {
    header & TYPE_MASK
}

/// Reads a payload. What is cut off or malformed counts as far as it can be read.
#[must_use]
pub fn units(payload: &[u8]) -> Units {
    let mut found = Units::default();
    let Some((header, rest)) = payload.split_first() else { return found };
    match unit_type(*header) {
        1..=SINGLE_MAX => found.add(*header, rest.first().copied()),
        STAP_A => aggregated(rest).for_each(|unit| found.add(unit[0], unit.get(1).copied())),
        FU_A => match rest.first() {
            Some(fragment) if fragment & FU_START_BIT != 0 => found.add(*fragment, rest.get(1).copied()),
            Some(fragment) => found.has_slice |= (1..=SLICE_MAX).contains(&unit_type(*fragment)),
            None => {}
        },
        _ => {}
    }
    found
}

/// The parameter sets that a payload holds whole, alone or in a STAP-A, in order.
pub fn parameter_sets(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    let kind = payload.first().map_or(0, |header| unit_type(*header));
    let single = (kind != STAP_A).then_some(payload);
    let aggregate: &[u8] = if kind == STAP_A { &payload[1..] } else { &[] };
    let is_set = |unit: &&[u8]| {
        unit.first().is_some_and(|header| matches!(unit_type(*header), SEQUENCE_PARAMETERS | PICTURE_PARAMETERS))
    };
    single.into_iter().chain(aggregated(aggregate)).filter(is_set)
}

/// The units of a STAP-A that have a byte at least, up to the first that does not fit.
fn aggregated(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (size, behind) = rest.split_at_checked(2)?;
        let (unit, behind) = behind.split_at_checked(be16(size, 0).into())?;
        rest = behind;
        (!unit.is_empty()).then_some(unit)
    })
}

/// Joins units to a STAP-A at the start of `out` (RFC 6184 section 5.7.1). Its length; `None` when there is no room or a unit is empty.
pub fn write_aggregate<'a>(out: &mut [u8], units: impl Iterator<Item = &'a [u8]>) -> Option<usize> {
    let mut at = 1;
    let (mut importance, mut forbidden) = (0, 0);
    for unit in units {
        let header = *unit.first()?;
        importance = importance.max(header & IMPORTANCE_MASK);
        forbidden |= header & 0x80;
        let len = u16::try_from(unit.len()).ok()?;
        out.get_mut(at..at + 2)?.copy_from_slice(&len.to_be_bytes());
        out.get_mut(at + 2..at + 2 + unit.len())?.copy_from_slice(unit);
        at += 2 + unit.len();
    }
    *out.first_mut()? = forbidden | importance | STAP_A;
    Some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PARAMETERS: Units = Units {
        has_parameters: true,
        has_picture_parameters: false,
        has_idr: false,
        starts_idr: false,
        has_slice: false,
    };
    const IDR: Units = Units { has_parameters: false, has_idr: true, starts_idr: true, has_slice: true, ..PARAMETERS };

    #[test]
    fn parameters_and_idr_slices_are_found_in_every_packet_type() {
        assert_eq!(units(&[0x67, 0x42]), PARAMETERS);
        assert_eq!(units(&[0x65, 0x88]), IDR);
        assert_eq!(
            units(&[0x78, 0, 2, 0x67, 0x42, 0, 1, 0x68, 0, 2, 0x65, 0x88]),
            Units { has_parameters: true, has_picture_parameters: true, ..IDR }
        );
        assert_eq!(units(&[0x7c, 0x85, 0x88]), IDR);
        assert_eq!(units(&[0x7c, 0x87, 0x42]), PARAMETERS);
    }

    #[test]
    fn the_first_slice_of_a_picture_is_told_from_its_others() {
        let other = Units { starts_idr: false, ..IDR };
        assert_eq!(units(&[0x65, 0x48]), other);
        assert_eq!(units(&[0x7c, 0x85, 0x48]), other);
        assert_eq!(units(&[0x65]), other, "cut off before it shows");
    }

    #[test]
    fn what_goes_on_or_is_another_unit_starts_nothing() {
        let slice = Units { has_slice: true, ..Units::default() };
        for payload in [&[0x61, 1][..], &[0x7c, 0x05, 1], &[0x7c, 0x45, 1]] {
            assert_eq!(units(payload), slice, "{payload:02x?}");
        }
        for payload in [&[][..], &[0x7c], &[0x78], &[0x60], &[0x7f, 5], &[0x66, 1]] {
            assert_eq!(units(payload), Units::default(), "{payload:02x?}");
        }
    }

    #[test]
    fn an_aggregate_is_read_up_to_what_does_not_fit() {
        assert_eq!(units(&[0x78, 0, 1, 0x67, 0, 9, 0x65]), PARAMETERS);
        assert_eq!(units(&[0x78, 0, 0, 0, 1, 0x65]), Units::default(), "an empty unit is none");
    }

    #[test]
    fn whole_parameter_sets_are_found_and_join_to_an_aggregate() {
        let (sequence, picture): (&[u8], &[u8]) = (&[0x67, 0x42, 0xe0, 0x1f], &[0x28, 0xce]);
        let mut out = [0; 64];
        let len = write_aggregate(&mut out, [sequence, &[0x06, 5], picture].into_iter()).unwrap();
        assert_eq!(out[..5], [0x78, 0, 4, 0x67, 0x42], "the importance of the most important");
        assert_eq!(parameter_sets(&out[..len]).collect::<Vec<_>>(), [sequence, picture]);
        assert_eq!(parameter_sets(sequence).collect::<Vec<_>>(), [sequence]);
        assert_eq!(parameter_sets(&[0x7c, 0x87, 1]).count(), 0, "a fragment is not whole");
        assert_eq!(write_aggregate(&mut out[..5], [sequence].into_iter()), None);
        assert_eq!(write_aggregate(&mut out, [&[][..]].into_iter()), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_read_without_a_panic(payload in prop::collection::vec(any::<u8>(), 0..64)) {
            let found = units(&payload);
            prop_assert!(found == Units::default() || !payload.is_empty());
            prop_assert!(parameter_sets(&payload).all(|set| set.len() <= payload.len()));
        }
    }
}
