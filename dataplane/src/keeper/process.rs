//! The keeper as a process: starts the relay as its child, waits for its end, and starts it again.
//!
//! The child is this same program with a hidden argument and one end of the channel as its standard input; every other descriptor
//! closes at its start. It is started again only after it was waited for to the end: until then threads of it may still take packets
//! out of the sockets. Signals are for the keeper; it tells the relay by the channel.

use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use gangway_shared::time::Time;
use mio::{Events, Interest, Poll, Token, unix::SourceFd};
use rustix::fs::{MemfdFlags, OFlags, fcntl_setfl, memfd_create};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    Keeper,
    channel::{Channel, Received, ToKeeper, ToRelay},
    facts::FACTS_VERSION,
    restarts::Restarts,
};
use crate::{
    arena,
    engine::{clock, signals::Signals},
    sandbox::Account,
};

const SIGNALS: Token = Token(0);
const CHANNEL: Token = Token(1);

/// A relay that was asked to leave at once is killed after so long.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// A relay that makes room for its successor is killed after so long: media waits for it.
const MAKE_ROOM_WITHIN: Duration = Duration::from_millis(200);

/// A new program has so long to say its layout.
const LAYOUT_WITHIN: Duration = Duration::from_secs(5);

/// A new program has so long from the handover until it serves; the one before it serves again after that.
const SERVE_WITHIN: Duration = Duration::from_secs(5);

/// Counts up when keeper and relay no longer understand each other's messages.
const CHANNEL_VERSION: u32 = 2;

/// Counts up when a relay no longer understands the settings that an older keeper passes.
const SETTINGS_VERSION: u32 = 1;

/// Name of the relay's process.
const RELAY_NAME: &str = "gangway-relay";

/// Settings as the keeper read them. Its relays have the same, however the file changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PassedSettings {
    /// Name of the file, for messages.
    pub file: String,
    /// Its content.
    pub text: String,
    /// `--set` arguments.
    pub sets: Vec<String>,
    /// Whom the relay runs as; absent: who starts it.
    pub account: Option<Account>,
}

impl PassedSettings {
    /// Takes them from the channel that a relay was started with.
    ///
    /// # Errors
    /// When they do not come.
    pub fn receive(channel: &Channel) -> io::Result<Self> {
        match channel.receive(true)? {
            Received::Message(ToRelay::Settings, descriptors) if descriptors.len() == 1 => {
                let mut text = String::new();
                let mut file = descriptors.into_iter().next().map(File::from).ok_or(io::ErrorKind::InvalidData)?;
                io::Seek::rewind(&mut file)?;
                file.read_to_string(&mut text)?;
                Ok(serde_json::from_str(&text)?)
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a relay is started by its keeper, not by hand")),
        }
    }

    fn send(&self, channel: &Channel) -> io::Result<()> {
        let mut file = File::from(memfd_create("gangway-settings", MemfdFlags::CLOEXEC)?);
        serde_json::to_writer(&mut file, self)?;
        channel.send(&ToRelay::Settings, &[file.as_fd()])
    }
}

/// How relays are started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// For the relay.
    pub settings: PassedSettings,
    /// Whether it leaves when nobody needs it.
    pub managed: bool,
    /// After SIGTERM calls have so long to end.
    pub drain_timeout: Duration,
    /// Where the program lies: what an upgrade starts.
    pub program: PathBuf,
}

/// What two programs must have in common to follow each other.
#[must_use]
pub fn layout() -> String {
    format!("channel {CHANNEL_VERSION} settings {SETTINGS_VERSION} facts {FACTS_VERSION} {}", arena::layout())
}

