//! A world around one [`Gateway`]: virtual time, a scripted relay, a SIP peer whose messages the test writes, and browsers.
//!
//! Every step checks the core's invariants and the rules of the browser protocol that a message could break.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use gangway_control::{
    api::schema,
    gateway::{
        Gateway, GatewayConfig,
        effects::{Answer, Ask, AskId, Input, Output, RelayRequestId, SocketId, SocketPeer},
        journal::{JournalEntry, Standing},
        messages::{
            AnswerRequest, CallMessage, CallReference, CallRequest, CallStatus, CallView, ClientMessage, ServerMessage,
        },
    },
    sip::{
        Transport,
        dialog::Target,
        message::{HeaderName, Message, Method, Request, Response, Status},
        parser,
        ua::{Advertised, Source, UaConfig},
        uri::Host,
    },
};
use gangway_shared::{
    entropy::SeededEntropy,
    ids::{Generation, LegId, RelayId},
    rcp::{
        ActAction, ErrorCode, Fingerprint, LegAddress, LegKind, LegReply, ListEntry, PutReply, RelayError,
        RelayProgram, Reply, Request as RelayRequest,
    },
    time::Time,
};

/// Our address.
pub(crate) const OURS: &str = "10.0.0.1:5060";
/// The peer's: registrar, proxy and phone in one.
pub(crate) const PEER: &str = "10.0.0.2:5060";
/// Another address of the peer's name: nobody answers from there.
pub(crate) const SILENT: &str = "10.0.0.3:5060";

/// A Chromium offer cut to what signalling looks at.
pub(crate) const BROWSER_OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\na=msid-semantic: WMS s\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\n\
    a=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=ice-options:trickle\r\n\
    a=fingerprint:sha-256 00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D:1E:1F\r\n\
    a=setup:actpass\r\na=mid:0\r\na=sendrecv\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n\
    a=rtpmap:63 red/48000/2\r\na=rtpmap:9 G722/8000\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:13 CN/8000\r\n\
    a=rtpmap:110 telephone-event/48000\r\na=rtpmap:126 telephone-event/8000\r\n";

/// What the same browser answers to an offer of ours with these payload types.
pub(crate) fn browser_answer(payloads: &str) -> String {
    BROWSER_OFFER.replace("111 63 9 0 8 13 110 126", payloads).replace("a=setup:actpass", "a=setup:active")
}

/// A phone's description with these payload types.
pub(crate) fn phone_sdp(port: u16, payloads: &str) -> String {
    format!(
        "v=0\r\no=phone 1 1 IN IP4 10.0.0.2\r\ns=call\r\nc=IN IP4 10.0.0.2\r\nt=0 0\r\nm=audio {port} RTP/AVP {payloads}\r\n\
         a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:9 G722/8000\r\na=rtpmap:101 telephone-event/8000\r\na=sendrecv\r\n"
    )
}

/// Settings with short times.
pub(crate) fn config() -> GatewayConfig {
    let ours = |transport| Advertised { transport, host: "10.0.0.1".parse::<Host>().unwrap(), port: 5060 };
    // Requests that outgrow a datagram would go by TCP, where this peer does not listen.
    let ua =
        UaConfig { udp_request_limit_bytes: 0, ..UaConfig::new([Transport::Udp, Transport::Tcp].map(ours).to_vec()) };
    GatewayConfig::new(ua)
}

/// The wall is up, with a dataplane of today.
pub(crate) fn relay_up(epoch: u32) -> Input {
    Input::RelayUp { epoch, capabilities: ["feedback", "fill"].map(str::to_owned).to_vec() }
}

/// A relay that does what it is told.
#[derive(Default)]
pub(crate) struct Relay {
    pub(crate) relays: BTreeMap<RelayId, (Generation, RelayProgram)>,
    /// Added to addresses: a dataplane that started anew has others.
    pub(crate) incarnation: u8,
    /// Refuse every `Put`, with this code.
    pub(crate) refuses: Option<ErrorCode>,
    /// What was asked of relays, once for each id.
    pub(crate) actions: Vec<(RelayId, ActAction)>,
    action_ids: BTreeSet<(RelayId, u64)>,
}

