//! Telephone events that control wants a leg's peer to hear (RFC 4733), digit after digit, on the route that brings the peer its sound.
//!
//! They have the numbers of the route's own stream. The source is not heard until the last digit is over: a tone of its own beside an
//! event would be heard as another digit. Its next packet then follows like that of a new source.
//!
//! ```text
//! | event | E | R | volume | duration |    8, 1, 1, 6 and 16 bits, RFC 4733 section 2.3
//! ```
//!
//! What is under way is not in the arena: control is told that it ended when its worker fails. That it was begun is there, so that no process
//! after this one dials it again.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use gangway_shared::{
    ids::{LegId, RelayId},
    rcp::{ErrorCode, Event, RelayError},
    time::Time,
};

use super::{
    Now, Output, Relays,
    fill::newest_due,
    rewrite::{append_event, ticks},
};
use crate::{
    arena::{ACTIONS_MAX, PayloadEntry, RouteRecord, step},
    wire::{DropReason, Packet, rtp},
};

/// Digits of one action.
pub const DIGITS_MAX: usize = 64;
/// Length of an event in milliseconds: what receivers take for a digit at least (ITU-T Q.24), and what the duration field holds at
/// 8 kHz.
pub const DURATION_MS: std::ops::RangeInclusive<u16> = 40..=8000;

/// Actions that wait behind the one under way, on one route.
const WAITING_MAX: usize = 4;
/// Time between the packets of an event.
const UPDATE: Duration = Duration::from_millis(20);
/// Silence between two events: more than receivers need to tell two digits (ITU-T Q.24), and time for the repeated ends of the first.
const GAP: Duration = Duration::from_millis(60);
/// How often the end of an event is told (RFC 4733 section 2.5.1.4).
const ENDS: u8 = 3;
/// -10 dBm0, the middle of what RFC 4733 section 2.3.4 allows.
const VOLUME: u8 = 10;
const END: u8 = 0x80;
const PAYLOAD_LEN: usize = 4;

/// The event of a digit (RFC 4733 table 3).
#[must_use]
pub fn event_of(digit: char) -> Option<u8> {
    match digit {
        '0'..='9' => Some(digit as u8 - b'0'),
        '*' => Some(10),
        '#' => Some(11),
        'A'..='D' => Some(digit as u8 - b'A' + 12),
        '!' => Some(16),
        _ => None,
    }
}

/// Digits to play.
#[derive(Clone, Debug)]
pub struct Digits {
    /// Chosen by control, for `ActDone`.
    pub action_id: u64,
    /// Events, the next first.
    pub events: VecDeque<u8>,
    /// How long each lasts.
    pub duration: Duration,
}

/// The event that is being sent.
#[derive(Clone, Copy, Debug)]
struct Sounding {
    event: u8,
    began_at: Time,
    ends: u8,
}

/// What a route plays.
#[derive(Debug)]
struct Playing {
    relay: RelayId,
    /// The one under way first.
    actions: VecDeque<Digits>,
    sounding: Option<Sounding>,
    /// When the next packet is due.
    next_at: Time,
}

/// What all routes play, by route slot.
#[derive(Debug, Default)]
pub(super) struct Keypad {
    playing: BTreeMap<u32, Playing>,
    /// Actions whose route went.
    cut_off: Vec<(RelayId, u64)>,
}

impl Keypad {
    /// Whether a route plays digits.
    pub(super) fn is_busy(&self, route: u32) -> bool {
        // Hardly ever does any.
        !self.playing.is_empty() && self.playing.contains_key(&route)
    }

    /// The route goes; who waits for what it played is told by [`Relays::tell_cut_off`].
    pub(super) fn cut_off(&mut self, route: u32) {
        if let Some(Playing { relay, actions, .. }) = self.playing.remove(&route) {
            self.cut_off.extend(actions.iter().map(|action| (relay, action.action_id)));
        }
    }
}

impl RouteRecord {
    /// How telephone events are sent on the route: with the clock of the sound beside them where there is a choice.
    fn event_entry(&self, clock: u32) -> Option<PayloadEntry> {
        let entries = self.payloads[..usize::from(self.payload_count)].iter().filter(|entry| entry.is_event == 1);
        entries.clone().find(|entry| entry.clock == clock).or_else(|| entries.clone().next()).copied()
    }
}

