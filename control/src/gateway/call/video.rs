//! Pictures in a call that stands: those that it cannot have are refused by a re-INVITE; key frames by SIP INFO (RFC 5168), for
//! peers that know no feedback in RTCP.

use std::time::Duration;

use gangway_shared::rcp::{ActAction, Request as RelayRequest};

use super::{Call, CallKey, Phase, Purpose, media::HANGUP_GRACE};
use crate::{
    gateway::{
        ClientUse, Gateway,
        effects::Output,
        outcome::CallEnd,
        timers::{CallTimer, Timer},
    },
    sip::{
        message::{Headers, Method, Request, Response},
        ua::{Content, SendError, ServerId},
    },
};

/// Content-Type of a picture request (RFC 5168 section 5).
const MEDIA_CONTROL_TYPE: &str = "application/media_control+xml";
/// The one command that devices in use send and heed (RFC 5168 section 7.1).
const PICTURE_FAST_UPDATE: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\r\n<media_control><vc_primitive><to_encoder>\
    <picture_fast_update/></to_encoder></vc_primitive></media_control>\r\n";

/// Final answers to INFO of a peer that knows no such requests (RFC 3261 sections 21.4.6, 21.4.13, 21.5.2; RFC 6086 section 4.2.2).
const UNKNOWN_REQUEST: [u16; 5] = [405, 415, 469, 489, 501];

/// Most re-INVITEs that refuse a peer's pictures in one call. One is enough unless the peer's own meet ours; a peer that takes them
/// again and again gets none further.
const VIDEO_REFUSALS_MAX: u8 = 3;
/// Waits after a re-INVITE met the peer's own (RFC 3261 section 14.1): for the side that made the Call-ID, and for the other.
const GLARE_CALLER: std::ops::Range<u64> = 2_100..4_000;
const GLARE_CALLEE: std::ops::Range<u64> = 0..2_000;

impl Gateway {
    /// The peer took pictures that this call cannot have: they are refused with port 0, the sound goes on (RFC 3264 section 8.2).
    pub(super) fn refuse_video(&mut self, key: CallKey) {
        if !self.drop_lost_video(key) {
            return self.refuse_video_later(key);
        }
        let Some(call) = self.calls.get_mut(&key).filter(|call| call.phase == Phase::Talking) else { return };
        let Some(agreement) = call.agreement.as_ref().filter(|agreement| agreement.refuses_video) else { return };
        let Some(dialog) = call.dialog.clone().filter(|_| call.client.is_none()) else { return };
        if call.video_refusals >= VIDEO_REFUSALS_MAX {
            tracing::warn!(call = %call.id, "the SIP peer takes video again and again that the call cannot have");
            return;
        }
        let taken = call.targets.current().map(|target| self.taken.of(target.remote)).unwrap_or_default();
        let offered = agreement.fixed_offer(&call.codecs);
        let Some(offer) = call.offer_in_request(offered, &taken) else { return };
        match self.ua.send_in_dialog(self.now, &dialog, Method::Invite, Headers::new(), Some(offer)) {
            Ok(client) => {
                tracing::info!(call = %call.id, "the SIP peer took video that the call cannot have: refused by a re-INVITE");
                call.video_refusals += 1;
                call.client = Some(client);
                self.await_reinvite(key, client);
            }
            Err(SendError::InvitePending) => self.refuse_video_later(key),
            Err(error) => tracing::debug!(%error, "the peer's video could not be refused"),
        }
    }

    /// The browser's transport of the pictures alone failed, closed or fell silent: they end, the sound goes on. A browser that goes away
    /// loses both, so the peer hears of it a moment later.
    pub(super) fn video_lost(&mut self, key: CallKey) {
        let Some(call) = self.calls.get_mut(&key).filter(|call| !call.is_video_lost) else { return };
        tracing::warn!(call = %call.id, "the browser's transport of the pictures is lost, the sound goes on");
        call.is_video_lost = true;
        self.timers.set(Timer::Call(key, CallTimer::Glare), self.now + HANGUP_GRACE);
    }

    /// Takes pictures that have no way to the browser out of a call that talks. False while a change is under way.
    fn drop_lost_video(&mut self, key: CallKey) -> bool {
        let lost = |call: &&mut Call| call.phase == Phase::Talking && call.is_video_lost;
        let Some(call) = self.calls.get_mut(&key).filter(lost) else { return true };
        let is_changing = call.is_changing();
        let Some(agreement) = call.agreement.as_mut().filter(|agreement| agreement.video.is_some()) else {
            return true;
        };
        if is_changing {
            return false;
        }
        agreement.refuses_video |= agreement.video.take().is_some_and(|video| !video.is_stopped);
        self.connect_media(key, Purpose::Connect);
        true
    }

