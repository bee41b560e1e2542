//! Chromium, the gateway and a phone behind a registrar, for tests whose page is in calls with that phone.

use std::time::Duration;

use gangway_tests::{
    baresip::{self, Baresip, Video},
    browser::Browser,
    deadline::Deadline,
    gateway::Gateway,
    kamailio::{self, Kamailio},
};
use serde_json::json;

/// Chromium's fake microphone beeps at this frequency, once a second.
pub(crate) const BEEP_HZ: f64 = 400.0;
/// How much of the beeps must be found in a recording: they are short.
pub(crate) const BEEPS: Duration = Duration::from_millis(60);

pub(crate) struct Scene {
    // Ended in this order, the registrar last.
    pub(crate) browser: Browser,
    pub(crate) gateway: Gateway,
    /// Is 2001.
    pub(crate) phone: Baresip,
    pub(crate) kamailio: Kamailio,
}

impl Scene {
    /// No page is open yet. `None`: one of the programs is not there, and the test is skipped.
    pub(crate) fn start(video: Option<Video>) -> Option<Self> {
        let kamailio = Kamailio::start(&kamailio::Options::default())?;
        let options = baresip::Options { video, ..baresip::Options::new(kamailio.port(), "PCMU/8000/1") };
        let phone = Baresip::start(&options)?;
        let gateway = Gateway::start(&[]);
        let browser = Browser::start()?;
        Some(Self { browser, gateway, phone, kamailio })
    }

    /// Waits until page and phone hear each other anew.
    #[track_caller]
    pub(crate) fn hear(&mut self) {
        self.browser.eval("phone", "gangwayProbe.heard = {};", json!(null));
        self.browser.wait_heard("phone", 660, 25, 15);
        self.phone.wait_heard(BEEP_HZ, BEEPS, Deadline::seconds(20));
    }
}
