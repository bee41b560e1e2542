//! What browsers say and are told: the messages of the WCS websocket protocol as plain data.
//!
//! Owns names and types of fields. The envelope `{message, data}`, its limits and its error texts belong to the websocket adapter.
//! Reading is lenient where the field's clients are: numbers as strings, booleans as strings, absent fields.

use gangway_shared::secret::Secret;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

pub use super::kept::KeptJson;

/// A message of a browser, by the name of its `message` field.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientMessage {
    /// `connection`: the first message of a socket.
    Connection(Box<Connection>),
    /// `ping`: answered with `pong`.
    Ping,
    /// `pong`: answers our `ping`.
    Pong,
    /// `call`
    Call(Box<CallRequest>),
    /// `answer`
    Answer(Box<AnswerRequest>),
    /// `hangup`
    Hangup(CallReference),
    /// `hold`
    Hold(CallReference),
    /// `unhold`
    Unhold(CallReference),
    /// `sendDtmf`
    SendDtmf(DtmfRequest),
    /// `transfer`
    Transfer(TransferRequest),
    /// `sendData`
    SendData(DataRequest),
    /// `sessionDebug`
    SessionDebug(DebugRequest),
    /// The streaming family (`publishStream`, `playStream` ..): not done here, refused so that the page's stream fails at once.
    Stream(StreamRequest),
    /// `pushLogs`, `submitBugReport`, messages of older clients and unknown ones: taken and ignored.
    Ignored {
        /// The name of the message.
        message: String,
    },
}

/// What a frame that cannot be read was about, as far as that can be told: it decides who must not be left waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// `connection`
    Connection,
    /// `call` with this id.
    Call(String),
    /// `answer` for the call of this id.
    Answer(String),
    /// `hold` or `unhold` of the call of this id.
    Hold(String),
    /// Another message about the call of this id.
    OfCall(String),
    /// Anything else.
    Unknown,
}

/// Fields of `connection`. What is not named here is kept in `rest` and echoed.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Connection {
    /// Names the application; selects REST hooks.
    pub app_key: Option<String>,
    /// The session outlives its socket.
    #[serde(deserialize_with = "lenient_bool")]
    pub keep_alive: Option<bool>,
    /// Resumes a kept session.
    pub auth_token: Option<Secret<String>>,
    /// User part of the address of record.
    #[serde(deserialize_with = "lenient_text")]
    pub sip_login: Option<String>,
    /// Digest user; default: `sipLogin`.
    #[serde(deserialize_with = "lenient_text")]
    pub sip_authentication_name: Option<String>,
    /// Digest password. Never echoed.
    pub sip_password: Option<Secret<String>>,
    /// Host of the address of record.
    #[serde(deserialize_with = "lenient_text")]
    pub sip_domain: Option<String>,
    /// Where requests are sent; default: `sipProxy`, then `sipDomain`. May carry a port.
    #[serde(deserialize_with = "lenient_text")]
    pub sip_outbound_proxy: Option<String>,
    /// Alias of `sipOutboundProxy`.
    #[serde(deserialize_with = "lenient_text")]
    pub sip_proxy: Option<String>,
    /// Port of the outbound proxy; default 5060.
    #[serde(deserialize_with = "lenient_port")]
    pub sip_port: Option<u16>,
    /// Whether to REGISTER; absent means yes.
    #[serde(deserialize_with = "lenient_bool")]
    pub sip_register_required: Option<bool>,
    /// Everything else, as received.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// Fields of `call` that mean something to us.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CallRequest {
    /// Made by the browser.
    pub call_id: String,
    /// The browser's offer.
    pub sdp: Option<String>,
    /// Lines for the SIP description.
    #[serde(rename = "sipSDP")]
    pub sip_sdp: Option<Vec<String>>,
    /// The browser's own login; ours wins.
    #[serde(deserialize_with = "lenient_text")]
    pub caller: Option<String>,
    /// User part or SIP URI.
    #[serde(deserialize_with = "lenient_text")]
    pub callee: Option<String>,
    /// Display name for From.
    #[serde(deserialize_with = "lenient_text")]
    pub visible_name: Option<String>,
    /// Application data, echoed in the call object.
    pub custom: Option<Value>,
    /// Header lines for the INVITE (other clients than the SDK).
    pub sip_headers: Option<Vec<String>>,
    /// As the browser claims; the SDP decides.
    #[serde(deserialize_with = "lenient_bool")]
    pub has_audio: Option<bool>,
    /// As the browser claims; the SDP decides.
    #[serde(deserialize_with = "lenient_bool")]
    pub has_video: Option<bool>,
    /// Must be `WebRTC` when present.
    pub media_provider: Option<String>,
}

