//! H.264 parameter sets of a route: kept as they pass or as signalling told them, and repeated before an IDR picture that comes without
//! (RFC 6184 section 8.4: a receiver that lost them, or joined late, decodes nothing before they come).

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use gangway_shared::time::Time;

use crate::{
    arena::{PARAMETER_SETS_MAX, ParameterSets},
    wire::h264::{self, PICTURE_PARAMETERS, SEQUENCE_PARAMETERS, Units},
};

/// Sets that are joined to one packet have this many bytes at most: it stays below every path's MTU.
const AGGREGATE_MAX_BYTES: usize = 1100;
/// Sets are repeated once in so long at most, and once for a picture: a flood of pictures' starts must not become a larger one.
const REPEAT_GAP: Duration = Duration::from_millis(100);
/// Bits of [`ParameterSets::passed`].
const SEQUENCE_PASSED: u8 = 1;
const PICTURE_PASSED: u8 = 2;

/// What is to be repeated before a picture: bit n stands for set n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Repeat {
    sets: u8,
    /// All in one STAP-A.
    is_joined: bool,
    /// A sequence parameter set is among them.
    pub(super) has_sequence: bool,
}

impl Repeat {
    /// How many packets they are.
    pub(super) fn packets(self) -> u16 {
        match (self.sets.count_ones() as u16, self.is_joined) {
            (0, _) => 0,
            (_, true) => 1,
            (count, false) => count,
        }
    }
}

/// Type and id of a set: what a later one of the same replaces (ITU-T H.264 sections 7.3.2.1.1 and 7.3.2.2). `None` when it is cut off
/// before its id.
fn identity(set: &[u8]) -> Option<(u8, u32)> {
    let kind = h264::unit_type(*set.first()?);
    // Profile, constraints and level stand before the id of a sequence parameter set.
    let bits = set.get(if kind == SEQUENCE_PARAMETERS { 4 } else { 1 }..)?;
    Some((kind, exp_golomb(bits)?))
}

/// The unsigned Exp-Golomb number at the start of `bytes` (ITU-T H.264 section 9.1), up to 255: the highest id there is.
fn exp_golomb(bytes: &[u8]) -> Option<u32> {
    let word = bytes.iter().chain(&[0; 4]).take(4).fold(0, |word: u32, byte| word << 8 | u32::from(*byte));
    let zeros = word.leading_zeros();
    if zeros > 8 || (2 * zeros + 1) as usize > 8 * bytes.len() {
        return None;
    }
    let value = (word << zeros) >> (31 - zeros);
    Some(value - 1).filter(|id| *id <= 255)
}

impl ParameterSets {
    /// The sets in order. Reads no further than the memory holds, whatever a crash left in it.
    fn sets(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.bytes[..];
        let lengths = self.lengths.iter().take_while(|len| **len != 0);
        lengths.map_while(move |len| {
            let (set, behind) = rest.split_at_checked((*len).into())?;
            rest = behind;
            Some(set)
        })
    }

    /// Keeps a set; one of the same type and id gives way. What is too long, or has no id, is not kept.
    fn keep(&mut self, set: &[u8], is_told: bool) {
        let Some(id) = identity(set).filter(|_| set.len() <= self.bytes.len() / 2) else { return };
        let known = self.sets().position(|known| identity(known) == Some(id));
        if let Some(at) = known {
            if self.sets().nth(at) == Some(set) {
                return;
            }
            self.remove(at);
        }
        if !self.has_room(set.len()) {
            // Ids that come and go: only the newest can be needed.
            self.forget_seen();
        }
        if !self.has_room(set.len()) {
            return;
        }
        let (count, used) = (self.sets().count(), self.sets().map(<[u8]>::len).sum::<usize>());
        self.bytes[used..used + set.len()].copy_from_slice(set);
        self.told = self.told & !(1 << count) | u8::from(is_told) << count;
        self.lengths[count] = set.len() as u16;
    }

    fn has_room(&self, len: usize) -> bool {
        let (count, used) = (self.sets().count(), self.sets().map(<[u8]>::len).sum::<usize>());
        count < PARAMETER_SETS_MAX && used + len <= self.bytes.len()
    }

    fn remove(&mut self, at: usize) {
        let start = self.sets().take(at).map(<[u8]>::len).sum::<usize>();
        let Some(len) = self.sets().nth(at).map(<[u8]>::len) else { return };
        self.bytes.copy_within(start + len.., start);
        self.lengths.copy_within(at + 1.., at);
        self.lengths[PARAMETER_SETS_MAX - 1] = 0;
        let below = self.told & ((1 << at) - 1);
        self.told = below | (self.told >> 1) & !((1 << at) - 1);
    }

    fn forget(&mut self, is_gone: impl Fn(bool) -> bool) {
        for at in (0..self.sets().count()).rev() {
            if is_gone(self.told >> at & 1 == 1) {
                self.remove(at);
            }
        }
    }

