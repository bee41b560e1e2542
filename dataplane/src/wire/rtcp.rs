//! RTCP (RFC 3550 section 6, RFC 4585 section 6, RFC 5104 section 4.3): compounds are checked whole before anything in them
//! is believed; builders write into a slice of the caller.

mod arrivals;
mod build;
mod ntp;

pub use arrivals::{Arrivals, STATUSES_MAX, write_arrivals};
pub use build::{
    NACKED_MAX, SenderInfo, write_bye, write_fir, write_nack, write_pli, write_receiver_report, write_remb,
    write_sender_report,
};
pub use ntp::{delay_since_last_report, ntp_add, ntp_middle, round_trip_time};

use super::{DropReason, be16, be32};

/// Length in bytes of the header and the sender's SSRC: the smallest packet, and what SRTCP leaves in clear.
pub const HEADER_LEN: usize = 8;

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const BYE: u8 = 203;
const TRANSPORT_FEEDBACK: u8 = 205;
const PAYLOAD_FEEDBACK: u8 = 206;

const FORMAT_NACK: u8 = 1;
const FORMAT_TRANSPORT_CC: u8 = 15;
const FORMAT_PLI: u8 = 1;
const FORMAT_FIR: u8 = 4;
const FORMAT_APPLICATION: u8 = 15;

const SDES_CNAME: u8 = 1;
const SENDER_INFO_LEN: usize = 28;
const REPORT_BLOCK_LEN: usize = 24;

/// A compound in which every packet, and everything this module reads inside it, fits.
#[derive(Clone, Copy, Debug)]
pub struct Compound<'a> {
    bytes: &'a [u8],
}

impl<'a> Compound<'a> {
    /// Checks a clear compound: version 2 throughout, lengths that add up to the whole, padding on the last packet only,
    /// and contents that fit each packet's length. Reduced-size compounds (RFC 5506) are taken, they need not start with a
    /// report.
    ///
    /// # Errors
    /// [`DropReason::RtcpMalformed`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = split_packet(rest).ok_or(DropReason::RtcpMalformed)?.1;
        }
        if bytes.is_empty() { Err(DropReason::RtcpMalformed) } else { Ok(Compound { bytes }) }
    }

    /// The packets in order.
    pub fn packets(&self) -> impl Iterator<Item = RtcpPacket<'a>> + use<'a> {
        let mut rest = self.bytes;
        std::iter::from_fn(move || {
            let (packet, behind) = split_packet(rest)?;
            rest = behind;
            Some(packet)
        })
    }
}

/// SSRC of the sender of a compound of which only the first [`HEADER_LEN`] bytes are known to be there; SRTCP leaves them
/// in clear.
///
/// # Panics
/// Below [`HEADER_LEN`] bytes: `classify` has checked the length.
#[must_use]
pub fn sender_ssrc_of(bytes: &[u8]) -> u32 {
    be32(bytes, 4)
}

