//! What the README promises: the demo gateway, our page, dial 600 and hear oneself.

use std::path::PathBuf;

use gangway_tests::{
    browser::{Browser, View},
    deadline::Deadline,
    gateway::Gateway,
};
use serde_json::json;

fn open(browser: &mut Browser, gateway: &Gateway, page: &str, view: &View<'_>) {
    browser.open_as(page, &gateway.pages(), view);
    browser.wait(page, "return document.querySelector('#numbers') && !document.querySelector('#numbers').hidden;", 15);
}

fn connect(browser: &mut Browser, page: &str) {
    browser.click(page, "#connect");
    browser.wait(page, "return /^Registered/.test(document.querySelector('#session-status').textContent);", 15);
}

fn picture(browser: &mut Browser, page: &str, name: &str) {
    if let Some(folder) = std::env::var_os("GANGWAY_SCREENSHOTS") {
        browser.screenshot(page, &PathBuf::from(folder).join(name));
    }
}

#[test]
fn a_newcomer_dials_600_and_hears_himself() {
    let gateway = Gateway::demo();
    let Some(mut browser) = Browser::start() else { return };
    open(&mut browser, &gateway, "phone", &View::default());
    picture(&mut browser, "phone", "desktop-start.png");
    connect(&mut browser, "phone");
    browser.fill("phone", "#number", "600");
    browser.press("phone", "Enter");
    browser.wait_text("phone", "#call-status", "In call", 15);
    browser.wait_heard("phone", 400, 2, 15);
    picture(&mut browser, "phone", "desktop-call.png");
    // Muted, nothing comes back.
    browser.click("phone", "#mute");
    browser.eval("phone", "await new Promise((done) => setTimeout(done, 1000)); gangwayProbe.heard = {};", json!(null));
    let heard = "await new Promise((done) => setTimeout(done, 2500)); return gangwayProbe.times(400);";
    assert_eq!(browser.eval("phone", heard, json!(null)), 0, "heard through the mute");
    browser.click("phone", "#hangup");
    browser.wait("phone", "return !document.querySelector('#dial').hidden;", 5);
    let last = browser.text("phone", "#last-call");
    assert!(last.starts_with("Call with 600 ended after 0:"), "{last}");
    gateway.wait_idle(Deadline::seconds(8));
    browser.assert_quiet("phone", &[]);
}

/// On the page with pictures 600 gives back the picture too.
#[test]
fn a_newcomer_sees_himself() {
    let gateway = Gateway::demo();
    let Some(mut browser) = Browser::start() else { return };
    let view = View { size: Some((1280, 860)), ..View::default() };
    browser.open_as("phone", &format!("{}video.html", gateway.pages()), &view);
    browser.wait(
        "phone",
        "return document.querySelector('#numbers') && !document.querySelector('#numbers').hidden;",
        15,
    );
    connect(&mut browser, "phone");
    browser.fill("phone", "#number", "600");
    browser.press("phone", "Enter");
    browser.wait_text("phone", "#call-status", "In call", 15);
    browser.wait("phone", "return document.querySelector('#picture').dataset.seen === 'yes';", 15);
    browser.wait_heard("phone", 400, 2, 15);
    let codec = "return /^(VP8|H.264)$/.test(document.querySelector(\"#picture-counters [data-counter='received-codec']\").textContent);";
    browser.wait("phone", codec, 10);
    let frames = "return Number(document.querySelector('#picture-charts [data-chart=framesReceived] .value').textContent) >= 10;";
    browser.wait("phone", frames, 15);
    picture(&mut browser, "phone", "desktop-video.png");
    // What comes back is what the camera saw: dark when it is off.
    let is_dark = "const paint = document.createElement('canvas').getContext('2d'); \
         paint.drawImage(document.querySelector('#remote-media video'), 0, 0, 32, 24); \
         const { data } = paint.getImageData(0, 0, 32, 24); \
         return Math.max(...data.filter((_, at) => at % 4 !== 3)) < 40";
    browser.wait("phone", &format!("{is_dark} === false;"), 10);
    browser.click("phone", "#picture-mute");
    browser.wait("phone", &format!("{is_dark} === true;"), 15);
    browser.click("phone", "#picture-mute");
    // The screen, in the same stream.
    browser.click("phone", "#share");
    browser.wait(
        "phone",
        "const v = document.querySelector('#remote-media video'); return v.videoWidth / v.videoHeight > 1.5;",
        15,
    );
    browser.click("phone", "#share");
    browser.wait(
        "phone",
        "const v = document.querySelector('#remote-media video'); return v.videoWidth / v.videoHeight < 1.5;",
        15,
    );
    browser.click("phone", "#hangup");
    browser.wait("phone", "return !document.querySelector('#dial').hidden;", 5);
    gateway.wait_idle(Deadline::seconds(8));
    browser.assert_quiet("phone", &[]);
}

