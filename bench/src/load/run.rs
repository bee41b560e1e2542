//! The loop: send what is due, take what has come, and nothing else on this core.

use std::{collections::VecDeque, net::SocketAddrV4, thread, time::Duration};

use gangway_dataplane::{
    affinity,
    wire::{
        Packet, PacketKind, classify,
        rtcp::{self, SenderInfo},
        rtp,
    },
};

use super::{
    Load,
    browser::{ANSWER_MAX, Heard},
    report::{Report, Times},
    stream::{AUDIO_PERIOD_NS, FRAME_PERIOD_NS, Judged},
};
use crate::{
    call::Media,
    sys::{CALL_MAX, thread_cpu_ns, wall_ns},
};

/// Nanoseconds between two RTCP reports of a stream, and two consent checks of a browser (RFC 3550 section 6.2, RFC 7675 section 5.1).
const REPORT_PERIOD_NS: u64 = 5_000_000_000;

/// Turns taken from a wheel before what came is looked at.
const DUE_MAX: usize = 64;

/// Packets a silent call sends in each direction, so that the relay knows where its peers are.
const PRIMING_PACKETS: u64 = 2;

/// A wait on a core of its own. Without waits the kernel would take the core away from who goes first, 50 ms at a time.
const NAP: Duration = Duration::from_micros(50);

/// How long a run takes.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Before anything counts.
    pub warm_up: Duration,
    /// What counts.
    pub measure: Duration,
    /// Packets that are late may still come.
    pub drain: Duration,
    /// The calling thread has a core of its own: where the kernel allows it, it goes before everything else there, and it waits by naps of
    /// microseconds. Otherwise it waits by milliseconds.
    pub has_core: bool,
}

/// Moments of a run at which the caller may look at the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The measured time begins.
    Begin,
    /// Half of it is over.
    Middle,
    /// It ends.
    End,
}

/// Turns that come round, evenly spread over a period.
struct Wheel {
    order: Vec<usize>,
    period_ns: u64,
    start_ns: u64,
    turn: u64,
    turns_max: u64,
}

impl Wheel {
    fn new(order: Vec<usize>, period_ns: u64, start_ns: u64) -> Self {
        Wheel { order, period_ns, start_ns, turn: 0, turns_max: u64::MAX }
    }

    /// Begins with who has its turn after `turns`.
    fn rotate(&mut self, turns: u64) {
        if !self.order.is_empty() {
            let by = turns % self.order.len() as u64;
            self.order.rotate_left(by as usize);
        }
    }

    /// Who has its turn at or before `now_ns`, and since when.
    fn next(&mut self, now_ns: u64) -> Option<(usize, u64)> {
        let count = self.order.len() as u64;
        if count == 0 || self.turn == self.turns_max {
            return None;
        }
        let due = self.start_ns + self.turn / count * self.period_ns + self.turn % count * self.period_ns / count;
        if due > now_ns {
            return None;
        }
        let who = self.order[(self.turn % count) as usize];
        self.turn += 1;
        Some((who, due))
    }
}

/// What a run keeps beside the calls.
struct Run {
    report: Report,
    latency: Times,
    lateness: Times,
    /// Whether the measured time goes on.
    measuring: bool,
    due: Vec<(usize, usize, u64)>,
    refused: u64,
}

impl Load {
    /// Runs the calls and says what became of every packet. `at_mark` is called in the generator's own thread, and should be quick.
    pub fn run(&mut self, timing: &Timing, at_mark: impl FnMut(Mark)) -> Report {
        let goes_first = timing.has_core && affinity::go_first().is_ok();
        let report = self.run_at_once(timing, at_mark);
        if goes_first {
            affinity::take_turns().expect("nobody is refused his turns");
        }
        report
    }