/// One packet of a compound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RtcpPacket<'a> {
    /// SR, RFC 3550 section 6.4.1.
    SenderReport {
        /// What the sender says about its own stream.
        info: SenderInfo,
        /// What it says about those it hears.
        reports: Reports<'a>,
    },
    /// RR, RFC 3550 section 6.4.2.
    ReceiverReport {
        /// Who reports.
        ssrc: u32,
        /// What it says about those it hears.
        reports: Reports<'a>,
    },
    /// SDES, RFC 3550 section 6.5.
    SourceDescription(SourceDescription<'a>),
    /// BYE, RFC 3550 section 6.6: the SSRCs that leave.
    Bye(Words<'a>),
    /// PLI, RFC 4585 section 6.3.1.
    PictureLoss {
        /// Who asks.
        sender: u32,
        /// The video stream that is asked.
        media: u32,
    },
    /// FIR, RFC 5104 section 4.3.1: pairs of SSRC and command sequence number.
    FullIntra {
        /// Who asks.
        sender: u32,
        /// The streams that are asked.
        entries: FullIntraEntries<'a>,
    },
    /// Generic NACK, RFC 4585 section 6.2.1.
    Nack {
        /// Who misses packets.
        sender: u32,
        /// In which stream.
        media: u32,
        /// Which.
        lost: LostPackets<'a>,
    },
    /// REMB (draft-alvestrand-rmcat-remb).
    BandwidthEstimate {
        /// Who estimates.
        sender: u32,
        /// Bits per second that it believes it can receive.
        bitrate_bps: u64,
        /// The streams that share them.
        media: Words<'a>,
    },
    /// Transport-wide congestion control feedback; recognised, its chunks are not read.
    TransportCongestion {
        /// Who reports.
        sender: u32,
        /// About which stream.
        media: u32,
    },
    /// Anything else, APP and XR among it.
    Other {
        /// RTCP packet type, 192..=223.
        packet_type: u8,
    },
}

/// Takes the first packet off `bytes`; `None` when it does not fit or its content does not fit it.
fn split_packet(bytes: &[u8]) -> Option<(RtcpPacket<'_>, &[u8])> {
    if bytes.len() < 4 || bytes[0] >> 6 != 2 {
        return None;
    }
    let len = 4 * (usize::from(be16(bytes, 2)) + 1);
    let (packet, rest) = bytes.split_at_checked(len)?;
    let mut body = &packet[4..];
    if packet[0] & 0x20 != 0 {
        // Padding counts itself and is a multiple of four (RFC 3550 section 6.4.1).
        let padding = usize::from(*body.last()?);
        if !rest.is_empty() || padding == 0 || !padding.is_multiple_of(4) || padding > body.len() {
            return None;
        }
        body = &body[..body.len() - padding];
    }
    let (count, packet_type) = (packet[0] & 0x1f, packet[1]);
    let packet = match packet_type {
        SENDER_REPORT => sender_report(count, body)?,
        RECEIVER_REPORT => {
            let (ssrc, blocks) = body.split_at_checked(4)?;
            RtcpPacket::ReceiverReport { ssrc: be32(ssrc, 0), reports: Reports::of(count, blocks)? }
        }
        SOURCE_DESCRIPTION => RtcpPacket::SourceDescription(SourceDescription::of(count, body)?),
        BYE => RtcpPacket::Bye(Words(body.get(..4 * usize::from(count))?)),
        TRANSPORT_FEEDBACK | PAYLOAD_FEEDBACK => feedback(packet_type, count, body)?,
        192..=223 => RtcpPacket::Other { packet_type },
        _ => return None,
    };
    Some((packet, rest))
}

fn sender_report(count: u8, body: &[u8]) -> Option<RtcpPacket<'_>> {
    let (info, blocks) = body.split_at_checked(SENDER_INFO_LEN - 4)?;
    let info = SenderInfo {
        ssrc: be32(info, 0),
        ntp: u64::from(be32(info, 4)) << 32 | u64::from(be32(info, 8)),
        rtp_timestamp: be32(info, 12),
        packet_count: be32(info, 16),
        octet_count: be32(info, 20),
    };
    Some(RtcpPacket::SenderReport { info, reports: Reports::of(count, blocks)? })
}

fn feedback(packet_type: u8, format: u8, body: &[u8]) -> Option<RtcpPacket<'_>> {
    let (head, control) = body.split_at_checked(8)?;
    let (sender, media) = (be32(head, 0), be32(head, 4));
    Some(match (packet_type, format) {
        (TRANSPORT_FEEDBACK, FORMAT_NACK) => RtcpPacket::Nack { sender, media, lost: LostPackets::of(control)? },
        (TRANSPORT_FEEDBACK, FORMAT_TRANSPORT_CC) => RtcpPacket::TransportCongestion { sender, media },
        (PAYLOAD_FEEDBACK, FORMAT_PLI) => RtcpPacket::PictureLoss { sender, media },
        (PAYLOAD_FEEDBACK, FORMAT_FIR) => RtcpPacket::FullIntra { sender, entries: FullIntraEntries::of(control)? },
        (PAYLOAD_FEEDBACK, FORMAT_APPLICATION) if control.starts_with(b"REMB") => {
            let &[count, high, mid, low] = control.get(4..8)? else { return None };
            let mantissa = u64::from(high & 3) << 16 | u64::from(mid) << 8 | u64::from(low);
            // The exponent has 6 bits, the mantissa 18: saturate instead of losing the top.
            let bitrate_bps = mantissa.saturating_mul(1 << (high >> 2));
            let media = Words(control.get(8..8 + 4 * usize::from(count))?);
            RtcpPacket::BandwidthEstimate { sender, bitrate_bps, media }
        }
        _ => RtcpPacket::Other { packet_type },
    })
}

/// One report block (RFC 3550 section 6.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportBlock {
    /// The stream reported on.
    pub ssrc: u32,
    /// Share of packets lost since the last report, in 1/256.
    pub fraction_lost: u8,
    /// Packets lost since the start, a signed 24-bit number: duplicates make it negative.
    pub cumulative_lost: i32,
    /// Highest sequence number received, with the count of its cycles in the high half.
    pub highest_sequence: u32,
    /// Interarrival jitter, in units of the stream's clock.
    pub jitter: u32,
    /// Middle 32 bits of the NTP time of the last sender report received, 0 before one.
    pub last_sr: u32,
    /// Time since then in 1/65536 s.
    pub delay_since_last_sr: u32,
}