/// The two pages call each other with pictures; one of them answers with sound only.
#[test]
fn two_video_pages_see_each_other() {
    let gateway = Gateway::demo();
    let Some(mut browser) = Browser::start() else { return };
    for page in ["a", "b"] {
        browser.open_as(page, &format!("{}video.html", gateway.pages()), &View::default());
        browser.wait(
            page,
            "return document.querySelector('#numbers') && !document.querySelector('#numbers').hidden;",
            15,
        );
    }
    browser.fill("b", "#login", "1002");
    browser.fill("b", "#password", "1002");
    connect(&mut browser, "a");
    connect(&mut browser, "b");
    for (button, seen) in [("#answer", ["yes", "yes"]), ("#answer-sound", ["no", "yes"])] {
        browser.fill("a", "#number", "1002");
        browser.press("a", "Enter");
        browser.wait_text("b", "#incoming-title", "Incoming video call", 10);
        browser.wait("b", "return !document.querySelector('#incoming').hidden;", 10);
        browser.click("b", button);
        for (page, seen) in ["a", "b"].into_iter().zip(seen) {
            browser.wait_text(page, "#call-status", "In call", 15);
            browser.wait_heard(page, 400, 1, 15);
            browser.wait(page, &format!("return document.querySelector('#picture').dataset.seen === '{seen}';"), 15);
        }
        if seen[0] == "no" {
            let note = "return /no picture/.test(document.querySelector('#picture-note').textContent);";
            browser.wait("a", note, 10);
        }
        browser.click("b", "#hangup");
        browser.wait("a", "return !document.querySelector('#dial').hidden;", 5);
        browser.wait("b", "return !document.querySelector('#dial').hidden;", 5);
        for page in ["a", "b"] {
            browser.eval(page, "gangwayProbe.heard = {};", json!(null));
        }
    }
    gateway.wait_idle(Deadline::seconds(8));
    browser.assert_quiet("a", &[]);
    browser.assert_quiet("b", &[]);
}

/// A counter of the table, as a number.
fn counter(browser: &mut Browser, name: &str) -> u64 {
    let text = browser.text("phone", &format!("[data-counter='{name}']"));
    text.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0)
}

fn call_600(browser: &mut Browser) {
    browser.fill("phone", "#number", "600");
    browser.press("phone", "Enter");
    browser.wait_text("phone", "#call-status", "In call", 15);
    browser.wait_heard("phone", 400, 2, 15);
}

/// Another microphone and another speaker in the call: the tone goes on, nothing is negotiated, and both are remembered.
#[test]
fn microphone_and_speaker_are_changed_in_the_call() {
    let gateway = Gateway::demo();
    let Some(mut browser) = Browser::start() else { return };
    open(&mut browser, &gateway, "phone", &View::default());
    connect(&mut browser, "phone");
    call_600(&mut browser);
    let track = "const track = gangwayProbe.connections.at(-1).getSenders()[0].track; return [track.label, track.readyState, track.enabled];";
    assert_eq!(browser.eval("phone", track, json!(null)), json!(["Fake Default Audio Input", "live", true]));
    browser.click("phone", "#mute");
    browser.eval("phone", "window.first = gangwayProbe.connections.at(-1).getSenders()[0].track;", json!(null));
    browser.wait("phone", "return document.querySelectorAll('#microphone option').length === 3;", 5);
    let choose = "const list = document.querySelector(argument); list.selectedIndex = 2; list.dispatchEvent(new Event('change'));";
    browser.eval("phone", choose, json!("#microphone"));
    browser.wait("phone", "return gangwayProbe.connections.at(-1).getSenders()[0].track !== first;", 5);
    // Still muted, and the first microphone is given back.
    assert_eq!(browser.eval("phone", track, json!(null)), json!(["Fake Audio Input 2", "live", false]));
    browser.wait("phone", "return first.readyState === 'ended';", 5);
    browser.click("phone", "#mute");
    browser.eval("phone", "gangwayProbe.heard = {};", json!(null));
    browser.wait_heard("phone", 400, 2, 15);
    browser.eval("phone", choose, json!("#speaker"));
    let sink =
        "return document.querySelector('#remote-media video').sinkId === document.querySelector('#speaker').value;";
    browser.wait("phone", sink, 5);
    let facts = "return [gangwayProbe.connections.length, gangwayProbe.connections[0].signalingState, document.querySelector('#problem').hidden];";
    assert_eq!(browser.eval("phone", facts, json!(null)), json!([1, "stable", true]));
    browser.click("phone", "#hangup");
    browser.wait("phone", "return !document.querySelector('#dial').hidden;", 5);
    // The next call begins with them.
    call_600(&mut browser);
    assert_eq!(browser.eval("phone", track, json!(null)), json!(["Fake Audio Input 2", "live", true]));
    browser.wait("phone", sink, 5);
    browser.click("phone", "#hangup");
    browser.wait("phone", "return !document.querySelector('#dial').hidden;", 5);
    let released = "return gangwayProbe.connections.every((peer) => peer.getSenders().every(({ track }) => !track || track.readyState === 'ended'));";
    browser.wait("phone", released, 5);
    gateway.wait_idle(Deadline::seconds(8));
    browser.assert_quiet("phone", &[]);
}

