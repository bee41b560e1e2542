//! Settings of the dataplane.
//!
//! One table ([`KEYS`]) names every key with its default, range and meaning: it drives the parser, and a test holds the page
//! `docs/OPERATIONS.md` to it. The file is shared with control, so keys of others are passed over here; `gangway-control --check`
//! judges them.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};

use gangway_shared::settings::{Port, Settings, SettingsError};

use crate::{
    engine::choice::Wanted,
    ports::{LocalAddress, MediaRange, ReceiveBuffers},
    relay::{RelayLimits, RelayTimers},
    sandbox::RelayUser,
};

/// Longest path of a unix socket in bytes, with room for the kernel's limit of 108.
pub const SOCKET_PATH_MAX_BYTES: usize = 100;

/// Worker threads at most: their counters fit one frame of RCP.
pub const WORKERS_MAX: u16 = 64;

/// Routes that two legs have room for on average.
const ROUTES_PER_TWO_LEGS: u32 = 3;

/// What a key takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A whole number.
    Number {
        /// When nobody sets it.
        default: u64,
        /// Least value allowed.
        min: u64,
        /// Largest value allowed.
        max: u64,
    },
    /// A port number or `auto`.
    Port {
        /// When nobody sets it.
        default: u16,
    },
    /// Something else.
    Text {
        /// Default, in words.
        default: &'static str,
    },
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Name in the file.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What it means, for the page.
    pub meaning: &'static str,
}

const fn number(name: &'static str, default: u64, min: u64, max: u64, meaning: &'static str) -> Key {
    Key { name, kind: Kind::Number { default, min, max }, meaning }
}

const fn text(name: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key { name, kind: Kind::Text { default }, meaning }
}

/// Every key the dataplane reads.
pub const KEYS: &[Key] = &[
    text(
        "ip",
        "address of the default route, else 127.0.0.1",
        "list of `local` or `local=advertised`: addresses for SDP",
    ),
    text("ip_local", "0.0.0.0 and ::", "addresses to bind; a specific one is bound in place of an `ip` of its family"),
    Key {
        name: "media_port_from",
        kind: Kind::Port { default: 31001 },
        meaning: "first RTP port towards SIP peers, or `auto`",
    },
    Key { name: "media_port_to", kind: Kind::Port { default: 32000 }, meaning: "last RTP port towards SIP peers" },
    number("media_port_quarantine_ms", 10_000, 0, 600_000, "a port pair rests so long before it is used again"),
    Key {
        name: "webrtc_port",
        kind: Kind::Port { default: 32100 },
        meaning: "UDP port of worker 0 towards browsers; worker n uses `webrtc_port` + n",
    },
    number(
        "webrtc_receive_buffer_kb",
        16_384,
        64,
        1_048_576,
        "kernel receive buffer of a port towards browsers, in KiB; net.core.rmem_max limits it",
    ),
    number("media_receive_buffer_kb", 512, 64, 65_536, "the same of a port towards a SIP peer"),
    text("dataplane_workers", "cores - 1, at least 1", "pinned worker threads, 1 to 64"),
    text("dataplane_cores", "last cores first", "list of cores to pin workers to, or `none`: not pinned"),
    text(
        "dataplane_scheduling",
        "auto",
        "`realtime`: a pinned worker goes before everything else on its core (SCHED_RR); `fair`: it takes turns; `auto`: `realtime` while a core is left for the rest",
    ),
    text(
        "dataplane_engine",
        "auto",
        "how packets enter and leave: `uring` or `epoll`; `auto` takes io_uring where the kernel has it and allows it",
    ),
    text(
        "dataplane_socket",
        "`data_dir`/dataplane.sock",
        "unix socket of the relay control protocol, at most 100 bytes",
    ),
    text(
        "dataplane_user",
        "`gangway`, else `nobody`",
        "user that the relay process runs as when root starts it, or `none`: who starts it",
    ),
    text("dataplane_control_uid", "own uid", "user id that control runs as"),
    number(
        "dataplane_linger_s",
        60,
        1,
        86_400,
        "a managed dataplane leaves after so long with no control and no relay",
    ),
    number("orphan_grace_s", 300, 1, 86_400, "relays without control live so long, and only while media flows"),
    number("dataplane_relays_max", 4096, 1, 65_536, "relays one worker has room for"),
    number(
        "dataplane_legs_max",
        16_384,
        2,
        262_144,
        "legs one worker has room for; routes are one and a half times as many",
    ),
    number("dataplane_buffers", 4096, 256, 65_535, "packets one worker can hold at a time, 2 KiB each"),
    number(
        "dataplane_mailbox_max",
        4096,
        64,
        65_536,
        "messages that wait between the control thread and one worker, each way; a request over it is refused",
    ),
    number("dataplane_requests_max", 2048, 1, 65_536, "requests of control that are under way; one more is refused"),
    number(
        "dataplane_new_addresses_per_s",
        1000,
        1,
        1_000_000,
        "addresses of browsers that one worker takes in a second, each after an authenticated check",
    ),
    number(
        "video_history_kb",
        16_384,
        0,
        1_048_576,
        "sent video that one worker keeps, in KiB, for browsers that miss packets; a second of it is enough",
    ),
    number("rtcp_interval_ms", 5000, 100, 60_000, "mean interval of RTCP reports"),
    number(
        "consent_timeout_ms",
        30_000,
        500,
        600_000,
        "a browser without a consent check for so long is gone (RFC 7675)",
    ),
    number("latch_rearm_ms", 2000, 100, 60_000, "a latched RTP leg silent for so long learns its peer's address anew"),
    number("latch_learn_ms", 200, 0, 5000, "candidates for the peer's address are compared for so long"),
    number("srtp_old_keys_ms", 10_000, 0, 600_000, "former SRTP keys are tried so long after new ones came"),
    number("dtls_timeout_ms", 30_000, 500, 600_000, "a DTLS handshake is reported as failed after so long"),
    number("drain_timeout_s", 30, 0, 86_400, "after SIGTERM relays may go on for so long"),
    text("log_level", "info", "`error`, `warn`, `info`, `debug` or `trace`; the variable RUST_LOG says more and wins"),
    text("data_dir", "./gangway-data", "directory of the socket and the lock; made with mode 0700"),
];

