//! What a confined process can no longer do. Each deed is done by a process of its own: this test program again.

use std::{
    fs::File,
    io,
    net::UdpSocket,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, Output},
};

use gangway_dataplane::{
    arena::{Arena, RelayLimits},
    manager::entropy::OsEntropy,
    sandbox::{confine, give_up_rights},
};
use gangway_shared::entropy::Entropy;

const DEED: &str = "GANGWAY_DEED";

fn child(deed: &str) -> Output {
    let own = std::env::current_exe().expect("a test program has a path");
    let arguments = ["--exact", "a_confined_process_does_a_deed", "--ignored", "--nocapture"];
    Command::new(own).args(arguments).env(DEED, deed).output().expect("this program starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn opening_files_sockets_and_programs_is_refused_and_memory_and_time_are_not() {
    for deed in
        ["open", "socket", "thread", "fork", "executable memory", "memory made executable", "a terminal", "rights"]
    {
        let output = child(deed);
        assert!(said(&output).contains("outcome: refused"), "{deed}: {output:?}");
        assert!(output.status.success(), "{deed}: it lives on: {output:?}");
    }
    for deed in ["work", "arena"] {
        let output = child(deed);
        assert!(said(&output).contains("outcome: done"), "{deed}: {output:?}");
    }
}

/// By their numbers, each without arguments: the filter looks at the number alone.
const DEADLY: [(&str, libc::c_long); 16] = [
    ("execveat", libc::SYS_execveat),
    ("ptrace", libc::SYS_ptrace),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("process_vm_writev", libc::SYS_process_vm_writev),
    ("mount", libc::SYS_mount),
    ("pivot_root", libc::SYS_pivot_root),
    ("chroot", libc::SYS_chroot),
    ("setns", libc::SYS_setns),
    ("unshare", libc::SYS_unshare),
    ("bpf", libc::SYS_bpf),
    ("init_module", libc::SYS_init_module),
    ("kexec_load", libc::SYS_kexec_load),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("keyctl", libc::SYS_keyctl),
    ("open_by_handle_at", libc::SYS_open_by_handle_at),
];

#[test]
fn what_only_an_intruder_would_do_ends_the_process() {
    for deed in ["exec"].into_iter().chain(DEADLY.map(|(name, _)| name)) {
        let output = child(deed);
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{deed}: {output:?}");
    }
}

#[test]
#[ignore = "done by the tests beside it, in a process of its own"]
fn a_confined_process_does_a_deed() {
    let deed = std::env::var(DEED).expect("started by a test of this file");
    let arena = Arena::create(RelayLimits { relays: 1, legs: 2, routes: 2 }).expect("memory");
    give_up_rights(None).expect("giving up is always possible");
    confine().expect("this kernel has filters");
    let is_refused = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    let refused = match deed.as_str() {
        "open" => File::open("/etc/hostname").err().is_some_and(is_refused),
        "socket" => UdpSocket::bind("127.0.0.1:0").err().is_some_and(is_refused),
        "thread" => std::thread::Builder::new().spawn(|| ()).err().is_some_and(is_refused),
        // A copy of this process, and one that would become a program.
        "fork" => {
            // SAFETY: without arguments it shares nothing; a copy, were there one, ends at once.
            let copied = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(libc::SIGCHLD), 0, 0, 0, 0) };
            let error = io::Error::last_os_error();
            if copied == 0 {
                std::process::exit(0);
            }
            copied < 0 && is_refused(error) && Command::new("/bin/true").spawn().err().is_some_and(is_refused)
        }
        "memory made executable" => {
            let page = vec![0u8; 8192];
            let start = page.as_ptr().map_addr(|at| at.next_multiple_of(4096)).cast_mut().cast();
            let all =
                rustix::mm::MprotectFlags::READ | rustix::mm::MprotectFlags::WRITE | rustix::mm::MprotectFlags::EXEC;
            // SAFETY: the page lies within memory of ours and stays readable and writable.
            unsafe { rustix::mm::mprotect(start, 4096, all) }.err() == Some(rustix::io::Errno::PERM)
        }
        // TIOCSTI, which types into a terminal: refused before the kernel looks whether there is one.
        "a terminal" => {
            // SAFETY: the byte outlives the call.
            let done = unsafe { libc::ioctl(0, libc::TIOCSTI, c"x".as_ptr()) };
            done < 0 && is_refused(io::Error::last_os_error())
        }
        "rights" => {
            // SAFETY: takes numbers alone.
            let done = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
            done < 0 && is_refused(io::Error::last_os_error())
        }
        "executable memory" => {
            use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
            let protection = ProtFlags::READ | ProtFlags::EXEC;
            // SAFETY: a new mapping at an address of the kernel's choice touches no memory that exists.
            let made = unsafe { mmap_anonymous(std::ptr::null_mut(), 4096, protection, MapFlags::PRIVATE) };
            made.err() == Some(rustix::io::Errno::PERM)
        }
        deadly if DEADLY.iter().any(|(name, _)| *name == deadly) => {
            let call = DEADLY.iter().find(|(name, _)| *name == deadly).map_or(-1, |(_, call)| *call);
            // SAFETY: without arguments none of them does anything: no memory is named, and no process or file but number 0.
            let done = unsafe { libc::syscall(call, 0, 0, 0, 0, 0, 0) };
            panic!("it lives on: {done}");
        }
        "exec" => {
            let error = Command::new("/bin/true").exec();
            panic!("it lives on: {error}");
        }
        "arena" => {
            // As a worker does whose arena cannot be taken back.
            let again = arena.fd().try_clone_to_owned().expect("a duplicate");
            drop(arena);
            Arena::map(again).expect("the keeper's memory").clear();
            false
        }
        _ => {
            let memory = vec![7u8; 64 << 20];
            let mut drawn = [0; 32];
            OsEntropy.fill(&mut drawn);
            assert!(drawn.iter().any(|byte| *byte != 0), "32 random bytes are not all zero");
            assert_eq!(memory.iter().filter(|byte| **byte == 7).count(), 64 << 20);
            false
        }
    };
    println!("outcome: {}", if refused { "refused" } else { "done" });
}
