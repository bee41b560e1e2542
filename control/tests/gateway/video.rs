//! Video, passed through: its sections on both sides, its leg and routes, and requests for key frames by INFO.

use std::time::Duration;

use gangway_control::{
    gateway::{
        GatewayConfig,
        effects::Input,
        messages::{AnswerRequest, CallStatus, ClientMessage},
        plan::{BROWSER, BROWSER_VIDEO, SIP_VIDEO},
    },
    sip::message::{HeaderName, Method, Request},
};
use gangway_shared::{
    ids::{LegId, RelayId},
    rcp::{ActAction, DtlsFailure, Event, Feedback, LegKind, Media, RelayProgram},
};

use crate::world::{BROWSER_OFFER, World, browser_answer, config, phone_sdp};

/// What a page with a camera adds to its offer: VP8 and H.264 in both packetization modes.
const CAMERA: &str = "m=video 9 UDP/TLS/RTP/SAVPF 96 97 102 103\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\n\
    a=ice-pwd:abcdefghijklmnopqrstuvwx\r\n\
    a=fingerprint:sha-256 00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D:1E:1F\r\n\
    a=setup:actpass\r\na=mid:1\r\na=sendrecv\r\na=rtcp-mux\r\na=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 nack pli\r\n\
    a=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n\
    a=rtpmap:102 H264/90000\r\na=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n\
    a=rtpmap:103 H264/90000\r\na=fmtp:103 level-asymmetry-allowed=1;packetization-mode=0;profile-level-id=42e01f\r\n";
const MEDIA_CONTROL: &str = "application/media_control+xml";

pub(crate) fn camera_offer() -> String {
    format!("{}{CAMERA}", BROWSER_OFFER.replace("BUNDLE 0", "BUNDLE 0 1"))
}

/// What a page with a camera answers.
pub(crate) fn camera_answer(payloads: &str) -> String {
    format!("{}{CAMERA}", browser_answer(payloads).replace("BUNDLE 0", "BUNDLE 0 1")).replace("actpass", "active")
}

/// A phone that answers or offers sound and this video section.
pub(crate) fn video_phone(video: &str) -> String {
    format!("{}{video}", phone_sdp(4000, "0"))
}

pub(crate) const VP8_PHONE: &str = "m=video 4002 RTP/AVP 97\r\na=rtpmap:97 VP8/90000\r\n";

/// An outgoing call with a camera that a phone answers so.
fn answered(video: &str) -> (World, Request) {
    let mut world = World::new(config());
    let page = world.session();
    world.call_with(page, "c1", "600", &camera_offer());
    let invite = world.request(&Method::Invite);
    world.respond(&invite, 200, Some(&video_phone(video)));
    (world, invite)
}

fn program(world: &World) -> &RelayProgram {
    &world.relay.relays[&world.only_relay()].1
}

/// The payload types of the video routes: from and to, browser to SIP first.
fn video_maps(world: &World) -> Vec<(u8, u8)> {
    let routes = program(world).routes.iter().filter(|route| route.media == Media::Video);
    routes.map(|route| (route.payloads[0].from.pt, route.payloads[0].to.pt)).collect()
}

#[test]
fn a_camera_is_offered_on_a_port_of_its_own_and_passed_both_ways() {
    let (world, invite) = answered(VP8_PHONE);
    let offer = String::from_utf8(invite.body).unwrap();
    let (audio, video) = offer.split_once("m=video ").expect("a video section");
    assert!(audio.contains("m=audio 31002 ") && video.starts_with("41002 RTP/AVP 98 97\r\n"), "{offer}");
    assert!(
        video.contains("a=fmtp:98 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"),
        "{offer}"
    );
    let answer = world.last_description();
    assert!(
        answer.contains("a=group:BUNDLE 0 1\r\n") && answer.contains("m=video 32100 UDP/TLS/RTP/SAVPF 96\r\n"),
        "{answer}"
    );
    assert!(answer.contains("a=rtcp-fb:96 nack pli\r\n"), "{answer}");
    assert!(world.last_call().has_video);
    assert_eq!(video_maps(&world), [(96, 97), (97, 96)]);
    let LegKind::Rtp(leg) = &program(&world).leg(SIP_VIDEO).unwrap().kind else { panic!("a video leg") };
    assert_eq!(leg.remote.unwrap().rtp, "10.0.0.2:4002".parse().unwrap());
}

