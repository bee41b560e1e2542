//! Incoming calls: INVITE -> may it, relay -> the browser rings -> `answer` -> 200 (wcs-protocol.md 5.4).

use std::net::IpAddr;

use super::{CallKey, NewCall, Phase, Purpose, description};
use crate::{
    gateway::{
        Gateway,
        effects::{Ask, Authorize, SocketId},
        messages::{AnswerRequest, CallMessage, Fail, ServerMessage},
        outcome::{CallEnd, Outcome},
        plan,
        session::SessionKey,
        targets::Targets,
        timers::{CallTimer, Timer},
    },
    sdp::{
        Agreement, BrowserDescription, Direction, IceDtls, NegotiateError, SipSdpLines, TrunkDescription, TrunkSession,
        browser, negotiate::browser_offer,
    },
    sip::{
        dialog::Target,
        message::{HeaderName, Method, Request, Status},
        ua::{Reply, ServerId, Source},
        uri::SipUri,
    },
};

/// Longest display name or user shown to a browser, in characters.
const SHOWN_NAME_MAX_CHARS: usize = 128;

impl Gateway {
    /// An INVITE for a new call.
    pub(in crate::gateway) fn invited(
        &mut self,
        server: ServerId,
        request: &Request,
        source: Source,
        known_peer: bool,
    ) {
        let Some(session) = self.callee_session(request, known_peer) else {
            return self.refuse(server, 404, None);
        };
        if self.draining {
            return self.refuse(server, 503, None);
        }
        if self.calls.len() >= self.config.max_calls {
            self.totals.calls_refused += 1;
            return self.refuse(server, 503, None);
        }
        let calls = self.sessions.get(&session).map_or(0, |session| session.calls.len());
        if calls >= self.config.max_calls_per_session {
            self.totals.calls_refused += 1;
            return self.refuse(server, 486, None);
        }
        let offer = match description(&request.headers, &request.body) {
            Err(_) => return self.refuse(server, 415, None),
            Ok(None) => None,
            Ok(Some(text)) => match TrunkDescription::parse(&text) {
                Ok(offer) => Some(offer),
                Err(error) => return self.refuse(server, 488, Some(&error.to_string())),
            },
        };
        let codecs = self.codecs_of(self.trunk_from(source.remote.ip()));
        match browser_offer(offer.as_ref(), &codecs) {
            Ok(offered) => {
                let key = self.begin_incoming(server, request, source, session);
                let Some(call) = self.calls.get_mut(&key) else { return };
                call.codecs = codecs;
                call.offered_browser = offered;
                call.peer_offer = offer;
                let Some(call) = self.calls.get(&key) else { return };
                let session_id = self.sessions.get(&session).map(|s| s.session_id.clone()).unwrap_or_default();
                let what = Ask::Authorize(Authorize::IncomingCall { session_id, call: Box::new(self.view(call)) });
                self.ask_for_call(key, what, Phase::Authorizing);
            }
            Err(error) => self.refuse(server, 488, Some(&error.to_string())),
        }
    }

    /// Whom an INVITE rings: the session whose opaque key it names, or the newest session of the account it names. Strangers that
    /// name an account learn nothing: who knows the key was told by a registrar of ours.
    fn callee_session(&self, request: &Request, known_peer: bool) -> Option<SessionKey> {
        let uri = request.uri.as_sip()?;
        let user = uri.user.as_deref()?;
        if let Some(key) = self.contacts.get(user) {
            return self.sessions.get(key).filter(|session| session.is_established()).map(|_| *key);
        }
        let host_is_ours = self.config.ua.advertised.iter().any(|ours| ours.host == uri.host);
        let named = self.sessions.iter().rev().find(|(_, session)| {
            let account = session.account.as_ref().filter(|_| session.is_established());
            account.is_some_and(|account| account.login == user && (host_is_ours || account.domain.host == uri.host))
        });
        named.filter(|_| known_peer).map(|(key, _)| *key)
    }

