//! What every engine must do, run against each of them.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use gangway_shared::time::Time;

use super::{
    BATCH_MAX, Batch, Completion, Engine, Outgoing,
    epoll::EpollEngine,
    sim::{Conditions, Network, SimEngine, SimSocket},
    socket::bind_by_number,
    uring::{EngineSizes, Features, Missing, UringEngine},
};
use crate::{relay::PortId, wire::DropReason};

/// An engine with the means to be a stranger on its network.
trait World {
    type Engine: Engine;

    fn engine(&mut self) -> &mut Self::Engine;
    fn socket(&mut self) -> <Self::Engine as Engine>::Socket;
    /// One whose queue holds fewer than a thousand datagrams, if such can be had.
    fn narrow_socket(&mut self) -> <Self::Engine as Engine>::Socket {
        self.socket()
    }
    /// One on an address that was another's before.
    fn socket_at(&mut self, address: SocketAddr) -> <Self::Engine as Engine>::Socket;
    fn address(socket: &<Self::Engine as Engine>::Socket) -> SocketAddr;
    fn send(&mut self, from: &<Self::Engine as Engine>::Socket, to: SocketAddr, bytes: &[u8]);
    fn receive(&mut self, at: &<Self::Engine as Engine>::Socket) -> Option<(SocketAddr, Vec<u8>)>;

    /// Lets what was sent arrive, on networks whose time is ours.
    fn pass(&mut self, _now: Time) {}

    fn open(&mut self) -> (PortId, SocketAddr) {
        let socket = self.socket();
        let address = Self::address(&socket);
        (self.engine().open(socket).unwrap(), address)
    }

    fn deadline(&mut self) -> Option<Time> {
        Some(self.engine().now().mono + Duration::from_secs(2))
    }
}

pub(super) struct Kernel<E>(pub(super) E);

impl<E: Engine<Socket = UdpSocket>> World for Kernel<E> {
    type Engine = E;

    fn engine(&mut self) -> &mut E {
        &mut self.0
    }

