//! Media of the demo service: an echo, and tones in G.711. Each call has its own sockets and its own task, which ends with the call.

use std::{
    f64::consts::TAU,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{net::UdpSocket, task::AbortHandle, time::Instant};

/// A pair of ports: RTP on an even one, RTCP on the next.
#[derive(Debug)]
pub(super) struct Ports {
    rtp: UdpSocket,
    rtcp: UdpSocket,
}

/// How often another pair is tried.
const ATTEMPTS: usize = 200;

impl Ports {
    pub(super) async fn open(ip: IpAddr) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..ATTEMPTS {
            let rtp = UdpSocket::bind((ip, 0)).await?;
            let port = rtp.local_addr()?.port();
            if port % 2 == 1 || port == u16::MAX - 1 {
                continue;
            }
            match UdpSocket::bind((ip, port + 1)).await {
                Ok(rtcp) => return Ok(Ports { rtp, rtcp }),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The RTP port.
    pub(super) fn port(&self) -> io::Result<u16> {
        Ok(self.rtp.local_addr()?.port())
    }
}

/// The media of one stream; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Stream(AbortHandle);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Largest RTP packet.
const PACKET_MAX_BYTES: usize = 2048;

/// Bytes of an RTP header without extras.
const RTP_HEADER_BYTES: usize = 12;

fn is_rtp(packet: &[u8]) -> bool {
    // RTCP on the RTP port (RFC 5761) has types 192 to 223 in the second byte.
    packet.len() >= RTP_HEADER_BYTES && packet[0] >> 6 == 2 && !(192..224).contains(&packet[1])
}

/// Sends back what comes, to where it came from: of RTCP what is asked of the source of a stream, because the echo has no other
/// source than the one who asks.
pub(super) fn echo(ports: Ports) -> Stream {
    let task = tokio::spawn(async move {
        let mut packet = [0; PACKET_MAX_BYTES];
        let mut report = [0; PACKET_MAX_BYTES];
        loop {
            tokio::select! {
                received = ports.rtp.recv_from(&mut packet) => {
                    if let Ok((len, from)) = received && is_rtp(&packet[..len]) {
                        let _ = ports.rtp.try_send_to(&packet[..len], from);
                    }
                }
                received = ports.rtcp.recv_from(&mut report) => {
                    if let Ok((len, from)) = received && let Some(mirrored) = mirrored(&report[..len]) {
                        let _ = ports.rtcp.try_send_to(&mirrored, from);
                    }
                }
            }
        }
    });
    Stream(task.abort_handle())
}

/// Payload type of a receiver report (RFC 3550 section 6.4.2).
const RECEIVER_REPORT: u8 = 201;

/// Payload types of feedback about a stream, of its packets and of its pictures (RFC 4585 section 6.1).
const FEEDBACK: std::ops::RangeInclusive<u8> = 205..=206;

/// A feedback packet: a header, who sends it, what it is about.
const FEEDBACK_MIN_BYTES: usize = 12;

/// The feedback of a compound RTCP packet, behind the report that a compound packet begins with (RFC 4585 section 3.1); `None`
/// when there is none.
fn mirrored(compound: &[u8]) -> Option<Vec<u8>> {
    let mut feedback = Vec::new();
    let mut rest = compound;
    while let &[first, kind, high, low, ..] = rest {
        let len = (usize::from(u16::from_be_bytes([high, low])) + 1) * 4;
        let (packet, behind) = rest.split_at_checked(len).filter(|_| first >> 6 == 2)?;
        if FEEDBACK.contains(&kind) && len >= FEEDBACK_MIN_BYTES {
            feedback.extend_from_slice(packet);
        }
        rest = behind;
    }
    let sender = feedback.get(4..8)?.to_vec();
    Some([vec![0x80, RECEIVER_REPORT, 0, 1], sender, feedback].concat())
}

/// The two laws of G.711.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Law {
    /// PCMU, payload type 0.
    Mu,
    /// PCMA, payload type 8.
    A,
}

impl Law {
    pub(super) const fn payload_type(self) -> u8 {
        match self {
            Law::Mu => 0,
            Law::A => 8,
        }
    }

    fn encode(self, sample: i16) -> u8 {
        match self {
            Law::Mu => mu_law(sample),
            Law::A => a_law(sample),
        }
    }
}

/// ITU-T G.711 mu-law.
fn mu_law(sample: i16) -> u8 {
    let sign = if sample < 0 { 0x80 } else { 0 };
    let magnitude = sample.unsigned_abs().min(32_635) + 132;
    let exponent = 15 - u8::try_from(magnitude.leading_zeros()).expect("at most 16") - 7;
    let mantissa = u8::try_from((magnitude >> (exponent + 3)) & 15).expect("four bits");
    !(sign | (exponent << 4) | mantissa)
}

/// ITU-T G.711 A-law.
fn a_law(sample: i16) -> u8 {
    let sign = if sample < 0 { 0 } else { 0x80 };
    let magnitude = if sample < 0 { !sample } else { sample }.unsigned_abs() >> 3;
    let exponent = 16u8.saturating_sub(u8::try_from(magnitude.leading_zeros()).expect("at most 16") + 5).min(7);
    let shift = if exponent == 0 { 1 } else { exponent };
    let mantissa = u8::try_from((magnitude >> shift) & 15).expect("four bits");
    (sign | (exponent << 4) | mantissa) ^ 0x55
}

/// What a tone stream plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tune {
    /// The menu of 601: three rising tones, a pause, again. A key pressed plays its own tone.
    Menu,
    /// The early media of 605: a steady tone.
    Steady,
}

/// Where and what a tone stream sends.
#[derive(Clone, Copy, Debug)]
pub(super) struct ToneStream {
    pub law: Law,
    pub tune: Tune,
    /// Where the peer's SDP says that it listens.
    pub remote: SocketAddr,
    /// Payload type of telephone events from the peer.
    pub events: Option<u8>,
    /// Start values, random.
    pub ssrc: u32,
}

const SAMPLES_PER_MS: u32 = 8;
const PACKET_MS: u32 = 20;
const AMPLITUDE: f64 = 9000.0;

impl Tune {
    /// The frequency in Hz at `ms` after the start; 0 is silence.
    fn frequency(self, ms: u32) -> f64 {
        match self {
            Tune::Steady => 425.0,
            Tune::Menu => match ms % 3000 {
                0..400 => 523.0,
                500..900 => 659.0,
                1000..1600 => 784.0,
                _ => 0.0,
            },
        }
    }
}

/// The tone that answers a key, in Hz: one step of a whole-tone scale each.
fn key_frequency(event: u8) -> f64 {
    440.0 * (f64::from(event) / 6.0).exp2()
}

/// How long that tone is played.
const KEY_MS: u32 = 500;

/// Plays a tune to the peer in packets of 20 ms.
pub(super) fn tones(ports: Ports, stream: ToneStream) -> Stream {
    let task = tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(u64::from(PACKET_MS)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        let mut player = Player { stream, packets: 0, phase: 0.0, key: None };
        let mut remote = stream.remote;
        let (mut packet, mut ignored) = ([0; PACKET_MAX_BYTES], [0; PACKET_MAX_BYTES]);
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    let _ = ports.rtp.try_send_to(&player.next(), remote);
                }
                received = ports.rtp.recv_from(&mut packet) => {
                    if let Ok((len, from)) = received && is_rtp(&packet[..len]) {
                        // Symmetric RTP: where it comes from is where it is heard.
                        remote = from;
                        player.hear(&packet[..len], Instant::now());
                    }
                }
                // Read, so that the peer's reports meet no closed port.
                _ = ports.rtcp.recv_from(&mut ignored) => {}
            }
        }
    });
    Stream(task.abort_handle())
}

