//! Calls of the demo service: numbers that answer by themselves, and bridges between registered phones.

use std::{net::IpAddr, time::Duration};

use gangway_shared::{entropy::Entropy as _, time::Time};

use super::{
    answer::{self, Section, Taken},
    media::{self, Ports, Stream, ToneStream, Tune},
    registrar::{self, Binding},
};
use crate::{
    hub::OsEntropy,
    sip::{
        Transport,
        dialog::DialogId,
        message::{HeaderName, Headers, Method, Request, Response, Status},
        ua::{ClientId, Content, Outgoing, Reply, ServerId, Source, Ua, UaEvent},
        uri::{Host, NameAddr, SipUri, Uri},
    },
};

/// Calls at once; beyond, 503.
const CALLS_MAX: usize = 64;

/// 605 answers this long after its early media began.
const EARLY_MEDIA: Duration = Duration::from_secs(4);

/// All calls.
#[derive(Debug)]
pub(super) struct Calls {
    ip: IpAddr,
    calls: Vec<Call>,
}

#[derive(Debug)]
struct Call {
    /// The caller's INVITE, until it is finally answered.
    server: ServerId,
    caller: Option<DialogId>,
    contact: Option<NameAddr>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// 603: nothing more happens until the caller gives up.
    Ringing,
    /// A number that talks.
    Local { taken: Vec<Taken>, session_id: u64, early: Option<(Time, Content)>, _streams: Vec<Stream> },
    /// Two phones. Requests in one dialog are repeated in the other.
    Bridge { client: ClientId, callee: Option<DialogId>, answered: bool, relayed: Vec<(ClientId, ServerId)> },
}

/// Requests in a bridge that wait for the other side.
const RELAYED_MAX: usize = 16;

fn status(code: u16) -> Reply {
    Reply::new(Status::literal(code))
}

fn sdp_content(sdp: String) -> Content {
    Content::new("application/sdp", sdp)
}

fn content_of(headers: &Headers, body: &[u8]) -> Option<Content> {
    let content_type = headers.value(&HeaderName::ContentType)?.to_owned();
    (!body.is_empty()).then(|| Content::new(content_type, body))
}

impl Calls {
    pub(super) const fn new(ip: IpAddr) -> Self {
        Calls { ip, calls: Vec::new() }
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.calls.iter().filter_map(Call::due).min()
    }

    /// Answers the calls whose early media is over.
    pub(super) fn handle_timeout(&mut self, now: Time, ua: &mut Ua) {
        for call in self.calls.iter_mut().filter(|call| call.due().is_some_and(|due| due <= now)) {
            let Kind::Local { early, .. } = &mut call.kind else { continue };
            if let Some((_, content)) = early.take() {
                let reply = Reply { contact: call.contact.clone(), content: Some(content), ..status(200) };
                let _ = ua.respond(now, call.server, reply);
            }
        }
    }

    /// A new call to `user`.
    #[allow(clippy::too_many_arguments, reason = "the facts of one event")]
    pub(super) async fn invite(
        &mut self,
        now: Time,
        ua: &mut Ua,
        server: ServerId,
        request: &Request,
        source: Source,
        user: &str,
        binding: Option<Binding>,
    ) {
        let contact = ua.contact(user, Transport::Udp, source.remote).map(|uri| NameAddr::new(Uri::Sip(uri)));
        if self.calls.len() >= CALLS_MAX {
            let _ = ua.respond(now, server, status(503));
            return;
        }
        match (user, binding) {
            ("600" | "601" | "605", _) => self.local(now, ua, server, request, user, contact).await,
            ("602", _) => drop(ua.respond(now, server, status(486))),
            ("603", _) => {
                let caller = ring(now, ua, server, contact.clone());
                self.calls.push(Call { server, caller, contact, kind: Kind::Ringing });
            }
            (_, Some(binding)) => self.bridge(now, ua, server, request, user, contact, binding),
            (user, None) => {
                let code = if registrar::is_account(user) { 480 } else { 404 };
                let _ = ua.respond(now, server, status(code));
            }
        }
    }

    async fn local(
        &mut self,
        now: Time,
        ua: &mut Ua,
        server: ServerId,
        request: &Request,
        user: &str,
        contact: Option<NameAddr>,
    ) {
        let sections = answer::read(&request.body).unwrap_or_default();
        let (mut taken, mut streams) = (Vec::new(), Vec::new());
        for section in &sections {
            let first_audio = !taken.iter().any(|at| *at != Taken::Nothing);
            match open(self.ip, section, user, first_audio).await {
                Some((what, stream)) => {
                    taken.push(what);
                    streams.push(stream);
                }
                None => taken.push(Taken::Nothing),
            }
        }
        if streams.is_empty() {
            let _ = ua.respond(now, server, status(488));
            return;
        }
        let session_id = u64::from(OsEntropy.below(u32::MAX));
        let content = sdp_content(answer::write(self.ip, session_id, &sections, &taken));
        let (caller, early) = if user == "605" {
            let reply = Reply { contact: contact.clone(), content: Some(content.clone()), ..status(183) };
            (ua.respond(now, server, reply).ok().flatten(), Some((now + EARLY_MEDIA, content)))
        } else {
            ring(now, ua, server, contact.clone());
            let reply = Reply { contact: contact.clone(), content: Some(content), ..status(200) };
            (ua.respond(now, server, reply).ok().flatten(), None)
        };
        let kind = Kind::Local { taken, session_id, early, _streams: streams };
        self.calls.push(Call { server, caller, contact, kind });
    }

