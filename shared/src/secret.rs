//! Values that must not show up in a log: their `Debug` prints `[redacted]` and their memory is wiped when they go.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// Wraps a password, a token or a key. It travels over the wall in clear (a unix socket, peer checked) but never into a log.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Takes a value into custody.
    pub const fn new(value: T) -> Self {
        Secret(value)
    }

    /// The value itself. The name is long so that each use is visible in review.
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<T: Zeroize> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Secret(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_a_secret_is_redacted_even_inside_other_types() {
        let password = Secret::new("hunter2".to_owned());
        assert_eq!(format!("{:?}", Some(&password)), "Some([redacted])");
        assert_eq!(password.expose(), "hunter2");
    }
}