#[test]
fn a_phone_that_takes_no_video_has_a_call_of_sound_and_the_port_is_given_back() {
    for video in ["", "m=video 0 RTP/AVP 97\r\n"] {
        let (mut world, _) = answered(video);
        let answer = world.last_description();
        assert!(answer.contains("m=video 0 ") && answer.contains("a=group:BUNDLE 0\r\n"), "{video}: {answer}");
        let call = world.last_call();
        assert_eq!((call.status, call.has_video), (CallStatus::Established, false), "{video}");
        assert_eq!((program(&world).legs.len(), program(&world).routes.len()), (2, 2), "{video}");
        world.keys_ready();
        assert!(!world.names().contains(&"finish FAILED".to_owned()), "{video}");
        assert_eq!(world.sip_names(), ["ACK"], "{video}: there is nothing to refuse");
    }
}

pub(crate) const H264_PHONE: &str = "m=video 4002 RTP/AVP 98\r\na=rtpmap:98 H264/90000\r\n\
    a=fmtp:98 profile-level-id=42e01f;packetization-mode=1\r\n";
const NO_VIDEO: &str = "m=video 0 RTP/AVP 97\r\n";

/// Takes the re-INVITE that refuses the peer's video.
fn refusal(world: &mut World) -> Request {
    let reinvite = world.request(&Method::Invite);
    let body = String::from_utf8(reinvite.body.clone()).unwrap();
    let (audio, video) = body.split_once("m=video ").expect("the section keeps its place");
    assert!(video.starts_with("0 RTP/AVP ") && audio.contains("m=audio 31002 RTP/AVP 0 "), "{body}");
    reinvite
}

#[test]
fn video_that_cannot_be_joined_is_refused_by_a_re_invite_and_the_sound_goes_on() {
    for video in [
        "m=video 4002 RTP/AVP 120\r\na=rtpmap:120 VP9/90000\r\n",
        "m=video 4002 RTP/AVP 98\r\na=rtpmap:98 H264/90000\r\na=fmtp:98 profile-level-id=4d001f;packetization-mode=1\r\n",
        "m=video 4002 RTP/SAVP 97\r\na=rtpmap:97 VP8/90000\r\n",
        "m=video 4002 RTP/AVP 111\r\n",
    ] {
        let (mut world, _) = answered(video);
        let call = world.last_call();
        assert_eq!((call.status, call.has_video), (CallStatus::Established, false), "{video}");
        assert!(world.last_description().contains("m=video 0 "), "{video}");
        assert_eq!((program(&world).legs.len(), program(&world).routes.len()), (2, 2), "{video}");
        world.keys_ready();
        let reinvite = refusal(&mut world);
        world.sent.clear();
        world.respond(&reinvite, 200, Some(&video_phone(NO_VIDEO)));
        assert_eq!(world.sip_names(), ["ACK"], "{video}");
        world.advance(Duration::from_secs(120));
        assert!(world.sip.is_empty() && world.gateway.counts().calls_established == 1, "{video}");
        assert!(!world.names().iter().any(|name| name != "ping"), "{video}: the page has heard it all");
    }
}

#[test]
fn a_video_codec_that_changes_between_183_and_200_is_refused_and_may_come_back() {
    let mut world = World::new(config());
    let page = world.session();
    world.call_with(page, "c1", "600", &camera_offer());
    let invite = world.request(&Method::Invite);
    world.respond(&invite, 183, Some(&video_phone(VP8_PHONE)));
    assert!(world.last_description().contains("UDP/TLS/RTP/SAVPF 96\r\n"));
    world.keys_ready();
    world.respond(&invite, 200, Some(&video_phone(H264_PHONE)));
    let reinvite = refusal(&mut world);
    let paused: Vec<bool> = program(&world).routes.iter().map(|route| route.paused).collect();
    assert_eq!(paused, [false, false, true, true], "H264 never reaches a browser that was answered with VP8");
    assert_eq!(world.last_call().status, CallStatus::Established);
    world.respond(&reinvite, 200, Some(&video_phone(NO_VIDEO)));
    world.forget();
    world.in_our_dialog(&invite, &Method::Invite, 2, Some(&video_phone(VP8_PHONE)));
    let back = String::from_utf8(world.response(200).body).unwrap();
    assert!(back.contains("m=video 41002 RTP/AVP 97"), "{back}");
    assert!(program(&world).routes.iter().all(|route| !route.paused));
}

