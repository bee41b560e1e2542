//! CPU time of the calling thread: unlike wall time it does not count what the neighbours do.

/// Nanoseconds of CPU that this thread has used.
///
/// # Panics
/// When the kernel has no such clock; Linux always has.
#[must_use]
pub fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec that this frame owns; the call writes it and keeps no pointer.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "the clock of the thread's CPU time can be read");
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_cpu_time() {
        let before = thread_cpu_ns();
        let mut sum = 0u64;
        while thread_cpu_ns() < before + 1_000_000 {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(sum > 0);
    }
}
