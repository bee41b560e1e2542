use proptest::prelude::*;

use super::*;

/// RFC 5769 section 2: ufrag `evtj`, `VOkJxbRl1RmTxUk/WvJxBt` and the transaction id of all three.
const PASSWORD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";
const TRANSACTION: [u8; 12] = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];

/// RFC 5769 section 2.1.
const SAMPLE_REQUEST: &[u8] = b"\x00\x01\x00\x58\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
    \x80\x22\x00\x10STUN test client\x00\x24\x00\x04\x6e\x00\x01\xff\x80\x29\x00\x08\x93\x2f\xf9\xb1\x51\x26\x3b\x36\
    \x00\x06\x00\x09\x65\x76\x74\x6a\x3a\x68\x36\x76\x59\x20\x20\x20\
    \x00\x08\x00\x14\x9a\xea\xa7\x0c\xbf\xd8\xcb\x56\x78\x1e\xf2\xb5\xb2\xd3\xf2\x49\xc1\xb5\x71\xa2\
    \x80\x28\x00\x04\xe5\x7a\x3b\xcf";

/// RFC 5769 section 2.2.
const SAMPLE_RESPONSE_V4: &[u8] = b"\x01\x01\x00\x3c\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
    \x80\x22\x00\x0b\x74\x65\x73\x74\x20\x76\x65\x63\x74\x6f\x72\x20\
    \x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43\
    \x00\x08\x00\x14\x2b\x91\xf5\x99\xfd\x9e\x90\xc3\x8c\x74\x89\xf9\x2a\xf9\xba\x53\xf0\x6b\xe7\xd7\
    \x80\x28\x00\x04\xc0\x7d\x4c\x96";

/// RFC 5769 section 2.3.
const SAMPLE_RESPONSE_V6: &[u8] = b"\x01\x01\x00\x48\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
    \x80\x22\x00\x0b\x74\x65\x73\x74\x20\x76\x65\x63\x74\x6f\x72\x20\
    \x00\x20\x00\x14\x00\x02\xa1\x47\x01\x13\xa9\xfa\xa5\xd3\xf1\x79\xbc\x25\xf4\xb5\xbe\xd2\xb9\xd9\
    \x00\x08\x00\x14\xa3\x82\x95\x4e\x4b\xe6\x7b\xf1\x17\x84\xc9\x7c\x82\x92\xc2\x75\xbf\xe3\xed\x41\
    \x80\x28\x00\x04\xc8\xfb\x0b\x4c";

#[test]
fn the_sample_request_of_rfc_5769_is_read_and_verified() {
    let message = Message::parse(SAMPLE_REQUEST).expect("well-formed");
    assert!(message.is(MessageType::BindingRequest));
    assert_eq!((message.transaction(), message.username()), (TRANSACTION, Some(&b"evtj:h6vY"[..])));
    assert_eq!(message.priority(), Some(0x6e00_01ff));
    assert_eq!(message.role(), Some(IceRole::Controlled(0x932f_f9b1_5126_3b36)));
    assert!(!message.use_candidate() && message.unknown_attributes().is_empty());
    assert_eq!(message.fingerprint(), Some(true));
    assert!(message.has_integrity(PASSWORD) && !message.has_integrity(b"another"));
    assert_eq!(username_of(SAMPLE_REQUEST), Some(&b"evtj:h6vY"[..]));
}

