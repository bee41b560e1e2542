//! The media side of a browser, as small as it can be: checks, a DTLS client, SRTP. It shares code with the dataplane (whose
//! own tests against vectors and other implementations are elsewhere), so that a test can say exactly what goes on the wire.

#![allow(clippy::disallowed_methods, reason = "a peer on a real socket: it owns a clock")]

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use dimpl::{Config, Dtls, Output, SrtpProfile};
use gangway_dataplane::{
    srtp::{MasterKey, Profile, RxStream, SrtpRx, SrtpTx, TxStream},
    wire::{
        BUFFER_LEN_BYTES, Packet, PacketKind, classify,
        rtcp::{Compound, RtcpPacket},
        stun::{BindingRequest, IceRole, Message},
    },
};
use gangway_shared::rcp::{Fingerprint, IceRemote, LegAddress};

use crate::{deadline::Deadline, recorder::Recorder};

/// Our ufrag; the dataplane never sends checks, so there is no password.
const UFRAG: &str = "brws";

/// A packet as the browser hears it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Payload type.
    pub pt: u8,
    /// Stream.
    pub ssrc: u32,
    /// Sequence number.
    pub sequence: u16,
    /// RTP timestamp.
    pub timestamp: u32,
    /// Payload.
    pub payload: Vec<u8>,
}

/// See the module text.
pub struct BrowserLeg {
    socket: UdpSocket,
    to: SocketAddr,
    username: String,
    password: String,
    dtls: Dtls,
    fingerprint: Fingerprint,
    transaction: u8,
    /// Checks that were answered.
    pub answered: usize,
    /// DTLS datagrams that were received.
    pub dtls_received: usize,
    keys: Option<(SrtpTx, SrtpRx)>,
    connected: bool,
    sending: BTreeMap<u32, TxStream>,
    receiving: BTreeMap<u32, RxStream>,
    heard: VecDeque<Heard>,
    /// RTCP packets that authenticated.
    pub rtcp_heard: usize,
    /// Wishes for a key frame among them.
    pub picture_losses: usize,
    /// What the dataplane sealed for it.
    pub recorder: Recorder,
    /// How many of the next RTP packets get lost on the way to it.
    pub losing: usize,
}

impl BrowserLeg {
    /// A browser that was answered with `address`.
    ///
    /// # Panics
    /// When it is no browser leg's.
    #[track_caller]
    pub fn new(address: &LegAddress) -> Self {
        let mut leg = Self::unanswered();
        leg.answer(address);
        leg
    }

    /// A browser with credentials and certificate that knows no other side yet.
    pub fn unanswered() -> Self {
        Self::unanswered_on(Ipv4Addr::LOCALHOST.into())
    }

    /// The same at another address.
    ///
    /// # Panics
    /// When it cannot be bound.
    pub fn unanswered_on(ip: IpAddr) -> Self {
        let certificate = dimpl::certificate::generate_self_signed_certificate().expect("a certificate");
        let fingerprint = Fingerprint(certificate.fingerprint().try_into().expect("SHA-256 has 32 bytes"));
        let config = Config::builder().flight_start_rto(Duration::from_millis(50)).flight_retries(8).build();
        let mut dtls = Dtls::new_12(Arc::new(config.expect("the crate's defaults")), certificate, Instant::now());
        dtls.set_active(true);
        let socket = UdpSocket::bind((ip, 0)).expect("an address of this machine");
        socket.set_read_timeout(Some(Duration::from_millis(5))).expect("a socket");
        BrowserLeg {
            to: socket.local_addr().expect("a bound socket"),
            socket,
            username: String::new(),
            password: String::new(),
            dtls,
            fingerprint,
            transaction: 0,
            answered: 0,
            dtls_received: 0,
            keys: None,
            connected: false,
            sending: BTreeMap::new(),
            receiving: BTreeMap::new(),
            heard: VecDeque::new(),
            rtcp_heard: 0,
            picture_losses: 0,
            recorder: Recorder::default(),
            losing: 0,
        }
    }

    /// Learns the other side.
    ///
    /// # Panics
    /// When it is no browser leg's.
    #[track_caller]
    pub fn answer(&mut self, address: &LegAddress) {
        let LegAddress::IceDtls { candidates, ufrag, pwd, .. } = address else { panic!("{address:?}") };
        let is_ours = |to: &&SocketAddr| to.is_ipv4() == self.address().is_ipv4();
        self.to = *candidates.iter().find(is_ours).expect("a candidate of the browser's family");
        self.username = format!("{ufrag}:{UFRAG}");
        self.password = pwd.clone();
    }

    /// What SDP says of this browser.
    pub fn remote(&self) -> IceRemote {
        IceRemote { ufrag: UFRAG.to_owned(), fingerprints: vec![self.fingerprint] }
    }

