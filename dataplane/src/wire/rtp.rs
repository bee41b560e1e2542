//! RTP in place (RFC 3550 section 5): a checked view for reading, single-field setters for rewriting, removal of what a
//! SIP peer must not see.
//!
//! ```text
//!  0                   1                   2                   3
//! |V=2|P|X|  CC   |M|     PT      |       sequence number         |
//! |                           timestamp                           |
//! |                             SSRC                              |
//! |                       CSRC, CC times                          |
//! |      profile (X)              |      length in words          |
//! |                       extension words                         |
//! |   payload ...                 | padding, its length last (P)  |
//! ```

use rtp_rs::RtpReader;

use super::{DropReason, Packet, be16, be32};

/// Length in bytes of the header without CSRCs and extension.
pub const FIXED_HEADER_LEN: usize = 12;

const VERSION_2: u8 = 0x80;
const EXTENSION_BIT: u8 = 0x10;
const PADDING_BIT: u8 = 0x20;
const CSRC_COUNT_MASK: u8 = 0x0f;
const MARKER_BIT: u8 = 0x80;
const PAYLOAD_TYPE_MASK: u8 = 0x7f;
const ONE_BYTE_PROFILE: u16 = 0xbede;
/// Its low four bits are the application's.
const TWO_BYTE_PROFILE: u16 = 0x1000;

/// Length in bytes of the whole header, with CSRCs and extension. Believes nothing behind the header, so that it serves
/// encrypted packets, whose padding cannot be read yet.
///
/// # Errors
/// [`DropReason::RtpMalformed`] when the version is not 2 or the header ends behind the packet.
pub fn header_len(bytes: &[u8]) -> Result<usize, DropReason> {
    if bytes.len() < FIXED_HEADER_LEN || bytes[0] >> 6 != 2 {
        return Err(DropReason::RtpMalformed);
    }
    let mut len = FIXED_HEADER_LEN + 4 * usize::from(bytes[0] & CSRC_COUNT_MASK);
    if bytes[0] & EXTENSION_BIT != 0 {
        if bytes.len() < len + 4 {
            return Err(DropReason::RtpMalformed);
        }
        len += 4 + 4 * usize::from(be16(bytes, len + 2));
    }
    if bytes.len() < len { Err(DropReason::RtpMalformed) } else { Ok(len) }
}

/// The value of a header extension by its id, in the one-byte and in the two-byte form (RFC 8285 sections 4.2 and 4.3). `None` for
/// anything that does not fit.
#[must_use]
pub fn extension(bytes: &[u8], id: u8) -> Option<&[u8]> {
    let end = header_len(bytes).ok()?;
    let start = FIXED_HEADER_LEN + 4 * usize::from(bytes[0] & CSRC_COUNT_MASK);
    if bytes[0] & EXTENSION_BIT == 0 {
        return None;
    }
    let profile = be16(bytes, start);
    let mut rest = &bytes[start + 4..end];
    while let Some((first, behind)) = rest.split_first() {
        if *first == 0 {
            rest = behind;
            continue;
        }
        let (found, len, behind) = match profile {
            ONE_BYTE_PROFILE if first >> 4 == 15 => return None,
            ONE_BYTE_PROFILE => (first >> 4, usize::from(first & 15) + 1, behind),
            _ if profile & 0xfff0 == TWO_BYTE_PROFILE => {
                let (len, behind) = behind.split_first()?;
                (*first, usize::from(*len), behind)
            }
            _ => return None,
        };
        let (value, behind) = behind.split_at_checked(len)?;
        if found == id {
            return Some(value);
        }
        rest = behind;
    }
    None
}

/// A clear RTP packet whose version, CSRC count, extension and padding fit its length.
pub struct Rtp<'a> {
    reader: RtpReader<'a>,
    bytes: &'a [u8],
}

impl<'a> Rtp<'a> {
    /// Checks a clear packet.
    ///
    /// # Errors
    /// [`DropReason::RtpMalformed`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let reader = RtpReader::new(bytes).map_err(|_| DropReason::RtpMalformed)?;
        Ok(Rtp { reader, bytes })
    }

    /// The payload type, 0..=127.
    #[must_use]
    pub fn payload_type(&self) -> u8 {
        self.reader.payload_type()
    }

    /// The marker bit.
    #[must_use]
    pub fn marker(&self) -> bool {
        self.reader.mark()
    }

    /// The sequence number.
    #[must_use]
    pub fn sequence(&self) -> u16 {
        self.reader.sequence_number().into()
    }

    /// The timestamp, in units of the payload type's clock.
    #[must_use]
    pub fn timestamp(&self) -> u32 {
        self.reader.timestamp()
    }

    /// The synchronisation source.
    #[must_use]
    pub fn ssrc(&self) -> u32 {
        self.reader.ssrc()
    }

    /// Length in bytes of the header with CSRCs and extension.
    #[must_use]
    pub fn header_len(&self) -> usize {
        self.reader.payload_offset()
    }

    /// The payload without padding; empty in a packet that is padding alone.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        let padding = self.reader.padding().map_or(0, usize::from);
        &self.bytes[self.header_len()..self.bytes.len() - padding]
    }
}