    fn socket(&mut self) -> UdpSocket {
        bind_by_number(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    fn socket_at(&mut self, address: SocketAddr) -> UdpSocket {
        UdpSocket::bind(address).unwrap()
    }

    fn narrow_socket(&mut self) -> UdpSocket {
        let socket = self.socket();
        socket2::SockRef::from(&socket).set_recv_buffer_size(4096).unwrap();
        socket
    }

    fn address(socket: &UdpSocket) -> SocketAddr {
        socket.local_addr().unwrap()
    }

    fn send(&mut self, from: &UdpSocket, to: SocketAddr, bytes: &[u8]) {
        from.send_to(bytes, to).unwrap();
    }

    fn receive(&mut self, at: &UdpSocket) -> Option<(SocketAddr, Vec<u8>)> {
        at.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut bytes = [0; 4096];
        let (len, from) = at.recv_from(&mut bytes).ok()?;
        Some((from, bytes[..len].to_vec()))
    }
}

struct Simulated(SimEngine, Network, u16);

impl World for Simulated {
    type Engine = SimEngine;

    fn engine(&mut self) -> &mut SimEngine {
        &mut self.0
    }

    fn socket(&mut self) -> SimSocket {
        self.2 += 1;
        self.1.bind(SocketAddr::from(([192, 0, 2, 1], self.2))).unwrap()
    }

    fn socket_at(&mut self, address: SocketAddr) -> SimSocket {
        self.1.bind(address).unwrap()
    }

    fn address(socket: &SimSocket) -> SocketAddr {
        socket.local_addr()
    }

    fn send(&mut self, from: &SimSocket, to: SocketAddr, bytes: &[u8]) {
        from.send_to(bytes, to);
    }

    fn pass(&mut self, now: Time) {
        self.1.advance_to(now + Duration::from_millis(1));
    }

    fn receive(&mut self, at: &SimSocket) -> Option<(SocketAddr, Vec<u8>)> {
        self.1.advance_to(self.1.now().mono + Duration::from_secs(2));
        at.receive()
    }
}

fn epoll() -> Option<Kernel<EpollEngine>> {
    Some(Kernel(EpollEngine::new().unwrap()))
}

/// A ring with these features at most; none, loudly, where rings are refused and it is not CI that must show them.
pub(super) fn ring(sizes: EngineSizes, allowed: Features) -> Option<Kernel<UringEngine>> {
    match UringEngine::new(sizes, allowed) {
        Ok(engine) => Some(Kernel(engine)),
        Err(missing @ (Missing::Kernel | Missing::Refused(_))) if std::env::var_os("CI").is_none() => {
            eprintln!("*** SKIPPED: {missing} ***");
            None
        }
        Err(missing) => panic!("{missing}"),
    }
}

fn uring() -> Option<Kernel<UringEngine>> {
    ring(EngineSizes::STANDARD, Features::ALL)
}

fn uring_before_6_13() -> Option<Kernel<UringEngine>> {
    ring(EngineSizes::STANDARD, Features { registered_files: false, ..Features::ALL })
}

fn uring_before_6_6() -> Option<Kernel<UringEngine>> {
    let allowed = Features { no_sq_array: false, min_wait: false, registered_files: false };
    ring(EngineSizes::STANDARD, allowed)
}

/// So few of everything that each of it runs out.
fn tiny_uring() -> Option<Kernel<UringEngine>> {
    ring(EngineSizes::TINY, Features::ALL)
}

fn simulated() -> Option<Simulated> {
    let network = Network::new(1, Conditions::CLEAN);
    Some(Simulated(SimEngine::new(network.clone()), network, 1000))
}

/// Rounds until `wanted` completions are there or the engine's wait ran out once.
fn rounds<W: World>(world: &mut W, wanted: usize) -> Vec<Completion> {
    let mut batch = Batch::new();
    let mut all = Vec::new();
    while all.len() < wanted {
        let deadline = world.deadline();
        world.engine().receive(deadline, &mut batch);
        if batch.is_empty() {
            break;
        }
        all.extend(batch.drain());
    }
    all
}

fn packets_are_changed_in_place_and_echoed<W: World>(mut world: W) {
    let (port, address) = world.open();
    let peer = world.socket();
    world.send(&peer, address, b"abc");
    let [Completion::Received { port: by, from, buffer, start, len, received_at: None }] = rounds(&mut world, 1)[..]
    else {
        panic!("no packet")
    };
    assert_eq!((by, from, len), (port, W::address(&peer), 3));
    world.engine().buffer(buffer)[start - 1..start + len + 1].copy_from_slice(b"xABCy");
    world.engine().send(Outgoing { port, to: from, buffer, start: start - 1, len: len + 2 });
    world.engine().flush();
    let now = world.engine().now().mono;
    world.engine().receive(Some(now), &mut Batch::new());
    assert_eq!(world.receive(&peer), Some((address, b"xABCy".to_vec())));
}

fn a_flooded_port_does_not_starve_another<W: World>(mut world: W) {
    let (_, flooded) = world.open();
    let (quiet, quiet_address) = world.open();
    let peer = world.socket();
    for _ in 0..2 * BATCH_MAX {
        world.send(&peer, flooded, b"flood");
    }
    world.send(&peer, quiet_address, b"one");
    let first = rounds(&mut world, 1);
    assert!(first.len() <= BATCH_MAX);
    assert!(first.iter().any(|done| matches!(done, Completion::Received { port, .. } if *port == quiet)));
    first.iter().for_each(|done| recycle(&mut world, done));
    let mut seen = first.len();
    while seen <= 2 * BATCH_MAX {
        let more = rounds(&mut world, 1);
        assert!(!more.is_empty(), "only {seen} packets came");
        more.iter().for_each(|done| recycle(&mut world, done));
        seen += more.len();
    }
    assert_eq!(seen, 2 * BATCH_MAX + 1);
}

fn recycle<W: World>(world: &mut W, done: &Completion) {
    if let Completion::Received { buffer, .. } = *done {
        world.engine().recycle(buffer);
    }
}

fn a_datagram_too_long_is_a_counted_drop<W: World>(mut world: W) {
    let (port, address) = world.open();
    let peer = world.socket();
    world.send(&peer, address, &[7; 3000]);
    let done = rounds(&mut world, 1);
    assert!(matches!(done[..], [Completion::Failed { port: by, reason: DropReason::PacketTooLarge }] if by == port));
}

fn datagrams_that_found_no_room_are_counted<W: World>(mut world: W) {
    let socket = world.narrow_socket();
    let address = W::address(&socket);
    let port = world.engine().open(socket).unwrap();
    let peer = world.socket();
    let (mut received, mut lost) = (0, 0);
    let mut batch = Batch::new();
    for sent in [1500, 1] {
        (0..sent).for_each(|_| world.send(&peer, address, b"x"));
        loop {
            let soon = Some(world.engine().now().mono + Duration::from_millis(20));
            world.engine().receive(soon, &mut batch);
            if batch.is_empty() {
                break;
            }
            for done in batch.drain() {
                match done {
                    Completion::Received { .. } => received += 1,
                    Completion::Lost { port: of, count } if of == port => lost += count,
                    other => panic!("{other:?}"),
                }
                recycle(&mut world, &done);
            }
        }
    }
    assert!(lost > 0);
    assert_eq!(received + lost, 1501);
}

/// What the kernel lost before a datagram came that could tell of it.
fn datagrams_that_found_no_room_are_told_when_asked<W: World>(mut world: W) {
    let socket = world.narrow_socket();
    let address = W::address(&socket);
    let port = world.engine().open(socket).unwrap();
    let peer = world.socket();
    (0..1500).for_each(|_| world.send(&peer, address, b"x"));
    let mut received = 0;
    loop {
        let done = rounds(&mut world, 1);
        received += done.iter().filter(|done| matches!(done, Completion::Received { .. })).count();
        assert!(done.iter().all(|done| matches!(done, Completion::Received { .. } | Completion::Lost { .. })));
        done.iter().for_each(|done| recycle(&mut world, done));
        if done.is_empty() {
            break;
        }
        let told: usize =
            done.iter().map(|done| if let Completion::Lost { count, .. } = done { *count as usize } else { 0 }).sum();
        received += told;
    }
    let lost = world.engine().take_lost(port) as usize;
    assert_eq!((received + lost, world.engine().take_lost(port)), (1500, 0));
    assert_eq!(world.engine().take_lost(PortId(77)), 0, "a port that is not open");
}

fn a_stamped_port_tells_when_its_datagrams_came<W: World>(mut world: W) {
    let (stamped, at) = world.open();
    let (plain, plain_at) = world.open();
    world.engine().stamp(stamped);
    world.engine().stamp(PortId(77));
    let peer = world.socket();
    let before = world.engine().now().wall;
    world.send(&peer, at, b"x");
    world.send(&peer, plain_at, b"x");
    let done = rounds(&mut world, 2);
    let after = world.engine().now().wall;
    assert_eq!(done.len(), 2, "{done:?}");
    for done in &done {
        let Completion::Received { port, received_at, .. } = *done else { panic!("{done:?}") };
        match received_at {
            Some(at) => assert!(port == stamped && (before..=after).contains(&at), "{before:?} {at:?} {after:?}"),
            None => assert_eq!(port, plain),
        }
        recycle(&mut world, done);
    }
}

fn failed_sends_come_back_as_completions<W: World>(mut world: W) {
    let (port, _) = world.open();
    let to = "[2001:db8::1]:9".parse().unwrap();
    let buffer = world.engine().take_buffer().unwrap();
    world.engine().send(Outgoing { port, to, buffer, start: 100, len: 1 });
    let buffer = world.engine().take_buffer().unwrap();
    let closed = PortId(77);
    world.engine().send(Outgoing { port: closed, to, buffer, start: 100, len: 1 });
    world.engine().flush();
    let done = rounds(&mut world, 2);
    let failed = |wanted: PortId, why: DropReason| {
        done.iter().any(|done| matches!(*done, Completion::Failed { port, reason } if port == wanted && reason == why))
    };
    assert!(failed(port, DropReason::WrongFamily) && failed(closed, DropReason::PortUnknown), "{done:?}");
}

fn a_wake_ends_the_wait_and_closed_ports_are_silent<W: World>(mut world: W) {
    let (port, address) = world.open();
    world.engine().waker().wake();
    assert!(matches!(rounds(&mut world, 1)[..], [Completion::Woken]));
    let peer = world.socket();
    world.send(&peer, address, b"late");
    let socket = world.engine().close(port).unwrap();
    assert_eq!(W::address(&socket), address);
    assert!(world.engine().close(port).is_none());
    let soon = Some(world.engine().now().mono + Duration::from_millis(20));
    let mut batch = Batch::new();
    world.engine().receive(soon, &mut batch);
    assert!(batch.is_empty());
}

fn a_panicked_workers_buffers_come_back<W: World>(mut world: W) {
    while world.engine().take_buffer().is_some() {}
    world.engine().reclaim();
    let (_, address) = world.open();
    let peer = world.socket();
    world.send(&peer, address, b"after");
    assert!(matches!(rounds(&mut world, 1)[..], [Completion::Received { len: 5, .. }]));
}

/// What came in the rounds until the engine's wait ran out, by sender; anything but datagrams is left out.
fn heard<W: World>(world: &mut W, wanted: usize) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut all = Vec::new();
    let mut batch = Batch::new();
    loop {
        let wait = Duration::from_millis(if all.len() < wanted { 2000 } else { 10 });
        let soon = Some(world.engine().now().mono + wait);
        world.engine().receive(soon, &mut batch);
        if batch.is_empty() {
            return all;
        }
        for done in batch.drain() {
            if let Completion::Received { from, buffer, start, len, .. } = done {
                all.push((from, world.engine().buffer(buffer)[start..start + len].to_vec()));
                world.engine().recycle(buffer);
            }
        }
    }
}

fn send<W: World>(world: &mut W, port: PortId, to: SocketAddr, bytes: &[u8]) {
    let buffer = world.engine().take_buffer().unwrap();
    world.engine().buffer(buffer)[100..100 + bytes.len()].copy_from_slice(bytes);
    world.engine().send(Outgoing { port, to, buffer, start: 100, len: bytes.len() });
    world.engine().flush();
}

fn a_connected_port_hears_its_peer_alone_and_what_waits_keeps_its_sender<W: World>(mut world: W) {
    for waits in [true, false] {
        let (port, address) = world.open();
        let (peer, stranger) = (world.socket(), world.socket());
        let (peer_at, stranger_at) = (W::address(&peer), W::address(&stranger));
        if waits {
            assert_eq!(heard(&mut world, 0), []);
        }
        world.send(&stranger, address, b"before");
        world.send(&peer, address, b"first");
        let now = world.engine().now().mono;
        world.pass(now);
        world.engine().connect(port, Some(peer_at));
        world.send(&stranger, address, b"never");
        world.send(&peer, address, b"second");
        let expected: [(SocketAddr, Vec<u8>); 3] =
            [(stranger_at, b"before".into()), (peer_at, b"first".into()), (peer_at, b"second".into())];
        assert_eq!(heard(&mut world, 3), expected);
        world.send(&stranger, address, b"never");
        world.send(&peer, address, b"third");
        assert_eq!(heard(&mut world, 1), [(peer_at, b"third".to_vec())]);
        // Both are still reached.
        send(&mut world, port, peer_at, b"to the peer");
        send(&mut world, port, stranger_at, b"to another");
        assert!(heard(&mut world, 0).is_empty());
        assert_eq!(world.receive(&peer), Some((address, b"to the peer".to_vec())));
        assert_eq!(world.receive(&stranger), Some((address, b"to another".to_vec())));
        world.engine().connect(port, None);
        world.send(&stranger, address, b"again");
        assert_eq!(heard(&mut world, 1), [(stranger_at, b"again".to_vec())]);
        world.engine().close(port).unwrap();
    }
}

fn no_packet_is_lost_while_a_port_changes_whom_it_hears<W: World>(mut world: W) {
    let (port, address) = world.open();
    let peers = [world.socket(), world.socket()];
    let mut sent = [0u16; 2];
    let mut all = [Vec::new(), Vec::new()];
    // Whoever is to be heard alone is the one that sends; bursts wait in the port while it changes.
    for step in 0..120usize {
        let talks = step / 30 % 2;
        for _ in 0..step % 7 {
            world.send(&peers[talks], address, &sent[talks].to_be_bytes());
            sent[talks] += 1;
        }
        let now = world.engine().now().mono;
        world.pass(now);
        match step % 5 {
            0 | 3 => world.engine().connect(port, Some(W::address(&peers[talks]))),
            2 => world.engine().connect(port, None),
            _ => {}
        }
        if step % 3 == 0 || step % 30 == 29 {
            for (from, bytes) in heard(&mut world, 0) {
                let of = peers.iter().position(|peer| W::address(peer) == from).expect("one of the two");
                all[of].push(u16::from_be_bytes(bytes.try_into().unwrap()));
            }
            if step % 30 == 29 {
                world.engine().connect(port, None);
            }
        }
    }
    for (all, sent) in all.iter().zip(sent) {
        assert_eq!(*all, (0..sent).collect::<Vec<_>>());
    }
}

fn a_peer_that_was_not_there_yet_is_reached_by_the_first_packet_after<W: World>(mut world: W) {
    let (port, address) = world.open();
    let gone = world.socket();
    let at = W::address(&gone);
    drop(gone);
    world.engine().connect(port, Some(at));
    for _ in 0..3 {
        send(&mut world, port, at, b"nobody is there");
        heard(&mut world, 0);
        send(&mut world, port, at, b"nobody is there");
        let peer = world.socket_at(at);
        send(&mut world, port, at, b"here");
        let now = Some(world.engine().now().mono);
        let mut batch = Batch::new();
        world.engine().receive(now, &mut batch);
        batch.drain().for_each(|done| assert!(matches!(done, Completion::Failed { .. }), "{done:?}"));
        let arrived = std::iter::from_fn(|| world.receive(&peer)).find(|(_, bytes)| bytes == b"here");
        assert_eq!(arrived, Some((address, b"here".to_vec())));
        world.send(&peer, address, b"there");
        assert_eq!(heard(&mut world, 1), [(at, b"there".to_vec())]);
    }
}

fn an_empty_datagram_does_not_deafen_a_port<W: World>(mut world: W) {
    let (port, address) = world.open();
    let peer = world.socket();
    for alone in [None, Some(W::address(&peer))] {
        world.engine().connect(port, alone);
        assert_eq!(heard(&mut world, 0), []);
        for _ in 0..3 {
            world.send(&peer, address, b"");
            world.send(&peer, address, b"words");
        }
        let words = heard(&mut world, 3).into_iter().filter(|(_, bytes)| bytes == b"words").count();
        assert_eq!(words, 3, "{alone:?}");
    }
}

macro_rules! conformance {
    ($($behaviour:ident),+ $(,)?) => {
        conformance!(@ epoll simulated uring uring_before_6_13 uring_before_6_6; ($($behaviour),+));
    };
    (@ $($world:ident)+; $behaviours:tt) => {
        $(conformance!(@@ $world $behaviours);)+
    };
    (@@ $world:ident ($($behaviour:ident),+)) => {
        mod $world {
            $(#[test] fn $behaviour() {
                if let Some(world) = super::$world() {
                    super::$behaviour(world);
                }
            })+
        }
    };
}

