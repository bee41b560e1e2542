//! Outgoing calls: `call` -> TRYING -> may it, where to, relay -> INVITE -> ringing -> answer (wcs-protocol.md 5.3).

use super::{CallKey, NewCall, Phase, Purpose, description};
use crate::{
    gateway::{
        ClientUse, Gateway,
        effects::{Answer, Ask, Authorize, SocketId},
        kept::{KEPT_MAX_BYTES, KeptJson},
        messages::{CallMessage, CallRequest, CallStatus, CallView, Fail, ServerMessage},
        outcome::{CallEnd, Outcome},
        session::SessionKey,
        targets::Targets,
        timers::{CallTimer, Timer},
    },
    sdp::{
        Agreement, BrowserDescription, BrowserLocal, Direction, IceDtls, SipSdpLines, TrunkDescription, TrunkSession,
        browser,
    },
    sip::{
        dialog::DialogId,
        message::{HeaderName, Headers, Method, Response},
        ua::{ClientId, Outgoing, SendError},
        uri::NameAddr,
    },
};

/// Longest call id taken, in bytes; a UUID has 36.
pub(super) const CALL_ID_MAX_BYTES: usize = 128;
/// Longest `visibleName` taken, in bytes: it goes into each INVITE's From.
const VISIBLE_NAME_MAX_BYTES: usize = 255;
/// Most `sipHeaders` lines taken, and the longest of them in bytes.
const SIP_HEADERS_MAX: usize = 16;
const SIP_HEADER_MAX_BYTES: usize = 512;
/// Random bytes of an INVITE's Call-ID, and of our tag in it, which proves to who shows it that he has seen our messages.
const SIP_CALL_ID_BYTES: usize = 16;
const FROM_TAG_BYTES: usize = 8;

/// Message Too Large: what the page put into an INVITE, with the credentials, leaves no room for the shortest offer.
const TOO_LONG: CallEnd = CallEnd::Refused(513);

impl Gateway {
    /// `call`: refuses what cannot be, answers TRYING at once (R4), then asks whether it may be.
    pub(in crate::gateway) fn place_call(&mut self, socket: SocketId, session: SessionKey, request: CallRequest) {
        if request.call_id.is_empty() || request.call_id.len() > CALL_ID_MAX_BYTES {
            let info = "callId: it must be 1 to 128 characters";
            return self.send(socket, ServerMessage::Fail(Fail::call(&request.call_id, info)));
        }
        if let Some(key) = self.call_ids.get(&request.call_id) {
            let own = self.calls.get(key).is_some_and(|call| call.session == session);
            self.totals.calls_refused += 1;
            self.send(socket, ServerMessage::Fail(Fail::call(&request.call_id, "callId: a call of this id is active")));
            // A `finish` would end the page's own call of that id; another session's page has nothing but this to wait for.
            if !own {
                self.refuse_call(socket, &request, CallEnd::BadTarget, None);
            }
            return;
        }
        if let Err((end, problem)) = self.check_call(session, &request) {
            self.totals.calls_refused += 1;
            return self.refuse_call(socket, &request, end, Some(problem));
        }
        self.begin_call(session, request);
    }

    /// `call` with a field that cannot be read. The page waits for its end (R10), unless it has another call of that id.
    pub(in crate::gateway) fn refuse_unread_call(
        &mut self,
        socket: SocketId,
        session: SessionKey,
        call_id: String,
        problem: String,
    ) {
        self.totals.calls_refused += 1;
        if self.call_of(session, &call_id).is_some() {
            return self.send(socket, ServerMessage::Fail(Fail::call(&call_id, problem)));
        }
        let request = CallRequest { call_id, ..CallRequest::default() };
        self.refuse_call(socket, &request, CallEnd::BadTarget, Some(problem));
    }

