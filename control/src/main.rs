//! `gangway-control`: start order, signals, the ready line. Everything else is the library's.

use std::{
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use gangway_control::{
    api::{BoundApi, Demo},
    config::{self, Config, Sources},
    demo::DemoService,
    house::House,
    journal::Journal,
    lock,
    relay_client::Dataplane,
};
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The WebRTC <-> SIP call gateway: signalling.
#[derive(Debug, Parser)]
#[command(name = "gangway-control", version)]
struct Arguments {
    /// Settings file in Java properties syntax
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, over the file; may stand several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print every setting with origin and state, name ports that cannot be bound, and exit
    #[arg(long)]
    check: bool,
    /// End a hung control that holds the lock, then start
    #[arg(long)]
    takeover: bool,
    /// Built-in settings and a demo SIP service: register 1001..1009 (password = number), call 600 to hear yourself
    #[arg(long)]
    demo: bool,
}

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    // First of all: whoever makes a TLS setting before this would pick a provider by chance.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("gangway-control: a TLS provider is already installed");
        return ExitCode::FAILURE;
    }
    let arguments = Arguments::parse();
    let sources = Sources { file: arguments.config, sets: arguments.set, demo: arguments.demo };
    let config = match Config::load(sources) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("gangway-control: {error}");
            return ExitCode::FAILURE;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("gangway-control: {error}");
            return ExitCode::FAILURE;
        }
    };
    if arguments.check {
        return check(&config);
    }
    init_log(&config);
    for (key, origin) in config.unknown_keys() {
        tracing::warn!("{origin}: {key} is not a setting; ignored");
    }
    let result = runtime.block_on(run(&config, arguments.takeover));
    // Tasks that wait for the network must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(100));
    match result {
        Ok(journal) => {
            // The runtime's tasks are gone and with them every other clone: what is queued gets written.
            if let Some(journal) = journal {
                journal.finish();
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("gangway-control: {error}");
            ExitCode::FAILURE
        }
    }
}

fn check(config: &Config) -> ExitCode {
    print!("{}", config::report(config));
    let mut problems = config::unbindable_ports(config);
    if let Err(error) = gangway_control::api::tls::check(config) {
        problems.push(error.to_string());
    }
    for problem in &problems {
        println!("problem: {problem}");
    }
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn init_log(config: &Config) {
    let filter = tracing_subscriber::EnvFilter::new(config.text("log_level"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(std::io::stderr().is_terminal());
    // Only one subscriber can be set, and nobody else sets one.
    let _ = log.with_writer(std::io::stderr).try_init();
}

async fn run(config: &Config, takeover: bool) -> Result<Option<Journal>, Failure> {
    // Signals count from the beginning: a SIGTERM during the start must not kill half of it.
    let mut signals = Signals::new(config.is_demo())?;
    raise_file_limit();
    let _lock = lock::acquire(&config.data_dir(), takeover).await?;
    tokio::select! {
        started = start(config) => {
            let house = started?;
            let journal = house.journal();
            signals.serve(config, house).await;
            Ok(Some(journal))
        }
        () = signals.any() => Ok(None),
    }
}

async fn start(config: &Config) -> Result<House, Failure> {
    let mut house = House::open(config)?;
    let dataplane = house.dataplane(config).await?;
    let demo = if config.is_demo() { Some(DemoService::start(config).await?) } else { None };
    house.serve(config, demo.map(|sip| Demo { sip }));
    let line = ready_line(config, house.bound(), house.sip_port(), &dataplane, demo);
    // One write, so that a reader of the pipe sees a whole line; a closed pipe is nobody who waits.
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
    let _ = std::io::stdout().flush();
    Ok(house)
}

fn ready_line(
    config: &Config,
    bound: BoundApi,
    sip_port: u16,
    dataplane: &Dataplane,
    demo: Option<std::net::SocketAddr>,
) -> Value {
    let url_host = |ip: std::net::IpAddr| if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() };
    let ours = url_host(config.ip()[0].advertised);
    let everywhere = config.ip().into_iter().map(|address| address.advertised).find(|ip| !ip.is_loopback());
    let web = match config.rest_bind() {
        ip if ip.is_unspecified() => everywhere.map_or_else(|| "localhost".to_owned(), url_host),
        ip if ip.is_loopback() => "localhost".to_owned(),
        ip => url_host(ip),
    };
    // Browsers give the microphone to http pages only on localhost.
    let plain_web = if config.rest_bind().is_unspecified() { "localhost" } else { &web };
    let url = |scheme: &str, host: &str, port: Option<u16>, path: &str| {
        port.map_or(Value::Null, |port| Value::String(format!("{scheme}://{host}:{port}{path}")))
    };
    let sip: Vec<String> = ["udp", "tcp"].iter().map(|transport| format!("{transport}:{ours}:{sip_port}")).collect();
    let hello = &dataplane.hello;
    let webrtc: Vec<String> = hello.webrtc.iter().map(|address| format!("udp:{address}")).collect();
    let media = hello.media_ports.map_or_else(|| "auto".to_owned(), |(from, to)| format!("{from}-{to}"));
    let mut line = json!({
        "event": "ready",
        "ws": url("ws", &ours, bound.ws, ""),
        "wss": url("wss", &ours, bound.wss, ""),
        "rest": url("http", plain_web, bound.http, "/rest-api"),
        "pages": url("http", plain_web, bound.http, "/"),
        "pages_https": url("https", &web, bound.https, "/"),
        "sip": sip,
        "webrtc": webrtc,
        "media": [media],
        "dataplane": { "engine": hello.engine, "workers": hello.workers },
    });
    if let Some(address) = demo {
        line["demo"] = Value::String(format!("udp:{address}"));
    }
    line
}

/// What the program was told from outside.
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    demo: bool,
}

/// SIGINT: everybody is told within this; the program ends within 3 s.
const HANG_UP_PATIENCE: Duration = Duration::from_millis(2500);

impl Signals {
    fn new(demo: bool) -> std::io::Result<Self> {
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            demo,
        })
    }

    /// Waits for SIGTERM or SIGINT (with `--demo` also SIGHUP).
    async fn any(&mut self) {
        loop {
            tokio::select! {
                _ = self.term.recv() => return,
                _ = self.int.recv() => return,
                _ = self.hup.recv() => if self.demo { return },
            }
        }
    }

    async fn serve(&mut self, config: &Config, mut house: House) {
        loop {
            tokio::select! {
                _ = self.int.recv() => break,
                _ = self.hup.recv() => {
                    if self.demo {
                        break;
                    }
                    tracing::warn!("SIGHUP: this release reads its settings at start only; restart to change them");
                }
                _ = self.term.recv() => {
                    let patience = config.drain_timeout();
                    tracing::info!(seconds = patience.as_secs(), "draining: no new calls");
                    tokio::select! {
                        () = house.drain(patience) => {}
                        () = self.any() => {}
                    }
                    break;
                }
            }
        }
        tracing::info!("ending: every call gets its BYE");
        house.end(HANG_UP_PATIENCE).await;
    }
}

/// Thousands of websockets and SIP connections are more than the usual soft limit of 1024 descriptors.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum && setrlimit(Resource::Nofile, wanted).is_err() {
        tracing::warn!(limit = ?limit.current, "the limit of open files could not be raised");
    }
}