    /// Another source speaks: what the one before it sent means nothing. What signalling told stays.
    pub(super) fn forget_seen(&mut self) {
        self.forget(|is_told| !is_told);
        self.passed = 0;
    }

    /// Takes what signalling says of the source: the `sprop-parameter-sets` of its fmtp (RFC 6184 section 8.1).
    pub(super) fn tell(&mut self, fmtp: Option<&str>) {
        self.forget(|is_told| is_told);
        let parameters = fmtp.unwrap_or_default().split(';').filter_map(|parameter| parameter.split_once('='));
        let sets = parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case("sprop-parameter-sets"));
        for text in sets.flat_map(|(_, sets)| sets.trim().split(',')) {
            let Ok(set) = BASE64_STANDARD.decode(text) else { continue };
            let is_known = self.sets().any(|known| identity(known) == identity(&set));
            // What came in the stream is newer than what was told.
            if !is_known && h264::parameter_sets(&set).next().is_some() {
                self.keep(&set, true);
            }
        }
    }

    /// Keeps the sets of a payload.
    pub(super) fn note(&mut self, payload: &[u8]) {
        h264::parameter_sets(payload).for_each(|set| self.keep(set, false));
    }

    /// Whether sets may go before a picture of the source with this timestamp.
    pub(super) fn may_repeat(&self, now: Time, timestamp: u32) -> bool {
        let last = self.repeated_at.checked_sub(1).map(Time::from_micros);
        last.is_none_or(|at| timestamp != self.repeated_for && now.since(at) >= REPEAT_GAP)
    }

    /// Sets went before a picture with this timestamp.
    pub(super) fn note_repeated(&mut self, now: Time, timestamp: u32) {
        (self.repeated_at, self.repeated_for) = (now.as_micros() + 1, timestamp);
    }

    /// What has to go before a payload of these units.
    pub(super) fn lacking(&self, units: Units, may_join: bool) -> Repeat {
        if !units.starts_idr {
            return Repeat::default();
        }
        let passed = self.passed | passed_with(units);
        let mut repeat = Repeat::default();
        let (mut len, mut count) = (1, 0);
        for (at, set) in self.sets().enumerate() {
            let kind = h264::unit_type(set[0]);
            let bit = if kind == SEQUENCE_PARAMETERS { SEQUENCE_PASSED } else { PICTURE_PASSED };
            if passed & bit == 0 {
                repeat.sets |= 1 << at;
                repeat.has_sequence |= kind == SEQUENCE_PARAMETERS;
                (len, count) = (len + 2 + set.len(), count + 1);
            }
        }
        repeat.is_joined = may_join && count > 1 && len <= AGGREGATE_MAX_BYTES;
        repeat
    }

    /// The newest payload passes.
    pub(super) fn pass(&mut self, units: Units) {
        self.passed = if units.has_slice { 0 } else { self.passed | passed_with(units) };
    }

    /// Writes packet `number` of a repetition: sequence parameter sets first. Its length.
    pub(super) fn write(&self, repeat: Repeat, number: u16, out: &mut [u8]) -> Option<usize> {
        let of = |kind: u8| {
            let wanted = self.sets().enumerate().filter(move |(at, _)| repeat.sets >> at & 1 == 1);
            wanted.map(|(_, set)| set).filter(move |set| h264::unit_type(set[0]) == kind)
        };
        let mut sets = of(SEQUENCE_PARAMETERS).chain(of(PICTURE_PARAMETERS));
        if repeat.is_joined {
            return h264::write_aggregate(out, sets);
        }
        let set = sets.nth(number.into())?;
        out.get_mut(..set.len())?.copy_from_slice(set);
        Some(set.len())
    }
}