/// Why the keeper ended.
#[derive(Debug, Error)]
pub enum RunError {
    /// The kernel refused something.
    #[error("{what}: {source}")]
    Kernel {
        /// What was wanted.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The first relay never served; it has said why.
    #[error("the relay did not start ({0})")]
    NotStarted(ExitStatus),
}

/// Runs relays until one leaves in order, or is told to.
///
/// # Errors
/// [`RunError`]. A relay that fails later is no error: it is started again.
pub fn run(keeper: Keeper, launch: Launch, signals: Signals) -> Result<(), RunError> {
    let kernel = |what| move |source| RunError::Kernel { what, source };
    let poll = Poll::new().map_err(kernel("epoll"))?;
    poll.registry()
        .register(&mut SourceFd(&signals.as_raw_fd()), SIGNALS, Interest::READABLE)
        .map_err(kernel("signals"))?;
    let program = File::open("/proc/self/exe").map_err(kernel("own program"))?;
    let mut house = House {
        keeper,
        launch,
        signals,
        poll,
        program,
        former: None,
        relay: None,
        restarts: Restarts::default(),
        start_at: Some(clock::now().mono),
        blame: false,
        has_served: false,
        is_draining: None,
        is_leaving: false,
        kill_at: None,
        check: None,
        successor: None,
    };
    house.run()
}

/// A relay process.
struct Relay {
    child: Child,
    channel: Channel,
    started: Time,
    has_served: bool,
}

impl Relay {
    /// Ends a process that nothing was handed to.
    fn end(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A new program that is asked for its layout.
struct Check {
    child: Child,
    program: File,
    until: Time,
}

struct House {
    keeper: Keeper,
    launch: Launch,
    signals: Signals,
    poll: Poll,
    /// What relays are started from: the file that was checked, whatever lies at its path now.
    program: File,
    /// What was started before it, until a relay of the new program serves.
    former: Option<File>,
    relay: Option<Relay>,
    restarts: Restarts,
    start_at: Option<Time>,
    /// The relay that ended last failed by itself.
    blame: bool,
    /// Some relay served.
    has_served: bool,
    /// The relays are to leave when no call is left; at the latest then, if there is a latest time.
    is_draining: Option<Option<Time>>,
    /// They are to leave now.
    is_leaving: bool,
    /// The relay that was asked to end, or to serve, is killed then.
    kill_at: Option<Time>,
    check: Option<Check>,
    /// Waits for the relay's end, with the program it was started from.
    successor: Option<(Relay, File)>,
}

/// Whether to go on.
enum Next {
    GoOn,
    Leave,
}

impl House {
    fn run(&mut self) -> Result<(), RunError> {
        let kernel = |what| move |source| RunError::Kernel { what, source };
        let mut events = Events::with_capacity(8);
        loop {
            let now = clock::now().mono;
            if self.start_at.is_some_and(|at| at <= now) {
                self.start_at = None;
                self.start_relay(now)?;
            }
            let check = self.check.as_ref().map(|check| check.until);
            let wait = [self.start_at, self.kill_at, check].into_iter().flatten().min().map(|at| at.since(now));
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(kernel("epoll")(error)),
                _ => {}
            }
            let now = clock::now().mono;
            if let Next::Leave = self.read_signals(now) {
                return Ok(());
            }
            self.read_channel(now);
            self.kill_late(now);
            self.read_check(now);
            if let Next::Leave = self.reap(now)? {
                return Ok(());
            }
        }
    }

    fn spawn(&self, program: &File) -> io::Result<Relay> {
        let (ours, theirs) = Channel::pair()?;
        let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
        command.arg0(RELAY_NAME).arg("--relay").stdin(Stdio::from(theirs.into_fd()));
        if self.launch.managed {
            command.arg("--managed");
        }
        let child = command.spawn()?;
        let relay = Relay { child, channel: ours, started: clock::now().mono, has_served: false };
        match self.launch.settings.send(&relay.channel) {
            Ok(()) => Ok(relay),
            Err(error) => {
                relay.end();
                Err(error)
            }
        }
    }

    fn start_relay(&mut self, now: Time) -> Result<(), RunError> {
        let started = self.spawn(&self.program).and_then(|relay| self.hand_over(relay));
        started.or_else(|error| self.put_off(now, error))
    }

    /// A relay could not be started. That passes; the sockets wait.
    fn put_off(&mut self, now: Time, source: io::Error) -> Result<(), RunError> {
        if !self.has_served {
            return Err(RunError::Kernel { what: "relay process", source });
        }
        let pause = self.restarts.note_no_start();
        tracing::error!(error = %source, pause_ms = pause.as_millis(), "a relay could not be started; it is tried again");
        self.start_at = Some(now + pause);
        Ok(())
    }

    /// Makes `relay` the one that works.
    fn hand_over(&mut self, relay: Relay) -> io::Result<()> {
        tracing::info!(pid = relay.child.id(), layout = layout(), "started a relay");
        let channel = relay.channel.as_raw_fd();
        if let Err(error) = self.poll.registry().register(&mut SourceFd(&channel), CHANNEL, Interest::READABLE) {
            relay.end();
            return Err(error);
        }
        self.kill_at = self.former.is_some().then(|| relay.started + SERVE_WITHIN);
        let sent = self.keeper.hand_over(&relay.channel, self.blame);
        let sent = match self.is_draining {
            Some(until) => sent.and_then(|()| relay.channel.send(&ToRelay::Drain { until }, &[])),
            None => sent,
        };
        self.relay = Some(relay);
        if let Err(error) = sent {
            // Its end comes by its signal, or it hangs and is ended here.
            tracing::error!(%error, "the handover to the relay failed");
            self.kill();
        }
        Ok(())
    }

    fn tell(&mut self, message: &ToRelay) {
        let Some(relay) = &self.relay else { return };
        if let Err(error) = relay.channel.send(message, &[]) {
            tracing::warn!(%error, "the relay could not be told");
        }
    }

    fn kill(&mut self) {
        if let Some(relay) = &mut self.relay
            && let Err(error) = relay.child.kill()
        {
            tracing::error!(%error, "the relay could not be killed");
        }
    }

    fn kill_late(&mut self, now: Time) {
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            tracing::warn!("the relay did not do in time what it was to do and is killed");
            self.kill();
        }
    }

