use std::net::Ipv4Addr;

use tokio::net::TcpSocket;

use super::*;
use crate::hub::{self, HubQueue};

const SOON: Duration = Duration::from_secs(10);

const LIMITS: Limits = Limits {
    connections_max: 4,
    accepted_max: 4,
    per_ip_max: 4,
    queue_max: 2,
    idle: SOON,
    message: SOON,
    first_message: SOON,
    connect: SOON,
    keep_alive: SOON,
};

fn flows(limits: Limits) -> (Flows, HubQueue) {
    let (hub, queue) = hub::queue(64);
    (Flows::new(limits, hub, Arc::default()), queue)
}

async fn peer() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn accepted(listener: &TcpListener) -> TcpStream {
    timeout(SOON, listener.accept()).await.unwrap().unwrap().0
}

async fn read(stream: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    timeout(SOON, stream.read_exact(&mut bytes)).await.unwrap().unwrap();
    bytes
}

async fn next(queue: &mut HubQueue) -> Input {
    timeout(SOON, queue.next_input()).await.unwrap().unwrap()
}

const MESSAGE: &[u8] = b"OPTIONS sip:a@b SIP/2.0\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn one_connection_serves_all_messages_to_a_peer_and_its_answers_name_the_flow() {
    let (flows, mut queue) = flows(LIMITS);
    let (listener, address) = peer().await;
    flows.send(None, address, b"one".to_vec(), None).unwrap();
    let mut stream = accepted(&listener).await;
    assert_eq!(read(&mut stream, 3).await, b"one");
    stream.write_all(MESSAGE).await.unwrap();
    let Input::SipReceived { source, bytes } = next(&mut queue).await else { panic!("no message came") };
    assert_eq!((source.remote, bytes.as_slice()), (address, MESSAGE));
    // By the flow, and by the address when the flow is unknown.
    flows.send(source.flow, SocketAddr::from(([192, 0, 2, 1], 9)), b"two".to_vec(), None).unwrap();
    flows.send(Some(12_345), address, b"three".to_vec(), None).unwrap();
    assert_eq!(read(&mut stream, 8).await, b"twothree");
    assert_eq!(flows.open(), 1);
    drop(stream);
    let ended = next(&mut queue).await;
    assert!(
        matches!(ended, Input::SipFailed { remote, flow, .. } if remote == address && flow == source.flow),
        "{ended:?}"
    );
    assert_eq!(flows.open(), 0);
}

#[tokio::test]
async fn a_connection_that_cannot_be_made_is_told() {
    let (flows, mut queue) = flows(LIMITS);
    let (listener, address) = peer().await;
    drop(listener);
    flows.send(None, address, b"lost".to_vec(), None).unwrap();
    let failed = next(&mut queue).await;
    assert!(matches!(failed, Input::SipFailed { transport: Transport::Tcp, remote, .. } if remote == address));
    assert_eq!((flows.open(), flows.shared.metrics.sip_connects_failed.value()), (0, 1));
}

#[tokio::test]
async fn messages_beyond_the_queue_and_connections_beyond_the_limit_are_refused() {
    let (flows, _queue) = flows(LIMITS);
    let (_listener, address) = peer().await;
    // The task that connects has not run yet: two wait, the third is too many.
    flows.send(None, address, b"a".to_vec(), None).unwrap();
    flows.send(None, address, b"b".to_vec(), None).unwrap();
    assert_eq!(flows.send(None, address, b"c".to_vec(), None), Err(Undeliverable));
    for port in 1..4 {
        flows.send(None, SocketAddr::from(([127, 0, 0, 2], port)), b"a".to_vec(), None).unwrap();
    }
    assert_eq!(flows.send(None, SocketAddr::from(([127, 0, 0, 2], 4)), b"a".to_vec(), None), Err(Undeliverable));
    assert_eq!(flows.shared.metrics.sip_queue_full.value(), 1);
    assert_eq!(flows.shared.metrics.sip_connections_refused.value(), 1);
}

