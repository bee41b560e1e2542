//! The call core: sessions, registrations and calls as one pure state machine.
//!
//! [`Gateway`] owns all call state and nothing of the world: [`effects::Input`] comes in with the time, [`effects::Output`] goes out,
//! and whatever needs the world is asked for ([`effects::Ask`]). It never awaits, locks or reads a clock, so a whole call with lost
//! packets and races runs in a unit test.

pub mod effects;
pub mod journal;
pub mod messages;
pub mod outcome;
pub mod plan;

use std::time::Duration;

use gangway_shared::{entropy::Entropy, time::Time};

use crate::sip::ua::UaConfig;
use effects::{Counts, Input, Output};

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

/// Settings of the core.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// This node's number, in every id.
    pub node: u16,
    /// The SIP agent's settings.
    pub ua: UaConfig,
    /// `o=` user of SIP SDP.
    pub sdp_origin: String,
    /// `s=` of SIP SDP.
    pub sdp_session_name: String,
    /// Whether the first 18x with SDP answers the browser (setting `early_media`).
    pub early_media: bool,
    /// Whether `sipHeaders` of `call` go into the INVITE (setting `allow_sip_headers`).
    pub allow_sip_headers: bool,
    /// What busy does to the browser's call.
    pub busy_status: BusyStatus,
    /// An incoming call rings this long.
    pub ring_timeout: Duration,
    /// An outgoing call without a final answer is cancelled after this (RFC 3261 section 13.2.1: Expires of the INVITE).
    pub invite_timeout: Duration,
    /// An established call must have a media path within this.
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
    /// Application `ping` period.
    pub ping_interval: Duration,
    /// Unanswered pings after which a socket is dead.
    pub ping_probes: u32,
    /// A socket must send `connection` within this.
    pub connection_timeout: Duration,
    /// Life of a detached keepAlive session.
    pub client_timeout: Duration,
    /// How often that is checked.
    pub client_timeout_check_interval: Duration,
    /// How long an ask may take.
    pub ask_timeout: Duration,
    /// How long a request over the wall may take.
    pub relay_timeout: Duration,
    /// Most sockets.
    pub max_sockets: usize,
    /// Most sessions.
    pub max_sessions: usize,
    /// Most calls.
    pub max_calls: usize,
    /// Most calls of one session.
    pub max_calls_per_session: usize,
    /// Where SIP requests go when the account names no port and no transport.
    pub default_sip_port: u16,
}

impl GatewayConfig {
    /// The defaults of the settings around a SIP agent.
    #[must_use]
    pub fn new(ua: UaConfig) -> Self {
        GatewayConfig {
            node: 0,
            ua,
            sdp_origin: "Gangway".to_owned(),
            sdp_session_name: "Gangway".to_owned(),
            early_media: true,
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
            ask_timeout: effects::ASK_TIMEOUT,
            relay_timeout: Duration::from_secs(5),
            max_sockets: 10_000,
            max_sessions: 10_000,
            max_calls: 5_000,
            max_calls_per_session: 10,
            default_sip_port: 5060,
        }
    }
}

/// The call core.
pub struct Gateway {
    config: GatewayConfig,
    entropy: Box<dyn Entropy + Send>,
    outputs: std::collections::VecDeque<Output>,
}

impl Gateway {
    /// A core without sessions. `entropy` makes keys, tokens, tags and SSRCs.
    #[must_use]
    pub fn new(config: GatewayConfig, entropy: Box<dyn Entropy + Send>) -> Self {
        Gateway { config, entropy, outputs: std::collections::VecDeque::new() }
    }

    /// Takes one input. Drain [`Gateway::poll_output`] afterwards.
    pub fn handle_input(&mut self, now: Time, input: Input) {
        let _ = (now, input, &self.config, &mut self.entropy);
    }

    /// Runs what is due at `now`. Drain [`Gateway::poll_output`] afterwards.
    pub fn handle_timeout(&mut self, now: Time) {
        let _ = now;
    }

    /// When [`Gateway::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        None
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Numbers for metrics and tests.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts::default()
    }

    /// After `EndAll` or `Drain`: no call is left and everybody was told.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        true
    }
}
