//! REST as scripts use it.

use serde_json::{Value, json};

use crate::{Control, http, websocket::Socket};

#[tokio::test]
async fn nothing_is_404_with_a_json_body_by_get_and_post() {
    let control = Control::start(&[]);
    for path in ["/rest-api/call/find_all", "/rest-api/connection/find_all"] {
        for page in [http::get(control.http(), path).await, http::post(control.http(), path, "").await] {
            assert_eq!(page.status, 404, "{path}");
            assert_eq!(page.json()["status"], 404);
            assert!(page.json()["message"].is_string());
            assert_eq!(page.header("content-type"), Some("application/json"));
        }
    }
}

#[tokio::test]
async fn a_session_is_found_without_its_secrets() {
    let control = Control::start(&[]);
    let mut socket = Socket::open(control.ws(), "/").await;
    let connection =
        json!({"sipLogin": "1001", "sipPassword": "hunter2", "sipDomain": "127.0.0.1", "sipRegisterRequired": "false"});
    socket.send(&json!({"message": "connection", "data": [connection]})).await;
    let token = socket.expect("getUserData").await[0]["authToken"].as_str().unwrap().to_owned();
    let page = http::get(control.http(), "/rest-api/connection/find_all").await;
    assert_eq!(page.status, 200);
    let found: Vec<Value> = serde_json::from_str(&page.body).unwrap();
    assert_eq!((found.len(), &found[0]["sipLogin"]), (1, &json!("1001")));
    assert!(!page.body.contains("hunter2") && !page.body.contains(&token), "{}", page.body);
}

#[tokio::test]
async fn a_bad_request_names_the_field() {
    let control = Control::start(&[]);
    for (path, body, status, part) in [
        ("/rest-api/call/terminate", "{}", 400, "callId"),
        ("/rest-api/call/terminate", r#"{"callId":7}"#, 400, "callId"),
        ("/rest-api/call/find", r#"{"status":"GREEN"}"#, 400, "status"),
        ("/rest-api/call/find", "{", 400, "not JSON"),
        ("/rest-api/call/terminate", r#"{"callId":"unknown"}"#, 404, ""),
        ("/rest-api/call/find", r#"{"callId":"unknown","hasAudio":"true"}"#, 404, ""),
        ("/rest-api/stream/find_all", "", 404, "/call/find_all"),
    ] {
        let page = http::post(control.http(), path, body).await;
        assert_eq!(page.status, status, "{path} {body}: {}", page.body);
        assert!(page.json()["message"].as_str().unwrap().contains(part), "{path} {body}: {}", page.body);
    }
    assert_eq!(http::get(control.http(), "/rest-api/call/find?callId=x").await.status, 404);
    assert_eq!(http::request(control.http(), "DELETE", "/rest-api/call/find", "").await.status, 405);
}

#[tokio::test]
async fn other_origins_may_call() {
    let control = Control::start(&[]);
    let page = http::request(control.http(), "OPTIONS", "/rest-api/call/find_all", "").await;
    assert_eq!(page.status, 204);
    assert_eq!(page.header("access-control-allow-origin"), Some("*"));
    assert_eq!(page.header("access-control-allow-headers"), Some("Content-Type"));
    let page = http::get(control.http(), "/rest-api/call/find_all").await;
    assert_eq!(page.header("access-control-allow-origin"), Some("*"));
}

#[tokio::test]
async fn metrics_count_what_is_there() {
    let control = Control::start(&[]);
    let _socket = Socket::session(control.ws()).await;
    assert_eq!(control.metric("gangway_sessions").await, 1);
    assert_eq!(control.metric("gangway_sockets").await, 1);
    assert_eq!(control.metric("gangway_dataplane_up").await, 0);
    assert_eq!(control.metric("gangway_calls{status=\"established\"}").await, 0);
    assert_eq!(control.metric("gangway_sip_drops_total{reason=\"malformed\"}").await, 0);
}