#[test]
fn statistics_move_and_the_list_calls_again() {
    let gateway = Gateway::demo();
    let Some(mut browser) = Browser::start() else { return };
    open(&mut browser, &gateway, "phone", &View::default());
    connect(&mut browser, "phone");
    browser.click("phone", "#numbers button:nth-child(3)");
    browser.wait_text("phone", "#problem-title", "602 is busy", 10);
    call_600(&mut browser);
    browser.wait_text("phone", "[data-counter='received-codec']", "Opus", 5);
    let before = (counter(&mut browser, "received-packets"), counter(&mut browser, "sent-packets"));
    let line = "return document.querySelector('[data-chart=received] .line').getAttribute('d').split('L').length >= 4;";
    browser.wait("phone", line, 15);
    let after = (counter(&mut browser, "received-packets"), counter(&mut browser, "sent-packets"));
    assert!(after.0 > before.0 && after.1 > before.1, "{before:?} -> {after:?}");
    let rate = "return Number(document.querySelector('[data-chart=received] .value').textContent) >= 10;";
    browser.wait("phone", rate, 10);
    let words = browser.eval(
        "phone",
        "return document.querySelector('[data-chart=received] svg').getAttribute('aria-label');",
        json!(null),
    );
    assert!(
        words.as_str().is_some_and(|words| words.starts_with("Receiving: ") && words.contains("kbit/s now")),
        "{words}"
    );
    browser.wait("phone", "return document.querySelector('[data-chart=roundTrip] .value').textContent !== '–';", 10);
    browser.wait("phone", "return / connection$/.test(document.querySelector('#statistics-state').textContent);", 5);
    browser.click("phone", "#hangup");
    browser.wait_text("phone", "#statistics-state", "Last call", 5);
    let rows = "return [...document.querySelectorAll('#history button')].map((row) => row.getAttribute('aria-label'));";
    let rows = browser.eval("phone", rows, json!(null));
    let row = |at: usize| rows[at].as_str().unwrap_or("").to_owned();
    assert!(row(0).starts_with("Outgoing call to 600 at ") && row(0).contains("Ended, talked for 0:"), "{rows}");
    assert!(row(1).starts_with("Outgoing call to 602 at ") && row(1).contains("Busy. Call again."), "{rows}");
    // A row calls again, and has the focus when that call is over.
    browser.click("phone", "#history li:nth-child(2) button");
    browser.wait("phone", "return document.querySelectorAll('#history li').length === 3;", 10);
    let back = "return document.activeElement === document.querySelector('#history li:nth-child(3) button');";
    assert_eq!(browser.eval("phone", back, json!(null)), true);
    gateway.wait_idle(Deadline::seconds(8));
    browser.assert_quiet("phone", &[]);
}

/// From loading the page to the end of a call, and the tone of a key in it, without a mouse.
#[test]
fn a_call_by_keyboard_alone() {
    let gateway = Gateway::demo();
    let Some(mut browser) = Browser::start() else { return };
    open(&mut browser, &gateway, "phone", &View::default());
    browser.press("phone", "Enter");
    browser.wait("phone", "return /^Registered/.test(document.querySelector('#session-status').textContent);", 15);
    for key in ["6", "0", "1", "Enter"] {
        browser.press("phone", key);
    }
    browser.wait_text("phone", "#call-status", "In call", 15);
    // The menu of 601 plays three tones; key 9 answers with its own, which is none of them.
    browser.wait_heard("phone", 523, 2, 15);
    browser.wait("phone", "return !document.querySelector('#keypad').disabled;", 5);
    browser.eval("phone", "gangwayProbe.heard = {};", json!(null));
    browser.press("phone", "9");
    browser.wait_heard("phone", 1244, 5, 10);
    assert_eq!(browser.text("phone", "#tones-sent"), "9");
    browser.press("phone", "Escape");
    browser.press("phone", "Enter");
    browser.wait("phone", "return !document.querySelector('#dial').hidden;", 5);
    gateway.wait_idle(Deadline::seconds(8));
    browser.assert_quiet("phone", &[]);
}

