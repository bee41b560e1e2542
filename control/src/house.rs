//! The start order and the end of control: everything that runs, from one [`Config`].

use std::{sync::Arc, time::Duration};

use gangway_shared::entropy::Entropy as _;
use thiserror::Error;
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::{
    api::{Api, ApiError, BoundApi, Demo, MetricSources, PageFacts},
    config::Config,
    gateway::{Gateway, effects::Input, journal::JournalEntry},
    hub::{self, Adapters, Clock, Hub, HubHandle, OsEntropy},
    journal::Journal,
    metrics::Metrics,
    relay_client::{ClientConfig, Dataplane, RelayClient, RelayHandle},
    supervisor::Supervisor,
    transport::{SipBindError, SipHandle, SipSockets, resolver::Resolver},
};

/// Why control cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The journal cannot be read or written.
    #[error("data_dir: {path}: {source}")]
    Journal {
        /// The file.
        path: std::path::PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A SIP port cannot be bound.
    #[error(transparent)]
    Sip(#[from] SipBindError),
    /// A TCP port cannot be bound, or its certificate cannot be used.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// No dataplane came up.
    #[error(
        "no dataplane answered on {socket} within {} ms (dataplane_start_timeout_ms); its log has the reason",
        patience.as_millis()
    )]
    NoDataplane {
        /// Where it should listen.
        socket: std::path::PathBuf,
        /// How long it was waited for.
        patience: Duration,
    },
}

/// Everything that runs.
pub struct House {
    hub: HubHandle,
    idle: watch::Receiver<bool>,
    relay: RelayHandle,
    sip: SipHandle,
    sip_port: u16,
    metrics: Arc<Metrics>,
    journal: Journal,
    api: Option<Api>,
    bound: BoundApi,
    stop_dataplane: Option<oneshot::Sender<()>>,
    wall: JoinHandle<()>,
}

/// How long the dataplane that was started here may take to be told that it may go.
const STOP_PATIENCE: Duration = Duration::from_millis(300);

/// What was just handed to sockets leaves within this.
const FLUSH: Duration = Duration::from_millis(50);

impl House {
    /// Binds every port, starts or finds the dataplane and runs the hub. Browsers are not served yet: their connections wait.
    ///
    /// # Errors
    /// [`StartError`]
    pub fn open(config: &Config) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::default());
        let (journal, former) = Journal::open(&config.data_dir(), Arc::clone(&metrics))
            .map_err(|source| StartError::Journal { path: config.data_dir().join("journal"), source })?;
        let (hub, queue) = hub::queue(config.count("hub_queue_max"));
        let sockets = SipSockets::bind(config)?;
        let api = Api::bind(config)?;
        let relay_seen = former.entries.iter().find_map(|entry| match entry {
            JournalEntry::RelaySeen { instance, seq } => Some((instance.clone(), *seq)),
            _ => None,
        });
        let client = ClientConfig::new(config, OsEntropy.hex(8), former.epoch, relay_seen);
        let (client, relay) =
            RelayClient::new(client, Supervisor::new(config), hub.clone(), journal.clone(), Arc::clone(&metrics));
        let (stop_dataplane, stopped) = oneshot::channel();
        let wall = tokio::spawn(client.run(stopped));

        let ua = config.ua(sockets.advertised(config));
        let sip_port = sockets.port();
        let has_ipv6 = config.ip().iter().any(|address| address.local.is_ipv6());
        let sip = sockets.serve(config, &hub, &metrics);
        let resolver = Resolver::new(config.millis("dns_timeout_ms"), has_ipv6, Arc::clone(&metrics));
        let adapters = Adapters { sip: sip.clone(), resolver, relay: relay.clone(), journal: journal.clone() };
        let gateway_config = config.gateway(ua);
        for warning in gateway_config.codec_warnings() {
            tracing::warn!("{warning}");
        }
        let gateway = Gateway::new(gateway_config, Box::new(OsEntropy), Box::new(OsEntropy));
        let (mut task, idle) = Hub::new(gateway, Clock::start(), queue, hub.clone(), adapters);
        task.restore(former.entries);
        tokio::spawn(task.run());
        let bound = api.bound();
        let stop_dataplane = Some(stop_dataplane);
        Ok(House { hub, idle, relay, sip, sip_port, metrics, journal, api: Some(api), bound, stop_dataplane, wall })
    }

    /// Waits for the dataplane.
    ///
    /// # Errors
    /// [`StartError::NoDataplane`]
    pub async fn dataplane(&self, config: &Config) -> Result<Dataplane, StartError> {
        let patience = config.millis("dataplane_start_timeout_ms");
        let up = self.relay.wait_up(patience).await;
        up.ok_or_else(|| StartError::NoDataplane { socket: config.dataplane_socket(), patience })
    }

    /// Serves browsers, REST and pages from now on.
    pub fn serve(&mut self, config: &Config, demo: Option<Demo>) {
        let Some(api) = self.api.take() else { return };
        let admission = api.admission();
        let sources = MetricSources { relay: self.relay.clone(), sip: self.sip.clone(), admission };
        let facts = PageFacts { ports: self.bound, demo };
        api.serve(config, &self.hub, Arc::clone(&self.metrics), facts, sources);
    }

    /// The journal, to be finished when everything else is gone.
    #[must_use]
    pub fn journal(&self) -> Journal {
        self.journal.clone()
    }

    /// The TCP ports for browsers, REST and pages.
    #[must_use]
    pub const fn bound(&self) -> BoundApi {
        self.bound
    }

    /// The SIP port.
    #[must_use]
    pub const fn sip_port(&self) -> u16 {
        self.sip_port
    }

    /// Takes no new calls and waits until none is left, at most `patience`.
    pub async fn drain(&mut self, patience: Duration) {
        self.hub.deliver(Input::Drain).await;
        self.wait_idle(patience).await;
    }

    /// Ends every call with a word to everybody, at most within `patience`, and the dataplane that was started here.
    pub async fn end(mut self, patience: Duration) {
        self.hub.deliver(Input::EndAll).await;
        self.wait_idle(patience).await;
        tokio::time::sleep(FLUSH).await;
        if let Some(stop) = self.stop_dataplane.take()
            && stop.send(()).is_ok()
        {
            let _ = tokio::time::timeout(STOP_PATIENCE, self.wall).await;
        }
    }

    async fn wait_idle(&mut self, patience: Duration) {
        let waiting = async {
            // The hub takes arrivals in order: once this is answered, it has taken what was delivered before.
            let _ = self.hub.numbers().await;
            let _ = self.idle.wait_for(|idle| *idle).await;
        };
        let _ = tokio::time::timeout(patience, waiting).await;
    }
}