    fn run_at_once(&mut self, timing: &Timing, mut at_mark: impl FnMut(Mark)) -> Report {
        // Before the clock starts: with thousands of sockets the kernel takes its time to tell.
        let drops_before = self.sockets.drops();
        let start = wall_ns();
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let mut marks = VecDeque::from([
            (start + nanos(timing.warm_up), Mark::Begin),
            (start + nanos(timing.warm_up) + nanos(timing.measure) / 2, Mark::Middle),
            (start + nanos(timing.warm_up) + nanos(timing.measure), Mark::End),
        ]);
        let mut end = start + nanos(timing.warm_up) + nanos(timing.measure) + nanos(timing.drain);
        let (talking, silent) = self.by_talking();
        let period_ns = match self.shape.media {
            Media::Audio => AUDIO_PERIOD_NS,
            Media::Video => FRAME_PERIOD_NS,
        };
        let everyone: Vec<usize> = (0..self.streams.len()).collect();
        let browsers = (0..self.ends.len()).filter(|&at| self.ends[at].browser.is_some()).collect();
        let mut media = Wheel::new(talking, period_ns, start);
        let mut priming = Wheel::new(silent, nanos(timing.warm_up).max(2) / 2 / PRIMING_PACKETS, start);
        priming.turns_max = priming.order.len() as u64 * PRIMING_PACKETS;
        // Runs that are shorter than a period go on where the one before ended, or some would never have their turn.
        let (mut reports, mut consent) =
            (Wheel::new(everyone, REPORT_PERIOD_NS, start), Wheel::new(browsers, REPORT_PERIOD_NS, start));
        reports.rotate(self.turns.0);
        consent.rotate(self.turns.1);
        let mut run = Run {
            report: Report::default(),
            latency: Times::default(),
            lateness: Times::default(),
            measuring: false,
            due: Vec::with_capacity(2 * DUE_MAX),
            refused: 0,
        };
        let (mut idle_ns, mut began, mut cpu_began) = (0, start, thread_cpu_ns());
        loop {
            let now = wall_ns();
            if now >= end {
                break;
            }
            if let Some((_, mark)) = marks.pop_front_if(|(at, _)| now >= *at) {
                at_mark(mark);
                match mark {
                    Mark::Begin => {
                        self.streams.iter_mut().for_each(super::Stream::begin_measuring);
                        run.report = Report::default();
                        run.latency.clear();
                        run.lateness.clear();
                        (idle_ns, run.refused, run.measuring) = (0, 0, true);
                        (began, cpu_began) = (wall_ns(), thread_cpu_ns());
                        // What the caller looked at may have taken long: the measured time is whole all the same.
                        let late = began - (start + nanos(timing.warm_up));
                        marks.iter_mut().for_each(|(at, _)| *at += late);
                        end += late;
                    }
                    Mark::Middle => {}
                    Mark::End => {
                        self.streams.iter_mut().for_each(|stream| stream.end_measuring(now));
                        let wall = (now - began).max(1) as f64;
                        run.measuring = false;
                        run.report.seconds = wall / 1e9;
                        run.report.generator.busy_share = 1.0 - (idle_ns as f64 / wall).min(1.0);
                        run.report.generator.cpu_share = (thread_cpu_ns() - cpu_began) as f64 / wall;
                        run.report.generator.refused = run.refused;
                    }
                }
                continue;
            }
            for wheel in [&mut media, &mut priming] {
                while run.due.len() < DUE_MAX
                    && let Some((stream, due)) = wheel.next(now)
                {
                    run.due.push((self.ends[self.streams[stream].from].port, stream, due));
                }
            }
            let mut worked = run.due.len();
            self.send_due(&mut run);
            while let Some((stream, _)) = reports.next(now) {
                self.send_report(stream, now, &mut run);
                worked += 1;
            }
            while let Some((end, _)) = consent.next(now) {
                self.send_check(end, &mut run);
                worked += 1;
            }
            worked += self.receive(&mut run);
            if worked == 0 && timing.has_core {
                thread::sleep(NAP);
            }
            let wait = if worked == 0 && !timing.has_core { Duration::from_millis(1) } else { Duration::ZERO };
            self.sockets.wait(wait);
            if worked == 0 {
                idle_ns += wall_ns() - now;
            }
        }
        self.turns = (self.turns.0 + reports.turn, self.turns.1 + consent.turn);
        self.conclude(run, drops_before)
    }

    fn by_talking(&self) -> (Vec<usize>, Vec<usize>) {
        (0..self.streams.len()).partition(|&stream| stream / 2 < self.shape.talking as usize)
    }

