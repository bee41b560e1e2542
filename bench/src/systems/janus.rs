//! Debian's Janus with two event loops, between a page and a SIP phone that are both played here: its SIP plugin is asked for calls
//! as `janus.js` asks, over one websocket in one session, and the phone answers each at once.
//!
//! One handle carries one call. The first registers as a guest, and the others are its helpers: a page's account with several calls.

use std::{
    fs,
    io::{self, ErrorKind},
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    MEDIA_PORTS, System,
    page::{Kept, Page, TURN, WITHIN, ice_answer, offer},
    phone::Phone,
};
use crate::{
    call::{Answer, CallSpec},
    process::{Place, Running},
};

/// Threads that carry the media of all calls; without the setting each handle has one of its own.
const EVENT_LOOPS: u32 = 2;

/// A session of which nothing is heard for a minute is ended; `janus.js` says so often that it is there.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(25);

/// What a page is registered as.
const USER: &str = "sip:bench@127.0.0.1";

/// Parts of Debian's package that are left out: all plugins but the one for SIP, all transports but websockets, all loggers.
const PLUGINS_OFF: [&str; 11] = [
    "audiobridge",
    "duktape",
    "echotest",
    "lua",
    "nosip",
    "recordplay",
    "streaming",
    "textroom",
    "videocall",
    "videoroom",
    "voicemail",
];
const TRANSPORTS_OFF: [&str; 5] = ["http", "mqtt", "nanomsg", "pfunix", "rabbitmq"];

/// See the module text.
pub struct Janus {
    /// Keeps the session while nobody asks for calls; goes before the server does.
    kept: Option<Kept>,
    running: Running,
    ends: Option<(Client, Phone)>,
    _folder: TempDir,
}

impl Janus {
    /// Starts it with a configuration of its own, and opens a session.
    ///
    /// # Errors
    /// When it is not installed, does not come up, or this machine has no IPv4 address but loopback: Janus never uses that for ICE.
    pub fn start(place: Place) -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let listen = free.local_addr()?;
        drop(free);
        configure(folder.path(), listen.port(), own_address()?)?;
        let mut command = Command::new("janus");
        command
            .arg("--config")
            .arg(folder.path().join("janus.jcfg"))
            .arg("--configs-folder")
            .arg(folder.path())
            .arg("--disable-stdout")
            .current_dir(folder.path())
            .stderr(Stdio::null());
        let mut running = super::start(command, place).map_err(|error| match error.kind() {
            ErrorKind::NotFound => io::Error::new(ErrorKind::NotFound, "Debian's package janus is not installed"),
            _ => error,
        })?;
        let page = connect(&mut running, listen)?;
        let client = Client::open(page)?;
        Ok(Janus { kept: None, running, ends: Some((client, Phone::listen(TURN)?)), _folder: folder })
    }
}

