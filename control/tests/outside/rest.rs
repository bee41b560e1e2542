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

/// A request of a page: `Host`, and what the browser says of the page.
async fn of_page(control: &Control, method: &str, path: &str, host: &str, more: &str) -> http::Page {
    http::request_with(control.http(), method, path, &format!("Host: {host}\r\n{more}"), "").await
}

const PATHS: [&str; 2] = ["/rest-api/call/find_all", "/metrics"];

#[tokio::test]
async fn pages_of_this_machine_may_call() {
    let control = Control::start(&[]);
    let (host, origin) = (control.http().to_string(), "Origin: http://localhost:3000\r\n");
    let page = of_page(&control, "OPTIONS", PATHS[0], &host, origin).await;
    assert_eq!(page.status, 204);
    assert_eq!(page.header("access-control-allow-origin"), Some("http://localhost:3000"));
    assert_eq!(page.header("access-control-allow-headers"), Some("Content-Type"));
    assert_eq!(page.header("vary"), Some("Origin"));
    let page = of_page(&control, "GET", PATHS[0], &host, origin).await;
    assert_eq!((page.status, page.header("access-control-allow-origin")), (404, Some("http://localhost:3000")));
    // A script sends no Origin and needs no permission.
    let page = http::get(control.http(), PATHS[0]).await;
    assert_eq!((page.status, page.header("access-control-allow-origin")), (404, None));
}

#[tokio::test]
async fn a_page_from_elsewhere_neither_reads_nor_acts() {
    let control = Control::start(&[]);
    let host = control.http().to_string();
    for path in PATHS {
        for (host, more) in [
            (host.as_str(), "Origin: http://evil.example\r\n"),
            (host.as_str(), "Origin: null\r\n"),
            (host.as_str(), "Sec-Fetch-Site: cross-site\r\n"),
            ("evil.example:8081", "Origin: http://evil.example:8081\r\n"),
            ("evil.example", ""),
        ] {
            for method in ["OPTIONS", "GET", "POST"] {
                let page = of_page(&control, method, path, host, more).await;
                assert_eq!(page.status, 403, "{method} {path} {host} {more}");
                assert_eq!(page.header("access-control-allow-origin"), None);
                assert_eq!(page.json()["status"], 403);
            }
        }
    }
    assert_eq!(control.metric("gangway_control_drops_total{reason=\"rest_page\"}").await, 30);
    // The pages themselves hold no secret and are served under any name.
    assert_eq!(of_page(&control, "GET", "/phone.js", "evil.example", "").await.status, 200);
}

#[tokio::test]
async fn the_operator_allows_other_pages() {
    let control = Control::start(&["rest_allowed_origins=https://App.Example:8443"]);
    let origin = "Origin: https://app.example:8443\r\n";
    for host in [control.http().to_string(), "app.example:8444".to_owned()] {
        let page = of_page(&control, "GET", PATHS[0], &host, origin).await;
        assert_eq!((page.status, page.header("access-control-allow-origin")), (404, Some("https://app.example:8443")));
    }
    let page = of_page(&control, "GET", PATHS[0], "localhost", "Origin: https://other.example\r\n").await;
    assert_eq!(page.status, 403);
    let open = Control::start(&["rest_allowed_origins=*"]);
    let page = of_page(&open, "GET", PATHS[0], "any.example", "Origin: https://any.example\r\n").await;
    assert_eq!((page.status, page.header("access-control-allow-origin")), (404, Some("*")));
}

#[tokio::test]
async fn on_another_address_every_page_may_call_until_the_operator_names_some() {
    let open = Control::start(&["rest_bind=0.0.0.0"]);
    let page = of_page(&open, "GET", PATHS[0], "gw.example:8081", "Origin: https://app.example\r\n").await;
    assert_eq!((page.status, page.header("access-control-allow-origin")), (404, Some("*")));
    let metrics = of_page(&open, "GET", PATHS[1], "gw.example:8081", "Origin: https://app.example\r\n").await;
    assert_eq!(metrics.status, 403, "no page of WCS reads /metrics");
    let control = Control::start(&["rest_bind=0.0.0.0", "rest_allowed_origins=https://app.example"]);
    assert_eq!(of_page(&control, "GET", PATHS[0], "gw.example:8081", "").await.status, 404);
    let own = of_page(&control, "POST", PATHS[0], "gw.example:8081", "Origin: http://gw.example:8081\r\n").await;
    assert_eq!(own.status, 404);
    assert_eq!(http::get(control.http(), PATHS[0]).await.status, 404);
    let strange = of_page(&control, "GET", PATHS[0], "gw.example:8081", "Origin: http://evil.example\r\n").await;
    assert_eq!(strange.status, 403);
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
