//! Incoming calls: wcs-protocol.md 5.4 and 5.5.

use std::time::Duration;

use gangway_control::{
    gateway::{
        effects::Input,
        messages::{AnswerRequest, CallStatus, ClientMessage},
    },
    sip::{
        Transport,
        message::{HeaderName, Method},
    },
};
use gangway_shared::rcp::LegKind;

use crate::world::{World, browser_answer, config, phone_sdp, relay_up};

/// A session with its opaque key, ready to be called.
fn callee() -> (World, gangway_control::gateway::effects::SocketId, String) {
    let mut world = World::new(config());
    let page = world.session();
    let key = world.contact_key(page);
    (world, page, format!("sip:{key}@10.0.0.1:5060"))
}

#[test]
fn the_browser_hears_in_the_order_that_the_sdk_needs_and_the_caller_gets_180_then_200() {
    let (mut world, page, uri) = callee();
    let invite = world.invite(&uri, "in1", Some(&phone_sdp(4000, "8 0 101")));
    assert_eq!(world.sip_names(), ["100", "180"]);
    let call = world.last_call();
    assert!(call.incoming);
    assert_eq!((call.caller.as_str(), call.callee.as_str(), call.visible_name.as_str()), ("bob", "1001", "Bob"));
    let offer = world.last_description();
    assert!(offer.contains("a=setup:actpass") && offer.contains("a=ice-lite"), "{offer}");
    assert_eq!(world.names(), ["setRemoteSDP", "notifyIncomingCall", "ring"]);
    world.answer(page, &call.call_id, "8 126");
    let answer = world.response(200);
    assert!(answer.headers.value(&HeaderName::Contact).is_some());
    let body = String::from_utf8(answer.body.clone()).unwrap();
    assert!(body.contains("RTP/AVP 8"), "{body}");
    assert_eq!(world.names(), ["talk"]);
    world.in_their_dialog(&invite, &answer, &Method::Ack, 1, None);
    let (generation, program) = &world.relay.relays[&world.only_relay()];
    assert!(generation.0 >= 2 && program.routes.len() == 2);
    let LegKind::IceDtls(ice) = &program.legs[0].kind else { panic!("leg 0 is the browser") };
    assert!(ice.remote.is_some());
    world.keys_ready();
    world.in_their_dialog(&invite, &answer, &Method::Bye, 2, None);
    assert_eq!(world.sip_names(), ["200"]);
    assert_eq!(world.names(), ["finish FINISH"]);
    world.assert_clean();
}

#[test]
fn a_challenged_bye_of_an_incoming_call_is_sent_again_with_credentials() {
    let (mut world, page, uri) = callee();
    let invite = world.invite(&uri, "in1", Some(&phone_sdp(4000, "0")));
    let call_id = world.last_call().call_id;
    world.answer(page, &call_id, "0");
    let answer = world.response(200);
    world.in_their_dialog(&invite, &answer, &Method::Ack, 1, None);
    world.hangup(page, &call_id);
    let bye = world.request(&Method::Bye);
    let challenge = "Digest realm=\"example.com\", nonce=\"n1\", algorithm=MD5, qop=\"auth\"";
    world.respond_as(&bye, 407, "t", None, &[(HeaderName::ProxyAuthenticate, challenge)]);
    let again = world.request(&Method::Bye);
    let credentials = again.headers.value(&HeaderName::ProxyAuthorization).unwrap();
    assert!(credentials.contains("username=\"auth1001\"") && credentials.contains("nonce=\"n1\""), "{credentials}");
    world.assert_clean();
}

#[test]
fn a_caller_that_ends_the_ringing_by_bye_is_told_to_the_page_and_leaves_no_relay() {
    let (mut world, _, uri) = callee();
    let invite = world.invite(&uri, "in1", Some(&phone_sdp(4000, "0")));
    let ringing = world.response(180);
    world.only_relay();
    world.forget();
    world.in_their_dialog(&invite, &ringing, &Method::Bye, 2, None);
    assert_eq!(world.sip_names(), ["200", "487"]);
    let call = world.last_call();
    assert_eq!((call.status, call.info.as_deref()), (CallStatus::Finish, Some("Normal call clearing")));
    assert_eq!(world.names(), ["finish FINISH"]);
    world.assert_clean();
}

