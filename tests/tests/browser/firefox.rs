//! Our pages in Firefox, by https and wss as from another machine, against Kamailio and baresip: registration, calls of sound out and
//! in, calls with pictures. Firefox sends no check to 127.0.0.1, so it has a network of its own, at whose other end the gateway is.

use std::{path::Path, time::Duration};

use gangway_tests::{
    baresip::{self, Baresip, Video},
    browser::Browser,
    deadline::Deadline,
    gateway::Gateway,
    kamailio::{self, Kamailio},
    namespace::Namespace,
    process::peer,
};

/// Firefox's fake microphone hums at this frequency, as `firefox.mjs` asks it to.
const HUM_HZ: f64 = 400.0;
/// How much of it must be found in a recording.
const HUM: Duration = Duration::from_millis(500);

/// One of our pages in Firefox, registered as 1001, and a phone that is 2001.
struct Scene {
    // Ended in this order, the registrar last.
    browser: Browser,
    gateway: Gateway,
    phone: Baresip,
    kamailio: Kamailio,
    _network: Namespace,
}

impl Scene {
    fn new(page: &str, video: Option<Video>) -> Option<Self> {
        peer("firefox-esr")?;
        let network = Namespace::start_plain()?;
        let kamailio = Kamailio::start(&kamailio::Options::default())?;
        let options = baresip::Options { video, ..baresip::Options::new(kamailio.port(), "PCMU/8000/1") };
        let phone = Baresip::start(&options)?;
        let near = network.near().to_string();
        let gateway = Gateway::start(&[("ip", &near), ("ip_local", &near), ("rest_bind", &near)]);
        let mut browser = Browser::start_firefox(|program| network.command(program))?;
        let pages = gateway.ready()["pages_https"].as_str().expect("pages by https").to_owned();
        browser.open("phone", &format!("{pages}{page}"));
        browser.wait("phone", "return document.activeElement && document.activeElement.id === 'login';", 15);
        let port = kamailio.port().to_string();
        for (field, value) in
            [("#login", "1001"), ("#password", "secret-1001"), ("#domain", "127.0.0.1"), ("#port", port.as_str())]
        {
            browser.fill("phone", field, value);
        }
        browser.click("phone", "summary");
        browser.fill("phone", "#url", gateway.ready()["wss"].as_str().expect("signalling by wss"));
        browser.click("phone", "#connect");
        browser.wait_text("phone", "#session-status", "Registered as 1001", 15);
        kamailio.wait_registered("1001", true, Deadline::seconds(5));
        Some(Self { browser, gateway, phone, kamailio, _network: network })
    }

    fn call_out(&mut self) {
        self.browser.fill("phone", "#number", "2001");
        self.browser.press("phone", "Enter");
        self.browser.wait_text("phone", "#call-status", "In call", 15);
        self.phone.wait_event("CALL_ESTABLISHED", Deadline::seconds(5));
    }

    fn call_in(&mut self) {
        self.phone.dial("1001");
        self.browser.wait("phone", "return !document.querySelector('#incoming').hidden;", 10);
        self.browser.click("phone", "#answer");
        self.browser.wait_text("phone", "#call-status", "In call", 15);
        self.phone.wait_event("CALL_ESTABLISHED", Deadline::seconds(5));
    }

    /// The phone finds the page's tone. What Firefox plays it measures itself: an analyser of the track would need a sound device.
    fn hear_each_other(&mut self) {
        let energy = "return gangwayProbe.rows('inbound-rtp', 'audio').then(([row]) => Boolean(row) && row.totalAudioEnergy > 0.01 && row.codecId !== undefined);";
        self.browser.wait("phone", energy, 15);
        self.phone.wait_heard(HUM_HZ, HUM, Deadline::seconds(20));
    }

    /// Both decode pictures that move.
    fn see_each_other(&mut self) {
        self.browser.wait("phone", "return document.querySelector('#picture').dataset.seen === 'yes';", 15);
        let frames = "return gangwayProbe.rows('inbound-rtp', 'video').then(([row]) => row.framesDecoded >= 20);";
        self.browser.wait("phone", frames, 15);
        let first = self.phone.wait_picture(Deadline::seconds(15));
        let deadline = Deadline::seconds(15);
        while self.phone.wait_picture(deadline) == first {}
    }

    fn is_over(&mut self) {
        self.browser.wait("phone", "return !document.querySelector('#dial').hidden;", 8);
        self.phone.wait_event("CALL_CLOSED", Deadline::seconds(5));
        self.gateway.wait_idle(Deadline::seconds(8));
    }
}

#[test]
fn sound_out_and_in() {
    let Some(mut scene) = Scene::new("", None) else { return };
    scene.call_out();
    scene.hear_each_other();
    scene.browser.wait(
        "phone",
        "return document.querySelector('[data-counter=received-codec]').textContent === 'G.711 µ-law';",
        10,
    );
    scene.browser.wait(
        "phone",
        "return Number(document.querySelector('[data-chart=received] .value').textContent) > 20;",
        10,
    );
    scene.browser.click("phone", "#hangup");
    scene.is_over();
    scene.call_in();
    scene.hear_each_other();
    scene.phone.hangup();
    scene.is_over();
    assert!(scene.kamailio.is_registered("1001"));
    scene.browser.assert_quiet("phone", &["demo.json"]);
}

#[test]
fn pictures_in_vp8_out_and_in() {
    let Some(mut scene) = Scene::new("video.html", Some(Video::Vp8)) else { return };
    scene.call_out();
    scene.see_each_other();
    scene.hear_each_other();
    for (counter, text) in [("received-codec", "VP8"), ("sent-codec", "VP8")] {
        scene.browser.wait_text("phone", &format!("#picture-counters [data-counter='{counter}']"), text, 10);
    }
    if let Some(folder) = std::env::var_os("GANGWAY_SCREENSHOTS") {
        scene.browser.screenshot("phone", &Path::new(&folder).join("firefox-video.png"));
    }
    scene.browser.click("phone", "#hangup");
    scene.is_over();
    scene.call_in();
    scene.see_each_other();
    scene.hear_each_other();
    scene.phone.hangup();
    scene.is_over();
    scene.browser.assert_quiet("phone", &["demo.json"]);
}
