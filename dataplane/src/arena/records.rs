//! The records themselves: plain data with no behaviour but conversions. What they mean is told by the modules of `relay` that
//! work on them.
//!
//! Rules for every field: all zero is a valid value and means "none"; no pointer, no enum, no `bool`, no time but microseconds of
//! the relay's clock. Slot numbers of other records are stored plus one, so that zero is none.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use gangway_shared::rcp::limits::{
    ICE_CREDENTIAL_MAX_BYTES, LEGS_MAX, NAME_MAX_BYTES, PAYLOADS_MAX, ROUTES_MAX, RTX_PAYLOADS_MAX,
};

use crate::{
    generator::Recipe,
    ice_lite::{Consent, LocalCredentials},
    srtp::{MasterKey, RetiredStream, RxStream, TxStream},
    wire::DropReason,
};

/// Addresses of one browser leg that passed an authenticated check. A browser checks from each of its interfaces, twice when it
/// has relayed candidates.
pub const PATHS_MAX: usize = 8;
/// SSRCs that one leg can receive at a time, counted over two key epochs.
pub const RX_STREAMS_MAX: usize = 16;
/// SSRCs of an encrypted leg, beyond those it receives, whose indexes are remembered. A browser uses a new one when a track is
/// replaced; this many in one call is a fault or an attack.
pub const RETIRED_STREAMS_MAX: usize = 64;
/// SSRCs that one leg can have sent: its routes', its own for reports, and those of routes that were replaced.
pub const OUT_STREAMS_MAX: usize = 24;
/// Parameter sets that one route keeps: a sequence and a picture set of each of two sizes, with room.
pub const PARAMETER_SETS_MAX: usize = 8;
/// Their bytes together. Encoders of calls write sets of 10 to 60 bytes.
pub const PARAMETER_BYTES_MAX: usize = 512;
/// Certificates that a program may name.
pub const FINGERPRINTS_MAX: usize = 4;
/// Actions of a relay that are remembered: more than control has under way in one call.
pub const ACTIONS_MAX: usize = 16;

/// In front of every record.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Head {
    /// Counts up with each use of the record.
    pub generation: u32,
    /// 1 while in use.
    pub used: u32,
}

/// An address as plain data: IPv4 is v4-mapped, port 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct Addr {
    /// Big-endian IPv6 address.
    pub ip: [u8; 16],
    /// UDP port.
    pub port: u16,
}

impl From<SocketAddr> for Addr {
    fn from(addr: SocketAddr) -> Self {
        let ip = match addr.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Addr { ip: ip.octets(), port: addr.port() }
    }
}

impl Addr {
    /// No address.
    pub const NONE: Addr = Addr { ip: [0; 16], port: 0 };

    /// As the engine wants it.
    #[must_use]
    pub fn to_socket(self) -> Option<SocketAddr> {
        (self.port != 0).then(|| SocketAddr::new(self.ip().to_canonical(), self.port))
    }

    /// The IPv6 or mapped IPv4 address.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from(self.ip))
    }

    /// True when something can be sent there: an address is known and is not the hold of old, `0.0.0.0`.
    #[must_use]
    pub fn is_target(self) -> bool {
        self.port != 0 && !self.ip().to_canonical().is_unspecified()
    }
}

/// An address of a browser with what is known of it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Path {
    /// Where the checks came from.
    pub addr: Addr,
    /// 1 once the manager was told of it.
    pub is_told: u8,
    /// Unused.
    pub reserved: u8,
    /// Port plus one that the checks came to.
    pub port: u32,
    /// When the last check came.
    pub checked_at: u64,
}

/// Room for an SRTP key of one direction. A leg has two for each, and [`LegRecord::in_force`] says which of them counts.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct KeyPlace {
    /// The key.
    pub key: MasterKey,
    /// Counts up with each new key of the direction; 0: there is none.
    pub number: u32,
    /// Unused.
    pub reserved: u32,
}

/// What a handshake agreed on.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct HeldKeys {
    /// What we send with.
    pub ours: MasterKey,
    /// What the peer sends with.
    pub theirs: MasterKey,
    /// 0: there are none; 1: not yet compared with the program, 2: refused by it.
    pub number: u32,
    /// Unused.
    pub reserved: u32,
}

