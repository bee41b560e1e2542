//! Browser descriptions: what Chromium and Firefox write, and the answers and offers that each of them accepts.
//!
//! A browser accepts exactly one description per call from this gateway (rules R7 and R8 of the WCS protocol), so what is
//! printed here is complete: candidates, credentials, fingerprint and all the codecs of the call. We are ICE-lite and always
//! DTLS-passive. Candidates of the browser are ignored: its address is learnt from its connectivity checks.

use std::net::SocketAddr;

use gangway_shared::{
    rcp::{Fingerprint, IceRemote},
    secret::Secret,
};
use sdp_types::{Bandwidth, BandwidthType, Connection, Media, MediaType, Origin, Session, Time, TransportProto};

use super::{
    Abilities, CANDIDATES_MAX, Direction, MediaKind, Payload, Repair, SdpError, attribute, attributes,
    describe_payloads, direction,
    direction::answer_direction,
    formats,
    leg::{LegPayload, answered_leg, offered_leg},
    medium::MediaSide,
    negotiate::{BrowserSide, Offered},
    payloads, print, read, rejected,
};

/// Longest mid, in bytes: it is echoed into answers. RFC 9143 section 5 wants 16 at most in header extensions.
const MID_MAX_BYTES: usize = 64;
/// Bounds of an ICE user fragment, in characters (RFC 8839 section 5.4).
const UFRAG_CHARS: std::ops::RangeInclusive<usize> = 4..=256;
/// Bounds of an ICE password, in characters (RFC 8839 section 5.4).
const PWD_CHARS: std::ops::RangeInclusive<usize> = 22..=256;
/// Most certificates taken from one description: as many as a program of the relay holds.
const FINGERPRINTS_MAX: usize = 4;
/// Type preference of a host candidate (RFC 8445 section 5.1.2.2).
const HOST_PREFERENCE: u32 = 126;

/// Who opens the DTLS association (RFC 5763 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// Either; offers only.
    Actpass,
    /// The writer.
    Active,
    /// The other side.
    Passive,
}

/// What a browser says of its transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IceDtls {
    /// ICE user fragment.
    pub ufrag: String,
    /// SHA-256 fingerprints of its certificates; at least one.
    pub fingerprints: Vec<Fingerprint>,
    /// Who opens DTLS, as the browser wrote it.
    pub setup: Setup,
}

impl IceDtls {
    /// For the relay's browser leg.
    #[must_use]
    pub fn to_remote(&self) -> IceRemote {
        IceRemote { ufrag: self.ufrag.clone(), fingerprints: self.fingerprints.clone() }
    }
}

/// One media section of a browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrowserSection {
    /// Audio, video or something else.
    pub kind: MediaKind,
    /// Its `a=mid`; browsers always write one.
    pub mid: Option<String>,
    /// Port 0 without `a=bundle-only`: the section is refused or stopped.
    pub rejected: bool,
    /// The third word of its m-line.
    pub protocol: String,
    /// The rest of its m-line, as written.
    pub formats: String,
    /// Who sends, seen from the browser.
    pub direction: Direction,
    /// Whether RTP and RTCP share a port; required in every section in use.
    pub rtcp_mux: bool,
    /// Payload types with a known meaning, in the browser's order.
    pub payloads: Vec<Payload>,
    /// What it does about lost video and its bit rate.
    pub repair: Repair,
    /// ICE and DTLS facts; absent in refused and bundle-only sections.
    pub transport: Option<IceDtls>,
}

/// A browser's offer or answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrowserDescription {
    /// All media sections in order.
    pub sections: Vec<BrowserSection>,
    /// Mids of the first `a=group:BUNDLE`.
    pub bundle: Vec<String>,
    /// Whether pictures may have a transport of their own (`rtp_bundle=false`); else those that do not share that of the sound
    /// are none. The reader of a description decides.
    pub splits_transports: bool,
}

/// One transport of ours, as a browser must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalTransport {
    /// Our ICE user fragment.
    pub ufrag: String,
    /// Our ICE password.
    pub pwd: Secret<String>,
    /// Our certificate.
    pub fingerprint: Fingerprint,
    /// Addresses of the relay's one UDP port as browsers reach it, best first; not empty.
    pub candidates: Vec<SocketAddr>,
}

