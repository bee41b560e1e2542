//! Golden files: one per message and protocol version. They are decoded and encoded again for ever; a change of one is a change
//! of the protocol.

use std::{fmt::Debug, fs, path::PathBuf};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::*;
use crate::{
    ids::{EventSeq, Generation, LegId, RelayId},
    secret::Secret,
};

fn relay() -> RelayId {
    RelayId::new(1, 2, 3)
}

fn payload(pt: u8, codec: Codec, clock: u32) -> Payload {
    Payload { pt, codec, clock, channels: None, fmtp: None }
}

fn program() -> RelayProgram {
    let opus = Payload {
        channels: Some(2),
        fmtp: Some("minptime=10;useinbandfec=1".into()),
        ..payload(111, Codec::Opus, 48000)
    };
    let remote =
        RtpRemote { rtp: "192.0.2.1:4000".parse().unwrap(), rtcp: "192.0.2.1:4001".parse().unwrap(), rtcp_mux: false };
    let local_ip = Some("192.0.2.9".parse().unwrap());
    let rtp = RtpLeg { media: Media::Audio, local_ip, remote: Some(remote), feedback: vec![] };
    let keys = SrtpKeys {
        suite: SrtpSuite::AeadAes128Gcm,
        local: Secret::new("bG9jYWw=".into()),
        remote: Secret::new("cmVtb3Rl".into()),
    };
    RelayProgram {
        label: "call-1".into(),
        cname: "c7f1".into(),
        legs: vec![
            Leg {
                id: LegId(0),
                media_timeout_ms: Some(60_000),
                kind: LegKind::IceDtls(IceDtlsLeg {
                    remote: Some(IceRemote { ufrag: "abcd".into(), fingerprints: vec![Fingerprint([7; 32])] }),
                    consent_timeout_ms: Some(30_000),
                    feedback: vec![],
                    transport_cc: None,
                }),
            },
            Leg { id: LegId(1), media_timeout_ms: None, kind: LegKind::Rtp(rtp.clone()) },
            Leg { id: LegId(2), media_timeout_ms: None, kind: LegKind::Srtp(SrtpLeg { rtp, keys }) },
            Leg { id: LegId(4), media_timeout_ms: None, kind: LegKind::Tap(TapLeg { sink: "tap.sock".into() }) },
        ],
        routes: vec![
            Route {
                from: LegId(0),
                to: LegId(1),
                media: Media::Audio,
                payloads: vec![PayloadMap { from: opus.clone(), to: Payload { pt: 96, ..opus } }],
                process: Process::Pass,
                ssrc: 0x1234,
                paused: false,
                rtx: None,
                source_rtx: vec![],
                limit_kbps: None,
                fill: None,
            },
            Route {
                from: LegId(1),
                to: LegId(0),
                media: Media::Audio,
                payloads: vec![PayloadMap { from: payload(0, Codec::Pcmu, 8000), to: payload(8, Codec::Pcma, 8000) }],
                process: Process::G711,
                ssrc: 0x5678,
                paused: true,
                rtx: None,
                source_rtx: vec![],
                limit_kbps: None,
                fill: None,
            },
        ],
    }
}

/// Video between a browser that takes all feedback there is and a plain leg.
fn repaired() -> RelayProgram {
    let mut program = program();
    program.legs.truncate(2);
    let LegKind::IceDtls(ice) = &mut program.legs[0].kind else { unreachable!("leg 0 is a browser") };
    (ice.feedback, ice.transport_cc) = (vec![Feedback::Nack, Feedback::Remb], Some(3));
    let LegKind::Rtp(leg) = &mut program.legs[1].kind else { unreachable!("leg 1 is plain") };
    leg.media = Media::Video;
    let vp8 = |pt| payload(pt, Codec::Vp8, 90_000);
    let maps = [(vp8(96), vp8(100)), (vp8(100), vp8(96))];
    for (route, (from, to)) in program.routes.iter_mut().zip(maps) {
        (route.media, route.process, route.payloads) = (Media::Video, Process::Pass, vec![PayloadMap { from, to }]);
    }
    program.routes[0].source_rtx = vec![RtxPayload { pt: 97, apt: 96 }];
    program.routes[0].limit_kbps = Some(256);
    program.routes[1].rtx = Some(Rtx { ssrc: 0x9abc, payloads: vec![RtxPayload { pt: 97, apt: 96 }] });
    program
}

fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, message: &T) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("golden/v{PROTOCOL}/{name}.json"));
    if std::env::var_os("GANGWAY_WRITE_GOLDEN").is_some() && !path.exists() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, serde_json::to_string_pretty(message).unwrap() + "\n").unwrap();
    }
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let decoded: T = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(&decoded, message, "{name} decodes to something else");
    let pinned: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_value(message).unwrap(), pinned, "{name} is encoded otherwise");
}

fn request(name: &str, request: Request) {
    check(&format!("request_{name}"), &ControlMessage::Request { id: 9, request });
}

fn reply(name: &str, reply: Reply) {
    check(&format!("reply_{name}"), &DataplaneMessage::Ok { id: 9, reply });
}

fn event(name: &str, event: Event) {
    check(&format!("event_{name}"), &DataplaneMessage::Event { seq: EventSeq(4), event });
}

#[test]
fn greetings_keep_their_text() {
    let control = Hello {
        protocol: 1,
        instance: "c0ffee".into(),
        epoch: 5,
        engine: None,
        workers: None,
        capabilities: vec![],
        webrtc: vec![],
        media_ports: None,
        resume_from: Some(("d00d".into(), EventSeq(17))),
    };
    let dataplane = Hello {
        instance: "d00d".into(),
        engine: Some("epoll".into()),
        workers: Some(1),
        capabilities: vec!["ice_dtls".into(), "rtp".into(), "g711".into()],
        webrtc: vec!["192.0.2.9:32100".parse().unwrap()],
        media_ports: Some((31001, 32000)),
        resume_from: None,
        ..control.clone()
    };
    check("hello_control", &ControlMessage::Hello(control));
    check("hello_dataplane", &DataplaneMessage::Hello(dataplane));
}

#[test]
fn requests_keep_their_text() {
    request("put", Request::Put { relay: relay(), generation: Generation(1), program: program() });
    let mut video = program();
    let LegKind::Rtp(leg) = &mut video.legs[1].kind else { unreachable!("leg 1 is plain") };
    (leg.media, leg.feedback) = (Media::Video, vec![Feedback::NackPli, Feedback::CcmFir]);
    let LegKind::Srtp(leg) = &mut video.legs[2].kind else { unreachable!("leg 2 has keys") };
    (leg.rtp.media, leg.rtp.feedback) = (Media::Video, vec![Feedback::CcmFir]);
    request("put_feedback", Request::Put { relay: relay(), generation: Generation(2), program: video });
    request("put_repair", Request::Put { relay: relay(), generation: Generation(3), program: repaired() });
    let mut filled = program();
    let noise = payload(13, Codec::ComfortNoise, 8000);
    filled.routes[0].fill = Some(Fill { sound: Sound::Silence, payload: noise, ptime_ms: 20, start_after_ms: 100 });
    let tone = Tone { frequencies_hz: vec![440, 480], on_ms: 2000, off_ms: 4000 };
    let payload = payload(8, Codec::Pcma, 8000);
    filled.routes[1].fill = Some(Fill { sound: Sound::Tone(tone), payload, ptime_ms: 30, start_after_ms: 0 });
    request("put_fill", Request::Put { relay: relay(), generation: Generation(4), program: filled });
    request("delete", Request::Delete { relay: relay() });
    request("list", Request::List { after: Some(relay()), limit: 100 });
    request("query_relay", Request::Query { relay: Some(relay()), from_worker: 0 });
    request("query_node", Request::Query { relay: None, from_worker: 0 });
    request("query_node_page", Request::Query { relay: None, from_worker: 16 });
    let digits = DtmfDigits("12#".into());
    let dtmf = ActAction::Dtmf { leg: LegId(1), digits, duration_ms: 100 };
    request("act_dtmf", Request::Act { relay: relay(), action_id: 8, action: dtmf });
    request(
        "act_keyframe",
        Request::Act { relay: relay(), action_id: 8, action: ActAction::Keyframe { leg: LegId(0) } },
    );
    request("drain", Request::Drain);
    request("ping", Request::Ping);
}