    #[allow(clippy::too_many_arguments, reason = "the facts of one event")]
    fn bridge(
        &mut self,
        now: Time,
        ua: &mut Ua,
        server: ServerId,
        request: &Request,
        user: &str,
        contact: Option<NameAddr>,
        binding: Binding,
    ) {
        let Ok(from) = request.headers.from() else {
            let _ = ua.respond(now, server, status(400));
            return;
        };
        let caller = from.uri.as_sip().and_then(|uri| uri.user.clone()).unwrap_or_default();
        let domain = Host::from(self.ip);
        let mut shown = NameAddr::new(Uri::Sip(SipUri::new(Some(&caller), domain.clone(), None)));
        if let Some(name) = &from.display_name {
            shown = shown.with_display_name(name);
        }
        let own = ua.contact(&caller, Transport::Udp, binding.target.remote).map(|uri| NameAddr::new(Uri::Sip(uri)));
        let outgoing = Outgoing {
            method: Method::Invite,
            uri: Uri::Sip(binding.contact),
            from: shown,
            to: NameAddr::new(Uri::Sip(SipUri::new(Some(user), domain, None))),
            call_id: None,
            cseq: None,
            contact: own,
            routes: Vec::new(),
            headers: Headers::new(),
            content: content_of(&request.headers, &request.body),
            target: binding.target,
            account: None,
            give_up: None,
            udp_only: false,
        };
        match ua.send_request(now, outgoing) {
            Ok(client) => {
                let kind = Kind::Bridge { client, callee: None, answered: false, relayed: Vec::new() };
                self.calls.push(Call { server, caller: None, contact, kind });
            }
            Err(_) => drop(ua.respond(now, server, status(503))),
        }
    }

    /// Whatever the agent reports about calls.
    pub(super) fn event(&mut self, now: Time, ua: &mut Ua, event: UaEvent) {
        match event {
            UaEvent::Progress { client, response, .. } => self.progress(now, ua, client, response),
            UaEvent::Answered { client, dialog, response } => self.answered(now, ua, client, dialog, response),
            UaEvent::Finished { client, response, .. } => {
                let content = content_of(&response.headers, &response.body);
                self.finished(now, ua, client, Reply { content, ..Reply::new(response.status) });
            }
            UaEvent::TimedOut { client, .. } => self.finished(now, ua, client, status(408)),
            UaEvent::TransportFailed { client, .. } => self.finished(now, ua, client, status(503)),
            UaEvent::TooLong { client, .. } => self.finished(now, ua, client, status(513)),
            UaEvent::Unusable { client } => self.finished(now, ua, client, status(502)),
            UaEvent::DialogRequest { dialog, server, request } => self.in_dialog(now, ua, &dialog, server, &request),
            UaEvent::Bye { dialog, .. } => self.end(now, ua, |call| call.is_in(&dialog), Some(&dialog)),
            UaEvent::AckMissing { dialog, .. } => self.end(now, ua, |call| call.is_in(&dialog), Some(&dialog)),
            UaEvent::Cancelled { server, .. } => {
                if let Some(at) = self.calls.iter().position(|call| call.server == server)
                    && let Kind::Bridge { client, .. } = self.calls.swap_remove(at).kind
                {
                    ua.cancel(now, client, Headers::new());
                }
            }
            UaEvent::CrossedCancel { .. }
            | UaEvent::Shortened { .. }
            | UaEvent::ForkEnded { .. }
            | UaEvent::Acked { .. }
            | UaEvent::Invite { .. }
            | UaEvent::Request { .. } => {}
        }
    }

    /// The call whose INVITE to the other phone is `wanted`, while it is not answered.
    fn ringing(&mut self, wanted: ClientId) -> Option<&mut Call> {
        self.calls
            .iter_mut()
            .find(|call| matches!(call.kind, Kind::Bridge { client, answered: false, .. } if client == wanted))
    }

    fn progress(&mut self, now: Time, ua: &mut Ua, client: ClientId, response: Response) {
        let Some(call) = self.ringing(client) else { return };
        let content = content_of(&response.headers, &response.body);
        let reply = Reply { contact: call.contact.clone(), content, ..Reply::new(response.status) };
        if let Ok(Some(dialog)) = ua.respond(now, call.server, reply) {
            call.caller = Some(dialog);
        }
    }

    fn answered(&mut self, now: Time, ua: &mut Ua, client: ClientId, dialog: DialogId, response: Response) {
        let content = content_of(&response.headers, &response.body);
        let Some(call) = self.ringing(client) else {
            // A re-INVITE that was repeated to the other side.
            self.finished(now, ua, client, Reply { content, ..Reply::new(response.status) });
            return;
        };
        let reply = Reply { contact: call.contact.clone(), content, ..status(200) };
        match ua.respond(now, call.server, reply) {
            Ok(caller) => {
                call.caller = caller.or(call.caller.take());
                if let Kind::Bridge { callee, answered, .. } = &mut call.kind {
                    *callee = Some(dialog);
                    *answered = true;
                }
            }
            // The caller is gone: so is the call.
            Err(_) => drop(ua.send_in_dialog(now, &dialog, Method::Bye, Headers::new(), None)),
        }
    }

