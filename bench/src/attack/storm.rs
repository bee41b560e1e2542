//! Changed datagrams of every protocol, many of them signed with the right keys after the change, against a relay that carries calls.

use std::{
    io,
    net::SocketAddrV4,
    thread,
    time::{Duration, Instant},
};

use gangway_dataplane::{
    srtp::TxStream,
    wire::{
        classify,
        stun::{Message, MessageType, Writer},
    },
};
use gangway_shared::entropy::{Entropy, SeededEntropy};
use serde::Serialize;

use super::{
    admitted, disturbed,
    flood::strangers,
    hellos::client_hello,
    mutate::{change, rtcp_packet, rtp_packet},
    set_up,
};
use crate::{
    call::Media,
    load::{Load, Report, Shape, Side, Timing},
    process::memory_kb,
    sys::BUFFER_LEN_BYTES,
    systems::{System, gangway::Gangway},
};

/// Calls that talk meanwhile, and calls whose peers are the attackers.
pub const CALLS: u32 = 200;
const VICTIMS: u32 = 24;

/// Datagrams between two questions to the relay: what waits then is worked off, so that no buffer overflows and every datagram is
/// looked at.
const ROUND: u64 = 64;

/// Browsers among the attackers check so often, so that their calls stay.
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// What memory may grow by between the first tenth and the end, KiB: what an allocator keeps.
const GROWTH_MAX_KB: u64 = 1024;

/// SSRC of what attackers sign: one for each end, beside that of its own stream.
const SSRC: u32 = 0x5700_0000;

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Seen {
    /// Datagrams sent.
    pub sent: u64,
    /// Of these, those from strangers to the ports of others. The kernel may drop them, where such a port is connected to its peer.
    pub by_strangers: u64,
    /// Of these, those that are of a protocol by their first bytes.
    pub classified: u64,
    /// Checks with a right MESSAGE-INTEGRITY.
    pub signed_checks: u64,
    /// RTP and RTCP that the relay admitted from the attackers' protected ends: by its own count they authenticated.
    pub authenticated: u64,
    /// Datagrams that the relay looked at, those of the calls included.
    pub looked_at: u64,
    /// Relays before and after.
    pub relays: (u64, u64),
    /// Memory of the relay after a tenth and at the end, KiB.
    pub memory_kb: (u64, u64),
    /// p99 of the calls' latency before the storm, and the median of the same by seconds of the storm, in us.
    pub p99_us: (f64, f64),
    /// The calls: the worst of the runs meanwhile, and a last one after all.
    pub during: Report,
    /// See there.
    pub after: Report,
    /// The attackers' own calls afterwards.
    pub victims: Report,
}

/// Sends `count` datagrams at a relay that carries 200 calls, plain, SRTP and browsers. These are run again and again, as `second` says.
///
/// # Errors
/// When calls cannot be set up, or the relay ends.
///
/// # Panics
/// When the attackers' thread does.
pub fn storm(relay: &mut Gangway, count: u64, seed: u64, second: &Timing) -> io::Result<Seen> {
    let shape = Shape { talking: CALLS, silent: 0, side: Side::Mixed, media: Media::Audio };
    let mut calls = Load::open(shape)?;
    set_up(relay, &mut calls)?;
    let mut victims = Load::open_from(Shape { talking: VICTIMS, ..shape }, CALLS)?;
    set_up(relay, &mut victims)?;
    let strange: Vec<SocketAddrV4> =
        (0..calls.ends()).flat_map(|end| [calls.target(end), calls.rtcp_target(end)]).collect();
    let pid = relay.pid();
    let quiet_p99_us = calls.run(second, |_| {}).latency.p99_us;
    let before = relay.control().node()?;
    let mut seen = Seen::default();
    thread::scope(|scope| {
        let attack = scope.spawn(|| attack(relay, &mut victims, &strange, count, seed));
        let (mut worst, mut p99s_us) = (Report::default(), Vec::new());
        // Once at least, also when the attack is short.
        loop {
            let report = calls.run(second, |_| {});
            p99s_us.push(report.latency.p99_us);
            if disturbed(&report).is_some() || report.loss >= worst.loss {
                worst = report;
            }
            if attack.is_finished() || disturbed(&worst).is_some() {
                break;
            }
        }
        seen = attack.join().expect("attackers do not panic")?;
        seen.during = worst;
        p99s_us.sort_by(f64::total_cmp);
        seen.p99_us = (quiet_p99_us, p99s_us[p99s_us.len() / 2]);
        io::Result::Ok(())
    })?;
    let after = relay.control().node()?;
    let received =
        |stats: &gangway_shared::rcp::NodeStats| stats.workers.iter().map(|worker| worker.received).sum::<u64>();
    seen.looked_at = received(&after) - received(&before);
    seen.relays = (before.relays, after.relays);
    // Of four calls one is plain.
    seen.authenticated = admitted(relay, (CALLS..CALLS + VICTIMS).filter(|call| call % 4 != 0))?;
    seen.memory_kb.1 = memory_kb(pid);
    seen.after = calls.run(second, |_| {});
    seen.victims = victims.run(second, |_| {});
    Ok(seen)
}

