//! Calls with pictures: the vendor's Phone Video page, unmodified, in Chromium, against Kamailio, baresip and Linphone. VP8 is libvpx in
//! all of them; H.264 is x264 and FFmpeg in baresip, OpenH264 in Linphone.

use std::time::Duration;

use gangway_tests::{
    baresip::{self, Baresip, Video},
    browser::Browser,
    deadline::Deadline,
    gateway::Gateway,
    kamailio::{self, Kamailio},
    linphone::{self, Linphone},
    sip_phone::{Picture, SipPhone},
};
use serde_json::{Value, json};

use crate::vendor::{answer_call, call_out, codecs_in_use, end_on_page, hear_each_other, open_page};

/// From ESTABLISHED to the first picture that the browser's decoder gives out, where the phone's camera has one at once.
const FIRST_PICTURE_WITHIN: Duration = Duration::from_secs(1);
/// Pictures of the other side that a page must have painted.
const PAINTED: u32 = 20;

/// A page that is registered as 1001, and a phone.
struct Scene<P> {
    browser: Browser,
    gateway: Gateway,
    phone: P,
    kamailio: Kamailio,
}

impl Scene<Baresip> {
    /// `None` when one of the peers is not installed.
    fn with_baresip(video: Option<Video>, settings: &[(&str, &str)]) -> Option<Self> {
        Self::new(settings, |registrar| {
            Baresip::start(&baresip::Options { video, ..baresip::Options::new(registrar, "PCMU/8000/1") })
        })
    }

    /// The phone changes the call by this command of its menu, which is a re-INVITE.
    fn reinvite(&mut self, command: &str) {
        let before = self.kamailio.seen("ACK");
        self.phone.command(command, "");
        let acknowledged = || (self.kamailio.seen("ACK") > before).then_some(());
        Deadline::seconds(5).poll(&format!("the ACK of {command}"), acknowledged);
    }
}

impl<P: SipPhone> Scene<P> {
    fn new(settings: &[(&str, &str)], phone: impl FnOnce(u16) -> Option<P>) -> Option<Self> {
        let kamailio = Kamailio::start(&kamailio::Options::default())?;
        let phone = phone(kamailio.port())?;
        kamailio.wait_registered(P::NUMBER, true, Deadline::seconds(15));
        let gateway = Gateway::start(settings);
        let mut browser = Browser::start()?;
        open_page(&mut browser, &gateway, "phone-video", ("secret-1001", kamailio.port(), true));
        browser.wait_text("phone", "#regStatus", "REGISTERED", 15);
        Some(Self { browser, gateway, phone, kamailio })
    }

    /// The page calls the phone, which answers by itself.
    fn call_out(&mut self) {
        call_out(&mut self.browser, &mut self.phone);
    }

    /// The phone calls the page, which answers.
    fn call_in(&mut self) {
        answer_call(&mut self.browser, &mut self.phone);
    }

    /// Both sides decode pictures that move, the page's first one soon, and both hear each other.
    fn see_and_hear(&mut self) {
        self.wait_painted();
        let first = self.phone.wait_picture(Deadline::seconds(15));
        self.wait_another(&first);
        let page = self.browser.eval(
            "phone",
            "return [gangwayProbe.talks.at(-1), gangwayProbe.firstPictures.at(-1)];",
            Value::Null,
        );
        let (talk, picture) = (page[0].as_f64().expect("a talk"), page[1].as_f64().expect("a picture"));
        // Negative when pictures came before the call was told to be established.
        let after_ms = picture - talk;
        let within = FIRST_PICTURE_WITHIN + P::PICTURE_EVERY;
        assert!(after_ms < within.as_secs_f64() * 1000.0, "the first picture came {after_ms} ms after talk");
        hear_each_other(&mut self.browser, &self.phone);
        self.browser.eval("phone", "gangwayProbe.heard = {};", Value::Null);
    }

    /// Waits until the page has painted some pictures of the other side.
    fn wait_painted(&mut self) {
        let script = format!(
            "const v = document.querySelector('#remoteVideo video'); \
             return !!v && v.videoWidth > 0 && v.getVideoPlaybackQuality().totalVideoFrames >= {PAINTED};"
        );
        self.browser.wait("phone", &script, 15);
    }

