//! Pins a thread to a core.

use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The cores this process may run on, lowest first.
///
/// # Errors
/// What the kernel says.
pub fn allowed_cores() -> io::Result<Vec<usize>> {
    let allowed = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect())
}

/// Pins the calling thread to `core`.
///
/// # Errors
/// What the kernel says, for example when the core does not exist or is not allowed.
pub fn pin_to(core: usize) -> io::Result<()> {
    if core >= CpuSet::MAX_CPU {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("there is no core {core}")));
    }
    let mut only = CpuSet::new();
    only.set(core);
    Ok(sched_setaffinity(None, &only)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_runs_on_its_core_alone() {
        let core = *allowed_cores().unwrap().last().unwrap();
        let pinned = std::thread::spawn(move || {
            pin_to(core).unwrap();
            allowed_cores().unwrap()
        });
        assert_eq!(pinned.join().unwrap(), [core]);
    }

    #[test]
    fn a_core_that_does_not_exist_is_refused() {
        assert!(pin_to(CpuSet::MAX_CPU).is_err());
    }
}