impl Relay {
    pub(crate) fn handle(&mut self, request: RelayRequest) -> Result<Reply, RelayError> {
        match request {
            RelayRequest::Put { relay, generation, program } => self.put(relay, generation, program).map(Reply::Put),
            RelayRequest::Delete { relay } => {
                self.relays.remove(&relay);
                Ok(Reply::Delete)
            }
            RelayRequest::List { after, .. } => {
                let relays = self.relays.iter().filter(|(id, _)| after.is_none_or(|after| **id > after));
                let entry = |(id, (generation, _)): (&RelayId, &(Generation, RelayProgram))| ListEntry {
                    relay: *id,
                    generation: *generation,
                    digest: String::new(),
                    forwarded: 0,
                };
                Ok(Reply::List { relays: relays.map(entry).collect(), more: false })
            }
            RelayRequest::Act { relay, action_id, action } => {
                if self.action_ids.insert((relay, action_id)) {
                    self.actions.push((relay, action));
                }
                Ok(Reply::Act)
            }
            other => panic!("the core never asks {other:?}"),
        }
    }

    pub(crate) fn put(
        &mut self,
        relay: RelayId,
        generation: Generation,
        program: RelayProgram,
    ) -> Result<PutReply, RelayError> {
        if let Some(code) = self.refuses {
            return Err(RelayError::new(code, "", "scripted"));
        }
        program.validate()?;
        if let Some((known, before)) = self.relays.get(&relay)
            && (generation < *known || (generation == *known && program != *before))
        {
            return Err(RelayError::new(ErrorCode::Stale, "generation", "it is old"));
        }
        let port = 31_000 + 2 * u16::try_from(relay.to_u128() & 0xfff).unwrap();
        let address = |id: LegId, kind: &LegKind| match kind {
            LegKind::IceDtls(_) => LegAddress::IceDtls {
                candidates: vec!["192.0.2.1:32100".parse().unwrap()],
                ufrag: format!("u{:x}{}l{}", relay.to_u128() & 0xffff, self.incarnation, id.0),
                pwd: "p".repeat(24),
                fingerprint: Fingerprint([self.incarnation; 32]),
            },
            LegKind::Rtp(_) => {
                let port = port + 10_000 * (u16::from(id.0) - 1);
                let address = |port| SocketAddr::new("10.0.0.1".parse().unwrap(), port);
                LegAddress::Rtp { rtp: address(port), rtcp: address(port + 1) }
            }
            _ => LegAddress::None,
        };
        let legs =
            program.legs.iter().map(|leg| LegReply { id: leg.id, address: address(leg.id, &leg.kind) }).collect();
        self.relays.insert(relay, (generation, program));
        Ok(PutReply { relay, generation, legs })
    }
}

/// What a page has been told of one call.
#[derive(Default)]
struct Told {
    descriptions: u32,
    terminal: bool,
}

/// The world.
pub(crate) struct World {
    pub(crate) gateway: Gateway,
    pub(crate) now: Time,
    pub(crate) relay: Relay,
    /// Messages to browsers, in order.
    pub(crate) sent: VecDeque<(SocketId, ServerMessage)>,
    pub(crate) closed: Vec<(SocketId, u16)>,
    /// SIP messages to the peer, in order.
    pub(crate) sip: VecDeque<Message>,
    /// The peer's name has these addresses, best first.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Where the last SIP message went.
    pub(crate) sent_to: Option<SocketAddr>,
    /// Transport and bytes of each SIP request.
    pub(crate) requests_sent: Vec<(Transport, usize)>,
    pub(crate) journal: Vec<JournalEntry>,
    /// What of it is in force.
    pub(crate) standing: Standing,
    config: GatewayConfig,
    /// Lives of the core so far.
    pub(crate) lives: u64,
    pub(crate) rest: Vec<gangway_control::gateway::effects::RestReply>,
    /// Asks that wait for the test, when it said so.
    pub(crate) asks: VecDeque<(AskId, Ask)>,
    pub(crate) hold_asks: bool,
    /// Relay requests that wait for the test, when it said so.
    pub(crate) requests: VecDeque<(RelayRequestId, RelayRequest)>,
    pub(crate) hold_requests: bool,
    /// Pages answer pings; nothing of it is kept.
    pub(crate) pongs: bool,
    /// How the peer's messages come: UDP, or TCP over its one connection.
    pub(crate) transport: Transport,
    /// By which transport its name is reached.
    pub(crate) resolves_to: Transport,
    told: BTreeMap<(SocketId, String), Told>,
    next_socket: u64,
    next_branch: u64,
}

