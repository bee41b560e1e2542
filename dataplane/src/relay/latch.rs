//! Which source a plain RTP or RTCP port believes: authenticate, then latch (RTP Bleed; docs/decisions/004).
//!
//! The best source seen within the learning time is latched: the exact address of the SDP at once, else one on the SDP's host, else
//! one in its /24, else any. Until then at most [`FOREIGN_BUDGET`] packets are believed in all, after that those of the latched
//! source only, and of one that fits better: a stranger who came first keeps nobody out. Silence of the latched source, or a new
//! address by signalling, begins a new epoch with a budget of its own; after silence a source must fit as well as the host of the
//! former one did.

use std::time::Duration;

use gangway_shared::time::Time;

use crate::{
    arena::{Addr, Latch, step},
    wire::DropReason,
};

/// Packets that are believed in one epoch before a source is latched, all unlatched sources together.
pub(super) const FOREIGN_BUDGET: u32 = 3;

/// The exact address that signalling named.
const EXACT: u8 = 3;
/// The host that signalling named, or the one that was latched.
const SAME_HOST: u8 = 2;

/// Times that decide about latching.
#[derive(Clone, Copy, Debug)]
pub(super) struct LatchTimes {
    /// How long candidates are compared.
    pub(super) learn: Duration,
    /// Silence of the latched source after which others are heard.
    pub(super) rearm: Duration,
}

/// What an admitted packet did to the latch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    /// From the latched source.
    Known,
    /// It latched its source.
    Latched,
    /// One of the budget.
    OnBudget,
}

/// How well a source fits what signalling said.
fn fit(declared: Addr, from: Addr) -> u8 {
    // The last byte of a v4-mapped address is the host within a /24; of IPv6 the /64 is the network that one peer has.
    let is_v4 = declared.ip().to_canonical().is_ipv4() && from.ip().to_canonical().is_ipv4();
    let network_len = if is_v4 { 15 } else { 8 };
    match () {
        () if from == declared => EXACT,
        () if from.ip == declared.ip => SAME_HOST,
        () if from.ip[..network_len] == declared.ip[..network_len] => 1,
        () => 0,
    }
}

impl Latch {
    /// Takes the address that signalling names. A new one begins an epoch and forgets the old source; the same one changes
    /// nothing.
    pub(super) fn declare(&mut self, declared: Addr) {
        if self.declared != declared {
            self.begin(declared);
        }
    }

    fn begin(&mut self, declared: Addr) {
        let is_held = u8::from(declared.port != 0 && !declared.is_target());
        *self = Latch { declared, is_held, epoch: self.epoch.wrapping_add(1), ..Latch::default() };
    }

    /// Judges a plain packet. `companion` is the latched source of the other port of the pair: a peer sends both from one host.
    ///
    /// # Errors
    /// `ForeignSource`, or `LatchBudgetSpent` while the latch is still learning.
    pub(super) fn admit(
        &mut self,
        now: Time,
        from: Addr,
        companion: Addr,
        times: LatchTimes,
        may_rearm: bool,
    ) -> Result<Admitted, DropReason> {
        if self.is_locked == 1 {
            if from == self.latched {
                self.heard_at = now.as_micros();
                return Ok(Admitted::Known);
            }
            let fits = fit(self.declared, from);
            if self.declared.is_target() && fits > self.locked_fit {
                self.lock(now, from, fits);
                return Ok(Admitted::Latched);
            }
            if !may_rearm || now.since(Time::from_micros(self.heard_at)) < times.rearm {
                return Err(DropReason::ForeignSource);
            }
            self.rearm();
        }
        if !self.declared.is_target() {
            // Nobody is expected before signalling said who: whatever comes is a stranger's.
            return Err(DropReason::ForeignSource);
        }
        self.learn(now, from, companion, times)
    }

