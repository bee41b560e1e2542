//! One direction of a call: which packet comes next, and what is made of each that arrives.

use gangway_dataplane::wire::rtp;

use crate::{call::Media, sys::BUFFER_LEN_BYTES};

/// Nanoseconds between two packets of sound.
pub const AUDIO_PERIOD_NS: u64 = 20_000_000;

/// Nanoseconds between two pictures.
pub const FRAME_PERIOD_NS: u64 = 33_333_333;

/// Bytes of a packet of sound, header and payload.
const AUDIO_LEN_BYTES: usize = 172;

/// Bytes of a packet of video, header and payload.
const VIDEO_LEN_BYTES: usize = 1200;

/// Packets of a picture, and of every [`KEY_EVERY`]-th: together 1.5 Mbit/s.
const PICTURE_PACKETS: u32 = 5;
const KEY_PACKETS: u32 = 24;
const KEY_EVERY: u32 = 90;
/// Pictures by which each stream is ahead of the one before: calls do not begin, and send their large pictures, at one moment.
const KEY_APART: u32 = 37;

/// Bytes that name stream and packet, at the start of a payload behind what the codec needs there.
const TAG_LEN: usize = 8;

/// Bytes that payloads are cut from.
const PATTERN_LEN: usize = 4096;

/// What is known of a packet that was sent.
#[derive(Clone, Copy, Default)]
struct Sent {
    number: u32,
    at_ns: u64,
    came: bool,
}

/// What a packet that came turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// New and whole.
    Good {
        /// Nanoseconds since it was sent.
        took_ns: u64,
        /// Whether one with a higher number came before it.
        late: bool,
        /// Whether its sequence number does not follow from the others'.
        breaks: bool,
    },
    /// It came before.
    Duplicate,
    /// So old that nothing is known of it any more.
    Forgotten,
    /// Another payload, payload type or length than was sent.
    Corrupt,
}

/// See the module text.
pub struct Stream {
    /// Index among all streams; part of every payload.
    pub number: u32,
    /// End that sends it, by index.
    pub from: usize,
    /// End that hears it.
    pub to: usize,
    /// SSRC that it is sent with.
    pub ssrc: u32,
    media: Media,
    first_sequence: u16,
    next: u32,
    frame: u32,
    window: Box<[Sent]>,
    highest: Option<u32>,
    offset: Option<u16>,
    /// Packets of the measured time: from this number on.
    measured: std::ops::Range<u32>,
    /// New and whole ones among them.
    pub received_measured: u64,
    /// Packets that its hearer got and that are none of it, since the run began.
    pub strange: u64,
    /// When the last good packet came, and the longest time without one since the measurement began.
    last_ns: u64,
    /// Nanoseconds.
    pub longest_gap_ns: u64,
}

impl Stream {
    /// A stream of which nothing was sent.
    #[must_use]
    pub fn new(number: u32, (from, to): (usize, usize), media: Media) -> Self {
        let window = match media {
            Media::Audio => 256,
            Media::Video => 1024,
        };
        Stream {
            number,
            from,
            to,
            ssrc: ssrc_of(number),
            media,
            first_sequence: (number as u16).wrapping_mul(7919),
            next: 0,
            frame: number.wrapping_mul(KEY_APART) % KEY_EVERY,
            window: vec![Sent::default(); window].into(),
            highest: None,
            offset: None,
            measured: u32::MAX..u32::MAX,
            received_measured: 0,
            strange: 0,
            last_ns: 0,
            longest_gap_ns: 0,
        }
    }

    /// What flows in it.
    #[must_use]
    pub fn media(&self) -> Media {
        self.media
    }

    /// Its payload type.
    #[must_use]
    pub fn payload_type(&self) -> u8 {
        match self.media {
            Media::Audio => 0,
            Media::Video => 96,
        }
    }

    /// Packets that go out at once when it is its turn.
    #[must_use]
    pub fn burst(&self) -> u32 {
        match self.media {
            Media::Audio => 1,
            Media::Video if self.frame.is_multiple_of(KEY_EVERY) => KEY_PACKETS,
            Media::Video => PICTURE_PACKETS,
        }
    }

