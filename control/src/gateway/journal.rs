//! What the core writes down: one entry for each thing that changed, so that a later control can take over.
//!
//! An entry holds all of its thing and replaces the former one of the same [`JournalEntry::key`]; an `..Ended` entry removes it. What
//! may have changed is known from the tables ([`Tracked`](crate::tracked::Tracked)); after each input those things are put into words,
//! and what reads as before is not written.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hasher as _},
    net::{IpAddr, SocketAddr},
    ops::Bound,
};

use gangway_shared::{
    ids::{EventSeq, Generation, RelayId},
    rcp::{IceRemote, RelayProgram},
    secret::Secret,
    time::{Time, WallTime},
};
use serde::{Deserialize, Serialize};

use super::{
    Gateway,
    account::SipAccount,
    call::{Call, CallKey, Phase, Purpose},
    effects::Output,
    kept::KeptJson,
    messages::CallStatus,
    plan::{self, CallMedia},
    session::{Session, SessionKey, SessionState, Token},
    timers::{CallTimer, Timer},
};
use crate::{
    sdp::{Agreement, Offered, TrunkSession},
    sip::{
        dialog::{Dialog, DialogId, DialogState, Target},
        ua::{ClientId, HeldInvite, PendingInvite},
    },
};

/// The version of the lines that this tree writes. Lines of all versions so far are read; those of a later one as far as they mean
/// something here.
pub const FORMAT: u16 = 1;

/// One change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum JournalEntry {
    /// A session.
    Session {
        /// Its opaque key.
        session: String,
        /// All of it.
        record: Box<SessionRecord>,
    },
    /// It is gone.
    SessionEnded {
        /// Its opaque key.
        session: String,
    },
    /// A session's registration.
    Registration {
        /// The session's opaque key.
        session: String,
        /// All of it.
        record: RegistrationRecord,
    },
    /// It is gone.
    RegistrationEnded {
        /// The session's opaque key.
        session: String,
    },
    /// A call without its media.
    Call {
        /// Its id.
        call: String,
        /// All of it.
        record: Box<CallRecord>,
    },
    /// It is over, and its media with it.
    CallEnded {
        /// Its id.
        call: String,
    },
    /// A call's relay and what both sides agreed on.
    Media {
        /// The call's id.
        call: String,
        /// All of it.
        record: Box<MediaRecord>,
    },
    /// The peer's INVITE of a call that waits for our final answer, or our 2xx for its ACK.
    Held {
        /// The call's id.
        call: String,
        /// All of it.
        invite: Box<HeldInvite>,
    },
    /// It waits no more.
    HeldEnded {
        /// The call's id.
        call: String,
    },
    /// A confirmed dialog, or one whose BYE has no answer.
    Dialog {
        /// All of it.
        dialog: Box<Dialog>,
        /// Its long requests keep to UDP.
        #[serde(default)]
        udp_only: bool,
    },
    /// It is gone.
    DialogEnded {
        /// Which one.
        dialog: DialogId,
    },
    /// An INVITE of ours without a final answer.
    Invite {
        /// Tells it from others of this run.
        number: u64,
        /// All of it.
        invite: PendingInvite,
    },
    /// It has one, or nobody waits for it.
    InviteEnded {
        /// As in `Invite`.
        number: u64,
    },
    /// The dataplane's last event whose consequences stand before this line.
    RelaySeen {
        /// The run of the dataplane.
        instance: String,
        /// The event.
        seq: EventSeq,
    },
}