    fn learn(&mut self, now: Time, from: Addr, companion: Addr, times: LatchTimes) -> Result<Admitted, DropReason> {
        let mut own_fit = fit(self.declared, from);
        if companion.port != 0 && companion.ip == from.ip {
            own_fit = own_fit.max(SAME_HOST);
        }
        let mut fits = own_fit;
        if self.latched.port != 0 {
            // This epoch began with silence. A NAT gives the peer another port, seldom another address.
            if from == self.latched {
                (own_fit, fits) = (self.locked_fit, EXACT);
            } else if from.ip == self.latched.ip {
                (own_fit, fits) = (self.locked_fit.min(SAME_HOST), fits.max(SAME_HOST));
            }
            if fits < self.locked_fit.min(SAME_HOST) {
                return Err(DropReason::ForeignSource);
            }
        }
        if fits == EXACT {
            self.lock(now, from, own_fit);
            return Ok(Admitted::Latched);
        }
        if self.learning_since == 0 {
            self.learning_since = now.as_micros() + 1;
        }
        // A candidate that went silent must not keep the peer out for ever: one forged packet would do that.
        let is_gone = now.since(Time::from_micros(self.candidate_at)) >= times.rearm;
        if self.candidate.port == 0 || fits > self.fit || is_gone {
            (self.candidate, self.fit) = (from, fits);
        }
        if from == self.candidate {
            self.candidate_at = now.as_micros();
        }
        let learnt = now.since(Time::from_micros(self.learning_since - 1)) >= times.learn;
        if learnt && from == self.candidate {
            self.lock(now, from, own_fit);
            return Ok(Admitted::Latched);
        }
        // A worse source than the best one so far is no candidate any more.
        if fits < self.fit {
            return Err(DropReason::ForeignSource);
        }
        if self.spent >= FOREIGN_BUDGET {
            return Err(DropReason::LatchBudgetSpent);
        }
        self.spent += 1;
        Ok(Admitted::OnBudget)
    }

    /// Believes the source of a packet that authenticated by its SRTP tag, and no other from now on.
    pub(super) fn follow(&mut self, now: Time, from: Addr) -> Admitted {
        let is_known = self.is_locked == 1 && self.latched == from;
        // The tag is better evidence than any address.
        self.lock(now, from, EXACT);
        if is_known { Admitted::Known } else { Admitted::Latched }
    }

    fn lock(&mut self, now: Time, from: Addr, fits: u8) {
        // Half an address is never believed.
        if self.latched != from {
            self.is_locked = 0;
            step();
            self.latched = from;
            step();
        }
        (self.is_locked, self.locked_fit) = (1, fits);
        (self.candidate, self.fit, self.learning_since) = (Addr::NONE, 0, 0);
        self.heard_at = now.as_micros();
    }

    /// Begins an epoch in which others are heard; what was latched stays the destination until another source is.
    fn rearm(&mut self) {
        (self.is_locked, self.spent, self.learning_since) = (0, 0, 0);
        (self.candidate, self.fit) = (Addr::NONE, 0);
        self.epoch = self.epoch.wrapping_add(1);
    }

    /// Whether the latched source was heard within the time after which others are.
    pub(super) fn is_fresh(&self, now: Time, rearm: Duration) -> bool {
        self.is_locked == 1 && now.since(Time::from_micros(self.heard_at)) < rearm
    }

    /// Forgets a source on another host than that of the pair's other port, unless it is where signalling says.
    pub(super) fn keep_to_host(&mut self, companion: Addr) {
        if self.latched.port != 0 && self.latched.ip != companion.ip && self.latched != self.declared {
            self.begin(self.declared);
        }
    }

    /// Whether no other source could be latched while this one is heard: it is where signalling says, or it authenticated.
    pub(super) fn is_certain(&self) -> bool {
        self.is_locked == 1 && self.locked_fit == EXACT
    }

