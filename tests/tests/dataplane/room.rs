//! A kernel that has no room for what an engine sends: packets wait for the owner of their address, and the buffer of their socket is
//! as small as it can be.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use gangway_dataplane::{
    engine::{Batch, Completion, Engine, Outgoing, choice::ring, epoll::EpollEngine, uring},
    relay::PortId,
    wire::DropReason,
};
use gangway_tests::{deadline::Deadline, namespace::Namespace};
use socket2::SockRef;

/// Packets that are sent at once, more than the buffer of a socket has room for.
const PACKETS: usize = 40;

const LEN_BYTES: usize = 200;

/// An eighth is kept for packets of our own.
const BUFFERS: usize = 1024;

fn narrow_socket(namespace: &Namespace) -> UdpSocket {
    let socket = UdpSocket::bind((namespace.near(), 0)).expect("an address of ours");
    SockRef::from(&socket).set_send_buffer_size(1).expect("the kernel takes its least");
    socket
}

/// How many packets the kernel takes from such a socket before it has no room.
#[track_caller]
fn room(namespace: &Namespace, peer: SocketAddr) -> usize {
    let socket = narrow_socket(namespace);
    socket.set_nonblocking(true).expect("a socket");
    let refusal = (0..PACKETS).find_map(|sent| Some((sent, socket.send_to(&[0; LEN_BYTES], peer).err()?)));
    let (sent, error) = refusal.expect("the kernel has room for everything");
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
    assert!(sent > 0);
    sent
}

fn send<E: Engine>(engine: &mut E, port: PortId, to: SocketAddr) {
    let buffer = engine.take_buffer().expect("there are enough buffers");
    engine.send(Outgoing { port, to, buffer, start: 100, len: LEN_BYTES });
}

/// Failures that are told until nothing comes for a moment. What a round of the ring finds out is told by the next.
fn failures<E: Engine>(engine: &mut E) -> Vec<(PortId, DropReason)> {
    let (mut failed, mut batch, mut quiet_rounds) = (Vec::new(), Batch::new(), 0);
    while quiet_rounds < 2 {
        let soon = engine.now().mono + Duration::from_millis(10);
        engine.receive(Some(soon), &mut batch);
        quiet_rounds = if batch.is_empty() { quiet_rounds + 1 } else { 0 };
        failed.extend(batch.drain().filter_map(|done| match done {
            Completion::Failed { port, reason } => Some((port, reason)),
            _ => None,
        }));
    }
    failed
}

fn what_finds_no_room_is_counted<E: Engine<Socket = UdpSocket>>(mut engine: E) {
    let Some(namespace) = Namespace::start_plain() else { return };
    namespace.leave_address();
    let peer = SocketAddr::from((namespace.far(), 9));
    let room = room(&namespace, peer);
    let mut ports = Vec::new();
    for is_connected in [false, true] {
        let port = engine.open(narrow_socket(&namespace)).expect("a port");
        if is_connected {
            engine.connect(port, Some(peer));
        }
        assert_eq!(failures(&mut engine), []);
        (0..PACKETS).for_each(|_| send(&mut engine, port, peer));
        engine.flush();
        let refused = vec![(port, DropReason::SendWouldBlock); PACKETS - room];
        assert_eq!(failures(&mut engine), refused, "connected: {is_connected}");
        let buffers = engine.buffers();
        let kept = [buffers.in_flight(), buffers.total() - buffers.available() - buffers.in_ring()];
        assert_eq!(kept, [0, 0], "every buffer came back");
        ports.push(port);
    }
    // The ports are none the worse for it.
    namespace.take_address();
    Deadline::seconds(10).poll("room", || {
        ports.iter().for_each(|port| send(&mut engine, *port, peer));
        engine.flush();
        let failed = failures(&mut engine);
        failed.iter().all(|(_, reason)| *reason != DropReason::SendWouldBlock).then_some(())
    });
}

#[test]
fn what_the_kernel_has_no_room_for_is_counted_by_epoll() {
    what_finds_no_room_is_counted(EpollEngine::with_buffers(BUFFERS).expect("every kernel has epoll"));
}

#[test]
fn what_the_kernel_has_no_room_for_is_counted_by_the_ring() {
    match uring::probe(uring::Features::ALL).and_then(|features| ring(features, BUFFERS)) {
        Ok(engine) => what_finds_no_room_is_counted(engine),
        Err(missing) => {
            assert!(std::env::var_os("CI").is_none(), "{missing}");
            eprintln!("*** SKIPPED: {missing} ***");
        }
    }
}
