//! VP8 in RTP (RFC 7741): where a key frame starts. Reads the payload descriptor and the first byte behind it, nothing else.
//!
//! ```text
//!      0 1 2 3 4 5 6 7
//!     |X|R|N|S|R| PID |   S: starts a partition, PID: its number
//! X:  |I|L|T|K| RSV   |
//! I:  |M| PictureID   |   M: a second byte follows
//! L:  |   TL0PICIDX   |
//! T/K:|TID|Y| KEYIDX  |
//!     |Size0|H| VER |P|   first byte of the frame, P = 0: key frame
//! ```

const EXTENSION_BIT: u8 = 0x80;
const START_BIT: u8 = 0x10;
const PARTITION_MASK: u8 = 0x07;
const PICTURE_ID_BIT: u8 = 0x80;
const LONG_PICTURE_ID_BIT: u8 = 0x80;
const LAYER_INDEX_BIT: u8 = 0x40;
const LAYER_OR_KEY_INDEX_BITS: u8 = 0x20 | 0x10;
const INTER_FRAME_BIT: u8 = 0x01;

/// Whether a payload is the first of a key frame (RFC 7741 sections 4.2 and 4.3). False for what is cut off before that shows.
#[must_use]
pub fn starts_key_frame(payload: &[u8]) -> bool {
    frame_header(payload).is_some_and(|byte| byte & INTER_FRAME_BIT == 0)
}

/// The first byte of the frame, when the payload starts one.
fn frame_header(payload: &[u8]) -> Option<u8> {
    let first = *payload.first()?;
    if first & START_BIT == 0 || first & PARTITION_MASK != 0 {
        return None;
    }
    let mut at = 1;
    if first & EXTENSION_BIT != 0 {
        let extension = *payload.get(1)?;
        at = 2;
        if extension & PICTURE_ID_BIT != 0 {
            at += if payload.get(at)? & LONG_PICTURE_ID_BIT == 0 { 1 } else { 2 };
        }
        at += usize::from(extension & LAYER_INDEX_BIT != 0);
        at += usize::from(extension & LAYER_OR_KEY_INDEX_BITS != 0);
    }
    payload.get(at).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_packet_of_a_key_frame_is_known_whatever_its_descriptor_holds() {
        let key: [&[u8]; 5] = [
            &[0x10, 0x50],
            &[0x90, 0x80, 0x11, 0x50],
            &[0x90, 0x80, 0x91, 0x22, 0x50],
            &[0x90, 0xe0, 0x91, 0x22, 1, 0x40, 0x50],
            &[0xb0, 0x10, 0x07, 0x50],
        ];
        for payload in key {
            assert!(starts_key_frame(payload), "{payload:02x?}");
            let mut inter = payload.to_vec();
            *inter.last_mut().unwrap() |= 1;
            assert!(!starts_key_frame(&inter), "{inter:02x?}");
            assert!(!starts_key_frame(&payload[..payload.len() - 1]), "{payload:02x?} cut off");
        }
    }

    #[test]
    fn later_packets_and_partitions_start_nothing() {
        assert!(!starts_key_frame(&[0x00, 0x50]));
        assert!(!starts_key_frame(&[0x11, 0x50]));
        assert!(!starts_key_frame(&[]));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_read_without_a_panic(payload in prop::collection::vec(any::<u8>(), 0..12)) {
            let known = starts_key_frame(&payload);
            prop_assert!(!known || (payload[0] & 0x17 == 0x10 && payload.len() >= 2));
        }
    }
}