impl Relays {
    /// Plays digits to the peer of a leg. `ActDone` tells when the last is over, or why they are not played.
    pub fn play_digits(&mut self, now: Now, relay: RelayId, leg: LegId, digits: Digits, out: &mut impl Output) {
        let action_id = digits.action_id;
        self.note_action(relay, action_id);
        if let Err(error) = self.queue_digits(now, relay, leg, digits) {
            out.event(Event::ActDone { relay, action_id, error: Some(error) });
        }
    }

    /// Remembers an action that begins, for the process after this one.
    pub fn note_action(&mut self, relay: RelayId, action_id: u64) {
        let Some(slot) = self.by_id.get(&relay) else { return };
        let record = self.arena.relay_mut(*slot);
        record.actions[record.actions_begun as usize % ACTIONS_MAX] = action_id;
        step();
        record.actions_begun += 1;
    }

    fn queue_digits(&mut self, now: Now, relay: RelayId, leg: LegId, digits: Digits) -> Result<(), RelayError> {
        let refuse = |code, field: &str, reason: &str| Err(RelayError::new(code, field, reason));
        let Some(slot) = self.slot_of(relay, leg) else {
            return refuse(ErrorCode::NotFound, "action.leg", "the relay has no such leg");
        };
        let routes = self.arena.relay(self.arena.leg(slot).relay_slot()).routes;
        let to_leg = |route: &u32| {
            let record = self.arena.route(*route);
            record.to == slot && record.is_video == 0 && record.event_entry(0).is_some()
        };
        let Some(route) = routes.iter().filter_map(|route| route.checked_sub(1)).find(to_leg) else {
            let reason = "no telephone events are agreed with the leg's peer";
            return refuse(ErrorCode::Unsupported, "action.leg", reason);
        };
        let record = self.arena.route(route);
        if record.is_paused == 1 || self.target_of(route).is_err() {
            return refuse(ErrorCode::NotFound, "action.leg", "nothing can be sent to the leg's peer now");
        }
        let clock = self.arena.out(slot)[record.out as usize].clock;
        let clock = record.event_entry(clock).map_or(clock, |entry| entry.clock);
        if ticks(digits.duration, clock) > u32::from(u16::MAX) {
            let reason = "the duration does not fit an event at this clock";
            return refuse(ErrorCode::Invalid, "action.duration_ms", reason);
        }
        let from = record.from;
        let playing = self.keypad.playing.entry(route).or_insert_with(|| Playing {
            relay,
            actions: VecDeque::new(),
            sounding: None,
            next_at: now.mono,
        });
        if playing.actions.len() > WAITING_MAX {
            return refuse(ErrorCode::Full, "action", "too many actions wait for this leg");
        }
        playing.actions.push_back(digits);
        self.schedule(from);
        Ok(())
    }

    /// Tells of actions whose route went.
    pub(super) fn tell_cut_off(&mut self, out: &mut impl Output) {
        for (relay, action_id) in self.keypad.cut_off.drain(..) {
            let error = Some(RelayError::new(ErrorCode::NotFound, "action.leg", "the route to the leg ended"));
            out.event(Event::ActDone { relay, action_id, error });
        }
    }

    /// Actions that are under way or wait; they are none of the relays' any more.
    pub fn take_actions(&mut self) -> Vec<(RelayId, u64)> {
        let playing = std::mem::take(&mut self.keypad.playing).into_values();
        let ids = playing.flat_map(|playing| playing.actions.into_iter().map(move |at| (playing.relay, at.action_id)));
        ids.chain(self.keypad.cut_off.drain(..)).collect()
    }

    /// The soonest time at which a packet of an event is due on a route from this leg.
    pub(super) fn digits_due(&self, slot: u32) -> Option<Time> {
        if self.keypad.playing.is_empty() {
            return None;
        }
        let derived = &self.derived[slot as usize];
        let routes = derived.routes[..derived.route_count].iter();
        routes.filter_map(|route| self.keypad.playing.get(route)).map(|playing| playing.next_at).min()
    }

