//! Giving up our INVITE, RFC 3261 section 9.1.

use gangway_shared::time::Time;

use super::{
    ClientId, Ua,
    client::{Cancelling, Machine, Purpose, transmit},
    outbound::MANAGED,
};
use crate::sip::{
    dialog::MAX_FORWARDS,
    message::{HeaderName, Headers, Method, Request},
    transaction::{Transaction, client::Client, key::ClientKey},
};

impl Ua {
    /// Gives up our INVITE: CANCEL goes out at once or after the first provisional answer (RFC 3261 section 9.1). It still ends with one
    /// event: `Finished` (487 or what crossed), `CrossedCancel` or `TimedOut`; a re-INVITE that is answered all the same ends with
    /// `Answered`. Unknown or finished requests are ignored. `headers` (Reason) go into the CANCEL.
    pub fn cancel(&mut self, now: Time, client: ClientId, headers: Headers) {
        let Some(id) = self.current.get(&client).copied() else { return };
        let Some(tx) = self.clients.get_mut(&id) else { return };
        let Machine::Invite(machine) = &tx.machine else { return };
        if !machine.is_pending() || !matches!(tx.cancelling, Cancelling::No) {
            return;
        }
        let heard = !machine.is_calling();
        tx.cancelling = Cancelling::Wanted(headers);
        if heard {
            self.send_wanted_cancel(now, id);
        }
    }

    /// Sends the CANCEL that waited for a provisional answer. After 64*T1 without a final one the INVITE is over.
    pub(super) fn send_wanted_cancel(&mut self, now: Time, id: u64) {
        let Some(tx) = self.clients.get_mut(&id) else { return };
        let Cancelling::Wanted(headers) = std::mem::replace(&mut tx.cancelling, Cancelling::Sent) else { return };
        tx.give_up = Some(now + self.config.timers.t1.saturating_mul(64));
        let invite = &tx.request.headers;
        let mut cancel = Request::new(Method::Cancel, tx.request.uri.clone());
        let via = invite.value(&HeaderName::Via).unwrap_or_default();
        cancel.headers.push(HeaderName::Via, via);
        for route in invite.values(&HeaderName::Route) {
            cancel.headers.push(HeaderName::Route, route);
        }
        cancel.headers.push(HeaderName::MaxForwards, MAX_FORWARDS.to_string());
        for name in [HeaderName::From, HeaderName::To, HeaderName::CallId] {
            let value = invite.value(&name).unwrap_or_default();
            cancel.headers.push(name, value);
        }
        let number = invite.cseq().map_or(0, |cseq| cseq.number);
        cancel.headers.push(HeaderName::CSeq, format!("{number} CANCEL"));
        for (name, value) in headers.iter().filter(|(name, _)| !MANAGED.contains(name)) {
            cancel.headers.push(name.clone(), value);
        }
        let branch = invite.top_via().ok().and_then(|via| via.branch().map(str::to_owned)).unwrap_or_default();
        let target = tx.target;
        let bytes = cancel.to_bytes();
        self.transmits.push_back(transmit(target, bytes.clone()));
        // Not counted against the table: an INVITE has one at most, and giving up must work when everything is full.
        let machine = Machine::Other(Client::new(now, target.transport.is_reliable(), &self.config.timers));
        let client = ClientId(self.fresh_id());
        self.keep_client(client, ClientKey::new(branch, Method::Cancel), machine, cancel, bytes, target, |tx| {
            tx.purpose = Purpose::Agent;
        });
        self.settle_client(id);
    }
}