/// Settings of the dataplane, read and checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Local addresses with what is advertised for them.
    pub addresses: Vec<LocalAddress>,
    /// Ports towards SIP peers.
    pub media: MediaRange,
    /// Rest of a pair before reuse.
    pub quarantine: Duration,
    /// Port of worker 0 towards browsers.
    pub webrtc_port: Port,
    /// Receive buffers of all ports.
    pub receive_buffers: ReceiveBuffers,
    /// Worker threads.
    pub workers: u16,
    /// How packets enter and leave.
    pub engine: Wanted,
    /// Core of each worker; fewer than workers: the rest is not pinned.
    pub cores: Vec<usize>,
    /// Whether workers go before everything else on their cores.
    pub scheduling: Scheduling,
    /// Unix socket of RCP.
    pub socket: PathBuf,
    /// User id that may connect.
    pub control_uid: u32,
    /// User that the relay process runs as.
    pub user: RelayUser,
    /// A managed dataplane leaves after so long alone.
    pub linger: Duration,
    /// Life of relays without control.
    pub orphan_grace: Duration,
    /// Room of one worker.
    pub limits: RelayLimits,
    /// Packets one worker can hold.
    pub buffers: usize,
    /// Messages that wait between the manager and one worker, each way.
    pub mailbox_max: usize,
    /// Requests of control that are under way.
    pub requests_max: usize,
    /// Addresses of browsers that one worker takes in a second.
    pub new_addresses_per_s: u32,
    /// Bytes of sent video that one worker keeps.
    pub history_bytes: usize,
    /// Timers of the relay core.
    pub timers: RelayTimers,
    /// A handshake is reported as failed after so long.
    pub dtls_timeout: Duration,
    /// Relays may go on for so long after SIGTERM.
    pub drain_timeout: Duration,
    /// Least severe line of the log.
    pub log_level: String,
    /// Directory of the socket.
    pub data_dir: PathBuf,
}

/// Facts about the machine that defaults depend on.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Cores this process may run on.
    pub cores: Vec<usize>,
    /// Address towards the outside.
    pub default_ip: Option<IpAddr>,
    /// Own user id.
    pub uid: u32,
    /// Whether an address is one of this machine's.
    pub is_local: fn(IpAddr) -> bool,
}