impl JournalEntry {
    /// What the entry is about: a later one of the same key takes its place.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            JournalEntry::Session { session, .. } | JournalEntry::SessionEnded { session } => format!("s/{session}"),
            JournalEntry::Registration { session, .. } | JournalEntry::RegistrationEnded { session } => {
                format!("r/{session}")
            }
            JournalEntry::Call { call, .. } | JournalEntry::CallEnded { call } => format!("c/{call}"),
            JournalEntry::Media { call, .. } => media_key(call),
            JournalEntry::Held { call, .. } | JournalEntry::HeldEnded { call } => format!("h/{call}"),
            JournalEntry::Dialog { dialog, .. } => dialog_key(&dialog.id),
            JournalEntry::DialogEnded { dialog } => dialog_key(dialog),
            JournalEntry::Invite { number, .. } | JournalEntry::InviteEnded { number } => format!("i/{number}"),
            JournalEntry::RelaySeen { .. } => "relay_seen".to_owned(),
        }
    }

    /// The keys that this entry removes; none when it puts something.
    #[must_use]
    pub fn removes(&self) -> Vec<String> {
        match self {
            JournalEntry::CallEnded { call } => vec![self.key(), media_key(call)],
            JournalEntry::SessionEnded { .. }
            | JournalEntry::RegistrationEnded { .. }
            | JournalEntry::HeldEnded { .. }
            | JournalEntry::DialogEnded { .. }
            | JournalEntry::InviteEnded { .. } => vec![self.key()],
            _ => Vec::new(),
        }
    }

    /// The relay of a call's media.
    #[must_use]
    pub fn relay(&self) -> Option<RelayId> {
        match self {
            JournalEntry::Media { record, .. } => Some(record.relay),
            _ => None,
        }
    }

    /// The registrar that a binding may be in force at, when it is reached by datagrams.
    #[must_use]
    pub fn registrar_by_datagrams(&self) -> Option<SocketAddr> {
        let JournalEntry::Registration { record, .. } = self else { return None };
        record.binding.filter(|target| !target.transport.is_reliable()).map(|target| target.remote)
    }

    /// The password that the entry carries in memory and that no line ever holds in clear.
    #[must_use]
    pub fn password(&self) -> Option<&Secret<String>> {
        match self {
            JournalEntry::Session { record, .. } => record.account.as_ref().map(|account| &account.password),
            _ => None,
        }
    }
}

fn media_key(call: &str) -> String {
    format!("m/{call}")
}

fn dialog_key(id: &DialogId) -> String {
    format!("d/{}/{}/{}", id.call_id, id.local_tag, id.remote_tag)
}

/// What is in force after a row of entries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing(BTreeMap<String, JournalEntry>);

impl Standing {
    /// These entries, one after the other.
    #[must_use]
    pub fn of(entries: impl IntoIterator<Item = JournalEntry>) -> Self {
        let mut standing = Standing::default();
        entries.into_iter().for_each(|entry| standing.take(entry));
        standing
    }

    /// One entry more.
    pub fn take(&mut self, entry: JournalEntry) {
        let removes = entry.removes();
        if removes.is_empty() {
            self.0.insert(entry.key(), entry);
        }
        for key in removes {
            self.0.remove(&key);
        }
    }

    /// The entries in force.
    pub fn entries(&self) -> impl Iterator<Item = &JournalEntry> {
        self.0.values()
    }

    /// Those whose keys come after this one, with their keys and in the order of them.
    pub fn after<'a>(&'a self, key: &str) -> impl Iterator<Item = (&'a str, &'a JournalEntry)> + use<'a> {
        let entries = self.0.range::<str, _>((Bound::Excluded(key), Bound::Unbounded));
        entries.map(|(key, entry)| (key.as_str(), entry))
    }
}

/// A session for a later control.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Later ones have higher numbers.
    #[serde(default)]
    pub(super) number: u64,
    /// What browsers and REST call it.
    pub(super) session_id: String,
    pub(super) app_key: String,
    /// Fields of `connection` for echoes, without password and token.
    pub(super) fields: KeptJson,
    /// Whom it counts for in the limit of one address.
    pub(super) remote: IpAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) account: Option<SipAccount>,
    /// The account's password as the adapter sealed it; the core never sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_password: Option<String>,
    /// Whom the credentials may be shown.
    #[serde(default)]
    pub(super) targets: Vec<SocketAddr>,
    pub(super) keep_alive: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<Token>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) old_token: Option<Token>,
    /// It is over but for its un-REGISTER and last BYEs.
    #[serde(default)]
    pub(super) is_departing: bool,
    #[serde(default)]
    pub(super) had_calls: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) proxy: Option<Target>,
}

