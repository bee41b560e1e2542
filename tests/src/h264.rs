//! H.264 for the tests of the relay: moving pictures encoded by x264, packets made of them and pictures made of packets (RFC 6184), and
//! FFmpeg's decoder as the judge. Nothing of it is shared with the dataplane, and no stream is kept: each run encodes its own.

use std::{
    collections::BTreeSet,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use crate::process::peer;

/// NAL unit types (ITU-T H.264 table 7-1).
const SEQUENCE_PARAMETERS: u8 = 7;
const PICTURE_PARAMETERS: u8 = 8;
const DELIMITER: u8 = 9;
/// Packet type (RFC 6184 table 1): several units together.
pub const STAP_A: u8 = 24;
/// Packet type: a piece of a unit.
pub const FU_A: u8 = 28;
const TYPE_MASK: u8 = 0x1f;

/// What to encode.
#[derive(Debug, Clone, Copy)]
pub struct Encoding {
    /// Pictures, 15 a second, 320x240.
    pub pictures: u32,
    /// An IDR picture every so many.
    pub key_every: u32,
    /// Longest slice, so that every unit fits a packet of its own.
    pub slice_max_bytes: Option<u32>,
    /// The picture in its complementary colours, so that two clips have no picture in common.
    pub is_negative: bool,
}

/// An encoded clip.
#[derive(Debug, Clone)]
pub struct Clip {
    /// The access units in order, each as its NAL units.
    pub access_units: Vec<Vec<Vec<u8>>>,
    /// The pictures that they decode to, as MD5 of their samples.
    pub pictures: Vec<String>,
}

impl Clip {
    /// Encodes in Constrained Baseline, with parameter sets before each IDR picture; `None` when FFmpeg is not installed.
    ///
    /// # Panics
    /// When FFmpeg has no x264.
    pub fn encode(encoding: &Encoding) -> Option<Self> {
        let program = peer("ffmpeg")?;
        let (pictures, key_every) = (encoding.pictures.to_string(), encoding.key_every.to_string());
        let slices = encoding.slice_max_bytes.map_or(String::new(), |max| format!(":slice-max-size={max}"));
        let mut command = Command::new(&program);
        command.args(["-v", "error", "-f", "lavfi", "-i", "testsrc2=size=320x240:rate=15", "-frames:v", &pictures]);
        if encoding.is_negative {
            command.args(["-vf", "negate"]);
        }
        command.args(["-pix_fmt", "yuv420p", "-c:v", "libx264", "-profile:v", "baseline", "-preset", "veryfast"]);
        command.args(["-threads", "1", "-g", &key_every, "-keyint_min", &key_every, "-sc_threshold", "0"]);
        command.args(["-x264-params", &format!("aud=1{slices}"), "-f", "h264", "-"]);
        let encoded = command.stdin(Stdio::null()).output().expect("ffmpeg runs");
        assert!(encoded.status.success(), "ffmpeg: {}", String::from_utf8_lossy(&encoded.stderr));
        let mut access_units: Vec<Vec<Vec<u8>>> = Vec::new();
        for unit in units(&encoded.stdout) {
            if unit[0] & TYPE_MASK == DELIMITER {
                access_units.push(Vec::new());
            } else {
                access_units.last_mut().expect("a delimiter comes first").push(unit.to_vec());
            }
        }
        let mut clip = Self { access_units, pictures: Vec::new() };
        clip.pictures = decode(&program, &annex_b(clip.access_units.iter().flatten()));
        assert_eq!(clip.pictures.len(), clip.access_units.len(), "one picture an access unit");
        Some(clip)
    }

    /// The sequence and picture parameter sets that it begins with.
    pub fn parameter_sets(&self) -> Vec<&[u8]> {
        self.access_units[0].iter().filter(|unit| is_parameters(unit)).map(Vec::as_slice).collect()
    }

    /// The same without parameter sets from this access unit on.
    #[must_use]
    pub fn without_parameters(mut self, from: usize) -> Self {
        for access_unit in &mut self.access_units[from..] {
            access_unit.retain(|unit| !is_parameters(unit));
        }
        self
    }
}

fn is_parameters(unit: &[u8]) -> bool {
    [SEQUENCE_PARAMETERS, PICTURE_PARAMETERS].contains(&(unit[0] & TYPE_MASK))
}

/// The NAL units of a byte stream (ITU-T H.264 annex B).
fn units(stream: &[u8]) -> Vec<&[u8]> {
    let starts: Vec<usize> = (3..=stream.len()).filter(|at| stream[at - 3..*at] == [0, 0, 1]).collect();
    let ends = starts.iter().skip(1).map(|next| next - 3).chain([stream.len()]);
    starts.iter().zip(ends).map(|(start, end)| &stream[*start..end]).map(without_trailing_zeros).collect()
}

fn without_trailing_zeros(unit: &[u8]) -> &[u8] {
    let len = unit.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &unit[..len]
}

/// A byte stream of these units.
fn annex_b<'a>(units: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<u8> {
    units.into_iter().flat_map(|unit| [&[0, 0, 0, 1], unit.as_slice()].concat()).collect()
}

