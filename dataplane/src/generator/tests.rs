use gangway_shared::rcp::{Payload, Tone};

use super::*;
use crate::transform::g711::{alaw_to_linear, ulaw_to_linear};

fn fill(codec: Codec, clock: u32, ptime_ms: u16, sound: Sound) -> Fill {
    Fill { sound, payload: Payload { pt: 0, codec, clock, channels: None, fmtp: None }, ptime_ms, start_after_ms: 0 }
}

fn silence(codec: Codec, clock: u32, ptime_ms: u16) -> Vec<u8> {
    written(&Recipe::of(&fill(codec, clock, ptime_ms, Sound::Silence)).unwrap(), 0)
}

fn tone(codec: Codec, frequencies_hz: &[u16], on_ms: u16, off_ms: u16) -> Recipe {
    let tone = Tone { frequencies_hz: frequencies_hz.to_vec(), on_ms, off_ms };
    Recipe::of(&fill(codec, 8000, 20, Sound::Tone(tone))).unwrap()
}

fn written(recipe: &Recipe, position_ms: u32) -> Vec<u8> {
    let mut buffer = [0; 500];
    let len = recipe.write(position_ms, &mut buffer);
    buffer[..len].to_vec()
}

/// So many packets, decoded.
fn heard(recipe: &Recipe, packets: u32, decode: fn(u8) -> i16) -> Vec<i16> {
    let mut position = 0;
    let mut samples = Vec::new();
    for _ in 0..packets {
        samples.extend(written(recipe, position).into_iter().map(decode));
        position = recipe.skip(position, 1);
    }
    samples
}

/// Power of one frequency by Goertzel, as a share of all power.
fn share(samples: &[i16], hz: f64) -> f64 {
    let step = 2.0 * (std::f64::consts::TAU * hz / 8000.0).cos();
    let (mut last, mut before) = (0.0, 0.0);
    for sample in samples {
        (last, before) = (f64::from(*sample) + step * last - before, last);
    }
    let power = last * last + before * before - step * last * before;
    let total: f64 = samples.iter().map(|sample| f64::from(*sample).powi(2)).sum();
    2.0 * power / (total * samples.len() as f64)
}

#[test]
fn silence_is_silence_in_both_laws_and_as_long_as_a_packet() {
    for ptime_ms in [10, 20, 60] {
        let len = usize::from(ptime_ms) * 8;
        assert_eq!(silence(Codec::Pcmu, 8000, ptime_ms), vec![ULAW_SILENCE; len]);
        assert_eq!(silence(Codec::Pcma, 8000, ptime_ms), vec![ALAW_SILENCE; len]);
        assert_eq!(silence(Codec::G722, 8000, ptime_ms).len(), len);
    }
}

/// The decoder of ITU-T G.722 as far as silence needs it: what the codes of one octet add to prediction and to the logarithmic
/// scale factors (tables 7, 11 and 13, sections 6.2.1.3 and 6.2.2.2). Codes whose quantised difference is zero leave the predictor at rest.
#[test]
fn silence_in_g722_is_the_code_that_adds_nothing() {
    let octet = silence(Codec::G722, 8000, 20)[0];
    let (lower, higher) = (usize::from(octet & 0x3f), usize::from(octet >> 6));
    // Table 7: the four-bit code that prediction uses, its quantiser output, and the step of the scale factor.
    let four_bits =
        [0, -20456, -12896, -8968, -6288, -4240, -2584, -1200, 20456, 12896, 8968, 6288, 4240, 2584, 1200, 0];
    assert_eq!(four_bits[lower >> 2], 0, "prediction of the lower band gets nothing");
    // The lower band's output of the six-bit code at the smallest scale factor, 32; the higher band's at 8.
    let (six_bits, two_bits) = ([(61, 136)], [-7408, -1616, 7408, 1616]);
    assert_eq!(six_bits.iter().find(|(code, _)| *code == lower).map(|(_, output)| (32 * output) >> 15), Some(0));
    assert_eq!((8 * two_bits[higher]) >> 15, 0);
    // Both scale factors shrink with it: -60 in the lower band, -214 in the higher.
    let shrinks = [false, true, false, true];
    assert!(shrinks[higher], "the step of the higher band is the small one");
}

