//! Builders of the RTCP packets that the relay originates. Each writes at the start of `out` and returns how many bytes it
//! wrote, `None` when there is no room.

use super::{
    BYE, FORMAT_APPLICATION, FORMAT_FIR, FORMAT_NACK, FORMAT_PLI, PAYLOAD_FEEDBACK, RECEIVER_REPORT, REPORT_BLOCK_LEN,
    ReportBlock, SDES_CNAME, SENDER_REPORT, SOURCE_DESCRIPTION, TRANSPORT_FEEDBACK,
};

/// Report blocks that fit the five-bit count of one packet.
const MAX_REPORTS: usize = 31;

/// The sender's part of an SR (RFC 3550 section 6.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderInfo {
    /// Who sends.
    pub ssrc: u32,
    /// Wall-clock time of the report as a 64-bit NTP timestamp.
    pub ntp: u64,
    /// The same instant on the stream's RTP clock.
    pub rtp_timestamp: u32,
    /// Packets sent so far.
    pub packet_count: u32,
    /// Payload bytes sent so far.
    pub octet_count: u32,
}

/// Writes an SR and the SDES with the CNAME that must go with it (RFC 3550 section 6.1). `None` also for more than 31
/// reports or a CNAME over 255 bytes.
pub fn write_sender_report(out: &mut [u8], info: &SenderInfo, reports: &[ReportBlock], cname: &[u8]) -> Option<usize> {
    let mut writer = Writer { out, at: 0 };
    let start = writer.begin(count_of(reports)?, SENDER_REPORT)?;
    writer.word(info.ssrc)?;
    writer.put(&info.ntp.to_be_bytes())?;
    writer.word(info.rtp_timestamp)?;
    writer.word(info.packet_count)?;
    writer.word(info.octet_count)?;
    writer.reports(reports)?;
    writer.end(start);
    writer.cname(info.ssrc, cname)
}

/// Writes an RR and the SDES with the CNAME that must go with it. `None` as [`write_sender_report`].
pub fn write_receiver_report(out: &mut [u8], ssrc: u32, reports: &[ReportBlock], cname: &[u8]) -> Option<usize> {
    let mut writer = Writer { out, at: 0 };
    let start = writer.begin(count_of(reports)?, RECEIVER_REPORT)?;
    writer.word(ssrc)?;
    writer.reports(reports)?;
    writer.end(start);
    writer.cname(ssrc, cname)
}

/// Writes a BYE of one source without a reason.
pub fn write_bye(out: &mut [u8], ssrc: u32) -> Option<usize> {
    let mut writer = Writer { out, at: 0 };
    let start = writer.begin(1, BYE)?;
    writer.word(ssrc)?;
    Some(writer.end(start))
}

/// Writes a PLI that asks `media` for a keyframe.
pub fn write_pli(out: &mut [u8], sender: u32, media: u32) -> Option<usize> {
    let mut writer = Writer { out, at: 0 };
    let start = writer.begin(FORMAT_PLI, PAYLOAD_FEEDBACK)?;
    writer.word(sender)?;
    writer.word(media)?;
    Some(writer.end(start))
}

/// Writes a FIR that asks `media` for a keyframe. A repeat of the same wish keeps `command`, a new wish counts it up.
pub fn write_fir(out: &mut [u8], sender: u32, media: u32, command: u8) -> Option<usize> {
    let mut writer = Writer { out, at: 0 };
    let start = writer.begin(FORMAT_FIR, PAYLOAD_FEEDBACK)?;
    writer.word(sender)?;
    // The media source of the common header is unused and zero (RFC 5104 section 4.3.1.2).
    writer.word(0)?;
    writer.word(media)?;
    writer.put(&[command, 0, 0, 0])?;
    Some(writer.end(start))
}

/// Most sequence numbers that [`write_nack`] takes.
pub const NACKED_MAX: usize = 64;

