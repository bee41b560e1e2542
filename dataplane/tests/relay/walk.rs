//! What happens to datagrams, by who sends them and what was agreed.

use gangway_dataplane::{
    arena::{RETIRED_STREAMS_MAX, RX_STREAMS_MAX},
    relay::{PortId, RelayConfig, RelayLimits},
    srtp::Profile,
    wire::{
        DropReason, rtcp,
        stun::{Message, MessageType},
    },
};
use gangway_shared::{
    ids::LegId,
    rcp::{Codec, DtlsFailure, ErrorCode, Event, Fingerprint, LegKind, RtpRemote, SrtpKeys, SrtpLeg, SrtpSuite},
    secret::Secret,
};

use crate::{
    phone::{BROWSER, PHONE, connected_by},
    world::{
        Browser, CERTIFICATE, Fed, MUX, Source, World, addr, call, config, credentials, hear, ice_leg, payload, ports,
        program, relay_id, route, rtp_leg,
    },
};

fn rtp_port(leg: u8) -> PortId {
    ports(1, LegId(leg)).0
}

/// A call whose browser is connected.
fn connected(profile: Profile) -> (World, Browser) {
    connected_by(&call(Some(CERTIFICATE), Some(PHONE)), profile)
}

#[test]
fn a_worker_takes_so_many_new_addresses_in_a_second_and_answers_the_known_ones() {
    let limits = RelayLimits { relays: 8, legs: 16, routes: 32 };
    let mut world = World::with(limits, RelayConfig { new_addresses_per_s: 2, ..config() });
    let browser = |world: &mut World, number: u64| {
        let handle = world.put(number, 1, &call(Some(CERTIFICATE), Some(PHONE))).legs[0].1;
        Browser::new(number, 0, handle, &format!("198.51.100.{number}:50000"), Profile::AeadAes128Gcm, 7)
    };
    let mut browsers: Vec<Browser> = (1..=3).map(|number| browser(&mut world, number)).collect();
    browsers[0].connect(&mut world);
    browsers[1].connect(&mut world);
    assert_eq!(browsers[2].send_check(&mut world, true), Fed::Dropped(DropReason::TooManyNewAddresses));
    assert!(matches!(browsers[0].send_check(&mut world, false), Fed::Sent(..)), "a known address is no newcomer");
    world.advance_ms(500);
    assert!(matches!(browsers[2].send_check(&mut world, true), Fed::Sent(..)));
    assert_eq!(world.drops(DropReason::TooManyNewAddresses), 1);
}

#[test]
fn media_flows_both_ways_between_a_browser_and_a_phone_under_every_profile() {
    for profile in Profile::ALL {
        let (mut world, mut browser) = connected(profile);
        let mut phone = Source::new(0xf0, 0);
        for _ in 0..3 {
            world.advance_ms(20);
            let sent = browser.say(&mut world, b"from the browser");
            assert_eq!(sent.to(), addr(PHONE));
            let heard = hear(&sent.bytes());
            assert_eq!((heard.ssrc, heard.payload), (0x1001, b"from the browser".to_vec()));
            let sent = world.feed(rtp_port(1), addr(PHONE), &phone.packet(b"from the phone"));
            assert_eq!(sent.to(), addr(BROWSER));
            let heard = browser.hear(&sent.bytes());
            assert_eq!((heard.ssrc, heard.payload), (0x2002, b"from the phone".to_vec()));
        }
        let stats = world.relays().stats(relay_id(1)).unwrap();
        assert_eq!((stats.legs[0].received.packets, stats.legs[0].sent.packets), (3, 3));
        assert!(world.events().iter().any(|event| matches!(event, Event::SourceLatched { leg: LegId(1), .. })));
    }
}

#[test]
fn an_echo_route_answers_a_leg_by_itself() {
    let mut world = World::new();
    let pcmu = payload(0, Codec::Pcmu, 8000);
    world.put(1, 1, &program(vec![rtp_leg(0, Some(PHONE))], vec![route(0, 0, 9, &[(pcmu.clone(), pcmu)])]));
    let mut phone = Source::new(0xf0, 0);
    let first = hear(&world.feed(rtp_port(0), addr(PHONE), &phone.packet(b"one")).bytes());
    let second = hear(&world.feed(rtp_port(0), addr(PHONE), &phone.packet(b"two")).bytes());
    assert_eq!((first.ssrc, first.marker, first.payload), (9, true, b"one".to_vec()));
    assert_eq!((second.sequence, second.marker), (first.sequence + 1, false));
    assert_eq!(second.timestamp, first.timestamp.wrapping_add(160));
}

