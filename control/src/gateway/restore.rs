//! Taking over from a former control: its journal becomes sessions and calls again.
//!
//! Sessions wait for their pages as with keepAlive. Calls that talk and calls that ring go on; what was between (an INVITE of ours, a
//! 200 without its ACK's answer, a re-INVITE of ours) ends on both sides, because the half that only memory held is gone. Relays are
//! taken over when the dataplane lists them (`wall.rs`).

use std::{collections::BTreeMap, time::Duration};

use gangway_shared::{ids::EventSeq, time::Time};

use super::{
    ClientUse, Gateway,
    call::{Call, CallKey, CallRelay, NewCall, Phase, description},
    effects::SocketId,
    journal::{CallRecord, JournalEntry, MediaRecord, RegistrationRecord, SessionRecord, Stage},
    outcome::CallEnd,
    registration::Registration,
    session::{Session, SessionKey},
    targets::Targets,
    timers::{CallTimer, Timer},
};
use crate::{
    sdp::{SipSdpLines, TrunkDescription, TrunkSession, negotiate::browser_offer},
    sip::{
        dialog::{Dialog, DialogId},
        digest::Account,
        message::{Headers, Method, Status},
        ua::{HeldInvite, PendingInvite, Reply, ServerId},
    },
};

/// The page of a former control: it has its description and no socket of ours.
const FORMER_PAGE: SocketId = SocketId(0);
/// Between two registrations that are renewed at once after a restart.
const REGISTER_PACE: Duration = Duration::from_millis(10);

/// What a journal held, by what it is about.
#[derive(Default)]
struct Left {
    sessions: BTreeMap<String, SessionRecord>,
    registrations: BTreeMap<String, RegistrationRecord>,
    calls: BTreeMap<String, CallRecord>,
    media: BTreeMap<String, MediaRecord>,
    held: BTreeMap<String, HeldInvite>,
    dialogs: BTreeMap<DialogId, (Dialog, bool)>,
    invites: Vec<PendingInvite>,
    relay_seen: Option<(String, EventSeq)>,
}

/// What becomes of a peer's INVITE of the journal.
enum Held {
    /// Nothing more is to be said of it here.
    Nothing,
    /// It waits for a final answer of ours.
    Unanswered(ServerId, Box<HeldInvite>),
    /// Our 200 to a re-INVITE holds our offer, and its ACK the answer.
    Offered(ServerId),
}

impl Left {
    fn of(entries: Vec<JournalEntry>) -> Self {
        let mut left = Left::default();
        for entry in entries {
            match entry {
                JournalEntry::Session { session, record } => drop(left.sessions.insert(session, *record)),
                JournalEntry::Registration { session, record } => drop(left.registrations.insert(session, record)),
                JournalEntry::Call { call, record } => drop(left.calls.insert(call, *record)),
                JournalEntry::Media { call, record } => drop(left.media.insert(call, *record)),
                JournalEntry::Held { call, invite } => drop(left.held.insert(call, *invite)),
                JournalEntry::Dialog { dialog, udp_only } => {
                    left.dialogs.insert(dialog.id.clone(), (*dialog, udp_only));
                }
                JournalEntry::Invite { invite, .. } => left.invites.push(invite),
                JournalEntry::RelaySeen { instance, seq } => left.relay_seen = Some((instance, seq)),
                JournalEntry::SessionEnded { .. }
                | JournalEntry::RegistrationEnded { .. }
                | JournalEntry::CallEnded { .. }
                | JournalEntry::HeldEnded { .. }
                | JournalEntry::DialogEnded { .. }
                | JournalEntry::InviteEnded { .. } => {}
            }
        }
        left
    }

    /// Whether there was no former control, or none that did anything.
    fn is_nothing(&self) -> bool {
        let Left { sessions, registrations, calls, media, held, dialogs, invites, relay_seen } = self;
        sessions.is_empty()
            && registrations.is_empty()
            && calls.is_empty()
            && media.is_empty()
            && held.is_empty()
            && dialogs.is_empty()
            && invites.is_empty()
            && relay_seen.is_none()
    }
}

