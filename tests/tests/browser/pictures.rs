//! Our Phone Video page alone: its files from the tree, and a gateway that is a few lines of script, with a connection in the same
//! page for the other side.

use gangway_tests::browser::{Browser, View};
use serde_json::{Value, json};

use crate::scripted::{connect, open_video, problem, ring_out};

fn video_page() -> Option<Browser> {
    let mut browser = Browser::start()?;
    open_video(&mut browser, &View::default());
    Some(browser)
}

/// The track that is sent as picture.
const SENT: &str = "gangwayProbe.connections.at(-1).getSenders().map(({ track }) => track).find((track) => track && track.kind === 'video')";

/// Calls somebody who sends back what comes, and waits for one's own picture.
fn see_oneself(browser: &mut Browser) {
    ring_out(browser);
    browser.eval("phone", "await gateway.talksBack();", json!(null));
    wait_seen(browser);
}

fn wait_seen(browser: &mut Browser) {
    browser.wait("phone", "return document.querySelector('#picture').dataset.seen === 'yes';", 15);
    wait_frames(browser, 5);
}

/// Waits until so many more pictures of the other side were painted.
fn wait_frames(browser: &mut Browser, more: u32) {
    browser.eval(
        "phone",
        "window.painted = document.querySelector('#remote-media video').getVideoPlaybackQuality().totalVideoFrames;",
        json!(null),
    );
    let script = format!(
        "return document.querySelector('#remote-media video').getVideoPlaybackQuality().totalVideoFrames >= painted + {more};"
    );
    browser.wait("phone", &script, 15);
}

/// Waits until the other side's picture is wide (16:9) or not (4:3). A browser that is short of processor sends a picture smaller
/// than it was captured, but never of another shape.
fn wait_shape(browser: &mut Browser, is_wide: bool) {
    let script = format!(
        "const v = document.querySelector('#remote-media video'); return v.videoWidth / v.videoHeight > 1.5 === {is_wide};"
    );
    browser.wait("phone", &script, 15);
    wait_frames(browser, 5);
}

/// Waits until the other side's picture is dark, or not.
fn wait_dark(browser: &mut Browser, is_dark: bool) {
    let script = format!(
        "const paint = document.createElement('canvas').getContext('2d'); \
         paint.drawImage(document.querySelector('#remote-media video'), 0, 0, 32, 24); \
         const {{ data }} = paint.getImageData(0, 0, 32, 24); \
         return Math.max(...data.filter((_, at) => at % 4 !== 3)) < 40 === {is_dark};"
    );
    browser.wait("phone", &script, 15);
}

fn choose(browser: &mut Browser, list: &str, value: &str) {
    let script = "const list = document.querySelector(argument[0]); list.value = argument[1]; list.dispatchEvent(new Event('change'));";
    browser.eval("phone", script, json!([list, value]));
}

fn hang_up(browser: &mut Browser) {
    browser.click("phone", "#hangup");
    browser.wait("phone", "return !document.querySelector('#dial').hidden;", 5);
}

fn fact(browser: &mut Browser, script: &str) -> Value {
    browser.eval("phone", &format!("return {script};"), json!(null))
}

#[test]
fn both_pictures_are_seen_and_counted_and_the_camera_goes_off() {
    let Some(mut browser) = video_page() else { return };
    connect(&mut browser);
    see_oneself(&mut browser);
    let own = "document.querySelector('#own').getClientRects().length > 0 && document.querySelector('#local-media video').videoWidth";
    assert_eq!(fact(&mut browser, own), 640);
    for (counter, pattern) in
        [("received-size", r"^\d+ × \d+$"), ("sent-size", r"^\d+ × \d+$"), ("received-codec", "^VP8$")]
    {
        let text = format!(
            "return /{pattern}/.test(document.querySelector(\"#picture-counters [data-counter='{counter}']\").textContent);"
        );
        browser.wait("phone", &text, 10);
    }
    for chart in ["received", "sent", "framesReceived", "framesSent"] {
        let moves = format!(
            "const chart = document.querySelector('#picture-charts [data-chart={chart}]'); \
             return Number(chart.querySelector('.value').textContent) > 5 && chart.querySelector('.line').getAttribute('d').includes('L');"
        );
        browser.wait("phone", &moves, 15);
    }
    browser.click("phone", "#statistics-sound");
    browser.wait(
        "phone",
        "return Number(document.querySelector('#charts [data-chart=received] .value').textContent) > 5;",
        10,
    );
    browser.click("phone", "#picture-mute");
    wait_dark(&mut browser, true);
    assert_eq!(fact(&mut browser, "document.querySelector('#picture-mute').getAttribute('aria-pressed')"), "true");
    browser.click("phone", "#picture-mute");
    wait_dark(&mut browser, false);
    browser.eval("phone", &format!("window.tracks = [{SENT}];"), json!(null));
    hang_up(&mut browser);
    assert_eq!(fact(&mut browser, "tracks.map(({ readyState }) => readyState)"), json!(["ended"]));
    // The next call begins with the camera on.
    see_oneself(&mut browser);
    wait_dark(&mut browser, false);
    hang_up(&mut browser);
    browser.assert_quiet("phone", &["demo.json"]);
}

