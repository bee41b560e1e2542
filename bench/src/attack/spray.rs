//! RTP from three strange hosts to every port of the relay, while calls begin and talk (RTP Bleed and inject).

use std::io;

use gangway_dataplane::wire::rtp;
use serde::Serialize;

use super::{
    flood::{Flood, strangers},
    set_up,
};
use crate::{
    call::Media,
    load::{Load, Report, Shape, Side, Timing},
    systems::System,
};

/// Strange packets that one call may ever be made to pass on from a leg that has nothing but addresses to tell its peer by.
const PLAIN_MAX: u64 = 3;

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    /// Datagrams sprayed.
    pub sprayed: u64,
    /// Datagrams that the relay sent to a stranger.
    pub bled: u64,
    /// Strange packets passed on as if they had come from a protected end.
    pub injected_protected: u64,
    /// The most that were passed on from one plain leg.
    pub injected_plain_most: u64,
    /// The calls.
    pub report: Report,
}

/// Sprays `per_second` datagrams over all ports of `calls` calls while they talk.
///
/// # Errors
/// When the calls cannot be set up.
pub fn spray(relay: &mut dyn System, side: Side, calls: u32, per_second: u32, timing: &Timing) -> io::Result<Seen> {
    let mut load = Load::open(Shape { talking: calls, silent: 0, side, media: Media::Audio })?;
    set_up(relay, &mut load)?;
    let mut targets: Vec<_> = (0..load.ends()).flat_map(|end| [load.target(end), load.rtcp_target(end)]).collect();
    targets.sort_unstable();
    targets.dedup();
    let mut sequence = 0u16;
    let flood = Flood::start(strangers(3)?, targets, per_second, move |_, out| {
        rtp::begin_header(out);
        rtp::set_payload_type(out, 0);
        sequence = sequence.wrapping_add(1);
        rtp::set_sequence(out, sequence);
        rtp::set_timestamp(out, u32::from(sequence) * 160);
        rtp::set_ssrc(out, 0x0bad_0bad);
        out[12..172].fill(0xd5);
        172
    });
    let report = load.run(timing, |_| {});
    let sent = flood.stop();
    let strange = load.strange_packets();
    // Ends and the streams that they send are numbered alike.
    let (protected, plain): (Vec<_>, Vec<_>) =
        strange.iter().enumerate().partition(|&(stream, _)| load.is_protected(stream));
    Ok(Seen {
        sprayed: sent.datagrams,
        bled: sent.heard,
        injected_protected: protected.iter().map(|(_, count)| *count).sum(),
        injected_plain_most: plain.iter().map(|(_, count)| **count).max().unwrap_or(0),
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
            _ if self.sprayed == 0 || self.report.sent == 0 => Err(format!("nothing happened: {self:?}")),
            _ if self.bled > 0 => Err(format!("media went to strangers: {self:?}")),
            _ if self.injected_protected > 0 => Err(format!("packets without a tag were passed on: {self:?}")),
            _ if self.injected_plain_most > PLAIN_MAX => Err(format!("more strange packets than may be: {self:?}")),
            _ if self.report.dead_streams > 0 => Err(format!("a call is dead: {self:?}")),
            _ => Ok(()),
        }
    }
}
