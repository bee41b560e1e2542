//! RCP frames: what decodes is encoded to something that decodes to the same; what follows a frame stays; a valid program stays
//! valid.

use std::{fs, path::PathBuf};

use gangway_shared::rcp::{
    ControlMessage, DataplaneMessage, Request,
    frame::{self, FRAME_MAX_BYTES, HEADER_BYTES},
};
use serde::{Serialize, de::DeserializeOwned};

use super::Target;

/// See the module.
pub const TARGET: Target = Target {
    name: "rcp",
    seeds,
    words: &[
        b"\"type\":\"request\"",
        b"\"verb\":\"put\"",
        b"\"kind\":\"rtp\"",
        b"null",
        b"-1",
        b"1e999",
        b"\\u0000",
        b"[]",
        b"{}",
        b"\"\"",
    ],
    law,
};

fn seeds() -> Vec<Vec<u8>> {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/golden/v1");
    let files = fs::read_dir(golden).expect("the golden files are in the tree");
    let mut paths: Vec<_> = files.map(|file| file.expect("a readable folder").path()).collect();
    paths.sort();
    let frames = paths.iter().map(|path| {
        let body = fs::read(path).expect("a readable golden file");
        let len = u32::try_from(body.len()).expect("a golden file is small");
        [len.to_be_bytes().as_slice(), &body].concat()
    });
    frames.collect()
}

fn law(input: &[u8]) {
    if let Some(ControlMessage::Request { request: Request::Put { program, .. }, .. }) =
        round_trip::<ControlMessage>(input)
    {
        let refused = program.validate().err();
        assert_eq!(program.clone().validate().err(), refused, "validation depends on more than the program");
        if let Some(error) = refused {
            assert!(error.field.starts_with("program."), "the refusal names no field: {error}");
        }
    }
    round_trip::<DataplaneMessage>(input);
}

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(input: &[u8]) -> Option<T> {
    let mut buffer = input.to_vec();
    let message = frame::decode::<T>(&mut buffer).ok()??;
    assert!(input.ends_with(&buffer), "bytes after the frame were changed");
    assert!(input.len() - buffer.len() <= HEADER_BYTES + FRAME_MAX_BYTES, "a frame above the limit was taken");
    let mut again = Vec::new();
    frame::encode(&message, &mut again).expect("what came in a frame fits a frame");
    let decoded = frame::decode::<T>(&mut again).expect("our own frame decodes").expect("our own frame is whole");
    assert_eq!(decoded, message);
    Some(message)
}
