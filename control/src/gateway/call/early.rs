//! Before the answer: descriptions in 18x, the ringing tone of our own where there are none, and what the page is told of both.

use super::{Call, CallKey, Phase, Purpose};
use crate::{
    gateway::{
        Gateway,
        messages::{CallMessage, CallStatus},
        settings::Ringback,
    },
    sdp::{Agreement, Direction, NegotiateError, TrunkDescription},
    sip::message::Response,
};

/// Forks of one INVITE whose early descriptions are kept: as many as the SIP agent takes.
const EARLY_FORKS_MAX: usize = 16;

impl Call {
    /// What the fork that sent this response described before.
    pub(super) fn early_of(&self, response: &Response) -> Option<&TrunkDescription> {
        let tag = fork(response);
        self.early.iter().find(|(fork, _)| *fork == tag).map(|(_, description)| description)
    }

    fn keep_early(&mut self, response: &Response, description: TrunkDescription) {
        let tag = fork(response);
        self.early.retain(|(fork, _)| *fork != tag);
        if self.early.len() < EARLY_FORKS_MAX {
            self.early.push((tag, description));
        }
    }
}

/// The To tag, which tells the forks of an INVITE apart.
fn fork(response: &Response) -> String {
    let to = response.headers.to().ok();
    to.and_then(|to| to.tag().map(str::to_owned)).unwrap_or_default()
}

impl Gateway {
    /// A description in a 18x answers the browser; of several forks the newest is heard, because a fork that failed says nothing more.
    /// One that cannot be used, or not with the browser's codec, is no reason to end a call that rings: the 200 decides. False when it is
    /// not used.
    pub(super) fn take_early(&mut self, key: CallKey, response: &Response, text: &str) -> bool {
        let Some(call) = self.calls.get_mut(&key) else { return false };
        let agreement = TrunkDescription::parse(text).map_err(NegotiateError::from).and_then(|answer| {
            call.keep_early(response, answer.clone());
            if let Some(agreed) = &call.agreement {
                return agreed.reanswered_by_sip(&call.offered_peer, &answer, Direction::SendRecv);
            }
            let side = call.browser.as_ref().and_then(|browser| browser.side_of_offer().ok());
            let side = side.ok_or(NegotiateError::NoCommonCodecs)?;
            Agreement::answered_by_sip(&side, &call.offered_peer, &answer, Direction::SendRecv)
        });
        match agreement {
            Ok(agreement) => {
                if call.agreement.as_ref() != Some(&agreement) {
                    call.agreement = Some(agreement);
                    self.connect_media(key, Purpose::Connect);
                    self.answer_browser(key);
                }
                true
            }
            Err(error) => {
                tracing::debug!(%error, "early description is not used");
                false
            }
        }
    }

    /// The callee rings and sends no media: the browser hears a tone of ours, if that costs no codec, or the operator wants it at any
    /// cost (decision 012). A call with pictures has none: its one answer would have to guess at theirs.
    pub(super) fn ring_back(&mut self, key: CallKey) {
        let Some(call) = self.calls.get_mut(&key).filter(|call| call.agreement.is_none()) else { return };
        let offered = &call.offered_peer;
        let is_free = offered
            .audio
            .iter()
            .all(|payload| payload.codec.is_telephone_event() || payload.codec.encoding.g711_counterpart().is_some());
        let is_wanted = match self.config.ringback {
            Ringback::Auto => is_free,
            Ringback::On => true,
            Ringback::Off => false,
        };
        let is_made = call.relay.as_ref().is_some_and(|relay| relay.media.fill_after_ms.is_some());
        if !is_wanted || !is_made || !offered.video.is_empty() {
            return;
        }
        let side = call.browser.as_ref().and_then(|browser| browser.side_of_offer().ok());
        let Some(agreement) = side.and_then(|side| Agreement::before_sip(&side, offered)) else { return };
        call.agreement = Some(agreement);
        self.connect_media(key, Purpose::Connect);
        self.answer_browser(key);
    }

    /// The browser hears what comes before the answer (wcs-protocol.md 4.2, RING_MEDIA): pages end a tone of their own.
    pub(super) fn tell_early_media(&mut self, key: CallKey) {
        let rings = |call: &&Call| call.phase == Phase::Inviting && call.status == CallStatus::Ring;
        if self.calls.get(&key).filter(rings).is_some() {
            self.change_status(key, CallStatus::RingMedia, CallMessage::Ring);
        }
    }
}