impl World {
    pub(crate) fn new(config: GatewayConfig) -> Self {
        let gateway = Gateway::new(config.clone(), Box::new(SeededEntropy::new(1)), Box::new(SeededEntropy::new(2)));
        let mut world = World {
            gateway,
            now: Time::from_millis(1),
            relay: Relay::default(),
            sent: VecDeque::new(),
            closed: Vec::new(),
            sip: VecDeque::new(),
            addresses: vec![PEER.parse().unwrap()],
            sent_to: None,
            requests_sent: Vec::new(),
            journal: Vec::new(),
            standing: Standing::default(),
            config,
            lives: 1,
            rest: Vec::new(),
            asks: VecDeque::new(),
            hold_asks: false,
            requests: VecDeque::new(),
            hold_requests: false,
            pongs: true,
            transport: Transport::Udp,
            resolves_to: Transport::Udp,
            told: BTreeMap::new(),
            next_socket: 0,
            next_branch: 0,
        };
        world.input(relay_up(1));
        world
    }

    /// One input and all that follows from it at once.
    pub(crate) fn input(&mut self, input: Input) {
        self.gateway.handle_input(self.now, input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.gateway.poll_output() {
            self.gateway.check_invariants().unwrap();
            match output {
                Output::SocketSend { socket, message: ServerMessage::Ping } if self.pongs => {
                    let message = ClientMessage::Pong;
                    self.gateway.handle_input(self.now, Input::SocketMessage { socket, message });
                }
                Output::SocketSend { socket, message } => self.hear(socket, message),
                Output::SocketClose { socket, code } => self.closed.push((socket, code)),
                Output::RestReply { reply, .. } => self.rest.push(reply),
                Output::SipTransmit(transmit) => {
                    assert!(self.addresses.contains(&transmit.remote), "{}", transmit.remote);
                    self.sent_to = Some(transmit.remote);
                    let message = parser::parse(&transmit.bytes).expect("what we print can be read");
                    if matches!(message, Message::Request(_)) {
                        self.requests_sent.push((transmit.transport, transmit.bytes.len()));
                    }
                    self.sip.push_back(message);
                }
                Output::Relay { id, request } if self.hold_requests => self.requests.push_back((id, request)),
                Output::Relay { id, request } => {
                    let result = self.relay.handle(request);
                    self.gateway.handle_input(self.now, Input::RelayReply { id, result });
                }
                Output::Ask { ask, what, .. } if self.hold_asks => self.asks.push_back((ask, what)),
                Output::Ask { ask, what, .. } => {
                    let answer = self.consent(what);
                    self.gateway.handle_input(self.now, Input::Answer { ask, answer });
                }
                Output::Journal(entry) => {
                    self.standing.take(through_json(&entry));
                    self.journal.push(entry);
                }
            }
        }
        self.gateway.check_invariants().unwrap();
    }

    /// The core is killed and another takes over what its journal holds; the wall is down.
    pub(crate) fn kill(&mut self) {
        self.assert_journal();
        self.take_over();
    }

    /// The core is killed in the turn of this input: so many of its lines are written, and nothing of it leaves. How many there were.
    pub(crate) fn kill_in_turn(&mut self, input: Input, written: usize) -> usize {
        self.gateway.handle_input(self.now, input);
        let mut lines = 0;
        while let Some(output) = self.gateway.poll_output() {
            if let Output::Journal(entry) = output {
                lines += 1;
                if lines <= written {
                    self.standing.take(through_json(&entry));
                }
            }
        }
        self.take_over();
        self.input(relay_up(u32::try_from(self.lives).unwrap()));
        lines
    }

    /// Another core takes over what stands in the journal, whatever the core of before knew.
    pub(crate) fn kill_unchecked(&mut self) {
        self.take_over();
    }

    /// The same, and one line of the journal, counted in their order, cannot be read.
    pub(crate) fn lose_line(&mut self, which: usize) {
        let left = self.standing.entries().enumerate().filter(|(at, _)| *at != which).map(|(_, entry)| entry.clone());
        self.standing = Standing::of(left.collect::<Vec<_>>());
        self.take_over();
    }

    fn take_over(&mut self) {
        for socket in 1..=self.next_socket {
            self.closed.push((SocketId(socket), 1006));
        }
        self.asks.clear();
        self.requests.clear();
        self.lives += 1;
        let entropy = |salt| Box::new(SeededEntropy::new(1000 * self.lives + salt));
        self.gateway = Gateway::new(self.config.clone(), entropy(1), entropy(2));
        let left: Vec<JournalEntry> = self.standing.entries().cloned().collect();
        self.gateway.restore(self.now, left);
        self.standing = Standing::of(self.gateway.journal_all().iter().map(through_json));
        self.drain();
    }

    /// The same, and the new core greets the dataplane.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.input(relay_up(u32::try_from(self.lives).unwrap()));
    }