/// What a browser must know of us. All of it comes from the relay's reply and from entropy of the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrowserLocal {
    /// Random number for the session id of the `o=` line; it is printed below 2^62 (RFC 8829 section 5.2.1).
    pub session_id: u64,
    /// The transport of sound, and of everything while the sections are bundled.
    pub transport: LocalTransport,
    /// That of pictures, on the same port, told apart by its user fragment; absent: the sections are bundled.
    pub video_transport: Option<LocalTransport>,
    /// One media stream for all tracks (rule R12); a token.
    pub stream: String,
    /// CNAME of what the relay sends.
    pub cname: String,
    /// SSRC of the audio the relay sends.
    pub audio_ssrc: u32,
    /// SSRC of the video the relay sends.
    pub video_ssrc: u32,
    /// SSRC on which the relay sends lost video again.
    pub rtx_ssrc: u32,
    /// What the relay can do about lost video and the browser's bit rate.
    pub abilities: Abilities,
}

/// What our description says of one medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrowserMedia {
    /// Audio or video.
    pub kind: MediaKind,
    /// Payload types, the one in use first.
    pub payloads: Vec<Payload>,
    /// Our direction; an answer limits it to what the offer allows.
    pub direction: Direction,
    /// Packet time in milliseconds that the SIP peer asked for.
    pub ptime_ms: Option<u16>,
    /// What the SIP peer takes of it in kbit/s.
    pub limit_kbps: Option<u32>,
    /// What is offered to, or was offered by, the browser about lost packets and its bit rate.
    pub repair: Repair,
}

