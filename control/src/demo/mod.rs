//! The demo SIP service of `--demo`: a registrar for 1001 to 1009 and a few numbers to call.
//!
//! | number | what it does |
//! |---|---|
//! | 1001..1009 | rings who registered (password = the number) |
//! | 600 | echo |
//! | 601 | a menu of tones, audio only; keys answer with their own tone |
//! | 602 | busy |
//! | 603 | rings for ever |
//! | 604 | not found |
//! | 605 | early media, then an answer |
//!
//! It is a SIP server of its own behind a UDP socket on loopback, built on our SIP core without any shortcut into the gateway. It is
//! for people who try the gateway out, and never the peer of an acceptance test.

mod answer;
mod calls;
mod media;
mod registrar;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use gangway_shared::time::Time;
use tokio::net::UdpSocket;

use crate::{
    config::Config,
    hub::{Clock, OsEntropy},
    sip::{
        Transport,
        dialog::Target,
        message::{Method, Status},
        ua::{Advertised, Reply, Source, Subnet, Ua, UaConfig, UaEvent},
        uri::Host,
    },
};
use calls::Calls;
use registrar::Registrar;

/// The demo service.
pub struct DemoService {
    socket: UdpSocket,
    local: SocketAddr,
    clock: Clock,
    ua: Ua,
    registrar: Registrar,
    calls: Calls,
}

/// After a failed receive: time for others to end.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

impl DemoService {
    /// Binds a port that the kernel chooses on 127.0.0.1 and serves until the runtime ends. Returns its address.
    ///
    /// # Errors
    /// What the system says when the port cannot be bound.
    pub async fn start(config: &Config) -> io::Result<SocketAddr> {
        let ip = Ipv4Addr::LOCALHOST;
        let socket = UdpSocket::bind((ip, 0)).await?;
        let local = socket.local_addr()?;
        let advertised = vec![Advertised { transport: Transport::Udp, host: Host::V4(ip), port: local.port() }];
        let ua = Ua::new(
            UaConfig {
                user_agent: "Gangway demo".to_owned(),
                allow: vec![Method::Invite, Method::Register, Method::Info],
                timers: config.sip_timers(),
                // Only this machine reaches a socket on loopback.
                trusted: vec![Subnet { address: ip.into(), prefix_len: 8 }],
                // Loopback takes datagrams of every length, and here is no TCP for them.
                udp_request_limit_bytes: 0,
                ..UaConfig::new(advertised)
            },
            Box::new(OsEntropy),
        );
        let calls = Calls::new(local.ip());
        let service = DemoService { socket, local, clock: Clock::start(), ua, registrar: Registrar::default(), calls };
        tokio::spawn(service.run());
        Ok(local)
    }

    async fn run(mut self) {
        let mut buffer = vec![0; 65_536];
        loop {
            self.drain().await;
            let wake = [self.ua.poll_timeout(), self.calls.poll_timeout()].into_iter().flatten().min();
            let received = tokio::select! {
                received = self.socket.recv_from(&mut buffer) => Some(received),
                () = sleep_until(self.clock, wake) => None,
            };
            let now = self.clock.now();
            match received {
                Some(Ok((len, remote))) => {
                    let source = Source { transport: Transport::Udp, local: self.local, remote, flow: None };
                    self.ua.handle_message(now, source, &buffer[..len]);
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "demo service: receive failed");
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
                None => {
                    self.ua.handle_timeout(now);
                    self.calls.handle_timeout(now, &mut self.ua);
                }
            }
        }
    }

    async fn drain(&mut self) {
        loop {
            while let Some(transmit) = self.ua.poll_transmit() {
                let _ = self.socket.try_send_to(&transmit.bytes, transmit.remote);
            }
            let Some(event) = self.ua.poll_event() else { return };
            self.event(event).await;
        }
    }

    async fn event(&mut self, event: UaEvent) {
        let now = self.clock.now();
        match event {
            UaEvent::Request { server, request, source, .. } => {
                let reply = match request.method {
                    Method::Register => {
                        let target = Target { transport: source.transport, remote: source.remote, flow: source.flow };
                        self.registrar.register(now, &request, target, &mut OsEntropy)
                    }
                    _ => Reply::new(Status::literal(405)),
                };
                let _ = self.ua.respond(now, server, reply);
            }
            UaEvent::Invite { server, request, source, .. } => {
                let user = request.uri.as_sip().and_then(|uri| uri.user.clone()).unwrap_or_default();
                let binding = self.registrar.binding(&user, now).cloned();
                self.calls.invite(now, &mut self.ua, server, &request, source, &user, binding).await;
            }
            other => self.calls.event(now, &mut self.ua, other),
        }
    }
}

async fn sleep_until(clock: Clock, wake: Option<Time>) {
    match wake {
        Some(time) => tokio::time::sleep_until(clock.instant(time)).await,
        None => std::future::pending().await,
    }
}