impl Config {
    /// Reads the dataplane's keys.
    ///
    /// # Errors
    /// The first value that is not allowed, with file, line, key and what would be allowed.
    pub fn read(settings: &Settings, machine: &Machine) -> Result<Self, SettingsError> {
        let reader = Reader { settings };
        let data_dir = PathBuf::from(reader.text("data_dir", "./gangway-data"));
        let workers = read_workers(settings, machine)?;
        let cores = read_cores(settings, machine, workers)?;
        let legs = reader.count("dataplane_legs_max")?;
        let (relays, routes) = (reader.count("dataplane_relays_max")?, legs / 2 * ROUTES_PER_TWO_LEGS);
        Ok(Config {
            addresses: read_addresses(settings, machine)?,
            media: reader.media_range()?,
            quarantine: reader.millis("media_port_quarantine_ms")?,
            webrtc_port: reader.webrtc_port(workers)?,
            receive_buffers: ReceiveBuffers {
                browser: reader.kib("webrtc_receive_buffer_kb")?,
                media: reader.kib("media_receive_buffer_kb")?,
            },
            workers,
            engine: read_engine(settings)?,
            scheduling: read_scheduling(settings, machine, &cores)?,
            cores,
            socket: read_socket(settings, &data_dir)?,
            control_uid: settings
                .read("dataplane_control_uid", machine.uid, "a user id is allowed", |text| text.parse().ok())?,
            user: match reader.text("dataplane_user", "").as_str() {
                "" => RelayUser::Usual,
                "none" => RelayUser::Same,
                name => RelayUser::Named(name.to_owned()),
            },
            linger: reader.seconds("dataplane_linger_s")?,
            orphan_grace: reader.seconds("orphan_grace_s")?,
            limits: RelayLimits { relays, legs, routes },
            buffers: reader.count("dataplane_buffers")? as usize,
            mailbox_max: reader.count("dataplane_mailbox_max")? as usize,
            requests_max: reader.count("dataplane_requests_max")? as usize,
            new_addresses_per_s: reader.count("dataplane_new_addresses_per_s")?,
            history_bytes: reader.kib("video_history_kb")?,
            timers: RelayTimers {
                rtcp_interval: reader.millis("rtcp_interval_ms")?,
                consent_timeout: reader.millis("consent_timeout_ms")?,
                latch_rearm: reader.millis("latch_rearm_ms")?,
                latch_learn: reader.millis("latch_learn_ms")?,
                old_keys: reader.millis("srtp_old_keys_ms")?,
            },
            dtls_timeout: reader.millis("dtls_timeout_ms")?,
            drain_timeout: reader.seconds("drain_timeout_s")?,
            log_level: read_log_level(settings)?,
            data_dir,
        })
    }
}

/// Reads values by the ranges of the table.
struct Reader<'a> {
    settings: &'a Settings,
}

impl Reader<'_> {
    fn key(name: &str) -> &'static Key {
        KEYS.iter().find(|key| key.name == name).expect("every key that is read stands in the table")
    }

    fn number(&self, name: &str) -> Result<u64, SettingsError> {
        let Kind::Number { default, min, max } = Self::key(name).kind else { unreachable!("{name} is a number") };
        self.settings.number(name, default, min..=max)
    }

    fn count(&self, name: &str) -> Result<u32, SettingsError> {
        self.number(name).map(|number| u32::try_from(number).expect("the table's range fits 32 bits"))
    }

    fn kib(&self, name: &str) -> Result<usize, SettingsError> {
        self.number(name).map(|kib| usize::try_from(kib << 10).expect("the table's range fits a usize"))
    }

    fn millis(&self, name: &str) -> Result<Duration, SettingsError> {
        self.number(name).map(Duration::from_millis)
    }

    fn seconds(&self, name: &str) -> Result<Duration, SettingsError> {
        self.number(name).map(Duration::from_secs)
    }

    fn port(&self, name: &str) -> Result<Port, SettingsError> {
        let Kind::Port { default } = Self::key(name).kind else { unreachable!("{name} is a port") };
        self.settings.port(name, default)
    }

    fn text(&self, name: &str, default: &str) -> String {
        let value = self.settings.get(name).map(|setting| setting.value.as_str());
        value.filter(|value| !value.is_empty()).unwrap_or(default).to_owned()
    }

    fn media_range(&self) -> Result<MediaRange, SettingsError> {
        let (Port::Fixed(from), Port::Fixed(to)) = (self.port("media_port_from")?, self.port("media_port_to")?) else {
            return Ok(MediaRange::Auto);
        };
        let first_even = from.saturating_add(from % 2);
        if from == 0 || first_even >= to {
            let at = if self.settings.get("media_port_to").is_some() { "media_port_to" } else { "media_port_from" };
            return Err(bad(self.settings, at, "the range must hold an even port above 0 and its successor"));
        }
        Ok(MediaRange::Fixed(from, to))
    }

    fn webrtc_port(&self, workers: u16) -> Result<Port, SettingsError> {
        let port = self.port("webrtc_port")?;
        match port {
            Port::Fixed(0) => Err(bad(self.settings, "webrtc_port", "a port above 0, or auto, is allowed")),
            Port::Fixed(first) if first.checked_add(workers - 1).is_none() => {
                Err(bad(self.settings, "webrtc_port", "webrtc_port + dataplane_workers must not pass 65535"))
            }
            _ => Ok(port),
        }
    }
}

