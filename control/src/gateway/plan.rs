//! Negotiated call -> [`RelayProgram`]. The only place that builds programs.
//!
//! A call is two legs, [`BROWSER`] and [`SIP`], and one audio route each way; with video a third leg, [`SIP_VIDEO`], and two more
//! routes, because a SIP peer has a port for each medium and a browser one transport for all, unless `rtp_bundle=false` gives its
//! pictures one of their own, [`BROWSER_VIDEO`]. The first generation knows no agreement: it
//! makes the relay open its ports, so that descriptions can be written from the reply.

use std::net::{IpAddr, SocketAddr};

use gangway_shared::{
    ids::LegId,
    rcp::{
        self, Feedback, Fill, IceDtlsLeg, IceRemote, Leg, LegAddress, LegKind, Media, PayloadMap, Process, PutReply,
        RelayProgram, Route, RtpLeg, RtpRemote, Rtx, Sound, Tone, limits,
    },
    secret::Secret,
};
use serde::{Deserialize, Serialize};

use crate::sdp::{
    Abilities, Agreement, Codec, Direction, Encoding, LocalTransport, MediaAgreement, PayloadRoute, codec::told_fmtp,
};

/// The browser's leg in every program.
pub const BROWSER: LegId = LegId(0);
/// The SIP peer's leg in every program: its audio.
pub const SIP: LegId = LegId(1);
/// The SIP peer's video.
pub const SIP_VIDEO: LegId = LegId(2);
/// The browser's video, when it has a transport of its own.
pub const BROWSER_VIDEO: LegId = LegId(3);

/// Facts of a call that its programs carry and that never change: drawn or read once, journaled with the call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallMedia {
    /// What the relay's logs call it: the browser's call id; longer names are cut to what a program allows.
    pub label: String,
    /// CNAME of every stream we send.
    pub cname: String,
    /// SSRC of the audio to the browser, announced in its description.
    pub browser_ssrc: u32,
    /// SSRC of the audio to the SIP peer.
    pub sip_ssrc: u32,
    /// The streams of its video; absent in calls of sound alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video: Option<VideoStreams>,
    /// Local address for the SIP leg; absent: the dataplane's first of the remote's family.
    pub sip_local_ip: Option<IpAddr>,
    /// Silence in milliseconds after which `MediaTimeout` is reported; absent with `rtp_activity_detecting=false`.
    pub media_timeout_ms: Option<u32>,
    /// Milliseconds without sound of the browser after which the SIP peer hears silence of ours; absent: the dataplane makes no sound
    /// (it lacks the capability `fill`) and refuses the field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill_after_ms: Option<u32>,
    /// Silence of consent checks in milliseconds after which `ConsentLost` is reported; absent: the dataplane's setting.
    pub consent_timeout_ms: Option<u32>,
    /// The dataplane knows the feedback of a SIP leg (its capability `feedback`); others refuse the field.
    #[serde(default)]
    pub takes_feedback: bool,
    /// Pictures have a transport of their own towards the browser (setting `rtp_bundle`).
    #[serde(default)]
    pub splits_transports: bool,
    /// The browser's end of that, once it is known; never taken away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub browser_video: Option<IceRemote>,
    /// What the dataplane can do about lost video and the browser's bit rate; others refuse those fields.
    #[serde(default)]
    pub abilities: Abilities,
}

impl CallMedia {
    /// The browser's leg that has the pictures.
    #[must_use]
    pub const fn browser_video_leg(&self) -> LegId {
        if self.splits_transports { BROWSER_VIDEO } else { BROWSER }
    }
}

/// SSRCs of a call's video.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VideoStreams {
    /// To the browser, announced in its description.
    pub browser_ssrc: u32,
    /// To the SIP peer.
    pub sip_ssrc: u32,
    /// Lost packets again to the browser, announced in its description; 0 in calls of a journal that did not know it.
    #[serde(default)]
    pub rtx_ssrc: u32,
}

