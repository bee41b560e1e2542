//! Control is killed, and another takes over its journal: what goes on, what ends, and what everybody hears of it.

use std::time::Duration;

use gangway_control::{
    gateway::{
        effects::{CallFilter, Input, RestCall, RestId, RestReply, SocketId},
        messages::{CallStatus, CallView, ClientMessage, ServerMessage},
    },
    sip::{
        Transport,
        message::{HeaderName, Message, Method, Request},
    },
};
use gangway_shared::{
    ids::{EventSeq, Generation, LegId, RelayId},
    rcp::{ErrorCode, Event, LegKind, RelayProgram, Request as RelayRequest},
};
use serde_json::json;

use crate::world::{BROWSER_OFFER, World, account, config, phone_sdp, relay_up};

/// A session of account 1001 and its token.
fn session(world: &mut World, keep_alive: bool) -> (SocketId, String) {
    let mut fields = account(false);
    fields["keepAlive"] = json!(keep_alive);
    let page = world.connect(fields);
    let token = token(world);
    world.forget();
    (page, token)
}

fn token(world: &World) -> String {
    let data = world.sent.iter().rev().find_map(|(_, message)| match message {
        ServerMessage::UserData(fields) => Some(fields.clone()),
        _ => None,
    });
    data.expect("getUserData was sent")["authToken"].as_str().unwrap().to_owned()
}

fn resume(world: &mut World, token: &str) -> SocketId {
    world.connect(json!({ "keepAlive": true, "authToken": token }))
}

fn calls(world: &mut World) -> Vec<CallView> {
    world.rest.clear();
    let call = RestCall::FindCalls(CallFilter::default());
    world.input(Input::Rest { request: RestId(1), call });
    match world.rest.pop() {
        Some(RestReply::Calls(calls)) => calls,
        other => panic!("{other:?}"),
    }
}

fn terminate(world: &mut World, call_id: &str) {
    let call = RestCall::TerminateCall { call_id: call_id.to_owned() };
    world.input(Input::Rest { request: RestId(2), call });
    assert_eq!(world.rest.pop(), Some(RestReply::Done));
}

fn cseq(request: &Request) -> u32 {
    request.headers.cseq().unwrap().number
}

/// An established incoming call: its INVITE and our 200.
fn taken_call(world: &mut World, page: SocketId) -> (Request, gangway_control::sip::message::Response) {
    let key = world.contact_key(page);
    let invite = world.invite(&format!("sip:{key}@10.0.0.1:5060"), "in1", Some(&phone_sdp(4000, "0")));
    let call_id = world.last_call().call_id;
    world.answer(page, &call_id, "0");
    let answer = world.response(200);
    world.in_their_dialog(&invite, &answer, &Method::Ack, 1, None);
    world.forget();
    (invite, answer)
}

#[test]
fn calls_that_talk_go_on_and_each_side_can_end_them() {
    let mut world = World::new(config());
    let (page, _) = session(&mut world, true);
    let request = gangway_control::gateway::messages::CallRequest {
        call_id: "c1".to_owned(),
        callee: Some("600".to_owned()),
        sdp: Some(BROWSER_OFFER.to_owned()),
        custom: Some(json!({"crm": [1, {"a": null}]})),
        ..Default::default()
    };
    world.say(page, ClientMessage::Call(Box::new(request)));
    let out = world.request(&Method::Invite);
    world.respond(&out, 200, Some(&phone_sdp(4000, "0 101")));
    let second = world.established(page, "c2");
    let (invite, answer) = taken_call(&mut world, page);
    let (before, relays) = (calls(&mut world), world.relay.relays.clone());
    assert_eq!(before.len(), 3);
    world.restart();
    assert_eq!(calls(&mut world), before, "REST sees the same calls");
    assert!(world.relay.relays == relays, "no relay was touched");
    assert_eq!(world.sip_names(), Vec::<String>::new(), "nobody was told anything");

    terminate(&mut world, "c1");
    let bye = world.request(&Method::Bye);
    assert!(cseq(&bye) > cseq(&out));
    assert_eq!(bye.headers.call_id().unwrap(), out.headers.call_id().unwrap());
    assert_eq!(bye.headers.from().unwrap().tag(), out.headers.from().unwrap().tag());
    world.respond(&bye, 200, None);
    world.in_our_dialog(&second, &Method::Bye, 1, None);
    world.response(200);
    world.in_their_dialog(&invite, &answer, &Method::Bye, 2, None);
    world.response(200);
    world.assert_clean();
    world.assert_journal();
}

