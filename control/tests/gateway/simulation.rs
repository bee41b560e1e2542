//! The signalling simulation: many seeds of calls in both directions through a network that loses, repeats and reorders, with slow
//! and denied asks, hangups at any instant, sockets that close and a wall that goes down.
//!
//! After each step the core's invariants hold; at the end nothing is left anywhere. Each seed runs twice with equal traces. A
//! failing seed is printed; `GANGWAY_SEED=n` runs it alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::SocketAddr,
    time::Duration,
};

use gangway_control::{
    gateway::{
        Gateway, GatewayConfig, Ringback,
        effects::{Answer, Ask, Input, Output, RestCall, RestId, SocketId},
        journal::{JournalEntry, Standing},
        messages::ServerMessage,
    },
    sip::{
        Transport,
        dialog::{DialogId, Target},
        message::Method,
        transaction::Timers,
        ua::{Advertised, ClientId, ServerId, Source, Transmit, Ua, UaConfig},
        uri::{Host, NameAddr, SipUri},
    },
};
use gangway_shared::{
    entropy::{Entropy, SeededEntropy},
    ids::{Generation, LegId, RelayId},
    rcp::{ErrorCode, Event, RelayError},
    time::Time,
};

use crate::world::{OURS, PEER, Relay, SILENT, relay_up, through_json};

mod pages;
mod peer;

/// Seeds of one run.
const SEEDS: u64 = 256;
/// How long a simulated world is disturbed, and how long it then may take to come to rest.
const DISTURBED: Duration = Duration::from_secs(30);
const REST: Duration = Duration::from_secs(900);
/// When the consent of pages that are gone is lost.
const PAGES_GONE: Duration = Duration::from_secs(30);
/// Things that happen to the world while it is disturbed.
const ACTIONS: u32 = 60;

/// Something on its way.
#[derive(Debug)]
enum Flying {
    /// A datagram to the core.
    ToCore(Vec<u8>),
    /// A datagram to the peer.
    ToPeer(Vec<u8>),
    /// An input that somebody slow gives.
    Input(Box<Input>),
    /// The peer makes up its mind about an INVITE.
    Decide(ServerId),
    /// The peer ends a call, or gives one up.
    PeerHangup,
    /// A browser or a script does something.
    Act,
    /// The core is killed, and another takes over.
    Kill,
    /// The new core reaches the dataplane.
    WallUp,
    /// A page hears what was sent to it, a little later.
    Page(SocketId, Box<ServerMessage>),
}

/// What a page knows of a call.
#[derive(Default)]
struct PageCall {
    descriptions: u32,
    over: bool,
    incoming: bool,
}

struct Simulation {
    now: Time,
    dice: SeededEntropy,
    gateway: Gateway,
    settings: GatewayConfig,
    /// What the core wrote down in this life, after what it took over.
    journal: Vec<JournalEntry>,
    epoch: u32,
    relay: Relay,
    wall_up: bool,
    peer: Ua,
    peer_clients: BTreeSet<ClientId>,
    peer_dialogs: BTreeSet<DialogId>,
    peer_contact: NameAddr,
    flying: BTreeMap<(Time, u64), Flying>,
    sequence: u64,
    open: BTreeSet<SocketId>,
    pages: BTreeMap<(SocketId, String), PageCall>,
    callee_keys: Vec<String>,
    tokens: Vec<String>,
    next_socket: u64,
    next_call: u64,
    quiet: bool,
    /// The core is killed when the lines of its next turn are written and before anything of it leaves.
    dies_in_next_turn: bool,
    trace: String,
}

fn settings() -> GatewayConfig {
    // Offers with a camera are shortened, and there is no TCP to go by.
    let ua = UaConfig { udp_request_limit_bytes: 1_000, ..ua_config("10.0.0.1") };
    let mut config = GatewayConfig::new(ua);
    config.ring_timeout = Duration::from_secs(20);
    config.invite_timeout = Duration::from_secs(25);
    config.ice_timeout = Duration::from_secs(10);
    config.client_timeout = Duration::from_secs(60);
    config.client_timeout_check_interval = Duration::from_secs(10);
    config.ask_timeout = Duration::from_secs(3);
    config.relay_timeout = Duration::from_secs(3);
    config.register_expires_s = 20;
    config.register_backoff = Duration::from_secs(1);
    config.register_backoff_max = Duration::from_secs(8);
    config.max_calls_per_session = 4;
    config.max_detached_sessions = 2;
    config.orphan_grace = Duration::from_secs(20);
    config
}