/// Local facts of a call's relay, read from the reply to a `Put`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallAddresses {
    /// Towards the browser.
    pub browser: LocalTransport,
    /// Towards the browser for pictures, when they have a transport of their own.
    pub browser_video: Option<LocalTransport>,
    /// Our RTP address towards the SIP peer.
    pub rtp: SocketAddr,
    /// Our RTP address for its video.
    pub video_rtp: Option<SocketAddr>,
}

impl CallAddresses {
    /// Picks them from a reply; `None` when the reply lacks a leg of a call, which only a faulty dataplane sends.
    #[must_use]
    pub fn from_reply(reply: &PutReply) -> Option<Self> {
        let address = |id: LegId| reply.legs.iter().find(|leg| leg.id == id).map(|leg| &leg.address);
        let transport = |address: &LegAddress| match address {
            LegAddress::IceDtls { candidates, ufrag, pwd, fingerprint } => Some(LocalTransport {
                ufrag: ufrag.clone(),
                pwd: Secret::new(pwd.clone()),
                fingerprint: *fingerprint,
                candidates: candidates.clone(),
            }),
            _ => None,
        };
        let browser = transport(address(BROWSER)?)?;
        let LegAddress::Rtp { rtp, .. } = address(SIP)? else { return None };
        let video_rtp = match address(SIP_VIDEO) {
            Some(LegAddress::Rtp { rtp, .. }) => Some(*rtp),
            _ => None,
        };
        let browser_video = address(BROWSER_VIDEO).and_then(transport);
        Some(CallAddresses { browser, browser_video, rtp: *rtp, video_rtp })
    }
}

/// Generation 1: ports, credentials and no media. `browser` is known already when the browser offered.
#[must_use]
pub fn opening(media: &CallMedia, browser: Option<&IceRemote>) -> RelayProgram {
    program(media, browser, None, media.video.map(|_| (None, Vec::new())), Vec::new())
}

/// A call whose two sides agreed. A direction that a side does not allow (held, inactive, a browser without a microphone) is a
/// paused route, so that its stream goes on unbroken when it is resumed. Video that they did not agree on has no leg.
#[must_use]
pub fn connected(media: &CallMedia, browser: Option<&IceRemote>, agreement: &Agreement) -> RelayProgram {
    let mut routes = routes(&agreement.audio, Media::Audio, (BROWSER, SIP), (media.browser_ssrc, media.sip_ssrc));
    routes[0].fill = media.fill_after_ms.and_then(|start_after_ms| silence(&agreement.audio, start_after_ms));
    let video = media.video.zip(agreement.video.as_ref());
    if let Some((streams, agreed)) = video {
        let (legs, ssrcs) = ((media.browser_video_leg(), SIP_VIDEO), (streams.browser_ssrc, streams.sip_ssrc));
        routes.extend(repaired(self::routes(agreed, Media::Video, legs, ssrcs), media.abilities, streams, agreed));
    }
    let repair = agreement.video.as_ref().filter(|_| media.video.is_some()).map(|agreed| {
        let numbers: Vec<u8> = agreed.browser.iter().map(|payload| payload.send_pt).collect();
        agreed.browser_repair.limited(media.abilities, &numbers)
    });
    let video = video.map(|(_, agreed)| {
        let feedback = if media.takes_feedback { agreed.sip_feedback.clone() } else { Vec::new() };
        (remote(agreed), feedback)
    });
    let mut program = program(media, browser, remote(&agreement.audio), video, routes);
    let shown = program.legs.iter_mut().find(|leg| leg.id == media.browser_video_leg());
    if let (Some(Leg { kind: LegKind::IceDtls(ice), .. }), Some(repair)) = (shown, repair) {
        let feedback = [(repair.nack, Feedback::Nack), (repair.remb, Feedback::Remb)];
        ice.feedback.extend(feedback.into_iter().filter(|(is_done, _)| *is_done).map(|(_, kind)| kind));
        ice.transport_cc = repair.transport_cc;
    }
    program
}