/// The same track and connection go on, at another size and rate; both are remembered.
#[test]
fn size_and_frame_rate_change_in_the_call() {
    let Some(mut browser) = video_page() else { return };
    connect(&mut browser);
    see_oneself(&mut browser);
    browser.eval("phone", &format!("window.first = {SENT};"), json!(null));
    choose(&mut browser, "#size", "1280x720");
    wait_shape(&mut browser, true);
    choose(&mut browser, "#size", "320x240");
    choose(&mut browser, "#rate", "5");
    wait_shape(&mut browser, false);
    let rate = "const rate = Number(document.querySelector('#picture-charts [data-chart=framesSent] .value').textContent); return rate > 2 && rate < 9;";
    browser.wait("phone", rate, 15);
    let same = format!(
        "[{SENT} === first, first.readyState, gangwayProbe.connections.length, gangwayProbe.connections[0].signalingState]"
    );
    assert_eq!(fact(&mut browser, &same), json!([true, "live", 1, "stable"]));
    hang_up(&mut browser);
    see_oneself(&mut browser);
    assert_eq!(fact(&mut browser, &format!("{SENT}.getSettings().width")), 320);
    // What the camera cannot do leaves the picture as it is.
    browser.eval(
        "phone",
        &format!("{SENT}.applyConstraints = async () => {{ throw new DOMException('', 'OverconstrainedError'); }};"),
        json!(null),
    );
    choose(&mut browser, "#size", "640x360");
    assert_eq!(problem(&mut browser), "The camera cannot change its picture");
    wait_frames(&mut browser, 5);
    hang_up(&mut browser);
    browser.assert_quiet("phone", &["demo.json"]);
}

/// In the same stream: the SSRC stays, nothing is negotiated, and the camera is there again afterwards.
#[test]
fn the_screen_takes_the_place_of_the_camera_and_gives_it_back() {
    let Some(mut browser) = video_page() else { return };
    connect(&mut browser);
    see_oneself(&mut browser);
    let ssrc = "const rows = [...(await gangwayProbe.connections.at(-1).getStats()).values()]; \
                return rows.filter((row) => row.type === 'outbound-rtp' && row.kind === 'video').map((row) => row.ssrc);";
    let before = browser.eval("phone", ssrc, json!(null));
    browser.eval("phone", &format!("window.camera = {SENT};"), json!(null));
    browser.click("phone", "#share");
    browser.wait("phone", &format!("return {SENT} !== camera && {SENT}.label.startsWith('screen');"), 10);
    // A screen is wider than the camera's picture.
    wait_shape(&mut browser, true);
    let own = "[document.querySelector('#own').dataset.source, document.querySelector('#local-media video').srcObject.getVideoTracks()[0].label.startsWith('screen')]";
    assert_eq!(fact(&mut browser, own), json!(["screen", true]));
    // Darkness holds for what is sent, whichever it is.
    browser.click("phone", "#picture-mute");
    wait_dark(&mut browser, true);
    browser.eval("phone", &format!("window.screenTrack = {SENT};"), json!(null));
    browser.click("phone", "#share");
    browser.wait("phone", &format!("return {SENT} === camera;"), 10);
    assert_eq!(
        fact(&mut browser, "[screenTrack.readyState, camera.readyState, camera.enabled]"),
        json!(["ended", "live", false])
    );
    browser.click("phone", "#picture-mute");
    wait_dark(&mut browser, false);
    wait_shape(&mut browser, false);
    assert_eq!(browser.eval("phone", ssrc, json!(null)), before);
    // The browser's own button ends it too.
    browser.click("phone", "#share");
    browser.wait("phone", &format!("return {SENT} !== camera;"), 10);
    browser.eval("phone", &format!("{SENT}.dispatchEvent(new Event('ended'));"), json!(null));
    browser.wait("phone", &format!("return {SENT} === camera;"), 10);
    assert_eq!(fact(&mut browser, "document.querySelector('#share').getAttribute('aria-pressed')"), "false");
    // Whoever closes the list of screens has changed their mind; what the system forbids is told.
    browser.eval("phone", "navigator.mediaDevices.getDisplayMedia = async () => { window.asked = (window.asked || 0) + 1; throw new DOMException(window.reason, 'NotAllowedError'); }; window.reason = 'Permission denied by user';", json!(null));
    browser.click("phone", "#share");
    browser.wait("phone", "return window.asked === 1;", 5);
    browser.eval("phone", "window.reason = 'Permission denied by system';", json!(null));
    assert_eq!(fact(&mut browser, "document.querySelector('#problem').hidden"), true);
    browser.click("phone", "#share");
    assert_eq!(problem(&mut browser), "The screen cannot be shown");
    // A call that ends while the screen is shown gives back both.
    browser.eval(
        "phone",
        "navigator.mediaDevices.getDisplayMedia = MediaDevices.prototype.getDisplayMedia;",
        json!(null),
    );
    browser.click("phone", "#share");
    browser.wait("phone", &format!("return {SENT} !== camera;"), 10);
    browser.eval("phone", &format!("window.screenTrack = {SENT};"), json!(null));
    hang_up(&mut browser);
    assert_eq!(fact(&mut browser, "[screenTrack.readyState, camera.readyState]"), json!(["ended", "ended"]));
    browser.assert_quiet("phone", &["demo.json"]);
}

