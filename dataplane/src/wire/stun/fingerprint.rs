//! FINGERPRINT (RFC 8489 section 14.7): the CRC-32 of ISO 3309, masked so that another protocol's CRC does not pass for it.

use super::{FINGERPRINT_ATTRIBUTE_LEN, HEADER_LEN};

const MASK: u32 = 0x5354_554e;
const POLYNOMIAL: u32 = 0xedb8_8320;

static TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

fn update(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

/// The value for a message that is `before` followed by the attribute; the length in the header is taken as such.
pub(super) fn of(before: &[u8]) -> u32 {
    let len = (before.len() - HEADER_LEN + FINGERPRINT_ATTRIBUTE_LEN) as u16;
    let crc = update(u32::MAX, &before[..2]);
    let crc = update(crc, &len.to_be_bytes());
    !update(crc, &before[4..]) ^ MASK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_standard_check_string() {
        assert_eq!(!update(u32::MAX, b"123456789"), 0xcbf4_3926);
    }
}
