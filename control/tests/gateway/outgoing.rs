//! Outgoing calls: wcs-protocol.md 5.3, 5.5 and 5.8.

use std::time::Duration;

use gangway_control::{
    gateway::{
        effects::{Answer, Ask, Input, SocketId},
        messages::{CallRequest, CallStatus, ClientMessage},
    },
    sip::{
        Transport,
        message::{HeaderName, Method, Request},
        ua::Advertised,
    },
};
use gangway_shared::{
    ids::{LegId, RelayId},
    rcp::{DtlsFailure, ErrorCode, Event, LegKind},
};

use crate::world::{BROWSER_OFFER, PEER, SILENT, World, config, phone_sdp, relay_up};

/// A world with a session that can call.
fn ready() -> (World, SocketId) {
    let mut world = World::new(config());
    let page = world.session();
    (world, page)
}

/// A session whose call `c1` to 600 waits for an answer to its INVITE.
fn calling() -> (World, SocketId, Request) {
    let (mut world, page) = ready();
    world.call(page, "c1", "600");
    let invite = world.request(&Method::Invite);
    (world, page, invite)
}

#[test]
fn a_call_goes_through_trying_ring_established_finish_with_one_description() {
    let (mut world, page) = ready();
    world.call(page, "c1", "600");
    assert_eq!(world.names(), ["notifyTryingResponse"]);
    let invite = world.request(&Method::Invite);
    assert_eq!(invite.uri.to_string(), "sip:600@example.com");
    let from = invite.headers.value(&HeaderName::From).unwrap();
    assert!(from.starts_with("\"Alice \\\"A\\\"\" <sip:1001@example.com>"), "{from}");
    let body = String::from_utf8(invite.body.clone()).unwrap();
    assert!(body.contains("m=audio 31002 RTP/AVP") && body.contains("c=IN IP4 10.0.0.1"), "{body}");
    world.respond(&invite, 100, None);
    assert!(world.names().is_empty());
    world.respond(&invite, 180, None);
    world.respond(&invite, 180, None);
    assert_eq!(world.names(), ["ring"]);
    world.respond(&invite, 200, Some(&phone_sdp(4000, "0 101")));
    assert_eq!(world.sip_names(), ["ACK"]);
    let answer = world.last_description();
    assert!(answer.contains("a=setup:passive") && answer.contains("UDP/TLS/RTP/SAVPF 0 126"), "{answer}");
    assert_eq!(world.names(), ["setRemoteSDP", "talk"]);
    let (generation, program) = &world.relay.relays[&world.only_relay()];
    assert_eq!(generation.0, 2);
    assert_eq!(program.routes.len(), 2);
    let LegKind::Rtp(rtp) = &program.legs[1].kind else { panic!("leg 1 is the SIP side") };
    assert_eq!(rtp.remote.unwrap().rtp, "10.0.0.2:4000".parse().unwrap());
    world.keys_ready();
    world.advance(Duration::from_secs(60 * 9));
    world.forget();
    world.hangup(page, "c1");
    let call = world.last_call();
    assert_eq!((call.status, call.info.as_deref()), (CallStatus::Finish, Some("Normal call clearing")));
    assert_eq!(world.names(), ["finish FINISH"]);
    let bye = world.request(&Method::Bye);
    assert!(bye.headers.value(&HeaderName::Reason).unwrap().contains("cause=16"));
    world.respond(&bye, 200, None);
    world.hangup(page, "c1");
    assert!(world.names().is_empty(), "a second hangup is ignored");
    world.assert_clean();
}

#[test]
fn trying_is_sent_before_the_world_is_asked_and_each_wait_can_be_hung_up() {
    for answered in 0..3 {
        let (mut world, page) = ready();
        world.hold_asks = true;
        world.call(page, "c1", "600");
        assert_eq!(world.names(), ["notifyTryingResponse"]);
        for _ in 0..answered {
            world.answer_ask();
        }
        assert_eq!(world.asks.len(), 1);
        world.hangup(page, "c1");
        assert_eq!(world.names(), ["finish FINISH"], "after {answered} asks");
        // The late answer finds nobody; a relay that was made meanwhile is deleted.
        let (ask, what) = world.asks.pop_front().unwrap();
        let answer = world.consent(what);
        world.input(Input::Answer { ask, answer });
        assert!(world.sip.is_empty());
        assert!(world.names().is_empty());
        world.input(Input::RelayDown);
        world.input(relay_up(1));
        world.assert_clean();
    }
}

