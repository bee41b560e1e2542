//! PCMU and PCMA (ITU-T G.711) into each other by table, sample by sample, in place.
//!
//! The tables go through linear values: a code is expanded to its output value, and the other law's code is the one in whose
//! interval of decision values that lies. The sign is carried over as it is, so both halves of a wave are treated alike.

/// PCMU of silence.
pub const ULAW_SILENCE: u8 = 0xff;

/// PCMA of silence.
pub const ALAW_SILENCE: u8 = 0xd5;

/// Set in the codes of positive samples, in both laws.
const SIGN_BIT: u8 = 0x80;

/// Even bits of A-law are inverted on the wire.
const ALAW_INVERSION: u8 = 0x55;

/// The middle of u-law's first segment lies this far below zero, on the 14-bit scale.
const ULAW_BIAS: u32 = 33;

/// Largest 14-bit magnitude that does not leave u-law's last segment.
const ULAW_CLIP: u32 = 8158;

static ALAW_TO_ULAW: [u8; 256] = table(true);
static ULAW_TO_ALAW: [u8; 256] = table(false);

const fn table(from_alaw: bool) -> [u8; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let code = index as u8;
        table[index] = if from_alaw {
            code & SIGN_BIT | ulaw_of_magnitude(alaw_magnitude(code))
        } else {
            code & SIGN_BIT | alaw_of_magnitude(ulaw_magnitude(code))
        };
        index += 1;
    }
    table
}

/// Turns PCMA samples into PCMU samples.
pub fn alaw_to_ulaw(samples: &mut [u8]) {
    for sample in samples {
        *sample = ALAW_TO_ULAW[usize::from(*sample)];
    }
}

/// Turns PCMU samples into PCMA samples.
pub fn ulaw_to_alaw(samples: &mut [u8]) {
    for sample in samples {
        *sample = ULAW_TO_ALAW[usize::from(*sample)];
    }
}

/// The output value of a u-law code (G.711 table 2), on the 16-bit scale: four times the table's 14-bit value.
#[must_use]
pub const fn ulaw_to_linear(code: u8) -> i16 {
    signed(code, ulaw_magnitude(code))
}

/// The output value of an A-law code (G.711 table 1), on the 16-bit scale: eight times the table's 13-bit value.
#[must_use]
pub const fn alaw_to_linear(code: u8) -> i16 {
    signed(code, alaw_magnitude(code))
}

/// The u-law code of a 16-bit linear value.
#[must_use]
pub const fn linear_to_ulaw(linear: i16) -> u8 {
    sign_of(linear) | ulaw_of_magnitude(linear.unsigned_abs() as u32)
}

/// The A-law code of a 16-bit linear value.
#[must_use]
pub const fn linear_to_alaw(linear: i16) -> u8 {
    sign_of(linear) | alaw_of_magnitude(linear.unsigned_abs() as u32)
}

const fn sign_of(linear: i16) -> u8 {
    if linear < 0 { 0 } else { SIGN_BIT }
}

const fn signed(code: u8, magnitude: u32) -> i16 {
    let magnitude = magnitude as i16;
    if code & SIGN_BIT == 0 { -magnitude } else { magnitude }
}

const fn ulaw_magnitude(code: u8) -> u32 {
    // All bits are inverted on the wire.
    let (segment, step) = (!code >> 4 & 7, !code & 15);
    4 * (((2 * step as u32 + ULAW_BIAS) << segment) - ULAW_BIAS)
}

const fn alaw_magnitude(code: u8) -> u32 {
    let code = code ^ ALAW_INVERSION;
    let (segment, step) = (code >> 4 & 7, code as u32 & 15);
    // The first two segments have the same steps.
    8 * if segment == 0 { 2 * step + 1 } else { (2 * step + 33) << (segment - 1) }
}

/// The code without its sign bit.
const fn ulaw_of_magnitude(magnitude: u32) -> u8 {
    let magnitude = magnitude / 4;
    let biased = ULAW_BIAS + if magnitude > ULAW_CLIP { ULAW_CLIP } else { magnitude };
    // The highest of 13 bits that is set tells the segment, the four bits below it the step.
    let segment = 26 - biased.leading_zeros();
    let step = biased >> (segment + 1) & 15;
    !((segment << 4 | step) as u8) & !SIGN_BIT
}

