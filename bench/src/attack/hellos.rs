//! Forged ClientHellos to every port of the relay while calls are set up.

use std::{io, net::SocketAddrV4};

use serde::Serialize;

use super::flood::{Flood, strangers};
use crate::{
    call::Media,
    load::{
        Load, Report, Shape, Side, Timing,
        browser::{Browser, certificate},
    },
    systems::{System, gangway::Gangway},
};

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    /// Forged hellos sent, and a second.
    pub forged: u64,
    /// See there.
    pub forged_per_second: f64,
    /// Datagrams that the relay sent to who forged them.
    pub answered: u64,
    /// Calls that were set up.
    pub established: u32,
    /// The calls afterwards, under the same fire.
    pub report: Report,
}

/// A real ClientHello, as the first flight of a client has it.
///
/// # Errors
/// When the client makes none.
pub fn client_hello() -> io::Result<Vec<u8>> {
    let nowhere = SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 9);
    let mut browser = Browser::new(certificate().0, "a", "b", nowhere);
    let mut hello = Vec::new();
    browser
        .shake(None, |datagram| {
            if hello.is_empty() {
                hello = datagram.to_vec();
            }
        })
        .map_err(io::Error::other)?;
    if hello.is_empty() { Err(io::Error::other("a client without a hello")) } else { Ok(hello) }
}

/// Sends `per_second` forged hellos from three strange hosts to all ports, while `calls` browsers check and shake hands, and talk.
///
/// # Errors
/// When a call is not set up within its time: the promise is that all are.
pub fn hellos(relay: &mut Gangway, calls: u32, per_second: u32, timing: &Timing) -> io::Result<Seen> {
    let mut load = Load::open(Shape { talking: calls, silent: 0, side: Side::Ice, media: Media::Audio })?;
    let answers = relay.add(load.specs())?;
    let mut targets: Vec<_> = answers.iter().flatten().flat_map(|answer| [answer.rtp, answer.rtcp]).collect();
    targets.sort_unstable();
    targets.dedup();
    // The port of the browsers is one of many; it is where handshakes are, so it gets every second one.
    let browsers = answers[0][0].rtp;
    let targets = targets.into_iter().flat_map(|target| [target, browsers]).collect();
    let hello = client_hello()?;
    let mut count = 0u32;
    let start = std::time::Instant::now();
    let flood = Flood::start(strangers(3)?, targets, per_second, move |_, out| {
        out[..hello.len()].copy_from_slice(&hello);
        // Another random (RFC 6347 section 4.2.1) behind record, handshake header and version: another client each time.
        count = count.wrapping_add(1);
        out[27..31].copy_from_slice(&count.to_be_bytes());
        hello.len()
    });
    load.connect(&answers)?;
    let report = load.run(timing, |_| {});
    let seconds = start.elapsed().as_secs_f64();
    let sent = flood.stop();
    Ok(Seen {
        forged: sent.datagrams,
        forged_per_second: sent.datagrams as f64 / seconds,
        answered: sent.heard,
        established: calls,
        report,
    })
}

impl Seen {
    /// Whether the promises were kept.
    ///
    /// # Errors
    /// The first one that was not.
    pub fn verdict(&self) -> Result<(), String> {
        match self {
            _ if self.forged == 0 => Err(format!("nothing happened: {self:?}")),
            _ if self.answered > 0 => Err(format!("strangers were answered: {self:?}")),
            _ => super::disturbed(&self.report).map_or(Ok(()), Err),
        }
    }
}
