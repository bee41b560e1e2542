//! What stands beside every figure: where it was taken, and of what.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use crate::process::{Scheduling, sibling};

/// Facts of machine and tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the processor.
    pub processor: String,
    /// Cores.
    pub cores: usize,
    /// Kernel release.
    pub kernel: String,
    /// Commit of the tree that the program lies in; with `-dirty` when the tree was changed, with `-stale` when a source is newer than the
    /// programs, `unknown` outside of a tree.
    pub commit: String,
    /// Version of Debian's rtpengine, when it is installed.
    pub rtpengine: String,
    /// The same of Debian's Janus.
    #[serde(default)]
    pub janus: String,
    /// `release` or `debug`: only the first says something.
    pub profile: String,
    /// `real-time` where who asks for it may go before everything else, otherwise `fair`. Each point says what its system had.
    #[serde(default)]
    pub scheduling: String,
    /// How the program was called, paths cut to the names of their files.
    pub command: String,
    /// Seconds since 1970.
    pub at_unix_s: u64,
}

/// What a program of the bench found, with where it found it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured<T> {
    /// See there.
    pub machine: Machine,
    /// What was found.
    #[serde(flatten)]
    pub found: T,
}

impl<T: Serialize> Measured<T> {
    /// Looks at the machine.
    pub fn here(found: T) -> Self {
        Measured { machine: Machine::look(), found }
    }

    /// Writes it to standard output as JSON.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn print(&self) -> io::Result<()> {
        println!("{}", serde_json::to_string_pretty(self)?);
        Ok(())
    }
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
        let version = |package: &str| output("dpkg-query", &["-W", "-f", "${Version}", package]).unwrap_or_default();
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        Machine {
            processor: model.unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            commit: commit().unwrap_or_else(|| "unknown".to_owned()),
            rtpengine: version("rtpengine-daemon"),
            janus: version("janus"),
            profile: profile.to_owned(),
            scheduling: Scheduling::RealTime.allowed().name().to_owned(),
            command: without_folders(&std::env::args().collect::<Vec<_>>().join(" ")),
            at_unix_s: crate::sys::wall_ns() / 1_000_000_000,
        }
    }

    /// All of it in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let version = |found: &str| if found.is_empty() { "none".to_owned() } else { found.to_owned() };
        format!(
            "{}, {} cores, kernel {}, commit {}, {} build, {} scheduling allowed, rtpengine {}, janus {}: `{}`",
            self.processor,
            self.cores,
            self.kernel,
            self.commit,
            self.profile,
            self.scheduling,
            version(&self.rtpengine),
            version(&self.janus),
            self.command,
        )
    }
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn commit() -> Option<String> {
    let program = std::env::current_exe().ok()?;
    // Where it was built somewhere else, the tree that it is run in.
    let top = [program.parent()?.to_str()?, "."]
        .into_iter()
        .find_map(|folder| output("git", &["-C", folder, "rev-parse", "--show-toplevel"]).map(PathBuf::from))?;
    let git = |arguments: &[&str]| output("git", &[&["-C", top.to_str()?], arguments].concat());
    let commit = git(&["describe", "--always", "--dirty", "--abbrev=12"])?;
    // What was added and is not known to git yet is built all the same; results that lie there are not.
    let added = git(&["ls-files", "--others", "--exclude-standard"])?;
    let is_source = |path: &str| path.ends_with(".rs") || path.ends_with(".toml");
    let is_dirty = commit.ends_with("-dirty") || added.lines().any(is_source);
    let tracked = git(&["ls-files"])?;
    // What the programs that are measured with are built of; bench's own binaries are linked again when one of them changes.
    let built_of = tracked.lines().filter(|path| {
        is_source(path) && ["bench/src", "dataplane/src", "shared/src"].iter().any(|of| path.starts_with(of))
    });
    let newest = built_of.filter_map(|path| modified(&top.join(path))).max()?;
    let programs = [Some(program.clone()), sibling("gangway-dataplane").ok()];
    let built = programs.into_iter().flatten().filter_map(|path| modified(&path)).max()?;
    let bare = commit.trim_end_matches("-dirty");
    Some(format!("{bare}{}{}", if is_dirty { "-dirty" } else { "" }, if newest > built { "-stale" } else { "" }))
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

/// A text with each path in it cut to the name of its file: where things lie on somebody's machine is nobody's business.
#[must_use]
pub fn without_folders(text: &str) -> String {
    let name = |part: &str| match part.trim_end_matches('/').rsplit_once('/') {
        Some((_, name)) => name.to_owned(),
        None => part.to_owned(),
    };
    let mut out = String::new();
    for part in text.split_inclusive([' ', ',', '=', ':', '"', '\'']) {
        let (path, end) = match part.char_indices().last() {
            Some((at, last)) if [' ', ',', '=', ':', '"', '\''].contains(&last) => part.split_at(at),
            _ => (part, ""),
        };
        out.push_str(&name(path));
        out.push_str(end);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_names_files_and_no_folders() {
        let text = "/a/b/compare --out /c/results/x/ --systems uring,old-epoll=/d/e/gangway-dataplane@fair --from a/points.json,f/g";
        let cut = "compare --out x --systems uring,old-epoll=gangway-dataplane@fair --from points.json,g";
        assert_eq!(without_folders(text), cut);
        assert_eq!(without_folders("cannot open \"/a/b\": no"), "cannot open \"b\": no");
        assert!(!Machine::look().command.contains('/'));
    }

    #[test]
    fn a_commit_is_named_with_what_was_changed_since() {
        // The tests are run from a tree, and built from it; where there is no git it says so.
        let commit = Machine::look().commit;
        let bare = commit.trim_end_matches("-stale").trim_end_matches("-dirty");
        assert!(bare == "unknown" || bare.len() >= 12, "{commit}");
    }
}
