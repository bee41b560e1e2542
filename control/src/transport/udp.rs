//! SIP over UDP: one datagram, one message; keep-alives towards registrars.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use socket2::SockRef;
use tokio::{net::UdpSocket, time::Instant};

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
    registrars: Arc<Mutex<BTreeMap<SocketAddr, Registrar>>>,
}

/// When a REGISTER, and when anything, was last sent to an address.
#[derive(Clone, Copy, Debug)]
struct Registrar {
    registered: Instant,
    /// Absent: a former control did, nobody knows when.
    sent: Option<Instant>,
}

/// How addresses in front of which a NAT may stand are kept reachable.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeepAlive {
    /// Silence after which a keep-alive is sent.
    pub interval: Duration,
    /// So long after the last REGISTER nobody is registered there any more.
    pub life: Duration,
}

/// Registrars that get keep-alives; beyond, the refreshes alone must do.
const REGISTRARS_MAX: usize = 1024;

/// RFC 5626 section 3.5.1 has this for streams; over UDP registrars pass it over as an empty message, which is what is wanted: the
/// NAT on the way has seen a packet.
const PING: &[u8] = b"\r\n\r\n";

/// Receives on all sockets.
pub(super) fn serve(
    sockets: Vec<UdpSocket>,
    ours: &[IpAddr],
    keep_alive: KeepAlive,
    hub: &HubHandle,
    metrics: &Arc<Metrics>,
) -> Sender {
    let mut bound = Vec::new();
    for socket in sockets {
        let Ok(local) = socket.local_addr() else { continue };
        let socket = Arc::new(socket);
        bound.push((local, Arc::clone(&socket)));
        tokio::spawn(receive(socket, shown(local, ours), hub.clone(), Arc::clone(metrics)));
    }
    let sender = Sender { sockets: Arc::new(bound), metrics: Arc::clone(metrics), registrars: Arc::default() };
    tokio::spawn(keep_alives(sender.clone(), keep_alive));
    sender
}

async fn keep_alives(sender: Sender, keep_alive: KeepAlive) {
    let mut tick = tokio::time::interval(keep_alive.interval / 2);
    loop {
        tick.tick().await;
        for remote in sender.quiet_registrars(keep_alive) {
            let _ = sender.send(PING, remote);
        }
    }
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
        self.note(bytes, remote);
        let socket = self.socket_for(remote).ok_or(Undeliverable)?;
        // Asked of the kernel itself: the runtime calls a socket full that it has not looked at since it was bound.
        match SockRef::from(socket).send_to(bytes, &remote.into()) {
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

    /// Remembers where REGISTER goes. Only such addresses get keep-alives: they were named by an account, not by a stranger's packet.
    fn note(&self, bytes: &[u8], remote: SocketAddr) {
        let now = Instant::now();
        let mut registrars = self.lock();
        if bytes.starts_with(b"REGISTER ") && (registrars.len() < REGISTRARS_MAX || registrars.contains_key(&remote)) {
            registrars.insert(remote, Registrar { registered: now, sent: Some(now) });
        } else if let Some(registrar) = registrars.get_mut(&remote) {
            registrar.sent = Some(now);
        }
    }

    /// Keeps a registrar reachable that a former control registered at. It hears of us at the next look: how long the NAT on the way has
    /// seen no packet is not known.
    pub(super) fn resume_keep_alives(&self, remote: SocketAddr) {
        let mut registrars = self.lock();
        if registrars.len() < REGISTRARS_MAX {
            registrars.entry(remote).or_insert(Registrar { registered: Instant::now(), sent: None });
        }
    }

    fn quiet_registrars(&self, keep_alive: KeepAlive) -> Vec<SocketAddr> {
        let now = Instant::now();
        let mut registrars = self.lock();
        registrars.retain(|_, registrar| now.duration_since(registrar.registered) < keep_alive.life);
        let is_quiet = |at: &Registrar| at.sent.is_none_or(|sent| now.duration_since(sent) >= keep_alive.interval);
        let quiet = registrars.iter().filter(|(_, at)| is_quiet(at));
        quiet.map(|(remote, _)| *remote).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<SocketAddr, Registrar>> {
        // Whole between any two statements, so a panic elsewhere leaves it usable.
        self.registrars.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::hub;

    async fn sender(interval: Duration, life: Duration) -> (Sender, UdpSocket, SocketAddr) {
        let ours = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = peer.local_addr().unwrap();
        let (hub, _queue) = hub::queue(8);
        (serve(vec![ours], &[], KeepAlive { interval, life }, &hub, &Arc::default()), peer, address)
    }

    async fn received(peer: &UdpSocket, within: Duration) -> Option<Vec<u8>> {
        let mut buffer = [0; 100];
        let (len, _) = tokio::time::timeout(within, peer.recv_from(&mut buffer)).await.ok()?.unwrap();
        Some(buffer[..len].to_vec())
    }

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_registrar_gets_keep_alives_until_its_life_is_over() {
        let (sender, peer, address) = sender(Duration::from_millis(20), Duration::from_millis(300)).await;
        sender.send(b"REGISTER sip:x SIP/2.0\r\n", address).unwrap();
        assert!(received(&peer, SOON).await.unwrap().starts_with(b"REGISTER"));
        assert_eq!(received(&peer, SOON).await.as_deref(), Some(PING));
        let quiet = async { while received(&peer, Duration::from_millis(200)).await.is_some() {} };
        tokio::time::timeout(SOON, quiet).await.expect("keep-alives end");
    }

    #[tokio::test]
    async fn a_registrar_of_a_former_control_hears_of_us_at_once_and_again() {
        let (sender, peer, address) = sender(Duration::from_millis(20), SOON).await;
        sender.resume_keep_alives(address);
        for _ in 0..3 {
            assert_eq!(received(&peer, SOON).await.as_deref(), Some(PING));
        }
    }

    #[tokio::test]
    async fn what_is_sent_in_the_first_moment_leaves() {
        let (sender, peer, address) = sender(SOON, SOON).await;
        sender.send(b"first", address).unwrap();
        assert_eq!(sender.metrics.sip_send_failed.value(), 0);
        assert_eq!(received(&peer, SOON).await.as_deref(), Some(&b"first"[..]));
    }

    #[tokio::test]
    async fn who_only_sent_us_something_gets_none() {
        let (sender, peer, address) = sender(Duration::from_millis(10), SOON).await;
        sender.send(b"SIP/2.0 200 OK\r\n", address).unwrap();
        sender.send(b"OPTIONS sip:x SIP/2.0\r\n", address).unwrap();
        assert!(received(&peer, SOON).await.is_some() && received(&peer, SOON).await.is_some());
        assert_eq!(received(&peer, Duration::from_millis(200)).await, None);
    }
}
