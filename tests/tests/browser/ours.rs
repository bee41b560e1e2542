//! Our pages against Kamailio and baresip: a phone of another make, which shows what it decoded.

use gangway_tests::{
    baresip::{Baresip, Video},
    browser::{Browser, View},
    deadline::Deadline,
};
use serde_json::json;

use crate::scene::{BEEP_HZ, BEEPS, Scene};

/// Our page, registered as 1001, and a phone.
fn open_video(video: Option<Video>) -> Option<Scene> {
    let mut scene = Scene::start(video)?;
    let browser = &mut scene.browser;
    browser.open_as("phone", &format!("{}video.html", scene.gateway.pages()), &View::default());
    browser.wait("phone", "return document.activeElement && document.activeElement.id === 'login';", 15);
    let port = scene.kamailio.port().to_string();
    let fields = [("#login", "1001"), ("#password", "secret-1001"), ("#domain", "127.0.0.1"), ("#port", port.as_str())];
    for (field, value) in fields {
        browser.fill("phone", field, value);
    }
    browser.click("phone", "summary");
    browser.fill("phone", "#url", &scene.gateway.ws());
    browser.click("phone", "#connect");
    browser.wait_text("phone", "#session-status", "Registered as 1001", 15);
    Some(scene)
}

fn dial(browser: &mut Browser) {
    browser.fill("phone", "#number", "2001");
    browser.press("phone", "Enter");
}

fn hang_up(scene: &mut Scene) {
    scene.browser.click("phone", "#hangup");
    scene.browser.wait("phone", "return !document.querySelector('#dial').hidden;", 5);
    scene.phone.wait_event("CALL_CLOSED", Deadline::seconds(5));
    scene.gateway.wait_idle(Deadline::seconds(8));
}

/// Waits until so many more pictures of the other side were painted.
fn wait_frames(browser: &mut Browser, more: u32) {
    browser.wait("phone", "return document.querySelector('#picture').dataset.seen === 'yes';", 15);
    let painted = "return (window.painted = document.querySelector('#remote-media video').getVideoPlaybackQuality().totalVideoFrames);";
    browser.eval("phone", painted, json!(null));
    let script = format!(
        "return document.querySelector('#remote-media video').getVideoPlaybackQuality().totalVideoFrames >= painted + {more};"
    );
    browser.wait("phone", &script, 15);
}

/// Waits until baresip's screen shows a wide picture (16:9), or one that is not (4:3).
fn wait_shape(peer: &mut Baresip, is_wide: bool) {
    let deadline = Deadline::seconds(15);
    while peer.wait_picture(deadline).is_wide() != is_wide {}
}

fn choose(browser: &mut Browser, list: &str, value: &str) {
    let script = "const list = document.querySelector(argument[0]); list.value = argument[1]; list.dispatchEvent(new Event('change'));";
    browser.eval("phone", script, json!([list, value]));
}

/// Out and in, with pictures and sound both ways.
#[test]
fn the_video_page_and_a_phone_with_vp8() {
    let Some(mut scene) = open_video(Some(Video::Vp8)) else { return };
    let Scene { browser, phone: peer, .. } = &mut scene;
    dial(browser);
    browser.wait_text("phone", "#call-status", "In call", 15);
    peer.wait_event("CALL_ESTABLISHED", Deadline::seconds(5));
    wait_frames(browser, 20);
    wait_shape(peer, false);
    browser.wait_heard("phone", 660, 25, 15);
    peer.wait_heard(BEEP_HZ, BEEPS, Deadline::seconds(20));
    browser.wait_text("phone", "#picture-counters [data-counter='received-size']", "320 × 240", 10);
    browser.wait_text("phone", "#picture-counters [data-counter='received-codec']", "VP8", 10);
    browser.wait_text("phone", "#counters [data-counter='received-codec']", "G.711 µ-law", 10);
    hang_up(&mut scene);

    let Scene { browser, phone: peer, .. } = &mut scene;
    browser.eval("phone", "gangwayProbe.heard = {};", json!(null));
    peer.dial("1001");
    browser.wait_text("phone", "#incoming-title", "Incoming video call", 10);
    browser.wait("phone", "return !document.querySelector('#incoming').hidden;", 10);
    browser.click("phone", "#answer");
    browser.wait_text("phone", "#call-status", "In call", 15);
    wait_frames(browser, 20);
    browser.wait_heard("phone", 660, 25, 15);
    peer.hangup();
    browser.wait("phone", "return !document.querySelector('#dial').hidden;", 8);
    scene.gateway.wait_idle(Deadline::seconds(8));
    scene.browser.assert_quiet("phone", &["demo.json"]);
}

/// Sizes and frame rates that jump, the screen and back, another camera: baresip goes on decoding, of one stream.
#[test]
fn the_video_pages_picture_jumps_and_a_phone_follows() {
    let Some(mut scene) = open_video(Some(Video::Vp8)) else { return };
    let Scene { browser, phone: peer, .. } = &mut scene;
    dial(browser);
    browser.wait_text("phone", "#call-status", "In call", 15);
    wait_shape(peer, false);
    let ssrc = "const rows = [...(await gangwayProbe.connections.at(-1).getStats()).values()]; \
                return rows.filter((row) => row.type === 'outbound-rtp' && row.kind === 'video').map((row) => row.ssrc);";
    let before = browser.eval("phone", ssrc, json!(null));
    for (size, rate, is_wide) in
        [("1280x720", "15", true), ("320x240", "5", false), ("640x360", "30", true), ("640x480", "25", false)]
    {
        choose(browser, "#rate", rate);
        choose(browser, "#size", size);
        wait_shape(peer, is_wide);
    }
    browser.click("phone", "#share");
    browser.wait("phone", "return document.querySelector('#own').dataset.source === 'screen';", 10);
    wait_shape(peer, true);
    browser.click("phone", "#share");
    wait_shape(peer, false);
    // Another camera, then again pictures that move at baresip.
    let other = "const list = document.querySelector('#camera'); list.selectedIndex = 3; list.dispatchEvent(new Event('change'));";
    browser.eval("phone", other, json!(null));
    let label = "const sent = gangwayProbe.connections.at(-1).getSenders().find(({ track }) => track && track.kind === 'video'); return sent.track.label === 'fake_device_2';";
    browser.wait("phone", label, 10);
    let first = peer.wait_picture(Deadline::seconds(15));
    let deadline = Deadline::seconds(15);
    while peer.wait_picture(deadline) == first {}
    assert_eq!(browser.eval("phone", ssrc, json!(null)), before);
    hang_up(&mut scene);
    scene.browser.assert_quiet("phone", &["demo.json"]);
}

/// Check 14 on our page: sound both ways, the page says why there is nothing to see, and the camera is free again.
#[test]
fn the_video_page_and_a_phone_of_sound() {
    let Some(mut scene) = open_video(None) else { return };
    let Scene { browser, phone: peer, .. } = &mut scene;
    dial(browser);
    let note = "2001 takes no pictures: you hear each other, and your camera is off.";
    browser.wait_text("phone", "#picture-note", note, 15);
    let off = "return document.querySelector('#own').hidden && document.querySelector('#problem').hidden \
               && document.querySelector('#local-media video').srcObject.getVideoTracks().length === 0;";
    browser.wait("phone", off, 5);
    browser.wait_heard("phone", 660, 25, 15);
    peer.wait_heard(BEEP_HZ, BEEPS, Deadline::seconds(20));
    hang_up(&mut scene);
    scene.browser.assert_quiet("phone", &["demo.json"]);
}