/// Statistics of one source that is received (RFC 3550 appendix A), and its clock relation.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Reception {
    /// Packets received, duplicates too.
    pub received: u64,
    /// Highest sequence number plus 2^16 times its cycles, plus one; 0 before the first packet.
    pub highest: u64,
    /// Sixteen times the jitter in units of the clock.
    pub jitter_x16: u64,
    /// Arrival of the last packet.
    pub arrived_at: u64,
    /// RTP timestamp of the last packet.
    pub timestamp: u32,
    /// RTP clock of the last packet.
    pub clock: u32,
    /// Packets behind the highest.
    pub reordered: u64,
    /// The packets that were least delayed on their way, of the present and of the former span of time.
    pub earliest: [Earliest; 2],
    /// First sequence number in the count of `highest`.
    pub base: u64,
    /// Packets expected at the last report.
    pub expected_reported: u64,
    /// Packets received at the last report.
    pub received_reported: u64,
    /// Expected before the base was set anew.
    pub expected_before: u64,
    /// When the last sender report came.
    pub sr_at: u64,
    /// NTP timestamp of that report; 0 before one.
    pub sr_ntp: u64,
    /// RTP timestamp of that report.
    pub sr_rtp: u32,
    /// Unused.
    pub reserved: u32,
}

/// The least delayed packet of a span of time: what the source's clock shows, without the jitter of the path.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Earliest {
    /// When the span began, plus one; 0: nothing came.
    pub since: u64,
    /// When the packet came.
    pub at: u64,
    /// Its RTP timestamp.
    pub timestamp: u32,
    /// Unused.
    pub reserved: u32,
}

/// A source that a leg receives.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct RxSlot {
    /// 1 while in use.
    pub used: u32,
    /// Key epoch that its SRTP state belongs to; 0 on plain legs.
    pub epoch: u32,
    /// SRTP state; on plain legs the SSRC alone.
    pub stream: RxStream,
    /// When its last packet was accepted, RTP or RTCP.
    pub heard_at: u64,
    /// Statistics.
    pub reception: Reception,
    /// FIR commands that it was sent.
    pub commands: u64,
}

/// A source that gave its place in `rx` to another.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct RetiredSource {
    /// Key epoch that its indexes belong to; 0: none.
    pub epoch: u32,
    /// Unused.
    pub reserved: u32,
    /// Its indexes.
    pub stream: RetiredStream,
}

/// An SSRC that a leg sends. It stays when its route goes, so that the same SSRC under the same key never starts again.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct OutStream {
    /// 1 while in use.
    pub used: u32,
    /// Route record plus one that sends it now.
    pub route: u32,
    /// SRTP state under the leg's own key in the first place; on plain legs the SSRC alone.
    pub tx: TxStream,
    /// Packets sent.
    pub packets: u64,
    /// Payload bytes sent.
    pub octets: u64,
    /// When the newest packet was sent, plus one; 0 before the first.
    pub sent_at: u64,
    /// Highest sequence number sent.
    pub sequence: u32,
    /// Timestamp of the newest packet.
    pub timestamp: u32,
    /// Its clock.
    pub clock: u32,
    /// Clock ticks that the newest packet lasts when the relay made it, else 0: what follows it begins behind it.
    pub lasts: u32,
    /// Clock ticks by which its timestamps run ahead of time for that reason.
    pub lead: u32,
    /// Jitter that the peer saw, in units of the clock.
    pub peer_jitter: u32,
    /// Packets sent at the last report.
    pub packets_reported: u64,
    /// SRTP state under the leg's own key in the second place.
    pub second_tx: TxStream,
    /// What the peer said it lost of it.
    pub peer_lost: i32,
    /// Route record plus one whose lost packets it sends again (RFC 4588); `route` is none then.
    pub repairs: u32,
}

/// How a source's numbers become those of an [`OutStream`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct SourceMap {
    /// 1 once there is a source.
    pub used: u32,
    /// Its SSRC.
    pub ssrc: u32,
    /// Highest sequence number received.
    pub sequence: u32,
    /// What is added to a sequence number, modulo 2^16.
    pub sequence_offset: u32,
    /// What is added to a timestamp.
    pub timestamp_offset: u32,
    /// Timestamp of the newest packet.
    pub timestamp: u32,
    /// When the first packet of that timestamp came; for a former source: when it was replaced.
    pub at: u64,
    /// How many numbers back from `sequence` belong to this source, as far as reordering reaches.
    pub span: u32,
    /// Unused.
    pub reserved: u32,
}