/// The list of screens may stay open as long as the user likes.
#[test]
fn an_open_list_of_screens_holds_up_no_device_and_no_call() {
    let Some(mut browser) = video_page() else { return };
    connect(&mut browser);
    see_oneself(&mut browser);
    browser.eval(
        "phone",
        "window.asked = 0; window.choose = []; \
         window.draw = () => { const canvas = document.createElement('canvas'); canvas.getContext('2d').fillRect(0, 0, 9, 9); \
         const stream = canvas.captureStream(5); window.drawn = stream.getTracks()[0]; return stream; }; \
         navigator.mediaDevices.getDisplayMedia = () => { asked += 1; return new Promise((done) => choose.push(done)); };",
        json!(null),
    );
    browser.click("phone", "#share");
    browser.wait("phone", "return asked === 1;", 5);
    browser.click("phone", "#share");
    // Another camera, meanwhile; then the choice.
    browser.eval("phone", &format!("window.first = {SENT}; const list = document.querySelector('#camera'); list.selectedIndex = 1; list.dispatchEvent(new Event('change'));"), json!(null));
    browser.wait("phone", &format!("return {SENT} !== first && {SENT}.readyState === 'live';"), 10);
    browser.eval("phone", &format!("window.camera = {SENT}; choose[0](draw());"), json!(null));
    browser.wait("phone", &format!("return {SENT} === drawn;"), 10);
    assert_eq!(fact(&mut browser, "asked"), 1, "there is one list");
    browser.click("phone", "#share");
    browser.wait("phone", &format!("return {SENT} === camera;"), 10);
    // The call ends before the choice: the next one has its devices, and what is chosen then is released.
    browser.click("phone", "#share");
    browser.wait("phone", "return asked === 2;", 5);
    hang_up(&mut browser);
    see_oneself(&mut browser);
    browser.eval("phone", &format!("window.first = {SENT}; const list = document.querySelector('#camera'); list.selectedIndex = 0; list.dispatchEvent(new Event('change'));"), json!(null));
    browser.wait("phone", &format!("return {SENT} !== first && {SENT}.readyState === 'live';"), 10);
    browser.eval("phone", "choose[1](draw());", json!(null));
    browser.wait("phone", "return drawn.readyState === 'ended';", 5);
    assert_eq!(fact(&mut browser, "document.querySelector('#problem').hidden"), true);
    assert_eq!(fact(&mut browser, &format!("{SENT} === drawn")), false);
    hang_up(&mut browser);
    browser.assert_quiet("phone", &["demo.json"]);
}