#[test]
fn the_sample_responses_of_rfc_5769_are_read_and_verified() {
    for (bytes, address) in
        [(SAMPLE_RESPONSE_V4, "192.0.2.1:32853"), (SAMPLE_RESPONSE_V6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853")]
    {
        let message = Message::parse(bytes).expect("well-formed");
        assert!(message.is(MessageType::BindingSuccess) && message.has_integrity(PASSWORD));
        assert_eq!(message.fingerprint(), Some(true));
        assert_eq!(message.mapped_address(), Some(address.parse().expect("an address")));
    }
}

#[test]
fn any_changed_bit_of_the_sample_request_is_noticed() {
    for at in 0..SAMPLE_REQUEST.len() {
        for bit in 0..8 {
            let mut bytes = SAMPLE_REQUEST.to_vec();
            bytes[at] ^= 1 << bit;
            let passes = Message::parse(&bytes)
                .is_ok_and(|message| message.fingerprint() == Some(true) && message.has_integrity(PASSWORD));
            assert!(!passes, "byte {at} bit {bit}");
        }
    }
}

#[test]
fn what_follows_the_integrity_is_not_believed_except_the_fingerprint() {
    let mut out = [0; 256];
    let mut writer = Writer::new(&mut out, MessageType::BindingRequest, &TRANSACTION);
    writer.username(b"a:b");
    writer.integrity(PASSWORD);
    writer.use_candidate();
    writer.priority(1);
    writer.attribute(0x7001, b"");
    writer.fingerprint();
    let len = writer.finish().expect("it fits");
    let message = Message::parse(&out[..len]).expect("well-formed");
    assert!(message.has_integrity(PASSWORD) && message.fingerprint() == Some(true));
    assert!(!message.use_candidate() && message.priority().is_none() && message.unknown_attributes().is_empty());
}

#[test]
fn malformed_messages_are_refused() {
    let mut after_fingerprint = [0; 64];
    let mut writer = Writer::new(&mut after_fingerprint, MessageType::BindingRequest, &TRANSACTION);
    writer.fingerprint();
    writer.priority(1);
    let len = writer.finish().expect("it fits");
    assert_eq!(Message::parse(&after_fingerprint[..len]).err(), Some(DropReason::StunMalformed));

    for (at, value, what) in [
        (3usize, 0x54u8, "length in the header"),
        (4, 0x20, "magic cookie"),
        (0, 0x40, "first two bits"),
        (23, 0xff, "length of an attribute"),
        (43, 0x05, "length of PRIORITY"),
    ] {
        let mut bytes = SAMPLE_REQUEST.to_vec();
        bytes[at] = value;
        assert_eq!(Message::parse(&bytes).err(), Some(DropReason::StunMalformed), "{what}");
    }
    for len in 0..SAMPLE_REQUEST.len() {
        assert_eq!(Message::parse(&SAMPLE_REQUEST[..len]).err(), Some(DropReason::StunMalformed));
    }
}

proptest! {
    #[test]
    fn requests_that_were_built_are_read_back(
        transaction in any::<[u8; 12]>(),
        username in prop::collection::vec(any::<u8>(), 0..80),
        password in prop::collection::vec(any::<u8>(), 0..80),
        (priority, tie_breaker, is_controlling, use_candidate) in any::<(u32, u64, bool, bool)>(),
    ) {
        let role = if is_controlling { IceRole::Controlling(tie_breaker) } else { IceRole::Controlled(tie_breaker) };
        let request = BindingRequest { transaction, username: &username, password: &password, priority, role, use_candidate };
        let mut out = [0xff; 512];
        let len = request.encode(&mut out).expect("it fits");
        let message = Message::parse(&out[..len]).expect("well-formed");
        prop_assert!(message.is(MessageType::BindingRequest) && message.has_integrity(&password));
        prop_assert_eq!((message.transaction(), message.username()), (transaction, Some(&username[..])));
        prop_assert_eq!((message.priority(), message.role()), (Some(priority), Some(role)));
        prop_assert_eq!((message.use_candidate(), message.fingerprint()), (use_candidate, Some(true)));
        prop_assert_eq!(request.encode(&mut [0; 512][..len - 1]), None);
    }

    #[test]
    fn mapped_addresses_survive_the_mask(ip in any::<std::net::IpAddr>(), port in any::<u16>(), transaction in any::<[u8; 12]>()) {
        let mut out = [0; 128];
        let mut writer = Writer::new(&mut out, MessageType::BindingSuccess, &transaction);
        writer.xor_mapped_address(SocketAddr::new(ip, port));
        let len = writer.finish().expect("it fits");
        let message = Message::parse(&out[..len]).expect("well-formed");
        prop_assert_eq!(message.mapped_address(), Some(SocketAddr::new(ip.to_canonical(), port)));
    }

    #[test]
    fn arbitrary_attributes_are_read_inside_or_refused(
        message_type in any::<u16>(),
        attributes in prop::collection::vec((0u16..0x30, 0u16..24, prop::collection::vec(any::<u8>(), 0..24)), 0..8),
    ) {
        let mut body = Vec::new();
        for (kind, len, value) in attributes {
            // Both ranges of attributes, those of ICE included.
            body.extend((if len % 2 == 0 { kind } else { kind | 0x8000 }).to_be_bytes());
            body.extend(len.to_be_bytes());
            body.extend(value);
        }
        body.resize(body.len().next_multiple_of(4), 0);
        let mut bytes = (message_type & 0x3fff).to_be_bytes().to_vec();
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(MAGIC_COOKIE.to_be_bytes());
        bytes.extend([7; 12]);
        bytes.extend(body);
        if let Ok(message) = Message::parse(&bytes) {
            prop_assert_eq!(message.username().is_some_and(|name| name.len() > bytes.len()), false);
            prop_assert_eq!(message.has_integrity(b"a password nobody used"), false);
            prop_assert!(message.unknown_attributes().iter().all(|kind| *kind < FIRST_OPTIONAL));
        }
    }
}
