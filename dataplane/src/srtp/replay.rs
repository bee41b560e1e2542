//! Which SRTP index a packet has and whether it was seen: RFC 3711 sections 3.3.1 and 3.3.2, as plain old data.

use crate::wire::DropReason;

/// How many indexes behind the highest one are still told apart. RFC 3711 asks for 64 at least; a video keyframe on a
/// reordering path needs more.
pub const WINDOW_LEN: u64 = 128;

/// The last SRTP index: 32 bits of rollover counter, 16 of sequence number.
pub(super) const LAST_RTP_INDEX: u64 = (1 << 48) - 1;

/// Set in `top` once an index was accepted, so that "nothing yet" and the highest index are one store: a kill between two
/// stores cannot leave one without the other.
const STARTED: u64 = 1 << 63;

/// The verdict on an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Fresh,
    Replayed,
    TooOld,
}

/// Highest index so far and the [`WINDOW_LEN`] indexes up to it. All zero is the state before the first packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ReplayWindow {
    top: u64,
    /// Bit n of the 128 (low word first) tells whether `top - n` was accepted.
    seen: [u64; 2],
}

impl ReplayWindow {
    /// The highest index accepted, `None` before the first.
    #[must_use]
    pub const fn top(&self) -> Option<u64> {
        if self.top & STARTED == 0 { None } else { Some(self.top & !STARTED) }
    }

    /// The index that a packet with this sequence number most likely has (RFC 3711 section 3.3.1).
    ///
    /// A rollover counter below zero cannot be: such a packet is taken as a jump ahead in rollover 0.
    ///
    /// # Errors
    /// [`DropReason::SrtpIndexExhausted`] after 2^48 packets.
    pub(super) fn estimate(&self, sequence: u16) -> Result<u64, DropReason> {
        let Some(top) = self.top() else { return Ok(u64::from(sequence)) };
        let last = top as u16;
        let ahead = u64::from(sequence.wrapping_sub(last));
        // The section's two comparisons in one: exactly half way round stays in the rollover of the highest index.
        let is_behind = ahead > 0x8000 || (ahead == 0x8000 && last >= 0x8000);
        let index = match top.checked_sub(0x1_0000 - ahead) {
            Some(index) if is_behind => index,
            _ => top + ahead,
        };
        if index > LAST_RTP_INDEX { Err(DropReason::SrtpIndexExhausted) } else { Ok(index) }
    }

    pub(super) fn check(&self, index: u64) -> Verdict {
        let Some(top) = self.top() else { return Verdict::Fresh };
        if index > top {
            return Verdict::Fresh;
        }
        match top - index {
            age if age >= WINDOW_LEN => Verdict::TooOld,
            age if self.bits() >> age & 1 == 1 => Verdict::Replayed,
            _ => Verdict::Fresh,
        }
    }

    /// Marks an index that [`check`](Self::check) called fresh.
    pub(super) fn accept(&mut self, index: u64) {
        let bits = match self.top() {
            None => 1,
            Some(top) if index > top => {
                let shift = index - top;
                if shift < WINDOW_LEN { self.bits() << shift | 1 } else { 1 }
            }
            Some(top) => {
                debug_assert!(top - index < WINDOW_LEN, "check() refuses what lies behind the window");
                self.seen = split(self.bits() | 1 << (top - index));
                return;
            }
        };
        self.seen = split(bits);
        self.top = index | STARTED;
    }

    /// A window of which only [`Self::top_word`] was kept: everything up to there counts as seen.
    pub(super) fn closed_at(top_word: u64) -> Self {
        ReplayWindow { top: top_word, seen: [u64::MAX; 2] }
    }

    /// The highest index in its stored form, for [`Self::closed_at`].
    pub(super) const fn top_word(&self) -> u64 {
        self.top
    }

    /// After a crash: everything up to the highest index counts as seen, because the stores behind it may be torn.
    pub(super) fn close_behind(&mut self) {
        self.seen = [u64::MAX; 2];
    }