/// The routes of video, to the SIP peer and to the browser, with what is done about lost packets and the browser's bit rate.
fn repaired(
    mut routes: Vec<Route>,
    abilities: Abilities,
    streams: VideoStreams,
    agreed: &MediaAgreement,
) -> Vec<Route> {
    let [to_sip, to_browser] = &mut routes[..] else { return routes };
    let numbers = |payloads: &[PayloadMap], pt: fn(&PayloadMap) -> u8| payloads.iter().map(pt).collect::<Vec<u8>>();
    let from_browser = agreed.browser_repair.limited(abilities, &numbers(&to_sip.payloads, |map| map.from.pt));
    to_sip.source_rtx = from_browser.rtx;
    to_sip.limit_kbps = agreed.sip_limit_kbps.filter(|_| abilities.remb);
    let repair = agreed.browser_repair.limited(abilities, &numbers(&to_browser.payloads, |map| map.to.pt));
    let rtx = Rtx { ssrc: streams.rtx_ssrc, payloads: repair.rtx };
    to_browser.rtx = (streams.rtx_ssrc != 0 && !rtx.payloads.is_empty()).then_some(rtx);
    routes
}

/// A call that rings at a peer without a description of its own so far: the browser, which was answered, hears `tone`.
#[must_use]
pub fn ringing(media: &CallMedia, browser: Option<&IceRemote>, agreement: &Agreement, tone: &Tone) -> RelayProgram {
    let mut program = connected(media, browser, agreement);
    let fixed = agreement.audio.fixed();
    let payload = payload(fixed.send_pt, &fixed.codec, None);
    let sound = Sound::Tone(tone.clone());
    let fill = Fill { sound, payload, ptime_ms: Fill::usual_ptime_ms(), start_after_ms: 0 };
    program.routes.iter_mut().filter(|route| route.to == BROWSER).for_each(|route| route.fill = Some(fill.clone()));
    program
}

/// Silence for a SIP peer that was told that we send, while the browser gives no sound: it is muted by its page, has no microphone, or
/// has no media path yet. Peers end calls in which they hear nothing, and NATs forget them. None in codecs that are passed and not made.
fn silence(agreed: &MediaAgreement, start_after_ms: u32) -> Option<Fill> {
    let used = agreed.sip.first().filter(|_| agreed.sip_direction.sends() && !agreed.is_stopped)?;
    let is_made = matches!(used.codec.encoding, Encoding::Pcmu | Encoding::Pcma | Encoding::G722 | Encoding::Opus);
    let ptime_ms = agreed.sip_ptime_ms.filter(|ms| limits::FILL_PTIME_MS.contains(ms) && ms.is_multiple_of(10));
    is_made.then(|| Fill {
        sound: Sound::Silence,
        payload: payload(used.send_pt, &used.codec, used.fmtp.as_deref()),
        ptime_ms: ptime_ms.unwrap_or(Fill::usual_ptime_ms()),
        start_after_ms,
    })
}

fn remote(agreed: &MediaAgreement) -> Option<RtpRemote> {
    agreed.sip_remote.map(|target| RtpRemote { rtp: target.rtp, rtcp: target.rtcp, rtcp_mux: false })
}

/// The route of one medium each way.
fn routes(
    agreed: &MediaAgreement,
    media: Media,
    (browser, sip): (LegId, LegId),
    (browser_ssrc, sip_ssrc): (u32, u32),
) -> Vec<Route> {
    let flows = |from: Direction, to: Direction| from.receives() && to.sends();
    let to_sip = flows(agreed.browser_direction, agreed.sip_direction);
    let to_browser = flows(agreed.sip_direction, agreed.browser_direction);
    vec![
        route((browser, sip), media, &agreed.to_sip(), sip_ssrc, !to_sip),
        route((sip, browser), media, &agreed.to_browser(), browser_ssrc, !to_browser),
    ]
}

