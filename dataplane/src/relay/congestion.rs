//! What a browser is told of its way to us: when its packets came (transport-wide congestion control), and how much the other side
//! takes (REMB). It sets its bit rate by both.

use std::time::Duration;

use gangway_shared::time::Time;

use super::{Now, Output, Relays};
use crate::{
    arena::RX_STREAMS_MAX,
    wire::{
        be16,
        rtcp::{self, Arrivals, STATUSES_MAX},
        rtp,
    },
};

/// A report of arrivals follows the first packet that it tells of by so much. Browsers expect 50 to 250 ms.
const ARRIVALS_AFTER: Duration = Duration::from_millis(50);
/// The limit is told again after so long: its message can be lost.
const LIMIT_EVERY: Duration = Duration::from_secs(1);
/// What is told in bits per second when a limit is gone: more than any camera sends. A sender keeps to the last REMB for ever.
const LIFTED_BPS: u64 = 1 << 30;
/// So often.
const LIFTS: u32 = 3;
/// Packets of a browser whose arrival is known: two seconds of 6 Mbit/s.
const LOG_LEN: usize = 1024;
/// Numbers that jump by more begin anew.
const JUMP_MAX: u16 = LOG_LEN as u16 / 2;
/// Reports in one go: more than 1200 packets in [`ARRIVALS_AFTER`] are told of by the next ones.
const REPORTS_MAX: usize = 3;

/// When the packets of one browser came, by their transport-wide numbers.
#[derive(Debug)]
pub(super) struct ArrivalLog {
    /// By number modulo the length, in microseconds plus one; 0: it did not come.
    times: Box<[u64; LOG_LEN]>,
    /// The first number that is not reported yet.
    next: u16,
    /// The highest number that came.
    highest: u16,
    /// SSRC of the last packet: reports speak of a stream of the browser's own, or Chromium drops them.
    media: u32,
    is_started: bool,
    due: Option<Time>,
}

impl Default for ArrivalLog {
    fn default() -> Self {
        ArrivalLog { times: Box::new([0; LOG_LEN]), next: 0, highest: 0, media: 0, is_started: false, due: None }
    }
}

fn place(number: u16) -> usize {
    usize::from(number) % LOG_LEN
}

impl ArrivalLog {
    /// Forgets all that came before packet `number`.
    fn begin(&mut self, number: u16) {
        self.times.fill(0);
        (self.next, self.highest, self.is_started) = (number, number, true);
    }

    /// Notes a packet of the stream `media`. True when that is the first to be reported.
    fn note(&mut self, now: Time, number: u16, media: u32) -> bool {
        let step = number.wrapping_sub(self.highest).cast_signed();
        // Without room for what was not reported: nothing could be sent for long.
        let is_beyond = step > 0 && usize::from(number.wrapping_sub(self.next)) >= LOG_LEN;
        if !self.is_started || step.unsigned_abs() > JUMP_MAX || is_beyond {
            self.begin(number);
        } else if step > 0 {
            (1..step.unsigned_abs()).for_each(|skipped| self.times[place(self.highest.wrapping_add(skipped))] = 0);
            self.highest = number;
        } else if self.times[place(number)] != 0 {
            return false;
        } else if number.wrapping_sub(self.next).cast_signed() < 0 {
            // It was reported as missing.
            self.next = number;
        }
        self.media = media;
        self.times[place(number)] = now.as_micros() + 1;
        let is_first = self.due.is_none();
        self.due.get_or_insert(now + ARRIVALS_AFTER);
        is_first
    }

    pub(super) fn due(&self) -> Option<Time> {
        self.due
    }

    /// The times of what is not reported yet, from `next` on; how many. Loss that fills a report by itself is passed over: a report
    /// must hold a packet that came.
    fn pending(&mut self, times: &mut [u64; STATUSES_MAX]) -> usize {
        let mut count = usize::from(self.highest.wrapping_sub(self.next).wrapping_add(1));
        let lost = (0..count).take_while(|at| self.times[place(self.next.wrapping_add(*at as u16))] == 0).count();
        if lost >= STATUSES_MAX {
            self.next = self.next.wrapping_add(lost as u16);
            count -= lost;
        }
        let count = count.min(STATUSES_MAX);
        for (at, time) in times[..count].iter_mut().enumerate() {
            *time = self.times[place(self.next.wrapping_add(at as u16))];
        }
        count
    }
}