// Not the flood: a round of eight packets has no room for anybody's first.
conformance!(@ tiny_uring; (
    packets_are_changed_in_place_and_echoed,
    a_datagram_too_long_is_a_counted_drop,
    datagrams_that_found_no_room_are_counted,
    datagrams_that_found_no_room_are_told_when_asked,
    failed_sends_come_back_as_completions,
    a_wake_ends_the_wait_and_closed_ports_are_silent,
    a_panicked_workers_buffers_come_back,
    a_connected_port_hears_its_peer_alone_and_what_waits_keeps_its_sender,
    no_packet_is_lost_while_a_port_changes_whom_it_hears,
    a_peer_that_was_not_there_yet_is_reached_by_the_first_packet_after,
    an_empty_datagram_does_not_deafen_a_port
));

conformance!(
    packets_are_changed_in_place_and_echoed,
    a_flooded_port_does_not_starve_another,
    a_datagram_too_long_is_a_counted_drop,
    datagrams_that_found_no_room_are_counted,
    datagrams_that_found_no_room_are_told_when_asked,
    a_stamped_port_tells_when_its_datagrams_came,
    failed_sends_come_back_as_completions,
    a_wake_ends_the_wait_and_closed_ports_are_silent,
    a_panicked_workers_buffers_come_back,
    a_connected_port_hears_its_peer_alone_and_what_waits_keeps_its_sender,
    no_packet_is_lost_while_a_port_changes_whom_it_hears,
    a_peer_that_was_not_there_yet_is_reached_by_the_first_packet_after,
    an_empty_datagram_does_not_deafen_a_port,
);

#[test]
fn a_socket_that_comes_connected_hears_everybody() {
    let mut world = epoll().unwrap();
    let (socket, peer, stranger) = (world.socket(), world.socket(), world.socket());
    socket.connect(peer.local_addr().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    world.engine().open(socket).unwrap();
    world.send(&stranger, address, b"heard");
    assert_eq!(heard(&mut world, 1).len(), 1);
}

#[test]
fn a_seed_replays_its_losses() {
    let run = |seed| {
        let harsh =
            Conditions { loss_permille: 300, duplicate_permille: 200, reorder_permille: 300, ..Conditions::CLEAN };
        let network = Network::new(seed, Conditions { reorder_delay: Duration::from_millis(5), ..harsh });
        let (from, to) = (network.bind("192.0.2.1:1".parse().unwrap()).unwrap(), "192.0.2.2:2".parse().unwrap());
        let at = network.bind(to).unwrap();
        (0..100u8).for_each(|byte| from.send_to(&[byte], to));
        network.advance_to(Time::from_millis(100));
        std::iter::from_fn(|| at.receive()).map(|(_, bytes)| bytes[0]).collect::<Vec<_>>()
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
    assert!(!run(3).is_sorted());
}