impl SessionRecord {
    /// Takes the password that was unsealed.
    pub fn unseal(&mut self, password: Secret<String>) {
        if let Some(account) = &mut self.account {
            account.password = password;
        }
        self.sealed_password = None;
    }
}

/// A registration for a later control.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationRecord {
    /// Call-ID, kept over its refreshes.
    pub(super) call_id: String,
    /// CSeq of its last REGISTER.
    pub(super) cseq: u32,
    /// Where a binding may be in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) binding: Option<Target>,
    /// When it is refreshed or tried again, by the clock on the wall.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) due: Option<WallTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) min_expires_s: Option<u32>,
    /// The browser has seen `registered`.
    #[serde(default)]
    pub(super) announced: bool,
}

/// How far a call had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// Nobody rings yet, or our INVITE is out.
    Starting,
    /// An incoming call rings its browser.
    Ringing,
    /// Between the browser's answer and the peer's ACK, or while the peer's consent to a codec is asked for.
    Settling,
    /// The two talk.
    Talking,
}

impl Stage {
    const fn of(phase: &Phase) -> Self {
        match phase {
            Phase::Authorizing(_) | Phase::Resolving(_) | Phase::Allocating(_) | Phase::Inviting => Stage::Starting,
            Phase::Ringing => Stage::Ringing,
            Phase::Answering | Phase::AwaitingAck | Phase::Realigning => Stage::Settling,
            Phase::Talking => Stage::Talking,
        }
    }
}

/// A call for a later control.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CallRecord {
    /// Later ones have higher numbers.
    #[serde(default)]
    pub(super) number: u64,
    /// The session's opaque key.
    pub(super) session: String,
    pub(super) incoming: bool,
    pub(super) caller: String,
    pub(super) callee: String,
    pub(super) visible_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) custom: Option<KeptJson>,
    pub(super) status: CallStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sip_status: Option<u16>,
    pub(super) stage: Stage,
    /// Where SIP goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) target: Option<Target>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) dialog: Option<DialogId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) relay: Option<RelayId>,
    /// When ringing is over, by the clock on the wall.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ring_until: Option<WallTime>,
    #[serde(default)]
    pub(super) path_selected: bool,
    #[serde(default)]
    pub(super) keys_ready: bool,
    #[serde(default)]
    pub(super) refuses_picture_requests: bool,
    #[serde(default)]
    pub(super) video_refusals: u8,
    #[serde(default)]
    pub(super) is_video_lost: bool,
}

/// A call's media for a later control.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MediaRecord {
    pub(super) relay: RelayId,
    pub(super) generation: Generation,
    pub(super) program: RelayProgram,
    /// Facts that programs carry.
    pub(super) facts: CallMedia,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) browser: Option<IceRemote>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) agreement: Option<Agreement>,
    /// What we offered the peer.
    pub(super) offered: Offered,
    pub(super) trunk: TrunkSession,
}

/// What stands in the journal, by its reading: what reads the same is not written again.
#[derive(Debug, Default)]
pub(super) struct Written {
    readings: BTreeMap<String, u64>,
    sessions: BTreeMap<SessionKey, String>,
    calls: BTreeMap<CallKey, String>,
    /// What ended since the last line: written behind what there is.
    ends: Vec<JournalEntry>,
}

/// Tells two entries apart; the same on every run.
fn reading(entry: &JournalEntry) -> u64 {
    let bytes = serde_json::to_vec(entry).expect("plain data with text keys always serialises");
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    hasher.finish()
}

impl Gateway {
    /// What the clock on the wall shows at [`Time::ZERO`]: deadlines are written down by that clock.
    pub fn set_wall_clock(&mut self, at_zero: WallTime) {
        self.wall_at_zero = at_zero;
    }

    pub(super) fn to_wall(&self, time: Time) -> WallTime {
        WallTime::from_unix_micros(self.wall_at_zero.as_unix_micros().saturating_add(time.as_micros()))
    }

