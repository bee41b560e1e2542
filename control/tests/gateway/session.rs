//! Sessions: wcs-protocol.md 1.1, 2.5, 5.8 (login), 5.10 and 6.

use std::time::Duration;

use gangway_control::{
    gateway::{
        effects::{Answer, Input, RestCall, RestId, RestReply, SocketId},
        messages::{
            CallReference, ClientMessage, DataRequest, DtmfRequest, ServerMessage, StreamRequest, TransferRequest,
        },
    },
    sip::message::Method,
};
use gangway_shared::{ids::LegId, rcp::Event};
use serde_json::{Map, Value, json};

use crate::world::{World, account, config, phone_sdp};

fn user_data(world: &World) -> Map<String, Value> {
    let data = world.sent.iter().rev().find_map(|(_, message)| match message {
        ServerMessage::UserData(fields) => Some(fields.clone()),
        _ => None,
    });
    data.expect("getUserData was sent")
}

fn kept() -> (World, SocketId, String) {
    let mut world = World::new(config());
    let mut fields = account(false);
    fields["keepAlive"] = json!(true);
    let page = world.connect(fields);
    let token = user_data(&world)["authToken"].as_str().unwrap().to_owned();
    world.forget();
    (world, page, token)
}

#[test]
fn get_user_data_echoes_the_connection_without_its_secrets_and_with_a_token() {
    let mut world = World::new(config());
    world.connect(account(false));
    let data = user_data(&world);
    assert_eq!(data["sipLogin"], "1001");
    assert_eq!(data["mediaProviders"], json!(["WebRTC"]));
    assert_eq!(data["status"], "ESTABLISHED");
    assert!(!data.contains_key("sipPassword"));
    let token = data["authToken"].as_str().unwrap();
    assert!(token.starts_with("0000-") && token.rsplit('-').next().unwrap().len() >= 32, "{token}");
    assert!(!format!("{:?}", world.journal).contains("secret"));
}

#[test]
fn a_session_without_sip_is_established_and_cannot_call() {
    let mut world = World::new(config());
    let page = world.connect(json!({"appKey": "defaultApp"}));
    assert_eq!(world.names(), ["getUserData"]);
    world.call(page, "c1", "600");
    assert!(world.last_fail().contains("sipLogin"));
    assert_eq!(world.names(), ["fail", "finish FAILED"]);
}

#[test]
fn a_login_with_a_space_is_refused_at_once_by_name() {
    for (field, value) in
        [("sipLogin", "a b"), ("sipAuthenticationName", "<x>"), ("sipDomain", "a b"), ("sipOutboundProxy", "@")]
    {
        let mut world = World::new(config());
        let mut fields = account(true);
        fields[field] = json!(value);
        let page = world.connect(fields);
        assert!(
            world.last_fail().starts_with(&format!("ConnectionStatusEvent FAILED {field}")),
            "{}",
            world.last_fail()
        );
        assert_eq!(world.names(), ["fail"]);
        assert_eq!(world.closed, [(page, 1000)]);
        assert!(world.sip.is_empty());
    }
}

#[test]
fn a_denied_or_unanswered_connection_fails_and_closes() {
    for deny in [true, false] {
        let mut world = World::new(config());
        world.hold_asks = true;
        let page = world.connect(account(true));
        assert!(world.names().is_empty());
        if deny {
            let (ask, _) = world.asks.pop_front().unwrap();
            world.input(Input::Answer { ask, answer: Answer::Denied { info: String::new() } });
        } else {
            world.advance(Duration::from_secs(11));
        }
        assert_eq!(world.last_fail(), "ConnectionStatusEvent FAILED REST_AUTHORIZATION_FAIL");
        assert!(!world.names().contains(&"getUserData".to_owned()));
        assert_eq!(world.closed, [(page, 1000)]);
        assert_eq!(world.gateway.counts().sessions, 0);
    }
}

#[test]
fn pings_go_out_and_a_silent_socket_is_closed_with_its_calls() {
    let mut world = World::new(config());
    world.pongs = false;
    let page = world.session();
    world.established(page, "c1");
    world.keys_ready();
    for _ in 0..9 {
        world.advance(Duration::from_secs(5));
        world.say(page, ClientMessage::Pong);
    }
    assert!(world.closed.is_empty());
    assert_eq!(world.names().iter().filter(|name| *name == "ping").count(), 9);
    world.advance(Duration::from_secs(56));
    assert_eq!(world.closed, [(page, 1001)]);
    world.request(&Method::Bye);
    world.assert_clean();
    assert_eq!(world.gateway.counts().sockets, 0);
}

#[test]
fn a_socket_without_connection_is_closed() {
    let mut world = World::new(config());
    let page = world.open();
    world.advance(Duration::from_secs(31));
    assert_eq!(world.closed, [(page, 1000)]);
}