    /// After a crash of a sender: the indexes of `margin` more packets count as used.
    pub(super) fn skip(&mut self, margin: u64) {
        if let Some(top) = self.top() {
            self.top = (top + margin).min(LAST_RTP_INDEX) | STARTED;
            self.close_behind();
        }
    }

    fn bits(&self) -> u128 {
        u128::from(self.seen[1]) << 64 | u128::from(self.seen[0])
    }
}

fn split(bits: u128) -> [u64; 2] {
    [bits as u64, (bits >> 64) as u64]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn at(top: u64) -> ReplayWindow {
        let mut window = ReplayWindow::default();
        window.accept(top);
        window
    }

    #[test]
    fn estimate_follows_the_nearest_rollover() {
        assert_eq!(at(65_535).estimate(0), Ok(65_536));
        assert_eq!(at(65_536 + 10).estimate(65_530), Ok(65_530));
        assert_eq!(at(3 << 16 | 0x7fff).estimate(0xffff), Ok(3 << 16 | 0xffff));
        assert_eq!(at(3 << 16 | 0x7ffe).estimate(0xffff), Ok(2 << 16 | 0xffff));
        assert_eq!(at(3 << 16 | 0x8000).estimate(0), Ok(3 << 16));
        assert_eq!(at(10).estimate(65_530), Ok(65_530), "there is no rollover before the first");
        assert_eq!(at(LAST_RTP_INDEX).estimate(0), Err(DropReason::SrtpIndexExhausted));
    }

    #[test]
    fn a_closed_window_lets_only_higher_indexes_in() {
        let mut window = at(1000);
        window.close_behind();
        assert_eq!(window.check(999), Verdict::Replayed);
        assert_eq!(window.check(1000 - WINDOW_LEN), Verdict::TooOld);
        assert_eq!(window.check(1001), Verdict::Fresh);
        window.skip(64);
        assert_eq!((window.check(1064), window.check(1065)), (Verdict::Replayed, Verdict::Fresh));
        let mut fresh = ReplayWindow::default();
        fresh.skip(64);
        assert_eq!(fresh.top(), None, "what was never used has nothing to skip");
        let mut kept = ReplayWindow::closed_at(at(1000).top_word());
        assert_eq!(
            [kept.check(1000), kept.check(999), kept.check(1001)],
            [Verdict::Replayed, Verdict::Replayed, Verdict::Fresh]
        );
        kept.accept(1002);
        assert_eq!((kept.check(1001), kept.check(1000)), (Verdict::Fresh, Verdict::Replayed));
        let mut kept = ReplayWindow::closed_at(ReplayWindow::default().top_word());
        kept.accept(5);
        assert_eq!((kept.check(4), kept.check(5)), (Verdict::Fresh, Verdict::Replayed), "it was never used");
    }

    proptest! {
        #[test]
        fn each_index_is_accepted_at_most_once_and_every_fresh_one_in_the_window_is(
            steps in prop::collection::vec(-200i64..200, 1..400),
        ) {
            let mut window = ReplayWindow::default();
            let mut accepted = BTreeSet::new();
            let mut at = 100_000u64;
            for step in steps {
                at = at.saturating_add_signed(step);
                match window.check(at) {
                    Verdict::Fresh => {
                        prop_assert!(accepted.insert(at), "{at} was accepted twice");
                        window.accept(at);
                    }
                    Verdict::Replayed => prop_assert!(accepted.contains(&at)),
                    Verdict::TooOld => prop_assert!(accepted.last().is_some_and(|top| top - at >= WINDOW_LEN)),
                }
                prop_assert_eq!(window.top(), accepted.last().copied());
            }
        }

        #[test]
        fn estimate_finds_every_index_less_than_half_a_rollover_away(top in 0u64..1 << 40, offset in -0x7fffi64..0x7fff) {
            if let Some(index) = top.checked_add_signed(offset) {
                prop_assert_eq!(at(top).estimate(index as u16), Ok(index));
            }
        }
    }
}