    /// Waits until the phone decodes a picture unlike `before`.
    fn wait_another(&mut self, before: &Picture) -> Picture {
        let deadline = Deadline::seconds(15);
        loop {
            let picture = self.phone.wait_picture(deadline);
            if picture != *before {
                return picture;
            }
        }
    }

    /// What the browser sends and receives: sound in PCMU and pictures in `mime` with `fmtp` among the parameters.
    fn assert_codecs(&mut self, mime: &str, fmtp: &str) {
        let used = codecs_in_use(&mut self.browser);
        assert!(used.iter().all(|name| name == mime || name == "audio/pcmu"), "{used:?}");
        let script = "const rows = (await gangwayProbe.stats()).at(-1).rows; \
                      const rtp = rows.find((row) => row.type === argument && row.kind === 'video'); \
                      return rows.find((row) => row.id === rtp.codecId).sdpFmtpLine || '';";
        for direction in ["inbound-rtp", "outbound-rtp"] {
            let line = self.browser.eval("phone", script, json!(direction));
            assert!(line.as_str().unwrap_or_default().contains(fmtp), "{direction}: {line}");
        }
        assert!(used.contains(&mime.to_owned()) && used.contains(&"audio/pcmu".to_owned()), "{used:?}");
    }

    /// Key frames that the browser has encoded in this call.
    fn key_frames_encoded(&mut self) -> u64 {
        let script = "const rows = (await gangwayProbe.stats()).at(-1).rows; \
                      return rows.find((row) => row.type === 'outbound-rtp' && row.kind === 'video').keyFramesEncoded;";
        self.browser.eval("phone", script, Value::Null).as_u64().expect("a browser counts its key frames")
    }

    /// The page hangs up.
    fn end(&mut self) {
        end_on_page(&mut self.browser, &mut self.phone, &self.gateway);
        self.browser.wait_text("phone", "#callBtn", "Call", 5);
    }

    /// The phone hangs up.
    fn end_by_phone(&mut self) {
        self.phone.hangup();
        self.browser.wait_text("phone", "#callStatus", "FINISH", 8);
        self.gateway.wait_idle(Deadline::seconds(8));
    }
}

/// Checks 13 and 25: a call each way with these pictures. `fmtp` must stand in the payload type's parameters at the browser, of
/// the outgoing call and of the incoming one.
fn talks<P: SipPhone>(scene: Option<Scene<P>>, mime: &str, [fmtp_out, fmtp_in]: [&str; 2]) {
    let Some(mut scene) = scene else { return };
    scene.call_out();
    scene.see_and_hear();
    scene.assert_codecs(mime, fmtp_out);
    scene.end();
    scene.call_in();
    scene.see_and_hear();
    scene.assert_codecs(mime, fmtp_in);
    scene.end_by_phone();
    scene.browser.assert_quiet("phone", &[]);
}

#[test]
fn vp8_both_ways() {
    talks(Scene::with_baresip(Some(Video::Vp8), &[]), "video/vp8", ["", ""]);
}

/// The INVITE names mode 1 alone, which is the default; the phone's INVITE names mode 0 first.
#[test]
fn h264_both_ways() {
    let modes = ["packetization-mode=1", "packetization-mode=0"];
    talks(Scene::with_baresip(Some(Video::H264), &[]), "video/h264", modes);
}

/// A phone that has mode 0 alone: the browser, which was offered or had offered both, sends single NAL units.
#[test]
fn h264_mode_0_both_ways() {
    let modes = ["packetization-mode=0", "packetization-mode=0"];
    let both_modes = [("proxy_use_h264_packetization_mode_1_only", "false")];
    talks(Scene::with_baresip(Some(Video::H264Mode0), &both_modes), "video/h264", modes);
}

/// The same with Linphone, whose camera is a still picture.
fn talks_with_linphone(video: linphone::Video, mime: &str, fmtp: [&str; 2]) {
    let linphone = |registrar| Linphone::start(&linphone::Options { registrar, audio: "PCMU", video: Some(video) });
    talks(Scene::new(&[], linphone), mime, fmtp);
}

#[test]
fn linphone_vp8_both_ways() {
    talks_with_linphone(linphone::Video::Vp8, "video/vp8", ["", ""]);
}

/// It takes mode 1 when that is offered. Its own offer is Baseline (42801F) without a mode, which is mode 0 (RFC 6184 section 8.1).
#[test]
fn linphone_h264_both_ways() {
    let modes = ["packetization-mode=1", "packetization-mode=0"];
    talks_with_linphone(linphone::Video::H264, "video/h264", modes);
}

