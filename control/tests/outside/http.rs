//! A small HTTP client: one request a connection.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::SOON;

pub(crate) struct Page {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Page {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let named = |line: &&str| line.split_once(':').is_some_and(|(at, _)| at.eq_ignore_ascii_case(name));
        self.head.lines().find(named).and_then(|line| line.split_once(": ")).map(|(_, value)| value)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

pub(crate) async fn get(to: SocketAddr, path: &str) -> Page {
    request(to, "GET", path, "").await
}

pub(crate) async fn post(to: SocketAddr, path: &str, body: &str) -> Page {
    request(to, "POST", path, body).await
}

pub(crate) async fn request(to: SocketAddr, method: &str, path: &str, body: &str) -> Page {
    request_with(to, method, path, &format!("Host: {to}\r\n"), body).await
}

/// The same with header lines of the caller's; `Host` is among them.
pub(crate) async fn request_with(to: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Page {
    let head = format!(
        "{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    raw(to, format!("{head}{body}").as_bytes()).await
}

/// Sends `bytes` and reads to the end.
pub(crate) async fn raw(to: SocketAddr, bytes: &[u8]) -> Page {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is as good an end as any.
    let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the answer ends");
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Page { status, head: head.to_owned(), body: body.to_owned() }
}
