//! RTCP, terminated on each leg (docs/ARCHITECTURE.md, dataplane decision 8): what peers report is read here and goes no further;
//! what they are told is made here.
//!
//! All streams of a relay share one CNAME and one NTP base, and a sender report carries the source's own relation of NTP and RTP
//! time, extrapolated from its last report, so that audio and video stay in sync across the relay. Until the source reported, the
//! arrival of its packets stands in: of those that were least delayed, so that the jitter of one path is not taken for its length. What
//! a peer's clock is worth on ours is measured by the same packets, and is one number for all legs of a host: its streams share a clock.

use std::{net::SocketAddr, time::Duration};

use gangway_shared::time::{Time, WallTime};

use super::{
    Now, Output, Relays, Verdict,
    rewrite::{MAX_DROPOUT, MAX_MISORDER, ticks},
    table::mix,
};
use crate::{
    arena::{Column, Earliest, LegRecord, OutStream, RX_STREAMS_MAX, Reception, RelayRecord, RouteRecord, RxSlot},
    wire::{
        DropReason, Packet,
        rtcp::{self, Compound, ReportBlock, RtcpPacket, SenderInfo},
    },
};

/// A sender report that moves the peer's clock by more was sent after it was set; smaller differences are transit.
const CLOCK_STEP: Duration = Duration::from_millis(500);
/// The least delayed packet is looked for in the present span of this length and the one before: longer ones would see two clocks drift
/// apart, shorter ones less of the jitter.
const EARLIEST_SPAN: Duration = Duration::from_secs(10);
/// A peer's clock that seems to run behind is believed by one part in so many with each report: a report that was held up looks the same.
const OFFSET_RISE: i64 = 8;
/// Relations of RTP to NTP time that lie further apart than so many seconds speak of different timelines.
const RELATION_TOLERANCE_S: u32 = 2;

impl Reception {
    /// Notes a packet (RFC 3550 appendix A.1, A.8).
    pub(super) fn note(&mut self, now: Time, sequence: u16, timestamp: u32, clock: u32, is_event: bool) {
        self.received += 1;
        match self.highest.checked_sub(1) {
            None => self.restart(sequence),
            Some(highest) => {
                let step = sequence.wrapping_sub(highest as u16).cast_signed();
                if !(-MAX_MISORDER..=MAX_DROPOUT).contains(&step) {
                    self.expected_before = self.expected();
                    self.restart(sequence);
                } else if step > 0 {
                    self.highest += u64::from(step.unsigned_abs());
                } else if step < 0 {
                    self.reordered += 1;
                }
            }
        }
        // Packets of one instant (a video frame, a telephone event) were sent apart on purpose: they say nothing about jitter.
        if is_event || (timestamp == self.timestamp && self.clock == clock && self.arrived_at != 0) {
            return;
        }
        if self.arrived_at != 0 && clock != 0 && self.clock == clock {
            let passed = i64::from(ticks(now.since(Time::from_micros(self.arrived_at)), clock));
            let advance = i64::from(timestamp.wrapping_sub(self.timestamp).cast_signed());
            let transit = (passed - advance).unsigned_abs();
            if transit < 10 * u64::from(clock) {
                self.jitter_x16 = (self.jitter_x16 + transit).saturating_sub((self.jitter_x16 + 8) >> 4);
            }
        }
        if self.clock != clock {
            self.earliest = [Earliest::default(); 2];
        }
        (self.arrived_at, self.timestamp, self.clock) = (now.as_micros(), timestamp, clock);
        self.note_delay(now, timestamp);
    }

    /// How many ticks later than `earliest` a packet came, against their timestamps; negative: it was delayed less.
    fn delay_since(&self, earliest: &Earliest, at: u64, timestamp: u32) -> i64 {
        let passed = at.saturating_sub(earliest.at) as i64 * i64::from(self.clock) / 1_000_000;
        passed - i64::from(timestamp.wrapping_sub(earliest.timestamp).cast_signed())
    }