    pub(super) fn of_wall(&self, wall: WallTime) -> Time {
        Time::from_micros(wall.as_unix_micros().saturating_sub(self.wall_at_zero.as_unix_micros()))
    }

    /// Everything that is in force, for a journal that lost lines: it is to be written in place of all before.
    pub fn journal_all(&mut self) -> Vec<JournalEntry> {
        self.written.readings.clear();
        self.touch_all();
        let before = self.outputs.len();
        self.write_journal();
        let entries = self.outputs.drain(before..);
        let entries = entries.filter_map(|output| match output {
            Output::Journal(entry) => Some(entry),
            _ => None,
        });
        entries.collect()
    }

    pub(super) fn touch_all(&mut self) {
        self.sessions.touch_all();
        self.calls.touch_all();
        self.ua.touch_all();
        self.is_relay_seen_new = true;
    }

    /// Writes down what changed. A kill may leave the first lines of it alone, and nothing that they are about was said then: so what
    /// ended comes last, and of a call the line that says how far it is.
    pub(super) fn write_journal(&mut self) {
        for client in self.ua.take_changed_requests() {
            self.write_invite(client);
        }
        for dialog in self.ua.take_changed_dialogs() {
            if let Some(call) = self.dialogs.get(&dialog) {
                // Whether its ACK is there is a matter of the call's.
                self.calls.touch(call);
            }
            self.write_dialog(&dialog);
        }
        for session in self.sessions.take_touched() {
            self.write_session(session);
        }
        for call in self.calls.take_touched() {
            self.write_call(call);
        }
        let seen = self.relay_seen.as_ref().filter(|_| std::mem::take(&mut self.is_relay_seen_new));
        if let Some((instance, seq)) = seen.cloned() {
            self.write(JournalEntry::RelaySeen { instance, seq });
        }
        self.outputs.extend(self.written.ends.drain(..).map(Output::Journal));
    }

    /// Puts an entry, unless the same stands there.
    fn write(&mut self, entry: JournalEntry) {
        let now = reading(&entry);
        if self.written.readings.insert(entry.key(), now) != Some(now) {
            self.outputs.push_back(Output::Journal(entry));
        }
    }

    /// Removes what an entry stands for, if something does.
    pub(super) fn unwrite(&mut self, end: JournalEntry) {
        let mut is_there = false;
        for key in end.removes() {
            is_there |= self.written.readings.remove(&key).is_some();
        }
        if is_there {
            self.written.ends.push(end);
        }
    }

    fn write_invite(&mut self, client: ClientId) {
        let number = client.number();
        match self.ua.pending_invite(client) {
            Some(invite) => self.write(JournalEntry::Invite { number, invite }),
            None => self.unwrite(JournalEntry::InviteEnded { number }),
        }
    }

    fn write_dialog(&mut self, id: &DialogId) {
        let entry = self.ua.dialog_entry(id).filter(|(dialog, _)| dialog.state != DialogState::Early);
        match entry.map(|(dialog, udp_only)| (Box::new(dialog.clone()), udp_only)) {
            Some((mut dialog, udp_only)) => {
                dialog.destination.flow = None;
                self.write(JournalEntry::Dialog { dialog, udp_only });
            }
            None => self.unwrite(JournalEntry::DialogEnded { dialog: id.clone() }),
        }
    }

    fn write_session(&mut self, key: SessionKey) {
        let authorizing = |session: &&Session| !matches!(session.state, SessionState::Authorizing(_));
        let Some(session) = self.sessions.get(&key).filter(authorizing) else {
            if let Some(session) = self.written.sessions.remove(&key) {
                self.unwrite(JournalEntry::RegistrationEnded { session: session.clone() });
                self.unwrite(JournalEntry::SessionEnded { session });
            }
            return;
        };
        let name = session.contact_key.clone();
        let targets = self.account_targets.get(&key).cloned().unwrap_or_default();
        let record = Box::new(session.record(key, targets));
        let due = self.timers.due(Timer::Register(key)).map(|due| self.to_wall(due));
        let registration = session.registration.record(due);
        self.written.sessions.insert(key, name.clone());
        self.write(JournalEntry::Session { session: name.clone(), record });
        match registration {
            Some(record) => self.write(JournalEntry::Registration { session: name, record }),
            None => self.unwrite(JournalEntry::RegistrationEnded { session: name }),
        }
    }