#[tokio::test]
async fn a_quiet_connection_of_ours_sends_keep_alives() {
    let (flows, _queue) = flows(Limits { keep_alive: Duration::from_millis(20), ..LIMITS });
    let (listener, address) = peer().await;
    flows.send(None, address, b"x".to_vec(), None).unwrap();
    let mut stream = accepted(&listener).await;
    assert_eq!(read(&mut stream, 5).await, b"x\r\n\r\n");
}

/// Connects from this loopback address.
async fn connect_from(ip: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((ip, 0))).unwrap();
    timeout(SOON, socket.connect(to)).await.unwrap().unwrap()
}

async fn ends(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut rest)).await.expect("the connection ends");
}

/// Says something and waits until it is heard: the connection was taken.
async fn is_heard(stream: &mut TcpStream, queue: &mut HubQueue) {
    stream.write_all(MESSAGE).await.unwrap();
    let local = stream.local_addr().unwrap();
    let heard = next(queue).await;
    assert!(matches!(&heard, Input::SipReceived { source, .. } if source.remote == local), "{heard:?}");
}

#[test]
fn however_the_limits_stand_to_each_other_a_quarter_is_kept_for_ours() {
    for (connections_max, accepted_max, accepted) in
        [(4096, 3072, 3072), (4096, 100, 100), (1000, 3072, 750), (1, 3072, 1)]
    {
        assert_eq!(Limits { connections_max, accepted_max, ..LIMITS }.accepted(), accepted);
    }
}

#[tokio::test]
async fn peers_share_what_they_may_open_and_ours_have_the_rest() {
    let (flows, mut queue) = flows(Limits { accepted_max: 3, per_ip_max: 2, ..LIMITS });
    let (listener, ours) = peer().await;
    tokio::spawn(accept(listener, flows.clone()));
    let mut first = connect_from([127, 0, 0, 1], ours).await;
    let mut second = connect_from([127, 0, 0, 1], ours).await;
    is_heard(&mut first, &mut queue).await;
    is_heard(&mut second, &mut queue).await;
    ends(&mut connect_from([127, 0, 0, 1], ours).await).await;
    let mut other = connect_from([127, 0, 0, 2], ours).await;
    is_heard(&mut other, &mut queue).await;
    ends(&mut connect_from([127, 0, 0, 3], ours).await).await;
    assert_eq!(flows.shared.metrics.sip_connections_refused.value(), 2);
    let (theirs, address) = peer().await;
    flows.send(None, address, b"ours".to_vec(), None).unwrap();
    assert_eq!(read(&mut accepted(&theirs).await, 4).await, b"ours");
    // A place comes back with the end of a connection.
    let gone = first.local_addr().unwrap();
    drop(first);
    while !matches!(next(&mut queue).await, Input::SipFailed { remote, .. } if remote == gone) {}
    is_heard(&mut connect_from([127, 0, 0, 1], ours).await, &mut queue).await;
}

#[tokio::test]
async fn a_peer_that_connects_and_says_nothing_is_closed_soon_and_one_that_spoke_is_not() {
    let (flows, mut queue) = flows(Limits { first_message: Duration::from_millis(200), ..LIMITS });
    let (listener, ours) = peer().await;
    tokio::spawn(accept(listener, flows.clone()));
    let mut silent = connect_from([127, 0, 0, 1], ours).await;
    let mut pinging = connect_from([127, 0, 0, 1], ours).await;
    let mut speaking = connect_from([127, 0, 0, 1], ours).await;
    pinging.write_all(PING).await.unwrap();
    is_heard(&mut speaking, &mut queue).await;
    ends(&mut silent).await;
    ends(&mut pinging).await;
    assert!(matches!(next(&mut queue).await, Input::SipFailed { .. }));
    assert!(matches!(next(&mut queue).await, Input::SipFailed { .. }));
    is_heard(&mut speaking, &mut queue).await;
}
