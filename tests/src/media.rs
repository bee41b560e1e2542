//! The media side of a test phone: str0m with OpenSSL's DTLS, so neither end of a test shares code with the gateway. Sends a
//! tone in G.711 and keeps what it hears.

#![allow(clippy::disallowed_methods, reason = "a real peer on a real socket: it owns a clock")]

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use str0m::{
    Candidate, Event, IceConnectionState, Input, Output, Rtc, RtcConfig,
    change::{SdpAnswer, SdpOffer, SdpPendingOffer},
    crypto,
    format::Codec,
    media::{Direction, Frequency, MediaKind, MediaTime, Mid, Pt},
    net::{Protocol, Receive},
};

use crate::{deadline::Deadline, g711, tone::Sound};

/// Length of a frame of audio.
const FRAME: Duration = Duration::from_millis(20);
/// Samples of a frame at 8 kHz.
const FRAME_SAMPLES: usize = 160;
/// Longest wait in one turn of the thread.
const TURN: Duration = Duration::from_millis(10);

/// What the phone has seen of its media so far.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// ICE and DTLS are through.
    pub is_connected: bool,
    /// ICE was lost after it had been connected.
    pub is_disconnected: bool,
    /// Frames of audio sent and received.
    pub sent: usize,
    /// See `sent`.
    pub received: usize,
    /// Sequence numbers of what came in that were passed over.
    pub lost: u64,
    last_sequence: Option<u64>,
    /// The codec of what comes in.
    pub codec: Option<Codec>,
    /// What was heard, when it was G.711.
    pub sound: Sound,
    /// What str0m failed with.
    pub failure: Option<String>,
}

struct Shared {
    seen: Mutex<Seen>,
    is_over: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One peer connection with one audio section. Dropping it closes the socket without a word.
pub struct Media {
    rtc: Option<Box<Rtc>>,
    pending: Option<SdpPendingOffer>,
    mid: Option<Mid>,
    socket: UdpSocket,
    local: SocketAddr,
    tone_hz: f64,
    shared: Arc<Shared>,
}

/// What the phone offers and accepts, in order of preference.
#[derive(Debug, Clone, Copy)]
pub struct Codecs {
    /// G.711 u-law.
    pub pcmu: bool,
    /// G.711 A-law.
    pub pcma: bool,
    /// Opus, of which nothing is sent or understood: only for offers.
    pub opus: bool,
}

impl Codecs {
    /// u-law alone.
    pub const PCMU: Self = Self { pcmu: true, pcma: false, opus: false };
    /// A-law alone.
    pub const PCMA: Self = Self { pcmu: false, pcma: true, opus: false };
    /// Opus alone.
    pub const OPUS: Self = Self { pcmu: false, pcma: false, opus: true };
}

impl Media {
    fn new(codecs: Codecs, tone_hz: f64) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a media socket");
        let local = socket.local_addr().expect("a bound socket has an address");
        let mut rtc = RtcConfig::new()
            .set_crypto_provider(Arc::new(crypto::from_feature_flags()))
            .clear_codecs()
            .enable_pcmu(codecs.pcmu, false)
            .enable_pcma(codecs.pcma, false)
            .enable_opus(codecs.opus, false)
            .build(Instant::now());
        rtc.add_local_candidate(Candidate::host(local, "udp").expect("a loopback candidate"));
        let shared = Arc::new(Shared { seen: Mutex::default(), is_over: AtomicBool::new(false) });
        Self { rtc: Some(Box::new(rtc)), pending: None, mid: None, socket, local, tone_hz, shared }
    }

    /// Media for an outgoing call, and the offer: without candidates, as a browser's before gathering (rule R9).
    ///
    /// # Panics
    /// When str0m does not make an offer.
    pub fn offer(codecs: Codecs, tone_hz: f64) -> (Self, String) {
        let mut media = Self::new(codecs, tone_hz);
        let rtc = media.rtc.as_mut().expect("the media was just made");
        let mut change = rtc.sdp_api();
        let mid = change.add_media(MediaKind::Audio, Direction::SendRecv, None, None, None);
        let (offer, pending) = change.apply().expect("an added section is a change");
        media.pending = Some(pending);
        media.mid = Some(mid);
        (media, without_candidates(&offer.to_sdp_string()))
    }

    /// Takes the gateway's answer and starts. `through` replaces the address of its candidates, for a proxy in between.
    ///
    /// # Panics
    /// When str0m refuses the answer, or the media was started before.
    #[track_caller]
    pub fn take_answer(&mut self, sdp: &str, through: Option<SocketAddr>) {
        let sdp = redirected(sdp, through);
        let mut rtc = self.rtc.take().expect("media is started once");
        let pending = self.pending.take().expect("an answer follows an offer");
        let answer =
            SdpAnswer::from_sdp_string(&sdp).unwrap_or_else(|error| panic!("the answer is no SDP ({error}):\n{sdp}"));
        rtc.sdp_api()
            .accept_answer(pending, answer)
            .unwrap_or_else(|error| panic!("str0m refuses the answer ({error}):\n{sdp}"));
        self.start(rtc);
    }

