//! SIP over TCP: connections found again by flow or address, streams cut into messages, everything with a deadline.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{ERROR_PAUSE, Undeliverable};
use crate::{
    fairness::counted_as,
    gateway::effects::Input,
    hub::HubHandle,
    metrics::Metrics,
    sip::{
        Transport,
        parser::{self, Framing},
        ua::Source,
    },
};

/// Limits of SIP connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at once, made and accepted.
    pub connections_max: usize,
    /// Of those, accepted ones: the rest is for connections that we make.
    pub accepted_max: usize,
    /// Of the accepted ones, from one address.
    pub per_ip_max: usize,
    /// Messages waiting for one connection.
    pub queue_max: usize,
    /// Silence that ends a connection.
    pub idle: Duration,
    /// Time for a begun message to become whole, and for a message to be taken by the peer.
    pub message: Duration,
    /// Time for the first message of an accepted connection to become whole.
    pub first_message: Duration,
    /// Time to connect.
    pub connect: Duration,
    /// Silence after which a connection that we made sends a keep-alive.
    pub keep_alive: Duration,
}

impl Limits {
    /// Connections that peers may make: however the two settings stand to each other, a quarter of all is kept for ours.
    fn accepted(&self) -> usize {
        self.accepted_max.min(self.connections_max - self.connections_max / 4)
    }
}

/// All connections. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Flows {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limits: Limits,
    hub: HubHandle,
    metrics: Arc<Metrics>,
    table: Mutex<Table>,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    by_id: BTreeMap<u64, Flow>,
    by_remote: BTreeMap<SocketAddr, u64>,
    /// Accepted connections, in all and by whom they count for.
    accepted: usize,
    accepted_by_ip: BTreeMap<IpAddr, usize>,
}

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opened {
    ByUs,
    ByPeer,
}

#[derive(Debug)]
struct Flow {
    remote: SocketAddr,
    opened: Opened,
    queue: mpsc::Sender<Vec<u8>>,
}

/// RFC 5626 section 3.5.1: the keep-alive and its answer.
const PING: &[u8] = b"\r\n\r\n";
const PONG: &[u8] = b"\r\n";

impl Flows {
    pub(super) fn new(limits: Limits, hub: HubHandle, metrics: Arc<Metrics>) -> Self {
        let shared = Shared { limits, hub, metrics, table: Mutex::default(), next: AtomicU64::new(1) };
        Flows { shared: Arc::new(shared) }
    }

    /// Connections now.
    pub(super) fn open(&self) -> usize {
        self.lock().by_id.len()
    }

    /// Queues a message on the connection `flow`, else on one to `remote`, else on a new one, which may take `connect_within` to be made.
    pub(super) fn send(
        &self,
        flow: Option<u64>,
        remote: SocketAddr,
        bytes: Vec<u8>,
        connect_within: Option<Duration>,
    ) -> Result<(), Undeliverable> {
        let mut table = self.lock();
        let known = flow.filter(|id| table.by_id.contains_key(id)).or_else(|| table.by_remote.get(&remote).copied());
        if let Some(flow) = known.and_then(|id| table.by_id.get(&id)) {
            return flow.queue.try_send(bytes).map_err(|_| {
                self.shared.metrics.sip_queue_full.add(1);
                Undeliverable
            });
        }
        let Some((id, queue)) = self.insert(&mut table, remote, Opened::ByUs) else { return Err(Undeliverable) };
        if let Some(flow) = table.by_id.get(&id) {
            flow.queue.try_send(bytes).expect("the queue is new and holds at least one");
        }
        drop(table);
        let within = connect_within.map_or(self.shared.limits.connect, |within| within.min(self.shared.limits.connect));
        tokio::spawn(connect(self.clone(), id, remote, queue, within));
        Ok(())
    }

    fn insert(&self, table: &mut Table, remote: SocketAddr, opened: Opened) -> Option<(u64, mpsc::Receiver<Vec<u8>>)> {
        if !table.has_room(&self.shared.limits, remote, opened) {
            self.shared.metrics.sip_connections_refused.add(1);
            return None;
        }
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let (queue, receiver) = mpsc::channel(self.shared.limits.queue_max);
        table.insert(id, Flow { remote, opened, queue });
        Some((id, receiver))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        // The table is whole between any two statements, so a panic elsewhere leaves it usable.
        self.shared.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the connection and tells the core, whose requests there fail.
    async fn end(&self, id: u64, remote: SocketAddr) {
        self.lock().remove(id);
        self.shared.hub.deliver(Input::SipFailed { transport: Transport::Tcp, remote, flow: Some(id) }).await;
    }
}

impl Table {
    fn has_room(&self, limits: &Limits, remote: SocketAddr, opened: Opened) -> bool {
        let of_ip = || self.accepted_by_ip.get(&counted_as(remote.ip())).copied().unwrap_or(0);
        self.by_id.len() < limits.connections_max
            && (opened == Opened::ByUs || (self.accepted < limits.accepted() && of_ip() < limits.per_ip_max))
    }

    fn insert(&mut self, id: u64, flow: Flow) {
        if flow.opened == Opened::ByPeer {
            self.accepted += 1;
            *self.accepted_by_ip.entry(counted_as(flow.remote.ip())).or_default() += 1;
        }
        self.by_remote.insert(flow.remote, id);
        self.by_id.insert(id, flow);
    }

