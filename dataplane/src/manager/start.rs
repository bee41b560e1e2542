//! Start order: directory, certificate, ports and threads of the workers, and last the socket: who can connect can be served.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, DirBuilder},
    io,
    net::{SocketAddr, UdpSocket},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use gangway_shared::entropy::Entropy;
use mio::{Interest, Poll, net::UnixListener};
use thiserror::Error;

use super::{
    EVENTS_MAX, FIRST_CONNECTION, LISTENER, Manager, Mode, TICK, WAKE, WorkerLink,
    connections::{SocketError, listen},
    entropy::OsEntropy,
    requests::Busy,
};
use crate::{
    affinity,
    arena::Arena,
    config::Config,
    dtls::{Certificate, CertificateError, Handshakes},
    engine::{Engine, OpenError, Wake, clock, epoll::EpollEngine},
    events::EventLog,
    mailbox::mailbox,
    ports::{BrowserPortError, Ports},
    registry::{Registry, RegistryConfig},
    relay::{PortId, RelayConfig},
    worker::{INBOX_MAX, OUTBOX_MAX, Worker},
};

/// Bytes of the random name of this run.
const INSTANCE_BYTES: usize = 8;

/// Why the dataplane did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// `data_dir` cannot be made or made private.
    #[error("data_dir: {path}: {source}")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A browser port is taken.
    #[error(transparent)]
    BrowserPort(#[from] BrowserPortError),
    /// A browser port cannot be watched.
    #[error("webrtc_port: {0}")]
    Open(#[from] OpenError),
    /// The socket cannot be served.
    #[error(transparent)]
    Socket(#[from] SocketError),
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
    manager: JoinHandle<io::Result<()>>,
}

impl Running {
    /// Waits for its end.
    ///
    /// # Errors
    /// What made it fail.
    pub fn join(self) -> io::Result<()> {
        self.manager.join().unwrap_or_else(|_| Err(io::Error::other("the manager thread panicked")))
    }
}

/// Starts everything; serves when it returns.
///
/// # Errors
/// The first thing that cannot be had. Nothing is left running then.
pub fn start(config: Config, mode: Mode) -> Result<Running, StartError> {
    make_private(&config.data_dir)?;
    let certificate = Certificate::generate()?;
    let kernel = |what| move |source| StartError::Kernel { what, source };
    let poll = Poll::new().map_err(kernel("epoll"))?;
    let waker = Arc::new(mio::Waker::new(poll.registry(), WAKE).map_err(kernel("eventfd"))?);
    let ports = Ports::new(config.addresses.clone(), config.media, config.workers, config.quarantine)
        .with_receive_buffers(config.receive_buffers);
    // All that can fail comes before the first thread.
    let mut prepared = Vec::new();
    for number in 0..config.workers {
        prepared.push(prepare_worker(&config, &ports, number)?);
    }
    let mut listener = listen(&config.socket)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE).map_err(kernel("epoll"))?;
    let workers: Vec<WorkerLink> = prepared
        .into_iter()
        .map(|worker| spawn_worker(&config, worker, waker.clone()))
        .collect::<io::Result<_>>()
        .map_err(kernel("a worker thread"))?;
    let manager = Manager::new(config, mode, poll, listener, certificate, ports, workers);
    manager.watch_signals().map_err(kernel("signals"))?;
    let socket = manager.config.socket.clone();
    let webrtc = manager.workers.iter().flat_map(|worker| worker.webrtc.iter().copied()).collect();
    let manager = std::thread::Builder::new()
        .name("manager".to_owned())
        .spawn(move || manager.run())
        .map_err(kernel("the manager thread"))?;
    Ok(Running { socket, webrtc, manager })
}

impl Manager {
    /// A manager that nobody has connected to.
    #[allow(
        clippy::disallowed_methods,
        reason = "the DTLS crate takes Instant; this is the one moment both clocks share"
    )]
    pub(super) fn new(
        config: Config,
        mode: Mode,
        poll: Poll,
        listener: UnixListener,
        certificate: Certificate,
        ports: Ports,
        workers: Vec<WorkerLink>,
    ) -> Self {
        let now = clock::now().mono;
        let registry = RegistryConfig {
            relays_max: config.limits.relays as usize * usize::from(config.workers),
            orphan_grace: config.orphan_grace,
            linger: mode.managed.then_some(config.linger),
        };
        let base = (now, std::time::Instant::now());
        Manager {
            registry: Registry::new(registry, now),
            log: EventLog::new(EVENTS_MAX),
            handshakes: Handshakes::new(certificate.clone(), config.dtls_timeout, base),
            mode,
            poll,
            listener,
            instance: OsEntropy.hex(INSTANCE_BYTES),
            certificate,
            ports,
            workers,
            relays: BTreeMap::new(),
            legs: BTreeMap::new(),
            pending: BTreeMap::new(),
            next_token: 0,
            busy: Busy::default(),
            connections: BTreeMap::new(),
            next_connection: FIRST_CONNECTION,
            living: None,
            next_tick: now + TICK,
            leave_by: None,
            is_leaving: false,
            config,
        }
    }
}

/// Makes the directory and keeps others out of it: whoever may write into it could put his own socket in our place.
fn make_private(path: &Path) -> Result<(), StartError> {
    let error = |source| StartError::DataDir { path: path.to_owned(), source };
    if !path.is_dir() {
        return DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(error);
    }
    let mode = fs::metadata(path).map_err(error)?.permissions().mode();
    if mode & 0o007 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o770)).map_err(error)?;
    }
    Ok(())
}

struct PreparedWorker {
    number: u16,
    engine: EpollEngine,
    arena: Arena,
    mux_ports: Vec<PortId>,
    webrtc: Vec<SocketAddr>,
}

fn prepare_worker(config: &Config, ports: &Ports, number: u16) -> Result<PreparedWorker, StartError> {
    let kernel = |what| move |source| StartError::Kernel { what, source };
    let mut engine = EpollEngine::new().map_err(kernel("epoll"))?;
    let arena = Arena::create(config.limits).map_err(kernel("memory for relays"))?;
    let mut mux_ports = Vec::new();
    let mut webrtc = Vec::new();
    for (socket, advertised) in ports.open_browser_ports(number, config.webrtc_port)? {
        mux_ports.push(engine.open(socket)?);
        webrtc.push(advertised);
    }
    Ok(PreparedWorker { number, engine, arena, mux_ports, webrtc })
}

fn spawn_worker(config: &Config, prepared: PreparedWorker, waker: Arc<dyn Wake>) -> io::Result<WorkerLink> {
    let PreparedWorker { number, engine, arena, mux_ports, webrtc } = prepared;
    let (commands, inbox) = mailbox::<crate::worker::Command<UdpSocket>>(INBOX_MAX, engine.waker());
    let (outbox, reports) = mailbox(OUTBOX_MAX, waker);
    let relay_config = RelayConfig {
        worker: number,
        timers: config.timers,
        mux_ports,
        seed: OsEntropy.next_u64(),
        history_bytes: config.history_bytes,
    };
    let core = config.cores.get(usize::from(number)).copied();
    let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        if let Some(core) = core
            && let Err(error) = affinity::pin_to(core)
        {
            tracing::warn!(worker = number, core, %error, "the worker is not pinned");
        }
        Worker::new(engine, arena, relay_config, inbox, outbox).run();
    })?;
    Ok(WorkerLink { commands, reports, backlog: VecDeque::new(), thread, webrtc })
}