/// The code without its sign bit.
const fn alaw_of_magnitude(magnitude: u32) -> u8 {
    // 32768 is one more than the scale has.
    let magnitude = if magnitude > 0x7fff { 0x7ff } else { magnitude >> 4 };
    let code = if magnitude < 32 {
        magnitude
    } else {
        let segment = 28 - magnitude.leading_zeros();
        segment << 4 | magnitude >> (segment - 1) & 15
    };
    code as u8 ^ ALAW_INVERSION
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lower decision value and output value of one code, on the 16-bit scale.
    type Interval = (i32, i32);

    /// The 128 positive codes of u-law, built up step by step as G.711 table 2a does.
    fn ulaw() -> Vec<Interval> {
        let mut intervals = vec![(0, 0)];
        let mut decision = 1;
        for segment in 0..8 {
            let step = 2 << segment;
            for _ in 0..if segment == 0 { 15 } else { 16 } {
                intervals.push((4 * decision, 4 * (decision + step / 2)));
                decision += step;
            }
        }
        intervals
    }

    /// The 128 positive codes of A-law, built up step by step as G.711 table 1a does.
    fn alaw() -> Vec<Interval> {
        let mut intervals = Vec::new();
        let mut decision = 0;
        for segment in 0..8 {
            let step = if segment == 0 { 2 } else { 1 << segment };
            for _ in 0..16 {
                intervals.push((8 * decision, 8 * (decision + step / 2)));
                decision += step;
            }
        }
        intervals
    }

    /// The output value of the interval in which a linear value lies, with its sign.
    fn quantized(intervals: &[Interval], linear: i32) -> i32 {
        let above = intervals.partition_point(|(decision, _)| *decision <= linear.abs());
        intervals[above - 1].1 * if linear < 0 { -1 } else { 1 }
    }

    #[test]
    fn expansion_is_the_table_of_output_values_for_every_code() {
        assert_eq!((ulaw().len(), alaw().len()), (128, 128));
        for (index, ((_, ulaw), (_, alaw))) in ulaw().into_iter().zip(alaw()).enumerate() {
            let index = index as u8;
            let read = |linear: i16| i32::from(linear);
            assert_eq!((read(ulaw_to_linear(0xff - index)), read(ulaw_to_linear(0x7f - index))), (ulaw, -ulaw));
            assert_eq!((read(alaw_to_linear(0xd5 ^ index)), read(alaw_to_linear(0x55 ^ index))), (alaw, -alaw));
        }
        assert_eq!((ulaw_to_linear(0x80), alaw_to_linear(0xaa)), (32_124, 32_256));
    }

    #[test]
    fn compression_takes_the_interval_of_the_standard_for_every_sample() {
        let (ulaw, alaw) = (ulaw(), alaw());
        for linear in i16::MIN..=i16::MAX {
            let wide = i32::from(linear);
            assert_eq!(i32::from(ulaw_to_linear(linear_to_ulaw(linear))), quantized(&ulaw, wide), "u-law of {linear}");
            assert_eq!(i32::from(alaw_to_linear(linear_to_alaw(linear))), quantized(&alaw, wide), "A-law of {linear}");
        }
    }

    #[test]
    fn each_code_is_mapped_through_its_output_value_and_keeps_its_sign() {
        let mut mapped: Vec<u8> = (0..=255).collect();
        alaw_to_ulaw(&mut mapped);
        for (code, mapped) in (0..=255u8).zip(mapped) {
            let expected = quantized(&ulaw(), i32::from(alaw_to_linear(code)));
            assert_eq!(i32::from(ulaw_to_linear(mapped)), expected, "A-law {code:#x} to u-law {mapped:#x}");
            assert_eq!(code & SIGN_BIT, mapped & SIGN_BIT);
        }
        let mut mapped: Vec<u8> = (0..=255).collect();
        ulaw_to_alaw(&mut mapped);
        for (code, mapped) in (0..=255u8).zip(mapped) {
            // u-law has two zeros; the sign bit tells them apart where the value cannot.
            let expected = quantized(&alaw(), i32::from(ulaw_to_linear(code)).abs());
            assert_eq!(i32::from(alaw_to_linear(mapped)).abs(), expected, "u-law {code:#x} to A-law {mapped:#x}");
            assert_eq!(code & SIGN_BIT, mapped & SIGN_BIT);
        }
    }

    #[test]
    fn silence_stays_silence() {
        let mut samples = [ULAW_SILENCE; 160];
        ulaw_to_alaw(&mut samples);
        assert_eq!(samples, [ALAW_SILENCE; 160]);
        // A-law has no zero: its quietest code lies in the interval of the second u-law code.
        alaw_to_ulaw(&mut samples);
        assert_eq!(samples, [0xfe; 160]);
    }
}