fn ua_config(host: &str) -> UaConfig {
    let advertised = Advertised { transport: Transport::Udp, host: host.parse::<Host>().unwrap(), port: 5060 };
    let timers = Timers::from_t1(Duration::from_millis(100));
    UaConfig { timers, udp_request_limit_bytes: 0, ..UaConfig::new(vec![advertised]) }
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut dice = SeededEntropy::new(seed);
        let entropy = |dice: &mut SeededEntropy| Box::new(SeededEntropy::new(dice.next_u64()));
        let ringback = [Ringback::Auto, Ringback::On][(seed % 2) as usize];
        let settings = GatewayConfig { ringback, ..settings() };
        let gateway = Gateway::new(settings.clone(), entropy(&mut dice), entropy(&mut dice));
        let mut peer_config = ua_config("10.0.0.2");
        peer_config.allow = vec![Method::Invite, Method::Register];
        let peer = Ua::new(peer_config, entropy(&mut dice));
        let mut world = Simulation {
            now: Time::from_millis(1),
            dice,
            gateway,
            settings,
            journal: Vec::new(),
            epoch: 1,
            relay: Relay::default(),
            wall_up: false,
            peer,
            peer_clients: BTreeSet::new(),
            peer_dialogs: BTreeSet::new(),
            peer_contact: NameAddr::new("sip:bob@10.0.0.2:5060".parse::<SipUri>().unwrap()),
            flying: BTreeMap::new(),
            sequence: 0,
            open: BTreeSet::new(),
            pages: BTreeMap::new(),
            callee_keys: Vec::new(),
            tokens: Vec::new(),
            next_socket: 0,
            next_call: 0,
            quiet: false,
            dies_in_next_turn: false,
            trace: String::new(),
        };
        world.wall(true);
        for _ in 0..ACTIONS {
            let at = world.between(0, DISTURBED.as_millis() as u32);
            world.fly(at, Flying::Act);
        }
        for _ in 0..world.dice.below(4) {
            let at = world.between(0, DISTURBED.as_millis() as u32);
            world.fly(at, Flying::Kill);
        }
        world
    }

    /// A duration in milliseconds.
    fn between(&mut self, from: u32, to: u32) -> Duration {
        Duration::from_millis(u64::from(from + self.dice.below(to - from)))
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.dice.below(100) < percent
    }

    fn fly(&mut self, delay: Duration, what: Flying) {
        self.sequence += 1;
        self.flying.insert((self.now + delay, self.sequence), what);
    }

    fn note(&mut self, what: std::fmt::Arguments<'_>) {
        writeln!(self.trace, "{} {what}", self.now).unwrap();
    }

    /// Runs to the end; gives the trace.
    fn run(mut self) -> String {
        let end = self.now + DISTURBED;
        self.run_until(end);
        // Peace: no loss, everybody cooperates, pages are gone, and everything must come to its end by itself.
        self.quiet = true;
        self.dies_in_next_turn = false;
        if !self.wall_up {
            self.wall(true);
        }
        for socket in std::mem::take(&mut self.open) {
            self.input(Input::SocketClosed { socket });
        }
        self.run_until(end + PAGES_GONE);
        // With the pages their media is gone.
        for relay in self.relay.relays.keys().copied().collect::<Vec<_>>() {
            let event = Event::ConsentLost { relay, leg: LegId(0) };
            self.input(Input::RelayEvent { event });
        }
        self.run_until(end + REST);
        self.assert_rest();
        self.trace
    }

    fn run_until(&mut self, end: Time) {
        loop {
            let flying = self.flying.first_key_value().map(|((at, _), _)| *at);
            let next = [flying, self.gateway.poll_timeout(), self.peer.poll_timeout()].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if self.gateway.poll_timeout().is_some_and(|due| due <= self.now) {
                self.gateway.handle_timeout(self.now);
                self.drain_core();
            } else if self.peer.poll_timeout().is_some_and(|due| due <= self.now) {
                self.peer.handle_timeout(self.now);
                self.drain_peer();
            } else if let Some((_, what)) = self.flying.pop_first() {
                self.land(what);
            }
        }
        self.now = end;
    }

    fn land(&mut self, what: Flying) {
        match what {
            Flying::ToCore(bytes) => {
                let source = self.source(OURS, PEER);
                self.input(Input::SipReceived { source, bytes });
            }
            Flying::ToPeer(bytes) => {
                let source = self.source(PEER, OURS);
                self.peer.handle_message(self.now, source, &bytes);
                self.drain_peer();
            }
            Flying::Input(input) => self.input(*input),
            Flying::Decide(server) => self.decide(server),
            Flying::PeerHangup => self.peer_hangup(),
            // The journal is written before anything leaves: a kill in between leaves lines of what nobody heard.
            Flying::Kill if self.chance(50) => self.dies_in_next_turn = true,
            Flying::Kill => {
                let lost = if self.chance(30) { self.dice.below(4) as usize } else { 0 };
                self.kill(lost);
            }
            Flying::WallUp if self.wall_up => {}
            Flying::WallUp => self.wall(true),
            Flying::Act if self.quiet => {}
            Flying::Act => self.act(),
            Flying::Page(socket, message) => self.page(socket, *message),
        }
    }

    fn source(&self, local: &str, remote: &str) -> Source {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        Source { transport: Transport::Udp, local: address(local), remote: address(remote), flow: None }
    }

    fn input(&mut self, input: Input) {
        self.gateway.handle_input(self.now, input);
        self.drain_core();
    }

    fn drain_core(&mut self) {
        self.check();
        if std::mem::take(&mut self.dies_in_next_turn) {
            let outputs: Vec<Output> = std::iter::from_fn(|| self.gateway.poll_output()).collect();
            self.note(format_args!("{} outputs never left", outputs.len()));
            let before = self.journal.len();
            self.journal.extend(outputs.iter().filter_map(|output| match output {
                Output::Journal(entry) => Some(through_json(entry)),
                _ => None,
            }));
            let lines = u32::try_from(self.journal.len() - before).unwrap();
            let torn = if self.chance(50) { self.dice.below(lines + 1) } else { 0 };
            return self.kill(torn as usize);
        }
        while let Some(output) = self.gateway.poll_output() {
            match output {
                Output::SocketSend { socket, message } => self.sent(socket, message),
                Output::SocketClose { socket, code } => {
                    self.note(format_args!("close {socket:?} {code}"));
                    self.open.remove(&socket);
                }
                Output::SipTransmit(transmit) => self.send(transmit, true),
                Output::Relay { id, request } => {
                    assert!(self.wall_up, "a request while the wall is down: {request:?}");
                    self.note(format_args!("relay {id:?} {}", short(&request)));
                    let result = match self.chance(3) && !self.quiet {
                        true => Err(RelayError::new(ErrorCode::Full, "", "scripted")),
                        false => self.relay.handle(request),
                    };
                    let slow = self.slowness();
                    self.fly(slow, Flying::Input(Box::new(Input::RelayReply { id, result })));
                }
                Output::Ask { ask, what, .. } => {
                    self.note(format_args!("ask {ask:?}"));
                    if let Some(answer) = self.decide_ask(what) {
                        let slow = self.slowness();
                        self.fly(slow, Flying::Input(Box::new(Input::Answer { ask, answer })));
                    }
                }
                Output::Journal(entry) => self.journal.push(through_json(&entry)),
                Output::RestReply { .. } => {}
            }
        }
        self.check();
    }

    fn check(&self) {
        if let Err(broken) = self.gateway.check_invariants() {
            panic!("invariant broken at {}: {broken}", self.now);
        }
    }

    /// Most answers come at once, some late, a few after anybody waits.
    fn slowness(&mut self) -> Duration {
        match self.dice.below(10) {
            _ if self.quiet => Duration::from_millis(1),
            0..=6 => Duration::from_millis(1),
            7 | 8 => self.between(1, 1500),
            _ => self.between(2500, 4500),
        }
    }

    fn decide_ask(&mut self, what: Ask) -> Option<Answer> {
        let moody = !self.quiet && self.chance(8);
        if moody && self.chance(40) {
            // The relay may have been made all the same.
            if let Ask::AllocateRelay { relay, program } = what {
                let _ = self.relay.put(relay, Generation(1), program);
            }
            return None;
        }
        Some(match what {
            Ask::Authorize(_) if moody => Answer::Denied { info: "REST_FAIL".to_owned() },
            Ask::Authorize(_) => Answer::Authorized,
            Ask::Resolve { .. } if moody => Answer::Unresolved { reason: "scripted".to_owned() },
            Ask::Resolve { .. } => {
                let silent = self.chance(20).then_some(SILENT);
                let target = |text: &str| {
                    let remote = text.parse().unwrap();
                    Target { transport: Transport::Udp, remote, flow: None }
                };
                Answer::Resolved(silent.into_iter().chain([PEER]).map(target).collect())
            }
            Ask::AllocateRelay { .. } if moody || !self.wall_up => {
                Answer::NotAllocated(RelayError::new(ErrorCode::NoPorts, "", "scripted"))
            }
            Ask::AllocateRelay { relay, program } => match self.relay.put(relay, Generation(1), program) {
                Ok(reply) => Answer::Allocated(reply),
                Err(error) => Answer::NotAllocated(error),
            },
        })
    }

    /// The network: loses, repeats, delays and thereby reorders.
    fn send(&mut self, transmit: Transmit, to_peer: bool) {
        let first = String::from_utf8_lossy(&transmit.bytes).lines().next().unwrap_or_default().to_owned();
        self.note(format_args!("{} {first}", if to_peer { "->" } else { "<-" }));
        let copies = match self.dice.below(100) {
            _ if to_peer && transmit.remote != PEER.parse().unwrap() => 0,
            _ if self.quiet => 1,
            0..=9 => 0,
            10..=14 => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let delay = if self.chance(80) { self.between(1, 20) } else { self.between(20, 400) };
            let bytes = transmit.bytes.clone();
            self.fly(delay, if to_peer { Flying::ToPeer(bytes) } else { Flying::ToCore(bytes) });
        }
    }

    fn any_relay(&mut self) -> Option<RelayId> {
        let relays: Vec<RelayId> = self.relay.relays.keys().copied().collect();
        (!relays.is_empty()).then(|| relays[self.dice.below(relays.len() as u32) as usize])
    }

    fn any_socket(&mut self) -> Option<SocketId> {
        let open: Vec<SocketId> = self.open.iter().copied().collect();
        (!open.is_empty()).then(|| open[self.dice.below(open.len() as u32) as usize])
    }

    fn act(&mut self) {
        match self.dice.below(16) {
            0..=2 => self.open_page(),
            3..=6 => self.page_calls(),
            7 | 8 => self.peer_calls(),
            9 => self.hangup_something(),
            10 => {
                if let Some(socket) = self.any_socket() {
                    self.note(format_args!("page {socket:?} is gone"));
                    self.open.remove(&socket);
                    self.input(Input::SocketClosed { socket });
                }
            }
            11 => self.wall(!self.wall_up),
            12 => self.fly(Duration::ZERO, Flying::PeerHangup),
            13 => self.peer_reinvites(),
            14 => {
                let call = RestCall::TerminateCall { call_id: format!("c{}", self.next_call) };
                self.input(Input::Rest { request: RestId(1), call });
            }
            _ => self.input(Input::RelayGap),
        }
        if self.open.is_empty() {
            self.open_page();
        }
        if !self.wall_up {
            // It does not stay away for long.
            let away = self.between(100, 5000);
            self.fly(away, Flying::Act);
        }
    }

    fn wall(&mut self, up: bool) {
        self.note(format_args!("wall up: {up}"));
        self.wall_up = up;
        if !up {
            return self.input(Input::RelayDown);
        }
        if self.chance(20) && !self.quiet {
            self.relay.relays.clear();
            self.relay.incarnation = self.relay.incarnation.wrapping_add(1);
        }
        // What was asked before the wall fell is never answered.
        self.flying
            .retain(|_, what| !matches!(what, Flying::Input(input) if matches!(**input, Input::RelayReply { .. })));
        self.input(relay_up(self.epoch));
    }

    /// The core vanishes with all that was on its way to it from within; another takes over its journal, of which the last lines may not
    /// have come to the disk.
    fn kill(&mut self, lost: usize) {
        let all = Standing::of(self.gateway.journal_all().iter().map(through_json));
        assert!(Standing::of(self.journal.iter().cloned()) == all, "the journal and the core differ at {}", self.now);
        self.journal.truncate(self.journal.len().saturating_sub(lost));
        self.note(format_args!("killed, {lost} lines lost"));
        self.flying.retain(|_, what| match what {
            Flying::Input(input) => matches!(**input, Input::RelayEvent { .. }),
            _ => true,
        });
        self.open.clear();
        (self.wall_up, self.epoch) = (false, self.epoch + 1);
        let (one, two) = (self.dice.next_u64(), self.dice.next_u64());
        let settings = self.settings.clone();
        self.gateway = Gateway::new(settings, Box::new(SeededEntropy::new(one)), Box::new(SeededEntropy::new(two)));
        let left = Standing::of(std::mem::take(&mut self.journal));
        self.gateway.restore(self.now, left.entries().cloned().collect());
        self.journal = self.gateway.journal_all().iter().map(through_json).collect();
        self.drain_core();
        for _ in 0..self.gateway.counts().calls_established {
            self.note(format_args!("talks on"));
        }
        let away = self.between(1, 500);
        self.fly(away, Flying::WallUp);
    }

    /// Nothing is left anywhere.
    fn assert_rest(&mut self) {
        // Calls that both sides hold for good end by their users.
        let counts = self.gateway.counts();
        assert_eq!(counts.sockets, 0, "{counts:?}");
        assert_eq!(counts.sessions + counts.sessions_departing, 0, "{counts:?}");
        assert_eq!((counts.relays, counts.dialogs, counts.asks, counts.kept_bytes), (0, 0, 0, 0), "{counts:?}");
        assert_eq!(counts.calls_trying + counts.calls_ring + counts.calls_established, 0, "{counts:?}");
        assert!(self.gateway.is_idle());
        assert!(self.relay.relays.is_empty(), "orphans: {:?}", self.relay.relays.keys());
        assert_eq!(self.gateway.sip_transactions(), 0);
        assert_eq!(self.gateway.poll_timeout(), None);
        let _ = writeln!(self.trace, "{counts:?}");
    }
}