    /// Everything that can be known before TRYING.
    fn check_call(&self, session: SessionKey, request: &CallRequest) -> Result<(), (CallEnd, String)> {
        let owner = self.sessions.get(&session).filter(|session| session.is_established());
        let Some(owner) = owner else {
            return Err((CallEnd::Denied, "the session is not established".to_owned()));
        };
        if self.draining {
            return Err((CallEnd::Draining, "the server is shutting down".to_owned()));
        }
        if self.calls.len() >= self.config.max_calls || owner.calls.len() >= self.config.max_calls_per_session {
            return Err((CallEnd::RelayRefused(gangway_shared::rcp::ErrorCode::Full), "too many calls".to_owned()));
        }
        if request.media_provider.as_deref().is_some_and(|provider| provider != "WebRTC") {
            return Err((CallEnd::BadBrowserDescription, "mediaProvider: only WebRTC is supported".to_owned()));
        }
        if request.custom.as_ref().is_some_and(|custom| KeptJson::of(custom).is_none()) {
            return Err((CallEnd::BadTarget, format!("custom: it is longer than {KEPT_MAX_BYTES} bytes")));
        }
        if request.visible_name.as_ref().is_some_and(|name| name.len() > VISIBLE_NAME_MAX_BYTES) {
            return Err((CallEnd::BadTarget, format!("visibleName: it is longer than {VISIBLE_NAME_MAX_BYTES} bytes")));
        }
        let Some(account) = &owner.account else {
            return Err((CallEnd::BadTarget, "sipLogin: the session has no SIP account to call with".to_owned()));
        };
        let callee = request.callee.as_deref().unwrap_or_default();
        if account.callee_uri(callee).is_none() {
            return Err((CallEnd::BadTarget, "callee: it must be a number, a name or a SIP address".to_owned()));
        }
        let Some(sdp) = request.sdp.as_deref().filter(|sdp| !sdp.is_empty()) else {
            return Err((CallEnd::BadBrowserDescription, "sdp: it is missing".to_owned()));
        };
        let offer = BrowserDescription::parse_offer(sdp);
        let usable = offer.and_then(|offer| offer.transport().map(|_| ()));
        usable.map_err(|error| (CallEnd::BadBrowserDescription, error.to_string()))?;
        let lines = SipSdpLines::new(request.sip_sdp.as_deref().unwrap_or_default());
        lines.map_err(|error| (CallEnd::BadTarget, error.to_string()))?;
        if let (true, Some(lines)) = (self.config.allow_sip_headers, &request.sip_headers) {
            extra_headers(lines).map_err(|problem| (CallEnd::BadTarget, problem))?;
        }
        Ok(())
    }

    /// `finish` for a call that never was.
    fn refuse_call(&mut self, socket: SocketId, request: &CallRequest, end: CallEnd, problem: Option<String>) {
        if let Some(problem) = problem {
            self.send(socket, ServerMessage::Fail(Fail::call(&request.call_id, problem)));
        }
        let callee = request.callee.clone().unwrap_or_default();
        let caller = request.caller.clone().unwrap_or_default();
        let outcome = Outcome::of(end, self.config.busy_status);
        self.finish_unknown(socket, &request.call_id, false, (caller, callee), &outcome);
    }

    /// `finish` for an id that is no call of ours.
    pub(super) fn finish_unknown(
        &mut self,
        socket: SocketId,
        call_id: &str,
        incoming: bool,
        (caller, callee): (String, String),
        outcome: &Outcome,
    ) {
        let call = CallView {
            call_id: call_id.to_owned(),
            incoming,
            status: outcome.status,
            sip_status: outcome.sip_status,
            info: Some(outcome.info.text().to_owned()),
            visible_name: caller.clone(),
            caller,
            callee,
            has_audio: true,
            has_video: false,
            media_provider: "WebRTC",
            custom: None,
            node_id: crate::gateway::node_id(self.config.node),
            app_key: String::new(),
            session_id: String::new(),
        };
        self.send(socket, ServerMessage::CallStatus { kind: CallMessage::Finish, call: Box::new(call) });
    }

