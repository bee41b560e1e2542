//! Sound that the relay makes by itself: silence, comfort noise and the tones of the telephone network, one payload at a time.
//!
//! Knows nothing of packets, routes and time: [`relay`](crate::relay) asks for the payload at a position.

use std::{f32::consts::TAU, time::Duration};

use gangway_shared::rcp::{Codec, Fill, Sound, limits::TONE_FREQUENCIES_MAX};

use crate::transform::g711::{ALAW_SILENCE, ULAW_SILENCE, linear_to_alaw, linear_to_ulaw};

/// Samples a millisecond of G.711.
const SAMPLES_PER_MS: u32 = 8;
/// Peak of each frequency of a tone: some 17 dB below the loudest sine of G.711, within the levels that ITU-T Q.35 gives tones.
const PEAK: f32 = 3200.0;
/// Payload bytes a millisecond of G.722.
const G722_BYTES_PER_MS: usize = 8;
/// In both sub-bands of G.722 the code of the smallest step up: whatever a decoder did before, it comes to rest at zero.
const G722_SILENCE: u8 = 0xfd;
/// TOC byte of Opus without its frame length and count: CELT at full band, one channel (RFC 6716 section 3.1).
const OPUS_CELT_10_MS: u8 = 30 << 3;
const OPUS_CELT_20_MS: u8 = 31 << 3;
/// TOC code 3: any number of frames, told in the next byte.
const OPUS_MANY: u8 = 3;
/// A CELT frame whose silence flag is set (RFC 6716 section 4.3, table 56).
const OPUS_SILENT_FRAME: [u8; 2] = [0xff, 0xfe];
/// Level of comfort noise in -dBov (RFC 3389 section 3.1): a quiet room, so that a line that is not dead sounds so.
const NOISE_LEVEL: u8 = 70;
/// Comfort noise is a state, not a stream: it is told anew every so many packet times.
const NOISE_PACKET_TIMES: u16 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Coding {
    Pcmu = 1,
    Pcma = 2,
    G722 = 3,
    Opus = 4,
    ComfortNoise = 5,
}

/// What a fill makes, as plain data: integers, of which all zero is nothing and none can be invalid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Recipe {
    /// `Coding as u8`; 0: nothing.
    coding: u8,
    /// Frequencies that sound together; 0: silence.
    frequency_count: u8,
    ptime_ms: u16,
    frequencies_hz: [u16; TONE_FREQUENCIES_MAX],
    on_ms: u16,
    off_ms: u16,
    clock: u32,
}