/// The SSRC of a packet of which only the fixed header is known to be there.
///
/// # Panics
/// Below [`FIXED_HEADER_LEN`] bytes, as every function on raw bytes of this module: `classify` has checked the length.
#[must_use]
pub fn ssrc_of(bytes: &[u8]) -> u32 {
    be32(bytes, 8)
}

/// The sequence number of a packet of which only the fixed header is known to be there.
///
/// # Panics
/// As [`ssrc_of`].
#[must_use]
pub fn sequence_of(bytes: &[u8]) -> u16 {
    be16(bytes, 2)
}

/// Begins the header of a new packet: version 2, no padding, no extension, no CSRC, no marker. The other fields follow by their
/// setters.
///
/// # Panics
/// As [`ssrc_of`].
pub fn begin_header(bytes: &mut [u8]) {
    bytes[..FIXED_HEADER_LEN].fill(0);
    bytes[0] = VERSION_2;
}

/// Sets the payload type; the high bit of `payload_type` is ignored.
///
/// # Panics
/// As [`ssrc_of`].
pub fn set_payload_type(bytes: &mut [u8], payload_type: u8) {
    bytes[1] = bytes[1] & MARKER_BIT | payload_type & PAYLOAD_TYPE_MASK;
}

/// Sets or clears the marker bit.
///
/// # Panics
/// As [`ssrc_of`].
pub fn set_marker(bytes: &mut [u8], marker: bool) {
    bytes[1] = bytes[1] & PAYLOAD_TYPE_MASK | if marker { MARKER_BIT } else { 0 };
}

/// Says that the packet has no padding.
///
/// # Panics
/// As [`ssrc_of`].
pub fn clear_padding(bytes: &mut [u8]) {
    bytes[0] &= !PADDING_BIT;
}

/// Sets the sequence number.
///
/// # Panics
/// As [`ssrc_of`].
pub fn set_sequence(bytes: &mut [u8], sequence: u16) {
    bytes[2..4].copy_from_slice(&sequence.to_be_bytes());
}

/// Sets the timestamp.
///
/// # Panics
/// As [`ssrc_of`].
pub fn set_timestamp(bytes: &mut [u8], timestamp: u32) {
    bytes[4..8].copy_from_slice(&timestamp.to_be_bytes());
}

/// Sets the synchronisation source.
///
/// # Panics
/// As [`ssrc_of`].
pub fn set_ssrc(bytes: &mut [u8], ssrc: u32) {
    bytes[8..12].copy_from_slice(&ssrc.to_be_bytes());
}

