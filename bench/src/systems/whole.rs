//! The whole gateway: a browser's websocket on one side, a SIP phone on the other, both played here; control and dataplane between them
//! are what is measured. It is asked for calls as a page asks, and the phone answers each at once.

use std::{
    fs,
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

use super::{
    System,
    sdp::{address_of, attribute, plain},
};
use crate::{
    call::{Answer, CallSpec, EndSpec, Media, Security},
    process::{Running, sibling},
};

/// A call must be answered on both sides within this.
const WITHIN: Duration = Duration::from_secs(10);

/// How long one look at the websocket waits.
const TURN: Duration = Duration::from_millis(2);

type Socket = WebSocket<TcpStream>;

/// See the module text.
pub struct Gateway {
    running: Running,
    phone: Option<UdpSocket>,
    page: Option<Socket>,
    _folder: TempDir,
    /// Answers pings while nobody asks for calls.
    keeper: Option<(Arc<AtomicBool>, thread::JoinHandle<()>)>,
}

impl Gateway {
    /// Starts control, which starts its dataplane with one worker, and opens a session without registration.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(engine: &str, core: Option<usize>) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (from, to) = super::MEDIA_PORTS;
        let mut settings: Vec<(&str, String)> =
            ["ws.port", "wss.port", "http.port", "https.port", "sip_port", "webrtc_port"]
                .into_iter()
                .map(|port| (port, "auto".to_owned()))
                .collect();
        settings.extend([
            ("ip", "127.0.0.1".to_owned()),
            ("ip_local", "127.0.0.1".to_owned()),
            ("media_port_from", from.to_string()),
            ("media_port_to", to.to_string()),
            ("dataplane_workers", "1".to_owned()),
            ("dataplane_cores", core.map_or_else(|| "none".to_owned(), |core| core.to_string())),
            ("dataplane_engine", engine.to_owned()),
            ("calls_per_session_max", "1000".to_owned()),
            ("ringback", "off".to_owned()),
            ("log_level", "warn".to_owned()),
            ("data_dir", folder.path().join("data").display().to_string()),
        ]);
        let file = folder.path().join("gangway.properties");
        let text: Vec<String> = settings.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        fs::write(&file, text.concat())?;
        let mut command = Command::new(sibling("gangway-control")?);
        command.current_dir(folder.path()).arg("--config").arg(&file);
        let mut running = Running::start(command, core)?;
        let ready: Value = loop {
            let line = running.read_line()?;
            if line.starts_with('{') {
                break serde_json::from_str(&line)?;
            }
        };
        let phone = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        phone.set_read_timeout(Some(TURN))?;
        let page = open(ready["ws"].as_str().unwrap_or_default(), phone.local_addr()?.port())?;
        Ok(Gateway { running, phone: Some(phone), page: Some(page), _folder: folder, keeper: None })
    }
}

/// A session as a page opens it.
fn open(url: &str, sip_port: u16) -> io::Result<Socket> {
    let authority = url.trim_start_matches("ws://").trim_end_matches('/');
    let stream = TcpStream::connect(authority)?;
    let (mut page, _) = client(format!("ws://{authority}/"), stream).map_err(io::Error::other)?;
    page.get_ref().set_read_timeout(Some(TURN))?;
    let connection = json!({
        "appKey": "defaultApp", "mediaProviders": ["WebRTC"], "clientVersion": "2.0", "custom": {},
        "sipLogin": "bench", "sipAuthenticationName": "bench", "sipPassword": "bench", "sipDomain": "127.0.0.1",
        "sipPort": sip_port.to_string(), "sipRegisterRequired": false,
    });
    send(&mut page, "connection", connection)?;
    let deadline = Instant::now() + WITHIN;
    while Instant::now() < deadline {
        if let Some(frame) = read(&mut page)?
            && frame["message"] == "getUserData"
        {
            return Ok(page);
        }
    }
    Err(io::Error::new(ErrorKind::TimedOut, "the gateway opens no session"))
}

