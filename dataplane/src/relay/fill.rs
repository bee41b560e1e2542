//! Sound in place of a source that gives none: when it begins, how it goes on packet by packet, and when it gives way.
//!
//! What is made has the numbers of the route's own stream, so that the receiver hears one source. Nothing is to be done for a
//! packet of the source but to move the beginning.

use std::time::Duration;

use gangway_shared::{
    rcp::{Codec, Fill},
    time::Time,
};

use super::{
    Now, Output, Relays,
    rewrite::{Made, append},
};
use crate::{
    arena::{FillState, PayloadEntry},
    generator::Recipe,
    wire::{DropReason, Packet, rtp},
};

/// A source that told its silence is not missed before this: Opus tells it anew every 400 ms, and receivers make their own noise.
const QUIET_PATIENCE: Duration = Duration::from_secs(1);
/// A source that sends is not missed before this, whatever the program says: its next packet may be a large one, or come late.
const JITTER_PATIENCE: Duration = Duration::from_millis(60);
/// The payload type that means comfort noise wherever it means nothing else (RFC 3551 table 4).
const COMFORT_NOISE_TYPE: u8 = 13;
/// Opus payloads up to so many bytes hold no sound (RFC 7587 section 3.1.3, RFC 6716 section 3.2.1).
const OPUS_DTX_MAX_BYTES: usize = 2;
/// Bytes of a G.729 frame; what is left over is a description of silence (RFC 3551 section 4.5.6).
const G729_FRAME_BYTES: usize = 10;

/// How the packets of a payload type tell that silence follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Quiet {
    /// Not at all.
    Never = 0,
    /// Each does: comfort noise, RFC 3389.
    Always = 1,
    /// By a payload without sound.
    Opus = 2,
    /// By a frame of annex B.
    G729 = 3,
}

impl Quiet {
    pub(super) fn of(codec: &Codec) -> Self {
        match codec {
            Codec::ComfortNoise => Quiet::Always,
            Codec::Opus => Quiet::Opus,
            Codec::G729 => Quiet::G729,
            _ => Quiet::Never,
        }
    }

    /// Whether a packet tells it. Comfort noise may come without having been negotiated; it goes no further then.
    pub(super) fn is_told(entry: Option<PayloadEntry>, payload_type: u8, payload_len: usize) -> bool {
        match entry.map(|entry| entry.quiet) {
            None => payload_type == COMFORT_NOISE_TYPE,
            Some(quiet) if quiet == Quiet::Always as u8 => true,
            Some(quiet) if quiet == Quiet::Opus as u8 => payload_len <= OPUS_DTX_MAX_BYTES,
            Some(quiet) if quiet == Quiet::G729 as u8 => !payload_len.is_multiple_of(G729_FRAME_BYTES),
            Some(_) => false,
        }
    }
}

impl FillState {
    /// Takes what the program says. A sound that goes on as it was keeps its place; another begins at its start, where the one before
    /// it would have gone on.
    pub(super) fn set(&mut self, now: Time, wanted: Option<&Fill>) {
        let Some(wanted) = wanted else { return *self = FillState::default() };
        let recipe = Recipe::of(wanted).expect("check_supported tried it");
        let start_after = Duration::from_millis(wanted.start_after_ms.into());
        if !self.recipe.is_set() || (self.is_running == 0 && self.start_after_ms != wanted.start_after_ms) {
            self.next_at = (now + start_after).as_micros();
        }
        if self.recipe != recipe {
            (self.recipe, self.position_ms) = (recipe, 0);
        }
        (self.pt, self.start_after_ms) = (wanted.payload.pt, wanted.start_after_ms);
    }

    /// A packet of the source is sent. True when the sound in its place is due sooner than before.
    pub(super) fn give_way(&mut self, now: Time, is_quiet: bool) -> bool {
        if !self.recipe.is_set() {
            return false;
        }
        let patience = if is_quiet { QUIET_PATIENCE } else { JITTER_PATIENCE };
        let start_after = Duration::from_millis(self.start_after_ms.into()).max(patience);
        (self.is_running, self.position_ms) = (0, 0);
        let next_at = (now + start_after).as_micros();
        next_at < std::mem::replace(&mut self.next_at, next_at)
    }

    /// When the next packet is due.
    fn due(&self) -> Option<Time> {
        self.recipe.is_set().then(|| Time::from_micros(self.next_at))
    }
}