fn bad(settings: &Settings, key: &str, allowed: &str) -> SettingsError {
    SettingsError::BadValue {
        origin: settings.origin(key),
        key: key.to_owned(),
        value: settings.get(key).map(|setting| setting.value.clone()).unwrap_or_default(),
        allowed: allowed.to_owned(),
    }
}

/// Splits a list at commas, semicolons and blanks.
fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ';', ' ', '\t']).filter(|item| !item.is_empty())
}

/// An `ip` alone that is no address of this machine stands behind a translation: the bind address of its family serves it.
fn read_addresses(settings: &Settings, machine: &Machine) -> Result<Vec<LocalAddress>, SettingsError> {
    let wildcards = vec![IpAddr::from([0; 4]), IpAddr::from([0; 16])];
    let binds = settings.read("ip_local", wildcards, "a list of IP addresses is allowed", |text| {
        list(text).map(|item| item.parse().ok()).collect::<Option<Vec<IpAddr>>>().filter(|list| !list.is_empty())
    })?;
    let bind_for = |advertised: IpAddr| {
        let of_family = binds.iter().copied().find(|bind| bind.is_ipv4() == advertised.is_ipv4());
        match of_family {
            Some(bind) if !bind.is_unspecified() => bind,
            _ if (machine.is_local)(advertised) => advertised,
            Some(bind) => bind,
            None => advertised,
        }
    };
    let allowed = "a list of IP addresses or of local=advertised is allowed";
    let default = machine.default_ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let default = vec![LocalAddress { bind: bind_for(default), advertised: default }];
    settings.read("ip", default, allowed, |text| {
        let entries = list(text).map(|item| match item.split_once('=') {
            Some((local, advertised)) => {
                let (bind, advertised): (IpAddr, IpAddr) = (local.parse().ok()?, advertised.parse().ok()?);
                (bind.is_ipv4() == advertised.is_ipv4()).then_some(LocalAddress { bind, advertised })
            }
            None => {
                let advertised: IpAddr = item.parse().ok().filter(|ip: &IpAddr| !ip.is_unspecified())?;
                Some(LocalAddress { bind: bind_for(advertised), advertised })
            }
        });
        entries.collect::<Option<Vec<_>>>().filter(|list| !list.is_empty()).map(one_per_bind)
    })
}

/// A port can be bound once: of entries that bind the same address the first counts.
fn one_per_bind(entries: Vec<LocalAddress>) -> Vec<LocalAddress> {
    let mut kept: Vec<LocalAddress> = Vec::new();
    for entry in entries {
        if kept.iter().all(|other| other.bind != entry.bind) {
            kept.push(entry);
        }
    }
    kept
}

fn read_workers(settings: &Settings, machine: &Machine) -> Result<u16, SettingsError> {
    let default = machine.cores.len().saturating_sub(1).clamp(1, usize::from(WORKERS_MAX));
    let default = u16::try_from(default).expect("at most WORKERS_MAX");
    settings.read("dataplane_workers", default, "a whole number from 1 to 64 is allowed", |text| {
        text.parse().ok().filter(|workers| (1..=WORKERS_MAX).contains(workers))
    })
}

fn read_cores(settings: &Settings, machine: &Machine, workers: u16) -> Result<Vec<usize>, SettingsError> {
    let last_first: Vec<usize> = machine.cores.iter().rev().copied().cycle().take(usize::from(workers)).collect();
    let allowed = format!("none, or a list of cores among {:?}, is allowed", machine.cores);
    settings.read("dataplane_cores", last_first, &allowed, |text| match text {
        "none" => Some(Vec::new()),
        _ => list(text).map(|item| item.parse().ok().filter(|core| machine.cores.contains(core))).collect(),
    })
}