    fn begin_call(&mut self, session: SessionKey, request: CallRequest) {
        let Some(account) = self.sessions.get(&session).and_then(|session| session.account.as_ref()) else { return };
        let callee = request.callee.unwrap_or_default();
        let uri = account.callee_uri(&callee);
        let caller = account.login.clone();
        let lines = SipSdpLines::new(request.sip_sdp.as_deref().unwrap_or_default()).unwrap_or_default();
        let trunk =
            TrunkSession::new(&self.config.sdp_origin, &self.config.sdp_session_name, self.entropy.next_u64(), lines);
        let visible_name = request.visible_name.filter(|name| !name.is_empty()).unwrap_or_else(|| caller.clone());
        let id = request.call_id;
        let key = self.insert_call(NewCall { session, id, incoming: false, caller, callee, visible_name, trunk });
        let headers = request.sip_headers.filter(|_| self.config.allow_sip_headers).unwrap_or_default();
        let Some(call) = self.calls.get_mut(&key) else { return };
        call.custom = request.custom.as_ref().and_then(KeptJson::of);
        call.uri = uri;
        call.browser = request.sdp.and_then(|sdp| BrowserDescription::parse_offer(&sdp).ok());
        let transport = call.browser.as_ref().and_then(|browser| browser.transport().ok());
        call.browser_remote = transport.map(IceDtls::to_remote);
        call.sip_headers = extra_headers(&headers).unwrap_or_default();
        tracing::info!(call = %call.id, caller = %call.caller, callee = %call.callee, "outgoing call");
        self.tell(key, CallMessage::Trying);
        let Some(call) = self.calls.get(&key) else { return };
        let session_id = self.sessions.get(&session).map(|s| s.session_id.clone()).unwrap_or_default();
        let what = Ask::Authorize(Authorize::Call { session_id, call: Box::new(self.view(call)) });
        self.ask_for_call(key, what, Phase::Authorizing);
    }

    /// Allowed: where does the account's proxy live?
    pub(in crate::gateway) fn resolve_call(&mut self, key: CallKey) {
        let Some(call) = self.calls.get(&key) else { return };
        let account = self.sessions.get(&call.session).and_then(|session| session.account.as_ref());
        let Some(account) = account else { return self.finish(key, CallEnd::BadTarget) };
        let transport = self.transport_of(call.session);
        let what = Ask::Resolve { host: account.proxy_host.clone(), port: account.proxy_port, transport };
        self.ask_for_call(key, what, Phase::Resolving);
    }

    /// Found: take a relay.
    pub(in crate::gateway) fn call_resolved(&mut self, key: CallKey, answer: Answer) {
        let Answer::Resolved(found) = answer else { return self.finish(key, CallEnd::TransportFailed) };
        let Some(call) = self.calls.get(&key) else { return };
        let session = call.session;
        let found = self.by_trunk(session, found);
        let preferred = self.sessions.get(&session).and_then(|session| session.proxy);
        let Some(call) = self.calls.get_mut(&key) else { return };
        call.targets = Targets::new(found.iter().copied().filter(|target| self.ua.reaches(*target)), preferred);
        let Some(target) = call.targets.current() else { return self.finish(key, CallEnd::TransportFailed) };
        self.keep_account(session, &found);
        self.allocate(key, Some(target.remote.ip()));
    }

    /// The relay is there: INVITE with a small offer of our own.
    pub(in crate::gateway) fn invite(&mut self, key: CallKey) {
        match self.try_invite(key) {
            Ok(()) => {}
            Err(TOO_LONG) => self.try_next_address(key, TOO_LONG),
            Err(end) => self.finish(key, end),
        }
    }

    fn try_invite(&mut self, key: CallKey) -> Result<(), CallEnd> {
        let call = self.calls.get(&key).ok_or(CallEnd::BadTarget)?;
        let target = call.targets.current().ok_or(CallEnd::TransportFailed)?;
        let trunk = self.trunk_of(call.session, target.remote.ip());
        let (codecs, udp_only) = (self.codecs_of(trunk), trunk.is_some_and(|trunk| trunk.udp_only));
        let call = self.calls.get_mut(&key).ok_or(CallEnd::BadTarget)?;
        call.codecs = codecs;
        let session = self.sessions.get_mut(&call.session).ok_or(CallEnd::SessionClosed)?;
        let account = session.account.as_ref().ok_or(CallEnd::BadTarget)?;
        let uri = call.uri.clone().ok_or(CallEnd::BadTarget)?;
        let offer = call.browser.as_ref().ok_or(CallEnd::BadBrowserDescription)?;
        let side = offer.side_of_offer().map_err(|_| CallEnd::BadBrowserDescription)?;
        let offered = call.codecs.sip_offer(&side);
        if offered.audio.iter().all(|payload| payload.codec.is_telephone_event()) {
            return Err(CallEnd::NoCommonCodecs);
        }
        let offer = call.offer_in_request(offered, &self.taken.of(target.remote)).ok_or(CallEnd::RelayLost)?;
        let contact = self.ua.contact(&session.contact_key, target.transport, target.remote);
        let (call_id, tag) = call
            .identity
            .get_or_insert_with(|| (self.entropy.hex(SIP_CALL_ID_BYTES), self.entropy.hex(FROM_TAG_BYTES)))
            .clone();
        let outgoing = Outgoing {
            method: Method::Invite,
            uri: uri.clone().into(),
            from: account.from(&call.visible_name).with_tag(&tag),
            to: NameAddr::new(uri),
            call_id: Some(call_id),
            cseq: None,
            contact: Some(NameAddr::new(contact.ok_or(CallEnd::TransportFailed)?)),
            routes: Vec::new(),
            headers: call.sip_headers.clone(),
            content: Some(offer),
            target,
            account: Some(session.account_id),
            give_up: None,
            udp_only,
        };
        let client = self.ua.send_request(self.now, outgoing).map_err(|error| match error {
            SendError::Full => CallEnd::RelayRefused(gangway_shared::rcp::ErrorCode::Full),
            SendError::TooLong => TOO_LONG,
            _ => CallEnd::TransportFailed,
        })?;
        session.had_calls = true;
        call.client = Some(client);
        call.phase = Phase::Inviting;
        self.clients.insert(client, ClientUse::Invite(key));
        // One patience for all addresses that are tried.
        let patience = Timer::Call(key, CallTimer::Answer);
        if !self.timers.is_set(patience) {
            self.timers.set(patience, self.now + self.config.invite_timeout);
        }
        Ok(())
    }

