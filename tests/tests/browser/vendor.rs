//! The vendor's own Phone and Click to Call pages, unmodified, in Chromium, against Kamailio and baresip. Its Phone Video page is
//! in the module `video`.

use std::time::Duration;

use gangway_tests::{
    baresip::{self, Baresip, Video},
    browser::Browser,
    deadline::Deadline,
    gateway::Gateway,
    kamailio::{self, Kamailio},
    sip_phone::SipPhone,
};

/// Chromium's fake microphone beeps at this frequency, once a second.
const BEEP_HZ: f64 = 400.0;
/// How much of the beeps must be found in a recording: they are short.
const BEEPS: Duration = Duration::from_millis(60);

/// Opens the Phone page and fills in the account.
fn open_phone(browser: &mut Browser, gateway: &Gateway, password: &str, port: u16, registers: bool) {
    open_page(browser, gateway, "phone", (password, port, registers));
}

/// Opens one of the vendor's phone pages and fills in the account: password, port of the registrar, whether to register.
pub(crate) fn open_page(
    browser: &mut Browser,
    gateway: &Gateway,
    page: &str,
    (password, port, registers): (&str, u16, bool),
) {
    browser.open("phone", &format!("{}client2/examples/demo/sip/{page}/{page}.html", gateway.pages()));
    // The page builds itself twice; it is ready when its fields are there and its buttons do something.
    let ready = "const [b, u] = ['#connectBtn', '#urlServer'].map((id) => document.querySelector(id)); \
                 return !!(b && u && u.value && document.querySelector('#holdBtn') && $._data(b, 'events'));";
    browser.wait("phone", ready, 15);
    fill_account(browser, gateway, password, port);
    browser.set_checked("phone", "#sipRegisterRequired", registers);
    browser.click("phone", "#connectBtn");
}

/// The fields that all of the vendor's phone pages have.
fn fill_account(browser: &mut Browser, gateway: &Gateway, password: &str, port: u16) {
    let port = port.to_string();
    for (field, value) in [
        ("#urlServer", gateway.ws().as_str()),
        ("#sipLogin", "1001"),
        ("#sipAuthenticationName", "1001"),
        ("#sipPassword", password),
        ("#sipDomain", "127.0.0.1"),
        ("#sipOutboundProxy", "127.0.0.1"),
        ("#sipPort", port.as_str()),
    ] {
        browser.fill("phone", field, value);
    }
}

/// A call from a page to the phone, until both say that it stands.
pub(crate) fn call_out<P: SipPhone>(browser: &mut Browser, peer: &mut P) {
    browser.fill("phone", "#callee", P::NUMBER);
    browser.click("phone", "#callBtn");
    browser.wait_text("phone", "#callStatus", "ESTABLISHED", 15);
    peer.wait_established(Deadline::seconds(5));
}

/// A call from the phone to a page, answered there.
pub(crate) fn answer_call<P: SipPhone>(browser: &mut Browser, peer: &mut P) {
    peer.dial("1001");
    let rings = format!(
        "return document.querySelector('#incomingCallAlert').textContent.includes('new call from {}');",
        P::NUMBER
    );
    browser.wait("phone", &rings, 10);
    browser.click("phone", "#answerBtn");
    browser.wait_text("phone", "#callStatus", "ESTABLISHED", 15);
    peer.wait_established(Deadline::seconds(5));
}

/// Each finds the other's tone.
pub(crate) fn hear_each_other<P: SipPhone>(browser: &mut Browser, peer: &P) {
    browser.wait_heard("phone", P::TONE_HZ, 25, 15);
    peer.wait_heard(BEEP_HZ, BEEPS, Deadline::seconds(20));
}

/// The page ends the call, the phone hears of it, and nothing is left.
pub(crate) fn end_on_page(browser: &mut Browser, peer: &mut impl SipPhone, gateway: &Gateway) {
    browser.click("phone", "#callBtn");
    browser.wait_text("phone", "#callStatus", "FINISH", 5);
    peer.wait_closed(Deadline::seconds(5));
    gateway.wait_idle(Deadline::seconds(8));
}

/// The codec that the browser receives and sends, as getStats reports it.
pub(crate) fn codecs_in_use(browser: &mut Browser) -> Vec<String> {
    let script = "const all = await gangwayProbe.stats(); const rows = all.at(-1).rows; \
                  const rtp = rows.filter((row) => /bound-rtp$/.test(row.type)); \
                  return rtp.map((row) => (rows.find((codec) => codec.id === row.codecId) || {}).mimeType || '');";
    let value = browser.eval("phone", script, serde_json::Value::Null);
    value.as_array().into_iter().flatten().filter_map(|name| Some(name.as_str()?.to_lowercase())).collect()
}

