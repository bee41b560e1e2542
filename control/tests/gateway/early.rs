//! Before the answer: early media of one and of several forks, and the ringing tone of our own.

use std::time::Duration;

use gangway_control::{
    gateway::{
        GatewayConfig, Ringback, RingbackTone,
        effects::{Input, SocketId},
        messages::{CallStatus, ServerMessage},
    },
    sdp::CodecPolicy,
    sip::message::{Method, Request},
};
use gangway_shared::{
    ids::LegId,
    rcp::{Codec, ErrorCode, Event, Fill, LegKind, RelayError, RelayProgram, Request as RelayRequest, Sound},
};

use crate::world::{BROWSER_OFFER, World, config, phone_sdp, relay_up};

/// Both laws of G.711 and nothing else towards SIP.
fn g711() -> GatewayConfig {
    let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    GatewayConfig { codecs: CodecPolicy::new(&words(&["alaw", "ulaw", "telephone-event"]), &[], false), ..config() }
}

fn always() -> GatewayConfig {
    GatewayConfig { ringback: Ringback::On, ..config() }
}

/// A call that waits for an answer to its INVITE.
fn calling(config: GatewayConfig, offer: &str) -> (World, SocketId, Request) {
    let mut world = World::new(config);
    let page = world.session();
    world.call_with(page, "c1", "600", offer);
    let invite = world.request(&Method::Invite);
    world.forget();
    (world, page, invite)
}

fn program(world: &World) -> &RelayProgram {
    &world.relay.relays[&world.only_relay()].1
}

/// What the browser hears while the peer gives nothing.
fn to_browser(world: &World) -> Option<Fill> {
    program(world).routes.iter().find(|route| route.to == LegId(0)).and_then(|route| route.fill.clone())
}

fn peer_port(world: &World) -> Option<u16> {
    let LegKind::Rtp(leg) = &program(world).legs[1].kind else { panic!("leg 1 is the SIP side") };
    leg.remote.map(|remote| remote.rtp.port())
}

/// Statuses of all `ring` messages since the last look.
fn rings(world: &mut World) -> Vec<CallStatus> {
    let ring = |message: &ServerMessage| match message {
        ServerMessage::CallStatus { call, .. } if message.name() == "ring" => Some(call.status),
        _ => None,
    };
    let rings = world.sent.iter().filter_map(|(_, message)| ring(message)).collect();
    world.sent.clear();
    rings
}

#[test]
fn a_browser_hears_a_tone_when_its_callee_rings_and_g711_is_all_there_is() {
    let (mut world, _, invite) = calling(g711(), BROWSER_OFFER);
    world.respond(&invite, 180, None);
    let answer = world.last_description();
    assert!(answer.contains("UDP/TLS/RTP/SAVPF 8 0 126\r\n"), "{answer}");
    assert_eq!(world.names(), ["ring", "setRemoteSDP"]);
    let fill = to_browser(&world).expect("a tone");
    assert_eq!((fill.payload.pt, &fill.payload.codec, fill.start_after_ms), (8, &Codec::Pcma, 0));
    assert_eq!(fill.sound, Sound::Tone(RingbackTone::Europe.tone()));
    assert_eq!((program(&world).validate(), peer_port(&world)), (Ok(()), None));
    world.keys_ready();
    assert_eq!(rings(&mut world), [CallStatus::RingMedia]);
    world.respond(&invite, 180, None);
    assert_eq!(rings(&mut world), [], "a page that has ended its own tone must not begin it again");
    world.respond(&invite, 200, Some(&phone_sdp(4000, "0 101")));
    assert_eq!(world.names(), ["talk"], "the browser was answered before");
    assert_eq!((to_browser(&world), peer_port(&world)), (None, Some(4000)));
    assert_eq!(program(&world).routes[0].payloads[0].to.codec, Codec::Pcmu, "by table");
    world.in_our_dialog(&invite, &Method::Bye, 2, None);
    world.assert_clean();
}

#[test]
fn early_media_takes_over_from_the_tone_in_place() {
    let (mut world, _, invite) = calling(g711(), BROWSER_OFFER);
    world.respond(&invite, 180, None);
    let ssrc = program(&world).routes[1].ssrc;
    world.forget();
    world.respond(&invite, 183, Some(&phone_sdp(4000, "8")));
    assert_eq!((to_browser(&world), peer_port(&world)), (None, Some(4000)));
    assert_eq!(program(&world).routes[1].ssrc, ssrc);
    world.respond(&invite, 180, None);
    assert_eq!(to_browser(&world), None, "the callee has media of its own");
    assert!(world.names().is_empty());
    world.respond(&invite, 200, None);
    assert_eq!(world.names(), ["talk"], "a 200 without a description means that of the 183");
    assert_eq!(peer_port(&world), Some(4000));
}

