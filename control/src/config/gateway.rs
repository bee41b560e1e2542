//! Settings as the call core takes them.

use std::{sync::Arc, time::Duration};

use super::Config;
use crate::{
    gateway::{
        BusyStatus, GatewayConfig, Ringback, RingbackTone,
        trunks::{Trunk, TrunkMatch, Trunks},
    },
    sdp::CodecPolicy,
    sip::{
        Transport,
        message::Method,
        ua::{Advertised, Subnet, UaConfig},
    },
};

impl Config {
    /// Settings of the SIP agent behind `advertised`.
    #[must_use]
    pub fn ua(&self, advertised: Vec<Advertised>) -> UaConfig {
        let trusted = self.sip_trusted().iter().map(|&(address, prefix_len)| Subnet { address, prefix_len }).collect();
        UaConfig {
            advertised,
            user_agent: self.text("sip_user_agent").to_owned(),
            allow: vec![Method::Invite],
            supported: Vec::new(),
            accept: vec!["application/sdp".to_owned()],
            timers: self.sip_timers(),
            max_transactions: self.count("sip_transactions_max"),
            max_unverified_transactions: self.count("sip_unverified_transactions_max"),
            overload_retry_after_s: u32::try_from(self.number("sip_retry_after_s")).expect("the table bounds it"),
            trusted,
            udp_request_limit_bytes: self.count("sip_udp_request_limit_bytes"),
            stream_connect: self.millis("sip_long_request_connect_timeout_ms"),
            stream_answer: self.millis("sip_long_request_answer_timeout_ms"),
            stream_retry: self.millis("sip_long_request_tcp_retry_ms"),
        }
    }

    /// Settings of the call core around `ua`.
    #[must_use]
    pub fn gateway(&self, ua: UaConfig) -> GatewayConfig {
        let number32 = |key: &str| u32::try_from(self.number(key)).expect("the table bounds it");
        GatewayConfig {
            node: u16::try_from(self.number("node_id")).expect("the table bounds it"),
            codecs: self.codecs(self.list("codecs")),
            trunks: self.trunks(),
            rtp_bundle: self.boolean("rtp_bundle"),
            sdp_origin: self.text("sdp_origin").to_owned(),
            sdp_session_name: self.text("sdp_session_name").to_owned(),
            early_media: self.text("early_media") == "auto",
            ringback: match self.text("ringback") {
                "on" => Ringback::On,
                "off" => Ringback::Off,
                _ => Ringback::Auto,
            },
            ringback_tone: match self.text("ringback_tone") {
                "us" => RingbackTone::Us,
                _ => RingbackTone::Europe,
            },
            fill_after: self.millis("rtp_generator_start_timeout"),
            allow_sip_headers: self.boolean("allow_sip_headers"),
            busy_status: match self.text("call_busy_status") {
                "BUSY" => BusyStatus::Busy,
                "FAILED" => BusyStatus::Failed,
                _ => BusyStatus::Finish,
            },
            ring_timeout: self.seconds("ring_timeout"),
            invite_timeout: self.seconds("invite_timeout"),
            ice_timeout: self.seconds("ice_timeout"),
            media_timeout: self.activity_timeout(),
            register_expires_s: number32("register_expires"),
            register_backoff: self.millis("register_backoff_ms"),
            register_backoff_max: self.millis("register_backoff_max_ms"),
            register_attempts_before_warning: number32("register_attempts_before_warning"),
            ping_interval: self.millis("keep_alive.server_interval"),
            ping_probes: number32("keep_alive.probes"),
            connection_timeout: self.millis("ws_hello_timeout_ms"),
            client_timeout: self.millis("client_timeout"),
            client_timeout_check_interval: self.millis("client_timeout_check_interval"),
            ask_timeout: self.millis("ask_timeout_ms"),
            relay_timeout: self.millis("rcp_timeout_ms"),
            orphan_grace: self.seconds("orphan_grace_s"),
            max_sessions: self.count("sessions_max"),
            max_sessions_per_ip: self.count("sessions_per_ip_max"),
            max_detached_sessions: self.count("sessions_detached_max"),
            max_calls: self.count("calls_max"),
            max_calls_per_session: self.count("calls_per_session_max"),
            retry_after_s: number32("sip_retry_after_s"),
            media_ips: self.ip().iter().map(|address| address.local).collect(),
            ..GatewayConfig::new(ua)
        }
    }

    /// The operator's policy with this list.
    fn codecs(&self, listed: &[String]) -> CodecPolicy {
        CodecPolicy::new(listed, self.list("codecs_exclude_sip"), self.boolean("allow_outside_codecs"))
            .with_h264(self.list("profiles"), self.boolean("proxy_use_h264_packetization_mode_1_only"))
    }

    /// The settings of `trunk.<name>.*`.
    fn trunks(&self) -> Trunks {
        let trunk = |name: &str| {
            let words = |key: &str| self.trunk_list(&format!("trunk.{name}.{key}"));
            let codecs = words("codecs");
            Trunk {
                name: name.to_owned(),
                matches: words("match").iter().filter_map(|word| TrunkMatch::parse(word)).collect(),
                udp_only: self.is_udp_only(name),
                transport: match self.trunk_text(name, "transport") {
                    "udp" => Some(Transport::Udp),
                    "tcp" => Some(Transport::Tcp),
                    _ => None,
                },
                codecs: (!codecs.is_empty()).then(|| Arc::new(self.codecs(&codecs))),
            }
        };
        Trunks::new(self.trunk_names().into_iter().map(trunk).collect())
    }

    /// How long SIGTERM waits for calls to end.
    #[must_use]
    pub fn drain_timeout(&self) -> Duration {
        self.seconds("drain_timeout_s")
    }
}