/// 605 sounds before it answers: the caller hears it, and no ringing of the page's own over it.
#[test]
fn early_media_is_heard_while_it_rings() {
    let gateway = Gateway::demo();
    let Some(mut browser) = Browser::start() else { return };
    open(&mut browser, &gateway, "phone", &View::default());
    connect(&mut browser, "phone");
    browser.fill("phone", "#number", "605");
    browser.press("phone", "Enter");
    browser.wait_text("phone", "#call-status", "Ringing", 10);
    browser.wait_heard("phone", 425, 5, 10);
    assert_eq!(browser.text("phone", "#call-status"), "Ringing");
    browser.wait_text("phone", "#call-status", "In call", 15);
    browser.click("phone", "#hangup");
    browser.wait("phone", "return !document.querySelector('#dial').hidden;", 5);
    gateway.wait_idle(Deadline::seconds(8));
    browser.assert_quiet("phone", &[]);
}

#[test]
fn the_demo_numbers_do_what_they_say() {
    let gateway = Gateway::demo();
    let Some(mut browser) = Browser::start() else { return };
    open(&mut browser, &gateway, "phone", &View { size: Some((390, 844)), ..View::default() });
    connect(&mut browser, "phone");
    for (number, words) in [("602", "602 is busy"), ("604", "No such number: 604")] {
        browser.fill("phone", "#number", number);
        browser.press("phone", "Enter");
        browser.wait_text("phone", "#problem-title", words, 10);
        picture(&mut browser, "phone", &format!("phone-{number}.png"));
        browser.wait("phone", "return !document.querySelector('#dial-button').disabled;", 5);
    }
    // 603 rings for ever: given up by hand, no problem is shown.
    browser.fill("phone", "#number", "603");
    browser.press("phone", "Enter");
    browser.wait_text("phone", "#call-status", "Ringing", 10);
    browser.click("phone", "#hangup");
    browser.wait(
        "phone",
        "return !document.querySelector('#dial').hidden && document.querySelector('#problem').hidden;",
        5,
    );
    gateway.wait_idle(Deadline::seconds(8));
    browser.assert_quiet("phone", &[]);
}

#[test]
fn two_pages_call_each_other() {
    let gateway = Gateway::demo();
    let Some(mut browser) = Browser::start() else { return };
    open(&mut browser, &gateway, "a", &View { dark: true, ..View::default() });
    open(&mut browser, &gateway, "b", &View { size: Some((390, 844)), dark: true, ..View::default() });
    browser.fill("b", "#login", "1002");
    browser.fill("b", "#password", "1002");
    connect(&mut browser, "a");
    connect(&mut browser, "b");
    browser.fill("a", "#number", "1002");
    browser.press("a", "Enter");
    browser.wait("b", "return !document.querySelector('#incoming').hidden;", 10);
    assert_eq!(browser.text("b", "#incoming-name"), "1001");
    picture(&mut browser, "b", "phone-incoming-dark.png");
    browser.click("b", "#answer");
    browser.wait_text("a", "#call-status", "In call", 15);
    browser.wait_text("b", "#call-status", "In call", 15);
    browser.wait_heard("a", 400, 1, 15);
    browser.wait_heard("b", 400, 1, 15);
    picture(&mut browser, "a", "desktop-call-dark.png");
    browser.click("b", "#hangup");
    browser.wait("a", "return !document.querySelector('#dial').hidden;", 5);
    // And the other way round, rejected.
    browser.fill("b", "#number", "1001");
    browser.press("b", "Enter");
    browser.wait("a", "return !document.querySelector('#incoming').hidden;", 10);
    browser.click("a", "#reject");
    browser.wait("b", "return !document.querySelector('#problem').hidden;", 10);
    assert_eq!(browser.text("b", "#problem-title"), "1001 declined the call");
    gateway.wait_idle(Deadline::seconds(8));
    browser.assert_quiet("a", &[]);
    browser.assert_quiet("b", &[]);
}
