//! Counters, as `Query` and the end of a leg report them. All count from the making of the relay or worker.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{Generation, LegId, RelayId};

/// One direction of a leg.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectionStats {
    /// RTP packets.
    pub packets: u64,
    /// RTP bytes as on the wire, without IP and UDP headers.
    pub bytes: u64,
    /// RTCP packets.
    pub rtcp_packets: u64,
    /// Packets lost on the way to us, or reported lost by the peer.
    pub lost: i64,
    /// Interarrival jitter in microseconds (RFC 3550 section 6.4.1).
    pub jitter_us: u64,
    /// Packets that came out of order.
    pub reordered: u64,
    /// RTP packets that were sent again because the other side asked for them; `packets` and `bytes` do not count them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub resent: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// One leg.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegStats {
    /// The leg.
    pub leg: LegId,
    /// From its peer.
    pub received: DirectionStats,
    /// To its peer.
    pub sent: DirectionStats,
    /// Round trip to the peer by RTCP in microseconds; absent until known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_us: Option<u64>,
    /// Dropped packets by reason; reasons that never happened are absent.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
}

/// One relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayStats {
    /// The relay.
    pub relay: RelayId,
    /// Generation in force.
    pub generation: Generation,
    /// Worker that owns it.
    pub worker: u16,
    /// Its legs.
    pub legs: Vec<LegStats>,
}

/// One worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStats {
    /// Worker number from 0.
    pub worker: u16,
    /// Relays it owns.
    pub relays: u64,
    /// Packets received.
    pub received: u64,
    /// Packets sent.
    pub sent: u64,
    /// Dropped packets, one number for each of [`NodeStats::drop_reasons`] and in its order: named here too, they would take most
    /// of the frame.
    pub drops: Vec<u64>,
    /// Rounds of its loop that brought a packet: `received` of so many is how many come at a time.
    #[serde(default)]
    pub batches: u64,
    /// Processor time that it used, in microseconds.
    #[serde(default)]
    pub busy_us: u64,
    /// From the kernel's receive time to the end of sending, of forwarded packets from the ports towards browsers and from one SIP
    /// leg of 64: one number for each span that [`NodeStats::latency_bounds_us`] ends, and one for what takes longer.
    #[serde(default)]
    pub latency: Vec<u64>,
    /// What happened to its engine, by name: receives that ended, queues that were full. Empty where the engine has nothing of the kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub engine: BTreeMap<String, u64>,
}

/// The whole dataplane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStats {
    /// Why workers drop packets: every reason there is, so that a graph of each starts at 0.
    #[serde(default)]
    pub drop_reasons: Vec<String>,
    /// What ends each span of [`WorkerStats::latency`] but the last, in microseconds: a span holds what is below its end and not
    /// below that of the one before.
    #[serde(default)]
    pub latency_bounds_us: Vec<u64>,
    /// Workers by number, from the one that was asked for on; at most [`NodeStats::WORKERS_PAGE`].
    pub workers: Vec<WorkerStats>,
    /// True when there are workers behind the last of these.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more_workers: bool,
    /// Relays in force.
    pub relays: u64,
    /// Media ports in use towards SIP peers.
    pub media_ports_used: u64,
    /// Media ports in quarantine before reuse.
    pub media_ports_quarantined: u64,
    /// Media ports in all.
    pub media_ports_total: u64,
    /// DTLS handshakes in progress.
    pub dtls_handshakes: u64,
    /// Drops counted outside workers (manager thread).
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
    /// True once `Drain` was asked.
    pub draining: bool,
}

impl NodeStats {
    /// Workers of one answer at most: with all their counters they fit a frame.
    pub const WORKERS_PAGE: usize = 16;

    /// Drops of one of its workers by reason.
    pub fn worker_drops<'a>(&'a self, worker: &'a WorkerStats) -> impl Iterator<Item = (&'a str, u64)> {
        self.drop_reasons.iter().map(String::as_str).zip(worker.drops.iter().copied())
    }
}