fn send(page: &mut Socket, message: &str, data: Value) -> io::Result<()> {
    let text = json!({ "message": message, "data": [data] }).to_string();
    page.send(Message::text(text)).map_err(io::Error::other)
}

/// The next frame, if one comes soon. Pings are answered.
fn read(page: &mut Socket) -> io::Result<Option<Value>> {
    use tokio_tungstenite::tungstenite::Error;
    match page.read() {
        Ok(Message::Text(text)) => {
            let frame: Value = serde_json::from_str(&text)?;
            if frame["message"] == "ping" {
                page.send(Message::text(json!({ "message": "pong", "data": [null] }).to_string()))
                    .map_err(io::Error::other)?;
                return Ok(None);
            }
            Ok(Some(frame))
        }
        Ok(_) => Ok(None),
        Err(Error::Io(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
        Err(error) => Err(io::Error::other(error)),
    }
}

impl System for Gateway {
    fn pid(&self) -> u32 {
        self.running.pid()
    }

    fn add(&mut self, calls: &[CallSpec]) -> io::Result<Vec<[Answer; 2]>> {
        let (Some(mut page), Some(phone)) = (self.page.take(), self.phone.take()) else {
            return Err(io::Error::other("a gateway is asked for its calls once"));
        };
        let answers = calls.iter().map(|call| make(&mut page, &phone, call)).collect::<io::Result<Vec<_>>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        page.get_ref().set_read_timeout(Some(Duration::from_millis(200)))?;
        let keeper = thread::spawn(move || while !stopped.load(Ordering::Relaxed) && read(&mut page).is_ok() {});
        self.keeper = Some((stop, keeper));
        Ok(answers)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some((stop, keeper)) = self.keeper.take() {
            stop.store(true, Ordering::Relaxed);
            // It ends at its next turn; a panic in it has been told already.
            let _ = keeper.join();
        }
    }
}

/// Calls from the page, answers at the phone, and waits until both sides know each other.
fn make(page: &mut Socket, phone: &UdpSocket, call: &CallSpec) -> io::Result<[Answer; 2]> {
    let id = format!("bench-{}", call.number);
    let port = phone.local_addr()?.port();
    let fields = json!({
        "callId": id, "incoming": false, "hasAudio": true, "hasVideo": false, "status": "PENDING",
        "mediaProvider": "WebRTC", "sdp": offer(&call.ends[0])?, "caller": "bench",
        "callee": format!("sip:b{}@127.0.0.1:{port}", call.number), "custom": {},
    });
    send(page, "call", fields)?;
    let deadline = Instant::now() + WITHIN;
    let (mut browser, mut peer, mut established) = (None, None, false);
    let mut buffer = vec![0; 65_536];
    while browser.is_none() || peer.is_none() || !established {
        if Instant::now() > deadline {
            let seen = (browser.is_some(), peer.is_some(), established);
            return Err(io::Error::new(ErrorKind::TimedOut, format!("{id} is not answered: {seen:?}")));
        }
        if let Ok((len, from)) = phone.recv_from(&mut buffer) {
            let request = String::from_utf8_lossy(&buffer[..len]).into_owned();
            if request.starts_with("INVITE ") {
                let (_, body) = request.split_once("\r\n\r\n").unwrap_or_default();
                peer = peer.or(address_of(body).map(|(rtp, rtcp)| Answer { rtp, rtcp, key: None, ice: None }));
                phone.send_to(ok(&request, &call.ends[1], call.media, port).as_bytes(), from)?;
            }
        }
        let Some(frame) = read(page)? else { continue };
        let first = &frame["data"][0];
        match frame["message"].as_str().unwrap_or_default() {
            "setRemoteSDP" if first == id.as_str() => {
                browser = ice_answer(frame["data"][1].as_str().unwrap_or_default());
            }
            _ if first["callId"] == id.as_str() && first["status"] == "ESTABLISHED" => established = true,
            _ if first["callId"] == id.as_str() && first["status"] == "FAILED" => {
                return Err(io::Error::other(format!("{id} failed: {first}")));
            }
            _ => {}
        }
    }
    browser
        .zip(peer)
        .map(|(browser, peer)| [browser, peer])
        .ok_or_else(|| io::Error::other("an answer without address"))
}

/// What a browser with G.711 alone offers.
fn offer(end: &EndSpec) -> io::Result<String> {
    let Security::Ice { ufrag, fingerprint } = &end.security else {
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
        format!("a=ice-ufrag:{ufrag}"),
        "a=ice-pwd:passwordpasswordpassword".to_owned(),
        format!("a=fingerprint:sha-256 {fingerprint}"),
        "a=setup:actpass".to_owned(),
        "a=mid:0".to_owned(),
        "a=sendrecv".to_owned(),
        "a=rtcp-mux".to_owned(),
        "a=rtpmap:0 PCMU/8000".to_owned(),
    ];
    Ok(lines.join("\r\n") + "\r\n")
}

/// Address and credentials of an answer with candidates.
fn ice_answer(sdp: &str) -> Option<Answer> {
    let candidate = sdp.lines().filter_map(|line| line.trim_end().strip_prefix("a=candidate:")).find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        Some(SocketAddrV4::new(words.get(4)?.parse().ok()?, words.get(5)?.parse().ok()?))
    })?;
    let credentials = (attribute(sdp, "ice-ufrag")?, attribute(sdp, "ice-pwd")?);
    Some(Answer { rtp: candidate, rtcp: candidate, key: None, ice: Some(credentials) })
}