impl ReportBlock {
    fn of(block: &[u8; REPORT_BLOCK_LEN]) -> Self {
        let lost = be32(block, 4);
        ReportBlock {
            ssrc: be32(block, 0),
            fraction_lost: (lost >> 24) as u8,
            // Shifted up and back down, so that the 24-bit sign becomes a 32-bit one.
            cumulative_lost: (lost << 8).cast_signed() >> 8,
            highest_sequence: be32(block, 8),
            jitter: be32(block, 12),
            last_sr: be32(block, 16),
            delay_since_last_sr: be32(block, 20),
        }
    }
}

/// The report blocks of an SR or RR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reports<'a>(&'a [[u8; REPORT_BLOCK_LEN]]);

impl<'a> Reports<'a> {
    /// What follows the announced blocks is a profile-specific extension and is not read.
    fn of(count: u8, bytes: &'a [u8]) -> Option<Self> {
        bytes.as_chunks().0.get(..usize::from(count)).map(Reports)
    }

    /// The blocks in order, 31 at most.
    pub fn iter(&self) -> impl Iterator<Item = ReportBlock> + use<'a> {
        self.0.iter().map(ReportBlock::of)
    }
}

/// A list of SSRCs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    /// The SSRCs in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.0.as_chunks().0.iter().map(|word| u32::from_be_bytes(*word))
    }
}

/// The chunks of an SDES packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceDescription<'a> {
    count: u8,
    chunks: &'a [u8],
}

impl<'a> SourceDescription<'a> {
    fn of(count: u8, chunks: &'a [u8]) -> Option<Self> {
        let mut rest = chunks;
        for _ in 0..count {
            rest = split_chunk(rest)?.1;
        }
        Some(SourceDescription { count, chunks })
    }

    /// Each source's SSRC and CNAME, for those chunks that have one.
    pub fn cnames(&self) -> impl Iterator<Item = (u32, &'a [u8])> + use<'a> {
        let mut rest = self.chunks;
        let chunks = (0..self.count).map_while(move |_| {
            let (chunk, behind) = split_chunk(rest)?;
            rest = behind;
            Some(chunk)
        });
        chunks.filter_map(|(ssrc, cname)| Some((ssrc, cname?)))
    }
}

type Chunk<'a> = (u32, Option<&'a [u8]>);

/// Takes one SDES chunk off: SSRC, items until a zero byte, zeros up to the next word.
fn split_chunk(bytes: &[u8]) -> Option<(Chunk<'_>, &[u8])> {
    let ssrc = be32(bytes.get(..4)?, 0);
    let mut cname = None;
    let mut at = 4;
    loop {
        let kind = *bytes.get(at)?;
        if kind == 0 {
            let end = (at + 1).next_multiple_of(4);
            return Some(((ssrc, cname), bytes.get(end..)?));
        }
        let len = usize::from(*bytes.get(at + 1)?);
        let value = bytes.get(at + 2..at + 2 + len)?;
        if kind == SDES_CNAME {
            cname = cname.or(Some(value));
        }
        at += 2 + len;
    }
}

/// The entries of a FIR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FullIntraEntries<'a>(&'a [[u8; 8]]);

impl<'a> FullIntraEntries<'a> {
    fn of(control: &'a [u8]) -> Option<Self> {
        let (entries, rest) = control.as_chunks();
        rest.is_empty().then_some(FullIntraEntries(entries))
    }

    /// Pairs of the asked stream's SSRC and the command sequence number, which tells a repeat from a new command.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u8)> + use<'a> {
        self.0.iter().map(|entry| (be32(entry, 0), entry[4]))
    }
}

/// What a generic NACK misses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostPackets<'a>(&'a [[u8; 4]]);

impl<'a> LostPackets<'a> {
    fn of(control: &'a [u8]) -> Option<Self> {
        let (entries, rest) = control.as_chunks();
        rest.is_empty().then_some(LostPackets(entries))
    }

    /// The missing sequence numbers: of each entry the first, then those that its bitmask names.
    pub fn sequences(&self) -> impl Iterator<Item = u16> + use<'a> {
        self.0.iter().flat_map(|entry| {
            let (first, mask) = (be16(entry, 0), be16(entry, 2));
            let masked = (0..16).filter(move |bit| mask >> bit & 1 == 1);
            std::iter::once(first).chain(masked.map(move |bit| first.wrapping_add(bit + 1)))
        })
    }
}

#[cfg(test)]
mod tests;
