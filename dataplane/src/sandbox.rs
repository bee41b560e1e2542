//! What a relay process may do: its user, its rights, its system calls.
//!
//! A relay reads what strangers send, so it keeps nothing that it does not need: it runs as a user of its own when it was started by
//! root, without capabilities, without a way to new ones, and, once everything is open, under two filters of system calls. What is on no
//! list is refused with EPERM, so that a library that tries something goes another way; what only an intruder would do ends the process.

use std::{collections::BTreeMap, io};

use rustix::{
    io::Errno,
    process::{Gid, Uid},
    thread::{
        CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
        set_thread_res_uid,
    },
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter_all_threads,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Users that a relay runs as when the settings name none, best first.
const USERS: [&str; 2] = ["gangway", "nobody"];

/// Why a relay could not be confined.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// The settings name a user that this machine has not.
    #[error("dataplane_user: there is no user {0}")]
    NoUser(String),
    /// The user could not be taken on.
    #[error("dataplane_user: the relay cannot run as {name}: {source}")]
    User {
        /// The user.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("{what}: {source}")]
    Kernel {
        /// What was wanted.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The filter could not be made or installed.
    #[error("seccomp filter: {0}")]
    Filter(String),
}

/// Who the settings want a relay to run as (`dataplane_user`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RelayUser {
    /// The first of `gangway` and `nobody` that there is.
    #[default]
    Usual,
    /// Who starts it.
    Same,
    /// This one.
    Named(String),
}

/// A user to run as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    name: String,
    uid: u32,
    gid: u32,
    /// Named in the settings: it is that one or none.
    is_named: bool,
}

impl RelayUser {
    /// The account in `passwd`, the text of passwd(5); `None`: who starts it.
    ///
    /// # Errors
    /// [`SandboxError::NoUser`] for a user of the settings.
    pub fn account(&self, passwd: &str) -> Result<Option<Account>, SandboxError> {
        let find = |wanted: &str| {
            passwd.lines().find_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next().filter(|name| *name == wanted)?;
                let uid = fields.nth(1)?.parse().ok()?;
                Some(Account { name: name.to_owned(), uid, gid: fields.next()?.parse().ok()?, is_named: false })
            })
        };
        match self {
            RelayUser::Same => Ok(None),
            RelayUser::Usual => Ok(USERS.into_iter().find_map(find)),
            RelayUser::Named(name) => match find(name) {
                Some(account) => Ok(Some(Account { is_named: true, ..account })),
                None => Err(SandboxError::NoUser(name.clone())),
            },
        }
    }
}

/// Takes on the user and gives up all capabilities and every way to new ones. For a process of one thread.
///
/// # Errors
/// When the user was named and cannot be taken on, or the kernel refuses the rest. Where a usual user cannot be taken on (a namespace that
/// has no such user), the process stays who it is, and says so.
pub fn give_up_rights(account: Option<&Account>) -> Result<(), SandboxError> {
    let kernel = |what| move |errno: Errno| SandboxError::Kernel { what, source: errno.into() };
    if let Some(account) = account {
        match take_on(account) {
            Ok(()) => tracing::info!(user = account.name, "the relay runs as a user of its own"),
            Err(errno) if account.is_named => {
                return Err(SandboxError::User { name: account.name.clone(), source: errno.into() });
            }
            Err(error) => {
                tracing::warn!(user = account.name, %error, "the relay cannot run as this user and stays who it is");
            }
        }
    }
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, none).map_err(kernel("capabilities"))?;
    set_no_new_privs(true).map_err(kernel("no_new_privs"))
}

fn take_on(account: &Account) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}