/// One entry of a route's payload map.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct PayloadEntry {
    /// Payload type of the source.
    pub from: u8,
    /// Payload type towards the destination.
    pub to: u8,
    /// `Transform as u8`.
    pub transform: u8,
    /// 1 for telephone events, whose timestamp stands still through an event (RFC 4733 section 2.3).
    pub is_event: u8,
    /// `Pictures as u8`: how its key frames are told.
    pub pictures: u8,
    /// `Quiet as u8`: how it tells that silence follows.
    pub quiet: u8,
    /// 1 when the destination takes several NAL units in one packet (packetization mode 1 of H.264).
    pub aggregates: u8,
    /// Unused.
    pub reserved: u8,
    /// RTP clock in Hz.
    pub clock: u32,
}

/// A payload type of retransmissions.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct RtxEntry {
    /// The payload type.
    pub pt: u8,
    /// The payload type that it stands for.
    pub apt: u8,
}

/// The H.264 parameter sets that a route has seen or was told of, to be repeated before pictures that lack them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ParameterSets {
    /// When sets were last repeated, plus one; 0: never.
    pub repeated_at: u64,
    /// Timestamp of the source's picture that they went before.
    pub repeated_for: u32,
    /// Lengths of the sets in `bytes`, which lie one behind the other; 0 ends the list.
    pub lengths: [u16; PARAMETER_SETS_MAX],
    /// Bit n: set n was told by signalling.
    pub told: u8,
    /// Types that passed since the last slice: 1 sequence, 2 picture parameters.
    pub passed: u8,
    /// The sets.
    pub bytes: [u8; PARAMETER_BYTES_MAX],
}

impl Default for ParameterSets {
    fn default() -> Self {
        ParameterSets {
            repeated_at: 0,
            repeated_for: 0,
            lengths: [0; PARAMETER_SETS_MAX],
            told: 0,
            passed: 0,
            bytes: [0; PARAMETER_BYTES_MAX],
        }
    }
}

/// What a video route knows of the pictures that its receiver has.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct PictureState {
    /// Bit n: the packet n numbers before the highest of the source is missing. The last bit stands for all before it.
    pub missing: u64,
    /// Since when something is missing, plus one; 0: nothing is.
    pub missing_since: u64,
    /// When a key frame was last asked for on its behalf, plus one.
    pub asked_at: u64,
    /// 1 while a wish for a key frame waits.
    pub is_wanted: u32,
    /// 1 once the receiver was sent something.
    pub is_joined: u32,
    /// When missing packets were last asked for on its behalf, plus one.
    pub nacked_at: u64,
    /// How often they were since nothing was missing.
    pub nacks: u32,
    /// How often a key frame was asked for since the last one came.
    pub asks: u32,
    /// How long a source that takes NACKs is waited for to send again what is missing, in microseconds; 0: it takes none.
    pub patience_us: u32,
    /// Unused.
    pub reserved: u32,
}

/// Sound that a route sends while its source gives none.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct FillState {
    /// What is made; not set: nothing.
    pub recipe: Recipe,
    /// Its payload type.
    pub pt: u8,
    /// 1 once a packet was made since the source gave its last.
    pub is_running: u8,
    /// Unused.
    pub reserved: [u8; 2],
    /// It begins when the source gave nothing for so long.
    pub start_after_ms: u32,
    /// How much of the sound was made, in milliseconds.
    pub position_ms: u32,
    /// Unused.
    pub reserved_too: u32,
    /// When the next packet is due.
    pub next_at: u64,
}

/// Which source of one port is believed.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Latch {
    /// Where the peer is; kept while learning anew.
    pub latched: Addr,
    /// 1 while only `latched` is believed.
    pub is_locked: u8,
    /// How well the candidate fits: 0 any, 1 same /24, 2 same address, 3 exact.
    pub fit: u8,
    /// How well `latched` fitted when it was locked, in the same measure.
    pub locked_fit: u8,
    /// 1 while signalling names an address to which nothing is sent (`0.0.0.0`, the hold of old).
    pub is_held: u8,
    /// Packets forwarded in this epoch before it was locked.
    pub spent: u32,
    /// Latch epochs so far.
    pub epoch: u32,
    /// Last packet from `latched`.
    pub heard_at: u64,
    /// Where signalling says the peer is.
    pub declared: Addr,
    /// The best source seen while learning.
    pub candidate: Addr,
    /// When learning began (first candidate), plus one.
    pub learning_since: u64,
    /// Last packet from `candidate`.
    pub candidate_at: u64,
}

