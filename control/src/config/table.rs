//! The one table of settings: it drives the parser, `--check` and the page for operators.

use std::net::IpAddr;

use gangway_shared::settings::Port;

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A port, or `auto`.
    Port,
    /// A whole number in this range.
    Number(u64, u64),
    /// `true` or `false`.
    Bool,
    /// `true`, `false`, or `true,` and whole seconds.
    Activity,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Any text of at most so many bytes and no control characters.
    Text(usize),
    /// The same, never shown.
    Secret(usize),
    /// Words joined by commas.
    List,
    /// One IP address.
    Address,
    /// IP addresses joined by commas, each optionally `local=advertised`.
    Addresses,
    /// Address ranges joined by commas: `10.0.0.0/8`, `2001:db8::/32`, or single addresses.
    Subnets,
    /// Origins of web pages joined by commas, `https://app.example.com:8443`, or `*`.
    Origins,
}

/// What a key does today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Read and obeyed.
    Used,
    /// Read and checked; the text says why nothing follows from it.
    WithoutEffect(&'static str),
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// As written in the file.
    pub name: &'static str,
    /// Its value when nobody sets it; empty for none.
    pub default: &'static str,
    /// What the default is in words, where it is found at start.
    pub computed: Option<&'static str>,
    /// What it takes.
    pub kind: Kind,
    /// What it does.
    pub state: State,
    /// One line for operators, with the unit.
    pub doc: &'static str,
}

const fn key(name: &'static str, default: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { name, default, computed: None, kind, state: State::Used, doc }
}

/// A time to wait, in milliseconds.
const fn millis(name: &'static str, default: &'static str, doc: &'static str) -> Key {
    key(name, default, Kind::Number(10, DAY_MS), doc)
}

/// A SIP timer that follows T1 unless it is set.
const fn sip_timer(name: &'static str, doc: &'static str) -> Key {
    key(name, "", Kind::Number(1, DAY_MS), doc).computed("64*T1")
}

impl Key {
    const fn computed(mut self, words: &'static str) -> Self {
        self.computed = Some(words);
        self
    }

    const fn without_effect(mut self, why: &'static str) -> Self {
        self.state = State::WithoutEffect(why);
        self
    }
}

/// A parsed value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Port`].
    Port(Port),
    /// Of [`Kind::Number`].
    Number(u64),
    /// Of [`Kind::Bool`].
    Bool(bool),
    /// Of [`Kind::Activity`]: whether, and the seconds when they are named.
    Activity(bool, Option<u64>),
    /// Of [`Kind::Choice`], [`Kind::Text`] and [`Kind::Secret`].
    Text(String),
    /// Of [`Kind::List`], and of [`Kind::Origins`] in small letters.
    List(Vec<String>),
    /// Of [`Kind::Address`] and [`Kind::Addresses`].
    Addresses(Vec<LocalAddress>),
    /// Of [`Kind::Subnets`]: address and prefix length.
    Subnets(Vec<(IpAddr, u8)>),
    /// Nobody set it and it has no default.
    Unset,
}

/// An address of this machine and the one that peers are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// Address to bind.
    pub local: IpAddr,
    /// Address to announce; the same without network address translation.
    pub advertised: IpAddr,
}

impl Kind {
    /// What is allowed, as the end of "`key` = `value`: ...".
    #[must_use]
    pub fn allowed(self) -> String {
        match self {
            Kind::Port => "a port from 0 to 65535, or auto, is allowed".to_owned(),
            Kind::Number(min, max) => format!("a whole number from {min} to {max} is allowed"),
            Kind::Bool => "true or false is allowed".to_owned(),
            Kind::Activity => format!("true, false, or true,SECONDS with 1 to {ACTIVITY_MAX_S} is allowed"),
            Kind::Choice(words) => format!("{} is allowed", words.join(" or ")),
            Kind::Text(max) | Kind::Secret(max) => {
                format!("text of at most {max} bytes without control characters is allowed")
            }
            Kind::List => "words joined by commas are allowed".to_owned(),
            Kind::Address => "an IP address is allowed".to_owned(),
            Kind::Addresses => {
                "IP addresses joined by commas, each as local or local=advertised, are allowed".to_owned()
            }
            Kind::Subnets => "address ranges such as 10.0.0.0/8 joined by commas are allowed".to_owned(),
            Kind::Origins => {
                "origins such as https://app.example.com:8443 joined by commas, or *, are allowed".to_owned()
            }
        }
    }