    fn refuse(&mut self, server: ServerId, status: u16, warning: Option<&str>) {
        let mut reply = Reply::new(Status::literal(status));
        match status {
            503 => reply.headers.push(HeaderName::RetryAfter, self.config.retry_after_s.to_string()),
            415 => reply.headers.push(HeaderName::Accept, super::SDP_TYPE),
            _ => {}
        }
        if let Some(text) = warning {
            let text: String = text.chars().filter(|c| !matches!(c, '"' | '\\') && !c.is_control()).collect();
            reply.headers.push(HeaderName::Warning, format!("399 gangway \"{text}\""));
        }
        if let Err(error) = self.ua.respond(self.now, server, reply) {
            tracing::debug!(%error, status, "the caller was gone before the refusal");
        }
    }

    fn begin_incoming(&mut self, server: ServerId, request: &Request, source: Source, session: SessionKey) -> CallKey {
        let from = request.headers.from().ok();
        let from_uri = from.as_ref().and_then(|from| from.uri.as_sip());
        let user = from_uri.and_then(|uri| uri.user.clone()).unwrap_or_else(|| "anonymous".to_owned());
        let shown = from.as_ref().and_then(|from| from.display_name.clone()).filter(|name| !name.is_empty());
        let account = self.sessions.get(&session).and_then(|session| session.account.as_ref());
        let callee = account.map(|account| account.login.clone());
        let callee = callee.or_else(|| request.uri.as_sip().and_then(|uri: &SipUri| uri.user.clone()));
        let lines = SipSdpLines::default();
        let trunk =
            TrunkSession::new(&self.config.sdp_origin, &self.config.sdp_session_name, self.entropy.next_u64(), lines);
        let caller = shown_name(&user);
        let new = NewCall {
            session,
            id: self.uuid(),
            incoming: true,
            visible_name: shown.as_deref().map_or_else(|| caller.clone(), shown_name),
            caller,
            callee: callee.unwrap_or_default(),
            trunk,
        };
        let key = self.insert_call(new);
        self.servers.insert(server, key);
        if let Some(call) = self.calls.get_mut(&key) {
            call.server = Some(server);
            let target = Target { transport: source.transport, remote: source.remote, flow: source.flow };
            call.targets = Targets::new([target], None);
            tracing::info!(call = %call.id, caller = %call.caller, callee = %call.callee, "incoming call");
        }
        key
    }