/// The oldest first: REST lists calls so, and of an account's sessions the newest rings.
fn in_order<T>(records: BTreeMap<String, T>, number: fn(&T) -> u64) -> Vec<(String, T)> {
    let mut records: Vec<(String, T)> = records.into_iter().collect();
    records.sort_by_key(|(_, record)| number(record));
    records
}

impl Gateway {
    /// Takes over what a former control left: the entries in force of its journal. For a core that has seen no input yet. Drain
    /// [`Gateway::poll_output`] afterwards; [`Gateway::journal_all`] is the journal from then on.
    pub fn restore(&mut self, now: Time, entries: Vec<JournalEntry>) {
        self.now = now;
        let mut left = Left::of(entries);
        let is_first = left.is_nothing();
        self.relay_seen = left.relay_seen.take();
        let mut sessions: BTreeMap<String, SessionKey> = BTreeMap::new();
        let mut departing: Vec<SessionKey> = Vec::new();
        for (name, record) in in_order(std::mem::take(&mut left.sessions), |record| record.number) {
            if self.sessions.len() >= self.config.max_sessions {
                tracing::warn!("the journal holds more sessions than sessions_max");
                break;
            }
            let is_departing = record.is_departing;
            let key = self.adopt_session(&name, record);
            if is_departing {
                departing.push(key);
            }
            sessions.insert(name, key);
        }
        self.adopt_registrations(&sessions, left.registrations);
        // The line of its dialog says that it has its answer.
        let (dialogs, invites) = (&left.dialogs, &mut left.invites);
        invites.retain(|invite| !dialogs.keys().any(|dialog| invite.made(dialog)));
        let mut strays: Vec<DialogId> = left.dialogs.keys().cloned().collect();
        for (dialog, udp_only) in left.dialogs.into_values() {
            self.ua.restore_dialog(dialog, udp_only);
        }
        for (id, record) in in_order(left.calls, |record| record.number) {
            let Some(session) = sessions.get(&record.session).copied().filter(|key| !departing.contains(key)) else {
                tracing::warn!(call = %id, "a call of the journal has no session");
                continue;
            };
            strays.retain(|dialog| Some(dialog) != record.dialog.as_ref());
            let held = left.held.remove(&id).map_or(Held::Nothing, |held| self.adopt_held(now, held));
            let media = left.media.remove(&id);
            self.adopt_call(session, id, record, media, held);
        }
        for held in left.held.into_values() {
            if let Held::Unanswered(server, _) = self.adopt_held(now, held) {
                self.refuse_restarted(server, 503);
            }
        }
        for dialog in strays {
            self.end_stray(&dialog);
        }
        for invite in &left.invites {
            if let Some(client) = self.ua.restore_invite(now, invite) {
                self.clients.insert(client, ClientUse::Bye);
            }
        }
        for key in sessions.into_values().filter(|key| !departing.contains(key)) {
            self.detach(key);
        }
        for key in departing {
            self.end_session(key, CallEnd::Restarted);
        }
        if !is_first {
            tracing::info!(
                sessions = self.sessions.len(),
                calls = self.calls.len(),
                "a former control's journal is taken over"
            );
        }
        self.pump();
    }

    fn adopt_session(&mut self, name: &str, record: SessionRecord) -> SessionKey {
        self.next_session += 1;
        let key = SessionKey(self.next_session);
        let targets = record.targets.clone();
        let session = Session::adopted(name.to_owned(), record);
        for token in session.token.iter().chain(&session.old_token) {
            self.tokens.insert(token.finder.clone(), key);
        }
        if session.old_token.is_some() {
            self.timers.set(Timer::OldToken(key), self.now + super::session::OLD_TOKEN_LIFE);
        }
        if let Some(account) = session.account.as_ref().filter(|_| !targets.is_empty()) {
            let credentials = Account {
                username: account.authentication_name.clone(),
                password: account.password.clone(),
                targets: targets.clone(),
            };
            self.ua.put_account(session.account_id, credentials);
            self.account_targets.insert(key, targets);
        }
        self.contacts.insert(name.to_owned(), key);
        self.adopted += 1;
        self.sessions.insert(key, session);
        key
    }

