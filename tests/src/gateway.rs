//! The gateway under test: the real binaries beside the test program, in a folder of their own, on ports that the kernel
//! chooses, with timers short enough for tests.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    dataplane::engine_setting,
    deadline::Deadline,
    process::{self, Process},
    socket::Socket,
    source::root,
};

/// How long the programs may take until the ready line; generous, because everything runs at once on a small machine.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// The settings of every test, where it does not say otherwise.
const SETTINGS: [(&str, &str); 25] = [
    ("ip", "127.0.0.1"),
    ("ip_local", "127.0.0.1"),
    ("ws.port", "auto"),
    ("wss.port", "auto"),
    ("http.port", "auto"),
    ("https.port", "auto"),
    ("sip_port", "auto"),
    ("media_port_from", "auto"),
    ("media_port_to", "auto"),
    ("webrtc_port", "auto"),
    ("dataplane_workers", "1"),
    ("dataplane_cores", "none"),
    ("dataplane_linger_s", "1"),
    ("media_port_quarantine_ms", "200"),
    ("log_level", "debug"),
    ("sip_t1_ms", "50"),
    ("keep_alive.server_interval", "500"),
    ("ring_timeout", "3"),
    ("ice_timeout", "6"),
    ("consent_timeout_ms", "8000"),
    ("rtp_activity_timeout_ms", "3000"),
    // It would answer the phones of these tests, which speak G.711 alone, as soon as it rings.
    ("ringback", "off"),
    ("client_timeout", "1000"),
    ("client_timeout_check_interval", "200"),
    ("register_backoff_ms", "300"),
];

/// A running gateway: control and the dataplane it supervises.
pub struct Gateway {
    process: Process,
    ready: Value,
    folder: TempDir,
    settings: BTreeMap<String, String>,
    /// A dataplane that was started on its own.
    dataplane: Option<Process>,
}

impl Gateway {
    /// Starts it with these settings on top of the common ones and waits until it is ready.
    ///
    /// # Panics
    /// When it does not come up; the message holds its log.
    #[track_caller]
    pub fn start(settings: &[(&str, &str)]) -> Self {
        Self::launch(settings, &[])
    }

    /// Starts it with its demo SIP service.
    #[track_caller]
    pub fn demo() -> Self {
        Self::launch(&[], &["--demo"])
    }

    #[track_caller]
    fn launch(settings: &[(&str, &str)], arguments: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("gangway").tempdir().expect("a folder for the gateway");
        let all = all_settings(&folder, settings);
        Self::launch_in(folder, all, arguments, None)
    }

    /// Starts a dataplane on its own, as a service manager does, and a control that attaches to it.
    ///
    /// # Panics
    /// When they do not come up.
    #[track_caller]
    pub fn start_with_dataplane(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::Builder::new().prefix("gangway").tempdir().expect("a folder for the gateway");
        let all = all_settings(&folder, settings);
        let mut command = Command::new(binary("gangway-dataplane"));
        command.current_dir(folder.path());
        let (kept, mut sets) = (["sdk_dir"], Vec::new());
        for (key, value) in all.iter().filter(|(key, _)| !kept.contains(&key.as_str())) {
            sets.extend(["--set".to_owned(), format!("{key}={value}")]);
        }
        fs::create_dir_all(folder.path().join("data")).expect("a folder");
        command.args(sets);
        let dataplane = Process::start("gangway-dataplane", command);
        let socket = folder.path().join("data/dataplane.sock");
        Deadline::after(READY_WITHIN).poll("the dataplane's socket", || socket.exists().then_some(()));
        Self::launch_in(folder, all, &[], Some(dataplane))
    }

    #[track_caller]
    fn launch_in(
        folder: TempDir,
        settings: BTreeMap<String, String>,
        arguments: &[&str],
        dataplane: Option<Process>,
    ) -> Self {
        let (process, ready) = control(&folder, &settings, arguments);
        Self { process, ready, folder, settings, dataplane }
    }

    /// SIGKILL for control alone; the dataplane goes on.
    ///
    /// # Panics
    /// When control does not end.
    #[track_caller]
    pub fn kill_control(&self) {
        self.process.signal(Signal::KILL);
        assert!(self.process.wait_end(Deadline::seconds(5)).is_some(), "SIGKILL ends a process");
    }