    /// Reads `text`; `None` when it is not allowed.
    #[must_use]
    pub fn parse(self, text: &str) -> Option<Value> {
        match self {
            Kind::Port if text == "auto" => Some(Value::Port(Port::Auto)),
            Kind::Port => text.parse().ok().map(|port| Value::Port(Port::Fixed(port))),
            Kind::Number(min, max) => {
                text.parse().ok().filter(|number| (min..=max).contains(number)).map(Value::Number)
            }
            Kind::Bool => text.to_ascii_lowercase().parse().ok().map(Value::Bool),
            Kind::Activity => activity(text),
            Kind::Choice(words) => words.contains(&text).then(|| Value::Text(text.to_owned())),
            Kind::Text(max) | Kind::Secret(max) => {
                (text.len() <= max && !text.contains(char::is_control)).then(|| Value::Text(text.to_owned()))
            }
            Kind::List => {
                let words = split(text).map(str::to_owned).collect::<Vec<_>>();
                let bad = |word: &String| word.len() > 64 || word.contains(|at: char| at.is_control() || at == ' ');
                (words.len() <= LIST_MAX && !words.iter().any(bad)).then_some(Value::List(words))
            }
            Kind::Address => {
                text.parse().ok().map(|local| Value::Addresses(vec![LocalAddress { local, advertised: local }]))
            }
            Kind::Addresses => {
                let addresses = split(text).map(local_address).collect::<Option<Vec<_>>>()?;
                (!addresses.is_empty() && addresses.len() <= LIST_MAX).then_some(Value::Addresses(addresses))
            }
            Kind::Subnets => {
                let subnets = split(text).map(subnet).collect::<Option<Vec<_>>>()?;
                (subnets.len() <= LIST_MAX).then_some(Value::Subnets(subnets))
            }
            Kind::Origins => {
                let origins = split(text).map(origin).collect::<Option<Vec<_>>>()?;
                (origins.len() <= LIST_MAX).then_some(Value::List(origins))
            }
        }
    }
}

/// Most words of a list.
const LIST_MAX: usize = 64;

/// Longest time without media that may be asked for, in seconds: a day.
const ACTIVITY_MAX_S: u64 = DAY_MS / 1000;

fn activity(text: &str) -> Option<Value> {
    let (switch, seconds) = match text.split_once(',') {
        Some((switch, seconds)) => (switch, Some(seconds.trim().parse().ok()?)),
        None => (text, None),
    };
    let is_on = switch.trim().to_ascii_lowercase().parse().ok()?;
    let is_allowed = seconds.is_none_or(|seconds| is_on && (1..=ACTIVITY_MAX_S).contains(&seconds));
    is_allowed.then_some(Value::Activity(is_on, seconds))
}

fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|word| !word.is_empty())
}

fn local_address(text: &str) -> Option<LocalAddress> {
    let (local, advertised) = text.split_once('=').unwrap_or((text, text));
    Some(LocalAddress { local: local.trim().parse().ok()?, advertised: advertised.trim().parse().ok()? })
}