#[test]
fn who_rejects_a_second_call_is_busy_and_other_phones_of_the_number_ring_on() {
    let (mut world, page, uri) = callee();
    world.established(page, "c1");
    world.invite(&uri, "in2", Some(&phone_sdp(4000, "0")));
    let second = world.last_call().call_id;
    world.forget();
    world.hangup(page, &second);
    assert_eq!(world.sip_names(), ["486"]);
    assert_eq!(world.names(), ["finish FINISH"]);
    assert_eq!(world.gateway.counts().calls_established, 1);
}

#[test]
fn reject_is_603_and_finish() {
    let (mut world, page, uri) = callee();
    world.invite(&uri, "in1", Some(&phone_sdp(4000, "0")));
    let call_id = world.last_call().call_id;
    world.forget();
    world.hangup(page, &call_id);
    assert_eq!(world.sip_names(), ["603"]);
    assert_eq!(world.names(), ["finish FINISH"]);
    world.assert_clean();
}

#[test]
fn nobody_answers_is_480_after_the_ring_timeout() {
    let (mut world, _, uri) = callee();
    world.invite(&uri, "in1", Some(&phone_sdp(4000, "0")));
    world.forget();
    world.advance(Duration::from_secs(61));
    assert_eq!(world.sip_names()[0], "480");
    assert!(world.names().contains(&"finish FAILED".to_owned()));
    world.assert_clean();
}

#[test]
fn a_caller_that_gives_up_is_487_and_a_late_answer_gets_its_own_finish() {
    let (mut world, page, uri) = callee();
    let invite = world.invite(&uri, "in1", Some(&phone_sdp(4000, "0")));
    let call_id = world.last_call().call_id;
    world.forget();
    world.cancel(&invite);
    let names = world.sip_names();
    assert!(names.contains(&"487".to_owned()) && names.contains(&"200".to_owned()), "{names:?}");
    assert_eq!(world.names(), ["finish FINISH"]);
    world.answer(page, &call_id, "0");
    assert_eq!(world.names(), ["finish FAILED"]);
    assert!(world.sip.is_empty());
    world.assert_clean();
}

#[test]
fn a_cancel_during_each_wait_leaves_nothing() {
    for answered in 0..2 {
        let (mut world, _, uri) = callee();
        world.hold_asks = true;
        let invite = world.invite(&uri, "in1", Some(&phone_sdp(4000, "0")));
        for _ in 0..answered {
            world.answer_ask();
        }
        world.cancel(&invite);
        assert!(world.names().is_empty(), "the page never heard of it");
        let (ask, what) = world.asks.pop_front().unwrap();
        let answer = world.consent(what);
        world.input(Input::Answer { ask, answer });
        assert!(world.names().is_empty());
        world.input(relay_up(1));
        world.assert_clean();
    }
}

#[test]
fn a_cancel_while_the_relay_learns_of_the_browser_wins_over_the_200() {
    let (mut world, page, uri) = callee();
    let invite = world.invite(&uri, "in1", Some(&phone_sdp(4000, "0")));
    let call_id = world.last_call().call_id;
    world.forget();
    world.hold_requests = true;
    world.answer(page, &call_id, "0");
    assert!(world.sip.is_empty() && world.sent.is_empty(), "200 and talk wait for the relay");
    world.cancel(&invite);
    assert_eq!(world.names(), ["finish FINISH"]);
    world.hold_requests = false;
    while !world.requests.is_empty() {
        world.answer_request();
    }
    assert!(world.sip_names().contains(&"487".to_owned()));
    world.assert_clean();
}

#[test]
fn offers_that_cannot_be_used_are_refused_before_anybody_rings() {
    let (mut world, page, uri) = callee();
    world.invite(&uri, "in1", Some(&phone_sdp(4000, "18")));
    assert_eq!(world.sip_names().last().unwrap(), "488");
    world.invite(&uri, "in2", Some("nonsense"));
    let refusal = world.response(488);
    assert!(refusal.headers.value(&HeaderName::Warning).unwrap().starts_with("399 gangway \""));
    assert!(world.names().is_empty());
    world.assert_clean();
    let _ = page;
}