fn attack(
    relay: &mut Gangway,
    victims: &mut Load,
    strange: &[SocketAddrV4],
    count: u64,
    seed: u64,
) -> io::Result<Seen> {
    let mut entropy = SeededEntropy::new(seed);
    let foreign = strangers(3)?;
    let own: Vec<_> = (0..victims.ends()).map(|end| victims.socket(end)).collect::<Result<_, _>>()?;
    let mut streams: Vec<TxStream> = (0..victims.ends()).map(|end| TxStream::new(SSRC + end as u32)).collect();
    let signers: Vec<usize> = (0..victims.ends()).filter(|&end| victims.is_protected(end)).collect();
    let hello = client_hello()?;
    let mut buffer = [0; BUFFER_LEN_BYTES];
    let mut seen = Seen::default();
    let mut check_at = Instant::now();
    while seen.sent < count {
        if seen.sent.is_multiple_of(ROUND) {
            relay.control().node()?;
            victims.drain();
            if Instant::now() >= check_at {
                check_at = Instant::now() + CHECK_EVERY;
                victims.check();
            }
        }
        if seen.sent == count / 10 {
            seen.memory_kb.0 = memory_kb(relay.pid());
        }
        // Three of four by those who can sign.
        let any = entropy.below(victims.ends() as u32) as usize;
        let end = if entropy.below(4) == 0 { any } else { signers[entropy.below(signers.len() as u32) as usize] };
        let ssrc = SSRC + end as u32;
        let sequence = streams[end].rtp_index().map_or(0, |index| index as u16).wrapping_add(1);
        let protected = victims.is_protected(end);
        // The first bytes say which protocol it is: they are left alone three times of four.
        let kept = if entropy.below(4) == 0 { 0 } else { 2 };
        let mut to_strangers = false;
        let len = match entropy.below(10) {
            0..=1 if victims.credentials(end).is_some() => {
                let (username, password) = victims.credentials(end).expect("just looked at");
                signed_check(&mut entropy, &username, password.as_bytes(), &mut buffer)
            }
            0..=2 if protected => {
                // What the tag covers is changed before it is made; SSRC and number stay, or it would be no packet of this stream.
                let len = rtp_packet(&mut entropy, ssrc, sequence, &mut buffer);
                let len = change(&mut entropy, 40, &mut buffer, len);
                victims.seal(end, &mut streams[end], &mut buffer, len)
            }
            3 if protected => {
                let len = rtcp_packet(&mut entropy, ssrc, &mut buffer);
                let len = change(&mut entropy, 8, &mut buffer, len);
                victims.seal(end, &mut streams[end], &mut buffer, len)
            }
            0..=4 => {
                let len = rtp_packet(&mut entropy, ssrc, sequence, &mut buffer);
                change(&mut entropy, kept, &mut buffer, len)
            }
            5 => {
                let len = rtcp_packet(&mut entropy, ssrc, &mut buffer);
                change(&mut entropy, kept, &mut buffer, len)
            }
            6 => {
                let username = victims.credentials(end).map_or_else(|| "nobody:knows".to_owned(), |(name, _)| name);
                let len = signed_check(&mut entropy, &username, b"another password", &mut buffer);
                change(&mut entropy, kept, &mut buffer, len)
            }
            7 | 8 => {
                let len = dtls(&mut entropy, &hello, &mut buffer);
                change(&mut entropy, kept, &mut buffer, len)
            }
            _ => {
                to_strangers = true;
                let len = rtp_packet(&mut entropy, ssrc, sequence, &mut buffer);
                change(&mut entropy, kept, &mut buffer, len)
            }
        };
        let datagram = &buffer[..len];
        seen.classified += u64::from(classify(datagram).is_ok());
        if let Some((_, password)) = victims.credentials(end) {
            let signed = Message::parse(datagram).is_ok_and(|message| message.has_integrity(password.as_bytes()));
            seen.signed_checks += u64::from(signed);
        }
        let sent = if to_strangers {
            let at = entropy.below(strange.len() as u32) as usize;
            seen.by_strangers += 1;
            foreign[at % foreign.len()].send_to(datagram, strange[at])
        } else {
            own[end].send_to(datagram, victims.target(end))
        };
        // A closed port somewhere is told by an error of the next sending.
        let _ = sent;
        seen.sent += 1;
    }
    relay.control().node()?;
    victims.drain();
    Ok(seen)
}

