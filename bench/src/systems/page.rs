//! A web page as gateways see it: a websocket with JSON in text frames, the offer of its browser, and the answer to that.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddrV4, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;
use tokio_tungstenite::tungstenite::{
    Error, Message, WebSocket, client, client::IntoClientRequest as _, http::HeaderValue,
};

use super::sdp::attribute;
use crate::{
    call::{Answer, EndSpec, IceAnswer, Security},
    load::browser::PASSWORD,
};

/// A call must be answered on both sides within this.
pub(super) const WITHIN: Duration = Duration::from_secs(10);

/// How long one look at the websocket or the phone waits while calls are made.
pub(super) const TURN: Duration = Duration::from_millis(2);

/// The same while calls only talk.
const TURN_KEPT: Duration = Duration::from_millis(200);

/// A page's websocket.
pub(super) struct Page(WebSocket<TcpStream>);

impl Page {
    /// Connects to `authority`, with this subprotocol if one is named.
    ///
    /// # Errors
    /// When nobody listens there, or not for websockets.
    pub(super) fn open(authority: &str, protocol: Option<&'static str>) -> io::Result<Self> {
        let stream = TcpStream::connect(authority)?;
        let mut request = format!("ws://{authority}/").into_client_request().map_err(io::Error::other)?;
        if let Some(protocol) = protocol {
            request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static(protocol));
        }
        let (socket, _) = client(request, stream).map_err(io::Error::other)?;
        socket.get_ref().set_read_timeout(Some(TURN))?;
        Ok(Page(socket))
    }

    /// Sends one text frame.
    ///
    /// # Errors
    /// When the connection is gone.
    pub(super) fn send(&mut self, value: &Value) -> io::Result<()> {
        self.0.send(Message::text(value.to_string())).map_err(io::Error::other)
    }

    /// The next frame, if one comes soon.
    ///
    /// # Errors
    /// When the connection is gone, or the frame is no JSON.
    pub(super) fn read(&mut self) -> io::Result<Option<Value>> {
        match self.0.read() {
            Ok(Message::Text(text)) => Ok(Some(serde_json::from_str(&text)?)),
            Ok(_) => Ok(None),
            Err(Error::Io(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Leaves the page open until the result is dropped: `turn` is called again and again in a thread of its own, and should read.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn keep(
        mut self,
        mut turn: impl FnMut(&mut Page) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Kept> {
        self.0.get_ref().set_read_timeout(Some(TURN_KEPT))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || while !stopped.load(Ordering::Relaxed) && turn(&mut self).is_ok() {});
        Ok(Kept { stop, thread: Some(thread) })
    }
}

/// A page that is kept open.
pub(super) struct Kept {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It ends at its next turn; a panic in it has been told already.
            let _ = thread.join();
        }
    }
}

/// What a browser with G.711 alone offers.
///
/// # Errors
/// When the end is none of a browser.
pub(super) fn offer(end: &EndSpec) -> io::Result<String> {
    let Security::Ice { ufrag, fingerprint, ssrc } = &end.security else {
        return Err(io::Error::other("the first end of a gateway's call is a browser"));
    };
    let lines = [
        "v=0".to_owned(),
        "o=- 1 1 IN IP4 127.0.0.1".to_owned(),
        "s=-".to_owned(),
        "t=0 0".to_owned(),
        "a=group:BUNDLE 0".to_owned(),
        "m=audio 9 UDP/TLS/RTP/SAVPF 0".to_owned(),
        "c=IN IP4 0.0.0.0".to_owned(),
        "a=rtcp:9 IN IP4 0.0.0.0".to_owned(),
        format!("a=candidate:1 1 udp 2122260223 {} {} typ host", end.rtp.ip(), end.rtp.port()),
        format!("a=ice-ufrag:{ufrag}"),
        format!("a=ice-pwd:{PASSWORD}"),
        format!("a=fingerprint:sha-256 {fingerprint}"),
        "a=setup:actpass".to_owned(),
        "a=mid:0".to_owned(),
        "a=sendrecv".to_owned(),
        "a=rtcp-mux".to_owned(),
        "a=rtpmap:0 PCMU/8000".to_owned(),
        format!("a=ssrc:{ssrc} cname:bench"),
    ];
    Ok(lines.join("\r\n") + "\r\n")
}

/// Address and credentials of an answer with candidates, of which the first with an IPv4 address is taken.
pub(super) fn ice_answer(sdp: &str) -> Option<Answer> {
    let candidate = sdp.lines().filter_map(|line| line.trim_end().strip_prefix("a=candidate:")).find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        Some(SocketAddrV4::new(words.get(4)?.parse().ok()?, words.get(5)?.parse().ok()?))
    })?;
    let ice = IceAnswer {
        ufrag: attribute(sdp, "ice-ufrag")?,
        pwd: attribute(sdp, "ice-pwd")?,
        begins: attribute(sdp, "setup").is_some_and(|role| role == "active"),
    };
    Some(Answer { rtp: candidate, rtcp: candidate, key: None, ice: Some(ice) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_a_browser_is_read() {
        let sdp = "v=0\r\na=ice-ufrag:u\r\na=ice-pwd:p\r\na=candidate:1 1 udp 2015363583 fd00::2 9 typ host\r\n\
                   a=candidate:2 1 udp 2130706431 127.0.0.1 4321 typ host\r\n";
        let ice = |begins| Some(IceAnswer { ufrag: "u".to_owned(), pwd: "p".to_owned(), begins });
        let answer = ice_answer(sdp).unwrap();
        assert_eq!((answer.rtp.port(), answer.ice), (4321, ice(false)));
        assert_eq!(ice_answer(&format!("{sdp}a=setup:active\r\n")).unwrap().ice, ice(true));
        assert_eq!(ice_answer("v=0\r\n"), None);
    }

    #[test]
    fn a_browser_offers_where_it_listens() {
        let rtp = "127.0.0.1:4000".parse().unwrap();
        let security =
            Security::Ice { ufrag: "u".to_owned(), fingerprint: gangway_shared::rcp::Fingerprint([0xab; 32]), ssrc: 7 };
        let sdp = offer(&EndSpec { rtp, rtcp: rtp, security }).unwrap();
        assert!(sdp.contains(" 127.0.0.1 4000 typ host\r\n") && sdp.contains("a=ice-ufrag:u\r\n"), "{sdp}");
        assert!(sdp.contains("a=ssrc:7 cname:"), "Janus tells media of a bundle by it: {sdp}");
        let plain = EndSpec { rtp, rtcp: rtp, security: Security::Plain };
        assert!(offer(&plain).is_err());
    }
}
