//! A WCS phone without a browser: the websocket of [`crate::socket`] and the media of [`crate::media`], with the SDK's order
//! of messages. Each of its waits checks the rules of wcs-protocol.md section 0.1 that it can see.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::{
    deadline::Deadline,
    gateway::{Gateway, connection},
    media::{Codecs, Media},
    socket::{Frame, Socket},
};

/// The messages that tell a call's status.
const STATUS_MESSAGES: [&str; 5] = ["notifyTryingResponse", "ring", "talk", "hold", "finish"];

/// Frequency that the phone sends, Hz.
pub const TONE_HZ: f64 = 440.0;

/// One browser session.
pub struct Phone {
    /// Its websocket.
    pub socket: Socket,
    /// What `getUserData` held.
    pub user_data: Value,
}

/// A call of a phone.
pub struct Call {
    /// The call's id.
    pub id: String,
    /// Its peer connection.
    pub media: Media,
}

/// A call that rings at a phone.
#[derive(Debug)]
pub struct Incoming {
    /// The call's id.
    pub id: String,
    /// The object of `notifyIncomingCall`.
    pub call: Value,
    /// The gateway's SDP.
    pub offer: String,
}

/// A status message: its name, the status in it, and the whole call object.
#[derive(Debug, Clone)]
pub struct Status {
    /// `ring`, `talk`, `finish`...
    pub message: String,
    /// RING, ESTABLISHED, FINISH...
    pub status: String,
    /// The call object.
    pub call: Value,
}

