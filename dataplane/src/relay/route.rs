//! From a leg to others: payload types choose the route, the route changes the packet, the destination's keys close it.

use std::net::SocketAddr;

use gangway_shared::rcp::{Codec, PayloadMap, Process};

use super::{
    Now, Output, PortId, Relays, Verdict,
    fill::Quiet,
    keyframe::Pictures,
    rewrite::{Incoming, rewrite},
};
use crate::{
    arena::{PayloadEntry, RouteRecord},
    transform::Transform,
    wire::{DropReason, Packet, rtp},
};

/// The transform that turns a map entry's source payload into its destination payload.
///
/// # Errors
/// Why the process cannot do it.
pub fn transform_of(process: Process, map: &PayloadMap) -> Result<Transform, &'static str> {
    if map.from.clock != map.to.clock {
        return Err("a change of clock rate needs process transcode");
    }
    match (process, &map.from.codec, &map.to.codec) {
        (_, from, to) if from == to => Ok(Transform::Pass),
        (Process::G711, Codec::Pcmu, Codec::Pcma) => Ok(Transform::UlawToAlaw),
        (Process::G711, Codec::Pcma, Codec::Pcmu) => Ok(Transform::AlawToUlaw),
        _ => Err("this change of codec needs another process"),
    }
}

/// One map entry as plain data.
pub(super) fn payload_entry(map: &PayloadMap, transform: Transform) -> PayloadEntry {
    PayloadEntry {
        from: map.from.pt,
        to: map.to.pt,
        transform: transform as u8,
        is_event: u8::from(map.from.codec == Codec::TelephoneEvent),
        pictures: Pictures::of(&map.from.codec) as u8,
        quiet: Quiet::of(&map.from.codec) as u8,
        reserved: [0; 2],
        clock: map.from.clock,
    }
}

impl PayloadEntry {
    fn transform(self) -> Transform {
        match self.transform {
            byte if byte == Transform::AlawToUlaw as u8 => Transform::AlawToUlaw,
            byte if byte == Transform::UlawToAlaw as u8 => Transform::UlawToAlaw,
            _ => Transform::Pass,
        }
    }
}

impl RouteRecord {
    pub(super) fn entry(&self, payload_type: u8) -> Option<PayloadEntry> {
        let entries = &self.payloads[..usize::from(self.payload_count)];
        entries.iter().find(|entry| entry.from == payload_type).copied()
    }
}

/// A clear packet with what was read of it.
#[derive(Clone, Copy)]
struct Media {
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
    is_marked: bool,
    payload_len: usize,
    /// It tells that silence follows.
    is_quiet: bool,
}

impl Relays {
    /// Passes a clear packet of a leg on: a copy to each route but the last, the packet itself to that one.
    pub(super) fn forward(
        &mut self,
        now: Now,
        slot: u32,
        rx: usize,
        packet: &mut Packet<'_>,
        out: &mut impl Output,
    ) -> Result<Verdict, DropReason> {
        // Extensions speak of the leg they came from; nothing behind this gateway knows their numbers.
        rtp::strip_extensions(packet)?;
        let view = rtp::Rtp::parse(packet.bytes())?;
        let payload_type = view.payload_type();
        let entry = self.entry_of(slot, payload_type);
        let media = Media {
            ssrc: view.ssrc(),
            sequence: view.sequence(),
            timestamp: view.timestamp(),
            is_marked: view.marker(),
            payload_len: view.payload().len(),
            is_quiet: Quiet::is_told(entry, payload_type, view.payload().len()),
        };
        self.note_reception(now, slot, rx, entry, media);
        let mut chosen: Option<(u32, PayloadEntry)> = None;
        let mut is_held = false;
        let mut wants_keyframe = false;
        for index in 0..self.derived[slot as usize].route_count {
            let route = self.derived[slot as usize].routes[index];
            let Some(entry) = self.arena.route(route).entry(payload_type) else { continue };
            if self.arena.route(route).is_paused == 1 {
                is_held = true;
            } else if let Some((route, entry)) = chosen.replace((route, entry)) {
                wants_keyframe |= self.send_copy(now, route, entry, media, packet, out);
            }
        }
        let Some((route, entry)) = chosen else {
            let has_routes = self.derived[slot as usize].route_count > 0;
            return Err(match (is_held, has_routes) {
                (true, _) => DropReason::LegHeld,
                (false, true) => DropReason::PayloadUnmapped,
                (false, false) => DropReason::NoRoute,
            });
        };
        let target = self.target_of(route);
        let sent = target.and_then(|_| self.send(now, route, entry, media, packet));
        if wants_keyframe || sent == Ok(true) {
            // After all copies: what several receivers miss is one wish.
            self.pursue_keyframes(now, slot, out);
        }
        let (port, to) = target?;
        sent.map(|_| Verdict::Forward { port, to })
    }

