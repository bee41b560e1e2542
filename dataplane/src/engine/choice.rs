//! Which engine there is on this machine.

use thiserror::Error;

use super::uring::{EngineSizes, Features, Missing, UringEngine, probe};

/// What the setting `dataplane_engine` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// The ring where it works, else epoll.
    #[default]
    Auto,
    /// The ring, or no start.
    Uring,
    /// Epoll.
    Epoll,
}

/// What it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The ring, with these features of the kernel.
    Uring(Features),
    /// Epoll.
    Epoll,
}

/// The ring was asked for and cannot be had.
#[derive(Debug, Error)]
#[error("dataplane_engine=uring: {0}; `auto` would take epoll")]
pub struct NoRing(#[from] Missing);

impl Choice {
    /// The name that `Hello` and the log give it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Choice::Uring(_) => <UringEngine as super::Engine>::NAME,
            Choice::Epoll => <super::epoll::EpollEngine as super::Engine>::NAME,
        }
    }
}

/// Tries the ring where it is wanted, and says in the log what the kernel lacks and what is done instead.
///
/// # Errors
/// [`NoRing`], when nothing else is wanted.
pub fn choose(wanted: Wanted) -> Result<Choice, NoRing> {
    choose_by(wanted, || probe(Features::ALL))
}

/// The same for a process that goes on with calls: they are worth more than the engine that was asked for, which may have been taken
/// away from its user since.
#[must_use]
pub fn choose_again(wanted: Wanted) -> Choice {
    go_on_with(choose(wanted))
}

fn go_on_with(choice: Result<Choice, NoRing>) -> Choice {
    choice.unwrap_or_else(|error| {
        tracing::error!(%error, "the calls that there are go on by epoll");
        Choice::Epoll
    })
}

fn choose_by(wanted: Wanted, probe: impl FnOnce() -> Result<Features, Missing>) -> Result<Choice, NoRing> {
    if wanted == Wanted::Epoll {
        return Ok(Choice::Epoll);
    }
    match probe() {
        Ok(features) => {
            for (_, said) in lacks(features) {
                tracing::info!("{said}");
            }
            Ok(Choice::Uring(features))
        }
        Err(missing) if wanted == Wanted::Auto => {
            tracing::warn!(reason = %missing, "no io_uring: epoll is used");
            Ok(Choice::Epoll)
        }
        Err(missing) => Err(missing.into()),
    }
}

/// What a kernel lacks, with what is done instead.
fn lacks(features: Features) -> impl Iterator<Item = (bool, &'static str)> {
    [
        (features.no_sq_array, "the kernel's ring has an array of its queue (before Linux 6.6): it is used"),
        (
            features.min_wait,
            "the kernel does not gather packets (before Linux 6.12): workers sleep for a moment instead",
        ),
        (
            features.registered_files,
            "the kernel holds on to registered files (before Linux 6.13): they are not registered",
        ),
    ]
    .into_iter()
    .filter(|(has, _)| !has)
}

/// A ring engine that can hold so many packets, 65,535 at most.
///
/// # Errors
/// What is missing.
pub fn ring(features: Features, buffers: usize) -> Result<UringEngine, Missing> {
    UringEngine::new(EngineSizes::of(buffers), features)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn refused() -> Result<Features, Missing> {
        Err(Missing::Refused(io::Error::from_raw_os_error(libc::EPERM)))
    }

    #[test]
    fn the_setting_decides_and_auto_falls_back() {
        let has = || Ok(Features::ALL);
        assert_eq!(choose_by(Wanted::Auto, has).unwrap(), Choice::Uring(Features::ALL));
        assert_eq!(choose_by(Wanted::Uring, has).unwrap(), Choice::Uring(Features::ALL));
        assert_eq!(choose_by(Wanted::Epoll, || panic!("nothing is tried")).unwrap(), Choice::Epoll);
        assert_eq!(choose_by(Wanted::Auto, refused).unwrap(), Choice::Epoll);
        let error = choose_by(Wanted::Uring, refused).unwrap_err().to_string();
        assert!(error.starts_with("dataplane_engine=uring: io_uring is refused"), "{error}");
    }

    #[test]
    fn who_goes_on_with_calls_takes_epoll_in_place_of_what_was_asked_for() {
        assert_eq!(go_on_with(choose_by(Wanted::Uring, || Ok(Features::ALL))), Choice::Uring(Features::ALL));
        assert_eq!(go_on_with(choose_by(Wanted::Uring, refused)), Choice::Epoll);
    }

    #[test]
    fn each_feature_that_is_missing_is_said() {
        assert_eq!(lacks(Features::ALL).count(), 0);
        let said = |features| lacks(features).map(|(_, said)| said).collect::<String>();
        assert!(said(Features { no_sq_array: false, ..Features::ALL }).contains("6.6"));
        assert!(said(Features { min_wait: false, ..Features::ALL }).contains("6.12"));
        assert!(said(Features { registered_files: false, ..Features::ALL }).contains("6.13"));
    }
}