/// What a leg counts with every packet.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Traffic {
    /// RTP packets accepted from the peer.
    pub rx_packets: u64,
    /// Their bytes on the wire.
    pub rx_bytes: u64,
    /// RTP packets given out to the peer.
    pub tx_packets: u64,
    /// Their bytes on the wire.
    pub tx_bytes: u64,
}

/// What a leg counts seldom.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Counters {
    /// RTCP datagrams accepted.
    pub rx_rtcp: u64,
    /// RTCP datagrams given out.
    pub tx_rtcp: u64,
    /// RTP packets given out again.
    pub resent: u64,
    /// Drops by reason.
    pub drops: [u64; DropReason::COUNT],
}

/// One relay.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RelayRecord {
    /// Use and generation of the record.
    pub head: Head,
    /// The id's two halves, high first.
    pub id: [u64; 2],
    /// Packets forwarded.
    pub forwarded: u64,
    /// Wall clock at `base_mono`, in microseconds: together the one NTP base of all its streams.
    pub base_wall: u64,
    /// Relay clock when the relay was made.
    pub base_mono: u64,
    /// Digest of the program in force; 0 while it is being changed, so that a change that was cut off is seen.
    pub digest: u64,
    /// Generation of the program in force.
    pub generation: u32,
    /// Crashes in a row while it was in hand.
    pub crashes: u32,
    /// When the last one was judged.
    pub crashed_at: u64,
    /// Bytes of `cname` used.
    pub cname_len: u32,
    /// CNAME of all its streams.
    pub cname: [u8; NAME_MAX_BYTES],
    /// Leg records plus one, in the program's order.
    pub legs: [u32; LEGS_MAX],
    /// Route records plus one, in the program's order.
    pub routes: [u32; ROUTES_MAX],
    /// Ids of the actions that were begun last: the process after this one does none of them again. The oldest gives way.
    pub actions: [u64; ACTIONS_MAX],
    /// How many were begun; stored behind the id.
    pub actions_begun: u64,
}

/// Kinds of leg as numbers.
pub mod kind {
    /// Browser.
    pub const ICE_DTLS: u8 = 1;
    /// Plain RTP.
    pub const RTP: u8 = 2;
    /// SRTP under keys from signalling.
    pub const SRTP: u8 = 3;
}

