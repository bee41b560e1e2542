//! What hostile or broken browsers meet.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};

use crate::{
    Control, SOON, http,
    websocket::{Came, Socket, frame},
};

/// Reads until the peer ends the connection; what came before.
async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut bytes)).await.expect("the connection ends");
    bytes
}

#[tokio::test]
async fn a_megabyte_is_closed_with_1009_and_others_go_on() {
    let control = Control::start(&[]);
    let mut bystander = Socket::session(control.ws()).await;
    let mut socket = Socket::session(control.ws()).await;
    socket.send_frame(1, &vec![b'x'; 1 << 20]).await.unwrap();
    assert_eq!(socket.expect_close().await, 1009);
    control.metric_reaches("gangway_control_drops_total{reason=\"socket_oversize\"}", 1).await;
    bystander.send(&json!({"message": "ping", "data": [null]})).await;
    bystander.expect("pong").await;
}

#[tokio::test]
async fn a_frame_header_of_a_gigabyte_ends_the_connection_without_its_bytes() {
    let control = Control::start(&[]);
    let mut socket = Socket::session(control.ws()).await;
    let mut header = vec![0x81, 0x80 | 127];
    header.extend((1u64 << 30).to_be_bytes());
    header.extend([0; 4]);
    socket.stream.write_all(&header).await.unwrap();
    while !matches!(socket.receive().await, Came::End | Came::Close(_)) {}
    control.metric("gangway_sockets").await;
}

#[tokio::test]
async fn a_flood_of_messages_is_closed_with_1008() {
    let control = Control::start(&["ws_messages_per_s=10"]);
    let mut socket = Socket::session(control.ws()).await;
    let ping = frame(1, br#"{"message":"ping","data":[null]}"#);
    socket.stream.write_all(&ping.repeat(60)).await.unwrap();
    assert_eq!(socket.expect_close().await, 1008);
    control.metric_reaches("gangway_control_drops_total{reason=\"socket_over_rate\"}", 1).await;
}

#[tokio::test]
async fn a_header_that_does_not_end_is_cut_off() {
    let control = Control::start(&["http_header_timeout_ms=200"]);
    for to in [control.ws(), control.http()] {
        let begin = Instant::now();
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nX-Slow: ").await.unwrap();
        read_to_end(&mut stream).await;
        assert!(begin.elapsed() < Duration::from_secs(5), "it took {:?}", begin.elapsed());
    }
}

#[tokio::test]
async fn a_tls_handshake_that_does_not_begin_is_cut_off() {
    let control = Control::start(&["tls_handshake_timeout_ms=200"]);
    let mut stream = TcpStream::connect(control.wss()).await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, b"");
    control.metric_reaches("gangway_control_drops_total{reason=\"tls_handshake\"}", 1).await;
}

#[tokio::test]
async fn connections_beyond_the_limit_of_an_address_are_closed_and_places_come_back() {
    let control = Control::start(&["ws_connections_per_ip_max=3"]);
    let first = Socket::session(control.ws()).await;
    let _second = Socket::session(control.ws()).await;
    let _third = TcpStream::connect(control.ws()).await.unwrap();
    let mut refused = TcpStream::connect(control.ws()).await.unwrap();
    assert_eq!(read_to_end(&mut refused).await, b"");
    drop(first);
    let deadline = Instant::now() + SOON;
    loop {
        // Its place comes back as soon as control has noticed its end.
        let mut stream = TcpStream::connect(control.http()).await.unwrap();
        let _ = stream.write_all(b"GET /demo.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        if read_to_end(&mut stream).await.starts_with(b"HTTP/1.1 404") {
            break;
        }
        assert!(Instant::now() < deadline, "no place came back");
    }
    assert!(control.metric("gangway_control_drops_total{reason=\"connection_limit\"}").await >= 1);
}

#[tokio::test]
async fn a_burst_in_one_piece_is_answered_whole() {
    let control = Control::start(&["ws_send_queue_max=4"]);
    let mut socket = Socket::session(control.ws()).await;
    let ping = frame(1, br#"{"message":"ping","data":[null]}"#);
    socket.stream.write_all(&ping.repeat(400)).await.unwrap();
    for _ in 0..400 {
        socket.expect("pong").await;
    }
}

#[tokio::test]
async fn a_browser_that_does_not_read_is_closed() {
    let control =
        Control::start(&["ws_messages_per_s=100000", "keep_alive.server_interval=10", "keep_alive.probes=1000"]);
    // A small window, so that little fits between the two.
    let narrow = TcpSocket::new_v4().unwrap();
    narrow.set_recv_buffer_size(4096).unwrap();
    let stream = narrow.connect(control.ws()).await.unwrap();
    let mut socket = Socket::upgrade(stream, control.ws(), "/").await;
    let pings = frame(1, br#"{"message":"ping","data":[null]}"#).repeat(50);
    let flood = async { while socket.stream.write_all(&pings).await.is_ok() {} };
    timeout(SOON * 2, flood).await.expect("the connection ends");
    control.metric_reaches("gangway_control_drops_total{reason=\"socket_slow\"}", 1).await;
}

#[tokio::test]
async fn a_browser_that_does_not_read_is_gone_soon_after_the_core_has_closed_it() {
    // Its pongs are not read either, so the core gives it up; the queue and the kernel's patience would last.
    let control = Control::start(&[
        "ws_messages_per_s=100000",
        "ws_send_queue_max=65536",
        "ws_close_timeout_ms=200",
        "keep_alive.server_interval=100",
        "keep_alive.probes=2",
    ]);
    let narrow = TcpSocket::new_v4().unwrap();
    narrow.set_recv_buffer_size(4096).unwrap();
    let stream = narrow.connect(control.ws()).await.unwrap();
    let mut socket = Socket::upgrade(stream, control.ws(), "/").await;
    socket.send(&json!({"message": "connection", "data": [{"appKey": "defaultApp"}]})).await;
    // Each is answered by a `fail` and a `finish` of several hundred bytes.
    let call = json!({"message": "call", "data": [{"callId": "c".repeat(128)}]});
    let calls = frame(1, call.to_string().as_bytes()).repeat(50);
    let flood = async { while socket.stream.write_all(&calls).await.is_ok() {} };
    timeout(SOON, flood).await.expect("the connection ends");
    assert_eq!(control.metric("gangway_control_drops_total{reason=\"socket_slow\"}").await, 0);
}

#[tokio::test]
async fn a_body_that_is_too_long_or_too_slow_is_refused() {
    let control = Control::start(&["http_body_max_bytes=1000", "http_body_timeout_ms=200"]);
    let long = http::post(control.http(), "/rest-api/call/find", &"x".repeat(2000)).await;
    assert_eq!((long.status, long.json()["status"].as_u64()), (413, Some(413)));
    let slow =
        "POST /rest-api/call/find HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 10\r\n\r\n{";
    assert_eq!(http::raw(control.http(), slow.as_bytes()).await.status, 408);
}

#[tokio::test]
async fn a_reader_that_stops_in_the_middle_of_a_file_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("flashphoner.js"), vec![b'x'; 16 << 20]).unwrap();
    let control = Control::start(&[&format!("sdk_dir={}", dir.path().display()), "tcp_user_timeout_ms=300"]);
    let narrow = TcpSocket::new_v4().unwrap();
    narrow.set_recv_buffer_size(4096).unwrap();
    let mut stream = narrow.connect(control.http()).await.unwrap();
    stream.write_all(b"GET /client2/flashphoner.js HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    control.metric_reaches("gangway_control_drops_total{reason=\"http_connection\"}", 1).await;
    drop(stream);
}
