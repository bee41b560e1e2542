//! The SIP peer of the simulation: registrar, callee and caller.

use gangway_control::sip::{
    Transport,
    dialog::Target,
    message::{Headers, Method, Status},
    ua::{Content, Outgoing, Reply, ServerId, UaEvent},
    uri::{NameAddr, SipUri},
};
use gangway_shared::entropy::Entropy;

use super::{Flying, Simulation};
use crate::{
    video::{H264_PHONE, VP8_PHONE},
    world::{OURS, phone_sdp},
};

impl Simulation {
    pub(super) fn drain_peer(&mut self) {
        loop {
            while let Some(transmit) = self.peer.poll_transmit() {
                self.send(transmit, false);
            }
            let Some(event) = self.peer.poll_event() else { return };
            self.peer_event(event);
        }
    }

    fn peer_event(&mut self, event: UaEvent) {
        match event {
            UaEvent::Invite { server, request, .. } => {
                if let Some(key) = request.headers.value(&gangway_control::sip::message::HeaderName::Contact) {
                    self.callee_keys.push(key.to_owned());
                }
                let thinking = self.between(1, 500);
                self.fly(thinking, Flying::Decide(server));
            }
            UaEvent::Request { server, request, .. } if request.method == Method::Register => {
                let status = if self.quiet || self.chance(85) { 200 } else { 503 };
                let mut reply = Reply::new(Status::literal(status));
                reply.headers.push(gangway_control::sip::message::HeaderName::Expires, "20");
                let _ = self.peer.respond(self.now, server, reply);
                if let Some(contact) = request.headers.value(&gangway_control::sip::message::HeaderName::Contact) {
                    self.callee_keys.push(contact.to_owned());
                }
            }
            UaEvent::Request { server, .. } => {
                let _ = self.peer.respond(self.now, server, Reply::new(Status::literal(405)));
            }
            UaEvent::DialogRequest { server, request, .. } if request.method == Method::Invite => {
                let status = if self.quiet { 200 } else { [200, 200, 200, 488, 491, 500][self.dice.below(6) as usize] };
                self.accept(server, status, "0");
            }
            UaEvent::DialogRequest { server, .. } => {
                let _ = self.peer.respond(self.now, server, Reply::new(Status::literal(200)));
            }
            UaEvent::Answered { client, dialog, .. } => {
                self.peer_clients.remove(&client);
                self.peer_dialogs.insert(dialog);
            }
            UaEvent::Finished { client, .. }
            | UaEvent::TimedOut { client, .. }
            | UaEvent::TransportFailed { client, .. }
            | UaEvent::TooLong { client, .. }
            | UaEvent::Unusable { client }
            | UaEvent::CrossedCancel { client } => {
                self.peer_clients.remove(&client);
            }
            UaEvent::Bye { dialog, .. } | UaEvent::AckMissing { dialog, .. } => {
                self.peer_dialogs.remove(&dialog);
            }
            UaEvent::Progress { .. }
            | UaEvent::Shortened { .. }
            | UaEvent::ForkEnded { .. }
            | UaEvent::Cancelled { .. }
            | UaEvent::Acked { .. } => {}
        }
    }

    /// 1xx and finals of all kinds, in any order that a callee may choose.
    pub(super) fn decide(&mut self, server: ServerId) {
        match self.dice.below(20) {
            0..=5 if !self.quiet => {
                let early = self.chance(50);
                self.progress(server, if early { 183 } else { 180 }, early);
                let thinking = self.between(1, 4000);
                self.fly(thinking, Flying::Decide(server));
            }
            6..=13 => {
                let codecs = ["0", "0", "0", "0", "8 0", "8", "9"][self.dice.below(7) as usize];
                self.accept(server, 200, codecs);
            }
            14 => self.accept(server, 200, "18"),
            15 => self.refuse(server, 486),
            16 => self.refuse(server, 603),
            17 => self.refuse(server, 404),
            // Rings until the caller gives up.
            _ => self.progress(server, 180, false),
        }
        self.drain_peer();
    }

