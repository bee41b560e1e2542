//! Debian's rtpengine in user space (`--table=-1`) with one thread, told of calls by its `ng` protocol.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    process::{Command, Stdio},
    time::Duration,
};

use gangway_shared::rcp::SrtpSuite;

use super::{
    MEDIA_PORTS, System, Watcher,
    bencode::Value,
    sdp::{address_of, attribute, describe},
};
use crate::{
    call::{Answer, CallSpec, EndSpec, Media, Security},
    process::{Place, Running},
};

/// An answer may take so long before the request is sent again, and so many times.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
const TRIES_MAX: usize = 20;

/// See the module text.
pub struct RtpEngine {
    running: Running,
    listen: SocketAddrV4,
    ng: Ng,
}

/// A client of the `ng` protocol.
pub struct Ng {
    socket: UdpSocket,
    /// What begins the cookies of this client: an answer is repeated to whoever asks with the same one.
    name: u16,
    next: u64,
}

impl RtpEngine {
    /// Starts it with ports of its own, in the foreground.
    ///
    /// # Errors
    /// When it is not installed or does not answer.
    pub fn start(place: Place) -> io::Result<Self> {
        let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let listen = free.local_addr()?;
        drop(free);
        let (from, to) = MEDIA_PORTS;
        let mut command = Command::new("rtpengine");
        command
            .args(["--config-file=none", "--foreground", "--log-stderr", "--log-level=3", "--table=-1"])
            .args(["--num-threads=1", "--interface=127.0.0.1", "--timeout=3600", "--silent-timeout=3600"])
            .arg(format!("--listen-ng={listen}"))
            .args([format!("--port-min={from}"), format!("--port-max={to}")])
            .stderr(Stdio::null());
        let running = super::start(command, place)?;
        let std::net::SocketAddr::V4(listen) = listen else { return Err(io::Error::other("bound to IPv4, told IPv6")) };
        let mut ng = Ng::connect(listen)?;
        ng.ask(&[("command", Value::text("ping"))])?;
        Ok(RtpEngine { running, listen, ng })
    }
}

impl Ng {
    /// A client of the rtpengine that listens, or soon will, at `address`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn connect(address: SocketAddrV4) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(address)?;
        socket.set_read_timeout(Some(ANSWER_WITHIN))?;
        let name = socket.local_addr()?.port();
        Ok(Ng { socket, name, next: 0 })
    }

    fn ask(&mut self, entries: &[(&str, Value)]) -> io::Result<Value> {
        self.next += 1;
        let cookie = format!("{}-{} ", self.name, self.next);
        let mut request = cookie.clone().into_bytes();
        Value::dict(entries.iter().cloned()).encode(&mut request);
        let mut buffer = vec![0; 65_536];
        for _ in 0..TRIES_MAX {
            let answer = self.socket.send(&request).and_then(|_| self.socket.recv(&mut buffer));
            match answer {
                Ok(len) if buffer[..len].starts_with(cookie.as_bytes()) => {
                    let answer = Value::decode(&buffer[cookie.len()..len]);
                    let answer = answer.ok_or_else(|| io::Error::other("rtpengine's answer is no bencode"))?;
                    return match answer.text_of("result").as_deref() {
                        Some("ok" | "pong") => Ok(answer),
                        _ => Err(io::Error::other(format!("rtpengine refuses: {:?}", answer.text_of("error-reason")))),
                    };
                }
                // An answer to a request that was repeated.
                Ok(_) => {}
                // Nobody listens yet: that is told at once, so it is not asked again at once.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "rtpengine does not answer"))
    }

    /// Reads the counters of the whole, as what watches it does (`statistics`).
    ///
    /// # Errors
    /// When it does not answer, or without counters.
    pub fn statistics(&mut self) -> io::Result<()> {
        let answer = self.ask(&[("command", Value::text("statistics"))])?;
        match answer {
            Value::Dict(entries) if entries.contains_key(b"statistics".as_slice()) => Ok(()),
            other => Err(io::Error::other(format!("rtpengine answers without statistics: {other:?}"))),
        }
    }

    /// Makes a call: the first end offers, the second answers.
    ///
    /// # Errors
    /// A refusal; an end with ICE.
    pub fn make(&mut self, call: &CallSpec) -> io::Result<[Answer; 2]> {
        let id = Value::text(&format!("bench-{}", call.number));
        let offer = self.ask(&[
            ("command", Value::text("offer")),
            ("call-id", id.clone()),
            ("from-tag", Value::text("a")),
            ("ICE", Value::text("remove")),
            ("transport-protocol", Value::text(transport(&call.ends[1]))),
            ("sdp", Value::text(&sdp(&call.ends[0], call.media)?)),
        ])?;
        let answer = self.ask(&[
            ("command", Value::text("answer")),
            ("call-id", id),
            ("from-tag", Value::text("a")),
            ("to-tag", Value::text("b")),
            ("ICE", Value::text("remove")),
            ("sdp", Value::text(&sdp(&call.ends[1], call.media)?)),
        ])?;
        let parse = |value: &Value| {
            let text = value.text_of("sdp").ok_or_else(|| io::Error::other("rtpengine answers without SDP"))?;
            parse_sdp(&text).ok_or_else(|| io::Error::other(format!("rtpengine's SDP is not understood:\n{text}")))
        };
        Ok([parse(&answer)?, parse(&offer)?])
    }
}

impl System for RtpEngine {
    fn pid(&self) -> u32 {
        self.running.pid()
    }

    fn add(&mut self, calls: &[CallSpec]) -> io::Result<Vec<[Answer; 2]>> {
        calls.iter().map(|call| self.ng.make(call)).collect()
    }

    fn watcher(&self) -> io::Result<Option<Watcher>> {
        let mut ng = Ng::connect(self.listen)?;
        Ok(Some(Box::new(move || ng.statistics())))
    }
}

fn transport(end: &EndSpec) -> &'static str {
    if end.security == Security::Plain { "RTP/AVP" } else { "RTP/SAVP" }
}

