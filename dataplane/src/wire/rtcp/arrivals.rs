//! Transport-wide congestion control feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01 section 3.1): when which packets of a
//! transport came, so that their sender can tell how much the path carries.
//!
//! ```text
//! |V=2|P|  FMT=15 |    PT=205     |            length             |
//! |                 SSRC of packet sender                         |
//! |                  SSRC of media source                         |
//! |      base sequence number     |      packet status count      |
//! |            reference time (64 ms)             | fb pkt. count |
//! |  packet chunk: 2 bytes each ...  | recv delta: 1 or 2 bytes ..|
//! ```

use super::{FORMAT_TRANSPORT_CC, TRANSPORT_FEEDBACK, build::Writer};

/// Most packets that one report can speak of here: with two bytes of delta each it still fits a datagram.
pub const STATUSES_MAX: usize = 400;

/// A reference time counts so many microseconds.
const REFERENCE_US: u64 = 64_000;
/// A delta counts so many microseconds.
const DELTA_US: u64 = 250;
/// Statuses of two bits in one vector chunk.
const VECTOR_LEN: usize = 7;
/// Statuses that one run-length chunk can count.
const RUN_MAX: usize = 0x1fff;

/// One report.
#[derive(Clone, Copy, Debug)]
pub struct Arrivals<'a> {
    /// Who reports.
    pub sender: u32,
    /// A stream of the transport.
    pub media: u32,
    /// Counts reports, modulo 256.
    pub count: u8,
    /// Transport-wide number of the first packet.
    pub base: u16,
    /// When each packet from the first on came, in microseconds of any clock; 0: it did not. At most [`STATUSES_MAX`].
    pub times_us: &'a [u64],
}

