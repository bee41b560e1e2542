//! A call and its relay: programs, their replies, and what the dataplane reports.

use gangway_shared::{
    ids::{Generation, LegId, RelayId},
    rcp::{DtlsFailure, ErrorCode, Event, PutReply, RelayError, Reply as RelayReply, Request},
};

use super::{CallKey, Phase, Purpose};
use crate::{
    gateway::{
        Gateway,
        effects::{Answer, Output, RelayRequestId},
        outcome::CallEnd,
        plan::{self, CallAddresses},
        timers::{CallTimer, Timer},
    },
    sdp::MediaAgreement,
    sip::{message::Status, ua::Reply},
};

/// A browser that closes its DTLS usually says `hangup` too, by another way: so long it is waited for.
pub(super) const HANGUP_GRACE: std::time::Duration = std::time::Duration::from_secs(2);

impl Gateway {
    /// The relay was made, or not.
    pub(in crate::gateway) fn relay_allocated(&mut self, key: CallKey, answer: Answer) {
        let reply = match answer {
            Answer::Allocated(reply) => reply,
            Answer::NotAllocated(error) => {
                tracing::warn!(%error, "no relay for a call");
                return self.finish(key, CallEnd::RelayRefused(error.code));
            }
            _ => return self.finish(key, CallEnd::RelayRefused(ErrorCode::Internal)),
        };
        let Some(call) = self.calls.get_mut(&key) else { return };
        let Some(relay) = call.relay.as_mut().filter(|relay| relay.id == reply.relay) else {
            return self.finish(key, CallEnd::RelayLost);
        };
        let Some(addresses) =
            CallAddresses::from_reply(&reply).filter(|addresses| !addresses.browser.candidates.is_empty())
        else {
            return self.finish(key, CallEnd::RelayLost);
        };
        relay.addresses = Some(addresses);
        let incoming = call.incoming;
        if incoming { self.ring_browser(key) } else { self.invite(key) }
    }

