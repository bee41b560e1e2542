//! DTLS handshakes with browsers: a table of sessions around the sans-I/O DTLS crate.
//!
//! We are always passive and always speak 1.2: there the server chooses the SRTP profile, so every browser gets GCM. A session
//! exists only for a leg that had an authenticated STUN check, and its datagrams come only from addresses that had one; so no
//! cookie is needed, and a fresh object can take over a retransmitted ClientHello. In front of the crate stand [`filter`] and
//! [`reassembly`]. A failed handshake ends nothing but itself: the next ClientHello begins a new one.
//!
//! This module names no socket and no clock: [`Time`] comes in, [`Action`]s go out. The crate takes `Instant` and draws its own
//! entropy; the conversion is at this edge.

pub mod filter;
pub mod reassembly;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use dimpl::{Config, Dtls, DtlsCertificate, Output, SrtpProfile};
use gangway_shared::{
    rcp::{DtlsFailure, Fingerprint},
    time::Time,
};
use thiserror::Error;

use self::{
    filter::{Found, Sealed, Stage},
    reassembly::Reassembly,
};
use crate::{
    relay::{DtlsKeys, LegHandle, PortId},
    srtp::{MasterKey, Profile},
};

/// First retransmission of a flight; doubles. The browsers' own is 50 ms, the crate's default of 1 s loses calls.
const FLIGHT_RTO: Duration = Duration::from_millis(100);

/// Retransmissions of one flight: with doubling from [`FLIGHT_RTO`] that is 51 s, more than any handshake gets.
const FLIGHT_RETRIES: usize = 8;

/// Largest datagram we send in bytes.
const MTU_BYTES: usize = 1150;

/// A handshake that is not done by then is begun anew when its ClientHello comes again.
const STALE_AFTER: Duration = Duration::from_secs(1);

/// Least time between two beginnings of one session's handshake, so that junk cannot make us work without end.
const RESTART_MIN: Duration = Duration::from_millis(20);

/// So long after a handshake its object goes, which is most of a browser's memory: it could only tell of a close_notify from then on.
/// What a peer needs of us without it, our last flight, is kept (decision 034).
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// Room for one output of the crate; 2048 was always enough.
const OUTPUT_BYTES: usize = 2048;

/// A timer further away than this is the crate's way to say "none".
const TIMER_MAX: Duration = Duration::from_secs(3600);

/// Names a browser leg among all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LegKey {
    /// Its worker.
    pub worker: u16,
    /// Its handle there.
    pub leg: LegHandle,
}

/// Where a browser is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Our port, of the leg's worker.
    pub port: PortId,
    /// The browser's address.
    pub remote: SocketAddr,
}

/// What the caller must do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Send a datagram.
    Send {
        /// The leg.
        leg: LegKey,
        /// Where.
        path: Path,
        /// What.
        datagram: Vec<u8>,
    },
    /// The handshake is complete: certificate seen *and* the peer's possession of its key proven.
    Keys {
        /// The leg.
        leg: LegKey,
        /// SRTP keys and the certificate's fingerprint, which has not been compared with anything yet.
        keys: DtlsKeys,
    },
    /// No handshake was completed in time.
    Failed {
        /// The leg.
        leg: LegKey,
        /// Why, as far as it is known.
        cause: DtlsFailure,
    },
    /// The browser said close_notify: its peer connection is gone.
    Closed {
        /// The leg.
        leg: LegKey,
    },
    /// An alert came that nobody can read any more. It may be a close_notify, or anybody's: the browser has to show that it is there.
    Doubted {
        /// The leg.
        leg: LegKey,
    },
}

/// Our certificate: one for all calls, its fingerprint goes into every SDP.
#[derive(Clone)]
pub struct Certificate {
    inner: DtlsCertificate,
    fingerprint: Fingerprint,
}

/// The certificate could not be made.
#[derive(Debug, Error)]
#[error("no DTLS certificate could be made: {0}")]
pub struct CertificateError(String);

