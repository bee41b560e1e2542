//! What is agreed with a browser about video that is lost or too much: NACK (RFC 4585), RTX (RFC 4588), limits (REMB) and arrival times
//! (transport-wide congestion control).
//!
//! Browsers write it per payload type; the relay does it for a section or not at all. What a page stripped from its description is not
//! agreed on, and a retransmission that lost its `apt` means nothing.

use gangway_shared::rcp::{RtxPayload, limits};
use sdp_types::Media;
use serde::{Deserialize, Serialize};

use super::{Codec, Encoding, Payload};

/// Name of the header extension with transport-wide numbers.
const TRANSPORT_CC_URI: &str = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
/// Its id in our offers: what browsers give it.
const TRANSPORT_CC_ID: u8 = 3;
/// First payload type of retransmissions in our offers: between those of audio and of keypad events.
const RTX_FIRST: u8 = 112;
/// The `a=rtcp-fb` values of each.
const NACK: &str = "nack";
const REMB: &str = "goog-remb";
const TRANSPORT_CC: &str = "transport-cc";

/// Which parts of it a relay can do: its dataplane's capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abilities {
    /// Sends lost packets again and asks for them.
    pub nack: bool,
    /// Both by retransmission streams.
    pub rtx: bool,
    /// Tells what the other side takes.
    pub remb: bool,
    /// Tells when packets came.
    pub transport_cc: bool,
}

/// What a browser does of it, or both do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// Generic NACK, RFC 4585 section 6.2.1.
    pub nack: bool,
    /// draft-alvestrand-rmcat-remb-03.
    pub remb: bool,
    /// Id of the header extension of draft-holmer-rmcat-transport-wide-cc-extensions-01.
    pub transport_cc: Option<u8>,
    /// Retransmission payload types with what each stands for.
    pub rtx: Vec<RtxPayload>,
}

impl Repair {
    /// All of it, for our offer of these payload types.
    #[must_use]
    pub fn offered(payloads: &[Payload]) -> Self {
        let passed = payloads.iter().filter(|payload| payload.codec.encoding.is_passed_video());
        let rtx = (RTX_FIRST..).zip(passed.take(limits::RTX_PAYLOADS_MAX));
        let rtx = rtx.map(|(pt, payload)| RtxPayload { pt, apt: payload.pt }).collect();
        Repair { nack: true, remb: true, transport_cc: Some(TRANSPORT_CC_ID), rtx }
    }

    /// What a browser's video section says; `payloads` are those of the section that have a meaning.
    pub(super) fn read(media: &Media, payloads: &[Payload]) -> Self {
        let mut video = payloads.iter().filter(|payload| payload.codec.encoding.is_passed_video());
        let named = |words: &str| {
            video.clone().any(|payload| payload.feedback.iter().any(|feedback| feedback.eq_ignore_ascii_case(words)))
        };
        let (nack, remb, wants_times) = (named(NACK), named(REMB), named(TRANSPORT_CC));
        let rtx = payloads.iter().filter(|payload| payload.codec == rtx_codec()).filter_map(|payload| {
            let apt = apt(payload.fmtp.as_deref()?)?;
            video.clone().any(|payload| payload.pt == apt).then_some(RtxPayload { pt: payload.pt, apt })
        });
        let rtx: Vec<RtxPayload> = rtx.take(limits::RTX_PAYLOADS_MAX).collect();
        // Retransmissions of what nobody asks for would only fill bandwidth.
        let rtx = if nack && video.next().is_some() { rtx } else { Vec::new() };
        Repair { nack, remb, transport_cc: transport_cc_id(media).filter(|_| wants_times), rtx }
    }

    /// As much of it as a relay can do, about these payload types.
    #[must_use]
    pub fn limited(&self, abilities: Abilities, payloads: &[u8]) -> Self {
        let nack = self.nack && abilities.nack;
        let rtx = self.rtx.iter().filter(|rtx| nack && abilities.rtx && payloads.contains(&rtx.apt));
        // A page that maps by hand may use a number twice.
        let rtx = rtx.filter(|rtx| !payloads.contains(&rtx.pt)).copied().collect();
        Repair {
            nack,
            remb: self.remb && abilities.remb,
            transport_cc: self.transport_cc.filter(|_| abilities.transport_cc),
            rtx,
        }
    }

    /// Adds its lines about `payloads` and the payload types of retransmissions.
    pub(super) fn describe(&self, payloads: &mut Vec<Payload>) {
        let words = [(self.nack, NACK), (self.remb, REMB), (self.transport_cc.is_some(), TRANSPORT_CC)];
        for payload in payloads.iter_mut() {
            payload.feedback.extend(words.iter().filter(|(is_done, _)| *is_done).map(|(_, words)| (*words).to_owned()));
        }
        payloads.extend(self.rtx.iter().map(|rtx| {
            let fmtp = Some(format!("apt={}", rtx.apt));
            Payload { fmtp, ..Payload::new(rtx.pt, rtx_codec()) }
        }));
    }

    /// The value of its `a=extmap` line.
    pub(super) fn extmap(&self) -> Option<String> {
        self.transport_cc.map(|id| format!("{id} {TRANSPORT_CC_URI}"))
    }
}

fn rtx_codec() -> Codec {
    Codec { encoding: Encoding::Other("rtx".to_owned()), clock_hz: 90_000, channels: 1, h264: None }
}

/// The `apt` of a retransmission's fmtp (RFC 4588 section 8.1).
fn apt(fmtp: &str) -> Option<u8> {
    let parameters = fmtp.split(';').filter_map(|parameter| parameter.split_once('='));
    let mut apts = parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case("apt"));
    apts.next()?.1.trim().parse().ok()
}