#[test]
fn video_of_a_fork_that_answers_after_one_without_is_refused() {
    let mut world = World::new(config());
    let page = world.session();
    world.call_with(page, "c1", "600", &camera_offer());
    let invite = world.request(&Method::Invite);
    world.respond_as(&invite, 183, "fork-a", Some(&video_phone(NO_VIDEO)), &[]);
    assert!(world.last_description().contains("m=video 0 "));
    world.keys_ready();
    world.respond_as(&invite, 200, "fork-b", Some(&video_phone(VP8_PHONE)), &[]);
    let reinvite = refusal(&mut world);
    assert!(reinvite.headers.value(&HeaderName::To).unwrap().contains("fork-b"));
    world.respond(&reinvite, 200, Some(&video_phone(NO_VIDEO)));
    assert_eq!(world.gateway.counts().calls_established, 1);
}

#[test]
fn a_refusal_of_video_that_meets_trouble_never_costs_the_sound() {
    let patience = Duration::from_secs(5);
    // The two re-INVITEs met: ours goes out again.
    let (mut world, invite) = answered(H264_MAIN);
    world.keys_ready();
    let first = refusal(&mut world);
    world.respond(&first, 491, None);
    assert_eq!(world.sip_names(), ["ACK"]);
    world.advance(Duration::from_millis(2_090));
    assert!(world.sip.is_empty(), "not before 2.1 s");
    world.advance(patience);
    let second = refusal(&mut world);
    assert!(second.headers.cseq().unwrap().number > first.headers.cseq().unwrap().number);
    // What the peer offers meanwhile is answered with port 0, so that nothing is left to refuse.
    world.respond(&second, 491, None);
    world.forget();
    world.in_our_dialog(&invite, &Method::Invite, 2, Some(&video_phone(H264_MAIN)));
    let answer = String::from_utf8(world.response(200).body).unwrap();
    assert!(answer.contains("m=video 0 "), "{answer}");
    world.in_our_dialog(&invite, &Method::Ack, 2, None);
    world.advance(patience);
    assert!(world.sip.is_empty(), "{:?}", world.sip_names());
    assert_eq!(world.gateway.counts().calls_established, 1);

    // Refused, or never answered: the call stays as it is.
    for status in [488, 500, 100] {
        let (mut world, _) = answered(H264_MAIN);
        world.keys_ready();
        let reinvite = refusal(&mut world);
        world.respond(&reinvite, status, None);
        world.sip.clear();
        world.advance(Duration::from_secs(100));
        let cancelled = world.sip_names().contains(&"CANCEL".to_owned());
        assert_eq!(cancelled, status == 100, "{status}");
        assert_eq!(world.gateway.counts().calls_established, 1, "{status}");
        assert_eq!(world.gateway.sip_transactions(), 0, "{status}");
    }

    // A peer that takes the video again each time is not asked for ever.
    let (mut world, _) = answered(H264_MAIN);
    world.keys_ready();
    for _ in 0..3 {
        let reinvite = refusal(&mut world);
        world.respond(&reinvite, 200, None);
    }
    assert_eq!(world.sip_names(), ["ACK"]);
    assert_eq!(world.gateway.counts().calls_established, 1);

    // The peer knows no such call any more.
    let (mut world, _) = answered(H264_MAIN);
    world.keys_ready();
    let reinvite = refusal(&mut world);
    world.respond(&reinvite, 481, None);
    assert_eq!(world.last_call().status, CallStatus::Failed);
}

/// H.264 in a profile that the page does not have.
const H264_MAIN: &str = "m=video 4002 RTP/AVP 98\r\na=rtpmap:98 H264/90000\r\n\
    a=fmtp:98 profile-level-id=4d001f;packetization-mode=1\r\n";

