//! SDP of the demo service: what of an offer is taken, and the answer to it. Pure.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use sdp_types::{Media, Session};

use super::media::Law;

/// One m-section of an offer, as far as the demo needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    /// `audio`, `video` ..
    pub media: String,
    /// Where the peer listens; `None` when the section is off, or cannot be reached.
    pub remote: Option<SocketAddr>,
    /// The G.711 law that the peer prefers.
    pub law: Option<Law>,
    /// Payload type of telephone events at 8 kHz.
    pub events: Option<u8>,
    proto: String,
    formats: Vec<String>,
    lines: Vec<String>,
    direction: &'static str,
}

/// Most m-sections of an offer.
const SECTIONS_MAX: usize = 8;

/// Reads an offer; `None` when it is no SDP or holds nothing.
pub(super) fn read(body: &[u8]) -> Option<Vec<Section>> {
    let session = Session::parse(body).ok()?;
    if session.medias.is_empty() || session.medias.len() > SECTIONS_MAX {
        return None;
    }
    Some(session.medias.iter().map(|media| section(&session, media)).collect())
}

fn section(session: &Session, media: &Media) -> Section {
    let connection = media.connections.first().or(session.connection.as_ref());
    let ip: Option<IpAddr> = connection.and_then(|at| at.connection_address.split('/').next()?.parse().ok());
    let plain = matches!(media.proto.as_str(), "RTP/AVP" | "RTP/AVPF");
    let remote = ip.filter(|_| plain && media.port != 0).map(|ip| SocketAddr::new(ip, media.port));
    let formats: Vec<String> = media.fmt.split_whitespace().map(str::to_owned).collect();
    let mut maps = media.attributes.iter().filter(|at| at.attribute == "rtpmap");
    let events = maps.find_map(|at| {
        let (number, codec) = at.value.as_deref()?.split_once(' ')?;
        codec.to_ascii_lowercase().starts_with("telephone-event/8000").then(|| number.parse().ok()).flatten()
    });
    let law = formats.iter().find_map(|format| match format.as_str() {
        "0" => Some(Law::Mu),
        "8" => Some(Law::A),
        _ => None,
    });
    let kept = ["rtpmap", "fmtp", "ptime", "rtcp-fb"];
    let lines = media.attributes.iter().filter(|at| kept.contains(&at.attribute.as_str()));
    let lines = lines.filter_map(|at| Some(format!("a={}:{}", at.attribute, at.value.as_deref()?))).collect();
    let has = |direction: &str| {
        media.attributes.iter().chain(&session.attributes).any(|at| at.attribute == direction && at.value.is_none())
    };
    let direction = match () {
        () if has("sendonly") => "recvonly",
        () if has("recvonly") => "sendonly",
        () if has("inactive") => "inactive",
        () => "sendrecv",
    };
    Section { media: media.media.clone(), remote, law, events, proto: media.proto.clone(), formats, lines, direction }
}

/// What the answer takes of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Nothing: port 0.
    Nothing,
    /// Every format, on this port: an echo passes anything.
    All(u16),
    /// G.711 of this law and telephone events, on this port.
    Tones(u16, Law),
}

/// The answer: one `Taken` for each section of the offer, in its order.
pub(super) fn write(ip: IpAddr, session_id: u64, sections: &[Section], taken: &[Taken]) -> String {
    let family = if ip.is_ipv4() { "IP4" } else { "IP6" };
    let mut sdp = format!("v=0\r\no=demo {session_id} 1 IN {family} {ip}\r\ns=demo\r\nc=IN {family} {ip}\r\nt=0 0\r\n");
    for (section, taken) in sections.iter().zip(taken) {
        section_lines(&mut sdp, section, *taken);
    }
    sdp
}

fn section_lines(sdp: &mut String, section: &Section, taken: Taken) {
    let Section { media, proto, formats, .. } = section;
    let mut line = |text: String| write!(sdp, "{text}\r\n").expect("writing to a string cannot fail");
    match taken {
        Taken::Nothing => line(format!("m={media} 0 {proto} {}", formats.join(" "))),
        Taken::All(port) => {
            line(format!("m={media} {port} {proto} {}", formats.join(" ")));
            section.lines.iter().for_each(|at| line(at.clone()));
            line(format!("a={}", section.direction));
        }
        Taken::Tones(port, law) => {
            let (number, name) = match law {
                Law::Mu => (0, "PCMU"),
                Law::A => (8, "PCMA"),
            };
            let events = section.events.map(|at| format!(" {at}")).unwrap_or_default();
            line(format!("m={media} {port} {proto} {number}{events}"));
            line(format!("a=rtpmap:{number} {name}/8000"));
            if let Some(events) = section.events {
                line(format!("a=rtpmap:{events} telephone-event/8000"));
                line(format!("a=fmtp:{events} 0-15"));
            }
            line("a=ptime:20".to_owned());
            line(format!("a={}", section.direction));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &str = "v=0\r\no=g 1 1 IN IP4 127.0.0.1\r\ns=g\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
        m=audio 31002 RTP/AVP 8 0 101\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=sendonly\r\n\
        m=video 31004 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\na=rtcp-fb:* nack pli\r\nm=audio 0 RTP/AVP 0\r\n";

    #[test]
    fn an_offer_is_read_by_section() {
        let sections = read(OFFER.as_bytes()).unwrap();
        assert_eq!(sections.len(), 3);
        assert_eq!(sections[0].remote, Some("127.0.0.1:31002".parse().unwrap()));
        assert_eq!((sections[0].law, sections[0].events), (Some(Law::A), Some(101)));
        assert_eq!(sections[2].remote, None);
        assert_eq!(read(b"hello"), None);
    }

    #[test]
    fn the_answer_keeps_every_section_and_turns_the_direction() {
        let sections = read(OFFER.as_bytes()).unwrap();
        let ip = IpAddr::from([127, 0, 0, 1]);
        let sdp = write(ip, 7, &sections, &[Taken::Tones(4000, Law::A), Taken::All(4002), Taken::Nothing]);
        let answer = read(sdp.as_bytes()).unwrap();
        assert_eq!(
            answer.iter().map(|at| at.remote.map(|to| to.port())).collect::<Vec<_>>(),
            [Some(4000), Some(4002), None]
        );
        assert!(sdp.contains("m=audio 4000 RTP/AVP 8 101\r\na=rtpmap:8 PCMA/8000\r\n"), "{sdp}");
        assert!(sdp.contains("a=ptime:20\r\na=recvonly\r\n"), "{sdp}");
        assert!(
            sdp.contains("m=video 4002 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\na=rtcp-fb:* nack pli\r\na=sendrecv\r\n"),
            "{sdp}"
        );
    }
}
