//! From a leg to others: payload types choose the route, the route changes the packet, the destination's keys close it.

use std::net::SocketAddr;

use gangway_shared::rcp::{Codec, Payload, PayloadMap, Process};

use super::{
    Now, Output, PortId, Relays, Verdict,
    fill::Quiet,
    history::Form,
    keyframe::{Pictures, Sight},
    parameters::Repeat,
    rewrite::{Incoming, Outgoing, ahead, rewrite},
};
use crate::{
    arena::{PayloadEntry, RouteRecord, SourceMap},
    transform::Transform,
    wire::{DropReason, Packet, h264, rtp},
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

/// Whether H.264 packets of several NAL units may be sent: `packetization-mode=1` (RFC 6184 section 6.3; absent is 0).
fn takes_aggregates(payload: &Payload) -> bool {
    let parameters = payload.fmtp.as_deref().unwrap_or_default().split(';').filter_map(|text| text.split_once('='));
    let mut modes = parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case("packetization-mode"));
    payload.codec == Codec::H264 && modes.next().is_some_and(|(_, mode)| mode.trim() == "1")
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
        aggregates: u8::from(takes_aggregates(&map.to)),
        reserved: 0,
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
    /// Whether a packet of this SSRC is of another source than what was sent last.
    fn is_other_source(&self, ssrc: u32) -> bool {
        let last = if self.source.used == 1 { &self.source } else { &self.former };
        last.used == 1 && last.ssrc != ssrc
    }

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

fn read(packet: &Packet<'_>) -> Result<(u8, Media), DropReason> {
    let view = rtp::Rtp::parse(packet.bytes())?;
    let media = Media {
        ssrc: view.ssrc(),
        sequence: view.sequence(),
        timestamp: view.timestamp(),
        is_marked: view.marker(),
        payload_len: view.payload().len(),
        is_quiet: false,
    };
    Ok((view.payload_type(), media))
}

/// What is settled of a packet before it is written.
#[derive(Clone, Copy)]
struct Numbered {
    outgoing: Outgoing,
    /// It gave a reason to ask the source for a key frame.
    wants_keyframe: bool,
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
        let (mut payload_type, mut media) = read(packet)?;
        let entry = self.entry_of(slot, payload_type);
        media.is_quiet = Quiet::is_told(entry, payload_type, media.payload_len);
        self.note_reception(now, slot, rx, entry, media);
        if self.unwrap_repair(slot, payload_type, packet)? {
            (payload_type, media) = read(packet)?;
        }
        let mut chosen: Option<(u32, PayloadEntry)> = None;
        let (mut is_held, mut is_displaced) = (false, false);
        let mut wants_keyframe = false;
        for index in 0..self.derived[slot as usize].route_count {
            let route = self.derived[slot as usize].routes[index];
            let Some(entry) = self.arena.route(route).entry(payload_type) else { continue };
            if self.arena.route(route).is_paused == 1 {
                self.overhear(route, entry, media, packet);
                is_held = true;
            } else if self.keypad.is_busy(route) {
                is_displaced = true;
            } else if let Some((route, entry)) = chosen.replace((route, entry)) {
                wants_keyframe |= self.send_copy(now, route, entry, media, packet, out);
            }
        }
        let Some((route, entry)) = chosen else {
            let has_routes = self.derived[slot as usize].route_count > 0;
            return Err(match () {
                () if is_displaced => DropReason::EventInPlace,
                () if is_held => DropReason::LegHeld,
                () if has_routes => DropReason::PayloadUnmapped,
                () => DropReason::NoRoute,
            });
        };
        let target = self.target_of(route);
        if target.is_err() {
            self.overhear(route, entry, media, packet);
        }
        let sent = target.and_then(|target| {
            let numbered = self.number(now, route, entry, media, packet, target, out)?;
            wants_keyframe |= numbered.wants_keyframe;
            self.send(now, route, entry, media, numbered.outgoing, packet)
        });
        if wants_keyframe {
            // After all copies: what several receivers miss is one wish.
            self.pursue_keyframes(now, slot, out);
        }
        let (port, to) = target?;
        sent.map(|()| Verdict::Forward { port, to })
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
            let was_quiet = std::mem::replace(&mut leg.is_quiet, media.is_quiet.into()) == 1;
            if was_quiet && !media.is_quiet {
                // Its silence is told of sooner now.
                self.schedule(slot);
            }
        }
        let reception = &mut self.arena.sections().rx[(slot, rx)].reception;
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

    /// Keeps the H.264 parameter sets of a packet that cannot go on now: a phone may send them once, before the browser is there.
    fn overhear(&mut self, route: u32, entry: PayloadEntry, media: Media, packet: &Packet<'_>) {
        let sections = self.arena.sections();
        // Those of another source than the receiver has seen are not kept: they would be forgotten with its first packet.
        if entry.pictures == Pictures::H264 as u8 && !sections.routes[route as usize].is_other_source(media.ssrc) {
            let payload = &packet.bytes()[rtp::FIXED_HEADER_LEN..][..media.payload_len];
            sections.parameters[route as usize].note(payload);
        }
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
        let target = self.target_of(route);
        if target.is_err() {
            self.overhear(route, entry, media, packet);
        }
        let numbered = target.and_then(|target| {
            let numbered = self.number(now, route, entry, media, packet, target, out)?;
            Ok((target, numbered))
        });
        let mut verdict = numbered.map(|_| ());
        if let Ok(((port, to), numbered)) = numbered {
            let had_buffer = out.transmit(port, to, |buffer| {
                let len = packet.len();
                buffer[..len].copy_from_slice(packet.bytes());
                let mut copy = Packet::new(buffer, 0, len);
                verdict = self.send(now, route, entry, media, numbered.outgoing, &mut copy);
                // A packet at the start of its buffer has no headroom to grow into: it still starts there.
                if verdict.is_ok() { copy.len() } else { 0 }
            });
            if !had_buffer {
                verdict = Err(DropReason::BuffersExhausted);
            }
        }
        match verdict {
            Ok(()) => self.counters.sent += 1,
            Err(reason) => self.count_on(Some(self.arena.route(route).to), reason),
        }
        numbered.is_ok_and(|(_, numbered)| numbered.wants_keyframe)
    }

    /// Gives a packet the numbers that it leaves with. H.264 parameter sets that a picture lacks go before it.
    #[expect(clippy::too_many_arguments, reason = "one packet with all that is known of it")]
    fn number(
        &mut self,
        now: Now,
        route_slot: u32,
        entry: PayloadEntry,
        media: Media,
        packet: &Packet<'_>,
        target: (PortId, SocketAddr),
        out: &mut impl Output,
    ) -> Result<Numbered, DropReason> {
        let mut sections = self.arena.sections();
        let route = &mut sections.routes[route_slot as usize];
        let parameters = &mut sections.parameters[route_slot as usize];
        let stream = &mut sections.out[(route.to, route.out as usize)];
        let payload = &packet.bytes()[rtp::FIXED_HEADER_LEN..][..media.payload_len];
        let is_other = route.is_other_source(media.ssrc);
        let units = (entry.pictures == Pictures::H264 as u8).then(|| h264::units(payload));
        let lacking = units.filter(|_| !is_other && parameters.may_repeat(now.mono, media.timestamp));
        let lacking = lacking.map(|units| parameters.lacking(units, entry.aggregates == 1));
        let repeat = lacking.unwrap_or_default();
        let incoming = Incoming {
            ssrc: media.ssrc,
            sequence: media.sequence,
            timestamp: media.timestamp,
            clock: entry.clock,
            is_event: entry.is_event == 1,
            insert: repeat.packets(),
        };
        // Only pictures have their gaps looked for.
        let before = if route.is_video == 1 { route.source } else { SourceMap::default() };
        let outgoing = rewrite(now.mono, &mut route.source, &mut route.former, stream, self.config.seed, incoming)?;
        if outgoing.inserted > 0 {
            parameters.note_repeated(now.mono, media.timestamp);
        }
        let is_sooner = route.fill.give_way(now.mono, media.is_quiet);
        let wants_keyframe = route.is_video == 1 && {
            // What is missing may be newer sets: those of before do not stand for them.
            let is_next = ahead(&before, media.sequence) == 1 && route.pictures.missing == 0;
            let is_whole = before.used == 0 || before.ssrc != media.ssrc || is_next;
            let has_all = is_whole && outgoing.inserted > 0 && repeat.has_sequence;
            let sight = if has_all { Sight::KeyFrame } else { Pictures::sight(entry.pictures, payload) };
            let source = &sections.legs[route.from as usize];
            route.pictures.set_patience(source.takes_nack == 1, source.round_trip);
            route.pictures.note(now.mono, incoming, &before, outgoing.is_switch, sight)
        };
        let (from, is_limited) = (route.from, outgoing.is_switch && route.limit_kbps != 0);
        for number in 0..outgoing.inserted {
            self.send_parameters(now, route_slot, entry, outgoing, repeat, number, target, out);
        }
        if let Some(units) = units.filter(|_| outgoing.is_newest) {
            let parameters = &mut self.arena.sections().parameters[route_slot as usize];
            if is_other {
                parameters.forget_seen();
            }
            parameters.note(payload);
            parameters.pass(units);
        }
        if is_limited {
            self.set_limit(now, from);
        }
        if is_sooner {
            self.schedule(from);
        }
        Ok(Numbered { outgoing, wants_keyframe })
    }

    /// Sends packet `number` of those that were inserted before a picture. One that finds no buffer is lost, as on the wire.
    #[expect(clippy::too_many_arguments, reason = "one packet with all that is known of it")]
    fn send_parameters(
        &mut self,
        now: Now,
        route: u32,
        entry: PayloadEntry,
        picture: Outgoing,
        repeat: Repeat,
        number: u16,
        (port, to): (PortId, SocketAddr),
        out: &mut impl Output,
    ) {
        let mut sealed = Ok(());
        let had_buffer = out.transmit(port, to, |buffer| {
            let record = self.arena.route(route);
            let room = &mut buffer[rtp::FIXED_HEADER_LEN..];
            let parameters = self.arena.parameters(route);
            let Some(payload_len) = parameters.write(repeat, number, room) else { return 0 };
            let header = &mut buffer[..rtp::FIXED_HEADER_LEN];
            header[..2].copy_from_slice(&[0x80, entry.to]);
            rtp::set_sequence(header, picture.sequence.wrapping_sub(picture.inserted - number));
            rtp::set_timestamp(header, picture.timestamp);
            rtp::set_ssrc(header, record.ssrc);
            let mut packet = Packet::new(buffer, 0, rtp::FIXED_HEADER_LEN + payload_len);
            sealed = self.seal(now, route, entry.to, payload_len, &mut packet);
            if sealed.is_ok() { packet.len() } else { 0 }
        });
        let leg = self.arena.route(route).to;
        match sealed {
            _ if !had_buffer => self.count_on(Some(leg), DropReason::BuffersExhausted),
            Ok(()) => self.counters.sent += 1,
            Err(reason) => self.count_on(Some(leg), reason),
        }
    }

    /// Makes a clear packet one of the route's destination.
    fn send(
        &mut self,
        now: Now,
        route_slot: u32,
        entry: PayloadEntry,
        media: Media,
        outgoing: Outgoing,
        packet: &mut Packet<'_>,
    ) -> Result<(), DropReason> {
        let route = self.arena.route(route_slot);
        let bytes = packet.bytes_mut();
        entry.transform().apply(&mut bytes[rtp::FIXED_HEADER_LEN..][..media.payload_len]);
        rtp::set_payload_type(bytes, entry.to);
        // A frame of video ends at its marker: a switch must not invent one.
        rtp::set_marker(bytes, media.is_marked || (outgoing.is_switch && route.is_video == 0));
        rtp::set_sequence(bytes, outgoing.sequence);
        rtp::set_timestamp(bytes, outgoing.timestamp);
        rtp::set_ssrc(bytes, route.ssrc);
        self.seal(now, route_slot, entry.to, media.payload_len, packet)
    }

    /// Closes a packet under the destination's key, keeps it for those who miss it, and counts it.
    fn seal(
        &mut self,
        now: Now,
        route_slot: u32,
        pt: u8,
        payload_len: usize,
        packet: &mut Packet<'_>,
    ) -> Result<(), DropReason> {
        let mut sections = self.arena.sections();
        let route = &sections.routes[route_slot as usize];
        let to = &mut sections.legs[route.to as usize];
        let stream = &mut sections.out[(route.to, route.out as usize)];
        let sequence = rtp::sequence_of(packet.bytes());
        let form = match (route.is_kept, route.rtx_of(pt)) {
            (0, _) => Form::None,
            (_, Some(_)) => Form::Clear,
            (_, None) => Form::AsSent,
        };
        if form == Form::Clear {
            // Padding stays behind: it means nothing to the receiver of a retransmission.
            let bytes = &packet.bytes()[..rtp::FIXED_HEADER_LEN + payload_len];
            self.history.keep(now.mono, route_slot, sequence, form, bytes);
        }
        if let Some(keys) = &self.derived[route.to as usize].tx {
            keys.protect_rtp(stream.tx_under(to.own_at()), packet)?;
        }
        if form == Form::AsSent {
            self.history.keep(now.mono, route_slot, sequence, form, packet.bytes());
        }
        stream.packets += 1;
        stream.octets += payload_len as u64;
        to.traffic.tx_packets += 1;
        to.traffic.tx_bytes += packet.len() as u64;
        sections.relays[(route.relay - 1) as usize].forwarded += 1;
        Ok(())
    }
}