    fn note_delay(&mut self, now: Time, timestamp: u32) {
        let at = now.as_micros();
        let fresh = Earliest { since: at + 1, at, timestamp, reserved: 0 };
        let present = self.earliest[0];
        let delay = self.delay_since(&present, at, timestamp);
        let is_jump = delay.unsigned_abs() > u64::from(RELATION_TOLERANCE_S * self.clock);
        if present.since == 0 || is_jump {
            self.earliest = [fresh, Earliest::default()];
        } else if now.since(Time::from_micros(present.since - 1)) >= EARLIEST_SPAN {
            self.earliest = [fresh, present];
        } else if delay < 0 {
            self.earliest[0] = Earliest { since: present.since, ..fresh };
        }
    }

    /// The packet that was least delayed lately: when it came and its timestamp.
    fn earliest(&self) -> Option<(Time, u32)> {
        let [present, former] = &self.earliest;
        let is_later = former.since != 0 && self.delay_since(former, present.at, present.timestamp) > 0;
        let earliest = if is_later { former } else { present };
        (earliest.since != 0).then(|| (Time::from_micros(earliest.at), earliest.timestamp))
    }

    fn restart(&mut self, sequence: u16) {
        self.base = sequence.into();
        self.highest = u64::from(sequence) + 1;
    }

    fn expected(&self) -> u64 {
        self.expected_before + self.highest.saturating_sub(self.base)
    }

    /// Packets lost so far; duplicates make it negative (RFC 3550 appendix A.3).
    pub(super) fn lost(&self) -> i64 {
        self.expected() as i64 - self.received as i64
    }

    /// Interarrival jitter in microseconds.
    pub(super) fn jitter_us(&self) -> u64 {
        if self.clock == 0 { 0 } else { (self.jitter_x16 >> 4) * 1_000_000 / u64::from(self.clock) }
    }

    fn is_news(&self) -> bool {
        self.received > self.received_reported
    }

    /// What a report says of the source. The next one's fraction counts from here.
    fn report(&mut self, now: Time, ssrc: u32) -> ReportBlock {
        let expected = self.expected();
        let expected_now = expected - self.expected_reported.min(expected);
        let received_now = self.received - self.received_reported;
        (self.expected_reported, self.received_reported) = (expected, self.received);
        let lost_now = expected_now.saturating_sub(received_now);
        ReportBlock {
            ssrc,
            fraction_lost: (lost_now << 8).checked_div(expected_now).unwrap_or(0).min(255) as u8,
            cumulative_lost: self.lost().clamp(-0x80_0000, 0x7f_ffff) as i32,
            highest_sequence: self.highest.saturating_sub(1) as u32,
            jitter: (self.jitter_x16 >> 4).min(u32::MAX.into()) as u32,
            last_sr: rtcp::ntp_middle(self.sr_ntp),
            delay_since_last_sr: match self.sr_ntp {
                0 => 0,
                _ => rtcp::delay_since_last_report(now.since(Time::from_micros(self.sr_at))),
            },
        }
    }
}

impl RelayRecord {
    /// Now on the relay's NTP base, which no step of the wall clock moves.
    fn ntp(&self, now: Time) -> u64 {
        let age = now.since(Time::from_micros(self.base_mono));
        rtcp::ntp_add(WallTime::from_unix_micros(self.base_wall).to_ntp(), age)
    }
}

/// Whether two offsets of a peer's clock are one but for the delay of packets.
fn is_near(one: u64, other: u64) -> bool {
    one.wrapping_sub(other).cast_signed().unsigned_abs() <= (CLOCK_STEP.as_millis() << 32) as u64 / 1000
}

/// A signed difference of NTP times as clock ticks.
fn ntp_ticks(difference: i64, clock: u32) -> u32 {
    ((i128::from(difference) * i128::from(clock)) >> 32) as u32
}