#[test]
fn silence_in_opus_has_frames_for_each_packet_time() {
    assert_eq!(silence(Codec::Opus, 48_000, 20), [0xf8, 0xff, 0xfe]);
    assert_eq!(silence(Codec::Opus, 48_000, 10), [0xf0, 0xff, 0xfe]);
    assert_eq!(silence(Codec::Opus, 48_000, 60), [0xfb, 3, 0xff, 0xfe, 0xff, 0xfe, 0xff, 0xfe]);
    assert_eq!(silence(Codec::Opus, 48_000, 30)[..2], [0xf3, 3]);
}

#[test]
fn comfort_noise_is_told_seldom_and_takes_no_time() {
    let recipe = Recipe::of(&fill(Codec::ComfortNoise, 8000, 20, Sound::Silence)).unwrap();
    assert_eq!(written(&recipe, 0), [NOISE_LEVEL]);
    assert_eq!((recipe.interval_ms(), recipe.lasts()), (160, Duration::ZERO));
    let pcmu = Recipe::of(&fill(Codec::Pcmu, 8000, 20, Sound::Silence)).unwrap();
    assert_eq!((pcmu.interval_ms(), pcmu.lasts()), (20, Duration::from_millis(20)));
}

#[test]
fn a_tone_has_its_frequency_in_both_laws_without_a_break_from_packet_to_packet() {
    for (codec, decode) in [(Codec::Pcmu, ulaw_to_linear as fn(u8) -> i16), (Codec::Pcma, alaw_to_linear)] {
        let samples = heard(&tone(codec, &[425], 1000, 4000), 50, decode);
        assert!(share(&samples, 425.0) > 0.99, "{}", share(&samples, 425.0));
        let peak = samples.iter().map(|sample| sample.unsigned_abs()).max().unwrap();
        assert!((3000..3500).contains(&peak), "{peak}");
    }
}

#[test]
fn two_frequencies_sound_together() {
    let samples = heard(&tone(Codec::Pcmu, &[440, 480], 2000, 4000), 100, ulaw_to_linear);
    for hz in [440.0, 480.0] {
        assert!((0.45..0.55).contains(&share(&samples, hz)), "{hz}: {}", share(&samples, hz));
    }
}

#[test]
fn a_tone_keeps_its_cadence_and_begins_again_with_its_sound() {
    let recipe = tone(Codec::Pcma, &[425], 1010, 3990);
    let samples = heard(&recipe, 500, alaw_to_linear);
    let loud = |from_ms: usize, to_ms: usize| samples[from_ms * 8..to_ms * 8].iter().any(|s| s.unsigned_abs() > 1000);
    for round in [0, 5000] {
        assert!(loud(round, round + 20) && loud(round + 990, round + 1009));
        assert!(!loud(round + 1010, round + 5000), "pause of round {round}");
    }
}

#[test]
fn a_tone_without_a_pause_never_breaks_off() {
    let samples = heard(&tone(Codec::Pcmu, &[425], 333, 0), 150, ulaw_to_linear);
    assert!(share(&samples, 425.0) > 0.99);
}

#[test]
fn what_cannot_be_made_is_refused() {
    let ring = || Sound::Tone(Tone { frequencies_hz: vec![425], on_ms: 1000, off_ms: 4000 });
    assert!(Recipe::of(&fill(Codec::Opus, 48_000, 20, ring())).is_err());
    assert!(Recipe::of(&fill(Codec::G729, 8000, 20, Sound::Silence)).is_err());
    assert!(Recipe::of(&fill(Codec::Pcmu, 16_000, 20, Sound::Silence)).is_err(), "another clock");
    assert!(!Recipe::default().is_set());
}
