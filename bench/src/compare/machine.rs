//! What stands beside every figure: where it was taken, and of what.

use std::{fs, process::Command};

use gangway_dataplane::affinity;
use serde::{Deserialize, Serialize};

/// Facts of machine and tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the processor.
    pub processor: String,
    /// Cores.
    pub cores: usize,
    /// Kernel release.
    pub kernel: String,
    /// Commit of the tree, with `-dirty` when it was changed.
    pub commit: String,
    /// Version of Debian's rtpengine, when it is installed.
    pub rtpengine: String,
    /// The same of Debian's Janus.
    #[serde(default)]
    pub janus: String,
    /// `release` or `debug`: only the first says something.
    pub profile: String,
    /// `real-time` or `fair`: how the systems under test were scheduled, all alike.
    #[serde(default)]
    pub scheduling: String,
    /// How the program was called.
    pub command: String,
    /// Seconds since 1970.
    pub at_unix_s: u64,
}

impl Machine {
    /// Whether figures of both may stand in one table: all is the same but when, and what was asked for.
    #[must_use]
    pub fn is_same(&self, other: &Machine) -> bool {
        let facts = |machine: &Machine| Machine { command: String::new(), at_unix_s: 0, ..machine.clone() };
        facts(self) == facts(other)
    }

    /// Looks.
    #[must_use]
    pub fn look() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
        let output = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success());
            output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
        };
        let version = |package: &str| output("dpkg-query", &["-W", "-f", "${Version}", package]);
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        let goes_first = std::thread::spawn(|| affinity::go_first().is_ok()).join().unwrap_or(false);
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        Machine {
            processor: model.unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            commit: output("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
            rtpengine: version("rtpengine-daemon"),
            janus: version("janus"),
            profile: profile.to_owned(),
            scheduling: if goes_first { "real-time" } else { "fair" }.to_owned(),
            command: format!("compare {}", arguments.join(" ")).trim_end().to_owned(),
            at_unix_s: crate::sys::wall_ns() / 1_000_000_000,
        }
    }
}