    fn conclude(&self, mut run: Run, drops_before: u64) -> Report {
        run.report.calls = self.shape.calls();
        run.report.talking = self.shape.talking;
        run.report.profiles = self.profiles.iter().map(|&name| name.to_owned()).collect();
        let browsers = self.ends.iter().filter_map(|end| end.browser.as_ref());
        run.report.peer_checks = browsers.map(|browser| browser.checked).sum();
        let talking = &self.streams[..2 * self.shape.talking as usize];
        run.report.sent = talking.iter().map(super::Stream::sent_measured).sum();
        run.report.received = talking.iter().map(|stream| stream.received_measured).sum();
        run.report.dead_streams = talking.iter().filter(|stream| stream.received_measured == 0).count() as u64;
        let lost = |stream: &super::Stream| stream.sent_measured().saturating_sub(stream.received_measured);
        run.report.most_lost = talking.iter().map(lost).max().unwrap_or(0);
        let gaps = talking.iter().map(|stream| stream.longest_gap_ns).max();
        run.report.longest_gap_ms = gaps.unwrap_or(0) as f64 / 1e6;
        run.report.latency = run.latency.percentiles();
        run.report.generator.lateness = run.lateness.percentiles();
        run.report.generator.own_drops = self.sockets.drops().saturating_sub(drops_before);
        run.report.conclude();
        run.report
    }

    /// Sends what is due, one socket after the other.
    fn send_due(&mut self, run: &mut Run) {
        run.due.sort_unstable_by_key(|&(port, _, due)| (port, due));
        let mut rest = run.due.as_slice();
        while let Some(&(port, ..)) = rest.first() {
            let (same, after) = rest.split_at(rest.iter().take_while(|(of, ..)| *of == port).count());
            let mut now = wall_ns();
            for &(_, at, due) in same {
                if run.measuring {
                    run.lateness.note(now.saturating_sub(due));
                }
                let stream = &mut self.streams[at];
                let end = &mut self.ends[stream.from];
                let burst = stream.burst();
                for packet in 0..burst {
                    if self.outbox.is_full() {
                        run.refused += self.outbox.flush(self.sockets.socket(port)) as u64;
                        now = wall_ns();
                    }
                    self.outbox.push(end.to, |out| {
                        let len = stream.write(packet, burst, now, &self.pattern, out);
                        let Some(keys) = &mut end.keys else { return len };
                        let mut sealed = Packet::new(out, 0, len);
                        keys.tx.protect_rtp(&mut keys.sending, &mut sealed).map_or(0, |()| sealed.len())
                    });
                }
                stream.next_frame();
            }
            run.refused += self.outbox.flush(self.sockets.socket(port)) as u64;
            rest = after;
        }
        run.due.clear();
    }

    fn send_report(&mut self, at: usize, now_ns: u64, run: &mut Run) {
        let stream = &self.streams[at];
        let end = &mut self.ends[stream.from];
        // Seconds since 1900 and a binary fraction (RFC 5905 section 6).
        let seconds = now_ns / 1_000_000_000 + 2_208_988_800;
        let fraction = ((now_ns % 1_000_000_000) << 32) / 1_000_000_000;
        let info = SenderInfo {
            ssrc: stream.ssrc,
            ntp: seconds << 32 | fraction,
            rtp_timestamp: stream.timestamp(),
            packet_count: stream.sent(),
            octet_count: stream.sent().wrapping_mul(160),
        };
        self.outbox.push(end.rtcp_to, |out| {
            let len = rtcp::write_sender_report(out, &info, &[], b"load").unwrap_or(0);
            let Some(keys) = &mut end.keys else { return len };
            let mut sealed = Packet::new(out, 0, len);
            keys.tx.protect_rtcp(&mut keys.sending, &mut sealed).map_or(0, |()| sealed.len())
        });
        run.refused += self.outbox.flush(self.sockets.socket(end.rtcp_port)) as u64;
        run.report.rtcp.0 += 1;
    }

    fn send_check(&mut self, at: usize, run: &mut Run) {
        let end = &mut self.ends[at];
        let Some(browser) = &mut end.browser else { return };
        self.outbox.push(end.to, |out| browser.check(out));
        run.refused += self.outbox.flush(self.sockets.socket(end.port)) as u64;
        run.report.consent.0 += 1;
    }