    /// Ends a turn.
    pub fn next_frame(&mut self) {
        self.frame = self.frame.wrapping_add(1);
    }

    /// Packets sent so far.
    #[must_use]
    pub fn sent(&self) -> u32 {
        self.next
    }

    /// The RTP timestamp of the next packet.
    #[must_use]
    pub fn timestamp(&self) -> u32 {
        match self.media {
            Media::Audio => self.next.wrapping_mul(160),
            Media::Video => self.frame.wrapping_mul(3000),
        }
    }

    /// Writes the next packet, the `at`-th of `of` of its turn, in clear, and returns its length.
    pub fn write(&mut self, at: u32, of: u32, now_ns: u64, pattern: &[u8], out: &mut [u8; BUFFER_LEN_BYTES]) -> usize {
        let number = self.next;
        let len = self.len();
        rtp::begin_header(out);
        rtp::set_payload_type(out, self.payload_type());
        rtp::set_marker(out, self.media == Media::Video && at + 1 == of);
        rtp::set_sequence(out, self.first_sequence.wrapping_add(number as u16));
        rtp::set_timestamp(out, self.timestamp());
        rtp::set_ssrc(out, self.ssrc);
        let tag = self.tag_at();
        if self.media == Media::Video {
            // A slice in fragments (RFC 6184 section 5.8): type 28; start, end, and type of the slice.
            let slice = if self.frame.is_multiple_of(KEY_EVERY) { 5 } else { 1 };
            let ends = u8::from(at == 0) << 7 | u8::from(at + 1 == of) << 6;
            out[rtp::FIXED_HEADER_LEN..tag].copy_from_slice(&[0x7c, ends | slice]);
        }
        out[tag..tag + 4].copy_from_slice(&self.number.to_be_bytes());
        out[tag + 4..tag + TAG_LEN].copy_from_slice(&number.to_be_bytes());
        out[tag + TAG_LEN..len].copy_from_slice(self.filling(number, pattern));
        let at = number as usize % self.window.len();
        self.window[at] = Sent { number, at_ns: now_ns, came: false };
        self.next = number.wrapping_add(1);
        len
    }

    fn len(&self) -> usize {
        match self.media {
            Media::Audio => AUDIO_LEN_BYTES,
            Media::Video => VIDEO_LEN_BYTES,
        }
    }

    fn tag_at(&self) -> usize {
        match self.media {
            Media::Audio => rtp::FIXED_HEADER_LEN,
            Media::Video => rtp::FIXED_HEADER_LEN + 2,
        }
    }

    fn filling<'a>(&self, number: u32, pattern: &'a [u8]) -> &'a [u8] {
        let len = self.len() - self.tag_at() - TAG_LEN;
        let at = self.number.wrapping_mul(31).wrapping_add(number.wrapping_mul(7)) as usize % (PATTERN_LEN - len);
        &pattern[at..at + len]
    }

    /// Judges a packet in clear that came to the stream's receiving end at `at_ns`.
    pub fn judge(&mut self, bytes: &[u8], at_ns: u64, pattern: &[u8]) -> Judged {
        let tag = self.tag_at();
        if bytes.len() != self.len() || bytes[0] != 0x80 || bytes[1] & 0x7f != self.payload_type() {
            return Judged::Corrupt;
        }
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let number = word(tag + 4);
        if word(tag) != self.number || number >= self.next || bytes[tag + TAG_LEN..] != *self.filling(number, pattern) {
            return Judged::Corrupt;
        }
        let at = number as usize % self.window.len();
        let sent = &mut self.window[at];
        if sent.number != number {
            return Judged::Forgotten;
        }
        if std::mem::replace(&mut sent.came, true) {
            return Judged::Duplicate;
        }
        let took_ns = at_ns.saturating_sub(sent.at_ns);
        let late = self.highest.is_some_and(|highest| number < highest);
        self.highest = self.highest.max(Some(number));
        let offset = rtp::sequence_of(bytes).wrapping_sub(number as u16);
        let breaks = self.offset.replace(offset).is_some_and(|before| before != offset);
        self.received_measured += u64::from(self.measured.contains(&number));
        if self.last_ns > 0 {
            self.longest_gap_ns = self.longest_gap_ns.max(at_ns.saturating_sub(self.last_ns));
        }
        self.last_ns = at_ns;
        Judged::Good { took_ns, late, breaks }
    }

    /// From the next packet on the measurement counts.
    pub fn begin_measuring(&mut self) {
        self.measured = self.next..u32::MAX;
        self.received_measured = 0;
        self.longest_gap_ns = 0;
    }

    /// From the next packet on it does not any more. A silence that lasts until now counts as one.
    pub fn end_measuring(&mut self, now_ns: u64) {
        self.measured.end = self.next;
        if self.last_ns > 0 {
            self.longest_gap_ns = self.longest_gap_ns.max(now_ns.saturating_sub(self.last_ns));
        }
    }

    /// Packets of the measured time.
    #[must_use]
    pub fn sent_measured(&self) -> u64 {
        u64::from(self.measured.end.min(self.next).saturating_sub(self.measured.start))
    }
}

