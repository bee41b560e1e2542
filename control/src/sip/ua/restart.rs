//! What the agent gives the journal, and takes from it after a restart: dialogs, INVITEs of ours without a final answer, INVITEs of
//! peers that wait for one or for which our 2xx waits for its ACK.

use std::collections::BTreeSet;

use gangway_shared::time::Time;
use serde::{Deserialize, Serialize};

use super::{
    AccountId, ClientId, Entry, ServerId, Ua,
    client::{Cancelling, Machine, transmit},
    server::{Machine as ServerMachine, ServerTx},
};
use crate::sip::{
    dialog::{Dialog, DialogId, DialogState, Target},
    message::{HeaderName, Headers, Message, Method, Request, Status},
    parser,
    transaction::{
        Transaction,
        client_invite::ClientInvite,
        key::{ClientKey, ServerKey},
        server_invite::ServerInvite,
    },
};

/// What a restored dialog's own CSeq skips: so many requests may have been sent, digest retries among them, that the journal did not
/// come to hear of. Gaps are allowed (RFC 3261 section 12.2.1.1), repeats are refused.
const CSEQ_SKIP: u32 = 8;

/// An INVITE of ours that has no final answer yet: after a restart it can be cancelled with the same branch, and a late 2xx gets ACK and
/// BYE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingInvite {
    /// The request as it was sent, without its body and its credentials.
    request: String,
    /// Where it was sent.
    target: Target,
    /// Whose credentials answer challenges to the BYE.
    account: Option<u64>,
}

impl PendingInvite {
    /// Whether this dialog is one that an answer to it made.
    #[must_use]
    pub fn made(&self, dialog: &DialogId) -> bool {
        let Some(request) = read_invite(&self.request) else { return false };
        let (Ok(call_id), Ok(from)) = (request.headers.call_id(), request.headers.from()) else { return false };
        call_id == dialog.call_id && from.tag() == Some(dialog.local_tag.as_str())
    }
}

/// An INVITE of a peer that has no final answer, or whose 2xx waits for its ACK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldInvite {
    /// The request as it came, what we noted in its Via included and credentials left out.
    request: String,
    /// Where requests of its dialog go back to.
    peer: Target,
    /// Where answers go.
    reply_to: Target,
    /// Our tag.
    tag: String,
    /// The dialog it came in, or made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dialog: Option<DialogId>,
    /// It came in a dialog: a re-INVITE.
    #[serde(default)]
    in_dialog: bool,
    /// Our 2xx, as it is repeated until its ACK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
}

impl HeldInvite {
    /// Whether it has its 2xx.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        self.answer.is_some()
    }

    /// Whether it came in a dialog: a re-INVITE.
    #[must_use]
    pub const fn is_within_dialog(&self) -> bool {
        self.in_dialog
    }

    /// The request, when it can be read.
    #[must_use]
    pub fn request(&self) -> Option<Request> {
        read_invite(&self.request)
    }

    /// Where requests of its dialog go back to.
    #[must_use]
    pub const fn peer(&self) -> Target {
        self.peer
    }
}

/// A request for the journal. Answers to challenges are left out: whoever reads the file could guess passwords against them for ever. So
/// the ACK of a 2xx that comes after a restart shows none (RFC 3261 section 13.2.2.4 wants the INVITE's); no ACK can be challenged.
fn journaled(mut request: Request) -> String {
    for name in [HeaderName::Authorization, HeaderName::ProxyAuthorization] {
        request.headers.remove(&name);
    }
    String::from_utf8_lossy(&request.to_bytes()).into_owned()
}

fn read_invite(text: &str) -> Option<Request> {
    match parser::parse(text.as_bytes()) {
        Ok(Message::Request(request)) if request.method == Method::Invite => Some(request),
        _ => None,
    }
}

impl Ua {
    /// From now on the agent notes which dialogs and which INVITEs of its own may have changed. The owner takes the notes after each
    /// mutation.
    pub fn track_changes(&mut self) {
        self.dialogs.track();
        self.current.track();
    }

    /// Notes everything.
    pub fn touch_all(&mut self) {
        self.dialogs.touch_all();
        self.current.touch_all();
    }

    /// The dialogs that may have changed since this was asked last, gone ones among them.
    pub fn take_changed_dialogs(&mut self) -> BTreeSet<DialogId> {
        self.dialogs.take_touched()
    }

    /// The requests of ours whose [`Ua::pending_invite`] may have changed since this was asked last.
    pub fn take_changed_requests(&mut self) -> BTreeSet<ClientId> {
        self.current.take_touched()
    }

    /// A dialog and whether its long requests keep to UDP.
    #[must_use]
    pub fn dialog_entry(&self, id: &DialogId) -> Option<(&Dialog, bool)> {
        self.dialogs.get(id).map(|entry| (&entry.dialog, entry.udp_only))
    }

    /// Takes a dialog from the journal. The peer's last request in it may have had no answer: it is taken again when it comes again.
    pub fn restore_dialog(&mut self, mut dialog: Dialog, udp_only: bool) {
        dialog.local_cseq = dialog.local_cseq.saturating_add(CSEQ_SKIP);
        dialog.remote_cseq = dialog.remote_cseq.and_then(|cseq| cseq.checked_sub(1));
        if dialog.state == DialogState::Ending {
            // Its BYE is sent again.
            dialog.state = DialogState::Confirmed;
        }
        self.dialogs.insert(dialog.id.clone(), Entry { udp_only, ..Entry::new(dialog) });
    }