#[test]
fn an_invite_for_an_account_rings_its_newest_session_and_others_are_404() {
    let mut world = World::new(config());
    let old = world.session();
    let new = world.session();
    // The peer is a target of the account once something was resolved for it.
    world.contact_key(old);
    world.invite("sip:1001@example.com", "in1", Some(&phone_sdp(4000, "0")));
    assert!(world.sent.iter().all(|(socket, _)| *socket == new), "the newest session rings");
    assert_eq!(world.names().len(), 3);
    world.forget();
    world.invite("sip:nobody@example.com", "in2", Some(&phone_sdp(4000, "0")));
    assert_eq!(world.sip_names().last().unwrap(), "404");
}

#[test]
fn a_stranger_that_names_an_account_learns_nothing() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut world = World::new(config());
        world.transport = transport;
        let page = world.session();
        world.invite("sip:1001@example.com", "in1", Some(&phone_sdp(4000, "0")));
        assert_eq!(world.sip_names().last().unwrap(), "404", "{transport}");
        assert!(world.names().is_empty());
        // Nor does a name that nobody has tell it apart.
        world.invite("sip:nobody@example.com", "in2", Some(&phone_sdp(4000, "0")));
        assert_eq!(world.sip_names().last().unwrap(), "404", "{transport}");
        // Once it is a target of the account it is no stranger.
        world.transport = Transport::Udp;
        world.contact_key(page);
        world.transport = transport;
        world.invite("sip:1001@example.com", "in3", Some(&phone_sdp(4000, "0")));
        assert_eq!(world.names(), ["setRemoteSDP", "notifyIncomingCall", "ring"], "{transport}");
    }
}

#[test]
fn a_browser_that_refuses_audio_is_488_for_the_caller() {
    let (mut world, page, uri) = callee();
    world.invite(&uri, "in1", Some(&phone_sdp(4000, "0")));
    let call_id = world.last_call().call_id;
    world.forget();
    world.answer(page, &call_id, "13");
    assert_eq!(world.sip_names(), ["488"]);
    assert_eq!(world.last_call().info.as_deref(), Some("No common codecs"));
    world.assert_clean();
}

#[test]
fn an_answer_whose_audio_has_no_transport_of_its_own_ends_the_call_at_once() {
    let (mut world, page, uri) = callee();
    world.invite(&uri, "in1", Some(&phone_sdp(4000, "0")));
    let call_id = world.last_call().call_id;
    world.forget();
    // RFC 9143 section 6: a bundle-only section is carried by another one, and there is none.
    let sdp = browser_answer("0").replace("m=audio 9 ", "m=audio 0 ").replace("a=mid:0", "a=bundle-only\r\na=mid:0");
    let request = AnswerRequest { call_id, sdp: Some(sdp), ..AnswerRequest::default() };
    world.say(page, ClientMessage::Answer(Box::new(request)));
    assert_eq!(world.sip_names(), ["480"]);
    assert_eq!(world.last_call().info.as_deref(), Some("Failed by session creation"));
    assert_eq!(world.names(), ["finish FAILED"]);
    world.assert_clean();
}

#[test]
fn every_program_of_a_call_names_the_browser_once_it_is_known() {
    let (mut world, page, uri) = callee();
    let named = |world: &World| {
        let (_, program) = &world.relay.relays[&world.only_relay()];
        let LegKind::IceDtls(ice) = &program.legs[0].kind else { panic!("leg 0 is the browser") };
        ice.remote.clone()
    };
    let invite = world.invite(&uri, "in1", None);
    let call_id = world.last_call().call_id;
    assert_eq!(named(&world), None);
    world.answer(page, &call_id, "0");
    let browser = named(&world);
    assert!(browser.is_some());
    let answer = world.response(200);
    world.in_their_dialog(&invite, &answer, &Method::Ack, 1, Some(&phone_sdp(4000, "0")));
    assert_eq!(named(&world), browser);
    world.in_their_dialog(&invite, &answer, &Method::Invite, 2, Some(&phone_sdp(4444, "0")));
    assert_eq!(named(&world), browser);
    world.input(Input::RelayDown);
    world.input(relay_up(2));
    assert_eq!(named(&world), browser);
}

