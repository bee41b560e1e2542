//! What of a datagram may reach the DTLS crate while a handshake is not done.
//!
//! One clear alert, or some dozens of junk records, are fatal to the crate's 1.2 server in mid-handshake; anybody who can send
//! from the browser's address could spoil a call. So only what a client sends in a handshake passes. After `Connected` the crate
//! survives everything and nothing is filtered.

use super::reassembly::{Fragment, Reassembly};

/// Bytes of a DTLS record header (RFC 6347 section 4.1).
const RECORD_HEADER_BYTES: usize = 13;

/// Handshake messages of one client; a real handshake has 6.
const MESSAGE_SEQUENCE_MAX: u16 = 10;

/// Type of a ClientHello.
const CLIENT_HELLO: u8 = 1;

/// Messages a client sends in clear after our flight: ClientHello again, Certificate, CertificateVerify, ClientKeyExchange.
const CLIENT_MESSAGES: [u8; 4] = [CLIENT_HELLO, 11, 15, 16];

mod content {
    pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
    pub(super) const ALERT: u8 = 21;
    pub(super) const HANDSHAKE: u8 = 22;
    pub(super) const ACK: u8 = 26;
}

/// How far the handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// We have sent nothing: only a ClientHello can be meant.
    Listening,
    /// Our flight is out.
    Answering,
}

/// What was found in a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Records dropped.
    pub dropped: u32,
    /// A whole ClientHello passed.
    pub client_hello: bool,
    /// There was an alert in clear. Nobody signed it, so it ends nothing; it names the cause when the handshake times out.
    pub clear_alert: bool,
}

/// A record that only the peer's keys can open, by its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sealed {
    /// Of the last flight of a handshake.
    Handshake,
    /// An alert.
    Alert,
}

/// The first sealed record of a handshake or alert in a datagram. Anybody can write such a header.
#[must_use]
pub fn sealed(datagram: &[u8]) -> Option<Sealed> {
    let mut rest = datagram;
    while let Some((record, after)) = split_record(rest) {
        rest = after;
        match (record[0], record[3..5] != [0, 0]) {
            (content::HANDSHAKE, true) => return Some(Sealed::Handshake),
            (content::ALERT, true) => return Some(Sealed::Alert),
            _ => {}
        }
    }
    None
}

/// Filters `datagram` into `out` (cleared first): whole records that may be handed over. Fragments go into `joined` and come out
/// when their message is whole.
pub fn admit(stage: Stage, datagram: &[u8], joined: &mut Reassembly, out: &mut Vec<u8>) -> Found {
    out.clear();
    let mut found = Found::default();
    let mut rest = datagram;
    while let Some(&first) = rest.first() {
        if first >> 5 == 0b001 {
            // A 1.3 record: its length is optional, so it is the last one.
            pass_if(stage == Stage::Answering, rest, out, &mut found);
            break;
        }
        let Some((record, after)) = split_record(rest) else {
            found.dropped += 1;
            break;
        };
        rest = after;
        let epoch = u16::from_be_bytes([record[3], record[4]]);
        match first {
            content::HANDSHAKE if epoch == 0 => admit_handshake(stage, record, joined, out, &mut found),
            content::ALERT if epoch == 0 => {
                found.clear_alert = true;
                found.dropped += 1;
            }
            content::CHANGE_CIPHER_SPEC | content::ACK => pass_if(stage == Stage::Answering, record, out, &mut found),
            _ => pass_if(stage == Stage::Answering && epoch > 0, record, out, &mut found),
        }
    }
    found
}

fn pass_if(passes: bool, record: &[u8], out: &mut Vec<u8>, found: &mut Found) {
    if passes {
        out.extend_from_slice(record);
    } else {
        found.dropped += 1;
    }
}

fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let header = bytes.first_chunk::<RECORD_HEADER_BYTES>()?;
    let len = usize::from(u16::from_be_bytes([header[11], header[12]]));
    bytes.split_at_checked(RECORD_HEADER_BYTES + len)
}

/// Judges the messages of one handshake record. Whole messages stay in one record; joined ones get a record of their own with
/// the sequence number of the record that completed them.
fn admit_handshake(stage: Stage, record: &[u8], joined: &mut Reassembly, out: &mut Vec<u8>, found: &mut Found) {
    let (header, mut body) = record.split_at(RECORD_HEADER_BYTES);
    let mut whole = Vec::new();
    let mut messages = 0;
    while !body.is_empty() {
        let Some((fragment, after)) = Fragment::parse(body).filter(|(fragment, _)| may_pass(stage, fragment)) else {
            found.dropped += 1;
            return;
        };
        messages += 1;
        let message = &body[..body.len() - after.len()];
        body = after;
        if fragment.is_whole() {
            found.client_hello |= fragment.kind == CLIENT_HELLO;
            whole.extend_from_slice(message);
        } else if let Some(message) = joined.add(&fragment) {
            found.client_hello |= fragment.kind == CLIENT_HELLO;
            push_record(header, &message, out);
        }
    }
    if messages == 0 {
        found.dropped += 1;
    }
    if !whole.is_empty() {
        push_record(header, &whole, out);
    }
}

