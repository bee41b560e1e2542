//! JSON that clients gave us and get back: bounded, and kept as one compact text, because a tree of values takes many times as much.
//! It goes from the text to the writer of an answer without a tree between.

use std::{cell::Cell, fmt, sync::Arc};

use serde::{
    Serialize, Serializer,
    de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor},
    ser::{Error as _, SerializeMap, SerializeSeq},
};
use serde_json::Value;

/// Most bytes kept of what one `connection` or one `call` gives: far above what pages send, far below what would hurt in numbers.
pub(super) const KEPT_MAX_BYTES: usize = 16 * 1024;

/// A JSON value as text without spaces; copies share the text. Serialises as the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptJson(Arc<str>);

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
        Some(KeptJson(text.into()))
    }

    /// The value as a tree, which takes many times as much memory as its text.
    ///
    /// # Panics
    /// Never: the text was written by the same serialiser.
    #[must_use]
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.0).expect("what was serialised can be read")
    }

    /// Bytes of the text.
    pub(super) fn len_bytes(&self) -> usize {
        self.0.len()
    }
}

impl Serialize for KeptJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Read(Cell::new(Some(&mut serde_json::Deserializer::from_str(&self.0)))).serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for KeptJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        KeptJson::of(&value).ok_or_else(|| D::Error::custom("it is longer than what is kept"))
    }
}

/// A value that is read, once, while it is written.
struct Read<D>(Cell<Option<D>>);

impl<'de, D: Deserializer<'de>> Serialize for Read<D> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let reader = self.0.take().ok_or_else(|| S::Error::custom("a value can be read once"))?;
        reader.deserialize_any(Written(serializer)).map_err(S::Error::custom)
    }
}

/// Writes the value that it is shown.
struct Written<S>(S);

impl<'de, S: Serializer> Visitor<'de> for Written<S> {
    type Value = S::Ok;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<S::Ok, E> {
        self.0.serialize_unit().map_err(E::custom)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<S::Ok, E> {
        self.0.serialize_bool(value).map_err(E::custom)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<S::Ok, E> {
        self.0.serialize_i64(value).map_err(E::custom)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<S::Ok, E> {
        self.0.serialize_u64(value).map_err(E::custom)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<S::Ok, E> {
        self.0.serialize_f64(value).map_err(E::custom)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<S::Ok, E> {
        self.0.serialize_str(value).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<S::Ok, A::Error> {
        let mut array = self.0.serialize_seq(None).map_err(A::Error::custom)?;
        while elements.next_element_seed(Element(&mut array))?.is_some() {}
        array.end().map_err(A::Error::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<S::Ok, A::Error> {
        let mut object = self.0.serialize_map(None).map_err(A::Error::custom)?;
        while let Some(name) = fields.next_key::<String>()? {
            object.serialize_key(&name).map_err(A::Error::custom)?;
            fields.next_value_seed(FieldValue(&mut object))?;
        }
        object.end().map_err(A::Error::custom)
    }
}

/// Writes the next element of an array.
struct Element<'a, A>(&'a mut A);

impl<'de, A: SerializeSeq> DeserializeSeed<'de> for Element<'_, A> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        self.0.serialize_element(&Read(Cell::new(Some(reader)))).map_err(D::Error::custom)
    }
}

/// Writes the value of the field whose name was written last.
struct FieldValue<'a, O>(&'a mut O);

impl<'de, O: SerializeMap> DeserializeSeed<'de> for FieldValue<'_, O> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<(), D::Error> {
        self.0.serialize_value(&Read(Cell::new(Some(reader)))).map_err(D::Error::custom)
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
        assert_eq!(serde_json::to_string(&kept).unwrap(), value.to_string());
        let longest = json!("x".repeat(KEPT_MAX_BYTES - 2));
        assert_eq!(KeptJson::of(&longest).unwrap().len_bytes(), KEPT_MAX_BYTES);
        assert_eq!(KeptJson::of(&json!("x".repeat(KEPT_MAX_BYTES - 1))), None);
    }

    #[test]
    fn every_kind_of_value_is_written_as_its_tree_would_be() {
        #[derive(Serialize)]
        struct Beside {
            #[serde(flatten)]
            fields: KeptJson,
            more: u8,
        }
        let texts = [
            "null",
            "true",
            "\"\\u0000 \\\\ \\\" \u{e9} \u{1f600}\"",
            "[]",
            "{}",
            "[18446744073709551615,-9223372036854775808,18446744073709551616,0,-0,-0.0,0.1,1e300,2.50,1E-7]",
            r#"{"a":[[],[{}],{"b":{"c":[null,false]}}],"":"","\"":1}"#,
        ];
        for text in texts {
            let value: Value = serde_json::from_str(text).unwrap();
            let kept = KeptJson::of(&value).unwrap();
            assert_eq!(serde_json::to_string(&kept).unwrap(), value.to_string());
            assert_eq!(serde_json::to_value(&kept).unwrap(), value);
        }
        let beside = Beside { fields: KeptJson::of(&json!({"a": [1, {"b": 2}]})).unwrap(), more: 3 };
        assert_eq!(serde_json::to_string(&beside).unwrap(), r#"{"a":[1,{"b":2}],"more":3}"#);
    }
}