    fn read_signals(&mut self, now: Time) -> Next {
        while let Some(signal) = self.signals.read() {
            match signal {
                libc::SIGTERM if self.is_draining.flatten().is_none() => {
                    let until = Some(now + self.launch.drain_timeout);
                    self.is_draining = Some(until);
                    tracing::info!("SIGTERM: draining");
                    self.tell(&ToRelay::Drain { until });
                }
                libc::SIGTERM => self.leave(),
                libc::SIGINT if !self.launch.managed => self.leave(),
                libc::SIGUSR2 => self.begin_upgrade(),
                _ => {}
            }
        }
        // Without a relay nobody is there to wait for.
        if self.is_leaving && self.relay.is_none() { Next::Leave } else { Next::GoOn }
    }

    fn leave(&mut self) {
        self.is_leaving = true;
        self.kill_at = Some(clock::now().mono + LEAVE_WITHIN);
        self.tell(&ToRelay::Leave);
    }

    fn read_channel(&mut self, now: Time) {
        let Some(relay) = &mut self.relay else { return };
        loop {
            let handled = match relay.channel.receive::<ToKeeper>(false) {
                Ok(Received::Message(message, _)) => self.keeper.handle(now, &relay.channel, message),
                Ok(Received::Nothing | Received::Closed) => return,
                Ok(Received::CutOff(_)) => {
                    Err(io::Error::new(io::ErrorKind::InvalidData, "a relay sends no descriptors"))
                }
                Err(error) => Err(error),
            };
            match handled {
                Ok(serves) => {
                    relay.has_served |= serves;
                    self.has_served |= serves;
                    if serves && self.former.take().is_some() && !self.is_leaving {
                        self.kill_at = None;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the channel to the relay broke");
                    self.kill();
                    return;
                }
            }
        }
    }

    /// Waits for processes that ended.
    fn reap(&mut self, now: Time) -> Result<Next, RunError> {
        let kernel = |source| RunError::Kernel { what: "waitpid", source };
        let ended = match &mut self.relay {
            Some(relay) => relay.child.try_wait().map_err(kernel)?,
            None => None,
        };
        let Some(status) = ended else { return Ok(Next::GoOn) };
        // What it said before its end counts.
        self.read_channel(now);
        self.kill_at = None;
        let Some(Relay { started, has_served, .. }) = self.relay.take() else { return Ok(Next::GoOn) };
        if self.is_leaving {
            return Ok(Next::Leave);
        }
        if let Some((relay, program)) = self.successor.take() {
            self.change_program(program);
            self.blame = false;
            self.hand_over(relay).or_else(|error| self.put_off(now, error))?;
            return Ok(Next::GoOn);
        }
        if status.success() && has_served {
            return Ok(Next::Leave);
        }
        // Who is killed from outside is not to blame for it.
        self.blame = status.signal() != Some(libc::SIGKILL);
        if !self.has_served && self.blame {
            return Err(RunError::NotStarted(status));
        }
        if let Some(former) = self.former.take() {
            tracing::error!(%status, "the new program ended before it served: the one before it goes on");
            self.program = former;
            self.blame = false;
            self.start_at = Some(now);
            return Ok(Next::GoOn);
        }
        let verdict = self.restarts.note_death(now.since(started), has_served, self.blame);
        tracing::error!(%status, pause_ms = verdict.pause.as_millis(), "the relay ended and is started again");
        if verdict.gives_up_calls {
            tracing::error!("the relay cannot go on with the calls there are: all are given up");
            self.keeper.give_up_calls(now).map_err(|source| RunError::Kernel { what: "memory for relays", source })?;
        }
        self.start_at = Some(now + verdict.pause);
        Ok(Next::GoOn)
    }

    /// SIGUSR2: asks the program on disk for its layout, and goes on in [`read_check`](Self::read_check).
    fn begin_upgrade(&mut self) {
        if self.check.is_some() || self.successor.is_some() {
            return;
        }
        let begun = File::open(&self.launch.program).and_then(|program| {
            let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
            command.arg("--layout").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
            let child = command.spawn()?;
            Ok(Check { child, program, until: clock::now().mono + LAYOUT_WITHIN })
        });
        match begun {
            Ok(check) => self.check = Some(check),
            Err(error) => {
                tracing::error!(program = %self.launch.program.display(), %error, "SIGUSR2: there is no program to start");
            }
        }
    }

    fn read_check(&mut self, now: Time) {
        let Some(check) = &mut self.check else { return };
        let status = check.child.try_wait();
        if matches!(status, Ok(None)) && check.until > now {
            return;
        }
        let Some(mut check) = self.check.take() else { return };
        if !matches!(status, Ok(Some(status)) if status.success()) {
            let _ = check.child.kill();
            let _ = check.child.wait();
            tracing::error!("SIGUSR2: the program did not say its layout; the relay stays");
            return;
        }
        let mut said = [0; 256];
        let len = check.child.stdout.take().map_or(0, |mut stdout| {
            let _ = fcntl_setfl(&stdout, OFlags::NONBLOCK);
            stdout.read(&mut said).unwrap_or(0)
        });
        let said = String::from_utf8_lossy(&said[..len]);
        if said.trim() == layout() {
            self.replace(check.program);
        } else {
            tracing::warn!(
                ours = layout(),
                theirs = said.trim(),
                "SIGUSR2: the program has another layout and cannot go on with these calls: draining instead, and leaving when \
                 the last call has ended"
            );
            let until = *self.is_draining.get_or_insert(None);
            self.tell(&ToRelay::Drain { until });
        }
    }

    fn change_program(&mut self, program: File) {
        let before = std::mem::replace(&mut self.program, program);
        // Only of the last one that served it is known that it can.
        self.former.get_or_insert(before);
    }

    /// Starts the successor, and then lets the relay finish its round and end.
    fn replace(&mut self, program: File) {
        if self.relay.is_none() {
            // The next start is of the new program.
            self.change_program(program);
            return;
        }
        match self.spawn(&program) {
            Ok(relay) => {
                tracing::info!(pid = relay.child.id(), "SIGUSR2: the relay makes room for its successor");
                self.successor = Some((relay, program));
                self.kill_at = Some(clock::now().mono + MAKE_ROOM_WITHIN);
                self.tell(&ToRelay::Leave);
            }
            Err(error) => tracing::error!(%error, "SIGUSR2: the program could not be started; the relay stays"),
        }
    }
}

impl Drop for House {
    /// Nothing of ours outlives us.
    fn drop(&mut self) {
        let check = self.check.take().map(|check| check.child);
        let relays = [self.relay.take(), self.successor.take().map(|(relay, _)| relay)];
        for mut child in relays.into_iter().flatten().map(|relay| relay.child).chain(check) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