impl Recipe {
    /// How a validated fill is made.
    ///
    /// # Errors
    /// Why this generator cannot make it.
    pub fn of(fill: &Fill) -> Result<Self, &'static str> {
        let (coding, clock) = match (&fill.sound, &fill.payload.codec) {
            (_, Codec::Pcmu) => (Coding::Pcmu, 8000),
            (_, Codec::Pcma) => (Coding::Pcma, 8000),
            (Sound::Silence, Codec::G722) => (Coding::G722, 8000),
            (Sound::Silence, Codec::Opus) => (Coding::Opus, 48_000),
            (Sound::Silence, Codec::ComfortNoise) => (Coding::ComfortNoise, 8000),
            (Sound::Silence, _) => return Err("silence is made in PCMU, PCMA, G722, opus and CN"),
            (Sound::Tone(_), _) => return Err("tones are made in PCMU and PCMA"),
        };
        if fill.payload.clock != clock {
            return Err("this codec has another clock");
        }
        let mut recipe = Recipe { coding: coding as u8, ptime_ms: fill.ptime_ms, clock, ..Recipe::default() };
        if let Sound::Tone(tone) = &fill.sound {
            recipe.frequency_count = tone.frequencies_hz.len() as u8;
            recipe.frequencies_hz[..tone.frequencies_hz.len()].copy_from_slice(&tone.frequencies_hz);
            (recipe.on_ms, recipe.off_ms) = (tone.on_ms, tone.off_ms);
        }
        Ok(recipe)
    }

    /// False when there is nothing to make.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.coding != 0
    }

    /// RTP clock in Hz.
    #[must_use]
    pub fn clock(&self) -> u32 {
        self.clock
    }

    fn is_noise(&self) -> bool {
        self.coding == Coding::ComfortNoise as u8
    }

    /// Time from packet to packet, in milliseconds.
    #[must_use]
    pub fn interval_ms(&self) -> u16 {
        if self.is_noise() { self.ptime_ms * NOISE_PACKET_TIMES } else { self.ptime_ms }
    }

    /// Time from packet to packet.
    #[must_use]
    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms().into())
    }

    /// How much time the sound of one packet takes. Comfort noise takes none: it says what follows it.
    #[must_use]
    pub fn lasts(&self) -> Duration {
        if self.is_noise() { Duration::ZERO } else { self.interval() }
    }

    /// The position so many packets behind the one at `position_ms`.
    #[must_use]
    pub fn skip(&self, position_ms: u32, packets: u64) -> u32 {
        let cadence = u64::from(self.cadence_ms());
        let step = u64::from(self.ptime_ms) * (packets % cadence);
        ((u64::from(position_ms) + step) % cadence) as u32
    }

    /// After so long a tone is where it was: a whole number of periods of any frequency when it has no pause.
    fn cadence_ms(&self) -> u32 {
        if self.off_ms == 0 { 1000 } else { u32::from(self.on_ms) + u32::from(self.off_ms) }
    }

    /// Writes the payload at a position to the front of `buffer`; its length in bytes, at most 480.
    ///
    /// # Panics
    /// When `buffer` is shorter than the payload.
    pub fn write(&self, position_ms: u32, buffer: &mut [u8]) -> usize {
        let samples = usize::from(self.ptime_ms) * SAMPLES_PER_MS as usize;
        match self.coding {
            coding if coding == Coding::Pcmu as u8 => {
                self.write_samples(position_ms, &mut buffer[..samples], ULAW_SILENCE, linear_to_ulaw);
                samples
            }
            coding if coding == Coding::Pcma as u8 => {
                self.write_samples(position_ms, &mut buffer[..samples], ALAW_SILENCE, linear_to_alaw);
                samples
            }
            coding if coding == Coding::G722 as u8 => {
                let len = usize::from(self.ptime_ms) * G722_BYTES_PER_MS;
                buffer[..len].fill(G722_SILENCE);
                len
            }
            coding if coding == Coding::Opus as u8 => self.write_opus(buffer),
            coding if coding == Coding::ComfortNoise as u8 => {
                buffer[0] = NOISE_LEVEL;
                1
            }
            _ => 0,
        }
    }

    fn write_samples(&self, position_ms: u32, room: &mut [u8], silence: u8, encode: fn(i16) -> u8) {
        if self.frequency_count == 0 {
            return room.fill(silence);
        }
        let (cadence, on) = (self.cadence_ms() * SAMPLES_PER_MS, u32::from(self.on_ms) * SAMPLES_PER_MS);
        let mut at = position_ms * SAMPLES_PER_MS % cadence;
        for sample in room {
            let sounds = self.off_ms == 0 || at < on;
            *sample = if sounds { encode(self.sample(at)) } else { silence };
            at = (at + 1) % cadence;
        }
    }

    /// The tone `at` so many samples after its beginning.
    fn sample(&self, at: u32) -> i16 {
        let rate = SAMPLES_PER_MS * 1000;
        let wave = |hz: &u16| PEAK * (TAU * (u32::from(*hz) * at % rate) as f32 / rate as f32).sin();
        self.frequencies_hz[..usize::from(self.frequency_count)].iter().map(wave).sum::<f32>() as i16
    }

    /// Frames of 20 ms, of 10 ms where those do not fill the packet (RFC 6716 section 3.2).
    fn write_opus(&self, buffer: &mut [u8]) -> usize {
        let (toc, frame_ms) =
            if self.ptime_ms.is_multiple_of(20) { (OPUS_CELT_20_MS, 20) } else { (OPUS_CELT_10_MS, 10) };
        let frames = self.ptime_ms / frame_ms;
        let head = if frames == 1 {
            buffer[0] = toc;
            1
        } else {
            (buffer[0], buffer[1]) = (toc | OPUS_MANY, frames as u8);
            2
        };
        let len = head + usize::from(frames) * OPUS_SILENT_FRAME.len();
        buffer[head..len]
            .chunks_exact_mut(OPUS_SILENT_FRAME.len())
            .for_each(|frame| frame.copy_from_slice(&OPUS_SILENT_FRAME));
        len
    }
}

#[cfg(test)]
mod tests;
