//! `gangway-dataplane`: the relay alone, for a service manager or for control.
//!
//! Start order: signals, settings, limits, everything that outlives a relay ([`Keeper::open`]), and then the relay as a child of this
//! process. It is ready when its socket answers.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    path::PathBuf,
    process::ExitCode,
};

use clap::Parser;
use gangway_dataplane::{
    affinity,
    config::{Config, Machine, Scheduling},
    engine::signals::Signals,
    files,
    keeper::{
        Keeper,
        channel::Channel,
        process::{Launch, PassedSettings, layout, run},
    },
    manager::{Mode, adopt, publish_stats},
    ports,
    sandbox::give_up_rights,
    stats, stats_map,
};
use gangway_shared::{rcp::WorkerStats, settings::Settings};
use rustix::process::{Signal, geteuid, set_parent_process_death_signal};
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
    /// Says what another program must have in common with this one to take over its calls, and ends.
    #[arg(long)]
    layout: bool,
    /// Started by a keeper, whose channel is the standard input.
    #[arg(long, hide = true)]
    relay: bool,
    /// Print the counters of the dataplane that runs with this `data_dir` as JSON, and end. It does nothing for it.
    #[arg(long)]
    stats: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.layout {
        println!("{}", layout());
        return ExitCode::SUCCESS;
    }
    let ended = match (arguments.stats, arguments.relay) {
        (true, _) => print_stats(arguments),
        (false, true) => relay(&arguments),
        (false, false) => keep(arguments),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Settings are read before there is a log.
            eprintln!("gangway-dataplane: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The process that was started.
fn keep(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let signals = Signals::block(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR2, libc::SIGCHLD])?;
    // The name of the program may be another one's when it is needed.
    let program = std::env::current_exe()?;
    let mut passed = read_settings(arguments.config.as_deref(), arguments.sets)?;
    let config = read_config(&passed)?;
    log_to_stderr(&config);
    files::raise_limit(&config);
    // The relay may run as another user, and would take that for its own.
    passed.sets.push(format!("dataplane_control_uid={}", config.control_uid));
    // The default follows the cores that this process may use, which may change.
    passed.sets.push(format!("dataplane_workers={}", config.workers));
    if geteuid().is_root() {
        passed.account = config.user.account(&fs::read_to_string("/etc/passwd").unwrap_or_default())?;
    }
    let keeper = Keeper::open(&config)?;
    run(
        keeper,
        Launch { settings: passed, managed: arguments.managed, drain_timeout: config.drain_timeout, program },
        signals,
    )?;
    Ok(())
}

/// Its child.
fn relay(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    // The keeper's signals come to the whole group; what they mean comes by the channel.
    let _signals = Signals::block(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR2])?;
    rustix::thread::set_name(c"gangway-relay")?;
    let channel = Channel::over(io::stdin().as_fd().try_clone_to_owned()?)?;
    let passed = PassedSettings::receive(&channel)?;
    let config = read_config(&passed)?;
    log_to_stderr(&config);
    let map = publish_stats(&config);
    if config.scheduling != Scheduling::Fair {
        // The right to it goes with the others; workers have it of this thread. One that has it not says so.
        let _ = affinity::go_first_with_all();
    }
    give_up_rights(passed.account.as_ref())?;
    // After the change of user, which clears it. A keeper that was gone before this is seen by the end of the channel.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let workers = config.workers;
    let running = adopt(config, Mode { managed: arguments.managed, is_confined: true }, channel, map)?;
    let engine = running.engine;
    tracing::info!(socket = %running.socket.display(), webrtc = ?running.webrtc, workers, engine, "ready");
    running.join()?;
    Ok(())
}

fn print_stats(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let config = read_config(&read_settings(arguments.config.as_deref(), arguments.sets)?)?;
    let workers = stats_map::read(&config.data_dir.join(stats_map::LINK_NAME))?;
    let row = |worker: &stats_map::Published| {
        let WorkerStats { worker: number, relays, received, sent, drops, batches, busy_us, latency, engine } =
            &worker.stats;
        let named = stats::drop_reasons().into_iter().zip(drops).filter(|(_, count)| **count > 0);
        serde_json::json!({
            "worker": number, "at_unix_us": worker.at.as_unix_micros(), "relays": relays, "received": received, "sent": sent,
            "batches": batches, "busy_us": busy_us, "drops": named.collect::<BTreeMap<_, _>>(), "latency": latency,
            "engine": engine,
        })
    };
    let rows: Vec<_> = workers.iter().map(row).collect();
    let all = serde_json::json!({ "latency_bounds_us": stats::latency_bounds_us(), "workers": rows });
    writeln!(io::stdout(), "{all}")?;
    Ok(())
}

fn log_to_stderr(config: &Config) {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(&config.log_level)))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
}

fn read_settings(
    file: Option<&std::path::Path>,
    sets: Vec<String>,
) -> Result<PassedSettings, Box<dyn std::error::Error>> {
    let (file, text) = match file {
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            (path.display().to_string(), text)
        }
        None => (String::new(), String::new()),
    };
    Ok(PassedSettings { file, text, sets, account: None })
}

fn read_config(passed: &PassedSettings) -> Result<Config, Box<dyn std::error::Error>> {
    let settings = Settings::parse(&passed.file, &passed.text, &passed.sets)?;
    let machine = Machine {
        cores: affinity::allowed_cores()?,
        default_ip: ports::default_route_address(),
        uid: geteuid().as_raw(),
        is_local: ports::is_local,
    };
    Ok(Config::read(&settings, &machine)?)
}
