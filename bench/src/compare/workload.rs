//! The workloads of the comparison.

use gangway_shared::rcp::SrtpSuite;

use crate::{
    call::Media,
    load::{Shape, Side},
};

/// A workload of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// For tables and `--only`.
    pub name: String,
    /// Its calls.
    pub shape: Shape,
}

impl Workload {
    fn new(name: &str, side: Side, media: Media, talking: u32, silent: u32) -> Self {
        Workload { name: name.to_owned(), shape: Shape { talking, silent, side, media } }
    }

    /// Whether it goes through a whole gateway, signalling included.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.name == "gateway"
    }

    /// The same with another number of talking calls.
    #[must_use]
    pub fn with_calls(&self, talking: u32) -> Self {
        Workload { shape: Shape { talking, ..self.shape }, ..self.clone() }
    }
}

/// SRTP by AES in counter mode.
const CM: Side = Side::Srtp(SrtpSuite::AesCm128HmacSha1_80);
/// SRTP by AES-128 in Galois/counter mode.
const GCM: Side = Side::Srtp(SrtpSuite::AeadAes128Gcm);

/// All workloads; with `quick` the smallest of each kind.
#[must_use]
pub fn all(quick: bool) -> Vec<Workload> {
    let mut all = Vec::new();
    let mut add = |name: &str, side, media, sizes: &[(u32, u32)]| {
        let sizes = if quick { &sizes[..1] } else { sizes };
        all.extend(sizes.iter().map(|&(talking, silent)| Workload::new(name, side, media, talking, silent)));
    };
    let plain = |sizes: &[u32]| sizes.iter().map(|&calls| (calls, 0)).collect::<Vec<_>>();
    add("rtp", Side::Plain, Media::Audio, &plain(&[100, 500, 1000, 2000]));
    add("cm", CM, Media::Audio, &plain(&[100, 700, 1500]));
    add("gcm", GCM, Media::Audio, &plain(&[100, 700, 1500]));
    add("video", Side::Plain, Media::Video, &plain(&[50, 200]));
    add("browser", Side::Ice, Media::Audio, &plain(&[100, 700]));
    add("gateway", Side::Ice, Media::Audio, &plain(&[20, 100]));
    if !quick {
        add("silent", Side::Ice, Media::Audio, &[(500, 0), (500, 4500)]);
    }
    all
}

/// What memory is measured with: many calls of which few talk, each between a browser and a SIP phone as the gateway has them.
#[must_use]
pub fn memory(quick: bool) -> Workload {
    let calls = if quick { 500 } else { 5000 };
    Workload::new("memory", Side::Ice, Media::Audio, 10, calls - 10)
}

/// What the most calls of a core are searched with.
#[must_use]
pub fn searches() -> Vec<Workload> {
    vec![Workload::new("rtp", Side::Plain, Media::Audio, 0, 0), Workload::new("cm", CM, Media::Audio, 0, 0)]
}
