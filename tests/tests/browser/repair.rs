//! Pictures over a path that loses some: what Chromium itself says of it.

use gangway_tests::{
    baresip::{self, Baresip, Video},
    browser::Browser,
    deadline::Deadline,
    gateway::Gateway,
    impairment::{Impairment, Plan},
    kamailio::{self, Kamailio},
    sipp::Sipp,
};
use serde_json::{Value, json};

use crate::sdk::start_session;

/// A call of the SDK with pictures, over a proxy.
struct Scene {
    browser: Browser,
    gateway: Gateway,
    phone: Baresip,
    proxy: Impairment,
    _kamailio: Kamailio,
}

impl Scene {
    /// `None` when a peer is not installed.
    fn new(plan: Plan) -> Option<Self> {
        let kamailio = Kamailio::start(&kamailio::Options::default())?;
        let options =
            baresip::Options { video: Some(Video::Vp8), ..baresip::Options::new(kamailio.port(), "PCMU/8000/1") };
        let mut phone = Baresip::start(&options)?;
        let gateway = Gateway::start(&[]);
        let proxy = Impairment::start(gateway.webrtc(), plan);
        let mut browser = Browser::start()?;
        let account = json!({ "sipOptions": { "login": "1001", "password": "secret-1001", "domain": "127.0.0.1",
            "outboundProxy": "127.0.0.1", "port": kamailio.port().to_string(), "registerRequired": true } });
        start_session(&mut browser, &gateway, None, &account);
        browser.wait("sdk", "return test.session.includes('REGISTERED');", 15);
        let dial = "test.dial('2001', (sdp) => { \
                    return sdp.sdpString.replace(/(a=candidate:\\S+ \\d+ \\S+ \\d+) \\S+ \\d+/gi, '$1 127.0.0.1 ' + argument); }, { constraints: { audio: true, video: true }, receiveVideo: true });";
        browser.eval("sdk", dial, json!(proxy.address().port()));
        browser.wait("sdk", "return test.call.includes('ESTABLISHED');", 15);
        phone.wait_event("CALL_ESTABLISHED", Deadline::seconds(5));
        browser.wait("sdk", "return test.pictures() >= 20;", 30);
        Some(Self { browser, gateway, phone, proxy, _kamailio: kamailio })
    }

    fn end(mut self) {
        self.browser.eval("sdk", "test.current.hangup();", Value::Null);
        self.browser.wait("sdk", "return test.call.includes('FINISH');", 5);
        self.phone.wait_event("CALL_CLOSED", Deadline::seconds(5));
        self.gateway.wait_idle(Deadline::seconds(8));
        self.browser.assert_quiet("sdk", &["demo.json"]);
    }
}

/// Waits until the page finds `condition` true of `inbound` and `outbound`, the statistics of its video.
fn wait_stats(browser: &mut Browser, condition: &str, seconds: u64) {
    let script = format!(
        "const rows = (await gangwayProbe.stats()).at(-1).rows; \
         const of = (type) => rows.find((row) => row.type === type && row.kind === 'video') || {{}}; \
         const inbound = of('inbound-rtp'), outbound = of('outbound-rtp'); \
         return [{condition}, {{ inbound, outbound }}];"
    );
    Deadline::seconds(seconds).poll(condition, || {
        let found = browser.eval("sdk", &script, Value::Null);
        // What it was at last is in the log of a test that fails.
        println!("{}", found[1]);
        (found[0] == true).then_some(())
    });
}

/// One packet in twenty is lost each way: the browser asks for them and gets them, and sends those that it is asked for.
#[test]
fn lost_pictures_are_sent_again_both_ways() {
    let plan = Plan { media_loss_percent: 5, seed: 5, ..Plan::default() };
    let Some(mut scene) = Scene::new(plan) else { return };
    wait_stats(&mut scene.browser, "inbound.nackCount > 0 && inbound.retransmittedPacketsReceived > 3", 30);
    wait_stats(&mut scene.browser, "outbound.nackCount > 0 && outbound.retransmittedPacketsSent > 3", 30);
    assert!(scene.proxy.lost() > 0, "nothing was lost: the proxy is not in the path");
    scene.end();
}

/// The `b=` line of the SIP peer keeps the browser's encoder below it; without one it goes higher at once.
#[test]
fn a_browser_keeps_to_what_the_peer_takes() {
    // Asked for pictures in RTCP, because the scenario knows no INFO.
    let video = "\nm=video [media_port+2] RTP/AVP 97\nb=AS:200\na=rtpmap:97 VP8/90000\na=rtcp-fb:* nack pli";
    for (more, condition) in [
        (video.replace("b=AS:200\n", ""), "outbound.targetBitrate > 250000"),
        (video.to_owned(), "outbound.framesEncoded > 100 && outbound.targetBitrate <= 200000"),
    ] {
        let Some(peer) = Sipp::uas("uas_answer", &[("RING_MS", "20"), ("MORE", &more)]) else { return };
        let gateway = Gateway::start(&[]);
        let Some(mut browser) = Browser::start() else { return };
        start_session(&mut browser, &gateway, Some(peer.port()), &json!({}));
        let pictures = json!({ "constraints": { "audio": true, "video": true }, "receiveVideo": true });
        browser.eval("sdk", "test.dial('2001', undefined, argument);", pictures);
        browser.wait("sdk", "return test.call.includes('ESTABLISHED');", 15);
        wait_stats(&mut browser, condition, 30);
        browser.eval("sdk", "test.current.hangup();", Value::Null);
        browser.wait("sdk", "return test.call.includes('FINISH');", 5);
        peer.finish(Deadline::seconds(5));
        gateway.wait_idle(Deadline::seconds(8));
        browser.assert_quiet("sdk", &["demo.json"]);
    }
}
