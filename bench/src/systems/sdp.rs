//! The little SDP that peers under test are spoken to in: one section each.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::call::{EndSpec, Media};

/// A description of one plain end.
#[must_use]
pub fn plain(end: &EndSpec, media: Media) -> String {
    describe(end, media, "RTP/AVP", &[])
}

/// A description with this transport and further lines.
#[must_use]
pub fn describe(end: &EndSpec, media: Media, transport: &str, more: &[String]) -> String {
    let ip = end.rtp.ip();
    let (kind, pt, map) = match media {
        Media::Audio => ("audio", 0, "PCMU/8000"),
        Media::Video => ("video", 96, "H264/90000"),
    };
    let mut lines = vec![
        "v=0".to_owned(),
        format!("o=- 1 1 IN IP4 {ip}"),
        "s=-".to_owned(),
        format!("c=IN IP4 {ip}"),
        "t=0 0".to_owned(),
        format!("m={kind} {} {transport} {pt}", end.rtp.port()),
        format!("a=rtpmap:{pt} {map}"),
        format!("a=rtcp:{}", end.rtcp.port()),
        "a=sendrecv".to_owned(),
    ];
    lines.extend_from_slice(more);
    lines.join("\r\n") + "\r\n"
}

/// The value of the first attribute of this name.
#[must_use]
pub fn attribute(text: &str, name: &str) -> Option<String> {
    let start = format!("a={name}:");
    text.lines().find_map(|line| line.trim_end().strip_prefix(&start)).map(str::to_owned)
}

/// Where the first section wants RTP and RTCP.
#[must_use]
pub fn address_of(text: &str) -> Option<(SocketAddrV4, SocketAddrV4)> {
    let ip: Ipv4Addr = text.lines().find_map(|line| line.trim_end().strip_prefix("c=IN IP4 "))?.parse().ok()?;
    let section = text.lines().find_map(|line| line.strip_prefix("m="))?;
    let port: u16 = section.split(' ').nth(1)?.parse().ok()?;
    let named = attribute(text, "rtcp").and_then(|value| value.split(' ').next()?.parse().ok());
    let rtcp = named.or_else(|| port.checked_add(1))?;
    Some((SocketAddrV4::new(ip, port), SocketAddrV4::new(ip, rtcp)))
}
