//! The websocket itself: opening, keep-alive, and what it does with frames that are wrong.

use std::time::Duration;

use gangway_tests::{
    deadline::{Deadline, pause},
    gateway::{Gateway, connection},
    phone::Phone,
    sipp::Sipp,
    socket::{End, Socket},
};
use serde_json::{Value, json};

/// A connection without any sip* field.
fn plain_connection() -> Value {
    json!({ "appKey": "defaultApp", "mediaProviders": ["WebRTC"], "clientVersion": "2.0", "custom": { "a": 1 } })
}

/// Check 1.
#[test]
fn opens_on_the_root_path_with_and_without_deflate() {
    let gateway = Gateway::start(&[]);
    for extensions in [None, Some("permessage-deflate; client_max_window_bits")] {
        for path in ["", "/", "/websocket"] {
            let url = format!("{}{path}", gateway.ws());
            let mut socket =
                Socket::open(&url, extensions).unwrap_or_else(|error| panic!("{url} {extensions:?}: {error}"));
            socket.send("connection", plain_connection());
            socket.expect("getUserData", Deadline::seconds(5));
        }
    }
}

/// Check 2: a session without an account; rules R1 (by the socket, on every frame) and R3.
#[test]
fn a_session_without_account_is_established_once() {
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::connect(&gateway, &plain_connection());
    let token = phone.user_data["authToken"].as_str().unwrap_or_default().to_owned();
    assert!(token.len() >= 22, "128 random bits or more: {token:?}");
    assert_eq!(phone.user_data["status"], "ESTABLISHED");
    assert_eq!(phone.user_data["custom"], json!({ "a": 1 }), "the connection is echoed");
    let other = Phone::connect(&gateway, &plain_connection());
    assert_ne!(other.user_data["authToken"], token.as_str());
    pause(Duration::from_millis(700));
    assert_eq!(phone.socket.names(), ["getUserData"], "R3: getUserData exactly once");
}

/// Check 3: pings come at the server's interval, and a session that answers them stays.
#[test]
fn pings_come_and_an_idle_session_stays() {
    let gateway = Gateway::start(&[("keep_alive.server_interval", "200"), ("keep_alive.probes", "3")]);
    let mut phone = Phone::connect(&gateway, &plain_connection());
    pause(Duration::from_secs(3));
    assert!(phone.socket.is_open());
    let pings = phone.socket.pings();
    assert!((8..=16).contains(&pings), "{pings} pings in 3 s at 200 ms");
}

/// Check 4: without pongs the socket is closed after interval x probes.
#[test]
fn a_socket_that_stops_answering_pings_is_closed() {
    let gateway = Gateway::start(&[("keep_alive.server_interval", "200"), ("keep_alive.probes", "3")]);
    let mut phone = Phone::connect(&gateway, &plain_connection());
    phone.socket.answer_pings(false);
    phone.socket.expect_end(Deadline::seconds(4));
    Deadline::seconds(3).poll("the session to go", || (gateway.metric("gangway_sessions", "") == 0.0).then_some(()));
}

/// The client's own ping is answered (wcs-protocol.md section 1.1).
#[test]
fn a_ping_of_the_client_gets_a_pong() {
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::connect(&gateway, &plain_connection());
    phone.socket.send("ping", Value::Null);
    phone.socket.expect("pong", Deadline::seconds(3));
}