#[test]
fn a_silent_ask_ends_the_call() {
    for (answered, info) in
        [(0, "Failed by session creation"), (1, "Failed by session creation"), (2, "Failed by session creation")]
    {
        let (mut world, page) = ready();
        world.hold_asks = true;
        world.call(page, "c1", "600");
        for _ in 0..answered {
            world.answer_ask();
        }
        world.forget();
        world.advance(Duration::from_secs(11));
        assert_eq!(world.last_call().info.as_deref(), Some(info));
        assert!(world.names().contains(&"finish FAILED".to_owned()));
        world.assert_clean();
    }
}

#[test]
fn a_dialled_host_is_in_the_requests_address_and_the_call_goes_to_the_accounts_proxy() {
    let mut world = World::new(config());
    let page = world.session();
    world.hold_asks = true;
    world.call(page, "c1", "sip:bob@other.example:5070");
    world.answer_ask();
    let (_, ask) = world.asks.front().unwrap();
    let proxy = Ask::Resolve { host: "10.0.0.2".to_owned(), port: Some(5060), transport: None };
    assert_eq!(*ask, proxy);
    world.hold_asks = false;
    world.answer_ask();
    assert_eq!(world.request(&Method::Invite).uri.to_string(), "sip:bob@other.example:5070");
}

#[test]
fn denied_unresolved_and_relayless_calls_fail() {
    let denials: [(usize, Answer, u16); 2] = [
        (0, Answer::Denied { info: "REST_FAIL".to_owned() }, 403),
        (1, Answer::Unresolved { reason: "NXDOMAIN".to_owned() }, 503),
    ];
    for (answered, answer, status) in denials {
        let (mut world, page) = ready();
        world.hold_asks = true;
        world.call(page, "c1", "600");
        for _ in 0..answered {
            world.answer_ask();
        }
        world.forget();
        let (ask, _) = world.asks.pop_front().unwrap();
        world.input(Input::Answer { ask, answer });
        let call = world.last_call();
        assert_eq!((call.status, call.sip_status), (CallStatus::Failed, Some(status)));
        world.assert_clean();
    }
    let (mut world, page) = ready();
    world.relay.refuses = Some(ErrorCode::NoPorts);
    world.call(page, "c1", "600");
    assert_eq!(world.last_call().sip_status, Some(503));
    assert_eq!(world.names(), ["notifyTryingResponse", "finish FAILED"]);
    assert!(world.sip.is_empty());
    world.assert_clean();
}

#[test]
fn every_refusal_has_its_row() {
    let rows: [(u16, &[&str], &str); 10] = [
        (486, &["busy BUSY", "finish FINISH"], "Normal call clearing"),
        (600, &["busy BUSY", "finish FINISH"], "Normal call clearing"),
        (603, &["finish FINISH"], "Normal call clearing"),
        (404, &["finish FAILED"], "Failed by session creation"),
        (480, &["finish FAILED"], "Failed by session creation"),
        (484, &["finish FAILED"], "Failed by session creation"),
        (403, &["finish FAILED"], "Failed by session creation"),
        (500, &["finish FAILED"], "Failed by session creation"),
        (408, &["finish FAILED"], "Failed by request timeout"),
        (488, &["finish FAILED"], "No common codecs"),
    ];
    let (mut world, page) = ready();
    for (status, names, info) in rows {
        world.call(page, &format!("c{status}"), "600");
        let invite = world.request(&Method::Invite);
        world.forget();
        world.respond(&invite, status, None);
        let call = world.last_call();
        assert_eq!((call.sip_status, call.info.as_deref()), (Some(status), Some(info)));
        assert_eq!(world.names(), names, "{status}");
        assert_eq!(world.sip_names(), ["ACK"]);
        world.assert_clean();
    }
}