#[test]
fn a_phone_without_pictures_is_told_calmly_and_the_camera_released() {
    let Some(mut browser) = video_page() else { return };
    connect(&mut browser);
    ring_out(&mut browser);
    browser.eval("phone", &format!("window.camera = {SENT};"), json!(null));
    browser.eval("phone", "await gateway.talksBack({ video: false });", json!(null));
    browser.wait_text(
        "phone",
        "#picture-note",
        "600 takes no pictures: you hear each other, and your camera is off.",
        10,
    );
    browser.wait("phone", "return camera.readyState === 'ended';", 5);
    let calm = "[document.querySelector('#problem').hidden, document.querySelector('#own').hidden, document.querySelector('#share').disabled, document.querySelector('#picture-mute').disabled, document.querySelector('#mute').disabled]";
    assert_eq!(fact(&mut browser, calm), json!([true, true, true, true, false]));
    browser.wait_heard("phone", 400, 2, 15);
    // Another camera or size is for the next call: this one does not open any.
    browser.eval("phone", "window.opened = 0; const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices); navigator.mediaDevices.getUserMedia = (wanted) => { window.opened += 1; return ask(wanted); };", json!(null));
    choose(&mut browser, "#size", "320x240");
    let list = "const list = document.querySelector('#camera'); list.selectedIndex = 1; list.dispatchEvent(new Event('change'));";
    browser.eval("phone", list, json!(null));
    browser.wait(
        "phone",
        "return Number(document.querySelector('#charts [data-chart=received] .value').textContent) > 5;",
        10,
    );
    assert_eq!(fact(&mut browser, "[opened, document.querySelector('#problem').hidden]"), json!([0, true]));
    hang_up(&mut browser);
    browser.assert_quiet("phone", &["demo.json"]);
}

#[test]
fn a_video_call_is_answered_with_the_picture_or_with_sound_only() {
    let Some(mut browser) = video_page() else { return };
    connect(&mut browser);
    for (button, directions, opened) in [("#answer", "sendrecv", true), ("#answer-sound", "recvonly", false)] {
        browser.eval("phone", "await gateway.callsWithPicture(argument, '1002');", json!(button));
        browser.wait_text("phone", "#incoming-title", "Incoming video call", 5);
        browser.click("phone", button);
        wait_seen(&mut browser);
        let direction = "gangwayProbe.connections.at(-1).getTransceivers().find(({ receiver }) => receiver.track.kind === 'video').currentDirection";
        assert_eq!(fact(&mut browser, direction), directions, "{button}");
        assert_eq!(fact(&mut browser, "!document.querySelector('#own').hidden"), opened, "{button}");
        assert_eq!(fact(&mut browser, "!document.querySelector('#share').disabled"), opened, "{button}");
        if opened {
            let arrives = "window.other = 0; gateway.other.getStats().then((all) => all.forEach((row) => { if (row.type === 'inbound-rtp' && row.kind === 'video') window.frames = row.framesDecoded || row.packetsReceived; })); return window.frames > 5;";
            browser.wait("phone", arrives, 15);
        }
        hang_up(&mut browser);
    }
    // A call of sound offers no choice.
    browser.eval("phone", "gateway.calls('in-3', '1003');", json!(null));
    browser.wait_text("phone", "#incoming-title", "Incoming call", 5);
    assert_eq!(fact(&mut browser, "document.querySelector('#answer-sound').hidden"), true);
    browser.press("phone", "Escape");
    browser.wait("phone", "return !document.querySelector('#dial').hidden;", 5);
    browser.assert_quiet("phone", &["demo.json"]);
}

/// One's own picture goes to the corners, by arrow keys and by hand, and out of sight.
#[test]
fn ones_own_picture_moves_and_hides() {
    let Some(mut browser) = video_page() else { return };
    connect(&mut browser);
    see_oneself(&mut browser);
    let place = r##"
        const [all, own] = ["#picture", "#own"].map((name) => document.querySelector(name).getBoundingClientRect());
        const label = document.querySelector("#own-move").getAttribute("aria-label");
        return [own.y + own.height / 2 < all.y + all.height / 2, own.x + own.width / 2 < all.x + all.width / 2, label.split(".")[0]];
    "##;
    assert_eq!(browser.eval("phone", place, json!(null)), json!([false, false, "Your picture, bottom right"]));
    browser.eval("phone", "document.querySelector('#own-move').focus();", json!(null));
    browser.press("phone", "ArrowLeft");
    browser.press("phone", "ArrowUp");
    assert_eq!(browser.eval("phone", place, json!(null)), json!([true, true, "Your picture, top left"]));
    browser.drag("phone", "#own-move", (300, 260));
    assert_eq!(browser.eval("phone", place, json!(null)), json!([false, false, "Your picture, bottom right"]));
    browser.click("phone", "#own-hide");
    let shown = "return [getComputedStyle(document.querySelector('#local-media')).display !== 'none', document.querySelector('#own-hide').getAttribute('aria-label')];";
    assert_eq!(browser.eval("phone", shown, json!(null)), json!([false, "Show my picture"]));
    browser.click("phone", "#own-hide");
    assert_eq!(browser.eval("phone", shown, json!(null)), json!([true, "Hide my picture"]));
    browser.click("phone", "#enlarge");
    browser.wait("phone", "return document.fullscreenElement === document.querySelector('#call');", 5);
    hang_up(&mut browser);
    browser.wait("phone", "return document.fullscreenElement === null;", 5);
    browser.assert_quiet("phone", &["demo.json"]);
}