/// The page's websocket, once the server listens.
fn connect(running: &mut Running, listen: SocketAddr) -> io::Result<Page> {
    /// Nobody listens yet: that is told at once, so it is not tried again at once.
    const PAUSE: Duration = Duration::from_millis(50);
    let deadline = Instant::now() + WITHIN;
    loop {
        match Page::open(&listen.to_string(), Some("janus-protocol")) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused && Instant::now() < deadline => {
                if !running.is_alive() {
                    return Err(io::Error::other("janus ended at its start"));
                }
                thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}

/// The address that this machine is reached at from elsewhere: what it would send to the outside with. Nothing is sent.
///
/// # Errors
/// When it has none but loopback.
pub fn own_address() -> io::Result<Ipv4Addr> {
    /// An address of nobody (RFC 5737).
    const OUTSIDE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    match socket.connect(OUTSIDE).and_then(|()| socket.local_addr()) {
        Ok(SocketAddr::V4(own)) if !own.ip().is_loopback() => Ok(*own.ip()),
        _ => Err(io::Error::other("janus needs an IPv4 address that is not loopback, and here is none")),
    }
}

/// Writes the configuration: two loops, SIP and websockets alone, no log, one address for ICE, and everything else as Debian has it.
fn configure(folder: &Path, port: u16, ice: Ipv4Addr) -> io::Result<()> {
    let libraries = |names: &[&str]| {
        let files: Vec<String> = names.iter().map(|name| format!("libjanus_{name}.so")).collect();
        files.join(",")
    };
    let (from, to) = MEDIA_PORTS;
    let middle = from.midpoint(to);
    let server = format!(
        "general: {{ debug_level = 0, event_loops = {EVENT_LOOPS} }}\n\
         media: {{ rtp_port_range = \"{from}-{}\" }}\n\
         nat: {{ ice_enforce_list = \"{ice}\" }}\n\
         plugins: {{ disable = \"{}\" }}\n\
         transports: {{ disable = \"{}\" }}\n\
         loggers: {{ disable = \"{}\" }}\n",
        middle - 1,
        libraries(&PLUGINS_OFF),
        libraries(&TRANSPORTS_OFF),
        libraries(&["jsonlog"]),
    );
    let sip = format!("general: {{ local_ip = \"127.0.0.1\", rtp_port_range = \"{middle}-{to}\" }}\n");
    let websockets =
        format!("general: {{ json = \"compact\", ws = true, ws_ip = \"127.0.0.1\", ws_port = {port}, wss = false }}\n");
    fs::write(folder.join("janus.jcfg"), server)?;
    fs::write(folder.join("janus.plugin.sip.jcfg"), sip)?;
    fs::write(folder.join("janus.transport.websockets.jcfg"), websockets)
}

/// The page's side of a session.
struct Client {
    page: Page,
    session: u64,
    /// Requests so far: the names of their transactions.
    asked: u64,
    /// What helpers are helpers of.
    master: Option<Value>,
}

impl Client {
    fn open(page: Page) -> io::Result<Self> {
        let mut client = Client { page, session: 0, asked: 0, master: None };
        let created = client.ask(json!({ "janus": "create" }))?;
        client.session = id_of(&created)?;
        Ok(client)
    }

    /// Sends a request with a transaction of its own, and names that.
    fn send(&mut self, mut request: Value) -> io::Result<String> {
        self.asked += 1;
        let transaction = self.asked.to_string();
        request["transaction"] = json!(transaction);
        if self.session != 0 {
            request["session_id"] = json!(self.session);
        }
        self.page.send(&request)?;
        Ok(transaction)
    }

    /// Sends a request and waits for what it comes to: an acknowledgement is none.
    fn ask(&mut self, request: Value) -> io::Result<Value> {
        let text = request.to_string();
        let transaction = self.send(request)?;
        let deadline = Instant::now() + WITHIN;
        while Instant::now() < deadline {
            let Some(frame) = self.page.read()? else { continue };
            if frame["transaction"] == transaction.as_str() && frame["janus"] != "ack" {
                return if is_refusal(&frame) { Err(io::Error::other(format!("{text}: {frame}"))) } else { Ok(frame) };
            }
        }
        Err(io::Error::new(ErrorKind::TimedOut, format!("janus does not answer {text}")))
    }

    /// A handle that may call.
    fn handle(&mut self) -> io::Result<u64> {
        let attached = self.ask(json!({ "janus": "attach", "plugin": "janus.plugin.sip" }))?;
        let handle = id_of(&attached)?;
        let body = match &self.master {
            None => json!({ "request": "register", "type": "guest", "username": USER }),
            Some(master) => json!({ "request": "register", "type": "helper", "username": USER, "master_id": master }),
        };
        let registered = self.ask(json!({ "janus": "message", "handle_id": handle, "body": body }))?;
        let result = &registered["plugindata"]["data"]["result"];
        if result["event"] != "registered" {
            return Err(io::Error::other(format!("janus does not register: {registered}")));
        }
        self.master.get_or_insert_with(|| result["master_id"].clone());
        Ok(handle)
    }

    /// Calls from the page, answers at the phone, and waits until both sides know each other.
    fn make(&mut self, phone: &mut Phone, call: &CallSpec) -> io::Result<[Answer; 2]> {
        let handle = self.handle()?;
        let body = json!({ "request": "call", "uri": format!("sip:b{}@127.0.0.1:{}", call.number, phone.port) });
        let jsep = json!({ "type": "offer", "sdp": offer(&call.ends[0])? });
        self.send(json!({ "janus": "message", "handle_id": handle, "body": body, "jsep": jsep }))?;
        let deadline = Instant::now() + WITHIN;
        let (mut browser, mut peer) = (None, None);
        loop {
            if let (Some(browser), Some(peer)) = (&browser, &peer) {
                return Ok([Answer::clone(browser), Answer::clone(peer)]);
            }
            if Instant::now() > deadline {
                let seen = (browser.is_some(), peer.is_some());
                let text = format!("janus: call {} is not answered: {seen:?}", call.number);
                return Err(io::Error::new(ErrorKind::TimedOut, text));
            }
            peer = phone.turn(&call.ends[1], call.media)?.or(peer);
            let Some(frame) = self.page.read()?.filter(|frame| frame["sender"] == handle) else { continue };
            match frame["plugindata"]["data"]["result"]["event"].as_str() {
                Some("accepted") => browser = ice_answer(frame["jsep"]["sdp"].as_str().unwrap_or_default()),
                Some("hangup") => return Err(io::Error::other(format!("janus ends call {}: {frame}", call.number))),
                _ if is_refusal(&frame) => return Err(io::Error::other(format!("janus refuses a call: {frame}"))),
                _ => {}
            }
        }
    }
}

/// The id of what was made.
fn id_of(reply: &Value) -> io::Result<u64> {
    reply["data"]["id"].as_u64().ok_or_else(|| io::Error::other(format!("janus answers without an id: {reply}")))
}

/// An error of the server, or of the plugin in an event.
fn is_refusal(frame: &Value) -> bool {
    frame["janus"] == "error" || !frame["plugindata"]["data"]["error"].is_null()
}

impl System for Janus {
    fn pid(&self) -> u32 {
        self.running.pid()
    }

    fn add(&mut self, calls: &[CallSpec]) -> io::Result<Vec<[Answer; 2]>> {
        let (mut client, mut phone) =
            self.ends.take().ok_or_else(|| io::Error::other("a gateway is asked for its calls once"))?;
        let answers = calls.iter().map(|call| client.make(&mut phone, call)).collect::<io::Result<Vec<_>>>()?;
        let session = client.session;
        let mut due = Instant::now() + KEEP_ALIVE_EVERY;
        self.kept = Some(client.page.keep(move |page| {
            if Instant::now() >= due {
                due += KEEP_ALIVE_EVERY;
                page.send(&json!({ "janus": "keepalive", "session_id": session, "transaction": "keep" }))?;
            }
            page.read().map(drop)
        })?);
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_written_whole() {
        let folder = tempfile::tempdir().unwrap();
        configure(folder.path(), 4321, Ipv4Addr::new(192, 0, 2, 7)).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let server = read("janus.jcfg");
        assert!(server.contains("event_loops = 2") && server.contains("ice_enforce_list = \"192.0.2.7\""), "{server}");
        assert!(server.contains("libjanus_voicemail.so\"") && !server.contains("libjanus_sip.so"), "{server}");
        assert!(!server.contains("libjanus_websockets.so"), "{server}");
        assert!(read("janus.transport.websockets.jcfg").contains("ws_port = 4321"));
        assert!(read("janus.plugin.sip.jcfg").contains("-32767\""), "media stays below the kernel's own range");
    }

    #[test]
    fn refusals_of_server_and_plugin_are_told_from_events() {
        assert!(is_refusal(&json!({ "janus": "error", "error": { "code": 458 } })));
        assert!(is_refusal(
            &json!({ "janus": "event", "plugindata": { "data": { "error_code": 443, "error": "no" } } })
        ));
        assert!(!is_refusal(&json!({ "janus": "event", "plugindata": { "data": { "result": {} } } })));
        assert!(id_of(&json!({ "data": { "id": 7 } })).is_ok_and(|id| id == 7) && id_of(&json!({})).is_err());
    }
}