    fn progress(&mut self, server: ServerId, status: u16, early: bool) {
        let codecs = ["8", "8", "0", "9"][self.dice.below(4) as usize];
        let content = early.then(|| self.description(codecs));
        let contact = Some(self.peer_contact.clone());
        let _ = self.peer.respond(self.now, server, Reply { contact, content, ..Reply::new(Status::literal(status)) });
        self.drain_peer();
    }

    fn accept(&mut self, server: ServerId, status: u16, codecs: &str) {
        let contact = Some(self.peer_contact.clone());
        let content = (status == 200).then(|| self.description(codecs));
        let reply = Reply { contact, content, ..Reply::new(Status::literal(status)) };
        if let Ok(Some(dialog)) = self.peer.respond(self.now, server, reply) {
            self.peer_dialogs.insert(dialog);
        }
        if self.chance(50) {
            let talk = self.between(1, 8000);
            self.fly(talk, Flying::PeerHangup);
        }
    }

    /// What the peer offers or answers: this sound, and pictures of all kinds, often another than before.
    fn description(&mut self, codecs: &str) -> Content {
        let video = [
            "",
            "m=video 0 RTP/AVP 97\r\n",
            VP8_PHONE,
            VP8_PHONE,
            H264_PHONE,
            "m=video 4002 RTP/AVP 120\r\na=rtpmap:120 VP9/90000\r\n",
        ];
        let video = video[self.dice.below(6) as usize];
        Content::new("application/sdp", format!("{}{video}", phone_sdp(4000, codecs)))
    }

    fn refuse(&mut self, server: ServerId, status: u16) {
        let _ = self.peer.respond(self.now, server, Reply::new(Status::literal(status)));
    }

    pub(super) fn peer_hangup(&mut self) {
        let cancel = self.chance(50);
        if let Some(client) = self.peer_clients.first().copied().filter(|_| cancel) {
            self.peer.cancel(self.now, client, Headers::new());
        } else if let Some(dialog) = self.peer_dialogs.pop_first() {
            let _ = self.peer.send_in_dialog(self.now, &dialog, Method::Bye, Headers::new(), None);
        }
        self.drain_peer();
    }

    pub(super) fn peer_reinvites(&mut self) {
        let Some(dialog) = self.peer_dialogs.first().cloned() else { return };
        let content = match self.dice.below(5) {
            0 => None,
            1 => Some(self.description("9")),
            2 => Some(self.description("8")),
            _ => Some(self.description("0")),
        };
        let _ = self.peer.send_in_dialog(self.now, &dialog, Method::Invite, Headers::new(), content);
        self.drain_peer();
    }

    /// The peer calls a session that it has heard of: by its Contact.
    pub(super) fn peer_calls(&mut self) {
        if self.callee_keys.is_empty() {
            return;
        }
        let at = self.dice.below(self.callee_keys.len() as u32) as usize;
        let Ok(contact) = self.callee_keys[at].parse::<NameAddr>() else { return };
        let content = match self.dice.below(8) {
            0 => None,
            1 => Some(self.description("18")),
            _ => Some(self.description("8 0")),
        };
        let outgoing = Outgoing {
            method: Method::Invite,
            uri: contact.uri.clone(),
            from: NameAddr::new("sip:bob@example.com".parse::<SipUri>().unwrap()),
            to: NameAddr::new(contact.uri),
            call_id: None,
            cseq: None,
            contact: Some(self.peer_contact.clone()),
            routes: Vec::new(),
            headers: Headers::new(),
            content,
            target: Target { transport: Transport::Udp, remote: OURS.parse().unwrap(), flow: None },
            account: None,
            give_up: None,
            udp_only: false,
        };
        if let Ok(client) = self.peer.send_request(self.now, outgoing) {
            self.peer_clients.insert(client);
            if self.chance(40) {
                let patience = self.between(1, 5000);
                self.fly(patience, Flying::PeerHangup);
            }
        }
        self.drain_peer();
    }
}
