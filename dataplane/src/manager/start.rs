//! Start order of a relay: the handover of the keeper, certificate, engines with their browser ports, threads of the workers, which
//! take over what is in the arenas, and last the control socket: who is greeted can be served.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
};

use dimpl::DtlsCertificate;
use gangway_shared::entropy::Entropy;
use mio::{Interest, Poll, net::UnixListener};
use thiserror::Error;

use super::{
    EVENTS_MAX, FIRST_CONNECTION, LISTENER, Manager, Mode, TICK, WAKE, WorkerLink,
    asked::Asked,
    entropy::OsEntropy,
    requests::{Busy, COUNTED_REFUSALS},
};
use crate::{
    affinity,
    arena::{Arena, ArenaError},
    config::{Config, Scheduling},
    dtls::{Certificate, CertificateError, Handshakes},
    engine::{
        Engine, OpenError, Wake,
        choice::{Choice, NoRing, choose, choose_again, ring},
        clock,
        epoll::EpollEngine,
        uring::Missing,
    },
    events::EventLog,
    keeper::{HandedPair, Handover, Identity, Keeper, KeeperError, KeptFacts, Link, channel::Channel},
    mailbox::mailbox,
    registry::{Registry, RegistryConfig},
    relay::{PortId, RelayConfig},
    stats_map::{LINK_NAME, StatsMap, StatsPage},
    worker::{KeptPair, Worker},
};

/// Bytes of the random name of this run.
const INSTANCE_BYTES: usize = 8;