#[test]
fn the_browsers_payload_type_is_that_of_the_peers_mode() {
    let h264 = |fmtp: &str| format!("m=video 4002 RTP/AVP 98\r\na=rtpmap:98 H264/90000\r\n{fmtp}");
    for (fmtp, browser) in [
        ("a=fmtp:98 profile-level-id=42e01f;packetization-mode=1\r\n", 102),
        ("a=fmtp:98 profile-level-id=42e01f;packetization-mode=0\r\n", 103),
        ("a=fmtp:98 profile-level-id=42801e\r\n", 103),
        ("", 103),
    ] {
        let (world, _) = answered(&h264(fmtp));
        let answer = world.last_description();
        assert!(answer.contains(&format!("m=video 32100 UDP/TLS/RTP/SAVPF {browser}\r\n")), "{fmtp}: {answer}");
        assert_eq!(video_maps(&world), [(browser, 98), (98, browser)], "{fmtp}");
    }
}

#[test]
fn a_page_without_a_camera_asks_to_receive_only() {
    let mut world = World::new(config());
    let page = world.session();
    world.call_with(page, "c1", "600", &camera_offer().replace("a=mid:1\r\na=sendrecv", "a=mid:1\r\na=recvonly"));
    let invite = world.request(&Method::Invite);
    let offer = String::from_utf8(invite.body.clone()).unwrap();
    let (audio, video) = offer.split_once("m=video ").expect("a video section");
    assert!(audio.contains("a=sendrecv") && video.contains("a=recvonly"), "{offer}");
    world.respond(&invite, 200, Some(&video_phone(&format!("{VP8_PHONE}a=sendonly\r\n"))));
    let (_, video) = world.last_description().split_once("m=video").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert!(video.contains("a=sendonly"), "{video}");
    let paused: Vec<bool> = program(&world).routes.iter().map(|route| route.paused).collect();
    assert_eq!(paused, [false, false, true, false]);
}

#[test]
fn an_incoming_call_shows_its_video_and_takes_what_the_page_allows() {
    for (browser, told_peer) in [("sendrecv", "sendrecv"), ("recvonly", "sendonly")] {
        let mut world = World::new(config());
        let page = world.session();
        let uri = format!("sip:{}@10.0.0.1:5060", world.contact_key(page));
        let invite = world.invite(&uri, "in1", Some(&video_phone(VP8_PHONE)));
        let offer = world.last_description();
        assert!(offer.contains("a=group:BUNDLE 0 1\r\n") && offer.contains("UDP/TLS/RTP/SAVPF 96\r\n"), "{offer}");
        assert!(offer.contains("a=rtcp-fb:96 ccm fir\r\n"), "{offer}");
        assert!(world.last_call().has_video);
        let call_id = world.last_call().call_id;
        let camera = CAMERA.replace("a=setup:actpass", "a=setup:active").replace("a=sendrecv", &format!("a={browser}"));
        let sdp = format!("{}{camera}", browser_answer("0").replace("BUNDLE 0", "BUNDLE 0 1"));
        let request = AnswerRequest { call_id, sdp: Some(sdp), ..AnswerRequest::default() };
        world.say(page, ClientMessage::Answer(Box::new(request)));
        let answer = world.response(200);
        let body = String::from_utf8(answer.body.clone()).unwrap();
        let (_, video) = body.split_once("m=video ").expect("a video section");
        // What the peer may do is what the page lets it.
        let expected = if told_peer == "sendonly" { "a=recvonly" } else { "a=sendrecv" };
        assert!(video.starts_with("4") && video.contains(expected), "{browser}: {body}");
        world.in_their_dialog(&invite, &answer, &Method::Ack, 1, None);
        assert_eq!(video_maps(&world), [(96, 97), (97, 96)]);
    }
}

