//! H.264 payloads: the same NAL units say the same alone, in a STAP-A and in FU-As, and what is cut off says no more.

use gangway_dataplane::wire::h264::{Units, units};

use super::Target;

/// See the module.
pub const TARGET: Target = Target {
    name: "h264",
    seeds,
    words: &[b"\x67\x42", b"\x68\xce", b"\x65\x88", b"\x78\x00\x02", b"\x7c\x85", b"\x7c\x45"],
    law,
};

fn seeds() -> Vec<Vec<u8>> {
    let seeds: [&[u8]; 4] = [
        b"\x67\x42\xe0\x1f",
        b"\x78\x00\x04\x67\x42\xe0\x1f\x00\x02\x68\xce\x00\x02\x65\x88",
        b"\x7c\x85\x88\x84",
        b"\x7c\x45\x88\x84",
    ];
    seeds.iter().map(|seed| seed.to_vec()).collect()
}

fn both(one: Units, other: Units) -> Units {
    Units { has_parameters: one.has_parameters || other.has_parameters, has_idr: one.has_idr || other.has_idr }
}

fn law(input: &[u8]) {
    let whole = units(input);
    for len in 0..input.len().min(64) {
        let part = units(&input[..len]);
        assert_eq!(both(part, whole), whole, "{len} bytes say more than all of them");
    }
    // The input as NAL units of up to 16 bytes, none of which is an aggregate or a fragment.
    let nals: Vec<Vec<u8>> = input
        .chunks(16)
        .map(|chunk| [&[chunk[0] & 0x60 | (chunk[0] & 0x1f).clamp(1, 23)], &chunk[1..]].concat())
        .collect();
    let mut expected = Units::default();
    let mut aggregate = vec![0x78];
    for nal in &nals {
        let alone = units(nal);
        let kind = nal[0] & 0x1f;
        assert_eq!(alone, Units { has_parameters: kind == 7, has_idr: kind == 5 });
        expected = both(expected, alone);
        aggregate.extend([0, nal.len() as u8]);
        aggregate.extend(nal);
        assert_eq!(units(&[&[0x7c, 0x80 | kind], &nal[1..]].concat()), alone, "its first fragment");
        assert_eq!(units(&[&[0x7c, 0x40 | kind], &nal[1..]].concat()), Units::default(), "its last fragment");
    }
    assert_eq!(units(&aggregate), expected);
}