    fn refuse_video_later(&mut self, key: CallKey) {
        let Some(call) = self.calls.get(&key) else { return };
        let range = if call.incoming { GLARE_CALLEE } else { GLARE_CALLER };
        let wait_ms = range.start + self.entropy.next_u64() % (range.end - range.start);
        self.timers.set(Timer::Call(key, CallTimer::Glare), self.now + Duration::from_millis(wait_ms));
    }

    /// The peer's answer to that re-INVITE, if it gave one. Whatever it says, the sound goes on.
    pub(super) fn video_refused(&mut self, key: CallKey, response: Option<&Response>) {
        let status = response.map_or(408, |response| response.status.code());
        match response.filter(|response| response.status.is_success()).map(|response| self.agree(key, response)) {
            Some(Ok(agreement)) => {
                if let Some(call) = self.calls.get_mut(&key) {
                    call.agreement = Some(agreement);
                }
                self.connect_media(key, Purpose::Connect);
                self.refuse_video(key);
            }
            None if status == 491 => self.refuse_video_later(key),
            // The peer knows no such dialog (RFC 3261 section 12.2.1.2).
            None if status == 481 => self.finish(key, CallEnd::DialogLost(status)),
            _ => tracing::info!(status, "the SIP peer did not let its video be refused, what it sends is dropped"),
        }
    }

    /// It has taken too long to answer that re-INVITE.
    pub(super) fn give_up_reinvite(&mut self, key: CallKey) {
        if let Some(client) = self.calls.get(&key).and_then(|call| call.client) {
            self.ua.cancel(self.now, client, Headers::new());
        }
    }

    /// INFO in a call: a picture request goes on to the browser as PLI. An empty INFO is a keep-alive.
    pub(super) fn info(&mut self, key: CallKey, server: ServerId, request: &Request) {
        if request.body.is_empty() {
            return self.reply(server, 200);
        }
        let is_control =
            request.headers.content_type().is_some_and(|kind| kind.eq_ignore_ascii_case(MEDIA_CONTROL_TYPE));
        if !is_control {
            return self.refuse_type(server, MEDIA_CONTROL_TYPE);
        }
        let is_picture = String::from_utf8_lossy(&request.body).contains("picture_fast_update");
        if is_picture {
            self.ask_browser_for_picture(key);
        }
        self.reply(server, 200);
    }

    fn ask_browser_for_picture(&mut self, key: CallKey) {
        let Some(call) = self.calls.get(&key).filter(|call| call.has_video()) else { return };
        let Some(relay) = call.relay.as_ref().filter(|_| self.wall.is_up()) else { return };
        let (relay, leg) = (relay.id, relay.media.browser_video_leg());
        let id = self.next_request_id();
        let action = ActAction::Keyframe { leg };
        let action_id = self.action_id(id);
        self.outputs.push_back(Output::Relay { id, request: RelayRequest::Act { relay, action_id, action } });
    }

    /// The browser wants a key frame and the relay has no way to ask the peer: one INFO at a time, and none after a refusal. The
    /// relay merges the wishes of a stream to two a second.
    pub(super) fn ask_peer_for_picture(&mut self, key: CallKey) {
        let Some(call) = self.calls.get_mut(&key).filter(|call| call.phase == Phase::Talking) else { return };
        if call.picture_request.is_some() || !call.knows_picture_requests {
            return;
        }
        let Some(dialog) = call.dialog.clone() else { return };
        let content = Content::new(MEDIA_CONTROL_TYPE, PICTURE_FAST_UPDATE);
        match self.ua.send_in_dialog(self.now, &dialog, Method::Info, Headers::new(), Some(content)) {
            Ok(client) => {
                call.picture_request = Some(client);
                self.clients.insert(client, ClientUse::PictureRequest(key));
            }
            Err(error) => tracing::debug!(%error, "no picture request could be sent"),
        }
    }

    /// The peer answered such an INFO, or did not.
    pub(in crate::gateway) fn picture_request_ended(&mut self, key: CallKey, response: Option<&Response>) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        call.picture_request = None;
        // What a peer says that cannot read them; a failure of the moment says nothing.
        if response.is_some_and(|response| UNKNOWN_REQUEST.contains(&response.status.code())) {
            tracing::info!(call = %call.id, "the SIP peer takes no picture requests by INFO");
            call.knows_picture_requests = false;
        }
    }
}