#[test]
fn a_page_that_comes_back_hears_how_its_calls_stand_and_can_hang_up() {
    for keep_alive in [true, false] {
        let mut world = World::new(config());
        let (page, token) = session(&mut world, keep_alive);
        world.established(page, "c1");
        taken_call(&mut world, page);
        world.restart();
        let back = resume(&mut world, &token);
        assert_eq!(world.names(), ["getUserData", "talk", "talk"], "keepAlive {keep_alive}");
        world.hangup(back, "c1");
        world.request(&Method::Bye);
        assert_eq!(world.names(), ["finish FINISH"]);
        // From now on its own word counts.
        world.input(Input::SocketClosed { socket: back });
        assert_eq!(world.gateway.counts().calls_established, usize::from(keep_alive));
    }
}

#[test]
fn a_token_of_before_is_good_once_more_and_a_wrong_one_is_not() {
    let mut world = World::new(config());
    let (_, token) = session(&mut world, true);
    world.restart();
    let wrong = token.replace(token.chars().last().unwrap(), "z");
    resume(&mut world, &wrong);
    assert_eq!(world.names(), ["fail"]);
    let back = resume(&mut world, &token);
    world.say(back, ClientMessage::Pong);
    assert_eq!(world.names(), ["getUserData"]);
    resume(&mut world, &token);
    assert_eq!(world.names(), ["fail"]);
}

#[test]
fn what_rang_rings_on_and_is_answered_by_the_page_that_comes_back() {
    let mut world = World::new(config());
    let (page, token) = session(&mut world, false);
    let key = world.contact_key(page);
    let invite = world.invite(&format!("sip:{key}@10.0.0.1:5060"), "in1", Some(&phone_sdp(4000, "0")));
    let ringing = world.response(180);
    let call_id = world.last_call().call_id;
    world.forget();
    world.restart();
    let again = world.response(180);
    assert_eq!(again.headers.to().unwrap().tag(), ringing.headers.to().unwrap().tag());
    let back = resume(&mut world, &token);
    assert_eq!(world.last_call().call_id, call_id);
    assert_eq!(world.names(), ["getUserData", "setRemoteSDP", "notifyIncomingCall", "ring"]);
    world.answer(back, &call_id, "0");
    let answer = world.response(200);
    assert_eq!(answer.headers.to().unwrap().tag(), ringing.headers.to().unwrap().tag());
    assert_eq!(world.names(), ["talk"]);
    world.in_their_dialog(&invite, &answer, &Method::Ack, 1, None);
    world.hangup(back, &call_id);
    let bye = world.request(&Method::Bye);
    world.respond(&bye, 200, None);
    world.assert_clean();
}

#[test]
fn what_rang_is_over_when_its_time_is_up_and_when_its_caller_gives_up() {
    let mut world = World::new(config());
    let (page, token) = session(&mut world, true);
    let key = world.contact_key(page);
    let uri = format!("sip:{key}@10.0.0.1:5060");
    world.invite(&uri, "in1", Some(&phone_sdp(4000, "0")));
    let second = world.invite(&uri, "in2", Some(&phone_sdp(4000, "0")));
    world.advance(Duration::from_secs(40));
    world.restart();
    world.forget();
    world.cancel(&second);
    world.response(487);
    world.advance(Duration::from_secs(19));
    assert_eq!(world.gateway.counts().calls_ring, 1);
    world.advance(Duration::from_secs(2));
    world.response(480);
    world.assert_clean();
    resume(&mut world, &token);
    assert_eq!(world.names(), ["getUserData"], "nothing of it was announced to this page");
}

