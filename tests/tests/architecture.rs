//! The rules of docs/ARCHITECTURE.md that a machine can check. A rule that breaks names the file and the line.

use std::{collections::BTreeSet, fs};

use cargo_metadata::{DependencyKind, MetadataCommand};
use gangway_tests::source::{SourceFile, root, rust_files};

const CRATES: [&str; 5] = ["shared", "dataplane", "control", "tests", "bench"];

/// Who may depend on whom inside the workspace.
const ALLOWED_EDGES: [(&str, &str); 8] = [
    ("gangway-dataplane", "gangway-shared"),
    ("gangway-control", "gangway-shared"),
    ("gangway-tests", "gangway-shared"),
    ("gangway-tests", "gangway-dataplane"),
    ("gangway-tests", "gangway-control"),
    ("gangway-bench", "gangway-shared"),
    ("gangway-bench", "gangway-dataplane"),
    ("gangway-bench", "gangway-control"),
];

/// The pure modules: a path prefix and what its edge to the world may name all the same.
const PURE: [(&str, &[&str]); 15] = [
    ("shared/src/", &[]),
    ("dataplane/src/wire/", &[]),
    ("dataplane/src/srtp/", &[]),
    ("dataplane/src/ice_lite.rs", &[]),
    // Its crate takes `Instant` and draws its own entropy; converted at this edge.
    ("dataplane/src/dtls/", &["Instant"]),
    ("dataplane/src/transform/", &[]),
    ("dataplane/src/generator/", &[]),
    ("dataplane/src/relay/", &[]),
    ("dataplane/src/arena.rs", &[]),
    ("dataplane/src/arena/", &[]),
    ("dataplane/src/registry.rs", &[]),
    ("dataplane/src/events.rs", &[]),
    ("control/src/sip/", &[]),
    ("control/src/sdp/", &[]),
    ("control/src/gateway/", &[]),
];

/// What a pure module never names. Addresses (`IpAddr`, `SocketAddr`) are data and fine.
const WORLD: [&str; 20] = [
    "UdpSocket",
    "TcpStream",
    "TcpListener",
    "UnixStream",
    "UnixListener",
    "UnixDatagram",
    "socket2",
    "tokio",
    "mio",
    "warp",
    "hyper",
    "Instant",
    "SystemTime",
    "getrandom",
    "OsRng",
    "thread_rng",
    "HashMap",
    "HashSet",
    "RandomState",
    "async",
];

/// Files of the programs that may hold `unsafe`.
fn may_be_unsafe(path: &str) -> bool {
    path.starts_with("dataplane/src/engine/")
        || path.starts_with("dataplane/src/media/ffi_")
        || [
            "dataplane/src/arena/memory.rs",
            "dataplane/src/affinity.rs",
            "dataplane/src/stats_map.rs",
            "bench/src/sys.rs",
        ]
        .contains(&path)
}

fn source_folders() -> Vec<String> {
    CRATES.iter().flat_map(|name| [format!("{name}/src"), format!("{name}/tests"), format!("{name}/benches")]).collect()
}