    /// Sends the events that are due on routes from this leg.
    pub(super) fn expire_digits(&mut self, now: Now, slot: u32, out: &mut impl Output) {
        if self.keypad.playing.is_empty() {
            return;
        }
        for index in 0..self.derived[slot as usize].route_count {
            let route = self.derived[slot as usize].routes[index];
            while self.keypad.playing.get(&route).is_some_and(|playing| playing.next_at <= now.mono) {
                self.play(now, route, out);
            }
        }
    }

    /// Sends one packet of what a route plays, or ends an action, and sets the time of the next. Packets whose time is over are left
    /// out: the one that leaves says how long the event has lasted.
    fn play(&mut self, now: Now, route: u32, out: &mut impl Output) {
        let Some(playing) = self.keypad.playing.get_mut(&route) else { return };
        let (at, _) = newest_due(now.mono, playing.next_at, UPDATE);
        let Some(action) = playing.actions.front_mut() else {
            self.keypad.playing.remove(&route);
            return;
        };
        let duration = action.duration;
        let (sounding, is_first) = match playing.sounding {
            Some(sounding) => (sounding, false),
            None => match action.events.pop_front() {
                Some(event) => (Sounding { event, began_at: at, ends: 0 }, true),
                None => {
                    let (relay, action_id) = (playing.relay, action.action_id);
                    playing.actions.pop_front();
                    return out.event(Event::ActDone { relay, action_id, error: None });
                }
            },
        };
        let so_far = (at.since(sounding.began_at) + UPDATE).min(duration);
        let is_end = so_far == duration;
        let ends = sounding.ends + u8::from(is_end);
        (playing.sounding, playing.next_at) = if ends < ENDS {
            (Some(Sounding { ends, ..sounding }), at + UPDATE)
        } else {
            (None, (at + UPDATE).max(sounding.began_at + duration + GAP))
        };
        self.send_event(at, route, (sounding.event, is_end), so_far, is_first, out);
    }

    fn send_event(
        &mut self,
        at: Time,
        route_slot: u32,
        (event, is_end): (u8, bool),
        so_far: Duration,
        is_first: bool,
        out: &mut impl Output,
    ) {
        let target = self.target_of(route_slot);
        let seed = self.config.seed;
        let mut sections = self.arena.sections();
        let route = &mut sections.routes[route_slot as usize];
        let stream = &mut sections.out[(route.to, route.out as usize)];
        let Some(entry) = route.event_entry(stream.clock) else { return self.keypad.cut_off(route_slot) };
        let Ok((port, to)) = target else { return };
        let own = sections.legs[route.to as usize].own_at();
        let keys = &self.derived[route.to as usize].tx;
        let (mut sent, mut len) = (Ok(()), 0);
        let had_buffer = out.transmit(port, to, |buffer| {
            let numbers =
                append_event(at, &mut route.source, &mut route.former, stream, seed, (entry.clock, so_far), is_first);
            rtp::begin_header(buffer);
            rtp::set_payload_type(buffer, entry.to);
            rtp::set_marker(buffer, is_first);
            rtp::set_sequence(buffer, numbers.sequence);
            rtp::set_timestamp(buffer, numbers.timestamp);
            rtp::set_ssrc(buffer, route.ssrc);
            let [high, low] = (ticks(so_far, entry.clock) as u16).to_be_bytes();
            let end = if is_end { END } else { 0 };
            buffer[rtp::FIXED_HEADER_LEN..][..PAYLOAD_LEN].copy_from_slice(&[event, end | VOLUME, high, low]);
            let mut packet = Packet::new(buffer, 0, rtp::FIXED_HEADER_LEN + PAYLOAD_LEN);
            sent = keys.as_ref().map_or(Ok(()), |keys| keys.protect_rtp(stream.tx_under(own), &mut packet));
            len = if sent.is_ok() { packet.len() } else { 0 };
            len
        });
        let sent = if had_buffer { sent } else { Err(DropReason::BuffersExhausted) };
        if let Err(reason) = sent {
            let to = route.to;
            return self.count_on(Some(to), reason);
        }
        stream.packets += 1;
        stream.octets += PAYLOAD_LEN as u64;
        let leg = &mut sections.legs[route.to as usize];
        leg.traffic.tx_packets += 1;
        leg.traffic.tx_bytes += len as u64;
        self.counters.sent += 1;
    }
}