    /// The other phone said no, or answered a request that was repeated to it.
    fn finished(&mut self, now: Time, ua: &mut Ua, finished: ClientId, reply: Reply) {
        if let Some(call) = self.ringing(finished) {
            let server = call.server;
            let _ = ua.respond(now, server, reply);
            self.calls.retain(|call| call.server != server);
            return;
        }
        for call in &mut self.calls {
            let Kind::Bridge { relayed, .. } = &mut call.kind else { continue };
            if let Some(at) = relayed.iter().position(|(client, _)| *client == finished) {
                let (_, server) = relayed.swap_remove(at);
                let reply = Reply { contact: call.contact.clone(), ..reply };
                let _ = ua.respond(now, server, reply);
                return;
            }
        }
    }

    /// A request within a call: repeated to the other phone, or answered from what is there.
    fn in_dialog(&mut self, now: Time, ua: &mut Ua, dialog: &DialogId, server: ServerId, request: &Request) {
        let ip = self.ip;
        let Some(call) = self.calls.iter_mut().find(|call| call.is_in(dialog)) else {
            let _ = ua.respond(now, server, status(481));
            return;
        };
        let other = call.other(dialog);
        match &mut call.kind {
            Kind::Bridge { relayed, .. } if relayed.len() < RELAYED_MAX => {
                let content = content_of(&request.headers, &request.body);
                let sent = other.map(|to| ua.send_in_dialog(now, &to, request.method.clone(), Headers::new(), content));
                match sent {
                    Some(Ok(client)) => relayed.push((client, server)),
                    _ => drop(ua.respond(now, server, status(491))),
                }
            }
            Kind::Local { taken, session_id, .. } if request.method == Method::Invite => {
                let sections = answer::read(&request.body).unwrap_or_default();
                let reply = if sections.len() == taken.len() {
                    let content = Some(sdp_content(answer::write(ip, *session_id, &sections, taken)));
                    Reply { contact: call.contact.clone(), content, ..status(200) }
                } else {
                    status(488)
                };
                let _ = ua.respond(now, server, reply);
            }
            Kind::Local { .. } if request.method == Method::Info => drop(ua.respond(now, server, status(200))),
            _ => drop(ua.respond(now, server, status(501))),
        }
    }

    /// Ends a call: whoever is still in it gets a BYE. `gone` is the dialog that has ended by itself.
    fn end(&mut self, now: Time, ua: &mut Ua, which: impl Fn(&Call) -> bool, gone: Option<&DialogId>) {
        let Some(at) = self.calls.iter().position(which) else { return };
        let call = self.calls.swap_remove(at);
        let Kind::Bridge { callee, .. } = call.kind else { return };
        for dialog in [call.caller, callee].into_iter().flatten().filter(|dialog| Some(dialog) != gone) {
            let _ = ua.send_in_dialog(now, &dialog, Method::Bye, Headers::new(), None);
        }
    }
}

impl Call {
    fn due(&self) -> Option<Time> {
        match &self.kind {
            Kind::Local { early: Some((due, _)), .. } => Some(*due),
            _ => None,
        }
    }

    fn is_in(&self, dialog: &DialogId) -> bool {
        let callee = match &self.kind {
            Kind::Bridge { callee, .. } => callee.as_ref(),
            _ => None,
        };
        self.caller.as_ref() == Some(dialog) || callee == Some(dialog)
    }

    fn other(&self, dialog: &DialogId) -> Option<DialogId> {
        match &self.kind {
            Kind::Bridge { callee, .. } if self.caller.as_ref() == Some(dialog) => callee.clone(),
            Kind::Bridge { .. } => self.caller.clone(),
            _ => None,
        }
    }
}

fn ring(now: Time, ua: &mut Ua, server: ServerId, contact: Option<NameAddr>) -> Option<DialogId> {
    ua.respond(now, server, Reply { contact, ..status(180) }).ok().flatten()
}

/// Opens the media of one section, when the number takes it.
async fn open(ip: IpAddr, section: &Section, user: &str, first: bool) -> Option<(Taken, Stream)> {
    let remote = section.remote?;
    if user == "600" {
        let ports = Ports::open(ip).await.ok()?;
        return Some((Taken::All(ports.port().ok()?), media::echo(ports)));
    }
    if section.media != "audio" || !first {
        return None;
    }
    let law = section.law?;
    let ports = Ports::open(ip).await.ok()?;
    let tune = if user == "601" { Tune::Menu } else { Tune::Steady };
    let taken = Taken::Tones(ports.port().ok()?, law);
    let ssrc = OsEntropy.below(u32::MAX);
    Some((taken, media::tones(ports, ToneStream { law, tune, remote, events: section.events, ssrc })))
}