/// System calls of a relay that serves, and why.
const ALLOWED: &[(i64, &str)] = &[
    (libc::SYS_recvmmsg, "epoll engine, ring engine at a changed port: packets in"),
    (libc::SYS_sendmmsg, "epoll engine: packets out"),
    (libc::SYS_io_uring_enter, "ring engine: all packets; the ring itself takes few operations"),
    (libc::SYS_io_uring_register, "ring engine: ports that come and go"),
    (libc::SYS_epoll_ctl, "ports and control connections that come and go"),
    (libc::SYS_epoll_pwait, "workers and manager wait"),
    (libc::SYS_ppoll, "epoll engine: waits that end within a millisecond"),
    (libc::SYS_connect, "ports that hear their peer alone; no new socket can be made"),
    (libc::SYS_getsockname, "which family a port has"),
    (libc::SYS_getpeername, "whom a port hears"),
    (libc::SYS_setsockopt, "options of ports"),
    (libc::SYS_getsockopt, "lost packets of ports, the user behind a control connection"),
    (libc::SYS_accept4, "control connects"),
    (libc::SYS_read, "control connections, wake-ups"),
    (libc::SYS_write, "control connections, wake-ups, log"),
    (libc::SYS_writev, "log"),
    (libc::SYS_recvfrom, "control connections"),
    (libc::SYS_sendto, "control connections"),
    (libc::SYS_recvmsg, "the keeper's channel: new ports come by it"),
    (libc::SYS_sendmsg, "the keeper's channel"),
    (libc::SYS_shutdown, "control connections that end"),
    (libc::SYS_close, "ports and connections that go"),
    (libc::SYS_fcntl, "flags and duplicates of own descriptors"),
    (libc::SYS_pread64, "the manager's facts"),
    (libc::SYS_pwrite64, "the manager's facts"),
    (libc::SYS_fstat, "an arena that cannot be taken back is mapped again"),
    (libc::SYS_munmap, "memory"),
    (libc::SYS_mremap, "memory"),
    (libc::SYS_madvise, "memory, and an arena's place in core dumps"),
    (libc::SYS_brk, "memory"),
    (libc::SYS_futex, "locks"),
    (libc::SYS_getrandom, "credentials, names, keys of handshakes"),
    (libc::SYS_clock_gettime, "the time, where the kernel gives it by a call"),
    (libc::SYS_gettimeofday, "the same"),
    (libc::SYS_clock_nanosleep, "gathering packets: epoll, and the ring on kernels before 6.12"),
    (libc::SYS_nanosleep, "the same"),
    (libc::SYS_restart_syscall, "a wait that was stopped and goes on"),
    (libc::SYS_sched_yield, "locks"),
    (libc::SYS_sched_getaffinity, "how many cores there are"),
    (libc::SYS_membarrier, "the allocator and the crypto library"),
    (libc::SYS_rt_sigprocmask, "threads that end, abort"),
    (libc::SYS_rt_sigaction, "abort"),
    (libc::SYS_rt_sigreturn, "handlers of faults"),
    (libc::SYS_sigaltstack, "threads that end"),
    (libc::SYS_gettid, "abort"),
    (libc::SYS_getpid, "abort"),
    (libc::SYS_tgkill, "abort"),
    (libc::SYS_exit, "threads that end"),
    (libc::SYS_exit_group, "the end"),
];

/// The same by other names on this machine.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[(i64, &str)] = &[(libc::SYS_epoll_wait, "workers and manager wait")];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[(i64, &str)] = &[];

/// Calls that a relay may make if one argument is as said: which argument, how it is compared with what, and why.
const NARROWED: &[(i64, u8, SeccompCmpOp, u64, &str)] = &[
    (
        libc::SYS_mmap,
        2,
        NOT_EXECUTABLE,
        0,
        "memory, and an arena that is mapped again; what can be written is never code",
    ),
    (libc::SYS_mprotect, 2, NOT_EXECUTABLE, 0, "the allocator grows and guards its heaps; memory never becomes code"),
    (
        libc::SYS_ioctl,
        1,
        SeccompCmpOp::Eq,
        libc::FIONBIO,
        "whether a port's or a connection's calls wait, and nothing else of any device",
    ),
    (libc::SYS_prctl, 0, SeccompCmpOp::Eq, libc::PR_SET_NAME as u64, "names of threads, and no rights"),
];

/// `PROT_EXEC` is not among the bits.
const NOT_EXECUTABLE: SeccompCmpOp = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);