    /// Bindings that a connection carried are made again, because it is gone; others are renewed when they are due.
    fn adopt_registrations(
        &mut self,
        sessions: &BTreeMap<String, SessionKey>,
        mut registrations: BTreeMap<String, RegistrationRecord>,
    ) {
        let longest = self.now + Duration::from_secs(u64::from(self.config.register_expires_s));
        let mut next = self.now;
        for (name, key) in sessions {
            let Some(session) = self.sessions.get_mut(key) else { continue };
            let Some(record) = registrations.remove(name) else {
                if session.account.as_ref().is_some_and(|account| account.register) {
                    self.start_registration(*key);
                }
                continue;
            };
            let by_stream = record.binding.is_some_and(|target| target.transport.is_reliable());
            let due = record.due.filter(|_| !by_stream);
            session.registration = Registration::adopted(record);
            let due = due.map_or(next, |due| self.of_wall(due)).clamp(next, longest.max(next));
            if due == next {
                next = next + REGISTER_PACE;
            }
            self.timers.set(Timer::Register(*key), due);
        }
    }

    /// A peer's INVITE of the journal. A re-INVITE without an answer is to come again.
    fn adopt_held(&mut self, now: Time, held: HeldInvite) -> Held {
        let Some(server) = self.ua.restore_held(now, &held) else { return Held::Nothing };
        match (held.is_answered(), held.is_within_dialog()) {
            (false, false) => Held::Unanswered(server, Box::new(held)),
            (false, true) => {
                self.refuse_restarted(server, 491);
                Held::Nothing
            }
            (true, true) if held.request().is_some_and(|request| request.body.is_empty()) => Held::Offered(server),
            (true, _) => Held::Nothing,
        }
    }

    fn refuse_restarted(&mut self, server: ServerId, status: u16) {
        if let Err(error) = self.ua.respond(self.now, server, Reply::new(Status::literal(status))) {
            tracing::debug!(%error, status, "an INVITE of the journal could not be refused");
        }
    }

    /// A dialog that is no call's: its BYE was on its way, or its call's line is lost.
    fn end_stray(&mut self, dialog: &DialogId) {
        match self.ua.send_in_dialog(self.now, dialog, Method::Bye, Headers::new(), None) {
            Ok(client) => {
                self.clients.insert(client, ClientUse::Bye);
            }
            Err(error) => {
                tracing::debug!(%error, "no BYE could be sent");
                self.ua.remove_dialog(dialog);
            }
        }
    }

