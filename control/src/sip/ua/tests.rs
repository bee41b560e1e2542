//! The agent in virtual time, its peer played by hand: what goes in and out is looked at message by message.

mod callee;
mod caller;
mod in_dialog;
mod lengths;
mod refusals;
mod simulation;
mod strangers;

use std::time::Duration;

use gangway_shared::{entropy::SeededEntropy, secret::Secret};

use super::*;
use crate::sip::{
    digest::Account,
    message::{HeaderName, Method, Request, Response, Status},
    uri::{Host, NameAddr},
};

const US: &str = "192.0.2.10:5060";
const PEER: &str = "192.0.2.20:5060";

fn at(millis: u64) -> Time {
    Time::from_millis(millis)
}

fn ours(transport: Transport) -> Advertised {
    Advertised { transport, host: Host::V4([192, 0, 2, 10].into()), port: 5060 }
}

fn config() -> UaConfig {
    let mut config = UaConfig::new(vec![ours(Transport::Udp)]);
    config.allow = vec![Method::Invite, Method::Info, Method::Update];
    config.user_agent = String::new();
    config.trusted = vec![Subnet { address: [192, 0, 2, 0].into(), prefix_len: 24 }];
    config
}

/// An agent and what it has said so far.
struct Bench {
    ua: Ua,
    now: Time,
    transport: Transport,
}

impl Bench {
    fn new() -> Self {
        Self::with(config())
    }

    fn with(config: UaConfig) -> Self {
        Bench { ua: Ua::new(config, Box::new(SeededEntropy::new(7))), now: at(0), transport: Transport::Udp }
    }

    fn source(&self, remote: &str) -> Source {
        let flow = self.transport.is_reliable().then_some(1);
        Source { transport: self.transport, local: US.parse().unwrap(), remote: remote.parse().unwrap(), flow }
    }

    fn target(&self) -> Target {
        Target { transport: self.transport, remote: PEER.parse().unwrap(), flow: None }
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.receive_from(PEER, bytes);
    }

    fn receive_from(&mut self, remote: &str, bytes: &[u8]) {
        let source = self.source(remote);
        self.ua.handle_message(self.now, source, bytes);
        self.check();
    }

    /// Lets time pass, timer by timer.
    fn run_until(&mut self, end: Time) {
        while let Some(due) = self.ua.poll_timeout().filter(|due| *due <= end) {
            assert!(due >= self.now, "time runs forward");
            self.now = due;
            self.ua.handle_timeout(due);
            self.check();
        }
        self.now = end;
    }

    fn pass(&mut self, millis: u64) {
        self.run_until(self.now + Duration::from_millis(millis));
    }

    /// What must hold after every step.
    fn check(&self) {
        let ua = &self.ua;
        assert_eq!(ua.client_keys.len(), ua.clients.len(), "each client transaction is found by one key");
        assert_eq!(ua.server_keys.len(), ua.servers.len(), "each server transaction is found by one key");
        let merged = ua.servers.values().filter(|tx| tx.merge_key.is_some()).count();
        assert_eq!(ua.merge_keys.len(), merged);
        assert_eq!(ua.strangers, ua.servers.values().filter(|tx| tx.stranger).count());
        let armed = ua.clients.values().filter(|tx| tx.armed.is_some()).count()
            + ua.servers.values().filter(|tx| tx.armed.is_some()).count();
        assert_eq!(ua.deadlines.len(), armed, "no deadline without an owner");
        assert!(ua.current.values().all(|id| ua.clients.contains_key(id)));
    }

    /// Everything the agent wants to send, with the time it was asked.
    fn sent(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(transmit) = self.ua.poll_transmit() {
            messages.push(parser::parse(&transmit.bytes).expect("the agent prints what its parser reads"));
        }
        messages
    }

    fn sent_request(&mut self, method: Method) -> Request {
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        match sent.remove(0) {
            Message::Request(request) if request.method == method => request,
            other => panic!("{method} expected, not {other:?}"),
        }
    }

    fn sent_response(&mut self, status: u16) -> Response {
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        match sent.remove(0) {
            Message::Response(response) if response.status.code() == status => response,
            other => panic!("{status} expected, not {other:?}"),
        }
    }

    /// Short names of what was sent: `INVITE`, `200`.
    fn sent_names(&mut self) -> Vec<String> {
        let name = |message: Message| match message {
            Message::Request(request) => request.method.to_string(),
            Message::Response(response) => response.status.to_string(),
        };
        self.sent().into_iter().map(name).collect()
    }

    fn event(&mut self) -> UaEvent {
        let event = self.ua.poll_event().expect("an event");
        assert_eq!(self.ua.poll_event(), None, "only one event");
        event
    }

    fn no_event(&mut self) {
        assert_eq!(self.ua.poll_event(), None);
    }

    /// Nothing is left when every timer has run out.
    fn ends_empty(&mut self) {
        self.pass(200_000);
        self.sent();
        while self.ua.poll_event().is_some() {}
        assert_eq!(self.ua.transactions(), 0, "transactions left");
        assert_eq!(self.ua.dialogs.len(), 0, "dialogs left");
        assert_eq!(self.ua.poll_timeout(), None);
    }
}

