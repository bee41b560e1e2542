//! Joins the fragments of DTLS handshake messages before the DTLS crate sees them.
//!
//! The crate's 1.2 server never completes a message whose retransmission is cut at other places than the first (RFC 6347
//! section 4.2.3 asks for it), which is what Firefox does. So fragments are collected in buffers with a byte mask, in whatever
//! cut they come, and handed over as one record that holds the whole message.

/// Largest handshake message in bytes; real ClientHellos have about 1500, certificates about 400.
pub const MESSAGE_MAX_BYTES: usize = 8 * 1024;

/// Messages that are collected at a time: one for each type that a client sends in clear.
const JOINS_MAX: usize = 4;

/// Bytes of a handshake message header (RFC 6347 section 4.2.2).
pub const HEADER_BYTES: usize = 12;

/// A handshake message header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// Message type.
    pub kind: u8,
    /// Length of the whole message.
    pub total: usize,
    /// Message sequence.
    pub sequence: u16,
    /// Where `body` lies in the message.
    pub offset: usize,
    /// The piece.
    pub body: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// Takes one fragment off the front of a record's body.
    pub fn parse(bytes: &'a [u8]) -> Option<(Fragment<'a>, &'a [u8])> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let number =
            |at: usize| usize::from(header[at]) << 16 | usize::from(header[at + 1]) << 8 | usize::from(header[at + 2]);
        let (total, offset, len) = (number(1), number(6), number(9));
        let (body, rest) = rest.split_at_checked(len)?;
        if offset + len > total || total > MESSAGE_MAX_BYTES || (len == 0 && total > 0) {
            return None;
        }
        let sequence = u16::from_be_bytes([header[4], header[5]]);
        Some((Fragment { kind: header[0], total, sequence, offset, body }, rest))
    }

    /// True when it is the whole message.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.body.len() == self.total
    }
}

/// Collects fragments of one peer.
#[derive(Debug, Default)]
pub struct Reassembly {
    joins: Vec<Join>,
}

#[derive(Debug)]
struct Join {
    kind: u8,
    sequence: u16,
    bytes: Vec<u8>,
    seen: Vec<bool>,
    missing: usize,
}

impl Reassembly {
    /// Adds a fragment; the whole message with its header when this one completed it.
    ///
    /// A fragment of another message of the same type replaces what was collected of that type: a false fragment costs one
    /// retransmission, not the handshake.
    pub fn add(&mut self, fragment: &Fragment<'_>) -> Option<Vec<u8>> {
        let at = self.joins.iter().position(|join| join.kind == fragment.kind);
        let at = match at {
            Some(at) if self.joins[at].is_of(fragment) => at,
            Some(at) => {
                self.joins[at] = Join::new(fragment);
                at
            }
            None => {
                if self.joins.len() == JOINS_MAX {
                    self.joins.remove(0);
                }
                self.joins.push(Join::new(fragment));
                self.joins.len() - 1
            }
        };
        self.joins[at].add(fragment);
        (self.joins[at].missing == 0).then(|| self.joins.remove(at).into_message())
    }

    /// Forgets everything, for a fresh handshake.
    pub fn clear(&mut self) {
        self.joins.clear();
    }
}

impl Join {
    fn new(fragment: &Fragment<'_>) -> Self {
        Join {
            kind: fragment.kind,
            sequence: fragment.sequence,
            bytes: vec![0; fragment.total],
            seen: vec![false; fragment.total],
            missing: fragment.total,
        }
    }

    fn is_of(&self, fragment: &Fragment<'_>) -> bool {
        self.sequence == fragment.sequence && self.bytes.len() == fragment.total
    }

    fn add(&mut self, fragment: &Fragment<'_>) {
        let range = fragment.offset..fragment.offset + fragment.body.len();
        self.bytes[range.clone()].copy_from_slice(fragment.body);
        for seen in &mut self.seen[range] {
            self.missing -= usize::from(!std::mem::replace(seen, true));
        }
    }

    /// ```text
    /// | type 1 | length 3 | message sequence 2 | fragment offset 3 = 0 | fragment length 3 = length | body |
    /// ```
    fn into_message(self) -> Vec<u8> {
        let len = u32::try_from(self.bytes.len()).expect("a message has at most 8 kB").to_be_bytes();
        let mut message = Vec::with_capacity(HEADER_BYTES + self.bytes.len());
        message.push(self.kind);
        message.extend_from_slice(&len[1..]);
        message.extend_from_slice(&self.sequence.to_be_bytes());
        message.extend_from_slice(&[0; 3]);
        message.extend_from_slice(&len[1..]);
        message.extend_from_slice(&self.bytes);
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(total: usize, offset: usize, body: &[u8]) -> Fragment<'_> {
        Fragment { kind: 1, total, sequence: 0, offset, body }
    }

    fn whole(message: &[u8]) -> &[u8] {
        let (fragment, rest) = Fragment::parse(message).unwrap();
        assert!(fragment.is_whole() && rest.is_empty());
        fragment.body
    }

    #[test]
    fn a_message_cut_anew_half_way_is_completed() {
        let body: Vec<u8> = (0..100).collect();
        for cut in 1..99 {
            let mut joined = Reassembly::default();
            assert_eq!(joined.add(&fragment(100, 60, &body[60..])), None);
            assert_eq!(joined.add(&fragment(100, 60, &body[60..])), None, "the same bytes twice complete nothing");
            let first = joined.add(&fragment(100, 0, &body[..cut]));
            let message = first.or_else(|| joined.add(&fragment(100, cut, &body[cut..]))).unwrap();
            assert_eq!(whole(&message), body);
        }
    }

    #[test]
    fn another_message_resets_what_was_collected() {
        let mut joined = Reassembly::default();
        assert_eq!(joined.add(&fragment(10, 0, &[9; 5])), None);
        assert_eq!(joined.add(&fragment(8, 0, &[1; 4])), None);
        assert_eq!(whole(&joined.add(&fragment(8, 4, &[2; 4])).unwrap()), [1, 1, 1, 1, 2, 2, 2, 2]);
        assert_eq!(joined.add(&fragment(10, 5, &[9; 5])), None, "the first half is forgotten");
    }

    #[test]
    fn impossible_fragments_are_refused() {
        let header = |total: u8, offset: u8, len: u8| [1, 0, 0, total, 0, 0, 0, 0, offset, 0, 0, len];
        let with_body = |header: [u8; 12]| [&header[..], &[0; 10][..]].concat();
        assert!(Fragment::parse(&with_body(header(10, 0, 10))).is_some());
        for bad in [header(10, 5, 6), header(10, 0, 11), header(10, 3, 0), [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10]] {
            assert_eq!(Fragment::parse(&with_body(bad)), None, "{bad:?}");
        }
        assert_eq!(Fragment::parse(&[1; 11]), None);
    }

    #[test]
    fn memory_is_bounded_whatever_types_come() {
        let mut joined = Reassembly::default();
        for kind in 0..=255 {
            assert_eq!(joined.add(&Fragment { kind, ..fragment(100, 0, &[0; 1]) }), None);
        }
        assert_eq!(joined.joins.len(), JOINS_MAX);
    }
}
