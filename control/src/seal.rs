//! Passwords on disk: AES-256-GCM under a key of this machine (docs/SECURITY.md says what that protects from).

#![allow(clippy::disallowed_methods, reason = "keys and nonces are drawn here")]

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use gangway_shared::secret::Secret;

/// The key's file in `data_dir`.
const KEY_FILE: &str = "journal.key";
/// Bytes of the key.
const KEY_BYTES: usize = 32;
/// What a sealed text begins with: the way it was sealed.
const WAY: &str = "1:";

/// Seals and unseals passwords.
pub struct Sealer(LessSafeKey);

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Sealer {
    /// Reads the key of `dir`, or draws one and writes it, mode 0600.
    ///
    /// # Errors
    /// What the system says; a key that others may read or that has another length is refused.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let key = match File::open(dir.join(KEY_FILE)) {
            Ok(file) => read_key(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => draw_key(dir),
            Err(error) => Err(error),
        };
        let key = key.map_err(|error| io::Error::new(error.kind(), format!("{KEY_FILE}: {error}")))?;
        let key = UnboundKey::new(&AES_256_GCM, key.expose()).expect("a key of the algorithm's length");
        Ok(Sealer(LessSafeKey::new(key)))
    }

    /// Seals a password for one owner: under another's name it does not open.
    ///
    /// # Panics
    /// When the machine has no random bytes.
    #[must_use]
    pub fn seal(&self, owner: &str, password: &Secret<String>) -> String {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).expect("a machine without random bytes must not encrypt");
        let mut sealed = password.expose().as_bytes().to_vec();
        let key = &self.0;
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(owner.as_bytes()), &mut sealed)
            .expect("a password is far below the algorithm's limit");
        format!("{WAY}{}", STANDARD_NO_PAD.encode([&nonce[..], &sealed].concat()))
    }

    /// Opens what was sealed; `None` when it was sealed otherwise, with another key or for another owner.
    #[must_use]
    pub fn unseal(&self, owner: &str, sealed: &str) -> Option<Secret<String>> {
        let bytes = STANDARD_NO_PAD.decode(sealed.strip_prefix(WAY)?).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = sealed.to_vec();
        let len = self.0.open_in_place(nonce, Aad::from(owner.as_bytes()), &mut text).ok()?.len();
        text.truncate(len);
        String::from_utf8(text).ok().map(Secret::new)
    }
}

fn read_key(mut file: File) -> io::Result<Secret<[u8; KEY_BYTES]>> {
    let facts = file.metadata()?;
    if facts.permissions().mode() & 0o077 != 0 {
        return Err(io::Error::other("others may read it"));
    }
    if facts.len() != KEY_BYTES as u64 {
        let problem = format!("it has {} bytes and not {KEY_BYTES}; without it a new key is drawn", facts.len());
        return Err(io::Error::other(problem));
    }
    let mut key = [0; KEY_BYTES];
    file.read_exact(&mut key)?;
    Ok(Secret::new(key))
}

/// Unlike the journal's lines the key is on the disk before it is used: what it sealed would be lost with it, and an empty file in its
/// place would stop the next start.
fn draw_key(dir: &Path) -> io::Result<Secret<[u8; KEY_BYTES]>> {
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    let path = dir.join(KEY_FILE);
    // Not the name of the journal's own new file.
    let fresh = path.with_extension("key.new");
    let _ = fs::remove_file(&fresh);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(&key)?;
    file.sync_all()?;
    fs::rename(&fresh, &path)?;
    File::open(dir)?.sync_all()?;
    Ok(Secret::new(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_opens_for_its_owner_with_the_key_of_its_folder_alone() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let password = Secret::new("s\u{e9}cret".to_owned());
        let sealed = Sealer::open(one.path()).unwrap().seal("a", &password);
        assert!(!sealed.contains("cret"), "{sealed}");
        let again = Sealer::open(one.path()).unwrap();
        assert_eq!(again.unseal("a", &sealed), Some(password.clone()));
        assert_ne!(again.seal("a", &password), sealed, "a nonce is used once");
        assert_eq!(again.unseal("b", &sealed), None);
        assert_eq!(Sealer::open(other.path()).unwrap().unseal("a", &sealed), None);
        for wrong in ["", "1:", "2:AAAA", "1:AAAA", &sealed[..sealed.len() - 1]] {
            assert_eq!(again.unseal("a", wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_key_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        Sealer::open(dir.path()).unwrap();
        let path = dir.path().join(KEY_FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Sealer::open(dir.path()).unwrap_err().to_string().contains("others may read it"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for wrong in [&[][..], &[7; KEY_BYTES - 1], &[7; KEY_BYTES + 1]] {
            fs::write(&path, wrong).unwrap();
            let said = Sealer::open(dir.path()).unwrap_err().to_string();
            assert!(said.starts_with(&format!("journal.key: it has {} bytes", wrong.len())), "{said}");
        }
    }
}
