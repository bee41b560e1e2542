//! Registrations: REGISTER at connect, refresh, 423, back-off, un-REGISTER (RFC 3261 section 10). One binding per session.

use std::time::Duration;

use gangway_shared::time::{Time, WallTime};
use serde_json::json;

use super::{
    AskOwner, ClientUse, Gateway,
    effects::{Answer, Ask, AskId},
    journal::RegistrationRecord,
    messages::ServerMessage,
    outcome::{SessionFailure, SessionNotice},
    session::{SessionKey, SessionState},
    targets::Targets,
    timers::Timer,
};
use crate::sip::{
    dialog::Target,
    digest::Account,
    headers::Contacts,
    message::{HeaderName, Headers, Method, Response},
    ua::{ClientId, Outgoing},
    uri::{NameAddr, SipUri},
};

/// A registrar may ask for a longer interval by 423, up to a day: beyond, it would be a way to keep us registered for ever.
const MIN_EXPIRES_MAX_S: u32 = 86_400;
/// A binding is refreshed after this part of its life: numerator and denominator.
const REFRESH_FRACTION: (u64, u64) = (3, 4);
/// A REGISTER may have been sent again so often to answer challenges: what is skipped when its answers are unknown, because a
/// registrar refuses a CSeq that it has seen.
const CSEQ_SKIP: u32 = 4;
/// A granted life is taken as at least so long, so that a registrar cannot make us flood it.
const EXPIRES_FLOOR_S: u32 = 5;

/// Where a registration stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Not wanted, or over.
    #[default]
    Off,
    /// Waits for the registrar's address.
    Resolving(AskId),
    /// REGISTER is out.
    Registering(ClientId),
    /// The binding is in force; refreshed when `Timer::Register` is due.
    Registered,
    /// Failed; tried again when `Timer::Register` is due.
    BackingOff,
    /// REGISTER with Expires 0 is out.
    Unregistering(ClientId),
}

/// The registration of a session.
#[derive(Debug, Default)]
pub(super) struct Registration {
    state: State,
    call_id: Option<String>,
    cseq: u32,
    targets: Targets,
    /// When a first registration is told to have failed, however many addresses are left.
    first_until: Option<Time>,
    /// Asked by a registrar's 423.
    min_expires_s: Option<u32>,
    /// Where a binding may be in force.
    binding: Option<Target>,
    /// The browser has seen `registered`.
    announced: bool,
    failures: u32,
}

impl Registration {
    /// Whether the binding is in force.
    pub(super) fn is_registered(&self) -> bool {
        self.binding.is_some() && self.state != State::Off
    }

    /// Whether nothing is under way.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Off
    }

    /// All of it for a later control; none of a registration that never was. `due` is its timer.
    pub(super) fn record(&self, due: Option<WallTime>) -> Option<RegistrationRecord> {
        let call_id = self.call_id.clone().filter(|_| self.state != State::Off)?;
        Some(RegistrationRecord {
            call_id,
            cseq: self.cseq,
            binding: self.binding.map(|target| Target { flow: None, ..target }),
            due,
            min_expires_s: self.min_expires_s,
            announced: self.announced,
        })
    }

    /// A registration of a former control. One that was under way goes on as one that failed and is tried again.
    pub(super) fn adopted(record: RegistrationRecord) -> Self {
        Registration {
            state: if record.binding.is_some() { State::Registered } else { State::BackingOff },
            call_id: Some(record.call_id),
            cseq: record.cseq.saturating_add(CSEQ_SKIP),
            min_expires_s: record.min_expires_s,
            binding: record.binding,
            announced: record.announced,
            ..Registration::default()
        }
    }

    /// When the address in use is given up: it and those that are left share the time of a first registration evenly, so that a silent
    /// one leaves time for the others. Later registrations take timer F at each.
    fn give_up(&self, now: Time) -> Option<Time> {
        let until = self.first_until.filter(|_| !self.announced)?;
        let sharing = u32::try_from(self.targets.left() + 1).unwrap_or(u32::MAX);
        Some(now + until.since(now) / sharing)
    }
}

impl Gateway {
    /// Registers a session, first time or again: finds the registrar first.
    pub(super) fn start_registration(&mut self, key: SessionKey) {
        let Some(account) = self.sessions.get(&key).and_then(|session| session.account.as_ref()) else { return };
        let transport = self.transport_of(key);
        let what = Ask::Resolve { host: account.proxy_host.clone(), port: account.proxy_port, transport };
        let ask = self.ask(AskOwner::Registration(key), what);
        if let Some(session) = self.sessions.get_mut(&key) {
            session.registration.state = State::Resolving(ask);
        }
    }

