//! What the SIP peer wants of a call that stands: re-INVITE and BYE.

use super::{CallKey, Phase, Purpose, description, sdp_content};
use crate::{
    gateway::{Gateway, outcome::CallEnd},
    sdp::{Direction, TrunkDescription},
    sip::{
        dialog::{DialogId, Target},
        message::{HeaderName, Method, Request, Status},
        ua::{Reply, ServerId},
        uri::NameAddr,
    },
};

impl Gateway {
    /// Goes on with a re-INVITE that waited for the relay.
    pub(super) fn heed_waiting(&mut self, key: CallKey) {
        let waiting = self.calls.get_mut(&key).and_then(|call| call.waiting.take().zip(call.dialog.clone()));
        if let Some(((server, request), dialog)) = waiting {
            self.dialog_request(&dialog, server, &request);
        }
    }

    /// A request in a dialog of ours.
    pub(in crate::gateway) fn dialog_request(&mut self, dialog: &DialogId, server: ServerId, request: &Request) {
        let Some(key) = self.dialogs.get(dialog).copied() else { return self.reply(server, 481) };
        match request.method {
            Method::Invite => {}
            Method::Info => return self.info(key, server, request),
            _ => return self.reply(server, 405),
        }
        let Some(call) = self.calls.get_mut(&key) else { return self.reply(server, 481) };
        // One change at a time (RFC 3261 section 14.2).
        if call.phase != Phase::Talking || call.offered_in.is_some() {
            return self.reply(server, 491);
        }
        let is_inherited = call.relay.as_ref().is_some_and(|relay| relay.is_inherited);
        if is_inherited && call.waiting.is_none() {
            // A moment after a restart: phones would try again after seconds.
            call.waiting = Some((server, Box::new(request.clone())));
            return;
        }
        if call.is_changing() {
            return self.reply(server, 491);
        }
        match description(&request.headers, &request.body) {
            Err(_) => self.refuse_type(server, super::SDP_TYPE),
            Ok(None) => self.offer_again(key, server),
            Ok(Some(text)) => self.reoffered(key, server, &text),
        }
    }

    /// A re-INVITE with an offer: taken when the browser's codec stays (or one the relay maps to it), else 488 and all stays.
    fn reoffered(&mut self, key: CallKey, server: ServerId, text: &str) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        let Some(former) = call.agreement.clone() else { return self.reply(server, 488) };
        let Some(addresses) = call.addresses().cloned() else { return self.reply(server, 500) };
        let offer = match TrunkDescription::parse(text) {
            Ok(offer) => offer,
            Err(error) => {
                tracing::debug!(%error, "re-INVITE with a description that cannot be used");
                return self.reply(server, 488);
            }
        };
        let trunk = call.trunk.clone();
        let agreement = former.reoffered_by_sip(&offer, &call.codecs, Direction::SendRecv);
        let answer = agreement.map_err(|error| error.to_string()).and_then(|agreement| {
            let body = call.trunk.answer(&offer, &agreement.sip_media(addresses.rtp, addresses.video_rtp));
            body.map(|body| (agreement, body)).map_err(|error| error.to_string())
        });
        match answer {
            Ok((agreement, body)) => {
                call.agreement = Some(agreement);
                self.servers.insert(server, key);
                let former = Box::new((former, trunk));
                self.connect_media(key, Purpose::Reoffer { server, body, former });
            }
            Err(reason) => {
                call.trunk = trunk;
                tracing::info!(%reason, "re-INVITE refused, the call stays as it is");
                self.reply(server, 488);
            }
        }
    }

    /// A re-INVITE without an offer: ours goes into the 200, the answer comes in ACK.
    fn offer_again(&mut self, key: CallKey, server: ServerId) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        let offered = call.agreement.as_ref().map(|agreement| agreement.fixed_offer(&call.codecs));
        let Some(sdp) = offered.and_then(|offered| call.offer_peer(offered)) else {
            return self.reply(server, 500);
        };
        call.offered_in = Some(server);
        self.servers.insert(server, key);
        let reply = self.dialog_reply(key, 200, Some(sdp));
        if self.ua.respond(self.now, server, reply).is_err() {
            self.servers.remove(&server);
            if let Some(call) = self.calls.get_mut(&key) {
                call.offered_in = None;
            }
        }
    }

    /// Requests of ours in a dialog keep to UDP when the trunk of the call's peer says so, or that of where they go: a phone behind its
    /// proxy.
    pub(super) fn hold_to_trunk(&mut self, key: CallKey, dialog: &DialogId) {
        let Some(call) = self.calls.get(&key) else { return };
        let peer = call.targets.current().map(|target| target.remote);
        let destination = self.ua.dialog(dialog).map(|dialog| dialog.destination.remote);
        let is_udp_only = |ip| {
            let trunk = if call.incoming { self.trunk_from(ip) } else { self.trunk_of(call.session, ip) };
            trunk.is_some_and(|trunk| trunk.udp_only)
        };
        if peer.into_iter().chain(destination).any(|remote| is_udp_only(remote.ip())) {
            self.ua.hold_to_udp(dialog);
        }
    }

    /// The peer hung up, or its dialog is lost; the agent has said what was to say.
    pub(in crate::gateway) fn dialog_ended(&mut self, dialog: &DialogId, end: CallEnd) {
        let Some(key) = self.dialogs.remove(dialog) else { return };
        if let Some(call) = self.calls.get_mut(&key) {
            call.dialog = None;
        }
        self.finish(key, end);
    }

    /// A 101-299 to an INVITE of a call: with our Contact, and with the account whose credentials answer challenges in its dialog.
    pub(in crate::gateway) fn dialog_reply(&self, key: CallKey, status: u16, description: Option<String>) -> Reply {
        let mut reply = Reply { content: description.map(sdp_content), ..Reply::new(Status::literal(status)) };
        if let Some(call) = self.calls.get(&key)
            && let Some(session) = self.sessions.get(&call.session)
        {
            let contact = |target: Target| self.ua.contact(&session.contact_key, target.transport, target.remote);
            reply.contact = call.targets.current().and_then(contact).map(NameAddr::new);
            reply.account = session.account.is_some().then_some(session.account_id);
        }
        reply
    }

    pub(super) fn reply(&mut self, server: ServerId, status: u16) {
        if let Err(error) = self.ua.respond(self.now, server, Reply::new(Status::literal(status))) {
            tracing::debug!(%error, status, "request was gone before its answer");
        }
    }

    /// 415: only `accepted` is read there (RFC 3261 section 21.4.13).
    pub(super) fn refuse_type(&mut self, server: ServerId, accepted: &str) {
        let mut reply = Reply::new(Status::literal(415));
        reply.headers.push(HeaderName::Accept, accepted);
        if let Err(error) = self.ua.respond(self.now, server, reply) {
            tracing::debug!(%error, "request was gone before its answer");
        }
    }
}