    /// The lines of the journal and the core say the same.
    pub(crate) fn assert_journal(&mut self) {
        let all = Standing::of(self.gateway.journal_all().iter().map(through_json));
        assert_eq!(self.standing, all);
    }

    /// The answer of a willing world.
    pub(crate) fn consent(&mut self, what: Ask) -> Answer {
        match what {
            Ask::Authorize(_) => Answer::Authorized,
            Ask::Resolve { .. } => {
                let transport = self.resolves_to;
                let target = |remote: &SocketAddr| Target { transport, remote: *remote, flow: None };
                Answer::Resolved(self.addresses.iter().map(target).collect())
            }
            Ask::AllocateRelay { relay, program } => match self.relay.put(relay, Generation(1), program) {
                Ok(reply) => Answer::Allocated(reply),
                Err(error) => Answer::NotAllocated(error),
            },
        }
    }

    /// Answers the oldest ask that was held with consent.
    pub(crate) fn answer_ask(&mut self) {
        let (ask, what) = self.asks.pop_front().expect("an ask waits");
        let answer = self.consent(what);
        self.input(Input::Answer { ask, answer });
    }

    /// Does the oldest relay request that was held.
    pub(crate) fn answer_request(&mut self) {
        let (id, request) = self.requests.pop_front().expect("a request waits");
        let result = self.relay.handle(request);
        self.input(Input::RelayReply { id, result });
    }

    fn hear(&mut self, socket: SocketId, message: ServerMessage) {
        assert!(!self.closed.iter().any(|(closed, _)| *closed == socket), "{socket:?} was closed before {message:?}");
        match &message {
            ServerMessage::SetRemoteSdp { call_id, .. } => {
                let told = self.told.entry((socket, call_id.clone())).or_default();
                told.descriptions += 1;
                assert_eq!(told.descriptions, 1, "R7: a second setRemoteSDP for {call_id}");
                assert!(!told.terminal, "setRemoteSDP after finish of {call_id}");
            }
            ServerMessage::IncomingCall(call) => {
                let told = self.told.entry((socket, call.call_id.clone())).or_default();
                assert_eq!(told.descriptions, 1, "R5: setRemoteSDP comes before notifyIncomingCall");
            }
            ServerMessage::CallStatus { kind, call } => {
                let told = self.told.entry((socket, call.call_id.clone())).or_default();
                let late_answer = call.incoming && call.sip_status == Some(487);
                assert!(!told.terminal || late_answer, "R10: {kind:?} after the end of {}", call.call_id);
                assert_eq!(
                    matches!(call.status, CallStatus::Finish | CallStatus::Failed),
                    *kind == CallMessage::Finish,
                    "a terminal status comes in finish: {call:?}"
                );
                told.terminal |= *kind == CallMessage::Finish;
            }
            _ => {}
        }
        self.sent.push_back((socket, message));
    }

    /// Lets time pass, firing what is due in order.
    pub(crate) fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(due) = self.gateway.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.gateway.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    /// Forgets what was said so far.
    pub(crate) fn forget(&mut self) {
        self.sent.clear();
        self.sip.clear();
    }

