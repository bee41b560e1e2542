use gangway_shared::entropy::SeededEntropy;
use proptest::prelude::*;

use super::*;
use crate::wire::stun::BindingRequest;

const FROM_V4: &str = "192.0.2.7:40000";
const FROM_V6: &str = "[2001:db8::7]:40000";

fn local() -> LocalCredentials {
    LocalCredentials::new(b"ourUfrag", b"ourPasswordOf24Characters").expect("within the limits")
}

fn request() -> BindingRequest<'static> {
    BindingRequest {
        transaction: *b"abcdefghijkl",
        username: b"ourUfrag:peer",
        password: b"ourPasswordOf24Characters",
        priority: 0x6e00_01ff,
        role: IceRole::Controlling(7),
        use_candidate: false,
    }
}

fn encoded(request: &BindingRequest<'_>) -> Vec<u8> {
    let mut out = [0; 512];
    let len = request.encode(&mut out).expect("it fits");
    out[..len].to_vec()
}

/// What `respond` says to the bytes, and what it leaves in the packet.
fn answer(bytes: &[u8], from: &str, remote_ufrag: Option<&[u8]>) -> (Result<StunOutcome, DropReason>, Vec<u8>) {
    let mut buf = [0; 2048];
    buf[..bytes.len()].copy_from_slice(bytes);
    let mut packet = Packet::new(&mut buf, 0, bytes.len());
    let outcome = respond(&mut packet, from.parse().expect("an address"), &local(), remote_ufrag);
    (outcome, packet.bytes().to_vec())
}

#[test]
fn a_check_is_answered_with_its_address_under_our_password() {
    for from in [FROM_V4, FROM_V6] {
        for use_candidate in [false, true] {
            let bytes = encoded(&BindingRequest { use_candidate, ..request() });
            let (outcome, answer) = answer(&bytes, from, Some(b"peer"));
            assert_eq!(outcome, Ok(StunOutcome::Accepted { nominated: use_candidate, priority: 0x6e00_01ff }));
            let answer = Message::parse(&answer).expect("well-formed");
            assert!(answer.is(MessageType::BindingSuccess) && answer.has_integrity(local().pwd()));
            assert_eq!(answer.fingerprint(), Some(true));
            assert_eq!(answer.mapped_address(), Some(from.parse().expect("an address")));
            assert_eq!(answer.transaction(), *b"abcdefghijkl");
        }
    }
}

#[test]
fn an_ipv4_address_seen_through_an_ipv6_socket_is_answered_as_ipv4() {
    let (outcome, answer) = answer(&encoded(&request()), "[::ffff:192.0.2.7]:40000", None);
    assert!(outcome.is_ok());
    assert_eq!(Message::parse(&answer).map(|answer| answer.mapped_address()), Ok(FROM_V4.parse().ok()));
}

#[test]
fn a_peer_that_claims_to_be_controlled_is_answered_487_and_means_nothing() {
    let bytes = encoded(&BindingRequest { role: IceRole::Controlled(7), use_candidate: true, ..request() });
    let (outcome, answer) = answer(&bytes, FROM_V4, None);
    assert_eq!(outcome, Ok(StunOutcome::Refused(DropReason::IceRoleConflict)));
    let answer = Message::parse(&answer).expect("well-formed");
    assert!(answer.is(MessageType::BindingError) && answer.has_integrity(local().pwd()));
    assert_eq!(answer.error_code(), Some(487));
}

/// A request built attribute by attribute, with `extra` put before MESSAGE-INTEGRITY.
fn custom(extra: &[(u16, &[u8])], password: &[u8], with_fingerprint: bool) -> Vec<u8> {
    let mut out = [0; 512];
    let mut writer = Writer::new(&mut out, MessageType::BindingRequest, b"abcdefghijkl");
    writer.username(b"ourUfrag:peer");
    for (kind, value) in extra {
        writer.attribute(*kind, value);
    }
    writer.integrity(password);
    if with_fingerprint {
        writer.fingerprint();
    }
    let len = writer.finish().expect("it fits");
    out[..len].to_vec()
}

#[test]
fn an_unknown_required_attribute_is_answered_420_with_its_name_but_only_to_who_authenticates() {
    let extra: &[(u16, &[u8])] = &[(0x7001, b""), (0xc057, b"fine"), (0x7002, b"12345")];
    let bytes = custom(extra, local().pwd(), true);
    let (outcome, answered) = answer(&bytes, FROM_V4, None);
    assert_eq!(outcome, Ok(StunOutcome::Refused(DropReason::StunUnknownAttribute)));
    assert_eq!(Message::parse(&answered).map(|answer| answer.error_code()), Ok(Some(420)));
    let names = [0, 10, 0, 4, 0x70, 0x01, 0x70, 0x02];
    assert!(answered.windows(8).any(|window| window == names));
    let (outcome, _) = answer(&custom(extra, b"another password", true), FROM_V4, None);
    assert_eq!(outcome, Err(DropReason::StunBadIntegrity));
}