#[test]
fn an_invite_of_ours_is_cancelled_with_its_branch_and_a_late_200_gets_ack_and_bye() {
    let mut world = World::new(config());
    let (page, token) = session(&mut world, true);
    world.call(page, "c1", "600");
    let invite = world.request(&Method::Invite);
    world.respond(&invite, 180, None);
    world.restart();
    let cancel = world.request(&Method::Cancel);
    assert_eq!(cancel.headers.top_via().unwrap(), invite.headers.top_via().unwrap());
    world.respond(&invite, 200, Some(&phone_sdp(4000, "0")));
    assert_eq!(cseq(&world.request(&Method::Ack)), cseq(&invite));
    let bye = world.request(&Method::Bye);
    world.respond(&bye, 200, None);
    world.respond(&cancel, 200, None);
    world.assert_clean();
    world.forget();
    resume(&mut world, &token);
    assert_eq!(world.names(), ["getUserData", "finish FAILED"], "its page hears of the end");
    world.advance(Duration::from_secs(40));
    assert_eq!(world.gateway.sip_transactions(), 0);
}

/// The lines stand before what they are about leaves, so a kill in between leaves a call that talks and a peer that was told nothing; and
/// one in the middle of the writing leaves some of the lines. The peer has its ACK whenever its 200 comes again, and its BYE where the
/// call does not go on.
#[test]
fn an_ack_that_was_written_down_or_half_so_and_never_left_is_sent_when_the_200_comes_again() {
    let mut written = 0;
    loop {
        let mut world = World::new(config());
        let (page, token) = session(&mut world, true);
        world.call(page, "c1", "600");
        let invite = world.request(&Method::Invite);
        let answer = World::response_as(&invite, 200, "peer-tag", Some(&phone_sdp(4000, "0 101")), &[]);
        let lines = world.kill_in_turn(world.received(answer.clone()), written);
        assert!(world.next_request(&Method::Ack).is_none());
        world.receive(answer);
        let was_acked = world.sip.iter().any(|message| is_ack_of(message, &invite));
        assert!(was_acked, "{written} of {lines} lines");
        let goes_on = !calls(&mut world).is_empty();
        assert!(goes_on || written < lines, "all lines were there");
        if goes_on {
            assert!(world.next_request(&Method::Bye).is_none(), "{written} of {lines} lines");
            resume(&mut world, &token);
            terminate(&mut world, "c1");
        }
        while let Some(bye) = world.next_request(&Method::Bye) {
            world.respond(&bye, 200, None);
        }
        world.assert_clean();
        if written == lines {
            return;
        }
        written += 1;
    }
}

fn is_ack_of(message: &Message, invite: &Request) -> bool {
    matches!(message, Message::Request(ack) if ack.method == Method::Ack && cseq(ack) == cseq(invite))
}

/// Neither the proof of our password nor that of a caller's.
#[test]
fn no_line_holds_the_answer_to_a_challenge() {
    let mut world = World::new(config());
    let (page, _) = session(&mut world, true);
    let key = world.contact_key(page);
    world.call(page, "c1", "600");
    let invite = world.request(&Method::Invite);
    let challenge = "Digest realm=\"example.com\", nonce=\"n\", algorithm=MD5";
    world.respond_as(&invite, 407, "peer-tag", None, &[(HeaderName::ProxyAuthenticate, challenge)]);
    let invite = world.request(&Method::Invite);
    let proof = invite.headers.value(&HeaderName::ProxyAuthorization).unwrap().to_owned();
    assert!(proof.contains("response="), "{proof}");
    let mut theirs = world.invite(&format!("sip:{key}@10.0.0.1:5060"), "in1", Some(&phone_sdp(4000, "0")));
    theirs.headers.set(HeaderName::Via, "SIP/2.0/UDP 10.0.0.2:5060;branch=z9hG4bKproof;rport");
    theirs.headers.set(HeaderName::CallId, "in2");
    for name in [HeaderName::Authorization, HeaderName::ProxyAuthorization] {
        theirs.headers.push(name, proof.as_str());
    }
    world.receive(theirs.to_bytes());
    assert_eq!(world.gateway.counts().calls_ring, 2);
    let lines: Vec<String> = world.journal.iter().map(|entry| serde_json::to_string(entry).unwrap()).collect();
    assert!(lines.iter().any(|line| line.contains("INVITE sip:600@")), "our INVITE is there");
    assert!(lines.iter().any(|line| line.contains("Call-ID: in2")), "the caller's too");
    for line in lines {
        assert!(!line.contains("uthorization") && !line.contains("response="), "{line}");
    }
}