#[test]
fn replies_keep_their_text() {
    let legs = vec![
        LegReply {
            id: LegId(0),
            address: LegAddress::IceDtls {
                candidates: vec!["192.0.2.9:32100".parse().unwrap(), "[2001:db8::9]:32100".parse().unwrap()],
                ufrag: "w0ab".into(),
                pwd: "0123456789abcdef01234567".into(),
                fingerprint: Fingerprint([9; 32]),
            },
        },
        LegReply {
            id: LegId(1),
            address: LegAddress::Rtp {
                rtp: "192.0.2.9:31002".parse().unwrap(),
                rtcp: "192.0.2.9:31003".parse().unwrap(),
            },
        },
        LegReply { id: LegId(3), address: LegAddress::None },
    ];
    reply("put", Reply::Put(PutReply { relay: relay(), generation: Generation(1), legs }));
    reply("delete", Reply::Delete);
    let entry =
        ListEntry { relay: relay(), generation: Generation(1), digest: "0123456789abcdef".into(), forwarded: 5 };
    reply("list", Reply::List { relays: vec![entry], more: true });
    let drops = [("srtp_replayed".to_owned(), 1)].into_iter().collect();
    let direction =
        DirectionStats { packets: 1, bytes: 2, rtcp_packets: 3, lost: -1, jitter_us: 4, reordered: 5, resent: 0 };
    let leg = LegStats { leg: LegId(0), received: direction.clone(), sent: direction, round_trip_us: Some(6), drops };
    let stats = RelayStats { relay: relay(), generation: Generation(1), worker: 0, legs: vec![leg] };
    reply("query_relay", Reply::QueryRelay(stats.clone()));
    let mut resent = stats;
    resent.legs[0].sent.resent = 6;
    reply("query_relay_resent", Reply::QueryRelay(resent));
    let (drops, latency) = (vec![0, 4], vec![1, 0, 2]);
    let worker = WorkerStats {
        worker: 0,
        relays: 1,
        received: 2,
        sent: 3,
        drops,
        batches: 1,
        busy_us: 250,
        latency,
        ..WorkerStats::default()
    };
    let node = NodeStats {
        drop_reasons: vec!["no_route".to_owned(), "no_keys".to_owned()],
        latency_bounds_us: vec![2, 3],
        workers: vec![worker],
        relays: 1,
        media_ports_total: 998,
        ..NodeStats::default()
    };
    let worker = &node.workers[0];
    assert_eq!(node.worker_drops(worker).collect::<Vec<_>>(), [("no_route", 0), ("no_keys", 4)]);
    reply("query_node", Reply::QueryNode(node.clone()));
    let mut ring = node.clone();
    ring.workers[0].engine = [("out_of_buffers".to_owned(), 2)].into_iter().collect();
    reply("query_node_engine", Reply::QueryNode(ring));
    reply("query_node_page", Reply::QueryNode(NodeStats { more_workers: true, ..node }));
    reply("act", Reply::Act);
    reply("drain", Reply::Drain);
    reply("ping", Reply::Ping);
    let error = RelayError::new(ErrorCode::NoPorts, "program.legs[1]", "no media port is left");
    check("error", &DataplaneMessage::Error { id: 9, error });
    check("gap", &DataplaneMessage::Gap { resumes_at: EventSeq(40) });
}

#[test]
fn events_keep_their_text() {
    let (relay, leg, remote) = (relay(), LegId(0), "198.51.100.7:5000".parse().unwrap());
    event("path_selected", Event::PathSelected { relay, leg, remote });
    event("path_lost", Event::PathLost { relay, leg });
    event("keys_ready", Event::KeysReady { relay, leg, profile: "AEAD_AES_256_GCM".into() });
    event("dtls_failed", Event::DtlsFailed { relay, leg, cause: DtlsFailure::Fingerprint });
    event("dtls_closed", Event::DtlsClosed { relay, leg });
    event("source_latched", Event::SourceLatched { relay, leg, remote });
    event("media_timeout", Event::MediaTimeout { relay, leg });
    event("consent_lost", Event::ConsentLost { relay, leg });
    event("dtmf", Event::Dtmf { relay, leg, digit: '#', duration_ms: 100 });
    event("keyframe_wanted", Event::KeyframeWanted { relay, leg });
    event("act_done", Event::ActDone { relay, action_id: 8, error: None });
    event("leg_stats", Event::LegStats { relay, stats: LegStats::default() });
    event("relay_reaped", Event::RelayReaped { relay, reason: ReapReason::Orphaned });
    event("worker_lost", Event::WorkerLost { worker: 1, relays: vec![relay] });
}

#[test]
fn keys_in_a_program_are_redacted_in_debug() {
    let text = format!("{:?}", program());
    assert!(text.contains("[redacted]") && !text.contains("bG9jYWw="), "{text}");
}

