//! Load for any relay that speaks RCP or rtpengine's `ng` protocol: makes calls, checks every packet, and prints a report as JSON.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::PathBuf,
    time::Duration,
};

use clap::Parser;
use gangway_bench::{
    call::Media,
    compare::machine::Measured,
    load::{Load, Shape, Side, Timing},
    process::raise_file_limit,
    systems::{Choice, System, gangway::Control, rtpengine::Ng},
};
use gangway_dataplane::affinity;

/// Plays both ends of calls through a relay and checks every packet. Prints JSON.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Starts this system for it: epoll, uring, rtpengine, bare, tokio-uring, webrtc-srtp, gateway, janus, or NAME=PATH of a
    /// gangway-dataplane.
    #[arg(long, required_unless_present_any = ["rcp", "ng"])]
    system: Option<String>,
    /// Drives the gangway-dataplane that listens at this socket.
    #[arg(long, conflicts_with = "system")]
    rcp: Option<PathBuf>,
    /// Drives the rtpengine whose ng protocol is at this address.
    #[arg(long, conflicts_with_all = ["system", "rcp"])]
    ng: Option<SocketAddrV4>,
    /// Calls that talk.
    #[arg(long, default_value_t = 100)]
    calls: u32,
    /// Further calls that are silent.
    #[arg(long, default_value_t = 0)]
    silent: u32,
    /// The first end of each call: plain, cm, gcm, gcm256, ice or mixed.
    #[arg(long, default_value = "plain", value_parser = |text: &str| Side::parse(text).ok_or("no such side"))]
    side: Side,
    /// H.264 of 1.5 Mbit/s in place of sound.
    #[arg(long)]
    video: bool,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds before that.
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// Core of the generator, for nobody else. Without it the generator waits by milliseconds on any core.
    #[arg(long)]
    core: Option<usize>,
    /// Core of a system that is started.
    #[arg(long, requires = "system")]
    relay_core: Option<usize>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    raise_file_limit();
    let media = if arguments.video { Media::Video } else { Media::Audio };
    let shape = Shape { talking: arguments.calls, silent: arguments.silent, side: arguments.side, media };
    let named = arguments.system.as_deref();
    let choice =
        named.map(|name| Choice::parse(name).ok_or_else(|| format!("there is no system {name:?}"))).transpose()?;
    let browsers = choice.as_ref().map_or(Ok(Ipv4Addr::LOCALHOST), Choice::browsers_at)?;
    let mut load = Load::open_at(shape, browsers)?;
    let mut started: Option<Box<dyn System>> = None;
    let answers = match (&arguments.rcp, arguments.ng, &choice) {
        (Some(socket), ..) => {
            let mut control = Control::connect(socket, || true)?;
            load.specs().iter().map(|call| control.make(call)).collect::<Result<Vec<_>, _>>()?
        }
        (None, Some(address), _) => {
            let mut ng = Ng::connect(address)?;
            load.specs().iter().map(|call| ng.make(call)).collect::<Result<Vec<_>, _>>()?
        }
        (None, None, Some(choice)) => started.insert(choice.start(arguments.relay_core)?).add(load.specs())?,
        (None, None, None) => return Err("a system, or where one listens".into()),
    };
    if let Some(core) = arguments.core {
        affinity::pin_to(core)?;
    }
    load.connect(&answers)?;
    let timing = Timing {
        warm_up: Duration::try_from_secs_f64(arguments.warm_up)?,
        measure: Duration::try_from_secs_f64(arguments.seconds)?,
        drain: Duration::from_millis(500),
        has_core: arguments.core.is_some(),
    };
    let report = load.run(&timing, |_| {});
    Ok(Measured::here(report).print()?)
}
