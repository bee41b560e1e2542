//! What deny.toml says about licences and banned crates, checked where cargo-deny is not installed.

use std::{collections::BTreeSet, fs};

use cargo_metadata::MetadataCommand;
use gangway_tests::source::root;

/// The strings of the array that starts with `name = [` in deny.toml.
fn list(text: &str, name: &str) -> BTreeSet<String> {
    let start = text.find(&format!("\n{name} = [")).unwrap_or_else(|| panic!("deny.toml has no list {name}"));
    let body = &text[start..start + text[start..].find("\n]").expect("the list ends")];
    body.lines()
        .skip(2)
        .filter_map(|line| line.trim().strip_prefix('"')?.split('"').next())
        .map(str::to_owned)
        .collect()
}

/// Whether an SPDX expression can be met with allowed licences only: one side of an OR, both sides of an AND.
fn is_met(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.trim();
    for (operator, any) in [(" OR ", true), (" AND ", false)] {
        let parts = split_outside_brackets(expression, operator);
        if parts.len() > 1 {
            return if any {
                parts.iter().any(|part| is_met(part, allowed))
            } else {
                parts.iter().all(|part| is_met(part, allowed))
            };
        }
    }
    match expression.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')) {
        Some(inner) => is_met(inner, allowed),
        None => allowed.contains(expression),
    }
}

fn split_outside_brackets<'a>(text: &'a str, operator: &str) -> Vec<&'a str> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0, 0);
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 && text[at..].starts_with(operator) && at >= from {
            parts.push(&text[from..at]);
            from = at + operator.len();
        }
    }
    parts.push(&text[from..]);
    parts
}

#[test]
fn every_dependency_has_an_allowed_licence() {
    let text = fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    let allowed = list(&text, "allow");
    assert!(allowed.contains("MIT") && allowed.contains("Apache-2.0"), "{allowed:?}");
    let metadata = MetadataCommand::new()
        .current_dir(root())
        .other_options(["--offline", "--filter-platform", "x86_64-unknown-linux-gnu"].map(str::to_owned))
        .exec()
        .expect("cargo metadata");
    assert!(metadata.packages.len() > 50, "only {} packages", metadata.packages.len());
    let broken: Vec<String> = metadata
        .packages
        .iter()
        .filter_map(|package| {
            // Older manifests write `MIT/Apache-2.0`, which means OR.
            let licence = package.license.as_deref().unwrap_or("none").replace('/', " OR ");
            (!is_met(&licence, &allowed)).then(|| format!("{} {}: {licence}", package.name, package.version))
        })
        .collect();
    assert!(broken.is_empty(), "licences that deny.toml does not allow:\n  {}", broken.join("\n  "));
}

#[test]
fn no_banned_crate_is_used() {
    let text = fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    let banned: Vec<&str> =
        text.lines().filter_map(|line| line.trim().strip_prefix("{ name = \"")?.split('"').next()).collect();
    assert!(!banned.is_empty(), "deny.toml bans nothing: is it still read right?");
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    for name in banned {
        assert!(!lock.contains(&format!("name = \"{name}\"")), "{name} is banned by deny.toml");
    }
}

#[test]
fn an_expression_is_met_by_one_side_of_or_and_both_of_and() {
    let allowed: BTreeSet<String> = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned).into();
    for (expression, met) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("ISC AND (GPL-3.0 OR MIT)", true),
        ("(MIT OR GPL-3.0) AND GPL-2.0", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", true),
    ] {
        assert_eq!(is_met(expression, &allowed), met, "{expression}");
    }
}
