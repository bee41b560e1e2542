//! A dataplane without room: new calls are refused on either side with the reason, and those that talk do not notice.

use gangway_tests::{deadline::Deadline, gateway::Gateway, media::Codecs, phone::Call, stream_peer::StreamPeer};
use serde_json::json;

/// Frames of 20 ms that a call hears to show that it goes on.
const FRAMES: usize = 25;

#[test]
fn a_full_dataplane_refuses_calls_clearly_and_takes_one_again_when_one_has_ended() {
    // Two legs a call.
    let gateway = Gateway::start(&[("dataplane_legs_max", "4"), ("sip_retry_after_s", "17")]);
    let peer = StreamPeer::start();
    let mut phone = peer.register(&gateway);
    let at = peer.wait_registered(1, Deadline::seconds(2));
    let (first, _) = peer.reach(&mut phone, at.connection, &at.contact);
    let (second, _) = peer.reach(&mut phone, at.connection, &at.contact);
    let go_on = |calls: &[&Call]| {
        for call in calls {
            call.media.wait_received(call.media.seen().received + FRAMES, Deadline::seconds(5));
            assert_eq!(call.media.seen().lost, 0);
        }
    };

    let refused = peer.call(at.connection, &at.contact);
    let answer = peer.wait_final(&refused, Deadline::seconds(2));
    assert_eq!((answer.status, answer.header("Retry-After")), (503, "17"), "{}", answer.text);
    let own = phone.call("2001", Codecs::PCMU);
    let end = phone.expect_status(&own.id, "FAILED", Deadline::seconds(2));
    assert_eq!((&end.call["sipStatus"], &end.call["info"]), (&json!(503), &json!("Failed by session creation")));
    let (status, calls) = gateway.rest("/call/find_all", None);
    let ids: Vec<&str> = calls.as_array().into_iter().flatten().filter_map(|call| call["callId"].as_str()).collect();
    assert_eq!((status, ids), (200, vec![first.id.as_str(), second.id.as_str()]), "those that talk, and no other");
    go_on(&[&first, &second]);

    let (status, body) = gateway.rest("/call/terminate", Some(&json!({ "callId": first.id })));
    assert_eq!(status, 200, "{body}");
    phone.expect_status(&first.id, "FINISH", Deadline::seconds(2));
    let (third, third_id) = peer.reach(&mut phone, at.connection, &at.contact);
    go_on(&[&second, &third]);
    assert_eq!(peer.hangup(at.connection, &third_id, Deadline::seconds(2)), 200);
    phone.expect_status(&third.id, "FINISH", Deadline::seconds(2));
    phone.hangup(&second.id);
    phone.expect_status(&second.id, "FINISH", Deadline::seconds(2));
    gateway.wait_idle(Deadline::seconds(8));
}

gangway_tests::also_on_epoll!(a_full_dataplane_refuses_calls_clearly_and_takes_one_again_when_one_has_ended);
