//! What stands beside every figure: where it was taken, and of what.

use std::{fs, process::Command};

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
    /// How the program was called.
    pub command: String,
    /// Seconds since 1970.
    pub at_unix_s: u64,
}

impl Machine {
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
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        Machine {
            processor: model.unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            commit: output("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
            rtpengine: version("rtpengine-daemon"),
            janus: version("janus"),
            profile: profile.to_owned(),
            command: format!("compare {}", arguments.join(" ")).trim_end().to_owned(),
            at_unix_s: crate::sys::wall_ns() / 1_000_000_000,
        }
    }
}
