//! Check 41: devices, mutes, statistics and the screen on the vendor's Phone Video page, in a call with baresip, which shows what it
//! decoded and records what it heard.

use std::time::Duration;

use gangway_tests::{baresip::Video, deadline::Deadline, sip_phone::Picture};
use serde_json::{Value, json};

use crate::{
    scene::{BEEP_HZ, Scene},
    vendor::{call_out, end_on_page, hear_each_other, open_page},
};

impl Scene {
    /// The vendor's page in a call of sound and pictures with a phone.
    fn phone_video() -> Option<Self> {
        let mut scene = Scene::start(Some(Video::Vp8))?;
        let Scene { browser, gateway, phone, kamailio } = &mut scene;
        open_page(browser, gateway, "phone-video", ("secret-1001", kamailio.port(), true));
        browser.wait_text("phone", "#regStatus", "REGISTERED", 15);
        browser.wait("phone", "return document.querySelectorAll('#cameraList option').length === 3;", 10);
        call_out(browser, phone);
        scene.wait_moving();
        hear_each_other(&mut scene.browser, &scene.phone);
        Some(scene)
    }

    fn eval(&mut self, script: &str) -> Value {
        self.browser.eval("phone", script, json!(null))
    }

    /// Waits until the phone's screen shows pictures that move.
    fn wait_moving(&mut self) -> Picture {
        let first = self.phone.wait_picture(Deadline::seconds(15));
        let deadline = Deadline::seconds(15);
        loop {
            let picture = self.phone.wait_picture(deadline);
            if picture != first {
                return picture;
            }
        }
    }

    /// Waits until the phone's screen stands still, as in the dark.
    fn wait_still(&mut self) {
        let deadline = Deadline::seconds(15);
        while self.phone.wait_picture(deadline) != self.phone.wait_picture(deadline) {}
    }

    /// How long the phone has heard beeps so far.
    fn heard(&self) -> Duration {
        self.phone.recordings().iter().map(|sound| sound.heard(BEEP_HZ)).sum()
    }

    /// Waits until the phone hears another beep.
    fn wait_beep(&self) {
        let before = self.heard();
        Deadline::seconds(15).poll("another beep", || (self.heard() > before).then_some(()));
    }

    /// Sets one of the page's switches as a user does.
    fn switch(&mut self, id: &str, is_on: bool) {
        self.browser.eval(
            "phone",
            "$(argument[0]).prop('checked', argument[1]).trigger('change');",
            json!([id, is_on]),
        );
    }

    /// The four counters of the page: bytes and packets of pictures, of sound.
    fn counters(&mut self) -> Vec<u64> {
        let script = "return ['videoStatBytesSent', 'videoStatPacketsSent', 'audioStatBytesSent', 'audioStatPacketsSent'].map((id) => Number(document.getElementById(id).textContent));";
        let value = self.eval(script);
        value.as_array().into_iter().flatten().map(|number| number.as_u64().unwrap_or(0)).collect()
    }

    /// Waits until all four have grown.
    fn wait_counters(&mut self) {
        let before = self.counters();
        let deadline = Deadline::seconds(15);
        while !self.counters().iter().zip(&before).all(|(now, before)| now > before) {
            assert!(!deadline.is_over(), "{before:?} -> {:?}", self.counters());
            gangway_tests::deadline::pause(Duration::from_millis(100));
        }
    }

    /// What is sent, by kind: label of the track.
    fn sends(&mut self, kind: &str) -> String {
        let script = "const sent = gangwayProbe.connections.at(-1).getSenders().map(({ track }) => track); return sent.find((track) => track && track.kind === argument).label;";
        self.browser.eval("phone", script, json!(kind)).as_str().unwrap_or_default().to_owned()
    }

    /// The SSRCs that are sent.
    fn ssrcs(&mut self) -> Value {
        self.eval(
            "const rows = [...(await gangwayProbe.connections.at(-1).getStats()).values()]; \
             return rows.filter((row) => row.type === 'outbound-rtp').map((row) => [row.kind, row.ssrc]).sort();",
        )
    }

    fn end(mut self) {
        end_on_page(&mut self.browser, &mut self.phone, &self.gateway);
        self.browser.assert_quiet("phone", &[]);
    }
}

