//! Attacks on a running dataplane that carries calls (the acceptance targets for hostile input). Each is bounded in count and time,
//! stays on loopback, says what it saw, and judges it: counts are promises, rates and CPU are reports.

pub mod flood;
pub mod hellos;
pub mod mutate;
pub mod spray;
pub mod storm;
pub mod unsigned;

use std::{io, time::Duration};

use gangway_shared::{
    ids::LegId,
    rcp::{NodeStats, Reply, Request},
};

use crate::{
    load::{Load, Report, Timing},
    systems::{System, gangway::Gangway},
};

/// A run of load beside an attack. With `has_core` the calls go before the attackers on the core that both are on: who is to say how late
/// the relay is must not be late himself.
#[must_use]
pub fn timing(measure: Duration, has_core: bool) -> Timing {
    Timing { warm_up: Duration::from_millis(300), measure, drain: Duration::from_millis(500), has_core }
}

/// Makes the calls of a load on a relay, and their handshakes.
///
/// # Errors
/// A refusal, or a handshake that fails.
pub fn set_up(relay: &mut dyn System, load: &mut Load) -> io::Result<()> {
    let answers = relay.add(load.specs())?;
    load.connect(&answers)
}

/// Relays in force, and packets dropped for one of these reasons by the workers.
fn dropped(stats: &NodeStats, reasons: &[&str]) -> u64 {
    let of = |worker| stats.worker_drops(worker).filter(|(name, _)| reasons.contains(name)).map(|(_, count)| count);
    stats.workers.iter().flat_map(of).sum()
}

/// RTP and RTCP packets that leg 0 of these calls admitted: on a protected leg, those that authenticated.
fn admitted(relay: &mut Gangway, calls: impl Iterator<Item = u32>) -> io::Result<u64> {
    let mut sum = 0;
    for call in calls {
        let relay_id = relay.control().relay_id(call);
        let Reply::QueryRelay(stats) = relay.control().ask(Request::Query { relay: Some(relay_id), from_worker: 0 })?
        else {
            return Err(io::Error::other("a query was answered by something else"));
        };
        let legs = stats.legs.iter().filter(|leg| leg.leg == LegId(0));
        sum += legs.map(|leg| leg.received.packets + leg.received.rtcp_packets).sum::<u64>();
    }
    Ok(sum)
}

/// What is wrong with calls that nobody may have disturbed.
fn disturbed(report: &Report) -> Option<String> {
    let broken = report.corrupt + report.sequence_breaks + report.unauthentic;
    (report.dead_streams > 0 || broken > 0).then(|| format!("calls were disturbed: {report:?}"))
}
