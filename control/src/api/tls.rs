//! The certificate of wss and https: from files, or self-signed at first start.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use thiserror::Error;

use crate::config::Config;

/// Why TLS cannot be served.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("{key}: {path}: {source}")]
    File {
        /// The setting.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is no PEM of the kind wanted.
    #[error("{key}: {path}: no usable PEM: {reason}")]
    Pem {
        /// The setting.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Certificate and key do not belong together, or are of no known kind.
    #[error("tls.cert and tls.key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    /// The self-signed certificate could not be made.
    #[error("the self-signed certificate could not be made: {0}")]
    Made(#[from] rcgen::Error),
}

/// Names of the self-signed pair in `data_dir`.
const CERT_FILE: &str = "tls-self-signed.pem";
const KEY_FILE: &str = "tls-self-signed.key";

/// The TLS settings of all listeners.
///
/// # Errors
/// [`TlsError`], naming setting and file.
pub fn server_config(config: &Config) -> Result<Arc<ServerConfig>, TlsError> {
    let (cert, key) = match (config.file("tls.cert"), config.file("tls.key")) {
        (Some(cert), Some(key)) => (cert.to_path_buf(), key.to_path_buf()),
        _ => self_signed(config)?,
    };
    let chain = read_chain(&cert)?;
    let private = PrivateKeyDer::from_pem_file(&key).map_err(|error| pem_error("tls.key", &key, error))?;
    let mut server = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, private)?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(server))
}

/// For `--check`: whether the files that the settings name can be used. Makes nothing.
///
/// # Errors
/// As [`server_config`].
pub fn check(config: &Config) -> Result<(), TlsError> {
    match config.file("tls.cert") {
        Some(_) => server_config(config).map(drop),
        None => Ok(()),
    }
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let error = |error| pem_error("tls.cert", path, error);
    let chain = CertificateDer::pem_file_iter(path).map_err(error)?.collect::<Result<Vec<_>, _>>().map_err(error)?;
    if chain.is_empty() {
        let reason = "it holds no certificate".to_owned();
        return Err(TlsError::Pem { key: "tls.cert", path: path.to_owned(), reason });
    }
    Ok(chain)
}

fn pem_error(key: &'static str, path: &Path, error: rustls::pki_types::pem::Error) -> TlsError {
    match error {
        rustls::pki_types::pem::Error::Io(source) => TlsError::File { key, path: path.to_owned(), source },
        other => TlsError::Pem { key, path: path.to_owned(), reason: other.to_string() },
    }
}

/// The pair in `data_dir`, made when it is not there. It is kept over restarts, so that a browser asks once only.
fn self_signed(config: &Config) -> Result<(PathBuf, PathBuf), TlsError> {
    let (cert, key) = (config.data_dir().join(CERT_FILE), config.data_dir().join(KEY_FILE));
    if cert.exists() && key.exists() {
        return Ok((cert, key));
    }
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    for address in config.ip() {
        for ip in [address.local, address.advertised] {
            if !names.contains(&ip.to_string()) {
                names.push(ip.to_string());
            }
        }
    }
    let made = rcgen::generate_simple_self_signed(names)?;
    write_private(&key, &made.signing_key.serialize_pem()).map_err(|source| TlsError::File {
        key: "data_dir",
        path: key.clone(),
        source,
    })?;
    write_private(&cert, &made.cert.pem()).map_err(|source| TlsError::File {
        key: "data_dir",
        path: cert.clone(),
        source,
    })?;
    tracing::info!(certificate = %cert.display(), "made a self-signed certificate");
    Ok((cert, key))
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::Sources;

    fn config(sets: &[String]) -> Config {
        Config::parse("", "", Sources { sets: sets.to_vec(), ..Sources::default() }).unwrap()
    }

    #[test]
    fn the_self_signed_pair_is_private_usable_and_kept() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let config = config(&[format!("data_dir={}", dir.path().display())]);
        server_config(&config).unwrap();
        let key = dir.path().join(KEY_FILE);
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let first = fs::read(&key).unwrap();
        server_config(&config).unwrap();
        assert_eq!(fs::read(&key).unwrap(), first);
    }

    #[test]
    fn a_missing_file_and_a_file_without_pem_are_named() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("c.pem"), dir.path().join("k.pem"));
        let config = config(&[format!("tls.cert={}", cert.display()), format!("tls.key={}", key.display())]);
        let error = server_config(&config).unwrap_err().to_string();
        assert!(error.starts_with(&format!("tls.cert: {}: ", cert.display())), "{error}");
        fs::write(&cert, "hello").unwrap();
        let error = server_config(&config).unwrap_err().to_string();
        assert!(error.contains("tls.cert") && error.contains("no certificate"), "{error}");
    }
}