#[test]
fn strangers_get_no_answer() {
    let with = |change: fn(&mut BindingRequest<'static>)| {
        let mut request = request();
        change(&mut request);
        encoded(&request)
    };
    let mut bad_fingerprint = encoded(&request());
    *bad_fingerprint.last_mut().expect("not empty") ^= 1;
    let mut indication = [0; 64];
    let mut writer = Writer::new(&mut indication, MessageType::BindingIndication, b"abcdefghijkl");
    writer.fingerprint();
    let len = writer.finish().expect("it fits");
    for (bytes, reason) in [
        (with(|request| request.username = b"other:peer"), DropReason::StunUnknownUser),
        (with(|request| request.username = b"ourUfrag:stranger"), DropReason::StunUnknownUser),
        (with(|request| request.username = b"ourUfrag"), DropReason::StunUnknownUser),
        (with(|request| request.password = b"guessed"), DropReason::StunBadIntegrity),
        (bad_fingerprint, DropReason::StunBadFingerprint),
        (indication[..len].to_vec(), DropReason::StunNotARequest),
        (vec![0; 24], DropReason::StunMalformed),
    ] {
        let (outcome, left) = answer(&bytes, FROM_V4, Some(b"peer"));
        assert_eq!(outcome, Err(reason));
        assert_eq!(left, bytes, "{reason:?} must leave the packet alone");
    }
}

#[test]
fn no_credentials_match_no_check() {
    let mut out = [0; 256];
    let bare = BindingRequest { username: b":peer", password: b"", ..request() };
    let len = bare.encode(&mut out).expect("it fits");
    let mut packet = Packet::new(&mut out, 0, len);
    let from = FROM_V4.parse().expect("an address");
    let outcome = respond(&mut packet, from, &LocalCredentials::default(), None);
    assert_eq!(outcome, Err(DropReason::StunUnknownUser));
}

#[test]
fn an_answer_is_never_longer_than_its_request() {
    for from in [FROM_V4, FROM_V6] {
        for with_fingerprint in [false, true] {
            for extra in [&[][..], &[(0x24, &[0; 4][..])], &[(0x7001, b"")], &[(0x7001, b""), (0x7002, b"")]] {
                let bytes = custom(extra, local().pwd(), with_fingerprint);
                let (outcome, answered) = answer(&bytes, from, None);
                match outcome {
                    Ok(_) => assert!(answered.len() <= bytes.len(), "{from} {with_fingerprint} {extra:?}"),
                    Err(reason) => assert_eq!((reason, from), (DropReason::StunAnswerTooLong, FROM_V6)),
                }
            }
        }
    }
}

#[test]
fn the_local_ufrag_is_found_before_anything_is_verified() {
    assert_eq!(local_ufrag_of(&encoded(&request())), Some(&b"ourUfrag"[..]));
    assert_eq!(local_ufrag_of(&encoded(&BindingRequest { username: b"noColon", ..request() })), None);
    assert_eq!(local_ufrag_of(&[0; 20]), None);
}

#[test]
fn minted_credentials_are_long_enough_and_print_no_password() {
    let mut entropy = SeededEntropy::new(1);
    let (first, second) = (LocalCredentials::mint(&mut entropy), LocalCredentials::mint(&mut entropy));
    assert!(first.is_set() && first != second);
    assert_eq!((first.ufrag().len(), first.pwd().len()), (8, 24));
    let printed = format!("{first:?}");
    assert!(printed.contains("[redacted]") && !printed.contains(std::str::from_utf8(first.pwd()).expect("ASCII")));
    for (ufrag, pwd) in
        [("abc", "p".repeat(24)), ("abcd", "p".repeat(21)), ("ab:d", "p".repeat(24)), ("abcd", "p".repeat(33))]
    {
        assert_eq!(LocalCredentials::new(ufrag.as_bytes(), pwd.as_bytes()), None, "{ufrag} {pwd}");
    }
}

#[test]
fn consent_expires_a_timeout_after_the_last_check_and_not_before_the_first() {
    let timeout = Duration::from_secs(30);
    let mut consent = Consent::default();
    assert!(!consent.expired(Time::from_millis(1_000_000), timeout));
    consent.grant(Time::ZERO);
    assert_eq!(consent.granted_at(), Some(Time::ZERO));
    assert!(!consent.expired(Time::from_millis(29_999), timeout));
    assert!(consent.expired(Time::from_millis(30_000), timeout));
    consent.grant(Time::from_millis(30_000));
    assert_eq!(consent.expires_at(timeout), Some(Time::from_millis(60_000)));
}

proptest! {
    #[test]
    fn a_change_in_what_the_integrity_covers_is_never_accepted(at in 0usize..200, bit in 0u8..8) {
        let mut bytes = encoded(&BindingRequest { use_candidate: true, ..request() });
        // FINGERPRINT comes behind: without it the request would still be ours.
        let at = at % (bytes.len() - 8);
        bytes[at] ^= 1 << bit;
        let (outcome, _) = answer(&bytes, FROM_V4, Some(b"peer"));
        prop_assert!(outcome.is_err(), "byte {} bit {}: {:?}", at, bit, outcome);
    }
}