/// How workers share their cores with the rest of the machine (`dataplane_scheduling`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheduling {
    /// In turns, as everything else.
    #[default]
    Fair,
    /// Before everything else, where the kernel allows it.
    Realtime {
        /// The settings name it, so that a refusal is worth a warning.
        is_named: bool,
    },
}

fn read_scheduling(settings: &Settings, machine: &Machine, cores: &[usize]) -> Result<Scheduling, SettingsError> {
    // A worker that never rests must leave a core to control, the handshakes and the operator's shell.
    let leaves_a_core = !cores.is_empty() && machine.cores.iter().any(|core| !cores.contains(core));
    let auto = if leaves_a_core { Scheduling::Realtime { is_named: false } } else { Scheduling::Fair };
    settings.read("dataplane_scheduling", auto, "auto, fair or realtime (of pinned workers) is allowed", |text| {
        match text {
            "auto" => Some(auto),
            "fair" => Some(Scheduling::Fair),
            "realtime" => (!cores.is_empty()).then_some(Scheduling::Realtime { is_named: true }),
            _ => None,
        }
    })
}

fn read_log_level(settings: &Settings) -> Result<String, SettingsError> {
    let levels = ["error", "warn", "info", "debug", "trace"];
    settings.read("log_level", "info".to_owned(), "error, warn, info, debug or trace is allowed", |text| {
        levels.contains(&text).then(|| text.to_owned())
    })
}

fn read_engine(settings: &Settings) -> Result<Wanted, SettingsError> {
    settings.read("dataplane_engine", Wanted::Auto, "auto, uring or epoll is allowed", |text| match text {
        "auto" => Some(Wanted::Auto),
        "uring" => Some(Wanted::Uring),
        "epoll" => Some(Wanted::Epoll),
        _ => None,
    })
}

