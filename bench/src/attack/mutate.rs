//! Changed datagrams of every protocol that a media port takes, from a seed.

use gangway_dataplane::wire::{rtcp, rtp};
use gangway_shared::entropy::{Entropy, SeededEntropy};

use crate::sys::BUFFER_LEN_BYTES;

/// Bytes that sit at the edges of lengths and counters.
const EDGES: [u8; 8] = [0, 1, 3, 4, 0x7f, 0x80, 0xfe, 0xff];

/// Longest datagram that is made; a tag still fits behind it.
const LEN_MAX: usize = 1400;

/// A packet of sound or pictures with this SSRC and sequence number: sometimes with sources, an extension or padding.
pub fn rtp_packet(entropy: &mut SeededEntropy, ssrc: u32, sequence: u16, out: &mut [u8; BUFFER_LEN_BYTES]) -> usize {
    let len = 40 + entropy.below(300) as usize;
    entropy.fill(&mut out[..len]);
    rtp::begin_header(out);
    rtp::set_payload_type(out, [0, 8, 13, 96, 101, 111][entropy.below(6) as usize]);
    rtp::set_sequence(out, sequence);
    rtp::set_timestamp(out, u32::from(sequence) * 160);
    rtp::set_ssrc(out, ssrc);
    match entropy.below(5) {
        // Contributing sources (RFC 3550 section 5.1), all inside.
        0 => out[0] |= entropy.below(6) as u8,
        // A header extension of one word.
        1 => {
            out[0] |= 0x10;
            out[12..16].copy_from_slice(&[0xbe, 0xde, 0, 1]);
        }
        // Padding, its length often wrong.
        2 => out[0] |= 0x20,
        3 => out[1] |= 0x80,
        _ => {}
    }
    len
}

/// A compound of reports, feedback and farewells with this sender.
pub fn rtcp_packet(entropy: &mut SeededEntropy, ssrc: u32, out: &mut [u8; BUFFER_LEN_BYTES]) -> usize {
    let media = entropy.next_u64() as u32;
    let mut len = rtcp::write_receiver_report(out, ssrc, &[], b"storm").unwrap_or(0);
    for _ in 0..entropy.below(4) {
        let rest = &mut out[len..LEN_MAX];
        let more = match entropy.below(5) {
            0 => rtcp::write_pli(rest, ssrc, media),
            1 => rtcp::write_fir(rest, ssrc, media, entropy.below(256) as u8),
            2 => rtcp::write_nack(rest, ssrc, media, (0..entropy.below(20)).map(|n| (n * 7) as u16)),
            3 => rtcp::write_remb(rest, ssrc, entropy.next_u64() >> entropy.below(64), &[media]),
            _ => rtcp::write_bye(rest, media),
        };
        len += more.unwrap_or(0);
    }
    len
}

/// Changes one to four things behind the first `kept` bytes; mostly the length stays.
pub fn change(entropy: &mut SeededEntropy, kept: usize, out: &mut [u8; BUFFER_LEN_BYTES], mut len: usize) -> usize {
    for _ in 0..=entropy.below(4) {
        if len <= kept {
            return len;
        }
        let at = kept + entropy.below((len - kept) as u32) as usize;
        match entropy.below(8) {
            0..=2 => out[at] ^= 1 << entropy.below(8),
            3 | 4 => out[at] = EDGES[entropy.below(EDGES.len() as u32) as usize],
            5 => out[at] = entropy.next_u64() as u8,
            6 => len = at,
            _ => {
                let more = (entropy.below(64) as usize).min(LEN_MAX.saturating_sub(len));
                entropy.fill(&mut out[len..len + more]);
                len += more;
            }
        }
    }
    len
}

#[cfg(test)]
mod tests {
    use gangway_dataplane::wire::{PacketKind, classify, rtcp::Compound, rtp::Rtp};

    use super::*;

    #[test]
    fn bases_are_valid_and_changes_differ_and_repeat() {
        let mut buffer = [0; BUFFER_LEN_BYTES];
        let (mut entropy, mut valid) = (SeededEntropy::new(1), 0);
        for sequence in 0..1000 {
            let len = rtp_packet(&mut entropy, 7, sequence, &mut buffer);
            assert_eq!(classify(&buffer[..len]), Ok(PacketKind::Rtp));
            valid += usize::from(Rtp::parse(&buffer[..len]).is_ok());
            let len = rtcp_packet(&mut entropy, 7, &mut buffer);
            assert!(Compound::parse(&buffer[..len]).is_ok());
        }
        assert!(valid > 800, "{valid} of 1000");
        let changed = |seed| {
            let mut buffer = [9; BUFFER_LEN_BYTES];
            let len = change(&mut SeededEntropy::new(seed), 2, &mut buffer, 100);
            assert_eq!(buffer[..2], [9, 9]);
            buffer[..len].to_vec()
        };
        assert_eq!(changed(3), changed(3));
        assert_ne!(changed(3), changed(4));
    }
}