fn all_files() -> Vec<SourceFile> {
    let folders = source_folders();
    let files = rust_files(&folders.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(files.len() > 30, "only {} Rust files were found: the scan looks in the wrong place", files.len());
    files
}

fn assert_none(broken: Vec<String>, rule: &str) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn dependencies_point_one_way() {
    let metadata = MetadataCommand::new()
        .current_dir(root())
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .expect("cargo metadata");
    let members: BTreeSet<String> = metadata.packages.iter().map(|package| package.name.to_string()).collect();
    assert_eq!(members.len(), CRATES.len(), "workspace members: {members:?}");
    let mut broken = Vec::new();
    for package in &metadata.packages {
        for dependency in package.dependencies.iter().filter(|dependency| members.contains(dependency.name.as_str())) {
            let edge = (package.name.as_str(), dependency.name.as_str());
            if !ALLOWED_EDGES.contains(&edge) && edge.0 != edge.1 {
                broken.push(format!("{} -> {} ({})", edge.0, edge.1, dependency.kind));
            }
        }
        if package.name.as_str() == "gangway-shared" {
            let io = ["tokio", "mio", "socket2", "rustix", "libc", "getrandom"];
            broken.extend(
                package
                    .dependencies
                    .iter()
                    .filter(|dependency| {
                        dependency.kind == DependencyKind::Normal && io.contains(&dependency.name.as_str())
                    })
                    .map(|dependency| format!("shared does no I/O, yet depends on {}", dependency.name)),
            );
        }
    }
    assert_none(broken, "shared <- dataplane, shared <- control, tests and bench -> all; nothing else");
}

#[test]
fn pure_modules_name_no_world() {
    let mut broken = Vec::new();
    let mut seen = BTreeSet::new();
    for file in all_files() {
        let Some((prefix, exempt)) = PURE.iter().find(|(prefix, _)| file.path.starts_with(prefix)) else { continue };
        seen.insert(*prefix);
        if file.is_test_code() {
            continue;
        }
        for (line, name) in file.identifiers() {
            if WORLD.contains(&name.as_str()) && !exempt.contains(&name.as_str()) {
                broken.push(format!("{}:{line}: {name}", file.path));
            }
        }
    }
    assert!(seen.len() >= 10, "pure modules found: {seen:?}");
    assert_none(broken, "pure modules name no socket, runtime, clock, random source or randomly seeded map");
}

#[test]
fn no_file_is_longer_than_a_thousand_lines() {
    let broken = all_files()
        .iter()
        .filter(|file| file.text.lines().count() > 1000)
        .map(|file| format!("{}: {} lines", file.path, file.text.lines().count()))
        .collect();
    assert_none(broken, "a file ends at 1000 lines, its tests included");
}

#[test]
fn unsafe_stays_in_its_files() {
    let mut broken = Vec::new();
    for file in rust_files(&["shared/src", "control/src", "dataplane/src", "bench/src"]) {
        if may_be_unsafe(&file.path) {
            continue;
        }
        broken.extend(
            file.identifiers()
                .iter()
                .filter(|(_, name)| name == "unsafe")
                .map(|(line, _)| format!("{}:{line}", file.path)),
        );
    }
    assert_none(
        broken,
        "unsafe is allowed in engine/*, arena/memory.rs, affinity.rs, stats_map.rs, media/ffi_* and bench/src/sys.rs only",
    );
}

#[test]
fn nothing_is_left_for_later() {
    // Spelled in two halves, so that this file does not find itself.
    let marks =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("todo", "!("), concat!("unimple", "mented!("), "X\u{58}X"];
    let mut broken = Vec::new();
    for file in all_files() {
        for (number, line) in file.text.lines().enumerate() {
            if let Some(mark) = marks.iter().find(|mark| line.contains(**mark)) {
                broken.push(format!("{}:{}: {mark}", file.path, number + 1));
            }
        }
    }
    assert_none(broken, "no unfinished work in the tree");
}

#[test]
fn every_folder_is_named_in_the_architecture_page() {
    let page = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("docs/ARCHITECTURE.md");
    // A folder beside a module that holds nothing but its tests belongs to the module.
    let folders: BTreeSet<String> = all_files()
        .iter()
        .filter(|file| !(file.path.contains("/src/") && file.is_test_code()))
        .filter_map(|file| Some(file.path.rsplit_once('/')?.0.to_owned()))
        .collect();
    // By its path, or under its parent by its last name: `transaction/`.
    let is_named = |folder: &String| {
        page.contains(&format!("`{folder}`"))
            || page.contains(&format!("`{}/`", folder.rsplit('/').next().unwrap_or("")))
    };
    let broken = folders.into_iter().filter(|folder| !is_named(folder)).collect();
    assert_none(broken, "docs/ARCHITECTURE.md names every folder that holds sources");
}
