//! H.264 through the real relay, judged by a decoder: x264 encodes, the test packetizes (RFC 6184), the relay passes on, FFmpeg decodes.
//! The dataplane runs in this process; phone and browser are the test's own.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use gangway_shared::{
    ids::{LegId, RelayId},
    rcp::{
        Codec, Event, Feedback, Leg, LegAddress, LegKind, Media, Payload, PayloadMap, RelayProgram, Route, RtpLeg,
        RtpRemote,
    },
};
use gangway_tests::{
    browser_leg::{BrowserLeg, Heard, picture_losses, rtp_bytes},
    dataplane::{Control, Dataplane, audio_route, browser_leg, program},
    deadline::Deadline,
    h264::{Clip, Depacketizer, Encoding, FU_A, Mode, STAP_A, payloads},
};

const PT: u8 = 102;
/// RTP timestamp from one picture to the next: 15 a second.
const PICTURE_TICKS: u32 = 6000;
/// SSRC of what the browser gets.
const TO_BROWSER: u32 = 0x1000;
/// Longest payload of the test's packets.
const PAYLOAD_MAX_BYTES: usize = 1100;
/// The bit beside the payload type that ends an access unit.
const MARKER: u8 = 0x80;

/// One key frame at the start, in slices that fit packets of their own.
const CLIP: Encoding = Encoding { pictures: 20, key_every: 20, slice_max_bytes: Some(1000), is_negative: false };
/// Another one, for what comes after something went wrong: it has no picture in common with the first.
const NEXT: Encoding = Encoding { is_negative: true, ..CLIP };
/// A long one without a second key frame, to be sent until somebody asks for one.
const ENDLESS: Encoding = Encoding { pictures: 120, key_every: 120, ..CLIP };

/// A camera: what it sends has one SSRC and counts up.
struct Camera {
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
    mode: Mode,
}

impl Camera {
    fn new(ssrc: u32, mode: Mode) -> Self {
        Self { ssrc, sequence: 65_500, timestamp: 0xffff_0000, mode }
    }

    /// The packets of a picture.
    fn packets(&mut self, access_unit: &[Vec<u8>]) -> Vec<Heard> {
        let payloads = payloads(access_unit, self.mode, PAYLOAD_MAX_BYTES);
        self.timestamp = self.timestamp.wrapping_add(PICTURE_TICKS);
        let last = payloads.len() - 1;
        let numbered = payloads.into_iter().enumerate().map(|(at, payload)| {
            self.sequence = self.sequence.wrapping_add(1);
            let marker = if at == last { MARKER } else { 0 };
            Heard { pt: PT | marker, ssrc: self.ssrc, sequence: self.sequence, timestamp: self.timestamp, payload }
        });
        numbered.collect()
    }
}

/// A browser and a phone that takes PLI, with video between them.
struct Call {
    _dataplane: Dataplane,
    control: Control,
    program: RelayProgram,
    generation: u32,
    browser: BrowserLeg,
    phone: UdpSocket,
    phone_rtcp: UdpSocket,
    /// Where the phone sends.
    relay: SocketAddr,
}

impl Call {
    fn new() -> Self {
        Self::described(None)
    }