/// Writes a NACK of `media` for the sequence numbers given in ascending order (modulo 2^16), the first [`NACKED_MAX`] of them (RFC 4585
/// section 6.2.1). `None` also for an empty list.
pub fn write_nack(out: &mut [u8], sender: u32, media: u32, missing: impl Iterator<Item = u16>) -> Option<usize> {
    let mut writer = Writer { out, at: 0 };
    let start = writer.begin(FORMAT_NACK, TRANSPORT_FEEDBACK)?;
    writer.word(sender)?;
    writer.word(media)?;
    let mut entry: Option<(u16, u16)> = None;
    for sequence in missing.take(NACKED_MAX) {
        match &mut entry {
            Some((first, mask)) if (1..=16).contains(&sequence.wrapping_sub(*first)) => {
                *mask |= 1 << (sequence.wrapping_sub(*first) - 1);
            }
            _ => {
                if let Some((first, mask)) = entry.replace((sequence, 0)) {
                    writer.word(u32::from(first) << 16 | u32::from(mask))?;
                }
            }
        }
    }
    let (first, mask) = entry?;
    writer.word(u32::from(first) << 16 | u32::from(mask))?;
    Some(writer.end(start))
}

/// Writes a REMB: what is received may have `bitrate_bps` bits per second in all, rounded down to 18 significant bits
/// (draft-alvestrand-rmcat-remb-03 section 2.2).
pub fn write_remb(out: &mut [u8], sender: u32, bitrate_bps: u64, media: &[u32]) -> Option<usize> {
    let mut writer = Writer { out, at: 0 };
    let start = writer.begin(FORMAT_APPLICATION, PAYLOAD_FEEDBACK)?;
    writer.word(sender)?;
    // The media source of the common header is always zero.
    writer.word(0)?;
    writer.put(b"REMB")?;
    let exponent = (u64::BITS - bitrate_bps.leading_zeros()).saturating_sub(18);
    let mantissa = (bitrate_bps >> exponent) as u32;
    writer.word(u32::from(u8::try_from(media.len()).ok()?) << 24 | exponent << 18 | mantissa)?;
    media.iter().try_for_each(|ssrc| writer.word(*ssrc))?;
    Some(writer.end(start))
}

fn count_of(reports: &[ReportBlock]) -> Option<u8> {
    u8::try_from(reports.len()).ok().filter(|count| usize::from(*count) <= MAX_REPORTS)
}

pub(super) struct Writer<'o> {
    pub(super) out: &'o mut [u8],
    pub(super) at: usize,
}

impl Writer<'_> {
    pub(super) fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.out.get_mut(self.at..self.at + bytes.len())?.copy_from_slice(bytes);
        self.at += bytes.len();
        Some(())
    }

    pub(super) fn word(&mut self, word: u32) -> Option<()> {
        self.put(&word.to_be_bytes())
    }

    pub(super) fn begin(&mut self, count: u8, packet_type: u8) -> Option<usize> {
        let start = self.at;
        self.put(&[0x80 | count, packet_type, 0, 0])?;
        Some(start)
    }

    /// Fills in the length of the packet begun at `start`; the end of all that was written.
    pub(super) fn end(&mut self, start: usize) -> usize {
        debug_assert!(self.at.is_multiple_of(4), "RTCP packets are whole words");
        let words = ((self.at - start) / 4 - 1) as u16;
        self.out[start + 2..start + 4].copy_from_slice(&words.to_be_bytes());
        self.at
    }

    fn reports(&mut self, reports: &[ReportBlock]) -> Option<()> {
        for report in reports {
            let lost = report.cumulative_lost.clamp(-0x80_0000, 0x7f_ffff).cast_unsigned() & 0xff_ffff;
            let mut block = [0; REPORT_BLOCK_LEN];
            let words = [
                report.ssrc,
                u32::from(report.fraction_lost) << 24 | lost,
                report.highest_sequence,
                report.jitter,
                report.last_sr,
                report.delay_since_last_sr,
            ];
            for (slot, word) in block.as_chunks_mut().0.iter_mut().zip(words) {
                *slot = word.to_be_bytes();
            }
            self.put(&block)?;
        }
        Some(())
    }

    fn cname(&mut self, ssrc: u32, cname: &[u8]) -> Option<usize> {
        let len = u8::try_from(cname.len()).ok()?;
        let start = self.begin(1, SOURCE_DESCRIPTION)?;
        self.word(ssrc)?;
        self.put(&[SDES_CNAME, len])?;
        self.put(cname)?;
        // At least one zero ends the items, then zeros up to the word.
        let zeros = 4 - (2 + cname.len()) % 4;
        self.put(&[0; 4][..zeros])?;
        Some(self.end(start))
    }
}
