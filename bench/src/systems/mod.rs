//! Systems under test: how each is started on its core, told of calls, and ended.

pub mod bencode;
pub mod gangway;
pub mod janus;
mod page;
mod phone;
pub mod rtpengine;
pub mod sdp;
pub mod whole;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use self::{gangway::Gangway, janus::Janus, rtpengine::RtpEngine, whole::Gateway};
use crate::{
    call::{Answer, CallSpec},
    compare::workload::Workload,
    load::{Side, udp_sockets},
    process::{Place, Running, Scheduling, sibling},
};

/// First and last media port of systems that choose by themselves: below the kernel's usual range, which the generator uses.
pub const MEDIA_PORTS: (u16, u16) = (10_000, 32_767);

/// One look at the statistics of a system, by a connection of its own.
pub type Watcher = Box<dyn FnMut() -> io::Result<()> + Send>;

/// A relay that runs.
pub trait System {
    /// Its process; with all that descends from it, it is what is measured.
    fn pid(&self) -> u32;

    /// Makes calls, in this order.
    ///
    /// # Errors
    /// A refusal, with what was refused.
    fn add(&mut self, calls: &[CallSpec]) -> io::Result<Vec<[Answer; 2]>>;

    /// Reads its statistics as who operates it does; `None` where there are none, or nobody is let in to read them.
    ///
    /// # Errors
    /// When they cannot be reached.
    fn watcher(&self) -> io::Result<Option<Watcher>> {
        Ok(None)
    }
}

/// The systems that can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours, with this engine.
    Gangway {
        /// `epoll` or `uring`.
        engine: String,
        /// Another binary than the one built beside this program.
        binary: Option<PathBuf>,
    },
    /// Our control with a dataplane of this engine, between a page and a phone.
    Whole(&'static str),
    /// Debian's Janus with two event loops, between a page and a phone.
    Janus,
    /// Debian's rtpengine, in user space, one thread.
    RtpEngine,
    /// A relay of `baseline`: `bare`, `tokio-uring` or `webrtc-srtp`.
    Baseline(&'static str),
}

/// A system with the name it has in tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// For tables.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// How it shares its core; a name that ends in `@fair` or `@real-time` says it outright.
    pub scheduling: Scheduling,
}

impl Choice {
    /// The system of this name; `other=PATH` is another `gangway-dataplane`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Choice::parse_in(text, Scheduling::default())
    }

    /// The same, in this class where the name has none.
    #[must_use]
    pub fn parse_in(text: &str, scheduling: Scheduling) -> Option<Self> {
        let name = text;
        let (text, scheduling) = match text.rsplit_once('@') {
            Some((text, class)) if !class.contains('/') => (text, Scheduling::parse(class)?),
            _ => (text, scheduling),
        };
        let engine = |engine: &str, binary| Kind::Gangway { engine: engine.to_owned(), binary };
        let kind = match text {
            "epoll" | "uring" => engine(text, None),
            "gateway" => Kind::Whole("auto"),
            "gateway-epoll" => Kind::Whole("epoll"),
            "gateway-uring" => Kind::Whole("uring"),
            "janus" => Kind::Janus,
            "rtpengine" => Kind::RtpEngine,
            "bare" => Kind::Baseline("bare"),
            "tokio-uring" => Kind::Baseline("tokio-uring"),
            "webrtc-srtp" => Kind::Baseline("webrtc-srtp"),
            _ => {
                let (name, path) = text.split_once('=')?;
                let engine_name = name.rsplit_once('-').map_or("auto", |(_, engine)| engine);
                return Some(Choice {
                    name: name.to_owned(),
                    kind: engine(engine_name, Some(path.into())),
                    scheduling,
                });
            }
        };
        Some(Choice { name: name.to_owned(), kind, scheduling })
    }

    /// Whether it can run such calls, and is what they are for: whole gateways have a workload of their own.
    #[must_use]
    pub fn can(&self, workload: &Workload) -> bool {
        match (&self.kind, workload.shape.side) {
            (Kind::Whole(_) | Kind::Janus, side) => workload.is_whole() && side == Side::Ice,
            _ if workload.is_whole() => false,
            (Kind::Gangway { .. }, _) | (Kind::RtpEngine, Side::Plain | Side::Srtp(_)) => true,
            (Kind::Baseline("webrtc-srtp"), side) => matches!(side, Side::Srtp(_)),
            (Kind::Baseline(_), side) => side == Side::Plain,
            (Kind::RtpEngine, Side::Ice | Side::Mixed) => false,
        }
    }

    /// Where its browsers are: Janus never offers loopback, and what is bound to another address does not reach 127.0.0.1 everywhere.
    ///
    /// # Errors
    /// When this machine has no such address.
    pub fn browsers_at(&self) -> io::Result<Ipv4Addr> {
        match self.kind {
            Kind::Janus => janus::own_address(),
            _ => Ok(Ipv4Addr::LOCALHOST),
        }
    }

    /// Starts it, on `core` alone where one is given.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start(&self, core: Option<usize>) -> io::Result<Box<dyn System>> {
        let place = Place { core, scheduling: self.scheduling };
        Ok(match &self.kind {
            Kind::Gangway { engine, binary } => {
                let binary = binary.clone().map_or_else(|| sibling("gangway-dataplane"), Ok)?;
                Box::new(Gangway::start(&binary, &[format!("dataplane_engine={engine}")], place)?)
            }
            Kind::Whole(engine) => Box::new(Gateway::start(engine, place)?),
            Kind::Janus => Box::new(Janus::start(place)?),
            Kind::RtpEngine => Box::new(RtpEngine::start(place)?),
            Kind::Baseline(mode) => Box::new(Baseline::start(mode, place)?),
        })
    }
}