#[test]
fn messages_before_connection_and_a_second_connection_get_a_fail() {
    let mut world = World::new(config());
    let page = world.open();
    world.call(page, "c1", "600");
    world.say(page, ClientMessage::SendData(DataRequest { operation_id: "op".to_owned() }));
    let stream = StreamRequest { media_session_id: Some("s1".to_owned()), id: None };
    world.say(page, ClientMessage::Stream(stream));
    assert_eq!(world.names(), ["fail", "fail", "fail"]);
    let page = world.session();
    let again = serde_json::from_value(account(false)).unwrap();
    world.say(page, ClientMessage::Connection(Box::new(again)));
    assert_eq!(world.names(), ["fail"]);
    assert!(world.closed.is_empty());
}

#[test]
fn other_sdk_messages_are_answered_as_section_2_5_says() {
    let mut world = World::new(config());
    let page = world.session();
    world.say(page, ClientMessage::Ping);
    world.say(page, ClientMessage::SendData(DataRequest { operation_id: "op".to_owned() }));
    let stream = StreamRequest { media_session_id: Some("s1".to_owned()), id: None };
    world.say(page, ClientMessage::Stream(stream));
    world.say(page, ClientMessage::Ignored { message: "pushLogs".to_owned() });
    let (_, data) = &world.sent[1];
    assert_eq!(data.data(), [json!({"operationId": "op", "status": "ACCEPTED"})]);
    assert_eq!(world.names(), ["pong", "DataStatusEvent", "notifyStreamStatusEvent"]);
}

#[test]
fn unknown_call_ids_are_ignored_and_later_features_answered_politely() {
    let mut world = World::new(config());
    let page = world.session();
    let call = |id: &str| CallReference { call_id: id.to_owned(), hold_for_transfer: None };
    let dtmf = |id: &str| DtmfRequest { call_id: id.to_owned(), kind: None, dtmf: Some("1".to_owned()) };
    let transfer = |id: &str| TransferRequest { call_id: id.to_owned(), target: Some("2".to_owned()) };
    let all = |id: &str| {
        [
            ClientMessage::Hold(call(id)),
            ClientMessage::Unhold(call(id)),
            ClientMessage::SendDtmf(dtmf(id)),
            ClientMessage::Transfer(transfer(id)),
        ]
    };
    for message in all("nobody") {
        world.say(page, message);
    }
    world.hangup(page, "nobody");
    assert!(world.names().is_empty());
    world.established(page, "c1");
    for message in all("c1") {
        world.say(page, message);
    }
    assert_eq!(world.names(), ["fail", "talk", "fail", "talk", "fail", "fail"]);
    assert_eq!(world.gateway.counts().calls_established, 1);
}

#[test]
fn a_closed_socket_ends_its_calls_at_once() {
    let mut world = World::new(config());
    let page = world.session();
    world.established(page, "c1");
    world.call(page, "c2", "601");
    let invite = world.request(&Method::Invite);
    world.respond(&invite, 180, None);
    world.forget();
    world.input(Input::SocketClosed { socket: page });
    assert_eq!(world.sip_names(), ["BYE", "CANCEL"]);
    assert!(world.sent.is_empty());
    world.assert_clean();
    world.advance(Duration::from_secs(80));
    assert_eq!(world.gateway.counts().sessions_departing, 0);
}

#[test]
fn a_kept_session_keeps_its_talk_and_loses_it_with_consent() {
    let (mut world, page, _) = kept();
    world.established(page, "c1");
    world.keys_ready();
    world.input(Input::SocketClosed { socket: page });
    assert_eq!(world.gateway.counts().sessions_detached, 1);
    assert_eq!(world.gateway.counts().calls_established, 1);
    let event = Event::ConsentLost { relay: world.only_relay(), leg: LegId(0) };
    world.input(Input::RelayEvent { event });
    world.request(&Method::Bye);
    world.assert_clean();
}

/// Its time begins with its socket's end, and it waits for its calls.
#[test]
fn a_kept_session_outlives_its_timeout_while_it_talks() {
    let (mut world, page, _) = kept();
    world.established(page, "c1");
    world.keys_ready();
    world.input(Input::SocketClosed { socket: page });
    world.advance(Duration::from_secs(2 * 3600));
    assert_eq!(world.gateway.counts().calls_established, 1);
    let event = Event::ConsentLost { relay: world.only_relay(), leg: LegId(0) };
    world.input(Input::RelayEvent { event });
    world.request(&Method::Bye);
    world.advance(Duration::from_secs(301 + 60));
    assert_eq!(world.gateway.counts().sessions, 0);
    world.assert_clean();
}