#[test]
fn an_incoming_call_that_did_not_ring_yet_is_refused() {
    let mut world = World::new(config());
    let (page, _) = session(&mut world, true);
    let key = world.contact_key(page);
    world.hold_asks = true;
    world.invite(&format!("sip:{key}@10.0.0.1:5060"), "in1", Some(&phone_sdp(4000, "0")));
    world.forget();
    world.restart();
    world.response(503);
    world.assert_clean();
}

#[test]
fn a_bye_without_an_answer_is_sent_again_with_its_credentials() {
    let mut world = World::new(config());
    let (page, _) = session(&mut world, true);
    world.established(page, "c1");
    world.hangup(page, "c1");
    let bye = world.request(&Method::Bye);
    world.restart();
    let again = world.request(&Method::Bye);
    assert!(cseq(&again) > cseq(&bye));
    let challenge = "Digest realm=\"example.com\", nonce=\"n\", algorithm=MD5";
    world.respond_as(&again, 407, "peer-tag", None, &[(HeaderName::ProxyAuthenticate, challenge)]);
    let third = world.request(&Method::Bye);
    assert!(third.headers.value(&HeaderName::ProxyAuthorization).unwrap().contains("auth1001"));
    world.respond(&third, 200, None);
    world.assert_clean();
    world.assert_journal();
}

#[test]
fn a_session_that_ended_goes_on_ending() {
    let mut world = World::new(config());
    let page = world.connect(account(true));
    let register = world.request(&Method::Register);
    world.respond_as(&register, 200, "reg", None, &[(HeaderName::Expires, "3600")]);
    world.input(Input::SocketClosed { socket: page });
    let goodbye = world.request(&Method::Register);
    assert_eq!(goodbye.headers.expires_s(), Some(0));
    world.restart();
    let again = world.request(&Method::Register);
    assert_eq!(again.headers.expires_s(), Some(0));
    assert_eq!(again.headers.call_id().unwrap(), register.headers.call_id().unwrap());
    assert!(cseq(&again) > cseq(&goodbye));
    world.respond_as(&again, 200, "reg", None, &[]);
    world.advance(Duration::from_secs(60));
    assert_eq!(world.gateway.counts().sessions_departing, 0);
    world.assert_journal();
    assert_eq!(world.standing.entries().count(), 0, "{:?}", world.standing);
}

#[test]
fn a_registration_goes_on_with_its_call_id_and_cseq_when_it_is_due() {
    let mut world = World::new(config());
    world.connect(account(true));
    let register = world.request(&Method::Register);
    world.respond_as(&register, 200, "reg", None, &[(HeaderName::Expires, "3600")]);
    world.advance(Duration::from_secs(1000));
    world.restart();
    assert_eq!(world.gateway.counts().registrations, 1);
    world.advance(Duration::from_secs(1699));
    assert_eq!(world.sip_names(), Vec::<String>::new(), "not before three quarters of its life");
    world.advance(Duration::from_secs(2));
    let refresh = world.request(&Method::Register);
    assert_eq!(refresh.headers.call_id().unwrap(), register.headers.call_id().unwrap());
    assert!(cseq(&refresh) > cseq(&register));
    assert_eq!(refresh.headers.value(&HeaderName::Contact), register.headers.value(&HeaderName::Contact));
}

#[test]
fn a_registration_over_a_connection_is_made_again_at_once() {
    let mut world = World::new(config());
    (world.transport, world.resolves_to) = (Transport::Tcp, Transport::Tcp);
    world.connect(account(true));
    let register = world.request(&Method::Register);
    world.respond_as(&register, 200, "reg", None, &[(HeaderName::Expires, "3600")]);
    world.restart();
    world.advance(Duration::from_millis(50));
    let again = world.request(&Method::Register);
    assert_eq!(again.headers.call_id().unwrap(), register.headers.call_id().unwrap());
    assert!(cseq(&again) > cseq(&register));
}