    // ---- browsers ----

    pub(crate) fn open(&mut self) -> SocketId {
        self.open_from("192.0.2.9:40000")
    }

    /// A socket of a browser at this address.
    pub(crate) fn open_from(&mut self, remote: &str) -> SocketId {
        self.next_socket += 1;
        let socket = SocketId(self.next_socket);
        let peer = SocketPeer {
            remote: remote.parse().unwrap(),
            local: "192.0.2.1:8080".parse().unwrap(),
            secure: false,
            origin: Some("http://example.com".to_owned()),
        };
        self.input(Input::SocketOpened { socket, peer });
        socket
    }

    pub(crate) fn say(&mut self, socket: SocketId, message: ClientMessage) {
        self.input(Input::SocketMessage { socket, message });
    }

    /// A text frame, read as the adapter reads it.
    pub(crate) fn frame(&mut self, socket: SocketId, frame: &serde_json::Value) {
        self.input(match schema::decode(&frame.to_string()) {
            Ok(message) => Input::SocketMessage { socket, message },
            Err(bad) => Input::SocketRefused { socket, subject: bad.subject, problem: bad.problem.to_string() },
        });
    }

    /// `connection` with these fields.
    pub(crate) fn connect(&mut self, fields: serde_json::Value) -> SocketId {
        let socket = self.open();
        self.say(socket, ClientMessage::Connection(Box::new(serde_json::from_value(fields).unwrap())));
        socket
    }

    /// An established session of account 1001 without registration.
    pub(crate) fn session(&mut self) -> SocketId {
        let socket = self.connect(account(false));
        assert_eq!(self.names(), ["getUserData"]);
        socket
    }

    pub(crate) fn call(&mut self, socket: SocketId, call_id: &str, callee: &str) {
        self.call_with(socket, call_id, callee, BROWSER_OFFER);
    }

    pub(crate) fn call_with(&mut self, socket: SocketId, call_id: &str, callee: &str, offer: &str) {
        let request = CallRequest {
            call_id: call_id.to_owned(),
            callee: Some(callee.to_owned()),
            sdp: Some(offer.to_owned()),
            visible_name: Some("Alice \"A\"".to_owned()),
            media_provider: Some("WebRTC".to_owned()),
            ..CallRequest::default()
        };
        self.say(socket, ClientMessage::Call(Box::new(request)));
    }

    pub(crate) fn answer(&mut self, socket: SocketId, call_id: &str, payloads: &str) {
        let request = AnswerRequest {
            call_id: call_id.to_owned(),
            sdp: Some(browser_answer(payloads)),
            ..AnswerRequest::default()
        };
        self.say(socket, ClientMessage::Answer(Box::new(request)));
    }

    pub(crate) fn hangup(&mut self, socket: SocketId, call_id: &str) {
        let reference = CallReference { call_id: call_id.to_owned(), hold_for_transfer: None };
        self.say(socket, ClientMessage::Hangup(reference));
    }

    /// Takes the names of all messages to browsers since the last look; `finish` and `busy` with their status.
    pub(crate) fn names(&mut self) -> Vec<String> {
        let name = |message: &ServerMessage| match message {
            ServerMessage::CallStatus { kind: CallMessage::Finish | CallMessage::Busy, call } => {
                format!("{} {}", message.name(), serde_json::to_value(call.status).unwrap().as_str().unwrap())
            }
            _ => message.name().to_owned(),
        };
        let names = self.sent.iter().map(|(_, message)| name(message)).collect();
        self.sent.clear();
        names
    }

    /// The call object of the last status message.
    pub(crate) fn last_call(&self) -> CallView {
        let calls = self.sent.iter().rev().filter_map(|(_, message)| match message {
            ServerMessage::CallStatus { call, .. } => Some((**call).clone()),
            ServerMessage::IncomingCall(call) => Some((**call).clone()),
            _ => None,
        });
        calls.into_iter().next().expect("a status message was sent")
    }