#[test]
fn no_answer_at_all_is_a_request_timeout() {
    let (mut world, page) = ready();
    world.call(page, "c1", "600");
    world.advance(Duration::from_secs(33));
    assert_eq!(world.last_call().info.as_deref(), Some("Failed by request timeout"));
    world.assert_clean();
}

#[test]
fn a_phone_that_rings_for_ever_is_cancelled() {
    let (mut world, _, invite) = calling();
    world.respond(&invite, 180, None);
    world.forget();
    world.advance(Duration::from_secs(181));
    assert_eq!(world.last_call().status, CallStatus::Failed);
    let cancel = world.request(&Method::Cancel);
    world.respond(&cancel, 200, None);
    world.respond(&invite, 487, None);
    world.assert_clean();
}

#[test]
fn hangup_while_ringing_cancels_and_before_a_provisional_waits_for_one() {
    let (mut world, page, invite) = calling();
    world.forget();
    world.hangup(page, "c1");
    assert_eq!(world.names(), ["finish FINISH"]);
    assert!(world.sip.is_empty(), "no CANCEL before a 1xx");
    world.assert_clean();
    world.respond(&invite, 180, None);
    let cancel = world.request(&Method::Cancel);
    world.respond(&cancel, 200, None);
    world.respond(&invite, 487, None);
    assert_eq!(world.sip_names(), ["ACK"]);
    assert!(world.names().is_empty());
}

#[test]
fn a_200_that_crosses_the_cancel_is_acked_and_ended() {
    let (mut world, page, invite) = calling();
    world.respond(&invite, 180, None);
    world.hangup(page, "c1");
    world.forget();
    world.respond(&invite, 200, Some(&phone_sdp(4000, "0")));
    assert_eq!(world.sip_names(), ["ACK", "BYE"]);
    assert!(world.names().is_empty());
    world.assert_clean();
}

#[test]
fn an_answer_without_a_common_codec_is_acked_and_ended() {
    let (mut world, _, invite) = calling();
    world.forget();
    world.respond(&invite, 200, Some(&phone_sdp(4000, "18")));
    assert_eq!(world.last_call().info.as_deref(), Some("No common codecs"));
    assert_eq!(world.names(), ["finish FAILED"]);
    assert_eq!(world.sip_names(), ["ACK", "BYE"]);
    world.assert_clean();
}

#[test]
fn early_media_answers_the_browser_once_and_the_200_keeps_the_codec() {
    let (mut world, _, invite) = calling();
    world.forget();
    world.respond(&invite, 183, Some(&phone_sdp(4000, "8 101")));
    assert_eq!(world.names(), ["ring", "setRemoteSDP"]);
    world.respond(&invite, 200, Some(&phone_sdp(4002, "8 101")));
    assert_eq!(world.names(), ["talk"]);
    let (_, program) = &world.relay.relays[&world.only_relay()];
    let LegKind::Rtp(rtp) = &program.legs[1].kind else { panic!() };
    assert_eq!(rtp.remote.unwrap().rtp.port(), 4002);
    world.in_our_dialog(&invite, &Method::Bye, 2, None);
    assert_eq!(world.names(), ["finish FINISH"]);
    world.assert_clean();
}

#[test]
fn early_media_off_leaves_the_answer_to_the_200() {
    let mut settings = config();
    settings.early_media = false;
    let mut world = World::new(settings);
    let page = world.session();
    world.call(page, "c1", "600");
    let invite = world.request(&Method::Invite);
    world.forget();
    world.respond(&invite, 183, Some(&phone_sdp(4000, "8 101")));
    assert_eq!(world.names(), ["ring"]);
    world.respond(&invite, 200, Some(&phone_sdp(4000, "8 101")));
    assert_eq!(world.names(), ["setRemoteSDP", "talk"]);
}

