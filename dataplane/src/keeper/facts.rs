//! What the manager must know again after a restart: a small memory that the keeper owns and the relay writes.
//!
//! The certificate is in every SDP that was answered, the instance and the epoch are what control knows us by. Read and written by
//! file calls, so that no key lies in memory that is mapped.
//!
//! ```text
//! 0 state | 8 epoch | 16 runs | 24 draining | 32 length | 40 identity as JSON
//! ```

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::FileExt},
};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// Counts up when what is written here, or its place, changes.
pub(super) const FACTS_VERSION: u32 = 1;

/// Size of the memory.
const FACTS_BYTES: u64 = 16 * 1024;

/// `state` once the identity is written; any other value: nobody has written one.
const WRITTEN: u64 = u64::from_be_bytes(*b"GANGFACT");

const STATE: u64 = 0;
const EPOCH: u64 = 8;
const RUNS: u64 = 16;
const DRAINING: u64 = 24;
const LENGTH: u64 = 32;
const IDENTITY: u64 = 40;

/// Who the dataplane is, from its first start to its end.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Its name towards control.
    pub(crate) instance: String,
    /// DTLS certificate, DER.
    pub(crate) certificate: Vec<u8>,
    /// Its private key, DER.
    pub(crate) private_key: Vec<u8>,
}

impl Drop for Identity {
    fn drop(&mut self) {
        self.private_key.zeroize();
    }
}

/// The memory, seen by the relay.
#[derive(Debug)]
pub(crate) struct Facts(File);

impl Facts {
    /// An empty memory, for the keeper.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn create() -> io::Result<OwnedFd> {
        let fd = memfd_create("gangway-facts", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, FACTS_BYTES)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(fd)
    }

    /// The memory that was handed over.
    pub(crate) fn over(fd: OwnedFd) -> Self {
        Facts(fd.into())
    }

    fn read(&self, at: u64) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, at)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn write(&self, at: u64, value: u64) -> io::Result<()> {
        self.0.write_all_at(&value.to_ne_bytes(), at)
    }

    /// The identity, made and written when there is none yet.
    ///
    /// # Errors
    /// When the memory cannot be read or written, or holds no identity although it says so.
    pub(crate) fn identity<E: From<io::Error>>(
        &self,
        make: impl FnOnce() -> Result<Identity, E>,
    ) -> Result<Identity, E> {
        if self.read(STATE)? == WRITTEN {
            let len = usize::try_from(self.read(LENGTH)?.min(FACTS_BYTES - IDENTITY)).unwrap_or(0);
            let mut bytes = Zeroizing::new(vec![0; len]);
            self.0.read_exact_at(&mut bytes, IDENTITY)?;
            return serde_json::from_slice(&bytes).map_err(|error| io::Error::from(error).into());
        }
        let identity = make()?;
        let bytes = Zeroizing::new(serde_json::to_vec(&identity).map_err(io::Error::from)?);
        self.0.write_all_at(&bytes, IDENTITY)?;
        self.write(LENGTH, bytes.len() as u64)?;
        // Last: a kill before this leaves no identity.
        self.write(STATE, WRITTEN)?;
        Ok(identity)
    }

    /// Counts this run of the relay; how many there were before it.
    ///
    /// # Errors
    /// When the memory cannot be written.
    pub(crate) fn begin_run(&self) -> io::Result<u64> {
        let runs = self.read(RUNS)?;
        self.write(RUNS, runs + 1)?;
        Ok(runs)
    }

    /// Whether there was a run before.
    ///
    /// # Errors
    /// When the memory cannot be read.
    pub(crate) fn has_run(&self) -> io::Result<bool> {
        Ok(self.read(RUNS)? > 0)
    }

    /// The highest epoch of a control so far.
    ///
    /// # Errors
    /// When the memory cannot be read.
    pub(crate) fn epoch(&self) -> io::Result<u32> {
        Ok(u32::try_from(self.read(EPOCH)?).unwrap_or(u32::MAX))
    }

    /// Notes an epoch. What cannot be noted is logged: the next run would obey an older control.
    pub(crate) fn note_epoch(&self, epoch: u32) {
        self.note(EPOCH, epoch.into());
    }

    /// Whether control asked to drain.
    ///
    /// # Errors
    /// When the memory cannot be read.
    pub(crate) fn is_draining(&self) -> io::Result<bool> {
        Ok(self.read(DRAINING)? == 1)
    }

    /// Notes that it did.
    pub(crate) fn note_draining(&self) {
        self.note(DRAINING, 1);
    }

    fn note(&self, at: u64, value: u64) {
        if let Err(error) = self.write(at, value) {
            tracing::error!(%error, "a fact for the next run could not be kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str) -> Identity {
        Identity { instance: name.to_owned(), certificate: vec![1; 300], private_key: vec![2; 121] }
    }

    #[test]
    fn what_the_first_run_is_the_next_ones_are_too() {
        let fd = Facts::create().unwrap();
        let first = Facts::over(fd.try_clone().unwrap());
        assert!(first.identity(|| Ok::<_, io::Error>(identity("a"))).unwrap() == identity("a"));
        assert!(!first.has_run().unwrap());
        assert_eq!((first.begin_run().unwrap(), first.epoch().unwrap(), first.is_draining().unwrap()), (0, 0, false));
        first.note_epoch(7);
        first.note_draining();
        let second = Facts::over(fd);
        assert!(second.has_run().unwrap());
        assert!(second.identity(|| Ok::<_, io::Error>(identity("b"))).unwrap() == identity("a"));
        assert_eq!((second.begin_run().unwrap(), second.epoch().unwrap(), second.is_draining().unwrap()), (1, 7, true));
    }

    #[test]
    fn an_identity_that_was_not_written_to_its_end_is_made_anew() {
        let fd = Facts::create().unwrap();
        let first = Facts::over(fd.try_clone().unwrap());
        first.identity(|| Ok::<_, io::Error>(identity("a"))).unwrap();
        first.write(STATE, 0).unwrap();
        let second = Facts::over(fd);
        assert!(second.identity(|| Ok::<_, io::Error>(identity("b"))).unwrap() == identity("b"));
    }
}