    /// The text of the last `fail`.
    pub(crate) fn last_fail(&self) -> String {
        let fails = self.sent.iter().rev().filter_map(|(_, message)| match message {
            ServerMessage::Fail(fail) => Some(format!("{} {} {}", fail.api_method, fail.status, fail.info)),
            _ => None,
        });
        fails.into_iter().next().expect("a fail was sent")
    }

    /// The description of the last `setRemoteSDP`.
    pub(crate) fn last_description(&self) -> String {
        let descriptions = self.sent.iter().rev().filter_map(|(_, message)| match message {
            ServerMessage::SetRemoteSdp { sdp, .. } => Some(sdp.clone()),
            _ => None,
        });
        descriptions.into_iter().next().expect("setRemoteSDP was sent")
    }

    // ---- the SIP peer ----

    /// Takes the next request of this method to the peer, dropping what stands before it.
    pub(crate) fn request(&mut self, method: &Method) -> Request {
        while let Some(message) = self.sip.pop_front() {
            match message {
                Message::Request(request) if request.method == *method => return request,
                _ => {}
            }
        }
        panic!("no {method} was sent");
    }

    /// The same, if there is one.
    pub(crate) fn next_request(&mut self, method: &Method) -> Option<Request> {
        let is_wanted = |message: &Message| matches!(message, Message::Request(request) if request.method == *method);
        self.sip.iter().any(is_wanted).then(|| self.request(method))
    }

    /// Takes the last request of this method, dropping all others: no repeat to an address that fell silent.
    pub(crate) fn last_request(&mut self, method: &Method) -> Request {
        let requests = self.sip.drain(..).rev().filter_map(|message| match message {
            Message::Request(request) if request.method == *method => Some(request),
            _ => None,
        });
        requests.into_iter().next().unwrap_or_else(|| panic!("no {method} was sent"))
    }

    /// Takes the next response to the peer with this status.
    pub(crate) fn response(&mut self, status: u16) -> Response {
        let mut seen = Vec::new();
        while let Some(message) = self.sip.pop_front() {
            match message {
                Message::Response(response) if response.status.code() == status => return response,
                other => seen.push(String::from_utf8_lossy(&other.to_bytes()).into_owned()),
            }
        }
        panic!("no {status} was sent, but {seen:#?}");
    }

    /// Names of all SIP messages since the last look: methods and statuses.
    pub(crate) fn sip_names(&mut self) -> Vec<String> {
        let name = |message: Message| match message {
            Message::Request(request) => request.method.to_string(),
            Message::Response(response) => response.status.to_string(),
        };
        self.sip.drain(..).map(name).collect()
    }

    pub(crate) fn receive(&mut self, bytes: Vec<u8>) {
        self.input(self.received(bytes));
    }

    /// The input that a message of the peer makes.
    pub(crate) fn received(&self, bytes: Vec<u8>) -> Input {
        let source = Source {
            transport: self.transport,
            local: OURS.parse().unwrap(),
            remote: PEER.parse().unwrap(),
            flow: (self.transport == Transport::Tcp).then_some(1),
        };
        Input::SipReceived { source, bytes }
    }

    /// The peer's response to a request of ours.
    pub(crate) fn respond(&mut self, request: &Request, status: u16, sdp: Option<&str>) {
        self.respond_as(request, status, "peer-tag", sdp, &[]);
    }

    pub(crate) fn respond_as(
        &mut self,
        request: &Request,
        status: u16,
        tag: &str,
        sdp: Option<&str>,
        extra: &[(HeaderName, &str)],
    ) {
        let bytes = Self::response_as(request, status, tag, sdp, extra);
        self.receive(bytes);
    }

    /// The bytes of such a response.
    pub(crate) fn response_as(
        request: &Request,
        status: u16,
        tag: &str,
        sdp: Option<&str>,
        extra: &[(HeaderName, &str)],
    ) -> Vec<u8> {
        let mut response = Response::new(Status::literal(status));
        for name in [HeaderName::Via, HeaderName::From, HeaderName::CallId, HeaderName::CSeq] {
            for value in request.headers.values(&name) {
                response.headers.push(name.clone(), value);
            }
        }
        let to = request.headers.value(&HeaderName::To).unwrap();
        let tagged = if to.contains("tag=") { to.to_owned() } else { format!("{to};tag={tag}") };
        response.headers.push(HeaderName::To, tagged);
        response.headers.push(HeaderName::Contact, "<sip:peer@10.0.0.2:5060>");
        for (name, value) in extra {
            response.headers.set(name.clone(), *value);
        }
        if let Some(sdp) = sdp {
            response.headers.push(HeaderName::ContentType, "application/sdp");
            response.body = sdp.as_bytes().to_vec();
        }
        response.to_bytes()
    }

