use super::*;
use crate::sdp::{
    BrowserSide, CodecPolicy, Direction, MediaSide, TrunkMedia, TrunkSession, leg::offered_leg, trunk::SipSdpLines,
};

/// What a browser with everything is offered as, with these settings of H.264.
fn offer(profiles: &[&str], mode_1_only: bool) -> Offered {
    let sound = [Encoding::Opus, Encoding::G722, Encoding::Pcmu, Encoding::Pcma];
    let mut sound: Vec<Payload> = (0..).zip(sound).map(|(pt, e)| Payload::new(pt, Codec::usual(e))).collect();
    sound[0].fmtp = Some("minptime=10;useinbandfec=1".into());
    sound.extend(
        [8000, 48_000].map(|clock_hz| Payload::new(110 + (clock_hz / 8000) as u8, Codec::telephone_event(clock_hz))),
    );
    let mut video = vec![Payload::new(96, Codec::usual(Encoding::Vp8))];
    for (pt, (profile, mode)) in (100..).zip([("42e01f", 1), ("42e01f", 0), ("640028", 1), ("640028", 0)]) {
        let fmtp = format!(
            "level-asymmetry-allowed=1;packetization-mode={mode};profile-level-id={profile};max-fs=3600;sprop-parameter-sets=Z0,aM"
        );
        let codec = Codec::usual(Encoding::H264).with_fmtp(Some(&fmtp));
        video.push(Payload { pt, codec, fmtp: Some(fmtp), feedback: Vec::new() });
    }
    let side = |payloads: &[Payload]| MediaSide::new(offered_leg(payloads), Direction::SendRecv);
    let browser = BrowserSide { audio: side(&sound), video: Some(side(&video)) };
    CodecPolicy::default().with_h264(profiles, mode_1_only).sip_offer(&browser)
}

fn names(payloads: &[Payload]) -> String {
    let name = |payload: &Payload| match payload.codec.h264 {
        Some(format) => format!("H264 {format}"),
        None => payload.codec.to_string(),
    };
    payloads.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn len_bytes(offered: &Offered) -> usize {
    let media: Vec<TrunkMedia> =
        offered.sip_media("192.0.2.1:31002".parse().unwrap(), Some("192.0.2.1:31004".parse().unwrap()));
    TrunkSession::new("g", "g", 4, SipSdpLines::default()).offer(&media).len()
}

#[test]
fn each_step_is_shorter_and_leaves_out_one_thing_more() {
    let full = offer(&["42e01f", "640028"], false);
    let steps = full.shorter(&Taken::default());
    let without = steps.last().unwrap().without.clone();
    assert_eq!(
        without,
        [
            "parameters of sound",
            "further parameters of H264",
            "rtcp-fb",
            "H264 High mode 0",
            "H264 High mode 1",
            "H264 ConstrainedBaseline mode 0",
            "G722",
            "opus",
            "VP8",
            "PCMU",
        ]
    );
    let mut len = len_bytes(&full);
    for (at, step) in steps.iter().enumerate() {
        let shorter = len_bytes(&step.offered);
        assert!(shorter < len, "{:?}: {shorter} of {len} bytes", step.without);
        assert_eq!(step.without, without[..=at]);
        len = shorter;
    }
    let least = &steps.last().unwrap().offered;
    assert_eq!(names(&least.audio), "PCMA/8000, telephone-event/8000");
    assert_eq!(names(&least.video), "H264 ConstrainedBaseline mode 1");
    assert_eq!(
        least.video[0].fmtp.as_deref(),
        Some("level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f")
    );
    assert!(least.audio.iter().all(|payload| payload.fmtp.is_none()) && least.video_feedback.is_empty());
    assert!(len < 330, "{len} bytes are the least");
}

#[test]
fn what_the_peer_took_before_stays_to_the_end() {
    let h264 = |profile: h264::Profile, mode| Codec {
        h264: Some(h264::Format { profile, mode }),
        ..Codec::usual(Encoding::H264)
    };
    let cases = [
        // Beside what was taken stays a law of G.711, for another phone behind the same proxy.
        (
            Some(Encoding::Opus),
            Some(Codec::usual(Encoding::Vp8)),
            "opus/48000/2, PCMA/8000, telephone-event/8000, telephone-event/48000",
            "VP8/90000",
        ),
        (Some(Encoding::G722), None, "PCMA/8000, G722/8000, telephone-event/8000", "H264 ConstrainedBaseline mode 1"),
        (Some(Encoding::Pcmu), None, "PCMU/8000, telephone-event/8000", "H264 ConstrainedBaseline mode 1"),
        (None, Some(h264(h264::Profile::High, 0)), "PCMA/8000, telephone-event/8000", "H264 High mode 0"),
        // Baseline is what the two share, though it is not what was offered.
        (
            None,
            Some(h264(h264::Profile::Baseline, 0)),
            "PCMA/8000, telephone-event/8000",
            "H264 ConstrainedBaseline mode 0",
        ),
        // What the page no longer has cannot stay.
        (
            Some(Encoding::G729),
            Some(h264(h264::Profile::Main, 1)),
            "PCMA/8000, telephone-event/8000",
            "H264 ConstrainedBaseline mode 1",
        ),
    ];
    for (audio, video, sound, pictures) in cases {
        let taken = Taken { audio: audio.map(Codec::usual), video };
        let steps = offer(&["42e01f", "640028"], false).shorter(&taken);
        let least = &steps.last().unwrap().offered;
        assert_eq!((names(&least.audio).as_str(), names(&least.video).as_str()), (sound, pictures), "{taken:?}");
    }
}

#[test]
fn an_offer_with_nothing_to_spare_has_no_shorter_one() {
    let least = offer(&["42e01f"], true).shorter(&Taken::default()).pop().unwrap().offered;
    assert!(least.shorter(&Taken::default()).is_empty());
    let sound = Offered { video: Vec::new(), video_feedback: Vec::new(), ..least };
    assert!(sound.shorter(&Taken::default()).is_empty());
}