#[test]
fn another_codec_in_the_200_than_in_the_183_is_realigned_by_a_reinvite() {
    for accepted in [true, false] {
        let (mut world, _, invite) = calling();
        world.respond(&invite, 183, Some(&phone_sdp(4000, "9")));
        world.forget();
        world.respond(&invite, 200, Some(&phone_sdp(4000, "0")));
        let reinvite = world.request(&Method::Invite);
        let body = String::from_utf8(reinvite.body.clone()).unwrap();
        assert!(body.contains("RTP/AVP 9"), "{body}");
        assert!(world.names().is_empty());
        if accepted {
            world.respond(&reinvite, 200, Some(&phone_sdp(4000, "9")));
            assert_eq!(world.names(), ["talk"]);
        } else {
            world.respond(&reinvite, 488, None);
            assert_eq!(world.last_call().info.as_deref(), Some("Transcoding required, but disabled"));
            let bye = world.request(&Method::Bye);
            world.respond(&bye, 200, None);
            world.assert_clean();
        }
    }
}

#[test]
fn a_200_with_an_unreadable_route_set_ends_the_call_for_page_and_peer() {
    let (mut world, _, invite) = calling();
    world.forget();
    let routes = [(HeaderName::RecordRoute, "<sip:10.0.0.2")];
    world.respond_as(&invite, 200, "t", Some(&phone_sdp(4000, "0")), &routes);
    let call = world.last_call();
    assert_eq!((call.sip_status, call.info.as_deref()), (Some(502), Some("Failed by session creation")));
    assert_eq!(world.names(), ["finish FAILED"]);
    assert_eq!(world.sip_names(), ["ACK", "BYE"]);
    world.assert_clean();
}

#[test]
fn a_200_whose_contact_names_tls_is_acked_and_hung_up_by_the_way_of_the_invite() {
    let (mut world, page, invite) = calling();
    let contact = [(HeaderName::Contact, "<sip:peer@10.0.0.2:5061;transport=tls>")];
    world.sip.clear();
    world.respond_as(&invite, 200, "t", Some(&phone_sdp(4000, "0")), &contact);
    world.respond_as(&invite, 200, "t", Some(&phone_sdp(4000, "0")), &contact);
    assert_eq!(world.sip_names(), ["ACK", "ACK"]);
    assert_eq!(world.gateway.counts().calls_established, 1);
    world.hangup(page, "c1");
    world.request(&Method::Bye);
    world.assert_clean();
}

#[test]
fn a_peer_that_never_answers_the_realigning_reinvite_ends_the_call() {
    let (mut world, _, invite) = calling();
    world.respond(&invite, 183, Some(&phone_sdp(4000, "9")));
    world.keys_ready();
    world.respond(&invite, 200, Some(&phone_sdp(4000, "0")));
    let reinvite = world.request(&Method::Invite);
    world.respond(&reinvite, 100, None);
    world.forget();
    world.advance(Duration::from_secs(31));
    assert!(!world.names().contains(&"finish FAILED".to_owned()));
    world.advance(Duration::from_secs(2));
    assert_eq!(world.last_call().info.as_deref(), Some("Transcoding required, but disabled"));
    assert!(world.names().contains(&"finish FAILED".to_owned()));
    assert_eq!(world.sip_names()[..2], ["CANCEL", "BYE"]);
    world.assert_clean();
    // Nothing of it is left with the SIP agent either, though the peer stays silent.
    world.advance(Duration::from_secs(70));
    assert_eq!(world.gateway.sip_transactions(), 0);
}

#[test]
fn challenges_on_invite_and_bye_are_answered_with_the_accounts_credentials() {
    let (mut world, page, first) = calling();
    let challenge =
        [(HeaderName::ProxyAuthenticate, "Digest realm=\"example.com\", nonce=\"n1\", algorithm=MD5, qop=\"auth\"")];
    world.respond_as(&first, 407, "t", None, &challenge);
    let second = world.request(&Method::Invite);
    let credentials = second.headers.value(&HeaderName::ProxyAuthorization).unwrap();
    assert!(credentials.contains("username=\"auth1001\"") && credentials.contains("qop=auth"), "{credentials}");
    world.respond(&second, 200, Some(&phone_sdp(4000, "0")));
    world.forget();
    world.hangup(page, "c1");
    let bye = world.request(&Method::Bye);
    let challenge =
        [(HeaderName::ProxyAuthenticate, "Digest realm=\"example.com\", nonce=\"n2\", algorithm=MD5, qop=\"auth\"")];
    world.respond_as(&bye, 407, "t", None, &challenge);
    let again = world.request(&Method::Bye);
    assert!(again.headers.value(&HeaderName::ProxyAuthorization).unwrap().contains("nonce=\"n2\""));
    world.assert_clean();
}

