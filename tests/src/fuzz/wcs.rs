//! Frames of the browser's websocket: a frame means the same however its JSON is spaced; what is refused is told in a bounded `fail`
//! that the SDK can read (rule R1 of its protocol); a password never shows in what we would log.

use gangway_control::{
    api::schema,
    gateway::messages::{ClientMessage, Fail, ServerMessage},
};
use serde_json::Value;

use super::Target;

/// See the module.
pub const TARGET: Target = Target {
    name: "wcs",
    seeds,
    words: &[
        b"\"message\":",
        b"\"data\":",
        b"null",
        b"[]",
        b"{}",
        b"[null]",
        b"true",
        b"-1",
        b"1e400",
        b"\"\\u0000\"",
        b"\"\\ud800\"",
        b"\"callId\":",
        b"\"sipPassword\":",
        b"\"sipPort\":",
        b"5060",
        b"\xff",
        b"[[[[[[[[",
        b"\"connection\"",
        b"\"call\"",
        b"\"hangup\"",
    ],
    law,
};

/// Longest sentence about a bad frame, in bytes: it must not repeat the frame to its sender.
const PROBLEM_MAX_BYTES: usize = 1024;

fn seeds() -> Vec<Vec<u8>> {
    let seeds = [
        r#"{"message":"connection","data":[{"appKey":"defaultApp","mediaProviders":["WebRTC","MSE"],"keepAlive":true,"clientVersion":"2.0",
            "sipLogin":"1001","sipAuthenticationName":"1001","sipPassword":"a-long-password","sipDomain":"example.com","sipOutboundProxy":"example.com",
            "sipPort":"5060","sipRegisterRequired":true,"custom":{"any":[1,2]},"clientInfo":{}}]}"#,
        r#"{"message":"connection","data":[{"keepAlive":true,"authToken":"0123456789abcdef"}]}"#,
        r#"{"message":"call","data":[{"callId":"c-1","incoming":false,"hasAudio":true,"hasVideo":false,"status":"PENDING","mediaProvider":"WebRTC",
            "sdp":"v=0\r\n","sipSDP":["b=AS:3000"],"caller":"1001","callee":"600","custom":null,"visibleName":"A B","localMediaInfo":{"devices":{}}}]}"#,
        r#"{"message":"answer","data":[{"callId":"c-1","incoming":true,"sdp":"v=0\r\n","hasVideo":"true"}]}"#,
        r#"{"message":"hangup","data":[{"callId":"c-1"}]}"#,
        r#"{"message":"hold","data":[{"callId":"c-1","holdForTransfer":true}]}"#,
        r#"{"message":"sendDtmf","data":[{"callId":"c-1","type":"RFC2833","dtmf":12}]}"#,
        r#"{"message":"transfer","data":[{"callId":"c-1","target":"sip:2@example.com"}]}"#,
        r#"{"message":"sendData","data":[{"operationId":"o","payload":{"x":1}}]}"#,
        r#"{"message":"publishStream","data":[{"mediaSessionId":"m"}]}"#,
        r#"{"message":"pushLogs","data":[{"logs":"line"}]}"#,
        r#"{"message":"pong","data":[null]}"#,
        r#"{"message":"ping","data":[null]}"#,
        r#"{"message":"unheardOf","data":[]}"#,
    ];
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

fn law(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let decoded = schema::decode(text);
    if let Ok(value) = serde_json::from_str::<Value>(text) {
        let again = schema::decode(&serde_json::to_string_pretty(&value).expect("a value prints"));
        assert_eq!(format!("{again:?}"), format!("{decoded:?}"), "spaces change the meaning of a frame");
        if let Ok(message) = &decoded {
            password_stays_hidden(value, message);
        }
    } else {
        assert!(decoded.is_err(), "something that is no JSON was taken");
    }
    if let Err(problem) = decoded {
        let sentence = problem.to_string();
        assert!(
            !sentence.is_empty() && sentence.len() <= PROBLEM_MAX_BYTES,
            "{} bytes about a bad frame",
            sentence.len()
        );
        readable(&schema::encode(&ServerMessage::Fail(Fail::call("c-1", sentence))));
    }
}

/// R1: an object with `message` and a `data` array that is not empty.
fn readable(frame: &str) {
    let value: Value = serde_json::from_str(frame).expect("our own frame is JSON");
    assert!(value["message"].is_string(), "{frame}");
    assert!(value["data"].as_array().is_some_and(|data| !data.is_empty()), "{frame}");
}

/// With another password the message looks the same.
fn password_stays_hidden(mut value: Value, message: &ClientMessage) {
    let Some(password) = value.pointer_mut("/data/0/sipPassword").filter(|password| password.is_string()) else {
        return;
    };
    *password = "another one".into();
    let other = schema::decode(&value.to_string()).expect("any text is a password");
    assert_eq!(format!("{message:?}"), format!("{other:?}"), "the password shows in Debug");
}