#[test]
fn an_invite_without_an_offer_gets_ours_in_the_200_and_talks_after_the_ack() {
    let (mut world, page, uri) = callee();
    let invite = world.invite(&uri, "in1", None);
    let call_id = world.last_call().call_id;
    world.forget();
    world.answer(page, &call_id, "111 0 126");
    let answer = world.response(200);
    assert!(String::from_utf8(answer.body.clone()).unwrap().contains("m=audio"));
    assert!(world.names().is_empty());
    world.in_their_dialog(&invite, &answer, &Method::Ack, 1, Some(&phone_sdp(4000, "0")));
    assert_eq!(world.names(), ["talk"]);
    let (_, program) = &world.relay.relays[&world.only_relay()];
    let LegKind::Rtp(rtp) = &program.legs[1].kind else { panic!() };
    assert_eq!(rtp.remote.unwrap().rtp.port(), 4000);
    world.hangup(page, &call_id);
    world.request(&Method::Bye);
    world.assert_clean();
}

#[test]
fn a_200_without_ack_ends_the_call() {
    let (mut world, page, uri) = callee();
    world.invite(&uri, "in1", Some(&phone_sdp(4000, "0")));
    let call_id = world.last_call().call_id;
    world.answer(page, &call_id, "0");
    world.keys_ready();
    world.forget();
    world.advance(Duration::from_secs(40));
    assert!(world.sip_names().contains(&"BYE".to_owned()));
    assert_eq!(world.last_call().status, CallStatus::Failed);
    world.assert_clean();
}

#[test]
fn a_session_with_all_its_calls_is_busy() {
    let mut settings = config();
    settings.max_calls_per_session = 1;
    let mut world = World::new(settings);
    let page = world.session();
    let key = world.contact_key(page);
    let uri = format!("sip:{key}@10.0.0.1:5060");
    world.invite(&uri, "in1", Some(&phone_sdp(4000, "0")));
    world.forget();
    world.invite(&uri, "in2", Some(&phone_sdp(4000, "0")));
    assert_eq!(world.sip_names().last().unwrap(), "486");
    assert!(world.names().is_empty());
}

#[test]
fn draining_refuses_new_calls_with_503_and_keeps_the_old() {
    let (mut world, page, uri) = callee();
    world.established(page, "c1");
    world.input(Input::Drain);
    world.invite(&uri, "in1", Some(&phone_sdp(4000, "0")));
    let refusal = world.response(503);
    assert!(refusal.headers.value(&HeaderName::RetryAfter).is_some());
    world.call(page, "c2", "600");
    let refused = world.last_call();
    assert_eq!((refused.sip_status, refused.info.as_deref()), (Some(503), Some("Failed by session creation")));
    assert_eq!(world.names(), ["fail", "finish FAILED"]);
    assert_eq!(world.gateway.counts().calls_established, 1);
    world.input(Input::EndAll);
    assert_eq!(world.names(), ["finish FINISH"]);
    let bye = world.request(&Method::Bye);
    assert!(!world.gateway.is_idle());
    world.respond(&bye, 200, None);
    assert!(world.gateway.is_idle());
    world.assert_clean();
}

#[test]
fn a_reinvite_with_a_new_port_moves_the_media_and_other_codecs_are_488() {
    let (mut world, page, _) = callee();
    let invite = world.established(page, "c1");
    world.in_our_dialog(&invite, &Method::Invite, 2, Some(&phone_sdp(4444, "0 101")));
    let answer = world.response(200);
    assert!(String::from_utf8(answer.body).unwrap().contains("RTP/AVP 0"));
    let port = |world: &World| {
        let (_, program) = &world.relay.relays[&world.only_relay()];
        let LegKind::Rtp(rtp) = &program.legs[1].kind else { panic!() };
        rtp.remote.unwrap().rtp.port()
    };
    assert_eq!(port(&world), 4444);
    world.in_our_dialog(&invite, &Method::Ack, 2, None);
    world.in_our_dialog(&invite, &Method::Invite, 3, Some(&phone_sdp(5555, "9")));
    world.response(488);
    world.in_our_dialog(&invite, &Method::Ack, 3, None);
    assert_eq!(port(&world), 4444);
    assert!(world.names().is_empty(), "the browser hears nothing of it");
    assert_eq!(world.gateway.counts().calls_established, 1);
}

