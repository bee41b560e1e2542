use gangway_shared::entropy::SeededEntropy;

use super::*;
use crate::{
    gateway::{
        GatewayConfig,
        effects::{Answer, Input, SocketId, SocketPeer},
        messages::ClientMessage,
    },
    sip::{
        Transport,
        ua::{Advertised, UaConfig},
    },
};

/// Each touched session is put into words, and pages send a pong every few seconds.
#[test]
fn a_pong_touches_no_session() {
    let ours = Advertised { transport: Transport::Udp, host: "192.0.2.1".parse().unwrap(), port: 5060 };
    let config = GatewayConfig::new(UaConfig::new(vec![ours]));
    let mut gateway = Gateway::new(config, Box::new(SeededEntropy::new(1)), Box::new(SeededEntropy::new(2)));
    let (now, socket) = (Time::from_millis(1), SocketId(1));
    let peer = SocketPeer {
        remote: "192.0.2.9:40000".parse().unwrap(),
        local: "192.0.2.1:8080".parse().unwrap(),
        secure: false,
        origin: None,
    };
    gateway.handle_input(now, Input::SocketOpened { socket, peer });
    let connection = serde_json::from_value(serde_json::json!({ "keepAlive": true })).unwrap();
    gateway
        .handle_input(now, Input::SocketMessage { socket, message: ClientMessage::Connection(Box::new(connection)) });
    let asked = std::iter::from_fn(|| gateway.poll_output()).find_map(|output| match output {
        Output::Ask { ask, .. } => Some(ask),
        _ => None,
    });
    gateway.handle_input(now, Input::Answer { ask: asked.unwrap(), answer: Answer::Authorized });
    assert!(gateway.sessions.values().all(Session::is_established));
    gateway.pong(socket);
    assert!(gateway.sessions.take_touched().is_empty());
}