/// Starts the program of a system, as [`Running::start`] does, when the ports of the one before are free: the kernel lets the sockets of a
/// ring go a while after the process that had it. Somebody else's are waited for in vain, and not for long.
fn start(command: Command, place: Place) -> io::Result<Running> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !ports_are_free() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    Running::start(command, place)
}

fn ports_are_free() -> bool {
    let (from, to) = MEDIA_PORTS;
    !udp_sockets().iter().any(|(port, _)| (from..=to).contains(port))
}

/// A relay of our own that does only what it must: `baseline MODE`, told of all calls at once by one line of JSON.
struct Baseline(Running);

impl Baseline {
    fn start(mode: &str, place: Place) -> io::Result<Self> {
        let mut command = Command::new(sibling("baseline")?);
        command.arg(mode);
        Ok(Baseline(start(command, place)?))
    }
}

impl System for Baseline {
    fn pid(&self) -> u32 {
        self.0.pid()
    }

    fn add(&mut self, calls: &[CallSpec]) -> io::Result<Vec<[Answer; 2]>> {
        let mut stdin = self.0.take_stdin();
        serde_json::to_writer(&mut stdin, calls)?;
        drop(stdin);
        Ok(serde_json::from_str(&self.0.read_line()?)?)
    }
}

/// Both addresses of a pair, which must be IPv4.
pub(crate) fn v4(address: SocketAddr) -> io::Result<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(_) => Err(io::Error::other("the benches speak IPv4 only")),
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_name_may_end_in_its_class() {
        let of = |text| Choice::parse_in(text, Scheduling::RealTime);
        let peer = of("rtpengine@fair").unwrap();
        assert_eq!(
            (peer.name.as_str(), peer.kind, peer.scheduling),
            ("rtpengine@fair", Kind::RtpEngine, Scheduling::Fair)
        );
        assert_eq!(of("rtpengine").unwrap().scheduling, Scheduling::RealTime);
        assert_eq!(of("rtpengine@best"), None);
        let other = of("old-uring=/a@b/gangway-dataplane").unwrap();
        assert_eq!((other.name.as_str(), other.scheduling), ("old-uring", Scheduling::RealTime));
    }

    #[test]
    fn a_media_port_that_somebody_has_is_not_free() {
        let (from, to) = MEDIA_PORTS;
        let held = (from..=to).find_map(|port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok());
        assert!(held.is_some() && !ports_are_free());
    }
}