impl BrowserDescription {
    /// Reads an offer.
    ///
    /// # Errors
    /// What is missing or unusable, with the section's index. Payload types without a meaning are no error: `stripCodecs`
    /// leaves such damage.
    pub fn parse_offer(text: &str) -> Result<Self, SdpError> {
        let description = Self::parse(text)?;
        for (section, transport) in description.transports() {
            if transport.setup == Setup::Passive {
                return Err(invalid(section, "a=setup", "an offer must let the browser open DTLS: actpass or active"));
            }
        }
        Ok(description)
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// As [`BrowserDescription::parse_offer`]; the browser must open DTLS, because we wait.
    pub fn parse_answer(text: &str) -> Result<Self, SdpError> {
        let description = Self::parse(text)?;
        for (section, transport) in description.transports() {
            if transport.setup == Setup::Passive {
                return Err(invalid(section, "a=setup", "an answer must be active: this gateway is passive"));
            }
        }
        Ok(description)
    }

    fn parse(text: &str) -> Result<Self, SdpError> {
        let session = read(text)?;
        let groups = session.attributes.iter().filter(|a| a.attribute.eq_ignore_ascii_case("group"));
        let mut values = groups.filter_map(|group| group.value.as_deref());
        let bundle = values.find_map(|value| value.trim().strip_prefix("BUNDLE"));
        let bundle = bundle.unwrap_or("").split_ascii_whitespace().map(str::to_owned).collect();
        let sections = session.medias.iter().enumerate();
        let sections = sections.map(|(index, media)| BrowserSection::parse(&session, media, index));
        Ok(BrowserDescription { sections: sections.collect::<Result<_, _>>()?, bundle, splits_transports: false })
    }

    fn transports(&self) -> impl Iterator<Item = (usize, &IceDtls)> {
        self.sections.iter().enumerate().filter_map(|(index, section)| Some((index, section.transport.as_ref()?)))
    }

    /// The audio section in use: the first that is not refused.
    ///
    /// # Errors
    /// [`SdpError::NoAudio`].
    pub fn audio(&self) -> Result<&BrowserSection, SdpError> {
        let mut audio = self.sections.iter().filter(|section| section.kind == MediaKind::Audio).peekable();
        if audio.peek().is_none() {
            return Err(SdpError::NoAudio { reason: "there is none" });
        }
        audio.find(|section| !section.rejected).ok_or(SdpError::NoAudio { reason: "it is refused with port 0" })
    }

    /// The video section that can be used: the first that is not refused and shares the audio section's transport, as all
    /// browsers have it, unless it may have its own.
    #[must_use]
    pub fn video(&self) -> Option<&BrowserSection> {
        let audio = self.audio().ok()?;
        let is_bundled = |section: &&BrowserSection| {
            let grouped = |section: &BrowserSection| section.mid.as_ref().is_some_and(|mid| self.bundle.contains(mid));
            let ufrag = |section: &BrowserSection| section.transport.as_ref().map(|transport| transport.ufrag.clone());
            let has_own = self.splits_transports && section.transport.is_some();
            has_own || (grouped(audio) && grouped(section)) || ufrag(audio) == ufrag(section)
        };
        let mut video = self.sections.iter().filter(|section| section.kind == MediaKind::Video);
        video.find(|section| !section.rejected && !section.payloads.is_empty() && is_bundled(section))
    }

    /// ICE and DTLS facts of the audio section, which carries the bundle.
    ///
    /// # Errors
    /// [`SdpError::NoAudio`].
    pub fn transport(&self) -> Result<&IceDtls, SdpError> {
        let section = self.audio()?;
        section.transport.as_ref().ok_or(SdpError::NoAudio { reason: "it has no transport" })
    }

    /// ICE and DTLS facts of the video section, where it has some of its own.
    #[must_use]
    pub fn video_transport(&self) -> Option<&IceDtls> {
        self.video()?.transport.as_ref()
    }

    /// This browser's half of a negotiation in which it offered.
    ///
    /// # Errors
    /// [`SdpError::NoAudio`].
    pub fn side_of_offer(&self) -> Result<BrowserSide, SdpError> {
        self.side(|section| offered_leg(&section.payloads))
    }

    /// This browser's half of a negotiation in which it answered our offer of `ours`.
    ///
    /// # Errors
    /// [`SdpError::NoAudio`].
    pub fn side_of_answer(&self, ours: &Offered) -> Result<BrowserSide, SdpError> {
        self.side(|section| {
            let ours = if section.kind == MediaKind::Video { &ours.video } else { &ours.audio };
            answered_leg(ours, &section.payloads)
        })
    }

    fn side(&self, leg: impl Fn(&BrowserSection) -> Vec<LegPayload>) -> Result<BrowserSide, SdpError> {
        let side = |section: &BrowserSection| MediaSide {
            repair: section.repair.clone(),
            ..MediaSide::new(leg(section), section.direction.reversed())
        };
        let audio = side(self.audio()?);
        // One transport carries both, so a number of the audio can mean nothing else (RFC 9143 section 9.2).
        let means_audio = |payload: &LegPayload| {
            audio.payloads.iter().any(|taken| {
                taken.send_pt == payload.send_pt || taken.receive_pts.iter().any(|pt| payload.receive_pts.contains(pt))
            })
        };
        let video = self.video().map(side).map(|mut video| {
            video.payloads.retain(|payload| !means_audio(payload));
            video.repair.rtx.retain(|rtx| !audio.payloads.iter().any(|taken| taken.receive_pts.contains(&rtx.pt)));
            video
        });
        Ok(BrowserSide { video, audio })
    }
}

impl BrowserSection {
    fn parse(session: &Session, media: &Media, index: usize) -> Result<Self, SdpError> {
        let mid = attribute_of(media, "mid").map(str::to_owned);
        if mid.as_deref().is_some_and(|mid| !is_token(mid, MID_MAX_BYTES)) {
            return Err(invalid(index, "a=mid", "it must be a token of at most 64 characters"));
        }
        let bundle_only = media.port == 0 && media.has_attribute("bundle-only");
        let rejected = media.port == 0 && !bundle_only;
        let mut section = BrowserSection {
            kind: MediaKind::parse(&media.media),
            mid,
            rejected,
            protocol: media.proto.clone(),
            formats: media.fmt.clone(),
            direction: direction(session, media),
            rtcp_mux: media.has_attribute("rtcp-mux"),
            payloads: payloads(media),
            repair: Repair::default(),
            transport: None,
        };
        if section.kind == MediaKind::Video {
            section.repair = Repair::read(media, &section.payloads);
        }
        let candidates = attributes(session, media, "candidate").len();
        if candidates > CANDIDATES_MAX {
            return Err(SdpError::TooMany { what: "candidates in one section", limit: CANDIDATES_MAX });
        }
        if !rejected && matches!(section.kind, MediaKind::Audio | MediaKind::Video) {
            let is_browsers =
                ["UDP/TLS/RTP/SAVPF", "RTP/SAVPF"].iter().any(|p| section.protocol.eq_ignore_ascii_case(p));
            if !is_browsers {
                return Err(invalid(index, "m= protocol", "a browser section must be UDP/TLS/RTP/SAVPF"));
            }
            // A bundle-only section has no transport of its own (RFC 9143 section 6).
            if !bundle_only {
                section.transport = Some(section.parse_transport(session, media, index)?);
            }
        }
        Ok(section)
    }