    /// The registrar's address came, or none.
    pub(super) fn registrar_resolved(&mut self, key: SessionKey, answer: Answer) {
        let Some(session) = self.sessions.get(&key) else { return };
        if !matches!(session.registration.state, State::Resolving(_)) {
            return;
        }
        let Answer::Resolved(found) = answer else {
            return self.registration_failed(key, &SessionFailure::RegistrarUnreachable);
        };
        let found = self.by_trunk(key, found);
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let reachable = found.iter().copied().filter(|target| self.ua.reaches(*target));
        session.registration.targets = Targets::new(reachable, session.proxy);
        session.registration.first_until = Some(self.now + self.config.ua.timers.f);
        self.keep_account(key, &found);
        self.send_register(key, self.config.register_expires_s);
    }

    /// Tells the SIP agent whom a session's credentials may be shown.
    pub(super) fn keep_account(&mut self, key: SessionKey, targets: &[Target]) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let Some(account) = &session.account else { return };
        let targets: Vec<_> = targets.iter().map(|target| target.remote).collect();
        // Putting an account again forgets its nonces and pinned realm: only for other targets.
        if self.account_targets.get(&key) == Some(&targets) {
            return;
        }
        let credentials = Account {
            username: account.authentication_name.clone(),
            password: account.password.clone(),
            targets: targets.clone(),
        };
        self.ua.put_account(session.account_id, credentials);
        self.account_targets.insert(key, targets);
    }

    fn send_register(&mut self, key: SessionKey, expires_s: u32) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let Some(account) = &session.account else { return };
        let registration = &session.registration;
        let (target, expires_s) = if expires_s == 0 {
            (registration.binding, 0)
        } else {
            (registration.targets.current(), expires_s.max(registration.min_expires_s.unwrap_or(0)))
        };
        // Without a Contact it would only ask for the bindings there are.
        let contact = |target: Target| self.ua.contact(&session.contact_key, target.transport, target.remote);
        let Some((target, contact)) = target.and_then(|target| Some((target, contact(target)?))) else {
            return self.registration_failed(key, &SessionFailure::RegistrarUnreachable);
        };
        let mut headers = Headers::new();
        headers.push(HeaderName::Expires, expires_s.to_string());
        let call_id = registration.call_id.clone();
        let call_id = call_id.unwrap_or_else(|| self.entropy.hex(16));
        let trunk = self.config.trunks.of_account(session.account.as_ref(), Some(target.remote.ip()));
        let outgoing = Outgoing {
            method: Method::Register,
            uri: SipUri { user: None, ..account.domain.clone() }.into(),
            from: account.from(""),
            to: account.from(""),
            call_id: Some(call_id.clone()),
            cseq: Some(registration.cseq + 1),
            contact: Some(NameAddr::new(contact)),
            routes: Vec::new(),
            headers,
            content: None,
            target,
            account: Some(session.account_id),
            give_up: if expires_s == 0 { None } else { registration.give_up(self.now) },
            udp_only: trunk.is_some_and(|trunk| trunk.udp_only),
        };
        session.registration.call_id = Some(call_id);
        session.registration.cseq += 1;
        match self.ua.send_request(self.now, outgoing) {
            Ok(client) => {
                let Some(session) = self.sessions.get_mut(&key) else { return };
                session.registration.state =
                    if expires_s == 0 { State::Unregistering(client) } else { State::Registering(client) };
                self.clients.insert(client, ClientUse::Register(key));
            }
            Err(error) => {
                tracing::warn!(%error, "REGISTER could not be sent");
                self.registration_failed(key, &SessionFailure::RegistrarUnreachable);
            }
        }
    }

    /// A final answer to REGISTER; `Err` without one.
    pub(super) fn register_answered(&mut self, key: SessionKey, result: Result<&Response, SessionFailure>) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let unregistering = matches!(session.registration.state, State::Unregistering(_));
        if let Ok(response) = &result {
            // The agent counted on while it answered challenges.
            let cseq = response.headers.cseq().map_or(0, |cseq| cseq.number);
            session.registration.cseq = session.registration.cseq.max(cseq);
        } else {
            session.registration.cseq += CSEQ_SKIP;
        }
        if unregistering {
            session.registration.state = State::Off;
            session.registration.binding = None;
            return self.remove_departed(key);
        }
        let departing = session.state == SessionState::Departing;
        if !departing
            && super::is_failure_of_address(&result)
            && let Some(next) = session.registration.targets.advance()
        {
            tracing::info!(session = %session.contact_key, remote = %next.remote, "the registrar's next address is tried");
            return self.send_register(key, self.config.register_expires_s);
        }
        match result {
            Ok(response) if response.status.is_success() => {
                session.registration.binding = session.registration.targets.current();
                session.proxy = session.registration.binding;
                if departing {
                    self.send_register(key, 0);
                } else {
                    let granted = granted_s(response, &session.contact_key).unwrap_or(self.config.register_expires_s);
                    self.registered(key, granted);
                }
            }
            _ if departing => {
                session.registration.state = State::Off;
                self.remove_departed(key);
            }
            Ok(response) if response.status.code() == 423 => {
                let asked = session.registration.min_expires_s.unwrap_or(0).max(self.config.register_expires_s);
                match response.headers.min_expires_s().filter(|min| *min > asked && *min <= MIN_EXPIRES_MAX_S) {
                    Some(min) => {
                        session.registration.min_expires_s = Some(min);
                        self.send_register(key, self.config.register_expires_s);
                    }
                    None => self.registration_failed(key, &SessionFailure::RegistrarRefused(423)),
                }
            }
            Ok(response) => {
                let failure = match response.status.code() {
                    401 | 403 | 407 => SessionFailure::AuthenticationFailed,
                    other => SessionFailure::RegistrarRefused(other),
                };
                self.registration_failed(key, &failure);
            }
            Err(failure) => self.registration_failed(key, &failure),
        }
    }

    fn registered(&mut self, key: SessionKey, granted_s: u32) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let registration = &mut session.registration;
        let granted_s = granted_s.max(EXPIRES_FLOOR_S);
        let recovered = registration.failures >= self.config.register_attempts_before_warning;
        let first = !registration.announced;
        registration.state = State::Registered;
        registration.announced = true;
        registration.failures = 0;
        let (part, whole) = REFRESH_FRACTION;
        let refresh = Duration::from_millis(u64::from(granted_s) * 1000 * part / whole);
        self.timers.set(Timer::Register(key), self.now + refresh);
        if first || recovered {
            self.tell_registered(key);
        }
    }

    /// `registered`: unlocks the Phone page's Call button.
    pub(super) fn tell_registered(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get(&key) else { return };
        let Some(socket) = session.socket else { return };
        let mut fields = serde_json::Map::new();
        fields.insert("status".to_owned(), json!("REGISTERED"));
        if let Some(account) = &session.account {
            fields.insert("sipLogin".to_owned(), json!(account.login));
        }
        self.send(socket, ServerMessage::Registered(fields));
    }

    /// The first registration ends the session when it fails (section 5.9); a later one is tried again, slower each time.
    fn registration_failed(&mut self, key: SessionKey, failure: &SessionFailure) {
        self.totals.registrations_failed += 1;
        let Some(session) = self.sessions.get_mut(&key) else { return };
        tracing::warn!(session = %session.contact_key, ?failure, "registration failed");
        let registration = &mut session.registration;
        if session.state == SessionState::Departing {
            registration.state = State::Off;
            return self.remove_departed(key);
        }
        if !registration.announced {
            registration.state = State::Off;
            return self.end_session_with(key, SessionNotice::of(failure));
        }
        registration.state = State::BackingOff;
        registration.failures = registration.failures.saturating_add(1);
        let doubled = registration.failures.saturating_sub(1).min(16);
        let wait = self.config.register_backoff.saturating_mul(1 << doubled).min(self.config.register_backoff_max);
        let warn = registration.failures == self.config.register_attempts_before_warning;
        self.timers.set(Timer::Register(key), self.now + wait);
        if warn {
            registration.binding = None;
            self.end_session_with(key, SessionNotice::of(&SessionFailure::RegistrationLost));
        }
    }

    /// A refresh or another attempt is due.
    pub(super) fn register_due(&mut self, key: SessionKey) {
        let due = self
            .sessions
            .get(&key)
            .is_some_and(|session| matches!(session.registration.state, State::Registered | State::BackingOff));
        if due {
            self.start_registration(key);
        }
    }

    /// The session ends: gives the binding back. What is under way ends first.
    pub(super) fn end_registration(&mut self, key: SessionKey) {
        self.timers.clear(Timer::Register(key));
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let bound = session.registration.binding.is_some();
        match session.registration.state {
            State::Off | State::Unregistering(_) | State::Registering(_) => {}
            State::Resolving(ask) => {
                session.registration.state = State::Off;
                self.abandon_ask(ask);
                if bound {
                    self.send_register(key, 0);
                }
            }
            State::Registered | State::BackingOff if bound => self.send_register(key, 0),
            State::Registered | State::BackingOff => session.registration.state = State::Off,
        }
    }
}

/// The life that the registrar granted our binding: its Contact's `expires`, else Expires (RFC 3261 section 10.2.4). 0 counts as
/// not said.
fn granted_s(response: &Response, contact_key: &str) -> Option<u32> {
    let ours = |contact: &&NameAddr| contact.uri.as_sip().is_some_and(|uri| uri.user.as_deref() == Some(contact_key));
    let of_contact = match response.headers.contacts() {
        Ok(Contacts::List(contacts)) => {
            contacts.iter().find(ours).and_then(|contact| contact.params.value("expires")?.parse().ok())
        }
        _ => None,
    };
    of_contact.or_else(|| response.headers.expires_s()).filter(|seconds| *seconds > 0)
}