/// What no relay and no library in it ever tries: the process ends at once.
const DEADLY: &[(i64, &str)] = &[
    (libc::SYS_execve, "another program"),
    (libc::SYS_execveat, "another program"),
    (libc::SYS_ptrace, "another process"),
    (libc::SYS_process_vm_readv, "another process"),
    (libc::SYS_process_vm_writev, "another process"),
    (libc::SYS_mount, "the file system"),
    (libc::SYS_pivot_root, "the file system"),
    (libc::SYS_chroot, "the file system"),
    (libc::SYS_setns, "namespaces"),
    (libc::SYS_unshare, "namespaces"),
    (libc::SYS_bpf, "the kernel"),
    (libc::SYS_init_module, "the kernel"),
    (libc::SYS_finit_module, "the kernel"),
    (libc::SYS_kexec_load, "the kernel"),
    (libc::SYS_perf_event_open, "the kernel"),
    (libc::SYS_userfaultfd, "the kernel"),
    (libc::SYS_keyctl, "keys of the machine"),
    (libc::SYS_add_key, "keys of the machine"),
    (libc::SYS_open_by_handle_at, "files past their folders"),
];

/// Puts every thread of this process under the filters, for good.
///
/// # Errors
/// [`SandboxError::Filter`] when the kernel has no filters or refuses them.
pub fn confine() -> Result<(), SandboxError> {
    // The deadly ones first: behind the list no further filter can be installed.
    apply(rules(DEADLY), SeccompAction::Allow, SeccompAction::KillProcess)?;
    let mut allowed = rules(ALLOWED);
    allowed.extend(rules(ALLOWED_HERE));
    for (call, argument, is, value, _) in NARROWED {
        allowed.insert(*call, vec![rule(*argument, is.clone(), *value)?]);
    }
    apply(allowed, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)
}

fn rules(calls: &[(i64, &str)]) -> BTreeMap<i64, Vec<SeccompRule>> {
    calls.iter().map(|(call, _)| (*call, Vec::new())).collect()
}

fn rule(argument: u8, is: SeccompCmpOp, value: u64) -> Result<SeccompRule, SandboxError> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, is, value);
    condition
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(|error| SandboxError::Filter(error.to_string()))
}

fn apply(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    other: SeccompAction,
    listed: SeccompAction,
) -> Result<(), SandboxError> {
    let failed = |error: &dyn std::fmt::Display| SandboxError::Filter(error.to_string());
    let arch = std::env::consts::ARCH.try_into().map_err(|error| failed(&error))?;
    let filter = SeccompFilter::new(rules, other, listed, arch).map_err(|error| failed(&error))?;
    let program: BpfProgram = filter.try_into().map_err(|error: seccompiler::BackendError| failed(&error))?;
    apply_filter_all_threads(&program).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\nbad:x:y:z\nme:x:1000:100::/:\n";

    #[test]
    fn a_relay_runs_as_gangway_or_nobody_or_whom_the_settings_name() {
        let account = |user: &RelayUser, passwd: &str| {
            user.account(passwd).map(|account| account.map(|account| (account.name, account.uid, account.gid)))
        };
        let nobody = ("nobody".to_owned(), 65534, 65534);
        assert_eq!(account(&RelayUser::Usual, PASSWD).unwrap(), Some(nobody));
        let both = format!("{PASSWD}gangway:x:400:401::/:\n");
        assert_eq!(account(&RelayUser::Usual, &both).unwrap(), Some(("gangway".to_owned(), 400, 401)));
        assert_eq!(account(&RelayUser::Usual, "").unwrap(), None);
        assert_eq!(account(&RelayUser::Same, &both).unwrap(), None);
        let me = RelayUser::Named("me".to_owned());
        assert_eq!(account(&me, PASSWD).unwrap(), Some(("me".to_owned(), 1000, 100)));
        for name in ["nob", "bad", "ghost"] {
            assert!(
                matches!(account(&RelayUser::Named(name.to_owned()), PASSWD), Err(SandboxError::NoUser(_))),
                "{name}"
            );
        }
    }

    #[test]
    fn every_call_stands_on_one_list_with_its_reason() {
        let narrowed = NARROWED.iter().map(|(call, .., reason)| (*call, *reason));
        let all: Vec<_> = ALLOWED.iter().chain(ALLOWED_HERE).chain(DEADLY).copied().chain(narrowed).collect();
        let calls: std::collections::BTreeSet<i64> = all.iter().map(|(call, _)| *call).collect();
        assert_eq!(calls.len(), all.len(), "a call stands twice");
        assert!(all.iter().all(|(_, reason)| !reason.is_empty()));
    }
}