#[test]
fn the_sample_program_is_valid_and_each_breach_names_its_field() {
    assert_eq!(program().validate(), Ok(()));
    type Breach = fn(&mut RelayProgram);
    fn ice(program: &mut RelayProgram) -> &mut IceDtlsLeg {
        let LegKind::IceDtls(leg) = &mut program.legs[0].kind else { unreachable!("leg 0 is a browser") };
        leg
    }
    fn remote(program: &mut RelayProgram) -> &mut RtpRemote {
        let LegKind::Rtp(leg) = &mut program.legs[1].kind else { unreachable!("leg 1 is plain") };
        leg.remote.as_mut().expect("the sample names its peer")
    }
    fn map(program: &mut RelayProgram) -> &mut PayloadMap {
        &mut program.routes[0].payloads[0]
    }
    fn fill(program: &mut RelayProgram) -> &mut Fill {
        let payload = payload(0, Codec::Pcmu, 8000);
        let tone = Tone { frequencies_hz: vec![425], on_ms: 1000, off_ms: 4000 };
        let fill = Fill { sound: Sound::Tone(tone), payload, ptime_ms: 20, start_after_ms: 0 };
        program.routes[1].fill.insert(fill)
    }
    fn tone(program: &mut RelayProgram) -> &mut Tone {
        let Sound::Tone(tone) = &mut fill(program).sound else { unreachable!("it was made a tone") };
        tone
    }
    let breaches: [(&str, Breach); 34] = [
        ("program.legs", |p| p.legs.clear()),
        ("program.legs", |p| p.legs = vec![p.legs[0].clone(); limits::LEGS_MAX + 1]),
        ("program.routes", |p| p.routes = vec![p.routes[0].clone(); limits::ROUTES_MAX + 1]),
        ("program.cname", |p| p.cname = "x".repeat(65)),
        ("program.label", |p| p.label = "x".repeat(65)),
        ("program.legs[1].id", |p| p.legs[1].id = LegId(0)),
        ("program.legs[1].media_timeout_ms", |p| p.legs[1].media_timeout_ms = Some(0)),
        ("program.legs[0].consent_timeout_ms", |p| ice(p).consent_timeout_ms = Some(499)),
        ("program.legs[0].remote.ufrag", |p| ice(p).remote.as_mut().unwrap().ufrag = "abc".into()),
        ("program.legs[0].remote.fingerprints", |p| ice(p).remote.as_mut().unwrap().fingerprints.clear()),
        ("program.legs[1].remote.rtp", |p| remote(p).rtp.set_port(0)),
        ("program.legs[1].remote.rtcp", |p| remote(p).rtcp.set_port(0)),
        ("program.legs[1].feedback", |p| {
            let LegKind::Rtp(leg) = &mut p.legs[1].kind else { unreachable!("leg 1 is plain") };
            leg.feedback = vec![Feedback::CcmFir, Feedback::NackPli, Feedback::CcmFir];
        }),
        ("program.routes[0].from", |p| p.routes[0].from = LegId(99)),
        ("program.routes[0].to", |p| p.routes[0].to = LegId(99)),
        ("program.routes[1].ssrc", |p| {
            p.routes[1] = Route { ssrc: 0x1234, payloads: vec![], ..p.routes[0].clone() };
        }),
        ("program.routes[0].payloads", |p| {
            p.routes[0].payloads = vec![p.routes[0].payloads[0].clone(); limits::PAYLOADS_MAX + 1];
        }),
        ("program.routes[0].payloads[0].to.pt", |p| map(p).to.pt = 200),
        ("program.routes[0].payloads[0].from.pt", |p| map(p).from.pt = 64),
        ("program.routes[0].payloads[0].from.pt", |p| map(p).from.pt = 95),
        ("program.routes[0].payloads[0].to.pt", |p| {
            remote(p).rtcp_mux = true;
            map(p).to.pt = 72;
        }),
        ("program.routes[1].payloads[0].to.pt", |p| p.routes[1].payloads[0].to.pt = 80),
        ("program.routes[0].payloads[0].from.clock", |p| map(p).from.clock = 0),
        ("program.routes[0].payloads[0].from.clock", |p| map(p).from.clock = 1_000_001),
        ("program.routes[0].payloads[0].to.clock", |p| map(p).to.clock = u32::MAX),
        ("program.routes[0].payloads[0].to.fmtp", |p| map(p).to.fmtp = Some("x".repeat(513))),
        ("program.routes[1].fill.payload.pt", |p| fill(p).payload.pt = 72),
        ("program.routes[1].fill.payload.clock", |p| fill(p).payload.clock = 0),
        ("program.routes[1].fill.ptime_ms", |p| fill(p).ptime_ms = 0),
        ("program.routes[1].fill.ptime_ms", |p| fill(p).ptime_ms = 25),
        ("program.routes[1].fill.sound.tone.frequencies_hz", |p| tone(p).frequencies_hz = vec![400; 3]),
        ("program.routes[1].fill.sound.tone.frequencies_hz", |p| tone(p).frequencies_hz = vec![299]),
        ("program.routes[1].fill.sound.tone.on_ms", |p| tone(p).on_ms = 0),
        ("program.routes[0].payloads[1].from.pt", |p| {
            let twice = p.routes[0].payloads[0].clone();
            p.routes[0].payloads.push(twice);
        }),
    ];
    for (at, (field, breach)) in breaches.into_iter().enumerate() {
        let mut program = program();
        breach(&mut program);
        assert_eq!(program.validate().map_err(|error| error.field), Err(field.to_owned()), "breach {at}");
    }
}