/// 200 to an INVITE: its Via, Record-Route, From, Call-ID and CSeq as they are, a tag on To, and where the end listens.
fn ok(invite: &str, end: &EndSpec, media: Media, port: u16) -> String {
    let (head, _) = invite.split_once("\r\n\r\n").unwrap_or((invite, ""));
    let mut lines = vec!["SIP/2.0 200 OK".to_owned()];
    for line in head.lines().skip(1) {
        let name = line.split(':').next().unwrap_or_default().trim().to_ascii_lowercase();
        match name.as_str() {
            "via" | "v" | "record-route" | "from" | "f" | "call-id" | "i" | "cseq" => lines.push(line.to_owned()),
            "to" | "t" => lines.push(format!("{line};tag=bench")),
            _ => {}
        }
    }
    let body = plain(end, media);
    lines.push(format!("Contact: <sip:bench@127.0.0.1:{port}>"));
    lines.push("Content-Type: application/sdp".to_owned());
    lines.push(format!("Content-Length: {}", body.len()));
    lines.join("\r\n") + "\r\n\r\n" + &body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invite_is_answered_with_its_own_headers() {
        let invite = "INVITE sip:b0@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n\
                      From: <sip:a@h>;tag=1\r\nTo: <sip:b0@h>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\n\r\nv=0\r\n";
        let address = "127.0.0.1:4000".parse().unwrap();
        let end = EndSpec { rtp: address, rtcp: address, security: Security::Plain };
        let answer = ok(invite, &end, Media::Audio, 5070);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@h>;tag=1\r\n"));
        assert!(head.contains("\r\nTo: <sip:b0@h>;tag=bench\r\n") && !head.contains("Max-Forwards"), "{head}");
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())) && body.contains("m=audio 4000 "), "{head}");
    }

    #[test]
    fn an_answer_to_a_browser_is_read() {
        let sdp = "v=0\r\na=ice-ufrag:u\r\na=ice-pwd:p\r\na=candidate:1 1 udp 2130706431 127.0.0.1 4321 typ host\r\n";
        let answer = ice_answer(sdp).unwrap();
        assert_eq!((answer.rtp.port(), answer.ice), (4321, Some(("u".to_owned(), "p".to_owned()))));
        assert_eq!(ice_answer("v=0\r\n"), None);
    }
}