#[test]
fn a_reinvite_that_the_relay_refuses_changes_nothing() {
    let (mut world, page, _) = callee();
    let invite = world.established(page, "c1");
    world.hold_requests = true;
    world.in_our_dialog(&invite, &Method::Invite, 2, Some(&phone_sdp(4444, "0 101")));
    world.relay.refuses = Some(gangway_shared::rcp::ErrorCode::NoAddress);
    world.answer_request();
    world.response(488);
    world.relay.refuses = None;
    world.hold_requests = false;
    while !world.requests.is_empty() {
        world.answer_request();
    }
    let (_, program) = &world.relay.relays[&world.only_relay()];
    let LegKind::Rtp(rtp) = &program.legs[1].kind else { panic!() };
    assert_eq!(rtp.remote.unwrap().rtp.port(), 4000);
    assert_eq!(world.gateway.counts().calls_established, 1);
    // The refused offer left no trace in our session either: the next description is the second (RFC 3264 section 8).
    world.in_our_dialog(&invite, &Method::Invite, 3, Some(&phone_sdp(4444, "0 101")));
    let answer = String::from_utf8(world.response(200).body).unwrap();
    assert_eq!(answer.lines().find(|line| line.starts_with("o=")).unwrap().split(' ').nth(2), Some("2"), "{answer}");
}

#[test]
fn a_reinvite_that_meets_a_dataplane_that_started_anew_is_answered_and_the_call_over() {
    let (mut world, page, _) = callee();
    let invite = world.established(page, "c1");
    world.hold_requests = true;
    world.in_our_dialog(&invite, &Method::Invite, 2, Some(&phone_sdp(4444, "0 101")));
    world.relay.relays.clear();
    world.relay.incarnation += 1;
    world.hold_requests = false;
    world.answer_request();
    assert_eq!(world.sip_names(), ["100", "BYE", "487"]);
    assert_eq!(world.names(), ["finish FAILED"]);
    world.assert_clean();
}

#[test]
fn a_reinvite_without_an_offer_gets_ours_and_its_ack_moves_the_media() {
    let (mut world, page, _) = callee();
    let invite = world.established(page, "c1");
    world.in_our_dialog(&invite, &Method::Invite, 2, None);
    let answer = world.response(200);
    assert!(String::from_utf8(answer.body).unwrap().contains("m=audio"));
    world.in_our_dialog(&invite, &Method::Ack, 2, Some(&phone_sdp(4666, "0")));
    let (_, program) = &world.relay.relays[&world.only_relay()];
    let LegKind::Rtp(rtp) = &program.legs[1].kind else { panic!() };
    assert_eq!(rtp.remote.unwrap().rtp.port(), 4666);
    assert!(world.names().is_empty());
}

#[test]
fn sip_sdp_lines_of_the_answer_stand_in_the_200_and_others_end_the_call_by_name() {
    let answer = |lines: &[&str]| {
        let mut world = World::new(config());
        let page = world.session();
        let uri = format!("sip:{}@10.0.0.1:5060", world.contact_key(page));
        world.invite(&uri, "in1", Some(&phone_sdp(4000, "0")));
        let call_id = world.last_call().call_id;
        world.forget();
        let sip_sdp = Some(lines.iter().map(|line| (*line).to_owned()).collect());
        let request = AnswerRequest { call_id, sdp: Some(browser_answer("0")), sip_sdp, ..AnswerRequest::default() };
        world.say(page, ClientMessage::Answer(Box::new(request)));
        world
    };
    let mut world = answer(&["b=AS:3000", "a=x-second:2", "b=TIAS:64000"]);
    let body = String::from_utf8(world.response(200).body).unwrap();
    assert!(
        body.contains("\r\nc=IN IP4 10.0.0.1\r\nb=AS:3000\r\na=x-second:2\r\nb=TIAS:64000\r\nt=0 0\r\n"),
        "verbatim and in order: {body}"
    );
    for (line, reason) in [
        ("a=x\r\nm=audio 9 RTP/AVP 0", "control characters"),
        ("c=IN IP4 203.0.113.1", "only b= and a= lines"),
        ("a=sendonly", "negotiated by the gateway itself"),
    ] {
        let mut world = answer(&["b=AS:3000", line]);
        let fail = world.last_fail();
        assert!(fail.contains("sipSDP[1]: ") && fail.contains(reason), "{fail}");
        assert_eq!(world.names(), ["fail", "finish FAILED"]);
        world.response(480);
        world.assert_clean();
    }
}
