//! VP8 payloads: what a key frame is does not depend on how long its descriptor is, and nothing behind the frame's first byte is
//! looked at.

use gangway_dataplane::wire::vp8::starts_key_frame;

use super::Target;

/// See the module.
pub const TARGET: Target =
    Target { name: "vp8", seeds, words: &[b"\x10\x50", b"\x90\x80\x91\x22", b"\x90\xe0", b"\x10\x51"], law };

fn seeds() -> Vec<Vec<u8>> {
    let seeds: [&[u8]; 4] = [
        b"\x10\x50\x00\x00\x9d\x01\x2a",
        b"\x90\x80\x91\x22\x10\x00\x00\x9d\x01\x2a",
        b"\x90\xe0\x11\x01\x40\x31\x00\x00",
        b"\x00\xffgoes on",
    ];
    seeds.iter().map(|seed| seed.to_vec()).collect()
}

fn law(input: &[u8]) {
    let is_key = starts_key_frame(input);
    if is_key {
        assert_eq!(input[0] & 0x17, 0x10, "a key frame starts with its first partition");
        let first = (1..=input.len()).find(|len| starts_key_frame(&input[..*len])).expect("the whole is one");
        assert!((2..=7).contains(&first), "told by byte {first}");
        assert!((first..input.len()).all(|len| starts_key_frame(&input[..len])), "more bytes change nothing");
        let mut inter = input.to_vec();
        inter[first - 1] |= 1;
        assert!(!starts_key_frame(&inter), "the P bit decides");
    }
    // The same frame behind each form of descriptor.
    let Some((header, frame)) = input.split_first() else { return };
    let wanted = frame.first().is_some_and(|byte| byte & 1 == 0);
    for descriptor in [&[0x10][..], &[0xb0, 0x0f], &[0x90, 0x80, header & 0x7f], &[0x90, 0xf0, header | 0x80, 1, 2, 3]]
    {
        assert_eq!(starts_key_frame(&[descriptor, frame].concat()), wanted, "{descriptor:02x?}");
        let later = [&[descriptor[0] | 1], &descriptor[1..], frame].concat();
        assert!(!starts_key_frame(&later), "another partition");
    }
}
