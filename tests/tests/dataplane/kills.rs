//! The relay process is killed at random instants under calls of every kind, also while programs are written, keys are changed and
//! browsers shake hands; numbers roll over meanwhile. Whatever is sealed is recorded: no key meets an index twice.

use std::{
    net::{SocketAddr, UdpSocket},
    ops::Range,
    time::Duration,
};

use crate::restart::{Dice, id, list, rtp_port};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use gangway_dataplane::{
    srtp::{MasterKey, Profile, SrtpTx, TxStream},
    wire::{BUFFER_LEN_BYTES, Packet},
};
use gangway_shared::{
    ids::{Generation, LegId, RelayId},
    rcp::{
        Codec, ControlMessage, Event, Leg, LegKind, Media, RelayProgram, Request, RtpLeg, RtpRemote, SrtpKeys, SrtpLeg,
        SrtpSuite,
    },
};
use gangway_tests::{
    browser_leg::{BrowserLeg, Heard, rtp_bytes},
    dataplane::{Control, audio_route, browser_leg, echo_program, program, rtp_leg, same},
    deadline::{Deadline, pause},
    kept::KeptDataplane,
    recorder::{Recorder, Sealed},
};

const KILLS: usize = 20;

/// Steps in the numbers of a source: what the relay takes for loss (RFC 3550 appendix A.1), so that they soon roll over.
const STRIDE_MAX: u64 = 2000;

/// SSRCs that the relay sends with, towards the protected end and the plain one.
const TO_PROTECTED: u32 = 72;
const TO_PLAIN: u32 = 71;

/// What one side said, and what of it the other heard.
#[derive(Default)]
struct Direction {
    last: u64,
    said: Vec<u64>,
    heard: Vec<u64>,
    /// By their place in `said`: what was on the way at a kill.
    on_the_way: Vec<Range<usize>>,
}

impl Direction {
    /// Begins shortly before the first rollover.
    fn new() -> Self {
        Direction { last: 65_500, ..Direction::default() }
    }

    fn say(&mut self, ssrc: u32, stride: u64) -> Heard {
        self.last += stride;
        let number = self.last;
        self.said.push(number);
        let payload = [&number.to_be_bytes()[..], &[0xd5; 152]].concat();
        let timestamp = self.said.len() as u32 * 160;
        Heard { pt: 8, ssrc, sequence: number as u16, timestamp, payload }
    }

    fn hear(&mut self, payload: &[u8]) {
        self.heard.push(u64::from_be_bytes(payload[..8].try_into().expect("eight bytes")));
    }

    /// A kill comes: what was said after the last that was heard may be lost.
    fn note_kill(&mut self) {
        let last = self.heard.last().and_then(|last| self.said.binary_search(last).ok());
        let from = last.map_or(0, |at| at + 1);
        self.on_the_way.push(from..usize::MAX);
    }

    /// What is said from now on is not lost.
    fn note_end(&mut self) {
        if let Some(range) = self.on_the_way.last_mut() {
            range.end = self.said.len();
        }
    }

    #[track_caller]
    fn assert_whole(&self, what: &str) {
        assert!(self.heard.is_sorted_by(|one, other| one < other), "{what}: out of order or twice: {:?}", self.heard);
        for (at, number) in self.said.iter().enumerate() {
            let may_be_lost = self.on_the_way.iter().any(|range| range.contains(&at));
            assert!(may_be_lost || self.heard.binary_search(number).is_ok(), "{what}: {number} is lost");
        }
    }
}

/// A master key and its text in a program.
fn key(suite: SrtpSuite, seed: u8) -> (MasterKey, String) {
    let profile = match suite {
        SrtpSuite::AesCm128HmacSha1_80 => Profile::AesCm128HmacSha1_80,
        SrtpSuite::AeadAes128Gcm => Profile::AeadAes128Gcm,
        SrtpSuite::AeadAes256Gcm => Profile::AeadAes256Gcm,
    };
    let bytes: Vec<u8> =
        (0..profile.key_len() + profile.salt_len()).map(|at| seed.wrapping_mul(37) ^ at as u8).collect();
    let (key, salt) = bytes.split_at(profile.key_len());
    (MasterKey::new(profile, key, salt).expect("lengths of the profile"), BASE64_STANDARD.encode(&bytes))
}