    /// Where packets to the peer go: the latched source, before one is latched where signalling says; nowhere while signalling
    /// holds it (`0.0.0.0`).
    pub(super) fn target(&self) -> Addr {
        if self.is_held == 1 {
            return Addr::NONE;
        }
        if self.latched.port != 0 { self.latched } else { self.declared }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;

    const TIMES: LatchTimes = LatchTimes { learn: Duration::from_millis(200), rearm: Duration::from_secs(2) };

    fn addr(text: &str) -> Addr {
        Addr::from(text.parse::<SocketAddr>().unwrap())
    }

    fn latch(declared: &str) -> Latch {
        let mut latch = Latch::default();
        latch.declare(addr(declared));
        latch
    }

    fn feed(latch: &mut Latch, ms: u64, from: &str) -> Result<Admitted, DropReason> {
        latch.admit(Time::from_millis(ms), addr(from), Addr::NONE, TIMES, true)
    }

    #[test]
    fn the_exact_address_of_the_sdp_is_latched_by_its_first_packet() {
        let mut latch = latch("192.0.2.1:4000");
        assert_eq!(feed(&mut latch, 0, "192.0.2.1:4000"), Ok(Admitted::Latched));
        assert_eq!(feed(&mut latch, 1, "192.0.2.1:4001"), Err(DropReason::ForeignSource));
        assert_eq!(feed(&mut latch, 2, "192.0.2.1:4000"), Ok(Admitted::Known));
    }

    #[test]
    fn a_better_source_displaces_a_worse_candidate_and_strangers_get_three_packets_at_most() {
        let mut latch = latch("192.0.2.1:4000");
        for ms in 0..3 {
            assert_eq!(feed(&mut latch, ms, "203.0.113.9:1"), Ok(Admitted::OnBudget));
        }
        assert_eq!(feed(&mut latch, 3, "203.0.113.9:1"), Err(DropReason::LatchBudgetSpent));
        assert_eq!(
            feed(&mut latch, 4, "192.0.2.1:5000"),
            Err(DropReason::LatchBudgetSpent),
            "the budget is one for all"
        );
        assert_eq!(feed(&mut latch, 5, "203.0.113.9:1"), Err(DropReason::ForeignSource));
        assert_eq!(feed(&mut latch, 200, "203.0.113.9:1"), Err(DropReason::ForeignSource));
        assert_eq!(feed(&mut latch, 201, "192.0.2.1:5000"), Ok(Admitted::Latched));
        assert_eq!(latch.target(), addr("192.0.2.1:5000"));
        assert_eq!(feed(&mut latch, 202, "192.0.2.1:5001"), Err(DropReason::ForeignSource), "locked means locked");
        assert_eq!(feed(&mut latch, 203, "192.0.2.1:4000"), Ok(Admitted::Latched), "the SDP's own address beats any");
        assert_eq!(feed(&mut latch, 204, "192.0.2.1:5000"), Err(DropReason::ForeignSource));
    }

    #[test]
    fn silence_of_a_host_that_signalling_named_lets_no_other_host_in() {
        let mut latch = latch("192.0.2.1:4000");
        feed(&mut latch, 0, "192.0.2.1:4000").unwrap();
        for ms in (3000..4000).step_by(20) {
            assert_eq!(feed(&mut latch, ms, "203.0.113.9:1"), Err(DropReason::ForeignSource));
            assert_eq!(feed(&mut latch, ms, "192.0.2.9:1"), Err(DropReason::ForeignSource), "nor its neighbour");
        }
        assert_eq!(latch.target(), addr("192.0.2.1:4000"));
    }

    #[test]
    fn a_nat_that_moves_ports_is_followed_after_silence_and_a_stranger_is_not_preferred() {
        let mut latch = latch("10.0.0.7:4000");
        feed(&mut latch, 0, "203.0.113.5:1").unwrap();
        assert_eq!(feed(&mut latch, 220, "203.0.113.5:1"), Ok(Admitted::Latched));
        assert_eq!(feed(&mut latch, 3000, "198.51.100.1:7"), Ok(Admitted::OnBudget));
        assert_eq!(feed(&mut latch, 3010, "203.0.113.5:2"), Ok(Admitted::OnBudget));
        assert_eq!(feed(&mut latch, 3210, "198.51.100.1:7"), Err(DropReason::ForeignSource));
        assert_eq!(feed(&mut latch, 3220, "203.0.113.5:2"), Ok(Admitted::Latched));
        // A phone behind a NAT may move to another network too: it never fitted better than anybody.
        assert_eq!(feed(&mut latch, 6000, "198.51.100.1:7"), Ok(Admitted::OnBudget));
        assert_eq!(feed(&mut latch, 6220, "198.51.100.1:7"), Ok(Admitted::Latched));
    }

    #[test]
    fn a_peer_behind_a_nat_is_latched_after_the_learning_time() {
        let mut latch = latch("10.0.0.7:4000");
        assert_eq!(feed(&mut latch, 0, "203.0.113.9:1"), Ok(Admitted::OnBudget));
        assert_eq!(latch.target(), addr("10.0.0.7:4000"), "a candidate is no destination");
        assert_eq!(feed(&mut latch, 220, "203.0.113.9:1"), Ok(Admitted::Latched));
        assert_eq!(latch.target(), addr("203.0.113.9:1"));
    }

    #[test]
    fn nobody_is_believed_before_signalling_said_who() {
        let mut latch = Latch::default();
        assert_eq!(feed(&mut latch, 0, "192.0.2.1:4000"), Err(DropReason::ForeignSource));
        latch.declare(addr("0.0.0.0:4000"));
        assert_eq!(feed(&mut latch, 0, "192.0.2.1:4000"), Err(DropReason::ForeignSource));
    }

    #[test]
    fn silence_lets_others_in_but_the_old_source_is_taken_back_at_once() {
        let mut latch = latch("192.0.2.1:4000");
        feed(&mut latch, 0, "192.0.2.1:4000").unwrap();
        assert_eq!(feed(&mut latch, 1999, "192.0.2.1:9000"), Err(DropReason::ForeignSource));
        assert_eq!(feed(&mut latch, 2001, "192.0.2.1:9000"), Ok(Admitted::OnBudget));
        assert_eq!(latch.target(), addr("192.0.2.1:4000"));
        assert_eq!(feed(&mut latch, 2002, "192.0.2.1:4000"), Ok(Admitted::Latched));
        let held = latch.admit(Time::from_millis(9000), addr("192.0.2.1:9000"), Addr::NONE, TIMES, false);
        assert_eq!(held, Err(DropReason::ForeignSource), "a held peer is silent by right");
    }

    #[test]
    fn a_new_address_by_signalling_begins_an_epoch_and_the_same_one_does_not() {
        let mut latch = latch("192.0.2.1:4000");
        feed(&mut latch, 0, "192.0.2.1:4000").unwrap();
        latch.declare(addr("192.0.2.1:4000"));
        assert_eq!((latch.is_locked, latch.epoch), (1, 1));
        latch.declare(addr("192.0.2.1:6000"));
        assert_eq!((latch.is_locked, latch.epoch, latch.target()), (0, 2, addr("192.0.2.1:6000")));
        assert_eq!(feed(&mut latch, 1, "192.0.2.1:6000"), Ok(Admitted::Latched));
    }

    #[test]
    fn a_candidate_that_went_silent_keeps_nobody_out() {
        let mut latch = latch("10.0.0.7:4000");
        assert_eq!(feed(&mut latch, 0, "10.0.0.7:9"), Ok(Admitted::OnBudget));
        assert_eq!(feed(&mut latch, 1000, "203.0.113.9:1"), Err(DropReason::ForeignSource));
        assert_eq!(feed(&mut latch, 2000, "203.0.113.9:1"), Ok(Admitted::Latched));
    }

    #[test]
    fn the_other_port_of_a_pair_helps_a_peer_behind_a_nat() {
        let mut latch = latch("10.0.0.7:4001");
        let companion = addr("203.0.113.9:30000");
        let mut admit = |ms, from| latch.admit(Time::from_millis(ms), addr(from), companion, TIMES, true);
        assert_eq!(admit(0, "198.51.100.1:7"), Ok(Admitted::OnBudget));
        assert_eq!(admit(1, "203.0.113.9:30001"), Ok(Admitted::OnBudget));
        assert_eq!(admit(2, "198.51.100.1:7"), Err(DropReason::ForeignSource));
        assert_eq!(admit(201, "203.0.113.9:30001"), Ok(Admitted::Latched));
    }

    proptest! {
        #[test]
        fn no_epoch_believes_more_than_the_budget_of_packets_from_sources_it_did_not_latch(
            steps in prop::collection::vec((0u64..300, 0u8..4, 1u16..3), 1..200),
        ) {
            let mut latch = latch("10.0.0.1:1");
            let (mut ms, mut on_budget) = (0, std::collections::BTreeMap::new());
            for (gap, host, port) in steps {
                ms += gap;
                let from = Addr::from(SocketAddr::from(([10, 0, host / 2, host], port)));
                let was_locked = latch.is_locked == 1;
                let (former, heard_at) = (latch.latched, latch.heard_at);
                match latch.admit(Time::from_millis(ms), from, Addr::NONE, TIMES, true) {
                    Ok(Admitted::OnBudget) => {
                        let count = on_budget.entry(latch.epoch).or_insert(0u32);
                        *count += 1;
                        prop_assert!(*count <= FOREIGN_BUDGET);
                        prop_assert!(!was_locked || ms * 1000 - heard_at >= 2_000_000);
                    }
                    Ok(Admitted::Known) => prop_assert!(was_locked && from == former),
                    Ok(Admitted::Latched) => prop_assert_eq!(latch.target(), from),
                    Err(_) => {}
                }
            }
        }
    }
}