fn address(text: &str) -> NameAddr {
    text.parse().unwrap()
}

fn outgoing(bench: &Bench, method: Method) -> Outgoing {
    Outgoing {
        method,
        uri: "sip:bob@example.com".parse().unwrap(),
        from: address("\"Alice\" <sip:alice@example.com>"),
        to: address("<sip:bob@example.com>"),
        call_id: None,
        cseq: None,
        contact: Some(address("<sip:key@192.0.2.10>")),
        routes: vec![],
        headers: Headers::new(),
        content: Some(Content::new("application/sdp", *b"v=0\r\n")),
        target: bench.target(),
        account: None,
        give_up: None,
        udp_only: false,
    }
}

/// The peer's answer to a request of ours.
fn answer(request: &Request, status: u16, tag: &str, more: &[(HeaderName, &str)]) -> Vec<u8> {
    let mut response = server::answer_frame(request, Status::literal(status), Some(tag).filter(|tag| !tag.is_empty()));
    for (name, value) in more {
        response.headers.push(name.clone(), *value);
    }
    response.to_bytes()
}

/// The peer's answer that makes a dialog.
fn answer_with_contact(request: &Request, status: u16, tag: &str) -> Vec<u8> {
    answer(request, status, tag, &[(HeaderName::Contact, "<sip:bob@192.0.2.20>")])
}

/// A request of the peer, out of dialog.
fn incoming(method: &str, more: &str) -> Vec<u8> {
    format!(
        "{method} sip:key@192.0.2.10 SIP/2.0\r\n\
         Via: SIP/2.0/UDP 192.0.2.20:5060;branch=z9hG4bKp1;rport\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:carol@example.com>;tag=ct\r\n\
         To: <sip:key@192.0.2.10>\r\n\
         Call-ID: in@peer\r\n\
         CSeq: 5 {method}\r\n\
         Contact: <sip:carol@192.0.2.20>\r\n\
         {more}Content-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

/// A later request of the peer in the dialog that our answer made.
fn within(response: &Response, method: &str, cseq: u32, branch: &str) -> Vec<u8> {
    let to = response.headers.to().unwrap();
    format!(
        "{method} sip:key@192.0.2.10 SIP/2.0\r\n\
         Via: SIP/2.0/UDP 192.0.2.20:5060;branch=z9hG4bK{branch};rport\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:carol@example.com>;tag=ct\r\n\
         To: {to}\r\n\
         Call-ID: in@peer\r\n\
         CSeq: {cseq} {method}\r\n\
         Contact: <sip:carol@192.0.2.20>\r\n\
         Content-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

/// A request of the peer in a dialog that we started.
fn from_callee(dialog: &DialogId, method: &str, cseq: u32) -> Vec<u8> {
    format!(
        "{method} sip:key@192.0.2.10 SIP/2.0\r\n\
         Via: SIP/2.0/UDP 192.0.2.20:5060;branch=z9hG4bKq{cseq};rport\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:bob@example.com>;tag={}\r\n\
         To: <sip:alice@example.com>;tag={}\r\n\
         Call-ID: {}\r\n\
         CSeq: {cseq} {method}\r\n\
         Contact: <sip:bob@192.0.2.20>\r\n\
         Content-Length: 0\r\n\r\n",
        dialog.remote_tag, dialog.local_tag, dialog.call_id
    )
    .into_bytes()
}

fn reply(status: u16) -> Reply {
    Reply { contact: Some(address("<sip:key@192.0.2.10>")), ..Reply::new(Status::literal(status)) }
}

fn account() -> Account {
    Account {
        username: "alice".into(),
        password: Secret::new("secret".to_owned()),
        targets: vec![PEER.parse().unwrap()],
    }
}

fn challenge(request: &Request, nonce: &str) -> Vec<u8> {
    let value = format!("Digest realm=\"example.com\", nonce=\"{nonce}\", qop=\"auth\"");
    answer(request, 401, "t401", &[(HeaderName::WwwAuthenticate, &value)])
}

/// A call of ours that was answered and acknowledged.
fn established(bench: &mut Bench) -> (ClientId, Request, DialogId) {
    let call = outgoing(bench, Method::Invite);
    let client = bench.ua.send_request(bench.now, call).unwrap();
    let invite = bench.sent_request(Method::Invite);
    bench.receive(&answer_with_contact(&invite, 200, "bt"));
    bench.sent_request(Method::Ack);
    let UaEvent::Answered { dialog, .. } = bench.event() else { panic!("answered") };
    (client, invite, dialog)
}

/// A call of the peer that we answered and it acknowledged.
fn accepted(bench: &mut Bench) -> (ServerId, Response, DialogId) {
    bench.receive(&incoming("INVITE", ""));
    let UaEvent::Invite { server, .. } = bench.event() else { panic!("an INVITE") };
    bench.sent_response(100);
    let dialog = bench.ua.respond(bench.now, server, reply(200)).unwrap().expect("a dialog");
    let ok = bench.sent_response(200);
    bench.receive(&within(&ok, "ACK", 5, "ack"));
    assert!(matches!(bench.event(), UaEvent::Acked { .. }));
    (server, ok, dialog)
}