#[test]
fn a_re_invite_can_stop_the_video_and_bring_it_back() {
    let (mut world, invite) = answered(VP8_PHONE);
    world.keys_ready();
    world.forget();
    world.in_our_dialog(&invite, &Method::Invite, 2, Some(&video_phone("m=video 0 RTP/AVP 97\r\n")));
    let stopped = String::from_utf8(world.response(200).body).unwrap();
    assert!(stopped.contains("m=video 0 RTP/AVP 97"), "{stopped}");
    let paused: Vec<bool> = program(&world).routes.iter().map(|route| route.paused).collect();
    assert_eq!(paused, [false, false, true, true]);
    world.in_our_dialog(&invite, &Method::Ack, 2, None);
    world.in_our_dialog_with(&invite, &Method::Info, 3, Some((MEDIA_CONTROL, "<picture_fast_update/>")));
    world.response(200);
    assert!(world.relay.actions.is_empty(), "a stopped video is none");
    world.in_our_dialog(&invite, &Method::Invite, 4, Some(&video_phone(VP8_PHONE)));
    let back = String::from_utf8(world.response(200).body).unwrap();
    assert!(back.contains("m=video 41002 RTP/AVP 97"), "{back}");
    assert!(program(&world).routes.iter().all(|route| !route.paused));
    assert!(world.names().is_empty(), "the page has one description");
}

#[test]
fn a_wish_of_the_browser_goes_out_as_info_until_the_peer_refuses() {
    let (mut world, _) = answered(VP8_PHONE);
    world.keys_ready();
    world.forget();
    let relay = world.only_relay();
    let wanted = |world: &mut World| {
        world.input(Input::RelayEvent { event: Event::KeyframeWanted { relay, leg: BROWSER } });
    };
    wanted(&mut world);
    wanted(&mut world);
    let info = world.request(&Method::Info);
    assert_eq!(info.headers.content_type().as_deref(), Some(MEDIA_CONTROL));
    assert!(String::from_utf8(info.body.clone()).unwrap().contains("<picture_fast_update/>"));
    assert!(world.sip.is_empty(), "one at a time");
    world.respond(&info, 200, None);
    for passing in [491, 500, 503] {
        wanted(&mut world);
        let info = world.request(&Method::Info);
        world.respond(&info, passing, None);
    }
    wanted(&mut world);
    let info = world.request(&Method::Info);
    world.respond(&info, 415, None);
    wanted(&mut world);
    assert!(world.sip.is_empty(), "the peer knows no such requests");
    assert!(world.names().is_empty(), "the call goes on");
}

#[test]
fn a_picture_request_of_the_peer_goes_to_the_browser() {
    let (mut world, invite) = answered(VP8_PHONE);
    world.keys_ready();
    world.forget();
    let relay = world.only_relay();
    let ask = "<media_control><vc_primitive><to_encoder><picture_fast_update></picture_fast_update></to_encoder></vc_primitive></media_control>";
    world.in_our_dialog_with(&invite, &Method::Info, 2, Some((MEDIA_CONTROL, ask)));
    assert_eq!(world.sip_names(), ["200"]);
    assert_eq!(world.relay.actions, [(relay, ActAction::Keyframe { leg: BROWSER })]);
    world.in_our_dialog_with(&invite, &Method::Info, 3, None);
    assert_eq!(world.sip_names(), ["200"], "a keep-alive");
    world.in_our_dialog_with(&invite, &Method::Info, 4, Some(("application/x-unknown", "?")));
    let refused = world.response(415);
    assert_eq!(refused.headers.value(&HeaderName::Accept), Some(MEDIA_CONTROL));
    assert_eq!(world.relay.actions.len(), 1);
}

#[test]
fn picture_requests_of_a_later_control_are_not_taken_for_those_of_a_former_one() {
    let (mut world, invite) = answered(VP8_PHONE);
    world.keys_ready();
    for cseq in 2..10 {
        if cseq == 6 {
            world.restart();
        }
        world.in_our_dialog_with(&invite, &Method::Info, cseq, Some((MEDIA_CONTROL, "<picture_fast_update/>")));
    }
    assert_eq!(world.relay.actions.len(), 8);
}

/// The feedback in the program of a call that the peer answers with VP8 and these lines.
fn feedback_of(world: &World) -> Vec<Feedback> {
    let LegKind::Rtp(leg) = &program(world).leg(SIP_VIDEO).unwrap().kind else { panic!("a video leg") };
    leg.feedback.clone()
}