    /// Our INVITE outside of any dialog for the journal, while it has no final answer.
    #[must_use]
    pub fn pending_invite(&self, client: ClientId) -> Option<PendingInvite> {
        let tx = self.current.get(&client).and_then(|id| self.clients.get(id))?;
        if tx.request.method != Method::Invite || !tx.machine.is_pending() || tx.dialog.is_some() {
            return None;
        }
        let request = journaled(Request { body: Vec::new(), ..tx.request.clone() });
        let target = Target { flow: None, ..tx.target };
        Some(PendingInvite { request, target, account: tx.account.map(|account| account.0) })
    }

    /// Takes an INVITE from the journal and gives it up: CANCEL is sent (again) on the same branch, a 2xx gets ACK and BYE. It ends with
    /// one event like any request. `None` when the entry cannot be read or the table is full.
    pub fn restore_invite(&mut self, now: Time, pending: &PendingInvite) -> Option<ClientId> {
        let request = read_invite(&pending.request)?;
        let branch = request.headers.top_via().ok()?.branch()?.to_owned();
        if self.transactions() >= self.config.max_transactions {
            return None;
        }
        let machine =
            Machine::Invite(ClientInvite::restored(pending.target.transport.is_reliable(), &self.config.timers));
        let client = ClientId(self.fresh_id());
        let (key, account) = (ClientKey::new(branch, Method::Invite), pending.account.map(AccountId));
        let id = self.keep_client(client, key, machine, request, Vec::new(), pending.target, |tx| {
            tx.account = account;
            tx.cancelling = Cancelling::Wanted(Headers::new());
        });
        self.send_wanted_cancel(now, id);
        Some(client)
    }

    /// A peer's INVITE for the journal, while it has no final answer or its 2xx no ACK.
    #[must_use]
    pub fn held_invite(&self, server: ServerId) -> Option<HeldInvite> {
        let tx = self.servers.get(&server).filter(|tx| tx.request.method == Method::Invite)?;
        let answer = if tx.machine.is_pending() {
            None
        } else {
            tx.repeat.as_ref()?;
            Some(String::from_utf8_lossy(tx.last_answer.as_ref()?).into_owned())
        };
        Some(HeldInvite {
            request: journaled(tx.request.clone()),
            peer: Target { flow: None, ..tx.peer },
            reply_to: Target { flow: None, ..tx.reply_to },
            tag: tx.tag.clone(),
            dialog: tx.dialog.clone(),
            in_dialog: tx.in_dialog,
            answer,
        })
    }

    /// The peer's INVITE whose 2xx waits for its ACK in this dialog.
    #[must_use]
    pub fn unacked(&self, dialog: &DialogId) -> Option<ServerId> {
        self.dialogs.get(dialog)?.unacked
    }

    /// Takes a peer's INVITE from the journal: it waits for [`Ua::respond`] again, or its 2xx is repeated until the ACK. The dialogs are to
    /// be restored before. `None` when the entry cannot be read, its dialog is not there or the table is full.
    pub fn restore_held(&mut self, now: Time, held: &HeldInvite) -> Option<ServerId> {
        let request = held.request()?;
        let key = ServerKey::of_request(&request, &request.headers.top_via().ok()?).ok()?;
        let known = held.dialog.as_ref().is_some_and(|id| self.dialogs.contains_key(id));
        let misses_dialog = (held.in_dialog || held.is_answered()) && !known;
        if misses_dialog || self.server_keys.contains_key(&key) || self.transactions() >= self.config.max_transactions {
            return None;
        }
        let reliable = held.reply_to.transport.is_reliable();
        let mut machine = ServerMachine::Invite(ServerInvite::new(reliable, &self.config.timers));
        if held.is_answered() {
            machine.handle_answer(now, Status::literal(200));
        }
        let id = ServerId(self.fresh_id());
        let dialog = held.dialog.clone().filter(|_| known);
        if let Some(entry) = dialog.as_ref().and_then(|dialog| self.dialogs.get_mut(dialog)) {
            let waits_for = if held.is_answered() { &mut entry.unacked } else { &mut entry.server_invite };
            *waits_for = Some(id);
        }
        let last_answer = held.answer.clone().map(String::into_bytes);
        let again = last_answer.clone().map(|bytes| transmit(held.reply_to, bytes));
        let tx = ServerTx {
            key: key.clone(),
            merge_key: None,
            machine,
            request_len_bytes: held.request.len(),
            peer: held.peer,
            reply_to: held.reply_to,
            // It was answered by a session of ours before.
            verified: true,
            stranger: false,
            tag: held.tag.clone(),
            dialog,
            in_dialog: held.in_dialog,
            last_answer,
            repeat: None,
            armed: None,
            request: request.clone(),
        };
        self.server_keys.insert(key, id);
        self.servers.insert(id, tx);
        if !held.in_dialog {
            // Noted, so that the same request by another way is a merged one still.
            let _ = self.is_merged(id, &request);
        }
        if held.is_answered() {
            self.repeat_until_ack(now, id);
            self.transmits.extend(again);
        }
        self.settle_server(id);
        Some(id)
    }
}