/// Section 6 items 1 and 2, checks 6, 11, 12, 21, 24, 53: REGISTER by digest, then a call each way with this codec.
fn phone_page_talks(codec: &'static str, mime: &str) {
    let Some(kamailio) = Kamailio::start(&kamailio::Options::default()) else { return };
    let Some(mut peer) = Baresip::start(&baresip::Options::new(kamailio.port(), codec)) else { return };
    let gateway = Gateway::start(&[]);
    let Some(mut browser) = Browser::start() else { return };
    open_phone(&mut browser, &gateway, "secret-1001", kamailio.port(), true);
    browser.wait_text("phone", "#regStatus", "REGISTERED", 15);
    kamailio.wait_registered("1001", true, Deadline::seconds(5));

    // Out: dialled on the page, answered by baresip, ended by the page.
    call_out(&mut browser, &mut peer);
    hear_each_other(&mut browser, &peer);
    let used = codecs_in_use(&mut browser);
    assert!(!used.is_empty() && used.iter().all(|name| name == mime), "{used:?}, not {mime}");
    end_on_page(&mut browser, &mut peer, &gateway);
    browser.wait_text("phone", "#callBtn", "Call", 5);

    // In: dialled by baresip, answered on the page, ended by baresip.
    browser.eval("phone", "gangwayProbe.heard = {};", serde_json::Value::Null);
    answer_call(&mut browser, &mut peer);
    browser.wait_heard("phone", 660, 25, 15);
    peer.hangup();
    browser.wait_text("phone", "#callStatus", "FINISH", 8);
    gateway.wait_idle(Deadline::seconds(8));

    browser.click("phone", "#connectBtn");
    browser.wait_text("phone", "#regStatus", "DISCONNECTED", 8);
    browser.assert_quiet("phone", &[]);
}

#[test]
fn phone_page_pcmu() {
    phone_page_talks("PCMU/8000/1", "audio/pcmu");
}

#[test]
fn phone_page_pcma() {
    phone_page_talks("PCMA/8000/1", "audio/pcma");
}

#[test]
fn phone_page_g722() {
    phone_page_talks("G722/16000/1", "audio/g722");
}

#[test]
fn phone_page_opus() {
    phone_page_talks("opus/48000/2", "audio/opus");
}

/// Check 7 on the page: never REGISTERED, DISCONNECTED, the form usable again.
#[test]
fn phone_page_wrong_password() {
    let Some(kamailio) = Kamailio::start(&kamailio::Options::default()) else { return };
    let gateway = Gateway::start(&[]);
    let Some(mut browser) = Browser::start() else { return };
    open_phone(&mut browser, &gateway, "wrong", kamailio.port(), true);
    browser.wait_text("phone", "#regStatus", "DISCONNECTED", 15);
    browser.wait("phone", "return !document.querySelector('#sipPassword').disabled;", 5);
    assert!(kamailio.seen("REGISTER") <= 3, "{:?}", kamailio.requests("REGISTER"));
    browser.assert_quiet("phone", &[]);
}

/// Checks 22, 23 and 26 on the page: after each end the Call button works again; an incoming call is rejected.
#[test]
fn phone_page_refusals() {
    let Some(kamailio) = Kamailio::start(&kamailio::Options::default()) else { return };
    let options = baresip::Options { answers: false, ..baresip::Options::new(kamailio.port(), "PCMU/8000/1") };
    let Some(mut peer) = Baresip::start(&options) else { return };
    let gateway = Gateway::start(&[]);
    let Some(mut browser) = Browser::start() else { return };
    open_phone(&mut browser, &gateway, "secret-1001", kamailio.port(), true);
    browser.wait_text("phone", "#regStatus", "REGISTERED", 15);
    for callee in ["9999", "2002"] {
        browser.eval("phone", "document.querySelector('#callStatus').textContent = '';", serde_json::Value::Null);
        browser.fill("phone", "#callee", callee);
        browser.click("phone", "#callBtn");
        browser.wait_text("phone", "#callStatus", "FAILED", 10);
        browser.wait_text("phone", "#callBtn", "Call", 5);
    }
    // Busy: baresip refuses with 486.
    browser.fill("phone", "#callee", "2001");
    browser.click("phone", "#callBtn");
    peer.wait_event("CALL_INCOMING", Deadline::seconds(10));
    peer.hangup();
    browser.wait_text("phone", "#callStatus", "FINISH", 10);
    browser.wait_text("phone", "#callBtn", "Call", 5);
    peer.wait_event("CALL_CLOSED", Deadline::seconds(5));
    // Hangup while it rings: check 20.
    browser.fill("phone", "#callee", "2001");
    browser.click("phone", "#callBtn");
    browser.wait_text("phone", "#callStatus", "RING", 10);
    browser.click("phone", "#callBtn");
    browser.wait_text("phone", "#callStatus", "FINISH", 5);
    peer.wait_event("CALL_CLOSED", Deadline::seconds(5));
    // Reject: check 26.
    peer.dial("1001");
    browser.wait("phone", "return /new call/.test(document.querySelector('#incomingCallAlert').textContent);", 10);
    browser.wait_text("phone", "#callStatus", "RING", 5);
    browser.click("phone", "#hangupBtn");
    browser.wait_text("phone", "#callStatus", "FINISH", 5);
    peer.wait_event("CALL_CLOSED", Deadline::seconds(5));
    // Caller cancels: check 27.
    browser.eval("phone", "document.querySelector('#callStatus').textContent = '';", serde_json::Value::Null);
    peer.dial("1001");
    browser.wait_text("phone", "#callStatus", "RING", 10);
    peer.hangup();
    browser.wait_text("phone", "#callStatus", "FINISH", 8);
    gateway.wait_idle(Deadline::seconds(8));
    browser.assert_quiet("phone", &[]);
}