#[test]
fn feedback_that_the_peer_names_is_used_under_the_plain_profile_too() {
    use Feedback::{CcmFir, NackPli};
    for (lines, expected) in [
        ("", vec![]),
        ("a=rtcp-fb:* nack pli\r\n", vec![NackPli]),
        ("a=rtcp-fb:* ccm fir tmmbr\r\na=rtcp-fb:* NACK PLI\r\n", vec![NackPli, CcmFir]),
        ("a=rtcp-fb:97 nack\r\na=rtcp-fb:97 ccm fir\r\n", vec![CcmFir]),
        ("a=rtcp-fb:98 nack pli\r\na=rtcp-fb:* nack\r\na=rtcp-fb:* trr-int 5000\r\n", vec![]),
    ] {
        let (world, invite) = answered(&format!("{VP8_PHONE}{lines}"));
        assert_eq!(feedback_of(&world), expected, "{lines}");
        let offer = String::from_utf8(invite.body).unwrap();
        assert!(
            offer.contains("a=rtcp-fb:* nack pli\r\na=rtcp-fb:* ccm fir\r\n") && offer.contains(" RTP/AVP "),
            "{offer}"
        );
    }
}

#[test]
fn a_dataplane_that_knows_no_feedback_is_sent_none() {
    let mut world = World::new(config());
    world.input(Input::RelayDown);
    world.input(Input::RelayUp { epoch: 2, capabilities: vec!["rtp".to_owned()] });
    let page = world.session();
    world.call_with(page, "c1", "600", &camera_offer());
    let invite = world.request(&Method::Invite);
    world.respond(&invite, 200, Some(&video_phone(&format!("{VP8_PHONE}a=rtcp-fb:* nack pli\r\n"))));
    assert!(feedback_of(&world).is_empty());
}

/// A page answers a call with pictures; gives what the caller is answered.
fn answered_by_page(settings: GatewayConfig, offer: &str, sdp: &str) -> (World, String) {
    let mut world = World::new(settings);
    let page = world.session();
    let uri = format!("sip:{}@10.0.0.1:5060", world.contact_key(page));
    world.invite(&uri, "in1", Some(offer));
    let call_id = world.last_call().call_id;
    let request = AnswerRequest { call_id, sdp: Some(sdp.to_owned()), ..AnswerRequest::default() };
    world.say(page, ClientMessage::Answer(Box::new(request)));
    let body = String::from_utf8(world.response(200).body).unwrap();
    (world, body)
}

#[test]
fn an_answer_names_the_feedback_that_the_offer_names() {
    let sdp = camera_answer("0");
    for (lines, expected) in [("", 0), ("a=rtcp-fb:* ccm fir\r\n", 1)] {
        let (world, body) = answered_by_page(config(), &video_phone(&format!("{VP8_PHONE}{lines}")), &sdp);
        assert_eq!(body.matches("a=rtcp-fb:* ccm fir\r\n").count(), expected, "{body}");
        assert!(!body.contains("nack pli"), "{body}");
        assert_eq!(feedback_of(&world).len(), expected);
    }
}

fn unbundled() -> GatewayConfig {
    GatewayConfig { rtp_bundle: false, ..config() }
}

/// User fragment and candidates of each section of a description of ours.
fn transports(description: &str) -> Vec<(String, Vec<String>)> {
    let sections = description.split("\r\nm=").skip(1);
    let values = |section: &str, name: &str| -> Vec<String> {
        section.lines().filter_map(|line| line.strip_prefix(name)).map(str::to_owned).collect()
    };
    sections.map(|section| (values(section, "a=ice-ufrag:").concat(), values(section, "a=candidate:"))).collect()
}