/// After a hold the phone's screen goes on at a key frame that the gateway asks the browser for.
fn holds(video: Video) {
    let Some(mut scene) = Scene::with_baresip(Some(video), &[]) else { return };
    scene.call_out();
    scene.see_and_hear();
    scene.reinvite("hold");
    let before = scene.key_frames_encoded();
    scene.reinvite("resume");
    let picture = scene.phone.wait_picture(Deadline::seconds(15));
    scene.wait_another(&picture);
    assert!(scene.key_frames_encoded() > before, "no key frame was asked for");
    scene.end();
    scene.browser.assert_quiet("phone", &[]);
}

#[test]
fn vp8_goes_on_after_a_hold() {
    holds(Video::Vp8);
}

#[test]
fn h264_goes_on_after_a_hold() {
    holds(Video::H264);
}

/// Another camera, of another size: `replaceTrack` keeps the stream and its SSRC.
fn another_source(video: Video) {
    let Some(mut scene) = Scene::with_baresip(Some(video), &[]) else { return };
    scene.call_out();
    scene.see_and_hear();
    let script = "const canvas = document.createElement('canvas'); [canvas.width, canvas.height] = [176, 144]; \
                  const paint = canvas.getContext('2d'); let step = 0; \
                  setInterval(() => { step += 1; paint.fillStyle = `hsl(${step * 7 % 360} 80% 50%)`; paint.fillRect(0, 0, 176, 144); }, 66); \
                  const sender = gangwayProbe.connections.at(-1).getSenders().find((one) => one.track && one.track.kind === 'video'); \
                  await sender.replaceTrack(canvas.captureStream(15).getVideoTracks()[0]);";
    scene.browser.eval("phone", script, Value::Null);
    let deadline = Deadline::seconds(15);
    while scene.phone.wait_picture(deadline).size() != Some((176, 144)) {}
    scene.end();
    scene.browser.assert_quiet("phone", &[]);
}

#[test]
fn vp8_goes_on_with_another_source() {
    another_source(Video::Vp8);
}

#[test]
fn h264_goes_on_with_another_source() {
    another_source(Video::H264);
}

/// Check 14: a camera calls a phone that has none. Sound both ways, the call stays.
#[test]
fn a_phone_without_a_screen_has_a_call_of_sound() {
    let Some(mut scene) = Scene::with_baresip(None, &[]) else { return };
    scene.call_out();
    hear_each_other(&mut scene.browser, &scene.phone);
    scene.end();
    scene.browser.assert_quiet("phone", &[]);
}

/// Check 42: the transports that the page's connection has, and the candidates of ours that it was told.
fn transports_and_candidates(scene: &mut Scene<Baresip>) -> (u64, u64) {
    let script = "const connection = gangwayProbe.connections.at(-1); \
                  const rows = (await gangwayProbe.stats()).at(-1).rows.filter((row) => row.type === 'transport' && row.dtlsState === 'connected'); \
                  return [rows.length, (connection.remoteDescription.sdp.match(/a=candidate:/g) || []).length];";
    let page = scene.browser.eval("phone", script, Value::Null);
    (page[0].as_u64().expect("transports"), page[1].as_u64().expect("candidates"))
}

/// A call each way; `transports` and `candidates` as the page sees them.
fn reaches(settings: &[(&str, &str)], expected: (u64, u64)) {
    let Some(mut scene) = Scene::with_baresip(Some(Video::Vp8), settings) else { return };
    scene.call_out();
    scene.see_and_hear();
    assert_eq!(transports_and_candidates(&mut scene), expected, "out");
    scene.end();
    scene.call_in();
    scene.see_and_hear();
    assert_eq!(transports_and_candidates(&mut scene), expected, "in");
    scene.end_by_phone();
    scene.browser.assert_quiet("phone", &[]);
}

/// Check 42: sections that are not bundled, each with a transport of its own on the same port of ours.
#[test]
fn sections_may_have_transports_of_their_own() {
    reaches(&[("rtp_bundle", "false")], (2, 2));
}

/// Check 42: two addresses of the server, bundled.
#[test]
fn two_addresses_of_the_server_are_candidates() {
    reaches(&[("ip", "127.0.0.1,127.0.0.2"), ("ip_local", "0.0.0.0")], (1, 4));
}