/// A SIP peer with SRTP by keys of its SDP, whose RTCP shares the port.
struct SrtpPhone {
    socket: UdpSocket,
    suite: SrtpSuite,
    /// Of the keys that were agreed on last, and of those it sends with.
    seed: u8,
    seed_in_use: u8,
    sending: (SrtpTx, TxStream),
    recorder: Recorder,
}

impl SrtpPhone {
    const SSRC: u32 = 0x5151;

    fn new(suite: SrtpSuite) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        socket.set_nonblocking(true).expect("a socket");
        let sending = (SrtpTx::new(&key(suite, 1).0).expect("a key"), TxStream::new(Self::SSRC));
        let mut recorder = Recorder::default();
        recorder.learn(&key(suite, 2).0);
        SrtpPhone { socket, suite, seed: 1, seed_in_use: 1, sending, recorder }
    }

    /// The keys that are agreed on next. What the relay seals with them is understood from now on.
    fn agree_on_new_keys(&mut self) {
        self.seed += 2;
        self.recorder.learn(&key(self.suite, self.seed + 1).0);
    }

    /// The relay has said that it has them.
    fn use_agreed_keys(&mut self) {
        if self.seed_in_use == self.seed {
            return;
        }
        self.seed_in_use = self.seed;
        let keys = SrtpTx::new(&key(self.suite, self.seed).0).expect("a key");
        self.sending = (keys, TxStream::new(Self::SSRC));
    }

    fn leg(&self, number: u8) -> Leg {
        let at = self.socket.local_addr().expect("a bound socket");
        let remote = Some(RtpRemote { rtp: at, rtcp: at, rtcp_mux: true });
        let rtp = RtpLeg { media: Media::Audio, local_ip: None, remote, feedback: Vec::new() };
        let [theirs, ours] = [self.seed, self.seed + 1].map(|seed| key(self.suite, seed).1);
        let keys = SrtpKeys { suite: self.suite, local: ours.into(), remote: theirs.into() };
        Leg { id: LegId(number), media_timeout_ms: None, kind: LegKind::Srtp(SrtpLeg { rtp, keys }) }
    }

    fn say(&mut self, said: &Heard, to: SocketAddr) {
        let clear = rtp_bytes(said);
        let mut buffer = [0; BUFFER_LEN_BYTES];
        buffer[..clear.len()].copy_from_slice(&clear);
        let mut packet = Packet::new(&mut buffer, 0, clear.len());
        let (keys, stream) = &mut self.sending;
        keys.protect_rtp(stream, &mut packet).expect("a fresh index");
        self.socket.send_to(packet.bytes(), to).expect("loopback");
    }

    fn hear(&mut self, direction: &mut Direction) {
        let mut bytes = [0; BUFFER_LEN_BYTES];
        while let Ok((len, _)) = self.socket.recv_from(&mut bytes) {
            match self.recorder.record(&bytes[..len]) {
                Ok(Sealed::Fresh { place, clear }) if !place.is_rtcp => direction.hear(&clear[12..]),
                Ok(Sealed::Fresh { .. } | Sealed::Again) => {}
                Err(breach) => panic!("{breach:?} by {:?}", self.suite),
            }
        }
    }
}

enum Protected {
    Browser(Box<BrowserLeg>),
    Phone(Box<SrtpPhone>),
}

/// A call between a protected end and a plain one.
struct Call {
    id: RelayId,
    generation: u32,
    protected: Protected,
    plain: UdpSocket,
    /// Leg 2 is there too, and needs ports.
    has_third_leg: bool,
    ports: [Option<SocketAddr>; 2],
    /// Towards the protected end, and towards the plain one.
    directions: [Direction; 2],
}