    fn write_call(&mut self, key: CallKey) {
        let Some(call) = self.calls.get(&key) else {
            if let Some(call) = self.written.calls.remove(&key) {
                // The id may be another call's by now.
                if !self.call_ids.contains_key(&call) {
                    self.unwrite(JournalEntry::HeldEnded { call: call.clone() });
                    self.unwrite(JournalEntry::CallEnded { call });
                }
            }
            return;
        };
        let Some(session) = self.sessions.get(&call.session).map(|session| session.contact_key.clone()) else { return };
        let ring_until = self.timers.due(Timer::Call(key, CallTimer::Answer)).filter(|_| call.phase == Phase::Ringing);
        let record = Box::new(call.record(key, session, ring_until.map(|due| self.to_wall(due))));
        let (id, media, held) = (call.id.clone(), call.media_record().map(Box::new), self.held_invite(call));
        self.written.calls.insert(key, id.clone());
        match held {
            Some(invite) => self.write(JournalEntry::Held { call: id.clone(), invite: Box::new(invite) }),
            None => self.unwrite(JournalEntry::HeldEnded { call: id.clone() }),
        }
        if let Some(record) = media {
            self.write(JournalEntry::Media { call: id.clone(), record });
        }
        self.write(JournalEntry::Call { call: id, record });
    }

    /// The peer's INVITE or re-INVITE that waits for something of ours.
    fn held_invite(&self, call: &Call) -> Option<HeldInvite> {
        let reoffer = call.relay.as_ref().and_then(|relay| match &relay.pending {
            Some((_, Purpose::Reoffer { server, .. })) => Some(*server),
            _ => None,
        });
        let unacked = || call.dialog.as_ref().and_then(|dialog| self.ua.unacked(dialog));
        self.ua.held_invite(call.server.or(reoffer).or_else(unacked)?)
    }
}

impl Call {
    fn record(&self, key: CallKey, session: String, ring_until: Option<WallTime>) -> CallRecord {
        CallRecord {
            number: key.0,
            session,
            incoming: self.incoming,
            caller: self.caller.clone(),
            callee: self.callee.clone(),
            visible_name: self.visible_name.clone(),
            custom: self.custom.clone(),
            status: self.status,
            sip_status: self.sip_status,
            stage: Stage::of(&self.phase),
            target: self.targets.current().map(|target| Target { flow: None, ..target }),
            dialog: self.dialog.clone(),
            relay: self.relay.as_ref().map(|relay| relay.id),
            ring_until,
            path_selected: self.path_selected,
            keys_ready: self.keys_ready,
            refuses_picture_requests: !self.knows_picture_requests,
            video_refusals: self.video_refusals,
            is_video_lost: self.is_video_lost,
        }
    }

    /// Its media, once a later control may go on with them.
    fn media_record(&self) -> Option<MediaRecord> {
        let relay = self.relay.as_ref().filter(|_| Stage::of(&self.phase) != Stage::Starting)?;
        let record = MediaRecord {
            relay: relay.id,
            generation: relay.generation,
            program: relay.program.clone(),
            facts: relay.media.clone(),
            browser: self.browser_remote.clone(),
            agreement: self.agreement.clone(),
            offered: self.offered_peer.clone(),
            trunk: self.trunk.clone(),
        };
        let Some((_, Purpose::Reoffer { former, .. })) = &relay.pending else { return Some(record) };
        // A later control refuses the re-INVITE, so it goes on with what was, also where the relay did get the new program.
        let (agreement, trunk) = (**former).clone();
        Some(MediaRecord {
            generation: Generation(relay.generation.0 + 1),
            program: plan::connected(&relay.media, self.browser_remote.as_ref(), &agreement),
            agreement: Some(agreement),
            trunk,
            ..record
        })
    }
}

#[cfg(test)]
#[path = "journal/tests.rs"]
mod tests;
