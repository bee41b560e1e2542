//! Grammar of the settings file: Java properties, one key a line, later `--set key=value` winning over the file.
//!
//! Which keys there are, what they mean and what is allowed belongs to the program that uses them; this module finds values and
//! makes refusals that name file, line, key, value and what would be allowed.

use std::{collections::BTreeMap, fmt, io::Cursor, ops::RangeInclusive};

use thiserror::Error;

/// Largest settings file in bytes.
pub const FILE_MAX_BYTES: usize = 1 << 20;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A line of the settings file.
    File {
        /// Name of the file as given.
        file: String,
        /// Line number from 1.
        line: usize,
    },
    /// `--set` on the command line.
    CommandLine,
    /// Nobody set it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { file, line } => write!(f, "{file}:{line}"),
            Origin::CommandLine => f.write_str("--set"),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// A refusal of the settings. It stops the start.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SettingsError {
    /// A value is not what its key takes.
    #[error("{origin}: {key} = {value:?}: {allowed}")]
    BadValue {
        /// Where the value stands.
        origin: Origin,
        /// The key.
        key: String,
        /// The value as written.
        value: String,
        /// What would be allowed.
        allowed: String,
    },
    /// The file is not in properties syntax.
    #[error("{file}: {reason}")]
    Syntax {
        /// Name of the file.
        file: String,
        /// What the parser says, with its line.
        reason: String,
    },
    /// A `--set` argument without `=`.
    #[error("--set {0:?}: key=value is expected")]
    BadSet(String),
}

/// One value and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The text, trimmed.
    pub value: String,
    /// Where it stands.
    pub origin: Origin,
}

/// All values that somebody set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    values: BTreeMap<String, Setting>,
}

impl Settings {
    /// Reads `text`, the content of `file`, then applies `sets` (`key=value`) over it. Of a key that stands twice in the file the
    /// last one counts, as in Java.
    ///
    /// # Errors
    /// [`SettingsError::Syntax`] and [`SettingsError::BadSet`].
    pub fn parse(file: &str, text: &str, sets: &[String]) -> Result<Self, SettingsError> {
        let syntax = |reason: String| SettingsError::Syntax { file: file.to_owned(), reason };
        if text.len() > FILE_MAX_BYTES {
            return Err(syntax(format!("{} bytes exceed the limit of {FILE_MAX_BYTES}", text.len())));
        }
        let mut values = BTreeMap::new();
        // The crate reads Latin-1 by default, as Java did before version 9; our files are UTF-8.
        let lines = java_properties::PropertiesIter::new_with_encoding(Cursor::new(text), encoding_rs::UTF_8);
        for line in lines {
            let line = line.map_err(|error| syntax(error.to_string()))?;
            let number = line.line_number();
            if let java_properties::LineContent::KVPair(key, value) = line.consume_content() {
                let origin = Origin::File { file: file.to_owned(), line: number };
                values.insert(key, Setting { value: value.trim().to_owned(), origin });
            }
        }
        for set in sets {
            let (key, value) = set.split_once('=').ok_or_else(|| SettingsError::BadSet(set.clone()))?;
            let setting = Setting { value: value.trim().to_owned(), origin: Origin::CommandLine };
            values.insert(key.trim().to_owned(), setting);
        }
        Ok(Settings { values })
    }

