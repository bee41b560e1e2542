//! SIP over UDP: one datagram, one message.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tokio::net::UdpSocket;

use super::{ERROR_PAUSE, Undeliverable};
use crate::{
    config::machine,
    gateway::effects::Input,
    hub::HubHandle,
    metrics::Metrics,
    sip::{Transport, ua::Source},
};

/// Sends datagrams from the socket that fits.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    sockets: Arc<Vec<(SocketAddr, Arc<UdpSocket>)>>,
    metrics: Arc<Metrics>,
}

/// Receives on all sockets.
pub(super) fn serve(sockets: Vec<UdpSocket>, ours: &[IpAddr], hub: &HubHandle, metrics: &Arc<Metrics>) -> Sender {
    let mut bound = Vec::new();
    for socket in sockets {
        let Ok(local) = socket.local_addr() else { continue };
        let socket = Arc::new(socket);
        bound.push((local, Arc::clone(&socket)));
        tokio::spawn(receive(socket, shown(local, ours), hub.clone(), Arc::clone(metrics)));
    }
    Sender { sockets: Arc::new(bound), metrics: Arc::clone(metrics) }
}

/// The address of a socket as a [`Source`] names it: for a wildcard the first of ours of that family.
pub(super) fn shown(local: SocketAddr, ours: &[IpAddr]) -> SocketAddr {
    if !local.ip().is_unspecified() {
        return local;
    }
    let ip = ours.iter().copied().find(|ip| ip.is_ipv4() == local.is_ipv4()).unwrap_or(local.ip());
    SocketAddr::new(ip, local.port())
}

async fn receive(socket: Arc<UdpSocket>, local: SocketAddr, hub: HubHandle, metrics: Arc<Metrics>) {
    let mut buffer = vec![0; 65_536];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((len, remote)) => {
                metrics.sip_received.add(1);
                let source = Source { transport: Transport::Udp, local, remote, flow: None };
                let bytes = buffer[..len].to_vec();
                if hub.offer(Input::SipReceived { source, bytes }).is_err() {
                    // The peer repeats; a queue here would only make the answer late.
                    metrics.sip_overload.add(1);
                }
            }
            // ICMP errors of what we sent arrive here; they name no peer that could be told.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Err(error) => {
                tracing::warn!(%error, "SIP over UDP: receive failed");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

impl Sender {
    pub(super) fn send(&self, bytes: &[u8], remote: SocketAddr) -> Result<(), Undeliverable> {
        let socket = self.socket_for(remote).ok_or(Undeliverable)?;
        match socket.try_send_to(bytes, remote) {
            Ok(_) => Ok(()),
            // The kernel's buffer is full: a loss like any other on UDP, the transaction repeats.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                self.metrics.sip_send_failed.add(1);
                Ok(())
            }
            Err(error) => {
                self.metrics.sip_send_failed.add(1);
                tracing::debug!(%error, %remote, "SIP over UDP: not sent");
                Err(Undeliverable)
            }
        }
    }

    /// A wildcard socket of the family, else the one whose address the route to `remote` leaves from, else any of the family.
    fn socket_for(&self, remote: SocketAddr) -> Option<&UdpSocket> {
        let mut fitting = self.sockets.iter().filter(|(local, _)| local.is_ipv4() == remote.is_ipv4());
        let first = fitting.next()?;
        if first.0.ip().is_unspecified() {
            return Some(&first.1);
        }
        let rest: Vec<_> = fitting.collect();
        if rest.is_empty() {
            return Some(&first.1);
        }
        let source = machine::source_address_towards(remote);
        let matching = rest.into_iter().find(|(local, _)| Some(local.ip()) == source);
        Some(&matching.unwrap_or(first).1)
    }
}
