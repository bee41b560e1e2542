//! The commands of the README as files: they parse, they can be run, and what they promise is where they say.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, process::Command};

use gangway_tests::source::{root, rust_files};

#[test]
fn the_scripts_parse_and_are_executable() {
    for script in ["run", "test", ".ci/run", "bench/run"] {
        let mode = fs::metadata(root().join(script)).expect(script).permissions().mode();
        assert_ne!(mode & 0o111, 0, "{script} is not executable");
    }
    for script in ["run", "test", ".ci/run", ".ci/install.sh", "bench/run"] {
        let checked = Command::new("bash").arg("-n").arg(root().join(script)).output().expect("bash");
        assert!(checked.status.success(), "{script}: {}", String::from_utf8_lossy(&checked.stderr));
    }
}

#[test]
fn continuous_integration_only_calls_test() {
    let script = fs::read_to_string(root().join(".ci/run")).expect(".ci/run");
    let last = script.lines().rfind(|line| !line.trim().is_empty()).expect("a command");
    assert_eq!(last, r#"exec ./test "$@""#);
    assert!(!script.contains("cargo") && !script.contains("apt"), "{script}");
}

#[test]
fn an_unknown_lane_is_refused_before_anything_runs() {
    let refused = Command::new(root().join("test")).arg("no-such-lane").output().expect("./test");
    assert_eq!(refused.status.code(), Some(2));
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(words.contains("./test LANE"), "{words}");
}

/// nextest's budgets and the script's are the same.
#[test]
fn the_lanes_have_the_same_budget_under_both_runners() {
    let script = fs::read_to_string(root().join("test")).expect("test");
    let nextest = fs::read_to_string(root().join(".config/nextest.toml")).expect(".config/nextest.toml");
    for (lane, minutes) in [("unit", 6), ("peers", 10), ("browser", 10)] {
        assert!(script.contains(&format!("[{lane}]={}", minutes * 60)), "{lane} in ./test");
        let profile = &nextest[nextest.find(&format!("[profile.{lane}]")).expect(lane)..];
        let budget = profile.lines().find(|line| line.starts_with("global-timeout")).expect("a budget");
        assert_eq!(budget, format!("global-timeout = \"{minutes}m\""), "{lane}");
    }
}

/// Cargo chooses features of the dependencies by the packages it is given: other packages than in the one compile mean a second one.
#[test]
fn every_command_is_given_the_whole_workspace() {
    let script = fs::read_to_string(root().join("test")).expect("test");
    let cargo = ["cargo clippy", "cargo build", "cargo test", "cargo nextest run"];
    let code = script.lines().map(|line| line.split("# ").next().unwrap_or_default());
    let commands: Vec<&str> = code.filter(|line| cargo.iter().any(|command| line.contains(command))).collect();
    assert_eq!(commands.len(), cargo.len(), "{commands:?}");
    assert!(commands.iter().all(|line| line.contains("--workspace") && !line.contains(" -p ")), "{commands:?}");
}

/// The README's two commands are the scripts, and the page of tests names tests that exist.
#[test]
fn every_test_named_in_the_testing_page_exists() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    assert!(readme.contains("\n./run\n") && readme.contains("\n./test\n"), "the README's two commands");
    let page = fs::read_to_string(root().join("docs/TESTING.md")).expect("docs/TESTING.md");
    let mut functions = BTreeSet::new();
    for file in rust_files(&["tests", "shared", "dataplane", "control", "bench"]) {
        for line in file.text.lines() {
            let line = line.trim_start();
            if let Some(rest) = ["pub fn ", "fn ", "async fn "].into_iter().find_map(|begin| line.strip_prefix(begin)) {
                functions.insert(rest.split('(').next().unwrap_or_default().to_owned());
            }
        }
    }
    // A test is named as `module::function`, within backticks.
    let named: Vec<&str> = page.split('`').skip(1).step_by(2).filter(|word| word.contains("::")).collect();
    assert!(named.len() > 40, "only {} tests are named", named.len());
    let missing: Vec<&&str> =
        named.iter().filter(|name| !functions.contains(name.rsplit("::").next().unwrap_or_default())).collect();
    assert!(missing.is_empty(), "docs/TESTING.md names tests that are not there: {missing:?}");
}

/// Debian's `gcc` alone has nothing to link with, and `rustup` brings no C library: what counts is whether a program links.
#[test]
fn a_compiler_that_cannot_link_is_completed() {
    let tools = tempfile::tempdir().expect("a folder");
    let tool = |name: &str, script: &str| {
        let path = tools.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect(name);
    };
    // Links once the C library was asked for.
    tool("cc", r#"cat >/dev/null; grep -q libc6-dev "$0.installed" 2>/dev/null"#);
    tool("apt-get", r#"echo "$@" >"$(dirname "$0")/cc.installed""#);
    tool("sudo", r#"shift; exec "$@""#);
    let path = format!("{}:{}", tools.path().display(), std::env::var("PATH").expect("PATH"));
    let shell = |script: &str| {
        let mut bash = Command::new("bash");
        bash.args(["-c", &format!(". ./.ci/install.sh; {script}")]).current_dir(root()).env("PATH", &path);
        bash.output().expect("bash")
    };
    let done = shell("need_compiler");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let asked = fs::read_to_string(tools.path().join("cc.installed")).expect("apt-get was called");
    assert!(asked.contains("gcc libc6-dev"), "{asked}");
    tool("apt-get", "exit 1");
    fs::remove_file(tools.path().join("cc.installed")).expect("the mark");
    let refused = shell("need_compiler");
    assert!(!refused.status.success());
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(words.contains("please install a C compiler: gcc libc6-dev"), "{words}");
}

/// A module or plugin of a peer has no command: it is looked for as a file.
#[test]
fn what_is_no_command_is_looked_for_as_a_file() {
    let script =
        ". ./.ci/install.sh; missing_packages /bin/s?:shell bash:bash /no/such/*.so:plugin no-such-command:program";
    let done = Command::new("bash").args(["-c", script]).current_dir(root()).output().expect("bash");
    assert_eq!(String::from_utf8_lossy(&done.stdout), "plugin\nprogram\n");
}