    /// The transport could not deliver to this address.
    pub(crate) fn refuse_transport(&mut self, remote: &str) {
        let remote = remote.parse().unwrap();
        self.input(Input::SipFailed { transport: Transport::Udp, remote, flow: None });
    }

    /// The peer's name has a silent address before the one that answers.
    pub(crate) fn with_a_silent_address(mut self) -> Self {
        self.addresses = [SILENT, PEER].map(|text| text.parse().unwrap()).to_vec();
        self
    }

    /// Whether the last SIP message went to this address.
    pub(crate) fn sent_to(&self, address: &str) -> bool {
        self.sent_to == Some(address.parse().unwrap())
    }

    /// A request of the peer outside of a dialog.
    pub(crate) fn invite(&mut self, uri: &str, call_id: &str, sdp: Option<&str>) -> Request {
        self.next_branch += 1;
        let branch = self.next_branch;
        let body = sdp.unwrap_or_default();
        let kind = if sdp.is_some() { "Content-Type: application/sdp\r\n" } else { "" };
        let text = format!(
            "INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/{} 10.0.0.2:5060;branch=z9hG4bKp{branch};rport\r\nMax-Forwards: 70\r\n\
             From: \"Bob\" <sip:bob@example.com>;tag=bob\r\nTo: <sip:1001@example.com>\r\nCall-ID: {call_id}\r\nCSeq: 1 INVITE\r\n\
             Contact: <sip:bob@10.0.0.2:5060>\r\n{kind}Content-Length: {}\r\n\r\n{body}",
            self.transport.as_via(),
            body.len()
        );
        self.receive(text.clone().into_bytes());
        match parser::parse(text.as_bytes()).unwrap() {
            Message::Request(request) => request,
            Message::Response(_) => unreachable!(),
        }
    }

    /// CANCEL of an INVITE of the peer.
    pub(crate) fn cancel(&mut self, invite: &Request) {
        let mut cancel = Request::new(Method::Cancel, invite.uri.clone());
        for name in [HeaderName::Via, HeaderName::MaxForwards, HeaderName::From, HeaderName::To, HeaderName::CallId] {
            cancel.headers.push(name.clone(), invite.headers.value(&name).unwrap());
        }
        cancel.headers.push(HeaderName::CSeq, "1 CANCEL");
        self.receive(cancel.to_bytes());
    }

    /// A request of the peer in the dialog that `invite` of ours and its answer made (tag `peer-tag`).
    pub(crate) fn in_our_dialog(&mut self, invite: &Request, method: &Method, cseq: u32, sdp: Option<&str>) {
        self.in_our_dialog_with(invite, method, cseq, sdp.map(|sdp| ("application/sdp", sdp)));
    }

    /// The same with a body of any type.
    pub(crate) fn in_our_dialog_with(
        &mut self,
        invite: &Request,
        method: &Method,
        cseq: u32,
        body: Option<(&str, &str)>,
    ) {
        let from = format!("{};tag=peer-tag", invite.headers.value(&HeaderName::To).unwrap());
        let to = invite.headers.value(&HeaderName::From).unwrap().to_owned();
        self.in_dialog(invite, (&from, &to), method, cseq, body);
    }

    /// A request of the peer in the dialog that its `invite` and our `answer` made.
    pub(crate) fn in_their_dialog(
        &mut self,
        invite: &Request,
        answer: &Response,
        method: &Method,
        cseq: u32,
        sdp: Option<&str>,
    ) {
        let from = invite.headers.value(&HeaderName::From).unwrap().to_owned();
        let to = answer.headers.value(&HeaderName::To).unwrap().to_owned();
        self.in_dialog(invite, (&from, &to), method, cseq, sdp.map(|sdp| ("application/sdp", sdp)));
    }

