//! SIP over real sockets: streams, keep-alives, limits.

use std::net::SocketAddr;

use gangway_control::hub::Clock;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use crate::{Control, SOON};

fn options(transport: &str, from: SocketAddr, branch: &str) -> String {
    format!(
        "OPTIONS sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/{transport} {from};branch=z9hG4bK{branch};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:probe@127.0.0.1>;tag=1\r\nTo: <sip:gateway@127.0.0.1>\r\nCall-ID: {branch}\r\nCSeq: 1 OPTIONS\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

/// Reads until `wanted` has come.
async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut text = String::new();
    let mut chunk = [0; 4096];
    while !text.contains(wanted) {
        let len = timeout(SOON, stream.read(&mut chunk)).await.expect("something comes").unwrap();
        assert!(len > 0, "the connection ended after {text:?}");
        text.push_str(std::str::from_utf8(&chunk[..len]).unwrap());
    }
    text
}

async fn ends(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut rest)).await.expect("the connection ends");
}

#[tokio::test]
async fn messages_are_cut_from_a_stream_at_any_byte_and_answered_in_it() {
    let control = Control::start(&[]);
    let mut stream = TcpStream::connect(control.sip()).await.unwrap();
    let from = stream.local_addr().unwrap();
    let both = format!("\r\n\r\n{}{}", options("TCP", from, "one"), options("TCP", from, "two"));
    let (begin, end) = both.split_at(97);
    stream.write_all(begin.as_bytes()).await.unwrap();
    assert_eq!(read_until(&mut stream, "\r\n").await, "\r\n", "the keep-alive is answered by one line end");
    stream.write_all(end.as_bytes()).await.unwrap();
    let mut text = read_until(&mut stream, "branch=z9hG4bKtwo").await;
    while text.matches("SIP/2.0 200").count() < 2 {
        text.push_str(&read_until(&mut stream, "SIP/2.0").await);
    }
    assert!(text.contains("branch=z9hG4bKone"), "{text}");
    assert_eq!(control.metric("gangway_sip_connections").await, 1);
}

#[tokio::test]
async fn a_stream_that_is_no_sip_is_closed_and_counted() {
    let control = Control::start(&[]);
    let mut stream = TcpStream::connect(control.sip()).await.unwrap();
    let huge = "INVITE sip:a@b SIP/2.0\r\nContent-Length: 99999999\r\n\r\n";
    stream.write_all(huge.as_bytes()).await.unwrap();
    ends(&mut stream).await;
    control.metric_reaches("gangway_control_drops_total{reason=\"sip_stream_invalid\"}", 1).await;
    assert_eq!(control.metric("gangway_sip_connections").await, 0);
}

#[tokio::test]
async fn a_message_that_does_not_end_and_a_silent_connection_are_closed() {
    let control = Control::start(&["sip_tcp_message_timeout_ms=200", "sip_tcp_idle_timeout_ms=300"]);
    let mut begun = TcpStream::connect(control.sip()).await.unwrap();
    begun.write_all(b"OPTIONS sip:a@b SIP/2.0\r\nVia: ").await.unwrap();
    ends(&mut begun).await;
    let mut silent = TcpStream::connect(control.sip()).await.unwrap();
    ends(&mut silent).await;
}

#[tokio::test]
async fn sip_connections_beyond_the_limit_are_closed() {
    let control = Control::start(&["sip_tcp_connections_max=1"]);
    let first = TcpStream::connect(control.sip()).await.unwrap();
    control.metric_reaches("gangway_sip_connections", 1).await;
    let mut second = TcpStream::connect(control.sip()).await.unwrap();
    ends(&mut second).await;
    assert_eq!(control.metric("gangway_control_drops_total{reason=\"sip_connection_limit\"}").await, 1);
    drop(first);
}

/// The NAT on the way may be about to forget us.
#[tokio::test]
async fn a_registrar_of_before_the_restart_hears_of_us_at_once() {
    let registrar = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let account = json!({
        "login": "1001", "authentication_name": "1001", "domain": "sip:example.com", "proxy_host": "127.0.0.1",
        "proxy_port": null, "transport": null, "register": true,
    });
    let session = json!({
        "session_id": "/192.0.2.9:1/192.0.2.1:8080", "app_key": "defaultApp", "fields": {}, "remote": "192.0.2.9",
        "keep_alive": true, "account": account,
    });
    let an_hour_on = Clock::wall().as_unix_micros() + 3_600_000_000;
    let registration = json!({
        "call_id": "r", "cseq": 7, "binding": { "transport": "udp", "remote": registrar.local_addr().unwrap() },
        "due": an_hour_on, "announced": true,
    });
    let lines = [
        json!({ "entry": "session", "session": "00112233445566778899", "record": session }),
        json!({ "entry": "registration", "session": "00112233445566778899", "record": registration }),
    ];
    let control = Control::start_after(&lines.map(|line| format!("{line}\n")).concat(), &[]);
    let mut buffer = [0; 4096];
    let (len, from) = timeout(SOON, registrar.recv_from(&mut buffer)).await.expect("a packet comes").unwrap();
    assert_eq!((&buffer[..len], from), (&b"\r\n\r\n"[..], control.sip()));
}

#[tokio::test]
async fn a_datagram_is_answered_to_where_it_came_from() {
    let control = Control::start(&["sip_trusted=127.0.0.0/8"]);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    // The Via names another port: rport decides (RFC 3581).
    let request = options("UDP", SocketAddr::from(([127, 0, 0, 1], 9)), "udp");
    socket.send_to(request.as_bytes(), control.sip()).await.unwrap();
    let mut buffer = [0; 4096];
    let (len, from) = timeout(SOON, socket.recv_from(&mut buffer)).await.unwrap().unwrap();
    let text = std::str::from_utf8(&buffer[..len]).unwrap();
    assert!(text.starts_with("SIP/2.0 200"), "{text}");
    assert!(text.contains(&format!("rport={}", socket.local_addr().unwrap().port())), "{text}");
    assert_eq!(from, control.sip());
}
