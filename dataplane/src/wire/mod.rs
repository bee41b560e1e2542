//! Bytes as they come from and go to the network: the buffer a packet lives in, what kind it is, in-place views of
//! RTP, RTCP and STUN, and where key frames start.
//!
//! Owns every length check on hostile bytes. Knows no leg, no key and no address table.

pub mod drop_reason;
pub mod h264;
pub mod rtcp;
pub mod rtp;
pub mod stun;
pub mod vp8;

pub use drop_reason::DropReason;

/// Size of a packet buffer in bytes: an Ethernet frame and a jumbo ClientHello fragment fit with room for tags.
pub const BUFFER_LEN_BYTES: usize = 2048;

/// A datagram in place in its buffer.
///
/// ```text
/// | headroom | bytes() ......... | tailroom |
/// 0          start      start+len          buffer length
/// ```
#[derive(Debug)]
pub struct Packet<'a> {
    buf: &'a mut [u8],
    start: usize,
    len: usize,
}

impl<'a> Packet<'a> {
    /// The `len` bytes at `start` of `buf` as a packet.
    ///
    /// # Panics
    /// When the packet does not lie inside the buffer: the engine that filled it knows both figures.
    #[must_use]
    pub fn new(buf: &'a mut [u8], start: usize, len: usize) -> Self {
        assert!(start <= buf.len() && len <= buf.len() - start, "a packet lies inside its buffer");
        Packet { buf, start, len }
    }

    /// The packet.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buf[self.start..self.start + self.len]
    }

    /// The packet, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buf[self.start..self.start + self.len]
    }

    /// Length of the packet in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for the empty packet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the packet starts in its buffer.
    #[must_use]
    pub fn start(&self) -> usize {
        self.start
    }

    /// Free bytes before the packet.
    #[must_use]
    pub fn headroom(&self) -> usize {
        self.start
    }

    /// Free bytes after the packet.
    #[must_use]
    pub fn tailroom(&self) -> usize {
        self.buf.len() - self.start - self.len
    }

    /// Cuts the packet to its first `len` bytes; a longer `len` changes nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Grows the tail by `n` bytes and gives them to be filled (their old content is what the buffer held); `None` and no
    /// change when there is no tailroom.
    pub fn extend(&mut self, n: usize) -> Option<&mut [u8]> {
        if n > self.tailroom() {
            return None;
        }
        let end = self.start + self.len;
        self.len += n;
        Some(&mut self.buf[end..end + n])
    }

    /// Removes `n` bytes from the front; no more than there are.
    pub fn trim_front(&mut self, n: usize) {
        let n = n.min(self.len);
        self.start += n;
        self.len -= n;
    }

    /// Grows the front by `n` bytes and gives them to be filled; `None` and no change when there is no headroom.
    pub fn grow_front(&mut self, n: usize) -> Option<&mut [u8]> {
        self.start = self.start.checked_sub(n)?;
        self.len += n;
        Some(&mut self.buf[self.start..self.start + n])
    }

    /// Puts `bytes` in place of the packet; false and no change when the buffer is too small even from its very start.
    pub fn replace(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.buf.len() {
            return false;
        }
        self.start = self.start.min(self.buf.len() - bytes.len());
        self.len = bytes.len();
        self.bytes_mut().copy_from_slice(bytes);
        true
    }
}

/// What a datagram on a port shared by all protocols is (RFC 7983 section 7, RFC 5761 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketKind {
    /// First byte 0..=3.
    Stun,
    /// First byte 20..=63.
    Dtls,
    /// First byte 128..=191, second byte outside 192..=223.
    Rtp,
    /// First byte 128..=191, second byte in 192..=223.
    Rtcp,
}