/// Of the times `due`, `due + step`, `due + 2 * step` and so on the newest that has come, and how many lie before it.
pub(super) fn newest_due(now: Time, due: Time, step: Duration) -> (Time, u64) {
    let (late_us, step_us) = (now.since(due).as_micros() as u64, step.as_micros() as u64);
    let left_out = late_us / step_us.max(1);
    (due + Duration::from_micros(left_out * step_us), left_out)
}

impl Relays {
    /// The soonest time at which sound is due in place of what a leg sends.
    pub(super) fn fills_due(&self, slot: u32) -> Option<Time> {
        let derived = &self.derived[slot as usize];
        derived.routes[..derived.route_count].iter().filter_map(|route| self.arena.route(*route).fill.due()).min()
    }

    /// Makes the sound that is due in place of what a leg sends.
    pub(super) fn expire_fills(&mut self, now: Now, slot: u32, out: &mut impl Output) {
        for index in 0..self.derived[slot as usize].route_count {
            let route = self.derived[slot as usize].routes[index];
            if self.arena.route(route).fill.due().is_some_and(|due| due <= now.mono) {
                self.make_sound(now, route, out);
            }
        }
    }

    /// Sends one packet of a route's sound and sets the time of the next. While the destination cannot be sent to, or hears
    /// digits, the sound does not begin.
    ///
    /// Packets are due a packet time apart, counted from the first. When a worker that stood still comes back, those whose time is over
    /// are left out, for a burst would only fill jitter buffers; the one whose time it is leaves now with the timestamp of its
    /// time, and the next when it would have left anyway. So streams that were spread over the packet time stay so.
    fn make_sound(&mut self, now: Now, route_slot: u32, out: &mut impl Output) {
        let target = self.target_of(route_slot);
        let seed = self.config.seed;
        let mut sections = self.arena.sections();
        let route = &mut sections.routes[route_slot as usize];
        let fill = &mut route.fill;
        let interval = fill.recipe.interval();
        let (at, left_out) = newest_due(now.mono, Time::from_micros(fill.next_at), interval);
        fill.next_at = (at + interval).as_micros();
        if fill.is_running == 1 {
            fill.position_ms = fill.recipe.skip(fill.position_ms, left_out);
        }
        let Some((port, to)) = target.ok().filter(|_| !self.keypad.is_busy(route_slot)) else {
            fill.is_running = 0;
            return;
        };
        let leg = &mut sections.legs[route.to as usize];
        let stream = &mut sections.out[(route.to, route.out as usize)];
        let own = leg.own_at();
        let keys = &self.derived[route.to as usize].tx;
        let goes_on = fill.is_running == 1 && left_out == 0;
        let made =
            Made { clock: fill.recipe.clock(), follows: goes_on.then_some(interval), lasts: fill.recipe.lasts() };
        let (mut sent, mut payload_len, mut len) = (Ok(()), 0, 0);
        let had_buffer = out.transmit(port, to, |buffer| {
            payload_len = fill.recipe.write(fill.position_ms, &mut buffer[rtp::FIXED_HEADER_LEN..]);
            let outgoing = append(at, &mut route.source, &mut route.former, stream, seed, made);
            rtp::begin_header(buffer);
            rtp::set_payload_type(buffer, fill.pt);
            // A spurt of sound begins; comfort noise is none (RFC 3551 section 4.1).
            rtp::set_marker(buffer, outgoing.is_switch && !made.lasts.is_zero());
            rtp::set_sequence(buffer, outgoing.sequence);
            rtp::set_timestamp(buffer, outgoing.timestamp);
            rtp::set_ssrc(buffer, route.ssrc);
            let mut packet = Packet::new(buffer, 0, rtp::FIXED_HEADER_LEN + payload_len);
            sent = keys.as_ref().map_or(Ok(()), |keys| keys.protect_rtp(stream.tx_under(own), &mut packet));
            len = if sent.is_ok() { packet.len() } else { 0 };
            len
        });
        let sent = if had_buffer { sent } else { Err(DropReason::BuffersExhausted) };
        if let Err(reason) = sent {
            fill.is_running = 0;
            let to = route.to;
            return self.count_on(Some(to), reason);
        }
        fill.is_running = 1;
        fill.position_ms = fill.recipe.skip(fill.position_ms, 1);
        stream.packets += 1;
        stream.octets += payload_len as u64;
        leg.traffic.tx_packets += 1;
        leg.traffic.tx_bytes += len as u64;
        self.counters.sent += 1;
    }
}