/// SSRC of the stream of this number.
pub(super) fn ssrc_of(number: u32) -> u32 {
    0x1000_0000 + number
}

/// Bytes that no two packets near each other share.
#[must_use]
pub fn pattern() -> Vec<u8> {
    let mut bytes = vec![0; PATTERN_LEN];
    gangway_shared::entropy::Entropy::fill(&mut gangway_shared::entropy::SeededEntropy::new(0x0070_6174), &mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(media: Media, count: usize) -> (Stream, Vec<Vec<u8>>, Vec<u8>) {
        let (mut stream, pattern) = (Stream::new(3, (0, 1), media), pattern());
        stream.begin_measuring();
        let mut buffer = [0; BUFFER_LEN_BYTES];
        let packets = (0..count)
            .map(|n| {
                let len = stream.write(0, 1, 1000 * n as u64, &pattern, &mut buffer);
                buffer[..len].to_vec()
            })
            .collect();
        (stream, packets, pattern)
    }

    #[test]
    fn each_fate_of_a_packet_is_told() {
        for media in [Media::Audio, Media::Video] {
            let (mut stream, sent, pattern) = packets(media, 5);
            let good = |took_ns, late, breaks| Judged::Good { took_ns, late, breaks };
            assert_eq!(stream.judge(&sent[0], 500, &pattern), good(500, false, false));
            assert_eq!(stream.judge(&sent[0], 600, &pattern), Judged::Duplicate);
            assert_eq!(stream.judge(&sent[2], 2500, &pattern), good(500, false, false));
            assert_eq!(stream.judge(&sent[1], 2600, &pattern), good(1600, true, false));
            let mut changed = sent[3].clone();
            *changed.last_mut().unwrap() ^= 1;
            assert_eq!(stream.judge(&changed, 3000, &pattern), Judged::Corrupt);
            assert_eq!(stream.judge(&sent[3][..100], 3000, &pattern), Judged::Corrupt);
            let mut renumbered = sent[3].clone();
            rtp::set_sequence(&mut renumbered, 9);
            assert_eq!(stream.judge(&renumbered, 3700, &pattern), good(700, false, true));
            stream.end_measuring(4000);
            assert_eq!((stream.sent_measured(), stream.received_measured), (5, 4));
            assert_eq!(stream.longest_gap_ns, 2000);
        }
    }

    #[test]
    fn a_packet_that_is_older_than_the_window_is_forgotten() {
        let (mut stream, sent, pattern) = packets(Media::Audio, 257);
        assert_eq!(stream.judge(&sent[0], 1, &pattern), Judged::Forgotten);
        assert!(matches!(stream.judge(&sent[1], 1, &pattern), Judged::Good { .. }));
    }

    #[test]
    fn video_has_its_bit_rate() {
        let mut stream = Stream::new(0, (0, 1), Media::Video);
        let mut packets = 0;
        for _ in 0..KEY_EVERY {
            packets += stream.burst();
            stream.next_frame();
        }
        let bits = u64::from(packets) * VIDEO_LEN_BYTES as u64 * 8;
        let kbps = bits * 1_000_000 / (FRAME_PERIOD_NS * u64::from(KEY_EVERY));
        assert!((1450..1550).contains(&kbps), "{kbps} kbit/s");
    }
}