fn may_pass(stage: Stage, fragment: &Fragment<'_>) -> bool {
    let kind_fits = match stage {
        Stage::Listening => fragment.kind == CLIENT_HELLO,
        Stage::Answering => CLIENT_MESSAGES.contains(&fragment.kind),
    };
    kind_fits && fragment.sequence < MESSAGE_SEQUENCE_MAX
}

fn push_record(header: &[u8], body: &[u8], out: &mut Vec<u8>) {
    let len = u16::try_from(body.len()).expect("a message has at most 8 kB, a datagram 2");
    out.extend_from_slice(&header[..RECORD_HEADER_BYTES - 2]);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(kind: u8, epoch: u8, body: &[u8]) -> Vec<u8> {
        let len = body.len() as u16;
        [&[kind, 254, 253, 0, epoch, 0, 0, 0, 0, 0, 7][..], &len.to_be_bytes(), body].concat()
    }

    fn message(kind: u8, sequence: u8, total: u8, offset: u8, body: &[u8]) -> Vec<u8> {
        [&[kind, 0, 0, total, 0, sequence, 0, 0, offset, 0, 0, body.len() as u8][..], body].concat()
    }

    fn admit_one(stage: Stage, datagram: &[u8]) -> (Found, Vec<u8>) {
        let mut out = Vec::new();
        (admit(stage, datagram, &mut Reassembly::default(), &mut out), out)
    }

    #[test]
    fn before_our_first_output_only_a_client_hello_passes() {
        let hello = record(22, 0, &message(1, 0, 3, 0, b"abc"));
        let (found, out) = admit_one(Stage::Listening, &hello);
        assert_eq!((found, out), (Found { client_hello: true, ..Found::default() }, hello));
        let others = [
            record(22, 0, &message(11, 1, 3, 0, b"abc")),
            record(22, 0, &message(1, 10, 3, 0, b"abc")),
            record(20, 0, &[1]),
            record(23, 0, b"data"),
            record(23, 1, b"data"),
            record(26, 0, b"ack"),
            vec![0x2f, 1, 2, 3],
            record(22, 0, &[]),
            vec![22, 254, 253],
        ];
        for other in others {
            assert_eq!(admit_one(Stage::Listening, &other), (Found { dropped: 1, ..Found::default() }, Vec::new()));
        }
    }

    #[test]
    fn in_the_handshake_a_clients_messages_pass_and_clear_alerts_do_not() {
        let flight = [
            record(22, 0, &message(11, 1, 2, 0, b"ab")),
            record(22, 0, &message(16, 2, 2, 0, b"cd")),
            record(20, 0, &[1]),
            record(22, 1, b"encrypted finished"),
        ]
        .concat();
        assert_eq!(admit_one(Stage::Answering, &flight), (Found::default(), flight));
        let (found, out) = admit_one(Stage::Answering, &record(21, 0, &[2, 40]));
        assert_eq!((found, out), (Found { dropped: 1, clear_alert: true, ..Found::default() }, Vec::new()));
        assert_eq!(admit_one(Stage::Answering, &record(22, 0, &message(2, 0, 2, 0, b"ab"))).0.dropped, 1);
    }

    #[test]
    fn fragments_leave_as_one_whole_record() {
        let (mut joined, mut out) = (Reassembly::default(), Vec::new());
        let first = admit(Stage::Listening, &record(22, 0, &message(1, 0, 5, 0, b"ab")), &mut joined, &mut out);
        assert_eq!((first, out.len()), (Found::default(), 0));
        let last = admit(Stage::Listening, &record(22, 0, &message(1, 0, 5, 1, b"bcde")), &mut joined, &mut out);
        assert!(last.client_hello);
        assert_eq!(out, record(22, 0, &message(1, 0, 5, 0, b"abcde")));
    }

    proptest! {
        #[test]
        fn whatever_passes_is_whole_records_and_passes_again(bytes in prop::collection::vec(any::<u8>(), 0..300), steer in 0u8..4) {
            // Steered towards record headers, of which random bytes are almost never one.
            let bytes = if steer == 0 { bytes } else { record(22, 0, &message(1, 0, 40, steer * 9, &bytes[..bytes.len().min(9)])) };
            for stage in [Stage::Listening, Stage::Answering] {
                let (found, out) = admit_one(stage, &bytes);
                let (again, same) = admit_one(stage, &out);
                prop_assert_eq!(&same, &out);
                prop_assert_eq!(again.dropped, 0);
                prop_assert!(found.client_hello == again.client_hello);
            }
        }
    }
}
