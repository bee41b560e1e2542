//! Where and how a thread runs: the core that it is pinned to, and whether others may take that core from it.

use std::{fs, io};

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

/// Lets the calling thread go before all threads that are scheduled fairly (`SCHED_RR` of sched(7), at the lowest priority). Threads
/// that it makes are scheduled fairly again.
///
/// # Errors
/// What the kernel says: it takes `CAP_SYS_NICE`, or a limit `RLIMIT_RTPRIO` of 1 at least, or that the thread that made it went first with
/// all.
pub fn go_first() -> io::Result<()> {
    set_policy(libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, REALTIME_PRIORITY)
}

/// The share of its core that the kernel leaves to a thread that goes first, from 0 to 1; `None`: all of it (`sched_rt_runtime_us` and
/// `sched_rt_period_us` of sched(7)). Where the kernel does not say, it is what kernels begin with.
#[must_use]
pub fn share_of_who_goes_first() -> Option<f64> {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/kernel/sched_rt_{name}_us")).ok();
    share_of(read("runtime").as_deref(), read("period").as_deref())
}

fn share_of(runtime_us: Option<&str>, period_us: Option<&str>) -> Option<f64> {
    let number = |text: Option<&str>, default| text.and_then(|text| text.trim().parse().ok()).unwrap_or(default);
    let (runtime, period): (f64, f64) = (number(runtime_us, 950_000.0), number(period_us, 1_000_000.0));
    (0.0..period).contains(&runtime).then_some(runtime / period)
}

/// Takes its turns again; what a thread that goes first with all it makes does not want of that.
///
/// # Errors
/// What the kernel says; it has no reason to refuse this.
pub fn take_turns() -> io::Result<()> {
    set_policy(libc::SCHED_OTHER, 0)
}

/// As [`go_first`], for this thread and all threads and processes that it makes.
///
/// # Errors
/// As [`go_first`].
pub fn go_first_with_all() -> io::Result<()> {
    set_policy(libc::SCHED_RR, REALTIME_PRIORITY)
}

/// The lowest real-time priority: threads of the kernel and watchdogs that have one go before ours.
pub const REALTIME_PRIORITY: i32 = 1;

fn set_policy(policy: libc::c_int, priority: libc::c_int) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: 0 is the calling thread; the kernel reads the parameters, which outlive the call.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_what_the_kernel_says() {
        assert_eq!(share_of(Some("950000\n"), Some("1000000\n")), Some(0.95));
        assert_eq!(share_of(None, None), Some(0.95));
        assert_eq!(share_of(Some("-1\n"), Some("1000000\n")), None, "no limit");
        assert_eq!(share_of(Some("1000000\n"), Some("1000000\n")), None);
    }

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
    fn a_thread_that_goes_first_is_scheduled_in_real_time_where_it_may_be() {
        let policy = std::thread::spawn(|| {
            let went = go_first();
            // SAFETY: asks for the policy of the calling thread and touches no memory.
            (went, unsafe { libc::sched_getscheduler(0) })
        });
        match policy.join().unwrap() {
            (Ok(()), policy) => assert_eq!(policy, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK),
            (Err(error), policy) => {
                assert_eq!((error.kind(), policy), (io::ErrorKind::PermissionDenied, libc::SCHED_OTHER));
            }
        }
    }

    #[test]
    fn a_core_that_does_not_exist_is_refused() {
        assert!(pin_to(CpuSet::MAX_CPU).is_err());
    }
}