#[test]
fn without_bundle_pictures_have_a_transport_of_their_own_on_the_same_port() {
    let mut world = World::new(unbundled());
    let page = world.session();
    world.call_with(page, "c1", "600", &camera_offer());
    let invite = world.request(&Method::Invite);
    world.respond(&invite, 200, Some(&video_phone(VP8_PHONE)));
    let answer = world.last_description();
    assert!(!answer.contains("a=group:BUNDLE") && answer.contains("m=video 32100 "), "{answer}");
    let sections = transports(&answer);
    assert!(sections.len() == 2 && sections[0].0 != sections[1].0 && sections[0].1 == sections[1].1, "{answer}");
    let legs: Vec<u8> = program(&world).legs.iter().map(|leg| leg.id.0).collect();
    assert_eq!(legs, [0, 1, 3, 2]);
    for id in [BROWSER, BROWSER_VIDEO] {
        let LegKind::IceDtls(ice) = &program(&world).leg(id).unwrap().kind else { panic!("a browser's leg") };
        assert_eq!(ice.remote.as_ref().unwrap().ufrag, "abcd");
    }
    let ends: Vec<(LegId, LegId)> = program(&world).routes.iter().map(|route| (route.from, route.to)).collect();
    assert_eq!(ends[2..], [(BROWSER_VIDEO, SIP_VIDEO), (SIP_VIDEO, BROWSER_VIDEO)]);
    // Requests for pictures know where they are.
    world.keys_ready();
    world.forget();
    let relay = world.only_relay();
    world.input(Input::RelayEvent { event: Event::KeyframeWanted { relay, leg: BROWSER_VIDEO } });
    world.request(&Method::Info);
    world.in_our_dialog_with(&invite, &Method::Info, 2, Some((MEDIA_CONTROL, "<picture_fast_update/>")));
    assert_eq!(world.relay.actions, [(relay, ActAction::Keyframe { leg: BROWSER_VIDEO })]);
}

#[test]
fn without_bundle_a_call_of_sound_and_bundle_only_pictures_have_one_transport() {
    let mut world = World::new(unbundled());
    let page = world.session();
    world.call_with(page, "c1", "600", &camera_offer());
    let invite = world.request(&Method::Invite);
    world.respond(&invite, 200, Some(&video_phone(NO_VIDEO)));
    assert_eq!(program(&world).legs.len(), 2);
    assert!(world.last_description().contains("a=group:BUNDLE 0\r\n"), "{}", world.last_description());
    let camera = CAMERA.replace("m=video 9 ", "m=video 0 ").replace("a=mid:1\r\n", "a=mid:1\r\na=bundle-only\r\n");
    let mut world = World::new(unbundled());
    let page = world.session();
    world.call_with(page, "c1", "600", &format!("{}{camera}", BROWSER_OFFER.replace("BUNDLE 0", "BUNDLE 0 1")));
    let invite = world.request(&Method::Invite);
    world.respond(&invite, 200, Some(&video_phone(VP8_PHONE)));
    assert!(world.last_description().contains("a=group:BUNDLE 0 1\r\n"), "{}", world.last_description());
    assert!(program(&world).leg(BROWSER_VIDEO).is_none() && world.last_call().has_video);
}

#[test]
fn without_bundle_an_incoming_call_is_answered_on_two_transports() {
    let camera = CAMERA.replace("a=ice-ufrag:abcd", "a=ice-ufrag:efgh");
    let sdp =
        format!("{}{camera}", browser_answer("0").replace("a=group:BUNDLE 0\r\n", "")).replace("actpass", "active");
    let (world, body) = answered_by_page(unbundled(), &video_phone(VP8_PHONE), &sdp);
    assert!(body.contains("m=video 4"), "{body}");
    let offer = world.last_description();
    let sections = transports(&offer);
    assert!(!offer.contains("a=group:") && sections.len() == 2 && sections[0].0 != sections[1].0, "{offer}");
    let remote = |id| match &program(&world).leg(id).unwrap().kind {
        LegKind::IceDtls(ice) => ice.remote.clone().unwrap().ufrag,
        _ => panic!("a browser's leg"),
    };
    assert_eq!((remote(BROWSER), remote(BROWSER_VIDEO)), ("abcd".to_owned(), "efgh".to_owned()));
    // With one transport, pictures on another are none.
    let (world, body) = answered_by_page(config(), &video_phone(VP8_PHONE), &sdp);
    assert!(body.contains("m=video 0 ") && program(&world).leg(SIP_VIDEO).is_none(), "{body}");
}

/// An unbundled call with pictures, whose sound has its path.
fn talking_unbundled() -> (World, Request) {
    let mut world = World::new(unbundled());
    let page = world.session();
    world.call_with(page, "c1", "600", &camera_offer());
    let invite = world.request(&Method::Invite);
    world.respond(&invite, 200, Some(&video_phone(VP8_PHONE)));
    world.keys_ready();
    world.forget();
    (world, invite)
}