    fn in_dialog(
        &mut self,
        invite: &Request,
        (from, to): (&str, &str),
        method: &Method,
        cseq: u32,
        body: Option<(&str, &str)>,
    ) {
        self.next_branch += 1;
        let mut request = Request::new(method.clone(), "sip:x@10.0.0.1:5060".parse().unwrap());
        let via = format!("SIP/2.0/UDP 10.0.0.2:5060;branch=z9hG4bKd{};rport", self.next_branch);
        request.headers.push(HeaderName::Via, via);
        request.headers.push(HeaderName::MaxForwards, "70");
        request.headers.push(HeaderName::From, from);
        request.headers.push(HeaderName::To, to);
        request.headers.push(HeaderName::CallId, invite.headers.value(&HeaderName::CallId).unwrap());
        request.headers.push(HeaderName::CSeq, format!("{cseq} {method}"));
        request.headers.push(HeaderName::Contact, "<sip:peer@10.0.0.2:5060>");
        if let Some((kind, body)) = body {
            request.headers.push(HeaderName::ContentType, kind);
            request.body = body.as_bytes().to_vec();
        }
        self.receive(request.to_bytes());
    }

    // ---- whole calls ----

    /// An established outgoing call; gives our INVITE.
    pub(crate) fn established(&mut self, socket: SocketId, call_id: &str) -> Request {
        self.call(socket, call_id, "600");
        let invite = self.request(&Method::Invite);
        self.respond(&invite, 200, Some(&phone_sdp(4000, "0 101")));
        assert_eq!(self.last_call().status, CallStatus::Established);
        self.forget();
        invite
    }

    /// The user part of the session's Contact, as the peer learns it.
    pub(crate) fn contact_key(&mut self, call_from: SocketId) -> String {
        self.call(call_from, "probe", "600");
        let invite = self.request(&Method::Invite);
        let contact = invite.headers.value(&HeaderName::Contact).unwrap().to_owned();
        self.respond(&invite, 404, None);
        self.forget();
        contact.split(['@', ':']).nth(1).unwrap().to_owned()
    }

    /// A relay event for the only relay there is.
    pub(crate) fn only_relay(&self) -> RelayId {
        assert_eq!(self.relay.relays.len(), 1);
        *self.relay.relays.keys().next().unwrap()
    }

    /// The browser's ICE and DTLS come up.
    pub(crate) fn keys_ready(&mut self) {
        let (relay, leg) = (self.only_relay(), LegId(0));
        self.input(Input::RelayEvent {
            event: gangway_shared::rcp::Event::KeysReady { relay, leg, profile: "SRTP_AEAD_AES_128_GCM".to_owned() },
        });
    }

    /// Nothing is left once every timer has run out.
    pub(crate) fn assert_clean(&mut self) {
        let counts = self.gateway.counts();
        assert_eq!(
            (counts.relays, counts.dialogs, counts.asks, self.relay.relays.len()),
            (0, 0, 0, 0),
            "something is left: {counts:?}"
        );
        assert_eq!(counts.calls_trying + counts.calls_ring + counts.calls_established, 0);
    }
}

/// An entry as it comes back from the disk: as text, its password by the way of its own.
pub(crate) fn through_json(entry: &JournalEntry) -> JournalEntry {
    let line = serde_json::to_string(entry).unwrap();
    assert!(!line.contains("secret"), "a password in clear: {line}");
    let mut read = serde_json::from_str::<JournalEntry>(&line).unwrap();
    if let (JournalEntry::Session { record, .. }, Some(password)) = (&mut read, entry.password()) {
        record.unseal(password.clone());
    }
    assert_eq!(read, *entry);
    read
}

/// Fields of `connection` for account 1001.
pub(crate) fn account(register: bool) -> serde_json::Value {
    serde_json::json!({
        "appKey": "defaultApp", "sipLogin": "1001", "sipAuthenticationName": "auth1001", "sipPassword": "secret",
        "sipDomain": "example.com", "sipOutboundProxy": "10.0.0.2", "sipPort": "5060", "sipRegisterRequired": register,
        "clientVersion": "2.0", "mediaProviders": ["WebRTC"],
    })
}