#[test]
fn a_browser_that_never_connects_ends_the_call_by_its_timeout() {
    let (mut world, page) = ready();
    world.established(page, "c1");
    world.advance(Duration::from_secs(31));
    assert_eq!(world.last_call().info.as_deref(), Some("Failed by ICE error"));
    world.request(&Method::Bye);
    world.assert_clean();
}

#[test]
fn a_browser_with_a_path_and_no_keys_failed_by_dtls() {
    let (mut world, page) = ready();
    world.established(page, "c1");
    let (relay, leg) = (world.only_relay(), LegId(0));
    let remote = "192.0.2.9:5000".parse().unwrap();
    world.input(Input::RelayEvent { event: Event::PathSelected { relay, leg, remote } });
    world.advance(Duration::from_secs(31));
    assert_eq!(world.last_call().info.as_deref(), Some("Failed by DTLS error"));
}

#[test]
fn media_failures_end_the_call_with_their_text_and_bye() {
    type Report = fn(RelayId) -> Event;
    let rows: [(Report, &str); 4] = [
        (
            |relay| Event::DtlsFailed { relay, leg: LegId(0), cause: DtlsFailure::Fingerprint },
            "Failed by DTLS fingerprint error",
        ),
        (|relay| Event::DtlsFailed { relay, leg: LegId(0), cause: DtlsFailure::Timeout }, "Failed by DTLS error"),
        (|relay| Event::ConsentLost { relay, leg: LegId(0) }, "Failed by ICE error"),
        (|relay| Event::MediaTimeout { relay, leg: LegId(1) }, "Failed by RTP activity"),
    ];
    for (event, info) in rows {
        let (mut world, page) = ready();
        world.established(page, "c1");
        world.keys_ready();
        let event = event(world.only_relay());
        world.input(Input::RelayEvent { event: event.clone() });
        assert_eq!(world.last_call().info.as_deref(), Some(info));
        assert_eq!(world.names(), ["finish FAILED"]);
        world.request(&Method::Bye);
        world.input(Input::RelayEvent { event });
        assert!(world.names().is_empty());
        world.assert_clean();
    }
}

#[test]
fn media_may_be_silent_for_ever_when_the_operator_says_so() {
    let mut settings = config();
    settings.media_timeout = None;
    let mut world = World::new(settings);
    let page = world.session();
    world.established(page, "c1");
    let (_, program) = &world.relay.relays[&world.only_relay()];
    assert!(program.legs.iter().all(|leg| leg.media_timeout_ms.is_none()));
    let (mut world, page) = ready();
    world.established(page, "c1");
    let (_, program) = &world.relay.relays[&world.only_relay()];
    assert!(program.legs.iter().all(|leg| leg.media_timeout_ms == Some(60_000)));
}

#[test]
fn closed_dtls_waits_for_the_hangup_that_usually_follows() {
    let (mut world, page) = ready();
    world.established(page, "c1");
    world.keys_ready();
    let event = Event::DtlsClosed { relay: world.only_relay(), leg: LegId(0) };
    world.input(Input::RelayEvent { event });
    world.advance(Duration::from_secs(1));
    assert!(!world.names().iter().any(|name| name.starts_with("finish")));
    world.advance(Duration::from_secs(2));
    assert!(world.names().iter().any(|name| name.starts_with("finish")));
    world.assert_clean();
}

#[test]
fn a_call_id_in_use_is_refused_and_the_first_call_goes_on() {
    let mut world = World::new(config());
    let (page, other) = (world.session(), world.session());
    world.established(page, "c1");
    world.call(page, "c1", "601");
    assert_eq!(world.names(), ["fail"]);
    world.call(other, "c1", "601");
    assert_eq!(world.names(), ["fail", "finish FAILED"]);
    world.hangup(other, "c1");
    assert_eq!(world.gateway.counts().calls_established, 1);
}