#[test]
fn without_bundle_trouble_of_the_pictures_stops_them_and_not_the_sound() {
    let events: [fn(RelayId) -> Event; 3] = [
        |relay| Event::DtlsFailed { relay, leg: BROWSER_VIDEO, cause: DtlsFailure::Fingerprint },
        |relay| Event::DtlsClosed { relay, leg: BROWSER_VIDEO },
        |relay| Event::ConsentLost { relay, leg: BROWSER_VIDEO },
    ];
    for event in events {
        let (mut world, invite) = talking_unbundled();
        let event = event(world.only_relay());
        world.input(Input::RelayEvent { event: event.clone() });
        assert!(world.sip.is_empty(), "{event:?}: a page that goes away loses its sound in a moment too");
        world.advance(Duration::from_secs(2));
        let reinvite = refusal(&mut world);
        assert_eq!((program(&world).legs.len(), program(&world).routes.len()), (2, 2), "{event:?}");
        world.respond(&reinvite, 200, Some(&video_phone(NO_VIDEO)));
        assert_eq!(world.sip_names(), ["ACK"], "{event:?}");
        // The peer cannot bring back what has no way to the browser.
        world.in_our_dialog(&invite, &Method::Invite, 2, Some(&video_phone(VP8_PHONE)));
        let body = String::from_utf8(world.response(200).body).unwrap();
        assert!(body.contains("m=video 0 "), "{event:?}: {body}");
        world.in_our_dialog(&invite, &Method::Ack, 2, None);
        world.advance(Duration::from_secs(60));
        assert_eq!(world.gateway.counts().calls_established, 1, "{event:?}");
        assert!(!world.names().iter().any(|name| name != "ping") && world.sip.is_empty(), "{event:?}");
        // The same trouble of the sound ends the call.
        let relay = world.only_relay();
        world.input(Input::RelayEvent { event: Event::ConsentLost { relay, leg: BROWSER } });
        world.request(&Method::Bye);
        world.assert_clean();
    }
}

/// Whatever the call waits for when its pictures are lost.
#[test]
fn without_bundle_pictures_may_be_lost_before_the_answer_and_in_a_re_invite() {
    // While it rings with early media: the answer is taken, then its pictures are refused.
    let mut world = World::new(unbundled());
    let page = world.session();
    world.call_with(page, "c1", "600", &camera_offer());
    let invite = world.request(&Method::Invite);
    world.respond(&invite, 183, Some(&video_phone(VP8_PHONE)));
    world.keys_ready();
    let relay = world.only_relay();
    let lost = Event::DtlsFailed { relay, leg: BROWSER_VIDEO, cause: DtlsFailure::Timeout };
    world.input(Input::RelayEvent { event: lost.clone() });
    world.advance(Duration::from_secs(4));
    assert_eq!(world.gateway.counts().calls_ring, 1);
    world.respond(&invite, 200, Some(&video_phone(VP8_PHONE)));
    refusal(&mut world);
    assert_eq!((world.last_call().status, program(&world).legs.len()), (CallStatus::Established, 2));
    // While the relay has not taken a re-INVITE of the peer: that one is answered first.
    let (mut world, invite) = talking_unbundled();
    world.hold_requests = true;
    world.in_our_dialog(&invite, &Method::Invite, 2, Some(&video_phone(&VP8_PHONE.replace("4002", "4010"))));
    world.input(Input::RelayEvent { event: lost });
    world.advance(Duration::from_secs(3));
    assert_eq!(world.requests.len(), 1);
    world.answer_request();
    world.hold_requests = false;
    world.response(200);
    world.in_our_dialog(&invite, &Method::Ack, 2, None);
    world.advance(Duration::from_secs(4));
    refusal(&mut world);
    assert_eq!((world.gateway.counts().calls_established, program(&world).legs.len()), (1, 2));
}

#[test]
fn without_bundle_pictures_that_never_get_a_path_end_nothing() {
    let (mut world, _) = talking_unbundled();
    world.advance(Duration::from_secs(60));
    assert_eq!(world.gateway.counts().calls_established, 1);
    assert!(world.sip.is_empty());
}