/// Check 44: malformed frames get a `fail` that says what was wrong, or close cleanly; nothing else ends.
#[test]
fn malformed_frames_are_answered_and_end_nothing() {
    let gateway = Gateway::start(&[]);
    let mut bystander = Phone::connect(&gateway, &plain_connection());
    let mut phone = Phone::connect(&gateway, &plain_connection());
    for text in [
        "not json at all",
        "[]",
        "42",
        "{}",
        r#"{"data":[null]}"#,
        r#"{"message":7,"data":[null]}"#,
        r#"{"message":"call"}"#,
        r#"{"message":"call","data":null}"#,
        r#"{"message":"call","data":[null]}"#,
        r#"{"message":"call","data":[{"callId":12,"sdp":[]}]}"#,
        r#"{"message":"call","data":[{"callId":"x","callee":"600","sdp":"v=0\r\nnonsense"}]}"#,
        r#"{"message":"hangup","data":[{"callId":{}}]}"#,
        "{\"message\":\"call\",\"data\":[{\"callId\":\"\u{0}\"}]}",
    ] {
        phone.socket.send_text(text);
        let answer = phone.socket.expect_where(&format!("an answer to {text}"), Deadline::seconds(3), |frame| {
            frame.message == "fail" || frame.message == "finish"
        });
        let info = answer.first()["info"].as_str().unwrap_or_default();
        assert!(!info.is_empty(), "the answer to {text} says nothing: {answer:?}");
        assert!(phone.socket.is_open(), "closed by {text}");
    }
    // Unknown messages and binary frames are nobody's fault.
    phone.socket.send("noSuchMessage", json!({ "callId": "x" }));
    phone.socket.send_binary(vec![0, 1, 2]);
    phone.socket.send("ping", Value::Null);
    phone.socket.expect("pong", Deadline::seconds(3));
    // 1 MB is over the limit of 256 kB.
    phone.socket.send_text(&format!(r#"{{"message":"pushLogs","data":[{{"logs":"{}"}}]}}"#, "x".repeat(1 << 20)));
    phone.socket.expect_end(Deadline::seconds(5));
    bystander.socket.send("ping", Value::Null);
    bystander.socket.expect("pong", Deadline::seconds(3));
    Phone::connect(&gateway, &plain_connection());
}

/// A second `connection` on the same websocket changes nothing (rule R3).
#[test]
fn a_second_connection_message_is_refused() {
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::connect(&gateway, &plain_connection());
    phone.socket.send("connection", plain_connection());
    phone.socket.send("ping", Value::Null);
    phone.socket.expect("pong", Deadline::seconds(3));
    assert_eq!(phone.socket.names().iter().filter(|name| *name == "getUserData").count(), 1);
}

/// Check 45: ids that the session does not have.
#[test]
fn unknown_call_ids_are_ignored() {
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::connect(&gateway, &plain_connection());
    for (message, more) in [
        ("hangup", json!({})),
        ("hold", json!({})),
        ("unhold", json!({})),
        ("sendDtmf", json!({ "dtmf": 1, "type": "RFC2833" })),
        ("transfer", json!({ "target": "600" })),
    ] {
        let mut fields = json!({ "callId": "never-seen" });
        for (name, value) in more.as_object().into_iter().flatten() {
            fields[name] = value.clone();
        }
        phone.socket.send(message, fields);
    }
    // Section 5.4: a late answer gets `finish` FAILED for that id.
    phone.socket.send("answer", json!({ "callId": "never-seen", "sdp": "v=0\r\n" }));
    let finish = phone.socket.expect("finish", Deadline::seconds(3));
    assert_eq!((&finish.first()["callId"], &finish.first()["status"]), (&json!("never-seen"), &json!("FAILED")));
    phone.socket.send("ping", Value::Null);
    phone.socket.expect("pong", Deadline::seconds(3));
    assert!(!phone.socket.names().contains(&"notifyTransferEvent".to_owned()), "R11");
}

/// Section 2.5: messages of older clients, and streaming, which is not offered.
#[test]
fn messages_of_other_clients_are_answered_politely() {
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::connect(&gateway, &plain_connection());
    for message in
        ["updateCallToVideo", "sendMessage", "subscribe", "setLTState", "pushLogs", "sessionDebug", "submitBugReport"]
    {
        phone.socket.send(message, json!({ "callId": "x", "logs": "a", "command": "start" }));
    }
    phone.socket.send("playStream", json!({ "mediaSessionId": "m1", "name": "s" }));
    let status = phone.socket.expect("notifyStreamStatusEvent", Deadline::seconds(3));
    assert_eq!((&status.first()["mediaSessionId"], &status.first()["status"]), (&json!("m1"), &json!("FAILED")));
    assert!(phone.socket.is_open());
}

/// Check 51: characters that a SIP user part may not hold are refused at once, by name of the field.
#[test]
fn a_login_with_forbidden_characters_is_refused_at_once() {
    let gateway = Gateway::start(&[]);
    for login in ["10 01", "<1001>", "10\"01", "10\r\n01"] {
        let mut socket = gateway.open();
        let mut fields = connection("1001", "x", 5060, true);
        fields["sipLogin"] = login.into();
        socket.send("connection", fields);
        let fail = socket.expect("fail", Deadline::seconds(2)).first().clone();
        assert_eq!((&fail["apiMethod"], &fail["status"]), (&json!("ConnectionStatusEvent"), &json!("FAILED")));
        let info = fail["info"].as_str().unwrap_or_default();
        assert!(info.contains("sipLogin") || info.contains("login"), "{login:?}: the field is not named in {info:?}");
        assert_eq!(socket.expect_end(Deadline::seconds(2)), End::Closed(1000), "{login:?}");
        assert!(!socket.names().contains(&"getUserData".to_owned()));
    }
    let mut socket = gateway.open();
    let mut fields = connection("1001", "x", 5060, true);
    fields["sipAuthenticationName"] = "a b<c>".into();
    socket.send("connection", fields);
    let info = socket.expect("fail", Deadline::seconds(2)).first()["info"].as_str().unwrap_or_default().to_owned();
    assert!(info.to_lowercase().contains("authentication"), "{info}");
}

/// The other half of the known issue: a visible name may hold anything and arrives quoted (check 18).
#[test]
fn a_visible_name_may_hold_anything() {
    let Some(peer) = Sipp::uas("uas_reject", &[("STATUS", "486"), ("REASON", "Busy Here")]) else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::unregistered(&gateway, peer.port());
    let name = r#"Zoë "The <Boss>" O'Neill \ ,;"#;
    let call = phone.send_call("2001", gangway_tests::media::Codecs::PCMU, &json!({ "visibleName": name }));
    phone.expect_status(&call.id, "TRYING", Deadline::seconds(3));
    phone.expect_status(&call.id, "FINISH", Deadline::seconds(5));
    let from = peer.messages().lines().find(|line| line.starts_with("From:")).unwrap_or_default().to_owned();
    assert!(from.contains(r#""Zoë \"The <Boss>\" O'Neill \\ ,;" <sip:1001@"#), "{from}");
}