fn read_socket(settings: &Settings, data_dir: &std::path::Path) -> Result<PathBuf, SettingsError> {
    let default = data_dir.join("dataplane.sock");
    let socket = settings.read("dataplane_socket", default, "a path is allowed", |text| Some(PathBuf::from(text)))?;
    if socket.as_os_str().len() > SOCKET_PATH_MAX_BYTES {
        let key = if settings.get("dataplane_socket").is_some() { "dataplane_socket" } else { "data_dir" };
        let reason = format!(
            "the socket's path has {} bytes, at most {SOCKET_PATH_MAX_BYTES} are allowed",
            socket.as_os_str().len()
        );
        return Err(bad(settings, key, &reason));
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        let is_local = |ip: IpAddr| ip.is_loopback() || ip == IpAddr::from([10, 0, 0, 5]);
        Machine { cores: vec![0, 1, 2, 3], default_ip: Some([10, 0, 0, 5].into()), uid: 1000, is_local }
    }

    fn read(text: &str) -> Result<Config, SettingsError> {
        Config::read(&Settings::parse("test.properties", text, &[]).unwrap(), &machine())
    }

    fn address(bind: &str, advertised: &str) -> LocalAddress {
        LocalAddress { bind: bind.parse().unwrap(), advertised: advertised.parse().unwrap() }
    }

    #[test]
    fn an_empty_file_gives_the_documented_defaults() {
        let config = read("").unwrap();
        assert_eq!(config.addresses, [address("10.0.0.5", "10.0.0.5")]);
        assert_eq!((config.media, config.webrtc_port), (MediaRange::Fixed(31001, 32000), Port::Fixed(32100)));
        assert_eq!((config.workers, config.cores.as_slice()), (3, &[3, 2, 1][..]));
        assert_eq!(config.engine, Wanted::Auto);
        assert_eq!(read("dataplane_engine=uring").unwrap().engine, Wanted::Uring);
        assert_eq!((config.control_uid, config.orphan_grace), (1000, Duration::from_secs(300)));
        assert_eq!(config.limits, RelayLimits { relays: 4096, legs: 16_384, routes: 24_576 });
        assert_eq!(config.receive_buffers, ReceiveBuffers { browser: 16 << 20, media: 512 << 10 });
        assert_eq!(config.socket, PathBuf::from("./gangway-data/dataplane.sock"));
    }

    #[test]
    fn addresses_are_bound_where_they_are_local() {
        let addresses = |text: &str| read(text).unwrap().addresses;
        assert_eq!(
            addresses("ip=127.0.0.1, 10.0.0.5"),
            [address("127.0.0.1", "127.0.0.1"), address("10.0.0.5", "10.0.0.5")]
        );
        assert_eq!(addresses("ip=10.0.0.5=203.0.113.1"), [address("10.0.0.5", "203.0.113.1")]);
        assert_eq!(addresses("ip=203.0.113.1\nip_local=10.0.0.5"), [address("10.0.0.5", "203.0.113.1")]);
        assert_eq!(addresses("ip=203.0.113.1"), [address("0.0.0.0", "203.0.113.1")]);
        assert_eq!(addresses("ip=::1"), [address("::1", "::1")]);
        assert_eq!(addresses("ip=203.0.113.1,203.0.113.2"), [address("0.0.0.0", "203.0.113.1")]);
    }

    #[test]
    fn bad_values_name_their_key_and_what_is_allowed() {
        let cases = [
            ("ip=10.0.0.5=::1", "a list of IP addresses or of local=advertised"),
            ("ip_local=here", "a list of IP addresses"),
            ("media_port_from=40000\nmedia_port_to=40000", "the range must hold"),
            ("media_port_from=0", "the range must hold"),
            ("dataplane_engine=fast", "auto, uring or epoll"),
            ("dataplane_workers=0", "from 1 to 64"),
            ("dataplane_cores=9", "cores among [0, 1, 2, 3]"),
            ("dataplane_scheduling=fast", "auto, fair or realtime"),
            ("dataplane_scheduling=realtime\ndataplane_cores=none", "realtime (of pinned workers)"),
            ("webrtc_port=65535", "must not pass 65535"),
            ("dtls_timeout_ms=1", "from 500 to 600000"),
            ("dataplane_control_uid=root", "a user id"),
            ("log_level=loud", "debug or trace"),
        ];
        for (text, wanted) in cases {
            let error = read(text).unwrap_err().to_string();
            assert!(error.starts_with("test.properties:") && error.contains(wanted), "{text}: {error}");
        }
        let long = format!("data_dir=/{}", "x".repeat(100));
        assert!(read(&long).unwrap_err().to_string().contains("at most 100 are allowed"));
    }

    #[test]
    fn unpinned_workers_and_kernel_chosen_ports_can_be_asked_for() {
        let config = read("dataplane_cores=none\nmedia_port_from=auto\nwebrtc_port=auto\ndataplane_workers=2").unwrap();
        assert_eq!((config.cores.len(), config.workers), (0, 2));
        assert_eq!((config.media, config.webrtc_port), (MediaRange::Auto, Port::Auto));
    }

    #[test]
    fn workers_go_first_only_where_a_core_is_left_for_the_rest() {
        let scheduling = |text: &str| read(text).unwrap().scheduling;
        let first = Scheduling::Realtime { is_named: false };
        assert_eq!(scheduling(""), first, "three workers on four cores");
        assert_eq!(scheduling("dataplane_scheduling=auto\ndataplane_workers=1"), first);
        assert_eq!(scheduling("dataplane_workers=4"), Scheduling::Fair);
        assert_eq!(scheduling("dataplane_cores=none"), Scheduling::Fair);
        assert_eq!(scheduling("dataplane_scheduling=fair"), Scheduling::Fair);
        let named = scheduling("dataplane_scheduling=realtime\ndataplane_workers=4");
        assert_eq!(named, Scheduling::Realtime { is_named: true });
    }

    #[test]
    fn the_page_shows_every_key_with_the_default_of_the_table() {
        let page = include_str!("../../docs/OPERATIONS.md");
        for key in KEYS {
            let start = format!("| `{}` | ", key.name);
            let row = page.lines().find_map(|line| line.strip_prefix(&start));
            let row = row.unwrap_or_else(|| panic!("docs/OPERATIONS.md has no row of {}", key.name));
            let default = match key.kind {
                Kind::Number { default, .. } => default.to_string(),
                Kind::Port { default } => default.to_string(),
                Kind::Text { .. } => continue,
            };
            assert!(row.starts_with(&format!("`{default}` | ")), "{}: {row}", key.name);
        }
    }
}
