//! What is always true of the core, for simulations: checked after each step.

use super::{
    AskOwner, ClientUse, Gateway,
    call::Phase,
    session::{Session, SessionState},
    timers::Timer,
};

impl Gateway {
    /// Checks that nothing is owned by nobody.
    ///
    /// # Errors
    /// The first rule that is broken, in words.
    pub fn check_invariants(&self) -> Result<(), String> {
        self.check_calls()?;
        self.check_sessions()?;
        self.check_asks()?;
        self.check_timers()
    }

    fn check_calls(&self) -> Result<(), String> {
        for (key, call) in &self.calls {
            let session = self.sessions.get(&call.session).ok_or_else(|| format!("{key:?} has no session"))?;
            ensure(session.calls.contains(key), || format!("{key:?} is unknown to its session"))?;
            ensure(session.state == SessionState::Established, || format!("{key:?} of a session that is over"))?;
            ensure(self.call_ids.get(&call.id) == Some(key), || format!("{key:?} is not found by its id"))?;
            if let Some(relay) = &call.relay {
                ensure(self.relays.get(&relay.id) == Some(key), || format!("{} is not found", relay.id))?;
            }
            if let Some(server) = call.server {
                ensure(self.servers.get(&server) == Some(key), || format!("INVITE of {key:?} is not found"))?;
            }
            if let Some(client) = call.client {
                ensure(self.clients.contains_key(&client), || format!("INVITE of {key:?} is not found"))?;
            }
            if let Some(dialog) = &call.dialog {
                ensure(self.dialogs.get(dialog) == Some(key), || format!("dialog of {key:?} is not found"))?;
            }
        }
        ensure(self.call_ids.len() == self.calls.len(), || "an id without a call".to_owned())?;
        for (relay, key) in &self.relays {
            ensure(self.calls.contains_key(key), || format!("relay {relay} without a call"))?;
        }
        for (server, key) in &self.servers {
            ensure(self.calls.contains_key(key), || format!("{server:?} without a call"))?;
        }
        for (dialog, key) in &self.dialogs {
            let known = self.calls.get(key).is_some_and(|call| call.dialog.as_ref() == Some(dialog));
            ensure(known, || format!("{dialog:?} without a call"))?;
        }
        for (request, key) in &self.puts {
            ensure(self.calls.contains_key(key), || format!("{request:?} without a call"))?;
        }
        for (client, usage) in &self.clients {
            let known = match usage {
                ClientUse::Invite(key) | ClientUse::Reinvite(key) | ClientUse::PictureRequest(key) => {
                    self.calls.contains_key(key)
                }
                ClientUse::Register(key) => self.sessions.contains_key(key),
                ClientUse::Bye => true,
            };
            ensure(known, || format!("{client:?} for {usage:?} without an owner"))?;
        }
        Ok(())
    }

    fn check_sessions(&self) -> Result<(), String> {
        for (key, session) in &self.sessions {
            for call in &session.calls {
                ensure(self.calls.contains_key(call), || format!("{key:?} lists {call:?}, which is over"))?;
            }
            if let Some(socket) = session.socket {
                let back = self.sockets.get(&socket).and_then(|socket| socket.session);
                ensure(back == Some(*key), || format!("{socket:?} does not belong to {key:?}"))?;
            }
            if session.state == SessionState::Departing {
                let waits = !session.registration.is_over() || self.timers.is_set(Timer::Linger(*key));
                ensure(waits, || format!("{key:?} departs and waits for nothing"))?;
            }
        }
        for (worth, at, key) in &self.detached {
            let back = self.sessions.get(key).and_then(Session::detached);
            ensure(back == Some((*worth, *at)), || format!("{key:?} is not detached"))?;
            let worth_now = self.sessions.get(key).map(Session::worth);
            ensure(worth_now == Some(*worth), || format!("{key:?} is worth {worth_now:?}, not {worth:?}"))?;
        }
        for (key, session) in self.sessions.iter().filter(|(_, session)| session.detached().is_some()) {
            let alone = session.socket.is_none() && session.is_established();
            ensure(alone, || format!("{key:?} is detached and has a socket or is over"))?;
        }
        let detached = self.sessions.values().filter(|session| session.detached().is_some()).count();
        ensure(detached == self.detached.len(), || "a detached session has no place".to_owned())?;
        let adopted = self.sessions.values().filter(|session| session.is_adopted).count();
        ensure(adopted == self.adopted, || format!("{adopted} adopted sessions, {} are counted", self.adopted))?;
        let (few, most) = (self.detached.len(), self.config.max_detached_sessions + self.adopted);
        ensure(few <= most, || format!("{few} detached sessions, {most} are allowed"))?;
        for (name, key) in self.contacts.iter().chain(&self.tokens) {
            ensure(self.sessions.contains_key(key), || format!("{name} names no session"))?;
        }
        for (socket, state) in &self.sockets {
            let known = state.session.is_none_or(|key| self.sessions.contains_key(&key));
            ensure(known, || format!("{socket:?} of a session that is over"))?;
        }
        ensure(self.account_targets.keys().all(|key| self.sessions.contains_key(key)), || {
            "credentials of a session that is over".to_owned()
        })
    }

    fn check_asks(&self) -> Result<(), String> {
        for (ask, owner) in &self.asks {
            let waits = match owner {
                AskOwner::Session(key) => {
                    self.sessions.get(key).is_some_and(|session| session.state == SessionState::Authorizing(*ask))
                }
                AskOwner::Registration(key) => {
                    self.sessions.get(key).is_some_and(|session| !session.registration.is_over())
                }
                AskOwner::Call(key) => self.calls.get(key).is_some_and(|call| {
                    matches!(call.phase, Phase::Authorizing(a) | Phase::Resolving(a) | Phase::Allocating(a) if a == *ask)
                }),
            };
            ensure(waits, || format!("{ask:?}: nobody waits for it"))?;
            ensure(self.timers.is_set(Timer::Ask(*ask)), || format!("{ask:?} has no deadline"))?;
        }
        Ok(())
    }

    fn check_timers(&self) -> Result<(), String> {
        for timer in self.timers.iter() {
            let owned = match timer {
                Timer::Hello(socket) | Timer::Ping(socket) => self.sockets.contains_key(&socket),
                Timer::Ask(ask) => self.asks.contains_key(&ask),
                Timer::Register(key) | Timer::OldToken(key) | Timer::Linger(key) => self.sessions.contains_key(&key),
                Timer::Sweep | Timer::Relist | Timer::Orphans => true,
                Timer::Call(key, _) => self.calls.contains_key(&key),
            };
            ensure(owned, || format!("{timer:?} is set for nobody"))?;
        }
        Ok(())
    }
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}
