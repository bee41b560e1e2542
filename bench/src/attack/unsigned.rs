//! SRTP with wrong tags, from strangers and from the peers' own addresses: it is counted, and nothing else.

use std::{io, time::Duration};

use gangway_dataplane::wire::rtp;
use gangway_shared::{
    entropy::{Entropy, SeededEntropy},
    rcp::SrtpSuite,
};
use serde::Serialize;

use super::{
    disturbed, dropped,
    flood::{Flood, strangers},
    set_up, timing,
};
use crate::{
    call::Media,
    load::{Load, Mark, Report, Shape, Side},
    process::CpuMark,
    systems::{System, gangway::Gangway},
};

/// The calls alone are measured for so long at most: their cost is the same all the time.
const QUIET_MAX: Duration = Duration::from_secs(60);

/// Bad packets of one port and second.
pub const PER_PORT: u32 = 200;

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    /// Bad packets that strangers sent. The kernel may drop them, where the relay's port is connected to its peer.
    pub by_strangers: u64,
    /// Bad packets from the calls' own addresses.
    pub by_peers: u64,
    /// Packets that the relay dropped for want of a right tag.
    pub dropped: u64,
    /// Relays before and after.
    pub relays: (u64, u64),
    /// Share of a core that the relay takes for the calls alone.
    pub cpu_without: f64,
    /// The same under the attack.
    pub cpu_with: f64,
    /// The one by the other.
    pub cpu_ratio: f64,
    /// The calls meanwhile.
    pub report: Report,
}

/// Sends 200 bad packets a second to each port of `calls` SRTP ends, half of them from the calls' own addresses.
///
/// # Errors
/// When the calls cannot be set up.
pub fn bad_srtp(relay: &mut Gangway, calls: u32, measure: Duration) -> io::Result<Seen> {
    let side = Side::Srtp(SrtpSuite::AesCm128HmacSha1_80);
    let mut load = Load::open(Shape { talking: calls, silent: 0, side, media: Media::Audio })?;
    set_up(relay, &mut load)?;
    let pid = relay.pid();
    let cpu_of = |load: &mut Load, measure: Duration| {
        let (mut before, mut used) = (CpuMark::default(), 0);
        let report = load.run(&timing(measure), |mark| match mark {
            Mark::Begin => before = CpuMark::read(pid),
            Mark::Middle => {}
            Mark::End => used = CpuMark::read(pid).since(&before).run_ns,
        });
        (used as f64 / measure.as_nanos() as f64, report)
    };
    let (cpu_without, _) = cpu_of(&mut load, measure.min(QUIET_MAX));
    let before = relay.control().node()?;
    // The protected ends: even ones.
    let ends: Vec<usize> = (0..load.ends()).step_by(2).collect();
    let targets: Vec<_> = ends.iter().map(|&end| load.target(end)).collect();
    let ssrcs: Vec<u32> = ends.iter().map(|&end| load.ssrc(end)).collect();
    let per_second = PER_PORT / 2 * targets.len() as u32;
    let forge = |seed: u64| {
        let (mut entropy, ssrcs) = (SeededEntropy::new(seed), ssrcs.clone());
        move |target: usize, out: &mut [u8; crate::sys::BUFFER_LEN_BYTES]| {
            entropy.fill(&mut out[..182]);
            rtp::begin_header(out);
            rtp::set_payload_type(out, 0);
            rtp::set_ssrc(out, ssrcs[target]);
            182
        }
    };
    let own = load.socket(ends[0])?;
    let floods = [
        Flood::start(strangers(1)?, targets.clone(), per_second, forge(1)),
        Flood::start_deaf(own, targets.clone(), per_second, forge(2)),
    ];
    let (cpu_with, report) = cpu_of(&mut load, measure);
    let [by_strangers, by_peers] = floods.map(|flood| flood.stop().datagrams);
    let after = relay.control().node()?;
    let reasons = ["srtp_auth_failed", "srtp_replayed", "srtp_too_old"];
    Ok(Seen {
        by_strangers,
        by_peers,
        dropped: dropped(&after, &reasons) - dropped(&before, &reasons),
        relays: (before.relays, after.relays),
        cpu_without,
        cpu_with,
        cpu_ratio: if cpu_without > 0.0 { cpu_with / cpu_without } else { 0.0 },
        report,
    })
}

impl Seen {
    /// Whether the promises were kept.
    ///
    /// # Errors
    /// The first one that was not.
    pub fn verdict(&self) -> Result<(), String> {
        if self.by_peers == 0 || self.dropped < self.by_peers * 9 / 10 {
            return Err(format!("the attack did not arrive: {self:?}"));
        }
        if self.relays.0 != self.relays.1 {
            return Err(format!("calls were ended: {self:?}"));
        }
        disturbed(&self.report).map_or(Ok(()), Err)
    }
}
