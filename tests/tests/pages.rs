//! Our pages as files: scripts parse, ids and icons that they name exist, no code stands in the markup, nothing comes from
//! elsewhere. What they do is shown by the lane `browser`.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use gangway_tests::{process::peer, source::root};

/// The files of `control/web` and the drivers of browser tests with one of these endings, and their texts.
fn files(endings: &[&str]) -> Vec<(PathBuf, String)> {
    let mut folders = vec![root().join("control/web"), root().join("tests/browser")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of pages").map(|entry| entry.expect("an entry")) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| endings.iter().any(|one| *ending == **one)) {
                let text = fs::read_to_string(&path).expect("a text");
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "no files with {endings:?}");
    found.sort();
    found
}

/// What stands between each `before` and the `after` that follows.
fn between<'a>(text: &'a str, before: &'a str, after: char) -> impl Iterator<Item = &'a str> {
    text.split(before).skip(1).filter_map(move |rest| rest.split_once(after).map(|(inner, _)| inner))
}

#[test]
fn the_scripts_parse() {
    let Some(node) = peer("node") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    for (path, text) in files(&["js", "mjs"]) {
        let is_module = text.lines().any(|line| line.starts_with("import ") || line.starts_with("export "));
        // The ending tells node which of the two grammars is meant.
        let copy = folder.path().join(if is_module { "script.mjs" } else { "script.cjs" });
        fs::write(&copy, &text).expect("a copy");
        let checked = Command::new(&node).arg("--check").arg(&copy).output().expect("node");
        assert!(checked.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&checked.stderr));
    }
}

/// The scripts that a page loads and all that they import, and their texts.
fn scripts_of(page: &str) -> Vec<(PathBuf, String)> {
    let web = root().join("control/web");
    let mut wanted: Vec<PathBuf> =
        between(page, " src=\"", '"').filter(|to| !to.starts_with('/')).map(|to| web.join(to)).collect();
    let mut found: Vec<(PathBuf, String)> = Vec::new();
    while let Some(path) = wanted.pop() {
        if found.iter().any(|(known, _)| *known == path) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let folder = path.parent().expect("a script lies in a folder").to_owned();
        wanted.extend(between(&text, " from \"./", '"').map(|to| folder.join(to)));
        found.push((path, text));
    }
    assert!(found.len() > 5, "a page without scripts");
    found
}

#[test]
fn each_id_and_icon_that_a_script_names_is_in_the_page() {
    for (path, page) in files(&["html"]) {
        assert_eq!(missing_of(&page), Vec::<String>::new(), "{}", path.display());
    }
}

/// What both pages show is the same in both: they are files of their own, without a build step.
#[test]
fn the_pages_agree_in_what_both_have() {
    let pages = files(&["html"]);
    let [(_, one), (_, other)] = pages.as_slice() else { panic!("two pages") };
    for (start, end, least) in [("<symbol ", "</symbol>", 10), ("<input ", ">", 8), ("<meta ", ">", 3)] {
        let parts = |page: &str| -> BTreeSet<String> {
            page.split(start).skip(1).filter_map(|rest| Some(rest.split_once(end)?.0.to_owned())).collect()
        };
        let name = |part: &str| part.split('"').nth(1).unwrap_or("").to_owned();
        let (one, other) = (parts(one), parts(other));
        let mut shared = 0;
        for part in &one {
            let same: Vec<&String> = other.iter().filter(|there| name(there) == name(part)).collect();
            shared += same.len();
            assert!(same.is_empty() || same == [part], "{start}{part} differs from {same:?}");
        }
        assert!(shared >= least, "{start}: {shared} in both");
    }
}

/// What a page's scripts name and the page does not have.
fn missing_of(page: &str) -> Vec<String> {
    let ids: Vec<&str> = between(page, " id=\"", '"').collect();
    let unique: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(ids.len(), unique.len(), "an id is there twice: {ids:?}");
    let mut missing = Vec::new();
    for (path, text) in scripts_of(page) {
        let named =
            ["$(\"", "show(\"", "write(\"", "getElementById(\""].into_iter().flat_map(|call| between(&text, call, '"'));
        let icons = between(&text, "\"#icon-", '"').map(|icon| format!("icon-{icon}"));
        for id in named.map(str::to_owned).chain(icons) {
            if !unique.contains(id.as_str()) {
                missing.push(format!("{}: {id}", path.display()));
            }
        }
    }
    for reference in ["href=\"#", "for=\"", "aria-controls=\"", "aria-labelledby=\"", "aria-describedby=\""] {
        missing.extend(
            between(page, reference, '"').filter(|id| !unique.contains(id)).map(|id| format!("{reference}{id}")),
        );
    }
    missing
}

/// What the Content-Security-Policy forbids, found before a browser says so; and foreign text that could become markup.
#[test]
fn the_pages_hold_no_inline_code_and_nothing_from_elsewhere() {
    let mut broken = Vec::new();
    for (path, text) in files(&["html", "css", "js"]) {
        // A namespace is a name, not an address.
        let text = text.replace("http://www.w3.org/2000/svg", "");
        let code = [
            " onclick=",
            " onload=",
            " style=",
            "<style",
            "javascript:",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
        ];
        let code = code.into_iter().chain(["document.write", "eval(", "new Function"]);
        let elsewhere = ["src=\"http", "href=\"http", "url(http", "@import", "from \"http", "src=\"//"];
        for mark in code.chain(elsewhere) {
            if text.contains(mark) {
                broken.push(format!("{}: {mark}", path.display()));
            }
        }
        for script in between(&text, "<script", '<') {
            if !script.contains(" src=\"") || !script.trim_end().ends_with('>') {
                broken.push(format!("{}: <script{script}", path.display()));
            }
        }
        if text.lines().count() > 1000 {
            broken.push(format!("{}: more than 1000 lines", path.display()));
        }
    }
    assert_eq!(broken, Vec::<String>::new());
}
