//! G.711 for the test phone, from the formulas of ITU-T G.711: independent of the gateway's tables.

/// One u-law octet of a sample between -1 and 1.
pub fn to_ulaw(sample: f32) -> u8 {
    const BIAS: i32 = 0x84;
    let linear = (sample.clamp(-1.0, 1.0) * 32635.0) as i32;
    let magnitude = linear.abs().min(32635) + BIAS;
    let exponent = 7 - (magnitude.leading_zeros() as i32 - 17).clamp(0, 7);
    let mantissa = (magnitude >> (exponent + 3)) & 0x0f;
    let sign = if linear < 0 { 0x80 } else { 0 };
    !((sign | (exponent << 4) | mantissa) as u8)
}

/// The sample of a u-law octet.
pub fn from_ulaw(octet: u8) -> f32 {
    let bits = i32::from(!octet);
    let magnitude = ((((bits & 0x0f) << 3) + 0x84) << ((bits >> 4) & 7)) - 0x84;
    let linear = if bits & 0x80 != 0 { -magnitude } else { magnitude };
    linear as f32 / 32768.0
}

/// One A-law octet of a sample between -1 and 1.
pub fn to_alaw(sample: f32) -> u8 {
    let linear = (sample.clamp(-1.0, 1.0) * 32767.0) as i32;
    let magnitude = (if linear < 0 { -linear - 1 } else { linear }) >> 4;
    let exponent = (28 - (magnitude | 0x0f).leading_zeros() as i32).clamp(0, 7);
    let mantissa = if exponent == 0 { magnitude & 0x0f } else { (magnitude >> (exponent - 1)) & 0x0f };
    let sign = if linear < 0 { 0 } else { 0x80 };
    ((sign | (exponent << 4) | mantissa) as u8) ^ 0x55
}

/// The sample of an A-law octet.
pub fn from_alaw(octet: u8) -> f32 {
    let bits = i32::from(octet ^ 0x55);
    let (exponent, mantissa) = ((bits >> 4) & 7, bits & 0x0f);
    let magnitude = if exponent == 0 { (mantissa << 4) + 8 } else { ((mantissa << 4) + 0x108) << (exponent - 1) };
    let linear = if bits & 0x80 == 0 { -magnitude } else { magnitude };
    linear as f32 / 32768.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_octet_comes_back() {
        for octet in 0..=255_u8 {
            // u-law has two zeros.
            if octet != 0x7f {
                assert_eq!(to_ulaw(from_ulaw(octet)), octet, "u-law {octet:#x}");
            }
            assert_eq!(to_alaw(from_alaw(octet)), octet, "A-law {octet:#x}");
        }
    }

    #[test]
    fn known_values() {
        // ITU-T G.711 tables 1a and 2a: the extreme values and the smallest ones.
        assert_eq!((from_ulaw(0x80) * 32768.0, from_ulaw(0x00) * 32768.0), (32124.0, -32124.0));
        assert_eq!((from_alaw(0xaa) * 32768.0, from_alaw(0x2a) * 32768.0), (32256.0, -32256.0));
        assert_eq!((from_alaw(0xd5) * 32768.0, from_alaw(0x55) * 32768.0), (8.0, -8.0));
    }
}