#[test]
fn a_token_resumes_with_the_stored_connection_and_a_new_token() {
    let (mut world, page, token) = kept();
    world.input(Input::SocketClosed { socket: page });
    let back = world.connect(json!({"keepAlive": true, "authToken": token}));
    let data = user_data(&world);
    assert_eq!(data["sipLogin"], "1001");
    let renewed = data["authToken"].as_str().unwrap().to_owned();
    assert_ne!(renewed, token);
    // Until the first pong the old token is still good; afterwards it is not.
    world.say(back, ClientMessage::Pong);
    world.forget();
    world.connect(json!({"authToken": token}));
    assert!(world.last_fail().contains("authToken"));
    assert_eq!(world.gateway.counts().sessions, 1);
    // The newest socket wins.
    world.connect(json!({"authToken": renewed}));
    assert!(world.closed.contains(&(back, 1000)));
    assert_eq!(world.gateway.counts().sessions, 1);
}

#[test]
fn a_wrong_token_is_refused() {
    let (mut world, _, token) = kept();
    let mut forged = token.clone();
    forged.pop();
    forged.push(if token.ends_with('0') { '1' } else { '0' });
    for wrong in [forged.as_str(), "0000-aa-bb", "x", "-"] {
        let page = world.connect(json!({"authToken": wrong}));
        assert!(world.last_fail().starts_with("ConnectionStatusEvent FAILED authToken"));
        assert!(world.closed.contains(&(page, 1000)));
    }
}

#[test]
fn a_call_that_rings_while_detached_is_announced_to_the_page_that_comes_back() {
    let (mut world, page, token) = kept();
    let key = world.contact_key(page);
    world.input(Input::SocketClosed { socket: page });
    let uri = format!("sip:{key}@10.0.0.1:5060");
    world.invite(&uri, "in1", Some(&phone_sdp(4000, "0")));
    assert!(world.sip_names().contains(&"180".to_owned()));
    assert!(world.sent.is_empty());
    let back = world.connect(json!({"authToken": token}));
    let call_id = world.last_call().call_id;
    assert_eq!(world.names(), ["getUserData", "setRemoteSDP", "notifyIncomingCall", "ring"]);
    world.answer(back, &call_id, "0");
    world.response(200);
    assert_eq!(world.names(), ["talk"]);
}

#[test]
fn a_detached_session_ends_after_its_timeout() {
    let (mut world, page, token) = kept();
    world.input(Input::SocketClosed { socket: page });
    world.advance(Duration::from_secs(3600 + 301));
    assert_eq!(world.gateway.counts().sessions, 0);
    world.connect(json!({"authToken": token}));
    assert!(world.last_fail().contains("authToken"));
}

#[test]
fn rest_finds_calls_and_connections_and_ends_calls() {
    let mut world = World::new(config());
    let page = world.session();
    let ask = |world: &mut World, call| {
        world.input(Input::Rest { request: RestId(1), call });
        world.rest.pop().unwrap()
    };
    assert_eq!(ask(&mut world, RestCall::FindAllCalls), RestReply::Calls(Vec::new()));
    world.established(page, "c1");
    let RestReply::Calls(calls) = ask(&mut world, RestCall::FindAllCalls) else { panic!() };
    assert_eq!((calls[0].call_id.as_str(), calls[0].callee.as_str()), ("c1", "600"));
    let RestReply::Connections(connections) = ask(&mut world, RestCall::FindAllConnections) else { panic!() };
    let connection = serde_json::to_value(&connections[0]).unwrap();
    assert_eq!((&connection["sipLogin"], &connection["status"]), (&json!("1001"), &json!("ESTABLISHED")));
    assert!(connection.get("sipPassword").is_none());
    let filter = serde_json::from_value(json!({"callee": "601"})).unwrap();
    assert_eq!(ask(&mut world, RestCall::FindCalls(filter)), RestReply::Calls(Vec::new()));
    let terminate = |id: &str| RestCall::TerminateCall { call_id: id.to_owned() };
    assert!(matches!(ask(&mut world, terminate("nobody")), RestReply::NotFound { .. }));
    assert_eq!(ask(&mut world, terminate("c1")), RestReply::Done);
    assert_eq!(world.names(), ["finish FINISH"]);
    world.request(&Method::Bye);
    world.assert_clean();
}

#[test]
fn sessions_and_calls_beyond_the_limits_are_refused_in_words() {
    let mut settings = config();
    settings.max_sessions = 1;
    settings.max_calls = 1;
    let mut world = World::new(settings);
    let page = world.session();
    let second = world.connect(account(false));
    assert_eq!(world.last_fail(), "ConnectionStatusEvent FAILED too many sessions");
    assert!(world.closed.contains(&(second, 1000)));
    let key = world.contact_key(page);
    world.established(page, "c1");
    world.call(page, "c2", "601");
    assert!(world.last_fail().contains("too many calls"));
    assert_eq!(world.names(), ["fail", "finish FAILED"]);
    world.invite(&format!("sip:{key}@10.0.0.1:5060"), "in1", Some(&phone_sdp(4000, "0")));
    world.response(503);
    assert_eq!(world.gateway.counts().calls_refused_total, 2);
    assert_eq!(world.gateway.counts().calls_established, 1);
}