#[test]
fn pcmu_becomes_pcma_and_back_while_telephone_events_pass() {
    let mut world = World::new();
    let (pcmu, pcma) = (payload(0, Codec::Pcmu, 8000), payload(8, Codec::Pcma, 8000));
    let (event, other) = (payload(101, Codec::TelephoneEvent, 8000), payload(126, Codec::TelephoneEvent, 8000));
    let legs = vec![rtp_leg(0, Some(PHONE)), rtp_leg(1, Some("192.0.2.51:6000"))];
    world.put(1, 1, &program(legs, vec![route(0, 1, 9, &[(pcmu, pcma), (event, other)])]));
    let mut phone = Source::new(0xf0, 0);
    let heard = hear(&world.feed(rtp_port(0), addr(PHONE), &phone.packet(&[0xff, 0x7f, 0x00])).bytes());
    assert_eq!((heard.pt, heard.payload), (8, vec![0xd5, 0x55, 0x2a]));
    phone.pt = 101;
    let heard = hear(&world.feed(rtp_port(0), addr(PHONE), &phone.packet(&[0xff, 0x0a, 0, 160])).bytes());
    assert_eq!((heard.pt, heard.payload), (126, vec![0xff, 0x0a, 0, 160]));
    phone.pt = 18;
    let dropped = world.feed(rtp_port(0), addr(PHONE), &phone.packet(b"g729"));
    assert_eq!(dropped, Fed::Dropped(DropReason::PayloadUnmapped));
}

#[test]
fn one_source_feeds_several_routes_each_with_numbers_of_its_own() {
    let mut world = World::new();
    let (pcmu, pcma) = (payload(0, Codec::Pcmu, 8000), payload(8, Codec::Pcma, 8000));
    let legs = vec![rtp_leg(0, Some(PHONE)), rtp_leg(1, Some("192.0.2.51:6000")), rtp_leg(2, Some("192.0.2.52:6000"))];
    let routes = vec![route(0, 1, 9, &[(pcmu.clone(), pcma)]), route(0, 2, 10, &[(pcmu.clone(), pcmu)])];
    world.put(1, 1, &program(legs, routes));
    let mut phone = Source::new(0xf0, 0);
    let last = world.feed(rtp_port(0), addr(PHONE), &phone.packet(&[0xff]));
    assert_eq!((last.to(), hear(&last.bytes()).payload), (addr("192.0.2.52:6000"), vec![0xff]));
    let (_, to, copy) = world.out.sent.pop().unwrap();
    assert_eq!((to, hear(&copy).payload), (addr("192.0.2.51:6000"), vec![0xd5]));
}

#[test]
fn header_extensions_and_csrcs_of_a_browser_stop_at_the_relay() {
    let (mut world, mut browser) = connected(Profile::AeadAes128Gcm);
    let plain = browser.source.packet(b"payload");
    let mut bytes = vec![0x91, plain[1]];
    bytes.extend(&plain[2..12]);
    bytes.extend(0xc5c5_c5c5u32.to_be_bytes());
    bytes.extend([0xbe, 0xde, 0, 1, 0x10, 0x11, 0, 0]);
    bytes.extend(b"payload");
    let sealed = browser.protect(&bytes);
    assert_eq!(hear(&world.feed(MUX, browser.at, &sealed).bytes()).payload, b"payload");
}

