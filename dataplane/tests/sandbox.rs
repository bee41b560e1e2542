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
    for deed in ["open", "socket", "thread", "executable memory"] {
        let output = child(deed);
        assert!(said(&output).contains("outcome: refused"), "{deed}: {output:?}");
        assert!(output.status.success(), "{deed}: it lives on: {output:?}");
    }
    for deed in ["work", "arena"] {
        let output = child(deed);
        assert!(said(&output).contains("outcome: done"), "{deed}: {output:?}");
    }
}

#[test]
fn starting_another_program_ends_the_process() {
    let output = child("exec");
    assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{output:?}");
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
        "executable memory" => {
            use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
            let protection = ProtFlags::READ | ProtFlags::EXEC;
            // SAFETY: a new mapping at an address of the kernel's choice touches no memory that exists.
            let made = unsafe { mmap_anonymous(std::ptr::null_mut(), 4096, protection, MapFlags::PRIVATE) };
            made.err() == Some(rustix::io::Errno::PERM)
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
