//! The whole gateway: a browser's websocket on one side, a SIP phone on the other, both played here; control and dataplane between them
//! are what is measured. It is asked for calls as a page asks, and the phone answers each at once.

use std::{
    fs,
    io::{self, Read, Write},
    net::TcpStream,
    process::Command,
    time::Instant,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    System, Watcher,
    gangway::scheduling,
    page::{Kept, Page, TURN, WITHIN, ice_answer, offer},
    phone::Phone,
};
use crate::{
    call::{Answer, CallSpec},
    process::{Place, Running, sibling},
};

/// See the module text.
pub struct Gateway {
    /// Answers pings while nobody asks for calls; goes before the gateway does.
    kept: Option<Kept>,
    running: Running,
    ends: Option<(Page, Phone)>,
    /// Host and port of its pages.
    web: String,
    _folder: TempDir,
}

impl Gateway {
    /// Starts control, which starts its dataplane with one worker, and opens a session without registration.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(engine: &str, place: Place) -> io::Result<Self> {
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
            ("dataplane_cores", place.core.map_or_else(|| "none".to_owned(), |core| core.to_string())),
            ("dataplane_scheduling", scheduling(place).to_owned()),
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
        let mut running = super::start(command, place)?;
        let ready: Value = loop {
            let line = running.read_line()?;
            if line.starts_with('{') {
                break serde_json::from_str(&line)?;
            }
        };
        let web = ready["pages"].as_str().unwrap_or_default();
        let web = web.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let phone = Phone::listen(TURN)?;
        let page = open(ready["ws"].as_str().unwrap_or_default(), phone.port)?;
        Ok(Gateway { kept: None, running, ends: Some((page, phone)), web, _folder: folder })
    }
}

/// A session as a page opens it.
fn open(url: &str, sip_port: u16) -> io::Result<Page> {
    let mut page = Page::open(url.trim_start_matches("ws://").trim_end_matches('/'), None)?;
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
    Err(io::Error::new(io::ErrorKind::TimedOut, "the gateway opens no session"))
}

fn send(page: &mut Page, message: &str, data: Value) -> io::Result<()> {
    page.send(&json!({ "message": message, "data": [data] }))
}

/// The next frame, if one comes soon. Pings are answered.
fn read(page: &mut Page) -> io::Result<Option<Value>> {
    let frame = page.read()?;
    if frame.as_ref().is_some_and(|frame| frame["message"] == "ping") {
        send(page, "pong", Value::Null)?;
        return Ok(None);
    }
    Ok(frame)
}

impl System for Gateway {
    fn pid(&self) -> u32 {
        self.running.pid()
    }

    fn add(&mut self, calls: &[CallSpec]) -> io::Result<Vec<[Answer; 2]>> {
        let (mut page, mut phone) =
            self.ends.take().ok_or_else(|| io::Error::other("a gateway is asked for its calls once"))?;
        let answers = calls.iter().map(|call| make(&mut page, &mut phone, call)).collect::<io::Result<Vec<_>>>()?;
        self.kept = Some(page.keep(|page| read(page).map(drop))?);
        Ok(answers)
    }

    fn watcher(&self) -> io::Result<Option<Watcher>> {
        let web = self.web.clone();
        Ok(Some(Box::new(move || metrics(&web))))
    }
}

/// Reads `/metrics`, as Prometheus does.
fn metrics(web: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(web)?;
    stream.set_read_timeout(Some(WITHIN))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {web}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.starts_with("HTTP/1.1 200") {
        true => Ok(()),
        false => Err(io::Error::other(format!("no metrics: {}", answer.lines().next().unwrap_or_default()))),
    }
}

/// Calls from the page, answers at the phone, and waits until both sides know each other.
fn make(page: &mut Page, phone: &mut Phone, call: &CallSpec) -> io::Result<[Answer; 2]> {
    let id = format!("bench-{}", call.number);
    let fields = json!({
        "callId": id, "incoming": false, "hasAudio": true, "hasVideo": false, "status": "PENDING",
        "mediaProvider": "WebRTC", "sdp": offer(&call.ends[0])?, "caller": "bench",
        "callee": format!("sip:b{}@127.0.0.1:{}", call.number, phone.port), "custom": {},
    });
    send(page, "call", fields)?;
    let deadline = Instant::now() + WITHIN;
    let (mut browser, mut peer, mut established) = (None, None, false);
    while browser.is_none() || peer.is_none() || !established {
        if Instant::now() > deadline {
            let seen = (browser.is_some(), peer.is_some(), established);
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{id} is not answered: {seen:?}")));
        }
        peer = phone.turn(&call.ends[1], call.media)?.or(peer);
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