impl Relays {
    /// Notes when a packet of a browser came that says its transport-wide number.
    pub(super) fn note_arrival(&mut self, now: Now, slot: u32, bytes: &[u8]) {
        let id = self.arena.leg(slot).transport_cc as u8;
        let Some(log) = self.derived[slot as usize].arrivals.as_mut().filter(|_| id != 0) else { return };
        let number = rtp::extension(bytes, id).filter(|value| value.len() >= 2).map(|value| be16(value, 0));
        if number.is_some_and(|number| log.note(now.mono, number, rtp::ssrc_of(bytes))) {
            self.schedule(slot);
        }
    }

    /// Does what is due of both.
    pub(super) fn expire_congestion(&mut self, now: Now, slot: u32, out: &mut impl Output) {
        let due = self.derived[slot as usize].arrivals.as_ref().and_then(ArrivalLog::due);
        if due.is_some_and(|at| at <= now.mono) {
            self.report_arrivals(slot, out);
        }
        let leg = self.arena.leg_mut(slot);
        if leg.limit_at != 0 && leg.limit_at <= now.mono.as_micros() + 1 {
            let is_lifted = leg.lifts > 0;
            leg.lifts = leg.lifts.saturating_sub(1);
            let is_last = is_lifted && leg.lifts == 0;
            leg.limit_at = if is_last { 0 } else { (now.mono + LIMIT_EVERY).as_micros() + 1 };
            self.tell_limit(slot, is_lifted, out);
        }
    }

    fn report_arrivals(&mut self, slot: u32, out: &mut impl Output) {
        for _ in 0..REPORTS_MAX {
            let Some(log) = self.derived[slot as usize].arrivals.as_mut() else { return };
            log.due = None;
            let mut times_us = [0; STATUSES_MAX];
            let count = log.pending(&mut times_us);
            let (base, media) = (log.next, log.media);
            if count == 0 {
                return;
            }
            let leg = self.arena.leg_mut(slot);
            leg.arrival_reports = leg.arrival_reports.wrapping_add(1);
            let number = leg.arrival_reports as u8;
            let mut told = 0;
            self.send_feedback(slot, out, |buffer, sender| {
                let report = Arrivals { sender, media, count: number, base, times_us: &times_us[..count] };
                let (len, count) = rtcp::write_arrivals(buffer, &report)?;
                told = count;
                Some(len)
            });
            let Some(log) = self.derived[slot as usize].arrivals.as_mut().filter(|_| told > 0) else { return };
            log.next = log.next.wrapping_add(told as u16);
            if log.next == log.highest.wrapping_add(1) {
                return;
            }
        }
    }

    /// SSRCs of the video that a leg's peer sends, or sent before a hold, with what their destinations take in kbit/s (0: unknown).
    fn video_sources(&self, slot: u32) -> impl Iterator<Item = (u32, u32)> {
        let derived = &self.derived[slot as usize];
        let routes = derived.routes[..derived.route_count].iter().map(|route| self.arena.route(*route));
        let video = routes.filter(|route| route.is_video == 1);
        let sources = video.map(|route| {
            let source = if route.source.used == 1 { &route.source } else { &route.former };
            (source, route.limit_kbps)
        });
        sources.filter(|(source, _)| source.used == 1).map(|(source, limit)| (source.ssrc, limit))
    }

    fn tell_limit(&mut self, slot: u32, is_lifted: bool, out: &mut impl Output) {
        let mut ssrcs = [0; RX_STREAMS_MAX];
        let (mut count, mut kbps) = (0, 0);
        for (ssrc, limit) in self.video_sources(slot).filter(|(_, limit)| is_lifted || *limit != 0).take(RX_STREAMS_MAX)
        {
            (ssrcs[count], kbps) = (ssrc, kbps + u64::from(limit));
            count += 1;
        }
        let limit_bps = if is_lifted { LIFTED_BPS } else { kbps * 1000 };
        if count > 0 {
            self.send_feedback(slot, out, |buffer, sender| {
                rtcp::write_remb(buffer, sender, limit_bps, &ssrcs[..count])
            });
        }
    }