fn short(request: &gangway_shared::rcp::Request) -> String {
    match request {
        gangway_shared::rcp::Request::Put { relay, generation, .. } => format!("put {relay} {}", generation.0),
        gangway_shared::rcp::Request::Delete { relay } => format!("delete {relay}"),
        other => format!("{other:?}"),
    }
}

#[test]
fn every_seed_comes_to_rest_with_nothing_left_and_replays_the_same() {
    let only = std::env::var("GANGWAY_SEED").ok().map(|seed| seed.parse::<u64>().expect("GANGWAY_SEED is a number"));
    let seeds: Vec<u64> = only.map_or_else(|| (0..SEEDS).collect(), |seed| vec![seed]);
    let (mut established, mut pictures, mut lines, mut taken_over) = (0, 0, 0, 0);
    for seed in seeds {
        let guard = PrintSeed(seed);
        let first = Simulation::new(seed).run();
        let second = Simulation::new(seed).run();
        assert!(first == second, "seed {seed} does not replay: the core depends on something that is not passed in");
        established += first.matches(" talk\n").count();
        pictures += first.matches(" pictures\n").count();
        lines += first.lines().count();
        taken_over += first.matches(" talks on\n").count();
        std::mem::forget(guard);
    }
    println!("{lines} steps, {established} calls established, {pictures} with pictures, {taken_over} taken over");
    // A simulation in which nothing succeeds proves nothing.
    assert!(only.is_some() || established > 256, "only {established} calls were established");
    assert!(only.is_some() || taken_over > 24, "only {taken_over} calls were taken over");
    assert!(only.is_some() || pictures > 64, "only {pictures} descriptions had pictures");
}

/// Prints the seed when a test fails under it.
struct PrintSeed(u64);

impl Drop for PrintSeed {
    fn drop(&mut self) {
        eprintln!("failing seed: {} (GANGWAY_SEED={} runs it alone)", self.0, self.0);
    }
}