#[test]
fn a_call_whose_relay_is_gone_ends_on_both_sides() {
    let mut world = World::new(config());
    let (page, token) = session(&mut world, true);
    world.established(page, "c1");
    world.kill();
    world.relay.relays.clear();
    world.relay.incarnation += 1;
    world.input(relay_up(2));
    let bye = world.request(&Method::Bye);
    world.respond(&bye, 200, None);
    world.assert_clean();
    resume(&mut world, &token);
    assert_eq!(world.names(), ["getUserData", "finish FAILED"]);
}

#[test]
fn a_dataplane_that_does_not_come_back_costs_the_calls_and_not_the_sessions() {
    let mut world = World::new(config());
    let (page, _) = session(&mut world, true);
    world.established(page, "c1");
    world.kill();
    world.relay.relays.clear();
    world.advance(Duration::from_secs(6));
    world.request(&Method::Bye);
    assert_eq!((world.gateway.counts().calls_established, world.gateway.counts().sessions), (0, 1));
}

/// What the dataplane told while nobody listened comes by its replay.
#[test]
fn a_browser_that_left_meanwhile_ends_its_call() {
    let mut world = World::new(config());
    let (page, _) = session(&mut world, true);
    world.established(page, "c1");
    world.keys_ready();
    world.input(Input::RelaySeen { instance: "d".to_owned(), seq: EventSeq(7) });
    let relay = world.only_relay();
    world.kill();
    assert!(world.standing.entries().any(|entry| format!("{entry:?}").contains("EventSeq(7)")), "{:?}", world.standing);
    world.input(relay_up(2));
    world.input(Input::RelayEvent { event: Event::ConsentLost { relay, leg: LegId(0) } });
    world.request(&Method::Bye);
    world.assert_clean();
}

#[test]
fn a_call_whose_media_never_came_up_has_its_ice_timeout_again() {
    let mut world = World::new(config());
    let (page, _) = session(&mut world, true);
    world.established(page, "c1");
    world.restart();
    world.advance(Duration::from_secs(31));
    world.request(&Method::Bye);
    world.assert_clean();
}

#[test]
fn a_relay_that_the_journal_does_not_know_ends_after_its_grace() {
    let mut world = World::new(config());
    let stranger = RelayId::new(0, 1, 99);
    world.relay.relays.insert(stranger, (Generation(1), RelayProgram::default()));
    world.restart();
    world.advance(Duration::from_secs(299));
    world.input(Input::RelayGap);
    assert!(world.relay.relays.contains_key(&stranger));
    world.advance(Duration::from_secs(2));
    assert!(!world.relay.relays.contains_key(&stranger));
    assert_eq!(world.gateway.poll_timeout(), None);
}

#[test]
fn a_program_that_the_journal_did_not_come_to_know_gives_way() {
    for (generation, same_number) in [(1, false), (0, true)] {
        let mut world = World::new(config());
        let (page, _) = session(&mut world, true);
        world.established(page, "c1");
        let ours = world.only_relay();
        let (known, program) = world.relay.relays[&ours].clone();
        let newer = RelayProgram { cname: "newer".to_owned(), ..program.clone() };
        world.relay.relays.insert(ours, (Generation(known.0 + generation), newer));
        world.restart();
        let (now, in_force) = world.relay.relays[&ours].clone();
        assert!(now.0 > known.0 + generation && in_force == program, "{now:?}, same number {same_number}");
        assert_eq!(world.gateway.counts().calls_established, 1);
        terminate(&mut world, "c1");
        world.assert_clean();
    }
}

#[test]
fn a_relay_that_cannot_be_taken_over_ends_its_call() {
    let mut world = World::new(config());
    let (page, _) = session(&mut world, true);
    world.established(page, "c1");
    world.kill();
    world.relay.refuses = Some(ErrorCode::Internal);
    world.input(relay_up(2));
    world.request(&Method::Bye);
    world.assert_clean();
}

#[test]
fn no_relay_id_is_minted_twice() {
    let mut world = World::new(config());
    let (page, token) = session(&mut world, true);
    world.established(page, "c1");
    world.restart();
    let before = world.only_relay();
    let back = resume(&mut world, &token);
    world.established(back, "c2");
    assert_eq!(world.relay.relays.len(), 2);
    assert!(world.relay.relays.keys().all(|relay| *relay == before || relay.epoch() == 2));
}

