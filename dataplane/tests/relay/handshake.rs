//! Browsers' DTLS handshakes through the relay core: real clients, a network that loses, delays, doubles and reorders, in virtual
//! time. The DTLS crate draws its own entropy, so a seed fixes the network but not the bytes; what must hold is the outcome.

#![allow(clippy::disallowed_methods, reason = "the DTLS crate takes Instant; one is read as the base of virtual time")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use dimpl::{Config, Dtls, Output as DtlsOutput, SrtpProfile, certificate};
use gangway_dataplane::{
    dtls::{Action, Certificate, Handshakes, LegKey, Path},
    srtp::{MasterKey, Profile},
    wire::{PacketKind, classify},
};
use gangway_shared::{
    entropy::{Entropy, SeededEntropy},
    ids::LegId,
    rcp::{DtlsFailure, Event, Fingerprint},
    time::Time,
};

use crate::{
    phone::PHONE,
    world::{Browser, Fed, MUX, Source, World, addr, call, ports, relay_id},
};

const CALLS: u64 = 3;

/// A browser with a real DTLS client.
struct Client {
    dtls: Dtls,
    fingerprint: Fingerprint,
    browser: Browser,
    keys: Option<(Vec<u8>, SrtpProfile)>,
    next_check: Time,
}

struct Lossy {
    world: World,
    handshakes: Handshakes,
    base: (Time, Instant),
    clients: BTreeMap<u64, Client>,
    dice: SeededEntropy,
    network: BTreeMap<(Time, u64), (bool, SocketAddr, Vec<u8>)>,
    flown: u64,
    events: Vec<Event>,
}

impl Lossy {
    fn new(seed: u64) -> Self {
        let world = World::new();
        let base = (world.now.mono, Instant::now());
        let certificate = Certificate::generate().unwrap();
        let handshakes = Handshakes::new(certificate, Duration::from_secs(30), base);
        Lossy {
            world,
            handshakes,
            base,
            clients: BTreeMap::new(),
            dice: SeededEntropy::new(seed),
            network: BTreeMap::new(),
            flown: 0,
            events: Vec::new(),
        }
    }

    fn instant(&self) -> Instant {
        self.base.1 + self.world.now.mono.since(self.base.0)
    }

    fn join(&mut self, number: u64, knows_fingerprint: bool) {
        let certificate = certificate::generate_self_signed_certificate().unwrap();
        let fingerprint = Fingerprint(certificate::calculate_fingerprint(&certificate.certificate).try_into().unwrap());
        // As browsers are: 50 ms, doubling, and no end within a call's set-up.
        let config = Config::builder().flight_start_rto(Duration::from_millis(50)).flight_retries(8).build().unwrap();
        let mut dtls = Dtls::new_12(Arc::new(config), certificate, self.instant());
        dtls.set_active(true);
        let program = call(knows_fingerprint.then_some(fingerprint), Some(PHONE));
        let handle = self.world.put(number, 1, &program).legs[0].1;
        let at = format!("198.51.100.{number}:50000");
        let browser = Browser::new(number, 0, handle, &at, Profile::AeadAes256Gcm, 7);
        let next_check = self.world.now.mono;
        self.clients.insert(number, Client { dtls, fingerprint, browser, keys: None, next_check });
    }

    /// Puts a datagram on the wire. `to_us` or to the browser at the address.
    fn fly(&mut self, to_us: bool, peer: SocketAddr, bytes: &[u8]) {
        for _ in 0..if self.dice.below(100) < 5 { 2 } else { 1 } {
            if self.dice.below(100) < 20 {
                continue;
            }
            let delay = 1 + if self.dice.below(4) == 0 { self.dice.below(60) } else { self.dice.below(3) };
            self.flown += 1;
            let at = self.world.now.mono + Duration::from_millis(delay.into());
            self.network.insert((at, self.flown), (to_us, peer, bytes.to_vec()));
        }
    }

    /// The relay and the manager's table talk to each other.
    fn settle(&mut self) {
        let now = self.world.now.mono;
        let key = |leg| LegKey { worker: 0, leg };
        for (leg, remote) in std::mem::take(&mut self.world.out.dtls_paths) {
            self.handshakes.handle_path(now, key(leg), Path { port: MUX, remote }, &[]);
        }
        for (leg, remote, datagram) in std::mem::take(&mut self.world.out.dtls) {
            self.handshakes.handle_datagram(now, key(leg), Path { port: MUX, remote }, &datagram);
        }
        while let Some(action) = self.handshakes.poll_action() {
            match action {
                Action::Send { path, datagram, .. } => self.fly(false, path.remote, &datagram),
                Action::Keys { leg, keys } => {
                    let now = self.world.now;
                    assert!(self.world.install_keys(now, leg.leg, &keys));
                }
                Action::Failed { cause, .. } => panic!("a handshake was given up: {cause:?}"),
                Action::Closed { .. } | Action::Doubted { .. } => panic!("nobody closed"),
            }
        }
        self.events.extend(self.world.events());
        self.world.out.sent.clear();
        self.world.check();
    }

    /// Each browser's DTLS and ICE do what is due; the time of the next thing they will do.
    fn poll_clients(&mut self) -> Time {
        let (now, instant) = (self.world.now.mono, self.instant());
        let mut soonest = now + Duration::from_millis(50);
        let mut sent = Vec::new();
        for client in self.clients.values_mut() {
            if client.next_check <= now {
                client.next_check = now + Duration::from_millis(50);
                sent.push((client.browser.at, client.browser.check(true)));
            }
            client.dtls.handle_timeout(instant).unwrap();
            let mut buffer = [0; 2048];
            loop {
                match client.dtls.poll_output(&mut buffer) {
                    DtlsOutput::Packet(datagram) => sent.push((client.browser.at, datagram.to_vec())),
                    DtlsOutput::KeyingMaterial(block, profile) => client.keys = Some((block.to_vec(), profile)),
                    DtlsOutput::Timeout(at) => {
                        let wait = at.saturating_duration_since(self.base.1);
                        soonest = soonest.min(self.base.0 + wait);
                        break;
                    }
                    _ => {}
                }
            }
        }
        for (at, bytes) in sent {
            self.fly(true, at, &bytes);
        }
        soonest
    }