#[test]
fn another_camera_and_another_microphone_in_the_call() {
    let Some(mut scene) = Scene::phone_video() else { return };
    let before = scene.ssrcs();
    assert_eq!(scene.sends("video"), "fake_device_0");
    let sends = |kind: &str, label: &str| {
        format!(
            "const sent = gangwayProbe.connections.at(-1).getSenders().map(({{ track }}) => track); \
             return sent.some((track) => track && track.kind === '{kind}' && track.label === '{label}' && track.readyState === 'live');"
        )
    };
    for camera in ["fake_device_1", "fake_device_2"] {
        scene.browser.click("phone", "#switchCamBtn");
        scene.browser.wait("phone", &sends("video", camera), 10);
        scene.wait_counters();
    }
    scene.wait_moving();
    let first =
        "const list = document.querySelector('#cameraList'); list.selectedIndex = 0; $(list).trigger('change');";
    scene.eval(first);
    scene.browser.wait("phone", &sends("video", "fake_device_0"), 10);
    scene.wait_moving();
    // What is sent of a microphone is the output of the SDK's gain node, so it has no device's name.
    let sent = "const sent = gangwayProbe.connections.at(-1).getSenders().map(({ track }) => track).find((track) => track && track.kind === 'audio');";
    let changed = format!("{sent} return sent !== former && sent.readyState === 'live';");
    let other = "const list = document.querySelector('#micList'); list.selectedIndex = [...list.options].findIndex(({ text }) => text === 'Fake Audio Input 2'); $(list).trigger('change');";
    scene.eval(&format!("{sent} window.former = sent; {other}"));
    scene.browser.wait("phone", &changed, 10);
    scene.wait_beep();
    scene.eval(&format!("{sent} window.former = sent;"));
    scene.browser.click("phone", "#switchMicBtn");
    scene.browser.wait("phone", &changed, 10);
    scene.wait_beep();
    assert_eq!(scene.ssrcs(), before);
    scene.end();
}

#[test]
fn mutes_hold_and_the_statistics_grow() {
    let Some(mut scene) = Scene::phone_video() else { return };
    scene.wait_counters();
    scene.switch("#muteVideoToggle", true);
    scene.wait_still();
    // Darkness is sent, not nothing.
    scene.wait_counters();
    scene.switch("#muteVideoToggle", false);
    scene.wait_moving();
    scene.switch("#muteAudioToggle", true);
    // What was on its way arrives; then two beeps would have come.
    scene.eval("await new Promise((done) => setTimeout(done, 1000));");
    let before = scene.heard();
    scene.eval("await new Promise((done) => setTimeout(done, 2500));");
    assert_eq!(scene.heard(), before, "heard through the mute");
    scene.switch("#muteAudioToggle", false);
    scene.wait_beep();
    scene.wait_counters();
    scene.end();
}

/// The screen on the same SSRC, and back; then sizes and frame rates that jump under the same track.
#[test]
fn the_screen_and_jumps_of_size_and_rate() {
    let Some(mut scene) = Scene::phone_video() else { return };
    let before = scene.ssrcs();
    scene.switch("#screenSharingToggle", true);
    let shares = "return gangwayProbe.connections.at(-1).getSenders().some(({ track }) => track && track.kind === 'video' && track.label.startsWith('screen'));";
    scene.browser.wait("phone", shares, 10);
    scene.wait_moving();
    scene.wait_beep();
    assert_eq!(scene.ssrcs(), before);
    scene.switch("#screenSharingToggle", false);
    scene.browser.wait("phone", &shares.replace("return ", "return !"), 10);
    scene.wait_moving();
    for (width, height, rate, is_wide) in
        [(1280, 720, 15, true), (160, 120, 5, false), (640, 360, 30, true), (320, 240, 30, false)]
    {
        let jump = "const { track } = gangwayProbe.connections.at(-1).getSenders().find(({ track }) => track && track.kind === 'video'); \
                    await track.applyConstraints({ width: argument[0], height: argument[1], frameRate: argument[2] });";
        scene.browser.eval("phone", jump, json!([width, height, rate]));
        let deadline = Deadline::seconds(15);
        while scene.phone.wait_picture(deadline).is_wide() != is_wide {}
        scene.wait_moving();
    }
    assert_eq!(scene.ssrcs(), before);
    scene.end();
}
