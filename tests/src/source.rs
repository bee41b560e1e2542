//! The tree's own Rust files as data, for the tests that guard the house rules: which files there are, and their text with
//! comments, strings and the test code at the end taken out. Knows no rule itself.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// One Rust file of the repository.
pub struct SourceFile {
    /// Path relative to the repository's root, with forward slashes.
    pub path: String,
    /// The whole text.
    pub text: String,
}

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the root").to_path_buf()
}

/// Every `.rs` file under the named folders of the root, in path order. A folder that does not exist has none.
pub fn rust_files(folders: &[&str]) -> Vec<SourceFile> {
    let root = root();
    let mut files = Vec::new();
    for folder in folders {
        collect(&root.join(folder), &root, &mut files);
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn collect(folder: &Path, root: &Path, files: &mut Vec<SourceFile>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                collect(&path, root, files);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && let Ok(text) = fs::read_to_string(&path)
        {
            let path = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().replace('\\', "/");
            files.push(SourceFile { path, text });
        }
    }
}

impl SourceFile {
    /// Whether the whole file is test code: `tests.rs`, a file in a folder `tests`.
    pub fn is_test_code(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// The identifiers of the code, with their line numbers (from 1): no comments, no literals, and nothing from the first
    /// `#[cfg(test)]` followed by `mod` on, which by the house's rule stands last in a file.
    pub fn identifiers(&self) -> Vec<(usize, String)> {
        identifiers(before_tests(&self.text))
    }
}

fn before_tests(text: &str) -> &str {
    let mut from = 0;
    while let Some(found) = text[from..].find("#[cfg(test)]") {
        let at = from + found;
        let after = text[at + "#[cfg(test)]".len()..].trim_start();
        if after.starts_with("mod ") && !after.lines().next().unwrap_or("").trim_end().ends_with(';') {
            return &text[..at];
        }
        from = at + 1;
    }
    text
}

fn identifiers(text: &str) -> Vec<(usize, String)> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let rest = &bytes[at..];
        let next = if rest.starts_with(b"//") {
            at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            at + find(rest, b"*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = literal_len(rest) {
            at + length
        } else if rest[0].is_ascii_alphabetic() || rest[0] == b'_' {
            let length =
                rest.iter().position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_').unwrap_or(rest.len());
            found.push((line, text[at..at + length].to_owned()));
            at + length
        } else {
            at + 1
        };
        line += bytes[at..next].iter().filter(|byte| **byte == b'\n').count();
        at = next;
    }
    found
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Length of the string, byte string, raw string or character literal that starts here.
fn literal_len(rest: &[u8]) -> Option<usize> {
    let prefix = rest.iter().take_while(|byte| matches!(byte, b'b' | b'r' | b'c')).count();
    if prefix <= 2 {
        let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
        let raw = rest[..prefix].contains(&b'r');
        if rest.get(prefix + hashes) == Some(&b'"') && (raw || hashes == 0) {
            let body = prefix + hashes + 1;
            return Some(if raw { raw_string_len(rest, body, hashes) } else { quoted_len(rest, body) });
        }
    }
    if rest[0] == b'\'' {
        // A lifetime has no closing quote right behind its first character; 'x' and '\n' have.
        let length =
            if rest.get(1) == Some(&b'\\') { 2 + rest[2..].iter().position(|byte| *byte == b'\'')? + 1 } else { 3 };
        return (rest.get(length - 1) == Some(&b'\'')).then_some(length);
    }
    None
}

fn raw_string_len(rest: &[u8], body: usize, hashes: usize) -> usize {
    let mut close = vec![b'"'];
    close.extend(std::iter::repeat_n(b'#', hashes));
    find(&rest[body..], &close).map_or(rest.len(), |end| body + end + close.len())
}

fn quoted_len(rest: &[u8], body: usize) -> usize {
    let mut at = body;
    while at < rest.len() && rest[at] != b'"' {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_literals_and_tests_hold_no_identifiers() {
        let text = "use a::b; // Instant\n/* tokio */ let c = \"mio\\\"x\"; let d = r#\"socket2 \"quoted\" \"#; fn f<'x>() { '\\'' }\n\
                    #[cfg(test)]\nmod tests { use std::net::UdpSocket; }";
        let names: Vec<String> = identifiers(before_tests(text)).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["use", "a", "b", "let", "c", "let", "d", "fn", "f", "x"]);
        assert_eq!(identifiers("a\n\nb")[1], (3, "b".to_owned()));
    }
}