/// Fields of `answer` that mean something to us.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AnswerRequest {
    /// The incoming call.
    pub call_id: String,
    /// The browser's answer.
    pub sdp: Option<String>,
    /// Lines for the SIP description.
    #[serde(rename = "sipSDP")]
    pub sip_sdp: Option<Vec<String>>,
    /// Application data.
    pub custom: Option<Value>,
}

/// Fields of `hangup`, `hold` and `unhold`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CallReference {
    /// Which call.
    pub call_id: String,
    /// `hold` that prepares an attended transfer.
    #[serde(deserialize_with = "lenient_bool")]
    pub hold_for_transfer: Option<bool>,
}

/// Fields of `sendDtmf`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DtmfRequest {
    /// Which call.
    pub call_id: String,
    /// `RFC2833`, `INFO` or `INFO_RELAY`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// One or more digits; applications pass numbers too.
    #[serde(deserialize_with = "lenient_text")]
    pub dtmf: Option<String>,
}

/// Fields of `transfer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TransferRequest {
    /// Which call.
    pub call_id: String,
    /// To whom.
    pub target: Option<String>,
}

/// Fields of `sendData`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataRequest {
    /// Repeated in the status event; at most 256 bytes.
    #[serde(deserialize_with = "short_text")]
    pub operation_id: String,
}

/// Fields of `sessionDebug`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DebugRequest {
    /// `start` or `stop`.
    pub command: Option<String>,
}

/// Fields of the streaming family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StreamRequest {
    /// The stream's id; at most 256 bytes.
    #[serde(deserialize_with = "optional_short_text")]
    pub media_session_id: Option<String>,
    /// The stream's id in `sendStreamEvent` and others; at most 256 bytes.
    #[serde(deserialize_with = "optional_short_text")]
    pub id: Option<String>,
}

/// A message to a browser.
#[derive(Clone, Debug, PartialEq)]
pub enum ServerMessage {
    /// `ping`
    Ping,
    /// `pong`
    Pong,
    /// `getUserData`: the session is established. Once per socket.
    UserData(Map<String, Value>),
    /// `registered`
    Registered(Map<String, Value>),
    /// `fail`: a warning; it ends neither call nor session.
    Fail(Fail),
    /// `DataStatusEvent`
    DataStatus {
        /// As in `sendData`.
        operation_id: String,
        /// True: `ACCEPTED`, false: `FAILED`.
        accepted: bool,
    },
    /// `notifySessionDebugEvent`
    SessionDebug {
        /// What became of the wish.
        status: &'static str,
    },
    /// `notifyStreamStatusEvent` with status FAILED.
    StreamFailed {
        /// The stream's id.
        media_session_id: String,
        /// A sentence for people.
        info: String,
    },
    /// `setRemoteSDP`: once per call.
    SetRemoteSdp {
        /// Which call.
        call_id: String,
        /// The description, CRLF.
        sdp: String,
        /// True: the answer to the browser's offer; false: an offer.
        is_initiator: bool,
    },
    /// `notifyIncomingCall`, after `setRemoteSDP`.
    IncomingCall(Box<CallView>),
    /// `notifyTryingResponse`, `ring`, `talk`, `hold`, `busy` or `finish`.
    CallStatus {
        /// Which of them.
        kind: CallMessage,
        /// The call with its status.
        call: Box<CallView>,
    },
}

/// The status messages of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallMessage {
    /// `notifyTryingResponse`
    Trying,
    /// `ring`
    Ring,
    /// `talk`
    Talk,
    /// `hold`
    Hold,
    /// `busy`: before `finish`, for mobile clients.
    Busy,
    /// `finish`: the one terminal message.
    Finish,
}

/// The object of `fail`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fail {
    /// The event that failed: `ConnectionStatusEvent`, `RegistrationStatusEvent`, `CallStatusEvent` ..
    pub api_method: String,
    /// The call, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `FAILED` or `UNREGISTERED`.
    pub status: &'static str,
    /// A code of wcs-protocol.md 4.5 or a sentence naming the field.
    pub info: String,
}