#[test]
fn a_200_without_a_description_after_a_tone_alone_is_no_answer() {
    let (mut world, _, invite) = calling(g711(), BROWSER_OFFER);
    world.respond(&invite, 180, None);
    world.forget();
    world.respond(&invite, 200, None);
    assert_eq!(world.names(), ["finish FAILED"]);
    assert_eq!(world.sip_names(), ["ACK", "BYE"]);
    world.assert_clean();
}

#[test]
fn other_codecs_in_the_offer_are_worth_more_than_the_tone_unless_the_operator_says_otherwise() {
    let us = GatewayConfig { ringback_tone: RingbackTone::Us, ..always() };
    let never = GatewayConfig { ringback: Ringback::Off, ..g711() };
    let stripped = BROWSER_OFFER.replace("111 63 9 0 8 13 110 126", "111 63 9 110");
    let deaf = BROWSER_OFFER.replace("a=sendrecv", "a=sendonly");
    let rows = [
        (config(), BROWSER_OFFER, None),
        (never, BROWSER_OFFER, None),
        (always(), BROWSER_OFFER, Some(RingbackTone::Europe)),
        (us, BROWSER_OFFER, Some(RingbackTone::Us)),
        (always(), &stripped, None),
        (always(), &deaf, None),
    ];
    for (row, (config, offer, tone)) in rows.into_iter().enumerate() {
        let (mut world, _, invite) = calling(config, offer);
        world.respond(&invite, 183, None);
        assert_eq!(to_browser(&world), None, "row {row}: progress is no ringing");
        world.respond(&invite, 180, None);
        let sound = to_browser(&world).map(|fill| fill.sound);
        assert_eq!(sound, tone.map(|tone| Sound::Tone(tone.tone())), "row {row}");
        let told = world.names().contains(&"setRemoteSDP".to_owned());
        assert_eq!(told, tone.is_some(), "row {row}");
    }
}

#[test]
fn a_dataplane_that_makes_no_sound_is_asked_for_none() {
    let mut world = World::new(g711());
    world.input(Input::RelayDown);
    world.input(Input::RelayUp { epoch: 2, capabilities: vec!["feedback".to_owned()] });
    let page = world.session();
    world.call(page, "c1", "600");
    let invite = world.request(&Method::Invite);
    world.forget();
    world.respond(&invite, 180, None);
    assert_eq!(world.names(), ["ring"]);
    world.respond(&invite, 200, Some(&phone_sdp(4000, "8")));
    assert!(program(&world).routes.iter().all(|route| route.fill.is_none()));
}

#[test]
fn a_call_with_pictures_is_not_answered_for_a_tone() {
    let video = "m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\n\
        a=fingerprint:sha-256 00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D:1E:1F\r\n\
        a=setup:actpass\r\na=mid:1\r\na=sendrecv\r\na=rtcp-mux\r\na=rtpmap:96 VP8/90000\r\n";
    let offer = format!("{}{video}", BROWSER_OFFER.replace("BUNDLE 0", "BUNDLE 0 1"));
    let (mut world, _, invite) = calling(always(), &offer);
    world.respond(&invite, 180, None);
    assert_eq!(world.names(), ["ring"]);
}

