//! H.264 payloads: the same NAL units say the same alone, in a STAP-A and in FU-As, and what is cut off says no more. Parameter sets are
//! found whole, and are the same when they were joined again.

use gangway_dataplane::wire::h264::{Units, parameter_sets, units, write_aggregate};

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
    Units {
        has_parameters: one.has_parameters || other.has_parameters,
        has_picture_parameters: one.has_picture_parameters || other.has_picture_parameters,
        has_idr: one.has_idr || other.has_idr,
        starts_idr: one.starts_idr || other.starts_idr,
        has_slice: one.has_slice || other.has_slice,
    }
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
        let is_first = nal.get(1).is_some_and(|byte| byte & 0x80 != 0);
        let has_slice = (1..=5).contains(&kind);
        let expected_alone = Units {
            has_parameters: kind == 7,
            has_picture_parameters: kind == 8,
            has_idr: kind == 5,
            starts_idr: kind == 5 && is_first,
            has_slice,
        };
        assert_eq!(alone, expected_alone);
        let sets: &[&[u8]] = if kind == 7 || kind == 8 { &[nal] } else { &[] };
        assert_eq!(parameter_sets(nal).collect::<Vec<_>>(), sets);
        expected = both(expected, alone);
        aggregate.extend([0, nal.len() as u8]);
        aggregate.extend(nal);
        assert_eq!(units(&[&[0x7c, 0x80 | kind], &nal[1..]].concat()), alone, "its first fragment");
        assert_eq!(
            units(&[&[0x7c, 0x40 | kind], &nal[1..]].concat()),
            Units { has_slice, ..Units::default() },
            "its last fragment"
        );
    }
    assert_eq!(units(&aggregate), expected);
    let sets: Vec<&[u8]> = nals.iter().map(Vec::as_slice).filter(|nal| matches!(nal[0] & 0x1f, 7 | 8)).collect();
    assert_eq!(parameter_sets(&aggregate).collect::<Vec<_>>(), sets, "whole units are found in an aggregate");
    let mut joined = vec![0; aggregate.len()];
    let len = write_aggregate(&mut joined, sets.iter().copied()).expect("there is room for a part of what was there");
    assert_eq!(parameter_sets(&joined[..len]).collect::<Vec<_>>(), sets, "and in one of ours");
}
