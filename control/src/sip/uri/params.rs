//! Parameters, and the quoting and escaping that keeps a value inside its place.

use std::{fmt, str::FromStr};

use super::UriError;

/// The most parameters of one address, Via or challenge: each is compared with each.
const MAX_PARAMS: usize = 64;

/// `;name=value` parameters in order. Names compare without case; values are held unquoted and unescaped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(Vec<(String, Option<String>)>);

impl Params {
    /// No parameters.
    #[must_use]
    pub const fn new() -> Self {
        Params(Vec::new())
    }

    /// Whether the parameter is there, with or without a value.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    /// The value; `None` when the parameter is absent or has none.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.position(name).and_then(|at| self.0[at].1.as_deref())
    }

    /// Every parameter, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_deref()))
    }

    /// Sets or replaces a parameter.
    pub fn set(&mut self, name: &str, value: Option<String>) {
        match self.position(name) {
            Some(at) => self.0[at].1 = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// Removes a parameter; tells whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        self.position(name).map(|at| self.0.remove(at)).is_some()
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|(other, _)| other.eq_ignore_ascii_case(name))
    }

    /// Adds a parameter that must not be there yet: a name that stands twice would mean two things.
    pub(in crate::sip) fn add(&mut self, name: String, value: Option<String>) -> Result<(), UriError> {
        if self.0.len() >= MAX_PARAMS || self.contains(&name) {
            return Err(UriError::Parameter);
        }
        self.0.push((name, value));
        Ok(())
    }

    /// Reads `name=value;name` as it stands behind a name-addr or a Via, after the first semicolon.
    pub(in crate::sip) fn parse_header(text: &str) -> Result<Self, UriError> {
        let mut params = Params::new();
        for item in split_outside(text, ';').ok_or(UriError::Parameter)? {
            let (name, value) = match item.split_once('=') {
                Some((name, value)) => (name.trim(), Some(unquote(value.trim()).ok_or(UriError::Parameter)?)),
                None => (item.trim(), None),
            };
            if !crate::sip::headers::is_token(name) {
                return Err(UriError::Parameter);
            }
            params.add(name.to_owned(), value)?;
        }
        Ok(params)
    }

    /// Prints `;name=value` for a header, quoting where the value is no token or host.
    pub(in crate::sip) fn fmt_header(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.iter() {
            write!(f, ";{name}")?;
            if let Some(value) = value {
                f.write_str("=")?;
                fmt_token_or_quoted(value, f)?;
            }
        }
        Ok(())
    }

    /// Reads URI parameters or URI headers: escaped names and values between separators.
    pub(super) fn parse_uri(text: &str, separator: char, fault: &UriError) -> Result<Self, UriError> {
        let mut params = Params::new();
        for item in text.split(separator) {
            let (name, value) = match item.split_once('=') {
                Some((name, value)) => (name, Some(unescape(value).ok_or(fault.clone())?)),
                None => (item, None),
            };
            let name = unescape(name).filter(|name| !name.is_empty()).ok_or(fault.clone())?;
            params.add(name, value).map_err(|_| fault.clone())?;
        }
        Ok(params)
    }

    pub(super) fn fmt_uri(&self, f: &mut fmt::Formatter<'_>, first: char, next: char, plain: &str) -> fmt::Result {
        let mut separator = first;
        for (name, value) in self.iter() {
            write!(f, "{separator}{}", Escaped(name, plain))?;
            if let Some(value) = value {
                // Proxies put unescaped `=` into the parameters of their Record-Route and look for it again in our Route.
                write!(f, "={}", EscapedKeepingEquals(value, plain))?;
            }
            separator = next;
        }
        Ok(())
    }
}

/// What stands unescaped in every part of a URI beside letters and digits: `mark`.
const MARK: &str = "-_.!~*'()";
pub(super) fn is_plain(character: char, plain: &str) -> bool {
    character.is_ascii_alphanumeric() || MARK.contains(character) || plain.contains(character)
}

pub(super) struct Escaped<'a>(pub(super) &'a str, pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_escaped(self.0, f, |character| is_plain(character, self.1))
    }
}

pub(super) struct EscapedKeepingEquals<'a>(&'a str, &'a str);

impl fmt::Display for EscapedKeepingEquals<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_escaped(self.0, f, |character| character == '=' || is_plain(character, self.1))
    }
}

fn fmt_escaped(text: &str, f: &mut fmt::Formatter<'_>, plain: impl Fn(char) -> bool) -> fmt::Result {
    for character in text.chars() {
        if plain(character) {
            write!(f, "{character}")?;
        } else {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                write!(f, "%{byte:02X}")?;
            }
        }
    }
    Ok(())
}

/// Undoes `%HH`. `None` for a broken escape, bytes that are no UTF-8, and raw characters that can never stand in a URI.
pub(super) fn unescape(text: &str) -> Option<String> {
    if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f || b"<>\"".contains(&byte)) {
        return None;
    }
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        if *byte == b'%' {
            let [high, low, tail @ ..] = tail else { return None };
            let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
            out.push(nibble(*high)? << 4 | nibble(*low)?);
            rest = tail;
        } else {
            out.push(*byte);
            rest = tail;
        }
    }
    String::from_utf8(out).ok()
}

/// Reads digits only: no sign, no white space, nothing else that `parse` would take.
pub(in crate::sip) fn number<N: FromStr>(digits: &str) -> Option<N> {
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

/// Splits at `separator` outside of quoted strings and angle brackets. `None` when one of those does not end.
pub(in crate::sip) fn split_outside(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut items, mut start) = (Vec::new(), 0);
    let (mut quoted, mut angled, mut escaped) = (false, false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' if !angled => quoted = !quoted,
            '<' if !quoted => angled = true,
            '>' if !quoted => angled = false,
            _ if character == separator && !quoted && !angled => {
                items.push(&text[start..at]);
                start = at + character.len_utf8();
            }
            _ => {}
        }
    }
    items.push(&text[start..]);
    (!quoted && !angled).then_some(items)
}

/// The position of the quote that ends the quoted string `text` starts with.
pub(super) fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().skip(1).find_map(|(at, character)| {
        let closes = character == '"' && !escaped;
        escaped = character == '\\' && !escaped;
        closes.then_some(at)
    })
}

/// The text of a quoted string, or a bare word as it is. `None` when neither.
pub(in crate::sip) fn unquote(text: &str) -> Option<String> {
    if !text.starts_with('"') {
        let bare = |character: char| !character.is_whitespace() && !"\",;<>".contains(character);
        return text.chars().all(bare).then(|| text.to_owned());
    }
    if closing_quote(text)? + 1 != text.len() {
        return None;
    }
    let (mut out, mut escaped) = (String::with_capacity(text.len()), false);
    for character in text[1..text.len() - 1].chars() {
        if character == '\\' && !escaped {
            escaped = true;
        } else {
            out.push(character);
            escaped = false;
        }
    }
    Some(out)
}

/// Prints a quoted string: whatever it holds, it cannot end early.
pub(in crate::sip) fn fmt_quoted(text: &str, f: &mut impl fmt::Write) -> fmt::Result {
    f.write_char('"')?;
    for character in text.chars() {
        match character {
            '"' | '\\' => write!(f, "\\{character}")?,
            _ if character.is_control() => f.write_char(' ')?,
            _ => f.write_char(character)?,
        }
    }
    f.write_char('"')
}

fn fmt_token_or_quoted(value: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~[]:".contains(&byte);
    if !value.is_empty() && value.bytes().all(bare) { f.write_str(value) } else { fmt_quoted(value, f) }
}