#[test]
fn a_callee_that_answers_a_tone_with_another_codec_is_asked_for_the_browsers() {
    for accepted in [true, false] {
        let (mut world, _, invite) = calling(always(), BROWSER_OFFER);
        world.respond(&invite, 180, None);
        world.keys_ready();
        world.respond(&invite, 200, Some(&phone_sdp(4000, "9")));
        let reinvite = world.request(&Method::Invite);
        let body = String::from_utf8(reinvite.body.clone()).unwrap();
        assert!(body.contains("RTP/AVP 8 0 101\r\n"), "{body}");
        assert_eq!(to_browser(&world), None, "the callee has answered");
        world.forget();
        if accepted {
            world.respond(&reinvite, 200, Some(&phone_sdp(4000, "0 101")));
            assert_eq!(world.names(), ["talk"]);
            assert_eq!(peer_port(&world), Some(4000));
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
fn an_answer_that_was_not_offered_is_no_common_codec_after_a_tone_too() {
    let (mut world, _, invite) = calling(g711(), BROWSER_OFFER);
    world.respond(&invite, 180, None);
    world.forget();
    world.respond(&invite, 200, Some(&phone_sdp(4000, "18")));
    assert_eq!(world.last_call().info.as_deref(), Some("No common codecs"));
    assert_eq!(world.sip_names(), ["ACK", "BYE"]);
    world.assert_clean();
}

#[test]
fn a_call_that_rang_with_a_tone_ends_like_any_other() {
    for (status, names) in [(486, &["busy BUSY", "finish FINISH"][..]), (404, &["finish FAILED"][..])] {
        let (mut world, _, invite) = calling(g711(), BROWSER_OFFER);
        world.respond(&invite, 180, None);
        world.keys_ready();
        world.forget();
        world.respond(&invite, status, None);
        assert_eq!(world.names(), names, "{status}");
        world.assert_clean();
    }
    let (mut world, page, invite) = calling(g711(), BROWSER_OFFER);
    world.respond(&invite, 180, None);
    world.forget();
    world.hangup(page, "c1");
    assert_eq!(world.names(), ["finish FINISH"]);
    assert_eq!(world.sip_names(), ["CANCEL"]);
}

#[test]
fn of_two_forks_with_early_media_the_newest_is_heard_and_the_200_decides() {
    for (winner, described, port) in [("a", true, 4008), ("b", true, 4008), ("a", false, 4000), ("b", false, 4002)] {
        let (mut world, _, invite) = calling(config(), BROWSER_OFFER);
        world.respond_as(&invite, 183, "a", Some(&phone_sdp(4000, "8")), &[]);
        assert_eq!(peer_port(&world), Some(4000));
        world.respond_as(&invite, 183, "b", Some(&phone_sdp(4002, "8")), &[]);
        assert_eq!(peer_port(&world), Some(4002));
        world.respond_as(&invite, 183, "b", None, &[]);
        world.respond_as(&invite, 180, "a", None, &[]);
        assert_eq!(peer_port(&world), Some(4002), "what says nothing of media changes nothing");
        world.respond_as(&invite, 183, "c", Some(&phone_sdp(4004, "9")), &[]);
        assert_eq!(peer_port(&world), Some(4002), "a fork without the browser's codec cannot be heard");
        assert_eq!(world.names(), ["ring", "setRemoteSDP"]);
        let sdp = phone_sdp(4008, "8");
        world.respond_as(&invite, 200, winner, described.then_some(sdp.as_str()), &[]);
        assert_eq!(world.names(), ["talk"]);
        assert_eq!(peer_port(&world), Some(port), "fork {winner}, described: {described}");
    }
}

/// One `Put` at a time, however fast a callee changes its mind; what it said in between is never programmed.
#[test]
fn early_descriptions_wait_for_the_relay_and_only_the_newest_is_put() {
    let (mut world, _, invite) = calling(config(), BROWSER_OFFER);
    let programs = |world: &World| {
        let asked = world.requests.iter().filter_map(|(_, request)| match request {
            RelayRequest::Put { generation, .. } => Some(generation.0),
            _ => None,
        });
        asked.chain(world.relay.relays.values().map(|(generation, _)| generation.0)).max().unwrap_or(0)
    };
    let before = programs(&world);
    world.hold_requests = true;
    for port in (4000..4100).step_by(2) {
        world.respond(&invite, 183, Some(&phone_sdp(port, "8")));
    }
    assert_eq!((world.requests.len(), programs(&world) - before), (1, 1));
    world.answer_request();
    assert_eq!(peer_port(&world), Some(4000));
    assert_eq!((world.requests.len(), programs(&world) - before), (1, 2));
    world.answer_request();
    assert_eq!(peer_port(&world), Some(4098));
    assert_eq!(world.requests.len(), 0);
    // A relay that always answers a description late is no relay that does not answer.
    for second in 0..20 {
        world.respond(&invite, 183, Some(&phone_sdp(4000 + 2 * (second % 2), "8")));
        if world.requests.len() > 1 || second > 0 {
            world.answer_request();
        }
        world.advance(Duration::from_secs(1));
    }
    world.respond(&invite, 200, Some(&phone_sdp(4200, "8")));
    while !world.requests.is_empty() {
        world.answer_request();
    }
    assert_eq!((world.gateway.counts().calls_established, peer_port(&world)), (1, Some(4200)));
}

/// A description that waits for the relay goes out after the wall came back, and a re-INVITE that is refused meanwhile takes the call
/// back to it.
#[test]
fn an_early_description_that_waits_outlives_the_wall_and_a_refused_re_invite() {
    let (mut world, _, invite) = calling(config(), BROWSER_OFFER);
    world.input(Input::RelayDown);
    world.respond(&invite, 183, Some(&phone_sdp(4000, "8")));
    world.respond(&invite, 183, Some(&phone_sdp(4002, "8")));
    world.input(relay_up(1));
    assert_eq!(peer_port(&world), Some(4002));
    world.hold_requests = true;
    world.respond(&invite, 183, Some(&phone_sdp(4004, "8")));
    world.respond(&invite, 200, Some(&phone_sdp(4006, "8")));
    world.in_our_dialog(&invite, &Method::Invite, 2, Some(&phone_sdp(4008, "8")));
    world.answer_request();
    let (id, _) = world.requests.pop_front().expect("the re-INVITE's program");
    world.input(Input::RelayReply { id, result: Err(RelayError::new(ErrorCode::Full, "", "scripted")) });
    world.response(488);
    world.answer_request();
    assert_eq!((world.requests.len(), peer_port(&world)), (0, Some(4006)), "what the 200 said");
}

#[test]
fn a_page_is_told_once_that_it_hears_early_media() {
    let (mut world, _, invite) = calling(config(), BROWSER_OFFER);
    world.respond(&invite, 183, Some(&phone_sdp(4000, "8")));
    assert_eq!(rings(&mut world), [CallStatus::Ring]);
    world.keys_ready();
    world.keys_ready();
    world.respond(&invite, 180, None);
    assert_eq!(rings(&mut world), [CallStatus::RingMedia]);
    world.respond(&invite, 200, Some(&phone_sdp(4000, "8")));
    world.keys_ready();
    assert_eq!(rings(&mut world), []);
    let (mut world, _, invite) = calling(config(), BROWSER_OFFER);
    world.respond(&invite, 200, Some(&phone_sdp(4000, "8")));
    world.keys_ready();
    assert_eq!(rings(&mut world), [], "an answered call rings no more");
}

/// A page without microphone and camera.
fn without_devices(receives_video: bool) -> String {
    let audio = BROWSER_OFFER.replace("a=sendrecv", "a=recvonly");
    let video = "m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\n\
        a=fingerprint:sha-256 00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D:1E:1F\r\n\
        a=setup:actpass\r\na=mid:1\r\na=recvonly\r\na=rtcp-mux\r\na=rtpmap:96 VP8/90000\r\n";
    if receives_video { format!("{}{video}", audio.replace("BUNDLE 0", "BUNDLE 0 1")) } else { audio }
}

#[test]
fn a_page_without_devices_listens_while_its_peer_hears_silence() {
    for receives_video in [false, true] {
        let (mut world, _, invite) = calling(config(), &without_devices(receives_video));
        let body = String::from_utf8(invite.body.clone()).unwrap();
        assert!(body.split("m=video").next().unwrap().contains("a=sendrecv"), "{body}");
        world.respond(&invite, 200, Some(&phone_sdp(4000, "8 101")));
        let answer = world.last_description();
        assert!(answer.contains("a=sendonly") && !answer.contains("a=sendrecv"), "{answer}");
        let [to_sip, to_browser] = &program(&world).routes[..] else { panic!("sound each way") };
        assert_eq!((to_sip.paused, to_browser.paused), (true, false));
        let fill = to_sip.fill.as_ref().expect("silence");
        assert_eq!((&fill.sound, fill.payload.pt, fill.start_after_ms), (&Sound::Silence, 8, 100));
    }
}

#[test]
fn a_peer_that_holds_us_hears_nothing_and_silence_when_it_comes_back() {
    let (mut world, _, invite) = calling(config(), &without_devices(false));
    world.respond(&invite, 200, Some(&phone_sdp(4000, "8 101")));
    world.keys_ready();
    for (cseq, direction, hears) in
        [(2, "sendonly", false), (3, "sendrecv", true), (4, "inactive", false), (5, "recvonly", true)]
    {
        let sdp = phone_sdp(4000, "8 101").replace("sendrecv", direction);
        world.in_our_dialog(&invite, &Method::Invite, cseq, Some(&sdp));
        world.response(200);
        assert_eq!(program(&world).routes[0].fill.is_some(), hears, "{direction}");
        let relay = world.only_relay();
        world.in_our_dialog(&invite, &Method::Ack, cseq, None);
        world.input(Input::RelayEvent {
            event: Event::SourceLatched { relay, leg: LegId(1), remote: "10.0.0.2:4000".parse().unwrap() },
        });
    }
}