    /// `fmtp` is what the phone says of its payload type.
    fn described(fmtp: Option<String>) -> Self {
        let dataplane = Dataplane::start(1, &[]);
        let mut control = dataplane.control(1);
        let mut browser = BrowserLeg::unanswered();
        let [phone, phone_rtcp] = [(), ()].map(|()| UdpSocket::bind("127.0.0.1:0").expect("a socket"));
        let address = |socket: &UdpSocket| socket.local_addr().expect("a bound socket");
        let remote = RtpRemote { rtp: address(&phone), rtcp: address(&phone_rtcp), rtcp_mux: false };
        let leg =
            RtpLeg { media: Media::Video, local_ip: None, remote: Some(remote), feedback: vec![Feedback::NackPli] };
        let leg = Leg { id: LegId(1), media_timeout_ms: None, kind: LegKind::Rtp(leg) };
        let at_browser = Payload { pt: PT, codec: Codec::H264, clock: 90_000, channels: None, fmtp: None };
        let at_phone = Payload { fmtp, ..at_browser.clone() };
        let route = |from, to, ssrc, map| Route { media: Media::Video, ..audio_route(from, to, ssrc, vec![map]) };
        let mut at_browser_leg = browser_leg(0, Some(browser.remote()));
        if let LegKind::IceDtls(ice) = &mut at_browser_leg.kind {
            ice.feedback = vec![Feedback::Nack];
        }
        let program = program(
            vec![at_browser_leg, leg],
            vec![
                route(1, 0, TO_BROWSER, PayloadMap { from: at_phone.clone(), to: at_browser.clone() }),
                route(0, 1, 0x2000, PayloadMap { from: at_browser, to: at_phone }),
            ],
        );
        let reply = control.put(RelayId::new(1, 1, 1), 1, program.clone()).expect("a program that the dataplane runs");
        browser.answer(&reply.legs[0].address);
        let LegAddress::Rtp { rtp: relay, .. } = reply.legs[1].address else { panic!("{reply:?}") };
        Self { _dataplane: dataplane, control, program, generation: 1, browser, phone, phone_rtcp, relay }
    }

    fn connect(&mut self) {
        self.browser.connect();
        self.control.wait_event("the browser's keys", |event| matches!(event, Event::KeysReady { .. }));
    }

    /// Holds the way to the browser, or lets it go on.
    fn pause(&mut self, paused: bool) {
        self.program.routes[0].paused = paused;
        self.generation += 1;
        self.control.put(RelayId::new(1, 1, 1), self.generation, self.program.clone()).expect("the same program");
    }

    /// The phone sends these packets.
    fn phone_sends(&mut self, packets: &[Heard]) {
        for packet in packets {
            self.phone.send_to(&rtp_bytes(packet), self.relay).expect("loopback");
        }
        // Takes what has come by now, so that no socket runs full.
        self.browser.turn();
    }

    /// The phone sends this picture and those after it until it is asked for a key frame.
    ///
    /// # Panics
    /// When it has no more pictures.
    fn phone_sends_until_asked(&mut self, camera: &mut Camera, pictures: &[Vec<Vec<u8>>]) {
        for access_unit in pictures {
            let packets = camera.packets(access_unit);
            self.phone_sends(&packets);
            if self.phone_was_asked(Duration::from_millis(20)) {
                return;
            }
        }
        panic!("nobody asked for a key frame in {} pictures", pictures.len());
    }

    /// Whether the phone is asked for a key frame within this time.
    fn phone_was_asked(&mut self, within: Duration) -> bool {
        let deadline = Deadline::after(within);
        let mut buffer = [0; 1500];
        while let Some(left) = deadline.left() {
            self.phone_rtcp.set_read_timeout(Some(left)).expect("a timeout");
            if let Ok(len) = self.phone_rtcp.recv(&mut buffer)
                && picture_losses(&buffer[..len]) > 0
            {
                return true;
            }
        }
        false
    }

    /// What the browser hears up to the packet with the last payload that was sent.
    fn browser_hears(&mut self, last: &Heard) -> Depacketizer {
        let mut heard = Depacketizer::default();
        loop {
            let packet = self.browser.listen();
            heard.take(packet.sequence, &packet.payload);
            if packet.payload == last.payload {
                return heard;
            }
        }
    }
}

/// Sends a clip with its key frame at the start and judges that the browser's decoder ends with all of its pictures.
fn shows(call: &mut Call, camera: &mut Camera, clip: &Clip) -> Depacketizer {
    let mut last = None;
    for access_unit in &clip.access_units {
        let packets = camera.packets(access_unit);
        call.phone_sends(&packets);
        last = packets.last().cloned();
    }
    let heard = call.browser_hears(&last.expect("a clip has pictures"));
    let pictures = heard.pictures();
    assert!(pictures.ends_with(&clip.pictures), "{} pictures, not the last {}", pictures.len(), clip.pictures.len());
    heard
}

/// Every picture of a phone is decoded at the browser, packetized in this mode.
fn phone_to_browser(mode: Mode, encoding: &Encoding) -> Option<Depacketizer> {
    let clip = Clip::encode(encoding)?;
    let mut call = Call::new();
    call.connect();
    let heard = shows(&mut call, &mut Camera::new(0x77, mode), &clip);
    assert_eq!(heard.pictures(), clip.pictures);
    Some(heard)
}