impl Fail {
    /// A failure of the session's connection.
    pub fn connection(info: impl Into<String>) -> Self {
        Fail { api_method: "ConnectionStatusEvent".to_owned(), id: None, status: "FAILED", info: info.into() }
    }

    /// A failure of the session's registration.
    pub fn registration(info: impl Into<String>) -> Self {
        Fail { api_method: "RegistrationStatusEvent".to_owned(), id: None, status: "FAILED", info: info.into() }
    }

    /// A failure that concerns a call.
    pub fn call(call_id: &str, info: impl Into<String>) -> Self {
        Fail {
            api_method: "CallStatusEvent".to_owned(),
            id: Some(call_id.to_owned()),
            status: "FAILED",
            info: info.into(),
        }
    }
}

/// A call's status as browsers and REST know it (wcs-protocol.md 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CallStatus {
    /// Accepted, nothing heard of the other side yet.
    Trying,
    /// The other side rings, or the browser does.
    Ring,
    /// The other side rings and the browser hears it: early media, or a tone of ours.
    RingMedia,
    /// The two talk.
    Established,
    /// The browser holds the other side.
    Hold,
    /// The other side is busy: never terminal by default.
    Busy,
    /// Ended normally.
    Finish,
    /// Failed.
    Failed,
}

/// A call as browsers and REST see it (wcs-protocol.md 3.2, 3.3).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CallView {
    /// The call's id.
    pub call_id: String,
    /// Whether it came from the SIP side.
    pub incoming: bool,
    /// Where it stands.
    pub status: CallStatus,
    /// The last SIP status of the other side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sip_status: Option<u16>,
    /// Why it failed: a text of wcs-protocol.md 4.4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<String>,
    /// Who calls.
    pub caller: String,
    /// Who is called.
    pub callee: String,
    /// What to show for the caller.
    pub visible_name: String,
    /// Always true: every call has audio.
    pub has_audio: bool,
    /// Whether video is part of it.
    pub has_video: bool,
    /// `WebRTC`
    pub media_provider: &'static str,
    /// Application data of `call`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub custom: Option<KeptJson>,
    /// The node that has it.
    pub node_id: String,
    /// The session's application.
    pub app_key: String,
    /// The session's id.
    pub session_id: String,
}

impl ServerMessage {
    /// The `message` field of the envelope.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            ServerMessage::Ping => "ping",
            ServerMessage::Pong => "pong",
            ServerMessage::UserData(_) => "getUserData",
            ServerMessage::Registered(_) => "registered",
            ServerMessage::Fail(_) => "fail",
            ServerMessage::DataStatus { .. } => "DataStatusEvent",
            ServerMessage::SessionDebug { .. } => "notifySessionDebugEvent",
            ServerMessage::StreamFailed { .. } => "notifyStreamStatusEvent",
            ServerMessage::SetRemoteSdp { .. } => "setRemoteSDP",
            ServerMessage::IncomingCall(_) => "notifyIncomingCall",
            ServerMessage::CallStatus { kind, .. } => match kind {
                CallMessage::Trying => "notifyTryingResponse",
                CallMessage::Ring => "ring",
                CallMessage::Talk => "talk",
                CallMessage::Hold => "hold",
                CallMessage::Busy => "busy",
                CallMessage::Finish => "finish",
            },
        }
    }

    /// The `data` field of the envelope: never empty, because the SDK reads element 0 before it looks at the name (rule R1).
    #[must_use]
    pub fn data(&self) -> Vec<Value> {
        match self {
            ServerMessage::Ping | ServerMessage::Pong => vec![Value::Null],
            ServerMessage::UserData(fields) | ServerMessage::Registered(fields) => vec![Value::Object(fields.clone())],
            ServerMessage::Fail(fail) => vec![object(fail)],
            ServerMessage::DataStatus { operation_id, accepted } => {
                vec![json!({"operationId": operation_id, "status": if *accepted { "ACCEPTED" } else { "FAILED" }})]
            }
            ServerMessage::SessionDebug { status } => vec![json!({"status": status})],
            ServerMessage::StreamFailed { media_session_id, info } => {
                vec![json!({"mediaSessionId": media_session_id, "status": "FAILED", "info": info})]
            }
            ServerMessage::SetRemoteSdp { call_id, sdp, is_initiator } => {
                vec![json!(call_id), json!(sdp), json!(is_initiator)]
            }
            ServerMessage::IncomingCall(call) | ServerMessage::CallStatus { call, .. } => vec![object(call)],
        }
    }
}

