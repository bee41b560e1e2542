//! The vendor's page `phone-ui`, unmodified, in Chromium, against Kamailio and baresip: what it does today. Hold, transfer and keys
//! in a call are refused by the gateway with a word; here it is shown that pressing them breaks nothing.

use gangway_tests::{baresip::Video, deadline::Deadline};
use serde_json::json;

use crate::scene::Scene;

/// The page ends a ring tone while it is being started; that is its own affair.
const ITS_SOUNDS: &str = "play() request was interrupted";

impl Scene {
    /// The page, logged in as 1001, and a phone with a camera.
    fn phone_ui() -> Option<Self> {
        let mut scene = Scene::start(Some(Video::Vp8))?;
        let Scene { browser, gateway, kamailio, .. } = &mut scene;
        browser.open("phone", &format!("{}client2/examples/demo/sip/phone-ui/Phone.html", gateway.pages()));
        browser.wait("phone", "return typeof getWsPort === 'function' && document.readyState === 'complete';", 15);
        // The page knows one port, 8080; a test takes what the kernel gives.
        let port = gateway.ws().rsplit(':').next().expect("an address has a port").to_owned();
        browser.eval("phone", "window.getWsPort = () => argument;", json!(port));
        browser.click("phone", ".b-display__header__login");
        let registrar = kamailio.port().to_string();
        for (field, value) in [
            ("#sipLogin", "1001"),
            ("#sipAuthenticationName", "1001"),
            ("#sipPassword", "secret-1001"),
            ("#sipDomain", "127.0.0.1"),
            ("#sipOutboundProxy", "127.0.0.1"),
            ("#sipPort", registrar.as_str()),
        ] {
            browser.fill("phone", field, value);
        }
        browser.click("phone", ".b-login input[type=button]");
        browser.wait_text("phone", ".b-display__header__login", "Log out", 15);
        Deadline::seconds(10).poll("its registration", || kamailio.is_registered("1001").then_some(()));
        Some(scene)
    }

    /// Waits until the page shows a call, and both hear each other anew.
    fn talk(&mut self) {
        self.browser.wait(
            "phone",
            "return document.querySelector('.voice_call__call').classList.contains('open');",
            15,
        );
        self.browser.wait_text("phone", ".b-nav__cancel_call span", "Hangup", 5);
        self.phone.wait_event("CALL_ESTABLISHED", Deadline::seconds(5));
        self.hear();
    }

    /// Waits until the page is back where it began, and nothing is left.
    fn is_over(&mut self) {
        self.browser.wait(
            "phone",
            "return !document.querySelector('.voice_call__call').classList.contains('open');",
            8,
        );
        self.phone.wait_event("CALL_CLOSED", Deadline::seconds(5));
        self.gateway.wait_idle(Deadline::seconds(8));
    }

    fn wait_open(&mut self, selector: &str, is_open: bool) {
        let script = format!("return document.querySelector('{selector}').classList.contains('open') === {is_open};");
        self.browser.wait("phone", &script, 5);
    }
}

#[test]
fn it_calls_is_called_and_calls_again() {
    let Some(mut scene) = Scene::phone_ui() else { return };
    for key in ["code50", "code58", "code58", "code49"] {
        scene.browser.click("phone", &format!(".b-num .{key}"));
    }
    assert_eq!(scene.browser.eval("phone", "return document.querySelector('.b-numbers').value;", json!(null)), "2001");
    scene.browser.click("phone", ".b-nav__voice");
    scene.talk();
    scene.browser.click("phone", ".b-nav__cancel_call");
    scene.is_over();

    // Called, with pictures; the phone hangs up.
    scene.phone.dial("1001");
    scene.browser.wait("phone", "return document.querySelector('.call__inc__dial').textContent === '2001';", 10);
    scene.wait_open(".b-nav__inc", true);
    scene.browser.click("phone", ".b-nav__answer_video");
    scene.talk();
    let painted = "const v = document.querySelector('#remoteVideo video'); return !!v && v.getVideoPlaybackQuality().totalVideoFrames > 20;";
    scene.browser.wait("phone", painted, 15);
    let before = scene.phone.wait_picture(Deadline::seconds(15));
    let deadline = Deadline::seconds(15);
    while scene.phone.wait_picture(deadline) == before {}
    scene.phone.hangup();
    scene.is_over();

    // Again, with pictures.
    scene.browser.click("phone", ".b-nav__video");
    scene.talk();
    scene.browser.wait("phone", painted, 15);
    scene.browser.click("phone", ".b-nav__cancel_call");
    scene.is_over();
    scene.browser.assert_quiet("phone", &[ITS_SOUNDS]);
}

/// What the gateway does not do yet: it says so, the page's buttons come back, the call goes on.
#[test]
fn its_keys_that_are_refused_break_nothing() {
    let Some(mut scene) = Scene::phone_ui() else { return };
    scene.browser.eval("phone", "document.querySelector('.b-numbers').value = '2001'; document.querySelector('.b-numbers').classList.add('write');", json!(null));
    scene.browser.click("phone", ".b-nav__voice");
    scene.talk();
    // A key of the pad is DTMF by command.
    scene.browser.click("phone", ".b-num .code53");
    scene.hear();
    scene.browser.click("phone", ".voice_call__stop");
    scene.wait_open(".voice_call__stop", true);
    scene.hear();
    scene.browser.click("phone", ".voice_call__transfer");
    scene.wait_open(".b-transfer", true);
    scene.browser.fill("phone", "#transfer", "2002");
    scene.browser.click("phone", ".b-transfer__ok");
    scene.wait_open(".b-transfer", false);
    scene.hear();
    scene.browser.click("phone", ".b-nav__cancel_call");
    scene.is_over();
    scene.browser.assert_quiet("phone", &[ITS_SOUNDS]);
}