fn passed_with(units: Units) -> u8 {
    let sequence = if units.has_parameters { SEQUENCE_PASSED } else { 0 };
    sequence | if units.has_picture_parameters { PICTURE_PASSED } else { 0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sets with ids 0 and 1.
    const SEQUENCE: &[u8] = &[0x67, 0x42, 0xe0, 0x1f, 0xda, 1];
    const SEQUENCE_1: &[u8] = &[0x67, 0x42, 0xe0, 0x1f, 0x5a, 2];
    const PICTURE: &[u8] = &[0x68, 0xce, 0x3c];
    const IDR: Units = Units {
        has_parameters: false,
        has_picture_parameters: false,
        has_idr: true,
        starts_idr: true,
        has_slice: true,
    };

    fn written(sets: &ParameterSets, repeat: Repeat) -> Vec<Vec<u8>> {
        let packet = |number| {
            let mut out = [0; 1200];
            let len = sets.write(repeat, number, &mut out).unwrap();
            out[..len].to_vec()
        };
        (0..repeat.packets()).map(packet).collect()
    }

    #[test]
    fn ids_are_read_as_exp_golomb_numbers() {
        for (bytes, id) in [(&[0x80][..], Some(0)), (&[0x5f], Some(1)), (&[0x7f], Some(2)), (&[0x20], Some(3))] {
            assert_eq!(exp_golomb(bytes), id, "{bytes:02x?}");
        }
        assert_eq!(exp_golomb(&[0x00, 0x80, 0x00]), Some(255));
        for bytes in [&[][..], &[0], &[0x01], &[0, 0, 0, 0], &[0, 0x40, 0, 0]] {
            assert_eq!(exp_golomb(bytes), None, "{bytes:02x?}");
        }
    }

    #[test]
    fn an_idr_without_sets_gets_those_that_were_seen_alone_or_joined() {
        let mut sets = ParameterSets::default();
        sets.note(PICTURE);
        sets.note(SEQUENCE);
        assert_eq!(written(&sets, sets.lacking(IDR, false)), [SEQUENCE, PICTURE], "sequence parameters come first");
        let joined = written(&sets, sets.lacking(IDR, true));
        assert_eq!(joined.len(), 1);
        assert_eq!(h264::parameter_sets(&joined[0]).collect::<Vec<_>>(), [SEQUENCE, PICTURE]);
        assert_eq!(sets.lacking(Units { starts_idr: false, ..IDR }, true).packets(), 0, "a later slice");
    }

    #[test]
    fn what_passed_since_the_last_slice_is_not_repeated() {
        let mut sets = ParameterSets::default();
        [SEQUENCE, PICTURE].into_iter().for_each(|set| sets.note(set));
        sets.pass(h264::units(SEQUENCE));
        assert_eq!(written(&sets, sets.lacking(IDR, true)), [PICTURE], "only the half that is missing");
        sets.pass(h264::units(PICTURE));
        assert_eq!(sets.lacking(IDR, true).packets(), 0);
        sets.pass(IDR);
        assert_eq!(sets.lacking(IDR, false).packets(), 2, "the next picture");
        let with_both = Units { has_parameters: true, has_picture_parameters: true, ..IDR };
        assert_eq!(sets.lacking(with_both, false).packets(), 0, "in the same packet");
    }

    #[test]
    fn a_set_replaces_that_of_its_id_alone() {
        let mut sets = ParameterSets::default();
        for set in [SEQUENCE, SEQUENCE_1, PICTURE] {
            sets.note(set);
        }
        let newer = [&SEQUENCE[..5], &[9, 9]].concat();
        sets.note(&newer);
        assert_eq!(written(&sets, sets.lacking(IDR, false)), [SEQUENCE_1, &newer, PICTURE]);
    }

    #[test]
    fn what_signalling_told_serves_until_the_stream_says_otherwise_and_outlives_a_source() {
        let mut sets = ParameterSets::default();
        let told = format!("packetization-mode=1; sprop-parameter-sets={},{}", b64(SEQUENCE), b64(PICTURE));
        sets.tell(Some(&told));
        sets.note(SEQUENCE_1);
        sets.forget_seen();
        assert_eq!(written(&sets, sets.lacking(IDR, false)), [SEQUENCE, PICTURE]);
        let newer = [&SEQUENCE[..5], &[9, 9]].concat();
        sets.note(&newer);
        sets.tell(Some(&told));
        assert_eq!(written(&sets, sets.lacking(IDR, false)), [&newer, PICTURE], "the stream is newer");
        for odd in [None, Some("sprop-parameter-sets"), Some("sprop-parameter-sets=%,AAAA,"), Some("=;;=")] {
            sets.tell(odd);
            assert_eq!(written(&sets, sets.lacking(IDR, false)), [&newer[..]], "{odd:?}");
        }
    }

    fn b64(bytes: &[u8]) -> String {
        BASE64_STANDARD.encode(bytes)
    }

    proptest! {
        #[test]
        fn a_flood_of_sets_stays_within_its_bounds(
            flood in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), any::<bool>()), 0..60),
        ) {
            let mut sets = ParameterSets::default();
            sets.tell(Some(&format!("sprop-parameter-sets={}", b64(PICTURE))));
            for (mut set, is_sequence) in flood {
                if let Some(header) = set.first_mut() {
                    *header = if is_sequence { 0x67 } else { 0x68 };
                }
                sets.note(&set);
                let repeat = sets.lacking(IDR, false);
                let written = written(&sets, repeat);
                prop_assert!(written.len() <= PARAMETER_SETS_MAX);
                prop_assert!(written.iter().map(Vec::len).sum::<usize>() <= sets.bytes.len());
                prop_assert_eq!(sets.sets().count(), written.len());
                let mut ids: Vec<_> = written.iter().map(|set| identity(set)).collect();
                ids.sort();
                ids.dedup();
                prop_assert_eq!(ids.len(), written.len(), "each id once");
            }
        }
    }
}
