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
    set_up,
};
use crate::{
    call::Media,
    compare::table::median,
    load::{Load, Mark, Report, Shape, Side, Timing},
    process::CpuMark,
    systems::{System, gangway::Gangway},
};

/// Turns of calls alone and calls under attack: in what is told of both, the machine was the same.
pub const TURNS: u32 = 5;

/// The calls alone are measured for so long at most in each turn.
const QUIET_MAX: Duration = Duration::from_secs(12);

/// What the relay may need of a core under the attack by what it needs without.
pub const CPU_RATIO_MAX: f64 = 1.20;

/// The attack lasts so long; in less the ratio is told and not judged.
pub const JUDGED_FROM: Duration = Duration::from_secs(600);

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
    /// Share of a core that the relay took in each turn for the calls alone, and under the attack.
    pub turns: Vec<(f64, f64)>,
    /// Medians of both.
    pub cpu_without: f64,
    /// See there.
    pub cpu_with: f64,
    /// Median of the ratios of the turns.
    pub cpu_ratio: f64,
    /// Whether the ratio is judged: the attack lasted its whole time, in a release build.
    pub is_judged: bool,
    /// The calls under attack, in the worst turn.
    pub report: Report,
}

/// Sends 200 bad packets a second to each port of `calls` SRTP ends, half of them from the calls' own addresses, in [`TURNS`] parts of the
/// measured time.
///
/// # Errors
/// When the calls cannot be set up.
pub fn bad_srtp(relay: &mut Gangway, calls: u32, timing: &Timing) -> io::Result<Seen> {
    let side = Side::Srtp(SrtpSuite::AesCm128HmacSha1_80);
    let mut load = Load::open(Shape { talking: calls, silent: 0, side, media: Media::Audio })?;
    set_up(relay, &mut load)?;
    let pid = relay.pid();
    let cpu_of = |load: &mut Load, measure: Duration| {
        let (mut before, mut used) = (CpuMark::default(), 0);
        let report = load.run(&Timing { measure, ..*timing }, |mark| match mark {
            Mark::Begin => before = CpuMark::read(pid),
            Mark::Middle => {}
            Mark::End => used = CpuMark::read(pid).since(&before).run_ns,
        });
        (used as f64 / measure.as_nanos() as f64, report)
    };
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
    let attacked = timing.measure / TURNS;
    let (mut turns, mut worst) = (Vec::new(), Report::default());
    let (mut by_strangers, mut by_peers) = (0, 0);
    for turn in 0..TURNS {
        let (without, _) = cpu_of(&mut load, attacked.min(QUIET_MAX));
        let seed = 2 * u64::from(turn);
        let floods = [
            Flood::start(strangers(1)?, targets.clone(), per_second, forge(seed + 1)),
            Flood::start_deaf(own.try_clone()?, targets.clone(), per_second, forge(seed + 2)),
        ];
        let (with, report) = cpu_of(&mut load, attacked);
        let [strange, near] = floods.map(|flood| flood.stop().datagrams);
        (by_strangers, by_peers) = (by_strangers + strange, by_peers + near);
        turns.push((without, with));
        // What was disturbed once is not made good by what was not.
        if disturbed(&worst).is_none() && (disturbed(&report).is_some() || report.loss >= worst.loss) {
            worst = report;
        }
    }
    let after = relay.control().node()?;
    let reasons = ["srtp_auth_failed", "srtp_replayed", "srtp_too_old"];
    let middle = |of: fn(&(f64, f64)) -> f64| median(turns.iter().map(of)).unwrap_or(0.0);
    Ok(Seen {
        by_strangers,
        by_peers,
        dropped: dropped(&after, &reasons) - dropped(&before, &reasons),
        relays: (before.relays, after.relays),
        cpu_without: middle(|turn| turn.0),
        cpu_with: middle(|turn| turn.1),
        cpu_ratio: middle(|turn| if turn.0 > 0.0 { turn.1 / turn.0 } else { 0.0 }),
        is_judged: timing.measure >= JUDGED_FROM && !cfg!(debug_assertions),
        turns,
        report: worst,
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
        if self.is_judged && self.cpu_ratio > CPU_RATIO_MAX {
            return Err(format!("{:.2} of the CPU without, where {CPU_RATIO_MAX:.2} may be: {self:?}", self.cpu_ratio));
        }
        disturbed(&self.report).map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_judged_when_the_attack_lasted_its_whole_time() {
        let kept = Seen {
            by_strangers: 0,
            by_peers: 1000,
            dropped: 1000,
            relays: (200, 200),
            turns: Vec::new(),
            cpu_without: 0.2,
            cpu_with: 0.24,
            cpu_ratio: 1.20,
            is_judged: true,
            report: Report::default(),
        };
        assert_eq!(kept.verdict(), Ok(()));
        let dear = Seen { cpu_ratio: 1.21, ..kept.clone() };
        assert!(dear.verdict().is_err_and(|words| words.contains("1.21 of the CPU")));
        assert_eq!(Seen { is_judged: false, ..dear }.verdict(), Ok(()));
        assert!(Seen { relays: (200, 199), ..kept.clone() }.verdict().is_err());
        assert!(Seen { dropped: 800, ..kept }.verdict().is_err());
    }
}