#[test]
fn a_phones_single_units_are_decoded() {
    let Some(heard) = phone_to_browser(Mode::SingleUnits, &CLIP) else { return };
    assert!(heard.types.iter().all(|kind| *kind < STAP_A), "{:?}", heard.types);
}

#[test]
fn a_phones_aggregates_and_fragments_are_decoded() {
    let whole_pictures = Encoding { slice_max_bytes: None, ..CLIP };
    let Some(heard) = phone_to_browser(Mode::NonInterleaved, &whole_pictures) else { return };
    assert!(heard.types.contains(&STAP_A) && heard.types.contains(&FU_A), "{:?}", heard.types);
}

/// Every picture of a browser is decoded at the phone.
fn browser_to_phone(mode: Mode, encoding: &Encoding) {
    let Some(clip) = Clip::encode(encoding) else { return };
    let mut call = Call::new();
    call.connect();
    call.phone.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let mut camera = Camera::new(0x55, mode);
    let mut heard = Depacketizer::default();
    let mut buffer = [0; 2000];
    for access_unit in &clip.access_units {
        let packets = camera.packets(access_unit);
        packets.iter().for_each(|packet| call.browser.speak(packet));
        for _ in &packets {
            let len = call.phone.recv(&mut buffer).expect("a packet for each that was sent");
            heard.take(u16::from_be_bytes([buffer[2], buffer[3]]), &buffer[12..len]);
        }
    }
    assert_eq!(heard.pictures(), clip.pictures);
}

#[test]
fn a_browsers_single_units_are_decoded() {
    browser_to_phone(Mode::SingleUnits, &CLIP);
}

#[test]
fn a_browsers_aggregates_and_fragments_are_decoded() {
    browser_to_phone(Mode::NonInterleaved, &Encoding { slice_max_bytes: None, ..CLIP });
}

/// A call whose phone sends [`ENDLESS`] and whose browser shows it; and the clip that the phone answers a wish with.
fn watching() -> Option<(Call, Camera, Clip, Clip)> {
    let (endless, next) = (Clip::encode(&ENDLESS)?, Clip::encode(&NEXT)?);
    let mut call = Call::new();
    call.connect();
    let mut camera = Camera::new(0x77, Mode::NonInterleaved);
    for access_unit in &endless.access_units[..10] {
        let packets = camera.packets(access_unit);
        call.phone_sends(&packets);
    }
    assert!(!call.phone_was_asked(Duration::from_millis(50)), "it began with a key frame");
    Some((call, camera, endless, next))
}

#[test]
fn after_a_lost_packet_the_phone_is_asked_and_pictures_go_on() {
    let Some((mut call, mut camera, endless, next)) = watching() else { return };
    let mut packets = camera.packets(&endless.access_units[10]);
    packets.remove(0);
    call.phone_sends(&packets);
    call.phone_sends_until_asked(&mut camera, &endless.access_units[11..]);
    shows(&mut call, &mut camera, &next);
}

/// What is lost behind the relay comes again from the relay; the phone hears nothing of it.
#[test]
fn a_packet_that_the_browser_asks_for_again_makes_every_picture_whole() {
    let Some(clip) = Clip::encode(&CLIP) else { return };
    let mut call = Call::new();
    call.connect();
    let mut camera = Camera::new(0x77, Mode::NonInterleaved);
    let mut heard: Vec<Heard> = Vec::new();
    for (at, access_unit) in clip.access_units.iter().enumerate() {
        let packets = camera.packets(access_unit);
        let lost = usize::from(at == 5);
        call.browser.losing = lost;
        call.phone_sends(&packets);
        (lost..packets.len()).for_each(|_| heard.push(call.browser.listen()));
        if lost > 0 {
            let place = heard.len() - (packets.len() - lost);
            let missing = heard[place - 1].sequence.wrapping_add(1);
            call.browser.ask_again(TO_BROWSER, missing);
            let again = call.browser.listen();
            assert_eq!((again.ssrc, again.sequence), (TO_BROWSER, missing));
            heard.insert(place, again);
        }
    }
    let mut depacketizer = Depacketizer::default();
    heard.iter().for_each(|packet| depacketizer.take(packet.sequence, &packet.payload));
    assert_eq!(depacketizer.pictures(), clip.pictures);
    assert!(!call.phone_was_asked(Duration::from_millis(200)), "a key frame for a loss that was repaired");
}

