//! The pages of the simulation: they do what the SDK does, or something their users think of.

use std::time::Duration;

use gangway_control::gateway::{
    effects::{Input, SocketId, SocketPeer},
    messages::{AnswerRequest, CallMessage, CallReference, CallRequest, ClientMessage, ServerMessage, Subject},
};
use gangway_shared::{
    entropy::Entropy,
    ids::LegId,
    rcp::{DtlsFailure, Event},
};

use super::{Flying, Simulation};
use crate::{
    video::{camera_answer, camera_offer},
    world::{BROWSER_OFFER, account, browser_answer},
};

impl Simulation {
    pub(super) fn sent(&mut self, socket: SocketId, message: ServerMessage) {
        self.note(format_args!("{socket:?} {}", message.name()));
        if message == ServerMessage::Ping {
            // A few pages never answer.
            if !socket.0.is_multiple_of(7) {
                let message = ClientMessage::Pong;
                self.fly(Duration::from_millis(1), Flying::Input(Box::new(Input::SocketMessage { socket, message })));
            }
            return;
        }
        match &message {
            ServerMessage::SetRemoteSdp { call_id, sdp, .. } => {
                let call = self.pages.entry((socket, call_id.clone())).or_default();
                call.descriptions += 1;
                assert_eq!(call.descriptions, 1, "a second setRemoteSDP for {call_id}");
                assert!(!call.over, "setRemoteSDP after the end of {call_id}");
                if sdp.contains("m=video 32100 ") {
                    self.note(format_args!("pictures"));
                }
            }
            ServerMessage::CallStatus { kind, call } => {
                let known = self.pages.entry((socket, call.call_id.clone())).or_default();
                // The answer to a call that is over is told so again: that is the one exception (5.4).
                let late = call.incoming && call.sip_status == Some(487) && *kind == CallMessage::Finish;
                assert!(!known.over || late, "{kind:?} after the end of {}", call.call_id);
                known.over |= *kind == CallMessage::Finish;
            }
            _ => {}
        }
        let delay = self.between(1, 100);
        self.fly(delay, Flying::Page(socket, Box::new(message)));
    }

    /// A page does what the SDK does, or something its user thinks of.
    pub(super) fn page(&mut self, socket: SocketId, message: ServerMessage) {
        match message {
            ServerMessage::UserData(fields) => {
                if let Some(token) = fields.get("authToken").and_then(|token| token.as_str()) {
                    self.tokens.push(token.to_owned());
                }
            }
            ServerMessage::IncomingCall(call) => {
                self.pages.entry((socket, call.call_id.clone())).or_default().incoming = true;
                let call_id = call.call_id.clone();
                let said = |message| Input::SocketMessage { socket, message };
                let input = match self.dice.below(10) {
                    0..=4 => said(ClientMessage::Answer(Box::new(AnswerRequest {
                        call_id,
                        sdp: Some(match self.dice.below(10) {
                            0 => browser_answer("13"),
                            1..=4 => browser_answer("0 126"),
                            _ => camera_answer("0 126"),
                        }),
                        ..AnswerRequest::default()
                    }))),
                    5 => unread(socket, Subject::Answer(call_id)),
                    6 | 7 => said(ClientMessage::Hangup(CallReference { call_id, ..Default::default() })),
                    _ => return,
                };
                let thinking = self.between(1, 3000);
                self.fly(thinking, Flying::Input(Box::new(input)));
            }
            ServerMessage::SetRemoteSdp { .. } if self.chance(80) => {
                // Its ICE and DTLS come up, now and then badly.
                let Some(relay) = self.any_relay() else { return };
                let event = match self.dice.below(20) {
                    0 => Event::DtlsFailed { relay, leg: LegId(0), cause: DtlsFailure::Fingerprint },
                    1 => Event::ConsentLost { relay, leg: LegId(0) },
                    2 => Event::DtlsClosed { relay, leg: LegId(0) },
                    3 => Event::MediaTimeout { relay, leg: LegId(1) },
                    _ => Event::KeysReady { relay, leg: LegId(0), profile: String::new() },
                };
                let delay = self.between(10, 500);
                self.fly(delay, Flying::Input(Box::new(Input::RelayEvent { event })));
            }
            _ => {}
        }
    }

    pub(super) fn open_page(&mut self) {
        self.next_socket += 1;
        let socket = SocketId(self.next_socket);
        self.open.insert(socket);
        let peer = SocketPeer {
            remote: "192.0.2.9:40000".parse().unwrap(),
            local: "192.0.2.1:8080".parse().unwrap(),
            secure: false,
            origin: None,
        };
        self.input(Input::SocketOpened { socket, peer });
        let mut fields = account(self.chance(50));
        fields["keepAlive"] = serde_json::json!(self.chance(50));
        if !self.tokens.is_empty() && self.chance(30) {
            let at = self.dice.below(self.tokens.len() as u32) as usize;
            fields = serde_json::json!({ "authToken": self.tokens[at] });
        }
        let connection = Box::new(serde_json::from_value(fields).unwrap());
        self.input(Input::SocketMessage { socket, message: ClientMessage::Connection(connection) });
    }

    pub(super) fn page_calls(&mut self) {
        let Some(socket) = self.any_socket() else { return };
        self.next_call += 1;
        // Now and then an id that may be in use.
        let number = if self.chance(10) { self.next_call - 1 } else { self.next_call };
        let call_id = format!("c{number}");
        if self.pages.get(&(socket, call_id.clone())).is_some_and(|call| call.over) {
            return;
        }
        if self.chance(5) {
            return self.input(unread(socket, Subject::Call(call_id)));
        }
        let request = CallRequest {
            call_id: call_id.clone(),
            callee: Some("600".to_owned()),
            sdp: Some(if self.chance(50) { camera_offer() } else { BROWSER_OFFER.to_owned() }),
            ..CallRequest::default()
        };
        self.input(Input::SocketMessage { socket, message: ClientMessage::Call(Box::new(request)) });
        if self.chance(60) {
            let patience = self.between(1, 6000);
            let message = ClientMessage::Hangup(CallReference { call_id, hold_for_transfer: None });
            self.fly(patience, Flying::Input(Box::new(Input::SocketMessage { socket, message })));
        }
    }

    pub(super) fn hangup_something(&mut self) {
        let calls: Vec<(SocketId, String)> = self.pages.keys().cloned().collect();
        if calls.is_empty() {
            return;
        }
        let (socket, call_id) = calls[self.dice.below(calls.len() as u32) as usize].clone();
        if self.open.contains(&socket) {
            let message = ClientMessage::Hangup(CallReference { call_id, hold_for_transfer: None });
            self.input(Input::SocketMessage { socket, message });
        }
    }
}

/// A frame with a field of a wrong kind.
fn unread(socket: SocketId, subject: Subject) -> Input {
    Input::SocketRefused { socket, subject, problem: "a field cannot be read".to_owned() }
}