/// Writes a report. Its length, and how many packets it speaks of: fewer than asked for when two of them came so far apart that no delta
/// says it. `None` when there is no room, nothing to say, or nothing came.
pub fn write_arrivals(out: &mut [u8], report: &Arrivals<'_>) -> Option<(usize, usize)> {
    let first_us = report.times_us.iter().copied().find(|at| *at != 0)?;
    let reference = first_us / REFERENCE_US;
    let mut symbols = [0u8; STATUSES_MAX];
    let mut deltas = [0i16; STATUSES_MAX];
    let mut former = reference * (REFERENCE_US / DELTA_US);
    let mut count = 0;
    for at in report.times_us.iter().take(STATUSES_MAX) {
        if *at != 0 {
            let ticks = at / DELTA_US;
            let Ok(delta) = i16::try_from(ticks.wrapping_sub(former).cast_signed()) else { break };
            symbols[count] = if (0..256).contains(&delta) { 1 } else { 2 };
            (deltas[count], former) = (delta, ticks);
        }
        count += 1;
    }
    let (symbols, deltas) = (&symbols[..count], &deltas[..count]);
    let mut writer = Writer { out, at: 0 };
    let start = writer.begin(FORMAT_TRANSPORT_CC, TRANSPORT_FEEDBACK)?;
    writer.word(report.sender)?;
    writer.word(report.media)?;
    writer.put(&report.base.to_be_bytes())?;
    writer.put(&(count as u16).to_be_bytes())?;
    writer.word((reference as u32) << 8 | u32::from(report.count))?;
    let mut at = 0;
    while at < count {
        let run = symbols[at..].iter().take_while(|symbol| **symbol == symbols[at]).count();
        if run > VECTOR_LEN {
            let run = run.min(RUN_MAX);
            writer.put(&(u16::from(symbols[at]) << 13 | run as u16).to_be_bytes())?;
            at += run;
        } else {
            let vector = (0..VECTOR_LEN)
                .fold(0b11, |chunk: u16, step| chunk << 2 | u16::from(symbols.get(at + step).copied().unwrap_or(0)));
            writer.put(&vector.to_be_bytes())?;
            at += VECTOR_LEN;
        }
    }
    for (symbol, delta) in symbols.iter().zip(deltas) {
        match symbol {
            0 => {}
            1 => writer.put(&[*delta as u8])?,
            _ => writer.put(&delta.to_be_bytes())?,
        }
    }
    let zeros = writer.at.next_multiple_of(4) - writer.at;
    writer.put(&[0; 4][..zeros])?;
    Some((writer.end(start), count))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::rtcp::{Compound, RtcpPacket};

    /// Reads a report as the draft lays it out: base, count of reports, and per packet its time in microseconds since the reference's
    /// zero.
    fn read(bytes: &[u8]) -> (u16, u8, Vec<Option<u64>>) {
        let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        assert_eq!((bytes[0] & 0x1f, bytes[1]), (15, 205));
        assert_eq!(usize::from(word(2)) * 4 + 4, bytes.len());
        let (base, count) = (word(12), usize::from(word(14)));
        let reference = u64::from(u32::from_be_bytes([0, bytes[16], bytes[17], bytes[18]]));
        let mut at = 20;
        let mut symbols = Vec::new();
        while symbols.len() < count {
            let chunk = word(at);
            at += 2;
            match (chunk >> 15, chunk >> 14 & 1) {
                (0, _) => symbols.extend(vec![chunk >> 13 & 3; usize::from(chunk & 0x1fff)]),
                (_, 0) => symbols.extend((0..14).rev().map(|bit| chunk >> bit & 1)),
                (_, _) => symbols.extend((0..7).rev().map(|pair| chunk >> (2 * pair) & 3)),
            }
        }
        symbols.truncate(count);
        let mut time = reference * 64_000;
        let times = symbols.into_iter().map(|symbol| {
            let delta = match symbol {
                0 => return None,
                1 => i64::from(bytes[at]),
                _ => i64::from(word(at).cast_signed()),
            };
            at += usize::from(symbol);
            time = time.wrapping_add_signed(delta * 250);
            Some(time)
        });
        let times = times.collect();
        assert_eq!(at.next_multiple_of(4), bytes.len(), "nothing is left over");
        (base, bytes[19], times)
    }

    fn write(base: u16, times_us: &[u64]) -> Option<(Vec<u8>, usize)> {
        let mut out = [0; 1500];
        let report = Arrivals { sender: 1, media: 2, count: 9, base, times_us };
        let (len, count) = write_arrivals(&mut out, &report)?;
        Some((out[..len].to_vec(), count))
    }

    #[test]
    fn a_report_has_the_layout_of_the_draft() {
        // The reference is 2 x 64 ms; the deltas are 8 (2 ms), 4 (1 ms), none, and 400 (100 ms, too large for a byte).
        let (bytes, count) = write(0xfffe, &[130_000, 131_000, 0, 231_000]).unwrap();
        assert_eq!(count, 4);
        let expected = [
            0x8f,
            205,
            0,
            6,
            0,
            0,
            0,
            1,
            0,
            0,
            0,
            2,
            0xff,
            0xfe,
            0,
            4,
            0,
            0,
            2,
            9, // head
            0b1101_0100,
            0b1000_0000, // 1, 1, 0, 2 and three that are not there
            8,
            4,
            1,
            0x90,
            0,
            0, // deltas and zeros
        ];
        assert_eq!(bytes, expected);
        let compound = Compound::parse(&bytes).unwrap();
        let packets: Vec<_> = compound.packets().collect();
        assert_eq!(packets, [RtcpPacket::TransportCongestion { sender: 1, media: 2 }]);
    }

    #[test]
    fn many_of_a_kind_are_a_run() {
        let times: Vec<u64> = (0..100).map(|at| 64_000 + at * 1000).collect();
        let (bytes, _) = write(0, &times).unwrap();
        assert_eq!(bytes[20..22], [0x20, 100], "a hundred small deltas");
        assert_eq!(bytes.len(), 124);
    }

    #[test]
    fn packets_too_far_apart_are_for_another_report() {
        let (_, count) = write(0, &[64_000, 0, 64_000 + 8_191_750, 64_000 + 16_383_750]).unwrap();
        assert_eq!(count, 3);
        assert_eq!(write(0, &[]), None);
        assert_eq!(write(0, &[0, 0]), None, "nothing came");
        let times = [64_000; STATUSES_MAX];
        let report = Arrivals { sender: 1, media: 2, count: 0, base: 0, times_us: &times };
        assert_eq!(write_arrivals(&mut [0; 100], &report), None, "no room");
    }

    proptest! {
        #[test]
        fn every_report_tells_each_time_to_a_quarter_of_a_millisecond(
            base in any::<u16>(),
            start in 1u64..1_000_000_000_000,
            steps in prop::collection::vec(prop::option::of(-50_000i64..200_000), 1..STATUSES_MAX),
        ) {
            let mut now = start;
            let times: Vec<u64> = steps.iter().map(|step| {
                step.map_or(0, |step| {
                    now = now.saturating_add_signed(step).max(1);
                    now
                })
            }).collect();
            match write(base, &times) {
                None => prop_assert!(times.iter().all(|at| *at == 0)),
                Some((bytes, count)) => {
                    prop_assert_eq!(count, times.len());
                    prop_assert!(bytes.len() <= 1200);
                    let (read_base, number, read) = read(&bytes);
                    prop_assert_eq!((read_base, number, read.len()), (base, 9, count));
                    // The reference time has 24 bits: compare what is left of the times then.
                    let first = times.iter().copied().find(|at| *at != 0).unwrap();
                    let lost = first / 64_000 / (1 << 24) * (1 << 24) * 64_000;
                    for (read, at) in read.into_iter().zip(times) {
                        prop_assert_eq!(read.map(|read| read + lost), (at != 0).then_some(at / 250 * 250));
                    }
                }
            }
        }
    }
}
