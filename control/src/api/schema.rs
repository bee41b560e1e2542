//! The envelope of the websocket: `{"message": name, "data": [object]}` both ways.
//!
//! Owns the names of messages and the sentences that say what was wrong with a frame. What fields mean belongs to
//! [`gateway::messages`](crate::gateway::messages).

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use thiserror::Error;

use crate::gateway::messages::{ClientMessage, ServerMessage};

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

/// Longest name of a message that is repeated in an answer.
const NAME_MAX_BYTES: usize = 64;

/// Messages about streams, refused so that the stream fails at once in the page.
const STREAMING: &[&str] =
    &["publishStream", "playStream", "unPublishStream", "stopStream", "snapshot", "availableStream", "sendStreamEvent"];

/// Reads one text frame.
///
/// # Errors
/// What is wrong, naming field and reason.
pub fn decode(text: &str) -> Result<ClientMessage, FrameProblem> {
    let value: Value = serde_json::from_str(text).map_err(|error| FrameProblem::NotJson(error.to_string()))?;
    let Value::Object(mut object) = value else { return Err(FrameProblem::NotObject(kind(&value))) };
    let name = match object.remove("message") {
        Some(Value::String(name)) => name,
        other => return Err(FrameProblem::Message(other.as_ref().map_or("absent", kind))),
    };
    // Clients send null for messages without fields; the SDK always sends an array of one.
    let data = match object.remove("data") {
        None | Some(Value::Null) => Value::Null,
        Some(Value::Array(mut items)) if items.len() <= 1 => items.pop().unwrap_or(Value::Null),
        Some(Value::Array(_)) => return Err(FrameProblem::Data("an array of several")),
        Some(other) => return Err(FrameProblem::Data(kind(&other))),
    };
    message(name, data)
}

fn message(name: String, data: Value) -> Result<ClientMessage, FrameProblem> {
    Ok(match name.as_str() {
        "connection" => ClientMessage::Connection(Box::new(fields(&name, data)?)),
        "ping" => ClientMessage::Ping,
        "pong" => ClientMessage::Pong,
        "call" => ClientMessage::Call(Box::new(fields_of_call(&name, data)?)),
        "answer" => ClientMessage::Answer(Box::new(fields_of_call(&name, data)?)),
        "hangup" => ClientMessage::Hangup(fields_of_call(&name, data)?),
        "hold" => ClientMessage::Hold(fields_of_call(&name, data)?),
        "unhold" => ClientMessage::Unhold(fields_of_call(&name, data)?),
        "sendDtmf" => ClientMessage::SendDtmf(fields_of_call(&name, data)?),
        "transfer" => ClientMessage::Transfer(fields_of_call(&name, data)?),
        "sendData" => ClientMessage::SendData(fields(&name, data)?),
        "sessionDebug" => ClientMessage::SessionDebug(fields(&name, data)?),
        stream if STREAMING.contains(&stream) => ClientMessage::Stream(fields(&name, data)?),
        _ => ClientMessage::Ignored { message: shorten(&name) },
    })
}

fn fields<T: DeserializeOwned>(name: &str, data: Value) -> Result<T, FrameProblem> {
    if !data.is_object() {
        return Err(problem(name, "data[0]", format!("must be an object, not {}", kind(&data))));
    }
    // The fields are read one at a time first only where reading the whole fails: the error then names the field at fault.
    serde_json::from_value(data.clone()).map_err(|error| match culprit::<T>(&data) {
        Some((field, reason)) => problem(name, &field, reason),
        None => problem(name, "data[0]", error.to_string()),
    })
}

/// Fields of a message about one call: `callId` must be there.
fn fields_of_call<T: DeserializeOwned>(name: &str, data: Value) -> Result<T, FrameProblem> {
    match data.get("callId") {
        _ if !data.is_object() => {}
        Some(Value::String(id)) if !id.is_empty() && id.len() <= CALL_ID_MAX_BYTES => {}
        Some(Value::String(id)) if id.is_empty() => {
            return Err(problem(name, "callId", "must not be empty".to_owned()));
        }
        Some(Value::String(_)) => {
            return Err(problem(name, "callId", format!("must be at most {CALL_ID_MAX_BYTES} bytes long")));
        }
        other => {
            let reason = format!("must be text, not {}", other.map_or("absent", kind));
            return Err(problem(name, "callId", reason));
        }
    }
    fields(name, data)
}

/// Longest `callId`. The SDK's are UUIDs of 36.
pub const CALL_ID_MAX_BYTES: usize = 128;

/// The first field that cannot be read even alone.
fn culprit<T: DeserializeOwned>(data: &Value) -> Option<(String, String)> {
    let object = data.as_object()?;
    object.iter().find_map(|(field, value)| {
        let alone = Value::Object([(field.clone(), value.clone())].into_iter().collect());
        serde_json::from_value::<T>(alone).err().map(|error| (shorten(field), error.to_string()))
    })
}

fn problem(message: &str, field: &str, reason: String) -> FrameProblem {
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

fn shorten(text: &str) -> String {
    let mut end = text.len().min(NAME_MAX_BYTES);
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
