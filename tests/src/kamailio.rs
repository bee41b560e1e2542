//! Kamailio as the registrar and proxy of a test: accounts with digest passwords in its configuration, no database, a port
//! of its own.

use std::{fs, process::Command, time::Duration};

use tempfile::TempDir;

use crate::{
    deadline::Deadline,
    process::{Process, free_port, peer},
};

/// What kind of registrar is wanted.
#[derive(Debug, Clone)]
pub struct Options {
    /// Accounts: user and password. The realm is `127.0.0.1`.
    pub accounts: Vec<(String, String)>,
    /// Whether an INVITE from an account is challenged with 407.
    pub challenge_invite: bool,
    /// Whether a BYE from an account is challenged with 407.
    pub challenge_bye: bool,
    /// Longest registration, seconds: a longer wish is cut down to it in the 200.
    pub max_expires_s: u32,
    /// Shortest registration, seconds: a shorter wish is refused with 423.
    pub min_expires_s: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            accounts: [
                ("1001", "secret-1001"),
                ("1002", "secret-1002"),
                ("2001", "secret-2001"),
                ("2002", "secret-2002"),
            ]
            .map(|(user, password)| (user.to_owned(), password.to_owned()))
            .to_vec(),
            challenge_invite: true,
            challenge_bye: false,
            max_expires_s: 600,
            min_expires_s: 1,
        }
    }
}

/// A running Kamailio.
pub struct Kamailio {
    process: Process,
    port: u16,
    _folder: TempDir,
}

impl Kamailio {
    /// Starts it and waits until it answers; `None` when it is not installed.
    pub fn start(options: &Options) -> Option<Self> {
        let program = peer("kamailio")?;
        let folder = tempfile::Builder::new().prefix("kamailio").tempdir().expect("a folder for kamailio");
        // Somebody else may take the free port before Kamailio has bound it.
        for attempt in 0..5 {
            let port = free_port();
            let file = folder.path().join("kamailio.cfg");
            fs::write(&file, configuration(options, port)).expect("kamailio.cfg is written");
            let mut command = Command::new(&program);
            command.arg("-f").arg(&file).args(["-DD", "-E", "-m", "16", "-M", "4", "-w"]).arg(folder.path());
            command.arg("-Y").arg(folder.path());
            let process = Process::start("kamailio", command);
            if answers(&process, port) {
                return Some(Self { process, port, _folder: folder });
            }
            assert!(attempt < 4, "kamailio did not start:\n{}", process.tail());
        }
        None
    }

    /// The port of 127.0.0.1, UDP and TCP.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many requests with this method it has seen, repeats of the network included.
    pub fn seen(&self, method: &str) -> usize {
        self.process.lines_with(&format!("gangway-seen {method} ")).len()
    }

    /// The log lines of the requests with this method: `gangway-seen METHOD r-uri from to auth-user contact`.
    pub fn requests(&self, method: &str) -> Vec<String> {
        self.process.lines_with(&format!("gangway-seen {method} "))
    }

    /// Whether `user` has a registered contact at this moment, by its own log of saved and removed contacts.
    pub fn is_registered(&self, user: &str) -> bool {
        let last = self.process.lines_with(&format!("gangway-contacts {user} ")).pop();
        last.is_some_and(|line| !line.ends_with(" 0"))
    }

    /// Waits until `user` is registered, or no longer.
    #[track_caller]
    pub fn wait_registered(&self, user: &str, registered: bool, deadline: Deadline) {
        deadline.poll(&format!("{user} registered={registered} at kamailio"), || {
            (self.is_registered(user) == registered).then_some(())
        });
    }
}

/// Sends OPTIONS until the server answers or ends.
fn answers(process: &Process, port: u16) -> bool {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    let own = socket.local_addr().expect("an address").port();
    let options = format!(
        "OPTIONS sip:127.0.0.1:{port} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{own};rport;branch=z9hG4bKprobe\r\n\
         From: <sip:probe@127.0.0.1>;tag=1\r\nTo: <sip:127.0.0.1:{port}>\r\nCall-ID: probe-{own}\r\nCSeq: 1 OPTIONS\r\n\
         Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    );
    let deadline = Deadline::seconds(10);
    let mut answer = [0; 2000];
    while !deadline.is_over() && process.wait_end(Deadline::after(Duration::ZERO)).is_none() {
        let _ = socket.send_to(options.as_bytes(), ("127.0.0.1", port));
        if socket.recv(&mut answer).is_ok() {
            return true;
        }
    }
    false
}

fn configuration(options: &Options, port: u16) -> String {
    let passwords: String = options
        .accounts
        .iter()
        .map(|(user, password)| format!("    $sht(password=>{user}) = \"{password}\";\n"))
        .collect();
    let flag = |wanted: bool| if wanted { "true" } else { "false" };
    include_str!("kamailio.cfg.in")
        .replace("@PORT@", &port.to_string())
        .replace("@PASSWORDS@", &passwords)
        .replace("@CHALLENGE_INVITE@", flag(options.challenge_invite))
        .replace("@CHALLENGE_BYE@", flag(options.challenge_bye))
        .replace("@MAX_EXPIRES@", &options.max_expires_s.to_string())
        .replace("@MIN_EXPIRES@", &options.min_expires_s.to_string())
}