impl Call {
    fn new(number: u64, protected: Protected) -> Self {
        let plain = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        plain.set_nonblocking(true).expect("a socket");
        let directions = [Direction::new(), Direction::new()];
        Call { id: id(number), generation: 1, protected, plain, has_third_leg: false, ports: [None; 2], directions }
    }

    fn program(&self) -> RelayProgram {
        let protected = match &self.protected {
            Protected::Browser(browser) => browser_leg(0, Some(browser.remote())),
            Protected::Phone(phone) => phone.leg(0),
        };
        let mut legs = vec![protected, rtp_leg(1, Some(self.plain.local_addr().expect("a bound socket")))];
        if self.has_third_leg {
            legs.push(rtp_leg(2, None));
        }
        let payloads = || vec![same(8, Codec::Pcma, 8000, None)];
        program(legs, vec![audio_route(0, 1, TO_PLAIN, payloads()), audio_route(1, 0, TO_PROTECTED, payloads())])
    }

    fn request(&self) -> Request {
        Request::Put { relay: self.id, generation: Generation(self.generation), program: self.program() }
    }

    /// As control does: the program in force, put again after every restart.
    #[track_caller]
    fn put(&mut self, control: &mut Control) {
        let reply = control.put(self.id, self.generation, self.program()).expect("a relay");
        let plain = Some(rtp_port(&reply.legs[1].address));
        match &mut self.protected {
            Protected::Browser(browser) if self.ports[1].is_none() => {
                browser.answer(&reply.legs[0].address);
                browser.connect();
            }
            Protected::Browser(_) => {}
            Protected::Phone(phone) => {
                let port = Some(rtp_port(&reply.legs[0].address));
                assert!(self.ports[0].is_none() || self.ports[0] == port, "the leg stays where it is");
                self.ports[0] = port;
                phone.use_agreed_keys();
            }
        }
        assert!(self.ports[1].is_none() || self.ports[1] == plain, "the leg stays where it is");
        self.ports[1] = plain;
    }

    /// Both ends say something; the plain one goes on by `stride`.
    fn say(&mut self, stride: u64) {
        let [to_protected, to_plain] = &mut self.directions;
        let plain = self.ports[1].expect("it was put");
        let said = to_protected.say(2, stride);
        self.plain.send_to(&rtp_bytes(&said), plain).expect("loopback");
        match &mut self.protected {
            Protected::Browser(browser) => {
                browser.check(false);
                browser.speak(&to_plain.say(0x1234, 1));
            }
            Protected::Phone(phone) => {
                phone.say(&to_plain.say(SrtpPhone::SSRC, 1), self.ports[0].expect("it was put"));
            }
        }
    }

    fn hear(&mut self) {
        let [to_protected, to_plain] = &mut self.directions;
        let mut bytes = [0; BUFFER_LEN_BYTES];
        while let Ok((len, _)) = self.plain.recv_from(&mut bytes) {
            if bytes[1] & 0x7f == 8 {
                to_plain.hear(&bytes[12..len]);
            }
        }
        match &mut self.protected {
            Protected::Browser(browser) => {
                browser.turn();
                browser.take_heard().for_each(|heard| to_protected.hear(&heard.payload));
            }
            Protected::Phone(phone) => phone.hear(to_protected),
        }
    }

    fn recorder(&self) -> &Recorder {
        match &self.protected {
            Protected::Browser(browser) => &browser.recorder,
            Protected::Phone(phone) => &phone.recorder,
        }
    }

    /// How far the numbers of what is sealed may go ahead until so many are left to the rollover; a step of 1 when they are there.
    fn stride_to(&self, left: u64) -> u64 {
        let top = self.recorder().top(TO_PROTECTED).unwrap_or(0) & 0xffff;
        (0x1_0000 - top).saturating_sub(left).clamp(1, STRIDE_MAX)
    }
}