/// What the source's clock shows at NTP time `ntp`, in the route's timestamps.
fn rtp_time(
    now: Now,
    ntp: u64,
    (from, heard): (&LegRecord, Column<'_, RxSlot>),
    route: &RouteRecord,
    stream: &OutStream,
) -> u32 {
    let source = &route.source;
    if route.fill.is_running == 1 {
        return stream
            .timestamp
            .wrapping_add(ticks(now.mono.since(Time::from_micros(stream.sent_at - 1)), stream.clock));
    }
    let heard = heard.iter().filter(|slot| slot.used == 1 && slot.stream.ssrc() == source.ssrc);
    let heard = heard.max_by_key(|slot| slot.epoch).map(|slot| &slot.reception);
    let earliest = heard.filter(|heard| heard.clock == stream.clock).and_then(Reception::earliest);
    let (at, timestamp) = earliest.unwrap_or((Time::from_micros(source.at), source.timestamp));
    let by_arrival = timestamp.wrapping_add(ticks(now.mono.since(at), stream.clock));
    let reported = heard.filter(|heard| heard.sr_ntp != 0);
    let by_report = reported.filter(|_| from.has_ntp_offset == 1).map(|heard| {
        let sampled = heard.sr_ntp.wrapping_add(from.ntp_offset);
        heard.sr_rtp.wrapping_add(ntp_ticks(ntp.wrapping_sub(sampled).cast_signed(), stream.clock))
    });
    // A source whose timestamps jumped since its last report is not on that report's timeline any more.
    let tolerance = RELATION_TOLERANCE_S * stream.clock;
    let is_plausible = |rtp: &u32| rtp.wrapping_sub(by_arrival).cast_signed().unsigned_abs() <= tolerance;
    by_report.filter(is_plausible).unwrap_or(by_arrival).wrapping_add(source.timestamp_offset)
}

impl Relays {
    /// Reads a compound that a leg's peer sent. Nothing of it goes on: BYE too ends with its leg, because the relay's own stream
    /// goes on with the next source.
    pub(super) fn on_rtcp(
        &mut self,
        now: Now,
        slot: u32,
        (from, is_muxed): (SocketAddr, bool),
        packet: &mut Packet<'_>,
        out: &mut impl Output,
    ) -> Result<Verdict, DropReason> {
        let is_peer = self.admit_rtcp(now, slot, from, is_muxed, packet, out)?;
        let compound = Compound::parse(packet.bytes())?;
        if is_peer {
            self.note_heard(now, slot);
        }
        self.arena.leg_mut(slot).counters.rx_rtcp += 1;
        for packet in compound.packets() {
            match packet {
                RtcpPacket::SenderReport { info, reports } => {
                    self.note_sender_report(now, slot, &info);
                    reports.iter().for_each(|block| self.note_report(now, slot, &block));
                }
                RtcpPacket::ReceiverReport { reports, .. } => {
                    reports.iter().for_each(|block| self.note_report(now, slot, &block));
                }
                RtcpPacket::PictureLoss { media, .. } => self.want_keyframe(now, slot, media, out),
                RtcpPacket::FullIntra { entries, .. } => {
                    entries.iter().for_each(|(media, _)| self.want_keyframe(now, slot, media, out));
                }
                RtcpPacket::Nack { media, lost, .. } => self.send_again(now, slot, media, &lost, out),
                RtcpPacket::SourceDescription(_)
                | RtcpPacket::Bye(_)
                | RtcpPacket::BandwidthEstimate { .. }
                | RtcpPacket::TransportCongestion { .. }
                | RtcpPacket::Other { .. } => {}
            }
        }
        Ok(Verdict::Consumed)
    }

    fn note_sender_report(&mut self, now: Now, slot: u32, info: &SenderInfo) {
        let offset = self.clock_offset(now, slot, info);
        self.set_clock(slot, offset);
        let mut leg = self.arena.whole_leg(slot);
        let streams = leg.rx.iter_mut().filter(|slot| slot.used == 1 && slot.stream.ssrc() == info.ssrc);
        for stream in streams {
            let reception = &mut stream.reception;
            (reception.sr_ntp, reception.sr_rtp) = (info.ntp, info.rtp_timestamp);
            reception.sr_at = now.mono.as_micros();
        }
    }

    /// What is added to the NTP time of a sender report to get ours. The report's own way here says it but for its delay; the stream's
    /// packets say it better, because the least delayed of many is known.
    fn clock_offset(&self, now: Now, slot: u32, info: &SenderInfo) -> u64 {
        let leg = self.arena.leg(slot);
        let relay = self.arena.relay(leg.relay_slot());
        let by_report = relay.ntp(now.mono).wrapping_sub(info.ntp);
        let heard = self.arena.rx(slot);
        let heard = heard.iter().filter(|slot| slot.used == 1 && slot.stream.ssrc() == info.ssrc);
        let heard = heard.max_by_key(|slot| slot.epoch).map(|slot| &slot.reception).filter(|heard| heard.clock != 0);
        let by_packet = heard.and_then(|heard| {
            let (at, timestamp) = heard.earliest()?;
            let ticks = i128::from(timestamp.wrapping_sub(info.rtp_timestamp).cast_signed());
            let sampled = info.ntp.wrapping_add(((ticks << 32) / i128::from(heard.clock)) as u64);
            Some(relay.ntp(at).wrapping_sub(sampled))
        });
        by_packet.filter(|offset| is_near(*offset, by_report)).unwrap_or(by_report)
    }

    /// Takes a measurement of the clock of a leg's peer, for all legs of its host: their streams are in sync only by one and the same
    /// offset.
    fn set_clock(&mut self, slot: u32, measured: u64) {
        let sections = self.arena.sections();
        let leg = &sections.legs[slot as usize];
        let relay = &sections.relays[leg.relay_slot() as usize];
        let (host, of_relay) = (leg.host(), relay.legs);
        let is_of_host =
            |other: u32, legs: &[LegRecord]| other == slot || (host.is_some() && legs[other as usize].host() == host);
        let of_relay = of_relay.iter().filter_map(|leg| leg.checked_sub(1));
        let near = |leg: &LegRecord, offset| leg.has_ntp_offset == 1 && is_near(leg.ntp_offset, offset);
        let known = of_relay.clone().filter(|other| is_of_host(*other, sections.legs));
        let known = known.map(|other| &sections.legs[other as usize]).filter(|leg| near(leg, measured));
        let known = known.map(|leg| leg.ntp_offset).min_by_key(|offset| offset.wrapping_sub(measured).cast_signed());
        let offset = known.map_or(measured, |known| {
            let rise = measured.wrapping_sub(known).cast_signed();
            if rise < 0 { measured } else { known.wrapping_add_signed(rise / OFFSET_RISE) }
        });
        for other in of_relay {
            let is_of_host = is_of_host(other, sections.legs);
            let leg = &mut sections.legs[other as usize];
            if other == slot || (is_of_host && near(leg, offset)) {
                (leg.ntp_offset, leg.has_ntp_offset) = (offset, 1);
            }
        }
    }

    fn note_report(&mut self, now: Now, slot: u32, block: &ReportBlock) {
        let leg = self.arena.leg(slot);
        let ntp = self.arena.relay(leg.relay_slot()).ntp(now.mono);
        let Some(index) = self.arena.out(slot).of(block.ssrc) else { return };
        let mut leg = self.arena.whole_leg(slot);
        (leg.out[index].peer_lost, leg.out[index].peer_jitter) = (block.cumulative_lost, block.jitter);
        if let Some(round_trip) = rtcp::round_trip_time(ntp, block.last_sr, block.delay_since_last_sr) {
            leg.record.round_trip = round_trip.as_micros() as u64 + 1;
        }
    }

    /// Sends the reports of one leg: SR of each stream that sent since the last report, else RR; the blocks about what the leg
    /// receives go with the first.
    pub(super) fn report(&mut self, now: Now, slot: u32, out: &mut impl Output) {
        if self.arena.leg(slot).rtcp_target().is_err() {
            return;
        }
        let mut blocks = [ReportBlock::default(); RX_STREAMS_MAX];
        let mut count = 0;
        let mut leg = self.arena.whole_leg(slot);
        for rx in leg.rx.iter_mut().filter(|rx| rx.used == 1 && rx.reception.is_news()) {
            blocks[count] = rx.reception.report(now.mono, rx.stream.ssrc());
            count += 1;
        }
        let mut has_sent = false;
        for index in 0..self.arena.out(slot).len() {
            let stream = &self.arena.out(slot)[index];
            if stream.used == 1 && stream.route != 0 && stream.packets > stream.packets_reported {
                let blocks = if has_sent { &[][..] } else { &blocks[..count] };
                has_sent |= self.send_sender_report(now, slot, index, blocks, out);
            }
        }
        if !has_sent {
            self.send_receiver_report(slot, &blocks[..count], out);
        }
    }

    fn send_sender_report(
        &mut self,
        now: Now,
        slot: u32,
        index: usize,
        blocks: &[ReportBlock],
        out: &mut impl Output,
    ) -> bool {
        let leg = self.arena.leg(slot);
        let stream = self.arena.out(slot)[index];
        let route = self.arena.route(stream.route - 1);
        let relay = *self.arena.relay(leg.relay_slot());
        let ntp = relay.ntp(now.mono);
        let info = SenderInfo {
            ssrc: stream.tx.ssrc(),
            ntp,
            rtp_timestamp: rtp_time(now, ntp, (self.arena.leg(route.from), self.arena.rx(route.from)), route, &stream),
            packet_count: stream.packets as u32,
            octet_count: stream.octets as u32,
        };
        let cname = &relay.cname[..relay.cname_len as usize];
        let is_sent =
            self.send_rtcp(slot, index, out, |buffer| rtcp::write_sender_report(buffer, &info, blocks, cname));
        if is_sent {
            self.arena.sections().out[(slot, index)].packets_reported = stream.packets;
        }
        is_sent
    }

    fn send_receiver_report(&mut self, slot: u32, blocks: &[ReportBlock], out: &mut impl Output) {
        let leg = self.arena.leg(slot);
        let reporter = self.reporter(slot);
        let ssrc = self.arena.out(slot)[reporter].tx.ssrc();
        let relay = *self.arena.relay(leg.relay_slot());
        let cname = &relay.cname[..relay.cname_len as usize];
        self.send_rtcp(slot, reporter, out, |buffer| rtcp::write_receiver_report(buffer, ssrc, blocks, cname));
    }

    /// Sends a compound on a leg, from the stream at `index`. False when the leg cannot send (yet).
    pub(super) fn send_rtcp(
        &mut self,
        slot: u32,
        index: usize,
        out: &mut impl Output,
        write: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> bool {
        let mut sections = self.arena.sections();
        let leg = &mut sections.legs[slot as usize];
        let keys = &self.derived[slot as usize].tx;
        let Ok((port, to)) = leg.rtcp_target() else { return false };
        if leg.is_encrypted() && keys.is_none() {
            return false;
        }
        let stream = sections.out[(slot, index)].tx_under(leg.own_at());
        let mut is_written = false;
        let has_buffer = out.transmit(port, to, |buffer| {
            let Some(len) = write(buffer) else { return 0 };
            let mut packet = Packet::new(buffer, 0, len);
            is_written = keys.as_ref().is_none_or(|keys| keys.protect_rtcp(stream, &mut packet).is_ok());
            if is_written { packet.len() } else { 0 }
        });
        if !has_buffer {
            self.count_on(Some(slot), DropReason::BuffersExhausted);
        } else if is_written {
            leg.counters.tx_rtcp += 1;
            self.counters.sent += 1;
        }
        is_written
    }

    /// Sends feedback behind a report (RFC 3550 section 6.1); `write` is given the room and the SSRC that speaks.
    pub(super) fn send_feedback(
        &mut self,
        slot: u32,
        out: &mut impl Output,
        write: impl FnOnce(&mut [u8], u32) -> Option<usize>,
    ) -> bool {
        let leg = self.arena.leg(slot);
        let reporter = self.reporter(slot);
        let sender = self.arena.out(slot)[reporter].tx.ssrc();
        let relay = *self.arena.relay(leg.relay_slot());
        let cname = &relay.cname[..relay.cname_len as usize];
        self.send_rtcp(slot, reporter, out, |buffer| {
            let report = rtcp::write_receiver_report(buffer, sender, &[], cname)?;
            Some(report + write(&mut buffer[report..], sender)?)
        })
    }

    /// Sets the time of the leg's next report: 0.5 to 1.5 intervals ahead (RFC 3550 section 6.3.1), so that legs do not report
    /// in step.
    pub(super) fn next_report(&mut self, now: Now, slot: u32) {
        let interval = self.config.timers.rtcp_interval.as_micros() as u64;
        let seed = self.config.seed;
        let leg = self.arena.leg_mut(slot);
        leg.report_count = leg.report_count.wrapping_add(1);
        let drawn = mix(seed ^ u64::from(slot) << 32 ^ u64::from(leg.report_count)) % interval.max(1);
        leg.report_at = now.mono.as_micros() + interval / 2 + drawn;
    }
}