fn new_call_id() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(1);
    format!("test-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

impl Phone {
    /// Opens a websocket, sends `connection` and waits for `getUserData`.
    #[track_caller]
    pub fn connect(gateway: &Gateway, connection: &Value) -> Self {
        let mut socket = gateway.open();
        socket.send("connection", connection.clone());
        let user_data = socket.expect("getUserData", Deadline::seconds(10)).first().clone();
        Self { socket, user_data }
    }

    /// A session for account 1001 of [`crate::kamailio::Options`], registered.
    #[track_caller]
    pub fn register(gateway: &Gateway, registrar: u16) -> Self {
        let mut phone = Self::connect(gateway, &connection("1001", "secret-1001", registrar, true));
        phone.socket.expect("registered", Deadline::seconds(10));
        phone
    }

    /// A session for account 1001 that registers nowhere and calls through the peer at `port`.
    #[track_caller]
    pub fn unregistered(gateway: &Gateway, port: u16) -> Self {
        let mut fields = connection("1001", "secret-1001", port, false);
        // Without an outbound proxy a dialled SIP address goes where it says.
        fields.as_object_mut().expect("an object").remove("sipOutboundProxy");
        Self::connect(gateway, &fields)
    }

    /// Calls `callee` and waits for TRYING (rule R4).
    #[track_caller]
    pub fn call(&mut self, callee: &str, codecs: Codecs) -> Call {
        let call = self.send_call(callee, codecs, &json!({}));
        let trying = self.next_status(&call.id, Deadline::seconds(5));
        assert_eq!((trying.message.as_str(), trying.status.as_str()), ("notifyTryingResponse", "TRYING"));
        call
    }

    /// Sends `call` with these fields on top of the usual ones and waits for nothing.
    #[track_caller]
    pub fn send_call(&mut self, callee: &str, codecs: Codecs, more: &Value) -> Call {
        let (media, sdp) = Media::offer(codecs, TONE_HZ);
        let id = new_call_id();
        let mut fields = json!({
            "callId": id, "incoming": false, "hasAudio": true, "hasVideo": false, "status": "PENDING",
            "mediaProvider": "WebRTC", "sdp": sdp, "caller": "1001", "callee": callee, "custom": {},
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            fields[name] = value.clone();
        }
        self.socket.send("call", fields);
        Call { id, media }
    }

    /// The next status message of this call.
    #[track_caller]
    pub fn next_status(&mut self, id: &str, deadline: Deadline) -> Status {
        let is_status =
            |frame: &Frame| STATUS_MESSAGES.contains(&frame.message.as_str()) && frame.first()["callId"] == id;
        let frame = self.socket.expect_where(&format!("a status of {id}"), deadline, is_status);
        let call = frame.first().clone();
        let status = call["status"].as_str().unwrap_or_default().to_owned();
        Status { message: frame.message, status, call }
    }

    /// Waits for the next status message of this call, which must tell `status`.
    #[track_caller]
    pub fn expect_status(&mut self, id: &str, status: &str, deadline: Deadline) -> Status {
        let next = self.next_status(id, deadline);
        assert_eq!(next.status, status, "{next:?}");
        next
    }

    /// Waits for the one `setRemoteSDP` of an outgoing call and starts its media.
    #[track_caller]
    pub fn take_answer(&mut self, call: &mut Call, deadline: Deadline) {
        let sdp = self.expect_sdp(&call.id, deadline);
        call.media.take_answer(&sdp, None);
    }

    /// Waits for `setRemoteSDP` of this call.
    #[track_caller]
    pub fn expect_sdp(&mut self, id: &str, deadline: Deadline) -> String {
        let is_sdp = |frame: &Frame| frame.message == "setRemoteSDP" && frame.first() == id;
        let frame = self.socket.expect_where(&format!("setRemoteSDP of {id}"), deadline, is_sdp);
        let sdp = frame.data.get(1).and_then(Value::as_str).unwrap_or_default().to_owned();
        assert!(sdp.starts_with("v=0\r\n"), "setRemoteSDP without an SDP: {frame:?}");
        sdp
    }

    /// Waits for an established outgoing call: RING, the SDP, ESTABLISHED, then ICE and DTLS.
    #[track_caller]
    pub fn establish(&mut self, callee: &str, codecs: Codecs) -> Call {
        let mut call = self.call(callee, codecs);
        self.expect_status(&call.id, "RING", Deadline::seconds(10));
        self.take_answer(&mut call, Deadline::seconds(10));
        self.expect_status(&call.id, "ESTABLISHED", Deadline::seconds(10));
        call.media.wait_connected(Deadline::seconds(10));
        call
    }

    /// Waits for an incoming call: `setRemoteSDP`, `notifyIncomingCall`, `ring`, in this order (rules R5 and R6).
    #[track_caller]
    pub fn incoming(&mut self, deadline: Deadline) -> Incoming {
        let before = self.socket.names().len();
        let call = self.socket.expect("notifyIncomingCall", deadline).first().clone();
        let id = call["callId"].as_str().expect("notifyIncomingCall has a callId").to_owned();
        let offer = self.expect_sdp(&id, Deadline::seconds(1));
        self.expect_status(&id, "RING", Deadline::seconds(5));
        let names = self.socket.names();
        let position = |name: &str| names.iter().rposition(|seen| seen == name);
        let order = [position("setRemoteSDP"), position("notifyIncomingCall"), position("ring")];
        assert!(order.is_sorted() && order[0].is_some(), "R5, R6: {:?}", &names[before.min(names.len())..]);
        for forbidden in ["constraints", "logger", "sdpHook", "stripCodecs", "receiveAudio", "receiveVideo"] {
            assert!(call.get(forbidden).is_none(), "notifyIncomingCall must not hold {forbidden}: {call}");
        }
        Incoming { id, call, offer }
    }

    /// Answers an incoming call and waits for ESTABLISHED, ICE and DTLS.
    #[track_caller]
    pub fn answer(&mut self, incoming: &Incoming, codecs: Codecs) -> Call {
        let call = self.send_answer(incoming, codecs);
        self.expect_status(&call.id, "ESTABLISHED", Deadline::seconds(10));
        call.media.wait_connected(Deadline::seconds(10));
        call
    }

    /// Sends `answer` and waits for nothing.
    #[track_caller]
    pub fn send_answer(&mut self, incoming: &Incoming, codecs: Codecs) -> Call {
        self.send_answer_with(incoming, codecs, &json!({}))
    }

    /// Sends `answer` with these fields on top of the usual ones and waits for nothing.
    #[track_caller]
    pub fn send_answer_with(&mut self, incoming: &Incoming, codecs: Codecs, more: &Value) -> Call {
        let (media, sdp) = Media::answer(codecs, TONE_HZ, &incoming.offer);
        let mut fields = json!({
            "callId": incoming.id, "incoming": true, "hasAudio": true, "hasVideo": true, "status": "PENDING",
            "mediaProvider": "WebRTC", "sdp": sdp, "callee": incoming.call["callee"],
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            fields[name] = value.clone();
        }
        self.socket.send("answer", fields);
        Call { id: incoming.id.clone(), media }
    }

    /// Sends `hangup` for this id.
    pub fn hangup(&self, id: &str) {
        self.socket.send("hangup", json!({ "callId": id }));
    }
}
