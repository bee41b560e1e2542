//! Calls where the machine refuses io_uring.

use std::time::Duration;

use gangway_tests::{
    baresip::{self, Baresip},
    deadline::Deadline,
    gateway::Gateway,
    kamailio::{self, Kamailio},
    media::Codecs,
    phone::{Phone, TONE_HZ},
    process,
};
use serde_json::json;

/// As most containers do it. The gateway falls back, says so in its ready line and its log, and carries calls.
#[test]
fn where_io_uring_is_refused_calls_go_by_epoll_and_the_log_says_why() {
    let Some(kamailio) = Kamailio::start(&kamailio::Options::default()) else { return };
    let Some(mut callee) = Baresip::start(&baresip::Options::new(kamailio.port(), "PCMU/8000/1")) else { return };
    process::refuse_io_uring();
    let gateway = Gateway::start(&[("dataplane_engine", "auto")]);
    assert_eq!(gateway.ready()["dataplane"]["engine"], json!("epoll"), "{}", gateway.ready());
    assert!(!gateway.log("no io_uring: epoll is used").is_empty());
    let mut phone = Phone::register(&gateway, kamailio.port());
    let call = phone.establish("2001", Codecs::PCMU);
    callee.wait_event("CALL_ESTABLISHED", Deadline::seconds(5));
    call.media.wait_heard(660.0, Duration::from_millis(400), Deadline::seconds(10));
    callee.wait_heard(TONE_HZ, Duration::from_millis(400), Deadline::seconds(10));
    phone.hangup(&call.id);
    phone.expect_status(&call.id, "FINISH", Deadline::seconds(3));
    gateway.wait_idle(Deadline::seconds(8));
}
