//! The keeper: owns everything that must outlive a relay process, and parses nothing from the network.
//!
//! It opens and binds every media socket and the socket of RCP, makes the arenas and the memory of the manager's facts, and hands
//! duplicates of all of them to the relay ([`hand_over`](Keeper::hand_over)). While the relay works, the keeper opens pairs for it and
//! takes them back. When the relay ends, the kernel goes on queueing packets in the sockets, and the next relay finds everything as
//! it was ([`process`]). One thread, one pair of sockets, no call state: who calls whom is in the arenas, which it never reads.

pub mod channel;
mod facts;
mod link;
mod listener;
pub mod process;
mod restarts;

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder},
    io,
    net::UdpSocket,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, PermissionsExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    thread::JoinHandle,
    time::Duration,
};

use gangway_shared::{
    rcp::{ErrorCode, RelayError},
    time::Time,
};
use rustix::process::{Resource, getrlimit};
use thiserror::Error;

pub use self::listener::SocketError;
pub(crate) use self::{
    channel::PairFacts,
    facts::{Facts as KeptFacts, Identity},
    link::{FromKeeper, HandedPair, Handover, Link},
};
use self::{
    channel::{BrowserPort, Channel, DESCRIPTORS_MAX, Received, ToKeeper, ToRelay},
    facts::Facts,
};
use crate::{
    arena::{Arena, RelayLimits},
    config::Config,
    engine::clock,
    files,
    ports::{BrowserPortError, Pair, Ports},
};

/// Ports towards browsers are waited for so long: those of a ring were bound for up to 0.4 s after their processes had been killed (two busy cores,
/// Linux 6.18).
const PORTS_FREE_WITHIN: Duration = Duration::from_secs(5);