#[test]
fn each_rule_of_repair_has_its_field() {
    type Breach = fn(&mut RelayProgram);
    fn rtx(program: &mut RelayProgram) -> &mut Rtx {
        program.routes[1].rtx.as_mut().unwrap()
    }
    fn ice(program: &mut RelayProgram) -> &mut IceDtlsLeg {
        let LegKind::IceDtls(leg) = &mut program.legs[0].kind else { unreachable!("leg 0 is a browser") };
        leg
    }
    assert_eq!(repaired().validate(), Ok(()));
    let breaches: [(&str, Breach); 11] = [
        ("program.legs[0].feedback", |p| ice(p).feedback.push(Feedback::Nack)),
        ("program.legs[0].transport_cc", |p| ice(p).transport_cc = Some(0)),
        ("program.legs[0].transport_cc", |p| ice(p).transport_cc = Some(15)),
        ("program.routes[0].limit_kbps", |p| p.routes[0].limit_kbps = Some(0)),
        ("program.routes[1].rtx.ssrc", |p| rtx(p).ssrc = 0x5678),
        ("program.routes[1].rtx.payloads[0].apt", |p| rtx(p).payloads[0].apt = 100),
        ("program.routes[1].rtx.payloads[0].pt", |p| rtx(p).payloads[0].pt = 96),
        ("program.routes[1].rtx.payloads[0].pt", |p| rtx(p).payloads[0].pt = 72),
        ("program.routes[1].rtx.payloads", |p| {
            rtx(p).payloads = (0..9).map(|at| RtxPayload { pt: 100 + at, apt: 96 }).collect();
        }),
        ("program.routes[0].source_rtx[1].pt", |p| p.routes[0].source_rtx.push(RtxPayload { pt: 97, apt: 96 })),
        ("program.routes[0].source_rtx[0].apt", |p| p.routes[0].source_rtx[0].apt = 100),
    ];
    for (at, (field, breach)) in breaches.into_iter().enumerate() {
        let mut program = repaired();
        breach(&mut program);
        assert_eq!(program.validate().map_err(|error| error.field), Err(field.to_owned()), "breach {at}");
    }
}

#[test]
fn the_least_and_largest_values_allowed_are_taken() {
    let mut program = program();
    let LegKind::IceDtls(ice) = &mut program.legs[0].kind else { unreachable!("leg 0 is a browser") };
    ice.consent_timeout_ms = Some(500);
    program.legs[0].media_timeout_ms = Some(1);
    let map = &mut program.routes[0].payloads[0];
    (map.from.pt, map.from.clock, map.to.pt, map.to.clock) = (63, 1, 80, 1_000_000);
    assert_eq!(program.validate(), Ok(()), "RTCP of leg 1 has a port of its own, so its payload types are free");
    program.routes[0].payloads[0].from.pt = 96;
    assert_eq!(program.validate(), Ok(()));
}

/// Files of every version so far are read, those of former ones too: control speaks with a dataplane of the version before.
#[test]
fn every_file_of_every_version_is_decoded() {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden");
    let mut versions = Vec::new();
    for folder in fs::read_dir(golden).unwrap() {
        let folder = folder.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        for file in fs::read_dir(&folder).unwrap() {
            let path = file.unwrap().path();
            let file = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(&path).unwrap();
            let is_controls = file == "hello_control" || file.starts_with("request_");
            let decoded = if is_controls {
                serde_json::from_str::<ControlMessage>(&text).map(drop)
            } else {
                serde_json::from_str::<DataplaneMessage>(&text).map(drop)
            };
            decoded.unwrap_or_else(|error| panic!("{name}/{file}: {error}"));
        }
        versions.push(name);
    }
    versions.sort();
    let expected: Vec<String> = (1..=PROTOCOL).map(|version| format!("v{version}")).collect();
    assert_eq!(versions, expected, "one folder for each version so far");
}