fn subnet(text: &str) -> Option<(IpAddr, u8)> {
    let (address, len) = match text.split_once('/') {
        Some((address, len)) => (address, Some(len.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let max = if address.is_ipv4() { 32 } else { 128 };
    let len = len.unwrap_or(max);
    (len <= max).then_some((address, len))
}

/// Longest origin: a host name has at most 253 characters.
const ORIGIN_MAX_BYTES: usize = 270;

fn origin(text: &str) -> Option<String> {
    let origin = text.to_ascii_lowercase();
    if origin == "*" {
        return Some(origin);
    }
    // Browsers leave the default port out of Origin.
    let origin = match origin.split_once("://") {
        Some(("https", rest)) => rest.strip_suffix(":443").map(|rest| format!("https://{rest}")),
        Some(("http", rest)) => rest.strip_suffix(":80").map(|rest| format!("http://{rest}")),
        _ => None,
    }
    .unwrap_or(origin);
    let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"))?;
    let allowed = |at: char| at.is_ascii_alphanumeric() || ".-:[]".contains(at);
    let is_origin = !authority.is_empty() && origin.len() <= ORIGIN_MAX_BYTES && authority.chars().all(allowed);
    is_origin.then_some(origin)
}

/// A day in milliseconds: the longest that any timer may be.
const DAY_MS: u64 = 86_400_000;

const VIDEO: &str = "this release makes no stand-in pictures";
const HOOKS: &str = "this release calls no REST hooks";
const TLS: &str = "this release speaks SIP over UDP and TCP";
const TRUNK: &str = "this release treats all peers alike in this";

/// Sub-keys of `trunk.<name>.`, as rows of the table.
pub const TRUNK_KEYS: &[Key] = &[
    key("match", "", Kind::List, "whom the trunk is for: hosts, `.domain` for all hosts under it, address ranges"),
    key("transport", "", Kind::Choice(&["udp", "tcp"]), "transport for accounts that name none")
        .computed("what the name's records say"),
    key(
        "udp_only",
        "false",
        Kind::Bool,
        "true: requests that go by UDP stay there however long they are: shortened at once, TCP is never tried",
    ),
    key("codecs", "", Kind::List, "in place of `codecs`").computed("`codecs`"),
    key("proxy", "", Kind::Text(255), "where requests go").without_effect(TRUNK),
    key("srtp", "", Kind::Text(64), "SRTP towards the peer").without_effect(TRUNK),
    key("prack", "", Kind::Text(64), "reliable ringing (RFC 3262)").without_effect(TRUNK),
    key("dtmf", "", Kind::Text(64), "how keys are sent").without_effect(TRUNK),
    key("ca_file", "", Kind::Text(4096), "PEM file of CAs").without_effect(TRUNK),
    key("headers", "", Kind::Text(4096), "further headers").without_effect(TRUNK),
    key("max_calls", "", Kind::Number(1, 1_000_000), "calls at once").without_effect(TRUNK),
    key("rate", "", Kind::Number(1, 1_000_000), "new calls a second").without_effect(TRUNK),
];

/// Every key, in the order of the page.
pub const KEYS: &[Key] = &[
    // Addresses and ports.
    key("ip", "", Kind::Addresses, "addresses for SDP, Via and Contact: `local` or `local=advertised`")
        .computed("address of the default route, else 127.0.0.1"),
    key("ip_local", "0.0.0.0,::", Kind::Addresses, "addresses to bind"),
    key("ws.port", "8080", Kind::Port, "websocket signalling; 0 turns it off"),
    key("wss.port", "8443", Kind::Port, "websocket signalling over TLS; 0 turns it off"),
    key("http.port", "8081", Kind::Port, "REST under `/rest-api`, pages under `/`, `/metrics`; 0 turns it off"),
    key("https.port", "8444", Kind::Port, "the same over TLS; 0 turns it off"),
    key("rest_bind", "127.0.0.1", Kind::Address, "address of http and https: REST has no password of its own"),
    key(
        "rest_allowed_origins",
        "",
        Kind::Origins,
        "web pages of other machines that may use REST and `/metrics`: origins, or `*` for every page",
    )
    .computed("none while `rest_bind` is loopback, else `*`"),
    key("tls.cert", "", Kind::Text(4096), "PEM file with the certificate chain for wss and https")
        .computed("self-signed, made at first start in `data_dir`"),
    key("tls.key", "", Kind::Text(4096), "PEM file with its private key").computed("as `tls.cert`"),
    key("sip_port", "5060", Kind::Port, "local SIP port, UDP and TCP"),
    key("sip_tls_port", "5061", Kind::Port, "local SIP port, TLS").without_effect(TLS),
    key("sip_use_tls", "false", Kind::Bool, "SIP over TLS towards the PBX").without_effect(TLS),
    key("sip_tls_ca_file", "", Kind::Text(4096), "PEM file of CAs trusted beside the system's").without_effect(TLS),
    key("port_from", "30000", Kind::Number(1, 65535), "first local SIP port of WCS")
        .without_effect("all SIP leaves from `sip_port`"),
    key("port_to", "31000", Kind::Number(1, 65535), "last local SIP port of WCS")
        .without_effect("all SIP leaves from `sip_port`"),
    // The dataplane's, checked here and handed to it.
    key("media_port_from", "31001", Kind::Port, "first RTP port towards SIP peers"),
    key("media_port_to", "32000", Kind::Port, "last RTP port towards SIP peers"),
    key("media_port_quarantine_ms", "10000", Kind::Number(0, 600_000), "ms before a media port is used again"),
    key("webrtc_port", "32100", Kind::Port, "UDP port of worker 0 towards browsers; worker n uses this + n"),
    key("dataplane_workers", "", Kind::Number(1, 64), "pinned workers").computed("cores - 1, at least 1"),
    key("dataplane_cores", "", Kind::List, "cores of the workers, or `none`: not pinned").computed("last cores first"),
    key(
        "dataplane_scheduling",
        "auto",
        Kind::Choice(&["auto", "fair", "realtime"]),
        "whether a pinned worker goes before everything else on its core; `auto`: while a core is left for the rest",
    ),
    key(
        "dataplane_engine",
        "auto",
        Kind::Choice(&["auto", "uring", "epoll"]),
        "io_uring or epoll; `auto` takes io_uring where the kernel has it and allows it",
    ),
    key("dataplane_socket", "", Kind::Text(100), "unix socket between control and dataplane, at most 100 bytes")
        .computed("`data_dir`/dataplane.sock"),
    key(
        "dataplane_user",
        "",
        Kind::Text(64),
        "user of the relay process when root starts it, or `none`: who starts it",
    )
    .computed("`gangway`, else `nobody`"),
    key("dataplane_control_uid", "", Kind::Number(0, u32::MAX as u64), "user that may control the dataplane")
        .computed("its own"),
    key(
        "dataplane_linger_s",
        "60",
        Kind::Number(1, 86_400),
        "s a managed dataplane stays with no control and no relay",
    ),
    key("orphan_grace_s", "300", Kind::Number(1, 86_400), "s a relay with media outlives its control"),
    key("rtcp_interval_ms", "5000", Kind::Number(100, 60_000), "ms between RTCP reports, on average"),
    key("consent_timeout_ms", "30000", Kind::Number(500, 600_000), "ms without an ICE check until consent is lost"),
    key("latch_rearm_ms", "2000", Kind::Number(100, 60_000), "ms of silence after which an RTP peer may move"),
    key(
        "latch_learn_ms",
        "200",
        Kind::Number(0, 5000),
        "ms during which candidates for an RTP peer's address are compared",
    ),
    key("srtp_old_keys_ms", "10000", Kind::Number(0, 600_000), "ms former SRTP keys are tried after new ones came"),
    key(
        "video_history_kb",
        "16384",
        Kind::Number(0, 1_048_576),
        "KiB of sent video that one worker keeps for browsers that miss packets; 0: none",
    ),
    key(
        "webrtc_receive_buffer_kb",
        "16384",
        Kind::Number(64, 1_048_576),
        "KiB of the kernel's receive buffer of a port towards browsers; `net.core.rmem_max` limits it",
    ),
    key(
        "media_receive_buffer_kb",
        "512",
        Kind::Number(64, 65_536),
        "KiB of the kernel's receive buffer of a port towards a SIP peer",
    ),
    key("dataplane_relays_max", "4096", Kind::Number(1, 65_536), "relays one worker has room for"),
    key(
        "dataplane_legs_max",
        "16384",
        Kind::Number(2, 262_144),
        "legs one worker has room for; routes are one and a half times as many",
    ),
    key("dataplane_buffers", "4096", Kind::Number(256, 65_535), "packets one worker can hold at a time, 2 KiB each"),
    key(
        "dataplane_mailbox_max",
        "4096",
        Kind::Number(64, 65_536),
        "messages that wait between the dataplane's control thread and one worker, each way; a request over it is refused with 503",
    ),
    key(
        "dataplane_requests_max",
        "2048",
        Kind::Number(1, 65_536),
        "requests to the dataplane that are under way; one more is refused with 503",
    ),
    key(
        "dataplane_new_addresses_per_s",
        "1000",
        Kind::Number(1, 1_000_000),
        "addresses of browsers that one worker takes in a second; others wait for their next check",
    ),
    key("dtls_timeout_ms", "30000", Kind::Number(500, 600_000), "ms a DTLS handshake may take"),
    key(
        "dataplane_start_timeout_ms",
        "10000",
        Kind::Number(100, DAY_MS),
        "ms control waits for the dataplane at start",
    ),
    key(
        "dataplane_restart_ms",
        "200",
        Kind::Number(10, 60_000),
        "ms before a dead dataplane is started again; doubles up to 30 s",
    ),
    key("rcp_timeout_ms", "5000", Kind::Number(50, DAY_MS), "ms until an unanswered request to the dataplane fails"),
    // The house.
    key("data_dir", "./gangway-data", Kind::Text(4096), "lock, journal, certificates; mode 0700"),
    key("node_id", "0", Kind::Number(0, 65535), "number of this node, part of every id"),
    key(
        "log_level",
        "info",
        Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
        "least severe line of the log",
    ),
    key("drain_timeout_s", "30", Kind::Number(0, 86_400), "s SIGTERM waits for calls to end"),
    key("sdk_dir", "", Kind::Text(4096), "the npm package @flashphoner/websdk, served under `/client2/`")
        .computed("node_modules/@flashphoner/websdk, searched upward"),
    // Calls.
    key(
        "codecs",
        "opus,alaw,ulaw,g729,speex16,g722,mpeg4-generic,telephone-event,h264,vp8,flv,mpv",
        Kind::List,
        "codecs of the INVITE, best first",
    ),
    key("codecs_exclude_sip", "mpeg4-generic,flv,mpv", Kind::List, "codecs never put into SIP"),
    key(
        "allow_outside_codecs",
        "true",
        Kind::Bool,
        "false: codecs of the browser that `codecs` lacks stay out of the INVITE",
    ),
    key("early_media", "auto", Kind::Choice(&["auto", "off"]), "`auto`: the first 18x with SDP answers the browser"),
    key(
        "ringback",
        "auto",
        Kind::Choice(&["auto", "on", "off"]),
        "a tone for browsers whose callee rings without media; `auto`: when only G.711 was offered, `on`: calls without video keep to G.711",
    ),
    key("ringback_tone", "europe", Kind::Choice(&["europe", "us"]), "425 Hz 1 s in 5, or 440 and 480 Hz 2 s in 6"),
    key("ring_timeout", "60", Kind::Number(1, 3600), "s an incoming call may ring"),
    key("invite_timeout", "180", Kind::Number(1, 3600), "s an outgoing call may go unanswered"),
    key("ice_timeout", "30", Kind::Number(1, 3600), "s an established call may be without a media path"),
    key(
        "rtp_activity_detecting",
        "true",
        Kind::Activity,
        "end a call when no RTP comes from a side that sends by its SDP; `true,30`: after 30 s",
    ),
    key(
        "rtp_activity_timeout_ms",
        "60000",
        Kind::Number(100, DAY_MS),
        "ms without RTP that end a call, unless `rtp_activity_detecting` names seconds",
    ),
    key(
        "call_busy_status",
        "FINISH",
        Kind::Choice(&["FINISH", "BUSY", "FAILED"]),
        "last status of a call that was busy",
    ),
    key("sdp_origin", "Gangway", Kind::Text(64), "user of `o=` in SIP SDP"),
    key("sdp_session_name", "Gangway", Kind::Text(64), "`s=` in SIP SDP"),
    key("allow_sip_headers", "false", Kind::Bool, "pass `sipHeaders` of clients into the INVITE"),
    key("generate_av_for_ua", "", Kind::List, "`all` or user agents that get stand-in media").without_effect(VIDEO),
    key(
        "rtp_generator_start_timeout",
        "100",
        Kind::Number(60, DAY_MS),
        "ms without sound of the browser until its SIP peer hears silence of ours, 60 at least",
    ),
    key("profiles", "42e01f,640028", Kind::List, "H.264 profiles of the INVITE (`profile-level-id`), best first"),
    key(
        "proxy_use_h264_packetization_mode_1_only",
        "true",
        Kind::Bool,
        "false: the INVITE offers H.264 in packetization mode 0 too",
    ),
    key(
        "rtp_bundle",
        "true",
        Kind::Bool,
        "false: pictures have a transport of their own towards browsers, on the same port",
    ),
    key("compact_media_port_usage", "false", Kind::Bool, "use odd media ports too")
        .without_effect("RTP takes even ports, RTCP the odd ones"),
    // Sessions.
    key(
        "client_timeout",
        "3600000",
        Kind::Number(100, 30 * DAY_MS),
        "ms a session without a socket and without calls lives with keepAlive",
    ),
    key("client_timeout_check_interval", "300000", Kind::Number(100, DAY_MS), "ms between looks at that"),
    key("keep_alive.server_interval", "5000", Kind::Number(10, DAY_MS), "ms between pings to a browser"),
    key("keep_alive.probes", "10", Kind::Number(1, 1000), "unanswered pings that end a socket"),
    key("register_expires", "3600", Kind::Number(10, 86_400), "s asked for in REGISTER"),
    millis("register_backoff_ms", "5000", "ms before a lost registration is tried again; doubles"),
    millis("register_backoff_max_ms", "300000", "ms, longest such wait"),
    key(
        "register_attempts_before_warning",
        "3",
        Kind::Number(1, 1000),
        "failures in a row until the browser is warned",
    ),
    key("sessions_max", "10000", Kind::Number(1, 1_000_000), "browser sessions, detached ones included"),
    key("sessions_per_ip_max", "1000", Kind::Number(1, 1_000_000), "of those, from one address or IPv6 /64"),
    key(
        "sessions_detached_max",
        "5000",
        Kind::Number(0, 1_000_000),
        "of those, without a socket; one more ends the oldest of the least worth",
    ),
    key("calls_max", "5000", Kind::Number(1, 1_000_000), "calls at once"),
    key("calls_per_session_max", "10", Kind::Number(1, 1000), "calls at once of one session"),
    millis("ask_timeout_ms", "10000", "ms a question to the world may take (names, relays)"),
    key("disable_rest_requests", "false", Kind::Bool, "no REST hooks").without_effect(HOOKS),
    key("rest_request_timeout", "15", Kind::Number(0, 3600), "s a REST hook may take").without_effect(HOOKS),
    key("rest_hook_send_hash", "false", Kind::Bool, "sign REST hooks").without_effect(HOOKS),
    key("rest_hook_secret_key", "", Kind::Secret(256), "key of that signature").without_effect(HOOKS),
    // SIP timers, RFC 3261 table 4.
    key("sip_t1_ms", "500", Kind::Number(1, 60_000), "ms, round-trip estimate T1"),
    key("sip_t2_ms", "4000", Kind::Number(1, 60_000), "ms, longest repeat interval T2"),
    key("sip_t4_ms", "5000", Kind::Number(1, 60_000), "ms, life of a message in the network T4"),
    sip_timer("sip_timer_b_ms", "ms, an INVITE without answer fails"),
    sip_timer("sip_timer_d_ms", "ms, repeated finals to our INVITE get an ACK"),
    sip_timer("sip_timer_f_ms", "ms, another request without answer fails"),
    sip_timer("sip_timer_h_ms", "ms, a 2xx of ours without ACK ends the call"),
    sip_timer("sip_timer_j_ms", "ms, repeated requests get the old answer"),
    sip_timer("sip_timer_l_ms", "ms, a received INVITE stays Accepted (RFC 6026)"),
    sip_timer("sip_timer_m_ms", "ms, a sent INVITE stays Accepted (RFC 6026)"),
    // SIP transport.
    key("sip_user_agent", "Gangway", Kind::Text(64), "User-Agent and Server headers"),
    key("sip_trusted", "", Kind::Subnets, "UDP sources that are trusted beside the targets of accounts and calls"),
    key(
        "sip_udp_request_limit_bytes",
        "1300",
        Kind::Number(0, 65_535),
        "longer requests go by TCP, or shortened by UDP (RFC 3261 section 18.1.1); 0: no limit",
    ),
    millis(
        "sip_long_request_connect_timeout_ms",
        "1000",
        "ms that its connection may take before it goes by UDP after all",
    ),
    millis(
        "sip_long_request_answer_timeout_ms",
        "2000",
        "ms without any answer on that connection after which an INVITE goes by UDP after all",
    ),
    millis("sip_long_request_tcp_retry_ms", "600000", "ms that a peer without TCP gets long requests by UDP at once"),
    key("sip_transactions_max", "16384", Kind::Number(10, 1_000_000), "transactions at once; beyond, 503"),
    key(
        "sip_unverified_transactions_max",
        "4096",
        Kind::Number(1, 1_000_000),
        "of those, for sources that are no account's target, over TCP too",
    ),
    key("sip_retry_after_s", "10", Kind::Number(1, 3600), "s, Retry-After of each 503"),
    key("sip_tcp_connections_max", "4096", Kind::Number(1, 100_000), "SIP connections at once"),
    key(
        "sip_tcp_accepted_max",
        "3072",
        Kind::Number(0, 100_000),
        "of those, made by peers; the rest is kept for connections that we make",
    ),
    key(
        "sip_tcp_connections_per_ip_max",
        "256",
        Kind::Number(1, 100_000),
        "of the latter, from one address or IPv6 /64",
    ),
    key("sip_tcp_idle_timeout_ms", "600000", Kind::Number(100, DAY_MS), "ms without a byte that end a SIP connection"),
    millis("sip_tcp_message_timeout_ms", "10000", "ms a begun message may take to arrive"),
    millis(
        "sip_tcp_first_message_timeout_ms",
        "10000",
        "ms until the first message of a connection that a peer made is whole",
    ),
    millis("sip_tcp_connect_timeout_ms", "5000", "ms to connect"),
    key(
        "sip_keepalive_interval_ms",
        "30000",
        Kind::Number(100, DAY_MS),
        "ms of silence before a keep-alive: on SIP connections we made, and over UDP to registrars",
    ),
    key("sip_send_queue_max", "256", Kind::Number(1, 65_536), "messages waiting for one SIP socket"),
    millis("dns_timeout_ms", "5000", "ms to resolve a name"),
    // Limits of the websocket and HTTP side.
    key("ws_message_max_bytes", "262144", Kind::Number(1024, 16 << 20), "largest websocket message"),
    key(
        "ws_messages_per_s",
        "100",
        Kind::Number(1, 100_000),
        "messages a second of one socket; a burst may be five times that",
    ),
    key(
        "ws_connections_max",
        "10000",
        Kind::Number(1, 1_000_000),
        "connections of all TCP ports for browsers and REST",
    ),
    key("ws_connections_per_ip_max", "1000", Kind::Number(1, 1_000_000), "of those, from one address or IPv6 /64"),
    key("ws_send_queue_max", "256", Kind::Number(4, 65_536), "messages waiting for one browser; full closes it"),
    millis("ws_close_timeout_ms", "5000", "ms to wait for the browser's close frame"),
    millis("ws_hello_timeout_ms", "30000", "ms until the first message of a websocket"),
    key(
        "tcp_user_timeout_ms",
        "60000",
        Kind::Number(100, DAY_MS),
        "ms a browser may leave what was sent unread or unacknowledged",
    ),
    millis("http_header_timeout_ms", "10000", "ms to send an HTTP request's header"),
    millis("http_body_timeout_ms", "10000", "ms to send an HTTP request's body"),
    key("http_body_max_bytes", "65536", Kind::Number(256, 16 << 20), "largest REST body"),
    millis("tls_handshake_timeout_ms", "10000", "ms a TLS handshake may take"),
    millis("rest_timeout_ms", "5000", "ms until REST answers 503"),
    key("hub_queue_max", "16384", Kind::Number(16, 1_000_000), "events waiting for the call logic"),
];

/// The row of `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}