/// Another SSRC in the middle of a picture's life: a transfer, or a phone that starts its encoder anew without a key frame.
#[test]
fn another_source_is_asked_and_pictures_go_on() {
    let Some((mut call, camera, endless, next)) = watching() else { return };
    let mut other = Camera::new(0x78, camera.mode);
    call.phone_sends_until_asked(&mut other, &endless.access_units[10..]);
    shows(&mut call, &mut other, &next);
}

#[test]
fn after_a_hold_the_phone_is_asked_and_pictures_go_on() {
    let Some((mut call, mut camera, endless, next)) = watching() else { return };
    call.pause(true);
    for access_unit in &endless.access_units[10..20] {
        let packets = camera.packets(access_unit);
        call.phone_sends(&packets);
    }
    assert!(!call.phone_was_asked(Duration::from_millis(50)), "nobody looks");
    call.pause(false);
    call.phone_sends_until_asked(&mut camera, &endless.access_units[20..]);
    shows(&mut call, &mut camera, &next);
}

/// Parameter sets came once, before the browser was there; the key frame that is asked for has none.
#[test]
fn parameter_sets_sent_once_are_repeated_before_a_key_frame() {
    let Some(endless) = Clip::encode(&ENDLESS) else { return };
    let Some(next) = Clip::encode(&NEXT) else { return };
    let mut call = Call::new();
    let mut camera = Camera::new(0x77, Mode::NonInterleaved);
    for access_unit in &endless.access_units[..10] {
        let packets = camera.packets(access_unit);
        call.phone_sends(&packets);
    }
    call.connect();
    call.phone_sends_until_asked(&mut camera, &endless.access_units[10..]);
    shows(&mut call, &mut camera, &next.without_parameters(0));
}

/// Parameter sets stand in the phone's description alone (RFC 6184 section 8.1).
#[test]
fn parameter_sets_of_the_description_are_sent_before_a_key_frame() {
    let Some(clip) = Clip::encode(&CLIP) else { return };
    let sets: Vec<String> = clip.parameter_sets().into_iter().map(base64).collect();
    let fmtp = format!("profile-level-id=42c00d;packetization-mode=1;sprop-parameter-sets={}", sets.join(","));
    let mut call = Call::described(Some(fmtp));
    call.connect();
    shows(&mut call, &mut Camera::new(0x77, Mode::NonInterleaved), &clip.without_parameters(0));
}

/// RFC 4648 section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// The judge itself: what is packetized decodes to the same pictures, and with a packet less it does not.
#[test]
fn a_missing_packet_is_seen_by_the_decoder() {
    let Some(clip) = Clip::encode(&Encoding { slice_max_bytes: None, ..CLIP }) else { return };
    let mut camera = Camera::new(1, Mode::NonInterleaved);
    let packets: Vec<Heard> = clip.access_units.iter().flat_map(|access_unit| camera.packets(access_unit)).collect();
    let pictures_without = |lost: Option<usize>| {
        let mut depacketizer = Depacketizer::default();
        let kept = packets.iter().enumerate().filter(|(at, _)| Some(*at) != lost);
        kept.for_each(|(_, packet)| depacketizer.take(packet.sequence, &packet.payload));
        depacketizer.pictures()
    };
    assert_eq!(pictures_without(None), clip.pictures);
    assert_ne!(pictures_without(Some(packets.len() / 3)), clip.pictures);
}

#[test]
fn the_two_clips_differ_in_their_pictures_alone() {
    let Some(endless) = Clip::encode(&ENDLESS) else { return };
    let Some(next) = Clip::encode(&NEXT) else { return };
    assert_eq!(endless.parameter_sets(), next.parameter_sets());
    assert_eq!(next.parameter_sets().len(), 2);
    assert!(endless.pictures.iter().all(|picture| !next.pictures.contains(picture)));
    assert!(next.without_parameters(0).parameter_sets().is_empty());
}