#[test]
fn bad_requests_get_a_reason_and_a_finish() {
    let (mut world, page) = ready();
    let good = CallRequest {
        call_id: "c1".to_owned(),
        callee: Some("600".to_owned()),
        sdp: Some(BROWSER_OFFER.to_owned()),
        ..CallRequest::default()
    };
    let rows = [
        (CallRequest { callee: None, ..good.clone() }, "callee"),
        (CallRequest { callee: Some("tel:1".to_owned()), ..good.clone() }, "callee"),
        (CallRequest { sdp: None, ..good.clone() }, "sdp"),
        (CallRequest { sdp: Some("nonsense".to_owned()), ..good.clone() }, "sdp"),
        (CallRequest { sip_sdp: Some(vec!["a=x\r\na=y".to_owned()]), ..good.clone() }, "sipSDP[0]"),
        (CallRequest { media_provider: Some("Flash".to_owned()), ..good.clone() }, "mediaProvider"),
    ];
    for (index, (mut request, field)) in rows.into_iter().enumerate() {
        request.call_id = format!("c{index}");
        world.say(page, ClientMessage::Call(Box::new(request)));
        assert!(world.last_fail().contains(field), "{field}: {}", world.last_fail());
        assert_eq!(world.names(), ["fail", "finish FAILED"]);
        assert!(world.sip.is_empty());
        world.assert_clean();
    }
    world.say(page, ClientMessage::Call(Box::new(CallRequest { call_id: String::new(), ..good })));
    assert_eq!(world.names(), ["fail"]);
}

#[test]
fn sip_sdp_lines_stand_between_c_and_t() {
    let (mut world, page) = ready();
    let request = CallRequest {
        call_id: "c1".to_owned(),
        callee: Some("600".to_owned()),
        sdp: Some(BROWSER_OFFER.to_owned()),
        sip_sdp: Some(vec!["b=AS:3000".to_owned(), "a=x:1".to_owned()]),
        ..CallRequest::default()
    };
    world.say(page, ClientMessage::Call(Box::new(request)));
    let body = String::from_utf8(world.request(&Method::Invite).body).unwrap();
    let at = |text: &str| body.find(text).unwrap_or_else(|| panic!("{text} is not in {body}"));
    assert!(at("c=") < at("b=AS:3000") && at("b=AS:3000") < at("a=x:1") && at("a=x:1") < at("t=0 0"), "{body}");
}

#[test]
fn two_calls_of_a_session_live_apart() {
    let (mut world, page) = ready();
    let first = world.established(page, "c1");
    world.established(page, "c2");
    world.in_our_dialog(&first, &Method::Bye, 2, None);
    assert_eq!(world.last_call().call_id, "c1");
    assert_eq!(world.gateway.counts().calls_established, 1);
    assert_eq!(world.relay.relays.len(), 1);
    world.hangup(page, "c2");
    world.assert_clean();
}

#[test]
fn a_second_fork_that_answers_is_ended() {
    let (mut world, _, invite) = calling();
    world.respond_as(&invite, 200, "fork-a", Some(&phone_sdp(4000, "0")), &[]);
    world.forget();
    world.respond_as(&invite, 200, "fork-b", Some(&phone_sdp(4002, "0")), &[]);
    assert_eq!(world.sip_names(), ["ACK", "BYE"]);
    assert!(world.names().is_empty());
    assert_eq!(world.gateway.counts().calls_established, 1);
}

