//! SIP sockets: UDP and TCP on one port, connections reused, queues bounded.
//!
//! Bytes go in both directions here; what they mean is the SIP core's business. A stream is cut into messages by
//! [`parser::frame`](crate::sip::parser::frame).

pub mod listen;
pub mod resolver;
mod tcp;
mod udp;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use gangway_shared::settings::Port;
use thiserror::Error;
use tokio::net::{TcpListener, UdpSocket};

use crate::{
    config::Config,
    hub::HubHandle,
    metrics::Metrics,
    sip::{
        Transport,
        ua::{Advertised, Transmit},
        uri::Host,
    },
};
use tcp::Flows;

/// A SIP port that cannot be bound.
#[derive(Debug, Error)]
#[error("sip_port: {transport} {address} cannot be bound: {source}")]
pub struct SipBindError {
    /// `udp` or `tcp`.
    pub transport: Transport,
    /// The address.
    pub address: SocketAddr,
    /// What the system says.
    pub source: io::Error,
}

/// Bound SIP sockets that do not serve yet.
#[derive(Debug)]
pub struct SipSockets {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    port: u16,
}

/// How often an `auto` port is chosen anew because TCP or another address has it taken.
const AUTO_ATTEMPTS: usize = 50;

impl SipSockets {
    /// Binds UDP and TCP on all of `ip_local`, on the same port.
    ///
    /// # Errors
    /// [`SipBindError`]
    pub fn bind(config: &Config) -> Result<Self, SipBindError> {
        let addresses = config.ip_local();
        let wanted = config.port("sip_port");
        let mut attempt = 0;
        loop {
            attempt += 1;
            match Self::bind_once(&addresses, wanted.to_bind()) {
                Err(_) if wanted == Port::Auto && attempt < AUTO_ATTEMPTS => {}
                result => return result,
            }
        }
    }

    fn bind_once(addresses: &[IpAddr], port: u16) -> Result<Self, SipBindError> {
        let failed = |transport| move |(address, source)| SipBindError { transport, address, source };
        let (udp, port) = listen::same_port(addresses, port, listen::udp).map_err(failed(Transport::Udp))?;
        let (tcp, port) = listen::same_port(addresses, port, listen::tcp).map_err(failed(Transport::Tcp))?;
        Ok(SipSockets { udp, tcp, port })
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Our addresses as peers shall see them: of each of `ip`, UDP and TCP.
    #[must_use]
    pub fn advertised(&self, config: &Config) -> Vec<Advertised> {
        let mut advertised = Vec::new();
        for address in config.ip() {
            for transport in [Transport::Udp, Transport::Tcp] {
                let host = Host::from(address.advertised);
                advertised.push(Advertised { transport, host, port: self.port });
            }
        }
        advertised
    }

    /// Serves until the runtime ends; the handle sends.
    #[must_use]
    pub fn serve(self, config: &Config, hub: &HubHandle, metrics: &Arc<Metrics>) -> SipHandle {
        let ours: Vec<IpAddr> = config.ip().iter().map(|address| address.local).collect();
        let keep_alive = udp::KeepAlive {
            interval: config.millis("sip_keepalive_interval_ms"),
            life: config.seconds("register_expires"),
        };
        let sockets = udp::serve(self.udp, &ours, keep_alive, hub, metrics);
        let limits = tcp::Limits {
            connections_max: config.count("sip_tcp_connections_max"),
            accepted_max: config.count("sip_tcp_accepted_max"),
            per_ip_max: config.count("sip_tcp_connections_per_ip_max"),
            queue_max: config.count("sip_send_queue_max"),
            idle: config.millis("sip_tcp_idle_timeout_ms"),
            message: config.millis("sip_tcp_message_timeout_ms"),
            first_message: config.millis("sip_tcp_first_message_timeout_ms"),
            connect: config.millis("sip_tcp_connect_timeout_ms"),
            keep_alive: config.millis("sip_keepalive_interval_ms"),
        };
        let flows = Flows::new(limits, hub.clone(), Arc::clone(metrics));
        for listener in self.tcp {
            tokio::spawn(tcp::accept(listener, flows.clone()));
        }
        SipHandle { udp: sockets, flows, metrics: Arc::clone(metrics) }
    }
}

/// A message could not be handed to its socket: no socket of that family, a full queue, or no such transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the message could not be sent")]
pub struct Undeliverable;

/// Sends SIP. Never waits: the hub calls it.
#[derive(Clone, Debug)]
pub struct SipHandle {
    udp: udp::Sender,
    flows: Flows,
    metrics: Arc<Metrics>,
}

impl SipHandle {
    /// Sends one message.
    ///
    /// # Errors
    /// [`Undeliverable`] when it is known at once; later failures come as `Input::SipFailed`.
    pub fn send(&self, transmit: Transmit) -> Result<(), Undeliverable> {
        let sent = match transmit.transport {
            Transport::Udp => self.udp.send(&transmit.bytes, transmit.remote),
            Transport::Tcp => self.flows.send(transmit.flow, transmit.remote, transmit.bytes, transmit.connect_within),
            Transport::Tls | Transport::Ws | Transport::Wss => Err(Undeliverable),
        };
        if sent.is_ok() {
            self.metrics.sip_sent.add(1);
        }
        sent
    }

    /// Keeps a registrar reachable by datagrams that a former control registered at.
    pub fn resume_keep_alives(&self, registrar: SocketAddr) {
        self.udp.resume_keep_alives(registrar);
    }

    /// SIP connections now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.flows.open()
    }
}

/// After a failed receive or accept (out of descriptors): time for others to end.
const ERROR_PAUSE: Duration = Duration::from_millis(50);