    /// A limit came, changed or went, or a source began to which one applies: its sender is told at once.
    pub(super) fn set_limit(&mut self, now: Now, slot: u32) {
        let derived = &self.derived[slot as usize];
        let mut routes = derived.routes[..derived.route_count].iter();
        let is_limited = routes.any(|route| self.arena.route(*route).limit_kbps != 0);
        let leg = self.arena.leg_mut(slot);
        let at_once = now.mono.as_micros() + 1;
        match (leg.takes_remb == 1, is_limited) {
            (false, _) => (leg.limit_at, leg.lifts) = (0, 0),
            (true, true) => (leg.limit_at, leg.lifts) = (at_once, 0),
            (true, false) if leg.limit_at != 0 && leg.lifts == 0 => (leg.limit_at, leg.lifts) = (at_once, LIFTS),
            (true, false) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(log: &mut ArrivalLog) -> (u16, Vec<bool>) {
        let mut times = [0; STATUSES_MAX];
        let count = log.pending(&mut times);
        (log.next, times[..count].iter().map(|time| *time != 0).collect())
    }

    #[test]
    fn what_came_and_what_did_not_is_known_over_the_wrap() {
        let mut log = ArrivalLog::default();
        assert!(log.note(Time::from_millis(1), 65_534, 7));
        assert_eq!(log.due(), Some(Time::from_millis(51)));
        assert!(!log.note(Time::from_millis(2), 1, 7));
        assert!(!log.note(Time::from_millis(3), 65_535, 7));
        assert_eq!(pending(&mut log), (65_534, vec![true, true, false, true]));
        (log.next, log.due) = (2, None);
        assert!(log.note(Time::from_millis(60), 0, 7), "late");
        assert_eq!(pending(&mut log), (0, vec![true, true]), "what was said to be missing is told again");
        log.due = None;
        assert!(!log.note(Time::from_millis(61), 0, 7), "a double");
    }

    #[test]
    fn loss_that_fills_a_report_is_passed_over_and_what_nobody_was_told_gives_way() {
        let mut log = ArrivalLog::default();
        log.note(Time::from_millis(1), 10, 7);
        log.next = 11;
        log.note(Time::from_millis(2), 10 + STATUSES_MAX as u16, 7);
        assert_eq!(pending(&mut log).1.len(), STATUSES_MAX, "the last one that one report can speak of came");
        log.note(Time::from_millis(2), 411 + STATUSES_MAX as u16, 7);
        log.next = 411;
        assert_eq!(pending(&mut log), (411 + STATUSES_MAX as u16, vec![true]));
        for number in 811..3000 {
            log.note(Time::from_millis(3), number, 8);
            let pending = log.highest - log.next;
            assert!(usize::from(pending) < LOG_LEN, "{number}");
        }
        assert_eq!((log.highest, log.media), (2999, 8));
        assert!(pending(&mut log).1.iter().all(|came| *came), "no place is told of twice");
    }

    #[test]
    fn a_jump_begins_anew_and_a_burst_is_told_in_parts() {
        let mut log = ArrivalLog::default();
        log.note(Time::from_millis(1), 10, 7);
        log.note(Time::from_millis(2), 10 + JUMP_MAX + 1, 7);
        assert_eq!(pending(&mut log), (10 + JUMP_MAX + 1, vec![true]));
        log.note(Time::from_millis(2), 10 + 2 * JUMP_MAX + 1, 7);
        assert_eq!(pending(&mut log).1.len(), STATUSES_MAX);
        for round in 0..4 {
            for number in 0..LOG_LEN as u16 {
                log.note(Time::from_millis(3), number.wrapping_mul(7).wrapping_add(round), 7);
            }
        }
    }
}