/// The id of the extension in `a=extmap:<id>[/<direction>] <uri>` (RFC 8285 section 5), when the browser sends it.
fn transport_cc_id(media: &Media) -> Option<u8> {
    let named = media.attributes.iter().filter(|attribute| attribute.attribute.eq_ignore_ascii_case("extmap"));
    let mut maps = named.filter_map(|attribute| attribute.value.as_deref()?.trim().split_once(' '));
    let (id, _) = maps.find(|(_, uri)| uri.split_ascii_whitespace().next() == Some(TRANSPORT_CC_URI))?;
    let (id, direction) = id.split_once('/').unwrap_or((id, "sendrecv"));
    let id = id.parse().ok().filter(|id| limits::EXTENSION_IDS.contains(id))?;
    matches!(direction, "sendrecv" | "sendonly").then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sdp::BrowserDescription;

    const ALL: Abilities = Abilities { nack: true, rtx: true, remb: true, transport_cc: true };

    /// What is read of a browser's video section with these lines.
    fn read(formats: &str, lines: &[&str]) -> Repair {
        let transport = format!(
            "c=IN IP4 0.0.0.0\r\na=rtcp-mux\r\na=ice-ufrag:abcd\r\na=ice-pwd:0123456789abcdefghijkl\r\na=fingerprint:sha-256 {}\r\n\
             a=setup:actpass\r\n",
            ["AB"; 32].join(":")
        );
        let lines: String = lines.iter().map(|line| format!("a={line}\r\n")).collect();
        let text = format!(
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n{transport}\
             m=video 9 UDP/TLS/RTP/SAVPF {formats}\r\na=mid:1\r\n{transport}{lines}"
        );
        let side = BrowserDescription::parse_offer(&text).unwrap().side_of_offer().unwrap();
        side.video.expect("a video section").repair
    }

    const CHROMIUM: [&str; 7] = [
        "extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
        "rtpmap:96 VP8/90000",
        "rtcp-fb:96 goog-remb",
        "rtcp-fb:96 transport-cc",
        "rtcp-fb:96 nack",
        "rtpmap:97 rtx/90000",
        "fmtp:97 apt=96",
    ];

    #[test]
    fn what_chromium_writes_is_read() {
        let rtx = vec![RtxPayload { pt: 97, apt: 96 }];
        assert_eq!(read("96 97", &CHROMIUM), Repair { nack: true, remb: true, transport_cc: Some(3), rtx });
        let sent = CHROMIUM[0].replace(":3 ", ":7/sendonly ");
        assert_eq!(read("96 97", &[&[sent.as_str()], &CHROMIUM[1..]].concat()).transport_cc, Some(7));
    }

    #[test]
    fn what_a_page_stripped_is_not_agreed_on() {
        let without = |gone: &str| {
            let left: Vec<&str> = CHROMIUM.into_iter().filter(|line| !line.starts_with(gone)).collect();
            read("96 97", &left)
        };
        assert_eq!(without("fmtp:97").rtx, [], "a retransmission of nothing");
        assert_eq!(without("rtpmap:97").rtx, []);
        assert_eq!(without("rtcp-fb:96 nack"), Repair { nack: false, rtx: Vec::new(), ..without("none") });
        assert_eq!(without("extmap").transport_cc, None);
        assert_eq!(without("rtcp-fb:96 transport-cc").transport_cc, None);
        assert!(!without("rtcp-fb:96 goog-remb").remb);
        for odd in ["fmtp:97 apt=98", "fmtp:97 apt=", "fmtp:97 96", "fmtp:97 apt=97"] {
            let lines = [&CHROMIUM[..6], &[odd]].concat();
            assert_eq!(read("96 97", &lines).rtx, [], "{odd}");
        }
        for odd in [":0 ", ":15 ", ":x ", ":3/recvonly ", ":3/inactive "] {
            let extension = CHROMIUM[0].replace(":3 ", odd);
            assert_eq!(read("96 97", &[&[extension.as_str()], &CHROMIUM[1..]].concat()).transport_cc, None, "{odd}");
        }
    }

    #[test]
    fn an_old_dataplane_and_other_payload_types_limit_it() {
        let repair = read("96 97", &CHROMIUM);
        assert_eq!(repair.limited(ALL, &[96]), repair);
        assert_eq!(repair.limited(Abilities::default(), &[96]), Repair::default());
        assert_eq!(repair.limited(ALL, &[98]).rtx, []);
        assert_eq!(repair.limited(ALL, &[96, 97]).rtx, [], "its number means something else");
        assert_eq!(repair.limited(Abilities { nack: false, ..ALL }, &[96]).rtx, []);
    }

    #[test]
    fn it_is_described_for_each_payload_type() {
        let mut payloads: Vec<Payload> = (96..98).map(|pt| Payload::new(pt, Codec::usual(Encoding::Vp8))).collect();
        let repair = Repair::offered(&payloads);
        repair.describe(&mut payloads);
        let told: Vec<(u8, Option<&str>)> = payloads.iter().map(|p| (p.pt, p.fmtp.as_deref())).collect();
        assert_eq!(told, [(96, None), (97, None), (112, Some("apt=96")), (113, Some("apt=97"))]);
        assert_eq!(payloads[1].feedback, ["nack", "goog-remb", "transport-cc"]);
        assert_eq!(repair.extmap().as_deref(), Some(&CHROMIUM[0]["extmap:".len()..]));
        Repair::default().describe(&mut payloads);
        assert_eq!((payloads.len(), Repair::default().extmap()), (4, None));
    }
}