/// The pictures of a byte stream, as MD5 of their samples, in the order that the decoder gives them out.
fn decode(ffmpeg: &Path, stream: &[u8]) -> Vec<String> {
    let mut command = Command::new(ffmpeg);
    command.args([
        "-v",
        "error",
        "-threads",
        "1",
        "-f",
        "h264",
        "-i",
        "-",
        "-fps_mode",
        "passthrough",
        "-f",
        "framemd5",
        "-",
    ]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("ffmpeg runs");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let stream = stream.to_vec();
    // A decoder that gives up closes its input.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&stream)));
    let decoded = child.wait_with_output().expect("ffmpeg ends");
    writer.join().expect("the writer does not panic");
    let lines = String::from_utf8_lossy(&decoded.stdout).into_owned();
    let hashes = lines.lines().filter(|line| !line.starts_with('#'));
    hashes.filter_map(|line| Some(line.rsplit(',').next()?.trim().to_owned())).collect()
}

/// RFC 6184 section 6: which packets a stream is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `packetization-mode=0`: a packet for each unit.
    SingleUnits,
    /// `packetization-mode=1`: small units together in STAP-A, large ones in FU-A.
    NonInterleaved,
}

/// The payloads of an access unit, at most `max` bytes each.
///
/// # Panics
/// When a unit does not fit a packet of its own in [`Mode::SingleUnits`].
pub fn payloads(access_unit: &[Vec<u8>], mode: Mode, max: usize) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    let mut waiting: Vec<&[u8]> = Vec::new();
    for unit in access_unit {
        if mode == Mode::SingleUnits {
            assert!(unit.len() <= max, "a unit of {} bytes", unit.len());
            payloads.push(unit.clone());
            continue;
        }
        let together: usize = 1 + waiting.iter().map(|unit| 2 + unit.len()).sum::<usize>();
        if together + 2 + unit.len() > max {
            aggregate(&mut waiting, &mut payloads);
        }
        if unit.len() > max {
            fragment(unit, max, &mut payloads);
        } else {
            waiting.push(unit);
        }
    }
    aggregate(&mut waiting, &mut payloads);
    payloads
}

/// One unit as it is, several as STAP-A (section 5.7.1).
fn aggregate(waiting: &mut Vec<&[u8]>, payloads: &mut Vec<Vec<u8>>) {
    if waiting.len() > 1 {
        let importance = waiting.iter().map(|unit| unit[0] & 0x60).max().expect("there are units");
        let mut payload = vec![importance | STAP_A];
        for unit in waiting.iter() {
            payload.extend(u16::try_from(unit.len()).expect("it fits a packet").to_be_bytes());
            payload.extend(*unit);
        }
        payloads.push(payload);
    } else {
        payloads.extend(waiting.iter().map(|unit| unit.to_vec()));
    }
    waiting.clear();
}

/// FU-A (section 5.8).
fn fragment(unit: &[u8], max: usize, payloads: &mut Vec<Vec<u8>>) {
    let pieces: Vec<&[u8]> = unit[1..].chunks(max - 2).collect();
    for (at, piece) in pieces.iter().enumerate() {
        let start = if at == 0 { 0x80 } else { 0 };
        let end = if at + 1 == pieces.len() { 0x40 } else { 0 };
        payloads.push([&[unit[0] & 0x60 | FU_A, start | end | unit[0] & TYPE_MASK], *piece].concat());
    }
}

/// Makes units of payloads and judges what they decode to.
#[derive(Debug, Default)]
pub struct Depacketizer {
    units: Vec<Vec<u8>>,
    fragment: Option<Vec<u8>>,
    sequence: Option<u16>,
    /// Packet types that came, by their number.
    pub types: BTreeSet<u8>,
}

impl Depacketizer {
    /// Takes the next packet. After a gap the unit that was being put together is given up.
    pub fn take(&mut self, sequence: u16, payload: &[u8]) {
        if self.sequence.replace(sequence).is_some_and(|last| last.wrapping_add(1) != sequence) {
            self.fragment = None;
        }
        let kind = payload[0] & TYPE_MASK;
        self.types.insert(kind);
        match kind {
            STAP_A => {
                let mut rest = &payload[1..];
                while let [high, low, behind @ ..] = rest {
                    let (unit, behind) = behind.split_at(usize::from(u16::from_be_bytes([*high, *low])));
                    self.units.push(unit.to_vec());
                    rest = behind;
                }
            }
            FU_A => {
                if payload[1] & 0x80 != 0 {
                    self.fragment = Some(vec![payload[0] & 0x60 | payload[1] & TYPE_MASK]);
                }
                let Some(unit) = &mut self.fragment else { return };
                unit.extend(&payload[2..]);
                if payload[1] & 0x40 != 0 {
                    self.units.extend(self.fragment.take());
                }
            }
            _ => self.units.push(payload.to_vec()),
        }
    }

    /// The pictures that a decoder makes of what came.
    ///
    /// # Panics
    /// When FFmpeg is not installed any more.
    pub fn pictures(&self) -> Vec<String> {
        let program = peer("ffmpeg").expect("it encoded the clip");
        decode(&program, &annex_b(&self.units))
    }
}
