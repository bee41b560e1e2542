use std::net::Ipv4Addr;

use super::*;
use crate::hub::{self, HubQueue};

const SOON: Duration = Duration::from_secs(10);

fn flows(keep_alive: Duration) -> (Flows, HubQueue) {
    let limits = Limits { connections_max: 4, queue_max: 2, idle: SOON, message: SOON, connect: SOON, keep_alive };
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
    let (flows, mut queue) = flows(SOON);
    let (listener, address) = peer().await;
    flows.send(None, address, b"one".to_vec()).unwrap();
    let mut stream = accepted(&listener).await;
    assert_eq!(read(&mut stream, 3).await, b"one");
    stream.write_all(MESSAGE).await.unwrap();
    let Input::SipReceived { source, bytes } = next(&mut queue).await else { panic!("no message came") };
    assert_eq!((source.remote, bytes.as_slice()), (address, MESSAGE));
    // By the flow, and by the address when the flow is unknown.
    flows.send(source.flow, SocketAddr::from(([192, 0, 2, 1], 9)), b"two".to_vec()).unwrap();
    flows.send(Some(12_345), address, b"three".to_vec()).unwrap();
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
    let (flows, mut queue) = flows(SOON);
    let (listener, address) = peer().await;
    drop(listener);
    flows.send(None, address, b"lost".to_vec()).unwrap();
    let failed = next(&mut queue).await;
    assert!(matches!(failed, Input::SipFailed { transport: Transport::Tcp, remote, .. } if remote == address));
    assert_eq!((flows.open(), flows.shared.metrics.sip_connects_failed.value()), (0, 1));
}

#[tokio::test]
async fn messages_beyond_the_queue_and_connections_beyond_the_limit_are_refused() {
    let (flows, _queue) = flows(SOON);
    let (_listener, address) = peer().await;
    // The task that connects has not run yet: two wait, the third is too many.
    flows.send(None, address, b"a".to_vec()).unwrap();
    flows.send(None, address, b"b".to_vec()).unwrap();
    assert_eq!(flows.send(None, address, b"c".to_vec()), Err(Undeliverable));
    for port in 1..4 {
        flows.send(None, SocketAddr::from(([127, 0, 0, 2], port)), b"a".to_vec()).unwrap();
    }
    assert_eq!(flows.send(None, SocketAddr::from(([127, 0, 0, 2], 4)), b"a".to_vec()), Err(Undeliverable));
    assert_eq!(flows.shared.metrics.sip_queue_full.value(), 1);
    assert_eq!(flows.shared.metrics.sip_connections_refused.value(), 1);
}

#[tokio::test]
async fn a_quiet_connection_of_ours_sends_keep_alives() {
    let (flows, _queue) = flows(Duration::from_millis(20));
    let (listener, address) = peer().await;
    flows.send(None, address, b"x".to_vec()).unwrap();
    let mut stream = accepted(&listener).await;
    assert_eq!(read(&mut stream, 5).await, b"x\r\n\r\n");
}