fn suite_name(suite: SrtpSuite) -> &'static str {
    crate::call::profile(suite).sdes_name()
}

/// What an end says of itself.
fn sdp(end: &EndSpec, media: Media) -> io::Result<String> {
    let key = match &end.security {
        Security::Plain => Vec::new(),
        Security::Srtp { suite, send, .. } => vec![format!("a=crypto:1 {} inline:{send}", suite_name(*suite))],
        Security::Ice { .. } => return Err(io::Error::other("rtpengine is not driven with ICE here")),
    };
    Ok(describe(end, media, transport(end), &key))
}

/// Address, RTCP port and key that an SDP of one section names.
fn parse_sdp(text: &str) -> Option<Answer> {
    let (rtp, rtcp) = address_of(text)?;
    let crypto = attribute(text, "crypto");
    // Lifetime and key number may follow behind bars (RFC 4568 section 6.1).
    let key = crypto.as_ref().and_then(|line| line.split_once("inline:")?.1.split(['|', ' ']).next());
    Some(Answer { rtp, rtcp, key: key.map(pad_base64), ice: None })
}

/// rtpengine may leave the padding of base64 out.
fn pad_base64(text: &str) -> String {
    let missing = (4 - text.len() % 4) % 4;
    format!("{text}{}", "=".repeat(missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sdp_is_written_and_read_back() {
        let address = |text: &str| text.parse().unwrap();
        let security =
            Security::Srtp { suite: SrtpSuite::AesCm128HmacSha1_80, send: "QUJD".repeat(10), receive: String::new() };
        let end = EndSpec { rtp: address("127.0.0.1:4000"), rtcp: address("127.0.0.1:4005"), security };
        let text = sdp(&end, Media::Audio).unwrap();
        assert!(text.contains("m=audio 4000 RTP/SAVP 0\r\n"), "{text}");
        let key = Some("QUJD".repeat(10));
        assert_eq!(parse_sdp(&text), Some(Answer { rtp: end.rtp, rtcp: end.rtcp, key, ice: None }));
        assert_eq!(pad_base64("QUI"), "QUI=");
        assert_eq!(parse_sdp("v=0\r\n"), None);
    }
}