/// How much each direction of each call heard.
fn heard(calls: &[Call]) -> impl Iterator<Item = usize> {
    calls.iter().flat_map(|call| call.directions.iter().map(|direction| direction.heard.len()))
}

/// Everybody talks until each heard `more` that were not heard before.
#[track_caller]
fn talk(calls: &mut [Call], more: usize) {
    let wanted: Vec<usize> = heard(calls).map(|len| len + more).collect();
    let deadline = Deadline::seconds(20);
    while heard(calls).zip(&wanted).any(|(len, wanted)| len < *wanted) {
        let heard: Vec<usize> = heard(calls).collect();
        assert!(!deadline.is_over(), "not everybody is heard any more: {heard:?} of {wanted:?}");
        calls.iter_mut().for_each(|call| call.say(1));
        pause(Duration::from_millis(2));
        calls.iter_mut().for_each(Call::hear);
    }
}

/// Brings what is sealed to shortly before its rollover, each call to another distance.
#[track_caller]
fn approach_rollover(calls: &mut [Call], dice: &mut Dice) {
    let deadline = Deadline::seconds(20);
    for call in calls {
        let left = 1 + dice.below(100);
        while call.stride_to(left) > 1 {
            let (stride, before) = (call.stride_to(left), call.recorder().top(TO_PROTECTED));
            call.say(stride);
            while call.recorder().top(TO_PROTECTED) == before {
                assert!(
                    !deadline.is_over(),
                    "numbers of {} do not go on: {before:#x?} and {stride}, {left} left",
                    call.id
                );
                call.hear();
            }
        }
    }
}

/// What is under way when the kill comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Under {
    /// Nothing but media.
    Media,
    /// A program is written that takes a leg in or out.
    Put,
    /// Keys of the phones are changed.
    Rekey,
    /// A browser of a new call shakes hands.
    Handshake,
}

#[track_caller]
fn kill(dataplane: &KeptDataplane, calls: &mut [Call], after: Duration, under: Under) {
    calls.iter_mut().for_each(|call| call.say(1));
    pause(after);
    calls.iter_mut().flat_map(|call| &mut call.directions).for_each(Direction::note_kill);
    let killed = dataplane.kill_relay();
    // From here on what is said waits in the sockets. By keys that are being changed it may come too late, with a kill or without.
    let note_end = |calls: &mut [Call]| {
        calls.iter_mut().flat_map(|call| &mut call.directions).for_each(Direction::note_end);
    };
    if under != Under::Rekey {
        note_end(calls);
    }
    calls.iter_mut().for_each(|call| call.say(1));
    dataplane.next_relay(killed);
    if under == Under::Rekey {
        note_end(calls);
    }
}

/// A call whose browser was shaking hands at a kill: it connects all the same, or another browser does in its place.
#[track_caller]
fn connect_in_the_end(control: &mut Control, relay: RelayId, mut browser: BrowserLeg) {
    let deadline = Deadline::after(Duration::from_millis(500));
    while !browser.is_connected() && !deadline.is_over() {
        browser.check(true);
        if browser.try_turn().is_err() {
            break;
        }
    }
    if !browser.is_connected() {
        control.delete(relay);
        browser = BrowserLeg::unanswered();
        let reply = control.put(relay, 1, echo_program(Some(browser.remote()))).expect("a relay");
        browser.answer(&reply.legs[0].address);
        browser.connect();
    }
    let said = Direction::new().say(5, 1);
    browser.speak(&Heard { pt: 111, ..said.clone() });
    assert_eq!(browser.listen().payload, said.payload);
    control.delete(relay);
}