#[derive(Debug)]
struct Player {
    stream: ToneStream,
    packets: u32,
    phase: f64,
    /// Event, packet number at which its tone ends, when it was last heard.
    key: Option<(u8, u32, Instant)>,
}

/// Packets of one key press come every 20 to 50 ms; after this silence the same key is pressed anew.
const KEY_GAP: Duration = Duration::from_millis(150);

impl Player {
    fn hear(&mut self, packet: &[u8], now: Instant) {
        if Some(packet[1] & 0x7f) != self.stream.events {
            return;
        }
        let Some(&event) = packet.get(RTP_HEADER_BYTES).filter(|&&event| event < 16) else { return };
        match &mut self.key {
            Some((same, _, last)) if *same == event && now.duration_since(*last) < KEY_GAP => *last = now,
            key => *key = Some((event, self.packets + KEY_MS / PACKET_MS, now)),
        }
    }

    fn next(&mut self) -> Vec<u8> {
        let frequency = match self.key {
            Some((event, until, _)) if self.packets < until => key_frequency(event),
            _ => self.stream.tune.frequency(self.packets.wrapping_mul(PACKET_MS)),
        };
        let samples = PACKET_MS * SAMPLES_PER_MS;
        let mut packet = Vec::with_capacity(RTP_HEADER_BYTES + 160);
        let marker = if self.packets == 0 { 0x80 } else { 0 };
        packet.extend([0x80, marker | self.stream.law.payload_type()]);
        packet.extend(u16::try_from(self.packets & 0xffff).expect("masked").to_be_bytes());
        packet.extend(self.packets.wrapping_mul(samples).to_be_bytes());
        packet.extend(self.stream.ssrc.to_be_bytes());
        for _ in 0..samples {
            let level = if frequency == 0.0 { 0.0 } else { self.phase.sin() * AMPLITUDE };
            self.phase = (self.phase + TAU * frequency / 8000.0) % TAU;
            // The amplitude keeps the value within 16 bits.
            #[allow(clippy::cast_possible_truncation, reason = "AMPLITUDE is below 32768")]
            packet.push(self.stream.law.encode(level as i16));
        }
        self.packets = self.packets.wrapping_add(1);
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g711_has_the_values_of_the_standard() {
        for (sample, mu, a) in [(0, 0xff, 0xd5), (-1, 0x7f, 0x55), (32_767, 0x80, 0xaa), (-32_768, 0x00, 0x2a)] {
            assert_eq!((mu_law(sample), a_law(sample)), (mu, a), "{sample}");
        }
        // One step of each segment, mu-law of 1000 and A-law of 1000.
        assert_eq!(mu_law(1000), 0xce);
        assert_eq!(a_law(1000), 0xfa);
    }

    #[test]
    fn a_key_changes_the_tone_and_packets_are_in_order() {
        let stream = ToneStream {
            law: Law::Mu,
            tune: Tune::Menu,
            remote: SocketAddr::from(([127, 0, 0, 1], 4000)),
            events: Some(101),
            ssrc: 7,
        };
        let mut player = Player { stream, packets: 0, phase: 0.0, key: None };
        let first = player.next();
        assert_eq!((first.len(), &first[..4]), (172, &[0x80, 0x80, 0, 0][..]));
        let plain = player.next();
        assert_eq!(plain[2..8], [0, 1, 0, 0, 0, 160]);
        let mut event = vec![0x80, 101, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 10, 0, 160];
        player.hear(&event, Instant::now());
        assert_eq!(player.key.map(|(event, until, _)| (event, until)), Some((5, 2 + KEY_MS / PACKET_MS)));
        event[1] = 96;
        event[12] = 6;
        player.hear(&event, Instant::now());
        assert_eq!(player.key.map(|(event, ..)| event), Some(5), "another payload type was taken for a key");
    }

    #[test]
    fn feedback_that_is_no_rtcp_is_not_mirrored() {
        let report = [0x81, 200, 0, 1, 0, 0, 0, 9];
        let nack = [0x81, 205, 0, 3, 0, 0, 0, 9, 0, 0, 0, 8, 0, 7, 0, 0];
        let compound = [&report[..], &nack].concat();
        assert_eq!(mirrored(&compound), Some([&[0x80, 201, 0, 1, 0, 0, 0, 9][..], &nack].concat()));
        for len in 0..compound.len() {
            assert_eq!(mirrored(&compound[..len]), None, "{len} bytes");
        }
        assert_eq!(mirrored(&[0x81, 206, 0, 0]), None, "a header alone");
        assert_eq!(mirrored(&[&compound[..], &[1, 206, 0, 0]].concat()), None, "another version");
    }

    #[tokio::test]
    async fn the_echo_sends_back_rtp_and_feedback_and_nothing_else() {
        let ip = IpAddr::from([127, 0, 0, 1]);
        let ports = Ports::open(ip).await.unwrap();
        let to = SocketAddr::new(ip, ports.port().unwrap());
        assert_eq!(to.port() % 2, 0);
        let stream = echo(ports);
        let peer = UdpSocket::bind((ip, 0)).await.unwrap();
        peer.send_to(b"rubbish that is no RTP", to).await.unwrap();
        let rtp = [0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 1, 2, 3];
        peer.send_to(&rtp, to).await.unwrap();
        let mut buffer = [0; 100];
        let received =
            tokio::time::timeout(Duration::from_secs(5), peer.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!((&buffer[..received.0], received.1), (&rtp[..], to));
        // A receiver report and a PLI of 9 about 8; the report before them has nothing to be mirrored.
        let report = [0x80, 201, 0, 1, 0, 0, 0, 9];
        let wish = [&report[..], &[0x81, 206, 0, 2, 0, 0, 0, 9, 0, 0, 0, 8]].concat();
        let to = SocketAddr::new(ip, to.port() + 1);
        peer.send_to(&report, to).await.unwrap();
        peer.send_to(&wish, to).await.unwrap();
        let received =
            tokio::time::timeout(Duration::from_secs(5), peer.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!((&buffer[..received.0], received.1), (&wish[..], to));
        drop(stream);
    }
}
