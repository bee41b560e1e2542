//! Calls with pictures: the vendor's Phone Video page, unmodified, in Chromium, against Kamailio and baresip, whose VP8 is libvpx and
//! whose H.264 is x264 and FFmpeg.

use gangway_tests::{
    baresip::{self, Baresip, Picture, Video},
    browser::Browser,
    deadline::Deadline,
    gateway::Gateway,
    kamailio::{self, Kamailio},
};
use serde_json::{Value, json};

use crate::vendor::{answer_call, call_out, codecs_in_use, end_on_page, hear_each_other, open_page};

/// From ESTABLISHED to the first picture that the browser's decoder gives out, milliseconds.
const FIRST_PICTURE_WITHIN_MS: f64 = 1000.0;
/// Pictures of the other side that a page must have painted.
const PAINTED: u32 = 20;

/// A page that is registered as 1001, and a phone with a screen that is 2001.
struct Scene {
    browser: Browser,
    gateway: Gateway,
    phone: Baresip,
    kamailio: Kamailio,
}

impl Scene {
    /// `None` when one of the peers is not installed.
    fn new(video: Option<Video>, settings: &[(&str, &str)]) -> Option<Self> {
        let kamailio = Kamailio::start(&kamailio::Options::default())?;
        let options = baresip::Options { video, ..baresip::Options::new(kamailio.port(), "PCMU/8000/1") };
        let phone = Baresip::start(&options)?;
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
        assert!(picture - talk < FIRST_PICTURE_WITHIN_MS, "the first picture came {} ms after talk", picture - talk);
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

    /// `fmtp` of the video payload type that the browser sends (`outbound-rtp`) or receives (`inbound-rtp`).
    fn video_fmtp(&mut self, direction: &str) -> String {
        let script = "const rows = (await gangwayProbe.stats()).at(-1).rows; \
                      const rtp = rows.find((row) => row.type === argument && row.kind === 'video'); \
                      return rows.find((row) => row.id === rtp.codecId).sdpFmtpLine || '';";
        self.browser.eval("phone", script, json!(direction)).as_str().unwrap_or_default().to_owned()
    }

    /// Key frames that the browser has encoded in this call.
    fn key_frames_encoded(&mut self) -> u64 {
        let script = "const rows = (await gangwayProbe.stats()).at(-1).rows; \
                      return rows.find((row) => row.type === 'outbound-rtp' && row.kind === 'video').keyFramesEncoded;";
        self.browser.eval("phone", script, Value::Null).as_u64().expect("a browser counts its key frames")
    }

    /// The phone changes the call by this command of its menu, which is a re-INVITE.
    fn reinvite(&mut self, command: &str) {
        let before = self.kamailio.seen("ACK");
        self.phone.command(command, "");
        Deadline::seconds(5)
            .poll(&format!("the ACK of {command}"), || (self.kamailio.seen("ACK") > before).then_some(()));
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
fn talks(video: Video, settings: &[(&str, &str)], mime: &str, [fmtp_out, fmtp_in]: [&str; 2]) {
    let Some(mut scene) = Scene::new(Some(video), settings) else { return };
    scene.call_out();
    scene.see_and_hear();
    let used = codecs_in_use(&mut scene.browser);
    assert!(used.contains(&mime.to_owned()) && used.contains(&"audio/pcmu".to_owned()), "{used:?}");
    for direction in ["inbound-rtp", "outbound-rtp"] {
        let fmtp = scene.video_fmtp(direction);
        assert!(fmtp.contains(fmtp_out), "out, {direction}: {fmtp}");
    }
    scene.end();

    scene.call_in();
    scene.see_and_hear();
    let used = codecs_in_use(&mut scene.browser);
    assert!(used.contains(&mime.to_owned()), "{used:?}");
    for direction in ["inbound-rtp", "outbound-rtp"] {
        let fmtp = scene.video_fmtp(direction);
        assert!(fmtp.contains(fmtp_in), "in, {direction}: {fmtp}");
    }
    scene.end_by_phone();
    scene.browser.assert_quiet("phone", &[]);
}

#[test]
fn vp8_both_ways() {
    talks(Video::Vp8, &[], "video/vp8", ["", ""]);
}

/// The INVITE names mode 1 alone, which is the default; the phone's INVITE names mode 0 first.
#[test]
fn h264_both_ways() {
    let modes = ["packetization-mode=1", "packetization-mode=0"];
    talks(Video::H264, &[], "video/h264", modes);
}

/// A phone that has mode 0 alone: the browser, which was offered or had offered both, sends single NAL units.
#[test]
fn h264_mode_0_both_ways() {
    let modes = ["packetization-mode=0", "packetization-mode=0"];
    talks(Video::H264Mode0, &[("proxy_use_h264_packetization_mode_1_only", "false")], "video/h264", modes);
}

/// After a hold the phone's screen goes on at a key frame that the gateway asks the browser for.
fn holds(video: Video) {
    let Some(mut scene) = Scene::new(Some(video), &[]) else { return };
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
    let Some(mut scene) = Scene::new(Some(video), &[]) else { return };
    scene.call_out();
    scene.see_and_hear();
    let script = "const canvas = document.createElement('canvas'); [canvas.width, canvas.height] = [176, 144]; \
                  const paint = canvas.getContext('2d'); let step = 0; \
                  setInterval(() => { step += 1; paint.fillStyle = `hsl(${step * 7 % 360} 80% 50%)`; paint.fillRect(0, 0, 176, 144); }, 66); \
                  const sender = gangwayProbe.connections.at(-1).getSenders().find((one) => one.track && one.track.kind === 'video'); \
                  await sender.replaceTrack(canvas.captureStream(15).getVideoTracks()[0]);";
    scene.browser.eval("phone", script, Value::Null);
    let deadline = Deadline::seconds(15);
    while scene.phone.wait_picture(deadline).size() != (176, 144) {}
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
    let Some(mut scene) = Scene::new(None, &[]) else { return };
    scene.call_out();
    hear_each_other(&mut scene.browser, &scene.phone);
    scene.end();
    scene.browser.assert_quiet("phone", &[]);
}