/// Why there is no keeper.
#[derive(Debug, Error)]
pub enum KeeperError {
    /// `data_dir` cannot be made or made private.
    #[error("data_dir: {path}: {source}")]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A browser port is taken.
    #[error(transparent)]
    BrowserPort(#[from] BrowserPortError),
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

/// See the module text.
#[derive(Debug)]
pub struct Keeper {
    socket: PathBuf,
    listener: UnixListener,
    ports: Ports,
    browser: Vec<(BrowserPort, UdpSocket)>,
    pairs: BTreeMap<u64, Pair>,
    /// Open files that a pair takes of the limit of one process.
    files_per_pair: u64,
    next_lease: u64,
    limits: RelayLimits,
    arenas: Vec<OwnedFd>,
    facts: OwnedFd,
}

impl Keeper {
    /// Opens everything that the settings name.
    ///
    /// # Errors
    /// The first thing that cannot be had. Nothing is left open then.
    pub fn open(config: &Config) -> Result<Self, KeeperError> {
        let kernel = |what| move |source| KeeperError::Kernel { what, source };
        make_private(&config.data_dir)?;
        // First: the ports of one who serves are waited for in vain.
        listener::clear(&config.socket)?;
        let ports = Ports::new(config.addresses.clone(), config.media, config.workers, config.quarantine)
            .with_receive_buffers(config.receive_buffers)
            .with_patience(PORTS_FREE_WITHIN);
        let (mut browser, mut arenas) = (Vec::new(), Vec::new());
        for worker in 0..config.workers {
            for (socket, advertised) in ports.open_browser_ports(worker, config.webrtc_port)? {
                browser.push((BrowserPort { worker, advertised }, socket));
            }
            arenas.push(Arena::create(config.limits).map_err(kernel("memory for relays"))?.into_fd());
        }
        let facts = Facts::create().map_err(kernel("memory for facts"))?;
        // Last: who can connect will be served.
        let listener = listener::listen(&config.socket)?;
        Ok(Keeper {
            socket: config.socket.clone(),
            listener,
            ports,
            browser,
            pairs: BTreeMap::new(),
            files_per_pair: 2,
            next_lease: 1,
            limits: config.limits,
            arenas,
            facts,
        })
    }

    /// Gives a relay duplicates of everything.
    ///
    /// # Errors
    /// When the relay does not read, or is gone.
    pub(crate) fn hand_over(&self, channel: &Channel, blame: bool) -> io::Result<()> {
        let begin = ToRelay::Begin { addresses: self.ports.addresses().to_vec(), blame };
        let fixed = [self.facts.as_fd(), self.listener.as_fd()].into_iter();
        let descriptors: Vec<BorrowedFd<'_>> = fixed.chain(self.arenas.iter().map(AsFd::as_fd)).collect();
        channel.send(&begin, &descriptors)?;
        for part in self.browser.chunks(DESCRIPTORS_MAX) {
            let descriptors: Vec<BorrowedFd<'_>> = part.iter().map(|(_, socket)| socket.as_fd()).collect();
            channel.send(&ToRelay::Browser(part.iter().map(|(port, _)| *port).collect()), &descriptors)?;
        }
        let pairs: Vec<(&u64, &Pair)> = self.pairs.iter().collect();
        for part in pairs.chunks(DESCRIPTORS_MAX / 2) {
            let descriptors: Vec<BorrowedFd<'_>> =
                part.iter().flat_map(|(_, pair)| [pair.rtp.as_fd(), pair.rtcp.as_fd()]).collect();
            channel
                .send(&ToRelay::Pairs(part.iter().map(|(lease, pair)| pair.facts(**lease)).collect()), &descriptors)?;
        }
        channel.send(&ToRelay::End, &[])
    }

    /// Does what the relay asks for; true when it says that it serves.
    ///
    /// # Errors
    /// When the answer cannot be sent.
    pub(crate) fn handle(&mut self, now: Time, channel: &Channel, message: ToKeeper) -> io::Result<bool> {
        match message {
            ToKeeper::Open { token, worker, on } => {
                // The relay is not trusted with more than the settings allow.
                let is_ours = self.ports.addresses().contains(&on);
                let refused =
                    || RelayError::new(ErrorCode::NoAddress, "", "the address is none of the configured ones");
                let opened = match is_ours {
                    true => self.has_room().and_then(|()| self.ports.open_pair(now, worker, on)),
                    false => Err(refused()),
                };
                match opened {
                    Ok(pair) => {
                        let lease = self.next_lease;
                        self.next_lease += 1;
                        let answer = ToRelay::Opened { token, pair: pair.facts(lease) };
                        let sent = channel.send(&answer, &[pair.rtp.as_fd(), pair.rtcp.as_fd()]);
                        self.pairs.insert(lease, pair);
                        sent?;
                    }
                    Err(error) => channel.send(&ToRelay::Refused { token, error }, &[])?,
                }
            }
            ToKeeper::Close { lease } => self.take_back(now, lease),
            ToKeeper::Count { token } => {
                channel.send(&ToRelay::Counts { token, counts: self.ports.counts(now) }, &[])?;
            }
            ToKeeper::Serving => return Ok(true),
        }
        Ok(false)
    }

    /// Whether keeper and relay may have another pair open. The relay has as many open files as the keeper, and what both need beside
    /// pairs must be there at every restart.
    fn has_room(&self) -> Result<(), RelayError> {
        let Some(limit) = getrlimit(Resource::Nofile).current else { return Ok(()) };
        let fixed = files::OTHERS + self.browser.len() as u64 + self.arenas.len() as u64 * files::PER_WORKER;
        let pairs = limit.saturating_sub(fixed) / self.files_per_pair;
        if (self.pairs.len() as u64) < pairs {
            return Ok(());
        }
        let reason = format!("{limit} open files are enough for {pairs} pairs of ports");
        Err(RelayError::new(ErrorCode::NoPorts, "", reason))
    }

    fn take_back(&mut self, now: Time, lease: u64) {
        let Some(Pair { lease, rtp, rtcp, .. }) = self.pairs.remove(&lease) else { return };
        drop((rtp, rtcp));
        self.ports.release(now, lease);
    }

    /// Gives up every call: empty arenas, and all pairs back.
    ///
    /// # Errors
    /// When there is no memory for new arenas.
    pub(crate) fn give_up_calls(&mut self, now: Time) -> io::Result<()> {
        for arena in &mut self.arenas {
            *arena = Arena::create(self.limits)?.into_fd();
        }
        for lease in self.pairs.keys().copied().collect::<Vec<_>>() {
            self.take_back(now, lease);
        }
        Ok(())
    }

    /// Serves a relay of the same process until that lets its end go.
    fn serve(mut self, channel: &Channel) -> io::Result<()> {
        self.hand_over(channel, false)?;
        loop {
            match channel.receive(true)? {
                Received::Message(message, _) => self.handle(clock::now().mono, channel, message).map(drop)?,
                Received::Nothing | Received::CutOff(_) => {}
                Received::Closed => return Ok(()),
            }
        }
    }

    /// Runs on a thread of the relay's own process, where nothing is to survive: tests and benches.
    ///
    /// # Errors
    /// When the kernel gives no sockets or thread.
    pub fn run_beside(mut self) -> io::Result<(Channel, JoinHandle<()>)> {
        let (ours, theirs) = Channel::pair()?;
        // The relay's duplicates count in the same process.
        self.files_per_pair = 4;
        let thread = std::thread::Builder::new().name("keeper".to_owned()).spawn(move || {
            if let Err(error) = self.serve(&ours) {
                tracing::error!(%error, "the keeper failed");
            }
        })?;
        Ok((theirs, thread))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
    }
}

impl Pair {
    fn facts(&self, lease: u64) -> PairFacts {
        PairFacts { lease, on: self.on, port: self.port }
    }
}

/// Makes the directory and keeps others out of it: whoever may write into it could put his own socket in our place.
fn make_private(path: &Path) -> Result<(), KeeperError> {
    let error = |source| KeeperError::DataDir { path: path.to_owned(), source };
    if !path.is_dir() {
        return DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(error);
    }
    let mode = fs::metadata(path).map_err(error)?.permissions().mode();
    if mode & 0o007 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o770)).map_err(error)?;
    }
    Ok(())
}