    /// 101-199: ringing; with a description the browser may be answered already.
    pub(in crate::gateway) fn call_progress(&mut self, key: CallKey, response: &Response) {
        let Some(call) = self.calls.get_mut(&key).filter(|call| call.phase == Phase::Inviting) else { return };
        call.sip_status = Some(response.status.code());
        // What the page knows of early media stays true when the callee says again that it rings.
        let is_news = call.status == CallStatus::Trying;
        self.proxy_answered(key);
        if is_news && (180..=189).contains(&response.status.code()) {
            self.change_status(key, CallStatus::Ring, CallMessage::Ring);
        }
        match description(&response.headers, &response.body) {
            Ok(Some(text)) if self.config.early_media && self.take_early(key, response, &text) => {}
            _ if response.status.code() == 180 => self.ring_back(key),
            _ => {}
        }
    }

    /// 2xx: the agent has sent ACK.
    pub(in crate::gateway) fn call_answered(&mut self, key: CallKey, dialog: DialogId, response: &Response) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        call.client = None;
        call.sip_status = Some(response.status.code());
        call.dialog = Some(dialog.clone());
        self.hold_to_trunk(key, &dialog);
        self.dialogs.insert(dialog, key);
        self.proxy_answered(key);
        self.timers.clear(Timer::Call(key, CallTimer::Answer));
        match self.agree(key, response) {
            Ok(agreement) => {
                if let Some(target) = self.calls.get(&key).and_then(|call| call.targets.current()) {
                    self.taken.note(target.remote, &agreement);
                }
                self.establish(key, agreement);
            }
            Err(CallEnd::TranscodingRequired) if self.realign(key) => {}
            Err(end) => self.finish(key, end),
        }
    }

    /// What the description in a 2xx makes of the call.
    pub(super) fn agree(&self, key: CallKey, response: &Response) -> Result<Agreement, CallEnd> {
        let call = self.calls.get(&key).ok_or(CallEnd::BadPeerDescription)?;
        let early = call.agreement.as_ref();
        let answer = match description(&response.headers, &response.body)? {
            Some(text) => TrunkDescription::parse(&text).map_err(|_| CallEnd::BadPeerDescription)?,
            // Peers exist that think a 183 was the answer.
            None => match (call.early_of(response), early.filter(|early| !early.is_one_sided())) {
                (Some(answer), _) => answer.clone(),
                (None, Some(early)) => return Ok(early.clone()),
                (None, None) => return Err(CallEnd::BadPeerDescription),
            },
        };
        let unbound = || {
            let side = call.browser.as_ref().and_then(|browser| browser.side_of_offer().ok());
            let side = side.ok_or(CallEnd::BadBrowserDescription)?;
            let agreement = Agreement::answered_by_sip(&side, &call.offered_peer, &answer, Direction::SendRecv);
            agreement.map_err(|error| CallEnd::from(&error))
        };
        let Some(early) = early else { return unbound() };
        let agreement = early.reanswered_by_sip(&call.offered_peer, &answer, Direction::SendRecv);
        agreement.map_err(|error| match unbound() {
            // An answer that would have been none without our tone is none with it.
            Err(end) if early.is_one_sided() => end,
            _ => CallEnd::from(&error),
        })
    }

    /// The 200 names another codec than the 183 that answered the browser: insists on the browser's by a re-INVITE. A peer that says
    /// 100 to it and no more has as long as a whole transaction may take, 64*T1: nobody hears anything meanwhile.
    fn realign(&mut self, key: CallKey) -> bool {
        let Some(call) = self.calls.get_mut(&key).filter(|call| call.phase == Phase::Inviting) else { return false };
        let (Some(agreement), Some(dialog)) = (&call.agreement, call.dialog.clone()) else { return false };
        let rang_back = agreement.is_one_sided();
        let offered = agreement.fixed_offer(&call.codecs);
        let taken = call.targets.current().map(|target| self.taken.of(target.remote)).unwrap_or_default();
        let Some(offer) = call.offer_in_request(offered, &taken) else { return false };
        match self.ua.send_in_dialog(self.now, &dialog, Method::Invite, Headers::new(), Some(offer)) {
            Ok(client) => {
                call.client = Some(client);
                call.phase = Phase::Realigning;
                self.await_reinvite(key, client);
                if rang_back {
                    // The callee has answered: the tone ends.
                    self.connect_media(key, Purpose::Connect);
                }
                true
            }
            Err(_) => false,
        }
    }

    /// A re-INVITE of ours is under way.
    pub(super) fn await_reinvite(&mut self, key: CallKey, client: ClientId) {
        self.clients.insert(client, ClientUse::Reinvite(key));
        let patience = self.config.ua.timers.t1.saturating_mul(64);
        self.timers.set(Timer::Call(key, CallTimer::Answer), self.now + patience);
    }

    /// The answer to a re-INVITE of ours.
    pub(in crate::gateway) fn realigned(&mut self, key: CallKey, response: Option<&Response>) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        call.client = None;
        self.timers.clear(Timer::Call(key, CallTimer::Answer));
        call.offers = Vec::new();
        if call.phase == Phase::Talking {
            return self.video_refused(key, response);
        }
        match response.filter(|response| response.status.is_success()).map(|response| self.agree(key, response)) {
            Some(Ok(agreement)) => self.establish(key, agreement),
            _ => self.finish(key, CallEnd::TranscodingRequired),
        }
    }

    /// Both sides agree: media, the browser's answer if it has none, ESTABLISHED.
    pub(super) fn establish(&mut self, key: CallKey, agreement: Agreement) {
        let media_timeout_ms =
            self.config.media_timeout.map(|time| u32::try_from(time.as_millis()).unwrap_or(u32::MAX));
        let Some(call) = self.calls.get_mut(&key) else { return };
        call.agreement = Some(agreement);
        call.offers = Vec::new();
        call.early = Vec::new();
        call.phase = Phase::Talking;
        if let Some(relay) = &mut call.relay {
            relay.media.media_timeout_ms = media_timeout_ms;
        }
        self.connect_media(key, Purpose::Connect);
        self.answer_browser(key);
        self.change_status(key, CallStatus::Established, CallMessage::Talk);
        self.refuse_video(key);
    }

    /// `setRemoteSDP` for an outgoing call: once (R7).
    pub(super) fn answer_browser(&mut self, key: CallKey) {
        let local = self.browser_local(key);
        let Some(call) = self.calls.get_mut(&key).filter(|call| call.described_to.is_none()) else { return };
        let (Some(local), Some(agreement), Some(offer)) = (local, &call.agreement, &call.browser) else { return };
        let answer = browser::answer(offer, &agreement.browser_media(), &local);
        let (call_id, session) = (call.id.clone(), call.session);
        let Ok(sdp) = answer else { return self.finish(key, CallEnd::BadBrowserDescription) };
        let Some(socket) = self.sessions.get(&session).and_then(|session| session.socket) else { return };
        call.described_to = Some(socket);
        self.send(socket, ServerMessage::SetRemoteSdp { call_id, sdp, is_initiator: true });
        self.await_path(key);
    }

    /// What a browser must know of a call's relay.
    pub(super) fn browser_local(&mut self, key: CallKey) -> Option<BrowserLocal> {
        let session_id = self.entropy.next_u64();
        let relay = self.calls.get(&key)?.relay.as_ref()?;
        let addresses = relay.addresses.as_ref()?;
        Some(BrowserLocal {
            session_id,
            transport: addresses.browser.clone(),
            video_transport: addresses.browser_video.clone(),
            stream: relay.media.cname.clone(),
            cname: relay.media.cname.clone(),
            audio_ssrc: relay.media.browser_ssrc,
            video_ssrc: relay.media.video.map_or(0, |video| video.browser_ssrc),
            rtx_ssrc: relay.media.video.map_or(0, |video| video.rtx_ssrc),
            abilities: relay.media.abilities,
        })
    }

    /// A final answer other than 2xx to INVITE.
    pub(in crate::gateway) fn call_refused(&mut self, key: CallKey, client: ClientId, end: CallEnd) {
        let Some(call) = self.calls.get_mut(&key).filter(|call| call.client == Some(client)) else { return };
        call.client = None;
        self.proxy_answered(key);
        self.finish(key, end);
    }

    /// The INVITE failed for the address it went to: the proxy's next one gets it. Not once the callee rings, whom another address
    /// would ring again, nor after the browser was answered, which happens once.
    pub(in crate::gateway) fn call_undelivered(&mut self, key: CallKey, client: ClientId, end: CallEnd) {
        let Some(call) = self.calls.get_mut(&key).filter(|call| call.client == Some(client)) else { return };
        call.client = None;
        self.try_next_address(key, end);
    }

    /// The INVITE is too long for a datagram, with the credentials it was asked for or after TCP failed.
    pub(in crate::gateway) fn call_too_long(&mut self, key: CallKey, client: ClientId) {
        self.call_undelivered(key, client, TOO_LONG);
    }

    /// What was too long goes on to an address that may take it by a stream, and to no other.
    fn try_next_address(&mut self, key: CallKey, end: CallEnd) {
        let next = loop {
            let Some(call) = self.calls.get_mut(&key) else { return };
            let untouched = call.status == CallStatus::Trying && call.agreement.is_none();
            let next = if untouched { call.targets.advance() } else { None };
            let Some(next) = next else { return self.finish(key, end) };
            let session = call.session;
            let udp_only = || self.trunk_of(session, next.remote.ip()).is_some_and(|trunk| trunk.udp_only);
            if end != TOO_LONG || self.ua.may_stream(self.now, next, udp_only()) {
                break next;
            }
        };
        let Some(call) = self.calls.get(&key) else { return };
        tracing::info!(call = %call.id, ?end, remote = %next.remote, "the proxy's next address is tried");
        let media_ip = self.media_ip_towards(Some(next.remote.ip()));
        let Some(call) = self.calls.get_mut(&key) else { return };
        let Some(relay) = call.relay.take_if(|relay| relay.media.sip_local_ip != media_ip) else {
            return self.invite(key);
        };
        // Of the other family: the description must name an address of that one, so the relay is made anew.
        self.timers.clear(Timer::Call(key, CallTimer::Put));
        self.end_relay(relay);
        self.allocate(key, Some(next.remote.ip()));
    }

    /// The address in use has answered.
    fn proxy_answered(&mut self, key: CallKey) {
        let Some(call) = self.calls.get(&key) else { return };
        let target = call.targets.current();
        if let Some(session) = self.sessions.get_mut(&call.session) {
            session.proxy = target;
        }
    }
}

/// `sipHeaders` lines as headers: only such as cannot change what the message is.
fn extra_headers(lines: &[String]) -> Result<Headers, String> {
    if lines.len() > SIP_HEADERS_MAX {
        return Err(format!("sipHeaders: at most {SIP_HEADERS_MAX} lines are allowed"));
    }
    let mut headers = Headers::new();
    for (index, line) in lines.iter().enumerate() {
        let fault = |reason: &str| format!("sipHeaders[{index}]: {reason}");
        if line.len() > SIP_HEADER_MAX_BYTES || line.chars().any(char::is_control) {
            return Err(fault("it must be one line of at most 512 bytes"));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| fault("it must be a name, a colon and a value"))?;
        let name = HeaderName::parse(name.trim()).ok_or_else(|| fault("the header's name is not valid"))?;
        let allowed = [
            HeaderName::PAssertedIdentity,
            HeaderName::Privacy,
            HeaderName::Subject,
            HeaderName::Diversion,
            HeaderName::AlertInfo,
            HeaderName::CallInfo,
        ];
        if matches!(name, HeaderName::Known(_)) && !allowed.contains(&name) {
            return Err(fault("this header is the server's own"));
        }
        headers.push(name, value.trim());
    }
    Ok(headers)
}