    /// Media for an incoming call, started, and the answer to the gateway's offer.
    ///
    /// # Panics
    /// When str0m refuses the offer.
    #[track_caller]
    pub fn answer(codecs: Codecs, tone_hz: f64, sdp: &str) -> (Self, String) {
        let mut media = Self::new(codecs, tone_hz);
        let mut rtc = media.rtc.take().expect("the media was just made");
        // str0m would answer `actpass` with `passive`; browsers answer it with `active`.
        let sdp = &sdp.replace("a=setup:actpass", "a=setup:passive");
        let offer =
            SdpOffer::from_sdp_string(sdp).unwrap_or_else(|error| panic!("the offer is no SDP ({error}):\n{sdp}"));
        let answer = rtc
            .sdp_api()
            .accept_offer(offer)
            .unwrap_or_else(|error| panic!("str0m refuses the offer ({error}):\n{sdp}"));
        media.start(rtc);
        (media, without_candidates(&answer.to_sdp_string()))
    }

    fn start(&mut self, rtc: Box<Rtc>) {
        let socket = self.socket.try_clone().expect("a second handle of the media socket");
        let runner = Runner {
            rtc,
            socket,
            local: self.local,
            shared: Arc::clone(&self.shared),
            mid: self.mid,
            tone: Tone::new(self.tone_hz),
        };
        thread::spawn(move || runner.run());
    }

    /// Where it sends from and listens.
    pub fn address(&self) -> SocketAddr {
        self.local
    }

    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        self.shared.lock().clone()
    }

    /// Waits for ICE and DTLS.
    #[track_caller]
    pub fn wait_connected(&self, deadline: Deadline) {
        deadline.poll("ICE and DTLS of the phone", || {
            let seen = self.shared.lock();
            assert!(seen.failure.is_none(), "str0m: {:?}", seen.failure);
            seen.is_connected.then_some(())
        });
    }

    /// Waits until it has heard `hz` for at least `length`.
    #[track_caller]
    pub fn wait_heard(&self, hz: f64, length: Duration, deadline: Deadline) {
        deadline.poll(&format!("{hz} Hz at the phone"), || (self.seen().sound.heard(hz) >= length).then_some(()));
    }

    /// Waits until so many frames of audio were received. Cheaper than [`Media::wait_heard`], which looks at every sample.
    #[track_caller]
    pub fn wait_received(&self, frames: usize, deadline: Deadline) {
        deadline.poll(&format!("{frames} frames of audio"), || (self.shared.lock().received >= frames).then_some(()));
    }

    /// Stops sending and answering; the browser is gone as far as the gateway can see.
    pub fn vanish(&self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}

impl Drop for Media {
    fn drop(&mut self) {
        self.vanish();
    }
}

struct Runner {
    rtc: Box<Rtc>,
    socket: UdpSocket,
    local: SocketAddr,
    shared: Arc<Shared>,
    mid: Option<Mid>,
    tone: Tone,
}

impl Runner {
    fn run(mut self) {
        if let Err(error) = self.turns() {
            self.shared.lock().failure = Some(error);
        }
    }

    fn turns(&mut self) -> Result<(), String> {
        let mut buffer = [0; 2000];
        let mut next_frame = Instant::now();
        while !self.shared.is_over.load(Ordering::Relaxed) {
            let wake = self.drain()?.min(next_frame);
            let wait = wake.saturating_duration_since(Instant::now()).clamp(Duration::from_millis(1), TURN);
            self.socket.set_read_timeout(Some(wait)).map_err(|error| error.to_string())?;
            if let Ok((length, source)) = self.socket.recv_from(&mut buffer) {
                if let Ok(received) = Receive::new(Protocol::Udp, source, self.local, &buffer[..length]) {
                    self.rtc
                        .handle_input(Input::Receive(Instant::now(), received))
                        .map_err(|error| error.to_string())?;
                }
            } else {
                self.rtc.handle_input(Input::Timeout(Instant::now())).map_err(|error| error.to_string())?;
            }
            if Instant::now() >= next_frame {
                next_frame += FRAME;
                self.send_frame()?;
            }
        }
        Ok(())
    }

    /// Polls everything out; when str0m wants to be woken next.
    fn drain(&mut self) -> Result<Instant, String> {
        loop {
            match self.rtc.poll_output().map_err(|error| error.to_string())? {
                Output::Timeout(at) => return Ok(at),
                // A refused datagram is the network's affair: ICE repeats what matters.
                Output::Transmit(transmit) => drop(self.socket.send_to(&transmit.contents, transmit.destination)),
                Output::Event(event) => self.note(event),
            }
        }
    }