/// Check 9 on the page: without "Register required" ESTABLISHED unlocks calling, and the INVITE's 407 is answered.
#[test]
fn phone_page_without_registration() {
    let Some(kamailio) = Kamailio::start(&kamailio::Options::default()) else { return };
    let Some(mut peer) = Baresip::start(&baresip::Options::new(kamailio.port(), "PCMU/8000/1")) else { return };
    let gateway = Gateway::start(&[]);
    let Some(mut browser) = Browser::start() else { return };
    open_phone(&mut browser, &gateway, "secret-1001", kamailio.port(), false);
    browser.wait_text("phone", "#regStatus", "ESTABLISHED", 15);
    call_out(&mut browser, &mut peer);
    browser.wait_heard("phone", 660, 25, 15);
    // The user closes the page: the call ends at the far end too, once the kept session has no browser any more.
    browser.close("phone");
    peer.wait_event("CALL_CLOSED", Deadline::seconds(20));
    gateway.wait_idle(Deadline::seconds(8));
}

/// Check 40: the page calls as soon as it is ESTABLISHED, while REGISTER is under way; after the call its session is closed.
#[test]
fn click_to_call_page() {
    let Some(kamailio) = Kamailio::start(&kamailio::Options::default()) else { return };
    let Some(mut peer) = Baresip::start(&baresip::Options::new(kamailio.port(), "PCMU/8000/1")) else { return };
    let gateway = Gateway::start(&[]);
    let Some(mut browser) = Browser::start() else { return };
    let url = format!("{}client2/examples/demo/sip/click-to-call/click-to-call.html", gateway.pages());
    browser.open("phone", &url);
    browser.wait("phone", "return !!document.querySelector('#urlServer').value;", 15);
    browser.click("phone", "#sipCredentialsBtn");
    fill_account(&mut browser, &gateway, "secret-1001", kamailio.port());
    browser.click("phone", "#okBtn");
    for _ in 0..2 {
        browser.fill("phone", "#callee", "2001");
        browser.click("phone", "#callBtn");
        browser.wait_text("phone", "#status", "Call: ESTABLISHED", 15);
        peer.wait_event("CALL_ESTABLISHED", Deadline::seconds(5));
        hear_each_other(&mut browser, &peer);
        browser.click("phone", "#callBtn");
        browser.wait_text("phone", "#status", "Session: DISCONNECTED", 8);
        peer.wait_event("CALL_CLOSED", Deadline::seconds(5));
        gateway.wait_idle(Deadline::seconds(8));
        browser.eval("phone", "gangwayProbe.heard = {};", serde_json::Value::Null);
    }
    browser.assert_quiet("phone", &[]);
}

/// Check 25: a call with pictures rings the page of sound, which takes them in a recvonly section. Its own side stays without.
#[test]
fn phone_page_receives_pictures() {
    let Some(kamailio) = Kamailio::start(&kamailio::Options::default()) else { return };
    let options = baresip::Options { video: Some(Video::Vp8), ..baresip::Options::new(kamailio.port(), "PCMU/8000/1") };
    let Some(mut peer) = Baresip::start(&options) else { return };
    let gateway = Gateway::start(&[]);
    let Some(mut browser) = Browser::start() else { return };
    open_phone(&mut browser, &gateway, "secret-1001", kamailio.port(), true);
    browser.wait_text("phone", "#regStatus", "REGISTERED", 15);
    answer_call(&mut browser, &mut peer);
    let directions = "return gangwayProbe.connections.at(-1).getTransceivers().map((one) => `${one.receiver.track.kind} ${one.currentDirection}`).join();";
    assert_eq!(browser.eval("phone", directions, serde_json::Value::Null), "audio sendrecv,video recvonly");
    hear_each_other(&mut browser, &peer);
    let painted = "const v = document.querySelector('#remoteDisplay video'); \
                   return !!v && v.videoWidth > 0 && v.getVideoPlaybackQuality().totalVideoFrames >= 20;";
    browser.wait("phone", painted, 15);
    peer.hangup();
    browser.wait_text("phone", "#callStatus", "FINISH", 8);
    gateway.wait_idle(Deadline::seconds(8));
    browser.assert_quiet("phone", &[]);
}