/// `video` is there when the call has a video leg, and then says where the peer takes it, and which feedback about it.
fn program(
    media: &CallMedia,
    browser: Option<&IceRemote>,
    audio: Option<RtpRemote>,
    video: Option<(Option<RtpRemote>, Vec<Feedback>)>,
    routes: Vec<Route>,
) -> RelayProgram {
    let ice = |remote: Option<&IceRemote>| {
        let (remote, consent_timeout_ms) = (remote.cloned(), media.consent_timeout_ms);
        LegKind::IceDtls(IceDtlsLeg { remote, consent_timeout_ms, ..IceDtlsLeg::default() })
    };
    let rtp = |medium, remote, feedback| {
        LegKind::Rtp(RtpLeg { media: medium, local_ip: media.sip_local_ip, remote, feedback })
    };
    // A camera may be off for as long as it likes: only sound that falls silent ends a call.
    let leg = |id, kind, media_timeout_ms| Leg { id, media_timeout_ms, kind };
    let mut legs = vec![
        leg(BROWSER, ice(browser), media.media_timeout_ms),
        leg(SIP, rtp(Media::Audio, audio, Vec::new()), media.media_timeout_ms),
    ];
    if video.is_some() && media.splits_transports {
        legs.push(leg(BROWSER_VIDEO, ice(media.browser_video.as_ref()), None));
    }
    legs.extend(video.map(|(remote, feedback)| leg(SIP_VIDEO, rtp(Media::Video, remote, feedback), None)));
    RelayProgram { label: cut(&media.label), cname: cut(&media.cname), legs, routes }
}

/// As much of a name as a program takes.
fn cut(name: &str) -> String {
    let mut end = name.len().min(limits::NAME_MAX_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}

fn route((from, to): (LegId, LegId), media: Media, routes: &[PayloadRoute], ssrc: u32, paused: bool) -> Route {
    let mapped = routes.iter().any(|route| route.from.encoding != route.to.encoding);
    let process = if mapped { Process::G711 } else { Process::Pass };
    let payloads = routes.iter().take(limits::PAYLOADS_MAX).map(|route| PayloadMap {
        from: payload(route.from_pt, &route.from, route.from_fmtp.as_deref()),
        to: payload(route.to_pt, &route.to, route.to_fmtp.as_deref()),
    });
    Route {
        from,
        to,
        media,
        payloads: payloads.collect(),
        process,
        ssrc,
        paused,
        rtx: None,
        source_rtx: Vec::new(),
        limit_kbps: None,
        fill: None,
    }
}

fn payload(pt: u8, codec: &Codec, fmtp: Option<&str>) -> rcp::Payload {
    rcp::Payload {
        pt,
        codec: registered(&codec.encoding),
        clock: codec.clock_hz,
        channels: (codec.channels > 1).then_some(codec.channels),
        // Only what was read and understood: a peer's own text may hold anything and be as long as it likes.
        fmtp: told_fmtp(codec, None, fmtp),
    }
}

fn registered(encoding: &Encoding) -> rcp::Codec {
    match encoding {
        Encoding::Opus => rcp::Codec::Opus,
        Encoding::Pcmu => rcp::Codec::Pcmu,
        Encoding::Pcma => rcp::Codec::Pcma,
        Encoding::G722 => rcp::Codec::G722,
        Encoding::G729 => rcp::Codec::G729,
        Encoding::Speex => rcp::Codec::Speex,
        Encoding::TelephoneEvent => rcp::Codec::TelephoneEvent,
        Encoding::H264 => rcp::Codec::H264,
        Encoding::Vp8 => rcp::Codec::Vp8,
        Encoding::Other(name) => rcp::Codec::Other(name.clone()),
    }
}

#[cfg(test)]
mod tests;
