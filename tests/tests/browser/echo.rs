//! The first integration test there was: Chromium against the dataplane alone, which echoes it: ICE-lite, DTLS with the
//! fragmented ClientHello, SRTP both ways; then through a network that loses, swaps and re-cuts the handshake.

use std::fs;

use gangway_shared::{ids::RelayId, rcp::Event};
use gangway_tests::{
    browser::{Browser, View},
    dataplane::{Dataplane, echo_answer, echo_program, ice_remote},
    impairment::{Impairment, Plan},
};
use serde_json::{Value, json};

/// Where the empty page seems to come from: a secure context, and nobody listens there.
const SITE: &str = "http://localhost:1/";

/// Makes an offer with the fake microphone; the connection waits for its answer in `window.echo`.
const OFFER: &str = r#"
const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
window.echo = new RTCPeerConnection();
// Chromium decodes only what something plays.
echo.addEventListener("track", (event) => {
  window.player = Object.assign(new Audio(), { autoplay: true, srcObject: new MediaStream([event.track]) });
});
stream.getTracks().forEach((track) => echo.addTrack(track, stream));
await echo.setLocalDescription(await echo.createOffer());
return echo.localDescription.sdp;
"#;

const ANSWER: &str = "await echo.setRemoteDescription({ type: 'answer', sdp: argument });";

/// What the connection's transport agreed on, and what came back.
const RESULT: &str = r#"
const result = {};
(await echo.getStats()).forEach((row) => {
  if (row.type === "transport") Object.assign(result, { dtls: row.dtlsState, tls: row.tlsVersion, srtp: row.srtpCipher });
  if (row.type === "inbound-rtp") Object.assign(result, { received: row.packetsReceived, lost: row.packetsLost });
});
return result;
"#;

/// Connects `times` times, each a new connection and relay, through a proxy that treats DTLS as `plan` says.
fn chromium_hears_itself(times: u64, plan: Plan) {
    let Some(mut browser) = Browser::start() else { return };
    let site = tempfile::tempdir().expect("a temporary directory");
    fs::write(site.path().join("index.html"), "<!doctype html><title>echo</title>").expect("a page");
    browser.open_as("echo", SITE, &View { files: &[(SITE, site.path())], ..View::default() });
    let dataplane = Dataplane::start(1, &[]);
    let mut control = dataplane.control(1);
    let (mut lost, mut recut) = (0, 0);
    for number in 1..=times {
        let offer = browser.eval("echo", OFFER, Value::Null);
        let remote = ice_remote(offer.as_str().expect("an offer is text"));
        let relay = RelayId::new(1, 1, number);
        let reply = control.put(relay, 1, echo_program(Some(remote))).expect("an echo");
        let proxy = Impairment::start(dataplane.webrtc[0], Plan { seed: plan.seed + number, ..plan });
        browser.eval("echo", ANSWER, json!(echo_answer(&reply, proxy.address())));
        browser.wait("echo", "return echo.connectionState === 'connected';", 20);
        let is_ready = |event: &Event| matches!(event, Event::KeysReady { relay: of, .. } if *of == relay);
        control.wait_event("the keys", is_ready);
        let result = {
            browser.wait("echo", "echo.getStats().then((all) => all.forEach((row) => { if (row.type === 'inbound-rtp') window.heard = row.packetsReceived; })); return window.heard > 25;", 15);
            browser.eval("echo", RESULT, Value::Null)
        };
        assert_eq!(
            (&result["dtls"], &result["tls"], &result["srtp"]),
            (&json!("connected"), &json!("FEFD"), &json!("SRTP_AEAD_AES_256_GCM")),
            "{result}"
        );
        (lost, recut) = (lost + proxy.lost(), recut + proxy.recut());
        if number == times {
            browser.wait_heard("echo", 400, 2, 15);
        }
        browser.eval("echo", "echo.close(); window.heard = 0;", Value::Null);
        // close_notify is said once: a network that loses may lose it.
        if plan.loss_percent == 0 {
            let is_close = |event: &Event| matches!(event, Event::DtlsClosed { relay: of, .. } if *of == relay);
            control.wait_event("the browser's close", is_close);
        }
        control.delete(relay);
    }
    assert!(plan.loss_percent == 0 || lost > 0, "nothing was lost: the proxy is not in the path");
    assert!(!plan.recut || recut > 0, "no ClientHello was cut anew: the proxy is not in the path");
    let node = control.node();
    assert_eq!((node.relays, node.dtls_handshakes), (0, 0));
    browser.assert_quiet("echo", &[]);
}

#[test]
fn chromium_hears_itself_through_the_dataplane_alone() {
    chromium_hears_itself(3, Plan::default());
}

#[test]
fn chromium_hears_itself_with_losses_swaps_and_fragments_cut_anew() {
    chromium_hears_itself(8, Plan { loss_percent: 20, swap: true, recut: true, seed: 7, ..Plan::default() });
}