impl Certificate {
    /// Makes a self-signed P-256 certificate, valid for a year.
    ///
    /// # Errors
    /// When the crypto library fails.
    pub fn generate() -> Result<Self, CertificateError> {
        Self::make().map(Self::of)
    }

    /// Makes one with its key as DER, to be kept.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn make() -> Result<DtlsCertificate, CertificateError> {
        dimpl::certificate::generate_self_signed_certificate().map_err(|error| CertificateError(error.to_string()))
    }

    /// One that was kept.
    #[must_use]
    pub fn of(inner: DtlsCertificate) -> Self {
        let fingerprint = fingerprint_of(&inner.certificate);
        Certificate { inner, fingerprint }
    }

    /// SHA-256 of the DER, for SDP.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({}, [redacted])", self.fingerprint)
    }
}

fn fingerprint_of(der: &[u8]) -> Fingerprint {
    let hash = dimpl::certificate::calculate_fingerprint(der);
    Fingerprint(hash.try_into().expect("SHA-256 has 32 bytes"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No keys yet; the deadline runs.
    Shaking,
    /// The deadline passed; a new ClientHello begins anew.
    Expired,
    /// Keys were exported.
    Established,
    /// The browser closed.
    Closed,
}

struct Session {
    state: State,
    /// Made at the first ClientHello; gone after an error, which is final for the object.
    dtls: Option<Box<Dtls>>,
    stage: Stage,
    joined: Reassembly,
    path: Path,
    begun_at: Option<Time>,
    deadline: Time,
    timer: Option<Time>,
    /// Certificate of the peer, before it proved anything.
    peer: Option<Fingerprint>,
    /// An alert in clear or an error of the crate was seen since the handshake began.
    troubled: bool,
    /// When the object of a completed handshake goes.
    settles_at: Option<Time>,
    /// What completed it on our side; for a peer that did not get it.
    last_flight: Vec<Vec<u8>>,
    /// It is not repeated before.
    repeats_at: Time,
}

/// All sessions of the program. At most one per browser leg, so the arena's limit on legs bounds it.
pub struct Handshakes {
    certificate: Certificate,
    config: Arc<Config>,
    timeout: Duration,
    /// One moment on both clocks.
    base: (Time, Instant),
    sessions: BTreeMap<LegKey, Session>,
    timers: BTreeSet<(Time, LegKey)>,
    actions: VecDeque<Action>,
    admitted: Vec<u8>,
    filtered: u64,
}

impl Handshakes {
    /// An empty table. A handshake has `timeout` from its first authenticated check; `base` is one moment on both clocks.
    ///
    /// # Panics
    /// When the crate refuses its own defaults.
    #[must_use]
    pub fn new(certificate: Certificate, timeout: Duration, base: (Time, Instant)) -> Self {
        let config = Config::builder()
            .use_server_cookie(false)
            .flight_start_rto(FLIGHT_RTO)
            .flight_retries(FLIGHT_RETRIES)
            .mtu(MTU_BYTES)
            .build()
            .expect("the crate accepts its own defaults with other timers");
        Handshakes {
            certificate,
            config: Arc::new(config),
            timeout,
            base,
            sessions: BTreeMap::new(),
            timers: BTreeSet::new(),
            actions: VecDeque::new(),
            admitted: Vec::new(),
            filtered: 0,
        }
    }

    /// A leg had an authenticated check from this path: it may shake hands now.
    ///
    /// `expected` are the fingerprints its program names, if any. A session established with another certificate begins anew
    /// (a restart comes from signalling); every other one goes on as it was.
    pub fn handle_path(&mut self, now: Time, leg: LegKey, path: Path, expected: &[Fingerprint]) {
        let is_outdated = self.sessions.get(&leg).is_some_and(|session| {
            matches!(session.state, State::Established | State::Closed)
                && !expected.is_empty()
                && session.peer.is_none_or(|peer| !expected.contains(&peer))
        });
        if is_outdated {
            self.remove(leg);
        }
        if self.sessions.contains_key(&leg) {
            return;
        }
        self.sessions.insert(leg, Session::new(State::Shaking, path, now + self.timeout, None));
        self.schedule(leg, None);
    }

    /// A leg of the process before this one has keys that were agreed on with `peer`. Its DTLS state is gone, so nothing is answered
    /// and no close is heard, but another path needs no other handshake.
    pub fn adopt(&mut self, leg: LegKey, peer: Fingerprint) {
        // Nothing is sent before a new handshake, which brings its path.
        let nowhere = Path { port: PortId(0), remote: SocketAddr::from(([0, 0, 0, 0], 0)) };
        self.sessions.insert(leg, Session::new(State::Established, nowhere, Time::ZERO, Some(peer)));
    }

    /// A DTLS datagram of a leg came by an authenticated path. Without a session it is dropped and counted.
    pub fn handle_datagram(&mut self, now: Time, leg: LegKey, path: Path, datagram: &[u8]) {
        let Some(session) = self.sessions.get_mut(&leg) else {
            self.filtered += 1;
            return;
        };
        match session.state {
            State::Closed => self.filtered += 1,
            State::Established => {
                session.path = path;
                if session.dtls.is_some() {
                    self.drive(now, leg, Some(datagram));
                } else {
                    self.answer(now, leg, datagram);
                }
            }
            State::Shaking | State::Expired => self.shake(now, leg, path, datagram),
        }
    }

    /// A datagram for a session whose object is gone: our last flight for the peer's (RFC 6347 section 4.2.4), doubt for an alert.
    fn answer(&mut self, now: Time, leg: LegKey, datagram: &[u8]) {
        let Some(session) = self.sessions.get_mut(&leg) else { return };
        match filter::sealed(datagram) {
            Some(Sealed::Handshake) if session.repeats_at <= now => {
                session.repeats_at = now + FLIGHT_RTO;
                let path = session.path;
                let again = session.last_flight.iter().cloned();
                self.actions.extend(again.map(|datagram| Action::Send { leg, path, datagram }));
            }
            Some(Sealed::Alert) => self.actions.push_back(Action::Doubted { leg }),
            _ => self.filtered += 1,
        }
    }

    fn shake(&mut self, now: Time, leg: LegKey, path: Path, datagram: &[u8]) {
        let Some(session) = self.sessions.get_mut(&leg) else { return };
        let mut admitted = std::mem::take(&mut self.admitted);
        let found = filter::admit(session.stage, datagram, &mut session.joined, &mut admitted);
        self.filtered += u64::from(found.dropped);
        session.troubled |= found.clear_alert;
        if !admitted.is_empty() && session.begin(now, found, &self.config, &self.certificate, self.base, self.timeout) {
            session.path = path;
            self.drive(now, leg, Some(&admitted));
        }
        self.admitted = admitted;
    }

    /// Does everything that is due.
    pub fn handle_timeout(&mut self, now: Time) {
        while let Some(&(at, leg)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            let Some(session) = self.sessions.get_mut(&leg) else { continue };
            session.timer = None;
            if session.state == State::Shaking && session.deadline <= now {
                let cause = if session.troubled { DtlsFailure::Alert } else { DtlsFailure::Timeout };
                session.state = State::Expired;
                session.forget();
                self.actions.push_back(Action::Failed { leg, cause });
            } else if session.settles_at.is_some_and(|at| at <= now) {
                session.settles_at = None;
                session.forget();
            } else {
                self.drive(now, leg, None);
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.timers.first().map(|&(at, _)| at)
    }

    /// What to do next; drain it after each call.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The leg is gone.
    pub fn remove(&mut self, leg: LegKey) {
        if let Some(session) = self.sessions.remove(&leg)
            && let Some(at) = session.timer
        {
            self.timers.remove(&(at, leg));
        }
    }

    /// A worker was started anew: legs that did not survive are gone.
    pub fn retain(&mut self, keep: impl Fn(LegKey) -> bool) {
        let gone: Vec<LegKey> = self.sessions.keys().copied().filter(|&leg| !keep(leg)).collect();
        gone.into_iter().for_each(|leg| self.remove(leg));
    }

    /// Handshakes in progress.
    #[must_use]
    pub fn in_progress(&self) -> u64 {
        self.sessions.values().filter(|session| session.state == State::Shaking).count() as u64
    }

    /// Records that were kept from the crate.
    #[must_use]
    pub fn filtered(&self) -> u64 {
        self.filtered
    }

    /// Feeds the crate and acts on what it says.
    fn drive(&mut self, now: Time, leg: LegKey, datagram: Option<&[u8]>) {
        let at = instant(self.base, now);
        let Some(session) = self.sessions.get_mut(&leg) else { return };
        let Some(dtls) = session.dtls.as_mut() else { return self.schedule(leg, None) };
        // The crate asserts in places where a hostile peer has a say; its panic must not be ours.
        let said = catch_unwind(AssertUnwindSafe(|| {
            dtls.handle_timeout(at)?;
            if let Some(datagram) = datagram {
                dtls.handle_packet(datagram)?;
            }
            Ok::<_, dimpl::Error>(Said::drain(dtls))
        }));
        let said = match said {
            Ok(Ok(said)) => said,
            Ok(Err(error)) => {
                tracing::debug!(?leg, ?error, "a DTLS session ended by an error");
                return self.give_up(leg);
            }
            Err(_) => {
                tracing::error!(?leg, "the DTLS crate panicked; the session is dropped");
                return self.give_up(leg);
            }
        };
        if let Some(peer) = said.peer {
            session.peer = Some(peer);
        }
        if !said.datagrams.is_empty() {
            session.stage = Stage::Answering;
        }
        if let (State::Shaking | State::Expired, true, Some(peer), Some(keys)) =
            (session.state, said.connected, session.peer, said.keys)
        {
            session.state = State::Established;
            session.joined = Reassembly::default();
            session.settles_at = Some(now + SETTLED_AFTER);
            session.last_flight.clone_from(&said.datagrams);
            // Before our last flight, which makes the browser send: its first packet finds the keys.
            self.actions.push_back(Action::Keys { leg, keys: keys.with_peer(peer) });
        }
        let path = session.path;
        self.actions.extend(said.datagrams.into_iter().map(|datagram| Action::Send { leg, path, datagram }));
        if said.closed {
            session.state = State::Closed;
            session.dtls = None;
            session.settles_at = None;
            self.actions.push_back(Action::Closed { leg });
        }
        let next = said.timer.filter(|next| next.saturating_duration_since(at) < TIMER_MAX);
        self.schedule(leg, next.map(|next| time_of(self.base, next)));
    }

    /// The crate's object is of no more use. Established sessions keep their keys; a handshake waits for the next ClientHello.
    fn give_up(&mut self, leg: LegKey) {
        if let Some(session) = self.sessions.get_mut(&leg) {
            session.forget();
            session.troubled = true;
        }
        self.schedule(leg, None);
    }

    fn schedule(&mut self, leg: LegKey, crate_timer: Option<Time>) {
        let Some(session) = self.sessions.get_mut(&leg) else { return };
        if let Some(at) = session.timer.take() {
            self.timers.remove(&(at, leg));
        }
        let deadline = if session.state == State::Shaking { Some(session.deadline) } else { session.settles_at };
        session.timer = deadline.into_iter().chain(crate_timer).min();
        if let Some(at) = session.timer {
            self.timers.insert((at, leg));
        }
    }
}

impl Session {
    fn new(state: State, path: Path, deadline: Time, peer: Option<Fingerprint>) -> Self {
        Session {
            state,
            dtls: None,
            stage: Stage::Listening,
            joined: Reassembly::default(),
            path,
            begun_at: None,
            deadline,
            timer: None,
            peer,
            troubled: false,
            settles_at: None,
            last_flight: Vec::new(),
            repeats_at: Time::ZERO,
        }
    }

    fn forget(&mut self) {
        self.dtls = None;
        self.stage = Stage::Listening;
        self.joined.clear();
    }

    /// Sees to it that there is an object to feed: a new one for the first ClientHello, after an error, or when the old one has
    /// got nowhere. False when there is none and none may be made yet.
    fn begin(
        &mut self,
        now: Time,
        found: Found,
        config: &Arc<Config>,
        certificate: &Certificate,
        base: (Time, Instant),
        timeout: Duration,
    ) -> bool {
        let age = self.begun_at.map(|begun_at| now.since(begun_at));
        let is_stale = found.client_hello && age.is_some_and(|age| age > STALE_AFTER);
        if self.dtls.is_some() && !is_stale {
            return true;
        }
        if !found.client_hello || age.is_some_and(|age| age < RESTART_MIN) {
            return false;
        }
        if self.state == State::Expired {
            self.state = State::Shaking;
            self.deadline = now + timeout;
            self.troubled = false;
        }
        self.begun_at = Some(now);
        self.stage = Stage::Listening;
        self.peer = None;
        self.dtls = Some(Box::new(Dtls::new_12(config.clone(), certificate.inner.clone(), instant(base, now))));
        true
    }
}

fn instant(base: (Time, Instant), now: Time) -> Instant {
    base.1 + now.since(base.0)
}

/// The first microsecond that is not before `at`: rounded down, the timer would not be due yet when it fires.
fn time_of(base: (Time, Instant), at: Instant) -> Time {
    base.0 + at.saturating_duration_since(base.1) + Duration::from_micros(1)
}

/// Everything one drain of the crate said. Nothing is acted on before the drain has ended: until then its state is in between.
#[derive(Default)]
struct Said {
    datagrams: Vec<Vec<u8>>,
    peer: Option<Fingerprint>,
    connected: bool,
    keys: Option<Exported>,
    closed: bool,
    timer: Option<Instant>,
}

struct Exported {
    ours: MasterKey,
    theirs: MasterKey,
}

impl Said {
    fn drain(dtls: &mut Dtls) -> Said {
        let mut said = Said::default();
        let mut buffer = vec![0; OUTPUT_BYTES];
        loop {
            match dtls.poll_output(&mut buffer) {
                Output::Packet(datagram) => said.datagrams.push(datagram.to_vec()),
                Output::BufferTooSmall { needed } => buffer.resize(needed, 0),
                Output::Timeout(at) => {
                    said.timer = Some(at);
                    return said;
                }
                Output::PeerCert(der) => said.peer = Some(fingerprint_of(der)),
                Output::Connected => said.connected = true,
                Output::KeyingMaterial(block, profile) => said.keys = Exported::as_server(&block, profile),
                Output::CloseNotify => said.closed = true,
                // Data channels are not spoken.
                _ => {}
            }
        }
    }
}

impl Exported {
    /// Cuts the key block of RFC 5764 section 4.2; we are the server.
    ///
    /// ```text
    /// | client key | server key | client salt | server salt |
    /// ```
    fn as_server(block: &[u8], profile: SrtpProfile) -> Option<Exported> {
        let profile = match profile {
            SrtpProfile::AES128_CM_SHA1_80 => Profile::AesCm128HmacSha1_80,
            SrtpProfile::AEAD_AES_128_GCM => Profile::AeadAes128Gcm,
            SrtpProfile::AEAD_AES_256_GCM => Profile::AeadAes256Gcm,
            // The crate may learn profiles that we do not know.
            _ => return None,
        };
        let (theirs, rest) = block.split_at_checked(profile.key_len())?;
        let (ours, rest) = rest.split_at_checked(profile.key_len())?;
        let (their_salt, our_salt) = rest.split_at_checked(profile.salt_len())?;
        Some(Exported {
            ours: MasterKey::new(profile, ours, our_salt)?,
            theirs: MasterKey::new(profile, theirs, their_salt)?,
        })
    }

    fn with_peer(self, peer_fingerprint: Fingerprint) -> DtlsKeys {
        DtlsKeys { ours: self.ours, theirs: self.theirs, peer_fingerprint }
    }
}

#[cfg(test)]
mod tests;
