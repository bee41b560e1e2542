//! The envelope of the websocket: `{"message": name, "data": [object]}` both ways.
//!
//! Owns the names of messages and the sentences that say what was wrong with a frame. What fields mean belongs to
//! [`gateway::messages`](crate::gateway::messages).

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use thiserror::Error;

use crate::gateway::messages::{CallReference, ClientMessage, ServerMessage, Subject};

/// A frame that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{problem}")]
pub struct BadFrame {
    /// What it was about.
    pub subject: Subject,
    /// What is wrong with it.
    pub problem: FrameProblem,
}

impl From<FrameProblem> for BadFrame {
    /// For a frame that does not even tell what it is about.
    fn from(problem: FrameProblem) -> Self {
        BadFrame { subject: Subject::Unknown, problem }
    }
}

/// What is wrong with a frame: a sentence for the `fail` that the browser gets.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameProblem {
    /// Not JSON at all.
    #[error("the frame is not JSON: {0}")]
    NotJson(String),
    /// JSON, but no object.
    #[error("the frame must be a JSON object, not {0}")]
    NotObject(&'static str),
    /// `message` is absent or no text.
    #[error("field message: must be text, not {0}")]
    Message(&'static str),
    /// `data` is no array of at most one element.
    #[error("field data: must be an array of one element, not {0}")]
    Data(&'static str),
    /// The element of `data` does not fit the message.
    #[error("message {message}: field {field}: {reason}")]
    Field {
        /// Name of the message.
        message: String,
        /// Path of the field, as far as known; else `data[0]`.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// A binary frame.
    #[error("binary frames are not understood; send JSON in text frames")]
    Binary,
}

/// Longest name of a message or field that is repeated in an answer.
const NAME_MAX_BYTES: usize = 64;
/// Longest reason, which may repeat a value: the sender of a long one must not get it all back.
const REASON_MAX_BYTES: usize = 256;

/// Messages about streams, refused so that the stream fails at once in the page.
const STREAMING: &[&str] =
    &["publishStream", "playStream", "unPublishStream", "stopStream", "snapshot", "availableStream", "sendStreamEvent"];

/// Reads one text frame.
///
/// # Errors
/// What is wrong, naming field and reason, and what the frame was about.
pub fn decode(text: &str) -> Result<ClientMessage, BadFrame> {
    let value: Value = serde_json::from_str(text).map_err(|error| FrameProblem::NotJson(error.to_string()))?;
    let Value::Object(mut object) = value else { return Err(FrameProblem::NotObject(kind(&value)).into()) };
    let name = match object.remove("message") {
        Some(Value::String(name)) => name,
        other => return Err(FrameProblem::Message(other.as_ref().map_or("absent", kind)).into()),
    };
    // Clients send null for messages without fields; the SDK always sends an array of one.
    let data = match object.remove("data") {
        None | Some(Value::Null) => Value::Null,
        Some(Value::Array(mut items)) if items.len() <= 1 => items.pop().unwrap_or(Value::Null),
        Some(other) => {
            let what = if other.is_array() { "an array of several" } else { kind(&other) };
            let subject = subject(&name, other.get(0).unwrap_or(&Value::Null));
            return Err(BadFrame { subject, problem: FrameProblem::Data(what) });
        }
    };
    message(&name, &data).map_err(|problem| BadFrame { subject: subject(&name, &data), problem })
}

fn message(name: &str, data: &Value) -> Result<ClientMessage, FrameProblem> {
    Ok(match name {
        "connection" => ClientMessage::Connection(Box::new(fields(name, data)?)),
        "ping" => ClientMessage::Ping,
        "pong" => ClientMessage::Pong,
        "call" => ClientMessage::Call(Box::new(fields_of_call(name, data)?)),
        "answer" => ClientMessage::Answer(Box::new(fields_of_call(name, data)?)),
        // Nothing but its id is needed, so nothing else can stand in the way of a hangup.
        "hangup" => ClientMessage::Hangup(CallReference { call_id: call_id(name, data)?, hold_for_transfer: None }),
        "hold" => ClientMessage::Hold(fields_of_call(name, data)?),
        "unhold" => ClientMessage::Unhold(fields_of_call(name, data)?),
        "sendDtmf" => ClientMessage::SendDtmf(fields_of_call(name, data)?),
        "transfer" => ClientMessage::Transfer(fields_of_call(name, data)?),
        "sendData" => ClientMessage::SendData(fields(name, data)?),
        "sessionDebug" => ClientMessage::SessionDebug(fields(name, data)?),
        stream if STREAMING.contains(&stream) => ClientMessage::Stream(fields(name, data)?),
        _ => ClientMessage::Ignored { message: shorten(name, NAME_MAX_BYTES) },
    })
}

/// What a message is about, whatever is wrong with its other fields.
fn subject(name: &str, data: &Value) -> Subject {
    let of_call = match name {
        "connection" => return Subject::Connection,
        "call" => Subject::Call,
        "answer" => Subject::Answer,
        "hold" | "unhold" => Subject::Hold,
        "hangup" | "sendDtmf" | "transfer" => Subject::OfCall,
        _ => return Subject::Unknown,
    };
    call_id(name, data).map_or(Subject::Unknown, of_call)
}

fn fields<T: DeserializeOwned>(name: &str, data: &Value) -> Result<T, FrameProblem> {
    must_be_object(name, data)?;
    // The fields are read one at a time only where reading the whole fails: the error then names the field at fault.
    T::deserialize(data).map_err(|error| match culprit::<T>(data) {
        Some((field, reason)) => problem(name, &field, reason),
        None => problem(name, "data[0]", error.to_string()),
    })
}

fn must_be_object(name: &str, data: &Value) -> Result<(), FrameProblem> {
    match data {
        Value::Object(_) => Ok(()),
        other => Err(problem(name, "data[0]", format!("must be an object, not {}", kind(other)))),
    }
}

/// Fields of a message about one call: `callId` must be there.
fn fields_of_call<T: DeserializeOwned>(name: &str, data: &Value) -> Result<T, FrameProblem> {
    call_id(name, data)?;
    fields(name, data)
}

fn call_id(name: &str, data: &Value) -> Result<String, FrameProblem> {
    must_be_object(name, data)?;
    match data.get("callId") {
        Some(Value::String(id)) if id.is_empty() => Err(problem(name, "callId", "must not be empty".to_owned())),
        Some(Value::String(id)) if id.len() > CALL_ID_MAX_BYTES => {
            Err(problem(name, "callId", format!("must be at most {CALL_ID_MAX_BYTES} bytes long")))
        }
        Some(Value::String(id)) => Ok(id.clone()),
        other => Err(problem(name, "callId", format!("must be text, not {}", other.map_or("absent", kind)))),
    }
}

/// Longest `callId`. The SDK's are UUIDs of 36.
pub const CALL_ID_MAX_BYTES: usize = 128;

/// The first field that cannot be read even alone.
fn culprit<T: DeserializeOwned>(data: &Value) -> Option<(String, String)> {
    let object = data.as_object()?;
    object.iter().find_map(|(field, value)| {
        let alone = Value::Object([(field.clone(), value.clone())].into_iter().collect());
        serde_json::from_value::<T>(alone).err().map(|error| (shorten(field, NAME_MAX_BYTES), error.to_string()))
    })
}

fn problem(message: &str, field: &str, reason: String) -> FrameProblem {
    let reason = shorten(&reason, REASON_MAX_BYTES);
    FrameProblem::Field { message: message.to_owned(), field: field.to_owned(), reason }
}

/// The text of a message to a browser. `data` is always an array with an element 0 (rule R1).
#[must_use]
pub fn encode(message: &ServerMessage) -> String {
    #[derive(Serialize)]
    struct Envelope {
        message: &'static str,
        data: Vec<Value>,
    }
    let envelope = Envelope { message: message.name(), data: message.data() };
    serde_json::to_string(&envelope).expect("text keys and JSON values always serialise")
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn shorten(text: &str, max_bytes: usize) -> String {
    let mut end = text.len().min(max_bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::gateway::messages::{CallReference, Fail};

    fn problem_of(text: &str) -> String {
        decode(text).expect_err(text).to_string()
    }

    #[test]
    fn the_sdks_messages_are_known() {
        for (text, expected) in [
            (r#"{"message":"pong","data":[null]}"#, ClientMessage::Pong),
            (r#"{"message":"ping","data":[null]}"#, ClientMessage::Ping),
            (r#"{"message":"ping"}"#, ClientMessage::Ping),
            (
                r#"{"message":"hangup","data":[{"callId":"a-1"}]}"#,
                ClientMessage::Hangup(CallReference { call_id: "a-1".to_owned(), hold_for_transfer: None }),
            ),
            (
                r#"{"message":"hold","data":[{"callId":"a","holdForTransfer":true}]}"#,
                ClientMessage::Hold(CallReference { call_id: "a".to_owned(), hold_for_transfer: Some(true) }),
            ),
            (
                r#"{"message":"pushLogs","data":[{"logs":"x"}]}"#,
                ClientMessage::Ignored { message: "pushLogs".to_owned() },
            ),
        ] {
            assert_eq!(decode(text), Ok(expected), "{text}");
        }
        for name in ["connection", "sendData", "sessionDebug", "publishStream", "playStream"] {
            let decoded = decode(&format!(r#"{{"message":"{name}","data":[{{}}]}}"#));
            assert!(!matches!(decoded, Err(_) | Ok(ClientMessage::Ignored { .. })), "{name}: {decoded:?}");
        }
        for name in ["call", "answer", "unhold", "sendDtmf", "transfer"] {
            let decoded = decode(&format!(r#"{{"message":"{name}","data":[{{"callId":"c"}}]}}"#));
            assert!(!matches!(decoded, Err(_) | Ok(ClientMessage::Ignored { .. })), "{name}: {decoded:?}");
        }
    }

    #[test]
    fn a_malformed_frame_is_told_by_field_and_reason() {
        assert!(problem_of("hello").starts_with("the frame is not JSON: "));
        assert_eq!(problem_of("[1]"), "the frame must be a JSON object, not an array");
        assert_eq!(problem_of("{}"), "field message: must be text, not absent");
        assert_eq!(problem_of(r#"{"message":7,"data":[]}"#), "field message: must be text, not a number");
        assert_eq!(
            problem_of(r#"{"message":"ping","data":{}}"#),
            "field data: must be an array of one element, not an object"
        );
        assert_eq!(
            problem_of(r#"{"message":"ping","data":[1,2]}"#),
            "field data: must be an array of one element, not an array of several"
        );
        assert_eq!(
            problem_of(r#"{"message":"call","data":[{}]}"#),
            "message call: field callId: must be text, not absent"
        );
        assert_eq!(
            problem_of(r#"{"message":"hangup","data":["x"]}"#),
            "message hangup: field data[0]: must be an object, not text"
        );
        let wrong = problem_of(r#"{"message":"connection","data":[{"appKey":"a","sipLogin":[]}]}"#);
        assert!(wrong.starts_with("message connection: field sipLogin: "), "{wrong}");
        let wrong = problem_of(r#"{"message":"connection","data":[{"sipPort":"70000"}]}"#);
        assert!(wrong.starts_with("message connection: field sipPort: must be a port from 1 to 65535"), "{wrong}");
        let wrong = problem_of(r#"{"message":"call","data":[{"callId":"c","sipSDP":[1]}]}"#);
        assert!(wrong.starts_with("message call: field sipSDP: "), "{wrong}");
    }

    #[test]
    fn a_bad_frame_tells_what_it_was_about() {
        let id = || "c".to_owned();
        for (text, subject) in [
            (r#"{"message":"connection","data":[{"sipPort":"x"}]}"#, Subject::Connection),
            (r#"{"message":"connection","data":7}"#, Subject::Connection),
            (r#"{"message":"call","data":[{"callId":"c","callee":[]}]}"#, Subject::Call(id())),
            (r#"{"message":"call","data":[{"callId":"c"},{}]}"#, Subject::Call(id())),
            (r#"{"message":"answer","data":[{"callId":"c","sdp":1}]}"#, Subject::Answer(id())),
            (r#"{"message":"hold","data":[{"callId":"c","holdForTransfer":1}]}"#, Subject::Hold(id())),
            (r#"{"message":"transfer","data":[{"callId":"c","target":1}]}"#, Subject::OfCall(id())),
            (r#"{"message":"call","data":[{"callId":7}]}"#, Subject::Unknown),
            (r#"{"message":"sendData","data":[7]}"#, Subject::Unknown),
            ("[]", Subject::Unknown),
        ] {
            assert_eq!(decode(text).expect_err(text).subject, subject, "{text}");
        }
        let hangup = decode(r#"{"message":"hangup","data":[{"callId":"c","holdForTransfer":[]}]}"#);
        assert!(matches!(hangup, Ok(ClientMessage::Hangup(_))), "{hangup:?}");
    }

    #[test]
    fn a_long_value_is_not_repeated_to_its_sender() {
        let long = format!(r#"{{"message":"call","data":[{{"callId":"c","callee":["{}"]}}]}}"#, "x".repeat(100_000));
        assert!(problem_of(&long).len() < 512);
    }

    #[test]
    fn deep_nesting_and_long_names_are_refused_or_cut() {
        let deep = format!(r#"{{"message":"call","data":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert!(problem_of(&deep).starts_with("the frame is not JSON: recursion limit"));
        let long = decode(&format!(r#"{{"message":"{}","data":[]}}"#, "\u{e9}".repeat(1000))).unwrap();
        let ClientMessage::Ignored { message } = long else { panic!("{long:?}") };
        assert_eq!(message.len(), NAME_MAX_BYTES);
    }

    #[test]
    fn what_is_sent_is_pinned() {
        assert_eq!(encode(&ServerMessage::Ping), r#"{"message":"ping","data":[null]}"#);
        assert_eq!(
            encode(&ServerMessage::Fail(Fail::connection("sipLogin: no spaces"))),
            r#"{"message":"fail","data":[{"apiMethod":"ConnectionStatusEvent","status":"FAILED","info":"sipLogin: no spaces"}]}"#
        );
        assert_eq!(
            encode(&ServerMessage::SetRemoteSdp { call_id: "c".into(), sdp: "v=0\r\n".into(), is_initiator: true }),
            r#"{"message":"setRemoteSDP","data":["c","v=0\r\n",true]}"#
        );
        let user = Map::from_iter([("sipLogin".to_owned(), json!("1001"))]);
        assert_eq!(encode(&ServerMessage::UserData(user)), r#"{"message":"getUserData","data":[{"sipLogin":"1001"}]}"#);
    }
}