    /// Stops control where it stands: it holds its ports and its lock, and does nothing.
    pub fn hang_control(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Starts control again on the ports that the one before had, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not come up.
    #[track_caller]
    pub fn start_control(&mut self, arguments: &[&str]) {
        let port = |url: &str| url.trim_end_matches('/').rsplit(':').next().unwrap_or_default().to_owned();
        let keys = [("ws.port", "ws"), ("wss.port", "wss"), ("http.port", "pages"), ("https.port", "pages_https")];
        for (key, name) in keys {
            self.settings.insert(key.to_owned(), port(&self.text(name)));
        }
        self.settings.insert("sip_port".to_owned(), self.sip_port().to_string());
        let (process, ready) = control(&self.folder, &self.settings, arguments);
        (self.process, self.ready) = (process, ready);
    }

    /// The lines of the journal as they are on the disk now.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn journal(&self) -> Vec<String> {
        let text = fs::read_to_string(self.journal_file()).expect("the journal");
        text.lines().map(str::to_owned).collect()
    }

    /// Where the journal is.
    pub fn journal_file(&self) -> PathBuf {
        self.folder.path().join("data/journal")
    }

    /// The process of the dataplane, when it was started on its own.
    pub fn dataplane(&self) -> Option<&Process> {
        self.dataplane.as_ref()
    }

    /// The ready line.
    pub fn ready(&self) -> &Value {
        &self.ready
    }

    /// `ws://host:port` of the signalling.
    pub fn ws(&self) -> String {
        self.text("ws")
    }

    /// `http://localhost:port/` of the pages.
    pub fn pages(&self) -> String {
        self.text("pages")
    }

    /// Port of SIP, UDP and TCP.
    pub fn sip_port(&self) -> u16 {
        let udp = self.ready["sip"][0].as_str().unwrap_or("");
        udp.rsplit(':')
            .next()
            .and_then(|port| port.parse().ok())
            .unwrap_or_else(|| panic!("no SIP port in {}", self.ready))
    }

    /// Address that browsers send media to.
    pub fn webrtc(&self) -> SocketAddr {
        let udp = self.ready["webrtc"][0].as_str().unwrap_or("").trim_start_matches("udp:");
        udp.parse().unwrap_or_else(|_| panic!("no WebRTC address in {}", self.ready))
    }

    /// Opens a websocket.
    ///
    /// # Panics
    /// When the handshake fails.
    #[track_caller]
    pub fn open(&self) -> Socket {
        Socket::open(&self.ws(), None).unwrap_or_else(|error| panic!("the websocket did not open: {error}"))
    }

    /// A REST call: the status, and the body as JSON (null when it is empty). POST when there is a body, else GET.
    #[track_caller]
    pub fn rest(&self, method: &str, body: Option<&Value>) -> (u16, Value) {
        let (status, text) = self.http(&format!("/rest-api{method}"), body);
        let value = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{method}: no JSON ({error}): {text}"))
        };
        (status, value)
    }

    /// One HTTP request to the pages' port: status and body.
    ///
    /// # Panics
    /// When there is no answer.
    #[track_caller]
    pub fn http(&self, path: &str, body: Option<&Value>) -> (u16, String) {
        let pages = self.pages();
        let authority = pages.trim_start_matches("http://").trim_end_matches('/');
        let mut stream = TcpStream::connect(authority).unwrap_or_else(|error| panic!("{authority}: {error}"));
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let body = body.map(Value::to_string);
        let method = if body.is_some() { "POST" } else { "GET" };
        let text = body.unwrap_or_default();
        // Version 1.0: the answer is not chunked and ends with the connection.
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: {authority}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        )
        .expect("the request is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap_or_else(|error| panic!("{path}: {error}; so far {answer}"));
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, body.to_owned())
    }

    /// One number of `/metrics`, summed over its labels; those that contain `label` only.
    #[track_caller]
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let (_, page) = self.http("/metrics", None);
        let lines = page.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with([' ', '{'])) && line.contains(label)
        });
        let values: Vec<f64> = lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        assert!(!values.is_empty(), "/metrics has no {name} with {label:?}:\n{page}");
        values.iter().sum()
    }

    /// Waits until no call is left anywhere: no call, no dialog, no relay, no question, no media port in use.
    #[track_caller]
    pub fn wait_idle(&self, deadline: Deadline) {
        let gauges = [
            ("gangway_calls", ""),
            ("gangway_dialogs", ""),
            ("gangway_relays", ""),
            ("gangway_asks", ""),
            ("gangway_dataplane_relays", ""),
            ("gangway_media_ports", "state=\"used\""),
        ];
        let mut left = Vec::new();
        while !deadline.is_over() {
            left = gauges.iter().filter(|(name, label)| self.metric(name, label) != 0.0).collect();
            if left.is_empty() {
                return;
            }
            crate::deadline::pause(Duration::from_millis(50));
        }
        panic!("something is left of a call: {left:?}\n{}", self.http("/metrics", None).1);
    }

    /// Process ids of control and of the dataplane that it started.
    ///
    /// # Panics
    /// When there is not one dataplane.
    #[track_caller]
    pub fn pids(&self) -> [i32; 2] {
        let control = self.control();
        let children = process::children(control);
        let [dataplane] = children[..] else { panic!("control has these children: {children:?}") };
        [control, dataplane]
    }

    /// Process id of control.
    pub fn control(&self) -> i32 {
        self.process.pid()
    }

    /// Ends the program as Ctrl-C does and waits for its end.
    ///
    /// # Panics
    /// When it does not end within 3 s with success.
    #[track_caller]
    pub fn interrupt(&self) {
        self.process.signal(Signal::INT);
        let status = self.process.wait_end(Deadline::seconds(4));
        assert!(status.is_some_and(|status| status.success()), "after SIGINT: {status:?}\n{}", self.process.tail());
    }

    /// The folder that the gateway runs in; its data folder lies in it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The log lines that contain `text`.
    pub fn log(&self, text: &str) -> Vec<String> {
        self.process.lines_with(text)
    }

    fn text(&self, name: &str) -> String {
        self.ready[name].as_str().unwrap_or_else(|| panic!("no {name} in {}", self.ready)).to_owned()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // The dataplane has a process group of its own: it leaves when control says so, else by its linger time.
        self.process.signal(Signal::INT);
        self.process.wait_end(Deadline::seconds(4));
    }
}

