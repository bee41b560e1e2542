//! Lost video: packets that a receiver misses are sent again, and what a source sends again finds its place.
//!
//! A receiver asks by NACK (RFC 4585 section 6.2.1). Where a retransmission stream was agreed (RFC 4588) the packet goes there, with
//! a number and under an index of its own; else it is the datagram of the first time, byte by byte, because another one under the
//! same index would use its keystream twice.

use std::time::Duration;

use super::{
    Now, Output, Relays,
    history::Form,
    rewrite::{MAX_MISORDER, ahead},
    table::mix,
};
use crate::{
    arena::{OutStream, RouteRecord, RtxEntry},
    wire::{
        DropReason, Packet, be16,
        rtcp::LostPackets,
        rtp::{self, FIXED_HEADER_LEN},
    },
};

/// Packets that one NACK gets at most. The browser's next one, a round trip later, brings the rest.
const RESENDS_PER_REQUEST: usize = 48;
/// Length in bytes of the original sequence number in front of a retransmission (RFC 4588 section 4).
const ORIGINAL_LEN: usize = 2;

impl RouteRecord {
    /// The retransmission payload type that stands for `pt` towards the destination.
    pub(super) fn rtx_of(&self, pt: u8) -> Option<u8> {
        let entries = &self.rtx[..usize::from(self.rtx_count)];
        entries.iter().find(|entry| entry.apt == pt).filter(|_| self.rtx_out != 0).map(|entry| entry.pt)
    }

    /// What the source's payload type `pt` sends again.
    fn sent_again_by(&self, pt: u8) -> Option<RtxEntry> {
        let entries = &self.source_rtx[..usize::from(self.source_rtx_count)];
        entries.iter().find(|entry| entry.pt == pt).copied()
    }
}

impl OutStream {
    /// The next number of a stream of the relay's own making. The first is below 2^15, so that a receiver that misses it guesses the
    /// right rollover (RFC 3711 section 3.3.1).
    fn next_number(&mut self, now: Now, seed: u64) -> u16 {
        let next = match self.sent_at {
            0 => mix(seed ^ u64::from(self.tx.ssrc())) as u16 & 0x3fff,
            _ => (self.sequence as u16).wrapping_add(1),
        };
        (self.sequence, self.sent_at) = (next.into(), now.mono.as_micros() + 1);
        next
    }
}

impl Relays {
    /// The peer of `slot` misses packets of a stream that it is sent.
    pub(super) fn send_again(
        &mut self,
        now: Now,
        slot: u32,
        media: u32,
        lost: &LostPackets<'_>,
        out: &mut impl Output,
    ) {
        let streams = self.arena.out(slot);
        let stream = streams.of(media).map(|index| streams[index].route);
        let Some(route) = stream.and_then(|route| route.checked_sub(1)) else { return };
        if self.arena.route(route).is_kept == 0 {
            return;
        }
        for (at, sequence) in lost.sequences().enumerate() {
            let sent = match at {
                0..RESENDS_PER_REQUEST => self.send_one_again(now, route, sequence, out),
                _ => Err(DropReason::ResendOverBudget),
            };
            match sent {
                Ok(()) => {
                    self.counters.sent += 1;
                    self.arena.leg_mut(slot).counters.resent += 1;
                }
                Err(reason) => self.count_on(Some(slot), reason),
            }
        }
    }

    fn send_one_again(&mut self, now: Now, route: u32, sequence: u16, out: &mut impl Output) -> Result<(), DropReason> {
        let (port, to) = self.target_of(route)?;
        let mut sections = self.arena.sections();
        let record = &sections.routes[route as usize];
        let leg = &sections.legs[record.to as usize];
        let round_trip = leg.round_trip.checked_sub(1).map(Duration::from_micros);
        let (form, bytes) = self.history.take(now.mono, route, sequence, round_trip)?;
        let is_sent = if form == Form::AsSent {
            out.transmit(port, to, |buffer| {
                buffer[..bytes.len()].copy_from_slice(bytes);
                bytes.len()
            })
        } else {
            let (index, pt) =
                record.rtx_of(bytes[1] & 0x7f).map(|pt| (record.rtx_out - 1, pt)).ok_or(DropReason::ResendUnknown)?;
            let stream = &mut sections.out[(record.to, index as usize)];
            let keys = &self.derived[record.to as usize].tx;
            let number = stream.next_number(now, self.config.seed);
            let own = leg.own_at();
            let mut sealed = Ok(());
            let has_buffer = out.transmit(port, to, |buffer| {
                let len = bytes.len() + ORIGINAL_LEN;
                let (header, payload) = bytes.split_at(FIXED_HEADER_LEN);
                buffer[..FIXED_HEADER_LEN].copy_from_slice(header);
                buffer[FIXED_HEADER_LEN..][..ORIGINAL_LEN].copy_from_slice(&sequence.to_be_bytes());
                buffer[FIXED_HEADER_LEN + ORIGINAL_LEN..len].copy_from_slice(payload);
                // Its padding was not kept.
                rtp::clear_padding(buffer);
                rtp::set_payload_type(buffer, pt);
                rtp::set_sequence(buffer, number);
                rtp::set_ssrc(buffer, stream.tx.ssrc());
                let mut packet = Packet::new(buffer, 0, len);
                if let Some(keys) = keys {
                    sealed = keys.protect_rtp(stream.tx_under(own), &mut packet);
                }
                if sealed.is_ok() { packet.len() } else { 0 }
            });
            sealed?;
            stream.packets += u64::from(has_buffer);
            has_buffer
        };
        if is_sent { Ok(()) } else { Err(DropReason::BuffersExhausted) }
    }

    /// Makes a retransmission of a leg's source the packet that it stands for, in place. False when the packet is none.
    ///
    /// # Errors
    /// `RepairNotNeeded` when the packet that it stands for is not missing, or the retransmission is empty.
    pub(super) fn unwrap_repair(&mut self, slot: u32, pt: u8, packet: &mut Packet<'_>) -> Result<bool, DropReason> {
        let derived = &self.derived[slot as usize];
        let mut is_repair = false;
        for route in &derived.routes[..derived.route_count] {
            let record = self.arena.route(*route);
            let Some(entry) = record.sent_again_by(pt) else { continue };
            is_repair = true;
            let payload_len = rtp::Rtp::parse(packet.bytes())?.payload().len();
            if payload_len <= ORIGINAL_LEN || record.source.used == 0 {
                continue;
            }
            let original = be16(packet.bytes(), FIXED_HEADER_LEN);
            let step = ahead(&record.source, original);
            if !(-MAX_MISORDER..0).contains(&step) || !record.pictures.is_missing(step.unsigned_abs()) {
                continue;
            }
            packet.bytes_mut().copy_within(..FIXED_HEADER_LEN, ORIGINAL_LEN);
            packet.trim_front(ORIGINAL_LEN);
            rtp::set_payload_type(packet.bytes_mut(), entry.apt);
            rtp::set_sequence(packet.bytes_mut(), original);
            rtp::set_ssrc(packet.bytes_mut(), record.source.ssrc);
            return Ok(true);
        }
        if is_repair { Err(DropReason::RepairNotNeeded) } else { Ok(false) }
    }

    /// The routes to a leg forget what they sent: its keys changed.
    pub(super) fn forget_sent(&mut self, slot: u32) {
        for route in self.arena.out(slot).iter().filter_map(|stream| stream.route.checked_sub(1)) {
            self.history.forget(route);
        }
    }
}