#[test]
fn a_camera_that_is_refused_gone_or_not_there_is_told_in_words() {
    let Some(mut browser) = video_page() else { return };
    connect(&mut browser);
    browser.eval("phone", "gangwayProbe.denyMicrophone = true;", json!(null));
    browser.fill("phone", "#number", "600");
    browser.press("phone", "Enter");
    assert_eq!(problem(&mut browser), "No permission to use camera and microphone");
    assert!(browser.text("phone", "#problem-advice").contains("Sound only"));
    browser.eval("phone", "gangwayProbe.denyMicrophone = false;", json!(null));
    // In a call: another camera that cannot be used leaves the first one, one that is unplugged is replaced when one comes.
    see_oneself(&mut browser);
    let refused = format!(
        "window.first = {SENT}; window.allow = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices); \
         navigator.mediaDevices.getUserMedia = async () => {{ throw new DOMException('', 'NotFoundError'); }}; \
         const list = document.querySelector('#camera'); list.selectedIndex = 1; list.dispatchEvent(new Event('change'));"
    );
    browser.eval("phone", &refused, json!(null));
    assert_eq!(problem(&mut browser), "The camera cannot be used");
    assert_eq!(fact(&mut browser, &format!("[{SENT} === first, first.readyState]")), json!([true, "live"]));
    browser.eval("phone", "first.stop(); first.dispatchEvent(new Event('ended'));", json!(null));
    browser.wait_text("phone", "#problem-title", "The camera is gone", 5);
    browser.eval(
        "phone",
        "navigator.mediaDevices.getUserMedia = allow; navigator.mediaDevices.dispatchEvent(new Event('devicechange'));",
        json!(null),
    );
    browser.wait("phone", &format!("return {SENT} !== first && {SENT}.readyState === 'live';"), 5);
    browser.wait("phone", "return document.querySelector('#problem').hidden;", 5);
    wait_frames(&mut browser, 5);
    // Phones open one camera at a time: the first is let go for the second.
    browser.eval("phone", &format!("window.first = {SENT}; window.turns = []; \
         navigator.mediaDevices.getUserMedia = async (wanted) => {{ turns.push(first.readyState); \
         if (first.readyState === 'live') throw new DOMException('', 'NotReadableError'); return allow(wanted); }}; \
         const list = document.querySelector('#camera'); list.selectedIndex = 1 - list.selectedIndex; list.dispatchEvent(new Event('change'));"), json!(null));
    browser.wait("phone", &format!("return {SENT} !== first && {SENT}.readyState === 'live';"), 5);
    assert_eq!(fact(&mut browser, "turns"), json!(["live", "ended"]));
    wait_frames(&mut browser, 5);
    hang_up(&mut browser);
    // None at all: the call is of sound, and the page has said so before.
    let none = "navigator.mediaDevices.getUserMedia = allow; const list = navigator.mediaDevices.enumerateDevices.bind(navigator.mediaDevices); \
                navigator.mediaDevices.enumerateDevices = async () => (await list()).filter(({ kind }) => kind !== 'videoinput'); \
                navigator.mediaDevices.dispatchEvent(new Event('devicechange'));";
    browser.eval("phone", none, json!(null));
    browser.wait(
        "phone",
        "return document.querySelector('#sound-note').textContent.includes('No camera was found');",
        5,
    );
    ring_out(&mut browser);
    let offer = "gateway.sent.findLast(({ message }) => message === 'call').data[0].sdp.includes('m=video')";
    assert_eq!(fact(&mut browser, offer), false);
    browser.press("phone", "Escape");
    browser.assert_quiet("phone", &["demo.json", "webrtc"]);
}

/// "Sound only" opens no camera, though there is one.
#[test]
fn a_call_of_sound_only_opens_no_camera() {
    let Some(mut browser) = video_page() else { return };
    connect(&mut browser);
    browser.fill("phone", "#number", "600");
    browser.click("phone", "#dial-sound");
    browser.wait_text("phone", "#call-status", "Ringing", 5);
    browser.eval("phone", "await gateway.talksBack();", json!(null));
    browser.wait_heard("phone", 400, 2, 15);
    let facts = "[document.querySelector('#own').hidden, document.querySelector('#picture-note').textContent, document.querySelector('#local-media video').srcObject.getVideoTracks().length]";
    assert_eq!(fact(&mut browser, facts), json!([true, "", 0]));
    hang_up(&mut browser);
    browser.assert_quiet("phone", &["demo.json"]);
}