/// The settings of a test in this folder.
fn all_settings(folder: &TempDir, settings: &[(&str, &str)]) -> BTreeMap<String, String> {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let mut all: BTreeMap<String, String> = SETTINGS.iter().map(own).collect();
    all.insert("dataplane_engine".to_owned(), engine_setting());
    all.insert("data_dir".to_owned(), folder.path().join("data").display().to_string());
    all.insert("sdk_dir".to_owned(), root().join("node_modules/@flashphoner/websdk").display().to_string());
    all.extend(settings.iter().map(own));
    all
}

/// Starts control with these settings and waits for its ready line.
#[track_caller]
fn control(folder: &TempDir, settings: &BTreeMap<String, String>, arguments: &[&str]) -> (Process, Value) {
    let mut command = Command::new(binary("gangway-control"));
    command.args(arguments).current_dir(folder.path());
    if arguments.contains(&"--demo") {
        for (key, value) in settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
    } else {
        let file = folder.path().join("gangway.properties");
        let mut text = String::new();
        for (key, value) in settings {
            writeln!(text, "{key}={value}").expect("a string takes everything");
        }
        fs::write(&file, text).expect("the settings are written");
        command.arg("--config").arg(&file);
    }
    let mut process = Process::start("gangway-control", command);
    let line = process.wait_line("the ready line", Deadline::after(READY_WITHIN), |line| line.starts_with('{'));
    let ready: Value = serde_json::from_str(&line).expect("the ready line is JSON");
    assert_eq!(ready["event"], "ready", "{ready}");
    (process, ready)
}

/// The fields of a `connection` message for an account at a registrar on 127.0.0.1, as the Phone page sends them.
pub fn connection(user: &str, password: &str, registrar: u16, registers: bool) -> Value {
    json!({
        "appKey": "defaultApp", "mediaProviders": ["WebRTC", "MSE", "WSPlayer"], "clientVersion": "2.0",
        "clientOSVersion": "test", "clientBrowserVersion": "test", "msePacketizationVersion": 2, "custom": {},
        "sipLogin": user, "sipAuthenticationName": user, "sipPassword": password, "sipDomain": "127.0.0.1",
        "sipOutboundProxy": "127.0.0.1", "sipPort": registrar.to_string(), "sipRegisterRequired": registers,
    })
}

/// A program of the workspace in the folder that the test program was built into.
///
/// # Panics
/// When it is not built.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test program has a path");
    let folder = test.parent().and_then(Path::parent).expect("target/<profile>/deps");
    let file = folder.join(name);
    assert!(file.is_file(), "{} is not built: cargo build -p gangway-control -p gangway-dataplane", file.display());
    file
}