    /// What somebody set for `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Setting> {
        self.values.get(key)
    }

    /// All keys that somebody set, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Setting)> {
        self.values.iter().map(|(key, setting)| (key.as_str(), setting))
    }

    /// Where the value of `key` comes from.
    #[must_use]
    pub fn origin(&self, key: &str) -> Origin {
        self.get(key).map_or(Origin::Default, |setting| setting.origin.clone())
    }

    /// The value of `key` read by `parse`, or `default` when nobody set it. An empty value counts as not set, as in WCS.
    ///
    /// `allowed` completes the sentence "`key` = `value`: ...", for example `a number from 1 to 64 is allowed`.
    ///
    /// # Errors
    /// [`SettingsError::BadValue`] when `parse` gives nothing.
    pub fn read<T>(
        &self,
        key: &str,
        default: T,
        allowed: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, SettingsError> {
        let Some(setting) = self.get(key).filter(|setting| !setting.value.is_empty()) else { return Ok(default) };
        parse(&setting.value).ok_or_else(|| SettingsError::BadValue {
            origin: setting.origin.clone(),
            key: key.to_owned(),
            value: setting.value.clone(),
            allowed: allowed.to_owned(),
        })
    }

    /// A whole number within `range`.
    ///
    /// # Errors
    /// As [`Settings::read`].
    pub fn number(&self, key: &str, default: u64, range: RangeInclusive<u64>) -> Result<u64, SettingsError> {
        let allowed = format!("a whole number from {} to {} is allowed", range.start(), range.end());
        self.read(key, default, &allowed, |text| text.parse().ok().filter(|number| range.contains(number)))
    }

    /// `true` or `false`, in any case.
    ///
    /// # Errors
    /// As [`Settings::read`].
    pub fn boolean(&self, key: &str, default: bool) -> Result<bool, SettingsError> {
        self.read(key, default, "true or false is allowed", |text| text.to_ascii_lowercase().parse().ok())
    }

    /// A port: a number, or `auto` (as [`Port::Auto`]) for one that the kernel chooses.
    ///
    /// # Errors
    /// As [`Settings::read`].
    pub fn port(&self, key: &str, default: u16) -> Result<Port, SettingsError> {
        self.read(key, Port::Fixed(default), "a port from 0 to 65535, or auto, is allowed", |text| match text {
            "auto" => Some(Port::Auto),
            _ => text.parse().ok().map(Port::Fixed),
        })
    }
}

/// A port as the settings name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// This one; what 0 means is the key's business (off, for the websocket ports).
    Fixed(u16),
    /// The kernel chooses; the ready line tells.
    Auto,
}

impl Port {
    /// The number to bind: 0 lets the kernel choose.
    #[must_use]
    pub const fn to_bind(self) -> u16 {
        match self {
            Port::Fixed(port) => port,
            Port::Auto => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str, sets: &[&str]) -> Settings {
        let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
        Settings::parse("test.properties", text, &sets).unwrap()
    }

    #[test]
    fn values_come_with_their_line_and_the_command_line_wins() {
        let settings =
            settings("# comment\ncodecs = opus,\\\n  alaw\n\nsip_port=5060\nname=caf\u{e9}\n", &["sip_port=auto"]);
        assert_eq!(settings.get("codecs").unwrap().value, "opus,alaw");
        assert_eq!(settings.origin("codecs"), Origin::File { file: "test.properties".into(), line: 2 });
        assert_eq!(settings.get("name").unwrap().value, "caf\u{e9}");
        assert_eq!(settings.port("sip_port", 1), Ok(Port::Auto));
        assert_eq!(settings.origin("sip_port"), Origin::CommandLine);
        assert_eq!(settings.origin("absent"), Origin::Default);
    }

    #[test]
    fn a_bad_value_names_file_line_key_value_and_what_is_allowed() {
        let settings = settings("\nring_timeout=soon\n", &[]);
        let error = settings.number("ring_timeout", 60, 1..=3600).unwrap_err();
        let text = "test.properties:2: ring_timeout = \"soon\": a whole number from 1 to 3600 is allowed";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn an_empty_value_means_the_default() {
        let settings = settings("early_media=\n", &[]);
        assert_eq!(settings.read("early_media", 7, "", |_| None), Ok(7));
    }

    #[test]
    fn broken_syntax_and_sets_are_refused() {
        assert!(matches!(Settings::parse("f", "a=\\u12", &[]), Err(SettingsError::Syntax { .. })));
        assert_eq!(Settings::parse("f", "", &["x".into()]), Err(SettingsError::BadSet("x".into())));
    }
}