    /// What a payload type of a leg's peer means, by the first route that takes it.
    fn entry_of(&self, slot: u32, payload_type: u8) -> Option<PayloadEntry> {
        let derived = &self.derived[slot as usize];
        let routes = &derived.routes[..derived.route_count];
        routes.iter().find_map(|route| self.arena.route(*route).entry(payload_type))
    }

    fn note_reception(&mut self, now: Now, slot: u32, rx: usize, entry: Option<PayloadEntry>, media: Media) {
        let leg = self.arena.leg_mut(slot);
        if entry.is_none_or(|entry| entry.pictures == Pictures::Unknown as u8) {
            leg.is_quiet = u32::from(media.is_quiet);
        }
        let reception = &mut leg.rx[rx].reception;
        let (clock, is_event) = entry.map_or((reception.clock, false), |entry| (entry.clock, entry.is_event == 1));
        reception.note(now.mono, media.sequence, media.timestamp, clock, is_event);
    }

    pub(super) fn target_of(&self, route: u32) -> Result<(PortId, SocketAddr), DropReason> {
        let to = self.arena.route(route).to;
        let leg = self.arena.leg(to);
        let target = leg.rtp_target()?;
        if leg.is_encrypted() && self.derived[to as usize].tx.is_none() {
            let is_pending = leg.is_ice() && leg.fingerprint_count == 0;
            return Err(if is_pending { DropReason::FingerprintPending } else { DropReason::NoKeys });
        }
        Ok(target)
    }

    /// As [`send`](Self::send), with a copy; what goes wrong is counted.
    fn send_copy(
        &mut self,
        now: Now,
        route: u32,
        entry: PayloadEntry,
        media: Media,
        packet: &Packet<'_>,
        out: &mut impl Output,
    ) -> bool {
        let mut verdict = self.target_of(route).map(|_| false);
        if let Ok((port, to)) = self.target_of(route) {
            let had_buffer = out.transmit(port, to, |buffer| {
                let len = packet.len();
                buffer[..len].copy_from_slice(packet.bytes());
                let mut copy = Packet::new(buffer, 0, len);
                verdict = self.send(now, route, entry, media, &mut copy);
                // A packet at the start of its buffer has no headroom to grow into: it still starts there.
                if verdict.is_ok() { copy.len() } else { 0 }
            });
            if !had_buffer {
                verdict = Err(DropReason::BuffersExhausted);
            }
        }
        match verdict {
            Ok(wants_keyframe) => {
                self.counters.sent += 1;
                wants_keyframe
            }
            Err(reason) => {
                self.count_on(Some(self.arena.route(route).to), reason);
                false
            }
        }
    }

    /// Makes a clear packet one of the route's destination. True when that gave a reason to ask the source for a key frame.
    fn send(
        &mut self,
        now: Now,
        route_slot: u32,
        entry: PayloadEntry,
        media: Media,
        packet: &mut Packet<'_>,
    ) -> Result<bool, DropReason> {
        let sections = self.arena.sections();
        let route = &mut sections.routes[route_slot as usize];
        let to = &mut sections.legs[route.to as usize];
        let stream = &mut to.out[route.out as usize];
        let incoming = Incoming {
            ssrc: media.ssrc,
            sequence: media.sequence,
            timestamp: media.timestamp,
            clock: entry.clock,
            is_event: entry.is_event == 1,
        };
        let seed = self.config.seed;
        // Sound has no pictures to watch.
        let before = if route.is_video == 1 { Some(route.source) } else { None };
        let outgoing = rewrite(now.mono, &mut route.source, &mut route.former, stream, seed, incoming)?;
        route.fill.give_way(now.mono, media.is_quiet);
        let bytes = packet.bytes_mut();
        let payload = rtp::FIXED_HEADER_LEN..rtp::FIXED_HEADER_LEN + media.payload_len;
        let wants_keyframe = before.is_some_and(|before| {
            let sight = Pictures::sight(entry.pictures, &bytes[payload.clone()]);
            route.pictures.note(now.mono, incoming, &before, outgoing.is_switch, sight)
        });
        entry.transform().apply(&mut bytes[payload]);
        rtp::set_payload_type(bytes, entry.to);
        // A frame of video ends at its marker: a switch must not invent one.
        rtp::set_marker(bytes, media.is_marked || (outgoing.is_switch && route.is_video == 0));
        rtp::set_sequence(bytes, outgoing.sequence);
        rtp::set_timestamp(bytes, outgoing.timestamp);
        rtp::set_ssrc(bytes, route.ssrc);
        if let Some(keys) = &self.derived[route.to as usize].tx {
            keys.protect_rtp(&mut stream.tx, packet)?;
        }
        stream.packets += 1;
        stream.octets += media.payload_len as u64;
        to.counters.tx_packets += 1;
        to.counters.tx_bytes += packet.len() as u64;
        sections.relays[(route.relay - 1) as usize].forwarded += 1;
        Ok(wants_keyframe)
    }
}