/// One leg. What every packet of a leg needs lies in the first two cache lines.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct LegRecord {
    /// Use and generation of the record.
    pub head: Head,
    /// Relay record plus one.
    pub relay: u32,
    /// Its id in the program.
    pub id: u8,
    /// One of [`kind`].
    pub kind: u8,
    /// 1 when RTCP comes and goes on the RTP port.
    pub rtcp_mux: u8,
    /// 1 when the program names the peer.
    pub has_remote: u8,
    /// RTP port plus one; 0 on browser legs.
    pub rtp_port: u32,
    /// RTCP port plus one.
    pub rtcp_port: u32,
    /// Path plus one that was nominated.
    pub nominated: u32,
    /// 1 while the nominated path is another leg's now.
    pub is_path_lost: u8,
    /// 1 when its peer's last packet of sound told that silence follows.
    pub is_quiet: u8,
    /// 1 while the silence of a latched source lets others be heard: the peer is known and a route from it is not paused.
    pub may_rearm: u8,
    /// Certificates that the program names.
    pub fingerprint_count: u8,
    /// 1 once its loss was reported.
    pub is_consent_lost: u8,
    /// 1 once `MediaTimeout` was reported for this silence.
    pub is_silence_told: u8,
    /// 1 while sound of the peer is expected: it is known and a route of sound from it is not paused.
    pub is_expected: u8,
    /// Places of received sources that were used.
    pub rx_len: u8,
    /// Places of retired sources that were used.
    pub retired_len: u8,
    /// Places of sent streams that were used.
    pub out_len: u8,
    /// Which keys are in force, in one store: bit 0 is the place of our own, bit 1 that of the peer's.
    pub in_force: u8,
    /// Unused.
    pub reserved: u8,
    /// Id of the header extension with the peer's transport-wide numbers; 0: none.
    pub transport_cc: u32,
    /// Media gone silent after so many milliseconds; 0: never.
    pub media_timeout_ms: u32,
    /// Since when media is expected, or when the last came.
    pub media_at: u64,
    /// What every packet counts.
    pub traffic: Traffic,
    /// RTP sources.
    pub rtp_latch: Latch,

    /// RTCP sources.
    pub rtcp_latch: Latch,
    /// The keeper's number of its pair of ports; 0 on browser legs. The next process finds its ports by it.
    pub lease: u64,
    /// Our ICE credentials.
    pub local: LocalCredentials,
    /// Bytes of `remote_ufrag` used; 0 while unknown.
    pub remote_ufrag_len: u32,
    /// The browser's ufrag.
    pub remote_ufrag: [u8; ICE_CREDENTIAL_MAX_BYTES],
    /// Addresses that passed a check.
    pub paths: [Path; PATHS_MAX],
    /// When the peer last consented.
    pub consent: Consent,
    /// How long that holds, in microseconds.
    pub consent_timeout: u64,
    /// Certificates.
    pub fingerprints: [[u8; 32]; FINGERPRINTS_MAX],

    /// What we send with, and what we sent with before.
    pub own_keys: [KeyPlace; 2],
    /// What the peer sends with, and what it sent with before.
    pub peer_keys: [KeyPlace; 2],
    /// Until when the peer's former key is tried.
    pub old_keys_until: u64,
    /// Keys of a handshake whose certificate the program does not name.
    pub held: HeldKeys,
    /// That certificate.
    pub held_fingerprint: [u8; 32],

    /// Index plus one in the sent streams of the leg's own SSRC, for reports when no route sends to it.
    pub own_out: u32,
    /// Counts report intervals.
    pub report_count: u32,
    /// When the next report is due.
    pub report_at: u64,
    /// What is added to the peer's NTP time to get ours, wrapping; valid once `has_ntp_offset` is 1.
    pub ntp_offset: u64,
    /// Round trip by RTCP in microseconds plus one.
    pub round_trip: u64,
    /// See `ntp_offset`.
    pub has_ntp_offset: u32,
    /// 1 when the peer of an RTP leg takes PLI.
    pub takes_pli: u32,
    /// 1 when it takes FIR.
    pub takes_fir: u32,
    /// 1 when the peer asks for lost packets, and can be asked for them.
    pub takes_nack: u32,
    /// 1 when it can be told how much it may send.
    pub takes_remb: u32,
    /// Counts reports of arrival times.
    pub arrival_reports: u32,
    /// How often it is still to be told that its limit is gone.
    pub lifts: u32,
    /// When the peer is next told how much it may send, plus one; 0: never.
    pub limit_at: u64,

    /// What it counts seldom.
    pub counters: Counters,
}

/// One route. What every packet needs lies in the first two cache lines, with the first payload type of its map.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct RouteRecord {
    /// Use and generation of the record.
    pub head: Head,
    /// Relay record plus one.
    pub relay: u32,
    /// Leg record (not plus one) the media comes from.
    pub from: u32,
    /// Leg record (not plus one) it goes to.
    pub to: u32,
    /// Index (not plus one) of its SSRC in the destination's sent streams.
    pub out: u32,
    /// 1 when held.
    pub is_paused: u8,
    /// 1 for video.
    pub is_video: u8,
    /// Entries of `payloads` used.
    pub payload_count: u8,
    /// 1 when what it sends is kept for a destination that asks for it again.
    pub is_kept: u8,
    /// SSRC it sends.
    pub ssrc: u32,
    /// The source that is forwarded.
    pub source: SourceMap,
    /// What stands in for its source.
    pub fill: FillState,
    /// See `rtx`.
    pub rtx_count: u8,
    /// See `source_rtx`.
    pub source_rtx_count: u8,
    /// 1 once its parameter sets hold something.
    pub has_parameters: u8,
    /// Unused.
    pub reserved: u8,
    /// Payload map.
    pub payloads: [PayloadEntry; PAYLOADS_MAX],

    /// Index plus one in the destination's sent streams of the one that repeats lost packets; 0: they are repeated as they were.
    pub rtx_out: u32,
    /// What the destination takes in kbit/s; 0: not known.
    pub limit_kbps: u32,
    /// The source before it, whose late packets still find their place.
    pub former: SourceMap,
    /// Its pictures, when it carries any.
    pub pictures: PictureState,
    /// Payload types of that stream; the first `rtx_count` are used.
    pub rtx: [RtxEntry; RTX_PAYLOADS_MAX],
    /// Payload types of the source's retransmissions; the first `source_rtx_count` are used.
    pub source_rtx: [RtxEntry; RTX_PAYLOADS_MAX],
}
