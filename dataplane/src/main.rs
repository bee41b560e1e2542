//! `gangway-dataplane`: the relay alone, for a service manager or for control.
//!
//! Start order: signals, settings, limits, then everything of [`start`]. It is ready when its socket listens.

use std::{
    fs,
    io::{self, IsTerminal},
    path::PathBuf,
    process::ExitCode,
};

use clap::Parser;
use gangway_dataplane::{
    affinity,
    config::{Config, Machine},
    engine::signals::Signals,
    manager::{Mode, start},
    ports,
};
use gangway_shared::settings::Settings;
use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};
use tracing_subscriber::EnvFilter;

/// Forwards, decrypts and encrypts media as control programs it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Settings file, shared with control.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A setting that wins over the file.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Started by control: ignore signals of the terminal, leave when nobody needs us.
    #[arg(long)]
    managed: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Settings are read before there is a log.
            eprintln!("gangway-dataplane: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let signals = Signals::block(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP])?;
    let config = read_config(arguments)?;
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(&config.log_level)))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    raise_file_limit();
    let workers = config.workers;
    let running = start(config, Mode { managed: arguments.managed, signals: Some(signals) })?;
    tracing::info!(socket = %running.socket.display(), webrtc = ?running.webrtc, workers, engine = "epoll", "ready");
    running.join()?;
    Ok(())
}

fn read_config(arguments: &Arguments) -> Result<Config, Box<dyn std::error::Error>> {
    let (name, text) = match &arguments.config {
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            (path.display().to_string(), text)
        }
        None => (String::new(), String::new()),
    };
    let settings = Settings::parse(&name, &text, &arguments.sets)?;
    let machine = Machine {
        cores: affinity::allowed_cores()?,
        default_ip: ports::default_route_address(),
        uid: geteuid().as_raw(),
        is_local: ports::is_local,
    };
    Ok(Config::read(&settings, &machine)?)
}

/// Two sockets a leg: the usual soft limit of 1024 files ends at about 250 calls.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => tracing::info!(from = ?limit.current, to = ?limit.maximum, "raised the limit of open files"),
        Err(error) => tracing::warn!(limit = ?limit.current, %error, "the limit of open files could not be raised"),
    }
}