    fn run(&mut self, span: Duration) {
        let end = self.world.now.mono + span;
        while self.world.now.mono < end {
            let clients = self.poll_clients();
            let arrival = self.network.keys().next().map(|(at, _)| *at);
            let next = [Some(clients), arrival, self.handshakes.next_deadline(), Some(end)].into_iter().flatten().min();
            let step = next.unwrap_or(end).since(self.world.now.mono).max(Duration::from_micros(100));
            self.world.advance(step);
            self.handshakes.handle_timeout(self.world.now.mono);
            while let Some(entry) = self.network.first_entry().filter(|entry| entry.key().0 <= self.world.now.mono) {
                let (to_us, peer, bytes) = entry.remove();
                if to_us { self.arrive(peer, &bytes) } else { self.deliver(peer, &bytes) }
            }
            self.settle();
        }
    }

    fn arrive(&mut self, from: SocketAddr, bytes: &[u8]) {
        if let Fed::Sent(_, to, answer) = self.world.feed(MUX, from, bytes) {
            self.fly(false, to, &answer);
        }
    }

    fn deliver(&mut self, to: SocketAddr, bytes: &[u8]) {
        let instant = self.instant();
        let client = self.clients.values_mut().find(|client| client.browser.at == to);
        let Some(client) = client.filter(|_| classify(bytes) == Ok(PacketKind::Dtls)) else { return };
        client.dtls.handle_timeout(instant).unwrap();
        client.dtls.handle_packet(bytes).unwrap();
    }

    fn ready(&self, number: u64) -> bool {
        let is_ready = |event: &&Event| matches!(event, Event::KeysReady { relay, .. } if *relay == relay_id(number));
        self.events.iter().filter(is_ready).count() == 1
    }

    /// Media both ways under the keys that were really agreed.
    fn talk(&mut self, number: u64) {
        let client = self.clients.get_mut(&number).unwrap();
        let (block, profile) = client.keys.clone().expect("the client is connected");
        assert_eq!(profile, SrtpProfile::AEAD_AES_256_GCM, "the server chooses, and chooses GCM");
        let (profile, key, salt) = (Profile::AeadAes256Gcm, 32, 12);
        let (clients, rest) = block.split_at(key);
        let (servers, rest) = rest.split_at(key);
        let theirs = MasterKey::new(profile, clients, &rest[..salt]).unwrap();
        let ours = MasterKey::new(profile, servers, &rest[salt..]).unwrap();
        client.browser.take_keys(ours, theirs);
        let said = client.browser.say(&mut self.world, b"hello");
        assert_eq!(said.to(), addr(PHONE));
        let packet = Source::new(0xf0, 0).packet(b"hello yourself");
        let heard = self.world.feed(ports(number, LegId(1)).0, addr(PHONE), &packet);
        assert_eq!(client.browser.hear(&heard.bytes()).payload, b"hello yourself");
    }
}

#[test]
fn handshakes_complete_at_twenty_percent_loss_and_media_opens_with_the_fingerprint() {
    for seed in 0..16 {
        let mut lossy = Lossy::new(seed);
        for number in 1..=CALLS {
            lossy.join(number, number != 2);
        }
        lossy.run(Duration::from_secs(20));
        assert!(lossy.ready(1) && lossy.ready(3), "seed {seed}: {:?}", lossy.events);
        assert!(!lossy.ready(2), "seed {seed}: media is held until the fingerprint is known");
        let fingerprint = lossy.clients[&2].fingerprint;
        lossy.world.put(2, 2, &call(Some(fingerprint), Some(PHONE)));
        lossy.settle();
        for number in 1..=CALLS {
            assert!(lossy.ready(number), "seed {seed}");
            lossy.talk(number);
        }
    }
}

#[test]
fn another_certificate_than_signalling_named_is_refused_however_often_it_shakes_hands() {
    let mut lossy = Lossy::new(1);
    lossy.join(1, true);
    lossy.world.put(1, 2, &call(Some(Fingerprint([1; 32])), Some(PHONE)));
    lossy.run(Duration::from_secs(20));
    let failed = Event::DtlsFailed { relay: relay_id(1), leg: LegId(0), cause: DtlsFailure::Fingerprint };
    assert!(lossy.events.contains(&failed) && !lossy.ready(1), "{:?}", lossy.events);
    let heard = lossy.world.feed(ports(1, LegId(1)).0, addr(PHONE), &Source::new(0xf0, 0).packet(b"x"));
    assert!(matches!(heard, Fed::Dropped(_)));
}

#[test]
fn a_browser_that_moves_in_the_middle_of_its_handshake_completes_it_from_there() {
    for seed in 0..8 {
        let mut lossy = Lossy::new(100 + seed);
        lossy.join(1, true);
        lossy.run(Duration::from_millis(5 + seed * 3));
        lossy.clients.get_mut(&1).unwrap().browser.at = addr("203.0.113.77:40000");
        lossy.clients.get_mut(&1).unwrap().next_check = Time::ZERO;
        lossy.run(Duration::from_secs(20));
        assert!(lossy.ready(1), "seed {seed}: {:?}", lossy.events);
        lossy.talk(1);
    }
}
