//! The load generator: one thread that plays both ends of thousands of calls, checks every packet that comes, and says when it was
//! itself the limit.
//!
//! Ends that SDP describes share one pair of sockets a side: relays tell calls by their own ports. A browser's end has a socket of its
//! own, because the relay tells browsers by their addresses.

mod attackers;
pub mod browser;
pub mod report;
mod run;
mod socket;
pub mod stream;

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use dimpl::DtlsCertificate;
use gangway_dataplane::{
    srtp::{MasterKey, Profile, RxStream, SrtpRx, SrtpTx, TxStream},
    wire::{PacketKind, classify},
};
use gangway_shared::{
    entropy::SeededEntropy,
    rcp::{Fingerprint, SrtpSuite},
};
use serde::{Deserialize, Serialize};

pub(crate) use self::socket::{drops_at, udp_sockets};
use self::{
    browser::{ANSWER_MAX, Browser, Heard, UFRAG},
    socket::{Sockets, next_datagram},
    stream::Stream,
};
use crate::{
    call::{Answer, CallSpec, EndSpec, Media, Security, master_key, seeded_key},
    sys::{BUFFER_LEN_BYTES, Inbox, Outbox},
};

pub use report::Report;
pub use run::{Mark, Timing};

/// Browsers that shake hands at the same time.
const HANDSHAKES_AT_ONCE: usize = 64;

/// Browsers that come in a second: many for any site, and no more, because all at once would show what a crowd of handshakes needs and not
/// what calls need.
const HANDSHAKES_PER_S: u32 = 400;

/// While others shake hands, those that are done check so often, or their consent would end.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// A handshake may take so long.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(20);

/// How the first end of each call is protected; the second is plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Not at all.
    Plain,
    /// SRTP by keys that both are told.
    Srtp(SrtpSuite),
    /// ICE and DTLS, as browsers do.
    Ice,
    /// Each of these in turn: plain, AES in counter mode, AES-128 in Galois/counter mode, a browser.
    Mixed,
}

/// Which calls are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Calls that talk.
    pub talking: u32,
    /// Calls that are set up, latched, and then only send RTCP and consent checks.
    pub silent: u32,
    /// Their first ends.
    pub side: Side,
    /// What flows.
    pub media: Media,
}

impl Side {
    /// The side of this name: `plain`, `cm`, `gcm`, `gcm256`, `ice` or `mixed`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "plain" => Side::Plain,
            "cm" => Side::Srtp(SrtpSuite::AesCm128HmacSha1_80),
            "gcm" => Side::Srtp(SrtpSuite::AeadAes128Gcm),
            "gcm256" => Side::Srtp(SrtpSuite::AeadAes256Gcm),
            "ice" => Side::Ice,
            "mixed" => Side::Mixed,
            _ => return None,
        })
    }

    /// The side of a call.
    fn of(self, number: u32) -> Self {
        match (self, number % 4) {
            (Side::Mixed, 0) => Side::Plain,
            (Side::Mixed, 1) => Side::Srtp(SrtpSuite::AesCm128HmacSha1_80),
            (Side::Mixed, 2) => Side::Srtp(SrtpSuite::AeadAes128Gcm),
            (Side::Mixed, _) => Side::Ice,
            (one, _) => one,
        }
    }
}

impl Shape {
    /// Calls in all.
    #[must_use]
    pub fn calls(&self) -> u32 {
        self.talking + self.silent
    }
}

/// One end of one call.
struct End {
    port: usize,
    rtcp_port: usize,
    to: SocketAddrV4,
    rtcp_to: SocketAddrV4,
    keys: Option<EndKeys>,
    browser: Option<Browser>,
    /// Streams it sends and hears.
    sends: usize,
    hears: usize,
}

struct EndKeys {
    tx: SrtpTx,
    rx: SrtpRx,
    sending: TxStream,
    receiving: Vec<RxStream>,
}

impl EndKeys {
    fn new(send: &MasterKey, receive: &MasterKey, ssrc: u32) -> Option<Self> {
        let (tx, rx) = (SrtpTx::new(send)?, SrtpRx::new(receive)?);
        Some(EndKeys { tx, rx, sending: TxStream::new(ssrc), receiving: Vec::new() })
    }

