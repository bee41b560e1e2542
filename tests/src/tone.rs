//! Is this tone in that sound? WAV files are cut into short windows and each is compared with one frequency (Goertzel).

use std::{f64::consts::TAU, fs, path::Path, time::Duration};

/// Sound as mono samples between -1 and 1.
#[derive(Debug, Clone, Default)]
pub struct Sound {
    /// Samples a second.
    pub rate_hz: u32,
    /// Mono samples; several channels are averaged.
    pub samples: Vec<f32>,
}

/// Length of the windows that are looked at: the beep of Chromium's fake microphone lasts no longer.
const WINDOW_MS: u32 = 20;
/// From the start of one window to the start of the next.
const STEP_MS: u32 = 5;
/// Share of a window's energy that must lie at the frequency for the tone to count as heard in it.
const PURE: f64 = 0.6;
/// Mean square below which a window is silence.
const AUDIBLE: f64 = 1e-5;

impl Sound {
    /// Reads a WAV file of 16-bit PCM. Tolerates a data chunk whose length was not yet written, as in a recording that is
    /// still going on; `None` while there is no header.
    pub fn read_wav(file: &Path) -> Option<Self> {
        let bytes = fs::read(file).ok()?;
        let word = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let long = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        if bytes.get(..4)? != b"RIFF" || bytes.get(8..12)? != b"WAVE" {
            return None;
        }
        let (mut at, mut channels, mut rate_hz) = (12, 0, 0);
        loop {
            let (name, length) = (bytes.get(at..at + 4)?, long(at + 4)? as usize);
            at += 8;
            match name {
                b"fmt " => {
                    channels = usize::from(word(at + 2)?);
                    rate_hz = long(at + 4)?;
                    if word(at + 14)? != 16 {
                        return None;
                    }
                }
                b"data" => {
                    let frames = bytes[at..].chunks_exact(2 * channels.max(1));
                    let samples = frames.map(|frame| mean(frame, channels)).collect();
                    return Some(Self { rate_hz, samples });
                }
                _ => {}
            }
            at += length + length % 2;
        }
    }

    /// A sine of `hz` at half of full scale.
    pub fn sine(hz: f64, rate_hz: u32, length: Duration) -> Self {
        let count = (length.as_secs_f64() * f64::from(rate_hz)) as usize;
        let sample = |at: usize| (0.5 * (TAU * hz * at as f64 / f64::from(rate_hz)).sin()) as f32;
        Self { rate_hz, samples: (0..count).map(sample).collect() }
    }

    /// Mono samples of 16 bits, little endian, without a header.
    pub fn from_pcm(rate_hz: u32, bytes: &[u8]) -> Self {
        Self { rate_hz, samples: bytes.chunks_exact(2).map(|frame| mean(frame, 1)).collect() }
    }

    /// As a WAV file of 16-bit PCM.
    ///
    /// # Panics
    /// When it is longer than a WAV file can say.
    pub fn to_wav(&self) -> Vec<u8> {
        let length = u32::try_from(self.samples.len() * 2).expect("a short sound");
        let mut wav = b"RIFF".to_vec();
        wav.extend((36 + length).to_le_bytes());
        wav.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
        wav.extend(self.rate_hz.to_le_bytes());
        wav.extend((2 * self.rate_hz).to_le_bytes());
        wav.extend(b"\x02\0\x10\0data");
        wav.extend(length.to_le_bytes());
        wav.extend(self.samples.iter().flat_map(|sample| ((sample * 32767.0) as i16).to_le_bytes()));
        wav
    }

    /// For how long the tone is heard: windows that are audible and have most of their energy at `hz`.
    pub fn heard(&self, hz: f64) -> Duration {
        let size = (self.rate_hz * WINDOW_MS / 1000) as usize;
        let step = (self.rate_hz * STEP_MS / 1000) as usize;
        if step == 0 {
            return Duration::ZERO;
        }
        let windows = self.samples.windows(size).step_by(step);
        let heard = windows.filter(|window| share(window, self.rate_hz, hz) > PURE).count();
        Duration::from_millis(u64::from(STEP_MS)) * u32::try_from(heard).unwrap_or(u32::MAX)
    }
}

fn mean(frame: &[u8], channels: usize) -> f32 {
    let sum: f32 = frame.chunks_exact(2).map(|pair| f32::from(i16::from_le_bytes([pair[0], pair[1]])) / 32768.0).sum();
    sum / channels.max(1) as f32
}

/// Share of the window's energy at `hz`, 0 for silence. Looks 10 Hz to both sides as well, because clocks differ.
fn share(window: &[f32], rate_hz: u32, hz: f64) -> f64 {
    let energy: f64 = window.iter().map(|sample| f64::from(*sample).powi(2)).sum();
    let count = window.len() as f64;
    if energy / count < AUDIBLE {
        return 0.0;
    }
    let power = [-10.0, 0.0, 10.0].map(|off| goertzel(window, rate_hz, hz + off)).into_iter().fold(0.0, f64::max);
    2.0 * power / (count * energy)
}

/// Squared magnitude of the window's correlation with `hz`.
fn goertzel(window: &[f32], rate_hz: u32, hz: f64) -> f64 {
    let factor = 2.0 * (TAU * hz / f64::from(rate_hz)).cos();
    let (mut last, mut before) = (0.0, 0.0);
    for sample in window {
        (last, before) = (f64::from(*sample) + factor * last - before, last);
    }
    last * last + before * before - factor * last * before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_is_heard_at_its_frequency_only() {
        let tone = Sound::sine(660.0, 8000, Duration::from_secs(1));
        assert!(tone.heard(660.0) > Duration::from_millis(900), "{:?}", tone.heard(660.0));
        assert_eq!(tone.heard(400.0), Duration::ZERO);
    }

    #[test]
    fn what_is_written_is_read() {
        let tone = Sound::sine(660.0, 8000, Duration::from_secs(1));
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), tone.to_wav()).unwrap();
        let read = Sound::read_wav(file.path()).unwrap();
        assert_eq!((read.rate_hz, read.samples.len(), read.heard(660.0)), (8000, 8000, tone.heard(660.0)));
    }

    #[test]
    fn silence_and_noise_hold_no_tone() {
        let silence = Sound { rate_hz: 8000, samples: vec![0.0; 8000] };
        assert_eq!(silence.heard(660.0), Duration::ZERO);
        let mut state = 1_u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as f32 / 65536.0 - 0.5
        });
        let noise = Sound { rate_hz: 8000, samples: noise.take(8000).collect() };
        assert_eq!(noise.heard(660.0), Duration::ZERO);
    }

    #[test]
    fn a_recording_that_goes_on_is_read_to_its_end() {
        let mut wav =
            b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x02\0\x40\x1f\0\0\0\x7d\0\0\x04\0\x10\0data\0\0\0\0".to_vec();
        wav.extend([0xff, 0x7f, 0xff, 0x7f].repeat(3));
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &wav).unwrap();
        let sound = Sound::read_wav(file.path()).unwrap();
        assert_eq!((sound.rate_hz, sound.samples.len()), (8000, 3));
        assert!(sound.samples[2] > 0.99);
        fs::write(file.path(), &wav[..10]).unwrap();
        assert!(Sound::read_wav(file.path()).is_none());
    }
}