    fn parse_transport(&self, session: &Session, media: &Media, index: usize) -> Result<IceDtls, SdpError> {
        if !self.rtcp_mux {
            return Err(SdpError::Missing { section: index, field: "a=rtcp-mux" });
        }
        let need = |field: &'static str, name: &'static str| {
            attribute(session, media, name).ok_or(SdpError::Missing { section: index, field })
        };
        let ufrag = need("a=ice-ufrag", "ice-ufrag")?;
        if !UFRAG_CHARS.contains(&ufrag.len()) || !ufrag.bytes().all(is_ice_char) {
            return Err(invalid(index, "a=ice-ufrag", "it must be 4 to 256 letters, digits, + or /"));
        }
        let pwd = need("a=ice-pwd", "ice-pwd")?;
        if !PWD_CHARS.contains(&pwd.len()) || !pwd.bytes().all(is_ice_char) {
            return Err(invalid(index, "a=ice-pwd", "it must be 22 to 256 letters, digits, + or /"));
        }
        need("a=fingerprint", "fingerprint")?;
        let named = attributes(session, media, "fingerprint").into_iter().filter_map(|value| value.split_once(' '));
        let sha256 =
            named.filter(|(hash, _)| hash.eq_ignore_ascii_case("sha-256")).map(|(_, text)| text.trim().parse());
        let fingerprints = sha256.take(FINGERPRINTS_MAX).collect::<Result<Vec<Fingerprint>, _>>();
        let fingerprints = fingerprints
            .map_err(|_| invalid(index, "a=fingerprint", "a sha-256 fingerprint is 32 pairs of hexadecimal digits"))?;
        if fingerprints.is_empty() {
            return Err(invalid(index, "a=fingerprint", "there must be one of hash sha-256"));
        }
        let setup = match attribute(session, media, "setup") {
            // RFC 4145 section 4.1: an absent role means active.
            None | Some("active") => Setup::Active,
            Some("actpass") => Setup::Actpass,
            Some("passive") => Setup::Passive,
            Some(_) => return Err(invalid(index, "a=setup", "it must be actpass, active or passive")),
        };
        Ok(IceDtls { ufrag: ufrag.to_owned(), fingerprints, setup })
    }
}

/// The first value of an attribute of the section itself.
fn attribute_of<'a>(media: &'a Media, name: &'static str) -> Option<&'a str> {
    media.get_first_attribute_value(name).flatten().map(str::trim)
}

fn invalid(section: usize, field: &'static str, reason: &'static str) -> SdpError {
    SdpError::Invalid { section, field, reason }
}

fn is_token(text: &str, max_bytes: usize) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'(' | b')' | b',' | b'/' | b':'..=b'@');
    !text.is_empty() && text.len() <= max_bytes && text.bytes().all(plain)
}

const fn is_ice_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')
}

/// The answer to a browser's offer (RFC 8829 section 5.3): each section in its place, those of `media` accepted with the codec in
/// use first, everything else refused with port 0 and left out of the BUNDLE group.
///
/// # Errors
/// [`SdpError::NoAudio`] when the offer has no audio section in use.
pub fn answer(offer: &BrowserDescription, media: &[BrowserMedia], local: &BrowserLocal) -> Result<String, SdpError> {
    let (audio, video) = (offer.audio()?, offer.video());
    let accepted = |section: &BrowserSection| {
        let is_used = std::ptr::eq(section, audio) || video.is_some_and(|video| std::ptr::eq(section, video));
        media.iter().find(|medium| is_used && medium.kind == section.kind)
    };
    let mut session = session(local);
    let mids = offer.sections.iter().filter(|section| accepted(section).is_some()).filter_map(|s| s.mid.as_deref());
    let mids: Vec<&str> = mids.filter(|mid| offer.bundle.iter().any(|bundled| bundled == mid)).collect();
    if !mids.is_empty() && local.video_transport.is_none() {
        session.add_attribute_with_value("group", format!("BUNDLE {}", mids.join(" ")));
    }
    for section in &offer.sections {
        let mid = section.mid.as_deref();
        let media = if let Some(medium) = accepted(section) {
            let direction = answer_direction(section.direction, medium.direction);
            Accepted { mid, medium, direction, setup: "passive" }.section(&section.protocol, local)
        } else {
            let mut media = rejected(&section.kind, &section.protocol, &section.formats);
            // Firefox wants a connection in each section.
            media.add_connection(Connection::from_ip_addr([0, 0, 0, 0]));
            if let Some(mid) = mid {
                media.add_attribute_with_value("mid", mid);
            }
            media.add_attribute_from_str("inactive");
            media
        };
        session.add_media(media);
    }
    Ok(print(&session))
}