#[test]
fn a_re_invite_that_was_under_way_is_asked_for_again() {
    for is_put in [true, false] {
        let mut world = World::new(config());
        let (page, _) = session(&mut world, true);
        let invite = world.established(page, "c1");
        let (agreed, _) = world.relay.relays[&world.only_relay()].clone();
        world.hold_requests = true;
        world.in_our_dialog(&invite, &Method::Invite, 1, Some(&phone_sdp(4002, "0 101")));
        let (_, put) = world.requests.pop_front().unwrap();
        assert!(matches!(put, RelayRequest::Put { .. }), "{put:?}");
        if is_put {
            // Its reply finds nobody.
            world.relay.handle(put).unwrap();
            assert_eq!(peer_port(&world), 4002);
        }
        world.hold_requests = false;
        world.forget();
        world.restart();
        world.response(491);
        let (generation, _) = world.relay.relays[&world.only_relay()].clone();
        assert!(generation > agreed && peer_port(&world) == 4000, "what was refused is not in force: {is_put}");
        world.in_our_dialog(&invite, &Method::Invite, 2, Some(&phone_sdp(4002, "0 101")));
        world.response(200);
        assert_eq!(peer_port(&world), 4002);
        // The INFO whose answer got lost comes again with the same CSeq.
        world.restart();
        world.in_our_dialog(&invite, &Method::Info, 2, None);
        world.response(200);
    }
}

#[test]
fn a_re_invite_waits_until_the_relay_is_taken_over() {
    let mut world = World::new(config());
    let (page, _) = session(&mut world, true);
    let invite = world.established(page, "c1");
    world.kill();
    world.in_our_dialog(&invite, &Method::Invite, 1, Some(&phone_sdp(4002, "0 101")));
    assert_eq!(world.sip_names(), ["100"]);
    world.input(relay_up(2));
    world.response(200);
    assert_eq!(peer_port(&world), 4002);
}

#[test]
fn a_re_invite_that_waits_for_a_relay_that_is_gone_is_refused() {
    let mut world = World::new(config());
    let (page, _) = session(&mut world, true);
    let invite = world.established(page, "c1");
    world.kill();
    world.in_our_dialog(&invite, &Method::Invite, 1, Some(&phone_sdp(4002, "0 101")));
    world.relay.relays.clear();
    world.relay.incarnation += 1;
    world.input(relay_up(2));
    let bye = world.request(&Method::Bye);
    world.response(487);
    world.respond(&bye, 200, None);
    world.assert_clean();
}

#[test]
fn a_200_of_ours_is_repeated_until_its_ack_also_by_the_next_control() {
    let mut world = World::new(config());
    let (page, _) = session(&mut world, true);
    let key = world.contact_key(page);
    let invite = world.invite(&format!("sip:{key}@10.0.0.1:5060"), "in1", Some(&phone_sdp(4000, "0")));
    let call_id = world.last_call().call_id;
    world.answer(page, &call_id, "0");
    let answer = world.response(200);
    world.forget();
    world.restart();
    assert_eq!(world.response(200), answer);
    world.advance(Duration::from_millis(600));
    assert_eq!(world.response(200), answer);
    world.in_their_dialog(&invite, &answer, &Method::Ack, 1, None);
    world.forget();
    world.advance(Duration::from_secs(10));
    assert_eq!(world.sip_names(), Vec::<String>::new());
    world.restart();
    assert_eq!(world.sip_names(), Vec::<String>::new(), "the ACK is in the journal");
    assert_eq!(world.gateway.counts().calls_established, 1);
}

#[test]
fn a_200_of_ours_that_no_ack_follows_ends_its_call_also_at_the_next_control() {
    let mut world = World::new(config());
    let (page, _) = session(&mut world, true);
    let key = world.contact_key(page);
    world.invite(&format!("sip:{key}@10.0.0.1:5060"), "in1", Some(&phone_sdp(4000, "0")));
    let call_id = world.last_call().call_id;
    world.answer(page, &call_id, "0");
    world.response(200);
    world.keys_ready();
    world.restart();
    assert_eq!(world.gateway.counts().calls_established, 1);
    world.advance(Duration::from_secs(33));
    let bye = world.request(&Method::Bye);
    world.respond(&bye, 200, None);
    world.assert_clean();
}