fn kill_under_everything(engine: &str, seed: u64) {
    let dataplane = KeptDataplane::start(&[&format!("dataplane_engine={engine}"), "rtcp_interval_ms=100"]);
    let mut control = dataplane.control(1);
    let phone = |suite| Protected::Phone(Box::new(SrtpPhone::new(suite)));
    let mut calls = [
        Call::new(1, Protected::Browser(Box::new(BrowserLeg::unanswered()))),
        Call::new(2, phone(SrtpSuite::AesCm128HmacSha1_80)),
        Call::new(3, phone(SrtpSuite::AeadAes128Gcm)),
        Call::new(4, phone(SrtpSuite::AeadAes256Gcm)),
    ];
    calls.iter_mut().for_each(|call| call.put(&mut control));
    control.wait_event("the keys", |event| matches!(event, Event::KeysReady { .. }));
    let mut dice = Dice(seed);
    talk(&mut calls, 20);
    for number in 0..KILLS {
        let under = [Under::Media, Under::Put, Under::Rekey, Under::Handshake][number % 4];
        talk(&mut calls, if number % 9 == 8 { 400 } else { 1 + dice.below(15) as usize });
        if dice.below(3) > 0 {
            approach_rollover(&mut calls, &mut dice);
        }
        let mut shaking = None;
        match under {
            Under::Media => {}
            Under::Put | Under::Rekey => {
                for call in &mut calls {
                    call.generation += 1;
                    match &mut call.protected {
                        Protected::Phone(phone) if under == Under::Rekey => phone.agree_on_new_keys(),
                        _ => call.has_third_leg ^= true,
                    }
                    let number = 1 << 32 | u64::from(call.generation);
                    control.send(&ControlMessage::Request { id: number, request: call.request() });
                }
            }
            Under::Handshake => {
                let mut browser = BrowserLeg::unanswered();
                let relay = id(100 + number as u64);
                let reply = control.put(relay, 1, echo_program(Some(browser.remote()))).expect("a relay");
                browser.answer(&reply.legs[0].address);
                for _ in 0..dice.below(6) {
                    browser.check(true);
                    browser.turn();
                }
                shaking = Some((relay, browser));
            }
        }
        kill(&dataplane, &mut calls, Duration::from_micros(dice.below(2000)), under);
        control = dataplane.control(1);
        calls.iter_mut().for_each(|call| call.put(&mut control));
        if let Some((relay, browser)) = shaking {
            connect_in_the_end(&mut control, relay, browser);
        }
        // Everybody hears again, whatever was cut off.
        talk(&mut calls, 5);
    }
    talk(&mut calls, 20);
    for (number, call) in calls.iter().enumerate() {
        for (direction, to) in call.directions.iter().zip(["protected", "plain"]) {
            direction.assert_whole(&format!("call {number} towards the {to} end"));
        }
        let [rtp, rtcp] = call.recorder().recorded();
        let index = call.recorder().top(TO_PROTECTED).expect("it was sealed");
        eprintln!("call {number}: {rtp} SRTP and {rtcp} SRTCP packets recorded, the last index is {index:#x}");
        assert!(rtp > 20 * KILLS / 2 && rtcp > 0);
    }
    // The browser's key is the same all the time.
    let rolled = calls[0].recorder().top(TO_PROTECTED).expect("it was sealed") >> 16;
    assert!(rolled >= 3, "its numbers rolled over {rolled} times");
    let mut there: Vec<RelayId> = list(&mut control).into_iter().map(|entry| entry.relay).collect();
    there.sort_unstable();
    assert_eq!(there, calls.each_ref().map(|call| call.id));
    let third: u64 = calls.iter().map(|call| u64::from(call.has_third_leg)).sum();
    assert_eq!(control.node().media_ports_used, 2 * (1 + 2 * 3 + third), "no pair is left behind");
    calls.iter().for_each(|call| control.delete(call.id));
    assert_eq!(control.node().media_ports_used, 0);
}

#[test]
fn no_index_is_sealed_twice_and_no_call_ends_whatever_is_under_way_at_a_kill() {
    kill_under_everything("auto", 3);
}

#[test]
fn nor_on_the_other_engine() {
    kill_under_everything("epoll", 4);
}
