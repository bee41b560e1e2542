//! What REST asks of the core.

use super::{
    Gateway,
    call::Call,
    effects::{CallFilter, ConnectionView, Counts, Output, RestCall, RestId, RestReply},
    messages::CallStatus,
    outcome::CallEnd,
    session::{Session, SessionState},
};

impl Gateway {
    pub(super) fn rest(&mut self, request: RestId, call: RestCall) {
        let reply = match call {
            RestCall::FindCalls(filter) => self.find_calls(&filter),
            RestCall::FindAllCalls => self.find_calls(&CallFilter::default()),
            RestCall::TerminateCall { call_id } => match self.call_ids.get(&call_id).copied() {
                Some(key) => {
                    self.finish(key, CallEnd::Terminated);
                    RestReply::Done
                }
                None => RestReply::NotFound { message: format!("callId: there is no call {call_id:?}") },
            },
            RestCall::FindAllConnections => self.find_connections(),
        };
        self.outputs.push_back(Output::RestReply { request, reply });
    }

    fn find_calls(&self, filter: &CallFilter) -> RestReply {
        let matches = |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
        let calls = self.calls.values().filter(|call| {
            matches(&filter.call_id, &call.id)
                && matches(&filter.callee, &call.callee)
                && filter.status.is_none_or(|status| status == call.status)
        });
        RestReply::Calls(calls.map(|call| self.view(call)).collect())
    }

    fn find_connections(&self) -> RestReply {
        let established = self.sessions.values().filter(|session| session.is_established());
        let views = established.map(|session| {
            let status = match (session.registration.is_registered(), session.socket) {
                (true, _) => "REGISTERED",
                (false, Some(_)) => "ESTABLISHED",
                (false, None) => "DISCONNECTED",
            };
            ConnectionView {
                fields: session.fields.clone(),
                status,
                session_id: session.session_id.clone(),
                node_id: super::node_id(self.config.node),
            }
        });
        RestReply::Connections(views.collect())
    }

    /// Numbers for metrics and tests.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let living = || self.sessions.values().filter(|session| session.state != SessionState::Departing);
        let in_status = |status: CallStatus| self.calls.values().filter(|call| call.status == status).count();
        Counts {
            sockets: self.sockets.len(),
            sessions: living().count(),
            sessions_detached: self.detached.len(),
            sessions_departing: self.sessions.len() - living().count(),
            registrations: living().filter(|session| session.registration.is_registered()).count(),
            calls_trying: in_status(CallStatus::Trying),
            calls_ring: in_status(CallStatus::Ring) + in_status(CallStatus::RingMedia),
            calls_established: in_status(CallStatus::Established),
            relays: self.relays.len(),
            asks: self.asks.len(),
            dialogs: self.dialogs.len(),
            calls_finished_total: self.totals.calls_finished,
            calls_failed_total: self.totals.calls_failed,
            calls_refused_total: self.totals.calls_refused,
            frames_refused_total: self.totals.frames_refused,
            registrations_failed_total: self.totals.registrations_failed,
            sessions_displaced_total: self.totals.sessions_displaced,
            kept_bytes: self.sessions.values().map(Session::kept_bytes).sum::<usize>()
                + self.calls.values().map(Call::kept_bytes).sum::<usize>(),
        }
    }

    /// Whether no call is left and everybody was told: BYE and un-REGISTER are answered or given up.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.calls.is_empty() && self.clients.is_empty()
    }
}