/// Where the relay sends the peer's audio.
fn peer_port(world: &World) -> u16 {
    let (_, program) = &world.relay.relays[&world.only_relay()];
    let LegKind::Rtp(rtp) = &program.legs[1].kind else { panic!("{program:?}") };
    rtp.remote.unwrap().rtp.port()
}

#[test]
fn the_answer_in_the_ack_of_a_re_invite_of_before_counts() {
    for wall_is_up in [true, false] {
        let mut world = World::new(config());
        let (page, _) = session(&mut world, true);
        let invite = world.established(page, "c1");
        world.in_our_dialog(&invite, &Method::Invite, 1, None);
        let offer = world.response(200);
        world.forget();
        world.kill();
        if wall_is_up {
            world.input(relay_up(2));
        }
        assert_eq!(world.response(200), offer);
        world.in_our_dialog(&invite, &Method::Ack, 1, Some(&phone_sdp(4666, "0")));
        if !wall_is_up {
            world.input(relay_up(2));
        }
        assert_eq!(peer_port(&world), 4666, "wall up: {wall_is_up}");
        world.in_our_dialog(&invite, &Method::Invite, 2, Some(&phone_sdp(4002, "0 101")));
        world.response(200);
        terminate(&mut world, "c1");
        world.assert_clean();
    }
}

#[test]
fn a_call_between_two_codecs_ends() {
    let mut world = World::new(config());
    let (page, _) = session(&mut world, true);
    world.call(page, "c1", "600");
    let invite = world.request(&Method::Invite);
    world.respond(&invite, 183, Some(&phone_sdp(4000, "8")));
    world.respond(&invite, 200, Some(&phone_sdp(4000, "9")));
    world.request(&Method::Invite);
    world.restart();
    world.request(&Method::Bye);
    world.assert_clean();
}

#[test]
fn sessions_wait_as_long_as_kept_ones_and_no_limit_of_those_ends_them() {
    let mut world = World::new(gangway_control::gateway::GatewayConfig { max_detached_sessions: 1, ..config() });
    for _ in 0..3 {
        session(&mut world, false);
    }
    let (page, token) = session(&mut world, true);
    world.established(page, "c1");
    world.restart();
    assert_eq!(world.gateway.counts().sessions_detached, 4);
    let back = resume(&mut world, &token);
    world.input(Input::SocketClosed { socket: back });
    assert_eq!(world.gateway.counts().sessions_detached, 4, "it takes the one place of those that came after");
    world.advance(Duration::from_secs(3600 + 301));
    assert_eq!(world.gateway.counts().sessions, 0);
}

#[test]
fn the_password_of_before_answers_challenges() {
    let mut world = World::new(config());
    let (_, token) = session(&mut world, true);
    world.restart();
    let back = resume(&mut world, &token);
    world.call(back, "c1", "600");
    let invite = world.request(&Method::Invite);
    let challenge = "Digest realm=\"example.com\", nonce=\"n\", algorithm=MD5";
    world.respond_as(&invite, 407, "peer-tag", None, &[(HeaderName::ProxyAuthenticate, challenge)]);
    let again = world.request(&Method::Invite);
    let first = again.headers.value(&HeaderName::ProxyAuthorization).unwrap().to_owned();
    assert!(first.contains("response="), "{first}");
    assert_eq!(world.last_call().status, CallStatus::Trying);
}

#[test]
fn a_journal_with_holes_leaves_nothing_behind() {
    let mut world = World::new(config());
    let (page, _) = session(&mut world, true);
    world.established(page, "c1");
    taken_call(&mut world, page);
    let all: Vec<_> = world.standing.entries().cloned().collect();
    for hole in 0..all.len() {
        let mut world = World::new(config());
        let (page, _) = session(&mut world, true);
        world.established(page, "c1");
        taken_call(&mut world, page);
        world.lose_line(hole);
        world.input(relay_up(2));
        for call in calls(&mut world) {
            terminate(&mut world, &call.call_id);
        }
        while let Some(bye) = world.next_request(&Method::Bye) {
            world.respond(&bye, 200, None);
        }
        world.advance(Duration::from_secs(400));
        world.assert_clean();
    }
}
