//! Frames that cannot be read: nobody is left waiting (wcs-protocol.md 5.8, rule R10).

use gangway_control::gateway::messages::CallStatus;
use serde_json::json;

use crate::world::{BROWSER_OFFER, World, account, config, phone_sdp};

#[test]
fn a_frame_without_a_subject_gets_a_fail_and_ends_nothing() {
    let mut world = World::new(config());
    let page = world.session();
    world.frame(page, &json!({"message": "ping", "data": {}}));
    assert!(world.last_fail().starts_with("ConnectionStatusEvent FAILED field data: must be an array"));
    assert_eq!(world.gateway.counts().frames_refused_total, 1);
    assert_eq!(world.names(), ["fail"]);
    assert!(world.closed.is_empty());
}

#[test]
fn a_call_with_a_field_of_a_wrong_kind_fails_in_the_page() {
    for (field, value) in [("callee", json!([])), ("sipSDP", json!([1])), ("sdp", json!(7)), ("hasAudio", json!("x"))] {
        let mut world = World::new(config());
        let page = world.session();
        let mut call = json!({"callId": "c1", "callee": "600", "sdp": BROWSER_OFFER});
        call[field] = value;
        world.frame(page, &json!({"message": "call", "data": [call]}));
        let fail = world.last_fail();
        assert!(fail.starts_with(&format!("CallStatusEvent FAILED message call: field {field}: ")), "{fail}");
        let call = world.last_call();
        assert_eq!((call.call_id.as_str(), call.status), ("c1", CallStatus::Failed));
        assert_eq!(world.names(), ["fail", "finish FAILED"]);
        assert_eq!(world.gateway.counts().calls_refused_total, 1);
        assert!(world.sip.is_empty());
    }
}

#[test]
fn a_call_that_cannot_be_read_does_not_end_the_pages_own_call_of_that_id() {
    let mut world = World::new(config());
    let page = world.session();
    world.established(page, "c1");
    world.frame(page, &json!({"message": "call", "data": [{"callId": "c1", "callee": []}]}));
    assert_eq!(world.names(), ["fail"]);
    assert_eq!(world.gateway.counts().calls_established, 1);
}

#[test]
fn an_answer_that_cannot_be_read_ends_the_call_for_both() {
    let mut world = World::new(config());
    let page = world.session();
    let key = world.contact_key(page);
    world.invite(&format!("sip:{key}@10.0.0.1:5060"), "in1", Some(&phone_sdp(4000, "0")));
    let call_id = world.last_call().call_id;
    world.forget();
    world.frame(page, &json!({"message": "answer", "data": [{"callId": call_id, "sdp": ["v=0"]}]}));
    assert!(world.last_fail().contains("field sdp"), "{}", world.last_fail());
    assert_eq!(world.names(), ["fail", "finish FAILED"]);
    world.response(480);
    world.assert_clean();
    world.frame(page, &json!({"message": "answer", "data": [{"callId": call_id, "sdp": 1}]}));
    assert_eq!(world.names(), ["finish FAILED"]);
}

#[test]
fn a_long_id_is_not_repeated() {
    let mut world = World::new(config());
    let page = world.session();
    for (name, field) in [("sendData", "operationId"), ("playStream", "mediaSessionId"), ("sendStreamEvent", "id")] {
        world.frame(page, &json!({"message": name, "data": [{field: "x".repeat(256)}]}));
        assert!(!world.names().contains(&"fail".to_owned()), "{name}");
        world.frame(page, &json!({"message": name, "data": [{field: "x".repeat(257)}]}));
        assert!(world.last_fail().ends_with("must be at most 256 bytes long"), "{}", world.last_fail());
        assert_eq!(world.names(), ["fail"]);
    }
}

#[test]
fn a_hold_that_cannot_be_read_enables_the_button_again() {
    let mut world = World::new(config());
    let page = world.session();
    world.established(page, "c1");
    world.frame(page, &json!({"message": "hold", "data": [{"callId": "c1", "holdForTransfer": 7}]}));
    assert_eq!(world.names(), ["fail", "talk"]);
}

#[test]
fn a_connection_that_cannot_be_read_is_told_and_closed_at_once() {
    for fields in [json!({"sipLogin": "1001", "sipPort": "x"}), json!({"sipLogin": []}), json!(7)] {
        let mut world = World::new(config());
        let page = world.open();
        world.frame(page, &json!({"message": "connection", "data": [fields]}));
        assert!(world.last_fail().starts_with("ConnectionStatusEvent FAILED message connection: field "));
        assert_eq!(world.names(), ["fail"]);
        assert_eq!(world.closed, [(page, 1000)]);
        assert_eq!(world.gateway.counts().sockets, 0);
    }
}

#[test]
fn a_second_connection_that_cannot_be_read_leaves_the_session() {
    let mut world = World::new(config());
    let page = world.connect(account(false));
    world.forget();
    world.frame(page, &json!({"message": "connection", "data": [{"sipPort": "x"}]}));
    assert_eq!(world.names(), ["fail"]);
    assert!(world.closed.is_empty());
}