#[test]
fn a_stranger_draws_no_answer_and_no_state() {
    let (mut world, mut browser) = connected(Profile::AeadAes128Gcm);
    let stranger = addr("203.0.113.1:1");
    let mut forged = browser.check(true);
    let at = forged.len() - 20;
    forged[at] ^= 1;
    let dropped = world.feed(MUX, stranger, &forged);
    assert!(matches!(dropped, Fed::Dropped(DropReason::StunBadIntegrity | DropReason::StunBadFingerprint)));
    let mut other = Browser::new(2, 0, browser.handle, BROWSER, Profile::AeadAes128Gcm, 9);
    let check = other.check(true);
    assert_eq!(world.feed(MUX, stranger, &check), Fed::Dropped(DropReason::StunUnknownUser));
    let hello = [22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(world.feed(MUX, stranger, &hello), Fed::Dropped(DropReason::DtlsUnknownPath));
    let packet = browser.talk(b"x");
    assert_eq!(world.feed(MUX, stranger, &packet), Fed::Dropped(DropReason::NoSuchPath));
    assert_eq!(world.feed(PortId(999), stranger, &packet), Fed::Dropped(DropReason::PortUnknown));
    assert_eq!(world.feed(rtp_port(1), stranger, &hello), Fed::Dropped(DropReason::UnknownProtocol));
    assert_eq!(world.feed(MUX, stranger, &[]), Fed::Dropped(DropReason::TooShort));
    assert!(world.out.sent.is_empty() && world.out.dtls.is_empty());
    assert!(matches!(browser.say(&mut world, b"still"), Fed::Sent(..)));
}

#[test]
fn a_check_is_answered_and_dtls_passes_from_authenticated_addresses_only() {
    let mut world = World::new();
    let handle = world.put(1, 1, &call(None, None)).legs[0].1;
    let mut browser = Browser::new(1, 0, handle, BROWSER, Profile::AeadAes128Gcm, 7);
    let answer = browser.send_check(&mut world, false).bytes();
    let answer = Message::parse(&answer).unwrap();
    assert!(answer.is(MessageType::BindingSuccess));
    assert_eq!(answer.mapped_address(), Some(addr(BROWSER)));
    assert!(answer.has_integrity(credentials(1, LegId(0)).pwd()));
    assert_eq!(world.out.dtls_paths, [(handle, addr(BROWSER))]);
    browser.send_check(&mut world, false);
    assert_eq!(world.out.dtls_paths.len(), 1, "the manager is told once");
    let hello = [22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(world.feed(MUX, addr(BROWSER), &hello), Fed::Consumed);
    assert_eq!(world.out.dtls, [(handle, addr(BROWSER), hello.to_vec())]);
    world.out.is_full = true;
    assert_eq!(world.feed(MUX, addr(BROWSER), &hello), Fed::Dropped(DropReason::DtlsQueueFull));
    assert!(world.has_consent(handle));
}

#[test]
fn media_goes_to_the_nominated_address_and_moves_only_with_a_nomination() {
    let (mut world, mut browser) = connected(Profile::AeadAes128Gcm);
    let mut phone = Source::new(0xf0, 0);
    let other = addr("198.51.100.8:50001");
    browser.at = other;
    browser.send_check(&mut world, false);
    assert!(matches!(browser.say(&mut world, b"x"), Fed::Sent(..)), "media is taken from any authenticated address");
    let sent = world.feed(rtp_port(1), addr(PHONE), &phone.packet(b"x"));
    assert_eq!(sent.to(), addr(BROWSER));
    world.events();
    browser.send_check(&mut world, true);
    let sent = world.feed(rtp_port(1), addr(PHONE), &phone.packet(b"x"));
    assert_eq!(sent.to(), other);
    assert_eq!(world.events(), [Event::PathSelected { relay: relay_id(1), leg: LegId(0), remote: other }]);
}

#[test]
fn before_nomination_nothing_is_sent_to_a_browser() {
    let mut world = World::new();
    let handle = world.put(1, 1, &call(Some(CERTIFICATE), Some(PHONE))).legs[0].1;
    let mut browser = Browser::new(1, 0, handle, BROWSER, Profile::AeadAes128Gcm, 7);
    let mut phone = Source::new(0xf0, 0);
    browser.send_check(&mut world, false);
    browser.handshake(&mut world, CERTIFICATE);
    let dropped = world.feed(rtp_port(1), addr(PHONE), &phone.packet(b"x"));
    assert_eq!(dropped, Fed::Dropped(DropReason::NoRemote));
    browser.send_check(&mut world, true);
    assert!(matches!(world.feed(rtp_port(1), addr(PHONE), &phone.packet(b"x")), Fed::Sent(..)));
}

#[test]
fn an_address_follows_the_newest_authenticated_check_and_its_old_leg_is_told() {
    let (mut world, mut first) = connected(Profile::AeadAes128Gcm);
    let handle = world.put(2, 1, &call(Some(CERTIFICATE), None)).legs[0].1;
    let mut second = Browser::new(2, 0, handle, BROWSER, Profile::AeadAes128Gcm, 9);
    world.events();
    second.connect(&mut world);
    world.check();
    let lost = Event::PathLost { relay: relay_id(1), leg: LegId(0) };
    assert!(world.events().contains(&lost));
    let packet = first.talk(b"x");
    assert_eq!(world.feed(MUX, addr(BROWSER), &packet), Fed::Dropped(DropReason::SrtpAuthFailed));
    let dropped = world.feed(rtp_port(1), addr(PHONE), &Source::new(0xf0, 0).packet(b"x"));
    assert_eq!(dropped, Fed::Dropped(DropReason::PathLost));
    first.send_check(&mut world, true);
    assert!(matches!(first.say(&mut world, b"back"), Fed::Sent(..)));
}

#[test]
fn a_leg_has_room_for_few_addresses_and_stale_ones_give_way() {
    let (mut world, mut browser) = connected(Profile::AeadAes128Gcm);
    for port in 1..8 {
        browser.at = addr(&format!("203.0.113.1:{port}"));
        assert!(matches!(browser.send_check(&mut world, false), Fed::Sent(..)));
    }
    browser.at = addr("203.0.113.1:8");
    assert_eq!(browser.send_check(&mut world, false), Fed::Dropped(DropReason::TooManyNewAddresses));
    world.check();
    world.advance_ms(6000);
    assert!(matches!(browser.send_check(&mut world, false), Fed::Sent(..)));
    world.check();
    browser.at = addr(BROWSER);
    assert!(matches!(browser.say(&mut world, b"x"), Fed::Sent(..)), "the nominated address never gives way");
}

#[test]
fn media_is_held_until_the_fingerprint_is_known_and_matches() {
    let mut world = World::new();
    let handle = world.put(1, 1, &call(None, Some(PHONE))).legs[0].1;
    let mut browser = Browser::new(1, 0, handle, BROWSER, Profile::AeadAes256Gcm, 7);
    browser.connect(&mut world);
    assert_eq!(browser.say(&mut world, b"early"), Fed::Dropped(DropReason::FingerprintPending));
    let dropped = world.feed(rtp_port(1), addr(PHONE), &Source::new(0xf0, 0).packet(b"x"));
    assert_eq!(dropped, Fed::Dropped(DropReason::FingerprintPending));
    assert!(!world.events().iter().any(|event| matches!(event, Event::KeysReady { .. })));
    world.put(1, 2, &call(Some(CERTIFICATE), Some(PHONE)));
    let profile = "AEAD_AES_256_GCM".to_owned();
    assert_eq!(world.events(), [Event::KeysReady { relay: relay_id(1), leg: LegId(0), profile }]);
    assert!(matches!(browser.say(&mut world, b"now"), Fed::Sent(..)));
}

#[test]
fn a_certificate_that_signalling_did_not_name_gives_no_keys() {
    let mut world = World::new();
    let handle = world.put(1, 1, &call(Some(CERTIFICATE), Some(PHONE))).legs[0].1;
    let mut browser = Browser::new(1, 0, handle, BROWSER, Profile::AeadAes128Gcm, 7);
    browser.send_check(&mut world, true);
    world.events();
    assert!(browser.handshake(&mut world, Fingerprint([9; 32])));
    let cause = DtlsFailure::Fingerprint;
    assert_eq!(world.events(), [Event::DtlsFailed { relay: relay_id(1), leg: LegId(0), cause }]);
    assert_eq!(browser.say(&mut world, b"x"), Fed::Dropped(DropReason::NoKeys));
    assert!(browser.handshake(&mut world, CERTIFICATE), "a failed handshake ends nothing");
    assert!(matches!(browser.say(&mut world, b"x"), Fed::Sent(..)));
}

#[test]
fn a_refused_certificate_opens_media_once_signalling_names_it_after_all() {
    let mut world = World::new();
    let wrong = Fingerprint([9; 32]);
    let handle = world.put(1, 1, &call(Some(wrong), Some(PHONE))).legs[0].1;
    let mut browser = Browser::new(1, 0, handle, BROWSER, Profile::AeadAes128Gcm, 7);
    browser.connect(&mut world);
    world.events();
    let mut held = call(Some(wrong), Some(PHONE));
    held.routes[0].paused = true;
    world.put(1, 2, &held);
    assert_eq!(world.events(), [], "it is told once");
    world.put(1, 3, &call(Some(CERTIFICATE), Some(PHONE)));
    assert!(matches!(world.events()[..], [Event::KeysReady { .. }]));
    assert!(matches!(browser.say(&mut world, b"x"), Fed::Sent(..)));
}

#[test]
fn packets_under_the_former_keys_are_taken_for_a_while_and_never_twice() {
    let (mut world, mut old) = connected(Profile::AeadAes128Gcm);
    let seen = old.talk(b"seen");
    assert!(matches!(world.feed(MUX, old.at, &seen), Fed::Sent(..)));
    let mut new = Browser::new(1, 0, old.handle, BROWSER, Profile::AesCm128HmacSha1_80, 20);
    assert!(new.handshake(&mut world, CERTIFICATE));
    assert!(matches!(new.say(&mut world, b"new"), Fed::Sent(..)));
    world.advance_ms(200);
    assert!(matches!(old.say(&mut world, b"late"), Fed::Sent(..)));
    assert_eq!(world.feed(MUX, old.at, &seen), Fed::Dropped(DropReason::SrtpReplayed));
    let heard = world.feed(rtp_port(1), addr(PHONE), &Source::new(0xf0, 0).packet(b"x"));
    assert_eq!(new.hear(&heard.bytes()).payload, b"x");
    world.advance_ms(10_001);
    world.check();
    assert_eq!(old.say(&mut world, b"too late"), Fed::Dropped(DropReason::SrtpAuthFailed));
    assert!(matches!(new.say(&mut world, b"new"), Fed::Sent(..)));
}

#[test]
fn a_new_fingerprint_asks_for_a_new_handshake_at_the_next_check_and_keeps_the_old_keys_till_then() {
    let (mut world, mut browser) = connected(Profile::AeadAes128Gcm);
    world.put(1, 2, &call(Some(Fingerprint([8; 32])), Some(PHONE)));
    assert!(matches!(browser.say(&mut world, b"x"), Fed::Sent(..)));
    world.out.dtls_paths.clear();
    browser.send_check(&mut world, true);
    assert_eq!(world.out.dtls_paths, [(browser.handle, addr(BROWSER))]);
}

#[test]
fn a_stranger_on_a_sip_port_gets_three_packets_through_at_most_and_none_after_the_latch() {
    let (mut world, mut browser) = connected(Profile::AeadAes128Gcm);
    let stranger = addr("203.0.113.66:6666");
    let mut bleeder = Source::new(0xbad, 0);
    let mut forwarded = 0;
    for _ in 0..50 {
        world.advance_ms(1);
        forwarded += usize::from(matches!(world.feed(rtp_port(1), stranger, &bleeder.packet(b"x")), Fed::Sent(..)));
    }
    assert_eq!(forwarded, 3);
    assert_eq!(browser.say(&mut world, b"x").to(), addr(PHONE), "nothing is sent to a stranger");
    let mut phone = Source::new(0xf0, 0);
    assert!(matches!(world.feed(rtp_port(1), addr(PHONE), &phone.packet(b"x")), Fed::Sent(..)));
    for _ in 0..50 {
        world.advance_ms(20);
        world.feed(rtp_port(1), addr(PHONE), &phone.packet(b"x"));
        let dropped = world.feed(rtp_port(1), stranger, &bleeder.packet(b"x"));
        assert_eq!(dropped, Fed::Dropped(DropReason::ForeignSource));
    }
    assert_eq!(browser.say(&mut world, b"x").to(), addr(PHONE));
}

#[test]
fn a_stranger_who_was_latched_first_gives_way_to_the_phone_of_the_sdp() {
    let (mut world, mut browser) = connected(Profile::AeadAes128Gcm);
    let stranger = addr("203.0.113.66:6666");
    let mut bleeder = Source::new(0xbad, 0);
    for _ in 0..300 {
        world.advance_ms(1);
        world.feed(rtp_port(1), stranger, &bleeder.packet(b"x"));
    }
    let mut phone = Source::new(0xf0, 0);
    assert!(matches!(world.feed(rtp_port(1), addr(PHONE), &phone.packet(b"x")), Fed::Sent(..)));
    assert_eq!(browser.say(&mut world, b"x").to(), addr(PHONE));
    world.advance_ms(5000);
    for _ in 0..50 {
        world.advance_ms(20);
        let dropped = world.feed(rtp_port(1), stranger, &bleeder.packet(b"x"));
        assert_eq!(dropped, Fed::Dropped(DropReason::ForeignSource), "silence hands the call to nobody");
    }
}

#[test]
fn a_phone_behind_a_nat_is_found_and_answered_where_it_really_is() {
    let (mut world, mut browser) = connected(Profile::AeadAes128Gcm);
    let real = addr("203.0.113.5:7777");
    let mut phone = Source::new(0xf0, 0);
    for _ in 0..12 {
        world.feed(rtp_port(1), real, &phone.packet(b"x"));
        world.advance_ms(20);
    }
    assert!(world.events().contains(&Event::SourceLatched { relay: relay_id(1), leg: LegId(1), remote: real }));
    assert_eq!(browser.say(&mut world, b"x").to(), real);
    world.put(1, 2, &call(Some(CERTIFICATE), Some("192.0.2.99:4000")));
    assert_eq!(browser.say(&mut world, b"x").to(), addr("192.0.2.99:4000"), "a new remote begins a new epoch");
}

#[test]
fn a_camera_that_comes_from_another_port_after_silence_is_followed() {
    let mut call = crate::repair::Call::new(&crate::repair::video_call(false), Profile::AeadAes128Gcm);
    let ((rtp, rtcp), moved) = (ports(1, LegId(2)), addr("192.0.2.50:4444"));
    call.phone_shows(&[0x10, 0x50, 0, 0]);
    let mut report = [0; 64];
    let len = rtcp::write_receiver_report(&mut report, 0xf2, &[], b"phone").unwrap();
    call.world.feed(rtcp, addr("192.0.2.50:4003"), &report[..len]);
    call.world.advance_ms(2000);
    let next = call.phone.packet(&[0x10, 0x51, 0]);
    assert!(matches!(call.world.feed(rtp, moved, &next), Fed::Sent(..)), "others are heard again");
    call.world.advance_ms(200);
    let next = call.phone.packet(&[0x10, 0x51, 0]);
    assert!(matches!(call.world.feed(rtp, moved, &next), Fed::Sent(..)));
    assert_eq!(call.browser.say(&mut call.world, &[0x10, 0x50, 0, 0]).to(), moved);
    // Its reports come from another port too, and are believed when those of before stayed out for long.
    call.world.advance_ms(20_000);
    let moved = addr("192.0.2.50:4445");
    call.world.feed(rtcp, moved, &report[..len]);
    call.world.advance_ms(200);
    assert_eq!(call.world.feed(rtcp, moved, &report[..len]), Fed::Consumed);
    call.world.out.sent.clear();
    call.world.advance_ms(8000);
    assert!(call.world.out.sent.iter().any(|(port, to, _)| (*port, *to) == (rtcp, moved)));
}

#[test]
fn a_held_route_takes_no_media_and_goes_on_unbroken_afterwards() {
    let (mut world, mut browser) = connected(Profile::AeadAes128Gcm);
    let before = hear(&browser.say(&mut world, b"x").bytes());
    let mut held = call(Some(CERTIFICATE), Some(PHONE));
    held.routes[0].paused = true;
    world.put(1, 2, &held);
    world.advance_ms(1000);
    assert_eq!(browser.say(&mut world, b"x"), Fed::Dropped(DropReason::LegHeld));
    world.put(1, 3, &call(Some(CERTIFICATE), Some(PHONE)));
    browser.source = Source::new(0xb99, 0);
    let after = hear(&browser.say(&mut world, b"x").bytes());
    assert_eq!((after.sequence, after.marker), (before.sequence + 1, true));
    assert_eq!(after.timestamp, before.timestamp.wrapping_add(8000));
}

#[test]
fn a_source_that_numbered_on_while_it_was_held_is_no_loss() {
    let (mut world, mut browser) = connected(Profile::AeadAes128Gcm);
    let before = hear(&browser.say(&mut world, b"x").bytes());
    let mut held = call(Some(CERTIFICATE), Some(PHONE));
    held.routes[0].paused = true;
    world.put(1, 2, &held);
    for _ in 0..100 {
        world.advance_ms(20);
        assert_eq!(browser.say(&mut world, b"x"), Fed::Dropped(DropReason::LegHeld));
    }
    world.put(1, 3, &call(Some(CERTIFICATE), Some(PHONE)));
    let after = hear(&browser.say(&mut world, b"x").bytes());
    assert_eq!((after.sequence, after.marker), (before.sequence + 1, true));
}

#[test]
fn a_browser_cannot_be_taken_out_of_its_leg() {
    let (mut world, _) = connected(Profile::AeadAes128Gcm);
    let error = world.try_put(1, 2, &call(None, Some(PHONE))).unwrap_err();
    assert_eq!((error.code, error.field.as_str()), (ErrorCode::Invalid, "program.legs[0].remote"));
}

#[test]
fn a_route_that_comes_back_goes_on_where_its_ssrc_stopped() {
    let (mut world, mut browser) = connected(Profile::AeadAes128Gcm);
    let mut phone = Source::new(0xf0, 0);
    let sent = world.feed(rtp_port(1), addr(PHONE), &phone.packet(b"x"));
    let before = browser.hear(&sent.bytes());
    let whole = call(Some(CERTIFICATE), Some(PHONE));
    let mut without = whole.clone();
    without.routes.pop();
    world.put(1, 2, &without);
    assert_eq!(world.feed(rtp_port(1), addr(PHONE), &phone.packet(b"x")), Fed::Dropped(DropReason::NoRoute));
    world.put(1, 3, &whole);
    let sent = world.feed(rtp_port(1), addr(PHONE), &phone.packet(b"x"));
    let after = browser.hear(&sent.bytes());
    assert_eq!(after.sequence, before.sequence + 1, "the same SSRC under the same key never starts again");
}

#[test]
fn consent_that_is_lost_is_told_once_stops_sending_and_comes_back_with_a_check() {
    let (mut world, mut browser) = connected(Profile::AeadAes128Gcm);
    let mut phone = Source::new(0xf0, 0);
    world.events();
    world.advance_ms(29_000);
    assert_eq!(world.events(), []);
    world.advance_ms(60_000);
    assert_eq!(world.events(), [Event::ConsentLost { relay: relay_id(1), leg: LegId(0) }]);
    let dropped = world.feed(rtp_port(1), addr(PHONE), &phone.packet(b"x"));
    assert_eq!(dropped, Fed::Dropped(DropReason::PathLost));
    browser.send_check(&mut world, false);
    assert!(matches!(world.feed(rtp_port(1), addr(PHONE), &phone.packet(b"x")), Fed::Sent(..)));
    world.events();
    world.advance_ms(31_000);
    assert_eq!(world.events(), [Event::ConsentLost { relay: relay_id(1), leg: LegId(0) }]);
}

#[test]
fn a_browser_in_doubt_has_half_the_time_to_show_itself() {
    let (mut world, mut browser) = connected(Profile::AeadAes128Gcm);
    world.events();
    world.advance_ms(2000);
    world.doubt_consent(browser.handle);
    world.advance_ms(14_000);
    browser.send_check(&mut world, false);
    world.advance_ms(29_000);
    assert_eq!(world.events(), [], "it was there");
    browser.send_check(&mut world, false);
    world.doubt_consent(browser.handle);
    world.advance_ms(10_000);
    world.doubt_consent(browser.handle);
    world.advance_ms(4000);
    assert_eq!(world.events(), []);
    world.advance_ms(1000);
    assert_eq!(
        world.events(),
        [Event::ConsentLost { relay: relay_id(1), leg: LegId(0) }],
        "doubt upon doubt adds nothing"
    );
    world.doubt_consent(browser.handle);
    world.advance_ms(20_000);
    assert_eq!(world.events(), []);
}

#[test]
fn silence_is_told_once_for_each_silence_and_never_of_held_legs() {
    let mut world = World::new();
    let mut program = call(None, Some(PHONE));
    program.legs[1].media_timeout_ms = Some(5000);
    world.put(1, 1, &program);
    let mut phone = Source::new(0xf0, 0);
    let silent = [Event::MediaTimeout { relay: relay_id(1), leg: LegId(1) }];
    world.advance_ms(4000);
    world.feed(rtp_port(1), addr(PHONE), &phone.packet(b"x"));
    world.events();
    world.advance_ms(4900);
    assert_eq!(world.events(), []);
    world.advance_ms(20_000);
    assert_eq!(world.events(), silent);
    world.feed(rtp_port(1), addr(PHONE), &phone.packet(b"x"));
    world.advance_ms(5100);
    assert_eq!(world.events(), silent);
    program.routes[1].paused = true;
    world.put(1, 2, &program);
    world.feed(rtp_port(1), addr(PHONE), &phone.packet(b"x"));
    world.advance_ms(20_000);
    assert_eq!(world.events(), [], "a held peer is silent by right");
}

#[test]
fn a_refused_program_changes_nothing() {
    let (mut world, mut browser) = connected(Profile::AeadAes128Gcm);
    let mut bad = call(Some(CERTIFICATE), Some("192.0.2.99:4000"));
    bad.routes[1].payloads[0].to.codec = Codec::Opus;
    let error = world.try_put(1, 2, &bad).unwrap_err();
    assert_eq!((error.code, error.field.as_str()), (ErrorCode::Invalid, "program.routes[1].payloads[0]"));
    assert_eq!(browser.say(&mut world, b"x").to(), addr(PHONE));
    let many = program((0..8).map(|id| rtp_leg(id, None)).collect(), vec![]);
    world.put(2, 1, &many);
    let error = world.try_put(3, 1, &many).unwrap_err();
    assert_eq!((error.code, error.retryable), (ErrorCode::Full, true));
    assert!(world.remove(2) && !world.remove(3));
    world.put(3, 1, &many);
}

#[test]
fn an_ended_relay_leaves_its_last_counters_and_nothing_else() {
    let (mut world, mut browser) = connected(Profile::AeadAes128Gcm);
    browser.say(&mut world, b"x");
    world.events();
    assert!(world.remove(1));
    let stats = |event: &Event| matches!(event, Event::LegStats { stats, .. } if stats.leg == LegId(0) && stats.received.packets == 1);
    assert!(world.out.events.iter().any(stats));
    assert_eq!(browser.say(&mut world, b"x"), Fed::Dropped(DropReason::NoSuchPath));
    let dropped = world.feed(rtp_port(1), addr(PHONE), &Source::new(0xf0, 0).packet(b"x"));
    assert_eq!(dropped, Fed::Dropped(DropReason::PortUnknown));
    assert!(!browser.handshake(&mut world, CERTIFICATE), "its handle is void");
    assert_eq!(world.relays().next_deadline(), None);
}

#[test]
fn a_kept_leg_keeps_its_handle_and_a_leg_of_another_kind_is_a_new_one() {
    let (mut world, browser) = connected(Profile::AeadAes128Gcm);
    let kept = world.put(1, 2, &call(Some(CERTIFICATE), None));
    assert_eq!(kept.legs[0].1, browser.handle);
    let pcmu = payload(0, Codec::Pcmu, 8000);
    let legs = vec![rtp_leg(0, None), ice_leg(1, None)];
    let swapped = world.put(1, 3, &program(legs, vec![route(0, 1, 0x1001, &[(pcmu.clone(), pcmu)])]));
    assert_ne!(swapped.legs[0].1, browser.handle);
    assert!(!world.has_consent(browser.handle));
}

/// Time in which every source of a leg falls silent for long enough to lose its place.
fn fall_silent(world: &mut World, browser: &mut Browser) {
    browser.send_check(world, true);
    world.advance_ms(10_001);
}

#[test]
fn a_leg_full_of_sources_hears_a_new_one_once_another_fell_silent_and_replays_neither() {
    let (mut world, mut browser) = connected(Profile::AeadAes128Gcm);
    let mut sources: Vec<Source> = (0..=RX_STREAMS_MAX as u32).map(|number| Source::new(0xa000 + number, 0)).collect();
    // The rollover counter of the first is not zero when it loses its place.
    sources[0].sequence = 65_533;
    let mut talk = |world: &mut World, browser: &mut Browser, number: usize| {
        let packet = browser.protect(&sources[number].packet(b"x"));
        (world.feed(MUX, browser.at, &packet), packet)
    };
    let late = browser.protect(&Source { sequence: 65_532, ..Source::new(0xa000, 0) }.packet(b"late"));
    let kept: Vec<_> = (0..4).map(|_| talk(&mut world, &mut browser, 0).1).collect();
    for number in 1..RX_STREAMS_MAX {
        assert!(matches!(talk(&mut world, &mut browser, number), (Fed::Sent(..), _)));
    }
    let new = RX_STREAMS_MAX;
    assert_eq!(talk(&mut world, &mut browser, new).0, Fed::Dropped(DropReason::SrtpStreamsFull));

    world.advance_ms(9_900);
    browser.send_check(&mut world, true);
    for number in 2..RX_STREAMS_MAX {
        assert!(matches!(talk(&mut world, &mut browser, number), (Fed::Sent(..), _)));
    }
    let mut bytes = [0; 128];
    let len = rtcp::write_receiver_report(&mut bytes, 0xa001, &[], b"browser").unwrap();
    let report = browser.protect_rtcp(&bytes[..len]);
    assert_eq!(world.feed(MUX, browser.at, &report), Fed::Consumed);
    assert_eq!(talk(&mut world, &mut browser, new).0, Fed::Dropped(DropReason::SrtpStreamsFull));

    world.advance_ms(200);
    assert!(matches!(talk(&mut world, &mut browser, new), (Fed::Sent(..), _)), "the first gave way");
    assert!(matches!(talk(&mut world, &mut browser, 1), (Fed::Sent(..), _)), "its RTCP is a sign of life");
    let replay = |world: &mut World, browser: &Browser| {
        for packet in kept.iter().chain([&late]) {
            assert_eq!(world.feed(MUX, browser.at, packet), Fed::Dropped(DropReason::SrtpReplayed));
        }
    };
    replay(&mut world, &browser);
    assert_eq!(talk(&mut world, &mut browser, 0).0, Fed::Dropped(DropReason::SrtpStreamsFull));

    fall_silent(&mut world, &mut browser);
    assert!(matches!(talk(&mut world, &mut browser, 0), (Fed::Sent(..), _)), "it comes back where it stopped");
    replay(&mut world, &browser);
    fall_silent(&mut world, &mut browser);
    for number in 1..=RX_STREAMS_MAX {
        assert!(matches!(talk(&mut world, &mut browser, number), (Fed::Sent(..), _)));
    }
    world.restart();
    replay(&mut world, &browser);
}

#[test]
fn so_many_sources_are_remembered_under_one_key_and_no_more() {
    let (mut world, mut browser) = connected(Profile::AeadAes128Gcm);
    let talk = |world: &mut World, browser: &mut Browser, number: usize| {
        let packet = browser.protect(&Source::new(0xa000 + number as u32, 0).packet(b"x"));
        world.feed(MUX, browser.at, &packet)
    };
    for number in 0..RX_STREAMS_MAX + RETIRED_STREAMS_MAX {
        if number % RX_STREAMS_MAX == 0 {
            fall_silent(&mut world, &mut browser);
        }
        assert!(matches!(talk(&mut world, &mut browser, number), Fed::Sent(..)), "source {number}");
    }
    fall_silent(&mut world, &mut browser);
    let beyond = RX_STREAMS_MAX + RETIRED_STREAMS_MAX;
    assert_eq!(talk(&mut world, &mut browser, beyond), Fed::Dropped(DropReason::SrtpStreamsFull));
    browser.rekey(Profile::AeadAes128Gcm, 20);
    assert!(browser.handshake(&mut world, CERTIFICATE));
    fall_silent(&mut world, &mut browser);
    assert!(matches!(talk(&mut world, &mut browser, beyond), Fed::Sent(..)), "other keys, other indexes");
}

#[test]
fn an_sdes_leg_believes_tags_instead_of_addresses() {
    let mut world = World::new();
    let pcmu = payload(0, Codec::Pcmu, 8000);
    let mut legs = vec![rtp_leg(0, Some(PHONE)), rtp_leg(1, Some("192.0.2.51:6000"))];
    let LegKind::Rtp(rtp) = legs[1].kind.clone() else { unreachable!("just made") };
    // Sixteen bytes of key and twelve of salt as `Browser` number 7 has them.
    let key =
        |fill: u8| base64::Engine::encode(&base64::prelude::BASE64_STANDARD, [&[fill; 16][..], &[!fill; 12]].concat());
    let keys = SrtpKeys { suite: SrtpSuite::AeadAes128Gcm, local: Secret::new(key(7)), remote: Secret::new(key(8)) };
    let remote = Some(RtpRemote { rtcp_mux: true, ..rtp.remote.unwrap() });
    legs[1].kind = LegKind::Srtp(SrtpLeg { rtp: gangway_shared::rcp::RtpLeg { remote, ..rtp }, keys });
    let program =
        program(legs, vec![route(1, 0, 9, &[(pcmu.clone(), pcmu.clone())]), route(0, 1, 8, &[(pcmu.clone(), pcmu)])]);
    let handle = world.put(1, 1, &program).legs[1].1;
    let mut peer = Browser::new(1, 1, handle, "203.0.113.9:9", Profile::AeadAes128Gcm, 7);
    let clear = Source::new(0xf1, 0).packet(b"clear text that is long enough");
    assert_eq!(world.feed(rtp_port(1), addr("192.0.2.51:6000"), &clear), Fed::Dropped(DropReason::SrtpAuthFailed));
    let packet = peer.talk(b"x");
    assert!(matches!(world.feed(rtp_port(1), peer.at, &packet), Fed::Sent(..)));
    assert_eq!(world.feed(rtp_port(1), peer.at, &packet), Fed::Dropped(DropReason::SrtpReplayed));
    let back = world.feed(rtp_port(0), addr(PHONE), &Source::new(0xf0, 0).packet(b"y"));
    assert_eq!(back.to(), peer.at, "its tag proved where it is");
    assert_eq!(peer.hear(&back.bytes()).payload, b"y");
    let mut other = program.clone();
    let LegKind::Srtp(srtp) = &mut other.legs[1].kind else { unreachable!("just made") };
    (srtp.keys.local, srtp.keys.remote) = (Secret::new(key(17)), Secret::new(key(18)));
    let mut hear_reports = |world: &mut World| {
        world.out.sent.clear();
        world.advance_ms(8000);
        let reports: Vec<_> = world.out.sent.drain(..).filter(|(_, to, _)| *to == peer.at).collect();
        assert!(!reports.is_empty());
        // Opening fails for an index used twice.
        reports.iter().for_each(|(_, _, bytes)| drop(peer.hear_rtcp(bytes)));
    };
    hear_reports(&mut world);
    world.put(1, 2, &other);
    world.put(1, 3, &program);
    hear_reports(&mut world);
    assert_eq!(world.feed(rtp_port(1), peer.at, &packet), Fed::Dropped(DropReason::SrtpReplayed), "the key came back");

    let mut held = program.clone();
    let LegKind::Srtp(srtp) = &mut held.legs[1].kind else { unreachable!("just made") };
    let nowhere = addr("0.0.0.0:6000");
    srtp.rtp.remote = Some(RtpRemote { rtp: nowhere, rtcp: nowhere, rtcp_mux: true });
    world.put(1, 4, &held);
    let packet = peer.talk(b"x");
    assert!(matches!(world.feed(rtp_port(1), peer.at, &packet), Fed::Sent(..)));
    let to_held = world.feed(rtp_port(0), addr(PHONE), &Source::new(0xf0, 0).packet(b"y"));
    assert_eq!(to_held, Fed::Dropped(DropReason::NoRemote), "a tag does not take a hold back");
    let mut bad = program.clone();
    let LegKind::Srtp(srtp) = &mut bad.legs[1].kind else { unreachable!("just made") };
    srtp.keys.local = Secret::new("c2hvcnQ=".into());
    let error = world.try_put(1, 5, &bad).unwrap_err();
    assert_eq!((error.code, error.field.as_str()), (ErrorCode::Invalid, "program.legs[1].keys.local"));
}