/// The offer to a browser for an incoming call: one section for each of `media`, on one transport unless pictures have their own,
/// which the browser answers as DTLS client.
#[must_use]
pub fn offer(media: &[BrowserMedia], local: &BrowserLocal) -> String {
    let mids: Vec<String> = (0..media.len()).map(|index| index.to_string()).collect();
    let mut session = session(local);
    if local.video_transport.is_none() {
        session.add_attribute_with_value("group", format!("BUNDLE {}", mids.join(" ")));
    }
    for (mid, medium) in mids.iter().zip(media) {
        let accepted = Accepted { mid: Some(mid), medium, direction: medium.direction, setup: "actpass" };
        session.add_media(accepted.section("UDP/TLS/RTP/SAVPF", local));
    }
    print(&session)
}

fn session(local: &BrowserLocal) -> Session {
    let mut session = Session::new(Origin::with_ip_addr(local.session_id >> 2, 1, [127, 0, 0, 1]), "-");
    session.add_time(Time::new(0, 0));
    session.add_attribute_from_str("ice-lite");
    session.add_attribute_with_value("msid-semantic", format!(" WMS {}", local.stream));
    session
}

/// A section in use.
struct Accepted<'a> {
    mid: Option<&'a str>,
    medium: &'a BrowserMedia,
    direction: Direction,
    setup: &'static str,
}

impl Accepted<'_> {
    fn section(&self, protocol: &str, local: &BrowserLocal) -> Media {
        let BrowserMedia { kind, ptime_ms, limit_kbps, .. } = self.medium;
        let mut payloads = self.medium.payloads.clone();
        let numbers: Vec<u8> = payloads.iter().map(|payload| payload.pt).collect();
        let repair = self.medium.repair.limited(local.abilities, &numbers);
        repair.describe(&mut payloads);
        let (media_type, ssrc) = match kind {
            MediaKind::Video => (MediaType::Video, local.video_ssrc),
            _ => (MediaType::Audio, local.audio_ssrc),
        };
        let own = local.video_transport.as_ref().filter(|_| *kind == MediaKind::Video);
        let transport = own.unwrap_or(&local.transport);
        let first = transport.candidates.first().copied().unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 9)));
        let mut media = Media::new(media_type, first.port(), TransportProto::UdpTlsRtpSavpf, formats(&payloads));
        media.proto = protocol.to_owned();
        media.add_connection(Connection::from_ip_addr(first.ip()));
        media.add_bandwidths(limit_kbps.map(|kbps| Bandwidth::new(BandwidthType::As, kbps.into())));
        media.add_attribute_with_value("ice-ufrag", &transport.ufrag);
        media.add_attribute_with_value("ice-pwd", transport.pwd.expose());
        media.add_attribute_with_value("fingerprint", format!("sha-256 {}", transport.fingerprint));
        media.add_attribute_with_value("setup", self.setup);
        if let Some(mid) = self.mid {
            media.add_attribute_with_value("mid", mid);
        }
        media.add_attribute_from_str(self.direction.attribute());
        media.add_attribute_from_str("rtcp-mux");
        if let Some(extension) = repair.extmap() {
            media.add_attribute_with_value("extmap", extension);
        }
        describe_payloads(&mut media, &payloads);
        if let Some(ptime_ms) = ptime_ms {
            media.add_attribute_with_value("ptime", ptime_ms);
        }
        if self.direction.sends() {
            // `msid:-` and two streams both lose media in Chromium (rule R12).
            media.add_attribute_with_value("msid", format!("{} {}-{kind}", local.stream, local.stream));
            let rtx_ssrc = (!repair.rtx.is_empty()).then_some(local.rtx_ssrc);
            if let Some(rtx_ssrc) = rtx_ssrc {
                // RFC 5576 section 4.2, RFC 4588 section 8.
                media.add_attribute_with_value("ssrc-group", format!("FID {ssrc} {rtx_ssrc}"));
            }
            for ssrc in std::iter::once(ssrc).chain(rtx_ssrc) {
                media.add_attribute_with_value("ssrc", format!("{ssrc} cname:{}", local.cname));
            }
        }
        for (index, address) in transport.candidates.iter().enumerate() {
            media.add_attribute_with_value("candidate", host_candidate(index, *address));
        }
        media.add_attribute_from_str("end-of-candidates");
        media
    }
}

/// One host candidate of component 1 (RFC 8839 section 5.1); earlier ones are preferred (RFC 8445 section 5.1.2.1).
fn host_candidate(index: usize, address: SocketAddr) -> String {
    let local_preference = u32::from(u16::MAX.saturating_sub(u16::try_from(index).unwrap_or(u16::MAX)));
    let priority = (HOST_PREFERENCE << 24) + (local_preference << 8) + 255;
    format!("{} 1 udp {priority} {} {} typ host", index + 1, address.ip(), address.port())
}

#[cfg(test)]
pub(super) mod tests;
