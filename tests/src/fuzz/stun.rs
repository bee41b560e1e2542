//! STUN towards the ICE-lite responder: who does not hold the password gets no byte; who does gets an answer that parses, proves
//! the password, keeps the transaction and is never longer than the request. Inputs are tried as they are and signed.

use std::net::SocketAddr;

use gangway_dataplane::{
    ice_lite::{LocalCredentials, StunOutcome, local_ufrag_of, respond},
    wire::{
        DropReason, Packet,
        stun::{BindingRequest, HEADER_LEN, IceRole, Message, MessageType, Writer, username_of},
    },
};

use super::Target;

/// See the module.
pub const TARGET: Target = Target {
    name: "stun",
    seeds,
    words: &[
        b"\x21\x12\xa4\x42",
        b"\x00\x06\x00\x0dourUfrag:peer\0\0\0",
        b"\x00\x08\x00\x14",
        b"\x80\x28\x00\x04",
        b"\x00\x25\x00\x00",
        b"\x80\x29\x00\x08",
        b"\x80\x2a\x00\x08",
        b"\x00\x20\x00\x08\x00\x01",
        b"\x70\x01\x00\x00",
    ],
    law,
};

const UFRAG: &[u8] = b"ourUfrag";
const PWD: &[u8] = b"ourPasswordOf24Characters";

/// Largest request that is tried: a packet buffer.
const REQUEST_MAX_BYTES: usize = 2048;

fn seeds() -> Vec<Vec<u8>> {
    let request = |use_candidate, role, username| {
        let mut out = [0; 256];
        let request =
            BindingRequest { transaction: [7; 12], username, password: PWD, priority: 1, role, use_candidate };
        let len = request.encode(&mut out).expect("a seed fits");
        // Once as a client sends it, once without integrity and fingerprint, to be signed after it was changed.
        [out[..len].to_vec(), out[..len - 32].to_vec()]
    };
    [
        request(true, IceRole::Controlling(1), b"ourUfrag:peer"),
        request(false, IceRole::Controlled(2), b"ourUfrag:peer"),
        request(false, IceRole::Controlling(3), b"another:peer"),
    ]
    .concat()
}

fn law(input: &[u8]) {
    let input = &input[..input.len().min(REQUEST_MAX_BYTES)];
    judge(input, false);
    if let Some(signed) = signed(input) {
        judge(&signed, true);
    }
}

/// The input with its length corrected, our integrity and a fingerprint, so that changes get past both.
fn signed(input: &[u8]) -> Option<Vec<u8>> {
    let mut out = vec![0; input.len() + 32];
    out[..input.len()].copy_from_slice(input);
    let mut writer = Writer::reopen(&mut out, input.len());
    writer.integrity(PWD);
    writer.fingerprint();
    let len = writer.finish()?;
    out.truncate(len);
    Some(out)
}

fn judge(request: &[u8], is_signed: bool) {
    let local = LocalCredentials::new(UFRAG, PWD).expect("credentials within the limits");
    for from in ["192.0.2.1:1", "[2001:db8::1]:65535"] {
        let from: SocketAddr = from.parse().expect("an address");
        let mut buf = [0; REQUEST_MAX_BYTES + 64];
        buf[..request.len()].copy_from_slice(request);
        let mut packet = Packet::new(&mut buf, 0, request.len());
        let outcome = respond(&mut packet, from, &local, None);
        let Ok(outcome) = outcome else {
            assert_eq!(packet.bytes(), request, "a refused request was changed");
            continue;
        };
        assert!(packet.len() <= request.len(), "the answer outgrew its request");
        assert_eq!(local_ufrag_of(request), Some(UFRAG), "routing and the responder disagree");
        let (question, answer) = (Message::parse(request), Message::parse(packet.bytes()));
        let (question, answer) = (question.expect("it was answered"), answer.expect("our own answer"));
        assert!(question.has_integrity(PWD) && answer.has_integrity(PWD));
        assert_eq!(answer.transaction(), question.transaction());
        assert_eq!(answer.fingerprint(), question.fingerprint().map(|_| true));
        match outcome {
            StunOutcome::Accepted { nominated, priority } => {
                assert!(answer.is(MessageType::BindingSuccess));
                assert_eq!(answer.mapped_address(), Some(from));
                assert_eq!((nominated, priority), (question.use_candidate(), question.priority().unwrap_or(0)));
                assert!(!matches!(question.role(), Some(IceRole::Controlled(_))));
            }
            StunOutcome::Refused(reason) => {
                let code = if reason == DropReason::IceRoleConflict { 487 } else { 420 };
                assert!(answer.is(MessageType::BindingError));
                assert_eq!(answer.error_code(), Some(code));
            }
        }
    }
    let Ok(message) = Message::parse(request) else { return };
    assert!(message.username().is_none() || message.username() == username_of(request));
    if is_signed && message.has_integrity(PWD) {
        let mut changed = request.to_vec();
        changed[HEADER_LEN - 1] ^= 1;
        assert!(Message::parse(&changed).is_ok_and(|changed| !changed.has_integrity(PWD)));
    }
}
