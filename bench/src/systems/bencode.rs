//! Bencode, as far as rtpengine's `ng` protocol needs it.

use std::collections::BTreeMap;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Bytes.
    Text(Vec<u8>),
    /// A whole number.
    Number(i64),
    /// Values in order.
    List(Vec<Value>),
    /// Values by name.
    Dict(BTreeMap<Vec<u8>, Value>),
}

/// Values that hold each other deeper than this are refused.
const DEPTH_MAX: usize = 16;

impl Value {
    /// A dictionary of texts and other values.
    pub fn dict<'a>(entries: impl IntoIterator<Item = (&'a str, Value)>) -> Self {
        Value::Dict(entries.into_iter().map(|(name, value)| (name.as_bytes().to_vec(), value)).collect())
    }

    /// A text.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Value::Text(text.as_bytes().to_vec())
    }

    /// The text of this name in a dictionary.
    #[must_use]
    pub fn text_of(&self, name: &str) -> Option<String> {
        match self {
            Value::Dict(entries) => match entries.get(name.as_bytes())? {
                Value::Text(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
                _ => None,
            },
            _ => None,
        }
    }

    /// Appends the value as it goes over the wire.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::Text(bytes) => {
                out.extend_from_slice(format!("{}:", bytes.len()).as_bytes());
                out.extend_from_slice(bytes);
            }
            Value::Number(number) => out.extend_from_slice(format!("i{number}e").as_bytes()),
            Value::List(values) => {
                out.push(b'l');
                values.iter().for_each(|value| value.encode(out));
                out.push(b'e');
            }
            Value::Dict(entries) => {
                out.push(b'd');
                for (name, value) in entries {
                    Value::Text(name.clone()).encode(out);
                    value.encode(out);
                }
                out.push(b'e');
            }
        }
    }

    /// Reads one value that fills `bytes`.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let value = take(&mut bytes, 0)?;
        bytes.is_empty().then_some(value)
    }
}

fn take(bytes: &mut &[u8], depth: usize) -> Option<Value> {
    if depth > DEPTH_MAX {
        return None;
    }
    match bytes.first()? {
        b'i' => {
            let end = bytes.iter().position(|&byte| byte == b'e')?;
            let number = std::str::from_utf8(&bytes[1..end]).ok()?.parse().ok()?;
            *bytes = &bytes[end + 1..];
            Some(Value::Number(number))
        }
        b'l' => {
            *bytes = &bytes[1..];
            let mut values = Vec::new();
            while *bytes.first()? != b'e' {
                values.push(take(bytes, depth + 1)?);
            }
            *bytes = &bytes[1..];
            Some(Value::List(values))
        }
        b'd' => {
            *bytes = &bytes[1..];
            let mut entries = BTreeMap::new();
            while *bytes.first()? != b'e' {
                let Value::Text(name) = take(bytes, depth + 1)? else { return None };
                entries.insert(name, take(bytes, depth + 1)?);
            }
            *bytes = &bytes[1..];
            Some(Value::Dict(entries))
        }
        b'0'..=b'9' => {
            let colon = bytes.iter().position(|&byte| byte == b':')?;
            let len: usize = std::str::from_utf8(&bytes[..colon]).ok()?.parse().ok()?;
            let rest = &bytes[colon + 1..];
            let text = rest.get(..len)?.to_vec();
            *bytes = &rest[len..];
            Some(Value::Text(text))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_wire() {
        let value = Value::dict([
            ("command", Value::text("offer")),
            ("flags", Value::List(vec![Value::text("a"), Value::Number(-7)])),
            ("sdp", Value::text("v=0\r\n")),
        ]);
        let mut bytes = Vec::new();
        value.encode(&mut bytes);
        assert_eq!(bytes, b"d7:command5:offer5:flagsl1:ai-7ee3:sdp5:v=0\r\ne");
        assert_eq!(Value::decode(&bytes), Some(value.clone()));
        assert_eq!(value.text_of("command").as_deref(), Some("offer"));
        for cut in 0..bytes.len() {
            assert_eq!(Value::decode(&bytes[..cut]), None);
        }
        assert_eq!(Value::decode(&b"l".repeat(100)), None);
    }
}