fn object(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("plain structs with text keys always serialise")
}

/// A boolean, or the texts `true` and `false` in any case (REST examples send those).
fn lenient_bool<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::Bool(value) => Ok(Some(value)),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(Some(true)),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(Some(false)),
        other => Err(serde::de::Error::custom(format!("must be true or false, not {other}"))),
    }
}

/// A port as a number or as text (the example pages send text); empty text is absent.
fn lenient_port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let port = match &value {
        Value::Null => return Ok(None),
        Value::String(text) if text.trim().is_empty() => return Ok(None),
        Value::String(text) => text.trim().parse().ok(),
        Value::Number(number) => number.as_u64().and_then(|number| u16::try_from(number).ok()),
        _ => None,
    };
    match port {
        Some(port) if port > 0 => Ok(Some(port)),
        _ => Err(serde::de::Error::custom(format!("must be a port from 1 to 65535, not {value}"))),
    }
}

/// Text, or a number that is meant as its digits.
fn lenient_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        Value::Number(number) => Ok(Some(number.to_string())),
        other => Err(serde::de::Error::custom(format!("must be text or a number, not {other}"))),
    }
}

/// Longest id that is repeated in an answer, in bytes; the SDK's are UUIDs.
const ECHOED_ID_MAX_BYTES: usize = 256;

fn short_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.len() > ECHOED_ID_MAX_BYTES {
        return Err(serde::de::Error::custom(format!("must be at most {ECHOED_ID_MAX_BYTES} bytes long")));
    }
    Ok(text)
}

fn optional_short_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    struct Short(#[serde(deserialize_with = "short_text")] String);
    Ok(Option::<Short>::deserialize(deserializer)?.map(|short| short.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_reads_what_the_phone_page_sends_and_keeps_the_rest() {
        let connection: Connection = serde_json::from_value(json!({
            "appKey": "defaultApp", "mediaProviders": ["WebRTC"], "keepAlive": true, "clientVersion": "2.0",
            "sipLogin": "1001", "sipPassword": "secret", "sipPort": "5070", "sipRegisterRequired": "false",
        }))
        .unwrap();
        assert_eq!(connection.sip_port, Some(5070));
        assert_eq!(connection.sip_register_required, Some(false));
        assert_eq!(connection.rest["mediaProviders"], json!(["WebRTC"]));
        assert!(!format!("{connection:?}").contains("secret"));
    }

    #[test]
    fn a_port_out_of_range_is_refused_by_value() {
        for bad in [json!("0"), json!(70000), json!("x"), json!([])] {
            let error = serde_json::from_value::<Connection>(json!({ "sipPort": bad })).unwrap_err();
            assert!(error.to_string().contains("1 to 65535"), "{error}");
        }
    }

    #[test]
    fn names_and_numbers_to_call_may_be_json_numbers() {
        let call: CallRequest =
            serde_json::from_value(json!({"callId": "a", "callee": 1002, "caller": 1001, "visibleName": 7})).unwrap();
        assert_eq!(call.callee.as_deref(), Some("1002"));
        assert_eq!(call.caller.as_deref(), Some("1001"));
        assert_eq!(call.visible_name.as_deref(), Some("7"));
        let connection: Connection =
            serde_json::from_value(json!({"sipLogin": 1001, "sipAuthenticationName": 1001})).unwrap();
        assert_eq!(connection.sip_login.as_deref(), Some("1001"));
        assert_eq!(connection.sip_authentication_name.as_deref(), Some("1001"));
    }

    #[test]
    fn dtmf_may_be_a_number() {
        let request: DtmfRequest = serde_json::from_value(json!({"callId": "a", "dtmf": 12})).unwrap();
        assert_eq!(request.dtmf.as_deref(), Some("12"));
    }

    #[test]
    fn every_server_message_has_a_first_element() {
        for message in [ServerMessage::Ping, ServerMessage::Pong, ServerMessage::UserData(Map::new())] {
            assert!(!message.data().is_empty(), "{}", message.name());
        }
    }
}