    /// Takes what has come, one call a socket; how many datagrams that were.
    fn receive(&mut self, run: &mut Run) -> usize {
        let (mut emptied, mut taken) = (Vec::new(), 0);
        for port in self.sockets.ready() {
            let got = self.inbox.receive(self.sockets.socket(port), CALL_MAX);
            for at in 0..got {
                self.take(port, at, run);
            }
            if got < CALL_MAX {
                emptied.push(port);
            }
            taken += got;
        }
        self.sockets.empty(&emptied);
        taken
    }

    fn take(&mut self, port: usize, at: usize, run: &mut Run) {
        let datagram = self.inbox.datagram(at);
        let (from, at_ns): (SocketAddrV4, u64) = (datagram.from, datagram.at_ns);
        let kind = classify(&datagram.buffer[..datagram.len]);
        let (Some(end), Ok(kind)) = (self.sockets.end_of(port, from), kind) else {
            run.report.strange += 1;
            return;
        };
        let end = &mut self.ends[end];
        let mut packet = Packet::new(datagram.buffer, 0, datagram.len);
        match kind {
            PacketKind::Stun => {
                let mut answer = [0; ANSWER_MAX];
                let heard = end.browser.as_mut().map(|browser| browser.on_stun(packet.bytes(), from, &mut answer));
                match heard.unwrap_or(Heard::Strange) {
                    Heard::Answer => run.report.consent.1 += 1,
                    Heard::Check(len) => {
                        let sent = self.sockets.socket(port).send_to(&answer[..len], from);
                        run.refused += u64::from(sent.is_err());
                    }
                    Heard::KeepAlive => {}
                    Heard::Strange => run.report.strange += 1,
                }
            }
            // The last flight of a handshake may come twice.
            PacketKind::Dtls => run.report.strange += u64::from(end.browser.is_none()),
            PacketKind::Rtcp => {
                if let Some(keys) = &mut end.keys {
                    let (rx, stream) = keys.receiving(rtcp::sender_ssrc_of(packet.bytes()));
                    if rx.unprotect_rtcp(stream, &mut packet).is_err() {
                        run.report.unauthentic += 1;
                        return;
                    }
                }
                run.report.rtcp.1 += 1;
            }
            PacketKind::Rtp => {
                if let Some(keys) = &mut end.keys {
                    let (rx, stream) = keys.receiving(rtp::ssrc_of(packet.bytes()));
                    if rx.unprotect_rtp(stream, &mut packet).is_err() {
                        run.report.unauthentic += 1;
                        return;
                    }
                }
                match self.streams[end.hears].judge(packet.bytes(), at_ns, &self.pattern) {
                    Judged::Good { took_ns, late, breaks } => {
                        if run.measuring {
                            run.report.received_in_time += 1;
                            run.latency.note(took_ns);
                        }
                        run.report.reordered += u64::from(late);
                        run.report.sequence_breaks += u64::from(breaks);
                    }
                    Judged::Duplicate => run.report.duplicates += 1,
                    Judged::Forgotten => {}
                    Judged::Corrupt => {
                        run.report.corrupt += 1;
                        self.streams[end.hears].strange += 1;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wheel_spreads_turns_evenly_and_catches_up() {
        let mut wheel = Wheel::new(vec![7, 8], 100, 1000);
        assert_eq!(wheel.next(999), None);
        assert_eq!((wheel.next(1000), wheel.next(1049)), (Some((7, 1000)), None));
        assert_eq!((wheel.next(1100), wheel.next(1100), wheel.next(1100)), (Some((8, 1050)), Some((7, 1100)), None));
        let mut ends = Wheel { turns_max: 1, ..Wheel::new(vec![1], 1, 0) };
        assert_eq!((ends.next(10), ends.next(10)), (Some((1, 0)), None));
        assert_eq!(Wheel::new(Vec::new(), 1, 0).next(10), None);
        let mut later = Wheel::new(vec![5, 6, 7], 30, 0);
        later.rotate(4);
        assert_eq!((later.next(10), later.next(10)), (Some((6, 0)), Some((7, 10))));
    }
}
