//! Key frames by SIP INFO (RFC 5168), for peers that know no feedback in RTCP.

use gangway_shared::rcp::{ActAction, Request as RelayRequest};

use super::{CallKey, Phase};
use crate::{
    gateway::{ClientUse, Gateway, effects::Output, plan},
    sip::{
        message::{Headers, Method, Request, Response},
        ua::{Content, ServerId},
    },
};

/// Content-Type of a picture request (RFC 5168 section 5).
const MEDIA_CONTROL_TYPE: &str = "application/media_control+xml";
/// The one command that devices in use send and heed (RFC 5168 section 7.1).
const PICTURE_FAST_UPDATE: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\r\n<media_control><vc_primitive><to_encoder>\
    <picture_fast_update/></to_encoder></vc_primitive></media_control>\r\n";

/// Final answers to INFO of a peer that knows no such requests (RFC 3261 sections 21.4.6, 21.4.13, 21.5.2; RFC 6086 section 4.2.2).
const UNKNOWN_REQUEST: [u16; 5] = [405, 415, 469, 489, 501];

impl Gateway {
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
        let Some(relay) = call.relay.as_ref().map(|relay| relay.id).filter(|_| self.wall.is_up()) else { return };
        let id = self.next_request_id();
        let action = ActAction::Keyframe { leg: plan::BROWSER };
        self.outputs.push_back(Output::Relay { id, request: RelayRequest::Act { relay, action_id: id.0, action } });
    }

    /// The browser wants a key frame and the relay has no way to ask the peer: one INFO at a time, and none after a refusal. The
    /// relay merges the wishes of a stream to two a second.
    pub(super) fn ask_peer_for_picture(&mut self, key: CallKey) {
        let Some(call) = self.calls.get_mut(&key).filter(|call| call.phase == Phase::Talking) else { return };
        if call.picture_request.is_some() || !call.knows_picture_requests {
            return;
        }
        let Some(dialog) = call.dialog.clone() else { return };
        let body = PICTURE_FAST_UPDATE.as_bytes().to_vec();
        let content = Content { content_type: MEDIA_CONTROL_TYPE.to_owned(), body };
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
