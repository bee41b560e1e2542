//! JSON that clients gave us and get back: bounded, and kept as one compact text, because a tree of values takes many times as much.

use serde::Serialize;
use serde_json::Value;

/// Most bytes kept of what one `connection` or one `call` gives: far above what pages send, far below what would hurt in numbers.
pub(super) const KEPT_MAX_BYTES: usize = 16 * 1024;

/// A JSON value as text without spaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeptJson(Box<str>);

impl Default for KeptJson {
    /// `null`
    fn default() -> Self {
        KeptJson("null".into())
    }
}

impl KeptJson {
    /// Keeps `value`; `None` when its text is longer than [`KEPT_MAX_BYTES`].
    pub(super) fn of(value: &impl Serialize) -> Option<Self> {
        let text = serde_json::to_string(value).ok().filter(|text| text.len() <= KEPT_MAX_BYTES)?;
        Some(KeptJson(text.into_boxed_str()))
    }

    /// The value.
    pub(super) fn value(&self) -> Value {
        serde_json::from_str(&self.0).expect("what was serialised can be read")
    }

    /// Bytes of the text.
    pub(super) fn len_bytes(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_what_is_too_long_is_not_kept() {
        let value = json!({"b": [1, null, "x\u{e9}"], "a": {"deep": 1.5}});
        let kept = KeptJson::of(&value).unwrap();
        assert_eq!((kept.value(), kept.len_bytes()), (value.clone(), value.to_string().len()));
        assert_eq!(KeptJson::default().value(), Value::Null);
        let longest = json!("x".repeat(KEPT_MAX_BYTES - 2));
        assert_eq!(KeptJson::of(&longest).unwrap().len_bytes(), KEPT_MAX_BYTES);
        assert_eq!(KeptJson::of(&json!("x".repeat(KEPT_MAX_BYTES - 1))), None);
    }
}
