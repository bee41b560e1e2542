//! A network of its own for a peer: a network namespace at the end of a veth pair, on request behind a path that loses fragments: its
//! MTU holds a datagram of 1312 bytes, and the kernel behind it puts no fragments together.

use std::{
    net::Ipv4Addr,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// MTU of the path that loses fragments, bytes: 20 of IP and 8 of UDP leave 1312 for the datagram.
const NARROW_MTU: &str = "1340";
/// MTU of the other, bytes: Ethernet's.
const PLAIN_MTU: &str = "1500";

/// A namespace with one interface; it goes with this value.
pub struct Namespace {
    name: String,
    number: u32,
    near: Ipv4Addr,
    far: Ipv4Addr,
}

impl Namespace {
    /// Makes one behind a path that loses fragments; `None` where the machine refuses, which the test says aloud and is skipped for.
    ///
    /// # Panics
    /// When it is refused and the environment says `CI`.
    #[track_caller]
    pub fn start() -> Option<Self> {
        Self::make(true)
    }

    /// Makes one at the end of an ordinary path; the rest is as for [`Self::start`].
    ///
    /// # Panics
    /// When it is refused and the environment says `CI`.
    #[track_caller]
    pub fn start_plain() -> Option<Self> {
        Self::make(false)
    }

    #[track_caller]
    fn make(is_narrow: bool) -> Option<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number =
            std::process::id().wrapping_mul(8).wrapping_add(COUNTER.fetch_add(1, Ordering::Relaxed)) % (1 << 15);
        // A /30 of 198.18.0.0/15, which is set aside for tests of networks (RFC 2544).
        let base = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number * 4;
        let namespace =
            Self { name: format!("gangway-{number}"), number, near: (base + 1).into(), far: (base + 2).into() };
        match namespace.build(is_narrow) {
            Ok(()) => Some(namespace),
            Err(reason) => {
                assert!(std::env::var_os("CI").is_none(), "no network namespace: in CI that is a failure: {reason}");
                eprintln!("*** SKIPPED: this machine makes no network namespace: {reason} ***");
                None
            }
        }
    }

    fn build(&self, is_narrow: bool) -> Result<(), String> {
        let mtu = if is_narrow { NARROW_MTU } else { PLAIN_MTU };
        let (near, far) = (format!("gwn{}", self.number), format!("gwf{}", self.number));
        let Self { name, near: near_ip, far: far_ip, .. } = self;
        ip(&format!("netns add {name}"))?;
        ip(&format!("link add {near} mtu {mtu} type veth peer name {far} mtu {mtu} netns {name}"))?;
        ip(&format!("addr add {near_ip}/30 dev {near}"))?;
        ip(&format!("link set {near} up"))?;
        ip(&format!("-n {name} addr add {far_ip}/30 dev {far}"))?;
        ip(&format!("-n {name} link set {far} up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        // No memory for fragments: the kernel drops them as they come.
        for threshold in ["ipfrag_low_thresh", "ipfrag_high_thresh"].iter().filter(|_| is_narrow) {
            ip(&format!("netns exec {name} sysctl -qw net.ipv4.{threshold}=0"))?;
        }
        Ok(())
    }

    /// Nobody has the address in it any more: what is sent there waits in the kernel, which looks for its owner for three seconds.
    ///
    /// # Panics
    /// When the machine refuses.
    pub fn leave_address(&self) {
        ip(&format!("-n {} addr flush dev gwf{}", self.name, self.number)).expect("the namespace is ours");
    }

    /// The address in it has an owner again.
    ///
    /// # Panics
    /// When the machine refuses.
    pub fn take_address(&self) {
        let Self { name, number, far, .. } = self;
        ip(&format!("-n {name} addr add {far}/30 dev gwf{number}")).expect("the namespace is ours");
    }

    /// Our address on its path.
    pub fn near(&self) -> Ipv4Addr {
        self.near
    }

    /// The address in it.
    pub fn far(&self) -> Ipv4Addr {
        self.far
    }

    /// A program to be run in it.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The pair goes with the namespace.
        let _ = ip(&format!("netns del {}", self.name));
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output().map_err(|error| format!("ip: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("ip {arguments}: {text}")) }
}