    /// Puts what the call agreed on. While a `Put` that nothing waits for is under way, another such one waits for its reply: a peer that
    /// changes its mind faster than the relay answers costs one program a reply, and what it said in between none.
    pub(super) fn connect_media(&mut self, key: CallKey, purpose: Purpose) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        let Some(relay) = &mut call.relay else { return };
        let is_waited_for = |purpose: &Purpose| !matches!(purpose, Purpose::Connect | Purpose::Again);
        if !is_waited_for(&purpose) && relay.pending.as_ref().is_some_and(|(_, pending)| !is_waited_for(pending)) {
            relay.is_outdated = true;
            return;
        }
        relay.is_outdated = false;
        let program = match &call.agreement {
            Some(agreement) if call.phase == Phase::Inviting && agreement.is_one_sided() => {
                let tone = self.config.ringback_tone.tone();
                plan::ringing(&relay.media, call.browser_remote.as_ref(), agreement, &tone)
            }
            Some(agreement) => plan::connected(&relay.media, call.browser_remote.as_ref(), agreement),
            None => plan::opening(&relay.media, call.browser_remote.as_ref()),
        };
        if program.leg(plan::SIP_VIDEO).is_none()
            && let Some(addresses) = &mut relay.addresses
        {
            (addresses.video_rtp, addresses.browser_video) = (None, None);
        }
        if program != relay.program {
            if let Some(agreement) = &call.agreement {
                let choice = |medium: &MediaAgreement| medium.choice(call.incoming);
                let video = agreement.video.as_ref().map_or_else(|| "no section that both have".to_owned(), choice);
                tracing::info!(call = %call.id, audio = choice(&agreement.audio), video, "codecs");
            }
            relay.generation = Generation(relay.generation.0 + 1);
            relay.program = program;
        }
        // A reply that something waits for is not forgotten for one that nothing waits for.
        let purpose = match (purpose, &relay.pending) {
            (Purpose::Connect | Purpose::Again, Some((_, waiting))) => waiting.clone(),
            (purpose, _) => purpose,
        };
        self.put(key, purpose);
    }

    /// Sends the program in force; with the wall down it goes when the wall is back.
    pub(in crate::gateway) fn put(&mut self, key: CallKey, purpose: Purpose) {
        let request = self.wall.is_up().then(|| self.next_request_id());
        let Some(relay) = self.calls.get_mut(&key).and_then(|call| call.relay.as_mut()) else { return };
        if let Some((Some(former), _)) = relay.pending.replace((request, purpose)) {
            self.puts.remove(&former);
        }
        if let Some(id) = request {
            self.puts.insert(id, key);
            let (relay, generation, program) = (relay.id, relay.generation, relay.program.clone());
            self.outputs.push_back(Output::Relay { id, request: Request::Put { relay, generation, program } });
        }
        let timer = Timer::Call(key, CallTimer::Put);
        if !self.timers.is_set(timer) {
            self.timers.set(timer, self.now + self.config.relay_timeout);
        }
    }

    /// The browser has its description: now its path and keys must come.
    pub(in crate::gateway) fn await_path(&mut self, key: CallKey) {
        if self.calls.get(&key).is_some_and(|call| !call.keys_ready) {
            self.timers.set(Timer::Call(key, CallTimer::Path), self.now + self.config.ice_timeout);
        }
    }

    /// The reply to a `Put`.
    pub(in crate::gateway) fn put_answered(&mut self, id: RelayRequestId, result: Result<RelayReply, RelayError>) {
        let Some(key) = self.puts.remove(&id) else {
            // A `Delete`, or a `Put` whose call is over.
            if let Err(error) = result {
                tracing::warn!(%error, "the dataplane refused a request");
                self.timers.set(Timer::Relist, self.now + self.config.relay_timeout);
            }
            return;
        };
        let Some(call) = self.calls.get_mut(&key) else { return };
        let Some(relay) =
            call.relay.as_mut().filter(|relay| matches!(relay.pending, Some((Some(now), _)) if now == id))
        else {
            return;
        };
        if relay.is_inherited {
            return self.relay_taken_over(key, result);
        }
        let is_same = |reply: &RelayReply| matches!(reply, RelayReply::Put(reply) if Self::same_addresses(relay.addresses.as_ref(), reply));
        // A dataplane that started anew has other ports and keys: the browser cannot follow (R7). The purpose stays with the call until
        // then, so that a re-INVITE that waits for it is answered.
        if result.as_ref().is_ok_and(|reply| !is_same(reply)) {
            return self.finish(key, CallEnd::RelayLost);
        }
        let Some((_, purpose)) = relay.pending.take() else { return };
        self.timers.clear(Timer::Call(key, CallTimer::Put));
        match result {
            Ok(_) => self.put_done(key, purpose),
            Err(error) => self.put_refused(key, purpose, &error),
        }
    }

    /// The reply to the first `Put` of a relay that a former control made: it is ours with it.
    fn relay_taken_over(&mut self, key: CallKey, result: Result<RelayReply, RelayError>) {
        let Some(relay) = self.calls.get_mut(&key).and_then(|call| call.relay.as_mut()) else { return };
        let reply = match result {
            Ok(RelayReply::Put(reply)) => reply,
            // The former control's last program did not come to the journal: ours takes its place.
            Err(error) if error.code == ErrorCode::Stale => {
                relay.generation = Generation(relay.generation.0 + 1);
                return self.put(key, Purpose::Again);
            }
            Ok(_) => return self.finish(key, CallEnd::RelayLost),
            Err(error) => {
                tracing::warn!(%error, "a relay could not be taken over");
                return self.finish(key, CallEnd::RelayLost);
            }
        };
        let Some(addresses) = CallAddresses::from_reply(&reply) else { return self.finish(key, CallEnd::RelayLost) };
        (relay.addresses, relay.is_inherited, relay.pending) = (Some(addresses), false, None);
        self.timers.clear(Timer::Call(key, CallTimer::Put));
        self.put_done(key, Purpose::Again);
        self.announce(key);
        self.refuse_video(key);
        self.heed_waiting(key);
    }

    fn same_addresses(known: Option<&CallAddresses>, reply: &PutReply) -> bool {
        CallAddresses::from_reply(reply).as_ref() == known
    }

    fn put_done(&mut self, key: CallKey, purpose: Purpose) {
        match purpose {
            Purpose::Connect | Purpose::Again => {
                let relay = self.calls.get(&key).and_then(|call| call.relay.as_ref());
                if relay.is_some_and(|relay| relay.is_outdated) {
                    self.connect_media(key, Purpose::Connect);
                }
            }
            Purpose::Answer => self.send_answer(key),
            Purpose::Reoffer { server, body, .. } => {
                self.servers.remove(&server);
                let reply = self.dialog_reply(key, 200, Some(body));
                if let Err(error) = self.ua.respond(self.now, server, reply) {
                    tracing::debug!(%error, "the peer took its re-INVITE back");
                }
            }
        }
    }

    fn put_refused(&mut self, key: CallKey, purpose: Purpose, error: &RelayError) {
        tracing::warn!(%error, "a call's program was refused");
        let Purpose::Reoffer { server, former, .. } = purpose else {
            return self.finish(key, CallEnd::RelayRefused(error.code));
        };
        // Back to what was agreed before, with a generation of its own.
        if let Some(call) = self.calls.get_mut(&key) {
            let (agreement, trunk) = *former;
            (call.agreement, call.trunk) = (Some(agreement), trunk);
        }
        self.servers.remove(&server);
        let _ = self.ua.respond(self.now, server, Reply::new(Status::literal(488)));
        self.connect_media(key, Purpose::Again);
    }

    /// Nobody answered a `Put`.
    pub(super) fn put_timeout(&mut self, key: CallKey) {
        self.finish(key, CallEnd::RelayRefused(ErrorCode::Internal));
    }

    /// What the dataplane reports of a relay of ours.
    pub(in crate::gateway) fn relay_event(&mut self, event: Event) {
        if let Event::WorkerLost { relays, worker } = event {
            tracing::error!(worker, lost = relays.len(), "a media worker failed");
            for relay in relays {
                self.relay_lost(relay);
            }
            return;
        }
        let Some(key) = event.relay().and_then(|relay| self.relays.get(&relay).copied()) else { return };
        let Some(call) = self.calls.get_mut(&key) else { return };
        match event {
            Event::PathSelected { leg: plan::BROWSER, .. } => call.path_selected = true,
            Event::KeysReady { leg: plan::BROWSER, .. } => {
                call.path_selected = true;
                call.keys_ready = true;
                self.timers.clear(Timer::Call(key, CallTimer::Path));
                self.tell_early_media(key);
            }
            Event::DtlsFailed { leg: plan::BROWSER_VIDEO, .. }
            | Event::DtlsClosed { leg: plan::BROWSER_VIDEO, .. }
            | Event::ConsentLost { leg: plan::BROWSER_VIDEO, .. } => self.video_lost(key),
            Event::DtlsFailed { cause, .. } => self.finish(key, CallEnd::DtlsFailed(cause)),
            Event::DtlsClosed { .. } => self.timers.set(Timer::Call(key, CallTimer::Closed), self.now + HANGUP_GRACE),
            Event::ConsentLost { .. } if call.path_selected => self.finish(key, CallEnd::IceFailed),
            Event::MediaTimeout { leg, .. } => self.media_timeout(key, leg),
            Event::RelayReaped { reason, .. } => {
                tracing::error!(?reason, "the dataplane ended a relay");
                self.finish(key, CallEnd::RelayLost);
            }
            Event::KeyframeWanted { leg: plan::BROWSER | plan::BROWSER_VIDEO, .. } => self.ask_peer_for_picture(key),
            // For logs and later issues.
            Event::PathSelected { .. }
            | Event::KeysReady { .. }
            | Event::PathLost { .. }
            | Event::ConsentLost { .. }
            | Event::SourceLatched { .. }
            | Event::Dtmf { .. }
            | Event::KeyframeWanted { .. }
            | Event::ActDone { .. }
            | Event::LegStats { .. }
            | Event::WorkerLost { .. } => {}
        }
    }

    fn relay_lost(&mut self, relay: RelayId) {
        if let Some(key) = self.relays.get(&relay).copied() {
            self.finish(key, CallEnd::RelayLost);
        }
    }

    /// Only a call that talks can be too silent; programs of earlier phases ask for no such event.
    fn media_timeout(&mut self, key: CallKey, leg: LegId) {
        if self.config.media_timeout.is_some() && self.calls.get(&key).is_some_and(|call| call.phase == Phase::Talking)
        {
            tracing::info!(%leg, "no media");
            self.finish(key, CallEnd::MediaTimeout);
        }
    }

    /// One of a call's deadlines.
    pub(in crate::gateway) fn call_timeout(&mut self, key: CallKey, timer: CallTimer) {
        let Some(call) = self.calls.get(&key) else { return };
        match timer {
            CallTimer::Answer if call.phase == Phase::Talking => self.give_up_reinvite(key),
            CallTimer::Answer if call.incoming => self.finish(key, CallEnd::RingTimeout),
            CallTimer::Answer if call.phase == Phase::Realigning => self.finish(key, CallEnd::TranscodingRequired),
            CallTimer::Answer => self.finish(key, CallEnd::NoAnswer),
            CallTimer::Glare => self.refuse_video(key),
            CallTimer::Path if call.path_selected => self.finish(key, CallEnd::DtlsFailed(DtlsFailure::Timeout)),
            CallTimer::Path => self.finish(key, CallEnd::IceFailed),
            CallTimer::Put => self.put_timeout(key),
            CallTimer::Closed => self.finish(key, CallEnd::BrowserGone),
        }
    }
}