    /// The state of a stream that is heard: a relay has few, and names them by itself.
    fn receiving(&mut self, ssrc: u32) -> (&SrtpRx, &mut RxStream) {
        /// More than any relay sends to one end.
        const STREAMS_MAX: usize = 4;
        let known = self.receiving.iter().position(|stream| stream.ssrc() == ssrc);
        let at = known.unwrap_or_else(|| {
            if self.receiving.len() == STREAMS_MAX {
                self.receiving.remove(0);
            }
            self.receiving.push(RxStream::new(ssrc));
            self.receiving.len() - 1
        });
        (&self.rx, &mut self.receiving[at])
    }
}

/// See the module text.
pub struct Load {
    shape: Shape,
    specs: Vec<CallSpec>,
    sockets: Sockets,
    ends: Vec<End>,
    streams: Vec<Stream>,
    pattern: Vec<u8>,
    certificate: Option<(DtlsCertificate, Fingerprint)>,
    /// SRTP profiles that came of the handshakes.
    profiles: BTreeSet<&'static str>,
    inbox: Inbox,
    outbox: Outbox,
    /// Turns of reports and of checks in the runs before.
    turns: (u64, u64),
}

impl Load {
    /// Opens the sockets of all ends.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(shape: Shape) -> io::Result<Self> {
        Load::open_with(shape, 0, Ipv4Addr::LOCALHOST)
    }

    /// The same with browsers at another address of this machine than 127.0.0.1.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open_at(shape: Shape, browsers: Ipv4Addr) -> io::Result<Self> {
        Load::open_with(shape, 0, browsers)
    }

    /// The same for calls that are counted from `first_number`, a multiple of four: beside another load on the same relay.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open_from(shape: Shape, first_number: u32) -> io::Result<Self> {
        Load::open_with(shape, first_number, Ipv4Addr::LOCALHOST)
    }

    fn open_with(shape: Shape, first_number: u32, browsers: Ipv4Addr) -> io::Result<Self> {
        let mut sockets = Sockets::new(browsers)?;
        let (a, b) = (sockets.open_pair()?, sockets.open_pair()?);
        let certificate = matches!(shape.side, Side::Ice | Side::Mixed).then(browser::certificate);
        let mut entropy = SeededEntropy::new(0x6b65_7973 + u64::from(first_number));
        let mut ends = Vec::new();
        let mut streams = Vec::new();
        let mut specs = Vec::new();
        for number in first_number..first_number + shape.calls() {
            let (first, up) = (ends.len(), streams.len());
            let side = shape.side.of(number);
            let a = if side == Side::Ice {
                let own = sockets.open()?;
                (own, own)
            } else {
                a
            };
            let security = match side {
                Side::Plain => Security::Plain,
                Side::Srtp(suite) => {
                    let (send, receive) = (seeded_key(suite, &mut entropy), seeded_key(suite, &mut entropy));
                    Security::Srtp { suite, send, receive }
                }
                Side::Ice | Side::Mixed => {
                    let (_, fingerprint) = certificate.as_ref().expect("browsers have a certificate");
                    Security::Ice {
                        ufrag: UFRAG.to_owned(),
                        fingerprint: *fingerprint,
                        ssrc: stream::ssrc_of(up as u32),
                    }
                }
            };
            let address = |port: usize| sockets.address(port);
            specs.push(CallSpec {
                number,
                media: shape.media,
                ends: [
                    EndSpec { rtp: address(a.0), rtcp: address(a.1), security },
                    EndSpec { rtp: address(b.0), rtcp: address(b.1), security: Security::Plain },
                ],
            });
            for (port, rtcp_port) in [a, b] {
                let sends = up + (ends.len() - first);
                let hears = up + (1 - (ends.len() - first));
                let nobody = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
                ends.push(End {
                    port,
                    rtcp_port,
                    to: nobody,
                    rtcp_to: nobody,
                    keys: None,
                    browser: None,
                    sends,
                    hears,
                });
            }
            streams.push(Stream::new(up as u32, (first, first + 1), shape.media));
            streams.push(Stream::new(up as u32 + 1, (first + 1, first), shape.media));
        }
        let (inbox, outbox) = (Inbox::default(), Outbox::default());
        let pattern = stream::pattern();
        let profiles = BTreeSet::new();
        Ok(Load { shape, specs, sockets, ends, streams, pattern, certificate, profiles, inbox, outbox, turns: (0, 0) })
    }

    /// What a relay must be told.
    #[must_use]
    pub fn specs(&self) -> &[CallSpec] {
        &self.specs
    }

    /// Takes a relay's answers, one for each of [`specs`](Self::specs), and shakes hands where that is needed.
    ///
    /// # Errors
    /// Keys that do not fit; a handshake that fails or takes longer than 20 s.
    ///
    /// # Panics
    /// When there are fewer answers than calls.
    pub fn connect(&mut self, answers: &[[Answer; 2]]) -> io::Result<()> {
        assert_eq!(answers.len(), self.specs.len(), "an answer for each call");
        for (at, answer) in answers.iter().flatten().enumerate() {
            let end = &mut self.ends[at];
            (end.to, end.rtcp_to) = (answer.rtp, answer.rtcp);
            self.sockets.expect(end.port, end.to, at);
            if end.rtcp_port != end.port {
                self.sockets.expect(end.rtcp_port, end.rtcp_to, at);
            }
            let ssrc = self.streams[end.sends].ssrc;
            match &self.specs[at / 2].ends[at % 2].security {
                Security::Plain => {}
                Security::Srtp { suite, send, receive } => {
                    let receive = answer.key.as_ref().unwrap_or(receive);
                    let keys = master_key(*suite, send).zip(master_key(*suite, receive));
                    let keys = keys.and_then(|(send, receive)| EndKeys::new(&send, &receive, ssrc));
                    end.keys = Some(keys.ok_or_else(|| io::Error::other("keys that do not fit their suite"))?);
                }
                Security::Ice { .. } => {
                    let (certificate, _) = self.certificate.as_ref().expect("browsers have a certificate");
                    let ice = answer.ice.as_ref().ok_or_else(|| io::Error::other("a browser's end without ICE"))?;
                    let browser = Browser::new(certificate.clone(), &ice.ufrag, &ice.pwd, answer.rtp);
                    end.browser = Some(if ice.begins { browser.begun_by_relay() } else { browser });
                }
            }
        }
        let browsers: Vec<usize> = (0..self.ends.len()).filter(|&at| self.ends[at].browser.is_some()).collect();
        let mut check_at = Instant::now() + CHECK_EVERY;
        for ends in browsers.chunks(HANDSHAKES_AT_ONCE) {
            let next_at = Instant::now() + Duration::from_secs(1) * ends.len() as u32 / HANDSHAKES_PER_S;
            self.shake_hands(ends)?;
            std::thread::sleep(next_at.saturating_duration_since(Instant::now()));
            if Instant::now() >= check_at {
                self.check();
                self.drain();
                check_at = Instant::now() + CHECK_EVERY;
            }
        }
        Ok(())
    }

    fn shake_hands(&mut self, ends: &[usize]) -> io::Result<()> {
        let deadline = Instant::now() + HANDSHAKE_WITHIN;
        let mut waiting = ends.to_vec();
        let mut buffer = [0; BUFFER_LEN_BYTES];
        let mut check_at = Instant::now();
        while !waiting.is_empty() {
            let now = Instant::now();
            if now > deadline {
                return Err(io::Error::other(format!("{} handshakes are not done", waiting.len())));
            }
            let checks = now >= check_at;
            if checks {
                check_at = now + Duration::from_millis(200);
            }
            for &at in &waiting {
                let end = &mut self.ends[at];
                let browser = end.browser.as_mut().expect("only browsers wait");
                let socket = self.sockets.socket(end.port);
                if checks && browser.answered == 0 {
                    let len = browser.check(&mut buffer);
                    // What is not taken is sent again.
                    let _ = socket.send_to(&buffer[..len], browser.to);
                }
                let turn = |browser: &mut Browser, datagram: Option<&[u8]>| {
                    let to = browser.to;
                    browser.shake(datagram, |bytes| drop(socket.send_to(bytes, to))).map_err(io::Error::other)
                };
                while let Some((len, from)) = next_datagram(socket, &mut buffer) {
                    match classify(&buffer[..len]) {
                        Ok(PacketKind::Stun) => {
                            let mut answer = [0; ANSWER_MAX];
                            if let Heard::Check(len) = browser.on_stun(&buffer[..len], from, &mut answer) {
                                // What is not taken is asked for again.
                                let _ = socket.send_to(&answer[..len], from);
                            }
                        }
                        Ok(PacketKind::Dtls) => turn(browser, Some(&buffer[..len]))?,
                        _ => {}
                    }
                }
                if browser.answered > 0 {
                    turn(browser, None)?;
                }
                if let Some((send, receive)) = browser.take_keys() {
                    let ssrc = self.streams[end.sends].ssrc;
                    self.profiles.extend(send.profile().map(Profile::sdes_name));
                    end.keys = EndKeys::new(&send, &receive, ssrc);
                }
            }
            waiting.retain(|&at| self.ends[at].keys.is_none());
            self.sockets.wait(Duration::from_millis(1));
        }
        Ok(())
    }
}