/// Why the dataplane did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// What the keeper needs cannot be had.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    /// No handover.
    #[error("keeper: {0}")]
    Handover(io::Error),
    /// The manager's facts cannot be read or written.
    #[error("facts: {0}")]
    Facts(#[from] io::Error),
    /// An arena is not this program's.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// No certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A browser port cannot be watched.
    #[error("webrtc_port: {0}")]
    Open(#[from] OpenError),
    /// The ring was asked for and cannot be had.
    #[error(transparent)]
    NoRing(#[from] NoRing),
    /// The ring worked a moment ago.
    #[error("io_uring: {0}")]
    Ring(#[from] Missing),
    /// The kernel refused something every program needs.
    #[error("{what}: {source}")]
    Kernel {
        /// What was wanted.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// A dataplane at work.
#[derive(Debug)]
pub struct Running {
    /// Where RCP is served.
    pub socket: PathBuf,
    /// Addresses browsers are told.
    pub webrtc: Vec<SocketAddr>,
    /// Name of the engine that moves the packets.
    pub engine: &'static str,
    manager: JoinHandle<io::Result<()>>,
    /// Of this process.
    keeper: Option<JoinHandle<()>>,
}

impl Running {
    /// Waits for its end.
    ///
    /// # Errors
    /// What made it fail.
    pub fn join(self) -> io::Result<()> {
        let ended = self.manager.join().unwrap_or_else(|_| Err(io::Error::other("the manager thread panicked")));
        if self.keeper.is_some_and(|keeper| keeper.join().is_err()) {
            return Err(io::Error::other("the keeper thread panicked"));
        }
        ended
    }
}

/// Starts everything in this process, keeper included; serves when it returns. Nothing outlives the process.
///
/// # Errors
/// The first thing that cannot be had. Nothing is left running then.
pub fn start(config: Config, mode: Mode) -> Result<Running, StartError> {
    let keeper = Keeper::open(&config)?;
    let (channel, thread) = keeper.run_beside().map_err(StartError::Handover)?;
    let map = publish_stats(&config);
    let running = adopt(config, mode, channel, map)?;
    Ok(Running { keeper: Some(thread), ..running })
}

/// Takes over what the keeper at the other end of the channel keeps, and serves when it returns. The workers write their counters to
/// `map`, when there is one; it was made for as many.
///
/// # Errors
/// The first thing that cannot be had. Nothing is left running then.
pub fn adopt(config: Config, mode: Mode, channel: Channel, map: Option<StatsMap>) -> Result<Running, StartError> {
    let taken = Link::take_over(channel).map_err(StartError::Handover)?;
    // Tried as the user that the relay runs as, who may be allowed less than the keeper.
    let choice = if taken.1.facts.has_run()? { choose_again(config.engine) } else { choose(config.engine)? };
    match choice {
        Choice::Uring(features) => adopt_on(config, mode, taken, map, |config| Ok(ring(features, config.buffers)?)),
        Choice::Epoll => adopt_on(config, mode, taken, map, |config| {
            let engine = EpollEngine::with_buffers(config.buffers);
            engine.map_err(|source| StartError::Kernel { what: "epoll", source })
        }),
    }
}

fn adopt_on<E: Engine<Socket = UdpSocket> + Send + 'static>(
    mut config: Config,
    mode: Mode,
    (link, handover): (Link, Handover),
    map: Option<StatsMap>,
    make_engine: impl Fn(&Config) -> Result<E, StartError>,
) -> Result<Running, StartError> {
    let kernel = |what| move |source| StartError::Kernel { what, source };
    let Handover { blame, facts, listener, arenas, browser, pairs } = handover;
    config.workers = u16::try_from(arenas.len()).map_err(|_| ArenaError::Foreign("number"))?;
    let poll = Poll::new().map_err(kernel("epoll"))?;
    let waker = Arc::new(mio::Waker::new(poll.registry(), WAKE).map_err(kernel("eventfd"))?);
    // All that can fail comes before the first thread.
    let mut prepared = Vec::new();
    for (number, arena) in (0..).zip(arenas) {
        prepared.push(prepare_worker(number, arena, make_engine(&config)?)?);
    }
    for (port, socket) in browser {
        let worker = prepared.get_mut(usize::from(port.worker)).ok_or(ArenaError::Foreign("number"))?;
        worker.mux_ports.push(worker.engine.open(socket)?);
        worker.webrtc.push(port.advertised);
    }
    let unclaimed = pairs.iter().map(|pair| (pair.facts.lease, pair.facts)).collect();
    let mut pairs: BTreeMap<u64, HandedPair> = pairs.into_iter().map(|pair| (pair.facts.lease, pair)).collect();
    for worker in &mut prepared {
        let leases: Vec<u64> = worker.arena.leases().collect();
        let own = leases.iter().filter_map(|lease| pairs.remove(lease));
        worker.pairs.extend(own.map(|pair| KeptPair { lease: pair.facts.lease, rtp: pair.rtp, rtcp: pair.rtcp }));
    }
    // What no leg names is closed here, and given back when all workers have said what they found.
    drop(pairs);
    let mut listener = UnixListener::from_std(listener);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE).map_err(kernel("epoll"))?;
    let manager = Manager::new(config, mode, poll, listener, link, facts)?;
    manager.watch_keeper().map_err(kernel("epoll"))?;
    let workers = prepared.into_iter().map(|worker| {
        let page = map.as_ref().map(|map| map.page(worker.number));
        spawn_worker(&manager.config, worker, page, waker.clone(), blame)
    });
    let workers: Vec<WorkerLink> = workers.collect::<io::Result<_>>().map_err(kernel("a worker thread"))?;
    if manager.config.scheduling != Scheduling::Fair {
        // The workers have it from this thread, the manager is to have it not.
        affinity::take_turns().map_err(kernel("scheduling"))?;
    }
    let manager = Manager { adopting: workers.len(), workers, unclaimed, engine: E::NAME, _map: map, ..manager };
    let socket = manager.config.socket.clone();
    let webrtc = manager.workers.iter().flat_map(|worker| worker.webrtc.iter().copied()).collect();
    let manager = std::thread::Builder::new()
        .name("manager".to_owned())
        .spawn(move || manager.run())
        .map_err(kernel("the manager thread"))?;
    Ok(Running { socket, webrtc, engine: E::NAME, manager, keeper: None })
}

impl Manager {
    /// A manager without workers that nobody has connected to.
    #[allow(
        clippy::disallowed_methods,
        reason = "the DTLS crate takes Instant; this is the one moment both clocks share"
    )]
    pub(super) fn new(
        config: Config,
        mode: Mode,
        poll: Poll,
        listener: UnixListener,
        ports: Link,
        facts: KeptFacts,
    ) -> Result<Self, StartError> {
        let now = clock::now().mono;
        let registry = RegistryConfig {
            relays_max: config.limits.relays as usize * usize::from(config.workers),
            orphan_grace: config.orphan_grace,
            linger: mode.managed.then_some(config.linger),
        };
        let base = (now, std::time::Instant::now());
        let identity = facts.identity(make_identity)?;
        let certificate =
            DtlsCertificate { certificate: identity.certificate.clone(), private_key: identity.private_key.clone() };
        let certificate = Certificate::of(certificate);
        let mut registry = Registry::new(registry, now);
        registry.remember(facts.epoch()?, facts.is_draining()?);
        Ok(Manager {
            registry,
            log: EventLog::of_run(EVENTS_MAX, facts.begin_run()?),
            handshakes: Handshakes::new(certificate.clone(), config.dtls_timeout, base),
            mode,
            poll,
            listener,
            instance: identity.instance.clone(),
            certificate,
            ports,
            asked: Asked::default(),
            facts,
            unclaimed: BTreeMap::new(),
            adopting: 0,
            failure: None,
            workers: Vec::new(),
            _map: None,
            relays: BTreeMap::new(),
            legs: BTreeMap::new(),
            pending: BTreeMap::new(),
            next_token: 0,
            busy: Busy::default(),
            refused: COUNTED_REFUSALS.map(|code| (code, 0)).into(),
            unsent: 0,
            connections: BTreeMap::new(),
            next_connection: FIRST_CONNECTION,
            living: None,
            next_tick: now + TICK,
            leave_by: None,
            is_leaving: false,
            engine: "",
            config,
        })
    }
}

/// Who the dataplane is from now on.
fn make_identity() -> Result<Identity, StartError> {
    let DtlsCertificate { certificate, private_key } = Certificate::make()?;
    Ok(Identity { instance: OsEntropy.hex(INSTANCE_BYTES), certificate, private_key })
}

/// Memory for the workers' counters, where others find it. Nothing depends on it: without it the counters come by `Query` alone.
/// Writes to `data_dir`, so a relay does it before it gives up its rights.
#[must_use]
pub fn publish_stats(config: &Config) -> Option<StatsMap> {
    let made =
        StatsMap::create(config.workers).and_then(|map| map.publish(&config.data_dir.join(LINK_NAME)).map(|()| map));
    made.inspect_err(|error| tracing::warn!(%error, "counters cannot be mapped (--stats)")).ok()
}

struct PreparedWorker<E> {
    number: u16,
    engine: E,
    arena: Arena,
    mux_ports: Vec<PortId>,
    webrtc: Vec<SocketAddr>,
    pairs: Vec<KeptPair<UdpSocket>>,
}

fn prepare_worker<E>(number: u16, arena: OwnedFd, engine: E) -> Result<PreparedWorker<E>, StartError> {
    let arena = Arena::map(arena)?;
    Ok(PreparedWorker { number, engine, arena, mux_ports: Vec::new(), webrtc: Vec::new(), pairs: Vec::new() })
}

fn spawn_worker<E: Engine<Socket = UdpSocket> + Send + 'static>(
    config: &Config,
    prepared: PreparedWorker<E>,
    page: Option<StatsPage>,
    waker: Arc<dyn Wake>,
    blame: bool,
) -> io::Result<WorkerLink> {
    let PreparedWorker { number, engine, arena, mux_ports, webrtc, pairs } = prepared;
    let (commands, inbox) = mailbox::<crate::worker::Command<UdpSocket>>(config.mailbox_max, engine.waker());
    let (outbox, reports) = mailbox(config.mailbox_max, waker);
    let relay_config = RelayConfig {
        worker: number,
        timers: config.timers,
        mux_ports,
        seed: OsEntropy.next_u64(),
        history_bytes: config.history_bytes,
        new_addresses_per_s: config.new_addresses_per_s,
    };
    let core = config.cores.get(usize::from(number)).copied();
    let scheduling = config.scheduling;
    let share = affinity::share_of_who_goes_first();
    let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        if let Some(core) = core
            && let Err(error) = affinity::pin_to(core)
        {
            tracing::warn!(worker = number, core, %error, "the worker is not pinned");
        }
        let goes_first = core.is_some() && goes_first(number, scheduling);
        let worker = Worker::adopt(engine, arena, relay_config, inbox, outbox, (pairs, blame));
        let worker = match share.filter(|_| goes_first) {
            Some(share) => worker.within(share),
            None => worker,
        };
        match page {
            Some(page) => worker.with_stats(page).run(),
            None => worker.run(),
        }
    })?;
    Ok(WorkerLink { commands, reports, backlog: VecDeque::new(), thread, webrtc })
}

/// Lets the calling worker go before everything else on its core, if it is to; whether it does.
fn goes_first(worker: u16, scheduling: Scheduling) -> bool {
    let Scheduling::Realtime { is_named } = scheduling else { return false };
    let refused = affinity::go_first();
    if let Err(error) = &refused {
        let advice = "LimitRTPRIO=1 of the service allows it";
        match is_named {
            true => tracing::warn!(worker, %error, advice, "the worker is not scheduled in real time"),
            false => tracing::info!(worker, %error, advice, "the worker is not scheduled in real time"),
        }
    }
    refused.is_ok()
}