/// Sorts a datagram by its first bytes.
///
/// The smallest length of each protocol is checked before anything is believed: STUN 20 bytes (RFC 8489 section 5), a DTLS
/// record header 13, RTP 12, RTCP 8.
///
/// # Errors
/// [`DropReason::TooShort`] or [`DropReason::UnknownProtocol`].
pub fn classify(bytes: &[u8]) -> Result<PacketKind, DropReason> {
    let &[first, ref rest @ ..] = bytes else { return Err(DropReason::TooShort) };
    let (kind, min_len) = match first {
        0..=3 => (PacketKind::Stun, stun::HEADER_LEN),
        20..=63 => (PacketKind::Dtls, 13),
        128..=191 if rest.first().is_some_and(|second| matches!(second, 192..=223)) => (PacketKind::Rtcp, 8),
        128..=191 => (PacketKind::Rtp, rtp::FIXED_HEADER_LEN),
        _ => return Err(DropReason::UnknownProtocol),
    };
    if bytes.len() < min_len { Err(DropReason::TooShort) } else { Ok(kind) }
}

/// The big-endian 16-bit number at `at`; the caller has checked the length.
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The big-endian 32-bit number at `at`; the caller has checked the length.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_protocol_is_told_by_its_first_bytes_after_its_smallest_length() {
        let sized = |first: u8, second: u8, len: usize| {
            let mut bytes = vec![0; len];
            bytes[0] = first;
            bytes[1] = second;
            bytes
        };
        for (first, second, min, kind) in [
            (0, 1, 20, PacketKind::Stun),
            (3, 1, 20, PacketKind::Stun),
            (20, 254, 13, PacketKind::Dtls),
            (63, 254, 13, PacketKind::Dtls),
            (128, 0, 12, PacketKind::Rtp),
            (191, 191, 12, PacketKind::Rtp),
            (128, 224, 12, PacketKind::Rtp),
            (128, 192, 8, PacketKind::Rtcp),
            (191, 223, 8, PacketKind::Rtcp),
        ] {
            assert_eq!(classify(&sized(first, second, min)), Ok(kind));
            assert_eq!(classify(&sized(first, second, min - 1)), Err(DropReason::TooShort));
        }
        for first in [4, 19, 64, 127, 192, 255] {
            assert_eq!(classify(&sized(first, 0, 100)), Err(DropReason::UnknownProtocol));
        }
        assert_eq!(classify(&[]), Err(DropReason::TooShort));
    }

    #[test]
    fn a_packet_grows_and_shrinks_only_inside_its_buffer() {
        let mut buf = [7; 16];
        let mut packet = Packet::new(&mut buf, 4, 8);
        assert!(packet.extend(5).is_none());
        packet.extend(4).expect("four bytes of tail").fill(1);
        packet.trim_front(2);
        assert!(packet.grow_front(7).is_none());
        packet.grow_front(6).expect("six bytes of head").fill(2);
        assert_eq!(packet.bytes(), [2, 2, 2, 2, 2, 2, 7, 7, 7, 7, 7, 7, 1, 1, 1, 1]);
        packet.truncate(3);
        assert_eq!((packet.headroom(), packet.len(), packet.tailroom()), (0, 3, 13));
        assert!(!packet.replace(&[0; 17]));
        assert!(packet.replace(&[9; 16]));
        assert_eq!(packet.bytes(), [9; 16]);
    }

    proptest! {
        #[test]
        fn a_classified_packet_has_the_bytes_its_parser_starts_with(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            match classify(&bytes) {
                Ok(PacketKind::Stun) => prop_assert!(bytes.len() >= 20 && bytes[0] < 4),
                Ok(PacketKind::Dtls) => prop_assert!(bytes.len() >= 13 && bytes[0] < 64),
                Ok(PacketKind::Rtp) => prop_assert!(bytes.len() >= 12 && bytes[0] >> 6 == 2),
                Ok(PacketKind::Rtcp) => prop_assert!(bytes.len() >= 8 && bytes[0] >> 6 == 2),
                Err(reason) => prop_assert!(matches!(reason, DropReason::TooShort | DropReason::UnknownProtocol)),
            }
        }
    }
}
