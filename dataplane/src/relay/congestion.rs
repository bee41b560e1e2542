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
    is_started: bool,
    due: Option<Time>,
}

impl Default for ArrivalLog {
    fn default() -> Self {
        ArrivalLog { times: Box::new([0; LOG_LEN]), next: 0, highest: 0, is_started: false, due: None }
    }
}

fn place(number: u16) -> usize {
    usize::from(number) % LOG_LEN
}

impl ArrivalLog {
    /// Notes a packet. True when that is the first to be reported.
    fn note(&mut self, now: Time, number: u16) -> bool {
        let step = number.wrapping_sub(self.highest).cast_signed();
        if !self.is_started || step.unsigned_abs() > JUMP_MAX {
            self.times.fill(0);
            (self.next, self.highest, self.is_started) = (number, number, true);
        } else if step > 0 {
            (1..step.unsigned_abs()).for_each(|skipped| self.times[place(self.highest.wrapping_add(skipped))] = 0);
            self.highest = number;
        } else if self.times[place(number)] != 0 {
            return false;
        } else if number.wrapping_sub(self.next).cast_signed() < 0 {
            // It was reported as missing.
            self.next = number;
        }
        self.times[place(number)] = now.as_micros() + 1;
        let is_first = self.due.is_none();
        self.due.get_or_insert(now + ARRIVALS_AFTER);
        is_first
    }

    pub(super) fn due(&self) -> Option<Time> {
        self.due
    }

    /// The times of what is not reported yet, from `next` on; how many.
    fn pending(&self, times: &mut [u64; STATUSES_MAX]) -> usize {
        let count = usize::from(self.highest.wrapping_sub(self.next).wrapping_add(1)).min(STATUSES_MAX);
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
        if number.is_some_and(|number| log.note(now.mono, number)) {
            self.schedule(slot);
        }
    }

    /// Does what is due of both.
    pub(super) fn expire_congestion(&mut self, now: Now, slot: u32, out: &mut impl Output) {
        let due = self.derived[slot as usize].arrivals.as_ref().and_then(ArrivalLog::due);
        if due.is_some_and(|at| at <= now.mono) {
            self.report_arrivals(slot, out);
        }
        let limit_at = self.arena.leg(slot).limit_at;
        if limit_at != 0 && limit_at <= now.mono.as_micros() + 1 {
            self.arena.leg_mut(slot).limit_at = (now.mono + LIMIT_EVERY).as_micros() + 1;
            self.tell_limit(slot, out);
        }
    }

    fn report_arrivals(&mut self, slot: u32, out: &mut impl Output) {
        let media = self.video_sources(slot).next().map(|(ssrc, _)| ssrc);
        for _ in 0..REPORTS_MAX {
            let Some(log) = self.derived[slot as usize].arrivals.as_mut() else { return };
            log.due = None;
            let mut times_us = [0; STATUSES_MAX];
            let count = log.pending(&mut times_us);
            let base = log.next;
            let Some(media) = media.filter(|_| count > 0) else { return };
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

    /// SSRCs of the video that a leg's peer sends, with what their destinations take in kbit/s (0: unknown).
    fn video_sources(&self, slot: u32) -> impl Iterator<Item = (u32, u32)> {
        let derived = &self.derived[slot as usize];
        let routes = derived.routes[..derived.route_count].iter().map(|route| self.arena.route(*route));
        let video = routes.filter(|route| route.is_video == 1 && route.source.used == 1);
        video.map(|route| (route.source.ssrc, route.limit_kbps))
    }

    fn tell_limit(&mut self, slot: u32, out: &mut impl Output) {
        let mut ssrcs = [0; RX_STREAMS_MAX];
        let (mut count, mut kbps) = (0, 0);
        for (ssrc, limit) in self.video_sources(slot).filter(|(_, limit)| *limit != 0).take(RX_STREAMS_MAX) {
            (ssrcs[count], kbps) = (ssrc, kbps + u64::from(limit));
            count += 1;
        }
        if count > 0 {
            self.send_feedback(slot, out, |buffer, sender| {
                rtcp::write_remb(buffer, sender, kbps * 1000, &ssrcs[..count])
            });
        }
    }

    /// A limit came or changed, or a source began to which one applies: its sender is told at once.
    pub(super) fn set_limit(&mut self, now: Now, slot: u32) {
        let derived = &self.derived[slot as usize];
        let mut routes = derived.routes[..derived.route_count].iter();
        let is_limited = routes.any(|route| self.arena.route(*route).limit_kbps != 0);
        let leg = self.arena.leg_mut(slot);
        leg.limit_at = if is_limited && leg.takes_remb == 1 { now.mono.as_micros() + 1 } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(log: &ArrivalLog) -> (u16, Vec<bool>) {
        let mut times = [0; STATUSES_MAX];
        let count = log.pending(&mut times);
        (log.next, times[..count].iter().map(|time| *time != 0).collect())
    }

    #[test]
    fn what_came_and_what_did_not_is_known_over_the_wrap() {
        let mut log = ArrivalLog::default();
        assert!(log.note(Time::from_millis(1), 65_534));
        assert_eq!(log.due(), Some(Time::from_millis(51)));
        assert!(!log.note(Time::from_millis(2), 1));
        assert!(!log.note(Time::from_millis(3), 65_535));
        assert_eq!(pending(&log), (65_534, vec![true, true, false, true]));
        (log.next, log.due) = (2, None);
        assert!(log.note(Time::from_millis(60), 0), "late");
        assert_eq!(pending(&log), (0, vec![true, true]), "what was said to be missing is told again");
        log.due = None;
        assert!(!log.note(Time::from_millis(61), 0), "a double");
    }

    #[test]
    fn a_jump_begins_anew_and_a_burst_is_told_in_parts() {
        let mut log = ArrivalLog::default();
        log.note(Time::from_millis(1), 10);
        log.note(Time::from_millis(2), 10 + JUMP_MAX + 1);
        assert_eq!(pending(&log), (10 + JUMP_MAX + 1, vec![true]));
        log.note(Time::from_millis(2), 10 + 2 * JUMP_MAX + 1);
        assert_eq!(pending(&log).1.len(), STATUSES_MAX);
        for round in 0..4 {
            for number in 0..LOG_LEN as u16 {
                log.note(Time::from_millis(3), number.wrapping_mul(7).wrapping_add(round));
            }
        }
    }
}