    fn note(&mut self, event: Event) {
        let mut seen = self.shared.lock();
        match event {
            Event::Connected => seen.is_connected = true,
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => seen.is_disconnected = true,
            Event::MediaAdded(added) => self.mid = Some(added.mid),
            Event::MediaData(data) => {
                let codec = data.params.spec().codec;
                seen.received += 1;
                let (first, last) = (**data.seq_range.start(), **data.seq_range.end());
                let expected = seen.last_sequence.map_or(first, |before| before + 1);
                seen.lost += first.saturating_sub(expected);
                seen.last_sequence = Some(last);
                seen.codec = Some(codec);
                seen.sound.rate_hz = 8000;
                match codec {
                    Codec::PCMU => seen.sound.samples.extend(data.data.iter().map(|byte| g711::from_ulaw(*byte))),
                    Codec::PCMA => seen.sound.samples.extend(data.data.iter().map(|byte| g711::from_alaw(*byte))),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn send_frame(&mut self) -> Result<(), String> {
        if !self.shared.lock().is_connected {
            return Ok(());
        }
        let Some(mid) = self.mid else { return Ok(()) };
        let Some(writer) = self.rtc.writer(mid) else { return Ok(()) };
        let chosen: Option<(Pt, Codec)> = writer
            .payload_params()
            .map(|params| (params.pt(), params.spec().codec))
            .find(|(_, codec)| matches!(codec, Codec::PCMU | Codec::PCMA));
        let Some((pt, codec)) = chosen else { return Ok(()) };
        let time = MediaTime::new(self.tone.position, Frequency::EIGHT_KHZ);
        let frame = self.tone.frame(codec);
        writer.write(pt, Instant::now(), time, frame).map_err(|error| error.to_string())?;
        self.shared.lock().sent += 1;
        Ok(())
    }
}

/// A sine that goes on from frame to frame.
struct Tone {
    hz: f64,
    position: u64,
}

impl Tone {
    fn new(hz: f64) -> Self {
        Self { hz, position: 0 }
    }

    fn frame(&mut self, codec: Codec) -> Vec<u8> {
        let from = self.position;
        self.position += FRAME_SAMPLES as u64;
        let sample = |at: u64| 0.5 * (std::f64::consts::TAU * self.hz * at as f64 / 8000.0).sin();
        let encode = if codec == Codec::PCMA { g711::to_alaw } else { g711::to_ulaw };
        (from..self.position).map(|at| encode(sample(at) as f32)).collect()
    }
}

fn without_candidates(sdp: &str) -> String {
    sdp.split_inclusive("\r\n")
        .filter(|line| !line.starts_with("a=candidate") && !line.starts_with("a=end-of-candidates"))
        .collect()
}

/// Replaces address and port of every candidate.
fn redirected(sdp: &str, through: Option<SocketAddr>) -> String {
    let Some(through) = through else { return sdp.to_owned() };
    let redirect = |line: &str| {
        let mut words: Vec<String> = line.trim_end().split(' ').map(str::to_owned).collect();
        if words.len() < 8 {
            return line.to_owned();
        }
        (words[4], words[5]) = (through.ip().to_string(), through.port().to_string());
        format!("{}\r\n", words.join(" "))
    };
    sdp.split_inclusive("\r\n")
        .map(|line| if line.starts_with("a=candidate") { redirect(line) } else { line.to_owned() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_phones_hear_each_other_over_loopback() {
        let (mut caller, offer) = Media::offer(Codecs::PCMU, 440.0);
        assert!(!offer.contains("a=candidate"), "{offer}");
        // Without a gateway in between one side must be told where the other one is.
        let (callee, answer) = Media::answer(Codecs::PCMU, 660.0, &offer);
        let candidate =
            format!("a=candidate:1 1 udp 2130706431 {} {} typ host\r\n", callee.local.ip(), callee.local.port());
        caller.take_answer(&format!("{answer}{candidate}"), None);
        caller.wait_connected(Deadline::seconds(10));
        caller.wait_heard(660.0, Duration::from_millis(500), Deadline::seconds(10));
        callee.wait_heard(440.0, Duration::from_millis(500), Deadline::seconds(10));
    }

    #[test]
    fn candidates_are_redirected() {
        let line = "v=0\r\na=candidate:1 1 udp 2130706431 10.0.0.1 4000 typ host\r\n";
        let through = Some("127.0.0.1:5000".parse().unwrap());
        assert_eq!(redirected(line, through), "v=0\r\na=candidate:1 1 udp 2130706431 127.0.0.1 5000 typ host\r\n");
    }
}