#[test]
fn an_invite_whose_address_fails_goes_to_the_next_as_the_same_request() {
    let failures: [fn(&mut World, &Request); 3] = [
        |world, _| world.advance(Duration::from_secs(32)),
        |world, _| world.refuse_transport(SILENT),
        |world, request| world.respond(request, 503, None),
    ];
    for fail in failures {
        let mut world = World::new(config()).with_a_silent_address();
        let page = world.session();
        world.call(page, "c1", "600");
        let first = world.request(&Method::Invite);
        assert!(world.sent_to(SILENT));
        fail(&mut world, &first);
        let second = world.last_request(&Method::Invite);
        assert!(world.sent_to(PEER));
        // RFC 3263 section 4.3: the same but for its branch, so that a callee reached by both rings once.
        assert_ne!(second.headers.top_via(), first.headers.top_via());
        for name in [HeaderName::CallId, HeaderName::From, HeaderName::CSeq, HeaderName::Contact] {
            assert_eq!(second.headers.value(&name), first.headers.value(&name));
        }
        assert_eq!(second.uri, first.uri);
        world.respond(&second, 180, None);
        world.respond(&second, 200, Some(&phone_sdp(4000, "0")));
        assert_eq!(world.names(), ["notifyTryingResponse", "ring", "setRemoteSDP", "talk"]);
        world.hangup(page, "c1");
        world.sip.clear();
        // The next call begins where this one was answered.
        world.call(page, "c2", "600");
        world.request(&Method::Invite);
        assert!(world.sent_to(PEER));
        world.hangup(page, "c2");
        world.assert_clean();
    }
}

#[test]
fn a_call_that_fails_at_every_address_ends_with_the_last_failure() {
    let mut world = World::new(config()).with_a_silent_address();
    let page = world.session();
    world.call(page, "c1", "600");
    world.refuse_transport(SILENT);
    world.advance(Duration::from_secs(33));
    assert_eq!(world.last_call().info.as_deref(), Some("Failed by request timeout"));
    assert_eq!(world.names(), ["notifyTryingResponse", "finish FAILED"]);
    world.assert_clean();
}

#[test]
fn a_refusal_and_a_callee_that_rings_are_not_tried_elsewhere() {
    for (rings, refusal) in [(false, 486), (false, 408), (false, 500), (true, 503)] {
        let mut world = World::new(config()).with_a_silent_address();
        let page = world.session();
        world.call(page, "c1", "600");
        let invite = world.request(&Method::Invite);
        if rings {
            world.respond(&invite, 180, None);
        }
        world.respond(&invite, refusal, None);
        assert_eq!(world.last_call().sip_status, Some(refusal));
        assert_eq!(world.sip_names(), ["ACK"]);
        world.assert_clean();
    }
}

#[test]
fn all_addresses_of_a_call_share_its_patience() {
    let mut settings = config();
    settings.invite_timeout = Duration::from_secs(40);
    let mut world = World::new(settings).with_a_silent_address();
    let page = world.session();
    world.call(page, "c1", "600");
    world.advance(Duration::from_secs(33));
    let invite = world.last_request(&Method::Invite);
    world.respond(&invite, 180, None);
    world.forget();
    world.advance(Duration::from_secs(8));
    assert_eq!(world.last_call().status, CallStatus::Failed);
    world.request(&Method::Cancel);
    world.assert_clean();
}

#[test]
fn the_next_address_of_another_family_gets_a_relay_of_that_family() {
    let mut settings = config();
    let v6 = Advertised { transport: Transport::Udp, host: "[2001:db8::1]".parse().unwrap(), port: 5060 };
    settings.ua.advertised.push(v6);
    settings.media_ips = vec!["10.0.0.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    let mut world = World::new(settings).with_a_silent_address();
    let six = "[2001:db8::2]:5060";
    world.addresses[1] = six.parse().unwrap();
    let page = world.session();
    let local_ip = |world: &World| {
        let (_, program) = &world.relay.relays[&world.only_relay()];
        let LegKind::Rtp(rtp) = &program.legs[1].kind else { panic!("leg 1 is the SIP side") };
        rtp.local_ip
    };
    world.call(page, "c1", "600");
    assert_eq!(local_ip(&world), Some("10.0.0.1".parse().unwrap()));
    world.sip.clear();
    world.refuse_transport(SILENT);
    let invite = world.request(&Method::Invite);
    assert!(world.sent_to(six));
    assert_eq!(local_ip(&world), Some("2001:db8::1".parse().unwrap()), "the first relay is gone");
    assert!(invite.headers.value(&HeaderName::Contact).unwrap().contains("[2001:db8::1]"));
    world.hangup(page, "c1");
    world.assert_clean();
}