    fn remove(&mut self, id: u64) {
        let Some(flow) = self.by_id.remove(&id) else { return };
        if self.by_remote.get(&flow.remote) == Some(&id) {
            self.by_remote.remove(&flow.remote);
        }
        if flow.opened == Opened::ByPeer {
            self.accepted -= 1;
            if let Entry::Occupied(mut count) = self.accepted_by_ip.entry(counted_as(flow.remote.ip())) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
    }
}

/// Accepts connections until the runtime ends.
pub(super) async fn accept(listener: TcpListener, flows: Flows) {
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                let inserted = flows.insert(&mut flows.lock(), remote, Opened::ByPeer);
                // Beyond the limits the connection is closed at once.
                let Some((id, queue)) = inserted else { continue };
                tokio::spawn(serve(flows.clone(), id, stream, remote, queue, Opened::ByPeer));
            }
            Err(error) => {
                tracing::warn!(%error, "a SIP connection could not be accepted");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

async fn connect(flows: Flows, id: u64, remote: SocketAddr, queue: mpsc::Receiver<Vec<u8>>, within: Duration) {
    match timeout(within, TcpStream::connect(remote)).await {
        Ok(Ok(stream)) => serve(flows, id, stream, remote, queue, Opened::ByUs).await,
        failed => {
            flows.shared.metrics.sip_connects_failed.add(1);
            let reason = failed.map_or_else(
                |_| "no answer".to_owned(),
                |result| result.map_or_else(|at| at.to_string(), |_| String::new()),
            );
            tracing::debug!(%remote, reason, "SIP over TCP: no connection");
            flows.end(id, remote).await;
        }
    }
}

async fn serve(
    flows: Flows,
    id: u64,
    stream: TcpStream,
    remote: SocketAddr,
    queue: mpsc::Receiver<Vec<u8>>,
    opened: Opened,
) {
    let _ = stream.set_nodelay(true);
    if let Ok(local) = stream.local_addr() {
        let (reader, writer) = stream.into_split();
        let source = Source { transport: Transport::Tcp, local, remote, flow: Some(id) };
        let (pongs, wanted) = mpsc::channel(1);
        let keep_alive = (opened == Opened::ByUs).then_some(flows.shared.limits.keep_alive);
        tokio::select! {
            () = read(&flows, reader, source, opened, pongs) => {}
            () = write(writer, queue, wanted, keep_alive, flows.shared.limits.message) => {}
        }
    }
    flows.end(id, remote).await;
}

async fn write(
    mut writer: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Vec<u8>>,
    mut pongs: mpsc::Receiver<()>,
    keep_alive: Option<Duration>,
    deadline: Duration,
) {
    let pause = keep_alive.unwrap_or(Duration::from_secs(86_400));
    loop {
        let bytes = tokio::select! {
            bytes = queue.recv() => match bytes {
                Some(bytes) => bytes,
                None => return,
            },
            _ = pongs.recv() => PONG.to_vec(),
            () = tokio::time::sleep(pause), if keep_alive.is_some() => PING.to_vec(),
        };
        if !matches!(timeout(deadline, writer.write_all(&bytes)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

async fn read(flows: &Flows, mut reader: OwnedReadHalf, source: Source, opened: Opened, pongs: mpsc::Sender<()>) {
    let limits = flows.shared.limits;
    let mut buffer: Vec<u8> = Vec::new();
    let mut chunk = vec![0; READ_BYTES];
    let mut begun: Option<Instant> = None;
    // Keep-alives do not count: who has nothing to say has no business here.
    let mut first = (opened == Opened::ByPeer).then(|| Instant::now() + limits.first_message);
    loop {
        let wait = match begun {
            Some(begun) => limits.message.saturating_sub(begun.elapsed()),
            None => limits.idle,
        };
        let wait = first.map_or(wait, |first| wait.min(first.saturating_duration_since(Instant::now())));
        let Ok(Ok(len)) = timeout(wait, reader.read(&mut chunk)).await else { return };
        if len == 0 {
            return;
        }
        buffer.extend_from_slice(&chunk[..len]);
        loop {
            match parser::frame(&buffer) {
                Framing::Incomplete => break,
                Framing::KeepAlive(bytes) => {
                    if bytes >= PING.len() {
                        // One answer waiting is enough for any number of pings.
                        let _ = pongs.try_send(());
                    }
                    buffer.drain(..bytes);
                }
                Framing::Message(bytes) => {
                    flows.shared.metrics.sip_received.add(1);
                    let rest = buffer.split_off(bytes);
                    let bytes = std::mem::replace(&mut buffer, rest);
                    // A full hub slows this peer down: TCP carries the pressure back.
                    flows.shared.hub.deliver(Input::SipReceived { source, bytes }).await;
                    (begun, first) = (None, None);
                }
                Framing::Invalid(error) => {
                    flows.shared.metrics.sip_streams_invalid.add(1);
                    tracing::debug!(%error, remote = %source.remote, "SIP over TCP: closed");
                    return;
                }
            }
        }
        begun = if buffer.is_empty() { None } else { begun.or_else(|| Some(Instant::now())) };
    }
}

#[cfg(test)]
mod tests;
