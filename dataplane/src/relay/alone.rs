//! When the port of a SIP peer hears that peer alone (docs/decisions/017).
//!
//! The engine connects such a port: that is cheaper for each packet, and strangers do not reach us at all. It is done only while a
//! stranger would not be believed anyway, so that nothing changes but the price: the latched source is the very address that
//! signalling named, or it authenticated by its SRTP tag, and it was heard lately. RTCP ports are left alone: what comes every few
//! seconds costs nothing.

use std::time::Duration;

use gangway_shared::time::Time;

use super::{Now, Output, PortId, Relays};
use crate::arena::Addr;

/// An authenticated source is followed to another address at once, unless its port hears the old address alone: then after this
/// part of the silence that lets strangers be heard.
const QUIET_DIVISOR: u32 = 4;

impl Relays {
    /// Says to the engine whom a leg's RTP port hears, when that is another than before.
    pub(super) fn settle_port(&mut self, slot: u32, out: &mut impl Output) {
        let leg = self.arena.leg(slot);
        let latch = &leg.rtp_latch;
        let peer = if !leg.is_ice() && latch.is_certain() { latch.latched } else { Addr::NONE };
        if self.derived[slot as usize].heard_alone == peer {
            return;
        }
        let Some(port) = leg.rtp_port.checked_sub(1) else { return };
        self.derived[slot as usize].heard_alone = peer;
        out.hear(PortId(port), peer.to_socket());
        self.schedule(slot);
    }

    /// Lets everybody be heard on a leg's RTP port, whatever the engine was told before.
    pub(super) fn open_port(&mut self, slot: u32, out: &mut impl Output) {
        self.derived[slot as usize].heard_alone = Addr::NONE;
        if let Some(port) = self.arena.leg(slot).rtp_port.checked_sub(1) {
            out.hear(PortId(port), None);
        }
    }

    /// When the leg's port hears everybody again unless its peer is heard before.
    pub(super) fn alone_until(&self, slot: u32) -> Option<Time> {
        let leg = self.arena.leg(slot);
        let rearm = self.config.timers.latch_rearm;
        let quiet: Duration = if leg.is_encrypted() { rearm / QUIET_DIVISOR } else { rearm };
        let is_alone = self.derived[slot as usize].heard_alone != Addr::NONE;
        is_alone.then(|| Time::from_micros(leg.rtp_latch.heard_at) + quiet)
    }

    pub(super) fn expire_alone(&mut self, now: Now, slot: u32, out: &mut impl Output) {
        if self.alone_until(slot).is_some_and(|end| end <= now.mono) {
            self.open_port(slot, out);
        }
    }
}