    fn adopt_call(
        &mut self,
        session: SessionKey,
        id: String,
        record: CallRecord,
        media: Option<MediaRecord>,
        held: Held,
    ) {
        let trunk = media.as_ref().map(|media| media.trunk.clone()).unwrap_or_else(|| {
            let (origin, name) = (&self.config.sdp_origin, &self.config.sdp_session_name);
            TrunkSession::new(origin, name, self.entropy.next_u64(), SipSdpLines::default())
        });
        let stage = record.stage;
        let key = self.insert_call(NewCall {
            session,
            id,
            incoming: record.incoming,
            caller: record.caller.clone(),
            callee: record.callee.clone(),
            visible_name: record.visible_name.clone(),
            trunk,
        });
        let dialog = record.dialog.clone().filter(|dialog| self.ua.dialog(dialog).is_some());
        if let Some(dialog) = &dialog {
            self.dialogs.insert(dialog.clone(), key);
        }
        if let Held::Unanswered(server, _) | Held::Offered(server) = &held {
            self.servers.insert(*server, key);
        }
        let ip = record.target.map(|target| target.remote.ip());
        let trunk = ip.and_then(|ip| if record.incoming { self.trunk_from(ip) } else { self.trunk_of(session, ip) });
        let codecs = self.codecs_of(trunk);
        let ring_until = record.ring_until.map(|until| self.of_wall(until));
        match &media {
            Some(media) => drop(self.relays.insert(media.relay, key)),
            // It ends, and its relay with it.
            None => record.relay.into_iter().for_each(|relay| self.release(relay)),
        }
        let Some(call) = self.calls.get_mut(&key) else { return };
        call.codecs = codecs;
        call.dialog.clone_from(&dialog);
        match &held {
            Held::Unanswered(server, _) => call.server = Some(*server),
            Held::Offered(server) => call.offered_in = Some(*server),
            Held::Nothing => {}
        }
        call.take_record(record);
        let has_media = media.is_some();
        if let Some(media) = media {
            call.take_media(media);
        }
        match (stage, held) {
            (Stage::Talking, _) if has_media && dialog.is_some() => self.go_on_talking(key),
            (Stage::Ringing, Held::Unanswered(server, held)) if has_media => {
                self.go_on_ringing(key, server, &held, ring_until);
            }
            _ => self.finish(key, CallEnd::Restarted),
        }
    }

    fn go_on_talking(&mut self, key: CallKey) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        call.phase = Phase::Talking;
        call.described_to = Some(FORMER_PAGE);
        if call.agreement.as_ref().is_none_or(|agreement| agreement.is_one_sided()) {
            return self.finish(key, CallEnd::Restarted);
        }
        self.await_relay(key);
        self.await_path(key);
    }

    /// The browser rings again when its page is back; the caller hears that it rings still.
    fn go_on_ringing(&mut self, key: CallKey, server: ServerId, held: &HeldInvite, ring_until: Option<Time>) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        let text = held.request().and_then(|request| description(&request.headers, &request.body).ok());
        let offer = text.flatten().and_then(|text| TrunkDescription::parse(&text).ok());
        let Ok(offered) = browser_offer(offer.as_ref(), &call.codecs) else {
            return self.finish(key, CallEnd::Restarted);
        };
        call.phase = Phase::Ringing;
        (call.offered_browser, call.peer_offer) = (offered, offer);
        call.targets = Targets::new([held.peer()], None);
        let longest = self.now + self.config.ring_timeout;
        let until = ring_until.unwrap_or(longest).clamp(self.now, longest);
        self.timers.set(Timer::Call(key, CallTimer::Answer), until);
        self.await_relay(key);
        let reply = self.dialog_reply(key, 180, None);
        if let Err(error) = self.ua.respond(self.now, server, reply) {
            tracing::debug!(%error, "no 180 could be sent");
        }
    }

    /// The dataplane has as long to say that it has the relay as it has for a `Put`.
    fn await_relay(&mut self, key: CallKey) {
        self.timers.set(Timer::Call(key, CallTimer::Put), self.now + self.config.relay_timeout);
    }
}

impl Call {
    fn take_record(&mut self, record: CallRecord) {
        self.custom = record.custom;
        self.status = record.status;
        self.sip_status = record.sip_status;
        self.targets = Targets::new(record.target, None);
        self.path_selected = record.path_selected;
        self.keys_ready = record.keys_ready;
        self.knows_picture_requests = !record.refuses_picture_requests;
        self.video_refusals = record.video_refusals;
        self.is_video_lost = record.is_video_lost;
    }

    fn take_media(&mut self, record: MediaRecord) {
        self.browser_remote = record.browser;
        self.agreement = record.agreement;
        self.offered_peer = record.offered;
        self.trunk = record.trunk;
        self.relay = Some(CallRelay {
            id: record.relay,
            generation: record.generation,
            program: record.program,
            media: record.facts,
            addresses: None,
            pending: None,
            is_outdated: false,
            is_inherited: true,
        });
    }
}
