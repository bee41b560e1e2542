//! Settings of the call core, with their defaults.

use std::{net::IpAddr, time::Duration};

use gangway_shared::rcp::Tone;

use super::trunks::Trunks;
use crate::{sdp::CodecPolicy, sip::ua::UaConfig};

/// What happens to the browser's call when the other side is busy (setting `call_busy_status`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BusyStatus {
    /// `busy`, then `finish` with FINISH: what the vendor's pages understand.
    #[default]
    Finish,
    /// `finish` with BUSY, for pages that wait for it.
    Busy,
    /// `busy`, then `finish` with FAILED.
    Failed,
}

/// When a browser hears a ringing tone of ours (setting `ringback`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ringback {
    /// When answering the browser early costs nothing: the SIP peer was offered G.711 alone.
    #[default]
    Auto,
    /// Whenever the browser speaks G.711; it is held to it then.
    On,
    /// Never.
    Off,
}

/// Ringing tones (ITU-T E.180).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RingbackTone {
    /// 425 Hz, 1 s on, 4 s off.
    #[default]
    Europe,
    /// 440 and 480 Hz, 2 s on, 4 s off.
    Us,
}

impl RingbackTone {
    /// As programs say it.
    #[must_use]
    pub fn tone(self) -> Tone {
        match self {
            RingbackTone::Europe => Tone { frequencies_hz: vec![425], on_ms: 1000, off_ms: 4000 },
            RingbackTone::Us => Tone { frequencies_hz: vec![440, 480], on_ms: 2000, off_ms: 4000 },
        }
    }
}

/// Settings of the core.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// This node's number, in every id.
    pub node: u16,
    /// The SIP agent's settings. `allow` is the core's own affair and overwritten.
    pub ua: UaConfig,
    /// Local addresses for media towards SIP peers, best first; the first of the peer's family is taken. Empty: the dataplane chooses.
    pub media_ips: Vec<IpAddr>,
    /// Codec lists.
    pub codecs: CodecPolicy,
    /// Settings for some peers only.
    pub trunks: Trunks,
    /// Whether all media of a call share one transport towards the browser (setting `rtp_bundle`).
    pub rtp_bundle: bool,
    /// `o=` user of SIP SDP.
    pub sdp_origin: String,
    /// `s=` of SIP SDP.
    pub sdp_session_name: String,
    /// Whether the first 18x with SDP answers the browser (setting `early_media`).
    pub early_media: bool,
    /// Whether a browser whose callee rings without media hears a tone of ours (setting `ringback`).
    pub ringback: Ringback,
    /// Which tone (setting `ringback_tone`).
    pub ringback_tone: RingbackTone,
    /// A browser without sound for so long is replaced by silence towards its SIP peer (setting `rtp_generator_start_timeout`).
    pub fill_after: Duration,
    /// Whether `sipHeaders` of `call` go into the INVITE (setting `allow_sip_headers`).
    pub allow_sip_headers: bool,
    /// What busy does to the browser's call (setting `call_busy_status`).
    pub busy_status: BusyStatus,
    /// An incoming call rings this long.
    pub ring_timeout: Duration,
    /// An outgoing call without a final answer is cancelled after this; longer than any voicemail's patience.
    pub invite_timeout: Duration,
    /// A browser that has its description must have a media path and keys within this.
    pub ice_timeout: Duration,
    /// Media may be silent this long; `None`: for ever (setting `rtp_activity_detecting`).
    pub media_timeout: Option<Duration>,
    /// Lifetime asked for in REGISTER, in seconds.
    pub register_expires_s: u32,
    /// First wait after a failed refresh; doubles up to `register_backoff_max`.
    pub register_backoff: Duration,
    /// Longest wait between attempts to register again.
    pub register_backoff_max: Duration,
    /// Failed attempts in a row after which the browser is told `UNREGISTERED`; attempts go on.
    pub register_attempts_before_warning: u32,
    /// Application `ping` period (setting `keep_alive.server_interval`).
    pub ping_interval: Duration,
    /// Unanswered pings after which a socket is dead (setting `keep_alive.probes`).
    pub ping_probes: u32,
    /// A socket must send `connection` within this.
    pub connection_timeout: Duration,
    /// Life of a detached keepAlive session.
    pub client_timeout: Duration,
    /// How often that is checked.
    pub client_timeout_check_interval: Duration,
    /// How long an ask may take.
    pub ask_timeout: Duration,
    /// How long a `Put` of a living call may take, the wall's absence included.
    pub relay_timeout: Duration,
    /// After a restart: how long relays live that the journal does not know (setting `orphan_grace_s`).
    pub orphan_grace: Duration,
    /// Most sessions, detached ones included; beyond, `connection` gets `fail`.
    pub max_sessions: usize,
    /// Most sessions of one address (an IPv6 /64), detached ones included; beyond, `connection` gets `fail`.
    pub max_sessions_per_ip: usize,
    /// Most detached sessions; one more ends the one that is needed least.
    pub max_detached_sessions: usize,
    /// Most calls; beyond, calls fail and INVITEs get 503.
    pub max_calls: usize,
    /// Most calls of one session; beyond, calls fail and INVITEs get 486.
    pub max_calls_per_session: usize,
    /// Retry-After of our 503, in seconds.
    pub retry_after_s: u32,
}

impl GatewayConfig {
    /// The defaults of the settings around a SIP agent.
    #[must_use]
    pub fn new(ua: UaConfig) -> Self {
        GatewayConfig {
            node: 0,
            ua,
            media_ips: Vec::new(),
            codecs: CodecPolicy::default(),
            trunks: Trunks::default(),
            rtp_bundle: true,
            sdp_origin: "Gangway".to_owned(),
            sdp_session_name: "Gangway".to_owned(),
            early_media: true,
            ringback: Ringback::default(),
            ringback_tone: RingbackTone::default(),
            fill_after: Duration::from_millis(100),
            allow_sip_headers: false,
            busy_status: BusyStatus::default(),
            ring_timeout: Duration::from_secs(60),
            invite_timeout: Duration::from_secs(180),
            ice_timeout: Duration::from_secs(30),
            media_timeout: Some(Duration::from_secs(60)),
            register_expires_s: 3600,
            register_backoff: Duration::from_secs(5),
            register_backoff_max: Duration::from_secs(300),
            register_attempts_before_warning: 3,
            ping_interval: Duration::from_secs(5),
            ping_probes: 10,
            connection_timeout: Duration::from_secs(30),
            client_timeout: Duration::from_secs(3600),
            client_timeout_check_interval: Duration::from_secs(300),
            ask_timeout: super::effects::ASK_TIMEOUT,
            relay_timeout: Duration::from_secs(5),
            orphan_grace: Duration::from_secs(300),
            max_sessions: 10_000,
            max_sessions_per_ip: 1000,
            max_detached_sessions: 5000,
            max_calls: 5_000,
            max_calls_per_session: 10,
            retry_after_s: 10,
        }
    }
}