/// Removes CSRCs and header extension in place: the fixed header moves forward to the payload, which does not move.
/// Returns how many bytes went.
///
/// # Errors
/// [`DropReason::RtpMalformed`], packet unchanged.
pub fn strip_extensions(packet: &mut Packet<'_>) -> Result<usize, DropReason> {
    let removed = header_len(packet.bytes())? - FIXED_HEADER_LEN;
    if removed > 0 {
        packet.bytes_mut().copy_within(..FIXED_HEADER_LEN, removed);
        packet.trim_front(removed);
        packet.bytes_mut()[0] &= !(EXTENSION_BIT | CSRC_COUNT_MASK);
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rtp_rs::{RtpPacketBuilder, Seq};

    use super::*;

    fn packet(csrcs: &[u32], extension: Option<&[u8]>, payload: &[u8], padding: u8) -> Vec<u8> {
        let mut builder = RtpPacketBuilder::new()
            .payload_type(111)
            .marked(true)
            .sequence(Seq::from(65_535))
            .timestamp(0x0102_0304)
            .ssrc(0xdead_beef)
            .payload(payload);
        for csrc in csrcs {
            builder = builder.add_csrc(*csrc);
        }
        if let Some(words) = extension {
            builder = builder.extension(0xbede, words);
        }
        let mut bytes = builder.build().expect("a buildable packet");
        if padding > 0 {
            bytes[0] |= 0x20;
            bytes.extend(std::iter::repeat_n(0, usize::from(padding) - 1).chain([padding]));
        }
        bytes
    }

    #[test]
    fn padding_longer_than_the_payload_or_of_zero_bytes_is_malformed() {
        let mut bytes = packet(&[], None, &[1, 2, 3], 4);
        assert_eq!(Rtp::parse(&bytes).map(|rtp| rtp.payload().to_vec()), Ok(vec![1, 2, 3]));
        for bad in [0, 8, 255] {
            *bytes.last_mut().expect("not empty") = bad;
            assert_eq!(Rtp::parse(&bytes).err(), Some(DropReason::RtpMalformed), "padding of {bad}");
        }
    }

    #[test]
    fn a_header_extension_is_found_by_its_id_in_both_forms() {
        let one = packet(&[7], Some(&[0x10, 9, 0, 0x31, 1, 2, 0, 0]), b"x", 0);
        assert_eq!(extension(&one, 3), Some(&[1, 2][..]), "behind another one and padding");
        assert_eq!((extension(&one, 1), extension(&one, 2)), (Some(&[9][..]), None));
        let mut two = packet(&[], Some(&[1, 0, 3, 2, 5, 6, 0, 0]), b"x", 0);
        two[12..14].copy_from_slice(&[0x10, 0x07]);
        assert_eq!((extension(&two, 3), extension(&two, 1)), (Some(&[5, 6][..]), Some(&[][..])));
        two[12..14].copy_from_slice(&[0x20, 0]);
        assert_eq!(extension(&two, 3), None, "another profile");
        let torn = packet(&[], Some(&[0x3f, 1, 2, 3]), b"x", 0);
        assert_eq!(extension(&torn, 3), None, "longer than there is");
        let stop = packet(&[], Some(&[0xf0, 0x30, 9, 0]), b"x", 0);
        assert_eq!(extension(&stop, 3), None, "id 15 ends the list");
        assert_eq!(extension(&packet(&[], None, b"x", 0), 3), None);
    }

    proptest! {
        #[test]
        fn what_was_built_is_read_and_survives_stripping_and_setting(
            csrcs in prop::collection::vec(any::<u32>(), 0..=15),
            words in prop::option::of(prop::collection::vec(any::<[u8; 4]>(), 0..20)),
            payload in prop::collection::vec(any::<u8>(), 0..100),
            padding in 0u8..40,
            (payload_type, marker, sequence, timestamp, ssrc) in (0u8..128, any::<bool>(), any::<u16>(), any::<u32>(), any::<u32>()),
        ) {
            let extension = words.map(|words| words.concat());
            let bytes = packet(&csrcs, extension.as_deref(), &payload, padding);
            let rtp = Rtp::parse(&bytes).expect("well-formed");
            let header = 12 + 4 * csrcs.len() + extension.as_ref().map_or(0, |words| 4 + words.len());
            prop_assert_eq!((rtp.header_len(), header_len(&bytes)), (header, Ok(header)));
            prop_assert_eq!((rtp.payload_type(), rtp.marker(), rtp.sequence()), (111, true, 65_535));
            prop_assert_eq!((rtp.timestamp(), rtp.ssrc(), rtp.payload()), (0x0102_0304, 0xdead_beef, &payload[..]));

            let mut buf = [0xaa; 2048];
            buf[32..32 + bytes.len()].copy_from_slice(&bytes);
            let mut packet = Packet::new(&mut buf, 32, bytes.len());
            prop_assert_eq!(strip_extensions(&mut packet), Ok(header - 12));
            set_payload_type(packet.bytes_mut(), payload_type);
            set_marker(packet.bytes_mut(), marker);
            set_sequence(packet.bytes_mut(), sequence);
            set_timestamp(packet.bytes_mut(), timestamp);
            set_ssrc(packet.bytes_mut(), ssrc);
            prop_assert_eq!((ssrc_of(packet.bytes()), sequence_of(packet.bytes())), (ssrc, sequence));
            let rtp = Rtp::parse(packet.bytes()).expect("still well-formed");
            prop_assert_eq!((rtp.header_len(), rtp.payload()), (12, &payload[..]));
            prop_assert_eq!((rtp.payload_type(), rtp.marker(), rtp.sequence()), (payload_type, marker, sequence));
            prop_assert_eq!((rtp.timestamp(), rtp.ssrc()), (timestamp, ssrc));
        }

        #[test]
        fn arbitrary_bytes_are_read_inside_or_refused(
            first in 0x80u8..0xc0,
            tail in prop::collection::vec(any::<u8>(), 0..120),
        ) {
            let bytes = [&[first][..], &tail].concat();
            prop_assert!((0..=15).all(|id| extension(&bytes, id).is_none_or(|value| value.len() < bytes.len())));
            if let Ok(rtp) = Rtp::parse(&bytes) {
                prop_assert_eq!(header_len(&bytes), Ok(rtp.header_len()));
                prop_assert!(rtp.header_len() + rtp.payload().len() <= bytes.len());
            }
            let mut buf = [0; 256];
            buf[..bytes.len()].copy_from_slice(&bytes);
            let mut packet = Packet::new(&mut buf, 0, bytes.len());
            match strip_extensions(&mut packet) {
                Ok(removed) => prop_assert_eq!(&packet.bytes()[12..], &bytes[12 + removed..]),
                Err(_) => prop_assert_eq!(packet.bytes(), &bytes[..]),
            }
        }
    }
}