    /// The address it sends from.
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("a bound socket")
    }

    /// Is somewhere else from now on, as when a phone changes its network.
    ///
    /// # Panics
    /// When the address cannot be bound.
    pub fn move_on(&mut self) {
        self.socket = UdpSocket::bind((self.address().ip(), 0)).expect("an address of this machine");
        self.socket.set_read_timeout(Some(Duration::from_millis(5))).expect("a socket");
    }

    /// Sends a check.
    pub fn check(&mut self, nominate: bool) {
        let password = self.password.clone();
        self.check_with(password.as_bytes(), nominate);
    }

    /// Sends a check signed with another password.
    pub fn check_with(&mut self, password: &[u8], nominate: bool) {
        self.transaction = self.transaction.wrapping_add(1);
        let request = BindingRequest {
            transaction: [self.transaction; 12],
            username: self.username.as_bytes(),
            password,
            priority: 1,
            role: IceRole::Controlling(7),
            use_candidate: nominate,
        };
        let mut bytes = [0; 256];
        let len = request.encode(&mut bytes).expect("a check fits");
        self.send(&bytes[..len]);
    }

    /// Sends bytes as they are.
    pub fn send(&self, bytes: &[u8]) {
        self.socket.send_to(bytes, self.to).expect("loopback");
    }

    /// Checks, nominates and shakes hands.
    ///
    /// # Panics
    /// When it takes more than ten seconds.
    #[track_caller]
    pub fn connect(&mut self) {
        let deadline = Deadline::seconds(10);
        while self.answered == 0 {
            assert!(!deadline.is_over(), "no check was answered");
            self.check(true);
            self.turn();
        }
        self.shake(deadline);
    }

    /// Goes on with the handshake until it is done.
    ///
    /// # Panics
    /// When the deadline passes.
    #[track_caller]
    pub fn shake(&mut self, deadline: Deadline) {
        while !(self.connected && self.keys.is_some()) {
            assert!(!deadline.is_over(), "the handshake is not done; {} DTLS datagrams came", self.dtls_received);
            self.turn();
        }
    }

    /// Whether both keys and the end of the handshake are there.
    pub fn is_connected(&self) -> bool {
        self.connected && self.keys.is_some()
    }

    /// Takes what has come, waits a few milliseconds for more, and lets DTLS go on.
    ///
    /// # Panics
    /// When the handshake fails.
    #[track_caller]
    pub fn turn(&mut self) {
        self.try_turn().expect("the handshake lives");
    }

    /// The same.
    ///
    /// # Errors
    /// What the handshake failed by.
    pub fn try_turn(&mut self) -> Result<(), dimpl::Error> {
        let mut buffer = [0; BUFFER_LEN_BYTES];
        while let Ok((len, _)) = self.socket.recv_from(&mut buffer) {
            match classify(&buffer[..len]) {
                Ok(PacketKind::Stun) => {
                    let message = Message::parse(&buffer[..len]).expect("the dataplane speaks STUN");
                    assert!(message.has_integrity(self.password.as_bytes()), "an answer is signed");
                    assert_eq!(message.mapped_address(), Some(self.address()));
                    self.answered += 1;
                }
                Ok(PacketKind::Dtls) => {
                    self.dtls_received += 1;
                    self.dtls.handle_timeout(Instant::now())?;
                    self.dtls.handle_packet(&buffer[..len])?;
                    self.drive();
                }
                Ok(PacketKind::Rtp) if self.losing > 0 => self.losing -= 1,
                Ok(PacketKind::Rtp) => self.hear(&mut Packet::new(&mut buffer, 0, len)),
                Ok(PacketKind::Rtcp) => self.hear_rtcp(&mut Packet::new(&mut buffer, 0, len)),
                Err(reason) => panic!("the dataplane sent something that is {}", reason.name()),
            }
        }
        if self.answered > 0 {
            self.dtls.handle_timeout(Instant::now())?;
            self.drive();
        }
        Ok(())
    }

    fn drive(&mut self) {
        let mut buffer = [0; BUFFER_LEN_BYTES];
        loop {
            match self.dtls.poll_output(&mut buffer) {
                Output::Packet(datagram) => {
                    let _ = self.socket.send_to(datagram, self.to);
                }
                Output::Connected => self.connected = true,
                Output::KeyingMaterial(block, profile) => {
                    assert_eq!(profile, SrtpProfile::AEAD_AES_256_GCM, "the server chooses GCM");
                    let profile = Profile::AeadAes256Gcm;
                    let key = |at: usize| &block[at * 32..at * 32 + 32];
                    let salt = |at: usize| &block[64 + at * 12..64 + at * 12 + 12];
                    let ours = MasterKey::new(profile, key(0), salt(0)).expect("a key");
                    let theirs = MasterKey::new(profile, key(1), salt(1)).expect("a key");
                    self.recorder.learn(&theirs);
                    self.keys = SrtpTx::new(&ours).zip(SrtpRx::new(&theirs));
                }
                Output::Timeout(_) => return,
                _ => {}
            }
        }
    }

    fn hear(&mut self, packet: &mut Packet<'_>) {
        let Some((_, keys)) = &self.keys else { return };
        self.recorder.record(packet.bytes()).expect("no index is sealed twice");
        let ssrc = u32::from_be_bytes(packet.bytes()[8..12].try_into().expect("four bytes"));
        let stream = self.receiving.entry(ssrc).or_insert_with(|| RxStream::new(ssrc));
        keys.unprotect_rtp(stream, packet).expect("what the dataplane sends authenticates");
        let bytes = packet.bytes();
        self.heard.push_back(Heard {
            pt: bytes[1] & 0x7f,
            ssrc,
            sequence: u16::from_be_bytes([bytes[2], bytes[3]]),
            timestamp: u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            payload: bytes[12..].to_vec(),
        });
    }

    fn hear_rtcp(&mut self, packet: &mut Packet<'_>) {
        let Some((_, keys)) = &self.keys else { return };
        self.recorder.record(packet.bytes()).expect("no index is sealed twice");
        let ssrc = u32::from_be_bytes(packet.bytes()[4..8].try_into().expect("four bytes"));
        let stream = self.receiving.entry(ssrc).or_insert_with(|| RxStream::new(ssrc));
        keys.unprotect_rtcp(stream, packet).expect("what the dataplane sends authenticates");
        self.rtcp_heard += 1;
        self.picture_losses += picture_losses(packet.bytes());
    }

    /// Says something.
    ///
    /// # Panics
    /// Before the handshake is done.
    #[track_caller]
    pub fn speak(&mut self, said: &Heard) {
        let (keys, _) = self.keys.as_ref().expect("connected first");
        let mut buffer = [0; BUFFER_LEN_BYTES];
        let packet = rtp_bytes(said);
        buffer[..packet.len()].copy_from_slice(&packet);
        let mut packet = Packet::new(&mut buffer, 0, packet.len());
        let stream = self.sending.entry(said.ssrc).or_insert_with(|| TxStream::new(said.ssrc));
        keys.protect_rtp(stream, &mut packet).expect("a fresh index");
        self.socket.send_to(packet.bytes(), self.to).expect("loopback");
    }

    /// Asks for a packet of a stream again: a generic NACK behind an empty receiver report (RFC 4585 sections 3.1 and 6.2.1).
    ///
    /// # Panics
    /// Before the handshake is done.
    #[track_caller]
    pub fn ask_again(&mut self, ssrc: u32, sequence: u16) {
        const SENDER: u32 = 1;
        let mut rtcp =
            [&[0x80, 201, 0, 1][..], &SENDER.to_be_bytes(), &[0x81, 205, 0, 3], &SENDER.to_be_bytes()].concat();
        rtcp.extend([&ssrc.to_be_bytes()[..], &sequence.to_be_bytes(), &[0, 0]].concat());
        let (keys, _) = self.keys.as_ref().expect("connected first");
        let mut buffer = [0; BUFFER_LEN_BYTES];
        buffer[..rtcp.len()].copy_from_slice(&rtcp);
        let mut packet = Packet::new(&mut buffer, 0, rtcp.len());
        let stream = self.sending.entry(SENDER).or_insert_with(|| TxStream::new(SENDER));
        keys.protect_rtcp(stream, &mut packet).expect("a fresh index");
        self.socket.send_to(packet.bytes(), self.to).expect("loopback");
    }

    /// Waits for a packet.
    ///
    /// # Panics
    /// When none comes within five seconds.
    #[track_caller]
    pub fn listen(&mut self) -> Heard {
        let deadline = Deadline::seconds(5);
        loop {
            if let Some(heard) = self.heard.pop_front() {
                return heard;
            }
            assert!(!deadline.is_over(), "the browser hears nothing");
            self.turn();
        }
    }

    /// What came in `time`.
    pub fn listen_for(&mut self, time: Duration) -> Vec<Heard> {
        let deadline = Deadline::after(time);
        while !deadline.is_over() {
            self.turn();
        }
        self.take_heard().collect()
    }

    /// What came and was not taken yet.
    pub fn take_heard(&mut self) -> impl Iterator<Item = Heard> {
        self.heard.drain(..)
    }

    /// Closes as a browser does: close_notify.
    pub fn close(&mut self) {
        self.dtls.close().expect("an established session");
        self.drive();
    }
}

/// Wishes for a key frame in an RTCP packet.
///
/// # Panics
/// When it is malformed.
pub fn picture_losses(rtcp: &[u8]) -> usize {
    let compound = Compound::parse(rtcp).expect("the dataplane speaks RTCP");
    compound.packets().filter(|packet| matches!(packet, RtcpPacket::PictureLoss { .. })).count()
}

/// The packet in clear.
pub fn rtp_bytes(said: &Heard) -> Vec<u8> {
    let mut packet = vec![0x80, said.pt];
    packet.extend_from_slice(&said.sequence.to_be_bytes());
    packet.extend_from_slice(&said.timestamp.to_be_bytes());
    packet.extend_from_slice(&said.ssrc.to_be_bytes());
    packet.extend_from_slice(&said.payload);
    packet
}
