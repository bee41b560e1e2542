//! What the README promises: the demo gateway, our page, dial 600 and hear oneself.

use std::path::PathBuf;

use gangway_tests::{
    browser::{Browser, View},
    deadline::Deadline,
    gateway::Gateway,
};

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
    browser.eval(
        "phone",
        "await new Promise((done) => setTimeout(done, 1000)); gangwayProbe.heard = {};",
        serde_json::Value::Null,
    );
    let heard = "await new Promise((done) => setTimeout(done, 2500)); return gangwayProbe.times(400);";
    assert_eq!(browser.eval("phone", heard, serde_json::Value::Null), 0, "heard through the mute");
    browser.click("phone", "#hangup");
    browser.wait("phone", "return !document.querySelector('#dial').hidden;", 5);
    let last = browser.text("phone", "#last-call");
    assert!(last.starts_with("Call with 600 ended after 0:"), "{last}");
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