/// A check with strange attributes, signed by this password.
fn signed_check(
    entropy: &mut SeededEntropy,
    username: &str,
    password: &[u8],
    out: &mut [u8; BUFFER_LEN_BYTES],
) -> usize {
    let mut transaction = [0; 12];
    entropy.fill(&mut transaction);
    let kind = if entropy.below(8) == 0 { MessageType::BindingIndication } else { MessageType::BindingRequest };
    let mut writer = Writer::new(out, kind, &transaction);
    writer.username(username.as_bytes());
    writer.priority(entropy.next_u64() as u32);
    let len = writer.finish().unwrap_or(0);
    // Up to three attributes of any type and length, whole words (RFC 8489 section 14).
    let mut end = len;
    for _ in 0..entropy.below(4) {
        let value_len = entropy.below(24) as usize;
        let padded = value_len.next_multiple_of(4);
        entropy.fill(&mut out[end..end + 4 + padded]);
        let types = [0x0006, 0x0008, 0x0009, 0x0020, 0x0024, 0x0025, 0x8028, 0x8029, 0x802a, 0x8022, 0x7fff];
        if entropy.below(4) > 0 {
            let kind: u16 = types[entropy.below(types.len() as u32) as usize];
            out[end..end + 2].copy_from_slice(&kind.to_be_bytes());
        }
        out[end + 2..end + 4].copy_from_slice(&(value_len as u16).to_be_bytes());
        end += 4 + padded;
    }
    let mut writer = Writer::reopen(out, end);
    writer.integrity(password);
    if entropy.below(4) > 0 {
        writer.fingerprint();
    }
    writer.finish().unwrap_or(0)
}

/// A hello, an alert, a change of ciphers, a fragment of a handshake or sealed data (RFC 6347 section 4.1).
fn dtls(entropy: &mut SeededEntropy, hello: &[u8], out: &mut [u8; BUFFER_LEN_BYTES]) -> usize {
    if entropy.below(3) == 0 {
        out[..hello.len()].copy_from_slice(hello);
        return hello.len();
    }
    let len = 2 + entropy.below(200) as usize;
    entropy.fill(&mut out[..13 + len]);
    out[0] = [20, 21, 22, 23, 25][entropy.below(5) as usize];
    out[1..3].copy_from_slice(&[0xfe, 0xfd]);
    // Before or after the ciphers changed.
    out[3..5].copy_from_slice(&(entropy.below(2) as u16).to_be_bytes());
    out[11..13].copy_from_slice(&(len as u16).to_be_bytes());
    if out[0] == 21 {
        // close_notify, or a fatal alert.
        out[13..15].copy_from_slice(if entropy.below(2) == 0 { &[1, 0] } else { &[2, 40] });
    }
    13 + len
}

impl Seen {
    /// Whether the promises were kept.
    ///
    /// # Errors
    /// The first one that was not.
    pub fn verdict(&self) -> Result<(), String> {
        if 2 * self.classified < self.sent || 10 * (self.signed_checks + self.authenticated) < self.sent {
            return Err(format!("too little passed the first tests to say anything: {self:?}"));
        }
        // The calls' own packets are looked at too: fifty a second of each stream would hide a storm that never came.
        if self.looked_at < self.sent - self.by_strangers + self.during.received {
            return Err(format!("the relay did not see it all: {self:?}"));
        }
        if self.relays.0 != self.relays.1 {
            return Err(format!("calls were lost: {self:?}"));
        }
        let grown_kb = self.memory_kb.1.saturating_sub(self.memory_kb.0);
        if grown_kb > GROWTH_MAX_KB {
            return Err(format!("memory grew by {grown_kb} KiB: {self:?}"));
        }
        if let Some(words) = disturbed(&self.during).or_else(|| disturbed(&self.after)) {
            return Err(words);
        }
        if self.after.lost > 0 || self.victims.dead_streams > 0 || self.victims.received == 0 {
            return Err(format!("a call does not work any more: {self:?}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_broken_promise_is_named() {
        let kept = Seen {
            sent: 1000,
            classified: 600,
            authenticated: 200,
            looked_at: 5000,
            relays: (224, 224),
            memory_kb: (10_000, 10_500),
            victims: Report { received: 1, ..Report::default() },
            ..Seen::default()
        };
        assert_eq!(kept.verdict(), Ok(()));
        let broken = [
            Seen { classified: 400, ..kept.clone() },
            Seen { authenticated: 50, ..kept.clone() },
            Seen { looked_at: 900, ..kept.clone() },
            Seen { relays: (224, 223), ..kept.clone() },
            Seen { memory_kb: (10_000, 12_000), ..kept.clone() },
            Seen { during: Report { dead_streams: 1, ..Report::default() }, ..kept.clone() },
            Seen { after: Report { lost: 1, ..Report::default() }, ..kept.clone() },
            Seen { victims: Report::default(), ..kept },
        ];
        for seen in broken {
            assert!(seen.verdict().is_err(), "{seen:?}");
        }
    }
}