    /// Allowed, and the relay is there: the browser rings, then the caller hears of it.
    pub(in crate::gateway) fn ring_browser(&mut self, key: CallKey) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        call.phase = Phase::Ringing;
        let Some(server) = call.server else { return };
        self.timers.set(Timer::Call(key, CallTimer::Answer), self.now + self.config.ring_timeout);
        self.announce(key);
        let reply = self.dialog_reply(key, 180, None);
        if let Err(error) = self.ua.respond(self.now, server, reply) {
            tracing::debug!(%error, "no 180 could be sent");
        }
    }

    /// `setRemoteSDP`, `notifyIncomingCall`, `ring`, in this order (R5, R6), once for each page. For a detached session it waits for
    /// the page to come back.
    pub(in crate::gateway) fn announce(&mut self, key: CallKey) {
        let local = self.browser_local(key);
        let Some(call) = self.calls.get(&key).filter(|call| call.incoming && call.phase == Phase::Ringing) else {
            return;
        };
        let Some(socket) = self.socket_of(call).filter(|socket| call.described_to != Some(*socket)) else { return };
        let Some(local) = local else { return };
        let ptime_ms = call.peer_offer.as_ref().and_then(|offer| offer.audio().ok()?.ptime_ms);
        let limit_kbps = call.peer_offer.as_ref().and_then(|offer| offer.video()?.limit_kbps);
        let sdp = browser::offer(&call.offered_browser.browser_media(ptime_ms, limit_kbps), &local);
        let view = Box::new(self.view(call));
        let call_id = call.id.clone();
        if let Some(call) = self.calls.get_mut(&key) {
            call.described_to = Some(socket);
        }
        self.send(socket, ServerMessage::SetRemoteSdp { call_id, sdp, is_initiator: false });
        self.send(socket, ServerMessage::IncomingCall(view));
        self.tell(key, CallMessage::Ring);
    }

    /// `answer`: the relay learns of the browser, then 200 goes out.
    pub(in crate::gateway) fn answer(&mut self, socket: SocketId, session: SessionKey, request: &AnswerRequest) {
        let lines = match SipSdpLines::new(request.sip_sdp.as_deref().unwrap_or_default()) {
            Ok(lines) => lines,
            Err(error) => return self.refuse_unread_answer(socket, session, &request.call_id, error.to_string()),
        };
        let Some(key) = self.call_to_answer(socket, session, &request.call_id) else { return };
        if let Err(end) = self.try_answer(key, request.sdp.as_deref().unwrap_or_default(), lines) {
            self.finish(key, end);
        }
    }

    /// `answer` with a field that cannot be read: the call ends, because the page has answered and will not do so again.
    pub(in crate::gateway) fn refuse_unread_answer(
        &mut self,
        socket: SocketId,
        session: SessionKey,
        call_id: &str,
        problem: String,
    ) {
        let Some(key) = self.call_to_answer(socket, session, call_id) else { return };
        self.send(socket, ServerMessage::Fail(Fail::call(call_id, problem)));
        self.finish(key, CallEnd::BadBrowserDescription);
    }

    /// The call that waits for this page's `answer`; the page is told when there is none.
    fn call_to_answer(&mut self, socket: SocketId, session: SessionKey, call_id: &str) -> Option<CallKey> {
        let Some(key) = self.call_of(session, call_id) else {
            // The caller gave up while the page answered (5.4).
            let outcome = Outcome::of(CallEnd::LateAnswer, self.config.busy_status);
            let nobody = (String::new(), String::new());
            self.finish_unknown(socket, call_id, true, nobody, &outcome);
            return None;
        };
        let call = self.calls.get(&key)?;
        if call.phase != Phase::Ringing || call.described_to != Some(socket) {
            self.send(socket, ServerMessage::Fail(Fail::call(call_id, "answer: the call does not wait for one")));
            return None;
        }
        Some(key)
    }

    fn try_answer(&mut self, key: CallKey, sdp: &str, lines: SipSdpLines) -> Result<(), CallEnd> {
        let session_id = self.entropy.next_u64();
        let call = self.calls.get_mut(&key).ok_or(CallEnd::LateAnswer)?;
        let unusable = |error| {
            tracing::debug!(%error, "answer of a browser is not usable");
            CallEnd::BadBrowserDescription
        };
        let mut browser = BrowserDescription::parse_answer(sdp).map_err(unusable)?;
        browser.splits_transports = call.splits_transports();
        let side = browser.side_of_answer(&call.offered_browser).map_err(|_| CallEnd::NoCommonCodecs)?;
        if side.audio.payloads.iter().all(|payload| payload.codec.is_telephone_event()) {
            return Err(CallEnd::NoCommonCodecs);
        }
        if let Some(offer) = &call.peer_offer {
            let agreement = Agreement::answering_sip(&side, offer, &call.codecs);
            call.agreement = Some(agreement.map_err(|error| CallEnd::from(&error))?);
        }
        call.trunk = TrunkSession::new(&self.config.sdp_origin, &self.config.sdp_session_name, session_id, lines);
        call.browser_remote = Some(browser.transport().map_err(unusable)?.to_remote());
        if let Some(relay) = call.relay.as_mut().filter(|relay| relay.media.splits_transports) {
            relay.media.browser_video = browser.video_transport().map(IceDtls::to_remote);
        }
        call.browser = Some(browser);
        call.phase = Phase::Answering;
        self.timers.clear(Timer::Call(key, CallTimer::Answer));
        self.await_path(key);
        self.connect_media(key, Purpose::Answer);
        Ok(())
    }

    /// The relay knows the browser: 200 to the caller.
    pub(super) fn send_answer(&mut self, key: CallKey) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        let Some(server) = call.server else { return };
        let sdp = match (&call.agreement, &call.peer_offer) {
            (Some(_), Some(offer)) => {
                let media = call.agreed_media().unwrap_or_default();
                call.trunk.answer(offer, &media).ok()
            }
            // The INVITE had no offer: ours goes into the 200 (RFC 3261 section 13.2.1).
            _ => {
                let side = call.browser.as_ref().and_then(|browser| browser.side_of_answer(&call.offered_browser).ok());
                let offered = side.map(|side| call.codecs.sip_offer(&side)).unwrap_or_default();
                call.offer_peer(offered)
            }
        };
        let Some(sdp) = sdp else { return self.finish(key, CallEnd::BadPeerDescription) };
        let offered = call.agreement.is_none();
        let reply = self.dialog_reply(key, 200, Some(sdp));
        match self.ua.respond(self.now, server, reply) {
            Ok(dialog) => {
                let Some(call) = self.calls.get_mut(&key) else { return };
                call.server = None;
                call.sip_status = Some(200);
                call.dialog.clone_from(&dialog);
                let owner = call.session;
                if let Some(dialog) = dialog {
                    self.hold_to_trunk(key, &dialog);
                    self.dialogs.insert(dialog, key);
                }
                if let Some(session) = self.sessions.get_mut(&owner) {
                    session.had_calls = true;
                }
                self.servers.remove(&server);
                self.answered(key, server, offered);
            }
            // CANCEL came first; its event ends the call, unless this does.
            Err(error) => {
                tracing::debug!(%error, "the caller was gone before the answer");
                if let Some(call) = self.calls.get_mut(&key) {
                    call.server = None;
                }
                self.servers.remove(&server);
                self.finish(key, CallEnd::CallerCancelled);
            }
        }
    }

    fn answered(&mut self, key: CallKey, server: ServerId, offered: bool) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        if offered {
            call.phase = Phase::AwaitingAck;
            call.offered_in = Some(server);
            self.servers.insert(server, key);
            return;
        }
        if let Some(agreement) = call.agreement.clone() {
            self.establish(key, agreement);
        }
    }

    /// ACK: it may carry the answer to an offer of ours in a 200.
    pub(in crate::gateway) fn acked(&mut self, key: CallKey, server: ServerId, request: &Request) {
        let Some(call) = self.calls.get_mut(&key).filter(|call| call.offered_in == Some(server)) else { return };
        call.offered_in = None;
        let first = call.phase == Phase::AwaitingAck;
        self.servers.remove(&server);
        let Some(call) = self.calls.get(&key) else { return };
        let agreement = match description(&request.headers, &request.body) {
            Ok(Some(text)) => TrunkDescription::parse(&text).map_err(NegotiateError::from).and_then(|answer| {
                if let Some(former) = &call.agreement {
                    return former.reanswered_by_sip(&call.offered_peer, &answer, Direction::SendRecv);
                }
                let browser = call.browser.as_ref();
                let side = browser.and_then(|browser| browser.side_of_answer(&call.offered_browser).ok());
                let side = side.ok_or(NegotiateError::NoCommonCodecs)?;
                Agreement::answered_by_sip(&side, &call.offered_peer, &answer, Direction::SendRecv)
            }),
            _ => Err(NegotiateError::NoCommonCodecs),
        };
        match agreement {
            Ok(agreement) => self.establish(key, agreement),
            Err(error) if first => self.finish(key, CallEnd::from(&error)),
            Err(error) => tracing::warn!(%error, "the answer to our offer is not usable, media stays as it was"),
        }
    }

    /// The caller gave up; 487 was sent.
    pub(in crate::gateway) fn caller_cancelled(&mut self, server: ServerId) {
        let Some(key) = self.servers.remove(&server) else { return };
        // A re-INVITE taken back ends nothing.
        let Some(call) = self.calls.get_mut(&key).filter(|call| call.server == Some(server)) else { return };
        call.server = None;
        self.finish(key, CallEnd::CallerCancelled);
    }

    /// A request outside of any dialog that is no INVITE: none is offered, so none should come.
    pub(in crate::gateway) fn stray_request(&mut self, server: ServerId, request: &Request) {
        let status = if request.method == Method::Invite { 404 } else { 405 };
        self.refuse(server, status, None);
    }

    /// A random (version 4) UUID.
    fn uuid(&mut self) -> String {
        let mut bytes = [0; 16];
        self.entropy.fill(&mut bytes);
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }

    /// Generation 1 of a call's relay.
    pub(in crate::gateway) fn allocate(&mut self, key: CallKey, peer: Option<IpAddr>) {
        let Some(relay) = self.mint_relay() else {
            return self.finish(key, CallEnd::RelayRefused(gangway_shared::rcp::ErrorCode::Internal));
        };
        let (browser_ssrc, sip_ssrc) = (self.ssrc(), self.ssrc());
        let video = plan::VideoStreams { browser_ssrc: self.ssrc(), sip_ssrc: self.ssrc(), rtx_ssrc: self.ssrc() };
        let cname = self.entropy.hex(8);
        let sip_local_ip = self.media_ip_towards(peer);
        let takes_feedback = self.wall.knows("feedback");
        let fill_after_ms = u32::try_from(self.config.fill_after.as_millis()).unwrap_or(u32::MAX);
        let fill_after_ms = self.wall.knows("fill").then_some(fill_after_ms);
        let abilities = self.wall.abilities();
        let Some(call) = self.calls.get_mut(&key) else { return };
        let browser_video = call.browser.as_ref().and_then(BrowserDescription::video_transport).map(IceDtls::to_remote);
        // A browser whose pictures have no transport to offer (`a=bundle-only`) keeps them with the sound.
        let splits_transports = !self.config.rtp_bundle && (call.incoming || browser_video.is_some());
        let media = plan::CallMedia {
            label: call.id.clone(),
            cname,
            browser_ssrc,
            sip_ssrc,
            video: call.has_video().then_some(video),
            sip_local_ip,
            media_timeout_ms: None,
            fill_after_ms,
            consent_timeout_ms: None,
            takes_feedback,
            splits_transports,
            browser_video: browser_video.filter(|_| splits_transports),
            abilities,
        };
        let program = plan::opening(&media, call.browser_remote.as_ref());
        call.relay = Some(super::CallRelay {
            id: relay,
            generation: gangway_shared::ids::Generation(1),
            program: program.clone(),
            media,
            addresses: None,
            pending: None,
            is_outdated: false,
            is_inherited: false,
        });
        self.relays.insert(relay, key);
        self.ask_for_call(key, Ask::AllocateRelay { relay, program }, Phase::Allocating);
    }

    /// Our address for media towards a SIP peer; `None` leaves it to the dataplane.
    pub(super) fn media_ip_towards(&self, peer: Option<IpAddr>) -> Option<IpAddr> {
        let same_family = |ip: &&IpAddr| peer.is_some_and(|peer| peer.is_ipv4() == ip.is_ipv4());
        self.config.media_ips.iter().find(same_family).copied()
    }

    fn ssrc(&mut self) -> u32 {
        // 0 is legal and yet trips tools.
        (self.entropy.next_u64() as u32).max(1)
    }
}

/// A name from a SIP message as a page may show it.
fn shown_name(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SHOWN_NAME_MAX_CHARS).collect()
}
