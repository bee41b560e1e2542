//! A small websocket client, and what every browser may expect of the signalling port.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{Control, SOON};

/// What came.
#[derive(Debug, PartialEq)]
pub(crate) enum Came {
    Message(Value),
    Close(u16),
    End,
}

pub(crate) struct Socket {
    pub(crate) stream: TcpStream,
}

impl Socket {
    pub(crate) async fn open(to: SocketAddr, path: &str) -> Self {
        Socket::upgrade(TcpStream::connect(to).await.unwrap(), to, path).await
    }

    /// A websocket over a connection that is there.
    pub(crate) async fn upgrade(mut stream: TcpStream, to: SocketAddr, path: &str) -> Self {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nOrigin: http://page\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(SOON, stream.read_u8()).await.unwrap().unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let lower = head.to_ascii_lowercase();
        assert!(lower.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
        assert!(!lower.contains("sec-websocket-protocol") && !lower.contains("permessage-deflate"), "{head}");
        Socket { stream }
    }

    /// A session without SIP account.
    pub(crate) async fn session(to: SocketAddr) -> Self {
        let mut socket = Socket::open(to, "/").await;
        socket.send(&json!({"message": "connection", "data": [{"appKey": "defaultApp"}]})).await;
        let data = socket.expect("getUserData").await;
        assert!(data[0]["authToken"].as_str().unwrap().len() >= 32, "{data}");
        socket
    }

    pub(crate) async fn send(&mut self, message: &Value) {
        self.send_frame(1, message.to_string().as_bytes()).await.unwrap();
    }

    pub(crate) async fn send_frame(&mut self, opcode: u8, payload: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(&frame(opcode, payload)).await
    }

    /// The next message, close frame or end; pings of the protocol are passed over.
    pub(crate) async fn receive(&mut self) -> Came {
        loop {
            let Ok(head) = timeout(SOON, self.stream.read_u16()).await.expect("something comes") else {
                return Came::End;
            };
            let (opcode, short) = ((head >> 8) & 15, head & 127);
            let len = match short {
                126 => u64::from(self.stream.read_u16().await.unwrap()),
                127 => self.stream.read_u64().await.unwrap(),
                short => u64::from(short),
            };
            let mut payload = vec![0; usize::try_from(len).unwrap()];
            if self.stream.read_exact(&mut payload).await.is_err() {
                return Came::End;
            }
            match opcode {
                1 => return Came::Message(serde_json::from_slice(&payload).unwrap()),
                8 => return Came::Close(payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code))),
                _ => {}
            }
        }
    }

    /// The data of the next message of this name; pings in between are answered.
    pub(crate) async fn expect(&mut self, name: &str) -> Value {
        loop {
            let came = self.receive().await;
            let Came::Message(message) = came else { panic!("{came:?} instead of {name}") };
            assert!(message["data"].is_array(), "rule R1: {message}");
            if message["message"] == name {
                return message["data"].clone();
            }
            assert_eq!(message["message"], "ping", "{message} instead of {name}");
            self.send(&json!({"message": "pong", "data": [null]})).await;
        }
    }

    pub(crate) async fn expect_close(&mut self) -> u16 {
        loop {
            match self.receive().await {
                Came::Close(code) => return code,
                Came::Message(_) => {}
                Came::End => panic!("the connection ended without a close frame"),
            }
        }
    }
}

/// A masked frame (RFC 6455 section 5.2). The mask is zero, which is a mask like any other.
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | u8::try_from(len).unwrap()),
        len @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(len).unwrap().to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

#[tokio::test]
async fn any_path_is_a_session_and_the_password_is_not_echoed() {
    let control = Control::start(&[]);
    let mut socket = Socket::open(control.ws(), "/websocket?x=1").await;
    let connection =
        json!({"sipLogin": "1001", "sipPassword": "hunter2", "sipDomain": "127.0.0.1", "sipRegisterRequired": false});
    socket.send(&json!({"message": "connection", "data": [connection]})).await;
    let data = socket.expect("getUserData").await;
    assert_eq!(data[0]["sipLogin"], "1001");
    assert!(!data.to_string().contains("hunter2"), "{data}");
    control.metric_reaches("gangway_sessions", 1).await;
    drop(socket);
}

#[tokio::test]
async fn a_malformed_frame_gets_a_fail_and_ends_nothing() {
    let control = Control::start(&[]);
    let mut socket = Socket::session(control.ws()).await;
    for (frame, part) in [
        ("hello", "not JSON"),
        ("[]", "must be a JSON object"),
        (r#"{"data":[1]}"#, "field message"),
        (r#"{"message":"call","data":[{"callId":5}]}"#, "field callId"),
        (r#"{"message":"call","data":7}"#, "field data"),
    ] {
        socket.send_frame(1, frame.as_bytes()).await.unwrap();
        let data = socket.expect("fail").await;
        assert!(data[0]["info"].as_str().unwrap().contains(part), "{frame}: {data}");
    }
    socket.send_frame(2, b"binary").await.unwrap();
    assert!(socket.expect("fail").await[0]["info"].as_str().unwrap().contains("binary"));
    socket.send(&json!({"message": "somethingNew", "data": [{}]})).await;
    socket.send(&json!({"message": "sendData", "data": [{"operationId": "7", "payload": {"a": 1}}]})).await;
    let data = socket.expect("DataStatusEvent").await;
    assert_eq!((&data[0]["operationId"], &data[0]["status"]), (&json!("7"), &json!("ACCEPTED")));
    control.metric_reaches("gangway_frames_refused_total", 6).await;
}

#[tokio::test]
async fn a_bad_login_is_told_and_closed_in_good_order() {
    let control = Control::start(&[]);
    let mut socket = Socket::open(control.ws(), "/").await;
    socket.send(&json!({"message": "connection", "data": [{"sipLogin": "a b", "sipDomain": "x"}]})).await;
    let data = socket.expect("fail").await;
    assert!(data[0]["info"].as_str().unwrap().contains("sipLogin"), "{data}");
    assert_eq!(socket.expect_close().await, 1000);
    // Our own close frame ends it; until then the server waits and writes nothing.
    socket.send_frame(8, &1000u16.to_be_bytes()).await.unwrap();
    assert_eq!(socket.receive().await, Came::End);
}

#[tokio::test]
async fn the_clients_close_is_answered_and_the_session_is_gone() {
    let control = Control::start(&[]);
    let mut socket = Socket::session(control.ws()).await;
    control.metric_reaches("gangway_connections", 1).await;
    socket.send_frame(8, &[]).await.unwrap();
    assert_eq!(socket.expect_close().await, 1005);
    assert_eq!(socket.receive().await, Came::End);
    let deadline = tokio::time::Instant::now() + SOON;
    while control.metric("gangway_sockets").await > 0 || control.metric("gangway_sessions").await > 0 {
        assert!(tokio::time::Instant::now() < deadline, "the session is still there");
    }
}
