//! Framing of RCP: `u32` big-endian length, then that many bytes of one JSON object.

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// Largest JSON object in bytes. Lists that would not fit are paged, so a longer frame is a fault of the peer.
pub const FRAME_MAX_BYTES: usize = 64 * 1024;

/// Bytes of the length in front of each object.
pub const HEADER_BYTES: usize = 4;

/// Why a byte stream is not RCP. Each is final for the connection: the next frame cannot be found.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The announced or produced object is larger than [`FRAME_MAX_BYTES`].
    #[error("a frame of {0} bytes exceeds the limit of {FRAME_MAX_BYTES}")]
    TooLarge(usize),
    /// The object does not match the schema; the cause names the field.
    #[error("not an RCP message: {0}")]
    Schema(#[from] serde_json::Error),
}

/// Appends `message` as one frame to `out`.
///
/// # Errors
/// [`FrameError::TooLarge`]; `out` is then left as it was.
pub fn encode<T: Serialize>(message: &T, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let body = serde_json::to_vec(message)?;
    let len = u32::try_from(body.len()).ok().filter(|_| body.len() <= FRAME_MAX_BYTES);
    let len = len.ok_or(FrameError::TooLarge(body.len()))?;
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&body);
    Ok(())
}

/// Takes the first whole frame off the front of `buffer`; `Ok(None)` when more bytes are needed.
///
/// # Errors
/// [`FrameError`] when the stream is not RCP; the connection must then be closed.
pub fn decode<T: DeserializeOwned>(buffer: &mut Vec<u8>) -> Result<Option<T>, FrameError> {
    let Some((header, rest)) = buffer.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let len = u32::from_be_bytes(*header) as usize;
    if len > FRAME_MAX_BYTES {
        return Err(FrameError::TooLarge(len));
    }
    let Some(body) = rest.get(..len) else { return Ok(None) };
    let message = serde_json::from_slice(body)?;
    buffer.drain(..HEADER_BYTES + len);
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn frames_are_taken_one_by_one_from_any_cut() {
        let mut wire = Vec::new();
        encode(&json!({"a": 1}), &mut wire).unwrap();
        encode(&json!({"b": [2]}), &mut wire).unwrap();
        let mut buffer = Vec::new();
        let mut seen = Vec::new();
        for byte in wire {
            buffer.push(byte);
            while let Some(message) = decode::<Value>(&mut buffer).unwrap() {
                seen.push(message);
            }
        }
        assert_eq!(seen, [json!({"a": 1}), json!({"b": [2]})]);
        assert!(buffer.is_empty());
    }

    #[test]
    fn oversized_frames_are_refused_before_they_are_buffered() {
        let mut buffer = u32::MAX.to_be_bytes().to_vec();
        assert!(matches!(decode::<Value>(&mut buffer), Err(FrameError::TooLarge(_))));
        let mut out = Vec::new();
        let big = "x".repeat(FRAME_MAX_BYTES);
        assert!(matches!(encode(&big, &mut out), Err(FrameError::TooLarge(_))));
        assert!(out.is_empty());
    }
}
